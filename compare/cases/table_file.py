"""Read the bytes of a table from a file or pipe, with a size limit and a message while waiting."""

import errno
import functools
import os
import select
import stat
import time
from pathlib import Path

from compare.errors import BadInput
from compare.interrupts import stop
from compare.standard_streams import streams

MAX_BYTES = 2**30  # of a table, whose numbers then take several times as much memory
_SILENCE = 2.0  # seconds of waiting for a pipe before a message says so
_POLL = 0.25  # seconds between two checks for Ctrl-C


def table_bytes(path: Path) -> bytes:
    """Return the contents of a regular file or a pipe.

    A pipe can be read only once, and a run reads its table several times, so the contents of the
    last pipe are cached.

    Raises:
        BadInput: for a path that is neither or cannot be read, or for more than `MAX_BYTES`.
    """
    try:
        status = path.stat()
        if stat.S_ISFIFO(status.st_mode):
            return _read_pipe(path.absolute(), status.st_ino)
        if stat.S_ISDIR(status.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not stat.S_ISREG(status.st_mode):
            raise OSError(0, "it is neither a regular file nor a pipe")
        if status.st_size > MAX_BYTES:
            raise _too_large(path)
        with path.open("rb") as file:
            return _read_all(path, file.fileno())
    except (OSError, ValueError) as error:
        if isinstance(error, BadInput):
            raise
        why = getattr(error, "strerror", None) or str(error)
        raise BadInput(f"{path}: {why}; name a CSV file that can be read") from None


@functools.lru_cache(maxsize=1)
def _read_pipe(path: Path, _inode: int) -> bytes:
    """Read a pipe until its writer closes it; the inode tells a new pipe of the same name."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        return _read_all(path, descriptor)
    finally:
        os.close(descriptor)


def _read_all(path: Path, descriptor: int) -> bytes:
    """Read to the end; a pipe that no writer has opened yet is not at its end."""
    parts: list[bytes] = []
    size, started, noted = 0, time.monotonic(), False
    while True:
        if not select.select([descriptor], [], [], _POLL)[0]:
            if stop.is_set():
                raise KeyboardInterrupt
            if not noted and time.monotonic() - started > _SILENCE:
                noted = True
                streams().error.write(f"compare: --data {path}: waiting for data in this pipe\n")
            continue
        part = os.read(descriptor, 2**20)
        if not part:
            return b"".join(parts)
        parts.append(part)
        size += len(part)
        if size > MAX_BYTES:
            raise _too_large(path)


def _too_large(path: Path) -> BadInput:
    limit = MAX_BYTES // 2**20
    return BadInput(f"{path}: more than {limit:,} MiB: give fewer rows, or fewer digits")
