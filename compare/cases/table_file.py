"""The bytes of a table: a plain file's or a pipe's, never without end nor waited for in silence."""

import errno
import functools
import os
import select
import stat
import time
from pathlib import Path

from compare.errors import BadInput
from compare.interrupts import stop
from compare.streams import streams

MOST_BYTES = 2**30  # of a table, which takes several times as much once it is numbers
_SILENCE = 2.0  # seconds of waiting for a pipe until it is said
_LOOK = 0.25  # seconds between two looks at Ctrl-C


def table_bytes(path: Path) -> bytes:
    """Return what is in a plain file or a pipe; raises BadInput for anything else, or too much.

    A pipe can be read only once, and is remembered: a run asks several times for its table.
    """
    try:
        kind = path.stat()
        if stat.S_ISFIFO(kind.st_mode):
            return _piped(path.absolute(), kind.st_ino)
        if stat.S_ISDIR(kind.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not stat.S_ISREG(kind.st_mode):
            raise OSError(0, "it is no plain file and no pipe")
        if kind.st_size > MOST_BYTES:
            raise _too_much(path)
        with path.open("rb") as file:
            return _whole(path, file.fileno())
    except (OSError, ValueError) as error:
        if isinstance(error, BadInput):
            raise
        why = getattr(error, "strerror", None) or str(error)
        raise BadInput(f"{path}: {why}; name a CSV file that can be read") from None


@functools.lru_cache(maxsize=1)
def _piped(path: Path, _number: int) -> bytes:
    """Read a pipe until its writer closes it."""
    number = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        return _whole(path, number)
    finally:
        os.close(number)


def _whole(path: Path, number: int) -> bytes:
    """Read to the end; a pipe that nobody has opened yet is not at its end."""
    parts: list[bytes] = []
    size, since, said = 0, time.monotonic(), False
    while True:
        if not select.select([number], [], [], _LOOK)[0]:
            if stop.is_set():
                raise KeyboardInterrupt
            if not said and time.monotonic() - since > _SILENCE:
                said = True
                streams().error.write(f"compare: --data {path}: waits for someone to write it\n")
            continue
        part = os.read(number, 2**20)
        if not part:
            return b"".join(parts)
        parts.append(part)
        size += len(part)
        if size > MOST_BYTES:
            raise _too_much(path)


def _too_much(path: Path) -> BadInput:
    most = MOST_BYTES // 2**20
    return BadInput(f"{path}: more than {most:,} MiB: give fewer rows, or fewer digits")
