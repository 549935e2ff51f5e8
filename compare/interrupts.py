"""Ctrl-C as a request: the first is noted, a second one cuts a chunk short, but nothing written.

So are SIGTERM and SIGHUP while a run goes on, which may have hours to lose.

Imports the standard library alone: the command line installs it before torch is imported, which
takes a second in which an exception from a signal can be lost.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

KILLS = signal.SIGTERM, signal.SIGHUP


class Requests:
    """What Ctrl-C has asked for so far."""

    def __init__(self) -> None:
        self.stop = threading.Event()
        self.installed = False
        self.number: int = signal.SIGINT  # of the signal that asked first
        self.again = False  # and once more
        self.working = False  # on a chunk, which a second Ctrl-C cuts short

    def note(self, number: int, _frame: FrameType | None) -> None:
        """Handle the signal."""
        self.again = self.stop.is_set()
        if not self.again:
            self.number = number
        self.stop.set()
        if self.again and self.working:
            raise KeyboardInterrupt


_requests = Requests()  # signals are the whole process's


def stopping() -> bool:
    """Whether Ctrl-C has asked for an end after the chunk in hand."""
    return _requests.installed and _requests.stop.is_set()


def exit_code() -> int:
    """Return what a command ends with that was stopped: 130 by Ctrl-C, as a shell counts them."""
    return 128 + _requests.number


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
    if _requests.installed or not _in_main_thread():
        yield _requests
        return
    _requests.stop.clear()
    _requests.number, _requests.again = signal.SIGINT, False
    _requests.installed = True
    try:
        with noting(signal.SIGINT):
            yield _requests
    finally:
        _requests.installed = _requests.again = False


@contextmanager
def noting(*numbers: int) -> Iterator[None]:
    """Have these signals noted too within `requests`; one that is ignored stays ignored."""
    usual = {number: signal.getsignal(number) for number in numbers}
    if not _requests.installed or not _in_main_thread():
        usual = {}
    usual = {n: handler for n, handler in usual.items() if handler not in (signal.SIG_IGN, None)}
    for number in usual:
        signal.signal(number, _requests.note)
    try:
        yield
    finally:
        for number, handler in usual.items():
            if signal.getsignal(number) == _requests.note:
                signal.signal(number, handler)


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
