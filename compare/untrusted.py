"""Safe reading of files that somebody else may have written: bounded in size, typed by a schema.

A run folder may come from anyone, and nothing in it is trusted before it is checked: no link is
followed, no pipe is waited for, and each value has to have its type and lie in its range.
"""

import os
import stat
import warnings
from pathlib import Path
from typing import Any, TypeVar

from compare.errors import BadInput

T = TypeVar("T")


def read(path: Path, max_bytes: int) -> bytes:
    """Return the contents of a plain file of at most `max_bytes` bytes.

    Raises:
        FileNotFoundError: There is no such file.
        BadInput: It is a link, a hard link, a pipe, a device or a folder, is too large, or cannot
            be read.
    """
    # O_NONBLOCK: do not wait for a pipe. O_NOFOLLOW: a link could lead out of the folder.
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        with open(path, "rb", opener=lambda name, _flags: os.open(name, flags)) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
                raise BadInput(refusal(path) or f"{path} is no plain file: put a plain one there")
            if status.st_size > max_bytes:
                raise BadInput(
                    f"{path} has {status.st_size:,} bytes, more than the {max_bytes:,} that are "
                    "read: put the run's own file back"
                )
            return file.read(status.st_size)  # a larger number would allocate as much memory
    except FileNotFoundError:
        raise
    except OSError as error:
        raise BadInput(refusal(path) or f"{path}: {error.strerror}; make it readable") from None


def refusal(path: Path) -> str:
    """Return the reason for which a path is neither read nor written, "" if there is none.

    There is none if nothing is there, or a plain file without further hard links.
    """
    try:
        status = path.lstat()
    except OSError:
        return ""
    if stat.S_ISREG(status.st_mode) and status.st_nlink == 1:
        return ""
    kind = "a link" if stat.S_ISLNK(status.st_mode) or stat.S_ISREG(status.st_mode) else "no file"
    return f"{path} is {kind}: put a plain file there, or run it anew"


def converted(value: Any, schema: type[T]) -> T:
    """Return plain values as dataclasses of a schema; raise ValueError that names the bad item.

    A value that is not plain, such as a tensor, has to have the type in the schema.
    """
    import msgspec  # imported late: --help does not need it

    def same_type(kind: type[Any], item: Any) -> Any:
        if isinstance(item, kind):
            return item
        raise TypeError(f"Expected `{kind.__name__}`, got `{type(item).__name__}`")

    try:
        with warnings.catch_warnings(action="ignore"):  # msgspec tries a tensor as a list
            return msgspec.convert(value, schema, dec_hook=same_type)
    except (msgspec.ValidationError, RecursionError, OverflowError) as error:
        raise ValueError(str(error) or type(error).__name__) from None
