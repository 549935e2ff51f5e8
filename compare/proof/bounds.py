"""Numbers as (value, error bound): how far a float run can lie from the exact result.

A running error analysis (Higham, Accuracy and Stability of Numerical Algorithms, ch. 3): each
operation adds the rounding of its own result to what it inherits. Source of the gamma bound for
sums and products in any order: there, section 3.1. Values and bounds are float64 tensors, of any
leading dimensions: a bound for every step of a run at once. Each element has its own: one without
a bound never hides the others. Where an error says too little, a range says where the values lie
(compare/proof/intervals.py). An infinity that the code itself made is exact.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from compare.proof import intervals
from compare.proof.constants import distance_to_intended, is_exact, round_to, significant_bits
from compare.proof.intervals import Range

# How many ulps a kernel may be off, by function: torch on the CPU (SLEEF, 1.0 ulp claimed, and
# scalar libm in the tail) and CUDA's tables (at most 2 for those here) are within it. Measured by
# `python -m compare.proof.kernels`.
KERNEL_ULPS = 4.0
ERF_FLOAT32 = 2.0**-21
# Two things that the analysis leaves out: its own rounding, and the second order of a slope.
SLACK = 1.0 + 2.0**-10


@dataclass(frozen=True)
class Bound:
    """`value`, and `error` >= the distance of both it and the float run from the exact result.

    The error is infinite where nothing bounds it. An infinite value without error is one that the
    exact result and the float run have too.
    """

    arithmetic: "Bounds"
    value: Tensor
    error: Tensor
    # Where all three lie, None where that is just value +- error.
    span: Range | None = None
    # How large what was added up to it is, None where that is just the value's size.
    terms: Tensor | None = None
    # The two numbers that it is the larger of, where it is made so.
    of: "tuple[Bound, ...]" = ()

    @property
    def range(self) -> Range:
        """Where value, exact result and float run lie."""
        if self.span is not None:
            return self.span
        # float64's own rounding of the ends is a part of it
        off = torch.where(self.error == 0, 0.0, self.error + self.value.abs() * 2.0**-52)
        return intervals.known(self.value - off, self.value + off)

    @property
    def endless(self) -> Tensor:
        """Where it is an infinity, exactly."""
        return self.value.isinf() & (self.error == 0)

    @property
    def size(self) -> Tensor:
        """How large it is, or where next to nothing is left of what was added up to it, that.

        Sizes of terms that are not lost would be multiplied through a deep network to any number.
        """
        if self.terms is None:
            return self.value.abs()
        return torch.where(self.value.abs() < self.terms * 2.0**-20, self.terms, self.value.abs())

    @property
    def largest_term(self) -> Tensor:
        """How large the largest term added up to it is, its own size where there are none."""
        return self.value.abs() if self.terms is None else self.value.abs().maximum(self.terms)

    @property
    def shape(self) -> torch.Size:
        """The shape of either."""
        return self.value.shape

    @property
    def ndim(self) -> int:
        """The number of dimensions."""
        return self.value.ndim

    def exactly(self, where: Tensor) -> "Bound":
        """Return it with the values at a mask as what exact result and float run are there."""
        if not bool(where.any()):
            return self.trimmed()
        span = None
        if self.span is not None:
            low, high = (torch.where(where, self.value, end) for end in self.span)
            span = low, high
        error = self.error.masked_fill(where, 0)
        return Bound(self.arithmetic, self.value, error, span, self.terms).trimmed()

    def trimmed(self) -> "Bound":
        """Return it without a range that says no more than value and error do."""
        if self.span is None:
            return self
        low, high = self.span
        narrow = torch.minimum(self.value - low, high - self.value) < 0.99 * self.error
        narrow |= self.error.isinf() & (low.isfinite() | high.isfinite())
        return self if bool(narrow.any()) else replace(self, span=None)

    def __add__(self, other: "Bound | float") -> "Bound":
        return self.arithmetic.add(self, self._like(other))

    def __sub__(self, other: "Bound | float") -> "Bound":
        return self.arithmetic.subtract(self, self._like(other))

    def __rsub__(self, other: float) -> "Bound":
        return self.arithmetic.subtract(self._like(other), self)

    def __mul__(self, other: "Bound | float") -> "Bound":
        return self.arithmetic.multiply(self, self._like(other))

    def __truediv__(self, other: "Bound | float") -> "Bound":
        return self.arithmetic.divide(self, self._like(other))

    def __neg__(self) -> "Bound":
        span = None if self.span is None else (-self.span[1], -self.span[0])
        return Bound(self.arithmetic, -self.value, self.error, span, self.terms)

    __radd__, __rmul__ = __add__, __mul__

    def _like(self, other: "Bound | float") -> "Bound":
        """Return a whole number or a power of two as a bound without error."""
        if isinstance(other, Bound):
            return other
        value = self.value.new_tensor(float(other))
        return Bound(self.arithmetic, value, torch.zeros_like(value))


# The slope's largest size within a range, by function.
_SLOPES: dict[str, Callable[[Range], Tensor]] = {
    **dict.fromkeys(("exp", "expm1"), lambda x: torch.exp(x[1])),
    "log": lambda x: 1 / x[0].clamp_min(0),
    "log1p": lambda x: 1 / (1 + x[0]).clamp_min(0),
    "sqrt": lambda x: 0.5 * x[0].clamp_min(0).rsqrt(),
    "rsqrt": lambda x: 0.5 * x[0].clamp_min(0) ** -1.5,
    "reciprocal": lambda x: intervals.nearest(x) ** -2,
    "tanh": lambda x: 1 - torch.tanh(intervals.nearest(x)) ** 2 + 1e-30,
    "sigmoid": lambda x: torch.exp(-intervals.nearest(x)),
    **dict.fromkeys(("erf", "erfc"), lambda x: 1.1284 * torch.exp(-(intervals.nearest(x) ** 2))),
    **dict.fromkeys(("sin", "cos", "atan", "abs"), lambda x: torch.ones_like(x[0])),
}
_KERNELS: dict[str, Callable[[Tensor], Tensor]] = {name: getattr(torch, name) for name in _SLOPES}
_ROUNDED_ONCE = {"reciprocal", "abs"}
# What has no value at an infinity, or one that no float is.
_ROUNDED_AT_INFINITY = {"sin", "cos", "atan"}
# Operations whose kernels may hold the sums of float16 in float16, on the CPU.
_SUMS_IN_FLOAT16 = {"convolution_backward"}


class Bounds:
    """The same arithmetic as `Balls`, over bounds, for a float run in one dtype at a time."""

    def __init__(
        self,
        narrowest: torch.dtype | None = None,
        *,
        tf32_products: bool = False,
        narrow_sums: bool = False,
        terms: bool = False,
    ) -> None:
        self.operation, self.dtype = "", torch.float64  # the one at hand
        self.inner = [narrowest] if narrowest else []  # what a fused kernel may round to on the way
        self.tf32_products = tf32_products  # float32 factors may be rounded to 10 bits
        self.narrow_sums = narrow_sums  # half precision sums may be held in half precision
        self.terms = terms  # whether to tell how large what was added up is

    @property
    def unit(self) -> float:
        """Half an ulp of 1: the largest relative error of one rounding."""
        return max(torch.finfo(dtype).eps for dtype in (self.dtype, *self.inner)) / 2

    def _round(
        self,
        value: Tensor,
        error: Tensor,
        times: float = 1.0,
        tiny: float = 0.0,
        *,
        of: Sequence[Bound] = (),
        within: Callable[[], Range] | None = None,
        never_negative: bool = False,
        endless: Callable[[], Tensor] | None = None,
        terms: Callable[[], Tensor] | None = None,
    ) -> Bound:
        """Add one rounding, or `times` as much, and what underflow takes; overflow has no bound.

        `within` gives where the result `of` the operands lies before that, and `endless` where it
        is an infinity without error; neither is asked where the error says it all.
        """
        info = torch.finfo(self.dtype)
        # vectorised bfloat16 kernels work in float32 and may flush what is subnormal there
        flushed = info.smallest_normal if self.dtype == torch.bfloat16 else 0.0
        # what a fused kernel rounds to on the way is subnormal there sooner
        subnormal = max(i.smallest_normal * i.eps for i in (info, *map(torch.finfo, self.inner)))
        least = max(tiny, flushed, subnormal)
        total = (error + times * self.unit * (value.abs() + error) + least) * SLACK
        size = terms() if terms is not None and self.terms else None
        lost = ~(value.abs() + total < info.max)
        crosses = never_negative and bool((value < total - 2 * least).any())
        if not (crosses or any(x.span is not None for x in of) or bool(lost.any())):
            return Bound(self, value, total, terms=size)
        unknown = torch.full_like(value, torch.inf)
        ends = within() if within is not None else (-unknown, unknown)
        low, high = self._widened(ends, 2 * times * self.unit, least)
        if never_negative:
            low = low.clamp_min(0)
        plain = Bound(self, value, total).range
        low, high = torch.maximum(low, plain[0]), torch.minimum(high, plain[1])
        # what is rounded up to the largest float or further may be an infinity
        low = torch.where(low <= -info.max, -torch.inf, low)
        high = torch.where(high >= info.max, torch.inf, high)
        total = torch.where(lost, torch.inf, total).minimum((high - low) * SLACK)
        value = value.nan_to_num(0.0, torch.inf, -torch.inf).clamp(low, high)
        bound = Bound(self, value, total, (low, high), size)
        return bound.exactly(endless()) if endless is not None else bound.trimmed()

    @staticmethod
    def _widened(ends: Range, relative: float, absolute: float) -> Range:
        """Return a range with its ends moved outwards by what a rounding can move them."""
        largest = torch.finfo(torch.float64).max
        low, high = intervals.known(*ends)
        # an end that float64 has no number for lies beyond its largest one
        low, high = low.clamp_max(largest), high.clamp_min(-largest)
        return low - relative * low.abs() - absolute, high + relative * high.abs() + absolute

    @property
    def _sums_in(self) -> torch.dtype:
        """What sums are held in: float32 or wider, whatever the dtype, but for some kernels'."""
        narrow = self.dtype == torch.float16 and self.operation in _SUMS_IN_FLOAT16
        wide = self.dtype.itemsize >= 4 or self.narrow_sums or narrow
        return self.dtype if wide else torch.float32

    def _sum_unit(self, terms: int) -> float:
        """Return gamma_n of what sums are held in."""
        half = any(dtype.itemsize < 4 for dtype in (self.dtype, *self.inner))
        product = terms * torch.finfo(self._sums_in).eps / 2
        gamma = product / (1 - product) if product < 0.5 else float("inf")
        # Some kernels on the CPU (layer norm's bias, a convolution's weight) hold partial sums in
        # half precision; up to 1.5 units of the sum of sizes were measured.
        return gamma + 4 * self.unit if half else gamma

    def _overflow(self, size: Tensor, largest: float | None = None) -> Tensor:
        """Return infinity where a sum of such sizes may overflow on the way to what it is."""
        largest = torch.finfo(self._sums_in).max if largest is None else largest
        return torch.zeros_like(size).masked_fill(~(size < largest), torch.inf)

    def exact(self, values: Tensor) -> Bound:
        """Return the values of a tensor, without error."""
        value = values.detach().double().cpu()
        return Bound(self, value, torch.zeros_like(value))

    def constant(self, number: float, dtype: torch.dtype) -> Bound:
        """Return a number written in the code; it is rounded to the dtype that it is used in."""
        value = torch.tensor(float(number), dtype=torch.float64)
        kept = round_to(number, dtype) == float(number) and is_exact(number)
        off = 0.0 if kept else torch.finfo(dtype).eps
        return Bound(self, value, _relative(value, off) + distance_to_intended(number))

    def made(self, values: Tensor) -> Bound:
        """Return a tensor that the code makes, those of its numbers rounded that may be."""
        value, bits = values.detach().double().cpu(), significant_bits(values.dtype)
        rounded = [float(not is_exact(x, bits)) for x in value.flatten().tolist()]
        perhaps = torch.tensor(rounded, dtype=torch.float64).view_as(value)
        return Bound(self, value, _relative(value, torch.finfo(values.dtype).eps * perhaps))

    def add(self, x: Bound, y: Bound) -> Bound:
        """Return x + y."""
        value = x.value + y.value
        return self._round(
            value,
            x.error + y.error,
            of=(x, y),
            within=lambda: (x.range[0] + y.range[0], x.range[1] + y.range[1]),
            endless=lambda: value.isinf() & (_goes_on(x, y) | _goes_on(y, x)),
            terms=lambda: torch.maximum(x.size, y.size),
        )

    def subtract(self, x: Bound, y: Bound) -> Bound:
        """Return x - y."""
        found = self.add(x, -y)
        other = next((one for one in y.of if one is not x), x)
        if not any(one is x for one in y.of) or other is x:
            return found
        # x - max(x, z), as online softmax has it: where x is the larger for certain it is 0
        sure = (x.range[0] >= other.range[1]) & (found.value == 0) & x.value.isfinite()
        return found.exactly(sure)

    def multiply(self, x: Bound, y: Bound) -> Bound:
        """Return x * y."""
        value = x.value * y.value
        square = x is y
        a, b = x.value.abs(), y.value.abs()
        return self._round(
            value,
            a * y.error + b * x.error + x.error * y.error,
            of=(x, y),
            within=lambda: (
                intervals.square(x.range) if square else intervals.product(x.range, y.range)
            ),
            never_negative=square,
            endless=lambda: (_goes_on(x, y) & _not_zero(y)) | (_goes_on(y, x) & _not_zero(x)),
            terms=lambda: x.size * y.size,
        )

    def divide(self, x: Bound, y: Bound) -> Bound:
        """Return x / y."""
        value = x.value / y.value
        least = intervals.nearest(y.range)
        return self._round(
            value,
            (x.error + value.abs() * y.error) / least,
            of=(x, y),
            within=lambda: intervals.quotient(x.range, y.range),
            endless=lambda: value.isinf() & _goes_on(x, y) & _not_zero(y),
            terms=lambda: x.size / y.value.abs(),
        )

    def function(self, name: str, x: Bound) -> Bound:
        """Return an elementary function, by a kernel that is off by at most KERNEL_ULPS."""
        value = _KERNELS[name](x.value)
        slope = _SLOPES[name](x.range)
        inherited = torch.where(x.error == 0, 0.0, x.error * slope)
        if name == "sqrt":  # near 0 the slope is no bound: sqrt(x + e) - sqrt(x) <= sqrt(e)
            inherited = torch.minimum(inherited, x.error.sqrt())
        # a kernel may flush what is below the smallest normal number
        times, least = 2 * KERNEL_ULPS, torch.finfo(self.dtype).smallest_normal
        if name in _ROUNDED_ONCE:
            times, least = 1.0, 0.0
        if name in ("erf", "erfc") and self.dtype.itemsize <= 4:
            least = ERF_FLOAT32  # the erf inside gelu's own kernel is another one than torch.erf
        found = self._round(
            value,
            inherited,
            times,
            least,
            of=(x,),
            within=lambda: intervals.image(name, x.range),
            never_negative=name in intervals.NEVER_NEGATIVE,
        )
        if name in _ROUNDED_AT_INFINITY:
            return found
        exact = x.endless & ~value.isnan()  # exp(-inf) is 0, by every kernel
        if name in ("log", "log1p"):
            exact |= (x.error == 0) & (value == -torch.inf)
        return replace(found, value=torch.where(exact, value, found.value)).exactly(exact)

    def power(self, x: Bound, exponent: float, _dtype: torch.dtype) -> Bound:
        """Return x**exponent."""
        if exponent in (0, 1):
            return Bound(self, x.value**exponent, x.error * exponent)
        if exponent == 2:
            return self.multiply(x, x)
        value = x.value**exponent
        far, near = intervals.farthest(x.range), intervals.nearest(x.range)
        slope = abs(exponent) * torch.maximum(far ** (exponent - 1), near ** (exponent - 1))
        inherited = torch.where(x.error == 0, 0.0, x.error * slope)
        off = self._rounded_off(exponent)
        if off:  # |x**(p + off) - x**p| <= |x**p| expm1(off |log x|)
            logarithm = torch.maximum(far.log().abs(), near.log().abs())
            moved = torch.maximum(far**exponent, near**exponent) * (off * logarithm).expm1()
            inherited = inherited + torch.where(far == 0, 0.0, moved)
        return self._round(
            value,
            inherited,
            2 * KERNEL_ULPS,
            of=(x,),
            within=lambda: intervals.power(x.range, exponent, off),
        )

    def _rounded_off(self, exponent: float) -> float:
        """Return by how much a kernel may round an exponent: it takes it in the tensor's dtype."""
        off = abs(round_to(exponent, self.dtype) - exponent)
        return off if is_exact(exponent) else off + distance_to_intended(exponent)

    def where(self, mask: Tensor, x: Bound, y: Bound) -> Bound:
        """Choose by a mask, which the float run decided."""
        return self._each(lambda parts: torch.where(mask, *parts), (x, y))

    def _each(self, choose: Callable[[list[Tensor]], Any], parts: Sequence[Bound]) -> Bound:
        """Return what `choose` makes of the parts' values, errors, ranges and sizes alike."""
        span = terms = None
        if any(x.span is not None for x in parts):
            low, high = (choose([x.range[end] for x in parts]) for end in (0, 1))
            span = low, high
        if any(x.terms is not None for x in parts):
            terms = choose([x.size for x in parts])
        value, error = choose([x.value for x in parts]), choose([x.error for x in parts])
        return Bound(self, value, error, span, terms)

    def maximum(self, x: Bound, y: Bound) -> Bound:
        """Return the larger of each pair."""
        y = x._like(y)
        (low, high), (least, most) = x.range, y.range
        # the one that is the smaller for certain has no say
        error = torch.maximum(
            x.error.masked_fill(high < least, 0), y.error.masked_fill(most < low, 0)
        )
        span = None
        if x.span is not None or y.span is not None:
            span = torch.maximum(low, least), torch.maximum(high, most)
        terms = torch.maximum(x.size, y.size) if self.terms else None
        return Bound(self, torch.maximum(x.value, y.value), error, span, terms, (x, y))

    def minimum(self, x: Bound, y: Bound) -> Bound:
        """Return the smaller of each pair."""
        return -self.maximum(-x, -x._like(y))

    def amax(self, x: Bound, dims: Sequence[int], keepdim: bool) -> Bound:
        """Return the largest along `dims`."""
        over = list(dims)
        low, high = x.range
        error = x.error.masked_fill(high < low.amax(over, True), 0)  # those are never the largest
        span = None if x.span is None else (low.amax(over, keepdim), high.amax(over, keepdim))
        return Bound(self, x.value.amax(over, keepdim), error.amax(over, keepdim), span)

    def sum(self, x: Bound, dims: Sequence[int], keepdim: bool) -> Bound:
        """Return the sum over `dims`, all where there are none, in any order."""
        over = [d % x.ndim for d in dims] or list(range(x.ndim))

        def added(values: Tensor) -> Tensor:
            return values.sum(over, keepdim)

        value, error = added(x.value), added(x.error)
        size = added(x.value.abs()) + error
        gamma = self._sum_unit(math.prod(x.shape[dim] for dim in over))

        def within() -> Range:
            low, high = x.range
            off = gamma * added(intervals.farthest(x.range)) + self._overflow(size)
            # numbers of one sign add up to that sign, however they are rounded
            most, least = (high <= 0).all(over, keepdim), (low >= 0).all(over, keepdim)
            low, high = added(low), added(high)
            return (
                torch.where(least, (low - off).clamp_min(0), low - off),
                torch.where(most, (high + off).clamp_max(0), high + off),
            )

        return self._round(
            value,
            error + self._overflow(size) + gamma * size,
            2.0,
            of=(x,),
            within=within,
            endless=lambda: x.endless.any(over, keepdim) & _sure(x).all(over, keepdim),
            terms=lambda: added(x.size),
        )

    def running(self, x: Bound, dim: int, product: bool) -> Bound:
        """Return the running sum, or the running product, along `dim`."""
        size = x.value.abs() + x.error
        along = [1] * x.ndim
        along[dim] = -1
        terms = torch.arange(1.0, x.shape[dim] + 1, dtype=torch.float64).reshape(along)
        if product:
            return self._multiplied(x.value.cumprod(dim), size.cumprod(dim), x, dim, terms)
        relative = terms * self.unit
        gamma = torch.where(relative < 0.5, relative / (1 - relative), torch.inf)
        sizes = size.cumsum(dim)
        error = x.error.cumsum(dim) + gamma * sizes + self._overflow(sizes)
        return self._round(x.value.cumsum(dim), error)

    def product(self, x: Bound, dim: int) -> Bound:
        """Return the product along `dim`, which stays as a dimension of 1."""
        size = (x.value.abs() + x.error).prod(dim, keepdim=True)
        terms = torch.tensor(float(max(1, x.shape[dim])), dtype=torch.float64)
        return self._multiplied(x.value.prod(dim, keepdim=True), size, x, dim, terms)

    def _multiplied(self, value: Tensor, size: Tensor, x: Bound, dim: int, terms: Tensor) -> Bound:
        """Bound a product in any order, of which a part may underflow and then grow again."""
        info = torch.finfo(self.dtype)
        grown = (x.value.abs() + x.error).clamp_min(1).prod(dim, keepdim=True)
        lost = terms * info.smallest_normal * info.eps * grown + self._overflow(grown, info.max)
        return self._round(value, size - value.abs() + 4 * terms * self.unit * size + lost)

    def matmul(self, x: Bound, y: Bound) -> Bound:
        """Return the products of matrices: gamma_k |x| |y| for inner length k, in any order."""
        a, b = x.value.abs() + x.error, y.value.abs() + y.error
        inherited = x.error @ b + a @ y.error
        relative = self._sum_unit(x.shape[-1])
        if self.tf32_products and self.dtype == torch.float32:
            relative += 2 * 2.0**-10
        size = a @ b
        return self._round(
            x.value @ y.value,
            inherited + self._overflow(size) + relative * size,
            2.0,
            terms=lambda: x.size @ y.size,
        )

    def take(self, x: Bound, index: Tensor) -> Bound:
        """Return the elements of x, laid flat, at `index`; 0 where that is -1."""
        zero = x.value.new_zeros(1)
        return self._each(lambda parts: torch.cat([parts[0].reshape(-1), zero])[index], (x,))

    def join(self, parts: Sequence[Bound]) -> Bound:
        """Return all elements in one row."""
        return self._each(lambda values: torch.cat([v.reshape(-1) for v in values]), parts)

    def scatter_add(self, x: Bound, index: Tensor, values: Bound) -> Bound:
        """Return x with `values` added at the flat `index`, in any order; -1 adds nowhere."""
        at = index.reshape(-1)
        keep = at >= 0
        at = at[keep]

        def added(to: Tensor, of: Tensor) -> Tensor:
            return to.reshape(-1).index_add(0, at, of.reshape(-1)[keep]).reshape(to.shape)

        terms = int(torch.bincount(at).max()) if len(at) else 0
        value, error = added(x.value, values.value), added(x.error, values.error)
        size = added(x.value.abs() + x.error, values.value.abs() + values.error)
        # rounded to the dtype at every addition: no wider sum is held
        error = error + self._overflow(size, torch.finfo(self.dtype).max)
        return self._round(
            value,
            error + (terms + 1) * self.unit * size * 2,
            terms=lambda: added(x.size, values.size),
        )

    def rounded(self, x: Bound) -> Bound:
        """Return x after a rounding to the dtype."""
        return self._round(
            x.value,
            x.error,
            of=(x,),
            within=lambda: x.range,
            endless=lambda: x.endless,
            terms=lambda: x.size,
        )

    def shaped(self, x: Bound, shape: Sequence[int]) -> Bound:
        """Return x in that shape, repeated where it has to be."""
        if x.shape == tuple(shape):
            return x
        return self._each(lambda parts: parts[0].expand(tuple(shape)), (x,))


def _goes_on(x: Bound, y: Bound) -> Tensor:
    """Where x is an infinity, exactly, and y no other one: adding y leaves x what it is."""
    return x.endless & y.error.isfinite()


def _not_zero(x: Bound) -> Tensor:
    """Where x has a sign for certain."""
    return intervals.nearest(x.range) > 0


def _sure(x: Bound) -> Tensor:
    """Where x has a bound."""
    return x.error.isfinite() & ~x.value.isnan()


def _relative(value: Tensor, share: float | Tensor) -> Tensor:
    """Return the error of a constant; an infinite one has none."""
    return torch.where(value.isinf(), 0.0, value.abs() * share)
