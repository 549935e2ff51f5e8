"""Complex gradients: torch's convention, both parts of every number, and Fourier transforms.

The gradient of a real loss L at z = x + iy is dL/dx + i dL/dy. So a holomorphic function passes
back the conjugate of its derivative, and a missing conjugate is the usual bug.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

import compare
from compare.errors import BadInput
from compare.report.report import Report
from tests.tenth import unless_chosen

DTYPES = torch.complex128, torch.complex64
Shapes = dict[str, tuple[Any, ...]]  # the first item: "complex", "real" or "positive"


@dataclass(frozen=True)
class Pass:
    """A forward function, a right backward pass, and wrong ones by name."""

    name: str
    forward: Callable[..., Any]
    backward: Any
    shapes: Shapes
    wrong: dict[str, Any]

    def inputs(self, dtype: torch.dtype) -> dict[str, Tensor]:
        """Return random inputs; the seed is the same for all passes."""
        rng = torch.Generator().manual_seed(11)
        result = {}
        for name, (kind, *shape) in self.shapes.items():
            kept = dtype if kind == "complex" else dtype.to_real()
            values = torch.randn(*shape, generator=rng, dtype=kept)
            result[name] = values.abs() + 0.1 if kind == "positive" else values
        return result


PASSES: list[Pass] = []


def passes(
    name: str, forward: Callable[..., Any], backward: Any, shapes: Shapes, **wrong: Any
) -> None:
    """Add a pass and its wrong variants."""
    PASSES.append(Pass(name, forward, backward, shapes, wrong))


Z: Shapes = {"z": ("complex", 3, 4)}


class _Matmul(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor, w: Tensor) -> Tensor:
        ctx.save_for_backward(z, w)
        return z @ w

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        z, w = ctx.saved_tensors
        return grads[0] @ w.mH, z.mH @ grads[0]


class _MatmulWithoutConj(_Matmul):
    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        z, w = ctx.saved_tensors
        return grads[0] @ w.mH, z.mT @ grads[0]


def _product_backward(
    grad_output: Tensor, z: Tensor, w: Tensor, *, conj: bool = True, factor: float = 1.0
) -> dict[str, Tensor]:
    to_z = grad_output * (w.conj() if conj else w)
    return {"z": factor * to_z, "w": (grad_output * z.conj()).sum(0)}


def _matmul_backward(
    grad_output: Tensor, z: Tensor, w: Tensor, *, conj: bool = True, factor: float = 1.0
) -> dict[str, Tensor]:
    return {"z": grad_output @ w.mH, "w": factor * ((z.mH if conj else z.mT) @ grad_output)}


def _quotient_backward(
    grad_output: Tensor, z: Tensor, w: Tensor, *, conj: bool = True
) -> dict[str, Tensor]:
    to_w = -(grad_output * (z / w / w).conj()).sum(0)
    return {"z": grad_output / (w.conj() if conj else w), "w": to_w}


def _elementary() -> None:
    both: Shapes = {"z": ("complex", 3, 4), "w": ("complex", 4)}
    product = {"z": ("complex", 3, 4), "w": ("complex", 4, 2)}
    passes(
        "product", lambda z, w: z * w, _product_backward, both,
        conj=partial(_product_backward, conj=False),
        larger=partial(_product_backward, factor=1.5),
    )  # fmt: skip
    passes(
        "matmul", lambda z, w: z @ w, _matmul_backward, product,
        conj=partial(_matmul_backward, conj=False),
        larger=partial(_matmul_backward, factor=1.5),
    )  # fmt: skip
    passes("function", lambda z, w: z @ w, _Matmul, product, conj=_MatmulWithoutConj)
    passes(
        "quotient", lambda z, w: z / w, _quotient_backward, both,
        conj=partial(_quotient_backward, conj=False),
    )  # fmt: skip
    passes(
        "abs", lambda z: z.abs(), lambda grad_output, z: {"z": grad_output * z / z.abs()}, Z,
        conj=lambda grad_output, z: {"z": grad_output * z.conj() / z.abs()},
        larger=lambda grad_output, z: {"z": 1.5 * grad_output * z / z.abs()},
        imaginary=lambda grad_output, z: {"z": (grad_output * z.real / z.abs()) + 0j},
    )  # fmt: skip
    passes(
        "square", lambda z: (z * z.conj()).real.sum(), lambda z: {"z": 2 * z}, Z,
        conj=lambda z: {"z": 2 * z.conj()}, half=lambda z: {"z": z},
    )  # fmt: skip
    passes(
        "angle", lambda z: z.angle(),
        lambda grad_output, z: {"z": 1j * z * grad_output / z.abs() ** 2}, Z,
        conj=lambda grad_output, z: {"z": -1j * grad_output / z},
    )  # fmt: skip
    for name, derivative in {
        "exp": lambda z, out: out, "log": lambda z, out: 1 / z, "sqrt": lambda z, out: 0.5 / out,
        "sin": lambda z, out: z.cos(), "tanh": lambda z, out: 1 - out * out,
        "sigmoid": lambda z, out: out * (1 - out), "reciprocal": lambda z, out: -out * out,
    }.items():  # fmt: skip
        passes(
            name, _of_z(getattr(torch, name)),
            lambda grad_output, z, output, d=derivative: {"z": grad_output * d(z, output).conj()},
            Z,
            conj=lambda grad_output, z, output, d=derivative: {"z": grad_output * d(z, output)},
        )  # fmt: skip


def _polar_backward(
    grad_output: Tensor, r: Tensor, angle: Tensor, sign: float = 1.0
) -> dict[str, Tensor]:
    cos, sin, (a, b) = angle.cos(), angle.sin(), (grad_output.real, grad_output.imag)
    return {"r": a * cos + sign * b * sin, "angle": r * (b * cos - a * sin)}


def _rotary(x: Tensor, angle: Tensor) -> Tensor:
    """Return pairs of numbers rotated by angles, (B, T, 2 D) and (T, D)."""
    turned = torch.view_as_complex(x.unflatten(-1, (-1, 2))) * torch.polar(
        torch.ones_like(angle), angle
    )
    return torch.view_as_real(turned).flatten(-2)


def _rotary_backward(
    grad_output: Tensor, x: Tensor, angle: Tensor, *, conj: bool = True
) -> dict[str, Tensor]:
    unit = torch.polar(torch.ones_like(angle), angle)
    g = torch.view_as_complex(grad_output.contiguous().unflatten(-1, (-1, 2)))
    z = torch.view_as_complex(x.unflatten(-1, (-1, 2)))
    back = g * (unit.conj() if conj else unit)
    at_unit = (g * z.conj()).sum(0)
    return {
        "x": torch.view_as_real(back).flatten(-2),
        "angle": (at_unit * (1j * unit).conj()).real,
    }


def _as_parts() -> None:
    polar: Shapes = {"r": ("positive", 5), "angle": ("real", 5)}
    passes(
        "polar", lambda r, angle: torch.polar(r, angle), _polar_backward, polar,
        sign=partial(_polar_backward, sign=-1.0),
    )  # fmt: skip
    rotary: Shapes = {"x": ("real", 2, 5, 6), "angle": ("real", 5, 3)}
    passes("rotary", _rotary, _rotary_backward, rotary,
           conj=partial(_rotary_backward, conj=False))  # fmt: skip


# The norm of the inverse transform that is the adjoint of a transform with a norm.
_ADJOINT = {"backward": "forward", "ortho": "ortho", "forward": "backward"}


def _padded(g: Tensor, size: int) -> Tensor:
    """Return the first half of a transform with zeros for the second half."""
    return torch.cat([g, g.new_zeros(*g.shape[:-1], size - g.shape[-1])], -1)


def _twice_inside(g: Tensor, size: int) -> Tensor:
    """Return the first half of a transform with the numbers that stand for two doubled."""
    weight = torch.full((size // 2 + 1,), 2.0, dtype=g.real.dtype)
    weight[0] = 1
    if size % 2 == 0:
        weight[-1] = 1
    return g * weight


def _of_z(transform: Callable[..., Tensor], **options: Any) -> Callable[[Tensor], Tensor]:
    return lambda z: transform(z, **options)


def _back(transform: Callable[..., Tensor], **options: Any) -> Callable[[Tensor], Any]:
    return lambda grad_output: {"z": transform(grad_output, **options)}


def _transforms() -> None:
    for norm, adjoint in _ADJOINT.items():
        for n in (5, 6):
            full: Shapes = {"z": ("complex", 2, n)}
            half: Shapes = {"z": ("complex", 2, n // 2 + 1)}
            label = f"{norm}-{n}"
            passes(
                f"fft-{label}", _of_z(torch.fft.fft, norm=norm),
                _back(torch.fft.ifft, norm=adjoint), full,
                not_inverse=_back(torch.fft.fft, norm=adjoint),
            )  # fmt: skip
            passes(
                f"ifft-{label}", _of_z(torch.fft.ifft, norm=norm),
                _back(torch.fft.fft, norm=adjoint), full,
                norm=_back(torch.fft.fft, norm="forward" if norm != "backward" else None),
            )  # fmt: skip
            passes(
                f"rfft-{label}", _of_z(torch.fft.rfft, norm=norm),
                lambda grad_output, a=adjoint, n=n: {
                    "z": torch.fft.ifft(_padded(grad_output, n), norm=a).real
                },
                {"z": ("real", 2, n)},
                irfft=lambda grad_output, a=adjoint, n=n: {
                    "z": torch.fft.irfft(grad_output, n=n, norm=a)
                },
            )  # fmt: skip
            passes(
                f"irfft-{label}", _of_z(torch.fft.irfft, n=n, norm=norm),
                lambda grad_output, a=adjoint, n=n: {
                    "z": _twice_inside(torch.fft.rfft(grad_output, norm=a), n)
                },
                half,
                once=lambda grad_output, a=adjoint: {"z": torch.fft.rfft(grad_output, norm=a)},
            )  # fmt: skip
    passes(
        "fft2", _of_z(torch.fft.fft2, norm="ortho"),
        _back(torch.fft.ifft2, norm="ortho"), {"z": ("complex", 2, 4, 3)},
        norm=_back(torch.fft.ifft2, norm="backward"),
    )  # fmt: skip
    passes(
        "mixing of tokens", lambda x: torch.fft.fft2(x).real,
        lambda grad_output: {"x": torch.fft.fft2(grad_output).real}, {"x": ("real", 2, 4, 3)},
        inverse=lambda grad_output: {"x": torch.fft.ifft2(grad_output).real},
    )  # fmt: skip


def _convolved(x: Tensor, k: Tensor) -> Tensor:
    n = x.shape[-1] + k.shape[-1] - 1
    return torch.fft.irfft(torch.fft.rfft(x, n=n) * torch.fft.rfft(k, n=n), n=n)


def _convolved_backward(
    grad_output: Tensor, x: Tensor, k: Tensor, *, conj: bool = True
) -> dict[str, Tensor]:
    n = grad_output.shape[-1]
    g, at_x, at_k = torch.fft.rfft(grad_output), torch.fft.rfft(x, n=n), torch.fft.rfft(k, n=n)
    to_x = torch.fft.irfft(g * (at_k.conj() if conj else at_k), n=n)
    to_k = torch.fft.irfft((g * at_x.conj()).sum(0), n=n)
    return {"x": to_x[..., : x.shape[-1]], "k": to_k[: k.shape[-1]]}


def _spectral(x: Tensor, w: Tensor) -> Tensor:
    """Return a spectral layer: channels I of x are mixed to O, for each frequency on its own."""
    spectrum = compare.name(torch.fft.rfft(x), "spectrum")  # (B, I, F)
    mixed = compare.name(torch.einsum("bif,iof->bof", spectrum, w), "mixed")  # (B, O, F)
    return torch.fft.irfft(mixed, n=x.shape[-1])


def _spectral_backward(
    grad_output: Tensor, x: Tensor, w: Tensor, spectrum: Tensor, *,
    factor: float = 1.0, conj: bool = True,
) -> dict[str, Tensor]:  # fmt: skip
    n = x.shape[-1]
    mixed = factor * _twice_inside(torch.fft.rfft(grad_output, norm="forward"), n)
    to_spectrum = torch.einsum("bof,iof->bif", mixed, w.conj() if conj else w)
    return {
        "mixed": mixed,
        "spectrum": to_spectrum,
        "x": torch.fft.ifft(_padded(to_spectrum, n), norm="forward").real,
        "w": torch.einsum("bof,bif->iof", mixed, spectrum.conj()),
    }


def _stft(x: Tensor) -> Tensor:
    window = torch.hann_window(8, dtype=x.dtype)
    return torch.stft(x, 8, 4, window=window, center=False, return_complex=True)


def _stft_backward(x: Tensor, factor: float = 2.0) -> dict[str, Tensor]:
    """Return the gradient of sum |stft|^2."""
    g, window = factor * _stft(x), torch.hann_window(8, dtype=x.dtype)
    frames = torch.fft.ifft(_padded(g.mT, 8), norm="forward").real * window  # (frames, 8)
    at = torch.arange(8) + 4 * torch.arange(len(frames)).unsqueeze(1)
    return {"x": torch.zeros_like(x).index_add(0, at.flatten(), frames.flatten())}


def _chains() -> None:
    passes("convolution", _convolved, _convolved_backward, {"x": ("real", 3, 8), "k": ("real", 4)},
           conj=partial(_convolved_backward, conj=False))  # fmt: skip
    passes(
        "spectral", _spectral, _spectral_backward,
        {"x": ("real", 2, 3, 8), "w": ("complex", 3, 2, 5)},
        larger=partial(_spectral_backward, factor=1.5),
        conj=partial(_spectral_backward, conj=False),
    )  # fmt: skip
    passes("stft", lambda x: _stft(x).abs().square().sum(), _stft_backward, {"x": ("real", 32)},
           larger=partial(_stft_backward, factor=3.0))  # fmt: skip


for _part in (_elementary, _as_parts, _transforms, _chains):
    _part()


def _check(one: Pass, backward: Any, dtype: torch.dtype) -> Report:
    return compare.check(backward, one.forward, one.inputs(dtype))


RIGHT = [
    pytest.param(one, dtype, id=f"{one.name}-{dtype}", marks=unless_chosen(f"{one.name}-{dtype}"))
    for one in PASSES
    for dtype in DTYPES
]


@pytest.mark.parametrize(("one", "dtype"), RIGHT)
def test_a_right_pass_is_exact_or_rounding(one: Pass, dtype: torch.dtype) -> None:
    """With its formula shown, here and at other inputs, and every line of the contract kept."""
    report = _check(one, one.backward, dtype)
    assert report.verdict in ("EXACT", "ROUNDING"), str(report)
    for quantity in report.quantities.values():
        assert quantity.proof is not None
        assert quantity.proof.lifted or "same formula" in quantity.proof.text, quantity.proof.text
    assert report.beside is not None
    assert report.beside.tried
    assert not report.beside.text, report.beside.text
    assert report.contract is not None
    assert all(line.outcome == "kept" for line in report.contract), str(report)


BUGS = [
    pytest.param(one, bug, dtype, id=label, marks=unless_chosen(label))
    for one in PASSES
    for bug in one.wrong
    for dtype in DTYPES
    for label in [f"{one.name}-{bug}-{dtype}"]
]


@pytest.mark.parametrize(("one", "bug", "dtype"), BUGS)
def test_a_wrong_pass_is_wrong_with_its_line(one: Pass, bug: str, dtype: torch.dtype) -> None:
    report = _check(one, one.wrong[bug], dtype)
    assert report.verdict == "WRONG", str(report)
    wrong = [q for q in report.quantities.values() if q.verdict == "WRONG"]
    assert len(wrong) == 1, "one bug, one wrong quantity"
    assert wrong[0].proof is not None
    assert "different formula" in wrong[0].proof.text


def test_the_report_names_the_part_of_a_number() -> None:
    one = next(one for one in PASSES if one.name == "abs")
    text = str(_check(one, one.wrong["imaginary"], torch.complex128))
    assert "(3, 4) complex128: " in text
    assert "] (imaginary part)" in text
    assert "12 of 24 elements differ" in text


def test_complex_numbers_in_half_precision_are_refused() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that torch supports them in part
        z = torch.ones(2, dtype=torch.complex64).to(torch.complex32)
    with pytest.raises(BadInput, match="input 'z' is a tensor of complex32, whose gradients"):
        compare.check(lambda grad_output: {"z": grad_output}, lambda z: z * 1, {"z": z})


def _product(z: Tensor, w: Tensor) -> Tensor:
    return z * w


def test_numbers_that_are_all_real_do_not_hide_a_missing_conjugate() -> None:
    """At the given inputs w is its own conjugate; at other inputs it is not."""
    rng = torch.Generator().manual_seed(3)
    z, w = (torch.randn(3, generator=rng, dtype=torch.float64) + 0j for _ in range(2))
    wrong = partial(_product_backward, conj=False)
    sums = {"z": z.unsqueeze(0), "w": w}
    report = compare.check(wrong, _product, sums)
    assert report.quantities["z"].equal == report.quantities["z"].total
    assert report.verdict == "WRONG"
    assert compare.check(_product_backward, _product, sums).verdict == "EXACT"


class _TwoOutputs(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor, w: Tensor) -> Any:
        ctx.save_for_backward(z, w)
        return z * w, z + w.conj()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        z, w = ctx.saved_tensors
        return grads[0] * w.conj() + grads[1], grads[0] * z.conj() + grads[1].conj()


class _AssumesDense(_TwoOutputs):
    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        dense = [g.as_strided(g.shape, (g.shape[1], 1)) for g in grads]
        return _TwoOutputs.backward(ctx, *dense)


def test_every_line_of_the_contract_is_called_with_complex_cotangents() -> None:
    def forward(z: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
        return z * w, z + w.conj()

    rng = torch.Generator().manual_seed(5)
    z = torch.randn(4, 3, generator=rng, dtype=torch.complex64).mT
    w = torch.randn(3, 8, generator=rng, dtype=torch.complex64)[:, ::2].conj()
    report = compare.check(_TwoOutputs, forward, {"z": z, "w": w})
    assert report.verdict == "EXACT", str(report)
    assert {line.outcome for line in report.contract or ()} == {"kept"}
    names = {line.name for line in report.contract or ()}
    assert {"stride 0", "transposed", "zero", "missing", "twice", "strides", "subsets"} <= names
    dense = compare.check(_AssumesDense, forward, {"z": z, "w": w})
    broken = {line.name for line in dense.contract or () if line.outcome == "broken"}
    assert broken == {"stride 0", "transposed"}
    assert " part) (" in str(dense)


@pytest.mark.parametrize("how", ["view_as_real", "imag", "parts"])
def test_parts_written_in_place_are_followed(how: str) -> None:
    def backward(grad_output: Tensor) -> dict[str, Tensor]:
        d = grad_output.clone()
        if how == "view_as_real":
            torch.view_as_real(d)[..., 1].mul_(-1)
        elif how == "imag":
            d.imag.neg_()
        else:
            d = torch.zeros_like(d)
            d.real, d.imag = grad_output.real, -grad_output.imag
        return {"z": d}

    z = torch.randn(2, 3, dtype=torch.complex128)
    report = compare.check(backward, lambda z: z.conj() * 1, {"z": z})
    assert report.verdict == "EXACT"
    assert report.quantities["z"].proof is not None
    assert report.quantities["z"].proof.lifted


def test_a_complex_number_read_out_of_a_tensor_is_no_constant() -> None:
    def backward(grad_output: Tensor, z: Tensor) -> dict[str, Tensor]:
        return {"z": grad_output * z[0].item().conjugate()}

    z = torch.randn(3, dtype=torch.complex128)
    report = compare.check(backward, lambda z: z * z[0].detach(), {"z": z})
    assert "a float is read out of a tensor" in str(report)


def test_mutants_of_complex_code_are_refused() -> None:
    z = torch.randn(3, dtype=torch.complex128)
    with pytest.raises(BadInput, match="has complex numbers, of which no mutants"):
        compare.power(lambda grad_output, z: {"z": grad_output * 2}, lambda z: z * 2, {"z": z})
