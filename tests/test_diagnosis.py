"""Fixes of WRONG quantities: one for each kind of bug, and none that does not hold."""

import dataclasses
import json
import re
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from compare.cases.cases import CASES, Case, Network
from compare.checking.check import check
from compare.diagnosis.diagnosis import _simplest
from compare.diagnosis.expressions import expression, leaf, shortened
from compare.diagnosis.fix_tables import factors
from compare.passes.forward import name
from compare.proof.trace import trace
from compare.report.report import Report
from compare.training import harness
from manual import dropout_as_published

Named = dict[str, Tensor]
ROWS = ((0, 0, 1), (0, 1, 1), (1, 0, 1), (1, 1, 1), (0.5, -1, 1), (2, 0.3, -1))
TARGETS = ((0, 1), (1, 0.3), (1, 0), (0, 0.2), (1, 1), (0.4, 0))
CASE = Case("planted", "", Network(sizes=(3, 5, 2), alpha=0.25), ROWS, TARGETS)


def _step(*, X: Tensor, y: Tensor, syn0: Tensor, syn1: Tensor, planted: Any) -> Named:
    """Take a step by hand, with the lines of `planted` in place of the right ones."""
    v: Named = {"l0": X, "y": y, "before0": syn0, "before1": syn1}
    right: dict[str, Callable[[Named], Tensor]] = {
        "l1": lambda v: torch.sigmoid(v["l0"] @ v["before0"]),
        "l2": lambda v: torch.sigmoid(v["l1"] @ v["before1"]),
        "l2_error": lambda v: v["y"] - v["l2"],
        "l2_delta": lambda v: v["l2_error"] * (1 - v["l2"]) * v["l2"],
        "syn1_update": lambda v: v["l1"].mT @ v["l2_delta"],
        "syn1": lambda v: v["before1"] + 0.25 * v["syn1_update"],
        "l1_error": lambda v: v["l2_delta"] @ v["before1"].mT,
        "l1_delta": lambda v: v["l1_error"] * (1 - v["l1"]) * v["l1"],
        "syn0_update": lambda v: v["l0"].mT @ v["l1_delta"],
        "syn0": lambda v: v["before0"] + 0.25 * v["syn0_update"],
    }
    for label, line in right.items():
        v[label] = planted.get(label, line)(v)
    return {key: value for key, value in v.items() if key not in ("y", "before0", "before1")}


#: A bug in a line of a training step: the quantity, the line, and how a fix must begin.
BUGS: list[tuple[str, str, Callable[[Named], Tensor], str]] = [
    ("sign", "l2_error", lambda v: v["l2"] - v["y"], "multiply by -1 (sign error)"),
    ("a factor of 2", "l2_delta", lambda v: 2 * (v["y"] - v["l2"]) * v["l2"] * (1 - v["l2"]),
     "multiply by 1/2"),
    ("half", "l1_error", lambda v: v["l2_delta"] @ v["before1"].mT / 2, "multiply by 2"),
    ("the mean over the batch", "syn0_update", lambda v: v["l0"].mT @ v["l1_delta"] / 6,
     "multiply by 6 (n = 6)"),
    ("n/(n-1)", "syn1_update", lambda v: v["l1"].mT @ v["l2_delta"] * 5 / 6,
     "multiply by 6/5 (n/(n-1), n = 6)"),
    ("alpha twice", "syn0_update", lambda v: v["l0"].mT @ v["l1_delta"] * 0.25,
     "multiply by 1 / alpha (alpha = 0.25)"),
    ("alpha forgotten", "syn1", lambda v: v["before1"] + v["syn1_update"],
     "use alpha * syn1_update in place of syn1_update"),
    ("a slope missing", "l2_delta", lambda v: v["l2_error"] * 1,
     "multiply by l2 * (1 - l2), the derivative of sigmoid at l2"),
    ("tanh's slope", "l1_delta", lambda v: v["l1_error"] * (1 - v["l1"] * v["l1"]),
     "use l1 * (1 - l1), the derivative of sigmoid, in place of (1 - l1 * l1)"),
    ("relu's slope", "l1_delta", lambda v: torch.where(v["l1"] > 0.5, v["l1_error"], 0),
     "write l1_error * l1 * (1 - l1), the derivative of sigmoid"),
    ("half of a slope", "l1_delta", lambda v: v["l1_error"] * v["l1"],
     "write l1_error * l1 * (1 - l1), the derivative of sigmoid"),
    ("the slope at another layer's value", "l2_delta",
     lambda v: v["l2_error"] * v["y"] * (1 - v["y"]),
     "use l2 in place of y"),
    ("weights after their update", "l1_error", lambda v: v["l2_delta"] @ v["syn1"].mT,
     "use syn1 before its update in place of syn1 after its update"),
    ("error for delta", "l1_error", lambda v: v["l2_error"] @ v["before1"].mT,
     "use l2_delta in place of l2_error"),
    ("another row's values", "syn0_update", lambda v: v["l0"].roll(1, -2).mT @ v["l1_delta"],
     "use X in place of "),
    ("rows turned round", "l1_error", lambda v: (v["l2_delta"] @ v["before1"].mT).flip(-2),
     "reorder the elements: write l1_error.flip(-2)"),
    ("another row's slope", "l1_delta",
     lambda v: v["l1_error"] * v["l1"] * (1 - v["l1"].roll(1, -2)),
     "use l1 in place of "),
    ("a term missing", "l2_error", lambda v: v["y"] * 1, "subtract l2"),
    ("a term doubled", "syn1", lambda v: v["before1"] + 0.25 * v["syn1_update"] + v["before1"],
     "subtract syn1"),
]  # fmt: skip


def _planted(label: str, line: Callable[[Named], Tensor]) -> Report:
    def step(**given: Any) -> Named:
        return _step(**given, planted={label: line})

    return harness.run(CASE, steps=1, step=step)


@pytest.mark.parametrize(("label", "line", "fix"), [b[1:] for b in BUGS], ids=[b[0] for b in BUGS])
def test_a_bug_in_a_training_step_is_named(
    label: str, line: Callable[[Named], Tensor], fix: str
) -> None:
    report = _planted(label, line)
    assert report.first_wrong == label, str(report)
    diagnosis = report.quantities[label].diagnosis
    assert diagnosis is not None
    assert any(text.startswith(fix) for text in diagnosis.found), diagnosis
    assert f"fix            {diagnosis.found[0]}" in str(report)
    others = [q for q in report.quantities.values() if q.name != label]
    assert all(q.diagnosis is None for q in others), str(report)


@pytest.mark.parametrize(
    ("line", "fix"),
    [
        (
            lambda v: v["l1_delta"],
            "write bias0_update.sum(-2), the sum over the broadcast dimension",
        ),
        (lambda v: v["l1_delta"].sum(-2, keepdim=True).mT, "transpose it"),
    ],
)
def test_another_shape_in_a_training_step_is_named(
    line: Callable[[Named], Tensor], fix: str
) -> None:
    """No quantity is judged then, and none that is computed from it is blamed."""
    case = dataclasses.replace(CASE, network=Network(sizes=(3, 5, 2), bias=True))

    def step(*, bias0: Tensor, bias1: Tensor, **given: Tensor) -> Named:
        planted = {
            "l1": lambda v: torch.sigmoid(v["l0"] @ v["before0"] + bias0),
            "l2": lambda v: torch.sigmoid(v["l1"] @ v["before1"] + bias1),
            "syn1": lambda v: v["before1"] + v["syn1_update"],
            "syn0": lambda v: v["before0"] + v["syn0_update"],
        }
        v = _step(**given, planted=planted)
        v["bias0_update"], v["bias1_update"] = line(v), v["l2_delta"].sum(-2, keepdim=True)
        return v | {"bias0": bias0 + 0 * v["l1_delta"], "bias1": bias1 + v["bias1_update"]}

    report = harness.run(case, steps=1, step=step)
    diagnosis = report.quantities["bias0_update"].diagnosis
    assert diagnosis is not None
    assert diagnosis.found[0] == fix
    assert f"fix            {fix}" in str(report)


def test_the_fix_of_the_published_dropout_says_where_to_take_the_derivative() -> None:
    report = harness.run(CASES["dropout_as_published"], steps=1)
    diagnosis = report.quantities["l1_delta"].diagnosis
    assert diagnosis is not None
    assert diagnosis.found[0] == (
        "take the derivative of sigmoid at a1 = sigmoid(X @ syn0) (before multiplying by mask1) "
        "in place of l1, and multiply by mask1 * 1.25"
    )
    (row,) = (q for q in json.loads(report.to_json())["quantities"] if q["name"] == "l1_delta")
    assert row["diagnosis"]["found"][0] == diagnosis.found[0]
    assert "fix            take the derivative of sigmoid at a1" in report.markdown()
    assert "<dt>fix</dt>" in report._repr_html_()


def test_the_fix_of_the_published_dropout_is_right() -> None:
    """With the fix applied, every quantity of the listing has autograd's formula."""

    def step(**given: Any) -> Named:
        v = dropout_as_published.step(**given, sizes=(3, 4, 1), alpha=1.0, dropout=0.2)
        a1 = torch.sigmoid(given["X"] @ given["syn0"])
        v["l1_delta"] = v["l1_error"] * (a1 * (1 - a1)) * (given["mask1"] * 1.25)
        v["syn0_update"] = v["l0"].mT @ v["l1_delta"]
        return v | {"syn0": given["syn0"] + v["syn0_update"]}

    assert harness.run(CASES["dropout_as_published"], steps=1, step=step).ok


# -- of a check


def _drawn(*shape: int, seed: int = 1) -> Tensor:
    chance = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=chance, dtype=torch.float64)


MASK = (torch.arange(20).reshape(4, 5) % 3 > 0).double()


def _norm(eps: float) -> Callable[..., Any]:
    def backward(x: Tensor, grad_output: Tensor) -> tuple[Tensor]:
        d = x - x.mean(-1, keepdim=True)
        rstd = 1 / torch.sqrt((d * d).mean(-1, keepdim=True) + eps)
        hat = d * rstd
        along = (grad_output * hat).mean(-1, keepdim=True) * hat
        return (rstd * (grad_output - grad_output.mean(-1, keepdim=True) - along),)

    return backward


def _norm_without_eps(x: Tensor, grad_output: Tensor) -> tuple[Tensor]:
    d = x - x.mean(-1, keepdim=True)
    hat = d / torch.sqrt((d * d).mean(-1, keepdim=True))
    return ((grad_output * hat).sum(0),)


FORMS: list[tuple[str, str, Callable[..., Any], Callable[..., Any], dict[str, Any], str]] = [
    ("2 forgotten", "x", lambda x: (x * x).sum(), lambda x: (x,), {"x": _drawn(4, 5)},
     "multiply by 2"),
    ("sum for mean", "x", lambda x: (x * x).mean(), lambda x: (2 * x,), {"x": _drawn(4, 5)},
     "multiply by 1/20 (1/n, n = 20)"),
    ("std with n", "x", lambda x: x.var(0).sum(), lambda x: (2 * (x - x.mean(0)) / 4,),
     {"x": _drawn(4, 5)}, "multiply by 4/3 (n/(n-1), n = 4)"),
    ("a named number", "x", lambda x, alpha: (alpha * x).sum(), lambda x: (torch.ones_like(x),),
     {"x": _drawn(4, 5), "alpha": 0.3}, "multiply by alpha (0.3)"),
    ("no scale", "q", lambda q, k: q @ k.mT / 7**0.5,
     lambda q, k, grad_output: (grad_output @ k, grad_output.mT @ q / 7**0.5),
     {"q": _drawn(4, 7), "k": _drawn(5, 7, seed=2)}, "multiply by 1/sqrt(7)"),
    ("transposed", "w", lambda x, w: x @ w,
     lambda x, w, grad_output: (grad_output @ w.mT, grad_output.mT @ x),
     {"x": _drawn(4, 4), "w": _drawn(4, 4, seed=2)}, "transpose it"),
    ("of another shape", "w", lambda x, w: x @ w,
     lambda x, w, grad_output: (grad_output @ w.mT, grad_output.mT @ x),
     {"x": _drawn(4, 3), "w": _drawn(3, 5)}, "transpose it"),
    ("a factor not transposed", "x", lambda x, w: x @ w,
     lambda x, w, grad_output: (grad_output @ w, x.mT @ grad_output),
     {"x": _drawn(3, 4), "w": _drawn(4, 4, seed=2)}, "use w.mT in place of w"),
    ("not summed", "b", lambda x, b: x * b,
     lambda x, b, grad_output: (grad_output * b, grad_output * x),
     {"x": _drawn(4, 5), "b": _drawn(5)}, "write db.sum(0), the sum over the broadcast dimension"),
    ("one row for all", "b", lambda x, b: x + b, lambda grad_output: (grad_output, grad_output[0]),
     {"x": _drawn(4, 5), "b": _drawn(5)},
     "write grad_output.sum(0), the sum over the broadcast dimension"),
    ("a sum inside", "x", lambda x: x.softmax(1),
     lambda output, grad_output: (output * (grad_output - output * grad_output),),
     {"x": _drawn(4, 5)}, "use (output * grad_output).sum(-1, keepdim=True) in place of "),
    ("a term missing", "x", lambda x: x @ x, lambda x, grad_output: (grad_output @ x.mT,),
     {"x": _drawn(4, 4)}, "add x.mT @ grad_output"),
    ("a term twice", "x", lambda x, y: (x * y + x.exp()).sum(),
     lambda x, y: (y + x.exp() + x.exp(), x), {"x": _drawn(4, 5), "y": _drawn(4, 5, seed=2)},
     "use y in place of y + exp(x)"),
    ("the mask forgotten", "x", lambda x, m: torch.tanh(x) * m,
     lambda x, grad_output: (grad_output * (1 - torch.tanh(x) ** 2),),
     {"x": _drawn(4, 5).requires_grad_(), "m": MASK}, "multiply by m"),
    ("the slope after the mask", "x", lambda x, m: torch.sigmoid(x) * m / 0.6,
     lambda m, output, grad_output: (grad_output * m / 0.6 * output * (1 - output),),
     {"x": _drawn(4, 5).requires_grad_(), "m": MASK},
     "use sigmoid(x) * (1 - sigmoid(x)), the derivative of sigmoid (before multiplying by m), "
     "in place of"),
    ("tanh for sigmoid", "x", lambda x: torch.sigmoid(x),
     lambda output, grad_output: (grad_output * (1 - output * output),), {"x": _drawn(4, 5)},
     "use sigmoid(x) * (1 - sigmoid(x)), the derivative of sigmoid, in place of "
     "(1 - output * output)"),
    ("leaky_relu's slope", "x", lambda x: F.leaky_relu(x), lambda grad_output: (grad_output * 1,),
     {"x": _drawn(4, 5)}, "multiply by where(x > 0, 1, 0.01), the derivative of leaky_relu at x"),
    ("gelu by tanh for gelu", "x", lambda x: F.gelu(x), lambda x, grad_output: (
        torch.autograd.functional.vjp(lambda x: F.gelu(x, approximate="tanh"), x, grad_output)[1],
     ), {"x": _drawn(4, 5)}, "write grad_output * (P + x * p)"),
    ("eps", "x", lambda x: F.layer_norm(x, (5,), eps=1e-5), _norm(1e-6), {"x": _drawn(4, 5)},
     "use 1e-05 in place of 1e-06 in "),
    ("eps forgotten", "w", lambda x, w: F.layer_norm(x, (5,), w, eps=1e-5), _norm_without_eps,
     {"x": _drawn(4, 5), "w": _drawn(5).requires_grad_()}, "add 1e-05 to "),
    ("another row", "x", lambda x, y: x * y, lambda x, y, grad_output: (
        grad_output * y.flip(0), grad_output * x), {"x": _drawn(4, 5), "y": _drawn(4, 5, seed=2)},
     "use y in place of flip(y, [0])"),
    ("rows in another order", "x", lambda x: x.exp(),
     lambda x, grad_output: ((grad_output * x.exp())[[2, 0, 3, 1]],), {"x": _drawn(4, 5)},
     "reorder dimension -2: take its entries in the order [1, 3, 0, 2]"),
    ("the function itself", "x", lambda x: x.sin(), lambda x, grad_output: (grad_output * x.sin(),),
     {"x": _drawn(4, 5)}, "write grad_output * cos(x), the derivative of sin"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("red", "forward", "backward", "inputs", "fix"), [f[1:] for f in FORMS],
    ids=[f[0] for f in FORMS],
)  # fmt: skip
def test_a_bug_in_a_check_is_named(
    red: str, forward: Any, backward: Any, inputs: dict[str, Any], fix: str
) -> None:
    report = check(backward, forward, inputs)
    diagnosis = report.quantities[red].diagnosis
    assert report.first_wrong == red, str(report)
    assert diagnosis is not None
    assert any(text.startswith(fix) for text in diagnosis.found), diagnosis


@pytest.mark.parametrize(
    ("bug", "fix"),
    [
        ("alpha forgotten", "use alpha * syn1_update in place of syn1_update"),
        ("the mask forgotten", "multiply by m"),
    ],
)
def test_a_simple_fix_hides_the_clumsy_ones(bug: str, fix: str) -> None:
    """Neither an equivalent sum is reported, nor derivatives of activations that do not occur."""
    label, line, *_ = next((b[1:] for b in BUGS if b[0] == bug), ("", None))
    report = _planted(label, line) if line else _of_form(bug)
    assert report.first_wrong is not None
    diagnosis = report.quantities[report.first_wrong].diagnosis
    assert diagnosis is not None
    assert diagnosis.found == (fix,)


def _of_form(bug: str) -> Report:
    _, _, forward, backward, inputs, _ = next(form for form in FORMS if form[0] == bug)
    return check(backward, forward, inputs)


@pytest.mark.parametrize("known", [{}, {"alpha": 0.25}])
def test_a_factor_can_be_printed_without_its_remark(known: dict[str, float]) -> None:
    """`(1 - alpha)` is a factor, not a remark."""
    texts = {row.text.removesuffix(row.remark) for row in factors([(6, 2)], known)}
    assert {"-1", "6", "1/6", "6/5", "5/6", "sqrt(6)", "2 * 6", "-1 * 6/5", "1/2 * 1/6"} <= texts
    assert ({"(1 - alpha)", "-1 * (1 - alpha)", "1 / alpha", "alpha"} <= texts) == bool(known)
    assert not any(" = " in text or "(n" in text for text in texts)


#: Bugs without a simple fix: one wrong element, and formulas that differ throughout.
NO_FIX: list[tuple[Any, Any, dict[str, Any]]] = [
    (lambda x: x.exp(), lambda x, grad_output: (
        torch.cat([(grad_output * x.exp())[:-1], torch.zeros_like(x[:1])]),), {"x": _drawn(4, 5)}),
    (lambda x: x.softmax(1), lambda x, output, grad_output: (
        (x + grad_output).sin() * output.cumsum(0),), {"x": _drawn(4, 5)}),
    (lambda x: torch.special.expit(x) * x.sum(), lambda x: {"x": x.cumsum(0) * x.norm()},
     {"x": _drawn(4, 5)}),
]  # fmt: skip


@pytest.mark.parametrize(("forward", "backward", "inputs"), NO_FIX)
def test_a_bug_without_a_simple_fix_is_reported_without_one(
    forward: Any, backward: Any, inputs: dict[str, Any]
) -> None:
    report = check(backward, forward, inputs)
    diagnosis = report.quantities["x"].diagnosis
    assert diagnosis is not None
    assert diagnosis.found == ()
    assert "no fix found (tried: factor, transpose, " in str(report)


def test_a_fix_that_holds_only_at_these_inputs_is_not_reported() -> None:
    """Multiplying by y is right at these inputs, but not at others."""
    x = torch.arange(1.0, 21, dtype=torch.float64).reshape(4, 5) / 4
    y = 3 * x  # exactly
    report = check(
        lambda x: (x * 1,), lambda x, y: (x**3).sum() + 0 * y.sum(),
        {"x": x.requires_grad_(), "y": y.detach()},
    )  # fmt: skip
    diagnosis = report.quantities["x"].diagnosis
    assert diagnosis is not None
    assert not any(re.search(r"\by\b", text) for text in diagnosis.found), diagnosis


def test_a_kink_has_no_fix() -> None:
    x = torch.tensor([-1.5, 0.0, 2.0], dtype=torch.float64)
    backward = lambda x, grad_output: (grad_output * (x >= 0),)  # noqa: E731
    report = check(backward, lambda x: F.relu(x), {"x": x})
    assert report.verdict == "ROUNDING"
    assert report.quantities["x"].diagnosis is None


def test_the_report_says_that_large_tensors_are_not_searched() -> None:
    report = check(lambda x: (x,), lambda x: (x * x).sum(), {"x": _drawn(400, 300)})
    assert "search skipped: " in str(report)
    assert "elements to compute exactly, the limit is 200,000" in str(report)


def test_right_code_gets_no_diagnosis() -> None:
    report = check(lambda x: (2 * x,), lambda x: (x * x).sum(), {"x": _drawn(4, 5)})
    assert all(q.diagnosis is None for q in report.quantities.values())


LAYER = """\
import torch
import compare


def forward(x, w):
    return torch.tanh(compare.name(x @ w, "z")).sum()


def backward(x, w, z):
    h = torch.tanh(z)
    dz = 1 - h  # the derivative of tanh is 1 - h*h
    return {"z": dz, "x": dz @ w.mT, "w": x.mT @ dz}
"""


def test_the_line_of_a_wrong_quantity_is_reported(tmp_path: Path) -> None:
    """Its source text stands in the report and in its JSON; right quantities have no line."""
    file = tmp_path / "my_layer.py"
    file.write_text(LAYER)
    layer = runpy.run_path(str(file))
    report = check(layer["backward"], layer["forward"], {"x": _drawn(4, 3), "w": _drawn(3, 5)})
    assert "\n  line           my_layer.py:11  dz = 1 - h\n" in str(report)
    rows = {q["name"]: q["proof"]["line"] for q in report.to_dict()["quantities"]}
    assert rows == {"z": "my_layer.py:11  dz = 1 - h", "x": None, "w": None}


def test_the_line_is_reported_for_a_run_and_for_a_wrong_shape() -> None:
    """In a run, a line of the case's listing; in a check, that of a missing sum."""
    report = harness.run(CASES["dropout_as_published"], steps=2)
    (line,) = (line for line in str(report).splitlines() if line.startswith("  line  "))
    assert line == (
        "  line           dropout_as_published.py:45  l1_delta = l1_error * (l1 * (1 - l1))"
    )

    def backward(x: Tensor, grad_output: Tensor) -> Named:
        every = grad_output * 1
        return {"x": grad_output, "b": every}

    report = check(backward, lambda x, b: x + b, {"x": _drawn(4, 3), "b": _drawn(3)})
    assert f":{backward.__code__.co_firstlineno + 1}  every = grad_output * 1\n" in str(report)


def test_code_without_a_source_file_has_no_line() -> None:
    report = check(eval("lambda x: (3 * x,)"), lambda x: (x * x).sum(), {"x": _drawn(4, 5)})
    assert report.quantities["x"].verdict == "WRONG"
    assert "<string>" not in str(report)


def test_a_named_bug_does_not_hide_another() -> None:
    def forward(x: Tensor, w: Tensor) -> Tensor:
        return torch.tanh(name(x @ w, "z")).sum()

    def backward(x: Tensor, w: Tensor, z: Tensor) -> Named:
        dz = 2 * (1 - torch.tanh(z) ** 2)
        return {"z": dz, "x": -dz @ w.mT, "w": x.mT @ dz}

    report = check(backward, forward, {"x": _drawn(4, 3), "w": _drawn(3, 5)})
    z, x = (report.quantities[label].diagnosis for label in ("z", "x"))
    assert z is not None
    assert x is not None
    assert (z.found[0], x.found[0]) == ("multiply by 1/2", "multiply by -1 (sign error)")


def test_a_sum_in_place_of_a_difference_is_named() -> None:
    def backward(x: Tensor, y: Tensor, grad_output: Tensor) -> Any:
        t = torch.tanh(x)
        return grad_output * (y + t * t), grad_output * x

    given = {"x": torch.randn(4), "y": torch.randn(4)}
    report = check(backward, lambda x, y: (y - 1) * x + torch.tanh(x), given)
    diagnosis = report.quantities["x"].diagnosis
    assert diagnosis is not None
    assert any("use - in place of +" in text for text in diagnosis.found)


def test_an_expression_that_doubles_in_each_round_of_a_loop_is_cut() -> None:
    """Each round of the loop reads its value twice."""

    def backward(x: Tensor, grad_output: Tensor) -> Any:
        for _ in range(64):
            x = x + x.sin() * x
        return (x * grad_output,)

    x = torch.randn(3)
    program = trace(lambda **given: {"x": backward(**given)[0]}, {"x": x, "grad_output": x})
    assert len(expression(program.outputs["x"], {}).text) < 4_000


def test_a_long_expression_is_cut_where_its_brackets_stay_balanced() -> None:
    text = "(grad_output * g * rsqrt((x * x).mean(-1, keepdim=True) + 1e-06) - x * h).sum(-1) / 6"
    cut = shortened(leaf(text)).text
    assert cut.count("(") == cut.count(")")
    assert shortened(leaf("x * y")).text == "x * y"
    long = leaf(f"{'a' * 70} + (b - c) * dddd + f(eeeeeeeee) * g[0]")
    assert shortened(long).text.startswith("...")


def test_the_same_factor_is_reported_once() -> None:
    """Of a and a * b only a is scaled; `h * k` and `h * d` for c are other values, not factors."""
    texts = [
        "use 2 * a in place of a", "use h * k in place of c", "use h * d in place of c",
        "use 2 * (a * b) in place of a * b",
    ]  # fmt: skip
    assert _simplest([(3.5, text) for text in texts]) == tuple(texts[:3])


def test_an_index_is_reported_without_the_population_dimension() -> None:
    report = harness.run(CASES["dropout_as_published"], steps=1)
    row = report.quantities["l1_delta"]
    assert row.proof is not None
    assert row.worst_index is not None
    assert len(row.worst_index) == 2
    assert f"by autograd at {list(row.worst_index)}; " in row.proof.text


def test_a_factor_that_prints_as_1_is_not_reported() -> None:
    """The quotient of the two sides is 1 to 14 digits."""
    tenths = torch.tensor([0.1, -0.1] * 501, dtype=torch.float64)
    signs = tenths.sign()
    report = check(
        lambda grad_output: (grad_output * signs * 0.100000000000001,), lambda x: x * tenths,
        {"x": torch.ones(1_002, dtype=torch.float64)},
    )  # fmt: skip
    diagnosis = report.quantities["x"].diagnosis
    assert diagnosis is not None
    assert "multiply by 1" not in diagnosis.found
