"""Double-double arithmetic keeps its published bounds; FLINT computes the exact results."""

import flint
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from compare.proof import double_double as dd

_BITS = 5_000  # enough for the exact sum or product of any four floats
parts = st.floats(-(2.0**480), 2.0**480, allow_subnormal=False)


@st.composite
def double_doubles(draw: st.DrawFn) -> tuple[float, float]:
    """Draw a number whose low part is at most half an ulp of its high part."""
    high = draw(parts)
    low = high * 2.0**-53 * draw(st.floats(-1, 1)) * draw(st.sampled_from([0, 2.0**-30, 1]))
    number = dd.two_sum(*tensors(high, low))
    return float(number[0]), float(number[1])


def exact(*numbers: float) -> flint.arb:
    """Return the sum of floats without rounding."""
    return sum((flint.arb(number) for number in numbers), flint.arb(0))


def tensors(*numbers: float) -> list[torch.Tensor]:
    return [torch.tensor(number, dtype=torch.float64) for number in numbers]


def off(result: tuple[torch.Tensor, torch.Tensor], of: flint.arb) -> flint.arb:
    """Return the distance of a double-double from a number."""
    return abs(exact(*map(float, result)) - of)


@given(parts, parts)
def test_the_sum_and_the_product_of_two_floats_are_exact(a: float, b: float) -> None:
    with flint.ctx.workprec(_BITS):
        assert off(dd.two_sum(*tensors(a, b)), exact(a, b)) == 0
        larger, smaller = sorted((a, b), key=abs, reverse=True)
        assert off(dd.fast_two_sum(*tensors(larger, smaller)), exact(a, b)) == 0
        product = dd.two_product(*tensors(a, b))
        limit = dd.PRODUCT_UNDERFLOW if abs(product[0]) < 2.0**-969 else 0
        assert off(product, exact(a) * exact(b)) <= limit


@given(double_doubles(), double_doubles())
@example((1.0, 1.1e-16), (-1.0, 1.3e-19))  # the high parts cancel
def test_sums_and_products_keep_their_relative_bounds(
    a: tuple[float, float], b: tuple[float, float]
) -> None:
    with flint.ctx.workprec(_BITS):
        total, product = exact(*a, *b), exact(*a) * exact(*b)
        assert off(dd.add(*tensors(*a, *b)), total) <= abs(total) * dd.ADD_ERROR
        limit = abs(product) * dd.MULTIPLY_ERROR + dd.MULTIPLY_UNDERFLOW
        assert off(dd.multiply(*tensors(*a, *b)), product) <= limit
