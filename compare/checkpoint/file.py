"""The file format of a checkpoint: a line of text with a checksum, then the bytes of torch.save.

The line is `deltacheck checkpoint FORMAT SHA256`, with the digest of all bytes after it. It is
checked first. The bytes are then loaded as tensors and plain values; other objects are refused.
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

FORMAT = 3  # increase it with every change of the contents of a checkpoint
MAX_BYTES = 2**33  # of a file that is read
_MAGIC = b"deltacheck checkpoint "
_LINE = re.compile(rb"(\d{1,9}) ([0-9a-f]{64})")
_NEW_RUN = "or start a new run"


def write(path: Path, value: dict[str, Any]) -> None:
    """Write tensors and plain values, completely or not at all.

    Raises:
        BadInput: if the file cannot be written.
    """
    file = io.BytesIO()
    torch.save(value, file)
    data = file.getvalue()
    line = b"%s%d %s\n" % (_MAGIC, FORMAT, hashlib.sha256(data).hexdigest().encode())
    save(path, line + data)


def read(path: Path) -> dict[str, Any]:
    """Return the value that `write` wrote, with tensors on the CPU.

    Raises:
        BadInput: for a file that cannot be read, is no checkpoint, is damaged, or has another
            format.
    """
    contents = untrusted.read(path, MAX_BYTES)
    line, _, data = contents.partition(b"\n")
    if not line.startswith(_MAGIC):
        raise BadInput(
            f"{path} is not a checkpoint, it begins with {contents[:16]!r}: "
            f"restore the run's own checkpoint, {_NEW_RUN}"
        )
    fields = _LINE.fullmatch(line.removeprefix(_MAGIC))
    if fields is None:
        raise BadInput(f"{path} is damaged in its first line: restore an intact copy, {_NEW_RUN}")
    if int(fields[1]) != FORMAT:
        raise BadInput(
            f"{path} has format {int(fields[1])} and this version reads format {FORMAT}: "
            f"resume with the version that wrote it, {_NEW_RUN}"
        )
    digest = hashlib.sha256(data).hexdigest()
    if fields[2] != digest.encode():
        raise BadInput(
            f"{path} is damaged, its digest is {digest[:8]} but its first line has "
            f"{fields[2][:8].decode()!r}: restore an intact copy, {_NEW_RUN}"
        )
    try:
        _check_zip(data)
        value = torch.load(io.BytesIO(data), weights_only=True, map_location="cpu")
    except Exception:  # untrusted bytes can raise any exception in the unpickler
        raise BadInput(
            f"{path} cannot be read, or holds objects other than tensors and plain values: "
            f"restore the run's own checkpoint, {_NEW_RUN}"
        ) from None
    if not isinstance(value, dict):
        raise BadInput(
            f"{path} holds a {type(value).__name__} in place of a run: restore the run's own "
            f"checkpoint, {_NEW_RUN}"
        )
    return value


def _check_zip(data: bytes) -> None:
    """Raise BadZipFile for data that is no zip file, or whose parts are compressed.

    torch.load would take other data for an older format. torch.save compresses nothing, so no part
    is larger than the file.
    """
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        parts = archive.infolist()
        if any(part.compress_type != zipfile.ZIP_STORED for part in parts):
            raise zipfile.BadZipFile
        if sum(part.file_size for part in parts) > len(data):
            raise zipfile.BadZipFile
