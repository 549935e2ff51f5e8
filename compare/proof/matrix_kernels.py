"""Measures LAPACK's errors against their bounds: `python -m compare.proof.matrix_kernels`.

The matrices are random, of known condition number. Each was divided by 3, so that it carries an
error too.
"""

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import flint
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from compare.proof.balls import PRECISION, Balls
from compare.proof.interpreter import lift
from compare.proof.rounding import bounds_for
from compare.proof.trace import trace

_L = torch.linalg
_aten = torch.ops.aten


def _last_pivots(a: Tensor) -> Tensor:
    """Return pivots with which elimination exchanges every row with the last."""
    return torch.full((len(a),), len(a), dtype=torch.int32)


#: Name, kind of matrix (see `matrix`), and kernel: a function of a matrix and a right-hand side.
MATRIX_KERNELS: dict[str, tuple[str, Callable[[Tensor, Tensor], Any]]] = {
    "inv": ("square", lambda a, _: _L.inv(a)),
    "solve": ("square", lambda a, b: _L.solve(a, b)),
    "solve from the right": ("square", lambda a, b: _L.solve(a, b.mT, left=False)),
    "lu_solve": ("square", lambda a, b: _L.lu_solve(*_L.lu_factor(a), b)),
    "lu_solve of given factors": ("triangular", lambda a, b: _L.lu_solve(a, _last_pivots(a), b)),
    "solve_triangular": ("triangular", lambda a, b: _L.solve_triangular(a, b, upper=False)),
    "cholesky_solve": ("triangular", lambda a, b: torch.cholesky_solve(b, a)),
    "cholesky_inverse": ("triangular", lambda a, _: torch.cholesky_inverse(a)),
    "det": ("square", lambda a, _: _L.det(a)),
    "slogdet": ("square", lambda a, _: _L.slogdet(a)[1]),
    "lu": ("square", lambda a, _: _L.lu(a)[1:]),
    "lu of a tall matrix": ("tall", lambda a, _: _L.lu(a)[1:]),
    "lu of a wide matrix": ("tall", lambda a, _: _L.lu(a.mT)[1:]),
    "cholesky": ("definite", lambda a, _: _L.cholesky(a)),
    "qr": ("tall", lambda a, _: _L.qr(a)),
    "qr of a wide matrix": ("tall", lambda a, _: _L.qr(a.mT)),
    "eigh": ("definite", lambda a, _: _L.eigh(a)),
    "eigvalsh": ("definite", lambda a, _: _L.eigvalsh(a)),
    "svd": ("tall", lambda a, _: _L.svd(a, full_matrices=False)),
    "svdvals": ("square", lambda a, _: _L.svdvals(a)),
    "matrix_exp": ("square", lambda a, _: _L.matrix_exp(a)),
    "lstsq": ("tall", lambda a, b: _L.lstsq(a, b, driver="gels").solution),
    "pinv": ("tall", lambda a, _: _L.pinv(a)),
    "householder_product": ("tall", lambda a, b: _L.householder_product(a, b[: a.shape[1], 0])),
}


def matrix(kind: str, size: int, condition: float, seed: int) -> Tensor:
    """Draw a float64 matrix whose singular values go from 1 to 1 / condition.

    Args:
        kind: "square"; "tall", (size + 2, size); "definite"; "triangular", the Cholesky factor of
            a definite matrix.
        size: The number of columns.
        condition: The condition number; that of the definite matrix for "triangular".
        seed: The seed of the random orthogonal factors.
    """
    rng = torch.Generator().manual_seed(seed)
    rows = size + 2 if kind == "tall" else size
    left, right = (
        _L.qr(torch.randn(count, size, generator=rng, dtype=torch.float64))[0]
        for count in (rows, size)
    )
    # unevenly spaced, so that no two are close
    places = torch.linspace(0, 1, size, dtype=torch.float64) if size > 1 else torch.zeros(1)
    values = condition ** -(places.double())
    if kind in ("square", "tall"):
        drawn: Tensor = left * values @ right.mT
        return drawn
    definite = right * values @ right.mT
    definite = (definite + definite.mT) / 2
    factor: Tensor = _L.cholesky(definite)
    return factor if kind == "triangular" else definite


@dataclass(frozen=True)
class MeasuredShare:
    """The largest error of a kernel as a share of its bound.

    Attributes:
        kernel: The name in MATRIX_KERNELS.
        dtype: The dtype of the matrix.
        share: The largest error divided by its bound, over all elements that have one.
        bounded: The share of the elements that have a bound.
    """

    kernel: str
    dtype: torch.dtype
    share: float
    bounded: float


def measure_share(
    kernel: str,
    dtype: torch.dtype,
    size: int,
    condition: float,
    seed: int,
    rounded_to: torch.dtype | None = None,
) -> MeasuredShare:
    """Measure a kernel at one random matrix.

    Args:
        kernel: The name in MATRIX_KERNELS.
        dtype: The dtype of the matrix.
        size: See `matrix`, as for `condition` and `seed`.
        condition: The condition number.
        seed: The seed of the random numbers.
        rounded_to: A narrower dtype to which the matrix is rounded first, so that the error that it
            carries is far larger than the kernel's.
    """
    kind, function = MATRIX_KERNELS[kernel]
    a = matrix(kind, size, condition, seed).to(dtype)
    b = matrix("square", a.shape[0], 1.0, seed + 1)[:, :2].to(dtype)

    def run(a: Tensor, b: Tensor) -> dict[str, Tensor]:
        a = a / 3
        out = function(a if rounded_to is None else a.to(rounded_to).to(dtype), b / 7)
        return {str(k): part for k, part in enumerate([out] if isinstance(out, Tensor) else out)}

    inputs = {"a": a, "b": b}
    program = trace(run, inputs)
    exact, bounds = lift(program, Balls(), inputs), lift(program, bounds_for(program, [a]), inputs)
    share, count, bounded = 0.0, 0, 0
    with flint.ctx.workprec(PRECISION):
        for name, value in exact.items():
            errors = [
                float((abs(flint.arb(float(x)) - ball)).upper())
                for x, ball in zip(value.floats.flatten(), value.numbers.ravel(), strict=True)
            ]
            limits = bounds[name].numbers.error.flatten()
            known = limits.isfinite()
            off = torch.tensor(errors, dtype=torch.float64)
            shares = torch.where(off == 0, 0.0, off / limits)[known]
            share = max([share, *shares.nan_to_num(torch.inf).tolist()])
            count, bounded = count + len(limits), bounded + int(known.sum())
    return MeasuredShare(kernel, dtype, share, bounded / count)


def measured_shares(seed: int = 1) -> Iterator[MeasuredShare]:
    """Measure each kernel at several sizes and condition numbers; yield the worst of each dtype."""
    for kernel in MATRIX_KERNELS:
        for dtype in (torch.float64, torch.float32):
            each = [
                measure_share(kernel, dtype, size, condition, seed + size)
                for size in (1, 2, 3, 6, 20)
                for condition in (2.0, 30.0, 1e3)
            ]
            bounded = sum(one.bounded for one in each) / len(each)
            yield MeasuredShare(kernel, dtype, max(one.share for one in each), bounded)


def main() -> int:
    """Print each kernel's largest error as a share of its bound; exit with 1 if one exceeds it."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("kernel", "dtype", "largest share of the bound", "elements with a bound"):
        table.add_column(title, justify="left" if title in ("kernel", "dtype") else "right")
    exceeded = False
    for one in measured_shares():
        outside = not one.share <= 1
        exceeded |= outside
        table.add_row(
            one.kernel, str(one.dtype).removeprefix("torch."), f"{one.share:.3f}",
            f"{one.bounded:.0%}", style="red" if outside else None,
        )  # fmt: skip
    Console().print(table)
    return int(exceeded)


if __name__ == "__main__":
    sys.exit(main())
