"""Writing a file whole or not at all, and asking beforehand whether that can be."""

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
from compare.streams import streams

_WRITTEN = "json", "html", "save", "plot"  # options that name a file to write
_READ = {  # by command: words and options that name one to read
    "run": ("data",), "check": ("file", "inputs"), "mutants": ("target", "inputs"),
    "practice": ("words",),
}  # fmt: skip


class CannotWrite(BadInput):
    """A file that could not be written; `why` without a word on which."""

    def __init__(self, path: Path, error: Exception) -> None:
        self.why = getattr(error, "strerror", None) or str(error)
        super().__init__(f"cannot write {path}: {self.why}; name another place")


def save(path: Path, data: str | bytes, *, durable: bool = True) -> None:
    """Write `data` beside `path` and rename it; raises CannotWrite when that cannot be.

    What is there and no plain file (a pipe, a device) is written to as it is. `durable` waits until
    the disk has it, so that a loss of power does not take it either.
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
    except (OSError, ValueError) as error:  # a name with a NUL
        raise CannotWrite(path, error) from error


def check_can_hold(option: str, name: str) -> None:
    """Raise BadInput, before anything runs, for a file that could not be written after."""
    path = Path(name)
    try:
        if not name or name.endswith(os.sep) or path.is_dir():
            raise ValueError("it is a folder" if name else "it has no name")
        if _is_plain(path):
            with _replacing(path):  # and not made ready: nothing stays
                pass
        elif not path.is_fifo():  # its reader would take this for the end
            with _open_for_writing(path) as file:
                os.write(file.fileno(), b"")  # a full device says so
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        said = f"{option} {name}: no file can be written there ({why}): name another place"
        raise BadInput(said) from None


def check_outputs(asked: dict[str, Any]) -> None:
    """Raise BadInput, before anything runs, where what is asked for could not be written after."""
    for option in _WRITTEN:
        name = asked.get(option)
        if option == "json" and name == "-":
            if streams().output.silent:
                raise BadInput("--json -: standard output is closed: open it, or name a file")
        elif name is not None:
            if option == "html" and Path(name).suffix != ".html":
                raise BadInput(f"--html {name}: name a file that ends in .html")
            check_can_hold(f"--{option}", name)


def check_apart(asked: dict[str, Any]) -> None:
    """Raise BadInput where an option of `asked` would overwrite what another one names."""
    named: dict[str, str] = {}
    for option in (*_READ.get(asked["command"], ()), *_WRITTEN):
        name = asked.get(option)
        name = str(name[-1] if isinstance(name, list) else name or "-")
        place = ""
        with contextlib.suppress(OSError, ValueError):
            place = os.path.realpath(name) if name != "-" and _is_plain(Path(name)) else ""
        if place in named and option in _WRITTEN:
            raise BadInput(f"--{option} {name}: it is the file of {named[place]}; name another one")
        if place:
            words = option in ("file", "target", "words")
            named[place] = f"{asked['command']} {name}" if words else f"--{option}"


def save_json(result: dict[str, Any], name: str) -> None:
    """Write a result as JSON to a file, or with - to standard output."""
    text = json.dumps(result, indent=1) + "\n"
    if name == "-":
        PlainConsole().out(text, end="")
    else:
        save(Path(name), text)


def _is_plain(path: Path) -> bool:
    """Whether it is a plain file, or could become one."""
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except FileNotFoundError:
        return True


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[tuple[BinaryIO, Any]]:
    """Yield a new file beside a plain one, and what puts it in its place; else it goes again.

    It has the old one's mode, or what the umask leaves of a new one's.
    """
    path = Path(os.path.realpath(path))
    path.parent.stat()
    with contextlib.suppress(FileNotFoundError):
        path.lstat()  # a name that is too long
    beside = path.parent / f".{path.name[:32]}.{secrets.token_hex(8)}"
    with beside.open("xb") as file:
        try:
            with contextlib.suppress(FileNotFoundError):
                os.fchmod(file.fileno(), stat.S_IMODE(path.stat().st_mode) & 0o777)
            yield file, lambda: os.replace(beside, path)
        finally:
            beside.unlink(missing_ok=True)  # there no more if it was put in place


def _open_for_writing(path: Path) -> BinaryIO:
    """Open a pipe or a device; say so where a pipe waits for its reader."""
    said = False
    while True:
        try:
            number = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
            os.set_blocking(number, True)
            return open(number, "wb", buffering=0)
        except OSError as error:
            if error.errno != errno.ENXIO or not path.is_fifo() or stop.is_set():
                raise
        if not said:
            streams().error.write(f"compare: {path}: waits for someone to read it\n")
        said = True
        time.sleep(0.1)


def _sync(folder: Path) -> None:
    """Have the disk know the folder's new name too, where its file system can."""
    with contextlib.suppress(OSError):
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)
