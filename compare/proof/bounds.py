"""Arithmetic on (value, error bound) pairs: how far a float run can lie from the exact result.

This is a running error analysis (Higham, Accuracy and Stability of Numerical Algorithms, ch. 3):
each operation adds the rounding error of its result to the errors of its operands. The gamma bound
for sums and products in any order is from section 3.1 of the same book. Values and bounds are
float64 tensors with any leading dimensions, so that one pass can bound every step of a run. Each
element has a bound of its own: one that has none leaves the others' bounds as they are. Where an
error bound is too coarse, an interval is carried along too (compare/proof/intervals.py). An
infinity that the code itself writes, `float('inf')`, has error 0.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial, wraps
from typing import Any

import torch
from torch import Tensor

from compare.proof import intervals
from compare.proof.blocks import BLOCK, blocks
from compare.proof.constants import distance_to_intended, is_exact, round_to, significant_bits
from compare.proof.exact_values import elementwise
from compare.proof.intervals import Range

# The largest error of a kernel for an elementary function, in ulps. Torch's kernels on the CPU
# (SLEEF, which claims 1.0 ulp, and scalar libm in the tail) and CUDA's (at most 2 for these
# functions, by its tables) stay within it. `python -m compare.proof.kernels` measures them.
KERNEL_ULPS = 4.0
TRIGAMMA = 2.0**-28  # relative error of polygamma(1, x), in every dtype; 1e-9 was measured
ERF_FLOAT32 = 2.0**-21  # absolute error of erf and erfc in float32 and narrower dtypes
# The n roundings of a sum are at most so many times sqrt(n) roundings if they are independent
# (Higham and Mary, A New Approach to Probabilistic Rounding Error Analysis, 2019).
DEVIATIONS = 4.0
# A number takes part in at most so many additions of a sum, in any order, that add it to a larger
# one: each of these at least doubles the smaller side of a tree of additions.
ADDITIONS = 64.0
# Operands with fewer nonzero numbers than this share have their nonzero terms counted.
SPARSE = 0.25
# Covers two things that the analysis leaves out: the rounding of its float64 computation, and the
# second-order term of a derivative.
SLACK = 1.0 + 2.0**-10


@dataclass(frozen=True)
class Bound:
    """A float64 value, and a bound on the distance from the exact result to value and float run.

    The error is infinite where there is no bound. An infinite value with error 0 means that the
    exact result and the float run are the same infinity.
    """

    arithmetic: "Bounds"
    value: Tensor
    error: Tensor
    # An interval around value, exact result and float run; None: value - error to value + error.
    interval: Range | None = None
    # Magnitude of the largest term added up to the value; None: the magnitude of the value.
    terms: Tensor | None = None
    # The two operands, if this is the result of `maximum`.
    maximum_of: "tuple[Bound, ...]" = ()

    @property
    def range(self) -> Range:
        """The interval that contains the value, the exact result and the float run."""
        if self.interval is not None:
            return self.interval
        # includes the float64 rounding of the two ends
        radius = torch.where(self.error == 0, 0.0, self.error + self.value.abs() * 2.0**-52)
        return intervals.replace_nan(self.value - radius, self.value + radius)

    @property
    def exact_infinity(self) -> Tensor:
        """Mask of the elements that are an infinity in the exact result and the float run alike."""
        return self.value.isinf() & (self.error == 0)

    @property
    def magnitude(self) -> Tensor:
        """The value's magnitude, or its terms' magnitude where they cancel almost completely.

        If terms that do not cancel counted too, their magnitudes would be multiplied through a deep
        network without limit.
        """
        if self.terms is None:
            return self.value.abs()
        return torch.where(self.value.abs() < self.terms * 2.0**-20, self.terms, self.value.abs())

    @property
    def largest_term(self) -> Tensor:
        """The magnitude of the largest term added up to the value, or of the value if none."""
        return self.value.abs() if self.terms is None else self.value.abs().maximum(self.terms)

    @property
    def shape(self) -> torch.Size:
        """The shape of value and error."""
        return self.value.shape

    @property
    def ndim(self) -> int:
        """The number of dimensions."""
        return self.value.ndim

    def with_exact(self, mask: Tensor) -> "Bound":
        """Return the bound with its values taken as exact, error 0, where the mask is True."""
        if not bool(mask.any()):
            return self.simplified()
        interval = None
        if self.interval is not None:
            low, high = (torch.where(mask, self.value, end) for end in self.interval)
            interval = low, high
        error = self.error.masked_fill(mask, 0)
        return Bound(self.arithmetic, self.value, error, interval, self.terms).simplified()

    def moved(self, operation: Callable[[Tensor], Any]) -> Any:
        """Apply an operation that only moves numbers, or splits them into several arrays."""
        value, error = operation(self.value), operation(self.error)
        low = high = terms = None
        if self.interval is not None:
            low, high = map(operation, self.interval)
        if self.terms is not None:
            terms = operation(self.terms)
        if isinstance(value, Tensor):
            interval = None if low is None or high is None else (low, high)
            return Bound(self.arithmetic, value, error, interval, terms)
        count = range(len(value))
        lows, highs, all_terms = (p or [None] * len(value) for p in (low, high, terms))
        return [
            Bound(
                self.arithmetic, value[k], error[k],
                None if lows[k] is None else (lows[k], highs[k]), all_terms[k],
            )
            for k in count
        ]  # fmt: skip

    @staticmethod
    def joined(arrays: Sequence["Bound"], call: Callable[[list[Tensor]], Tensor]) -> "Bound":
        """Apply an operation that assembles the numbers of several arrays."""
        return arrays[0].arithmetic._map(call, arrays)

    def simplified(self) -> "Bound":
        """Return the bound, without its interval if that is no narrower than the error."""
        if self.interval is None:
            return self
        low, high = self.interval
        narrow = torch.minimum(self.value - low, high - self.value) < 0.99 * self.error
        narrow |= self.error.isinf() & (low.isfinite() | high.isfinite())
        return self if bool(narrow.any()) else replace(self, interval=None)

    def __add__(self, other: "Bound | float") -> "Bound":
        return self.arithmetic.add(self, self._as_bound(other))

    def __sub__(self, other: "Bound | float") -> "Bound":
        return self.arithmetic.subtract(self, self._as_bound(other))

    def __rsub__(self, other: float) -> "Bound":
        return self.arithmetic.subtract(self._as_bound(other), self)

    def __mul__(self, other: "Bound | float") -> "Bound":
        return self.arithmetic.multiply(self, self._as_bound(other))

    def __truediv__(self, other: "Bound | float") -> "Bound":
        return self.arithmetic.divide(self, self._as_bound(other))

    def __neg__(self) -> "Bound":
        interval = None if self.interval is None else (-self.interval[1], -self.interval[0])
        return Bound(self.arithmetic, -self.value, self.error, interval, self.terms)

    __radd__, __rmul__ = __add__, __mul__

    def _as_bound(self, other: "Bound | float") -> "Bound":
        """Return a whole number or a power of two as a bound without error."""
        if isinstance(other, Bound):
            return other
        value = self.value.new_tensor(float(other))
        return Bound(self.arithmetic, value, torch.zeros_like(value))


_Method = Callable[..., Bound]


def _in_blocks(method: _Method) -> _Method:
    """Run an elementwise method of `Bounds` block by block where its operands are large."""

    @wraps(method)
    def run(self: "Bounds", *args: Any) -> Bound:
        operands = [x for x in args if isinstance(x, Bound | Tensor)]
        shape = torch.broadcast_shapes(*(x.shape for x in operands))
        if math.prod(shape) <= BLOCK:
            return method(self, *args)
        whole = {id(x): _mapped(x, lambda part: part.expand(shape)) for x in operands}
        indices = blocks(shape)
        results = []
        for at in indices:
            # an operand that occurs twice stays one object, which makes a square
            cut = {key: _mapped(x, lambda part: part[at]) for key, x in whole.items()}  # noqa: B023
            results.append(method(self, *(cut.get(id(x), x) for x in args)))
        return _assembled(shape, indices, results)

    return run


def _mapped(x: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Return a bound, or a mask, with each of its tensors changed."""
    return change(x) if isinstance(x, Tensor) else x.moved(change)


def _assembled(shape: Sequence[int], indices: Sequence[Any], results: Sequence[Bound]) -> Bound:
    """Return the bound of a shape of which each index holds one of the results."""

    def whole(parts: Iterable[Tensor]) -> Tensor:
        out = torch.empty(tuple(shape), dtype=torch.float64)
        for at, part in zip(indices, parts, strict=True):
            out[at] = part
        return out

    interval = terms = None
    if any(x.interval is not None for x in results):
        interval = whole(x.range[0] for x in results), whole(x.range[1] for x in results)
    if any(x.terms is not None for x in results):
        terms = whole(x.magnitude if x.terms is None else x.terms for x in results)
    value, error = whole(x.value for x in results), whole(x.error for x in results)
    return Bound(results[0].arithmetic, value, error, interval, terms)


def _polygamma_derivative(order: int, x: Range) -> Tensor:
    """Return the largest magnitude of the next polygamma: it decreases, and has a pole at 0."""
    return torch.where(x[0] > 0, 1.01 * torch.polygamma(order + 1, x[0]).abs(), torch.inf)


def _erfcx_derivative(x: Range) -> Tensor:
    """Return the largest magnitude of the derivative of erfcx, at the low end: erfcx is convex.

    Above 0 by the bound of Birnbaum, An Inequality for Mill's Ratio, 1942, for erfcx itself.
    """
    low = x[0].clamp_min(0)
    positive = 2.2568 / (low + (low * low + 2).sqrt()) ** 2
    negative = 1.1284 - 2.01 * x[0] * torch.special.erfcx(x[0])
    return torch.where(x[0] > 0, positive, negative)


# For each elementary function, the largest magnitude of its derivative within a range.
_MAX_DERIVATIVES: dict[str, Callable[[Range], Tensor]] = {
    **dict.fromkeys(("exp", "expm1"), lambda x: torch.exp(x[1])),
    "log": lambda x: 1 / x[0].clamp_min(0),
    "log1p": lambda x: 1 / (1 + x[0]).clamp_min(0),
    "sqrt": lambda x: 0.5 * x[0].clamp_min(0).rsqrt(),
    "rsqrt": lambda x: 0.5 * x[0].clamp_min(0) ** -1.5,
    "reciprocal": lambda x: intervals.smallest_magnitude(x) ** -2,
    "tanh": lambda x: 1 - torch.tanh(intervals.smallest_magnitude(x)) ** 2 + 1e-30,
    "sigmoid": lambda x: torch.exp(-intervals.smallest_magnitude(x)),
    **dict.fromkeys(
        ("erf", "erfc"), lambda x: 1.1284 * torch.exp(-(intervals.smallest_magnitude(x) ** 2))
    ),
    **dict.fromkeys(("sin", "cos", "atan", "abs"), lambda x: torch.ones_like(x[0])),
    **dict.fromkeys(("sinh", "cosh"), lambda x: torch.cosh(intervals.largest_magnitude(x))),
    "tan": lambda x: torch.maximum(1 + x[0].tan() ** 2, 1 + x[1].tan() ** 2).masked_fill(
        intervals.crosses_pole_of_tan(x), torch.inf
    ),
    **dict.fromkeys(
        ("asin", "acos"),
        lambda x: (1 - intervals.largest_magnitude(x) ** 2).clamp_min(0).rsqrt(),
    ),
    "acosh": lambda x: (x[0].clamp_min(1) ** 2 - 1).rsqrt(),
    "atanh": lambda x: 1 / (1 - intervals.largest_magnitude(x) ** 2).clamp_min(0),
    "erfinv": lambda x: (
        0.8863 * torch.exp(intervals.largest_magnitude(x).clamp_max(1).erfinv() ** 2)
    ),
    "asinh": lambda x: (1 + intervals.smallest_magnitude(x) ** 2).rsqrt() * 1.01,
    "erfcx": _erfcx_derivative,
    **dict.fromkeys(("i0", "i1"), lambda x: intervals.largest_magnitude(x).i0()),
    **dict.fromkeys(("i0e", "i1e"), lambda x: torch.ones_like(x[0])),
    # the derivative of lgamma increases from -inf to inf, those of the other two decrease in size
    "lgamma": lambda x: torch.where(
        x[0] > 0, torch.maximum(x[0].digamma().abs(), x[1].digamma().abs()), torch.inf
    ),
    "digamma": partial(_polygamma_derivative, 0),
    **{f"polygamma{k}": partial(_polygamma_derivative, k) for k in range(1, 6)},
}
_KERNELS: dict[str, Callable[[Tensor], Tensor]] = {
    **{name: getattr(torch, name) for name in _MAX_DERIVATIVES if hasattr(torch, name)},
    **{
        name: getattr(torch.special, name)
        for name in _MAX_DERIVATIVES
        if hasattr(torch.special, name) and not hasattr(torch, name)
    },
    **{f"polygamma{k}": partial(torch.polygamma, k) for k in range(1, 6)},
}
_ROUNDED_ONCE = {"reciprocal", "abs"}
# Polynomials and series from Cephes, with larger errors: up to 8.8 ulp were measured.
_OTHER_KERNEL_ULPS = dict.fromkeys(
    ("erfcx", "i0", "i1", "i0e", "i1e", *(f"polygamma{k}" for k in range(2, 6))), 16.0
)
_EXPONENTIAL = {"sinh", "cosh", "i0", "i1"}
_GAMMA = {"lgamma", "digamma", *(f"polygamma{k}" for k in range(1, 6))}
# Functions that have no value at an infinity, or one that no float equals.
_INEXACT_AT_INFINITY = {"sin", "cos", "atan"}
# Operations whose CPU kernels may accumulate float16 sums in float16.
_FLOAT16_ACCUMULATORS = {"convolution_backward"}


class Bounds:
    """The arithmetic of rounding bounds: each result with a bound on its rounding error.

    It has the methods of `Arithmetic`, as `Balls` has. `operation` and `dtype` are those of the
    operation at hand; the interpreter sets them before each one.
    """

    def __init__(
        self,
        narrowest: torch.dtype | None = None,
        *,
        tf32_products: bool = False,
        narrow_sums: bool = False,
        terms: bool = False,
        independent: bool = False,
    ) -> None:
        self.operation, self.dtype = "", torch.float64
        # dtypes that a fused kernel may round intermediate results to
        self.inner_dtypes = [narrowest] if narrowest else []
        self.tf32_products = tf32_products  # float32 factors may be rounded to 10 bits
        self.narrow_sums = narrow_sums  # half-precision sums may be accumulated in half precision
        self.terms = terms  # whether to track the magnitude of the terms that are added up
        self.independent = independent  # whether the roundings of one sum count as independent

    @property
    def unit(self) -> float:
        """The unit roundoff, half an ulp of 1: the largest relative error of one rounding."""
        return max(torch.finfo(dtype).eps for dtype in (self.dtype, *self.inner_dtypes)) / 2

    def _round(
        self,
        value: Tensor,
        error: Tensor,
        times: float = 1.0,
        tiny: float = 0.0,
        *,
        operands: Sequence[Bound] = (),
        exact_range: Callable[[], Range] | None = None,
        never_negative: bool = False,
        exact_infinity: Callable[[], Tensor] | None = None,
        terms: Callable[[], Tensor] | None = None,
    ) -> Bound:
        """Return a result with one rounding, `times` units, and underflow added to its error.

        An overflow has no bound. `exact_range` computes the interval of the result before rounding,
        and `exact_infinity` the mask of elements that are an infinity without error; both are
        called only if value and error are not enough.

        Args:
            value: The result, computed in float64.
            error: The part of the error that comes from the operands' errors.
            times: How many units of roundoff the operation adds.
            tiny: A lower limit on the absolute error that underflow may cause.
            operands: The operands; if one has an interval, the result may need one.
            exact_range: Computes the interval of the exact result.
            never_negative: Whether neither the exact result nor a kernel's result is negative.
            exact_infinity: Computes where the result is an infinity without error.
            terms: Computes the magnitude of the terms added up to the result.
        """
        info = torch.finfo(self.dtype)
        # vectorised bfloat16 kernels compute in float32 and may flush float32 subnormals to zero
        flushed = info.smallest_normal if self.dtype == torch.bfloat16 else 0.0
        # a narrower dtype inside a fused kernel underflows sooner
        infos = info, *map(torch.finfo, self.inner_dtypes)
        subnormal = max(i.smallest_normal * i.eps for i in infos)
        least = max(tiny, flushed, subnormal)
        total = (error + times * self.unit * (value.abs() + error) + least) * SLACK
        magnitude = terms() if terms is not None and self.terms else None
        overflows = ~(value.abs() + total < info.max)
        crosses_zero = never_negative and bool((value < total - 2 * least).any())
        ranged = any(x.interval is not None for x in operands)
        if not (crosses_zero or ranged or bool(overflows.any())):
            return Bound(self, value, total, terms=magnitude)
        infinity = torch.full_like(value, torch.inf)
        ends = exact_range() if exact_range is not None else (-infinity, infinity)
        low, high = self._widened(ends, 2 * times * self.unit, least)
        if never_negative:
            low = low.clamp_min(0)
        plain = Bound(self, value, total).range
        low, high = torch.maximum(low, plain[0]), torch.minimum(high, plain[1])
        # a value that rounds to the largest float or beyond may be an infinity in the float run
        low = torch.where(low <= -info.max, -torch.inf, low)
        high = torch.where(high >= info.max, torch.inf, high)
        total = torch.where(overflows, torch.inf, total).minimum((high - low) * SLACK)
        value = value.nan_to_num(0.0, torch.inf, -torch.inf).clamp(low, high)
        bound = Bound(self, value, total, (low, high), magnitude)
        if exact_infinity is None:
            return bound.simplified()
        return bound.with_exact(exact_infinity())

    @staticmethod
    def _widened(ends: Range, relative: float, absolute: float) -> Range:
        """Return a range with its ends moved outwards by a relative and an absolute error."""
        largest = torch.finfo(torch.float64).max
        low, high = intervals.replace_nan(*ends)
        # an end that overflowed in float64 lies beyond its largest number
        low, high = low.clamp_max(largest), high.clamp_min(-largest)
        return low - relative * low.abs() - absolute, high + relative * high.abs() + absolute

    @property
    def _accumulator(self) -> torch.dtype:
        """The dtype that sums are accumulated in: float32 or wider, except in some kernels."""
        narrow = self.dtype == torch.float16 and self.operation in _FLOAT16_ACCUMULATORS
        in_dtype = self.dtype.itemsize >= 4 or self.narrow_sums or narrow
        return self.dtype if in_dtype else torch.float32

    def _sum_unit(self, terms: int) -> float:
        """Return gamma_n in the accumulator's dtype, for a sum of n terms."""
        half_precision = any(d.itemsize < 4 for d in (self.dtype, *self.inner_dtypes))
        product = terms * torch.finfo(self._accumulator).eps / 2
        gamma = product / (1 - product) if product < 0.5 else float("inf")
        # Some CPU kernels (layer norm's bias, a convolution's weight) hold partial sums in half
        # precision; errors of up to 1.5 units of the sum of magnitudes were measured.
        return gamma + 4 * self.unit if half_precision else gamma

    def _roundings(self, terms: int) -> int:
        """Return how many roundings of one sign a sum of so many terms stands for."""
        if not self.independent:
            return terms
        return min(terms, math.ceil(DEVIATIONS * math.sqrt(terms)))

    def _sparse(self, x: Bound) -> Tensor | None:
        """Return 1 for the elements of x that are not 0 or nearly so, None unless these are few.

        Adding a number t changes a sum by no more than t, rounding included. So a term that is 0,
        or the underflow of a product with 0, adds no relative rounding error, only a multiple of
        itself, see ADDITIONS.
        """
        info = torch.finfo(self.dtype)
        nonzero = x.value.abs() + x.error > 4 * info.smallest_normal * info.eps
        few = int(nonzero.count_nonzero()) < SPARSE * nonzero.numel()
        return nonzero.double() if few else None

    def _overflow(self, size: Tensor, largest: float | None = None) -> Tensor:
        """Return infinity where a partial sum of terms of these magnitudes may overflow, else 0."""
        largest = torch.finfo(self._accumulator).max if largest is None else largest
        return torch.zeros_like(size).masked_fill(~(size < largest), torch.inf)

    def exact(self, values: Tensor) -> Bound:
        """Return the values of a tensor with error 0."""
        value = values.detach().double().cpu()
        return Bound(self, value, torch.zeros_like(value))

    def constant(self, number: float, dtype: torch.dtype) -> Bound:
        """Return a number written in the code, with the error of rounding it to the dtype."""
        value = torch.tensor(float(number), dtype=torch.float64)
        kept = round_to(number, dtype) == float(number) and is_exact(number)
        relative = 0.0 if kept else torch.finfo(dtype).eps
        return Bound(self, value, _relative_error(value, relative) + distance_to_intended(number))

    def tensor_constant(self, values: Tensor) -> Bound:
        """Return a tensor that the code creates, with a rounding error for each inexact number."""
        value, bits = values.detach().double().cpu(), significant_bits(values.dtype)
        unique, where = value.unique(return_inverse=True)
        rounded = [float(not is_exact(x, bits)) for x in unique.tolist()]
        inexact = torch.tensor(rounded, dtype=torch.float64)[where].view_as(value)
        return Bound(self, value, _relative_error(value, torch.finfo(values.dtype).eps * inexact))

    @_in_blocks
    def add(self, x: Bound, y: Bound) -> Bound:
        """Return x + y."""
        value = x.value + y.value
        return self._round(
            value,
            x.error + y.error,
            operands=(x, y),
            exact_range=lambda: (x.range[0] + y.range[0], x.range[1] + y.range[1]),
            exact_infinity=lambda: value.isinf() & (_stays_infinite(x, y) | _stays_infinite(y, x)),
            terms=lambda: torch.maximum(x.magnitude, y.magnitude),
        )

    def subtract(self, x: Bound, y: Bound) -> Bound:
        """Return x - y."""
        difference = self.add(x, -y)
        other = next((one for one in y.maximum_of if one is not x), x)
        if not any(one is x for one in y.maximum_of) or other is x:
            return difference
        # x - max(x, z), as in online softmax, is exactly 0 where x is certainly the larger
        zero = (x.range[0] >= other.range[1]) & (difference.value == 0) & x.value.isfinite()
        return difference.with_exact(zero)

    @_in_blocks
    def multiply(self, x: Bound, y: Bound) -> Bound:
        """Return x * y."""
        value = x.value * y.value
        square = x is y
        a, b = x.value.abs(), y.value.abs()
        return self._round(
            value,
            a * y.error + b * x.error + x.error * y.error,
            operands=(x, y),
            exact_range=lambda: (
                intervals.square(x.range) if square else intervals.product(x.range, y.range)
            ),
            never_negative=square,
            exact_infinity=lambda: (
                (_stays_infinite(x, y) & _sign_is_certain(y))
                | (_stays_infinite(y, x) & _sign_is_certain(x))
            ),
            terms=lambda: x.magnitude * y.magnitude,
        )

    @_in_blocks
    def divide(self, x: Bound, y: Bound) -> Bound:
        """Return x / y."""
        value = x.value / y.value
        least = intervals.smallest_magnitude(y.range)
        return self._round(
            value,
            (x.error + value.abs() * y.error) / least,
            operands=(x, y),
            exact_range=lambda: intervals.quotient(x.range, y.range),
            exact_infinity=lambda: value.isinf() & _stays_infinite(x, y) & _sign_is_certain(y),
            terms=lambda: x.magnitude / y.value.abs(),
        )

    @_in_blocks
    def function(self, name: str, x: Bound) -> Bound:
        """Return an elementary function, whose kernel has an error of at most KERNEL_ULPS."""
        value = _KERNELS[name](x.value)
        derivative = _MAX_DERIVATIVES[name](x.range)
        inherited = torch.where(x.error == 0, 0.0, x.error * derivative)
        if name == "sqrt":  # the derivative is infinite at 0; sqrt(x + e) - sqrt(x) <= sqrt(e)
            inherited = torch.minimum(inherited, x.error.sqrt())
        # a kernel may flush results below the smallest normal number to zero
        times = 2 * _OTHER_KERNEL_ULPS.get(name, KERNEL_ULPS)
        least = torch.finfo(self.dtype).smallest_normal
        if name in _ROUNDED_ONCE:
            times, least = 1.0, 0.0
        if name in ("erf", "erfc") and self.dtype.itemsize <= 4:
            least = ERF_FLOAT32  # gelu's kernel has an erf that is not torch.erf
        if name == "digamma":
            least = 8 * self.unit  # near its zero at 1.46 the kernel subtracts numbers of size 1
        if name == "erfcx":  # below 0 the kernel takes exp of a rounded square
            rounded = 2 * self.unit * value * x.range[0].clamp_max(0) ** 2
            inherited = inherited + rounded.nan_to_num(torch.inf)
        if name == "polygamma1":
            inherited = inherited + TRIGAMMA * value.abs()
        if (
            name in _GAMMA
        ):  # below 0 these kernels lose digits near the poles, without a known limit
            inherited = inherited.masked_fill(~(x.range[0] > 0), torch.inf)
        early = self._overflows_early(name, x)
        if early is not None:
            inherited = inherited.masked_fill(early, torch.inf)

        def exact_range() -> Range:
            low, high = intervals.image(name, x.range)
            if early is None:
                return low, high
            return low.masked_fill(early, -torch.inf), high.masked_fill(early, torch.inf)

        result = self._round(
            value,
            inherited,
            times,
            least,
            operands=(x,),
            exact_range=exact_range,
            never_negative=name in intervals.NEVER_NEGATIVE,
        )
        if name in _INEXACT_AT_INFINITY:
            return result
        exact = x.exact_infinity & ~value.isnan()  # exp(-inf) is 0 in every kernel
        if name in ("log", "log1p"):
            exact |= (x.error == 0) & (value == -torch.inf)
        return replace(result, value=torch.where(exact, value, result.value)).with_exact(exact)

    def _overflows_early(self, name: str, x: Bound) -> Tensor | None:
        """Return where a kernel that multiplies by exp overflows before its result does."""
        if name not in _EXPONENTIAL:
            return None
        exp = intervals.largest_magnitude(x.range).exp()
        return (exp >= torch.finfo(self.dtype).max) & x.value.isfinite()

    @_in_blocks
    def power(self, x: Bound, exponent: float, _dtype: torch.dtype) -> Bound:
        """Return x**exponent, for an exponent that is a number in the code."""
        if exponent in (0, 1):
            return Bound(self, x.value**exponent, x.error * exponent)
        if exponent == 2:
            return self.multiply(x, x)
        value = x.value**exponent
        far, near = intervals.largest_magnitude(x.range), intervals.smallest_magnitude(x.range)
        derivative = abs(exponent) * torch.maximum(far ** (exponent - 1), near ** (exponent - 1))
        inherited = torch.where(x.error == 0, 0.0, x.error * derivative)
        off = self._exponent_error(exponent)
        if off:  # |x**(p + off) - x**p| <= |x**p| expm1(off |log x|)
            logarithm = torch.maximum(far.log().abs(), near.log().abs())
            change = torch.maximum(far**exponent, near**exponent) * (off * logarithm).expm1()
            inherited = inherited + torch.where(far == 0, 0.0, change)
        return self._round(
            value,
            inherited,
            2 * KERNEL_ULPS,
            operands=(x,),
            exact_range=lambda: intervals.power(x.range, exponent, off),
        )

    def _exponent_error(self, exponent: float) -> float:
        """Return the rounding error of an exponent, which a kernel takes in the tensor's dtype."""
        off = abs(round_to(exponent, self.dtype) - exponent)
        return off if is_exact(exponent) else off + distance_to_intended(exponent)

    def where(self, mask: Tensor, x: Bound, y: Bound) -> Bound:
        """Return x where the mask of the float run is True, else y."""
        return self._map(lambda parts: torch.where(mask, *parts), (x, y))

    def _map(self, choose: Callable[[list[Tensor]], Any], parts: Sequence[Bound]) -> Bound:
        """Apply `choose`, which only moves numbers, to values, errors, ranges and magnitudes."""
        interval = terms = None
        if any(x.interval is not None for x in parts):
            low, high = (choose([x.range[end] for x in parts]) for end in (0, 1))
            interval = low, high
        if any(x.terms is not None for x in parts):
            terms = choose([x.magnitude for x in parts])
        value, error = choose([x.value for x in parts]), choose([x.error for x in parts])
        return Bound(self, value, error, interval, terms)

    def maximum(self, x: Bound, y: Bound) -> Bound:
        """Return the larger of each pair."""
        y = x._as_bound(y)
        (low, high), (least, most) = x.range, y.range
        # an operand that is certainly the smaller does not contribute
        error = torch.maximum(
            x.error.masked_fill(high < least, 0), y.error.masked_fill(most < low, 0)
        )
        interval = None
        if x.interval is not None or y.interval is not None:
            interval = torch.maximum(low, least), torch.maximum(high, most)
        terms = torch.maximum(x.magnitude, y.magnitude) if self.terms else None
        return Bound(self, torch.maximum(x.value, y.value), error, interval, terms, (x, y))

    def minimum(self, x: Bound, y: Bound) -> Bound:
        """Return the smaller of each pair."""
        return -self.maximum(-x, -x._as_bound(y))

    def amax(self, x: Bound, dims: Sequence[int], keepdim: bool) -> Bound:
        """Return the largest element along `dims`."""
        over = list(dims)
        low, high = x.range
        # elements that are certainly not the largest do not contribute
        error = x.error.masked_fill(high < low.amax(over, True), 0)
        interval = (
            None if x.interval is None else (low.amax(over, keepdim), high.amax(over, keepdim))
        )
        return Bound(self, x.value.amax(over, keepdim), error.amax(over, keepdim), interval)

    def sum(self, x: Bound, dims: Sequence[int], keepdim: bool) -> Bound:
        """Return the sum over `dims`, or over all if there are none, added in any order."""
        over = [d % x.ndim for d in dims if x.ndim] or list(range(x.ndim))

        def added(values: Tensor) -> Tensor:
            return values.sum(over, keepdim)

        value, error = added(x.value), added(x.error)
        size = added(x.value.abs()) + error
        terms, lost = math.prod(x.shape[dim] for dim in over), torch.zeros(())
        if (nonzero := self._sparse(x)) is not None:
            terms = _largest(added(nonzero))
            lost = added((x.value.abs() + x.error) * (1 - nonzero)) * ADDITIONS
        equal = x.value.numel() > 0 and bool((x.value == x.value.flatten()[0]).all())
        if not equal:  # equal numbers round to one side
            terms = self._roundings(terms)
        gamma = self._sum_unit(terms)

        def exact_range() -> Range:
            low, high = x.range
            off = gamma * added(intervals.largest_magnitude(x.range)) + lost + self._overflow(size)
            # a rounded sum of numbers of one sign keeps that sign
            negative, positive = (high <= 0).all(over, keepdim), (low >= 0).all(over, keepdim)
            low, high = added(low), added(high)
            return (
                torch.where(positive, (low - off).clamp_min(0), low - off),
                torch.where(negative, (high + off).clamp_max(0), high + off),
            )

        return self._round(
            value,
            error + self._overflow(size) + gamma * size + lost,
            2.0,
            operands=(x,),
            exact_range=exact_range,
            exact_infinity=lambda: (
                x.exact_infinity.any(over, keepdim) & _has_bound(x).all(over, keepdim)
            ),
            terms=lambda: added(x.magnitude),
        )

    def cumulative(self, x: Bound, dim: int, product: bool) -> Bound:
        """Return the cumulative sum, or product, along `dim`."""
        size = x.value.abs() + x.error
        along = [1] * x.ndim
        along[dim] = -1
        terms = torch.arange(1.0, x.shape[dim] + 1, dtype=torch.float64).reshape(along)
        if product:
            return self._bounded_product(x.value.cumprod(dim), size.cumprod(dim), x, dim, terms)
        relative = terms * self.unit
        gamma = torch.where(relative < 0.5, relative / (1 - relative), torch.inf)
        sizes = size.cumsum(dim)
        error = x.error.cumsum(dim) + gamma * sizes + self._overflow(sizes)
        return self._round(x.value.cumsum(dim), error)

    def product(self, x: Bound, dim: int) -> Bound:
        """Return the product along `dim`, which is kept as a dimension of size 1."""
        size = (x.value.abs() + x.error).prod(dim, keepdim=True)
        terms = torch.tensor(float(max(1, x.shape[dim])), dtype=torch.float64)
        return self._bounded_product(x.value.prod(dim, keepdim=True), size, x, dim, terms)

    def _bounded_product(
        self, value: Tensor, size: Tensor, x: Bound, dim: int, terms: Tensor
    ) -> Bound:
        """Bound a product in any order, whose partial products may underflow and grow again."""
        info = torch.finfo(self.dtype)
        grown = (x.value.abs() + x.error).clamp_min(1).prod(dim, keepdim=True)
        lost = terms * info.smallest_normal * info.eps * grown + self._overflow(grown, info.max)
        return self._round(value, size - value.abs() + 4 * terms * self.unit * size + lost)

    def matmul(self, x: Bound, y: Bound) -> Bound:
        """Return the matrix product over the last two dimensions; leading dimensions are equal."""
        return self.sum_of_products(x, y, torch.matmul, x.shape[-1])

    def sum_of_products(
        self, x: Bound, y: Bound, product: Callable[[Tensor, Tensor], Tensor], terms: int
    ) -> Bound:
        """Return sums of products, each added in any order, with error gamma_k |x| |y| for k terms.

        Args:
            x: The one factor.
            y: The other factor.
            product: Computes the sums of the products of two tensors, such as torch.matmul.
            terms: The largest number of products in a sum.
        """
        a, b = x.value.abs() + x.error, y.value.abs() + y.error
        inherited: Tensor | float = 0.0
        if bool(x.error.any()):
            inherited = inherited + product(x.error, b)
        if bool(y.error.any()):
            inherited = inherited + product(a, y.error)
        nonzero = self._sparse(x), self._sparse(y)
        if nonzero != (None, None):
            big, large = (
                torch.ones_like(sizes) if mask is None else mask
                for sizes, mask in zip((a, b), nonzero, strict=True)
            )
            terms = _largest(product(big, large).round())
            nearly_zero = product(a * (1 - big), b) + product(a, b * (1 - large))
            inherited = inherited + ADDITIONS * nearly_zero
        relative = self._sum_unit(self._roundings(terms))
        if self.tf32_products and self.dtype == torch.float32:
            relative += 2 * 2.0**-10
        size = product(a, b)
        return self._round(
            product(x.value, y.value),
            inherited + self._overflow(size) + relative * size,
            2.0,
            terms=lambda: (
                size if x.terms is None and y.terms is None else product(x.magnitude, y.magnitude)
            ),
        )

    def take(self, x: Bound, index: Tensor) -> Bound:
        """Return the elements of x at flat indices; 0 where the index is -1."""
        zero = x.value.new_zeros(1)
        return self._map(lambda parts: torch.cat([parts[0].reshape(-1), zero])[index], (x,))

    def join(self, parts: Sequence[Bound]) -> Bound:
        """Return the elements of all parts in one vector."""
        return self._map(lambda values: torch.cat([v.reshape(-1) for v in values]), parts)

    def scatter_add(self, x: Bound, index: Tensor, values: Bound) -> Bound:
        """Return x with `values` added at flat indices, in any order; at -1 nothing is added."""
        at = index.reshape(-1)
        keep = at >= 0
        at = at[keep]

        def added(to: Tensor, source: Tensor) -> Tensor:
            return to.reshape(-1).index_add(0, at, source.reshape(-1)[keep]).reshape(to.shape)

        terms = int(torch.bincount(at).max()) if len(at) else 0
        value, error = added(x.value, values.value), added(x.error, values.error)
        size = added(x.value.abs() + x.error, values.value.abs() + values.error)
        # every addition rounds to the dtype: there is no wider accumulator
        error = error + self._overflow(size, torch.finfo(self.dtype).max)
        return self._round(
            value,
            error + (terms + 1) * self.unit * size * 2,
            terms=lambda: added(x.magnitude, values.magnitude),
        )

    @_in_blocks
    def round_to_dtype(self, x: Bound) -> Bound:
        """Return x rounded to the dtype of the operation."""
        return self._round(
            x.value,
            x.error,
            operands=(x,),
            exact_range=lambda: x.range,
            exact_infinity=lambda: x.exact_infinity,
            terms=lambda: x.magnitude,
        )

    def known(self, balls: Any) -> Bound:
        """Return the floats nearest to an array of balls, known constants, with their errors."""
        middle = elementwise(lambda ball: ball.mid(), balls)
        error = elementwise(lambda ball, x: abs(ball - x).upper(), balls, middle)
        return Bound(self, torch.from_numpy(middle), torch.from_numpy(error))

    def rounded(self, x: Bound, size: Callable[[], Bound], units: float) -> Bound:
        """Return x with the error of so many more roundings, of numbers of the size of `size()`."""
        of = size()
        added = units * self.unit * (of.value.abs() + of.error)
        added = added.nan_to_num(torch.inf, torch.inf).expand(tuple(x.shape))
        return self._round(
            x.value,
            x.error + added,
            operands=(x,),
            exact_range=lambda: (x.range[0] - added, x.range[1] + added),
            terms=lambda: x.magnitude,
        )

    def broadcast_to(self, x: Bound, shape: Sequence[int]) -> Bound:
        """Return x broadcast to a shape."""
        if x.shape == tuple(shape):
            return x
        return self._map(lambda parts: parts[0].expand(tuple(shape)), (x,))


def _largest(counts: Tensor) -> int:
    return int(counts.max()) if counts.numel() else 0


def _stays_infinite(x: Bound, y: Bound) -> Tensor:
    """Mask of the exact infinities in x where y has a bound: with y they stay, or become NaN."""
    return x.exact_infinity & y.error.isfinite()


def _sign_is_certain(x: Bound) -> Tensor:
    """Mask of the elements of x whose sign is certain."""
    return intervals.smallest_magnitude(x.range) > 0


def _has_bound(x: Bound) -> Tensor:
    """Mask of the elements of x that have a bound."""
    return x.error.isfinite() & ~x.value.isnan()


def _relative_error(value: Tensor, share: float | Tensor) -> Tensor:
    """Return the absolute error of a constant; an infinite constant has none."""
    return torch.where(value.isinf(), 0.0, value.abs() * share)
