"""Wide arithmetic: exact values to about 100 bits, each with a bound on its error, vectorised.

A number is the sum of two float64 numbers (double-double) and has a float64 bound on its distance
from the exact value. FLINT's balls cost a Python object for each element; these are tensors, so a
large array takes some nanoseconds an element. Where 100 bits are not enough to decide, FLINT does.

The algorithms and their errors are in compare/proof/double_double.py.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import flint
import numpy as np
import torch
from torch import Tensor

from compare.proof import double_double as dd
from compare.proof.blocks import BLOCK, blocks
from compare.proof.exact_arithmetic import ExactArithmetic
from compare.proof.exact_products import product
from compare.proof.literals import AS_WRITTEN, Reading
from compare.proof.wide_functions import apply

#: Working precision in bits; it also names this arithmetic among FLINT's precisions.
WIDE_PRECISION = 100
#: Names the arithmetic in which both sides go on from one value of each matrix product.
RESTARTED = 101
# The published errors are relative to the exact result; relative to the computed one, and after the
# rounding of the bound itself, they are larger by less than this.
_ROOM = 1 + 2.0**-48
# A result that may have underflowed has this absolute error besides: far below what any quantity of
# float32 can show, and far above what the products of low parts may lose.
TINY = 2.0**-1000
_UNDERFLOW = 8 * dd.PRODUCT_UNDERFLOW  # of the products with which a quotient is corrected

WORTH_REMEMBERING = 100_000  # numbers of an input, multiplications of a product
_SMALL_ERROR = 2.0**-60  # relative to the row's largest, of products that are taken for one
RESTARTED_DIGITS = 18  # to which such products agree
MOST_REMEMBERED = 2**29  # bytes of factors and products

Parts = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True, eq=False)
class Wide:
    """An array of wide numbers.

    The exact value lies within `error` of hi + lo. An infinite error means that nothing is known,
    unless hi is infinite: an infinity with error 0 is exact.

    Attributes:
        hi: The float64 number nearest to hi + lo.
        lo: The rest.
        error: The bound, float64.
    """

    hi: Tensor
    lo: Tensor
    error: Tensor

    __array_ufunc__ = None  # numpy leaves operators between its numbers and this class to the class

    @property
    def parts(self) -> Parts:
        """Both summands and the bound."""
        return self.hi, self.lo, self.error

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape."""
        return tuple(self.hi.shape)

    @property
    def ndim(self) -> int:
        """The number of dimensions."""
        return self.hi.ndim

    @property
    def known(self) -> Tensor:
        """Mask of the elements that have a finite exact value."""
        return self.hi.isfinite() & self.error.isfinite()

    def without_error(self) -> "Wide":
        """Return the numbers hi + lo as exact, where they are known."""
        return Wide(self.hi, self.lo, self.error.masked_fill(self.error.isfinite(), 0))

    def arranged(self, operation: Callable[[Tensor], Tensor]) -> "Wide":
        """Apply an operation that only moves numbers."""
        return Wide(*map(operation, self.parts))

    def moved(self, operation: Callable[[Tensor], Any]) -> Any:
        """Apply an operation that only moves numbers, or splits them into several arrays."""
        parts = [operation(part) for part in self.parts]
        if isinstance(parts[0], Tensor):
            return Wide(*parts)
        return [Wide(*each) for each in zip(*parts, strict=True)]

    @staticmethod
    def joined(arrays: Sequence["Wide"], call: Callable[[list[Tensor]], Tensor]) -> "Wide":
        """Apply an operation that assembles the numbers of several arrays."""
        return Wide(*(call([*parts]) for parts in zip(*(x.parts for x in arrays), strict=True)))

    def reshape(self, shape: Sequence[int]) -> "Wide":
        """Return the numbers in another shape."""
        return self.arranged(lambda part: part.reshape(tuple(shape)))

    def __getitem__(self, at: Any) -> "Wide":
        return self.arranged(lambda part: part[at])

    def balls(self) -> Any:
        """Return the numbers as an array of FLINT's balls."""
        flat = [part.flatten().tolist() for part in self.parts]
        result = np.empty(len(flat[0]), dtype=object)
        result[:] = [_ball(*each) for each in zip(*flat, strict=True)]
        return result.reshape(self.shape)

    def __add__(self, other: "Wide | float") -> "Wide":
        return _blocked(_add, self, _wide(other))

    def __sub__(self, other: "Wide | float") -> "Wide":
        return self + -_wide(other)

    def __rsub__(self, other: float) -> "Wide":
        return _wide(other) + -self

    def __mul__(self, other: "Wide | float") -> "Wide":
        return _blocked(_multiply, self, _wide(other))

    def __truediv__(self, other: "Wide | float") -> "Wide":
        return _blocked(_divide, self, _wide(other))

    def __rtruediv__(self, other: float) -> "Wide":
        return _wide(other) / self

    def __neg__(self) -> "Wide":
        return Wide(-self.hi, -self.lo, self.error)

    __radd__, __rmul__ = __add__, __mul__


def _ball(hi: float, lo: float, error: float) -> Any:
    if math.isinf(error) or math.isnan(hi):
        return flint.arb("nan")
    if math.isinf(hi):
        return flint.arb(hi)
    return flint.arb(flint.arb(hi) + lo, error)


def of_float64(values: Tensor) -> Wide:
    """Return float64 values as exact numbers; NaN is unknown."""
    zero = values.new_zeros(()).expand(values.shape)
    nan = values.isnan()
    return Wide(values, zero, zero.masked_fill(nan, torch.inf) if bool(nan.any()) else zero)


def of_balls(balls: Any) -> Wide:
    """Return an array of balls as wide numbers."""
    balls = np.asarray(balls, dtype=object)
    flat = [_of_ball(ball) for ball in balls.ravel().tolist()]
    parts = torch.tensor(flat, dtype=torch.float64).reshape(-1, 3).unbind(-1)
    return Wide(*(part.reshape(balls.shape) for part in parts))


def _of_ball(ball: Any) -> tuple[float, float, float]:
    if abs(ball) == flint.arb("inf"):
        return (math.inf if ball > 0 else -math.inf), 0.0, 0.0
    if not ball.is_finite():
        return 0.0, 0.0, math.inf
    hi = float(ball.mid())
    if math.isinf(hi):
        return 0.0, 0.0, math.inf
    lo = float((ball.mid() - hi).mid())
    error = float(abs(ball - hi - lo).upper())  # rounded, perhaps down and to 0
    return hi, lo, 0.0 if ball == flint.arb(hi) + lo else math.nextafter(error, math.inf)


def _wide(value: Wide | float) -> Wide:
    """Return a whole number or a power of two as a wide number."""
    if isinstance(value, Wide):
        return value
    return of_float64(torch.tensor(float(value), dtype=torch.float64))


# -- operations on a block


def _blocked(operation: Callable[..., Parts], *operands: Wide) -> Wide:
    """Apply an elementwise operation block by block; operands are broadcast."""
    shape = torch.broadcast_shapes(*(x.hi.shape for x in operands))
    if math.prod(shape) <= BLOCK:
        return Wide(*operation(*(part for x in operands for part in x.parts)))
    parts = [part.expand(shape) for x in operands for part in x.parts]
    out = [parts[0].new_empty(shape) for _ in range(3)]
    for at in blocks(shape):
        for whole, part in zip(out, operation(*(p[at] for p in parts)), strict=True):
            whole[at] = part
    return Wide(*out)


def _bounded(hi: Tensor, lo: Tensor, error: Tensor, exact: Callable[[], Parts]) -> Parts:
    """Return a result; where its bound is not finite, `exact` says what is known all the same."""
    error = error * _ROOM
    if not bool(error.sum().isfinite()):
        known, value, rest = exact()
        bad = ~(error.isfinite() & hi.isfinite() & lo.isfinite())
        hi, lo = torch.where(bad, value, hi), torch.where(bad, 0.0, lo)
        error = torch.where(bad, torch.where(known, rest, torch.inf), error)
    return hi, lo, error


def _infinite(hi: Tensor, error: Tensor) -> Tensor:
    return hi.isinf() & (error == 0)


def _add(ah: Tensor, al: Tensor, ae: Tensor, bh: Tensor, bl: Tensor, be: Tensor) -> Parts:
    hi, lo = dd.add(ah, al, bh, bl)
    error = hi.abs().mul_(dd.ADD_ERROR).add_(ae).add_(be)

    def at_infinity() -> Parts:
        value = ah + bh
        known = _infinite(ah, ae) & be.isfinite() | _infinite(bh, be) & ae.isfinite()
        return known & value.isinf(), value.nan_to_num(0, torch.inf, -torch.inf), torch.zeros(())

    return _bounded(hi, lo, error, at_infinity)


def _multiply(ah: Tensor, al: Tensor, ae: Tensor, bh: Tensor, bl: Tensor, be: Tensor) -> Parts:
    hi, lo = dd.multiply(ah, al, bh, bl)
    a, b = ah.abs(), bh.abs()
    error = hi.abs().mul_(dd.MULTIPLY_ERROR).add_(a * be).add_(b * ae).add_(ae * be).add_(TINY)
    zero = hi == 0
    if bool(zero.any()):
        zero &= (ah == 0) & (ae == 0) | (bh == 0) & (be == 0)
        error.masked_fill_(zero, 0)

    def at_infinity() -> Parts:
        value = ah * bh
        certain = (a > ae) & (b > be)
        known = (_infinite(ah, ae) | _infinite(bh, be)) & certain
        return known, value.nan_to_num(0, torch.inf, -torch.inf), torch.zeros(())

    return _bounded(hi, lo, error, at_infinity)


def _divide(ah: Tensor, al: Tensor, ae: Tensor, bh: Tensor, bl: Tensor, be: Tensor) -> Parts:
    hi, lo = dd.divide(ah, al, bh, bl)
    size = hi.abs()
    # |a/b - A/B| <= (|a - A| + |a/b| |b - B|) / |B|, with |B| >= |b| - |bl| - error
    below = bh.abs() * (1 - 2.0**-50) - be
    error = (
        (size * be).add_(ae).add_(_UNDERFLOW).div_(below).add_(size * dd.DIVIDE_ERROR).add_(TINY)
    )
    error = torch.where(below > 0, error, torch.inf)
    zero = (ah == 0) & (ae == 0) & (below > 0)
    if bool(zero.any()):
        error.masked_fill_(zero, 0)

    def at_infinity() -> Parts:
        value = ah / bh
        known = _infinite(ah, ae) & (below > 0) & bh.isfinite()
        known |= _infinite(bh, be) & ae.isfinite() & ah.isfinite()
        return known, value.nan_to_num(0, torch.inf, -torch.inf), torch.zeros(())

    return _bounded(hi, lo, error, at_infinity)


def _larger(ah: Tensor, al: Tensor, ae: Tensor, bh: Tensor, bl: Tensor, be: Tensor) -> Parts:
    first = (ah > bh) | (ah == bh) & (al >= bl)
    sure = ((ah - bh) + (al - bl)).abs() * (1 - 2.0**-50) > ae + be
    error = torch.where(sure, torch.where(first, ae, be), torch.maximum(ae, be))
    return torch.where(first, ah, bh), torch.where(first, al, bl), error


class Shared:
    """What the programs of a pair have in common: its inputs, and the last large products.

    Both sides multiply the same matrices, so each is converted and each product computed once.
    """

    def __init__(self) -> None:
        self.inputs: list[Wide] = []
        self.products: list[tuple[Wide, Wide, Wide]] = []
        self.restarts: list[Wide] = []

    def exact(self, values: Tensor) -> Wide:
        """Return the values of a tensor as exact numbers."""
        floats = values.detach().double().cpu()
        for known in self.inputs:
            if torch.equal(known.hi, floats):
                return known
        numbers = of_float64(floats)
        if values.numel() >= WORTH_REMEMBERING:
            self.inputs.append(numbers)
        return numbers

    def find(self, x: Wide, y: Wide) -> Wide | None:
        """Return the product of two matrices if it, or its transpose, was computed before."""
        for a, b, result in self.products:
            if _equal(a, x) and _equal(b, y):
                return result
            if _equal(a, _transposed(y)) and _equal(b, _transposed(x)):
                return _transposed(result)
        return None

    def restart(self, result: Wide, *, leads: bool) -> Wide:
        """Return the number from which both sides go on, without an error, after a product.

        The bound on an error grows with each product of a deep network, by as much as if all errors
        had one sign. Two products are taken for one where each element of the one is the other's to
        within their errors, and these are small.

        Args:
            result: The product.
            leads: Whether a product that no other equals becomes such a number.
        """
        for known in self.restarts:
            alike = known.shape == result.shape
            if alike and _agrees(known[..., :1, :], result[..., :1, :]) and _agrees(known, result):
                return known.without_error()
        if not leads:
            return result
        self.restarts.append(result)
        return result.without_error()

    def add(self, x: Wide, y: Wide, result: Wide) -> None:
        """Remember a product in place of the oldest ones."""
        self.products.append((x, y, result))
        while self._nbytes() > MOST_REMEMBERED:
            del self.products[0]

    def _nbytes(self) -> int:
        numbers = [x for product in self.products for x in product]
        storages = [part.untyped_storage() for x in numbers for part in x.parts]
        return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def _agrees(x: Wide, y: Wide) -> bool:
    difference = x - y
    size = x.hi.abs().amax(-1, keepdim=True) * _SMALL_ERROR
    return bool(
        (difference.hi.abs() <= difference.error).all() and (difference.error <= size).all()
    )


def _transposed(x: Wide) -> Wide:
    return x.arranged(lambda part: part.mT)


def _equal(x: Wide, y: Wide) -> bool:
    return x.shape == y.shape and all(map(torch.equal, x.parts, y.parts))


class WideArithmetic(ExactArithmetic):
    """The arithmetic of exact values to about 100 bits, over `Wide` arrays.

    It has the methods of `Arithmetic`, as `Balls` has.

    Args:
        reading: How constants in the code are read.
        shared: What other programs computed; inputs and products are added.
        product_bits: Of a product of matrices, relative to the row's and the column's largest.
        restart: None, or whether this program, the reference, says from which value both go on
            after a product.
    """

    def __init__(
        self,
        reading: Reading = AS_WRITTEN,
        shared: Shared | None = None,
        product_bits: int = WIDE_PRECISION,
        restart: bool | None = None,
    ) -> None:
        super().__init__(reading, WIDE_PRECISION if restart is None else RESTARTED)
        self.shared, self.product_bits, self.restart = shared or Shared(), product_bits, restart

    def exact(self, values: Tensor) -> Wide:
        """Return the values of a tensor as exact numbers."""
        return self.shared.exact(values)

    def function(self, name: str, x: Wide) -> Wide:
        """Return an elementary function of each element."""
        return Wide(*apply(name, *(part.contiguous() for part in x.parts)))

    def power(self, x: Wide, exponent: float, dtype: torch.dtype) -> Wide:
        """Return x**exponent for a number in the code; for negative x only if it is whole."""
        if exponent in (0.5, -0.5):
            return self.function("sqrt" if exponent > 0 else "rsqrt", x)
        if float(exponent).is_integer() and abs(exponent) <= 64:
            return _whole_power(x, int(exponent))
        read = self.constant(exponent, dtype)
        return self.function("exp", read * self.function("log", x))

    def where(self, mask: Tensor, x: Wide, y: Wide) -> Wide:
        """Return x where the mask of the float run is True, else y."""
        mask = mask.cpu()
        return Wide(*(torch.where(mask, *both) for both in zip(x.parts, y.parts, strict=True)))

    def maximum(self, x: Wide, y: Wide) -> Wide:
        """Return the larger of each pair."""
        return _blocked(_larger, x, _wide(y))

    def minimum(self, x: Wide, y: Wide) -> Wide:
        """Return the smaller of each pair."""
        return -self.maximum(-x, -_wide(y))

    def amax(self, x: Wide, dims: Sequence[int], keepdim: bool) -> Wide:
        """Return the largest element along `dims`; a number has none."""
        return _reduced(self.maximum, x, dims, keepdim)

    def sum(self, x: Wide, dims: Sequence[int], keepdim: bool) -> Wide:
        """Return the sum over `dims`, or over all if there are none."""
        dims = [d % x.ndim for d in dims if x.ndim] or list(range(x.ndim))
        return _reduced(Wide.__add__, x, dims, keepdim)

    def cumulative(self, x: Wide, dim: int, product: bool) -> Wide:
        """Return the cumulative sum, or product, along `dim`."""
        if not x.ndim or not x.shape[dim]:
            return x
        columns = x.moved(lambda part: part.unbind(dim))
        for k in range(1, len(columns)):
            before, here = columns[k - 1], columns[k]
            columns[k] = before * here if product else before + here
        return Wide(
            *(torch.stack(parts, dim) for parts in zip(*(c.parts for c in columns), strict=True))
        )

    def product(self, x: Wide, dim: int) -> Wide:
        """Return the product along `dim`, which is kept as a dimension of size 1."""
        if not x.shape[dim]:
            shape = [1 if d == dim % x.ndim else size for d, size in enumerate(x.shape)]
            return self.exact(torch.ones(shape))
        return _reduced(Wide.__mul__, x, [dim], True)

    def matmul(self, x: Wide, y: Wide) -> Wide:
        """Return the matrix product over the last two dimensions; leading dimensions are equal."""
        multiplications = math.prod(x.shape) * y.shape[-1]
        if multiplications < WORTH_REMEMBERING:
            return self._product(x, y)
        result = self.shared.find(x, y)
        if result is None:
            result = self._product(x, y)
            self.shared.add(x, y, result)
        return result if self.restart is None else self.shared.restart(result, leads=self.restart)

    def _product(self, x: Wide, y: Wide) -> Wide:
        hi, lo, error = product(x.parts[:2], y.parts[:2], self.product_bits)
        errors = bool(x.error.any()), bool(y.error.any())
        if any(errors):
            a, b = x.hi.abs(), y.hi.abs()
            if errors[0]:
                error = error + x.error @ (b + y.error)
            if errors[1]:
                error = error + a @ y.error
            # each rounded sum of magnitudes is short by at most so much
            error = error * (1 + (x.shape[-1] + 8) * 2.0**-50)
        return Wide(hi, lo, error.nan_to_num(torch.inf, torch.inf))

    def take(self, x: Wide, index: Tensor) -> Wide:
        """Return the elements of x at flat indices; 0 where the index is -1."""
        index = index.cpu()
        if not index.numel() or int(index.min()) >= 0:
            return x.arranged(lambda part: part.reshape(-1)[index])
        zero = torch.zeros(1, dtype=torch.float64)
        return x.arranged(lambda part: torch.cat([part.reshape(-1), zero])[index])

    def join(self, parts: Sequence[Wide]) -> Wide:
        """Return the elements of all parts in one vector."""
        return Wide.joined(parts, lambda same: torch.cat([part.reshape(-1) for part in same]))

    def scatter_add(self, x: Wide, index: Tensor, values: Wide) -> Wide:
        """Return x with `values` added at flat indices; at -1 nothing is added."""
        at, flat = index.cpu().reshape(-1), values.reshape((-1,))
        kept = (at >= 0).nonzero().reshape(-1)
        order = kept[at[kept].argsort(stable=True)]
        where, counts = at[order].unique_consecutive(return_counts=True)
        sums = _sums_of_runs(flat[order], counts)
        out = [part.reshape(-1).clone() for part in x.parts]
        added = x.reshape((-1,))[where] + sums
        for whole, part in zip(out, added.parts, strict=True):
            whole[where] = part
        return Wide(*out).reshape(x.shape)

    def known(self, balls: Any) -> Wide:
        """Return an array of balls, known constants, as wide numbers."""
        return of_balls(balls)

    def broadcast_to(self, x: Wide | float, shape: Sequence[int]) -> Wide:
        """Return x broadcast to a shape."""
        return _wide(x).arranged(lambda part: part.expand(tuple(shape)))


def _whole_power(x: Wide, exponent: int) -> Wide:
    if exponent < 0:
        return 1 / _whole_power(x, -exponent)
    if exponent == 0:
        return of_float64(torch.ones(x.shape, dtype=torch.float64))
    half = _whole_power(x, exponent // 2) if exponent > 1 else None
    square = None if half is None else half * half
    if square is None:
        return x
    return square * x if exponent % 2 else square


def _reduced(
    combine: Callable[[Wide, Wide], Wide], x: Wide, dims: Sequence[int], keepdim: bool
) -> Wide:
    """Combine all numbers along some dimensions, in halves."""
    over = sorted({d % x.ndim for d in dims}) if x.ndim else []
    kept = [d for d in range(x.ndim) if d not in over]
    shape = [x.shape[d] for d in kept]
    count = math.prod(x.shape[d] for d in over)
    if not count:
        rows = of_float64(torch.zeros(shape, dtype=torch.float64))
    else:
        order = [*over, *kept]
        rows = x.arranged(lambda part: part.permute(order).reshape(count, *shape))
        while (size := rows.shape[0]) > 1:
            half = size // 2
            first, second, odd = rows[:half], rows[half : 2 * half], rows[2 * half :]
            combined = combine(first, second)
            pairs = zip(combined.parts, odd.parts, strict=True)
            rows = Wide(*map(torch.cat, pairs)) if size % 2 else combined
        rows = rows[0]
    if keepdim:
        rows = rows.reshape([1 if d in over else s for d, s in enumerate(x.shape)])
    return rows


def _sums_of_runs(x: Wide, counts: Tensor) -> Wide:
    """Return the sum of each run of numbers that follow one another, of the given lengths."""
    while bool((counts > 1).any()):
        # each run is halved: its first half, longer by one if the length is odd, gets the second
        kept = (counts + 1) // 2
        starts = counts.cumsum(0) - counts
        run = torch.repeat_interleave(torch.arange(len(counts)), kept)
        place = torch.arange(int(kept.sum())) - (kept.cumsum(0) - kept)[run]
        first = starts[run] + place
        second = place + kept[run]
        has = second < counts[run]
        rows = x[first]
        summed = rows[has] + x[(starts[run] + second)[has]]
        for whole, part in zip(rows.parts, summed.parts, strict=True):
            whole[has] = part
        x, counts = rows, kept
    return x
