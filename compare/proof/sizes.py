"""How large the terms are that a value is added up from: what an exact 0 is measured beside.

Beside 0 every error is large. But where 0 is what 1 - 1 leaves, an error of 1e-60 is none; so each
value has, beside itself, the size of the largest term added up to it.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from compare.proof.bounds import _KERNELS, _SLOPES, Bound, Bounds


class Sizes(Bounds):
    """The arithmetic of `Bounds` with, in place of an error, the size of the largest term."""

    def exact(self, values: Tensor) -> Bound:
        """Return the values of a tensor, each its only term."""
        value = values.detach().double().cpu()
        return Bound(self, value, value.abs())

    def made(self, values: Tensor) -> Bound:
        """Return a tensor that the code makes."""
        return self.exact(values)

    def constant(self, number: float, dtype: torch.dtype) -> Bound:
        """Return a number written in the code."""
        del dtype
        return self.exact(torch.tensor(float(number), dtype=torch.float64))

    def _round(self, value: Tensor, error: Tensor, times: float = 1.0, tiny: float = 0.0) -> Bound:
        """Return a value that nothing is added to: no term is larger than it was."""
        del times, tiny
        return Bound(self, value, torch.maximum(value.abs(), error))

    def add(self, x: Bound, y: Bound) -> Bound:
        """Return x + y."""
        return self._round(x.value + y.value, torch.maximum(x.error, y.error))

    def subtract(self, x: Bound, y: Bound) -> Bound:
        """Return x - y."""
        return self._round(x.value - y.value, torch.maximum(x.error, y.error))

    @staticmethod
    def _product_error(x: Bound, y: Bound) -> Tensor:
        return x.error * y.error

    def divide(self, x: Bound, y: Bound) -> Bound:
        """Return x / y."""
        return self._round(x.value / y.value, x.error / y.value.abs())

    def function(self, name: str, x: Bound) -> Bound:
        """Return an elementary function: terms grow by its slope."""
        slope = _SLOPES[name](x.value, torch.zeros_like(x.value))
        return self._round(_KERNELS[name](x.value), (x.error * slope).nan_to_num(0, posinf=0))

    def power(self, x: Bound, exponent: float, dtype: torch.dtype) -> Bound:
        """Return x**exponent."""
        del dtype
        return self._round(x.value**exponent, x.error**exponent if exponent > 0 else 0 * x.value)

    def sum(self, x: Bound, dims: Sequence[int], keepdim: bool) -> Bound:
        """Return the sum over `dims`, all where there are none."""
        over = [d % x.ndim for d in dims] or list(range(x.ndim))
        value = x.value.sum(over, keepdim)
        largest = x.error.amax(over, keepdim) if x.value.numel() else value.abs()
        return self._round(value, largest)

    def running(self, x: Bound, dim: int, product: bool) -> Bound:
        """Return the running sum, or the running product, along `dim`."""
        if product:
            return self._round(x.value.cumprod(dim), x.error.cumprod(dim))
        return self._round(x.value.cumsum(dim), x.error.cummax(dim).values)

    def product(self, x: Bound, dim: int) -> Bound:
        """Return the product along `dim`, which stays as a dimension of 1."""
        return self._round(x.value.prod(dim, keepdim=True), x.error.prod(dim, keepdim=True))

    def matmul(self, x: Bound, y: Bound) -> Bound:
        """Return the products of matrices; the sum of its terms' sizes stands for the largest."""
        return self._round(x.value @ y.value, x.error @ y.error)

    def scatter_add(self, x: Bound, index: Tensor, values: Bound) -> Bound:
        """Return x with `values` added at the flat `index`; -1 adds nowhere."""
        at = index.reshape(-1)
        keep = at >= 0
        at = at[keep]
        value = x.value.reshape(-1).index_add(0, at, values.value.reshape(-1)[keep])
        error = x.error.reshape(-1).index_reduce(0, at, values.error.reshape(-1)[keep], "amax")
        return self._round(value.reshape(x.shape), error.reshape(x.shape))
