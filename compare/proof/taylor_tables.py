"""Functions by tables of Taylor polynomials whose coefficients and errors FLINT computes.

A table covers an interval with cells of one width. In each cell the function is a polynomial in the
distance from the cell's centre, which is evaluated in double-double arithmetic, or in float64 where
a term is so small that this is enough. Coefficients, the remainder and the largest derivative are
balls, so nothing about a function is proved by hand: only the roundings of the evaluation are
counted here, once for all functions. A function that is 0 at a centre has an error proportional to
the distance from it, so it is as accurate near its zero as elsewhere.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import flint
import torch
from torch import Tensor

from compare.proof.balls import FUNCTIONS, PRECISION
from compare.proof.double_double import UNIT, product_error, split, two_sum

WIDTH = 2.0**-6  # of a cell; narrower ones need fewer orders, and FLINT's time for more cells
_RADIUS = WIDTH * (0.5 + 2.0**-20)  # how far a number and its low part can be from its centre
# Absolute error that underflow may add to a computation of some hundred operations, each of which
# is off by at most 2**-1072.
UNDERFLOW = 2.0**-1060
# Raises a bound by what its own computation in float64 may round off, in some hundred operations,
# and by terms in the third power of u = 2**-53, where those in the second are counted.
SLACK = 1 + 2.0**-40
# So many coefficients after the last are part of the remainder; the one after them is computed on
# the whole cell as a ball, where FLINT's series may be much too wide.
_MORE_ORDERS = 4

_SERIES: dict[str, Callable[[Any], Any]] = {  # of a flint.arb_series
    "expm1": lambda x: x.exp() - 1,
    "log1p": lambda x: (x + 1).log(),
    "sin": lambda x: x.sin(),
    "tanh": lambda x: 1 - 2 / ((2 * x).exp() + 1),
    "sigmoid": lambda x: 1 / (1 + (-x).exp()),
    "erf": lambda x: x.erf(),
    "erfc": lambda x: x.erfc(),
    "sinh": lambda x: (x.exp() - (-x).exp()) / 2,
    "cosh": lambda x: (x.exp() + (-x).exp()) / 2,
    "atan": lambda x: x.atan(),
    "asinh": lambda x: (x + (x * x + 1).sqrt()).log(),
}
# the ends of the interval, the number of orders, and of those in double-double: as many as it takes
# for an error of 2**-100, tests say
TABLES = {
    "expm1": (-23 / 64, 23 / 64, 13, 7),  # half of log 2
    "log1p": (-19 / 64, 27 / 64, 17, 9),  # the roots of 1/2 and 2, less 1
    "sin": (0, 102 / 64, 13, 7),  # half of pi
    "tanh": (0, 40, 16, 8),
    "sigmoid": (-64, 64, 14, 7),
    "erf": (0, 8, 15, 8),
    "erfc": (-6, 8, 19, 11),
    "sinh": (0, 64, 13, 7),
    "cosh": (0, 64, 13, 7),
    "atan": (0, 64, 16, 8),
    "asinh": (0, 64, 16, 8),
}


@cache
def table(name: str) -> "TaylorTable":
    """Return the table of a function, which is filled as it is used."""
    return TaylorTable(name, *TABLES[name])


@dataclass(frozen=True)
class Values:
    """What a table says of some numbers; the error is infinite or NaN outside of its interval."""

    high: Tensor
    low: Tensor
    error: Tensor  # of the function at the number itself
    slope: Tensor  # the largest magnitude of the derivative within the number's error


class TaylorTable:
    """One function on the interval from `lowest` to `highest`.

    Args:
        name: The function, a name in FUNCTIONS and _SERIES.
        lowest: The lower end of the interval; a multiple of WIDTH, as `highest` is.
        highest: The upper end.
        orders: The number of coefficients.
        double: How many of them, but not all, are double-doubles: those whose terms may be more
            than 2**-53 of the function.
    """

    def __init__(self, name: str, lowest: float, highest: float, orders: int, double: int) -> None:
        self.name, self.orders, self.double = name, orders, double
        self.first, self.last = round(lowest / WIDTH), round(highest / WIDTH)
        cells = self.last - self.first + 1
        # coefficients, their low parts, a constant and a proportional error, and the slope
        self._columns = torch.zeros(orders + double + 3, cells, dtype=torch.float64)
        self._filled = torch.zeros(cells, dtype=torch.bool)

    @torch.no_grad()
    def evaluate(self, high: Tensor, low: Tensor, error: Tensor) -> Values:
        """Return the function at high + low, and its slope within `error`.

        Args:
            high: Numbers rounded to float64, a vector.
            low: What the rounding left.
            error: How far the slope is to reach, at most WIDTH / 4.
        """
        position = (high * (1 / WIDTH)).round().clamp(self.first, self.last)
        position = position.nan_to_num(self.first)
        cells = (position - self.first).to(torch.int32)
        self._fill(cells)
        columns = self._columns.to(high.device)

        def of(column: int) -> Tensor:
            return columns[column].index_select(0, cells)

        # exact: high and the centre are multiples of one unit, and their distance is small
        s, t = two_sum(high - position * WIDTH, low)
        value = of(self.orders - 1)
        for order in range(self.orders - 2, self.double - 1, -1):
            value = (value * s).add_(of(order))
        halves, rest = split(s), torch.zeros_like(s)
        for order in range(self.double - 1, -1, -1):
            product = value * s
            off = product_error(product, split(value), halves).add_(value * t).add_(rest * s)
            value, rest = two_sum(of(order), product)
            rest.add_(off.add_(of(self.orders + order)))
        value, rest = two_sum(value, rest)
        constant, proportional, slope = (of(column) for column in (-3, -2, -1))
        distance = s.abs()
        own = (distance * proportional).add_(constant).add_(UNDERFLOW)
        known = (distance <= _RADIUS) & (error <= WIDTH / 4)
        return Values(value, rest, torch.where(known, own, torch.inf), slope)

    def _fill(self, cells: Tensor) -> None:
        """Compute the cells that are asked for the first time."""
        cells = cells.cpu()
        filled = self._filled.index_select(0, cells)
        if not bool(filled.all()):
            new = cells[~filled].unique().long()
            with flint.ctx.workprec(PRECISION):
                self._columns[:, new] = self._computed((new + self.first).tolist())
            self._filled[new] = True

    def _computed(self, positions: Sequence[int]) -> Tensor:
        """Return the columns of some cells."""
        columns = zip(*(self._cell(position * WIDTH) for position in positions), strict=True)
        high, low, off, remainder, slope = (torch.tensor(c, dtype=torch.float64) for c in columns)
        high, low, off = high.T, low.T, off.T
        constant, proportional = self._errors(high, off)
        bounds = torch.stack([constant, proportional + remainder, slope]) * SLACK
        return torch.cat([high, low[: self.double], bounds])

    def _cell(self, centre: float) -> tuple[Any, ...]:
        """Return the coefficients at a centre: high, low, error; the remainder and the slope."""
        exact = [FUNCTIONS[self.name](flint.arb(centre)), *self._series(centre, 0)[1:]]
        coefficients, more = exact[: self.orders], exact[self.orders :]
        high = [float(c) for c in coefficients]
        low = [float(c - h) for c, h in zip(coefficients, high, strict=True)]
        low[self.double :] = [0.0] * (self.orders - self.double)
        off = [upper(c - h - l) for c, h, l in zip(coefficients, high, low, strict=True)]
        # |f(c + s) - polynomial| <= |s| * remainder: Lagrange's form
        more[-1] = self._series(centre, _RADIUS)[-1]
        powers = range(self.orders - 1, self.orders + _MORE_ORDERS)
        remainder = sum(upper(c) * _RADIUS**n for n, c in zip(powers, more, strict=True))
        return high, low, off, remainder, upper(self._series(centre, WIDTH, 2)[1])

    def _series(self, centre: float, radius: float, length: int | None = None) -> list[Any]:
        """Return the Taylor coefficients at a centre, or at every point within the radius of it."""
        length = length or self.orders + _MORE_ORDERS + 1
        cap, flint.ctx.cap = flint.ctx.cap, length
        try:
            series = _SERIES[self.name](flint.arb_series([flint.arb(centre, radius), 1], length))
            return [series[n] for n in range(length)]
        finally:
            flint.ctx.cap = cap

    def _errors(self, high: Tensor, off: Tensor) -> tuple[Tensor, Tensor]:
        """Bound the rounding errors of `evaluate` by constant + |s| * proportional in each cell.

        The steps from order n + 1 to order n are counted with `size` a bound on the value at order
        n + 1 and `rests` * u one on its low part, and the same of order n after them. Products of
        three u are left to SLACK.
        """
        u, h = UNIT, _RADIUS
        constant = proportional = size = rests = torch.zeros_like(high[0])
        for order in range(self.orders - 1, -1, -1):
            coefficient = high[order].abs()
            error = constant + h * proportional  # of the value at order n + 1
            if order >= self.double:
                # the product is rounded, and t is left out; then the sum is rounded
                proportional = error + u * 2 * size
                size = coefficient + h * size
                constant = off[order] + u * size
            else:
                # In units of u**2 |s|, and |t| <= u |s|: the product's error is up to 1 size / u;
                # roundings: value * t 1 size, its sum with the product's error 2 size, rest * s 1
                # rests, the sum with that, and again with the coefficient's low part, 2 size + 1
                # rests each; left out: rest * t 1 rests.
                proportional = error + u * u * (7 * size + 4 * rests)
                # the rounding of coefficient + product, 1 coefficient + 1 h size, and all of these
                rests = 2 * coefficient + h * (3 * size + rests)
                size = coefficient + h * size
                constant = off[order] + u * u * (coefficient + rests)
        # adding to an exact 0 rounds nothing
        return constant.masked_fill(high[0] == 0, 0), proportional


def upper(ball: Any) -> float:
    """Return a float that is at least the magnitude of every number in a ball."""
    largest = ball.abs_upper()
    return 0.0 if largest == 0 else math.nextafter(float(largest), math.inf)
