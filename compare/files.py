"""Atomic writing of files, and checks in advance that output files can be written."""

import contextlib
import errno
import json
import os
import secrets
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from compare.console import PlainConsole
from compare.errors import BadInput
from compare.interrupts import stop
from compare.standard_streams import streams

_WRITTEN = "json", "html", "save", "plot"  # options that name a file to be written
_READ = {  # command -> its arguments and options that name a file to be read
    "run": ("data",), "check": ("file", "inputs"), "mutants": ("target", "inputs"),
    "practice": ("words",),
}  # fmt: skip


class CannotWrite(BadInput):
    """A file cannot be written; `why` is the reason without the name of the file."""

    def __init__(self, path: Path, error: Exception) -> None:
        self.why = getattr(error, "strerror", None) or str(error)
        super().__init__(f"cannot write {path}: {self.why}; choose another path")


def save(path: Path, data: str | bytes, *, durable: bool = True) -> None:
    """Write a file whole or not at all: into a temporary file next to it, which is then renamed.

    Args:
        path: The file. A pipe or a device is written to directly.
        data: Its contents.
        durable: Whether to wait until the disk has them, so that they survive a loss of power.

    Raises:
        CannotWrite: The file cannot be written.
    """
    data = data.encode() if isinstance(data, str) else data
    try:
        if not _is_plain(path):
            with _open_for_writing(path) as file:
                file.write(data)
            return
        with _replacing(path) as (file, ready):
            file.write(data)
            file.flush()
            if durable:
                os.fsync(file.fileno())
            ready()
        if durable:
            _sync(Path(os.path.realpath(path)).parent)
    except (OSError, ValueError) as error:  # ValueError: a name with a NUL
        raise CannotWrite(path, error) from error


def check_can_hold(option: str, name: str) -> None:
    """Raise BadInput if the file that an option names could not be written later."""
    path = Path(name)
    try:
        if not name or name.endswith(os.sep) or path.is_dir():
            raise ValueError("it is a folder" if name else "the name is empty")
        if _is_plain(path):
            with _replacing(path):  # not put in place: no file is left
                pass
        elif not path.is_fifo():  # the reader of a pipe would take this for its end
            with _open_for_writing(path) as file:
                os.write(file.fileno(), b"")  # fails on a full device
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        message = f"{option} {name}: no file can be written there ({why}): choose another path"
        raise BadInput(message) from None


def check_outputs(options: dict[str, Any]) -> None:
    """Raise BadInput if an output that the options request could not be written later."""
    for option in _WRITTEN:
        name = options.get(option)
        if option == "json" and name == "-":
            if streams().output.silent:
                raise BadInput("--json -: standard output is closed: open it, or name a file")
        elif name is not None:
            if option == "html" and Path(name).suffix != ".html":
                raise BadInput(f"--html {name}: name a file that ends in .html")
            check_can_hold(f"--{option}", name)


def check_apart(options: dict[str, Any]) -> None:
    """Raise BadInput if an option would overwrite the file that another one names."""
    named: dict[str, str] = {}  # real path -> the argument that names it
    for option in (*_READ.get(options["command"], ()), *_WRITTEN):
        name = options.get(option)
        name = str(name[-1] if isinstance(name, list) else name or "-")
        path = ""
        with contextlib.suppress(OSError, ValueError):
            path = os.path.realpath(name) if name != "-" and _is_plain(Path(name)) else ""
        if path in named and option in _WRITTEN:
            raise BadInput(f"--{option} {name}: it is the file of {named[path]}; name another one")
        if path:
            positional = option in ("file", "target", "words")
            named[path] = f"{options['command']} {name}" if positional else f"--{option}"


def save_json(result: dict[str, Any], name: str) -> None:
    """Write a result as JSON to a file, or to standard output if the name is -."""
    text = json.dumps(result, indent=1) + "\n"
    if name == "-":
        PlainConsole().out(text, end="")
    else:
        save(Path(name), text)


def _is_plain(path: Path) -> bool:
    """Return whether a path is a plain file, or does not exist yet."""
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except FileNotFoundError:
        return True


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[tuple[BinaryIO, Any]]:
    """Yield a temporary file next to a plain one, and a function that puts it in its place.

    If the function is not called, the temporary file is removed. It has the mode of the old file,
    or that of a new one.
    """
    path = Path(os.path.realpath(path))
    path.parent.stat()
    with contextlib.suppress(FileNotFoundError):
        path.lstat()  # fails if the name is too long
    temporary = path.parent / f".{path.name[:32]}.{secrets.token_hex(8)}"
    with temporary.open("xb") as file:
        try:
            with contextlib.suppress(FileNotFoundError):
                os.fchmod(file.fileno(), stat.S_IMODE(path.stat().st_mode) & 0o777)
            yield file, lambda: os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)  # missing if it was put in place


def _open_for_writing(path: Path) -> BinaryIO:
    """Open a pipe or a device for writing; print a message while a pipe has no reader."""
    announced = False
    while True:
        try:
            number = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
            os.set_blocking(number, True)
            return open(number, "wb", buffering=0)
        except OSError as error:
            if error.errno != errno.ENXIO or not path.is_fifo() or stop.is_set():
                raise
        if not announced:
            streams().error.write(f"compare: {path}: waiting for a reader of this pipe\n")
        announced = True
        time.sleep(0.1)


def _sync(folder: Path) -> None:
    """Write a folder's entries to disk, if its file system can, so that a new name is durable."""
    with contextlib.suppress(OSError):
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)
