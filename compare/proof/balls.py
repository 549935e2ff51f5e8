"""Ball arithmetic: real numbers known to 50 digits or more, as FLINT's arb.

A ball is an interval, midpoint +- radius. A lifted tensor is a numpy array of `flint.arb`. Every
operation returns balls that contain the exact result for every choice of numbers in its operands.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from operator import methodcaller
from typing import Any

import flint
import numpy as np
import torch
from torch import Tensor

from compare.proof.exact_arithmetic import ExactArithmetic
from compare.proof.literals import AS_WRITTEN, Reading

Array = Any  # a numpy array of flint.arb; numpy's types cannot express that
PRECISION = 200  # bits
# Multiplications in a matrix product; a larger one takes over two seconds on one core.
LARGE = 200_000_000
_MAX_SHIFT = 1_000  # steps of a recurrence; an argument further below 0 has no value


def _log(x: Any) -> Any:
    """Return log x; for an exact 0 -infinity, as in floats, where arb returns NaN."""
    return flint.arb("-inf") if x == 0 else x.log()


def _erf(x: Any) -> Any:
    """Return erf x, also at infinities, where arb returns NaN."""
    return flint.arb(1 if x > 0 else -1) if abs(x) == flint.arb("inf") else x.erf()


def _lgamma(x: Any) -> Any:
    """Return log |gamma(x)|, below 0 by the reflection formula, where arb returns NaN."""
    if x > 0:
        return x.lgamma()
    return flint.arb.pi().log() - abs(x.sin_pi()).log() - (1 - x).lgamma()


def _polygamma(order: int, x: Any) -> Any:
    """Return the derivative of digamma of an order; source: DLMF 25.11.12.

    FLINT's zeta wants a positive x: from below 0 the recurrence goes there, DLMF 5.15.5.
    """
    sign, total = (-1) ** (order + 1) * math.factorial(order), flint.arb(0)
    if x < 0 and x > -_MAX_SHIFT:
        for _ in range(math.ceil(-float(x.lower()))):
            total, x = total + x ** (-order - 1), x + 1
    return sign * (flint.arb(order + 1).zeta(x) + total)


def _erfcx(x: Any) -> Any:
    """Return exp(x * x) erfc x; for large x by Kummer's U, which does not overflow: DLMF 7.11.5."""
    if abs(x) == flint.arb("inf"):
        return flint.arb(0) if x > 0 else flint.arb("inf")
    if x > 1:
        return (x * x).hypgeom_u(0.5, 0.5) / flint.arb.pi().sqrt()
    return (x * x).exp() * x.erfc()


_METHODS_OF_ARB = (
    "exp", "expm1", "sqrt", "rsqrt", "tanh", "sin", "cos", "atan", "sinh", "cosh", "tan", "asin",
    "acos", "acosh", "asinh", "atanh", "digamma", "erfinv",
)  # fmt: skip
FUNCTIONS: dict[str, Callable[[Any], Any]] = {
    **{name: methodcaller(name) for name in _METHODS_OF_ARB},
    "log": _log,
    "log1p": lambda x: _log(x + 1) if x == -1 else x.log1p(),
    "reciprocal": lambda x: 1 / x,
    "sigmoid": lambda x: 1 / (1 + (-x).exp()),
    "erf": _erf,
    "erfc": lambda x: x.erfc() if x.is_finite() else 1 - _erf(x),
    "erfcx": _erfcx,
    "abs": abs,
    "lgamma": _lgamma,
    **{f"polygamma{k}": partial(_polygamma, k) for k in range(1, 6)},
    "i0": lambda x: x.bessel_i(0),
    "i1": lambda x: x.bessel_i(1),
    "i0e": lambda x: abs(x).bessel_i(0, scaled=True),
    "i1e": lambda x: (-abs(x)).exp() * x.bessel_i(1),
}
_LARGER = np.frompyfunc(lambda a, b: a.max(b), 2, 1)
UNION = np.frompyfunc(lambda a, b: a.union(b), 2, 1)  # elementwise: a ball around both balls


class Balls(ExactArithmetic):
    """The arithmetic of exact values, over arrays of balls.

    Args:
        entries: How many entries of a matrix product to compute if it takes more than LARGE
            multiplications; None for all. The other entries, and all numbers that depend on them,
            are unbounded balls (NaN).
        reading: How constants in the code are read.
        precision: FLINT's working precision, bits.
    """

    def __init__(
        self, entries: int | None = None, reading: Reading = AS_WRITTEN, precision: int = PRECISION
    ) -> None:
        super().__init__(reading, precision)
        self.entries = entries

    def exact(self, values: Tensor) -> Array:
        """Return the values of a tensor as balls of radius 0."""
        return _each(flint.arb, values.detach().double().cpu().numpy())

    def function(self, name: str, x: Array) -> Array:
        """Return an elementary function of each element."""
        return _each(FUNCTIONS[name], x)

    def power(self, x: Array, exponent: float, dtype: torch.dtype) -> Array:
        """Return x**exponent for a number in the code; for negative x only if it is whole."""
        if float(exponent).is_integer():
            return _each(lambda b: b ** int(exponent), x)
        read = self.constant(exponent, dtype).item()
        return _each(lambda b: b**read, x)

    def where(self, mask: Tensor, x: Array, y: Array) -> Array:
        """Return x where the mask of the float run is True, else y."""
        return np.where(mask.cpu().numpy(), x, y)

    def maximum(self, x: Array, y: Array) -> Array:
        """Return the larger of each pair."""
        return _LARGER(x, y)

    def minimum(self, x: Array, y: Array) -> Array:
        """Return the smaller of each pair."""
        return np.frompyfunc(lambda a, b: a.min(b), 2, 1)(x, y)

    def amax(self, x: Array, dims: Sequence[int], keepdim: bool) -> Array:
        """Return the largest element along `dims`; a number has none."""
        x = np.asarray(x, dtype=object)  # numpy's operators return a bare ball for a number
        for dim in sorted((d % x.ndim for d in dims if x.ndim), reverse=True):
            x = _LARGER.reduce(x, axis=dim, keepdims=keepdim)
        return x

    def sum(self, x: Array, dims: Sequence[int], keepdim: bool) -> Array:
        """Return the sum over `dims`, or over all if there are none."""
        x = np.asarray(x, dtype=object)
        axes = tuple(d % x.ndim for d in dims if x.ndim) or tuple(range(x.ndim))
        shape = [1 if d in axes else s for d, s in enumerate(x.shape)]
        if not x.size:
            total = self.exact(torch.zeros(shape))
        else:
            total = np.asarray(np.add.reduce(x, axis=axes, keepdims=True), dtype=object)
        kept = shape if keepdim else [s for d, s in enumerate(x.shape) if d not in axes]
        return total.reshape(kept)

    def cumulative(self, x: Array, dim: int, product: bool) -> Array:
        """Return the cumulative sum, or product, along `dim`."""
        return (np.multiply if product else np.add).accumulate(x, axis=dim)

    def product(self, x: Array, dim: int) -> Array:
        """Return the product along `dim`, which is kept as a dimension of size 1."""
        return np.asarray(np.multiply.reduce(x, axis=dim, keepdims=True, initial=flint.arb(1)))

    def matmul(self, x: Array, y: Array) -> Array:
        """Return the matrix product over the last two dimensions; leading dimensions are equal."""
        lead, rows, inner, columns = x.shape[:-2], x.shape[-2], x.shape[-1], y.shape[-1]
        out: Array = np.empty((*lead, rows, columns), dtype=object)
        sampled = self.entries is not None and rows * inner * columns > LARGE
        if sampled:
            self.skipped = True
            out[...] = flint.arb("nan")
        for at in np.ndindex(*lead):
            if sampled:
                i, j = (_sample(size, self.entries or 1) for size in (rows, columns))
                out[at][np.ix_(i, j)] = _product(x[at][i], y[at][:, j])
            else:
                out[at] = _product(x[at], y[at])
        return out

    def take(self, x: Array, index: Tensor) -> Array:
        """Return the elements of x at flat indices; 0 where the index is -1."""
        at = index.cpu().numpy()
        flat = self.join([x, self.exact(torch.zeros(1))])
        return np.asarray(flat[at], dtype=object)

    def join(self, parts: Sequence[Array]) -> Array:
        """Return the elements of all parts in one vector."""
        return np.concatenate([part.ravel() for part in parts])

    def scatter_add(self, x: Array, index: Tensor, values: Array) -> Array:
        """Return x with `values` added at flat indices; at -1 nothing is added."""
        flat = x.ravel().copy()
        for at, value in zip(index.flatten().tolist(), values.ravel(), strict=True):
            if at >= 0:
                flat[at] = flat[at] + value
        return flat.reshape(x.shape)

    def known(self, balls: Array) -> Array:
        """Return an array of balls, known constants, unchanged."""
        return balls

    def broadcast_to(self, x: Any, shape: Sequence[int]) -> Array:
        """Return x broadcast to a shape."""
        return np.broadcast_to(np.asarray(x, dtype=object), tuple(shape))


def _product(x: Array, y: Array) -> Array:
    """Return the product of two matrices."""
    (rows, inner), columns = x.shape, y.shape[1]
    left = flint.arb_mat(rows, inner, x.ravel().tolist())
    right = flint.arb_mat(inner, columns, y.ravel().tolist())
    flat: Array = np.empty(rows * columns, dtype=object)
    flat[:] = (left * right).entries()
    return flat.reshape(rows, columns)


def _sample(size: int, entries: int) -> Array:
    """Return sampled indices into a dimension, the same for every dimension of that size.

    So a product on one side and its transpose on the other are lifted at the same entries.
    """
    count = min(size, max(1, round(entries**0.5)))
    return np.sort(np.random.RandomState(size).permutation(size)[:count])


def _each(function: Callable[[Any], Any], values: Any) -> Array:
    """Apply a function to each element; return an array, also for a single element."""
    with np.errstate(invalid="ignore"):  # no warning for a signalling NaN
        return np.asarray(np.frompyfunc(function, 1, 1)(values), dtype=object)
