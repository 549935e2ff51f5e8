"""Linear algebra in exact arithmetic: factors, solutions and eigenvectors as matrices of balls.

Each function takes arrays of balls whose last two dimensions are the matrix. A decomposition is
unique only up to signs and the order of its parts; these are taken from the float run.
`matrix_bounds` has the same functions for rounding bounds.
"""

from collections.abc import Callable, Sequence
from typing import Any

import flint
import numpy as np
import torch
from torch import Tensor

from compare.proof.arithmetic_interface import Call
from compare.proof.balls import Array


def solved_by_elimination(_n: Call[Array], a: Array) -> Array:
    """Return the matrix that a kernel solves with in place of `a`: in exact arithmetic `a`."""
    return a


solved_by_substitution = solved_by_elimination


def solve(_n: Call[Array], a: Array, b: Array, _found: Tensor | None = None) -> Array:
    """Return x (..., n, k) with a @ x = b, of `a` (..., n, n); NaN where `a` is singular."""
    return _each(lambda p, q: _array(_matrix(p).solve(_matrix(q), nonstop=True)), a, b)


def determinant(_n: Call[Array], a: Array) -> Array:
    """Return the determinant of each matrix of (..., n, n)."""
    flat = [_matrix(a[at]).det() for at in np.ndindex(*a.shape[:-2])]
    return np.asarray(flat, dtype=object).reshape(a.shape[:-2])


def log_determinant(n: Call[Array], a: Array) -> Array:
    """Return log |det a| of each matrix of (..., n, n)."""
    return n.function("log", n.function("abs", determinant(n, a)))


def exponential(_n: Call[Array], a: Array, _found: Tensor) -> Array:
    """Return the exponential of each matrix of (..., n, n)."""
    return _each(lambda p: _array(_matrix(p).exp()), a)


def lu(_n: Call[Array], a: Array, _found: Tensor) -> Array:
    """Return L (below the diagonal, which is 1) and U of a = L U in one array of the shape of `a`.

    The rows of `a` are in the order of the pivots.
    """
    return _each(_eliminated, a)


def product_of_factors(_n: Call[Array], packed: Array) -> Array:
    """Return L @ U of square factors that are packed as `lu` packs them."""

    def product(p: Array) -> Array:
        size = range(len(p))
        lower = [[p[i, j] if j < i else int(i == j) for j in size] for i in size]
        upper = [[p[i, j] if j >= i else 0 for j in size] for i in size]
        return _array(flint.arb_mat(lower) * flint.arb_mat(upper)) if len(p) else p

    return _each(product, packed)


def cholesky(_n: Call[Array], a: Array, _found: Tensor | None = None) -> Array:
    """Return the lower L with L @ L.mT = a, for symmetric `a`; NaN unless positive definite."""
    return _each(_cholesky, a)


def qr(n: Call[Array], a: Array, found: Sequence[Tensor]) -> tuple[Array, Array]:
    """Return Q (..., m, n) and R (..., n, n) of a = Q @ R, for m >= n.

    R is the transposed Cholesky factor of a.mT @ a, with the signs of the float run: at 200 bits
    the squared condition number leaves digits enough.

    Args:
        n: The call, with the arithmetic.
        a: (..., m, n).
        found: Q and R of the float run.
    """
    signs = n.exact(_signs(found[1].diagonal(dim1=-2, dim2=-1)))[..., None]
    r = cholesky(n, n.matmul(_transposed(a), a))
    r = _transposed(r) * signs
    return _transposed(solve(n, _transposed(r), _transposed(a))), r


def eigh(
    _n: Call[Array], a: Array, found: tuple[Tensor, Tensor], what: str = "eigenvalues"
) -> tuple[Array, Array]:
    """Return the eigenvalues (..., n), ascending, and eigenvectors (..., n, n) of symmetric `a`.

    Args:
        _n: The call, with the arithmetic.
        a: (..., n, n).
        found: The float run's eigenvalues, and its eigenvectors, which give the signs; these may
            be empty.
        what: What the eigenvalues are called in a message.

    Raises:
        ValueError: Two eigenvalues are equal, or too close to be told apart.
    """
    lead, size = a.shape[:-2], a.shape[-1]
    values, vectors = np.empty((*lead, size), object), np.empty((*lead, size, size), object)
    for at in np.ndindex(*lead):
        try:
            roots, right = flint.acb_mat(_matrix(a[at])).eig(right=True)
        except ValueError as error:
            gap = float(found[0][at].double().diff().abs().min())
            text = f"two of its {what} are too close to tell apart"
            raise ValueError(f"{text}: in floats their gap is {gap:.3g}") from error
        order = sorted(range(size), key=lambda k: float(roots[k].real.mid()))
        values[at] = [roots[k].real for k in order]
        columns = np.asarray(right.tolist(), dtype=object).reshape(size, size)
        for place, k in enumerate(order):
            guide = found[1][at][:, place].tolist() if found[1].numel() else None
            vectors[at][:, place] = _real_unit(columns[:, k], guide)
    return values, vectors


def svd(
    n: Call[Array], a: Array, found: tuple[Tensor, Tensor, Tensor]
) -> tuple[Array, Array, Array]:
    """Return U (..., m, n), the singular values (..., n), descending, and V (..., n, n); m >= n.

    V has the eigenvectors of a.mT @ a, and U is a @ V over the singular values.

    Args:
        n: The call, with the arithmetic.
        a: (..., m, n).
        found: U, singular values and V of the float run; U and V may be empty.

    Raises:
        ValueError: Two singular values are equal, or too close to be told apart.
    """
    floats = found[1], found[2].flip(-1)
    values, vectors = eigh(n, n.matmul(_transposed(a), a), floats, "singular values")
    s, v = n.function("sqrt", values[..., ::-1]), vectors[..., ::-1]
    return n.matmul(a, v) / s[..., None, :], s, v


def pseudoinverse(n: Call[Array], a: Array) -> Array:
    """Return the pseudoinverse of each matrix of (..., m, n), m >= n, of full rank."""
    return solve(n, n.matmul(_transposed(a), a), _transposed(a))


def least_squares(n: Call[Array], a: Array, b: Array) -> Array:
    """Return the x of least norm among those that minimise |a @ x - b|, for `a` of full rank."""
    if a.shape[-2] < a.shape[-1]:
        return n.matmul(_transposed(pseudoinverse(n, _transposed(a))), b)
    return n.matmul(pseudoinverse(n, a), b)


def _eliminated(a: Array) -> Array:
    """Return the packed LU factors of a matrix without exchanging rows."""
    a = a.copy()
    for k in range(min(a.shape)):
        a[k + 1 :, k] = a[k + 1 :, k] / a[k, k]
        a[k + 1 :, k + 1 :] = a[k + 1 :, k + 1 :] - np.outer(a[k + 1 :, k], a[k, k + 1 :])
    return a


def _cholesky(a: Array) -> Array:
    """Return the Cholesky factor of a matrix, column by column."""
    size = len(a)
    lower: Array = np.full((size, size), flint.arb(0), dtype=object)
    for j in range(size):
        column = a[j:, j] - (lower[j:, :j] * lower[j, :j]).sum(-1)
        lower[j:, j] = column / column[0].sqrt()
    return lower


def _real_unit(vector: Array, guide: Sequence[float] | None) -> Array:
    """Return a complex multiple of a real vector as the unit vector on the side of `guide`."""
    largest = vector[max(range(len(vector)), key=lambda k: float(abs(vector[k]).mid()))]
    real = np.asarray([(x / largest).real for x in vector], dtype=object)
    unit = real / (real * real).sum().sqrt()
    if guide is None:
        return unit
    along = sum(float(x.mid()) * y for x, y in zip(unit, guide, strict=True))
    if not abs(along) > 0.5:
        raise ValueError("an eigenvector of the float run is far from the exact one")
    return unit if along > 0 else -unit


def _signs(values: Tensor) -> Tensor:
    return torch.where(values < 0, -1.0, 1.0).double()


def _transposed(a: Array) -> Array:
    return np.swapaxes(a, -1, -2)


def _matrix(a: Array) -> Any:
    rows, columns = a.shape
    return flint.arb_mat(rows, columns, a.ravel().tolist())


def _array(matrix: Any) -> Array:
    flat: Array = np.empty(matrix.nrows() * matrix.ncols(), dtype=object)
    flat[:] = matrix.entries()
    return flat.reshape(matrix.nrows(), matrix.ncols())


def _each(function: Callable[..., Array], *matrices: Array) -> Array:
    """Apply a function of matrices to those at each leading index."""
    lead = matrices[0].shape[:-2]
    results = [function(*(m[at] for m in matrices)) for at in np.ndindex(*lead)]
    if not results:  # no matrix at all: one of ones gives the shape
        ones = [np.full(m.shape[-2:], flint.arb(1), dtype=object) for m in matrices]
        return np.empty((*lead, *function(*ones).shape), dtype=object)
    stacked: Array = np.empty((len(results), *results[0].shape), dtype=object)
    for k, result in enumerate(results):
        stacked[k] = result
    return stacked.reshape(*lead, *results[0].shape)
