"""Rows of the table of operations for linear algebra: LAPACK's solvers and decompositions.

A row arranges the arguments (which triangle is read, from which side is solved, the order of the
pivots); `exact_matrices` and `matrix_bounds` compute. The pivots of an elimination are those of the
float run, as are signs and the order of eigenvalues.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from compare.proof import exact_matrices, matrix_bounds
from compare.proof.arithmetic_interface import Call, N, flat_indices
from compare.proof.balls import Balls
from compare.proof.bounds import Bounds
from compare.proof.wide import Wide, of_balls

#: Multiplications of balls that a row may take; more would take minutes.
MAX_MULTIPLICATIONS = 2_000_000

_Outputs = tuple[Any, ...]  # of an operation with more than one output


class _OnBalls:
    """The functions of `exact_matrices` for wide numbers, which have no solver of their own."""

    def __getattr__(self, name: str) -> Any:
        function = getattr(exact_matrices, name)

        def call(_n: Any, *args: Any) -> Any:
            result = function(Balls(), *(x.balls() if isinstance(x, Wide) else x for x in args))
            return tuple(map(of_balls, result)) if isinstance(result, tuple) else of_balls(result)

        return call


def _engine(n: Call[N], a: N) -> Any:
    """Return the module that computes with these numbers.

    Raises:
        ValueError: In exact arithmetic `a` would take minutes.
    """
    if isinstance(n.arithmetic, Bounds):
        return matrix_bounds
    lead, size = a.shape[:-2], max(a.shape[-2:])
    count = size**3
    for matrices in lead:
        count *= matrices
    if count > MAX_MULTIPLICATIONS:
        limit = f"at most {MAX_MULTIPLICATIONS:,} are supported"
        raise ValueError(f"it needs some {count:,} multiplications, and {limit}")
    return _OnBalls() if isinstance(a, Wide) else exact_matrices


def _moved(n: Call[N], x: N, move: Callable[[Tensor], Tensor]) -> N:
    """Return x with its numbers where `move` puts their flat indices; 0 where it puts -1."""
    return n.take(x, move(flat_indices(x.shape)))


def _transposed(n: Call[N], x: N) -> N:
    return _moved(n, x, lambda p: p.mT)


def _triangle(n: Call[N], a: N, upper: bool, unit: bool = False) -> N:
    """Return a triangle of `a`, the rest 0; a unit triangle has ones on its diagonal."""
    mask = torch.ones(tuple(a.shape[-2:]), dtype=torch.bool)
    mask = mask.triu() if upper else mask.tril()
    part = _moved(n, a, lambda p: torch.where(mask, p, -1))
    return _with_ones(n, part) if unit else part


def _with_ones(n: Call[N], a: N) -> N:
    """Return `a` with ones on its diagonal."""
    diagonal = torch.eye(*a.shape[-2:], dtype=torch.bool).expand(tuple(a.shape))
    return n.where(diagonal, n.exact(torch.ones(tuple(a.shape))), a)


def _symmetric(n: Call[N], a: N, upper: bool) -> N:
    """Return the symmetric matrix of which one triangle of `a` is read."""
    if upper:
        return _moved(n, a, lambda p: p.triu() + p.triu(1).mT)
    return _moved(n, a, lambda p: p.tril() + p.tril(-1).mT)


def _identity(n: Call[N], shape: Sequence[int]) -> N:
    eye = torch.eye(shape[-2], shape[-1], dtype=torch.float64)
    return n.exact(eye.expand(tuple(shape)).contiguous())


# -- linear systems


def _solution(n: Call[N], a: N, b: N, found: Tensor | None, left: bool = True) -> N:
    """Return the solution of a @ x = b, or of x @ a = b, for broadcasting leading dimensions."""
    if not left:
        other = None if found is None else found.mT
        return _transposed(n, _solution(n, _transposed(n, a), _transposed(n, b), other))
    lead = torch.broadcast_shapes(tuple(a.shape[:-2]), tuple(b.shape[:-2]))
    a = n.broadcast_to(a, (*lead, *a.shape[-2:]))
    b = n.broadcast_to(b, (*lead, *b.shape[-2:]))
    return _engine(n, a).solve(n, a, b, found)  # type: ignore[no-any-return]


def _inverse(n: Call[N], a: N, **_: Any) -> _Outputs:
    inverse, info = n.out
    matrix = _engine(n, a).solved_by_elimination(n, a)
    return _solution(n, matrix, _identity(n, a.shape), inverse), info


def _solve(n: Call[N], a: N, b: N, left: bool = True, **_: Any) -> _Outputs:
    found, packed, pivots, info = n.out
    vector = b.ndim == 1 or (b.ndim == a.ndim - 1 and tuple(b.shape) == tuple(a.shape[:-1]))
    if vector:
        b, found = _moved(n, b, lambda p: p.unsqueeze(-1)), found.unsqueeze(-1)
    x = _solution(n, _engine(n, a).solved_by_elimination(n, a), b, found, left)
    if vector:
        x = _moved(n, x, lambda p: p.squeeze(-1))
    return x, _lu(n, a, packed, _permutation(packed, pivots)), pivots, info


def _solve_triangular(
    n: Call[N], a: N, b: N, *, upper: bool, left: bool = True, unitriangular: bool = False
) -> N:
    matrix = _triangle(n, a, upper, unitriangular)
    matrix = _engine(n, a).solved_by_substitution(n, matrix)
    return _solution(n, matrix, b, n.out, left)


def _triangular_solve(
    n: Call[N], b: N, a: N, upper: bool = True, transpose: bool = False, unit: bool = False
) -> _Outputs:
    matrix = _triangle(n, a, upper, unit)
    matrix = _engine(n, a).solved_by_substitution(n, matrix)
    matrix = _transposed(n, matrix) if transpose else matrix
    return _solution(n, matrix, b, n.out[0]), a


def _lu_solve(
    n: Call[N], packed: N, _pivots: Any, b: N, left: bool = True, adjoint: bool = False
) -> N:
    engine = _engine(n, packed)
    product = engine.product_of_factors(n, packed)
    order = _order(_permutation(n.floats[0], n.floats[1])).argsort(-1)
    matrix: N = engine.solved_by_elimination(n, _with_rows(n, product, order))
    return _solution(n, _transposed(n, matrix) if adjoint else matrix, b, n.out, left)


def _cholesky_solve(n: Call[N], b: N, factor: N, upper: bool = False) -> N:
    lower = _lower_factor(n, factor, upper)
    return _solution(n, _transposed(n, lower), _solution(n, lower, b, None), n.out)


def _cholesky_inverse(n: Call[N], factor: N, upper: bool = False) -> N:
    inverse = _solution(n, _lower_factor(n, factor, upper), _identity(n, factor.shape), None)
    return n.matmul(_transposed(n, inverse), inverse)


def _lower_factor(n: Call[N], factor: N, upper: bool) -> N:
    """Return the lower Cholesky factor as substitution solves with it."""
    lower = _triangle(n, _transposed(n, factor) if upper else factor, upper=False)
    return _engine(n, lower).solved_by_substitution(n, lower)  # type: ignore[no-any-return]


def _least_squares(n: Call[N], a: N, b: N, *_: Any, **__: Any) -> _Outputs:
    _found, residuals, rank, singular = n.out
    if rank.numel() and bool((rank < min(a.shape[-2:])).any()):
        raise ValueError("its matrix is rank deficient")
    if vector := b.ndim == a.ndim - 1:
        b = _moved(n, b, lambda p: p.unsqueeze(-1))
    x = _engine(n, a).least_squares(n, a, b)
    left = n.matmul(a, x) - b
    squares = n.sum(left * left, [-2], False) if residuals.numel() else n.exact(residuals)
    values = _singular_parts(n, a, singular)[1] if singular.numel() else n.exact(singular)
    return _moved(n, x, lambda p: p.squeeze(-1)) if vector else x, squares, rank, values


def _pseudoinverse(n: Call[N], a: N, *_: Any, hermitian: bool = False, **__: Any) -> N:
    if a.shape[-2] < a.shape[-1]:
        found, floats = n.out.mT, n.floats[0].mT
    else:
        found, floats = n.out, n.floats[0]
    eye = torch.eye(floats.shape[-1], dtype=found.dtype)
    if not bool(((found @ floats - eye).abs().amax((-2, -1)) < 0.5).all()):
        raise ValueError("its matrix is rank deficient")
    a = _symmetric(n, a, upper=False) if hermitian else a
    tall = _transposed(n, a) if a.shape[-2] < a.shape[-1] else a
    inverse: N = _engine(n, a).pseudoinverse(n, tall)
    return _transposed(n, inverse) if tall is not a else inverse


# -- decompositions


def _order(permutation: Tensor) -> Tensor:
    """Return for each row of L @ U the row of P @ L @ U that it becomes."""
    return permutation.cpu().argmax(-2)


def _with_rows(n: Call[N], a: N, order: Tensor) -> N:
    """Return `a` with its rows in this order."""
    return _moved(n, a, lambda p: p.gather(-2, order.unsqueeze(-1).expand(p.shape)))


def _lu(n: Call[N], a: N, packed: Tensor, permutation: Tensor) -> Any:
    """Return the packed factors of `a` with its rows in the order of the pivots."""
    rows = _with_rows(n, a, _order(permutation))
    return _engine(n, a).lu(n, rows, packed)


def _lu_of_transpose(n: Call[N], a: N, packed: Tensor, pivots: Tensor) -> Any:
    """Return the packed factors that det and slogdet return: of the transpose if contiguous."""
    a = _transposed(n, a) if n.floats[0].is_contiguous() else a
    return _lu(n, a, packed, _permutation(packed, pivots))


def _permutation(packed: Tensor, pivots: Tensor) -> Tensor:
    """Return P of P @ L @ U."""
    return torch.lu_unpack(packed, pivots, unpack_data=False)[0]


def _determinant(n: Call[N], a: N) -> _Outputs:
    _, packed, pivots = n.out
    determinant = _engine(n, a).determinant(n, a)
    return determinant, _lu_of_transpose(n, a, packed, pivots), pivots


def _log_determinant(n: Call[N], a: N) -> _Outputs:
    sign, _, packed, pivots = n.out
    logarithm = _engine(n, a).log_determinant(n, a)
    return n.exact(sign), logarithm, _lu_of_transpose(n, a, packed, pivots), pivots


def _lu_factor(n: Call[N], a: N, *_: Any, **__: Any) -> _Outputs:
    packed, pivots, info = n.out
    return _lu(n, a, packed, _permutation(packed, pivots)), pivots, info


def _lu_parts(n: Call[N], a: N, *_: Any, **__: Any) -> _Outputs:
    permutation, lower, upper = n.out
    packed = lower.new_zeros(n.floats[0].shape)
    packed[..., : lower.shape[-1]] += lower.tril(-1)
    packed[..., : upper.shape[-2], :] += upper
    return n.exact(permutation), *_unpacked(n, _lu(n, a, packed, permutation))


def _lu_unpack(n: Call[N], packed: N, _pivots: Any, *_: Any, **__: Any) -> _Outputs:
    permutation, lower, _upper = n.out
    if not lower.numel():
        return tuple(n.exact(part) for part in n.out)
    return n.exact(permutation), *_unpacked(n, packed)


def _unpacked(n: Call[N], packed: N) -> tuple[N, N]:
    """Return L and U of packed factors."""
    size = min(packed.shape[-2:])
    lower = _moved(n, packed, lambda p: p[..., :size])
    upper = _moved(n, packed, lambda p: p[..., :size, :])
    return _triangle(n, lower, upper=False, unit=True), _triangle(n, upper, upper=True)


def _cholesky(n: Call[N], a: N, upper: bool = False, **_: Any) -> Any:
    several = isinstance(n.out, tuple | list)
    found = n.out[0] if several else n.out
    if several and bool((n.out[1] != 0).any()):
        raise ValueError("its matrix is not positive definite")
    matrix = _symmetric(n, a, upper)
    lower = _engine(n, a).cholesky(n, matrix, found.mT if upper else found)
    factor = _transposed(n, lower) if upper else lower
    return (factor, n.out[1]) if several else factor


def _qr(n: Call[N], a: N, mode: str = "reduced") -> _Outputs:
    q, r = n.out
    rows, columns = a.shape[-2:]
    size = min(rows, columns)
    square = r[..., :size, :size]
    if q.numel():
        q = q[..., :size]
    else:
        floats = n.floats[0][..., :size]
        q = torch.linalg.solve_triangular(square, floats, upper=True, left=False)
    left = _moved(n, a, lambda p: p[..., :size])
    exact_q, exact_r = _engine(n, a).qr(n, left, (q, square))
    if columns > rows:
        right = n.matmul(_transposed(n, exact_q), _moved(n, a, lambda p: p[..., size:]))
        both = n.join([exact_r, right])
        lead = tuple(a.shape[:-2])
        first = flat_indices(exact_r.shape)
        exact_r = n.take(both, torch.cat([first, flat_indices(right.shape, first.numel())], -1))
        exact_r = n.broadcast_to(exact_r, (*lead, rows, columns))
    if mode == "complete":
        exact_q, exact_r = _widened(n, exact_q, rows), _with_zeros(n, exact_r, rows)
    return n.exact(n.out[0]) if mode == "r" else exact_q, exact_r


def _widened(n: Call[N], a: N, columns: int) -> N:
    """Return orthonormal columns followed by others, which are not unique and so have no value."""
    both = n.join([a, n.exact(torch.full((1,), torch.nan))])
    index = flat_indices(a.shape)
    unknown = torch.full((*index.shape[:-1], columns - index.shape[-1]), index.numel())
    return n.take(both, torch.cat([index, unknown], -1))


def _with_zeros(n: Call[N], a: N, rows: int) -> N:
    """Return `a` with rows of zeros below."""
    index = flat_indices(a.shape)
    zero = torch.full((*index.shape[:-2], rows - index.shape[-2], index.shape[-1]), -1)
    return n.take(a, torch.cat([index, zero], -2))


def _eigh(n: Call[N], a: N, uplo: str = "L", compute_v: bool = True) -> _Outputs:
    matrix = _symmetric(n, a, upper=uplo.upper() == "U")
    values, vectors = _engine(n, a).eigh(n, matrix, tuple(n.out))
    return values, vectors if compute_v else n.exact(n.out[1])


def _svd(
    n: Call[N], a: N, full_matrices: bool = False, compute_uv: bool = True, **_: Any
) -> _Outputs:
    u, s, vh = n.out
    if not compute_uv:
        return n.exact(u), _singular_parts(n, a, s)[1], n.exact(vh)
    size = s.shape[-1]
    parts = _singular_parts(n, a, s, u[..., :size], vh[..., :size, :])
    if not full_matrices:
        return parts
    right = _widened(n, _transposed(n, parts[2]), a.shape[-1])
    return _widened(n, parts[0], a.shape[-2]), parts[1], _transposed(n, right)


def _singular_parts(
    n: Call[N], a: N, s: Tensor, u: Tensor | None = None, vh: Tensor | None = None
) -> _Outputs:
    """Return U, the singular values and V.mT, given those of the float run as far as known."""
    left = s.new_zeros(0) if u is None else u
    right = s.new_zeros(0) if vh is None else vh.mT
    if a.shape[-2] < a.shape[-1]:
        v, values, w = _engine(n, a).svd(n, _transposed(n, a), (right, s, left))
        return w, values, _transposed(n, v)
    w, values, v = _engine(n, a).svd(n, a, (left, s, right))
    return w, values, _transposed(n, v)


# -- products of Householder reflections


def _reflected(n: Call[N], vectors: N, tau: N, x: N, order: Sequence[int]) -> N:
    """Return x multiplied from the left by I - tau v v.mT for each of these columns v."""
    rows = vectors.shape[-2]
    for k in order:
        below = (torch.arange(rows) > k).unsqueeze(-1)
        every = flat_indices(vectors.shape)[..., k : k + 1]
        v = n.take(vectors, torch.where(below, every, -1))
        own = (torch.arange(rows) == k).unsqueeze(-1).expand(every.shape)
        v = n.where(own, n.exact(torch.ones(every.shape)), v)
        factor = n.take(tau, flat_indices(tau.shape)[..., k : k + 1].unsqueeze(-1))
        x = x - (v * factor) * n.matmul(_transposed(n, v), x)
    return x


def _householder_product(n: Call[N], vectors: N, tau: N) -> N:
    order = range(tau.shape[-1] - 1, -1, -1)
    return _reflected(n, vectors, tau, _identity(n, vectors.shape), order)


def _ormqr(n: Call[N], vectors: N, tau: N, x: N, left: bool = True, transpose: bool = False) -> N:
    if not left:
        x = _ormqr(n, vectors, tau, _transposed(n, x), True, not transpose)
        return _transposed(n, x)
    order = range(tau.shape[-1])
    return _reflected(n, vectors, tau, x, order if transpose else order[::-1])


LINEAR_ALGEBRA: dict[str, Callable[..., Any]] = {
    "linalg_inv_ex": _inverse,
    "_linalg_solve_ex": _solve,
    "linalg_solve_triangular": _solve_triangular,
    "triangular_solve": _triangular_solve,
    "linalg_lu_solve": _lu_solve,
    "cholesky_solve": _cholesky_solve,
    "cholesky_inverse": _cholesky_inverse,
    "linalg_lstsq": _least_squares,
    "linalg_pinv": _pseudoinverse,
    "_linalg_det": _determinant,
    "_linalg_slogdet": _log_determinant,
    "linalg_lu_factor_ex": _lu_factor,
    "linalg_lu": _lu_parts,
    "lu_unpack": _lu_unpack,
    **dict.fromkeys(("cholesky", "linalg_cholesky_ex"), _cholesky),
    "linalg_qr": _qr,
    "_linalg_eigh": _eigh,
    "_linalg_svd": _svd,
    "linalg_matrix_exp": lambda n, a: _engine(n, a).exponential(n, a, n.out),
    "linalg_householder_product": _householder_product,
    "ormqr": _ormqr,
}
