"""Standard output and error of a command: a closed or full stream does not end the command.

Text that cannot be written is dropped, and the failure is recorded: the exit code is still the
verdict's, and files are still written. This module imports the standard library alone.
"""

import contextlib
import errno
import os
import sys
from collections.abc import Iterator
from typing import NamedTuple, TextIO


class Output:
    """`stdout` or `stderr`; it is reopened if the user's code closes it."""

    def __init__(self, name: str) -> None:
        self.stream: TextIO | None = getattr(sys, name, None)
        self.name = name
        self.failed: str | None = None  # reason for which text was lost
        self.silent = self.stream is None or self.stream.closed
        self.number = self.spare = -1  # file descriptor, and its duplicate
        self.terminal = self.isatty()
        if self.stream and not self.silent:
            with contextlib.suppress(OSError):
                self.number = self.stream.fileno()
                self.spare = os.dup(self.number)

    def write(self, text: str) -> int:
        """Write and flush, so that a lost line is noticed at once."""
        self._try(text)
        return len(text)

    def flush(self) -> None:
        """Write the text that other code has left in the buffer."""
        self._try("")

    def isatty(self) -> bool:
        """Return whether the stream is a terminal."""
        with contextlib.suppress(OSError, ValueError):
            return self.stream is not None and self.stream.isatty()
        return False

    @property
    def encoding(self) -> str:
        """The encoding of the stream."""
        return (self.stream and self.stream.encoding) or "utf-8"

    def drop(self) -> None:
        """Close the duplicate descriptor."""
        if self.spare >= 0:
            os.close(self.spare)
        self.spare = -1

    def _try(self, text: str) -> None:
        if self.silent or self.stream is None:
            return
        try:
            if self.number >= 0 and (self.stream.closed or not _open(self.number)):
                self._reopen(self.stream)
            try:
                self.stream.write(text)
            except UnicodeEncodeError:  # a character that the encoding lacks
                encoding = self.encoding
                self.stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
            self.stream.flush()
        except OSError as error:
            self.silent = True
            reader_left = (errno.EPIPE, errno.EIO) if self.terminal else (errno.EPIPE,)
            if error.errno not in reader_left:  # a reader that has left is no failure
                self.failed = error.strerror or str(error)
            # Discard what the buffer still holds, also at the end of the process.
            with contextlib.suppress(OSError), open(os.devnull, "w") as null:
                os.dup2(null.fileno(), self.number)

    def _reopen(self, closed: TextIO) -> None:
        """Open the stream again from the duplicate descriptor, with the same encoding."""
        os.dup2(self.spare, self.number)
        self.stream = open(  # noqa: SIM115 - it lives as long as the process
            self.number, "w", encoding=closed.encoding, errors=closed.errors, closefd=False
        )
        setattr(sys, self.name, self.stream)


class Streams(NamedTuple):
    """Standard output and standard error."""

    output: Output
    error: Output


_current: list[Streams] = []


@contextlib.contextmanager
def keep_streams() -> Iterator[Streams]:
    """Keep the present streams: `streams()` returns them within, whatever the user's code does."""
    reserve_descriptors()
    _current.append(Streams(Output("stdout"), Output("stderr")))
    try:
        yield _current[-1]
    finally:
        for output in _current.pop():
            output.drop()


def streams() -> Streams:
    """Return the streams that the command keeps, outside of a command the present ones."""
    return _current[-1] if _current else Streams(Output("stdout"), Output("stderr"))


def reserve_descriptors() -> None:
    """Open /dev/null for each closed standard stream, so that no later file gets its number."""
    for number in range(3):
        if not _open(number):
            os.set_inheritable(
                os.open(os.devnull, os.O_RDWR), True
            )  # open returns the lowest free number


def _open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True
