"""Products of matrices of double-double numbers, with an error bound, by float64's own product.

Source: Ozaki, Ogita, Oishi, Rump, Error-Free Transformations of Matrix Multiplication by Using Fast
Routines of Matrix Multiplication and Its Applications, Numerical Algorithms 59, 2012. Each row of
the one matrix and each column of the other is cut, relative to its largest element, into slices of
so few bits that the sums of products of slices are multiples of a unit, and below 2**53 units. The
library's product of slices is then exact, in any order of summation, with FMA or without.

A row is scaled to magnitudes below 4. With a width of w bits, its slice i has multiples of
2**(3 - w * (i + 1)); as each slice before it was rounded to nearest, it is at most 2**(w - 1) of
these, or 4 * 2**(-w * i). The products of slice i of a row and slice j of a column are said to be
of order i + j, and those of one order are added exactly. Orders from a certain one on are left out;
a bound on them goes into the error.

All of it are operations on tensors, for any device. Numbers below the normal range must not be
flushed to zero (torch's default).
"""

import functools
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from compare.proof.double_double import two_sum

_UNIT = 2.0**-53  # u, the largest relative error of one rounding to float64

# Rows, and columns, of the result that are computed at once: this bounds the memory.
_PANEL = 1_024
# Elements that go through many elementwise operations at once: on a CPU they stay in its cache;
# elsewhere the number of calls counts.
_BLOCK_OF_CPU, _BLOCK = 2**14, 2**22

_EXPONENT = 2047 << 52  # the bits of a float64 number that hold its exponent
_LARGEST_INVERSE = 2.0**537  # of a root of a scale, that of the smallest subnormal number
_LOSS_OF_SCALING = 2.0**-1000  # more than underflow takes off an element scaled to at most 4
_UNDERFLOW = 2.0**-1060  # more than underflow takes off a result
_SLACK = 1 + 2.0**-40  # covers the rounding of the bounds, and terms in u^3


def product(
    a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor], bits: int = 100
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the high and the low part of a matrix product, and a bound on its error.

    Let r be the largest magnitude in a row of `a`, and c that in a column of `b`. The bound for the
    product p of both is at most 2**-106 |p| + 2**(6 - bits) k r c, and smaller if all slices are
    used up, as with float32 numbers; 2**-1060 may be added. Where large elements of the row meet
    small ones of the column, the product of magnitudes, |row| @ |column|, is smaller than k r c.

    An element is unknown if its row or column has an infinity or NaN, or if it or its bound
    overflows. Its error is then infinite, and its parts are finite and mean nothing. A row or
    column of zeros has error 0, but for unknown elements.

    The result is computed in panels of 1,024 by 1,024, or of as many elements in small matrices.
    Memory beside operands and results, in float64 numbers: mostly 5 for each element of a panel's
    rows of `a` and columns of `b` (the slices; 3 if they are float32 numbers), and 5 for each of
    the panel itself.

    Args:
        a: High and low part, float64 of shape (..., m, k), with |low| <= 2**-50 |high|.
        b: High and low part, (..., k, n), with the same leading dimensions.
        bits: How many bits of the product are wanted; more than 106 have no room in the result.

    Returns:
        High part, low part, and a bound on the distance of their sum from the exact product, each
        (..., m, n). The high part is a float64 number nearest to the sum.
    """
    *lead, rows, inner = a[0].shape
    columns = b[0].shape[-1]
    results = tuple(a[0].new_empty((*lead, rows, columns)) for _ in range(3))
    hi, lo, error = results
    if not hi.numel():
        return hi, lo, error
    if not inner:
        return hi.zero_(), lo.zero_(), error.zero_()
    plan = _Plan.of(inner, bits)
    left = _Operand.of(*(x.reshape(-1, rows, inner) for x in a))
    right = _Operand.of(*(x.mT.reshape(-1, columns, inner) for x in b))  # columns as rows
    out = [part.view(-1, rows, columns) for part in results]
    height, breadth = min(rows, _PANEL), min(columns, _PANEL)
    for matrices in _spans(len(out[0]), _PANEL**2 // (height * breadth)):
        for across in _spans(columns, breadth):
            sliced = right.cut((matrices, across), plan)
            for down in _spans(rows, height):
                panel = [part[matrices, down, across] for part in out]
                _multiply(left.cut((matrices, down), plan), sliced, plan, panel)
    return hi, lo, error


class _Plan(NamedTuple):
    """How a product is computed.

    Attributes:
        width: Bits of a slice.
        orders: How many orders of products are computed.
        plain: The sum of this order and those after it is rounded to float64.
    """

    width: int
    orders: int
    plain: int

    @staticmethod
    @functools.lru_cache
    def of(inner: int, bits: int) -> "_Plan":
        """Return the plan for `inner` products to an element, to so many bits of their bound."""
        for orders in itertools.count(2):  # of one, an infinite or NaN low part would be no part
            # An order has at most `orders` products of slices, each of `inner` products of at most
            # 2**(2 * width - 2) units. From 25 bits on, a low part could push the second slice over
            # its limit.
            spare = (inner * orders - 1).bit_length()
            width = min((53 - spare) // 2 + 1, 24)
            if _tail(width, orders) <= 2.0**-bits:
                break
        rounding = orders * _UNIT
        plain = next(n for n in itertools.count(1) if rounding * _tail(width, n) <= 2.0**-bits)
        return _Plan(width, orders, plain)


def _tail(width: int, order: int) -> float:
    """Return a bound on all orders from this one on; the largest product counts as 1."""
    x = 2.0**-width  # order n has n + 1 products of at most x**n
    return (order + 1) * x**order / (1 - x) ** 2


@dataclass(frozen=True)
class _Slices:
    """Rows as sums of slices: row = scale**2 * (sum of parts + what is left).

    Attributes:
        parts: The slices, (matrices, rows, k) each.
        scale: A power of 2 for each row, (matrices, rows, 1): 0 for a row of zeros, infinite for
            one that is unknown.
        left: Whether something may be left; it is at most what one slice more could be.
    """

    parts: list[Tensor]
    scale: Tensor
    left: bool


@dataclass(frozen=True)
class _Operand:
    """One of the factors, (matrices, rows, k); the low part is None if it is 0."""

    high: Tensor
    low: Tensor | None

    @staticmethod
    def of(high: Tensor, low: Tensor) -> "_Operand":
        """Return the factor with these parts."""
        return _Operand(high, low if bool(low.any()) else None)

    def cut(self, at: tuple[slice, slice], plan: _Plan) -> _Slices:
        """Cut some rows into as many slices as they need, or as are used.

        An infinity or NaN becomes NaN, so that its row of the product is NaN. Of an element below
        2**-1000 of the largest, digits may be lost: at most _LOSS_OF_SCALING.
        """
        high, low = self.high[at], None if self.low is None else self.low[at]
        scale = _root(high.abs().amax(-1, keepdim=True))
        inverse = scale.reciprocal().clamp_max_(_LARGEST_INVERSE)  # finite for a row of zeros
        parts: list[Tensor] = []
        anything_left = False
        for block in _blocks(high):
            factor = inverse[block]
            h = (high[block].contiguous() * factor).mul_(factor)
            l = None if low is None else (low[block].contiguous() * factor).mul_(factor)
            for i in range(plan.orders):
                if i == len(parts):
                    parts.append(torch.zeros(high.shape, dtype=high.dtype, device=high.device))
                # the last bit of this number is the slice's unit, and adding rounds to it
                shift = 1.5 * 2.0 ** (52 + 3 - plan.width * (i + 1))
                h = h.sub_(torch.sub(h + shift, shift, out=parts[i][block]))
                if l is not None:
                    h, l = two_sum(h, l)
                if not bool(h.any()):
                    break
            else:
                anything_left = True
        return _Slices(parts, scale, anything_left)


def _root(largest: Tensor) -> Tensor:
    """Return the square root rounded down to a power of 2.

    Numbers divided by it twice are less than 4. Unlike its square, it is a normal number for every
    positive float64 number, and so is its inverse. Of 0 it is 0, of infinity and NaN infinity.
    """
    return (largest.sqrt().view(torch.int64) & _EXPONENT).view(largest.dtype)


def _multiply(rows: _Slices, columns: _Slices, plan: _Plan, out: list[Tensor]) -> None:
    """Write high part, low part and error of a panel of the product to `out`."""
    p, q = len(rows.parts), len(columns.parts)
    sums = []  # of each order, exact
    for order in range(min(plan.orders, p + q - 1)):
        first, *others = (
            (rows.parts[i], columns.parts[order - i].mT)
            for i in range(max(0, order - q + 1), min(order + 1, p))
        )
        total = torch.bmm(*first)
        for pair in others:
            total.baddbmm_(*pair)
        sums.append(total)
    inner = rows.parts[0].shape[-1]
    share = _share(plan, p + rows.left, q + columns.left) + _LOSS_OF_SCALING
    for block in _blocks(sums[0]):
        high, low = _sum([total[block] for total in sums], plan.plain)
        hi, lo, error = (part[block] for part in out)
        scales = rows.scale[block], columns.scale[block[0]].mT
        # This is the root of the product's scale. To multiply by it twice loses digits only if the
        # result underflows, and overflows only if the result does.
        scale = torch.mul(*scales)
        torch.mul(high.mul_(scale), scale, out=hi)
        torch.mul(low.mul_(scale), scale, out=lo)
        torch.abs(hi, out=error).mul_(_UNIT**2 * _SLACK)
        error.addcmul_(scale, scale, value=16 * inner * share * _SLACK)
        # Of a result that underflows, and of its bound, at most 2**-1072 is lost. This is at least
        # 2**-1067 unless the result is below 2**-2000, and 0 if it is 0.
        error.addcmul_(*(factor.clamp_max(_UNDERFLOW**0.5) for factor in scales))
        if not math.isfinite(float(hi.sum())):
            unknown = ~hi.isfinite()
            error.masked_fill_(unknown, torch.inf)
            hi.masked_fill_(unknown, 0)
            lo.masked_fill_(unknown, 0)


def _sum(terms: list[Tensor], plain: int) -> tuple[Tensor, Tensor]:
    """Return a sum of numbers, each far below the one before, as a double-double.

    The errors of the additions are exact, and their sum is rounded. Source: Ogita, Rump, Oishi,
    Accurate Sum and Dot Product, SIAM Journal on Scientific Computing 26(6), 2005, algorithm 4.4.
    The terms from number `plain` on are added up with rounding.
    """
    *others, high = terms
    low = None
    for order, term in reversed([*enumerate(others)]):
        if order >= plain:
            high = term + high
        else:
            high, off = two_sum(term, high)
            low = off if low is None else low.add_(off)
    return (high, torch.zeros_like(high)) if low is None else two_sum(high, low)


def _share(plan: _Plan, p: int, q: int) -> float:
    """Return a bound on the error of a sum of p * q products of slices, the largest counted as 1.

    Orders that are not computed count in full. In an addition with rounding the error is u t_n if
    t_n bounds the terms of order n and more: at most `orders` times u t_plain. Otherwise this error
    is added to those of other orders, and the sum is rounded: at most u (u t_n + u t_(n+1) + ...),
    so all these are at most (orders u)^2 t_1, and u^2 of the result, which is not counted here.
    """
    total = 0.0
    for order in range(1, p + q - 1):
        count = min(order, p - 1) - max(0, order - q + 1) + 1
        rounding = plan.orders * _UNIT
        share = 1.0 if order >= plan.orders else rounding if order >= plan.plain else rounding**2
        total += count * share * 2.0 ** (-plan.width * order)
    return total


def _spans(size: int, step: int) -> list[slice]:
    """Return slices of at most `step` that cover a dimension."""
    return [slice(start, start + step) for start in range(0, size, step)]


def _blocks(x: Tensor) -> Iterator[tuple[slice, slice]]:
    """Yield indices that cut (matrices, rows, columns) into blocks of whole rows."""
    matrices, rows, columns = x.shape
    count = max(1, (_BLOCK_OF_CPU if x.device.type == "cpu" else _BLOCK) // columns)
    for some in _spans(matrices, max(1, count // rows)):
        for part in _spans(rows, count):
            yield some, part
