"""Has someone's code run by a process of its own, stopped at a limit, its output cut.

What comes back is JSON; as the code may write whatever it likes there, `answer_as` takes nothing
that is not of the kind asked for, and nothing is ever unpickled. Imports no torch; that process
does.
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
from compare.untrusted import converted

_ROOT = Path(__file__).parents[2]
_GRACE = 5.0  # seconds beyond its limit, which the process keeps by itself
_END = 5.0  # seconds to end whatever it has started
_LONGEST = 86_401  # seconds
_MOST = 2**28  # bytes of one message
_READ = 2**16

T = TypeVar("T")


class Printed:
    """What a process prints: its first lines, and how many more there were.

    `say` is given each of the first lines as it comes.
    """

    def __init__(self, most: int, columns: int, say: Callable[[str], None] | None = None) -> None:
        self.most, self.columns, self.say = most, columns, say
        self.lines: list[str] = []
        self.cut = 0
        self._rest = b""

    def add(self, data: bytes) -> None:
        """Take what was printed next."""
        *whole, rest = (self._rest + data).split(b"\n")
        for line in whole:
            self._line(line)
        self._rest = rest[: 4 * self.columns + 4]  # bytes of UTF-8

    def end(self) -> None:
        """Take what stands after the last end of a line."""
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
    """How the work ended: with an answer, at its limit of time, or in another way."""

    answer: Any = None
    code: int | None = None  # of a process that gave no answer; None at its limit of time
    stack: str = ""  # where it was then, as faulthandler writes it

    def answer_as(self, kind: type[T]) -> T | None:
        """Return the answer as a dataclass, None where it is not one of that kind."""
        try:
            return converted(self.answer, kind)
        except ValueError:
            return None

    def line(self, path: Path) -> int:
        """Return the line of a file in which the limit found it, 0 where that is not known."""
        shown = str(path).encode("ascii", "backslashreplace").decode()
        place = re.search(rf'File "{re.escape(shown)}", line (\d{{1,9}})', self.stack)
        return int(place[1]) if place else 0

    def why(self, seconds: float | None) -> str:
        """Return in words why there is no answer; at the limit they go on from the line's."""
        if self.code is None:
            return (
                f"was still running after {seconds:g} seconds and was stopped there: does a loop "
                "end? --timeout SECONDS gives it longer"
            )
        if self.code < 0:
            known = {each.value: each.name for each in signal.Signals}
            name = known.get(-self.code, f"signal {-self.code}")
            why = ": was it out of memory?" if name == "SIGKILL" else ""
            return f"the file's process was ended by {name}{why}"
        return f"the file ended its process itself, with exit code {self.code}"


def guarded(
    work: str, words: dict[str, Any], printed: Printed, *, seconds: float | None, memory: int,
    watch: Callable[[int], None] | None = None,
) -> Ended:  # fmt: skip
    """Run `work`, a "module:function" that is given a teller and `words`, and return its answer.

    It has `seconds`, from when all that it needs is imported, and so many bytes of `memory` beyond
    that. `watch` is given the counts that it tells. Raises BadInput where the work does.
    """
    asked = {
        "work": work, "words": words, "seconds": seconds, "memory": memory, "path": sys.path,
        "parent": os.getpid(),
    }  # fmt: skip
    path = os.pathsep.join([str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    channel, theirs = os.pipe()
    try:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "compare.guard.child_process", str(theirs),
             json.dumps(asked)],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"},
            pass_fds=[theirs], start_new_session=True,
        )  # fmt: skip
    except BaseException:
        os.close(channel)
        raise
    finally:
        os.close(theirs)
    heard = _Heard(seconds, watch)
    assert process.stdout
    takers = {channel: heard.add, process.stdout.fileno(): printed.add}
    try:
        _listen(process, takers, heard)
    finally:
        _stop(process)
        for fd, take in takers.items():  # what is still in a pipe
            os.set_blocking(fd, False)
            with contextlib.suppress(BlockingIOError):
                while data := os.read(fd, _READ):
                    take(data)
        os.close(channel)
        process.stdout.close()
        printed.end()
    return heard.ended(process.returncode)


class _Heard:
    """The messages of a process."""

    def __init__(self, seconds: float | None, watch: Callable[[int], None] | None) -> None:
        self.seconds, self.watch = seconds, watch
        self.deadline: float | None = None  # there is none before it is ready
        self.last: dict[str, Any] = {}  # the one that ends it
        self.late = False
        self.stack, self._rest = "", bytearray()

    @property
    def done(self) -> bool:
        """Whether nothing more is to be waited for."""
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
        elif isinstance(count := message.get("count"), int) and self.watch:
            self.watch(count)
        elif message.keys() & {"answer", "bad", "fault", "ended"}:
            self.last = message

    def ended(self, code: int) -> Ended:
        """Return how it ended, with the code of its own that it told or else `code`.

        Raises BadInput or RuntimeError where the work did.
        """
        if isinstance(bad := self.last.get("bad"), str):
            raise (UserError if "\n" in bad else BadInput)(bad)
        if "fault" in self.last:
            raise RuntimeError(str(self.last["fault"]))
        stopped = self.stack.startswith("Timeout") or (self.late and not self.last)
        told = self.last.get("ended")
        code = told if isinstance(told, int) else code
        return Ended(self.last.get("answer"), None if stopped else code, self.stack)


def _listen(
    process: "subprocess.Popen[bytes]", takers: Mapping[int, Callable[[bytes], None]], heard: _Heard
) -> None:
    """Hand on what is written until the last message, the limit, or the end of the process."""
    with selectors.DefaultSelector() as selector:
        for fd, take in takers.items():
            selector.register(fd, selectors.EVENT_READ, take)
        while selector.get_map() and not heard.done:
            found = selector.select(0.5)
            if not found and process.poll() is not None:
                return
            for key, _ in found:
                if data := os.read(key.fd, _READ):
                    key.data(data)
                else:
                    selector.unregister(key.fd)


def _stop(process: "subprocess.Popen[bytes]") -> None:
    """End the process and all that it has started: it does so itself, if it can."""
    process.terminate()
    try:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_END)
    finally:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def check_limit(seconds: float | None) -> None:
    """Raise BadInput for a --timeout that is no limit."""
    if seconds is not None and not 0 < seconds < _LONGEST:
        raise BadInput(f"--timeout {seconds:g}: give seconds, above 0, at most a day")
