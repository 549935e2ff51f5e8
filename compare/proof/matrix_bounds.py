"""Rounding bounds of linear algebra: how far LAPACK's results can lie from the exact ones.

Every kernel here is backward stable: its result is exact for a matrix within the backward error of
the one that it was given (Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., 2002).
To that the error of the matrix itself is added, elementwise, and a perturbation theorem says how
far the result can then move. The theorems are applied with their higher-order terms: where a matrix
is so ill-conditioned that these do not converge, there is no bound. The residual of the float run
counts too, in case a kernel is less stable than its theorem says.

Each function takes bounds whose last two dimensions are the matrix. `exact_matrices` has the same
functions for exact values.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from compare.proof.arithmetic_interface import Call
from compare.proof.bounds import SLACK, Bound

MOST_SQUARED = 1e4  # the largest norm of a matrix whose exponential has a bound


@dataclass(frozen=True)
class Factors(Bound):
    """Packed LU factors that remember their product: it is known better than the factors are."""

    product: Bound | None = None


def solved_by_elimination(n: Call[Bound], a: Bound) -> Bound:
    """Return the matrix that a kernel solves with in place of `a`: its error added to that of `a`.

    Gaussian elimination with partial pivoting solves with a matrix within gamma_3n |L||U| of `a`
    (Higham, theorem 9.4).
    """
    return _moved(n, a, _eliminated(a.value))


def solved_by_substitution(n: Call[Bound], a: Bound) -> Bound:
    """Return the triangular matrix that substitution solves with (Higham, theorem 8.5)."""
    return _moved(n, a, a.value.abs())


def solve(n: Call[Bound], a: Bound, b: Bound, found: Tensor | None = None) -> Bound:
    """Return the solution of a @ x = b.

    With A x = b and A' x' = b', x' - x = A^-1 (b' - b - (A' - A) x'): the error is at most
    |A^-1| (e_b + e_A |x'|).

    Args:
        n: The call, with the arithmetic.
        a: (..., n, n), with the backward error of the solver in its error.
        b: (..., n, k), with the same leading dimensions.
        found: The float run's solution, if that is known.
    """
    x = torch.linalg.solve_ex(a.value, b.value)[0]
    inverse = _largest_inverse(a.value, a.error)
    first = inverse @ (a.error @ x.abs() + b.error)
    error = _sum_of_powers(2 * inverse @ a.error, first)  # of 2: |x'| is at most |x| + 2 errors
    if found is not None:
        found = found.double().cpu()
        residual = (a.value @ found - b.value).abs() + a.error @ found.abs() + b.error
        error = torch.maximum(error, inverse @ residual)
    return _bound(n, x, error)


def determinant(n: Call[Bound], a: Bound) -> Bound:
    """Return the determinant of each matrix of (..., n, n)."""
    pivots, error = _pivots(n, a)
    product = n.product(n.exact(pivots[0]), -1)
    value, rounded = product.value.squeeze(-1) * pivots[1], product.error.squeeze(-1)
    return _bound(n, value, rounded + (value.abs() + rounded) * error.expm1())


def log_determinant(n: Call[Bound], a: Bound) -> Bound:
    """Return log |det a| of each matrix of (..., n, n)."""
    pivots, error = _pivots(n, a)
    total = n.sum(n.function("log", n.exact(pivots[0].abs())), [-1], False)
    return _bound(n, total.value, total.error + error)


def _pivots(n: Call[Bound], a: Bound) -> tuple[tuple[Tensor, Tensor], Tensor]:
    """Return the pivots of `a`, the sign of its permutation, and the error of log |det a|.

    The derivative of log |det A| along dA is tr(A^-1 dA).
    """
    a = solved_by_elimination(n, a)
    factors, swaps = torch.linalg.lu_factor_ex(a.value)[:2]
    places = torch.arange(1, swaps.shape[-1] + 1, dtype=swaps.dtype)
    sign = 1.0 - 2.0 * ((swaps != places).sum(-1) % 2)
    error = (_largest_inverse(a.value, 2 * a.error) * a.error.mT).sum((-2, -1))
    pivots = factors.diagonal(dim1=-2, dim2=-1)
    return (pivots, sign.double()), error


def exponential(n: Call[Bound], a: Bound, found: Tensor) -> Bound:
    """Return the exponential of each matrix of (..., n, n).

    The kernel computes a polynomial at a / 2**s and squares it s times (Higham, Functions of
    Matrices, 2008, section 10.3). The exponential of the magnitudes bounds the polynomial's
    rounding; each squaring of X makes |X| e + e |X| + e**2 of an error e. What the float run is off
    by is added: up to torch 2.14 the polynomial of degree 8 has a wrong coefficient, and a single
    matrix in float32 of norm 0.05 to 0.58 is off by up to 1e-5 (pytorch issue 196592).

    Args:
        n: The call, with the arithmetic.
        a: (..., n, n).
        found: The float run's result.
    """
    size = a.shape[-1]
    norm = (a.value.abs() + a.error).sum(-2, keepdim=True).amax(-1, True)
    squarings = norm.clamp(1, MOST_SQUARED).log2().ceil()
    scale = 2.0**-squarings
    magnitude, error = (a.value.abs() + a.error) * scale, a.error * scale
    blocks = [[magnitude, error], [torch.zeros_like(error), magnitude]]
    # above its diagonal the exponential has the largest derivative of exp along the error
    largest = torch.linalg.matrix_exp(_of_blocks(blocks))
    rounding = _gamma(n, 8 * size) * largest[..., :size, :size]
    truncation = 8 * n.arithmetic.unit * norm * scale * (norm * scale).exp()
    error = largest[..., :size, size:] + rounding + truncation
    for k in range(int(squarings.max()) if squarings.numel() else 0, 0, -1):
        power = torch.linalg.matrix_exp(a.value * 2.0**-k).abs() + error
        squared = power @ error + error @ power + _gamma(n, size) * (power @ power)
        error = torch.where(squarings >= k, squared, error)
    # of two matrices together the polynomial has degree 18
    value = torch.linalg.matrix_exp(torch.stack([a.value, a.value]))[0]
    error = error + (found.double().cpu() - value).abs()
    return _bound(n, value, torch.where(norm <= MOST_SQUARED, error, torch.inf))


def lu(n: Call[Bound], a: Bound, found: Tensor) -> Factors:
    """Return L (below the diagonal, which is 1) and U of a = L U in one array of the shape of `a`.

    With G = L^-1 dA U^-1, the change of L is at most |L| times the lower part of
    (I - |G|)^-1 |G|, that of U its upper part times |U| (Sun, BIT 32, 1992).

    Args:
        n: The call, with the arithmetic.
        a: (..., m, n), its rows in the order of the pivots.
        found: The packed factors of the float run.
    """
    packed = found.double().cpu()
    lower, upper = _unpacked(packed)
    size = min(a.shape[-2:])
    backward = _gamma(n, max(a.shape[-2:])) * lower.abs() @ upper.abs()
    error = _error_of(a, backward, lower @ upper)
    l, u = lower[..., :size, :], upper[..., :size]
    change = _change_of_factors(l, error[..., :size, :size], u)
    l_error, u_error = l.abs() @ change.tril(-1), change.triu() @ u.abs()
    below = error[..., size:, :size] + lower[..., size:, :].abs() @ u_error
    right = error[..., :size, size:] + l_error @ upper[..., size:].abs()
    corner = torch.where(torch.ones_like(l_error).tril(-1) > 0, l_error, u_error)
    errors = _of_blocks(
        [
            [corner, _largest_inverse(l, l_error) @ right],
            [below @ _largest_inverse(u, u_error), error[..., size:, size:]],
        ]
    )
    bound = _bound(n, packed, errors)
    product = Bound(a.arithmetic, lower @ upper, error)
    return Factors(a.arithmetic, bound.value, bound.error, product=product)


def product_of_factors(_n: Call[Bound], packed: Bound) -> Bound:
    """Return L @ U of square factors that are packed as `lu` packs them."""
    if isinstance(packed, Factors) and packed.product is not None:
        return packed.product
    lower, upper = _unpacked(packed.value)
    l_error, u_error = packed.error.tril(-1), packed.error.triu()
    error = l_error @ (upper.abs() + u_error) + lower.abs() @ u_error
    return Bound(packed.arithmetic, lower @ upper, error)


def cholesky(n: Call[Bound], a: Bound, found: Tensor) -> Bound:
    """Return the lower L with L @ L.mT = a, for symmetric `a`.

    Backward error: Higham, theorem 10.3; the change of L: Sun, BIT 31, 1991.

    Args:
        n: The call, with the arithmetic.
        a: (..., n, n).
        found: L of the float run.
    """
    lower = found.double().cpu()
    backward = _gamma(n, a.shape[-1]) * lower.abs() @ lower.abs().mT
    error = _error_of(a, backward, lower @ lower.mT)
    change = _change_of_factors(lower, error, lower.mT)
    return _bound(n, lower, lower.abs() @ change.tril())


def qr(n: Call[Bound], a: Bound, found: tuple[Tensor, Tensor]) -> tuple[Bound, Bound]:
    """Return Q (..., m, n) and R (..., n, n) of a = Q @ R, for m >= n.

    The backward error of a column is a multiple of its norm (Higham, theorem 19.4, whose worst
    case m n is replaced by m + n, which measurements stay below by far). Q* R* = Q R + dA, and
    with K = dA R^-1 the factor S = R* R^-1 is the Cholesky factor of (Q + K)^T (Q + K). So R* is
    S R, and Q* - Q = K - Q* (S - I).

    Args:
        n: The call, with the arithmetic.
        a: (..., m, n).
        found: Q and R of the float run.
    """
    q, r = (part.double().cpu() for part in found)
    unit = _gamma(n, sum(a.shape[-2:]))
    backward = unit * a.value.norm(dim=-2, keepdim=True).expand(a.shape)
    skew = _off_identity(q.mT @ q).norm(dim=(-2, -1), keepdim=True).clamp_min(unit)
    k = _error_of(a, backward, q @ r) @ _triangular_inverse(r.mT).mT.abs()
    size = q.abs() + skew
    gram = size.mT @ k + k.mT @ size + k.mT @ k
    change = _sum_of_powers(gram, gram).triu()
    q_error = _sum_of_powers(change.mT, (k + size @ change).mT).mT + skew
    return _bound(n, q, q_error), _bound(n, r, change @ r.abs())


def eigh(n: Call[Bound], a: Bound, found: tuple[Tensor, Tensor]) -> tuple[Bound, Bound]:
    """Return the eigenvalues (..., n), ascending, and eigenvectors (..., n, n) of symmetric `a`.

    Args:
        n: The call, with the arithmetic.
        a: (..., n, n).
        found: Eigenvalues and eigenvectors of the float run; these may be empty.
    """
    values, vectors = (part.double().cpu() for part in found)
    basis = vectors if vectors.numel() else torch.linalg.eigh(a.value)[1]
    value_error, vector_error = _eigen_errors(n, a.value, a.error, values, basis, a.shape[-1])
    return _bound(n, values, value_error), _bound(n, basis, vector_error)


def svd(
    n: Call[Bound], a: Bound, found: tuple[Tensor, Tensor, Tensor]
) -> tuple[Bound, Bound, Bound]:
    """Return U (..., m, n), the singular values (..., n), descending, and V (..., n, n); m >= n.

    They are eigenvectors and eigenvalues of [[0, a], [a.mT, 0]] (Golub and Van Loan, Matrix
    Computations, 4th ed., 2013, section 8.6), with (U, V), (U, -V) and the complement of U.

    Args:
        n: The call, with the arithmetic.
        a: (..., m, n).
        found: U, singular values and V of the float run; U and V may be empty.
    """
    u, s, v = (part.double().cpu() for part in found)
    m, count = a.shape[-2:]
    if not u.numel():
        u, _, vh = torch.linalg.svd(a.value, full_matrices=False)
        v = vh.mT
    rest = torch.linalg.qr(u, mode="complete")[0][..., count:]
    root = math.sqrt(0.5)
    half_zero = rest.new_zeros(*rest.shape[:-2], count, m - count)
    basis = _of_blocks([[root * u, root * u, rest], [root * v, -root * v, half_zero]])
    values = torch.cat([s, -s, s.new_zeros(*s.shape[:-1], m - count)], -1)
    matrix, error = (
        _of_blocks(
            [
                [x.new_zeros(*x.shape[:-2], m, m), x],
                [x.mT, x.new_zeros(*x.shape[:-2], count, count)],
            ]
        )
        for x in (a.value, a.error)
    )
    value_error, vector_error = _eigen_errors(n, matrix, error, values, basis, count)
    u_error, v_error = (vector_error / root).split([m, count], -2)
    return _bound(n, u, u_error), _bound(n, s, value_error), _bound(n, v, v_error)


def pseudoinverse(n: Call[Bound], a: Bound) -> Bound:
    """Return the pseudoinverse of each matrix of (..., m, n), m >= n, of full rank."""
    eye = torch.eye(a.shape[-2], dtype=torch.float64).expand(*a.shape[:-1], -1)
    return least_squares(n, a, Bound(a.arithmetic, eye, torch.zeros_like(eye)))


def least_squares(n: Call[Bound], a: Bound, b: Bound) -> Bound:
    """Return the x of least norm among those that minimise |a @ x - b|, for `a` of full rank.

    With P the pseudoinverse, dP = -P dA P + P P^T dA^T (I - A P) + (I - P A) dA^T P^T P up to
    16 |P| (|P| |dA|)**2 in the spectral norm, if |P| |dA| <= 1/4 (Wedin, BIT 13, 1973).
    """
    unit = _gamma(n, sum(a.shape[-2:]))
    p = torch.linalg.pinv(a.value)
    x = p @ b.value
    a_error = a.error + unit * a.value.norm(dim=(-2, -1), keepdim=True)
    b_error = b.error + unit * b.value.norm(dim=-2, keepdim=True)
    left = (b.value - a.value @ x).abs()
    outside = (torch.eye(p.shape[-2], dtype=torch.float64) - p @ a.value).abs()
    error = p.abs() @ (a_error @ x.abs() + b_error) + (p @ p.mT).abs() @ a_error.mT @ left
    error = error + outside @ a_error.mT @ (p.mT @ x).abs()
    size = p.norm(dim=(-2, -1), keepdim=True)
    share = size * a_error.norm(dim=(-2, -1), keepdim=True)
    second = share * share * b.value.norm(dim=-2, keepdim=True)
    second = second + share * b_error.norm(dim=-2, keepdim=True)
    return _bound(n, x, torch.where(share <= 0.25, error + 16 * size * second, torch.inf))


def _eigen_errors(
    n: Call[Bound], a: Tensor, a_error: Tensor, values: Tensor, basis: Tensor, count: int
) -> tuple[Tensor, Tensor]:
    """Bound the errors of the first `count` eigenvalues and eigenvectors of a symmetric matrix.

    In the basis of the computed vectors the matrix is diag(values) + F. An eigenvalue whose
    Gershgorin disc is isolated has an eigenvector 1 at i and at most 1 elsewhere, so row j bounds
    its element by sum_k |F_jk y_k| / gap, first with y_k = 1 and then with what that gives. An
    eigenvalue without such a disc is off by |F| at most (Weyl). Solvers are backward stable in
    norm (LAPACK Users' Guide, 3rd ed., 1999, sections 4.7 and 4.9).
    """
    unit = _gamma(n, a.shape[-1])
    skew = _off_identity(basis.mT @ basis).norm(dim=(-2, -1), keepdim=True).clamp_min(unit)
    residual = (basis.mT @ a @ basis - torch.diag_embed(values)).abs()
    size = basis.abs() + skew
    f = size.mT @ a_error @ size
    f = f + torch.maximum(residual, unit * a.norm(dim=(-2, -1), keepdim=True))
    off = f - torch.diag_embed(f.diagonal(dim1=-2, dim2=-1))
    radius = f.sum(-1)
    near = (values[..., :, None] - values[..., None, :count]).abs()
    gap = near - radius[..., :, None] - radius[..., None, :count]
    own = torch.eye(gap.shape[-2], count, dtype=torch.bool)
    gap = gap.masked_fill(own, torch.inf)
    isolated = (gap > 0).all(-2)
    crude = radius[..., :, None] / gap
    y = (f[..., :count] + off @ crude) / gap
    diagonal = f.diagonal(dim1=-2, dim2=-1)[..., :count]
    value_error = diagonal + (f[..., :count] * crude).sum(-2)
    weyl = f.norm(dim=(-2, -1))[..., None].expand(value_error.shape)
    value_error = torch.where(isolated, value_error.minimum(weyl), weyl)
    shorter = (y * y).sum(-2, keepdim=True) / 2
    vector_error = basis.abs() @ y + shorter * basis[..., :count].abs() + skew
    return value_error, torch.where(isolated[..., None, :], vector_error, torch.inf)


def _change_of_factors(lower: Tensor, error: Tensor, upper: Tensor) -> Tensor:
    """Return (I - H)^-1 H for H = |L^-1| error |U^-1|."""
    h = _triangular_inverse(lower).abs() @ error @ _triangular_inverse(upper.mT).mT.abs()
    return _sum_of_powers(h, h)


def _error_of(a: Bound, backward: Tensor, product: Tensor) -> Tensor:
    """Bound the distance of the exact matrix from the product of the computed factors."""
    return a.error + torch.maximum(backward, (a.value - product).abs())


def _largest_inverse(a: Tensor, error: Tensor) -> Tensor:
    """Return a matrix that no inverse of a matrix within `error` of `a` exceeds in magnitude.

    With Z the computed inverse, it is (I - |I - Z a| - |Z| error)^-1 |Z|.
    """
    inverse = torch.linalg.inv_ex(a)[0]
    size = inverse.abs()
    rounding = 2.0**-52 * (a.shape[-1] + 2) * a.abs()
    return _sum_of_powers(_off_identity(inverse @ a) + size @ (error + rounding), size)


def _sum_of_powers(m: Tensor, g: Tensor) -> Tensor:
    """Return (I + m + m**2 + ...) g for matrices that are not negative; infinity if it diverges.

    It converges if m x <= 0.9 x for some positive x (Collatz, Math. Z. 48, 1942).
    """
    rest = torch.eye(m.shape[-1], dtype=torch.float64) - m
    x = torch.linalg.solve_ex(rest, torch.ones_like(m[..., :1]))[0]
    converges = ((x > 0) & (m @ x <= 0.9 * x)).all(-2, keepdim=True)
    total = torch.linalg.solve_ex(rest, g)[0].maximum(g) * SLACK
    return torch.where(converges, total, torch.inf)


def _moved(n: Call[Bound], a: Bound, size: Tensor) -> Bound:
    """Return the matrix that a solver with the sums |L||U| = `size` solves with in place of `a`."""
    return Bound(a.arithmetic, a.value, a.error + _gamma(n, a.shape[-1]) * size)


def _gamma(n: Call[Bound], terms: int) -> float:
    """Return gamma_4k for k terms and a few more, with which LAPACK's other orders are covered."""
    product: float = 4 * (terms + 4) * n.arithmetic.unit
    return product / (1 - product) if product < 0.5 else math.inf


def _bound(n: Call[Bound], value: Tensor, error: Tensor) -> Bound:
    """Return a result with this error and its last rounding; without a bound where it is NaN."""
    error = torch.where(value.isfinite(), error, torch.inf).nan_to_num(torch.inf, torch.inf)
    return n.round_to_dtype(Bound(n.arithmetic, value.nan_to_num(0.0), error))


def _off_identity(a: Tensor) -> Tensor:
    """Return |a - I|."""
    return (a - torch.eye(a.shape[-1], dtype=torch.float64)).abs()


def _eliminated(a: Tensor) -> Tensor:
    """Return P |L| |U| of a square matrix a = P L U."""
    factors, swaps = torch.linalg.lu_factor_ex(a)[:2]
    order, lower, upper = torch.lu_unpack(factors, swaps)
    size: Tensor = order @ lower.abs() @ upper.abs()
    return size


def _unpacked(packed: Tensor) -> tuple[Tensor, Tensor]:
    """Return L (..., m, k) and U (..., k, n) of packed factors, k = min(m, n)."""
    size = min(packed.shape[-2:])
    ones = torch.eye(packed.shape[-2], size, dtype=torch.float64)
    return packed[..., :size].tril(-1) + ones, packed[..., :size, :].triu()


def _triangular_inverse(lower: Tensor) -> Tensor:
    """Return the inverse of lower triangular matrices."""
    eye = torch.eye(lower.shape[-1], dtype=torch.float64).expand(lower.shape)
    inverse: Tensor = torch.linalg.solve_triangular(lower, eye, upper=False)
    return inverse


def _of_blocks(rows: Sequence[Sequence[Tensor]]) -> Tensor:
    """Return the matrix that consists of these blocks."""
    return torch.cat([torch.cat(list(row), -1) for row in rows], -2)
