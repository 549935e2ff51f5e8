"""Ranges (low, high): where both an exact value and its float run lie, however far apart they are.

A bound on their distance says nothing once an intermediate value may overflow, or once a function
is infinitely steep somewhere within the distance. A range still does: exp of anything is above 0,
a sum of squares too, and exp of what lies below the dtype's numbers is 0. Interval arithmetic
(Moore, Kearfott and Cloud, Introduction to Interval Analysis, ch. 5) without directed rounding:
the caller widens the ends.
"""

import functools
from collections.abc import Callable

import torch
from torch import Tensor

Range = tuple[Tensor, Tensor]

_RISING: dict[str, Callable[[Tensor], Tensor]] = {
    "exp": torch.exp,
    "expm1": torch.expm1,
    "log": lambda x: x.clamp_min(0).log(),
    "log1p": lambda x: x.clamp_min(-1).log1p(),
    "sqrt": lambda x: x.clamp_min(0).sqrt(),
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "erf": torch.erf,
    "atan": torch.atan,
}
_FALLING: dict[str, Callable[[Tensor], Tensor]] = {
    "rsqrt": lambda x: x.clamp_min(0).rsqrt(),
    "erfc": torch.erfc,
}
#: Functions without negative values, which no kernel gives either.
NEVER_NEGATIVE = {"exp", "sigmoid", "sqrt", "rsqrt", "abs"}


def known(low: Tensor, high: Tensor) -> Range:
    """Return the range with the ends that are no numbers as infinities: nothing is known there."""
    inf = float("inf")
    return low.nan_to_num(-inf, inf, -inf), high.nan_to_num(inf, inf, -inf)


def nearest(x: Range) -> Tensor:
    """Return how near a range comes to 0."""
    return torch.maximum(x[0], -x[1]).clamp_min(0)


def farthest(x: Range) -> Tensor:
    """Return how far a range goes from 0."""
    return torch.maximum(x[0].abs(), x[1].abs())


def square(x: Range) -> Range:
    """Return the range of x * x."""
    return nearest(x) ** 2, farthest(x) ** 2


def product(x: Range, y: Range) -> Range:
    """Return the range of x * y."""
    return _corners(torch.mul, x, y)


def _corners(operation: Callable[[Tensor, Tensor], Tensor], x: Range, y: Range) -> Range:
    """Return what an operation that rises or falls in each operand takes x and y to."""
    inf = float("inf")
    # 0 times an end that is infinite is 0, as is infinity over infinity beside the other corners:
    # what lies before such an end is finite
    corners = torch.stack([operation(a, b).nan_to_num(0.0, inf, -inf) for a in x for b in y])
    return corners.amin(0), corners.amax(0)


def quotient(x: Range, y: Range) -> Range:
    """Return the range of x / y, everything where y may be 0."""
    low, high = _corners(torch.div, x, y)
    pole = nearest(y) == 0
    return low.masked_fill(pole, -float("inf")), high.masked_fill(pole, float("inf"))


def image(name: str, x: Range) -> Range:
    """Return the range of an elementary function."""
    low, high = x
    if name in _RISING:
        return _RISING[name](low), _RISING[name](high)
    if name in _FALLING:
        return _FALLING[name](high), _FALLING[name](low)
    if name == "abs":
        return nearest(x), farthest(x)
    if name == "reciprocal":
        one = torch.ones_like(low)
        return quotient((one, one), x)
    return -torch.ones_like(low), torch.ones_like(low)  # sin and cos


def power(x: Range, exponent: float, off: float) -> Range:
    """Return the range of x**exponent, everything where x may be negative.

    The exponent itself may be `off` by so much.
    """
    ends = [x[k].clamp_min(0) ** p for k in (0, 1) for p in (exponent - off, exponent + off)]
    low, high = (functools.reduce(choose, ends) for choose in (torch.minimum, torch.maximum))
    unknown = x[0] < 0
    return low.masked_fill(unknown, -float("inf")), high.masked_fill(unknown, float("inf"))
