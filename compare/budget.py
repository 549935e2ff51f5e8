"""How long work may take: past its limit it ends where it can, and says what was left undone.

The work calls `look` between its pieces; `compare.progress.counted` does so for each. Whoever set
the limit catches `TimeIsUp`. This module imports the standard library and the errors alone.
"""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

from compare.errors import BadInput

T = TypeVar("T")

_end: ContextVar[float | None] = ContextVar("end", default=None)


class TimeIsUp(BaseException):
    """The time for this work is over.

    No Exception, so that code which expects any fault of the user's code does not take it for one.
    """


def seconds(budget: Any) -> float | None:
    """Return a budget in seconds, None for no limit.

    Raises:
        BadInput: It is neither None nor a positive number.
    """
    if budget is None:
        return None
    number = isinstance(budget, int | float) and not isinstance(budget, bool)
    if not number or not (budget > 0 and math.isfinite(budget)):
        raise BadInput(f"budget is {budget!r}: give a number of seconds above 0, or None")
    return float(budget)


@contextmanager
def within(limit: float | None) -> Iterator[None]:
    """Limit the work within to so many seconds; None leaves an outer limit as it is."""
    if limit is None:
        yield
        return
    outer, end = _end.get(), time.monotonic() + limit
    token = _end.set(end if outer is None else min(outer, end))
    try:
        yield
    finally:
        _end.reset(token)


@contextmanager
def in_any_case() -> Iterator[None]:
    """Do the work within, which is short, though the time may be up."""
    token = _end.set(None)
    try:
        yield
    finally:
        _end.reset(token)


def look() -> None:
    """Raise TimeIsUp if the time for the work is over."""
    end = _end.get()
    if end is not None and time.monotonic() > end:
        raise TimeIsUp


class Pieces:
    """Pieces of work, each done unless the time is up before or in it.

    Attributes:
        left_out: The pieces that were not done, or not to their end.
    """

    def __init__(self) -> None:
        self.left_out: list[str] = []

    def do(self, piece: str, work: Callable[[], T], otherwise: T) -> T:
        """Return the result of the work, or `otherwise` if the time is up.

        Args:
            piece: What the work is, for the report; "" if its reader misses nothing without it.
            work: Does it.
            otherwise: What to return without it.
        """
        try:
            look()
            return work()
        except TimeIsUp:
            if piece:
                self.left_out.append(piece)
            return otherwise
