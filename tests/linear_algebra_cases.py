"""Calls that exercise the rows for linear algebra, in the form of tests/operation_cases.py."""

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

L = torch.linalg
with warnings.catch_warnings():  # they are deprecated, which is said once in a process
    warnings.simplefilter("ignore")
    torch.cholesky(torch.eye(1))
    torch.triangular_solve(torch.eye(1), torch.eye(1))
#: The rows that a call exercises, its label, the function and its inputs.
LINEAR_ALGEBRA_CALLS: list[tuple[str, str, Callable[..., Any], dict[str, Tensor]]] = []


def call(rows: str, label: str, run: Callable[..., Any], **inputs: Tensor) -> None:
    """Add a call that exercises `rows` (names separated by spaces)."""
    LINEAR_ALGEBRA_CALLS.append((rows, label, lambda **given: run(*given.values()), inputs))


def normal(*shape: int) -> Tensor:
    """Draw normal numbers; the seed is the number of calls listed so far."""
    chance = torch.Generator().manual_seed(1000 + len(LINEAR_ALGEBRA_CALLS))
    return torch.randn(*shape, generator=chance, dtype=torch.float64)


def regular(*shape: int) -> Tensor:
    """Draw well-conditioned square matrices, not symmetric."""
    return normal(*shape, shape[-1]) + 3 * torch.eye(shape[-1], dtype=torch.float64)


def definite(*shape: int) -> Tensor:
    """Draw positive definite matrices."""
    root = regular(*shape)
    return root @ root.mT


def lower_half(a: Tensor) -> Tensor:
    """Return lower triangular matrices, with other numbers in the half that is not read."""
    return a.tril() + 7 * torch.ones_like(a).triu(1)


def _systems() -> None:
    call("linalg_inv_ex", "", L.inv, a=regular(4))
    call("linalg_inv_ex", "batch", L.inv, a=regular(2, 3, 3))
    call("linalg_inv_ex", "one", torch.inverse, a=regular(1))
    call("_linalg_solve_ex", "", L.solve, a=regular(4), b=normal(4, 3))
    call("_linalg_solve_ex", "vector", L.solve, a=regular(4), b=normal(4))
    call("_linalg_solve_ex", "vectors", L.solve, a=regular(2, 4), b=normal(2, 4))
    call("_linalg_solve_ex", "broadcast", L.solve, a=regular(2, 1, 3), b=normal(2, 3, 2))
    call("_linalg_solve_ex", "right", lambda a, b: L.solve(a, b, left=False), a=regular(4), b=normal(3, 4))  # fmt: skip  # noqa: E501
    call("_linalg_solve_ex", "transposed", lambda a, b: L.solve(a.mT, b), a=regular(4), b=normal(4, 3))  # fmt: skip  # noqa: E501
    for upper in (False, True):
        for left in (False, True):
            for unit in (False, True):
                run = lambda a, b, u=upper, s=left, d=unit: L.solve_triangular(a, b, upper=u, left=s, unitriangular=d)  # fmt: skip  # noqa: E501, E731
                call("linalg_solve_triangular", f"{upper}-{left}-{unit}", run, a=regular(3), b=normal(3, 3))  # fmt: skip  # noqa: E501
    call("linalg_solve_triangular", "broadcast", lambda a, b: L.solve_triangular(a, b, upper=True), a=regular(2, 1, 3), b=normal(2, 3, 2))  # fmt: skip  # noqa: E501
    for upper in (False, True):
        for transpose in (False, True):
            old = lambda b, a, u=upper, t=transpose: torch.triangular_solve(b, a, u, t)  # noqa: E731
            call("triangular_solve", f"{upper}-{transpose}", old, b=normal(3, 2), a=regular(3))
    for upper in (False, True):
        factor = lower_half(L.cholesky(definite(4)))
        factor = factor.mT if upper else factor
        call("cholesky_solve", f"{upper}", lambda b, f, u=upper: torch.cholesky_solve(b, f, u), b=normal(4, 2), f=factor)  # fmt: skip  # noqa: E501
        call("cholesky_inverse", f"{upper}", lambda f, u=upper: torch.cholesky_inverse(f, u), f=factor)  # fmt: skip  # noqa: E501
    solve_lu = lambda a, b, **more: L.lu_solve(*L.lu_factor(a), b, **more)  # noqa: E731
    call("linalg_lu_solve", "", solve_lu, a=regular(4), b=normal(4, 2))
    call("linalg_lu_solve", "batch", solve_lu, a=normal(2, 4, 4), b=normal(2, 4, 2))
    call("linalg_lu_solve", "adjoint", lambda a, b: solve_lu(a, b, adjoint=True), a=normal(4, 4), b=normal(4, 2))  # fmt: skip  # noqa: E501
    call("linalg_lu_solve", "right", lambda a, b: solve_lu(a, b, left=False), a=normal(4, 4), b=normal(2, 4))  # fmt: skip  # noqa: E501
    call("linalg_lu_solve", "right-adjoint", lambda a, b: solve_lu(a, b, left=False, adjoint=True), a=normal(4, 4), b=normal(2, 4))  # fmt: skip  # noqa: E501
    pivots = torch.tensor([3, 3, 3], dtype=torch.int32)
    call("linalg_lu_solve", "packed", lambda f, b: L.lu_solve(f, pivots, b), f=regular(3), b=normal(3, 2))  # fmt: skip  # noqa: E501
    for driver in ("gels", "gelsy", "gelsd", "gelss"):
        fit = lambda a, b, d=driver: L.lstsq(a, b, driver=d)  # noqa: E731
        call("linalg_lstsq", driver, fit, a=normal(5, 3), b=normal(5, 2))
    call("linalg_lstsq", "wide", lambda a, b: L.lstsq(a, b)[0], a=normal(3, 5), b=normal(3, 2))
    call("linalg_lstsq", "batch", L.lstsq, a=normal(2, 5, 3), b=normal(2, 5, 2))
    call("linalg_pinv", "", L.pinv, a=normal(5, 3))
    call("linalg_pinv", "wide", L.pinv, a=normal(2, 3, 5))
    call("linalg_pinv", "hermitian", lambda a: L.pinv(a, hermitian=True), a=definite(4))


def _decompositions() -> None:
    for name, run in (("_linalg_det", torch.ops.aten._linalg_det), ("_linalg_slogdet", torch.ops.aten._linalg_slogdet)):  # fmt: skip  # noqa: E501
        call(name, "", run, a=normal(4, 4))
        call(name, "transposed", lambda a, f=run: f(a.mT), a=normal(4, 4))
        call(name, "batch", run, a=normal(2, 3, 3))
    call("_linalg_det", "one", L.det, a=normal(1, 1))
    call("linalg_cholesky_ex", "", lambda a: L.cholesky(a), a=lower_half(definite(4)))
    call("linalg_cholesky_ex", "batch", lambda a: L.cholesky(a), a=definite(2, 3))
    call("linalg_cholesky_ex", "upper", lambda a: L.cholesky(a, upper=True), a=lower_half(definite(4)).mT)  # fmt: skip  # noqa: E501
    call("cholesky", "", torch.cholesky, a=definite(3))
    call("cholesky", "upper", lambda a: torch.cholesky(a, upper=True), a=definite(3))
    for label, shape in (("", (4, 4)), ("tall", (5, 3)), ("wide", (3, 5)), ("batch", (2, 3, 3))):
        call("linalg_lu_factor_ex", label, lambda a: L.lu_factor(a)[0], a=normal(*shape))
        call("linalg_lu", label, lambda a: L.lu(a)[1:], a=normal(*shape))
        call("lu_unpack", label, lambda a: torch.lu_unpack(*L.lu_factor(a)), a=normal(*shape))
        call("linalg_qr", label, L.qr, a=normal(*shape))
    call("linalg_qr", "complete", lambda a: L.qr(a, mode="complete"), a=normal(3, 5))
    call("linalg_qr", "complete-tall", lambda a: (lambda q, r: (q[:, :3], r))(*L.qr(a, mode="complete")), a=normal(5, 3))  # fmt: skip  # noqa: E501
    call("linalg_qr", "r", lambda a: L.qr(a, mode="r")[1], a=normal(5, 3))
    call("_linalg_eigh", "", L.eigh, a=lower_half(definite(4)))
    call("_linalg_eigh", "upper", lambda a: L.eigh(a, UPLO="U"), a=lower_half(definite(4)).mT)
    call("_linalg_eigh", "batch", L.eigh, a=definite(2, 3))
    call("_linalg_eigh", "values", lambda a: torch.ops.aten._linalg_eigh(a, "L", False)[0], a=definite(4))  # fmt: skip  # noqa: E501
    for label, shape in (("", (4, 4)), ("tall", (5, 3)), ("wide", (3, 5)), ("batch", (2, 3, 2))):
        call("_linalg_svd", label, lambda a: L.svd(a, full_matrices=False), a=normal(*shape))
        full = lambda a: (lambda u, s, v: (u[..., : s.shape[-1]], s, v[..., : s.shape[-1], :]))(*L.svd(a))  # fmt: skip  # noqa: E501, E731
        call("_linalg_svd", f"full-{label}", full, a=normal(*shape))
        values = lambda a: torch.ops.aten._linalg_svd(a, False, False)[1]  # noqa: E731
        call("_linalg_svd", f"values-{label}", values, a=normal(*shape))


def _others() -> None:
    call("linalg_matrix_exp", "", L.matrix_exp, a=normal(4, 4))
    call("linalg_matrix_exp", "batch", L.matrix_exp, a=normal(3, 2, 2) * torch.tensor([[[1e-3]], [[1.0]], [[4.0]]], dtype=torch.float64))  # fmt: skip  # noqa: E501
    call("linalg_matrix_exp", "decaying", L.matrix_exp, a=-3 * definite(3))
    reflections, scales = torch.geqrf(normal(5, 3))
    call("linalg_householder_product", "", L.householder_product, a=reflections, tau=scales)
    for left in (False, True):
        for transpose in (False, True):
            run = lambda a, t, x, s=left, d=transpose: torch.ormqr(a, t, x, s, d)  # noqa: E731
            other = normal(5, 2) if left else normal(2, 5)
            call("ormqr", f"{left}-{transpose}", run, a=reflections, t=scales, x=other)


for _part in (_systems, _decompositions, _others):
    _part()
