"""Measures the errors of torch's elementary kernels here: `python -m compare.proof.kernels`.

The bounds allow most kernels `bounds.KERNEL_ULPS`, the half ulp of a correct rounding to some
(reciprocal, as IEEE 754 requires, and abs), and more to others. Here each kernel's error from
FLINT's balls is compared with its bound, at points that cover its whole domain, in tensors long
enough for the vector kernel and in tensors short enough for the scalar code of a vector's tail. In
half precision every fifth float is tried: its kernels are not those of float32 followed by a
rounding.
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
from compare.proof.bounds import _KERNELS, Bounds
from compare.proof.constants import significant_bits

DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
TAIL = 70  # tensors of every length up to this: more than two 512-bit vectors of float32
# Points where kernels switch their algorithm or lose digits, and their zeros.
_SPECIAL = (0.0, 0.25, 0.5, 0.6931471805599453, 1.0, 1.5707963267948966, 3.141592653589793, 9.0)
# The open interval in which a kernel has real values; the bounds know digamma and its kin only
# above 0, and their expansions at infinity take arb ever longer.
_DOMAINS = {
    **dict.fromkeys(("log", "sqrt", "rsqrt"), (0.0, math.inf)),
    **dict.fromkeys(("lgamma", "digamma", *(f"polygamma{k}" for k in range(1, 6))), (0.0, 1e6)),
    **dict.fromkeys(("asin", "acos", "atanh", "erfinv"), (-1.0, 1.0)),
    "acosh": (1.0, math.inf),
    "log1p": (-1.0, math.inf),
}


@dataclass(frozen=True)
class Measured:
    """The largest measured error of a kernel in one dtype, and the error that the bounds allow."""

    kernel: str
    dtype: torch.dtype
    ulps: float  # the largest error
    at: float  # the point with that error
    allowed: float  # in ulps

    @property
    def exceeded(self) -> bool:
        """Whether the kernel's error is larger than the bounds allow."""
        return not self.ulps <= self.allowed


def points(kernel: str, dtype: torch.dtype, count: int, seed: int) -> Tensor:
    """Draw points of a kernel's domain.

    They are log-uniform over all magnitudes, plus points near zeros and changes of algorithm.

    Args:
        kernel: The name of the elementary function.
        dtype: The dtype of the points.
        count: How many points of each kind to draw; half precision has a fixed set instead.
        seed: The seed of the random points.
    """
    rng = torch.Generator().manual_seed(seed)
    info = torch.finfo(dtype)
    uniform = torch.rand(3, count, generator=rng, dtype=torch.float64)
    exponents = torch.tensor([info.smallest_normal, info.max], dtype=torch.float64).log2()
    sizes = 2 ** (exponents[0] + (exponents[1] - exponents[0]) * uniform[0])
    # exp overflows or underflows within this range; tanh, sigmoid and erf are constant well before
    near = (2 * uniform[1] - 1) * -exponents[0] * 0.6931471805599453
    special = torch.tensor(_SPECIAL, dtype=torch.float64)
    close = special[torch.arange(count) % len(special)] * (1 + (uniform[2] - 0.5) * 2.0**-6)
    signs = torch.where(torch.arange(count) % 2 == 0, 1.0, -1.0).double()
    moderate = 8 * signs * uniform[2]
    subnormal = signs * uniform[1] * info.smallest_normal
    if info.bits == 16:
        bits = torch.arange(-(2**15) + seed % 5, 2**15, 5, dtype=torch.int32).to(torch.int16)
        return _domain(kernel, bits.view(dtype)[bits.view(dtype).isfinite()])
    parts = [sizes * signs, near, close * signs, moderate, subnormal, special, -special]
    return _domain(kernel, torch.cat(parts).to(dtype))


def _domain(kernel: str, x: Tensor) -> Tensor:
    """Return the points in the kernel's domain, and those whose negative lies in it."""
    low, high = _DOMAINS.get(kernel, (-math.inf, math.inf))
    both = torch.cat([x, -x]) if low >= 0 else x
    return both[(both.double() > low) & (both.double() < high)]


def errors(kernel: str, x: Tensor, floats: Tensor) -> Tensor:
    """Return a kernel's error at each point, in ulps of the exact value.

    It is 0 where the exact value is not a finite normal number: the bounds treat underflow and
    overflow separately.

    Args:
        kernel: The name of the elementary function.
        x: The points, (n,).
        floats: The kernel's results at these points, (n,).
    """
    info = torch.finfo(x.dtype)
    digits = significant_bits(x.dtype)
    function = FUNCTIONS[kernel]
    ulps = []
    with flint.ctx.workprec(PRECISION + 1200):  # 1200 bits for sin and cos of the largest float64
        for at, value in zip(x.tolist(), floats.tolist(), strict=True):
            exact = function(flint.arb(at))
            size = abs(exact)
            if not (exact.is_finite() and size > info.smallest_normal and size < info.max):
                ulps.append(0.0)
                continue
            if not math.isfinite(value):
                ulps.append(math.inf)
                continue
            mantissa, exponent = abs(exact.mid()).man_exp()
            ulp = flint.arb(2) ** (int(mantissa).bit_length() + int(exponent) - digits)
            ulps.append(float((abs(flint.arb(value) - exact) / ulp).mid()))
    return torch.tensor(ulps, dtype=torch.float64)


def measure(kernel: str, dtype: torch.dtype, count: int = 4000, seed: int = 1) -> Measured:
    """Measure a kernel in one long tensor, and at the same points in tensors of 1 to TAIL elements.

    `count` and `seed` are those of `points`.
    """
    x = points(kernel, dtype, count, seed)
    run = _KERNELS[kernel]
    parts: list[Tensor] = []
    start = 0
    while start < len(x):
        size = len(parts) % TAIL + 1
        parts.append(run(x[start : start + size].clone()))
        start += size
    ulps = torch.maximum(errors(kernel, x, run(x)), errors(kernel, x, torch.cat(parts)))
    allowed = _allowed(kernel, x)
    worst = int((ulps / allowed).nan_to_num(0.0, math.inf).argmax())
    return Measured(kernel, dtype, float(ulps[worst]), float(x[worst]), float(allowed[worst]))


def _allowed(kernel: str, x: Tensor) -> Tensor:
    """Return the error that the bounds allow at each point, in ulps of the value."""
    bounds = Bounds()
    bounds.dtype = x.dtype
    bound = bounds.function(kernel, bounds.exact(x))
    exponent = torch.frexp(bound.value.nan_to_num(0.0, 1.0, 1.0)).exponent - 1
    ulp = torch.finfo(x.dtype).eps * 2.0 ** exponent.double()
    return bound.error / ulp


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure the error of every kernel; exit with 1 if one is larger than the bounds allow."""
    parser = argparse.ArgumentParser(
        prog="python -m compare.proof.kernels", description=main.__doc__
    )
    parser.add_argument(
        "--points", type=int, default=4000, help="number of points of each kind (4000)"
    )
    parser.add_argument("--seed", type=int, default=1, help="seed of the random points (1)")
    options = parser.parse_args(arguments)
    console = Console()
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("kernel", "dtype", "largest error, ulps", "allowed", "at"):
        table.add_column(title, justify="left" if title in ("kernel", "dtype") else "right")
    exceeded = False
    for kernel in _KERNELS:
        for dtype in DTYPES:
            try:
                measured = measure(kernel, dtype, options.points, options.seed)
            except NotImplementedError:  # torch has no such kernel in half precision
                continue
            exceeded |= measured.exceeded
            table.add_row(
                kernel, str(dtype).removeprefix("torch."), f"{measured.ulps:.3f}",
                f"{measured.allowed:g}", f"{measured.at:.17g}",
                style="red" if measured.exceeded else None,
            )  # fmt: skip
    console.print(table)
    console.print(f"  torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}")
    return int(exceeded)


if __name__ == "__main__":
    sys.exit(main())
