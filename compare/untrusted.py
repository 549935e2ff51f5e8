"""Reading what somebody else may have written: plain files of a bounded size, as a schema has it.

A run folder may come from anybody. Nothing in it is believed before it was looked at: no link is
followed, no pipe waited for, and a value is of the type and within the range that it should have.
"""

import os
import stat
import warnings
from pathlib import Path
from typing import Any, TypeVar

from compare.errors import BadInput

T = TypeVar("T")


def read(path: Path, most: int) -> bytes:
    """Return the bytes of a plain file of at most `most` bytes.

    Raises FileNotFoundError where there is none, and BadInput for a link, a pipe, a device, a
    folder, another name of a file that lies elsewhere, or one that is larger or cannot be read.
    """
    # a pipe would be waited for, a link would lead out of the folder
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        with open(path, "rb", opener=lambda name, _flags: os.open(name, flags)) as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
                raise BadInput(refused(path) or f"{path} is no plain file: put a plain one there")
            if found.st_size > most:
                raise BadInput(
                    f"{path} has {found.st_size:,} bytes, more than the {most:,} that are read: "
                    "put the run's own file back"
                )
            return file.read(found.st_size)  # a larger number would be set aside in memory
    except FileNotFoundError:
        raise
    except OSError as error:
        raise BadInput(refused(path) or f"{path}: {error.strerror}; make it readable") from None


def refused(path: Path) -> str:
    """Return why nothing is read from a path or written to it, "" where that is in order.

    It is where nothing is there, or a plain file with that one name.
    """
    try:
        found = path.lstat()
    except OSError:
        return ""
    if stat.S_ISREG(found.st_mode) and found.st_nlink == 1:
        return ""
    kind = "a link" if stat.S_ISLNK(found.st_mode) or stat.S_ISREG(found.st_mode) else "no file"
    return f"{path} is {kind}: put a plain file there, or run it anew"


def fitted(value: Any, schema: type[T]) -> T:
    """Return plain values as the dataclasses of a schema; raises ValueError that says what is odd.

    What is no plain value, a tensor, has to be of the type that the schema names.
    """
    import msgspec  # not for --help

    def same(kind: type[Any], found: Any) -> Any:
        if isinstance(found, kind):
            return found
        raise TypeError(f"Expected `{kind.__name__}`, got `{type(found).__name__}`")

    try:
        with warnings.catch_warnings(action="ignore"):  # a tensor in a list's place is tried as one
            return msgspec.convert(value, schema, dec_hook=same)
    except (msgspec.ValidationError, RecursionError, OverflowError) as error:
        raise ValueError(str(error) or type(error).__name__) from None
