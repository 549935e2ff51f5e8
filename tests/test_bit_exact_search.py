"""Rewrites that match autograd bit for bit: found by trying, reported only where they hold."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from compare.cases.cases import CASES
from compare.checking.check import check
from compare.training import harness
from tests.test_diagnosis import _drawn

X = _drawn(7, 9)
W = _drawn(9, 5, seed=2)

#: A right backward pass with other bits, and a part of the rewrite that matches autograd's.
FORMS: dict[str, tuple[Any, Any, dict[str, Tensor], str, str]] = {
    "sigmoid's grouping": (
        lambda x: torch.sigmoid(x),
        lambda output, grad_output: (grad_output * (output * (1 - output)),),
        {"x": X}, "x", "write grad_output * (1 - output) * output, evaluated left to right",
    ),
    "tanh fused": (
        lambda x: torch.tanh(x),
        lambda output, grad_output: ((1 - output**2) * grad_output,),
        {"x": X}, "x", "addcmul(torch.ones_like(output), output, output, value=-1)",
    ),
    "a reciprocal": (
        lambda x: 1 / x, lambda x, grad_output: (-grad_output / x**2,),
        {"x": X}, "x", "write -(grad_output * (1 / x * (1 / x)))",
    ),
    "a reciprocal by its value": (
        lambda x: 1 / x, lambda output, grad_output: (-grad_output * output * output,),
        {"x": X}, "x", "write -(grad_output * (output * output))",
    ),
    "a mean": (
        lambda x, t: ((x - t) ** 2).mean(), lambda x, t: (2 * (x - t) / 63, -2 * (x - t) / 63),
        {"x": X, "t": _drawn(7, 9, seed=3)}, "x", "write ",
    ),
    "a product of matrices": (
        lambda x, w: x @ w,
        lambda x, w, grad_output: (
            grad_output @ w.mT, (x[:, :, None] * grad_output[:, None, :]).sum(0)),
        {"x": X, "w": W}, "w", "write x.mT @ grad_output",
    ),
    "a sum in another order": (
        lambda x, b: x + b, lambda grad_output: (grad_output, sum(grad_output.unbind(0))),
        {"x": _drawn(20, 9), "b": _drawn(9)}, "b", "write grad_output.sum(-2)",
    ),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_a_rewrite_is_reported(form: str) -> None:
    forward, backward, inputs, label, rewrite = FORMS[form]
    report = check(backward, forward, inputs)
    row = report.quantities[label]
    assert row.verdict == "ROUNDING", str(report)
    assert row.diagnosis is not None
    assert rewrite in row.diagnosis.found[0]
    count = inputs[label].numel()
    assert f"(checked: {count} of {count} elements, and " in row.diagnosis.found[0]
    assert str(report).count(f"to match autograd bit for bit, {row.diagnosis.found[0]}") == 1


def test_a_reported_rewrite_has_autograds_bits() -> None:
    """Each backward pass is EXACT once it is rewritten."""

    def tanh(output: Tensor, grad_output: Tensor) -> tuple[Tensor]:
        derivative = torch.addcmul(torch.ones_like(output), output, output, value=-1)
        return (derivative * grad_output,)

    backwards: list[tuple[Callable[..., Any], Callable[..., Any], dict[str, Tensor]]] = [
        (lambda x: torch.sigmoid(x), lambda output, grad_output: (
            grad_output * (1 - output) * output,), {"x": X}),
        (lambda x: torch.tanh(x), tanh, {"x": X}),
        (lambda x: 1 / x, lambda x, grad_output: (-(grad_output * (1 / x * (1 / x))),), {"x": X}),
        (lambda x, w: x @ w, lambda x, w, grad_output: (grad_output @ w.mT, x.mT @ grad_output),
         {"x": X, "w": W}),
    ]  # fmt: skip
    for forward, backward, inputs in backwards:
        report = check(backward, forward, inputs)
        assert report.verdict == "EXACT", str(report)
        assert all(q.diagnosis is None for q in report.quantities.values())


def test_half_precision_is_rounded_once() -> None:
    def sigmoid(output: Tensor, grad_output: Tensor) -> tuple[Tensor]:
        return (grad_output * (1 - output) * output,)

    report = check(sigmoid, lambda x: torch.sigmoid(x), {"x": X.bfloat16()})
    diagnosis = report.quantities["x"].diagnosis
    assert report.verdict == "ROUNDING"
    assert diagnosis is not None
    assert "in float32, rounded once (checked: 63 of 63 " in diagnosis.found[0]


def test_the_rewrite_of_the_blogs_grouping_is_reported_in_a_run() -> None:
    report = harness.run(CASES["three_layer_blog_grouping"], steps=50)
    for n in (1, 2):
        diagnosis = report.quantities[f"l{n}_delta"].diagnosis
        assert diagnosis is not None
        rewrite = f"write l{n}_error * (1 - l{n}) * l{n}, evaluated left to right ("
        assert diagnosis.found[0].startswith(rewrite)
    assert report.quantities["l1_error"].diagnosis is None


def test_without_a_matching_rewrite_the_report_says_nothing() -> None:
    """The softmax kernel computes its own exp, so no rewrite has its bits."""

    def softmax(x: Tensor, grad_output: Tensor) -> tuple[Tensor]:
        e = (x - x.amax(1, keepdim=True)).exp()
        p = e / e.sum(1, keepdim=True)
        return (p * (grad_output - (p * grad_output).sum(1, keepdim=True)),)

    report = check(softmax, lambda x: torch.softmax(x, 1), {"x": X})
    diagnosis = report.quantities["x"].diagnosis
    assert report.verdict == "ROUNDING"
    assert diagnosis is not None
    assert diagnosis.found == ()
    assert "rewrites tried" in diagnosis.note
    assert "autograd bit for bit" not in str(report)
    assert report.to_dict()["quantities"][0]["diagnosis"] == {"found": [], "note": diagnosis.note}


def test_bits_that_agree_by_chance_are_not_reported() -> None:
    """Of few elements many groupings have the same bits; at other inputs only autograd's has."""
    backward = lambda output, grad_output: (grad_output * (output * (1 - output)),)  # noqa: E731
    x = torch.tensor([0.3, -1.7], dtype=torch.float64)
    report = check(backward, lambda x: torch.sigmoid(x), {"x": x}, seed=3)
    diagnosis = report.quantities["x"].diagnosis
    if report.verdict == "ROUNDING":
        assert diagnosis is not None
        assert diagnosis.found[0].startswith("write grad_output * (1 - output) * output")
