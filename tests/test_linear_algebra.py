"""Passes through LAPACK: textbook gradients pass, 1.5 times as large is WRONG; sound bounds.

The gradients of the decompositions are in Giles (2008), Murray (2016) and Walter and Lehmann (2018).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import flint
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import compare
from compare.proof import matrix_bounds, matrix_kernels
from compare.proof.balls import PRECISION, Balls
from compare.proof.bounds import Bound
from compare.proof.interpreter import Unsupported, lift
from compare.proof.matrix_kernels import MATRIX_KERNELS, matrix, measure_share
from compare.proof.rounding import bounds_for
from compare.proof.trace import trace
from tests.tenth import unless_chosen

L = torch.linalg
DTYPES = [torch.float64, torch.float32]
BATCH = [(), (2,)]


def normal(*shape: int) -> Tensor:
    rng = torch.Generator().manual_seed(sum(shape))
    return torch.randn(*shape, generator=rng, dtype=torch.float64)


def regular(*lead: int) -> Tensor:
    return normal(*lead, 3, 3) + 3 * torch.eye(3, dtype=torch.float64)


def definite(*lead: int) -> Tensor:
    root = regular(*lead)
    return root @ root.mT


def half_diagonal(a: Tensor) -> Tensor:
    """Return the lower triangle with half of the diagonal (Murray's Phi)."""
    return a.tril() - torch.diag_embed(a.diagonal(dim1=-2, dim2=-1)) / 2


def mirrored(a: Tensor) -> Tensor:
    """Return the lower triangle and its mirror image."""
    return a.tril() + a.tril(-1).mT


@dataclass(frozen=True)
class Case:
    """A function of a matrix and its gradient by hand, from grad_output, input and output."""

    name: str
    forward: Callable[[Tensor], Tensor]
    by_hand: Callable[[Tensor, Tensor, Tensor], Tensor]
    make: Callable[..., Tensor]


def _pinv(g: Tensor, x: Tensor, p: Tensor) -> Tensor:
    """Golub and Pereyra (1973)."""
    rows, columns = (torch.eye(size, dtype=x.dtype) for size in x.shape[-2:])
    first = -p.mT @ g @ p.mT
    second = (rows - x @ p) @ g.mT @ p @ p.mT
    return first + second + p.mT @ p @ g.mT @ (columns - p @ x)


def _exponential(g: Tensor, x: Tensor, _: Tensor) -> Tensor:
    size = x.shape[-1]
    upper, lower = torch.cat([x.mT, g], -1), torch.cat([torch.zeros_like(x), x.mT], -1)
    return L.matrix_exp(torch.cat([upper, lower], -2))[..., :size, size:]


def _vectors(g: Tensor, x: Tensor, v: Tensor) -> Tensor:
    w = L.eigvalsh(x)
    gaps = w[..., None, :] - w[..., :, None]
    gaps.diagonal(dim1=-2, dim2=-1).fill_(math.inf)
    return v @ (v.mT @ g / gaps) @ v.mT


def _qr_of(part: int) -> Callable[..., Tensor]:
    def gradient(g: Tensor, x: Tensor, _: Tensor) -> Tensor:
        q, r = L.qr(x)
        g_q, g_r = (g, torch.zeros_like(r)) if part == 0 else (torch.zeros_like(q), g)
        inner = r @ g_r.mT - g_q.mT @ q
        return L.solve(r, (g_q + q @ mirrored(inner)).mT).mT

    return gradient


def _left_vectors(g: Tensor, x: Tensor, u: Tensor) -> Tensor:
    """Return the gradient of U of a tall matrix, for U^T g = 0 on the diagonal too."""
    s, v = L.svdvals(x), L.svd(x, full_matrices=False)[2].mT
    gaps = s[..., None, :] ** 2 - s[..., :, None] ** 2
    gaps.diagonal(dim1=-2, dim2=-1).fill_(math.inf)
    inner = u.mT @ g / gaps
    outside = g - u @ (u.mT @ g)
    return (u @ ((inner + inner.mT) * s[..., None, :]) + outside / s[..., None, :]) @ v.mT


def _lu_packed(g: Tensor, x: Tensor, packed: Tensor) -> Tensor:
    p, lower, upper = L.lu(x)
    del packed
    g_lower, g_upper = g.tril(-1), g.triu()
    inner = (lower.mT @ g_lower).tril(-1) + (g_upper @ upper.mT).triu()
    left = L.solve_triangular(lower.mT, inner, upper=True)
    return p @ L.solve_triangular(upper.mT, left, upper=False, left=False)


def _solved(x: Tensor) -> Tensor:
    return L.solve(x, RIGHT.to(x.dtype))


def _fitted(x: Tensor) -> Tensor:
    return L.lstsq(x, TALL_RIGHT.to(x.dtype).expand(*x.shape[:-2], -1, -1), driver="gels").solution


def _fit_gradient(g: Tensor, x: Tensor, y: Tensor) -> Tensor:
    z = L.solve(x.mT @ x, g)
    return (TALL_RIGHT.to(x.dtype) - x @ y) @ z.mT - x @ z @ y.mT


RIGHT, TALL_RIGHT = normal(3, 2), normal(5, 2)
CASES = [
    Case("inverse", L.inv, lambda g, x, y: -y.mT @ g @ y.mT, regular),
    Case("solve", _solved, lambda g, x, y: -L.solve(x.mT, g) @ y.mT, regular),
    Case(
        "solve_triangular",
        lambda x: L.solve_triangular(x, RIGHT.to(x.dtype).expand(*x.shape[:-2], 3, 2), upper=True),
        lambda g, x, y: (-L.solve_triangular(x.triu().mT, g, upper=False) @ y.mT).triu(),
        regular,
    ),
    Case("det", L.det, lambda g, x, y: (g * y)[..., None, None] * L.inv(x).mT, regular),
    Case("logdet", torch.logdet, lambda g, x, y: g[..., None, None] * L.inv(x).mT, definite),
    Case(
        "slogdet",
        lambda x: L.slogdet(x)[1],
        lambda g, x, y: g[..., None, None] * L.solve(x.mT, torch.eye(3, dtype=x.dtype)),
        regular,
    ),
    Case(
        "cholesky",
        L.cholesky,
        lambda g, x, y: L.inv(y).mT @ mirrored(half_diagonal(y.mT @ g)) @ L.inv(y) / 2
        + L.inv(y).mT @ torch.diag_embed((y.mT @ g).diagonal(dim1=-2, dim2=-1)) @ L.inv(y) / 4,
        definite,
    ),
    Case("eigvalsh", L.eigvalsh, lambda g, x, y: _scaled(L.eigh(x)[1], g), definite),
    Case("eigenvectors", lambda x: L.eigh(x)[1], _vectors, definite),
    Case("singular values", L.svdvals, lambda g, x, y: _singular(x, g), lambda *b: normal(*b, 5, 3)),
    Case("nuclear norm", lambda x: L.matrix_norm(x, "nuc"), lambda g, x, y: _nuclear(x, g), regular),
    Case(
        "left singular vectors",
        lambda x: L.svd(x, full_matrices=False)[0],
        _left_vectors,
        lambda *b: normal(*b, 5, 3),
    ),
    Case("Q", lambda x: L.qr(x)[0], _qr_of(0), lambda *b: normal(*b, 5, 3)),
    Case("R", lambda x: L.qr(x)[1], _qr_of(1), lambda *b: normal(*b, 5, 3)),
    Case("LU", lambda x: L.lu_factor(x)[0], _lu_packed, regular),
    Case("exponential", L.matrix_exp, _exponential, regular),
    Case("pinv", L.pinv, _pinv, lambda *b: normal(*b, 5, 3)),
    Case("lstsq", _fitted, _fit_gradient, lambda *b: normal(*b, 5, 3)),
    Case(
        "log density",
        lambda x: -(L.solve_triangular(L.cholesky(x), RIGHT.to(x.dtype).expand(*x.shape[:-2], 3, 2), upper=False) ** 2).sum((-2, -1)),  # fmt: skip  # noqa: E501
        lambda g, x, y: g[..., None, None] * _solved(x) @ _solved(x).mT,
        definite,
    ),
]  # fmt: skip


def _scaled(v: Tensor, g: Tensor) -> Tensor:
    return (v * g[..., None, :]) @ v.mT


def _singular(x: Tensor, g: Tensor) -> Tensor:
    u, _, vh = L.svd(x, full_matrices=False)
    return (u * g[..., None, :]) @ vh


def _nuclear(x: Tensor, g: Tensor) -> Tensor:
    u, _, vh = L.svd(x)
    return g[..., None, None] * (u @ vh)


@pytest.mark.parametrize(
    ("case", "dtype", "lead"),
    [
        pytest.param(case, dtype, lead, id=name, marks=unless_chosen(name))
        for case in CASES
        for dtype in DTYPES
        for lead in BATCH
        for name in [f"{case.name}, {dtype}, {len(lead)}"]
    ],
)
def test_a_textbook_gradient(case: Case, dtype: torch.dtype, lead: tuple[int, ...]) -> None:
    inputs = {"x": case.make(*lead).to(dtype)}

    def backward(x: Tensor, grad_output: Tensor, output: Tensor) -> dict[str, Tensor]:
        return {"x": case.by_hand(grad_output, x, output)}

    def wrong(x: Tensor, grad_output: Tensor, output: Tensor) -> dict[str, Tensor]:
        return {"x": 1.5 * case.by_hand(grad_output, x, output)}

    right = compare.check(backward, lambda x: case.forward(x), inputs)
    assert right.verdict in ("EXACT", "ROUNDING"), right
    assert "bits only" not in str(right)
    assert compare.check(wrong, lambda x: case.forward(x), inputs).verdict == "WRONG"
