"""What Ctrl-C, SIGTERM and SIGHUP do in each command: one table.

A signal is a request: it is noted, and work that takes long looks at `stop` where it can end. A
second one raises KeyboardInterrupt within `cut_short`, so that no exception ever cuts what is being
written.

Imports the standard library alone: the command line installs it before torch is imported, which
takes a second in which an exception from a signal can be lost.
"""

import math
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

CTRL_C, KILLS = (signal.SIGINT,), (signal.SIGTERM, signal.SIGHUP)

#: Of each command the signals that ask it to end, and which request raises KeyboardInterrupt
#: wherever it is. An ignored signal stays ignored, as under nohup.
COMMANDS: dict[str, tuple[tuple[int, ...], float]] = {
    # after the chunk in hand, with a report and a checkpoint; a second one cuts that chunk short
    "run": (CTRL_C + KILLS, math.inf),
    "run on ranks": (CTRL_C, math.inf),  # the same; SIGTERM, torchrun's own, is the watchdog's
    # at once: a person's own code may never end
    **dict.fromkeys(("check", "mutants", "practice"), (CTRL_C, 1)),
    "board": ((signal.SIGINT, signal.SIGTERM), math.inf),  # the server stops
    "bench": (CTRL_C, math.inf),  # after the round in hand; a second one cuts it short
}
OTHERS = CTRL_C, math.inf  # what is over soon, and a run from Python

stop = threading.Event()  # a signal has asked for an end


class _Noted:
    """What was asked for so far; signals are the whole process's."""

    installed = False
    count = 0
    number: int = signal.SIGINT  # of the signal that asked first
    raises: float = math.inf  # the request from which on KeyboardInterrupt is raised


def _note(number: int, _frame: FrameType | None) -> None:
    """Handle a signal."""
    if not _Noted.count:
        _Noted.number = number
    _Noted.count += 1
    stop.set()
    if _Noted.count >= _Noted.raises:
        raise KeyboardInterrupt


def exit_code() -> int:
    """Return what a command ends with that was stopped: 130 by Ctrl-C, as a shell counts them."""
    return 128 + _Noted.number


@contextmanager
def cut_short(request: float = 2) -> Iterator[None]:
    """Have the second request raise KeyboardInterrupt: around work that can be thrown away.

    One that came before this work raises as soon as it begins.
    """
    usual, _Noted.raises = _Noted.raises, min(request, _Noted.raises)
    try:
        if _Noted.count >= _Noted.raises:
            raise KeyboardInterrupt
        yield
    finally:
        _Noted.raises = usual


@contextmanager
def interrupts(command: str = "") -> Iterator[None]:
    """Have signals do within what the table says of a command; what was noted so far stands.

    A thread other than the main one leaves signals as they are.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers, request = COMMANDS.get(command, OTHERS)
    usual = {number: signal.getsignal(number) for number in numbers}
    usual = {n: h for n, h in usual.items() if h not in (signal.SIG_IGN, None, _note)}
    outermost = not _Noted.installed
    if outermost:
        _Noted.installed, _Noted.count, _Noted.number = True, 0, signal.SIGINT
    for number in usual:
        signal.signal(number, _note)
    try:
        with cut_short(request):
            yield
    finally:
        for number, handler in usual.items():
            if signal.getsignal(number) == _note:
                signal.signal(number, handler)
        if outermost:
            _Noted.installed, _Noted.count = False, 0
            stop.clear()
