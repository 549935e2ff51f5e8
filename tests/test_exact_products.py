"""Matrix products of double-double numbers, beside FLINT's of the same numbers."""

import flint
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from compare.proof.exact_products import product

Matrix = tuple[Tensor, Tensor]
_PRECISION = 4_400  # bits: holds every sum of products of float64 numbers


def _flint(matrix: Matrix) -> flint.arb_mat:
    high, low = (part.flatten().tolist() for part in matrix)
    numbers = [flint.arb(h) + flint.arb(x) for h, x in zip(high, low, strict=True)]
    rows, columns = matrix[0].shape
    return flint.arb_mat(rows, columns, numbers)


def _check(a: Matrix, b: Matrix) -> Tensor:
    """Return the product's error bounds, after comparing each element with FLINT's."""
    hi, lo, error = product(a, b)
    with flint.ctx.workprec(_PRECISION):
        exact = (_flint(a) * _flint(b)).entries()
        found = zip(*(part.flatten().tolist() for part in (hi, lo, error)), exact, strict=True)
        for high, low, bound, ball in found:
            assert abs(ball - high - low) <= bound, (high, low, bound)
    assert bool((lo.abs() <= 2.0**-52 * hi.abs()).all())
    return error


def _matrix(rng: torch.Generator, rows: int, columns: int, kind: str) -> Matrix:
    high = torch.randn(rows, columns, generator=rng, dtype=torch.float64)
    scales = {"large": (1e140, 1e150), "tiny": (1e-300, 1e-160), "mixed": (1e-120, 1e130)}
    if kind == "float32":
        high = high.float().double()
    if kind in scales:
        least, most = scales[kind]
        exponents = torch.rand(rows, columns, generator=rng, dtype=torch.float64)
        high = high * least * (most / least) ** exponents
    if kind == "zeros":
        high = high * (torch.rand(rows, columns, generator=rng) < 0.3)
    low = torch.zeros_like(high)
    if kind == "double":
        low = (
            high * (torch.rand(rows, columns, generator=rng, dtype=torch.float64) - 0.5) * 2.0**-53
        )
    return high, low


_KINDS = ["float32", "float64", "double", "zeros", "large", "tiny", "mixed"]


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    shape=st.tuples(st.integers(1, 4), st.sampled_from([1, 2, 3, 17, 128]), st.integers(1, 4)),
    kinds=st.tuples(st.sampled_from(_KINDS), st.sampled_from(_KINDS)),
)
def test_the_error_bound_holds(seed: int, shape: tuple[int, int, int], kinds: list[str]) -> None:
    rng = torch.Generator().manual_seed(seed)
    rows, inner, columns = shape
    _check(_matrix(rng, rows, inner, kinds[0]), _matrix(rng, inner, columns, kinds[1]))


@pytest.mark.parametrize("kind", ["float32", "float64", "double"])
@pytest.mark.parametrize("inner", [1, 5, 300, 2000])
def test_the_error_bound_is_narrow(kind: str, inner: int) -> None:
    rng = torch.Generator().manual_seed(inner)
    a, b = _matrix(rng, 3, inner, kind), _matrix(rng, inner, 3, kind)
    error = _check(a, b)
    assert bool((error <= 2.0**-95 * (a[0].abs() @ b[0].abs())).all())


def test_sums_that_cancel() -> None:
    a = torch.tensor([[1e30, 1.0, -1e30]], dtype=torch.float64)
    b = torch.ones(3, 1, dtype=torch.float64)
    zeros = torch.zeros_like(a), torch.zeros_like(b)
    error = _check((a, zeros[0]), (b, zeros[1]))
    assert float(error.max()) <= 1e30 * 2.0**-98


@pytest.mark.parametrize("bad", [torch.inf, torch.nan])
def test_what_is_not_finite_leaves_other_rows_alone(bad: float) -> None:
    a, b = torch.eye(3, dtype=torch.float64), torch.full((3, 2), 2.0, dtype=torch.float64)
    a[1, 1] = bad
    hi, _, error = product((a, torch.zeros_like(a)), (b, torch.zeros_like(b)))
    assert error.isinf().tolist() == [[False] * 2, [True] * 2, [False] * 2]
    assert hi[0].tolist() == [2.0, 2.0]


def test_an_overflow_has_no_bound() -> None:
    a = torch.full((1, 2), 1e300, dtype=torch.float64)
    _, _, error = product((a, a * 0), (a.mT, a.mT * 0))
    assert error.isinf().all()


def test_leading_dimensions_and_none_to_add() -> None:
    rng = torch.Generator().manual_seed(0)
    a, b = (torch.randn(2, 3, 4, 4, generator=rng, dtype=torch.float64) for _ in range(2))
    hi, _, _ = product((a, a * 0), (b, b * 0))
    torch.testing.assert_close(hi, a @ b)
    empty = torch.zeros(2, 0, dtype=torch.float64)
    hi, _, error = product((empty, empty), (empty.mT, empty.mT))
    assert not hi.any()
    assert not error.any()
