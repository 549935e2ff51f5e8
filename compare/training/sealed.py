"""A file that says what it is and whether it is whole: a line of text, then torch.save's bytes.

The line is `deltacheck checkpoint FORMAT SHA256`, the digest being that of all bytes after it. It
is looked at first; what is read then is tensors and plain values, no other objects.
"""

import hashlib
import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch

from compare.errors import BadInput
from compare.files import save

FORMAT = 2  # count up with every change of what stands in a checkpoint
_MAGIC = b"deltacheck checkpoint "
_ANEW = "or run it anew"


def write(path: Path, value: dict[str, Any]) -> None:
    """Write tensors and plain values, whole or not at all; raises BadInput where it cannot."""
    file = io.BytesIO()
    torch.save(value, file)
    data = file.getvalue()
    line = b"%s%d %s\n" % (_MAGIC, FORMAT, hashlib.sha256(data).hexdigest().encode())
    save(path, line + data)


def read(path: Path) -> dict[str, Any]:
    """Return what was written, tensors on the CPU.

    Raises BadInput for a file that cannot be read, is something else, of another format or damaged.
    """
    try:
        whole = path.read_bytes()
    except OSError as error:
        raise BadInput(f"{path}: {error.strerror}; make it readable, {_ANEW}") from None
    line, _, data = whole.partition(b"\n")
    if not line.startswith(_MAGIC):
        raise BadInput(
            f"{path} is no checkpoint, it begins with {whole[:16]!r}: "
            f"put the run's own back, {_ANEW}"
        )
    number, _, digest = line.removeprefix(_MAGIC).partition(b" ")
    if number.isdigit() and int(number) != FORMAT:
        raise BadInput(
            f"{path} is of format {int(number)} and this version reads {FORMAT}: "
            f"resume with the version that wrote it, {_ANEW}"
        )
    found = hashlib.sha256(data).hexdigest()
    if digest != found.encode():
        raise BadInput(
            f"{path} is damaged, its digest is {found[:8]} where its first line says "
            f"{digest[:8].decode(errors='replace')!r}: put a whole copy back, {_ANEW}"
        )
    try:
        if not zipfile.is_zipfile(io.BytesIO(data)):  # torch.load would take it for an old form
            raise pickle.UnpicklingError
        value = torch.load(io.BytesIO(data), weights_only=True, map_location="cpu")
    except (pickle.UnpicklingError, RuntimeError):
        raise BadInput(
            f"{path} holds other things than tensors and plain values, or nothing that can be "
            f"read: put the run's own back, {_ANEW}"
        ) from None
    if not isinstance(value, dict):
        raise BadInput(f"{path} holds a {type(value).__name__}, no run: put its own back, {_ANEW}")
    return value
