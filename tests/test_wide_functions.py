"""No function of a double-double leaves its error bound, wherever its argument is.

FLINT computes the function at numbers within the argument's error, to hundreds of bits.
"""

import math
from unittest import mock

import flint
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from compare.proof import wide_functions
from compare.proof.balls import FUNCTIONS
from compare.proof.double_double import two_sum
from compare.proof.wide_functions import apply
from tests.wide import exactly

VECTORISED = sorted(wide_functions._VECTORISED)
FROM_ZERO = {"log", "sqrt", "rsqrt"}
# zeros and poles of the functions, ends of tables, multiples of log 2 and pi / 2, and whole numbers
PLACES = [
    *(0.0, -0.0, 0.5, 1.0, -1.0, 2.0, -2.0, -3.0, 7.0, 8.0, 40.0, 64.0, -64.0, 1000.0),
    *(0.5 * k * math.pi for k in (-3, 1, 2, 8, 12_345, 2**20, 2**22 + 12_345)),
    *(k * math.log(2) for k in (-1022, -20, -1, 0.5, 1, 1.5, 1023, 1024)),
    *(math.sqrt(0.5), math.sqrt(2), 1 - math.sqrt(0.5), math.sqrt(2) - 1, 1.4616321449683623),
]


@st.composite
def numbers(draw: st.DrawFn) -> tuple[float, float, float]:
    """Draw the high part, the low part and the error of a number of any size, at a place or not."""
    high = draw(
        st.one_of(
            st.floats(-8, 8),
            st.floats(-700, 700),
            st.floats(allow_nan=False, allow_infinity=False),  # subnormal and huge ones too
            st.integers(-50, 50).map(float),
            st.floats(-1, 1).flatmap(lambda x: st.integers(-1074, 1023).map(lambda e: x * 2.0**e)),
        )
    )
    if draw(st.booleans()):
        size = draw(st.sampled_from([0.0, 2.0**-8, 2.0**-30, 2.0**-50, 2.0**-52]))
        place = draw(st.sampled_from(PLACES))
        high = place + (place or 1) * size * draw(st.floats(-1, 1))
    low = high * 2.0**-53 * draw(st.floats(-1, 1)) * draw(st.sampled_from([0, 1, 1, 2.0**-40]))
    high, low = (
        float(x) for x in two_sum(*(torch.tensor(x, dtype=torch.float64) for x in (high, low)))
    )
    share = draw(st.sampled_from([0.0, 0.0, 2.0**-100, 2.0**-60, 2.0**-20, 0.1, 0.6, 2.0]))
    error = draw(st.sampled_from([abs(high) * share, abs(high) * share, share]))
    return high, low, error


def tensors(rows: list[tuple[float, float, float]]) -> list[Tensor]:
    """Return high parts, low parts and errors."""
    return [torch.tensor(column, dtype=torch.float64) for column in zip(*rows, strict=True)]


def assert_within_the_bound(name: str, rows: list[tuple[float, float, float]]) -> None:
    """Compare at the ends of the argument's error and between."""
    high, low, error = tensors(rows)
    result, result_low, bound = apply(name, high, low, error)
    assert not (bound.isnan() | (bound < 0)).any()
    for share in (-1.0, -0.4, 0.0, 0.7, 1.0):
        exact = exactly(name, high, low, error, share)
        of = zip(exact, result.tolist(), result_low.tolist(), bound.tolist(), rows, strict=True)
        for ball, h, l, limit, row in of:
            if math.isinf(h) and limit == 0:
                assert ball == h, (name, row)
            elif limit < math.inf:
                with flint.ctx.workprec(1_200):
                    off = abs(ball - h - l)
                assert off.is_finite(), (name, row)
                assert not off > limit, (name, row, off, limit)


# a recurrence takes them above 0
SLOW_BELOW_0 = {name for name in FUNCTIONS if name.startswith("polygamma")}
NAMES = sorted(set(FUNCTIONS) - SLOW_BELOW_0)
SETTINGS = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}


@settings(max_examples=300, **SETTINGS)
@given(st.sampled_from(NAMES), st.lists(numbers(), min_size=1, max_size=8))
def test_no_function_leaves_its_bound(name: str, rows: list[tuple[float, float, float]]) -> None:
    assert_within_the_bound(name, rows)


@pytest.mark.long
@settings(max_examples=10_000, **SETTINGS)
@given(st.sampled_from(VECTORISED), st.lists(numbers(), min_size=1, max_size=8))
def test_no_function_leaves_its_bound_at_length(
    name: str, rows: list[tuple[float, float, float]]
) -> None:
    """The same for many more numbers."""
    assert_within_the_bound(name, rows)


@pytest.mark.parametrize("name", VECTORISED)
def test_many_numbers_stay_within_the_bound(name: str) -> None:
    """Ordinary ones, which are all computed together, with errors of several sizes."""
    generator = torch.Generator().manual_seed(2)
    high = torch.randn(400, generator=generator).double() * 3
    rows = []
    for i, x in enumerate(high.tolist()):
        x = abs(x) if name in FROM_ZERO else x
        x = math.expm1(-abs(x)) if name == "log1p" and i % 2 else x
        rows.append((x, x * 2.0**-54, [0.0, abs(x) * 2.0**-70, abs(x) * 2.0**-12][i % 3]))
    assert_within_the_bound(name, rows)


def ordinary(name: str, count: int = 2_000) -> tuple[Tensor, Tensor]:
    """Return numbers in the domain of a function, of sizes from 1e-20 to 20, and low parts."""
    generator = torch.Generator().manual_seed(3)
    high = torch.randn(count, generator=generator).double() * 5
    high[::5] *= 10.0 ** -(20 * torch.rand(high[::5].shape, generator=generator).double())
    if name in FROM_ZERO:
        high = high.abs()
    if name == "log1p":
        high = high.clamp_min(-0.99)
    if name in {"erf", "erfc"}:
        high = high.clamp(-6, 6)
    return high, high * 2.0**-54


@pytest.mark.parametrize("name", VECTORISED)
def test_ordinary_numbers_are_computed_together_and_to_100_bits(name: str) -> None:
    """None is left to FLINT, whose time would be 20 times as long."""
    high, low = ordinary(name)
    with mock.patch.object(wide_functions, "_by_flint", side_effect=AssertionError):
        result, _, bound = apply(name, high, low, torch.zeros_like(high))
    assert (bound <= result.abs() * 2.0**-100).all()


@pytest.mark.parametrize("name", FUNCTIONS)
def test_special_numbers_are_as_accurate(name: str) -> None:
    """Beside zeros, very small, large: to 95 bits, or else to the smallest number."""
    sizes = [1e-320, 1e-310, 1e-300, 1e-250, 1e-200, 1e10, 12_345.678, 1e15, 1e30, 1e300]
    x = torch.tensor([*PLACES, *sizes, *range(-745, -640, 7)], dtype=torch.float64)
    if name in SLOW_BELOW_0:
        x = x.clamp_min(-30)
    x = torch.cat([x, x * (1 + 2.0**-52), x])
    x, low = two_sum(x, x * 2.0**-53 * torch.linspace(-1, 1, len(x), dtype=torch.float64))
    assert_within_the_bound(name, list(zip(x.tolist(), low.tolist(), [0.0] * len(x), strict=True)))
    result, _, bound = apply(name, x, low, torch.zeros_like(x))
    known = bound.isfinite()
    assert (bound[known] <= (result[known].abs() * 2.0**-95).clamp_min(2.0**-1073)).all()
    for i in (~known).nonzero().flatten().tolist():
        (exact,) = exactly(name, x[i : i + 1], low[i : i + 1])
        assert not exact.is_finite() or abs(exact) > 2.0**1023, (x[i], exact)


INF, NAN, LEAST = math.inf, math.nan, 2.0**-1074


@pytest.mark.parametrize(
    ("name", "argument", "expected"),
    [
        ("exp", (-INF, 0, 0), (0, 0, 0)),
        ("exp", (INF, 0, 0), (INF, 0, 0)),
        ("exp", (-1e9, 0, 0), (0, 0, LEAST)),
        ("exp", (-1e9, 0, 1e8), (0, 0, LEAST)),
        ("exp", (-1e30, 0, 0), (0, 0, LEAST)),
        ("exp", (1e4, 0, 0), (INF, 0, INF)),
        ("exp", (-1e9, 0, INF), (NAN, NAN, INF)),
        ("expm1", (-1e9, 0, 0), (-1, 0, LEAST)),
        ("expm1", (-INF, 0, 0), (-1, 0, 0)),
        ("log", (0, 0, 0), (-INF, 0, 0)),
        ("log", (1, 0, 0), (0, 0, 0)),
        ("log", (INF, 0, 0), (INF, 0, 0)),
        ("log", (0, 0, LEAST), (NAN, NAN, INF)),
        ("log", (-1, 0, 0), (NAN, NAN, INF)),
        ("log1p", (-1, 0, 0), (-INF, 0, 0)),
        ("sqrt", (0, 0, 0), (0, 0, 0)),
        ("sqrt", (-1, 0, 0), (NAN, NAN, INF)),
        ("reciprocal", (0, 0, 0), (NAN, NAN, INF)),
        ("reciprocal", (-INF, 0, 0), (0, 0, 0)),
        ("tanh", (-INF, 0, 0), (-1, 0, 0)),
        ("tanh", (0, 0, 0), (0, 0, 0)),
        ("erfc", (INF, 0, 0), (0, 0, 0)),
        ("abs", (-INF, 0, 0), (INF, 0, 0)),
        ("abs", (-INF, NAN, 0), (INF, 0, 0)),
        ("abs", (-3, -(2.0**-60), 0), (3, 2.0**-60, 0)),
        ("abs", (0, 0, 0), (0, 0, 0)),
        *((name, (NAN, 0, 0), (NAN, NAN, INF)) for name in VECTORISED),
        *((name, (INF, 0, 1), (NAN, NAN, INF)) for name in VECTORISED),
        *((name, (1, 0, NAN), (NAN, NAN, INF)) for name in ("abs", "exp", "log", "rsqrt", "sinh")),
        *((name, (1, 0, INF), (NAN, NAN, INF)) for name in ("abs", "exp", "log", "rsqrt", "sinh")),
    ],
)
def test_special_values(
    name: str, argument: tuple[float, float, float], expected: tuple[float, float, float]
) -> None:
    """NaN stands for any number: where there is no bound the value says nothing."""
    result = [x.item() for x in apply(name, *tensors([argument]))]
    for value, wanted in zip(result, expected, strict=True):
        assert math.isnan(wanted) or value == wanted, result


@pytest.mark.parametrize("name", [*VECTORISED, "lgamma"])
def test_a_result_depends_on_its_number_alone(name: str) -> None:
    """Not on the number of elements, on those beside it, on their layout, or on earlier calls."""
    count = 2 * wide_functions._BLOCK + 77 if name != "lgamma" else 200
    high, low = ordinary(name, count)
    error = high.abs() * 2.0**-80
    whole = apply(name, high, low, error)
    some = torch.arange(0, count, 97)
    parts = apply(name, high[some], low[some], error[some])
    for at_once, alone in zip(whole, parts, strict=True):
        assert torch.equal(at_once[some], alone)
    square = [x[:64].reshape(8, 8).mT for x in (high, low, error)]
    for at_once, turned in zip(whole, apply(name, *square), strict=True):
        assert torch.equal(at_once[:64].reshape(8, 8).mT, turned)


def test_zeros_and_infinities_are_computed_once() -> None:
    """They recur, after relu or under a mask, and an exact 0 stays one."""
    x = torch.tensor([0.0, 0.5, -math.inf, 0.0, -math.inf] * 100).double()
    one_by_one = wide_functions._by_flint
    with mock.patch.object(wide_functions, "_by_flint", side_effect=one_by_one) as counted:
        result, _, error = apply("tanh", x, 0 * x.clamp_min(0), 0 * x.clamp_min(0))
    assert counted.call_count == 2
    assert result[:5].tolist() == [0, math.tanh(0.5), -1, 0, -1]
    assert error[:5].ne(0).tolist() == [False, True, False, False, False]


def test_no_number_is_no_result() -> None:
    empty = torch.empty(3, 0, dtype=torch.float64)
    assert [x.shape for x in apply("exp", empty, empty, empty)] == [empty.shape] * 3


def test_an_unknown_name_is_an_error() -> None:
    empty = torch.empty(0, dtype=torch.float64)
    with pytest.raises(KeyError, match="gamma"):
        apply("gamma", empty, empty, empty)
