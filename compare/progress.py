"""What long work is doing, and how far it is: told by the work, shown by whoever watches it.

The work names its stages with `stage` and `counted` and does not know whether somebody watches.
`watched` reads the stages from a thread, so that a stage that takes long is shown too. Without a
watcher a stage costs next to nothing.
"""

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple, TypeVar

from compare.budget import look

T = TypeVar("T")

AFTER = 2.0  # seconds: shorter work shows no progress
_EVERY = 0.25  # seconds between two looks at the stages


class Stage(NamedTuple):
    """A piece of work: what is done, and which of several like it this is."""

    text: str
    number: int = 0  # of this piece, from 1
    of: int = 0  # the number of pieces; 0: they are not counted


#: The stages that are at work, each a part of the one before.
Stages = tuple[Stage, ...]


class _Watched:
    """The stages of watched work, as its own thread sets them and the watcher's reads them."""

    stages: Stages = ()


_watched: ContextVar[_Watched | None] = ContextVar("watched", default=None)


@contextmanager
def stage(text: str, number: int = 0, of: int = 0) -> Iterator[None]:
    """Tell a watcher what is done within; the arguments are those of `Stage`."""
    work = _watched.get()
    if work is None:
        yield
        return
    outer = work.stages
    work.stages = (*outer, Stage(text, number, of))
    try:
        yield
    finally:
        work.stages = outer


def counted(text: str, items: Iterable[T]) -> Iterator[T]:
    """Yield the items, each as a stage of its own, until the time for the work is up.

    Args:
        text: What is done with each; "{}" in it stands for the item.
        items: The items; they are counted first.

    Raises:
        TimeIsUp: The limit of `compare.budget` is over.
    """
    every = [*items]
    for number, item in enumerate(every, 1):
        look()
        with stage(text.format(item), number, len(every)):
            yield item


@contextmanager
def watched(show: Callable[[Stages], None], after: float = AFTER) -> Iterator[None]:
    """Show the stages of the work within, from a thread, until it ends.

    Args:
        show: Called several times a second with the stages that are at work.
        after: Seconds before the first call.
    """
    work, ended = _Watched(), threading.Event()

    def look() -> None:
        wait = after
        while not ended.wait(wait):
            show(work.stages)
            wait = _EVERY

    thread = threading.Thread(target=look, name="progress", daemon=True)
    token = _watched.set(work)
    thread.start()
    try:
        yield
    finally:
        _watched.reset(token)
        ended.set()
        thread.join()


def is_watched() -> bool:
    """Whether somebody watches the work of this thread already."""
    return _watched.get() is not None
