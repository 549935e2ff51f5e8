"""How far off torch's elementary kernels are on this machine: `python -m compare.proof.kernels`.

The bounds allow each kernel a constant number of ulps (`bounds.KERNEL_ULPS`), or the half ulp of a
correct rounding (sqrt, reciprocal, abs, as IEEE 754 asks of the first two). Here each is held
against FLINT's balls, at points that cover its whole range, in tensors long enough for the vector
kernel and short enough for the scalar code of a vector's tail. Of half precision every fifth float
is tried: its kernels are others than those of float32 with a rounding after.
"""

import argparse
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import flint
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from compare.proof.balls import FUNCTIONS, PRECISION
from compare.proof.bounds import _KERNELS, _ROUNDED_ONCE, KERNEL_ULPS
from compare.proof.constants import significant_bits

DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
TAIL = 70  # every length up to this: more than two vectors of 512 bits of float32
# Where kernels change their method or lose digits, and their zeros.
_SPECIAL = (0.0, 0.25, 0.5, 0.6931471805599453, 1.0, 1.5707963267948966, 3.141592653589793, 9.0)
_POSITIVE = {"log", "sqrt", "rsqrt"}


@dataclass(frozen=True)
class Measured:
    """The largest error of a kernel in ulps, where it was seen, and what the bounds allow."""

    kernel: str
    dtype: torch.dtype
    ulps: float
    at: float
    allowed: float

    @property
    def exceeded(self) -> bool:
        """Whether the bounds' constant is too small here."""
        return not self.ulps <= self.allowed


def points(kernel: str, dtype: torch.dtype, count: int, seed: int) -> Tensor:
    """Draw points of a kernel's domain: log-uniform over all sizes, and where it bends."""
    chance = torch.Generator().manual_seed(seed)
    info = torch.finfo(dtype)
    drawn = torch.rand(3, count, generator=chance, dtype=torch.float64)
    exponents = torch.tensor([info.smallest_normal, info.max], dtype=torch.float64).log2()
    sizes = 2 ** (exponents[0] + (exponents[1] - exponents[0]) * drawn[0])
    # exp overflows or underflows within this, and tanh, sigmoid and erf are flat well before
    near = (2 * drawn[1] - 1) * -exponents[0] * 0.6931471805599453
    special = torch.tensor(_SPECIAL, dtype=torch.float64)
    close = special[torch.arange(count) % len(special)] * (1 + (drawn[2] - 0.5) * 2.0**-6)
    signs = torch.where(torch.arange(count) % 2 == 0, 1.0, -1.0).double()
    moderate = 8 * signs * drawn[2]
    subnormal = signs * drawn[1] * info.smallest_normal
    if info.bits == 16:
        bits = torch.arange(-(2**15) + seed % 5, 2**15, 5, dtype=torch.int32).to(torch.int16)
        return _domain(kernel, bits.view(dtype)[bits.view(dtype).isfinite()])
    parts = [sizes * signs, near, close * signs, moderate, subnormal, special, -special]
    return _domain(kernel, torch.cat(parts).to(dtype))


def _domain(kernel: str, x: Tensor) -> Tensor:
    """Return x, or of it what the kernel has real values at."""
    if kernel in _POSITIVE:
        return x.abs()
    return x[x.double() > -1] if kernel == "log1p" else x


def errors(kernel: str, x: Tensor, floats: Tensor) -> Tensor:
    """Return each error in ulps of the true value; 0 where that is no finite normal number.

    What underflows or overflows is no matter of ulps: the bounds treat it apart.
    """
    info = torch.finfo(x.dtype)
    digits = significant_bits(x.dtype)
    function = FUNCTIONS[kernel]
    found = []
    with flint.ctx.workprec(PRECISION + 1200):  # 1200: sin and cos of the largest float64
        for at, value in zip(x.tolist(), floats.tolist(), strict=True):
            truth = function(flint.arb(at))
            size = abs(truth)
            if not (truth.is_finite() and size > info.smallest_normal and size < info.max):
                found.append(0.0)
                continue
            if not math.isfinite(value):
                found.append(math.inf)
                continue
            mantissa, exponent = abs(truth.mid()).man_exp()
            ulp = flint.arb(2) ** (int(mantissa).bit_length() + int(exponent) - digits)
            found.append(float((abs(flint.arb(value) - truth) / ulp).mid()))
    return torch.tensor(found, dtype=torch.float64)


def measure(kernel: str, dtype: torch.dtype, count: int = 4000, seed: int = 1) -> Measured:
    """Measure one kernel: in one long tensor, and the same points in tensors of 1 to TAIL."""
    x = points(kernel, dtype, count, seed)
    run = _KERNELS[kernel]
    parts: list[Tensor] = []
    start = 0
    while start < len(x):
        size = len(parts) % TAIL + 1
        parts.append(run(x[start : start + size].clone()))
        start += size
    found = torch.maximum(errors(kernel, x, run(x)), errors(kernel, x, torch.cat(parts)))
    worst = int(found.argmax())
    allowed = 0.5 if kernel in _ROUNDED_ONCE else KERNEL_ULPS
    if kernel in ("erf", "erfc") and dtype.itemsize < 4:
        allowed = math.inf  # judged by its absolute error instead, see bounds.ERF_FLOAT32
    return Measured(kernel, dtype, float(found[worst]), float(x[worst]), allowed)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure every kernel, print the table; 1 if any is further off than the bounds allow."""
    parser = argparse.ArgumentParser(
        prog="python -m compare.proof.kernels", description=main.__doc__
    )
    parser.add_argument("--points", type=int, default=4000, help="points of each kind (4000)")
    parser.add_argument("--seed", type=int, default=1, help="which points are drawn (1)")
    given = parser.parse_args(arguments)
    console = Console()
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("kernel", "dtype", "largest error, ulps", "allowed", "at"):
        table.add_column(title, justify="left" if title in ("kernel", "dtype") else "right")
    exceeded = False
    for kernel in _KERNELS:
        for dtype in DTYPES:
            found = measure(kernel, dtype, given.points, given.seed)
            exceeded |= found.exceeded
            table.add_row(
                kernel, str(dtype).removeprefix("torch."), f"{found.ulps:.3f}",
                f"{found.allowed:g}", f"{found.at:.17g}", style="red" if found.exceeded else None,
            )  # fmt: skip
    console.print(table)
    console.print(f"  torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}")
    return int(exceeded)


if __name__ == "__main__":
    sys.exit(main())
