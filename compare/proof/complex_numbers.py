"""Complex numbers as pairs of arrays of real ones, so that balls and bounds compute with them.

`ComplexArithmetic` has the methods of `Arithmetic` for complex numbers and needs only those of a
real arithmetic. So every formula that holds for complex numbers too serves both. The rounding of
complex kernels differs from that of the formulas here in two ways, which `rounded` covers: a
quotient is computed by one of several algorithms, and elementary functions are accurate relative to
the magnitude of the result, not of each part.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from itertools import accumulate
from operator import mul
from typing import Any

import flint
import numpy as np
import torch
from torch import Tensor

from compare.proof.arithmetic_interface import flat_indices
from compare.proof.operations import join

# Roundings of a quotient, relative to (|a| + |b|) (|c| + |d|) / (c^2 + d^2): Smith's algorithm has
# eight, the plain formula with both operands scaled by the larger of |c| and |d| ten.
_QUOTIENT_UNITS = 12.0
# Roundings of an elementary function of a complex number, relative to its magnitude: kernels of the
# C library claim a few ulps.
_FUNCTION_UNITS = 16.0
_MOST_FACTORS = 64  # of a whole power that is computed exactly as a product


@dataclass(frozen=True, eq=False)
class Complex:
    """An array of complex numbers.

    Attributes:
        n: The real arithmetic.
        re: The real parts, an array of that arithmetic.
        im: The imaginary parts, of the same shape.
    """

    n: Any
    re: Any
    im: Any

    __array_ufunc__ = None  # numpy leaves operators between its arrays and this class to the class

    @property
    def shape(self) -> Sequence[int]:
        """The shape, without the two parts."""
        return tuple(self.re.shape)

    @property
    def ndim(self) -> int:
        """The number of dimensions."""
        return len(self.shape)

    def conj(self) -> "Complex":
        """Return the complex conjugate."""
        return Complex(self.n, self.re, -self.im)

    def __add__(self, other: "Complex | float") -> "Complex":
        y = self._as_complex(other)
        return Complex(self.n, self.re + y.re, self.im + y.im)

    def __sub__(self, other: "Complex | float") -> "Complex":
        y = self._as_complex(other)
        return Complex(self.n, self.re - y.re, self.im - y.im)

    def __rsub__(self, other: float) -> "Complex":
        return self._as_complex(other) - self

    def __mul__(self, other: "Complex | float") -> "Complex":
        y = self._as_complex(other)
        re = self.re * y.re - self.im * y.im
        return Complex(self.n, re, self.re * y.im + self.im * y.re)

    def __truediv__(self, other: "Complex | float") -> "Complex":
        y = self._as_complex(other)
        product, square = self * y.conj(), y.re * y.re + y.im * y.im

        def size() -> Any:
            return _one_norm(self) * _one_norm(y) / square

        parts = (product.re / square, product.im / square)
        return Complex(self.n, *(self.n.rounded(part, size, _QUOTIENT_UNITS) for part in parts))

    def __rtruediv__(self, other: float) -> "Complex":
        return self._as_complex(other) / self

    def __neg__(self) -> "Complex":
        return Complex(self.n, -self.re, -self.im)

    __radd__, __rmul__ = __add__, __mul__

    def _as_complex(self, other: "Complex | float") -> "Complex":
        """Return a whole number or a power of two as an exact complex number."""
        if isinstance(other, Complex):
            return other
        value = torch.tensor(other, dtype=torch.complex128)
        return Complex(self.n, self.n.exact(value.real), self.n.exact(value.imag))


def _one_norm(z: Complex) -> Any:
    """Return |re| + |im| of each element: its magnitude, or up to 1.42 times it."""
    return z.n.function("abs", z.re) + z.n.function("abs", z.im)


def _given(value: Any) -> Any:
    return value


def parts(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return the real and the imaginary parts of a tensor; those of a real tensor are zeros."""
    if not values.is_complex():
        return values, torch.zeros_like(values)
    both = torch.view_as_real(values.resolve_conj())
    return both[..., 0], both[..., 1]


class ComplexArithmetic:
    """The arithmetic of complex numbers over a real one, with the methods of `Arithmetic`.

    Args:
        real: The real arithmetic, or one for the call of an operation, whose float run then decides
            how intermediate results are scaled and in which quadrant a number lies.
    """

    def __init__(self, real: Any) -> None:
        self.real = real
        self.n = getattr(real, "arithmetic", real)  # without the call: values outlive it
        self.numbers: dict[int, complex] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)  # of the call: its name, floats and output

    def pair(self, re: Any, im: Any) -> Complex:
        """Return a complex array of its parts."""
        return Complex(self.n, re, im)

    def lifted(self, x: Any) -> Complex:
        """Return real numbers as complex ones; complex ones are returned unchanged."""
        if isinstance(x, Complex):
            return x
        if isinstance(x, int):
            return self.exact(torch.tensor(float(x)))
        return self.pair(x, self.n.broadcast_to(self.n.exact(torch.zeros(())), x.shape))

    def each(self, function: Callable[..., Any], *operands: Any) -> Complex:
        """Apply a function of real arrays to the real parts, and to the imaginary parts."""
        both = [self.lifted(x) for x in operands]
        return self.pair(function(*(z.re for z in both)), function(*(z.im for z in both)))

    # -- numbers of the code

    def exact(self, values: Tensor) -> Complex:
        """Return the values of a tensor."""
        return self.pair(*map(self.n.exact, parts(values)))

    def constant(self, value: complex, dtype: torch.dtype) -> Complex:
        """Return a number written in the code."""
        real = dtype.to_real()
        numbers = complex(value).real, complex(value).imag
        return self.pair(
            *(self.n.constant(x, real) if x else self.n.exact(torch.zeros(())) for x in numbers)
        )

    def tensor_constant(self, values: Tensor) -> Complex:
        """Return a tensor that the code creates."""
        return self.pair(*map(self.n.tensor_constant, parts(values)))

    def number(self, value: complex) -> Complex:
        """Return a number in the code as a constant, and remember it for `scalar`."""
        constant = self.constant(value, self.dtype)
        self.numbers[id(constant)] = value
        return constant

    def scalar(self, value: Any) -> Any:
        """Return the Python number behind an argument, None for a tensor's numbers."""
        return value if isinstance(value, int | float) else self.numbers.get(id(value))

    # -- numbers that are moved, and sums: the parts do not mix

    def where(self, mask: Tensor, x: Complex, y: Complex) -> Complex:
        """Return x where the mask of the float run is True, else y."""
        return self.each(lambda *both: self.n.where(mask, *both), x, y)

    def sum(self, x: Complex, dims: Sequence[int], keepdim: bool) -> Complex:
        """Return the sum over `dims`, or over all if there are none."""
        return self.each(lambda part: self.n.sum(part, dims, keepdim), x)

    def take(self, x: Complex, index: Tensor) -> Complex:
        """Return the elements of x at flat indices; 0 where the index is -1."""
        return self.each(lambda part: self.n.take(part, index), x)

    def join(self, arrays: Sequence[Complex]) -> Complex:
        """Return the elements of all arrays in one vector."""
        return self.each(lambda *same: self.n.join(same), *arrays)

    def scatter_add(self, x: Complex, index: Tensor, values: Complex) -> Complex:
        """Return x with `values` added at flat indices; at -1 nothing is added."""
        return self.each(lambda to, part: self.n.scatter_add(to, index, part), x, values)

    def round_to_dtype(self, x: Complex) -> Complex:
        """Return x rounded to the dtype of the operation."""
        return self.each(self.n.round_to_dtype, x)

    def broadcast_to(self, x: Any, shape: Sequence[int]) -> Complex:
        """Return x broadcast to a shape."""
        return self.each(lambda part: self.n.broadcast_to(part, shape), x)

    # -- products

    def matmul(self, x: Complex, y: Complex) -> Complex:
        """Return the matrix product over the last two dimensions.

        The terms of a part are added up in any order, so each part is one product of twice the
        inner length.
        """
        rows = self._joined([x.re, x.im], -1)
        return self.pair(
            self.n.matmul(rows, self._joined([y.re, -y.im], -2)),
            self.n.matmul(rows, self._joined([y.im, y.re], -2)),
        )

    def _joined(self, arrays: Sequence[Any], dim: int) -> Any:
        """Return real arrays concatenated along a dimension."""
        return join(self.n, arrays, lambda indices: torch.cat(indices, dim))

    def cumulative(self, x: Complex, dim: int, product: bool) -> Complex:
        """Return the cumulative sum, or product, along `dim`."""
        if not product:
            return self.each(lambda part: self.n.cumulative(part, dim, product=False), x)
        products = self._products(x, dim)
        joined: Complex = join(self, products, lambda indices: torch.cat(indices, dim))
        return joined

    def product(self, x: Complex, dim: int) -> Complex:
        """Return the product along `dim`, which is kept as a dimension of size 1."""
        return self._products(x, dim)[-1]

    def _products(self, x: Complex, dim: int) -> list[Complex]:
        """Return the product of the first number along `dim`, of the first two, and so on.

        Multiplied in another order, each of its products rounds relative to the magnitude.
        """
        index = flat_indices(x.shape)
        factors = [self.take(x, index.narrow(dim, k, 1)) for k in range(x.shape[dim])]
        sizes = accumulate(map(_one_norm, factors), mul)
        products = zip(accumulate(factors, mul), sizes, strict=True)
        return [
            self._normwise(total, partial(_given, size), 4.0 * count)
            for count, (total, size) in enumerate(products)
        ]

    def power(self, x: Complex, exponent: Any, dtype: torch.dtype) -> Complex:
        """Return x**exponent, for an exponent that is a number in the code."""
        if exponent in (0.5, -1):
            return self.function("sqrt" if exponent == 0.5 else "reciprocal", x)
        if exponent in (0, 1, 2):
            one = self.broadcast_to(self.exact(torch.ones(())), x.shape)
            return [one, x, x * x][int(complex(exponent).real)]
        whole = not complex(exponent).imag and float(complex(exponent).real).is_integer()
        if not whole or abs(exponent) > _MOST_FACTORS:
            return self.general_power(x, self.constant(exponent, dtype))
        count = int(complex(exponent).real)
        product = reduce(mul, [x] * abs(count))
        result = product if count > 0 else self.exact(torch.ones(())) / product
        return self._as_rounded_by_pow(result, x, self.exact(torch.tensor(float(count))))

    def general_power(self, x: Complex, y: Complex) -> Complex:
        """Return x**y = exp(y log x)."""
        return self._as_rounded_by_pow(self._exp(y * self._log(x)), x, y)

    def _as_rounded_by_pow(self, result: Complex, x: Complex, y: Complex) -> Complex:
        """Return x**y with the rounding of exp(y log x), which grows with the exponent of exp."""
        return self._normwise(
            result, lambda: _one_norm(result) * (1 + _one_norm(y) * _one_norm(self._log(x)))
        )

    def divide(self, x: Any, y: Any) -> Complex:
        """Return x / y for the operands of the call: arrays or numbers.

        Both are scaled by a power of two near y, so that its square does not over- or underflow.
        """
        if isinstance(y, int) or id(y) in self.numbers:
            number: Complex | int = y
            return self.lifted(x) / number
        exponent = -_exponents(self.floats[-1])
        return self._scaled(self.lifted(x), exponent) / self._scaled(self.lifted(y), exponent)

    def _scaled(self, z: Complex, exponent: Tensor) -> Complex:
        """Return z times powers of two."""
        scale = self._power_of_two(exponent)
        return self.each(lambda part: part * scale, z)

    def _power_of_two(self, exponent: Tensor) -> Any:
        # numpy's ldexp is exact, torch's computes 2**exponent in float32
        return self.n.exact(torch.from_numpy(np.asarray(np.ldexp(1.0, exponent.numpy()))))

    # -- elementary functions of the first operand of the call

    def function(self, name: str, x: Complex) -> Complex:
        """Return an elementary function of each element.

        Raises:
            ValueError: The function has no formula for complex numbers.
        """
        if name not in _FUNCTIONS:
            raise ValueError(f"{name} of complex numbers has no row")
        return _FUNCTIONS[name](self, x)

    def abs(self, z: Complex) -> Any:
        """Return the magnitude, real numbers."""
        exponent = _exponents(self.floats[0])
        return self._hypotenuse(self._scaled(z, -exponent)) * self._power_of_two(exponent)

    def _hypotenuse(self, z: Complex) -> Any:
        return self.n.function("sqrt", z.re * z.re + z.im * z.im)

    def angle(self, z: Complex) -> Any:
        """Return the angle, from -pi to pi, in the quadrant of the float run: real numbers."""
        n, (re, im) = self.n, parts(self.floats[0])
        steep, zero = im.abs() > re.abs(), (re == 0) & (im == 0)
        one = n.broadcast_to(n.exact(torch.ones(())), z.shape)
        half = n.broadcast_to(n.known(np.asarray(flint.arb.pi() / 2)), z.shape)
        flat = n.function("atan", z.im / n.where(steep | zero, one, z.re))
        upright = n.function("atan", z.re / n.where(steep, z.im, one))
        upper = ~im.signbit()
        turned = n.where(upper, half - upright, -half - upright)
        back = n.where(upper, flat + half * 2, flat - half * 2)
        return n.where(steep, turned, n.where(re.signbit(), back, flat))

    def _normwise(
        self, z: Complex, size: Callable[[], Any], units: float = _FUNCTION_UNITS
    ) -> Complex:
        """Return z with roundings in each part that are relative to a size."""
        return self.each(lambda part: self.n.rounded(part, size, units), z)

    def _function(self, re: Any, im: Any) -> Complex:
        """Return the result of an elementary function, from its parts."""
        z = self.pair(re, im)
        return self._normwise(z, lambda: _one_norm(z))

    def _of_parts(self, z: Complex, of_re: str, of_im: str) -> Any:
        """Return the product of a function of the real and one of the imaginary parts."""
        return self.n.function(of_re, z.re) * self.n.function(of_im, z.im)

    def _exp(self, z: Complex) -> Complex:
        return self._function(self._of_parts(z, "exp", "cos"), self._of_parts(z, "exp", "sin"))

    def _expm1(self, z: Complex) -> Complex:
        difference = self._exp(z) - 1
        return self._function(difference.re, difference.im)

    def _log(self, z: Complex) -> Complex:
        return self._function(self.n.function("log", self.abs(z)), self.angle(z))

    def _sqrt(self, z: Complex) -> Complex:
        """Return the root with a positive real part: its larger part first, without cancellation.

        Source: Kahan (1987), Branch Cuts for Complex Elementary Functions.
        """
        n, (re, im) = self.n, parts(self.floats[0])
        half = _exponents(self.floats[0]) // 2
        z, back = self._scaled(z, -2 * half), self._power_of_two(half)
        larger = n.function("sqrt", (self._hypotenuse(z) + n.function("abs", z.re)) / 2)
        one = n.broadcast_to(n.exact(torch.ones(())), z.shape)
        smaller = z.im / (n.where((re == 0) & (im == 0), one, larger) * 2) * back
        larger, left, upper = larger * back, re < 0, ~im.signbit()
        return self._function(
            n.where(left, n.where(upper, smaller, -smaller), larger),
            n.where(left, n.where(upper, larger, -larger), smaller),
        )

    def _tanh(self, z: Complex) -> Complex:
        """Return tanh(a + ib) = (t + iT) / (1 + itT) with t = tanh(a) and T = tan(b)."""
        t, tangent = self.n.function("tanh", z.re), self.n.function("tan", z.im)
        one = self.n.broadcast_to(self.n.exact(torch.ones(())), z.shape)
        quotient = self.pair(t, tangent) / self.pair(one, t * tangent)
        return self._function(quotient.re, quotient.im)

    def _tan(self, z: Complex) -> Complex:
        turned = self._tanh(self.pair(-z.im, z.re))
        return self.pair(turned.im, -turned.re)


def _exponents(floats: Tensor) -> Tensor:
    """Return e for each number of magnitude 2^e to 2^(e + 2), 0 for 0 and infinities.

    Scaled by 2^-e, the squares of both parts neither overflow nor both underflow.
    """
    re, im = (part.detach().double().abs().cpu() for part in parts(floats))
    size = torch.maximum(re, im)
    size = torch.where((size > 0) & size.isfinite(), size, 1.0)
    return (torch.frexp(size).exponent - 1).clamp(-1000, 1000)


_FUNCTIONS: dict[str, Callable[[ComplexArithmetic, Complex], Complex]] = {
    "exp": ComplexArithmetic._exp,
    "expm1": ComplexArithmetic._expm1,
    "log": ComplexArithmetic._log,
    "sqrt": ComplexArithmetic._sqrt,
    "rsqrt": lambda n, z: 1 / n._sqrt(z),
    "reciprocal": lambda n, z: n.divide(1, z),
    "sigmoid": lambda n, z: 1 / (n._exp(-z) + 1),
    "sin": lambda n, z: n._function(n._of_parts(z, "sin", "cosh"), n._of_parts(z, "cos", "sinh")),
    "cos": lambda n, z: n._function(n._of_parts(z, "cos", "cosh"), -n._of_parts(z, "sin", "sinh")),
    "sinh": lambda n, z: n._function(n._of_parts(z, "sinh", "cos"), n._of_parts(z, "cosh", "sin")),
    "cosh": lambda n, z: n._function(n._of_parts(z, "cosh", "cos"), n._of_parts(z, "sinh", "sin")),
    "tanh": ComplexArithmetic._tanh,
    "tan": ComplexArithmetic._tan,
}


def as_view(z: Complex) -> Any:
    """Return complex numbers as real ones, with one more dimension of size 2 for the parts."""
    index = flat_indices(z.shape)
    return z.n.take(z.n.join([z.re, z.im]), torch.stack([index, index + math.prod(z.shape)], -1))


def of_view(n: Any, x: Any) -> Complex:
    """Return the complex numbers that `as_view` returns as real ones."""
    index = flat_indices(x.shape)
    return Complex(n, *(n.take(x, index.select(-1, k)) for k in (0, 1)))
