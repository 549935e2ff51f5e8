"""Measurements that need a separate process: the CPU time of a command, the peak of memory.

`python -m compare.bench.subprocesses LABEL ROWS SIZE SIZE SIZE` measures the peak: it prints the
largest number of bytes that two steps of LABEL use, including weights and data, but not Python and
torch.
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
from compare.bench.timing import NotAvailable

_RESET, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")
_MMAP_THRESHOLD = -3  # M_MMAP_THRESHOLD of malloc.h
_STEPS = 2


def cpu(*arguments: str) -> float:
    """Return the CPU seconds, user and system, of `python -m compare` with these arguments."""
    return _seconds("-m", "compare", *arguments)


def _seconds(*arguments: str) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    _child(*arguments)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (after.ru_utime + after.ru_stime) - (before.ru_utime + before.ru_stime)


def outside(steps: int) -> float:
    """Return the CPU seconds of the default case with so many steps, minus those of torch's start.

    With 1,000 steps all curves of a run are written, and the steps themselves take little time;
    their time is not subtracted.
    """
    return default_case(steps) - torch_alone()


def default_case(steps: int | None = None) -> float:
    """Return the CPU seconds of a run of the default case; by default of all its steps."""
    with tempfile.TemporaryDirectory() as folder:
        return cpu("run", "--log-dir", folder, *(("--steps", str(steps)) if steps else ()))


def torch_alone() -> float:
    """Return the CPU seconds of torch's start: its import, and that of its first optimizer."""
    return _seconds("-c", "import torch; torch.optim.SGD([torch.zeros(1, requires_grad=True)])")


def peak(label: str, sizes: tuple[int, ...], rows: int) -> float:
    """Return the peak of memory in bytes of two steps of a workload, with weights and data."""
    if not (_STATUS.exists() and os.access(_RESET, os.W_OK)):
        raise NotAvailable("the peak of memory is read from Linux's /proc")
    return float(_child("-m", "compare.bench.subprocesses", label, str(rows), *map(str, sizes)))


def _child(*arguments: str) -> str:
    """Run Python with these arguments in a separate process; return its standard output."""
    root = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    done = subprocess.run(
        [sys.executable, *arguments],
        capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": path},
    )  # fmt: skip
    if done.returncode in (130, -2):
        raise KeyboardInterrupt
    if done.returncode:
        raise RuntimeError(f"python {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout


def _peak_here(label: str, sizes: tuple[int, ...], rows: int) -> int:
    """Run the steps in this process; return the peak in bytes.

    getrusage's ru_maxrss would include earlier peaks: that of drawing the weights, and that of the
    parent process. Therefore the peak is reset before the steps. And malloc is told to return freed
    memory to the system, so that the steps cannot reuse it unnoticed.
    """
    import torch

    from compare.bench import torch_steps
    from compare.bench.checked import checked_run

    ctypes.CDLL(None).mallopt(_MMAP_THRESHOLD, 1 << 16)
    before = _bytes("VmRSS")
    case = torch_steps.random_case(sizes, rows)
    take: Callable[[], object]
    if label == claims.CHECKED_STEPS:
        take = checked_run(case, _STEPS, dtype="float32")
    else:
        take = partial(
            torch_steps.PEERS[label](torch_steps.draw_problem(case, torch.float32)).take, _STEPS
        )
    _RESET.write_text("5")  # see proc(5)
    take()
    return _bytes("VmHWM") - before


def _bytes(field: str) -> int:
    """Return a field of /proc/self/status: VmRSS, memory now, or VmHWM, its peak since a reset."""
    lines = _STATUS.read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(field)).split()[1])


if __name__ == "__main__":
    label, rows, *sizes = sys.argv[1:]
    print(_peak_here(label, tuple(map(int, sizes)), int(rows)))
