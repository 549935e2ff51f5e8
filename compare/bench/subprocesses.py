"""What has to be measured in a process of its own: a command's CPU time, the peak of memory.

`python -m compare.bench.subprocesses LABEL ROWS SIZE SIZE SIZE` is that process for the peak: it
prints how many bytes two steps of LABEL need at most, weights and data included, Python and torch
not.
"""

import ctypes
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from compare.bench import claims
from compare.bench.timing import NotHere

_RESET, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")
_MMAP_THRESHOLD = -3  # M_MMAP_THRESHOLD of malloc.h
_STEPS = 2


def cpu(*words: str) -> float:
    """Return the CPU seconds, user's and system's, of `python -m compare` with these words."""
    return _seconds("-m", "compare", *words)


def _seconds(*words: str) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    _child(*words)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (after.ru_utime + after.ru_stime) - (before.ru_utime + before.ru_stime)


def outside(steps: int) -> float:
    """Return the CPU seconds of the default case with so many steps, less those of torch's start.

    With 1,000 all the curves of any run are written, and the steps themselves hardly count; they
    are not taken off.
    """
    with tempfile.TemporaryDirectory() as folder:
        return cpu("run", "--log-dir", folder, "--steps", str(steps)) - torch_alone()


def torch_alone() -> float:
    """Return the CPU seconds of torch's own start: its import, and that of its first optimizer."""
    return _seconds("-c", "import torch; torch.optim.SGD([torch.zeros(1, requires_grad=True)])")


def peak(label: str, sizes: tuple[int, ...], rows: int) -> float:
    """Return how many bytes some steps of a work need, with their weights and data."""
    if not (_STATUS.exists() and os.access(_RESET, os.W_OK)):
        raise NotHere("the peak of memory is read from Linux's /proc")
    return float(_child("-m", "compare.bench.subprocesses", label, str(rows), *map(str, sizes)))


def _child(*words: str) -> str:
    """Run Python with these words in a process of its own; return what it prints."""
    root = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    done = subprocess.run(
        [sys.executable, *words],
        capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": path},
    )  # fmt: skip
    if done.returncode in (130, -2):
        raise KeyboardInterrupt
    if done.returncode:
        raise RuntimeError(f"python {' '.join(words)}: {done.stderr.strip()}")
    return done.stdout


def _peak_here(label: str, sizes: tuple[int, ...], rows: int) -> int:
    """Take the steps here; return the bytes.

    getrusage's ru_maxrss alone would not do: drawing the weights, and the process that started this
    one, have had peaks of their own. So the peak is set back before the steps; and what is freed
    goes back to the system, so that the steps do not find room there.
    """
    import torch

    from compare.bench import peers
    from compare.bench.checked import checked_run

    ctypes.CDLL(None).mallopt(_MMAP_THRESHOLD, 1 << 16)
    before = _bytes("VmRSS")
    case = peers.random_case(sizes, rows)
    take: Callable[[], object]
    if label == claims.CHECKED_STEPS:
        take = checked_run(case, _STEPS, dtype="float32")
    else:
        take = partial(peers.PEERS[label](peers.problem(case, torch.float32)).take, _STEPS)
    _RESET.write_text("5")  # see proc(5)
    take()
    return _bytes("VmHWM") - before


def _bytes(what: str) -> int:
    """Return what is in memory, VmRSS, or the most that was since the last reset, VmHWM."""
    lines = _STATUS.read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(what)).split()[1])


if __name__ == "__main__":
    label, rows, *sizes = sys.argv[1:]
    print(_peak_here(label, tuple(map(int, sizes)), int(rows)))
