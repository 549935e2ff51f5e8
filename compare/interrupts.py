"""The effect of Ctrl-C, SIGTERM and SIGHUP on each command, in one table.

A signal is a request to end: it sets `stop`, and long work checks `stop` wherever it can end. A
second signal raises KeyboardInterrupt, but only within `cut_short`, so that no exception interrupts
the writing of a file.

This module imports the standard library alone: the command line installs the handlers before it
imports torch, which takes a second in which an exception from a signal could be lost.
"""

import math
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

CTRL_C, KILLS = (signal.SIGINT,), (signal.SIGTERM, signal.SIGHUP)

#: Command -> the signals that request its end, and the number of the request that raises
#: KeyboardInterrupt at any point. An ignored signal stays ignored, as under nohup.
COMMANDS: dict[str, tuple[tuple[int, ...], float]] = {
    # after the current chunk, with a report and a checkpoint; a second one cuts that chunk short
    "run": (CTRL_C + KILLS, math.inf),
    "run on ranks": (CTRL_C, math.inf),  # the same; SIGTERM, torchrun's own, is the watchdog's
    # at once, because the user's code may never end
    **dict.fromkeys(("check", "mutants", "practice"), (CTRL_C, 1)),
    "board": ((signal.SIGINT, signal.SIGTERM), math.inf),  # the server stops
    "bench": (CTRL_C, math.inf),  # after the current round; a second one cuts it short
}
OTHERS = CTRL_C, math.inf  # short commands, and compare.run from Python

stop = threading.Event()  # set once a signal has requested an end


class _Requests:
    """The requests so far; they are global, because signals go to the whole process."""

    installed = False
    count = 0
    number: int = signal.SIGINT  # of the first signal
    raises: float = math.inf  # number of the request from which on KeyboardInterrupt is raised


def _on_signal(number: int, _frame: FrameType | None) -> None:
    """Handle a signal."""
    if not _Requests.count:
        _Requests.number = number
    _Requests.count += 1
    stop.set()
    if _Requests.count >= _Requests.raises:
        raise KeyboardInterrupt


def exit_code() -> int:
    """Return the exit code of a stopped command, as shells have it: 130 after Ctrl-C."""
    return 128 + _Requests.number


@contextmanager
def cut_short(request: float = 2) -> Iterator[None]:
    """Let the second request raise KeyboardInterrupt within: use it around work that may be lost.

    If that request has come already, KeyboardInterrupt is raised at once.
    """
    previous, _Requests.raises = _Requests.raises, min(request, _Requests.raises)
    try:
        if _Requests.count >= _Requests.raises:
            raise KeyboardInterrupt
        yield
    finally:
        _Requests.raises = previous


@contextmanager
def interrupts(command: str = "") -> Iterator[None]:
    """Handle signals within as the table says for a command; earlier requests stay counted.

    In a thread other than the main one this has no effect.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers, request = COMMANDS.get(command, OTHERS)
    handlers = {number: signal.getsignal(number) for number in numbers}
    handlers = {n: h for n, h in handlers.items() if h not in (signal.SIG_IGN, None, _on_signal)}
    outermost = not _Requests.installed
    if outermost:
        _Requests.installed, _Requests.count, _Requests.number = True, 0, signal.SIGINT
    for number in handlers:
        signal.signal(number, _on_signal)
    try:
        with cut_short(request):
            yield
    finally:
        for number, handler in handlers.items():
            if signal.getsignal(number) == _on_signal:
                signal.signal(number, handler)
        if outermost:
            _Requests.installed, _Requests.count = False, 0
            stop.clear()
