"""A file that says what it is and whether it is whole: a line of text, then torch.save's bytes.

The line is `deltacheck checkpoint FORMAT SHA256`, the digest being that of all bytes after it. It
is looked at first; what is read then is tensors and plain values, no other objects.
"""

import hashlib
import io
import re
import zipfile
from pathlib import Path
from typing import Any

import torch

from compare import untrusted
from compare.errors import BadInput
from compare.files import save

FORMAT = 3  # count up with every change of what stands in a checkpoint
MOST = 2**33  # bytes that are read
_MAGIC = b"deltacheck checkpoint "
_LINE = re.compile(rb"(\d{1,9}) ([0-9a-f]{64})")
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
    whole = untrusted.read(path, MOST)
    line, _, data = whole.partition(b"\n")
    if not line.startswith(_MAGIC):
        raise BadInput(
            f"{path} is no checkpoint, it begins with {whole[:16]!r}: "
            f"put the run's own back, {_ANEW}"
        )
    said = _LINE.fullmatch(line.removeprefix(_MAGIC))
    if said is None:
        raise BadInput(f"{path} is damaged in its first line: put a whole copy back, {_ANEW}")
    if int(said[1]) != FORMAT:
        raise BadInput(
            f"{path} is of format {int(said[1])} and this version reads {FORMAT}: "
            f"resume with the version that wrote it, {_ANEW}"
        )
    found = hashlib.sha256(data).hexdigest()
    if said[2] != found.encode():
        raise BadInput(
            f"{path} is damaged, its digest is {found[:8]} where its first line says "
            f"{said[2][:8].decode()!r}: put a whole copy back, {_ANEW}"
        )
    try:
        _check_zip(data)
        value = torch.load(io.BytesIO(data), weights_only=True, map_location="cpu")
    except Exception:  # what it makes of an odd pickle is anything: it is bytes of anybody's
        raise BadInput(
            f"{path} holds other things than tensors and plain values, or nothing that can be "
            f"read: put the run's own back, {_ANEW}"
        ) from None
    if not isinstance(value, dict):
        raise BadInput(f"{path} holds a {type(value).__name__}, no run: put its own back, {_ANEW}")
    return value


def _check_zip(data: bytes) -> None:
    """Raise for what is no zip file (torch.load would take it for an old form), or a packed one.

    torch.save packs nothing, so what is unpacked is as large as the file.
    """
    with zipfile.ZipFile(io.BytesIO(data)) as found:
        parts = found.infolist()
        if any(part.compress_type != zipfile.ZIP_STORED for part in parts):
            raise zipfile.BadZipFile
        if sum(part.file_size for part in parts) > len(data):
            raise zipfile.BadZipFile
