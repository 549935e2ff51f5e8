"""Products of matrices of double-double numbers, by slices that float64 multiplies exactly.

Source: Ozaki, Ogita, Oishi, Rump, Error-Free Transformations of Matrix Multiplication by Using Fast
Routines of Matrix Multiplication, 2012. Each row of the one matrix and each column of the other is
cut, relative to its largest element, into slices of so few bits that the products of two slices add
up to 53 bits at most: then the library's float64 product of two slices is exact, in any order of
summation.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from compare.proof import double_double as dd
from compare.proof.blocks import blocks

_UNDERFLOW = 2.0**-1072  # absolute error of scaling a result that underflows
_ADD_ERROR = 2.01 * dd.UNIT**2  # of adding a float64 number, relative to the sum


@dataclass(frozen=True)
class _Slices:
    """A matrix as a sum of slices, each row (or column) scaled by a power of 2 to at most 1.

    Attributes:
        parts: The slices; the k-th holds multiples of 2**(-bits * (k + 1)).
        rest: A bound on what is left over of each element, 0 if nothing is.
        exponents: Of the scale of each row (or column); the other dimension has size 1.
        unknown: Mask of the rows that hold an infinity or NaN, of the shape of the exponents.
        nonzero: Mask of the rows that are not all 0.
    """

    parts: list[Tensor]
    rest: float
    exponents: Tensor
    unknown: Tensor
    nonzero: Tensor


def product(
    a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor], precision: int = 100
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the high and low part of a matrix product, and a bound on its error.

    The error is at most about 2**-precision k times the largest element of the row times that of
    the column, and 2**-105 times the product. It is infinite where the row or the column holds an
    infinity or NaN, and where the product overflows. Memory beside operands and result: at most 10
    copies of each operand, for float32 numbers mostly 6.

    Args:
        a: High and low part, float64, (..., m, k).
        b: High and low part, float64, (..., k, n), with the same leading dimensions.
        precision: How many bits to compute, relative to the row's and the column's largest.
    """
    count = a[0].shape[-1]
    if not count:
        zero = a[0].new_zeros((*a[0].shape[:-1], b[0].shape[-1]))
        return zero, zero, zero
    bits = max(width for width in range(1, 27) if _is_exact(width, count, precision))
    most = math.ceil(precision / bits)
    rows, columns = _sliced(*a, -1, bits, most), _sliced(*b, -2, bits, most)
    p, q = len(rows.parts), len(columns.parts)
    # slices i and j weigh 2**(-bits * (i + j)); those of one weight are multiplied at once
    left, right = torch.cat(rows.parts, -1), torch.cat(columns.parts[::-1], -2)
    hi = lo = error = None
    for weight in reversed(range(min(most, p + q - 1))):  # the smallest numbers first
        first, last = max(0, weight - q + 1), min(weight, p - 1)
        exact = (
            left[..., first * count : (last + 1) * count]
            @ (right[..., (q - 1 - weight + first) * count : (q - weight + last) * count, :])
        )
        if hi is None or lo is None or error is None:
            hi, lo, error = exact, torch.zeros_like(exact), torch.zeros_like(exact)
        else:
            _add(hi, lo, error, exact)
    assert hi is not None
    assert lo is not None
    assert error is not None
    # slice k is at most 2**(-bits * k) of a row's largest number
    dropped = rows.rest + columns.rest
    dropped += sum(2.0 ** (-bits * (i + j)) for i in range(p) for j in range(q) if i + j >= most)
    error.add_(count * dropped).mul_(1 + 2.0**-40)
    return _scaled(hi, lo, error, rows, columns)


def _is_exact(bits: int, count: int, precision: int) -> bool:
    """Return whether float64 adds all products of slices of one weight exactly, in any order."""
    most = math.ceil(precision / bits)
    return 2 * bits + math.ceil(math.log2(count * most)) <= 53


def _sliced(high: Tensor, low: Tensor, dim: int, bits: int, most: int) -> _Slices:
    """Cut a matrix into at most so many slices; the sums of products run along `dim`."""
    largest = high.abs().amax(dim, keepdim=True)
    unknown = ~largest.isfinite()
    if bool(unknown.any()):
        high, low = high.masked_fill(unknown, 0), low.masked_fill(unknown, 0)
    exponents = torch.frexp(largest.masked_fill(unknown, 0)).exponent
    factors = list(_powers_of_2(-exponents))
    for factor in factors:
        high = high * factor
    has_low = bool(low.any())
    if has_low:
        for factor in factors:
            low = low * factor
    parts = []
    for k in range(1, most + 1):
        shift = 1.5 * 2.0 ** (52 - bits * k)
        part = (high + shift) - shift  # rounded to a multiple of 2**(-bits * k)
        parts.append(part)
        high = high - part
        if has_low:
            high, low = dd.two_sum(high, low)
        if not bool(high.any()):
            break
    left = bool(high.any())
    # what scaling loses of elements 2**-1000 times the row's largest is less than this too
    rest = 2.0 ** (-bits * most) if left else 2.0**-1000
    return _Slices(parts, rest, exponents, unknown, largest > 0)


def _powers_of_2(exponents: Tensor) -> Iterator[Tensor]:
    """Yield two powers of 2 whose product has these exponents, each of them a normal number."""
    half = exponents.div(2, rounding_mode="floor")
    for exponent in (half, exponents - half):
        yield ((exponent.long() + 1023) << 52).view(torch.float64)


def _add(high: Tensor, low: Tensor, error: Tensor, x: Tensor) -> None:
    """Add float64 numbers to double-doubles in place, each to within 2 u^2 of the sum.

    Algorithm 4, DWPlusFP, of the article that `double_double` cites.
    """
    for at in blocks(x.shape):
        s, e = dd.two_sum(high[at], x[at])
        s, e = dd.fast_two_sum(s, low[at] + e)
        high[at], low[at] = s, e
        error[at] += s.abs().mul_(_ADD_ERROR)


def _scaled(
    hi: Tensor, lo: Tensor, error: Tensor, rows: _Slices, columns: _Slices
) -> tuple[Tensor, Tensor, Tensor]:
    """Return a product with the scales of its factors, and infinite errors where it is unknown."""
    for factor in (*_powers_of_2(rows.exponents), *_powers_of_2(columns.exponents)):
        hi, lo, error = hi * factor, lo * factor, error * factor
    error = error + _UNDERFLOW
    error = error.masked_fill(~(rows.nonzero & columns.nonzero), 0)
    unknown = rows.unknown | columns.unknown | ~hi.isfinite() | ~error.isfinite()
    if bool(unknown.any()):
        hi, lo = hi.masked_fill(unknown, 0), lo.masked_fill(unknown, 0)
        error = error.masked_fill(unknown, torch.inf)
    return hi, lo, error
