"""Products of double-double matrices: the exact product lies within the bound of each element."""

import itertools
import math
from dataclasses import dataclass
from typing import Any

import flint
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from compare.proof import exact_products
from compare.proof.exact_products import product

Pair = tuple[Tensor, Tensor]

EXACT = 4_800  # bits from the largest product of two double-doubles down to the smallest
UNIT = 2.0**-53
SUPPRESSED = [HealthCheck.too_slow]  # on a busy machine


@dataclass(frozen=True)
class Style:
    """What kind of numbers a matrix holds.

    Attributes:
        numbers: "whole", "float32", "float64" or "double-double".
        exponents: Of the rows' sizes; the rows take turns.
        spread: By how many powers of 2 the numbers of a row may be smaller.
        full: Whether all have one sign and all bits set, so that sums are as large as they can be.
        zeros: The share of zeros.
    """

    numbers: str
    exponents: tuple[int, ...]
    spread: int
    full: bool
    zeros: float

    def draw(self, rng: np.random.Generator, rows: int, inner: int) -> Pair:
        """Return high and low parts, (rows, inner)."""
        shape = rows, inner
        x = rng.uniform(1, 2, shape) * rng.choice([-1, 1], shape)
        if self.full:
            x = np.full(shape, 2 - 2.0**-52)
        if self.numbers == "whole":
            x = np.rint(x * 0.99)  # 1 or 2
        elif self.numbers == "float32":
            x = np.clip(x, -2 + 2.0**-23, 2 - 2.0**-23).astype(np.float32).astype(float)
        size = np.resize(self.exponents, (rows, 1)) - rng.integers(0, self.spread + 1, shape)
        x = np.ldexp(x, np.minimum(size, 1022))  # less than the largest float64 number
        x[rng.uniform(size=shape) < self.zeros] = 0
        low = np.zeros(shape)
        if self.numbers == "double-double":
            low = x * 2.0**-54 * (1 if self.full else rng.uniform(-1, 1, shape))
        return torch.from_numpy(x), torch.from_numpy(low)


EXPONENTS = st.one_of(
    st.sampled_from([0, -30, 500, -500, -530, 1000, -1000, 1022, -1040, -1074]),
    st.integers(-1074, 1022),
)
STYLES = st.builds(
    Style,
    numbers=st.sampled_from(["whole", "float32", "float64", "double-double"]),
    exponents=st.lists(EXPONENTS, min_size=1, max_size=3).map(tuple),
    spread=st.sampled_from([0, 3, 40, 700, 2100]),
    full=st.booleans(),
    zeros=st.sampled_from([0.0, 0.0, 0.3, 1.0]),
)


@st.composite
def problems(draw: Any) -> tuple[Pair, Pair, int]:
    """Draw two factors, (m, k) and (k, n), and how many bits are wanted."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    m, n = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    inner = draw(st.one_of(st.integers(1, 12), st.integers(1, 300), st.sampled_from([1024, 2000])))
    a, b = draw(STYLES).draw(rng, m, inner), draw(STYLES).draw(rng, n, inner)
    if draw(st.booleans()):  # the terms cancel, more or less, but for the last one of an odd number
        half = inner // 2
        change = draw(st.sampled_from([0, 2.0**-10, 2.0**-25, 2.0**-40]))
        for x, y in zip(a, b, strict=True):
            x[:, half : 2 * half] = x[:, :half]
            y[:, half : 2 * half] = -y[:, :half]
        b[0][:, half : 2 * half] *= 1 - change
    bits = draw(st.sampled_from([100, 100, 60, 30, 106]))
    return a, transposed(b), bits


def exact(x: Pair) -> Any:
    """Return a double-double matrix as one of balls without radius."""
    high, low = (part.flatten().tolist() for part in x)
    numbers = [flint.arb(h) + flint.arb(l) for h, l in zip(high, low, strict=True)]
    return flint.arb_mat(x[0].shape[0], x[0].shape[1], numbers)


def assert_within_bounds(
    a: Pair, b: Pair, results: tuple[Tensor, Tensor, Tensor], bits: int = 100
) -> None:
    """Assert that no exact element is off by more than its bound, and the bound is as promised."""
    shape = (a[0].shape[0], b[0].shape[1])
    assert [part.shape for part in results] == [shape] * 3
    with flint.ctx.workprec(EXACT):
        values = (exact(a) * exact(b)).entries()
        largest = zip(
            a[0].abs().amax(1, keepdim=True).expand(shape).flatten().tolist(),
            b[0].abs().amax(0).expand(shape).flatten().tolist(),
            strict=True,
        )
        numbers = zip(*(part.flatten().tolist() for part in results), strict=True)
        for value, (r, c), (hi, lo, error) in zip(values, largest, numbers, strict=True):
            assert value.rad() == 0
            if math.isinf(error):
                # nothing is known; only where the product overflows, or comes near
                assert math.isfinite(hi)
                assert math.isfinite(lo)
                assert a[0].shape[1] * flint.arb(r) * c > 2.0**1020
                continue
            assert abs(lo) <= math.ulp(hi) / 2
            assert abs(value - hi - lo) <= flint.arb(error), (value, hi, lo, error)
            limit = abs(value) * UNIT**2 + flint.arb(r) * c * a[0].shape[1] * 2.0 ** (6 - bits)
            assert error <= limit * (1 + 2.0**-30) + (2.0**-1060 if r and c else 0)


@settings(deadline=None, max_examples=300, suppress_health_check=SUPPRESSED)
@given(problems())
def test_the_exact_product_is_within_the_bound(problem: tuple[Pair, Pair, int]) -> None:
    """For numbers of all sizes, zeros, sums that cancel and sums as large as they can be."""
    a, b, bits = problem
    assert_within_bounds(a, b, product(a, b, bits), bits)


@pytest.mark.long
@settings(deadline=None, max_examples=5_000, suppress_health_check=SUPPRESSED)
@given(problems())
def test_the_exact_product_is_within_the_bound_at_length(problem: tuple[Pair, Pair, int]) -> None:
    """The same for many more matrices."""
    a, b, bits = problem
    assert_within_bounds(a, b, product(a, b, bits), bits)


def stored(number: int, exponent: int) -> tuple[float, float]:
    """Return number * 2**exponent as high and low part, without the bits that have no room."""
    high = float(number)
    return math.ldexp(high, exponent), math.ldexp(float(number - int(high)), exponent)


def transposed(x: Pair) -> Pair:
    return x[0].mT, x[1].mT


def full_slices(rng: np.random.Generator, inner: int, width: int) -> Pair:
    """Return a row of numbers whose slices of this width are all near the largest possible."""
    digits = 2 ** (width - 1) - rng.integers(1, 40, (inner, 6))
    wholes = (sum(d << width * (5 - i) for i, d in enumerate(row)) for row in digits.tolist())
    pairs = [stored(whole, 3 - 6 * width) for whole in wholes]
    high, low = torch.tensor(pairs, dtype=torch.float64).mT[:, None]
    return high, low


@pytest.mark.parametrize("inner", [51, 102, 204, 409, 512, 1638])
def test_slices_as_large_as_they_can_be_are_multiplied_exactly(inner: int) -> None:
    """For each width that slices may have."""
    rng = np.random.default_rng(0)
    for width in range(15, 27):
        a, b = full_slices(rng, inner, width), transposed(full_slices(rng, inner, width))
        assert_within_bounds(a, b, product(a, b))


@pytest.mark.parametrize("below", [30, 60, 90, 970, 1020, 1080, 1150, 1900])
def test_what_is_left_of_numbers_far_below_their_rows_largest_is_counted(below: int) -> None:
    """They alone meet numbers that are not 0."""
    small, low = stored(3**66, 920 - 105 - below)
    high, rest = torch.tensor([[[2.0**920, small]], [[0.0, low]]], dtype=torch.float64)
    one = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
    a, b = (high, rest), (one, torch.zeros_like(one))
    for x, y in ((a, b), (transposed(b), transposed(a))):
        for bits in (30, 60, 100):
            assert_within_bounds(x, y, product(x, y, bits), bits)


@pytest.mark.parametrize("bits", [60, 100])
def test_the_rounding_of_small_terms_is_counted_where_large_ones_cancel(bits: int) -> None:
    zero = torch.zeros(1, 3, dtype=torch.float64)
    for first, second in itertools.product(range(40, 52), repeat=2):
        a = torch.tensor([[2.0, 2.0, math.ldexp(3**13, -first)]], dtype=torch.float64)
        b = torch.tensor([[2.0], [-2.0], [math.ldexp(3**28, -second)]], dtype=torch.float64)
        assert_within_bounds((a, zero), (b, zero.mT), product((a, zero), (b, zero.mT), bits), bits)


def normal(*shape: int, numbers: str = "double-double") -> Pair:
    """Return normally distributed numbers."""
    high = torch.randn(shape, dtype=torch.float64)
    if numbers == "float32":
        high = high.float().double()
    low = torch.zeros_like(high)
    return high, high * 2.0**-54 * torch.rand_like(high) if numbers == "double-double" else low


@pytest.mark.parametrize("inner", [1, 8, 100, 768, 2000])
def test_the_bound_is_small_beside_the_product_of_magnitudes(inner: int) -> None:
    """Measured 2**-110 to 2**-97 of it, and 2**-106 at most for float32 numbers."""
    torch.manual_seed(inner)
    for numbers, most in (
        ("float32", 2.0**-103),
        ("float64", 2.0**-95),
        ("double-double", 2.0**-95),
    ):
        a, b = normal(5, inner, numbers=numbers), normal(inner, 6, numbers=numbers)
        results = product(a, b)
        assert_within_bounds(a, b, results)
        assert (results[2] <= most * (a[0].abs() @ b[0].abs())).all()


class Counter(TorchDispatchMode):
    """Counts the float64 products of matrices."""

    products = 0

    def __torch_dispatch__(self, function: Any, _: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.products += "bmm" in function.name()
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("numbers", "bits", "products"),
    [("whole", 100, 1), ("float32", 100, 9), ("float32", 60, 6), ("double-double", 100, 15)],
)
def test_fewer_bits_take_fewer_products(numbers: str, bits: int, products: int) -> None:
    """As many float64 products are computed as have a share in the wanted bits."""
    style = Style(
        numbers, exponents=(0,), spread=0 if numbers == "whole" else 20, full=False, zeros=0
    )
    rng = np.random.default_rng(0)
    a, b = style.draw(rng, 20, 768), transposed(style.draw(rng, 30, 768))
    with Counter() as counter:
        product(a, b, bits)
    assert counter.products == products


@pytest.mark.parametrize("bits", [1, 100])
def test_what_is_unknown_is_so_in_its_rows_and_columns_alone(bits: int) -> None:
    a, b = normal(5, 7), normal(7, 6)
    a[0][1, 3], a[0][2, 0], b[0][4, 5] = torch.inf, torch.nan, -torch.inf
    a[1][3, 2] = torch.nan
    results = product(a, b, bits)
    unknown = torch.zeros(5, 6, dtype=torch.bool)
    unknown[1:4], unknown[:, 5] = True, True
    assert torch.equal(results[2] == torch.inf, unknown)
    assert all(part[unknown].isfinite().all() for part in results[:2])
    rows = [0, 4]
    assert_within_bounds(
        (a[0][rows], a[1][rows]),
        (b[0][:, :5], b[1][:, :5]),
        tuple(part[rows, :5] for part in results),  # type: ignore[arg-type]
        bits,
    )


def test_an_element_that_overflows_is_unknown_and_the_others_are_not() -> None:
    a = torch.tensor([[1e308, 1e308], [1e308, -1e308], [1e-308, 2e-308]], dtype=torch.float64)
    b = torch.tensor([[1.0, 10.0], [1.0, 10.0]], dtype=torch.float64)
    zero = torch.zeros_like
    results = product((a, zero(a)), (b, zero(b)))
    expected = torch.tensor([[True, True], [False, False], [False, False]])
    assert torch.equal(results[2] == torch.inf, expected)
    assert_within_bounds((a, zero(a)), (b, zero(b)), results)


def test_an_element_whose_bound_overflows_is_unknown() -> None:
    a = torch.tensor([[2.0**558, 1.1 * 2.0**513]], dtype=torch.float64)
    b = torch.tensor([[0.0], [2.0**510]], dtype=torch.float64)
    hi, lo, error = product((a, 0 * a), (b, 0 * b), bits=30)
    assert hi == 2.0**1023
    assert lo == 0
    assert error == torch.inf


def test_rows_and_columns_of_zeros_are_exact() -> None:
    a, b = normal(3, 4), normal(4, 5)
    for part in a:
        part[1] = 0
    for part in b:
        part[:, 2] = 0
    b[0][:, 3] *= 2.0**1000
    hi, lo, error = product(a, b)
    for part in (hi, lo, error):
        assert not part[1].any()
        assert not part[:, 2].any()
    assert error[0, 0] > 0


def test_leading_dimensions_are_matrices_of_their_own() -> None:
    torch.manual_seed(0)
    a, b = normal(2, 3, 4, 5), normal(2, 3, 5, 6)
    a[0][1, 0] *= 2.0**900
    together = product(a, b)
    for at in np.ndindex(2, 3):
        x, y = (a[0][at], a[1][at]), (b[0][at], b[1][at])
        hi, lo, error = (part[at] for part in together)
        assert_within_bounds(x, y, (hi, lo, error))
        # the bound depends on the number of slices, which all matrices share
        assert all(map(torch.equal, product(x, y)[:2], (hi, lo)))


@pytest.mark.parametrize("shape", [(3, 0, 4), (0, 5, 4), (3, 5, 0)])
def test_an_empty_sum_is_zero_and_an_empty_product_is_empty(shape: tuple[int, int, int]) -> None:
    m, k, n = shape
    for lead in ((), (2,), (0,)):
        for part in product(normal(*lead, m, k), normal(*lead, k, n)):
            assert torch.equal(part, torch.zeros(*lead, m, n, dtype=torch.float64))


@pytest.mark.parametrize(("panel", "block"), [(2, 5), (3, 40), (4, 10)])
def test_cutting_a_product_into_panels_and_blocks_changes_nothing(
    panel: int, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if some blocks have fewer slices than others."""
    torch.manual_seed(0)
    a, b = normal(3, 7, 5), normal(3, 5, 8)
    a[0][:, 2:4].round_()
    a[1][:, 2:4] = 0
    before = product(a, b)
    monkeypatch.setattr(exact_products, "_PANEL", panel)
    monkeypatch.setattr(exact_products, "_BLOCK_OF_CPU", block)
    after = product(a, b)
    for k in range(3):
        assert torch.equal(before[0][k], after[0][k])
        assert torch.equal(before[1][k], after[1][k])
        results = after[0][k], after[1][k], after[2][k]
        assert_within_bounds((a[0][k], a[1][k]), (b[0][k], b[1][k]), results)


def test_strides_do_not_matter() -> None:
    """Transposed factors, one with a low part of a single stored 0, as of float64 values."""
    torch.manual_seed(0)
    a, b = normal(6, 5), normal(7, 6)
    zero = torch.zeros((), dtype=torch.float64).expand(6, 7)
    found = product((a[0].mT, a[1].mT), (b[0].mT, zero))
    contiguous = (a[0].mT.contiguous(), a[1].mT.contiguous()), (b[0].mT.contiguous(), zero + 0)
    assert all(map(torch.equal, found, product(*contiguous)))


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_the_exact_product_is_within_the_bound_on_a_gpu() -> None:
    torch.manual_seed(0)
    a, b = normal(5, 2000), normal(2000, 6)
    on_gpu = product((a[0].cuda(), a[1].cuda()), (b[0].cuda(), b[1].cuda()))
    assert_within_bounds(a, b, tuple(part.cpu() for part in on_gpu))  # type: ignore[arg-type]
