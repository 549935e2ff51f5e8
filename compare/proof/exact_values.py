"""What a verdict asks of exact values, of arrays of balls and of wide numbers alike.

Results are numpy arrays of the shape of the values.
"""

from collections.abc import Callable
from typing import Any

import flint
import numpy as np
import torch
from torch import Tensor

from compare.proof.blocks import blocks
from compare.proof.wide import Wide, of_float64

# Half the least subnormal of float64: no dtype can hold a difference smaller than this.
BELOW_EVERY_DTYPE = flint.arb(2) ** -1075
_INFINITY = flint.arb("inf")
_ROOM = 2.0**-48  # for the rounding of a float64 sum

Exact = Any  # a numpy array of flint.arb, or a Wide


def elementwise(function: Callable[..., Any], *arrays: Any) -> Any:
    """Return an array of the floats that a function returns for each element or tuple of elements.

    Arrays of 0 dimensions give an array of 0 dimensions.
    """
    with np.errstate(invalid="ignore"):  # NaN is a valid result
        result = np.frompyfunc(lambda *x: float(function(*x)), len(arrays), 1)(*arrays)
    return np.asarray(result, dtype=float)


def _mask(function: Callable[..., Any], *arrays: Any) -> Any:
    return elementwise(function, *arrays).astype(bool)


def magnitude(a: Any) -> float:
    """Return the absolute value of a ball's midpoint."""
    return float(abs(a).mid())


def ball_at(x: Exact, at: Any) -> Any:
    """Return one element as a ball."""
    return x[at].balls()[()] if isinstance(x, Wide) else x[at]


def balls_of(x: Exact) -> Any:
    """Return the values as an array of balls."""
    return x.balls() if isinstance(x, Wide) else np.asarray(x, dtype=object)


def with_zeros(x: Exact, mask: Any) -> Exact:
    """Return a copy with exact zeros where a mask is True."""
    if isinstance(x, Wide):
        return Wide(*(part.masked_fill(torch.from_numpy(mask), 0) for part in x.parts))
    zeroed = x.copy()
    zeroed[mask] = flint.arb(0)
    return zeroed


def finite(x: Exact) -> Any:
    """Return a mask of the elements that have a finite exact value."""
    return x.known.numpy() if isinstance(x, Wide) else _mask(lambda a: a.is_finite(), x)


def magnitudes(x: Exact) -> Any:
    """Return the absolute value of each midpoint, NaN where nothing is known."""
    if isinstance(x, Wide):
        unknown = x.error.isinf() | x.error.isnan()
        return x.hi.abs().masked_fill(unknown, torch.nan).numpy()
    return elementwise(magnitude, x)


def radii(x: Exact) -> Any:
    """Return the distance that the exact value may have from each midpoint."""
    return x.error.numpy() if isinstance(x, Wide) else elementwise(lambda a: a.rad(), x)


def contains_zero(x: Exact) -> Any:
    """Return a mask of the elements that may be 0."""
    if isinstance(x, Wide):
        return ~(x.hi.abs() * (1 - _ROOM) > x.error).numpy()
    return _mask(lambda a: a.contains(0), x)


def distances(x: Exact, y: Exact) -> Any:
    """Return the distance of each pair of midpoints."""
    if isinstance(x, Wide):
        return (x - y).hi.abs().numpy()
    return elementwise(lambda a, b: magnitude(a - b), x, y)


def distinct(x: Exact, y: Exact) -> Any:
    """Return a mask of the pairs that are certainly different numbers."""
    if isinstance(x, Wide):
        return ~contains_zero(x - y)
    return ~_mask(lambda a, b: a.overlaps(b), x, y)


def can_be_held_apart(x: Exact, y: Exact) -> Any:
    """Return a mask of the pairs that some dtype can hold apart."""
    if isinstance(x, Wide):  # a difference of wide numbers is 0 or one that float64 can hold
        return (x - y).hi.numpy() != 0
    return _mask(lambda a, b: not abs(a - b) <= BELOW_EVERY_DTYPE, x, y)


def _distance_from_wide(floats: Tensor, exact: Wide, largest: float) -> Tensor:
    difference = of_float64(floats) - exact
    upper = (difference.hi.abs() + difference.error) * (1 + _ROOM)
    infinite = exact.hi.isinf() & (exact.error == 0)
    off = torch.where(floats == exact.hi, 0.0, torch.inf)
    upper = torch.where(infinite, off, upper)
    overflow = floats.isinf() & exact.known
    beyond = floats.sign() * exact.hi - exact.error > largest
    upper = torch.where(overflow, torch.where(beyond, 0.0, torch.inf), upper)
    return upper.masked_fill(~(infinite | exact.known), torch.nan)


def distance_from_floats(values: Tensor, exact: Exact) -> Tensor:
    """Return an upper bound on |values - exact|, 0 for an infinity where the exact value overflows.

    It is NaN where nothing is known.
    """
    floats = values.detach().double().cpu()
    largest = torch.finfo(values.dtype).max
    if isinstance(exact, Wide):
        upper = torch.empty_like(floats)
        for at in blocks(floats.shape):
            upper[at] = _distance_from_wide(floats[at], exact[at], largest)
        return upper

    def upper_of(value: float, ball: Any) -> float:
        if abs(ball) == _INFINITY:
            return 0.0 if bool(ball == value) else np.inf
        if not ball.is_finite():
            return np.nan
        if np.isinf(value):
            beyond = ball if value > 0 else -ball
            return 0.0 if bool(beyond > largest) else np.inf
        return float(abs(ball - value).upper())

    return torch.from_numpy(elementwise(upper_of, floats.numpy(), exact))
