"""Ctrl-C as a request: the first is noted, a second one cuts a chunk short, but nothing written.

Imports the standard library alone: the command line installs it before torch is imported, which
takes a second in which an exception from a signal can be lost.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Requests:
    """What Ctrl-C has asked for so far."""

    def __init__(self) -> None:
        self.stop = threading.Event()
        self.installed = False
        self.again = False  # and once more
        self.working = False  # on a chunk, which a second Ctrl-C cuts short

    def note(self, _number: int, _frame: FrameType | None) -> None:
        """Handle the signal."""
        self.again = self.stop.is_set()
        self.stop.set()
        if self.again and self.working:
            raise KeyboardInterrupt


_requests = Requests()  # signals are the whole process's


def stopping() -> bool:
    """Whether Ctrl-C has asked for an end after the chunk in hand."""
    return _requests.installed and _requests.stop.is_set()


@contextmanager
def cut_short() -> Iterator[None]:
    """Have a second Ctrl-C raise KeyboardInterrupt within: around work that can be thrown away.

    One that came before this work raises as soon as it begins.
    """
    _requests.working = True
    try:
        if _requests.again:
            raise KeyboardInterrupt
        yield
    finally:
        _requests.working = False


@contextmanager
def requests() -> Iterator[Requests]:
    """Have Ctrl-C noted within. Nested use shares it; an ignored signal stays ignored."""
    usual = signal.getsignal(signal.SIGINT)
    main = threading.current_thread() is threading.main_thread()
    if _requests.installed or not main or usual in (signal.SIG_IGN, None):
        yield _requests
        return
    _requests.stop.clear()
    _requests.again = False
    _requests.installed = True
    signal.signal(signal.SIGINT, _requests.note)
    try:
        yield _requests
    finally:
        _requests.installed = False
        if signal.getsignal(signal.SIGINT) == _requests.note:
            signal.signal(signal.SIGINT, usual)
