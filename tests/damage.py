"""Random damage to the files that the program reads, and a check of how a command handles it.

This module draws bytes, values and file system entries; `test_damage` puts them in place.
"""

import contextlib
import copy
import hashlib
import io
import json
import os
import re
import resource
import shutil
import signal
import socket
import stat
import tempfile
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st

from compare.checkpoint import file as checksummed
from compare.cli.main import main

LIMIT = 30.0  # seconds that a command may take; it usually takes a tenth of one
ROOM = 2**30  # bytes of memory that a command may add; it usually adds a hundredth of that
Draw = Callable[[Any], Any]

WORDS = st.sampled_from(
    [
        "", "x", "EXACT", "FINE", "nan", "cpu", "none", "manual", "../..", "../../outside", "..",
        "../../outside/thesis.txt", "{outside}", "{outside}/thesis.txt", "/dev/zero", "a" * 300,
        "a\0b", "\x1b[2J\x1b]0;title\x07", "\n\n", "\u202e", "\ud800", "events.out.tfevents.1.1",
    ]
)  # fmt: skip
NUMBERS = st.sampled_from(
    [0, 1, -1, 2, 3, 7, 40, -5, 2**31, 2**63, -(2**63) - 1, 10**30, 0.0, -0.0, 0.5, 1e308, 1e-320,
     float("inf"), float("-inf"), float("nan"), True, False]
)  # fmt: skip
LEAVES = st.none() | NUMBERS | WORDS | st.text(max_size=5)
PLAIN = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=5,
)
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.int64, torch.uint8, torch.complex64]
TENSORS = st.builds(
    lambda shape, dtype, fill: torch.full(shape, fill).to(dtype),
    st.lists(st.integers(0, 5), max_size=4),
    st.sampled_from(DTYPES),
    st.sampled_from([0.0, 1.0, -3.0, float("nan"), float("inf")]),
)
ARRAYS = st.builds(
    lambda shape, dtype: np.zeros(shape, dtype),
    st.lists(st.integers(0, 12), max_size=3),
    st.sampled_from(["f8", "f4", "i8", "u1", "?", "U3", "S2", "c16", "M8[s]", "O", "f8,i4"]),
)
WHOLE = st.sampled_from(
    [
        b"", b"\0" * 100, b"{}", b"[]", b"null", b"5", b'"EXACT"', b"[" * 100_000, b"1" * 5000,
        b'{"a":' * 5000, b"\xff\xfe{\0}\0", b"\xef\xbb\xbf{}", b"PK\x05\x06" + b"\0" * 18,
        b"PK\x03\x04", b"\x93NUMPY\x01\0", b"deltacheck checkpoint 3 ", b"\x80\x04N.",
        b"deltacheck checkpoint 3 \n", b"deltacheck checkpoint " + b"9" * 5000 + b" x\n",
    ]
) | st.binary(max_size=200)  # fmt: skip


@st.composite
def bent(draw: Draw, data: bytes) -> bytes:
    """Return `data` with bytes cut off, removed, inserted, doubled or zeroed, or a bit flipped."""
    kind = draw(st.sampled_from(["cut", "out", "in", "turn", "turn", "twice", "zeros", "whole"]))
    if kind == "whole" or not data:
        return draw(WHOLE)
    at = draw(st.integers(0, len(data) - 1))
    size = draw(st.integers(1, 40))
    if kind == "cut":
        return data[:at]
    if kind == "out":
        return data[:at] + data[at + size :]
    if kind == "in":
        return data[:at] + draw(st.binary(min_size=1, max_size=20)) + data[at:]
    if kind == "turn":
        return data[:at] + bytes([data[at] ^ (1 << draw(st.integers(0, 7)))]) + data[at + 1 :]
    if kind == "twice":
        return data[: at + size] + data[at:]
    return data[:at] + bytes(len(data[at : at + size])) + data[at + size :]


@st.composite
def altered(draw: Draw, value: Any, others: Any) -> Any:
    """Return `value` with one element, at any depth, replaced, removed, renamed or doubled."""
    if not isinstance(value, dict | list | tuple) or not value or draw(st.integers(0, 5)) == 0:
        return draw(others)
    pairs = list(value.items()) if isinstance(value, dict) else list(enumerate(value))
    at = draw(st.integers(0, len(pairs) - 1))
    key, inner = pairs[at]
    how = draw(st.sampled_from(["go on"] * 5 + ["remove", "rename", "double"]))
    if how == "remove":
        del pairs[at]
    elif how == "rename":
        pairs[at] = draw(WORDS), inner
    elif how == "double":
        pairs.insert(at, (draw(WORDS), copy.deepcopy(inner)))
    else:
        pairs[at] = key, draw(altered(inner, others))
    return dict(pairs) if isinstance(value, dict) else type(value)(inner for _, inner in pairs)


@st.composite
def result(draw: Draw, data: bytes) -> bytes:
    """Return a damaged result.json: damaged bytes, or valid JSON with a changed value."""
    if draw(st.booleans()):
        return draw(bent(data))
    return json.dumps(draw(altered(json.loads(data), PLAIN))).encode()


@st.composite
def steps(draw: Draw, data: bytes) -> bytes:
    """Return a damaged steps.npz: damaged bytes, or a valid file with other arrays."""
    if draw(st.booleans()):
        return draw(bent(data))
    with np.load(io.BytesIO(data)) as kept:
        arrays = dict(kept)
    name = draw(st.sampled_from([*arrays, "loss_manual", "loss_manual"]))
    if draw(st.integers(0, 3)):
        arrays[name] = draw(ARRAYS)
    else:
        del arrays[name]
    file = io.BytesIO()
    if draw(st.integers(0, 7)):
        np.savez(file, **arrays)
    else:
        np.save(file, draw(ARRAYS))
    return file.getvalue()


@st.composite
def checkpoint(draw: Draw, data: bytes, outside: Path) -> bytes:
    """Return a damaged checkpoint: damaged bytes, or damaged contents under a matching digest."""
    how = draw(st.sampled_from(["bytes", "sealed", "values", "values", "values"]))
    if how == "bytes":
        return draw(bent(data))
    inner = data.partition(b"\n")[2]
    if how == "sealed":
        return seal(draw(bent(inner)))
    return resealed(data, lambda kept: _placed(draw(altered(kept, PLAIN | TENSORS)), outside))


def resealed(data: bytes, change: Callable[[Any], Any]) -> bytes:
    """Return a checkpoint with changed values and a matching digest."""
    kept = torch.load(io.BytesIO(data.partition(b"\n")[2]), weights_only=True)
    file = io.BytesIO()
    torch.save(change(kept), file)
    return seal(file.getvalue())


def _placed(value: Any, outside: Path) -> Any:
    """Return a value in which every `{outside}` is replaced by the path of the outside folder."""
    if isinstance(value, str):
        return value.replace("{outside}", str(outside))
    if isinstance(value, dict):
        return {_placed(k, outside): _placed(v, outside) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_placed(v, outside) for v in value)
    return value


def seal(data: bytes) -> bytes:
    """Return the bytes below a header line with their digest."""
    digest = hashlib.sha256(data).hexdigest()
    return f"deltacheck checkpoint {checksummed.FORMAT} {digest}\n".encode() + data


CELLS = st.sampled_from(
    ["", "0", "1", "-1.5", "1e400", "-1e308", "5e-324", "nan", "inf", "?", "a", "b", '"', '"a,b"',
     '""', "a\nb", '"a\nb"', " 3 ", "0x10", "1_000", "é", "\x1b[2J", "\u202e", "\u0661"]
)  # fmt: skip


@st.composite
def table(draw: Draw, data: bytes) -> bytes:
    """Return a damaged CSV: damaged bytes, damaged cells, or random text or cells."""
    how = draw(st.sampled_from(["bytes", "cells", "any", "text"]))
    if how == "bytes":
        return draw(bent(data))
    if how == "text":
        return draw(st.text(max_size=300)).encode("utf-8", "surrogatepass")
    if how == "any":
        rows = draw(st.lists(st.lists(CELLS, max_size=4), max_size=15))
    else:
        rows = [line.split(",") for line in data.decode().splitlines()]
        for _ in range(draw(st.integers(1, 4))):
            row = draw(st.sampled_from(rows))
            if row:
                row[draw(st.integers(0, len(row) - 1))] = draw(CELLS)
            if not draw(st.integers(0, 3)):
                row.append(draw(CELLS))
    comma, end = draw(st.sampled_from([",", ",", ";", "\t"])), draw(st.sampled_from("\n\r"))
    return end.join(comma.join(row) for row in rows).encode()


def _device(path: Path) -> None:
    os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 5))  # /dev/zero: endless zeros


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as own, contextlib.chdir(path.parent):
        own.bind(path.name)


# The entries that may replace a file or a folder; `outside` has a folder of the same kind.
THINGS: dict[str, Callable[[Path, Path], object]] = {
    "nothing": lambda path, outside: None,
    "fifo": lambda path, outside: os.mkfifo(path),
    "socket": lambda path, outside: _socket(path),
    "device": lambda path, outside: _device(path),
    "folder": lambda path, outside: path.mkdir(),
    "full folder": lambda path, outside: (path / "one").mkdir(parents=True),
    "file": lambda path, outside: path.write_bytes(b"something else"),
    "link to a file outside": lambda path, outside: path.symlink_to(outside / "thesis.txt"),
    "link to a folder outside": lambda path, outside: path.symlink_to(outside / "folder"),
    "link to its own like outside": lambda path, outside: path.symlink_to(outside / path.name),
    "link to nothing": lambda path, outside: path.symlink_to(outside / "new"),
    "link to itself": lambda path, outside: path.symlink_to(path),
    "link to zeros": lambda path, outside: path.symlink_to("/dev/zero"),
    "link to memory": lambda path, outside: path.symlink_to("/proc/self/mem"),
    "link to up": lambda path, outside: path.symlink_to(".."),
    "link to a fifo": lambda path, outside: path.symlink_to(outside / "fifo"),
}


def replace(path: Path, thing: str, outside: Path) -> None:
    """Replace a file or folder by the entry that THINGS names."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()
    THINGS[thing](path, outside)


Seen = dict[str, tuple[int, int, bytes]]


def seen(top: Path) -> Seen:
    """Return the name, mode, size and content or link target of each entry below a folder."""
    found: Seen = {}

    def look(folder: str, within: str) -> None:
        with os.scandir(folder) as entries:
            for entry in entries:
                name, state = within + entry.name, entry.stat(follow_symlinks=False)
                size, content = state.st_size, b""
                if entry.is_dir(follow_symlinks=False):
                    size = 0
                    look(entry.path, f"{name}/")
                elif entry.is_symlink():
                    content = os.fsencode(os.readlink(entry.path))
                elif stat.S_ISREG(state.st_mode):
                    with open(entry.path, "rb", buffering=0) as file:
                        content = hashlib.sha256(file.read()).digest()
                found[name] = state.st_mode, size, content

    look(str(top), "")
    return found


@contextlib.contextmanager
def roomy(more: int) -> Iterator[None]:
    """Limit the memory that the block may add, so that reading endless zeros fails."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    usual = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + more, usual[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, usual)


class TooLongError(BaseException):
    """Raised when a command does not end; a BaseException, so that no handler catches it."""


@contextlib.contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raise TooLongError if the block takes longer, also while it waits for a file."""

    def over(_number: int, _frame: FrameType | None) -> None:
        raise TooLongError

    usual = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, usual)


def wrong_end(top: Path, own: str, *words: str, codes: Collection[int] = (0, 1, 2)) -> str | None:
    """Run a command in `top`; return a description of its first misbehaviour, or None.

    The command must end in time with one of the exit `codes`. With exit code 2 it must print one
    line with the reason. It must print no control characters. It may change only the folder `own`,
    and nothing at all if it refuses.
    """
    before, started = seen(top), time.monotonic()
    with contextlib.ExitStack() as stack:
        out, err = (
            stack.enter_context(tempfile.TemporaryFile("w+", encoding="utf-8")) for _ in "oe"
        )
        stack.enter_context(contextlib.chdir(top))
        stack.enter_context(contextlib.redirect_stdout(out))
        stack.enter_context(contextlib.redirect_stderr(err))
        try:
            with limited(LIMIT), roomy(ROOM):
                code = main(words)
        except TooLongError:
            return f"no end within {time.monotonic() - started:.0f} s"
        texts = []
        for file in (out, err):
            file.flush()
            file.seek(0)
            texts.append(file.read())
    said, complaint = texts
    if code not in codes:
        return f"exit code {code}: {complaint or said}"
    if code == 2 and not re.fullmatch("compare: .+\n", complaint):
        return f"not one line: {complaint!r}"
    if code != 2 and complaint:
        return f"exit code {code}, and yet {complaint!r}"
    for sign in said + complaint:
        if sign != "\n" and not sign.isprintable():
            return f"{sign!r} goes to the terminal: {said + complaint!r}"
    refused = code == 2 and not said
    after = seen(top)
    for name in before.keys() | after.keys():
        if before.get(name) != after.get(name) and (
            refused or not (own and Path(name).is_relative_to(own))
        ):
            return f"exit code {code}, and {name} is not what it was: {complaint}"
    return None
