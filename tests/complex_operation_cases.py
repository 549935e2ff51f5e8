"""Calls that exercise every row for complex numbers; their inputs and results are real views."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from tests.operation_cases import CALLS, Call, aten, positive, signed

COMPLEX_CALLS: list[Call] = []


def complex_calls(rows: str, run: Callable[..., Any], label: str = "", **inputs: Tensor) -> None:
    """Add a call that exercises `rows` with inputs of shape (..., 2) as complex numbers.

    An input named `real` stays real.
    """

    def with_complex(**inputs: Tensor) -> Tensor:
        operands = [
            value if name.startswith("real") else torch.view_as_complex(value)
            for name, value in inputs.items()
        ]
        result = run(*operands)
        return torch.view_as_real(result.resolve_conj()) if result.is_complex() else result

    name = f"complex-{rows.split()[0]}" + (f"-{label}" if label else "")
    CALLS.append(Call(tuple(rows.split()), with_complex, inputs, name))
    COMPLEX_CALLS.append(CALLS[-1])


def _between_real_and_complex() -> None:
    z = signed(3, 4, 2)
    complex_calls("view_as_complex view_as_real", lambda z: z, z=z)
    complex_calls("complex", torch.complex, real=signed(4), real2=signed(4))
    complex_calls("polar", torch.polar, real=positive(4), real2=3 * signed(4))
    complex_calls("abs", aten.abs, z=z)
    complex_calls("angle", aten.angle, z=3 * signed(6, 4, 2))
    axes = torch.tensor([[1, 0], [-1, 0], [0, 1], [0, -1], [-1, -0.0], [0, 0], [2, 2], [-3, 3.0]])
    complex_calls("angle", aten.angle, "axes", z=axes.double())
    complex_calls("_to_copy", lambda x: x.to(torch.complex64), "real", real=signed(4))
    complex_calls("_to_copy", lambda z: z.to(torch.complex64), "narrow", z=z)
    complex_calls("_to_copy", lambda z: z.to(torch.complex64).to(torch.complex128), "wide", z=z)
    complex_calls("copy", lambda z, x: aten.copy(z, x), z=signed(4, 2), real=signed(4))
    complex_calls("_conj _neg_view", lambda z: z.conj().imag * 2, z=z)
    complex_calls("_conj_physical", aten._conj_physical, z=z)
    for p in (1, 2, 3, float("inf")):
        run = lambda z, p=p: aten.linalg_vector_norm(z, p, [1])  # noqa: E731
        complex_calls("linalg_vector_norm", run, f"{p}", z=z)


def _elementwise() -> None:
    for name in ("exp", "expm1", "exp2", "log", "log2", "log10", "sqrt", "rsqrt", "reciprocal",
                 "sigmoid", "sin", "cos", "sinh", "cosh", "tanh", "tan", "neg"):  # fmt: skip
        complex_calls(name, getattr(aten, name), z=2 * signed(6, 4, 2))
    for name in ("add", "sub", "mul", "div"):
        run = getattr(aten, name)
        complex_calls(name, run, z=signed(3, 4, 2), w=signed(4, 2))
        complex_calls(name, run, "mixed", real=signed(3, 4), w=signed(4, 2))
        complex_calls(name, run, "mixed-second", z=signed(4, 2), real=positive(4))
        for label, number in {"complex": 0.3 - 2j, "float": 0.3, "int": 3}.items():
            complex_calls(name, lambda z, run=run, c=number: run(z, c), label, z=signed(4, 2))
    complex_calls("div", aten.div, "tiny", z=signed(4, 2) * 1e-22, w=signed(4, 2) * 1e-22)
    for exponent in (0, 1, 2, 3, 5, -1, -2, 0.5, -0.5, 1.7, 70, 2j, 1 + 0.3j):
        run = lambda z, p=exponent: aten.pow(z, p)  # noqa: E731
        complex_calls("pow", run, f"{exponent}", z=signed(4, 2))
    complex_calls("pow", aten.pow, "tensor", z=signed(4, 2), w=signed(4, 2))
    complex_calls("pow", lambda z: aten.pow(2.5, z), "of a number", z=signed(4, 2))


def _sums_and_products() -> None:
    complex_calls("mm", aten.mm, z=signed(3, 4, 2), w=signed(4, 5, 2))
    complex_calls("mm", lambda z, w: z.mH @ w, "adjoint", z=signed(4, 3, 2), w=signed(4, 5, 2))
    complex_calls("bmm", aten.bmm, z=signed(2, 3, 4, 2), w=signed(2, 4, 5, 2))
    c = signed(5, 2)
    complex_calls("addmm", aten.addmm, c=c, z=signed(3, 4, 2), w=signed(4, 5, 2))
    scaled = lambda c, z, w: aten.addmm(c, z, w, beta=0.3j, alpha=2)  # noqa: E731
    complex_calls("addmm", scaled, "scaled", c=c, z=signed(3, 4, 2), w=signed(4, 5, 2))
    z = signed(3, 4, 2)
    for name in ("sum", "mean", "prod"):
        complex_calls(name, getattr(aten, name), z=z)
    complex_calls("sum", lambda z: aten.sum(z, [1], True), "dim", z=z)
    complex_calls("mean", lambda z: aten.mean(z, [0]), "dim", z=z)
    complex_calls("prod", lambda z: aten.prod(z, 1), "dim", z=z)
    for dim in (0, -1):
        complex_calls("cumsum", partial(torch.cumsum, dim=dim), f"{dim}", z=z)
        complex_calls("cumprod", partial(torch.cumprod, dim=dim), f"{dim}", z=z)


def _placed() -> None:
    z, w = signed(3, 4, 2), signed(3, 4, 2)
    mask = torch.arange(12).reshape(3, 4) % 3 == 0
    index = torch.tensor([[0, 2, 1, 0]])
    complex_calls("where", lambda z, w: aten.where(mask, z, w), z=z, w=w)
    complex_calls("where", lambda z, x: aten.where(mask, z, x), "mixed", z=z, real=signed(3, 4))
    put = lambda z, v: aten.index_put(z, [torch.tensor([0, 2])], v)  # noqa: E731
    complex_calls("index_put", put, z=z, v=signed(4, 2))
    complex_calls("scatter_add", lambda z, w: aten.scatter_add(z, 0, index, w), z=z, w=w)
    complex_calls("scatter", lambda z, w: aten.scatter(z, 0, index, w), z=z, w=w)
    complex_calls("masked_scatter", lambda z, w: aten.masked_scatter(z, mask, w), z=z, w=w)
    strided = lambda z: z.as_strided((2, 2), (1, 4)) * 1  # noqa: E731
    complex_calls("as_strided", strided, z=z)
    args = [2, 2], [4, 1], 1
    complex_calls("as_strided_copy", lambda z: aten.as_strided_copy(z, *args), z=z)
    put = lambda z, w: aten.as_strided_scatter(z, w, *args)  # noqa: E731
    complex_calls("as_strided_scatter", put, z=z, w=signed(2, 2, 2))
    complex_calls("constant_pad_nd", lambda z: aten.constant_pad_nd(z, [1, 2], 0.5), z=z)
    complex_calls("cat", lambda z, w: aten.cat([z, w.conj()], 1), z=z, w=w)
    complex_calls("permute", lambda z: z.mT.reshape(2, 6).flip(0), z=z)
    complex_calls("full", lambda z: z + torch.full((4,), 0.3 - 2j, dtype=z.dtype), z=z)
    table = [0.1j, 1, 2 - 1j, 3]
    times = lambda z: z * torch.tensor(table, dtype=z.dtype)  # noqa: E731
    complex_calls("lift_fresh_copy", times, z=z)


def _fourier() -> None:
    for size in (1, 2, 7, 8, 11, 12, 53):
        for norm in ("backward", "ortho", "forward"):
            if norm != "ortho" and size not in (7, 8):
                continue
            label, z = f"{norm}-{size}", signed(2, size, 2)
            complex_calls("_fft_c2c", partial(torch.fft.fft, norm=norm), f"fft-{label}", z=z)
            complex_calls("_fft_c2c", partial(torch.fft.ifft, norm=norm), f"ifft-{label}", z=z)
            run = partial(torch.fft.rfft, norm=norm)
            complex_calls("_fft_r2c", run, label, real=signed(2, size))
            run = partial(torch.fft.irfft, n=size, norm=norm)
            complex_calls("_fft_c2r", run, label, z=signed(2, size // 2 + 1, 2))
    dims = {"dim": (1,), "two": (0, 2), "three": (2, 0, 1)}
    for label, over in dims.items():
        z, x = signed(3, 4, 5, 2), signed(3, 4, 5)
        complex_calls("_fft_c2c", lambda z, d=over: torch.fft.fftn(z, dim=d), label, z=z)
        complex_calls("_fft_r2c", lambda x, d=over: torch.fft.rfftn(x, dim=d), label, real=x)
        complex_calls("_fft_c2r", lambda z, d=over: torch.fft.irfftn(z, dim=d), label, z=z)
    complex_calls("_fft_r2c", torch.fft.fft, "all", real=signed(2, 6))


for _part in (_between_real_and_complex, _elementwise, _sums_and_products, _placed, _fourier):
    _part()
