"""Standard output and error as a command was given them: none that is closed or full ends it.

What cannot be written there is dropped, and remembered where that is to be said: the verdict is
still the exit code, and files are still written. Imports the standard library alone.
"""

import contextlib
import errno
import os
import sys
from collections.abc import Iterator
from typing import NamedTuple, TextIO


class Output:
    """One of them, `stdout` or `stderr`; code that is checked may close it, and it is put back."""

    def __init__(self, name: str) -> None:
        self.stream: TextIO | None = getattr(sys, name, None)
        self.name = name
        self.failed: str | None = None  # why not all that was written has come there
        self.silent = self.stream is None or self.stream.closed
        self.number = self.spare = -1  # its descriptor, and a second one of the same file
        self.terminal = self.isatty()
        if self.stream and not self.silent:
            with contextlib.suppress(OSError):
                self.number = self.stream.fileno()
                self.spare = os.dup(self.number)

    def write(self, text: str) -> int:
        """Write, and flush: a line that is lost is known at once."""
        self._try(text)
        return len(text)

    def flush(self) -> None:
        """Write what others have left in its buffer."""
        self._try("")

    def isatty(self) -> bool:
        """Whether a person looks at it."""
        with contextlib.suppress(OSError, ValueError):
            return self.stream is not None and self.stream.isatty()
        return False

    @property
    def encoding(self) -> str:
        """What its bytes mean."""
        return (self.stream and self.stream.encoding) or "utf-8"

    def drop(self) -> None:
        """Let go of the second descriptor."""
        if self.spare >= 0:
            os.close(self.spare)
        self.spare = -1

    def _try(self, text: str) -> None:
        if self.silent or self.stream is None:
            return
        try:
            if self.number >= 0 and (self.stream.closed or not _open(self.number)):
                self._put_back(self.stream)
            try:
                self.stream.write(text)
            except UnicodeEncodeError:  # a name that its encoding lacks
                known = self.encoding
                self.stream.write(text.encode(known, "backslashreplace").decode(known))
            self.stream.flush()
        except OSError as error:
            self.silent = True
            gone = (errno.EPIPE, errno.EIO) if self.terminal else (errno.EPIPE,)
            if error.errno not in gone:  # that a reader has left is no failure
                self.failed = error.strerror or str(error)
            # what its buffer still holds is to go nowhere, also at the end of the process
            with contextlib.suppress(OSError), open(os.devnull, "w") as nowhere:
                os.dup2(nowhere.fileno(), self.number)

    def _put_back(self, was: TextIO) -> None:
        """Open it again, as it was."""
        os.dup2(self.spare, self.number)
        self.stream = open(  # noqa: SIM115 - it lives as long as the process
            self.number, "w", encoding=was.encoding, errors=was.errors, closefd=False
        )
        setattr(sys, self.name, self.stream)


class Streams(NamedTuple):
    """Both."""

    output: Output
    error: Output


_kept: list[Streams] = []


@contextlib.contextmanager
def kept() -> Iterator[Streams]:
    """Within, `streams` are those of now."""
    occupy()
    _kept.append(Streams(Output("stdout"), Output("stderr")))
    try:
        yield _kept[-1]
    finally:
        for one in _kept.pop():
            one.drop()


def streams() -> Streams:
    """Return what was kept, outside of a command what there is."""
    return _kept[-1] if _kept else Streams(Output("stdout"), Output("stderr"))


def occupy() -> None:
    """Have no file opened later take the number of a standard stream that is closed."""
    for number in range(3):
        if not _open(number):
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest that is free


def _open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True
