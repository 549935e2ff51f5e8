"""Writing a file whole or not at all, and asking beforehand whether that can be."""

import os
import tempfile
from pathlib import Path

from compare.errors import BadInput
from compare.terminal import PlainConsole


def save(path: Path, data: str | bytes, *, durable: bool = True) -> None:
    """Write `data` beside `path` and rename it; raises BadInput when it cannot be written.

    What is there and no plain file (a pipe, a device) is written to as it is. `durable` waits until
    the disk has it, so that a loss of power does not take it either.
    """
    data = data.encode() if isinstance(data, str) else data
    try:
        path = path.resolve()
        if path.exists() and not path.is_file():
            path.write_bytes(data)
            return
        with tempfile.NamedTemporaryFile(
            dir=path.parent, prefix=f".{path.name}.", delete=False
        ) as file:
            try:
                file.write(data)
                file.flush()
                if durable:
                    os.fsync(file.fileno())
                os.chmod(file.name, 0o644)
                os.replace(file.name, path)
            except BaseException:
                Path(file.name).unlink(missing_ok=True)
                raise
    except OSError as error:
        raise BadInput(f"cannot write {path}: {error.strerror}; name another place") from error


def check_can_hold(option: str, name: str) -> None:
    """Raise BadInput, before anything runs, for a file that could not be written after."""
    path = Path(name)
    if not name or path.is_dir() or not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise BadInput(f"{option} {name}: no file can be written there, name another place")


def check_outputs(json: str | None, html: str | None = None) -> None:
    """Raise BadInput, before anything runs, where what is asked for could not be written after."""
    if json not in (None, "-"):
        check_can_hold("--json", json)
    if html is not None:
        if not html.endswith(".html"):
            raise BadInput(f"--html {html}: name a file that ends in .html")
        check_can_hold("--html", html)


def save_json(text: str, name: str) -> None:
    """Write JSON to a file, or with - to standard output."""
    if name == "-":
        PlainConsole().out(text, end="")
    else:
        save(Path(name), text)
