"""Elementary functions of double-double numbers, each result with a bound on its error.

`apply` serves every function that balls have (compare/proof/balls.py). For those of most use it
reduces the argument, looks the rest up in a table of Taylor polynomials
(compare/proof/taylor_tables.py) and undoes the reduction, or takes one step of Newton's method, on
whole tensors. What is not computed to within 2**-98 of the result in this way is left to FLINT, one
element after the other: other functions, arguments outside of the tables or with a large error,
special values, results that underflow.

An argument's error is multiplied by the largest derivative within it. The bounds count the
roundings of float64 in units of u = 2**-53.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import flint
import torch
from torch import Tensor

from compare.proof.balls import FUNCTIONS, PRECISION
from compare.proof.double_double import (
    ADD_ERROR,
    UNIT,
    add,
    fast_two_sum,
    multiply,
    two_product,
    two_sum,
)
from compare.proof.taylor_tables import SLACK, UNDERFLOW, table, upper

# A result whose own error is larger than this share of it is left to FLINT.
_LOOSE = 2.0**-98
_LEAST = 2.0**-1074  # the smallest float64: an error of this is small even so
# So many numbers are computed at a time: their intermediate results stay in the cache.
_BLOCK = 32_768
# Precision beyond that of balls: a double-double beside a zero of the function has 106 bits.
_MORE_BITS = 100
_FACTOR_BITS = 20  # of a whole number times a constant that an argument is reduced by


@dataclass(frozen=True)
class _Result:
    """A function's value, the error of its computation and the error due to the argument's."""

    high: Tensor
    low: Tensor
    own: Tensor  # infinite or NaN where it is not known
    inherited: Tensor


@torch.no_grad()
def apply(name: str, hi: Tensor, lo: Tensor, error: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return an elementary function of every real number within `error` of hi + lo.

    Args:
        name: The function, one of compare.proof.balls.FUNCTIONS.
        hi: The numbers rounded to float64, of any shape. An infinity of error 0 is meant exactly.
        lo: What this rounding left, at most half an ulp of hi; shape and device as those of hi.
        error: How far the argument may be from hi + lo, at least 0; shape and device likewise.

    Returns:
        hi, lo and error of the results: |hi + lo - f(x)| <= error. The error is infinite where the
        function has no value, or none that float64 reaches. An infinity of error 0 is exact.

    Raises:
        KeyError: There is no function of that name.
    """
    FUNCTIONS[name]  # a name without a function is an error, also if there is no number
    argument = [x.reshape(-1) for x in (hi, lo, error)]
    result = [torch.empty_like(x) for x in argument]
    size = _BLOCK if hi.device.type == "cpu" else max(1, hi.numel())
    for start in range(0, hi.numel(), size):
        here = slice(start, start + size)
        for out, values in zip(result, _block(name, *(x[here] for x in argument)), strict=True):
            out[here] = values
    high, low, bound = (x.reshape(hi.shape) for x in result)
    return high, low, bound


def _block(name: str, hi: Tensor, lo: Tensor, error: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return what `apply` returns, for a vector of numbers."""
    if name in _VECTORISED:
        of = _VECTORISED[name](hi, lo, error)
        columns = of.high, of.low, (of.own + of.inherited).mul_(SLACK)
        left = ~(of.own <= of.high.abs().mul_(_LOOSE).clamp_min_(_LEAST))  # also where it is NaN
    else:
        columns = torch.empty_like(hi), torch.empty_like(hi), torch.empty_like(hi)
        left = torch.ones_like(hi, dtype=torch.bool)
    for point in (0.0, math.inf, -math.inf) if bool(left.any()) else ():  # these recur
        at = left & (hi == point) & (error == 0)
        if bool(at.any()):
            for column, value in zip(columns, _by_flint(name, point, 0.0, 0.0), strict=True):
                column.masked_fill_(at, value)
            left &= ~at
    if bool(left.any()):
        numbers = zip(hi[left].tolist(), lo[left].tolist(), error[left].tolist(), strict=True)
        computed = zip(*(_by_flint(name, *number) for number in numbers), strict=True)
        for column, values in zip(columns, computed, strict=True):
            column[left] = column.new_tensor(values)
    return columns


def _by_flint(name: str, hi: float, lo: float, error: float) -> tuple[float, float, float]:
    """Return what `apply` returns, for one number."""
    # the sine of a large number needs as many bits more as that number has
    with flint.ctx.workprec(PRECISION + _MORE_BITS + max(0, math.frexp(hi)[1])):
        if math.isinf(hi):
            return _floats(FUNCTIONS[name](flint.arb(hi if error == 0 else math.nan)))
        return _floats(FUNCTIONS[name](flint.arb(hi, error) + flint.arb(lo)))


def _floats(ball: Any) -> tuple[float, float, float]:
    """Return a ball as high part, low part and error."""
    high = float(ball)  # its middle, rounded
    if not ball.is_finite():
        return high, 0.0, 0.0 if ball == flint.arb(high) else math.inf
    if math.isinf(high):
        return high, 0.0, math.inf
    low = float(ball - high)
    return high, low, upper(ball - high - low)


def _tabled(name: str, symmetry: str, high: Tensor, low: Tensor, error: Tensor) -> _Result:
    """Return a function from its table, of magnitudes if it is even or odd."""
    if symmetry == "none":
        of = table(name).evaluate(high, low, error)
        return _Result(of.high, of.low, of.error, error * of.slope)
    sign = torch.copysign(torch.ones_like(high), high)
    of = table(name).evaluate(high * sign, low * sign, error)
    if symmetry == "odd":
        of.high.mul_(sign)
        of.low.mul_(sign)
    return _Result(of.high, of.low, of.error, error * of.slope)


def _exponential(subtracted: float, high: Tensor, low: Tensor, error: Tensor) -> _Result:
    """Return exp(x) or, if 1 is to be subtracted, expm1(x): 2**k (1 + expm1(x - k log 2))."""
    k = (high * (1 / math.log(2))).round().clamp(-1022, 1023).nan_to_num()
    rest, rest_low, off = _reduced(high, low, k, _parts("log 2"))
    of = table("expm1").evaluate(rest, rest_low, error + off)
    scale = _power_of_two(k.long())
    one = two_sum(scale, scale.new_tensor(-subtracted))
    total, total_low = add(of.high * scale, of.low * scale, *one)
    own = (of.error + off * of.slope) * scale + ADD_ERROR * total.abs() + UNDERFLOW
    inherited = error * of.slope * scale
    vanished = (high + error < _VANISHED) & high.isfinite()
    if bool(vanished.any()):  # as under a mask of -1e9
        total = total.masked_fill(vanished, -subtracted)
        total_low, inherited = (x.masked_fill(vanished, 0) for x in (total_low, inherited))
        own = own.masked_fill(vanished, _LEAST)
    return _Result(total, total_low, own, inherited)


_VANISHED = -800.0  # exp of this is 2**-1154


def _logarithm(added: float, high: Tensor, low: Tensor, error: Tensor) -> _Result:
    """Return log(x) or, if 1 is to be added, log1p(x): k log 2 + log1p(y 2**-k - 1)."""
    y, y_low = high, low
    if added:
        y, y_low = two_sum(high, high.new_tensor(added))
        y, y_low = fast_two_sum(y, y_low + low)
    # k such that y 2**-k is between the roots of 1/2 and 2, from the bits of y
    bits = y.view(torch.int64)
    k = (bits - _ROOT_OF_HALF) >> 52
    scale, multiple = _power_of_two(-k), k.double()
    near, near_low = y * scale - 1, y_low * scale
    off = torch.zeros_like(y)
    if added:
        unscaled = k == 0
        near = torch.where(unscaled, high, near)
        near_low = torch.where(unscaled, low, near_low)
        off = torch.where(unscaled, 0.0, 3 * UNIT**2)  # y_low + low was rounded
    inherited = error * scale
    of = table("log1p").evaluate(near, near_low, inherited + off)
    first, second, *rest = _parts("log 2")
    shift, shift_low = two_sum(multiple * first, multiple * second)
    shift, shift_low = fast_two_sum(shift, shift_low + multiple * sum(rest))
    total, total_low = add(of.high, of.low, shift, shift_low)
    # the shift's low part, below u k, was rounded
    own = of.error + off * of.slope + ADD_ERROR * total.abs() + multiple.abs() * UNIT**2
    normal = (y > 2.0**-1000) & (y < 2.0**1000)
    return _Result(total, total_low, torch.where(normal, own, torch.inf), inherited * of.slope)


_ROOT_OF_HALF = 0x3FE6A09E667F3BCD  # the bits of sqrt(1 / 2) as a float64


def _sine(quarters: int, high: Tensor, low: Tensor, error: Tensor) -> _Result:
    """Return sin(x) or, if it is a quarter of a turn ahead, cos(x)."""
    # x = (i - quarters / 2) pi + rest, and the result is (-1)**i sin(rest)
    i = (high * (1 / math.pi) + 0.5 * quarters).round()
    multiple = 2 * i - quarters
    rest, rest_low, off = _reduced(high, low, multiple, _parts("pi / 2"))
    off = torch.where(multiple.abs() <= 2.0**_FACTOR_BITS, off, torch.inf)
    of = _tabled("sin", "odd", rest, rest_low, error + off)
    sign = 1 - 2 * (i.long() & 1).double()
    return _Result(of.high * sign, of.low * sign, of.own + off, of.inherited)


def _reduced(
    high: Tensor, low: Tensor, k: Tensor, parts: tuple[float, ...]
) -> tuple[Tensor, Tensor, Tensor]:
    """Return high + low - k * constant, high and low part, and a bound on its error.

    The products of k, a whole number of at most _FACTOR_BITS bits, with all parts of the constant
    but the last are exact.
    """
    first, second, third, last = (-part * k for part in parts)
    zero = torch.zeros_like(k)
    one = add(high, low, first, zero)
    two = add(*one, second, zero)
    three = add(*two, *two_sum(third, last))
    off = one[0].abs().add_(two[0].abs()).add_(three[0].abs()).mul_(ADD_ERROR)
    # the last product is rounded, and the constant's parts are off by no more
    return *three, off.add_(k.abs().mul_(parts[-1] * 2 * UNIT))


@cache
def _parts(constant: str) -> tuple[float, ...]:
    """Return a constant as a sum of floats: three of 53 - _FACTOR_BITS bits, then a full one."""
    bits, parts = 53 - _FACTOR_BITS, []
    with flint.ctx.workprec(PRECISION):
        rest = {"log 2": flint.arb(2).log(), "pi / 2": flint.arb.pi() / 2}[constant]
        for _ in range(3):
            mantissa, exponent = math.frexp(float(rest))
            parts.append(math.ldexp(math.floor(mantissa * 2.0**bits), exponent - bits))
            rest = rest - parts[-1]
        return *parts, float(rest)


def _power_of_two(exponent: Tensor) -> Tensor:
    """Return 2.0**exponent for whole numbers from -1022 to 1023, exactly."""
    return ((exponent + 1023) << 52).view(torch.float64)


def _reciprocal(high: Tensor, low: Tensor, error: Tensor) -> _Result:
    """Return 1 / x = y / (1 - e), e = 1 - x y, to the first order in e."""
    y = 1 / high
    product, off = two_product(high, y)
    e = (1 - product) - off - low * y
    share = error * y.abs()
    inherited = share * y.abs() / (1 - share)
    return _newton(y, y * e, share, inherited, high)


def _square_root(high: Tensor, low: Tensor, error: Tensor) -> _Result:
    """Return sqrt(x) = sqrt(y y + e), e = x - y y, to the first order in e."""
    y = high.sqrt()
    square, off = two_product(y, y)
    e = (high - square) - off + low
    share = error / high
    return _newton(y, 0.5 * e / y, share, 0.5 * y * share * (1 + share), high)


def _inverse_root(high: Tensor, low: Tensor, error: Tensor) -> _Result:
    """Return 1 / sqrt(x) = y / sqrt(1 - e), e = 1 - x y y, to the second order in e."""
    y = high.rsqrt()
    product, off = multiply(*two_product(y, y), high, low)
    e = (1 - product) - off
    share = error / high
    inherited = 0.5 * y * share / (1 - share) ** 2
    return _newton(y, y * (e * (0.5 + 0.375 * e)), share, inherited, high)


def _newton(y: Tensor, step: Tensor, share: Tensor, inherited: Tensor, of: Tensor) -> _Result:
    """Return y + step, one step of Newton's method; `inherited` holds for a share up to 1 / 2.

    Not every kernel rounds quotients and roots correctly: they are taken to be off by up to an ulp,
    2 u, and an inverse root by two. So e is at most 3 u of its terms (reciprocal), 5 u (root) or
    9 u (its inverse). Counting the rounding of each operation, and the first term of the series
    that is left out, the results are off by at most 18 u^2, 13 u^2 and 22 u^2.
    """
    value, low = fast_two_sum(y, step)
    known = (of.abs() > 2.0**-900) & (of.abs() < 2.0**900) & (share <= 0.5)
    return _Result(
        value, low, torch.where(known, value.abs() * (24 * UNIT**2), torch.inf), inherited
    )


def _absolute(high: Tensor, low: Tensor, error: Tensor) -> _Result:
    """Return |x|, exactly; the own error is NaN where something is infinite or NaN."""
    sign = torch.copysign(torch.ones_like(high), high)
    return _Result(high * sign, low * sign, 0 * high + 0 * error, error)


_VECTORISED: dict[str, Callable[[Tensor, Tensor, Tensor], _Result]] = {
    "exp": partial(_exponential, 0.0),
    "expm1": partial(_exponential, 1.0),
    "log": partial(_logarithm, 0.0),
    "log1p": partial(_logarithm, 1.0),
    "sin": partial(_sine, 0),
    "cos": partial(_sine, 1),
    "abs": _absolute,
    "reciprocal": _reciprocal,
    "sqrt": _square_root,
    "rsqrt": _inverse_root,
    **{name: partial(_tabled, name, "odd") for name in ("tanh", "erf", "atan", "asinh", "sinh")},
    "cosh": partial(_tabled, "cosh", "even"),
    **{name: partial(_tabled, name, "none") for name in ("sigmoid", "erfc")},
}
