"""Rows of the discrete Fourier transforms: a product with the matrix of the roots of unity.

Each dimension in turn. The entries of the matrix are cos and sin of 2 pi k / size, exact in balls.

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


def _roots(n: Any, size: int, columns: int) -> tuple[Any, Any]:
    """Return cos and sin of 2 pi j k / size for each j < size and k < columns, real matrices."""
    check_count(size * columns)
    pairs = [flint.arb.sin_cos_pi_fmpq(flint.fmpq(2 * k, size)) for k in range(size)]
    index = torch.outer(torch.arange(size), torch.arange(columns)) % size
    sines, cosines = (np.array([pair[part] for pair in pairs], dtype=object) for part in (0, 1))
    return n.take(n.known(cosines), index), n.take(n.known(sines), index)


def _along(
    z: Complex, dim: int, size: int, product: Callable[[Complex], Sequence[Any]]
) -> list[Any]:
    """Return a transform along one dimension.

    Args:
        z: The numbers.
        dim: The dimension.
        size: Of the transform.
        product: Returns real matrices for the rows to transform.
    """
    n, arithmetic = z.n, ComplexArithmetic(z.n)
    rows = move(arithmetic, torch.movedim, z, dim, -1)
    lead = tuple(rows.shape[:-1])
    flat = move(arithmetic, torch.reshape, rows, (math.prod(lead), rows.shape[-1]))

    def magnitudes() -> Any:
        return n.sum(n.function("abs", flat.re) + n.function("abs", flat.im), [1], True)

    results = []
    for part in product(flat):
        rounded = n.rounded(part, magnitudes, _units(size))
        wide = move(n, torch.reshape, rounded, (*lead, part.shape[-1]))
        results.append(move(n, torch.movedim, wide, -1, dim))
    return results


def _complex_to_complex(z: Complex, dim: int, *, forward: bool) -> Complex:
    size = z.shape[dim]
    cosines, sines = _roots(z.n, size, size)
    matrix = Complex(z.n, cosines, -sines if forward else sines)

    def product(rows: Complex) -> tuple[Any, Any]:
        out = ComplexArithmetic(z.n).matmul(rows, matrix)
        return out.re, out.im

    return Complex(z.n, *_along(z, dim, size, product))


def _real_to_complex(z: Complex, dim: int, columns: int) -> Complex:
    cosines, sines = _roots(z.n, z.shape[dim], columns)

    def product(rows: Complex) -> tuple[Any, Any]:
        return z.n.matmul(rows.re, cosines), z.n.matmul(rows.re, -sines)

    return Complex(z.n, *_along(z, dim, z.shape[dim], product))


def _complex_to_real(z: Complex, dim: int, size: int) -> Any:
    """Return the real inverse of the first half of a transform; the other half is its conjugate.

    So each number counts twice, except the first and, for an even size, the last: of these only the
    real part counts.
    """
    n, half = z.n, size // 2 + 1
    cosines, sines = (move(n, torch.t, table) for table in _roots(n, size, half))
    count = torch.full((half, 1), 2.0)
    count[0] = 1
    if size % 2 == 0:
        count[-1] = 1
    weight, zero = n.exact(count), count == 1
    zeros = n.broadcast_to(n.exact(torch.zeros(())), sines.shape)
    sines = n.where(zero.expand(tuple(sines.shape)), zeros, sines)

    def product(rows: Complex) -> tuple[Any]:
        return (n.matmul(rows.re, cosines * weight) - n.matmul(rows.im, sines * weight),)

    return _along(z, dim, size, product)[0]


def _scale(n: Any, normalization: int, sizes: Sequence[int]) -> Any:
    """Return the factor of a normalisation: none, 1 / sqrt(count) or 1 / count."""
    count = flint.arb(math.prod(sizes))
    return n.known(np.asarray([flint.arb(1), count.rsqrt(), 1 / count][normalization]))


def _c2c(
    n: ComplexArithmetic, x: Complex, dims: Sequence[int], normalization: int, forward: bool
) -> Complex:
    scale = _scale(n.n, normalization, [x.shape[dim] for dim in dims])
    for dim in dims:
        x = _complex_to_complex(x, dim, forward=forward)
    return n.each(lambda part: part * scale, x)


def _r2c(
    n: ComplexArithmetic, x: Complex, dims: Sequence[int], normalization: int, onesided: bool
) -> Complex:
    scale = _scale(n.n, normalization, [x.shape[dim] for dim in dims])
    *others, last = dims
    size = x.shape[last]
    out = _real_to_complex(x, last, size // 2 + 1 if onesided else size)
    for dim in others:
        out = _complex_to_complex(out, dim, forward=True)
    return n.each(lambda part: part * scale, out)


def _c2r(
    n: ComplexArithmetic, x: Complex, dims: Sequence[int], normalization: int, last_size: int
) -> Any:
    *others, last = dims
    scale = _scale(n.n, normalization, [*(x.shape[dim] for dim in others), last_size])
    for dim in others:
        x = _complex_to_complex(x, dim, forward=False)
    return _complex_to_real(x, last, last_size) * scale


FOURIER: dict[str, Callable[..., Any]] = {"_fft_c2c": _c2c, "_fft_r2c": _r2c, "_fft_c2r": _c2r}
