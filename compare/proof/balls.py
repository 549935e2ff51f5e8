"""Numbers as balls: real numbers known to 50 digits and more, by FLINT's arb.

A lifted tensor is a numpy array of `flint.arb`. Every operation returns balls that contain the
exact result for every choice of numbers in the balls it was given.
"""

from collections.abc import Callable, Sequence
from operator import methodcaller
from typing import Any

import flint
import numpy as np
import torch
from torch import Tensor

from compare.proof.literals import AS_WRITTEN, Literal, Reading, scalar_literal

Array = Any  # a numpy array of flint.arb, which the types of numpy have no name for
PRECISION = 200  # bits
LARGE = 200_000_000  # multiplications: a product of more takes over two seconds on one core


def _log(x: Any) -> Any:
    """Return log x; of a 0 without radius -infinity, as in floats, where arb has no number."""
    return flint.arb("-inf") if x == 0 else x.log()


def _erf(x: Any) -> Any:
    """Return erf x; arb does not know it at infinities."""
    return flint.arb(1 if x > 0 else -1) if abs(x) == flint.arb("inf") else x.erf()


_AS_ARB_HAS_THEM = "exp", "expm1", "sqrt", "rsqrt", "tanh", "sin", "cos", "atan"
FUNCTIONS: dict[str, Callable[[Any], Any]] = {
    **{name: methodcaller(name) for name in _AS_ARB_HAS_THEM},
    "log": _log,
    "log1p": lambda x: _log(x + 1) if x == -1 else x.log1p(),
    "reciprocal": lambda x: 1 / x,
    "sigmoid": lambda x: 1 / (1 + (-x).exp()),
    "erf": _erf,
    "erfc": lambda x: x.erfc() if x.is_finite() else 1 - _erf(x),
    "abs": abs,
}
_LARGER = np.frompyfunc(lambda a, b: a.max(b), 2, 1)
UNION = np.frompyfunc(lambda a, b: a.union(b), 2, 1)  # the balls around both of each pair


class Balls:
    """The arithmetic that a row of the table is written in, over arrays of balls.

    Of a matrix product that would take more than LARGE multiplications only `entries` entries are
    lifted; the others are balls that know nothing, and whatever depends on them knows nothing.
    """

    def __init__(
        self, entries: int | None = None, reading: Reading = AS_WRITTEN, precision: int = PRECISION
    ) -> None:
        self.entries, self.reading, self.precision = entries, reading, precision
        self.skipped = False  # whether some entries of a product were left unknown
        self.literals: set[Literal] = set()  # that were read

    def exact(self, values: Tensor) -> Array:
        """Return the values of a tensor as balls of radius zero."""
        return _each(flint.arb, values.detach().double().cpu().numpy())

    def constant(self, value: float, dtype: torch.dtype) -> Array:
        """Return a number written in the code as what it stands for."""
        return self._read(scalar_literal(value, dtype)).reshape(())

    def made(self, values: Tensor) -> Array:
        """Return a tensor that the code makes, of numbers that stand for others, likewise."""
        numbers = values.detach().double().cpu().flatten()
        if one := numbers.numel() > 0 and bool((numbers == numbers[0]).all()):
            numbers = numbers[:1]
        read = self._read(Literal(tuple(numbers.tolist()), values.dtype, tensor=True))
        return self.shaped(read.reshape(() if one else tuple(values.shape)), values.shape)

    def _read(self, literal: Literal) -> Array:
        self.literals.add(literal)
        found: Array = np.empty(len(literal.numbers), dtype=object)
        found[:] = self.reading.of(literal)
        return found

    def function(self, name: str, x: Array) -> Array:
        """Return an elementary function of each element."""
        return _each(FUNCTIONS[name], x)

    def power(self, x: Array, exponent: float, dtype: torch.dtype) -> Array:
        """Return x**exponent, a number in the code; a whole exponent also for negative x."""
        if float(exponent).is_integer():
            return _each(lambda b: b ** int(exponent), x)
        read = self.constant(exponent, dtype).item()
        return _each(lambda b: b**read, x)

    def where(self, mask: Tensor, x: Array, y: Array) -> Array:
        """Choose by a mask, which the float run decided."""
        return np.where(mask.cpu().numpy(), x, y)

    def maximum(self, x: Array, y: Array) -> Array:
        """Return the larger of each pair."""
        return _LARGER(x, y)

    def minimum(self, x: Array, y: Array) -> Array:
        """Return the smaller of each pair."""
        return np.frompyfunc(lambda a, b: a.min(b), 2, 1)(x, y)

    def amax(self, x: Array, dims: Sequence[int], keepdim: bool) -> Array:
        """Return the largest along `dims`."""
        for dim in sorted((d % x.ndim for d in dims), reverse=True):
            x = _LARGER.reduce(x, axis=dim, keepdims=keepdim)
        return x

    def sum(self, x: Array, dims: Sequence[int], keepdim: bool) -> Array:
        """Return the sum over `dims`, all where there are none."""
        axes = tuple(d % x.ndim for d in dims) or tuple(range(x.ndim))
        shape = [1 if d in axes else s for d, s in enumerate(x.shape)]
        if not x.size:
            total = self.exact(torch.zeros(shape))
        else:
            total = np.asarray(np.add.reduce(x, axis=axes, keepdims=True), dtype=object)
        kept = shape if keepdim else [s for d, s in enumerate(x.shape) if d not in axes]
        return total.reshape(kept)

    def running(self, x: Array, dim: int, product: bool) -> Array:
        """Return the running sum, or the running product, along `dim`."""
        return (np.multiply if product else np.add).accumulate(x, axis=dim)

    def product(self, x: Array, dim: int) -> Array:
        """Return the product along `dim`, which stays as a dimension of 1."""
        return np.asarray(np.multiply.reduce(x, axis=dim, keepdims=True, initial=flint.arb(1)))

    def matmul(self, x: Array, y: Array) -> Array:
        """Return the products of matrices in the last two dimensions; leading ones are equal."""
        lead, rows, inner, columns = x.shape[:-2], x.shape[-2], x.shape[-1], y.shape[-1]
        out: Array = np.empty((*lead, rows, columns), dtype=object)
        sampled = self.entries is not None and rows * inner * columns > LARGE
        if sampled:
            self.skipped = True
            out[...] = flint.arb("nan")
        for at in np.ndindex(*lead):
            if sampled:
                some, others = (_some(size, self.entries or 1) for size in (rows, columns))
                out[at][np.ix_(some, others)] = _product(x[at][some], y[at][:, others])
            else:
                out[at] = _product(x[at], y[at])
        return out

    def take(self, x: Array, index: Tensor) -> Array:
        """Return the elements of x, laid flat, at `index`; 0 where that is -1."""
        at = index.cpu().numpy()
        flat = self.join([x, self.exact(torch.zeros(1))])
        return np.asarray(flat[at], dtype=object)

    def join(self, parts: Sequence[Array]) -> Array:
        """Return all elements in one row."""
        return np.concatenate([part.ravel() for part in parts])

    def scatter_add(self, x: Array, index: Tensor, values: Array) -> Array:
        """Return x with `values` added at the flat `index`; -1 adds nowhere."""
        flat = x.ravel().copy()
        for at, value in zip(index.flatten().tolist(), values.ravel(), strict=True):
            if at >= 0:
                flat[at] = flat[at] + value
        return flat.reshape(x.shape)

    def rounded(self, x: Array) -> Array:
        """Return x: a ball does not round to the dtype."""
        return x

    def shaped(self, x: Any, shape: Sequence[int]) -> Array:
        """Return x as an array of that shape, repeated where it has to be."""
        return np.broadcast_to(np.asarray(x, dtype=object), tuple(shape))


def _product(x: Array, y: Array) -> Array:
    """Return the product of two matrices."""
    (rows, inner), columns = x.shape, y.shape[1]
    left = flint.arb_mat(rows, inner, x.ravel().tolist())
    right = flint.arb_mat(inner, columns, y.ravel().tolist())
    flat: Array = np.empty(rows * columns, dtype=object)
    flat[:] = (left * right).entries()
    return flat.reshape(rows, columns)


def _some(size: int, entries: int) -> Array:
    """Return indices into a dimension, the same for every dimension of that size.

    So a product and its transpose, on the two sides, are lifted at the same places.
    """
    count = min(size, max(1, round(entries**0.5)))
    return np.sort(np.random.RandomState(size).permutation(size)[:count])


def _each(function: Callable[[Any], Any], values: Any) -> Array:
    """Apply to each element; the result is an array also where there is only one."""
    with np.errstate(invalid="ignore"):  # a signalling NaN is a NaN like any other
        return np.asarray(np.frompyfunc(function, 1, 1)(values), dtype=object)
