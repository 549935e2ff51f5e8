"""The derivative of forward by no rule of differentiation, against both sides of a check."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import compare


class _WrongTanh(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y = torch.tanh(x)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return g * (1 - ctx.saved_tensors[0])


def _no_grad(x: Tensor) -> Tensor:
    with torch.no_grad():
        scale = x.sum()
    return x * scale


def _where(x: Tensor) -> Tensor:
    return torch.where(x > 0, torch.sqrt(x), x)


def _named(x: Tensor) -> Tensor:
    z = compare.name(torch.sin(x), "z")
    return z * z.detach()


X = torch.tensor([0.5, -1.25, 2.0])
CASES: dict[str, tuple[Callable[..., Any], Callable[..., Any], str | None]] = {
    "both": (
        lambda x: torch.tanh(x), lambda x, grad_output: grad_output / torch.cosh(x) ** 2, "both"),
    "wrong by hand": (lambda x: torch.tanh(x), lambda x, grad_output: grad_output * x, "autograd"),
    "detach, by hand": (
        lambda x: x * x.detach(), lambda x, grad_output: 2 * x * grad_output, "by hand"),
    "detach, as autograd": (
        lambda x: x * x.detach(), lambda x, grad_output: x * grad_output, "neither"),
    "no_grad": (
        _no_grad, lambda x, grad_output: grad_output * x.sum() + (grad_output * x).sum(),
        "by hand"),
    "a Function": (
        _WrongTanh.apply, lambda x, grad_output: grad_output * (1 - torch.tanh(x) ** 2), "by hand"),
    "smooth, of two kinks": (
        lambda x: torch.relu(x - 0.5) + torch.log1p(torch.exp(-(x - 0.5).abs())),
        lambda x, grad_output: grad_output * torch.sigmoid(x - 0.5), "by hand"),
    "NaN": (
        _where,
        lambda x, grad_output: grad_output
        * torch.where(x > 0, 0.5 / x.abs().sqrt(), torch.ones_like(x)),
        "by hand"),
}  # fmt: skip


@pytest.mark.parametrize("label", CASES)
def test_which_side_is_the_derivative(label: str) -> None:
    forward, backward, expected = CASES[label]
    report = compare.check(
        lambda x, grad_output: {"x": backward(x, grad_output)}, forward, {"x": X}
    )
    assert report.quantities["x"].derivative == expected
    assert report.to_dict()["quantities"][0]["derivative"] == expected
    digits = report.quantities["x"].derivative_digits
    assert digits is not None
    assert digits > 100
    if expected == "by hand":
        assert report.quantities["x"].diagnosis is None  # no advice to bring in the fault
    at_fault = expected in ("by hand", "neither")
    assert ("not the derivative of forward" in report.headline()) == at_fault


def test_a_named_intermediate() -> None:
    def backward(x: Tensor, z: Tensor, grad_output: Tensor) -> dict[str, Tensor]:
        dz = 2 * z * grad_output
        return {"z": dz, "x": dz * torch.cos(x)}

    report = compare.check(backward, _named, {"x": X})
    assert {k: row.derivative for k, row in report.quantities.items()} == {
        "z": "by hand", "x": "by hand",
    }  # fmt: skip


def test_nothing_is_said_of_a_copy_used_beside_its_original() -> None:
    def forward(x: Tensor) -> Tensor:
        h = torch.tanh(x)
        return h * compare.name(h.clone(), "z")

    def backward(x: Tensor, z: Tensor, grad_output: Tensor) -> dict[str, Tensor]:
        return {"z": z * grad_output, "x": 2 * z * (1 - z * z) * grad_output}

    rows = compare.check(backward, forward, {"x": X}).quantities
    assert (rows["z"].derivative, rows["x"].derivative) == (None, "both")


def test_nothing_is_said_at_a_kink() -> None:
    for forward in (
        lambda x: x.relu(),
        lambda x: x.abs(),
        lambda x: x.amax(),
        lambda x: x.clamp(0, 1),
    ):
        x = torch.tensor([0.0, 0.0])
        report = compare.check(
            lambda x, grad_output: {"x": torch.full_like(x, 0.25) * grad_output}, forward, {"x": x}
        )
        assert report.quantities["x"].derivative is None
        assert report.quantities["x"].derivative_unknown


def test_a_number() -> None:
    report = compare.check(
        lambda x, grad_output: {"x": grad_output * x.exp()}, lambda x: x.exp(), torch.tensor(0.5)
    )
    assert report.quantities["x"].derivative == "both"


def test_complex_numbers() -> None:
    x = torch.tensor([0.5 + 1j, -1.25 - 0.5j])
    report = compare.check(
        lambda x, grad_output: {"x": 2 * x.conj() * grad_output}, lambda x: x * x, {"x": x}
    )
    assert report.quantities["x"].derivative == "both"


CUTS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "detach": CASES["detach, by hand"][:2],
    "no_grad": CASES["no_grad"][:2],
    ".data": (lambda x: x * x.data, lambda x, grad_output: 2 * x * grad_output),
    "the Function _WrongTanh": CASES["a Function"][:2],
}


@pytest.mark.parametrize("word", CUTS)
def test_what_cuts_the_graph_is_named_with_its_line(word: str) -> None:
    forward, backward = CUTS[word]
    report = compare.check(
        lambda x, grad_output: {"x": backward(x, grad_output)}, lambda x: forward(x), {"x": X}
    )
    assert f"forward has {word} at test_derivative.py:" in report.headline()
    assert str(report.headline()).count(" at test_derivative.py:") == 1


# -- verdicts

ON_PURPOSE = "detach, by hand", "no_grad", "a Function"


def _report(label: str, **options: Any) -> Any:
    forward, backward, _ = CASES[label]
    return compare.check(
        lambda x, grad_output: {"x": backward(x, grad_output)}, lambda x: forward(x), {"x": X},
        **options,
    )  # fmt: skip


@pytest.mark.parametrize("label", ON_PURPOSE)
def test_the_user_says_which_is_meant_where_autograd_is_cut(label: str) -> None:
    report = _report(label)
    assert report.verdict == "UNDECIDED", str(report)
    assert 'say which is meant, reference="derivative" or "autograd"' in str(report)
    assert _report(label, reference="derivative").verdict == "ROUNDING"
    assert _report(label, reference="autograd").verdict == "WRONG"


@pytest.mark.parametrize("label", ["NaN", "smooth, of two kinks"])
def test_the_derivative_decides_where_nothing_was_cut(label: str) -> None:
    report = _report(label)
    assert report.verdict == "ROUNDING", str(report)
    assert "autograd is not the derivative of forward" in report.headline()


def test_what_equals_autograd_keeps_its_verdict() -> None:
    report = _report("detach, as autograd")
    assert report.ok, str(report)
    assert "autograd is not the derivative of forward" in report.headline()
    wrong = _report("detach, as autograd", reference="derivative")
    assert wrong.verdict == "WRONG", str(wrong)


def test_a_wrong_pass_is_wrong_by_any_reference() -> None:
    for reference in (None, "autograd", "derivative"):
        assert _report("wrong by hand", reference=reference).verdict == "WRONG"
        assert _report("both", reference=reference).ok


def test_numbers_of_the_derivative_have_their_rounding_bound() -> None:
    def backward(x: Tensor, grad_output: Tensor) -> Tensor:
        return torch.where(x > 0, 0.5 / x.abs().sqrt(), torch.ones_like(x)) * grad_output

    report = compare.check(
        lambda x, grad_output: {"x": backward(x, grad_output) * (1 + 1e-6)}, _where, {"x": X}
    )
    assert report.verdict == "WRONG", str(report)


def test_another_reference_is_refused() -> None:
    with pytest.raises(compare.BadInput, match="unknown reference 'derivativ': did you mean"):
        _report("both", reference="derivativ")


def test_an_unknown_derivative_is_undecided_where_it_is_the_reference(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("compare.proof.witness.MOST_NUMBERS", 0)
    report = _report("both", reference="derivative")
    assert report.verdict == "UNDECIDED", str(report)
    assert "the derivative of forward is not known: forward is too large" in str(report)


# -- surrogate gradients


def _spikes(x: Tensor) -> Tensor:
    return (x > 0).to(x.dtype)


_spike = compare.surrogate(_spikes, torch.sigmoid)


def _of_sigmoid(x: Tensor) -> Tensor:
    s = torch.sigmoid(x)
    return s * (1 - s)


def test_a_surrogate_gradient_is_what_a_pass_is_judged_against() -> None:
    def backward(x: Tensor, w: Tensor, grad_output: Tensor) -> dict[str, Tensor]:
        return {
            "x": grad_output * w * _of_sigmoid(x * w),
            "w": grad_output * x * _of_sigmoid(x * w),
        }

    inputs = {"x": X, "w": torch.tensor([1.5, 0.5, -2.0])}
    report = compare.check(backward, lambda x, w: _spike(x * w), inputs)
    assert report.ok, str(report)
    assert "for _spikes with the gradient of sigmoid" in " ".join(str(report.headline()).split())
    assert not report.reference_fault
    wrong = compare.check(
        lambda x, w, grad_output: {"x": 0 * x, "w": 0 * w}, lambda x, w: _spike(x * w), inputs
    )
    assert wrong.verdict == "WRONG"  # the derivative of a step, and not what it stands for


def test_a_surrogate_has_one_shape() -> None:
    short = compare.surrogate(_spikes, lambda x: x.sum())
    with pytest.raises(compare.BadInput, match="surrogate: _spikes with the gradient of lambda"):
        compare.check(lambda x, grad_output: {"x": grad_output}, lambda x: short(x), {"x": X})
