"""Passes through LAPACK: textbook gradients pass, 1.5 times as large is WRONG; sound bounds.

The gradients of the decompositions are in Giles (2008), Murray (2016) and Walter and
Lehmann (2018).
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
from compare.proof.matrix_kernels import MATRIX_KERNELS, MeasuredShare, matrix, measure_share
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


def tall(*lead: int) -> Tensor:
    return normal(*lead, 5, 3)


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


def _cholesky(g: Tensor, x: Tensor, lower: Tensor) -> Tensor:
    inverse, inner = L.inv(lower), half_diagonal(lower.mT @ g)
    return inverse.mT @ (inner + inner.mT) @ inverse / 2


def _vectors(g: Tensor, x: Tensor, v: Tensor) -> Tensor:
    w = L.eigvalsh(x)
    gaps = w[..., None, :] - w[..., :, None]
    gaps.diagonal(dim1=-2, dim2=-1).fill_(math.inf)
    gradient = v @ (v.mT @ g / gaps) @ v.mT
    return (gradient + gradient.mT) / 2  # autograd's choice: only symmetric changes of x count


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


def _whitened(lower: Tensor) -> Tensor:
    right = RIGHT.to(lower.dtype).expand(*lower.shape[:-2], -1, -1)
    return L.solve_triangular(lower, right, upper=False)


def _nuclear_norm(x: Tensor) -> Tensor:
    return L.matrix_norm(x, "nuc")


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
        lambda x: _whitened(x),
        lambda g, x, y: (-L.solve_triangular(x.tril().mT, g, upper=True) @ y.mT).tril(),
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
    Case("cholesky", L.cholesky, _cholesky, definite),
    Case("eigvalsh", L.eigvalsh, lambda g, x, y: _scaled(L.eigh(x)[1], g), definite),
    Case("eigenvectors", lambda x: L.eigh(x)[1], _vectors, definite),
    Case("singular values", L.svdvals, lambda g, x, y: _singular(x, g), tall),
    Case("nuclear norm", _nuclear_norm, lambda g, x, y: _nuclear(x, g), regular),
    Case(
        "left singular vectors",
        lambda x: L.svd(x, full_matrices=False)[0],
        _left_vectors,
        tall,
    ),
    Case("Q", lambda x: L.qr(x)[0], _qr_of(0), tall),
    Case("R", lambda x: L.qr(x)[1], _qr_of(1), tall),
    Case("LU", lambda x: L.lu_factor(x)[0], _lu_packed, regular),
    Case("exponential", L.matrix_exp, _exponential, regular),
    Case("pinv", L.pinv, _pinv, tall),
    Case("lstsq", _fitted, _fit_gradient, tall),
    Case(
        "log density",
        lambda x: -(_whitened(L.cholesky(x)) ** 2).sum((-2, -1)),
        lambda g, x, y: g[..., None, None] * _solved(x) @ _solved(x).mT,
        definite,
    ),
]


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


EACH_KERNEL = [pytest.param(name, marks=unless_chosen(name)) for name in MATRIX_KERNELS]


@pytest.mark.parametrize("kernel", EACH_KERNEL)
@settings(max_examples=15, deadline=None)
@given(
    size=st.integers(1, 6),
    condition=st.sampled_from([1.5, 10.0, 1e3, 1e5, 1e8]),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 1000),
    narrow=st.booleans(),
)
def test_no_error_is_larger_than_its_bound(
    kernel: str, size: int, condition: float, dtype: torch.dtype, seed: int, narrow: bool
) -> None:
    """A matrix that was rounded to float16 carries an error far larger than the kernel's."""
    if narrow:
        condition = min(condition, 10.0)
    if dtype == torch.float32:  # beyond, pinv takes the matrix for rank deficient
        condition = min(condition, 1e5)
    narrower = torch.float16 if narrow else None
    measured = measure_share(kernel, dtype, size, condition, seed, narrower)
    assert measured.share <= 1
    if condition <= 1e3 and not narrow:
        assert measured.bounded > 0.5


@pytest.mark.parametrize("kernel", EACH_KERNEL)
def test_the_error_of_a_matrix_is_propagated(kernel: str) -> None:
    """The exact matrix lies at a corner of the error of the float one, which alone is computed."""
    kind, function = MATRIX_KERNELS[kernel]
    a, b = matrix(kind, 3, 5.0, 1), normal(5 if kind == "tall" else 3, 2)
    signs = (normal(*a.shape) + (normal(*a.shape).mT if kind == "definite" else 0)).sign()
    error = 2.0**-10 * a.abs()

    def run(a: Tensor, b: Tensor) -> dict[str, Tensor]:
        out = function(a, b)
        return {str(k): part for k, part in enumerate([out] if isinstance(out, Tensor) else out)}

    inputs = {"a": a, "b": b}
    program = trace(run, inputs)
    balls, bounds = Balls(), bounds_for(program, [a])
    exact = lift(program, balls, inputs, {"a": balls.exact(a + error * signs)})
    bounded = lift(program, bounds, inputs, {"a": Bound(bounds, a, error)})
    for name, value in exact.items():
        middle = [float(ball.mid()) for ball in value.numbers.ravel()]
        off = (torch.tensor(middle, dtype=torch.float64) - value.floats.flatten()).abs()
        assert (off <= bounded[name].numbers.error.flatten()).all()
        assert (off > 2.0**-20).any()


@pytest.mark.parametrize("kernel", EACH_KERNEL)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_bound_is_not_absurd(kernel: str, dtype: torch.dtype) -> None:
    """At a well-conditioned matrix the largest error is at least a ten-thousandth of its bound."""
    shares = [measure_share(kernel, dtype, 5, 5.0, seed).share for seed in range(3)]
    assert max(shares) > 1e-4


@pytest.mark.parametrize("kernel", ["inv", "slogdet", "lu", "cholesky", "qr", "svd", "pinv"])
def test_a_bound_that_is_too_small_is_seen(kernel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = matrix_bounds._bound

    def too_small(n: Any, value: Tensor, error: Tensor) -> Bound:
        bound = whole(n, value, error)
        return Bound(bound.arithmetic, bound.value, bound.error / 1e4)

    monkeypatch.setattr(matrix_bounds, "_bound", too_small)
    assert max(measure_share(kernel, torch.float32, 5, 5.0, seed).share for seed in range(3)) > 1


@pytest.mark.parametrize(
    ("kernel", "dtype"),
    [
        pytest.param(kernel, dtype, marks=unless_chosen(f"{kernel} {dtype}"))
        for kernel in ("inv", "solve", "solve_triangular", "lu", "cholesky", "qr", "eigh", "svd")
        for dtype in DTYPES
    ],
)
def test_the_theorems_hold_without_the_residual(
    kernel: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another library's right kernel has another residual, and must lie within the bound."""
    solve = matrix_bounds.solve
    monkeypatch.setattr(matrix_bounds, "solve", lambda n, a, b, found: solve(n, a, b))
    monkeypatch.setattr(matrix_bounds, "_error_of", lambda a, backward, _: a.error + backward)
    for size in (1, 2, 5, 30):
        assert measure_share(kernel, dtype, size, 30.0, size).share <= 0.5


@pytest.mark.parametrize("share", [0.5, 1.5, math.nan])
def test_a_kernel_outside_its_bound_fails_the_command(
    share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = [MeasuredShare("inv", torch.float64, share, 1.0)]
    monkeypatch.setattr(matrix_kernels, "measured_shares", lambda: measured)
    assert matrix_kernels.main() == (0 if share <= 1 else 1)


def _bounds_of(function: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Any, Any]:
    """Return the exact value of a function and its rounding bound."""
    program = trace(lambda x: {"y": function(x)}, {"x": x})
    exact = lift(program, Balls(), {"x": x})["y"].numbers
    return exact, lift(program, bounds_for(program, [x]), {"x": x})["y"].numbers


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", [2, 6, 30])
@pytest.mark.parametrize(
    ("function", "numpys"),
    [
        (L.inv, np.linalg.inv),
        (L.cholesky, np.linalg.cholesky),
        (L.eigvalsh, np.linalg.eigvalsh),
        (lambda x: L.solve(x, x[:, :2] + 1), lambda x: np.linalg.solve(x, x[:, :2] + 1)),
        (L.pinv, np.linalg.pinv),
    ],
    ids=["inv", "cholesky", "eigvalsh", "solve", "pinv"],
)
def test_numpys_kernel_lies_within_the_bound(
    function: Callable[[Tensor], Tensor], numpys: Callable[..., Any], size: int, dtype: torch.dtype
) -> None:
    x = matrix("definite", size, 50.0, size).to(dtype)
    exact, bound = _bounds_of(function, x)
    theirs = torch.from_numpy(numpys(x.numpy())).flatten().tolist()
    with flint.ctx.workprec(PRECISION):
        errors = [float(abs(a - b).mid()) for a, b in zip(theirs, exact.ravel(), strict=True)]
    assert (torch.tensor(errors, dtype=torch.float64) <= bound.error.flatten()).all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_wrong_coefficient_of_matrix_exp_is_in_its_bound(dtype: torch.dtype) -> None:
    """In torch 2.13 the exponential of one small rotation is off by far more than rounding."""
    angle = 0.5 if dtype == torch.float32 else 0.04
    x = torch.tensor([[0.0, -angle], [angle, 0.0]], dtype=dtype)
    exact, bound = _bounds_of(L.matrix_exp, x)
    cosine, sine = math.cos(x[1, 0]), math.sin(x[1, 0])
    right = torch.tensor([[cosine, -sine], [sine, cosine]], dtype=torch.float64)
    assert [float(ball.mid()) for ball in exact.ravel()] == pytest.approx(
        right.flatten(), abs=1e-15
    )
    assert ((L.matrix_exp(x) - right).abs() <= bound.error + 1e-15).all()


@pytest.mark.parametrize("function", [torch.ops.aten._linalg_det, torch.ops.aten._linalg_slogdet])
@pytest.mark.parametrize("contiguous", [True, False])
def test_det_returns_the_factors_of_the_transpose_of_a_contiguous_matrix(
    function: Callable[[Tensor], tuple[Tensor, ...]], contiguous: bool
) -> None:
    """The row relies on it; the factors of the other matrix would make a right gradient WRONG."""
    x = regular() if contiguous else regular().mT
    *_, packed, pivots = function(x)
    permutation, lower, upper = torch.lu_unpack(packed, pivots)
    expected = x.mT if contiguous else x
    torch.testing.assert_close(permutation @ lower @ upper, expected)


EQUAL = torch.diag(torch.tensor([1.0, 1.0, 2.0], dtype=torch.float64))


@pytest.mark.parametrize(
    ("function", "x", "text"),
    [
        (L.eigvalsh, EQUAL, "two of its eigenvalues are too close to tell apart"),
        (L.svdvals, EQUAL, "two of its singular values are too close to tell apart"),
        (L.pinv, torch.ones(3, 3, dtype=torch.float64), "its matrix is rank deficient"),
        (L.inv, normal(128, 128), "2,097,152 multiplications, and at most 2,000,000"),
        (lambda x: L.cholesky_ex(x)[0], -EQUAL, "its matrix is not positive definite"),
    ],
    ids=["eigenvalues", "singular values", "pinv", "large", "indefinite"],
)
def test_what_cannot_be_computed_exactly_says_why(
    function: Callable[[Tensor], Tensor], x: Tensor, text: str
) -> None:
    exact, _ = _bounds_of(function, x)
    assert isinstance(exact, Unsupported)
    assert text in str(exact)


def test_a_gradient_at_equal_eigenvalues_is_undecided() -> None:
    def wrong(x: Tensor, grad_output: Tensor) -> dict[str, Tensor]:
        return {"x": 1.5 * _scaled(L.eigh(x)[1], grad_output)}

    report = compare.check(wrong, lambda x: L.eigvalsh(x), {"x": EQUAL})
    assert report.verdict == "UNDECIDED", report
    assert "two of its eigenvalues are too close to tell apart" in str(report)


@pytest.mark.parametrize(
    ("function", "shape"),
    [(lambda x: L.svd(x)[0], (4, 2)), (lambda x: L.qr(x, mode="complete")[0], (4, 2))],
    ids=["svd", "qr"],
)
def test_columns_that_are_not_unique_have_no_exact_value(
    function: Callable[[Tensor], Tensor], shape: tuple[int, int]
) -> None:
    exact, _ = _bounds_of(function, normal(*shape))
    finite = np.vectorize(lambda ball: ball.is_finite())(exact)
    assert finite[:, :2].all()
    assert not finite[:, 2:].any()


@pytest.mark.parametrize("function", [L.inv, L.det, lambda x: L.slogdet(x)[1], L.matrix_exp])
def test_a_batch_of_no_matrix_has_an_exact_value(function: Callable[[Tensor], Tensor]) -> None:
    x = torch.zeros(0, 3, 3, dtype=torch.float64)
    exact, bound = _bounds_of(function, x)
    value = function(x)
    assert tuple(exact.shape) == tuple(bound.shape) == tuple(value.shape)


@pytest.mark.parametrize("function", [L.det, lambda x: L.inv_ex(x)[0], lambda x: L.qr(x)[0]])
def test_a_singular_matrix_has_no_bound(function: Callable[[Tensor], Tensor]) -> None:
    _, bound = _bounds_of(function, torch.ones(3, 3, dtype=torch.float64))
    assert not bound.error.isfinite().any()
