"""Many checks or runs in one process increase neither its memory nor its open files."""

import contextlib
import ctypes
import gc
import io
import itertools
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

import compare
from compare.cli.main import main

MIB = 2**20
FLAT = 4 * MIB  # growth that the allocator may cause in the second half of the calls


def memory() -> int:
    """Return the resident memory of this process in bytes, after a garbage collection and trim."""
    gc.unfreeze()
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE")


def files() -> int:
    return len(os.listdir("/proc/self/fd"))


def growth(once: Callable[[int], None], times: int) -> tuple[int, int]:
    """Return the growth of memory and of open files in the second half of `times` calls.

    Memory is twice the smaller growth of the third and the fourth quarter: a leak shows in both, a
    block that the allocator keeps once in one alone.
    """
    seen = []
    for n in range(times):
        once(n)
        if n in (times // 2, 3 * times // 4, times - 1):
            seen.append((memory(), files()))
    first, second = (after[0] - before[0] for before, after in itertools.pairwise(seen))
    return 2 * min(first, second), seen[-1][1] - seen[0][1]


def forward(x: Tensor, w: Tensor) -> Tensor:
    h = compare.name(torch.tanh(compare.name(x @ w, "z")), "h")
    return (h * h).sum() / 2


def right(grad_output: Tensor, x: Tensor, w: Tensor, h: Tensor) -> dict[str, Tensor]:
    dh = grad_output * h
    dz = dh * (1 - h * h)
    return {"h": dh, "z": dz, "x": dz @ w.mT, "w": x.mT @ dz}


def wrong(grad_output: Tensor, x: Tensor, w: Tensor, h: Tensor) -> dict[str, Tensor]:
    dh = grad_output * h
    dz = dh * (1 - h)
    return {"h": dh, "z": dz, "x": dz @ w.mT, "w": x.mT @ dz}


def raising(grad_output: Tensor, x: Tensor, w: Tensor, h: Tensor) -> dict[str, Tensor]:
    raise ZeroDivisionError


KINDS = (
    (right, ("EXACT", "ROUNDING"), 5, "auto"),
    (wrong, ("WRONG",), 5, "auto"),
    (raising, (), 5, "auto"),
    (right, ("EXACT", "UNDECIDED"), 20_000, "none"),
)


@pytest.mark.long
def test_200_checks() -> None:
    """The checks alternate between right passes, wrong ones, ones that raise, and large inputs."""

    def check(n: int) -> None:
        backward, verdict, rows, lift = KINDS[n % 4]
        inputs = {"x": torch.randn(rows, 4), "w": torch.randn(4, 3)}
        if not verdict:
            with pytest.raises(ZeroDivisionError):
                compare.check(backward, forward, inputs, lift=lift)
        else:
            report = compare.check(backward, forward, inputs, lift=lift)
            assert report.verdict in verdict

    grown, opened = growth(check, 200)
    assert opened == 0
    assert grown < FLAT, f"{grown / MIB:.1f} MiB"


@pytest.mark.long
def test_50_runs(tmp_path: Path) -> None:
    """The runs write run folders: networks of each kind, a wrong one, and one that is refused."""
    cases = "three_layer", "digits", "everything", "dropout_as_published", "mini_batches --data no"

    def run(n: int) -> None:
        words = f"run {cases[n % 5]} --steps 20 --quiet --log-dir {tmp_path} --json {tmp_path}/out"
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            assert main(words.split()) in ((2,) if n % 5 == 4 else (0, 1))

    grown, opened = growth(run, 50)
    assert opened == 0
    assert grown < FLAT, f"{grown / MIB:.1f} MiB"
