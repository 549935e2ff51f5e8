"""Ctrl-C as a request: the first one is noted, so that no chunk is half counted; a second raises.

Imports the standard library alone: the command line installs it before torch is imported, which
takes a second in which an exception from a signal can be lost.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_requested = threading.Event()
_installed = False


@contextmanager
def requests() -> Iterator[threading.Event]:
    """Yield the event that Ctrl-C sets. Nested use shares it; an ignored signal stays ignored."""
    global _installed
    usual = signal.getsignal(signal.SIGINT)
    main = threading.current_thread() is threading.main_thread()
    if _installed or not main or usual in (signal.SIG_IGN, None):
        yield _requested
        return

    def note(_number: int, _frame: FrameType | None) -> None:
        _requested.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    _requested.clear()
    signal.signal(signal.SIGINT, note)
    _installed = True
    try:
        yield _requested
    finally:
        _installed = False
        signal.signal(signal.SIGINT, usual)
