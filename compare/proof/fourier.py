"""Rows of the discrete Fourier transforms: products with matrices of the roots of unity.

Each dimension in turn. The roots are cos and sin of 2 pi k / size, exact constants.

The bound has to hold for every algorithm. One that factors the matrix (Cooley-Tukey, with a direct
product for each prime factor) adds up the same terms: each x_j is multiplied by some roots on its
way to an output, and each of these multiplications and additions rounds once. So the error of an
output is at most a constant times u times the sum of the prime factors, times the sum of all |x_j|
(Higham, Accuracy and Stability of Numerical Algorithms, section 24.1, whose bound in the 2-norm has
log2(size) for powers of 2). For large prime factors libraries use a convolution of 2 to 4 times the
size (Bluestein 1970, Rader 1968), whose own transforms have errors in the 2-norm of O(u log size):
an output gets sqrt(size) times that.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import flint
import numpy as np
import torch

from compare.proof.arithmetic_interface import flat_indices
from compare.proof.complex_numbers import Complex, ComplexArithmetic
from compare.proof.operations import check_count, move

# Roundings of each stage for each of its terms: the product with a root, which is itself rounded,
# and the addition; and of the stage that splits the transform of real numbers, and of the scaling.
_UNITS_PER_TERM = 6.0
_UNITS_ONCE = 24.0
_LARGEST_DIRECT_FACTOR = 7
_CONVOLUTION_UNITS = 32.0


def _units(size: int) -> float:
    """Return the roundings of a transform, relative to the sum of all magnitudes."""
    factors, rest, p = [], size, 2
    while rest > 1:
        if rest % p == 0:
            factors.append(p)
            rest //= p
        else:
            p += 1
    units = _UNITS_ONCE + _UNITS_PER_TERM * sum(factors)
    if factors and factors[-1] > _LARGEST_DIRECT_FACTOR:
        units += _CONVOLUTION_UNITS * math.sqrt(size) * math.log2(4 * size)
    return units


def _roots(n: Any, size: int, rows: int, columns: int, *, forward: bool) -> Complex:
    """Return the roots of unity exp(-+2 pi i j k / size) for j < rows and k < columns."""
    check_count(rows * columns)
    pairs = [flint.arb.sin_cos_pi_fmpq(flint.fmpq(2 * k, size)) for k in range(size)]
    index = torch.outer(torch.arange(rows), torch.arange(columns)) % size
    sines, cosines = (np.array([pair[part] for pair in pairs], dtype=object) for part in (0, 1))
    sines = -sines if forward else sines
    return Complex(n, n.take(n.known(cosines), index), n.take(n.known(sines), index))


def _transformed(z: Complex, *, forward: bool) -> Complex:
    """Return the transform of each row of a matrix, without the rounding of a kernel.

    A composite size is split once, near its root, into two shorter transforms with a product
    between them (Cooley and Tukey 1965): that takes less time in balls, and each further split
    would widen the bounds that are inherited from the operands.
    """
    rows, size = z.shape
    n = ComplexArithmetic(z.n)
    first = max(d for d in range(1, math.isqrt(size) + 1) if size % d == 0)
    second = size // first
    if first == 1:
        return n.matmul(z, _roots(z.n, size, size, size, forward=forward))

    def shaped(x: Complex, *shape: int) -> Complex:
        return n.lifted(move(n, lambda p: p.mT.reshape(shape), x))

    x = shaped(move(n, torch.reshape, z, (rows, first, second)), rows * second, first)
    x = n.matmul(x, _roots(z.n, first, first, first, forward=forward))
    x = move(n, torch.reshape, x, (rows, second, first))
    x = x * _roots(z.n, size, second, first, forward=forward)
    x = n.matmul(
        shaped(x, rows * first, second), _roots(z.n, second, second, second, forward=forward)
    )
    return shaped(move(n, torch.reshape, x, (rows, first, second)), rows, size)


def _along(z: Complex, dim: int, *, forward: bool) -> Complex:
    """Return the transform along one dimension, with the rounding of any kernel."""
    real, n, size = z.n, ComplexArithmetic(z.n), z.shape[dim]
    lines = move(n, torch.movedim, z, dim, -1)
    lead = tuple(lines.shape[:-1])
    rows = move(n, torch.reshape, lines, (math.prod(lead), size))

    def magnitudes() -> Any:
        sizes = real.function("abs", rows.re) + real.function("abs", rows.im)
        return real.sum(sizes, [1], True)

    out = _transformed(rows, forward=forward)
    out = n.each(lambda part: real.rounded(part, magnitudes, _units(size)), out)
    out = move(n, torch.reshape, out, (*lead, size))
    return n.lifted(move(n, torch.movedim, out, -1, dim))


def _completed(z: Complex, dim: int, size: int) -> Complex:
    """Return a whole transform of real numbers from its first half.

    The other half is its conjugate. Of the first number and, for an even size, the middle one
    kernels read only the real parts, as does the real part of the inverse: their roots are real.
    """
    n, half = z.n, size // 2 + 1
    k = torch.arange(size)
    at = torch.where(k < half, k, size - k)
    index = flat_indices(z.shape).index_select(dim, at)
    along = [-1 if d == dim % z.ndim else 1 for d in range(z.ndim)]
    im = n.take(z.im, index)
    mirrored = (k >= half).reshape(along).expand(tuple(index.shape))
    return Complex(n, n.take(z.re, index), n.where(mirrored, -im, im))


def _scale(n: Any, normalization: int, sizes: Sequence[int]) -> Any:
    """Return the factor of a normalisation: none, 1 / sqrt(count) or 1 / count."""
    count = flint.arb(math.prod(sizes))
    return n.known(np.asarray([flint.arb(1), count.rsqrt(), 1 / count][normalization]))


def _c2c(
    n: ComplexArithmetic, x: Complex, dims: Sequence[int], normalization: int, forward: bool
) -> Complex:
    scale = _scale(n.n, normalization, [x.shape[dim] for dim in dims])
    for dim in dims:
        x = _along(x, dim, forward=forward)
    return n.each(lambda part: part * scale, x)


def _r2c(
    n: ComplexArithmetic, x: Complex, dims: Sequence[int], normalization: int, onesided: bool
) -> Complex:
    scale = _scale(n.n, normalization, [x.shape[dim] for dim in dims])
    *others, last = dims
    out = _along(x, last, forward=True)
    if onesided:
        out = move(n, torch.narrow, out, last, 0, x.shape[last] // 2 + 1)
    for dim in others:
        out = _along(out, dim, forward=True)
    return n.each(lambda part: part * scale, out)


def _c2r(
    n: ComplexArithmetic, x: Complex, dims: Sequence[int], normalization: int, last_size: int
) -> Any:
    *others, last = dims
    scale = _scale(n.n, normalization, [*(x.shape[dim] for dim in others), last_size])
    for dim in others:
        x = _along(x, dim, forward=False)
    return _along(_completed(x, last, last_size), last, forward=False).re * scale


FOURIER: dict[str, Callable[..., Any]] = {"_fft_c2c": _c2c, "_fft_r2c": _r2c, "_fft_c2r": _c2r}
