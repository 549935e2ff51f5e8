"""Interval arithmetic: ranges (low, high) that contain an exact value and its float run.

An error bound becomes infinite once an intermediate value may overflow, or once a function has an
infinite derivative within the error. An interval still holds information there: exp and a sum of
squares are never negative, and exp of a number far below 0 is 0. Source: Moore, Kearfott and Cloud,
Introduction to Interval Analysis, ch. 5. There is no directed rounding here: the caller widens the
ends.
"""

import functools
import math
from collections.abc import Callable

import torch
from torch import Tensor

Range = tuple[Tensor, Tensor]

_INCREASING: dict[str, Callable[[Tensor], Tensor]] = {
    "exp": torch.exp,
    "expm1": torch.expm1,
    "log": lambda x: x.clamp_min(0).log(),
    "log1p": lambda x: x.clamp_min(-1).log1p(),
    "sqrt": lambda x: x.clamp_min(0).sqrt(),
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "erf": torch.erf,
    "atan": torch.atan,
    "asinh": torch.asinh,
    "sinh": torch.sinh,
    "i1": torch.special.i1,
    "asin": lambda x: x.clamp(-1, 1).asin(),
    "acosh": lambda x: x.clamp_min(1).acosh(),
    "atanh": lambda x: x.clamp(-1, 1).atanh(),
    "erfinv": lambda x: x.clamp(-1, 1).erfinv(),
}
_DECREASING: dict[str, Callable[[Tensor], Tensor]] = {
    "rsqrt": lambda x: x.clamp_min(0).rsqrt(),
    "erfc": torch.erfc,
    "acos": lambda x: x.clamp(-1, 1).acos(),
}
#: Functions without negative values; no kernel returns one either.
NEVER_NEGATIVE = {"exp", "sigmoid", "sqrt", "rsqrt", "abs", "acos", "acosh", "cosh", "i0", "i0e"}


# On positive numbers digamma increases and trigamma decreases; lgamma falls to its least value,
# -0.1214862905..., near 1.46163 and rises from there.
_GAMMA: dict[str, Callable[[Range], Range]] = {
    "digamma": lambda x: (x[0].digamma(), x[1].digamma()),
    "lgamma": lambda x: (
        torch.where(
            (x[0] < 1.47) & (x[1] > 1.46),
            torch.full_like(x[0], -0.1214862905358497),
            torch.minimum(x[0].lgamma(), x[1].lgamma()),
        ),
        torch.maximum(x[0].lgamma(), x[1].lgamma()),
    ),
}


def replace_nan(low: Tensor, high: Tensor) -> Range:
    """Return the range with -inf and inf in place of ends that are NaN."""
    inf = float("inf")
    return low.nan_to_num(-inf, inf, -inf), high.nan_to_num(inf, inf, -inf)


def smallest_magnitude(x: Range) -> Tensor:
    """Return the smallest magnitude of a number in the range."""
    return torch.maximum(x[0], -x[1]).clamp_min(0)


def largest_magnitude(x: Range) -> Tensor:
    """Return the largest magnitude of a number in the range."""
    return torch.maximum(x[0].abs(), x[1].abs())


def square(x: Range) -> Range:
    """Return the range of x * x."""
    return smallest_magnitude(x) ** 2, largest_magnitude(x) ** 2


def product(x: Range, y: Range) -> Range:
    """Return the range of x * y."""
    return _corners(torch.mul, x, y)


def _corners(operation: Callable[[Tensor, Tensor], Tensor], x: Range, y: Range) -> Range:
    """Return the range of an operation that is monotonic in each operand."""
    inf = float("inf")
    # An infinite end is the limit of finite numbers. So 0 times such an end is 0; infinity over
    # infinity may count as 0 too, since the other corners cover the limits.
    corners = torch.stack([operation(a, b).nan_to_num(0.0, inf, -inf) for a in x for b in y])
    return corners.amin(0), corners.amax(0)


def quotient(x: Range, y: Range) -> Range:
    """Return the range of x / y; it is (-inf, inf) where y may be 0."""
    low, high = _corners(torch.div, x, y)
    pole = smallest_magnitude(y) == 0
    return low.masked_fill(pole, -float("inf")), high.masked_fill(pole, float("inf"))


def image(name: str, x: Range) -> Range:
    """Return the range of an elementary function."""
    low, high = x
    if name in _INCREASING:
        return _INCREASING[name](low), _INCREASING[name](high)
    if name in _DECREASING:
        return _DECREASING[name](high), _DECREASING[name](low)
    if name == "abs":
        return smallest_magnitude(x), largest_magnitude(x)
    if name == "reciprocal":
        one = torch.ones_like(low)
        return quotient((one, one), x)
    if name == "cosh":
        return torch.cosh(smallest_magnitude(x)), torch.cosh(largest_magnitude(x))
    if name == "i0":
        return smallest_magnitude(x).i0(), largest_magnitude(x).i0()
    if name in ("sin", "cos", "i0e", "i1e"):
        return -torch.ones_like(low), torch.ones_like(low)
    infinity = torch.full_like(low, torch.inf)
    ends, known = (low, high), torch.zeros_like(low, dtype=torch.bool)
    if name == "tan":
        ends, known = (low.tan(), high.tan()), ~crosses_pole_of_tan(x)
    elif name in _GAMMA:
        ends, known = _GAMMA[name](x), low > 0
    return torch.where(known, ends[0], -infinity), torch.where(known, ends[1], infinity)


def crosses_pole_of_tan(x: Range) -> Tensor:
    """Return the mask of the ranges in which tan has, or may have, a pole."""
    periods = [(end / math.pi - 0.5).floor() for end in x]
    near = torch.stack([(end / math.pi - 0.5 - (end / math.pi - 0.5).floor()) for end in x])
    near = torch.minimum(near, 1 - near).amin(0) < 1e-9  # the quotient itself is rounded
    return near | (periods[0] != periods[1]) | ~(x[0].isfinite() & x[1].isfinite())


def power(x: Range, exponent: float, exponent_error: float) -> Range:
    """Return the range of x**p for |p - exponent| <= exponent_error.

    It is (-inf, inf) where x may be negative.
    """
    exponents = exponent - exponent_error, exponent + exponent_error
    ends = [x[k].clamp_min(0) ** p for k in (0, 1) for p in exponents]
    low, high = (functools.reduce(choose, ends) for choose in (torch.minimum, torch.maximum))
    unknown = x[0] < 0
    return low.masked_fill(unknown, -float("inf")), high.masked_fill(unknown, float("inf"))
