"""Numbers as (value, error bound): how far a float run can lie from the exact result.

A running error analysis (Higham, Accuracy and Stability of Numerical Algorithms, ch. 3): each
operation adds the rounding of its own result to what it inherits. Source of the gamma bound for
sums and products in any order: there, section 3.1. Values and bounds are float64 tensors, of any
leading dimensions: a bound for every step of a run at once.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from compare.proof.constants import is_exact, misspelled, significant_bits

# How many ulps a kernel may be off, by function: torch on the CPU (SLEEF, 1.0 ulp claimed, and
# scalar libm in the tail) and CUDA's tables (at most 2 for those here) are within it. Measured by
# `python -m compare.proof.kernels`.
KERNEL_ULPS = 4.0
ERF_FLOAT32 = 2.0**-21
# Two things that the analysis leaves out: its own rounding, and the second order of a slope.
SLACK = 1.0 + 2.0**-10


@dataclass(frozen=True)
class Bound:
    """`value`, and `error` >= the distance of both it and the float run from the exact result."""

    arithmetic: "Bounds"
    value: Tensor
    error: Tensor

    @property
    def shape(self) -> torch.Size:
        """The shape of either."""
        return self.value.shape

    @property
    def ndim(self) -> int:
        """The number of dimensions."""
        return self.value.ndim

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

    def __rtruediv__(self, other: float) -> "Bound":
        return self.arithmetic.divide(self._like(other), self)

    def __neg__(self) -> "Bound":
        return Bound(self.arithmetic, -self.value, self.error)

    __radd__, __rmul__ = __add__, __mul__

    def _like(self, other: "Bound | float") -> "Bound":
        """Return a whole number or a power of two as a bound without error."""
        if isinstance(other, Bound):
            return other
        value = self.value.new_tensor(float(other))
        return Bound(self.arithmetic, value, torch.zeros_like(value))


# The slope's largest size within `e` of x, by function.
_SLOPES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "exp": lambda x, e: torch.exp(x + e),
    "expm1": lambda x, e: torch.exp(x + e),
    "log": lambda x, e: 1 / (x - e).clamp_min(0),
    "log1p": lambda x, e: 1 / (1 + x - e).clamp_min(0),
    "sqrt": lambda x, e: 0.5 * (x - e).clamp_min(0).rsqrt(),
    "rsqrt": lambda x, e: 0.5 * (x - e).clamp_min(0) ** -1.5,
    "reciprocal": lambda x, e: (x.abs() - e).clamp_min(0) ** -2,
    "tanh": lambda x, e: 1 - torch.tanh((x.abs() - e).clamp_min(0)) ** 2 + 1e-30,
    "sigmoid": lambda x, e: torch.exp(-(x.abs() - e).clamp_min(0)),
    "erf": lambda x, e: 1.1284 * torch.exp(-((x.abs() - e).clamp_min(0) ** 2)),
    "erfc": lambda x, e: 1.1284 * torch.exp(-((x.abs() - e).clamp_min(0) ** 2)),
    "sin": lambda x, _e: torch.ones_like(x),
    "cos": lambda x, _e: torch.ones_like(x),
    "atan": lambda x, _e: torch.ones_like(x),
    "abs": lambda x, _e: torch.ones_like(x),
}
_KERNELS: dict[str, Callable[[Tensor], Tensor]] = {name: getattr(torch, name) for name in _SLOPES}
_ROUNDED_ONCE = {"reciprocal", "abs"}


class Bounds:
    """The same arithmetic as `Balls`, over bounds, for a float run in one dtype at a time."""

    def __init__(
        self,
        narrowest: torch.dtype | None = None,
        *,
        tf32_products: bool = False,
        narrow_sums: bool = False,
    ) -> None:
        self.dtype = torch.float64  # of the operation at hand
        self.narrowest = narrowest  # what a fused kernel may round to on the way
        self.tf32_products = tf32_products  # float32 factors may be rounded to 10 bits
        self.narrow_sums = narrow_sums  # half precision sums may be held in half precision

    @property
    def unit(self) -> float:
        """Half an ulp of 1: the largest relative error of one rounding."""
        dtypes = [self.dtype] + ([self.narrowest] if self.narrowest else [])
        return max(torch.finfo(dtype).eps for dtype in dtypes) / 2

    def _round(self, value: Tensor, error: Tensor, times: float = 1.0, tiny: float = 0.0) -> Bound:
        """Add one rounding, or `times` as much, and what underflow takes; overflow has no bound."""
        info = torch.finfo(self.dtype)
        # vectorised bfloat16 kernels work in float32 and may flush what is subnormal there
        flushed = info.smallest_normal if self.dtype == torch.bfloat16 else 0.0
        least = max(tiny, flushed, info.smallest_normal * info.eps)
        total = (error + times * self.unit * (value.abs() + error) + least) * SLACK
        lost = total.isnan() | (value.abs() + total >= info.max)
        return Bound(self, value, torch.where(lost, torch.inf, total))

    @contextlib.contextmanager
    def in_narrow_sums(self) -> Iterator[None]:
        """Within, be inside a kernel that sums float16 in float16."""
        before = self.narrow_sums
        self.narrow_sums |= self.dtype == torch.float16
        yield
        self.narrow_sums = before

    def _sum_unit(self, terms: int) -> float:
        """Return gamma_n of what sums are held in: float32 or wider, whatever the dtype."""
        half = self.dtype.itemsize < 4 or (
            self.narrowest is not None and self.narrowest.itemsize < 4
        )
        wide = self.dtype.itemsize >= 4 or self.narrow_sums
        product = terms * torch.finfo(self.dtype if wide else torch.float32).eps / 2
        gamma = product / (1 - product) if product < 0.5 else float("inf")
        # Some kernels on the CPU (layer norm's bias, a convolution's weight) hold partial sums in
        # half precision; up to 1.5 units of the sum of sizes were measured.
        return gamma + 4 * self.unit if half else gamma

    def exact(self, values: Tensor) -> Bound:
        """Return the values of a tensor, without error."""
        value = values.detach().double().cpu()
        return Bound(self, value, torch.zeros_like(value))

    def constant(self, number: float, dtype: torch.dtype) -> Bound:
        """Return a number written in the code; it is rounded to the dtype that it is used in."""
        value = torch.tensor(float(number), dtype=torch.float64)
        kept = bool(value.to(dtype).double() == value) and is_exact(number)
        off = 0.0 if kept else torch.finfo(dtype).eps
        return Bound(self, value, value.abs() * off + misspelled(number))

    def made(self, values: Tensor) -> Bound:
        """Return a tensor that the code makes, those of its numbers rounded that may be."""
        value, bits = values.detach().double().cpu(), significant_bits(values.dtype)
        rounded = [float(not is_exact(x, bits)) for x in value.flatten().tolist()]
        perhaps = torch.tensor(rounded, dtype=torch.float64).view_as(value)
        return Bound(self, value, value.abs() * torch.finfo(values.dtype).eps * perhaps)

    def add(self, x: Bound, y: Bound) -> Bound:
        """Return x + y."""
        return self._round(x.value + y.value, x.error + y.error)

    def subtract(self, x: Bound, y: Bound) -> Bound:
        """Return x - y."""
        return self._round(x.value - y.value, x.error + y.error)

    def multiply(self, x: Bound, y: Bound) -> Bound:
        """Return x * y."""
        return self._round(x.value * y.value, self._product_error(x, y))

    @staticmethod
    def _product_error(x: Bound, y: Bound) -> Tensor:
        a, b = x.value.abs(), y.value.abs()
        return a * y.error + b * x.error + x.error * y.error

    def divide(self, x: Bound, y: Bound) -> Bound:
        """Return x / y."""
        value = x.value / y.value
        least = (y.value.abs() - y.error).clamp_min(0)
        return self._round(value, (x.error + value.abs() * y.error) / least)

    def function(self, name: str, x: Bound) -> Bound:
        """Return an elementary function, by a kernel that is off by at most KERNEL_ULPS."""
        value = _KERNELS[name](x.value)
        slope = _SLOPES[name](x.value, x.error)
        inherited = torch.where(x.error == 0, 0.0, x.error * slope)
        if name == "sqrt":  # near 0 the slope is no bound: sqrt(x + e) - sqrt(x) <= sqrt(e)
            inherited = torch.minimum(inherited, x.error.sqrt())
        if name in _ROUNDED_ONCE:
            return self._round(value, inherited)
        # a kernel may flush what is below the smallest normal number
        least = torch.finfo(self.dtype).smallest_normal
        if name in ("erf", "erfc") and self.dtype.itemsize <= 4:
            least = ERF_FLOAT32  # the erf inside gelu's own kernel is another one than torch.erf
        return self._round(value, inherited, 2 * KERNEL_ULPS, least)

    def power(self, x: Bound, exponent: float, _dtype: torch.dtype) -> Bound:
        """Return x**exponent."""
        if exponent in (0, 1):
            return Bound(self, x.value**exponent, x.error * exponent)
        if exponent == 2:
            return self.multiply(x, x)
        value = x.value**exponent
        far, near = x.value.abs() + x.error, (x.value.abs() - x.error).clamp_min(0)
        slope = abs(exponent) * torch.maximum(far ** (exponent - 1), near ** (exponent - 1))
        return self._round(value, torch.where(x.error == 0, 0.0, x.error * slope), 2 * KERNEL_ULPS)

    def where(self, mask: Tensor, x: Bound, y: Bound) -> Bound:
        """Choose by a mask, which the float run decided."""
        return Bound(self, torch.where(mask, x.value, y.value), torch.where(mask, x.error, y.error))

    def maximum(self, x: Bound, y: Bound) -> Bound:
        """Return the larger of each pair."""
        y = x._like(y)
        return Bound(self, torch.maximum(x.value, y.value), torch.maximum(x.error, y.error))

    def minimum(self, x: Bound, y: Bound) -> Bound:
        """Return the smaller of each pair."""
        y = x._like(y)
        return Bound(self, torch.minimum(x.value, y.value), torch.maximum(x.error, y.error))

    def amax(self, x: Bound, dims: Sequence[int], keepdim: bool) -> Bound:
        """Return the largest along `dims`."""
        over = list(dims)
        return Bound(self, x.value.amax(over, keepdim), x.error.amax(over, keepdim))

    def sum(self, x: Bound, dims: Sequence[int], keepdim: bool) -> Bound:
        """Return the sum over `dims`, all where there are none, in any order."""
        over = [d % x.ndim for d in dims] or list(range(x.ndim))
        terms = 1
        for dim in over:
            terms *= x.shape[dim]
        value, error = x.value.sum(over, keepdim), x.error.sum(over, keepdim)
        size = x.value.abs().sum(over, keepdim) + error
        return self._round(value, error + self._sum_unit(terms) * size, 2.0)

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
        error = x.error.cumsum(dim) + gamma * size.cumsum(dim)
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
        lost = terms * info.smallest_normal * info.eps * grown
        return self._round(value, size - value.abs() + 4 * terms * self.unit * size + lost)

    def matmul(self, x: Bound, y: Bound) -> Bound:
        """Return the products of matrices: gamma_k |x| |y| for inner length k, in any order."""
        a, b = x.value.abs() + x.error, y.value.abs() + y.error
        inherited = x.error @ b + a @ y.error
        relative = self._sum_unit(x.shape[-1])
        if self.tf32_products and self.dtype == torch.float32:
            relative += 2 * 2.0**-10
        return self._round(x.value @ y.value, inherited + relative * (a @ b), 2.0)

    def take(self, x: Bound, index: Tensor) -> Bound:
        """Return the elements of x, laid flat, at `index`; 0 where that is -1."""
        zero = x.value.new_zeros(1)
        value, error = (torch.cat([t.reshape(-1), zero])[index] for t in (x.value, x.error))
        return Bound(self, value, error)

    def join(self, parts: Sequence[Bound]) -> Bound:
        """Return all elements in one row."""
        return Bound(
            self,
            torch.cat([p.value.reshape(-1) for p in parts]),
            torch.cat([p.error.reshape(-1) for p in parts]),
        )

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
        return self._round(value, error + (terms + 1) * self.unit * size * 2)

    def rounded(self, x: Bound) -> Bound:
        """Return x after a rounding to the dtype."""
        return self._round(x.value, x.error)

    def shaped(self, x: Any, shape: Sequence[int]) -> Bound:
        """Return x in that shape, repeated where it has to be."""
        return Bound(self, x.value.expand(tuple(shape)), x.error.expand(tuple(shape)))
