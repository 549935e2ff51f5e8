"""Runs a user's code in a separate process, with a time limit and a limit on its output.

The result comes back as JSON. The code could write anything into that channel. Therefore
`Ended.answer_as` accepts only data of the expected type, and nothing is ever unpickled. This module
does not import torch; the separate process does.
"""

import contextlib
import json
import os
import re
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from compare.errors import BadInput, UserError
from compare.progress import Stages
from compare.untrusted import converted

_ROOT = Path(__file__).parents[2]
_GRACE = 5.0  # seconds beyond the time limit, in which the process should stop itself
_END = 5.0  # seconds for the supervisor to kill what the code has started
_LONGEST = 86_401  # seconds
_MOST = 2**28  # bytes of one message
_READ = 2**16  # bytes
_LARGEST = 2**53  # a count of pieces of work

T = TypeVar("T")


class Printed:
    """Collects the first lines that a process prints, and counts the others.

    Args:
        most: the number of lines to keep.
        columns: the number of characters to keep of each line.
        say: called with each kept line when it arrives.
    """

    def __init__(self, most: int, columns: int, say: Callable[[str], None] | None = None) -> None:
        self.most, self.columns, self.say = most, columns, say
        self.lines: list[str] = []
        self.cut = 0
        self._rest = b""

    def add(self, data: bytes) -> None:
        """Add output of the process."""
        *whole, rest = (self._rest + data).split(b"\n")
        for line in whole:
            self._line(line)
        self._rest = rest[: 4 * self.columns + 4]  # bytes of UTF-8

    def end(self) -> None:
        """Add an unfinished last line."""
        if self._rest:
            self.add(b"\n")

    def _line(self, data: bytes) -> None:
        if len(self.lines) == self.most:
            self.cut += 1
            return
        text = data.decode(errors="replace").rstrip("\r")
        line = "".join(c if c.isprintable() else " " for c in text[: self.columns])
        self.lines.append(line + ("..." if len(text) > self.columns else ""))
        if self.say:
            self.say(self.lines[-1])


@dataclass
class Ended:
    """The end of a job: with a result, at its time limit, or by the end of its process."""

    answer: Any = None  # the result
    code: int | None = None  # exit code of a process without a result; None at the time limit
    stack: str = ""  # the traceback at the time limit, written by faulthandler

    def answer_as(self, kind: type[T]) -> T | None:
        """Return the result as the dataclass `kind`, or None if it does not fit."""
        try:
            return converted(self.answer, kind)
        except ValueError:
            return None

    def line(self, path: Path) -> int:
        """Return the line of a file that ran at the time limit, 0 if it is not known."""
        shown = str(path).encode("ascii", "backslashreplace").decode()
        match = re.search(rf'File "{re.escape(shown)}", line (\d{{1,9}})', self.stack)
        return int(match[1]) if match else 0

    def why(self, seconds: float | None) -> str:
        """Return why there is no result; at the time limit, as a predicate of the file or line."""
        if self.code is None:
            return (
                f"was still running after {seconds:g} seconds and was stopped: is there an endless "
                "loop? --timeout SECONDS allows more time"
            )
        if self.code < 0:
            known = {each.value: each.name for each in signal.Signals}
            name = known.get(-self.code, f"signal {-self.code}")
            cause = " (out of memory?)" if name == "SIGKILL" else ""
            return f"the file's process was ended by {name}{cause}"
        return f"the file ended its own process with exit code {self.code}"


def guarded(
    work: str, arguments: dict[str, Any], printed: Printed, *, seconds: float | None, memory: int,
    watch: Callable[[Stages], None] | None = None,
) -> Ended:  # fmt: skip
    """Run a function in a separate process, and return how it ended.

    Args:
        work: the function as "module:function", called with `arguments`. Its stages are watched.
        arguments: keyword arguments of the function, as plain values.
        printed: collects the output of the process.
        seconds: the time limit, which starts after the imports; None for no limit.
        memory: bytes that the process may use beyond its use after the imports.
        watch: called several times a second with the stages that are at work.

    Raises:
        BadInput: if the function raises it, or uses too much memory.
        RuntimeError: for an internal error in the process.
    """
    job = {
        "work": work, "arguments": arguments, "seconds": seconds, "memory": memory,
        "path": sys.path, "parent": os.getpid(), "watched": watch is not None,
    }  # fmt: skip
    path = os.pathsep.join([str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    channel, child_end = os.pipe()
    try:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "compare.guard.child_process", str(child_end),
             json.dumps(job)],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"},
            pass_fds=[child_end], start_new_session=True,
        )  # fmt: skip
    except BaseException:
        os.close(channel)
        raise
    finally:
        os.close(child_end)
    messages = _Messages(seconds, watch)
    assert process.stdout
    readers = {channel: messages.add, process.stdout.fileno(): printed.add}
    try:
        _listen(process, readers, messages)
    finally:
        _stop(process)
        for fd, add in readers.items():  # read the rest of both pipes
            os.set_blocking(fd, False)
            with contextlib.suppress(BlockingIOError):
                while data := os.read(fd, _READ):
                    add(data)
        os.close(channel)
        process.stdout.close()
        printed.end()
    return messages.ended(process.returncode)


class _Messages:
    """The messages that a process has sent."""

    def __init__(self, seconds: float | None, watch: Callable[[Stages], None] | None) -> None:
        self.seconds, self.watch = seconds, watch
        self.deadline: float | None = None  # set when the process is ready
        self.last: dict[str, Any] = {}  # the message that ends the job
        self.late = False
        self.stack, self._rest = "", bytearray()

    @property
    def done(self) -> bool:
        """Whether the job has ended, is too late, or floods the channel."""
        self.late = self.deadline is not None and time.monotonic() > self.deadline
        return bool(self.last) or self.late or len(self._rest) > _MOST

    def add(self, data: bytes) -> None:
        self._rest += data
        if b"\n" in data:
            *whole, rest = bytes(self._rest).split(b"\n")
            self._rest = bytearray(rest)
            for line in whole:
                if not self.last:
                    self._message(line)

    def _message(self, line: bytes) -> None:
        try:
            message = json.loads(line)
        except (ValueError, RecursionError):
            message = None
        if not isinstance(message, dict):
            text = line[:1000].decode(errors="replace")
            self.stack += f"{text}\n" if len(self.stack) < _READ else ""
        elif "ready" in message and self.deadline is None and self.seconds is not None:
            self.deadline = time.monotonic() + self.seconds + _GRACE
        elif "stages" in message and self.watch:
            self.watch(_stages(message["stages"]))
        elif message.keys() & {"answer", "bad", "fault", "ended"}:
            self.last = message

    def ended(self, code: int) -> Ended:
        """Return how the job ended.

        Args:
            code: the exit code of the supervisor, used if it has not sent that of the worker.

        Raises:
            BadInput: if the job raised it.
            RuntimeError: for an internal error in the process.
        """
        if isinstance(bad := self.last.get("bad"), str):
            raise (UserError if "\n" in bad else BadInput)(bad)
        if "fault" in self.last:
            raise RuntimeError(str(self.last["fault"]))
        stopped = self.stack.startswith("Timeout") or (self.late and not self.last)
        worker_code = self.last.get("ended")
        code = worker_code if isinstance(worker_code, int) else code
        return Ended(self.last.get("answer"), None if stopped else code, self.stack)


def _stages(value: Any) -> Stages:
    """Return the stages that a process has sent, none if they are not of that type."""
    try:
        stages = converted(value, Stages)
    except ValueError:
        return ()
    sane = (0 <= stage.number <= stage.of < _LARGEST for stage in stages)
    return stages if all(sane) else ()


def _listen(
    process: "subprocess.Popen[bytes]",
    readers: Mapping[int, Callable[[bytes], None]],
    messages: _Messages,
) -> None:
    """Pass output and messages on until the last message, the time limit, or the process's end."""
    with selectors.DefaultSelector() as selector:
        for fd, add in readers.items():
            selector.register(fd, selectors.EVENT_READ, add)
        while selector.get_map() and not messages.done:
            ready = selector.select(0.5)
            if not ready and process.poll() is not None:
                return
            for key, _ in ready:
                if data := os.read(key.fd, _READ):
                    key.data(data)
                else:
                    selector.unregister(key.fd)


def _stop(process: "subprocess.Popen[bytes]") -> None:
    """End the process and everything that it has started; the supervisor does that if it can."""
    process.terminate()
    try:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_END)
    finally:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def check_limit(seconds: float | None) -> None:
    """Raise BadInput for a --timeout that is not above 0 and at most a day."""
    if seconds is not None and not 0 < seconds < _LONGEST:
        raise BadInput(f"--timeout {seconds:g}: give seconds, above 0 and at most 86400 (a day)")
