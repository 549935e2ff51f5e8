"""Mutation tests: each wrong mutant is caught and located, and weak inputs are reported."""

import doctest
import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import compare
from compare.cases.cases import CASES, Case, Network
from compare.cli.main import main
from compare.errors import BadInput
from compare.mutants.equivalence import EquivalenceTest
from compare.mutants.mutants import run_mutation_test
from compare.mutants.mutate import mutants
from compare.mutants.other_checks import OtherChecks
from compare.mutants.report import CHECKS, MutationReport
from compare.mutants.subjects import CaseSubject, CheckSubject
from compare.passes.passes import Passes
from compare.proof.interpreter import evaluate
from manual.activations import ACTIVATIONS
from manual.losses import LOSSES
from tests.opaque import unseen
from tests.tenth import unless_chosen
from tests.test_pieces import (
    TORCH_FUNCTIONS,
    _activation,
    _BatchNorm,
    _Drop,
    _loss,
    _normal,
    _Penalty,
    _rows,
)
from tests.test_wrong_pieces import X, Y
from torch_ref import losses

# -- mutation tests of this project: every row of the tables in manual/, and every case

EDGES = torch.tensor([0, 1e-5, 5e-5, 19.5, 20, 20.001, 20.5, 25, -25], dtype=torch.float64)


def _torch_norm(z: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
    return F.batch_norm(z, None, None, gamma.flatten(), beta.flatten(), True, 0.1, 1e-5)


def _zeros_too(*shape: int) -> Tensor:
    values = _normal(*shape)
    values[0, 0] = 0
    return values


def _check_subject(*args: Any) -> CheckSubject:
    return CheckSubject(Passes(*args))


def _activation_subject(name: str) -> CheckSubject:
    z = torch.cat([_normal(9, scale=2), EDGES])
    return _check_subject(_activation(name), lambda z: TORCH_FUNCTIONS[name](z), {"z": z})


def _loss_subject(name: str) -> CheckSubject:
    l, y = _rows(name, torch.float64, 4, 3)
    inputs = {"l": l.requires_grad_(), "y": y}
    return _check_subject(_loss(name), lambda l, y: losses.LOSSES[name](l, y), inputs)


PIECES: dict[str, Callable[[], CheckSubject]] = {
    **{name: partial(_activation_subject, name) for name in ACTIVATIONS},
    **{name: partial(_loss_subject, name) for name in LOSSES},
    "batch norm": lambda: _check_subject(
        _BatchNorm, _torch_norm,
        {"z": _normal(5, 3), "gamma": _normal(1, 3, seed=4), "beta": _normal(1, 3, seed=5)},
    ),
    "dropout": lambda: _check_subject(
        _Drop, lambda a, mask: a * mask / 0.7,
        {"a": _normal(4, 5).requires_grad_(), "mask": (_normal(4, 5, seed=14) > 0).double()},
    ),
    "penalty": lambda: _check_subject(
        _Penalty, lambda syn: 0.15 * (syn**2).sum() + 0.2 * syn.abs().sum(),
        {"syn": _zeros_too(4, 5)},
    ),
}  # fmt: skip


def _assert_all_caught_and_located(report: MutationReport) -> None:
    """Each is caught at these inputs or others; at these, the first wrong quantity is its own."""
    assert not [s for s in report.survivors if s.reason != "weak inputs"], str(report)
    assert report.caught["check"] == report.localised > 0.8 * report.wrong


@pytest.mark.parametrize("name", PIECES)
def test_every_mutant_of_a_piece_is_caught(name: str) -> None:
    """Of each activation, loss and other piece of `manual/`, all that are not equivalent."""
    report = run_mutation_test(PIECES[name](), only_check=True)
    if name == "identity":
        assert not report.mutants  # it has no operation
    else:
        _assert_all_caught_and_located(report)


# Options that no case has.
NETWORKS: dict[str, dict[str, Any]] = {
    "momentum": {"momentum": 0.9},
    "zeroed": {"trim": 0.01, "trimming": "zero"},
}


@pytest.mark.parametrize("name", NETWORKS)
def test_every_mutant_of_a_networks_step_is_caught(name: str) -> None:
    """A small network with each option that no case has, at these inputs or at others."""
    network = Network(**({"sizes": (3, 4, 2), "alpha": 0.3} | NETWORKS[name]))
    _assert_all_caught_and_located(
        run_mutation_test(CaseSubject(Case("mutated", "", network, X, Y)), only_check=True)
    )


def _smaller(case: Case) -> Case:
    """Return the case; a large one as a 3-6-2 network on 5 rows, in batches of 4."""
    if case.name == "alpha":
        return replace(case, network=case.sweep[10], sweep=())  # 32 hidden, alpha 1
    if case.name not in ("everything", "digits"):
        return case
    network = replace(case.network, sizes=(3, 6, 2))
    return replace(case, network=network, X=X, y=Y, data=None, batch_size=4)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name == "three_layer" else unless_chosen(f"mutants {name}"))
        for name in CASES
        if name != "dropout_as_published"
    ],
)
def test_every_mutant_of_a_cases_step_is_caught(name: str) -> None:
    """At the case's own inputs, or at others where its own are too weak.

    `everything` and `digits` keep their options, but have fewer and smaller layers. The numbers of
    rows, inputs, hidden units and outputs all differ, so that no transpose is hidden.
    """
    _assert_all_caught_and_located(
        run_mutation_test(CaseSubject(_smaller(CASES[name])), only_check=True)
    )


# -- power


def test_the_example_of_power_holds() -> None:
    (example,) = doctest.DocTestFinder().find(compare.power, "power", globs={})
    assert doctest.DocTestRunner().run(example).failed == 0
    assert example.examples


def _forward(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    return torch.relu(x @ w) + b


def _backward(x: Tensor, w: Tensor, grad_output: Tensor) -> dict[str, Tensor]:
    dz = grad_output * (x @ w > 0)
    return {"x": dz @ w.mT, "w": x.mT @ dz, "b": grad_output.sum(0, keepdim=True)}


def _inputs(rows: int) -> dict[str, Tensor]:
    return {"x": _normal(rows, 4), "w": _normal(4, 3, seed=4), "b": _normal(1, 3, seed=5)}


def test_power_counts_what_each_check_catches() -> None:
    """There are six checks, and a mutant is equivalent, caught, or a survivor."""
    report = compare.power(_backward, _forward, _inputs(5))
    assert list(report.caught) == [
        "check", "allclose", "assert_close", "gradcheck", "gradcheck_fast", "twice_low_precision"
    ]  # fmt: skip
    assert report.mutants == report.same_function + report.caught["check"] + len(report.survivors)
    assert all(0 < count <= report.wrong for count in report.caught.values())
    assert report.rejects_unmutated == []
    assert json.loads(report.to_json())["caught"] == report.caught
    assert set(report.seconds) == set(CHECKS)


def test_the_report_says_that_a_batch_of_one_hides_a_sum() -> None:
    """It has the line and the reason, and the suggested inputs catch the mutant."""
    report = compare.power(_backward, _forward, _inputs(1))
    hidden = [s for s in report.survivors if s.what == "sum: left out"]
    assert [(s.reason, s.text) for s in hidden] == [
        (
            "weak inputs",
            'return {"x": dz @ w.mT, "w": x.mT @ dz, "b": grad_output.sum(0, keepdim=True)}',
        )
    ]
    assert "a batch of one" in hidden[0].why
    assert "not exercised  test_power.py:" in str(report)
    assert "<dt>not exercised</dt>" in report._repr_html_()
    assert report.better_inputs is not None
    again = compare.power(_backward, _forward, report.better_inputs)
    assert len(again.survivors) < len(report.survivors)


def _of_product(w: Tensor, x: Tensor, grad_output: Tensor) -> dict[str, Tensor]:
    dx = 2 * x * w * grad_output
    return {"x": dx, "w": x * x * grad_output}


def _of_linear(x: Tensor, w: Tensor, grad_output: Tensor) -> dict[str, Tensor]:
    dx = grad_output @ w.mT
    return {"x": dx, "w": x.mT @ grad_output}


def _of_sigmoid(x: Tensor) -> dict[str, Tensor]:
    l = torch.sigmoid(x)
    dx = (1 - l) * l
    return {"x": dx}


def _of_centred(t: Tensor) -> dict[str, Tensor]:
    dx = t - t.mean(0)
    return {"x": dx}


NORMALISED = torch.tensor([[1.0, 2, 3], [-1, 0.5, -3], [2, -2.5, 1], [-2, 0, -1]]).double()
SYMMETRIC = _normal(3, 3) + _normal(3, 3).mT
# A backward pass, its forward pass, weak inputs, the line that they do not exercise, and why.
WEAK: dict[str, tuple[Any, Any, dict[str, Tensor], str, str]] = {
    "all zeros": (
        _of_product, lambda w, x: w * x * x, {"w": torch.zeros(4, 3).double(), "x": _normal(4, 3)},
        "dx = 2 * x * w * grad_output", "w is all zeros here",
    ),
    "square": (
        _of_linear, lambda x, w: x @ w, {"x": _normal(4, 3), "w": SYMMETRIC},
        "dx = grad_output @ w.mT", "w is square and symmetric here",
    ),
    "saturated": (
        _of_sigmoid, lambda x: torch.sigmoid(x).sum(), {"x": 200 + _normal(4, 3).abs()},
        "dx = (1 - l) * l", "the result of sigmoid is saturated, 1 everywhere here",
    ),
    "normalised": (
        _of_centred, lambda x, t: ((x - x.mean(0)) * t).sum(),
        {"x": _normal(4, 3).requires_grad_(), "t": NORMALISED},
        "dx = t - t.mean(0)", "t is normalised here: it sums to 0 over dimension 0",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WEAK)
def test_weak_inputs_are_reported(name: str) -> None:
    """The report names the line and the reason; the suggested inputs catch every mutant."""
    backward, forward, inputs, line, why = WEAK[name]
    report = compare.power(backward, forward, inputs)
    hidden = [s for s in report.survivors if s.text == line]
    assert why in {s.why for s in hidden}, str(report)
    assert {s.reason for s in hidden} == {"weak inputs"}
    assert f": {why}\n" in str(report)
    assert f"{line}\n" in str(report).partition("not exercised  test_power.py:")[2]
    assert report.better_inputs is not None
    assert compare.power(backward, forward, report.better_inputs).ok


def test_a_property_of_the_detecting_inputs_is_no_reason() -> None:
    """Dead relus hide a change of z; the zeros of the mask do not, as both inputs have them."""
    mask = (_normal(4, 5) > 0).double()
    z = -_normal(4, 5, seed=3).abs()
    report = compare.power(
        lambda z, mask, grad_output: {"z": torch.where(z > 0, mask * grad_output, 0.0)},
        lambda z, mask: torch.relu(z) * mask, {"z": z.requires_grad_(), "mask": mask},
    )  # fmt: skip
    assert report.survivors
    assert not any("mask" in s.why for s in report.survivors), str(report)


def _all_by_check(
    subject: CheckSubject | CaseSubject, patch: pytest.MonkeyPatch
) -> tuple[Any, Any]:
    """Return the reports of a mutation test with the equivalence test and with whole checks."""
    short = run_mutation_test(subject, only_check=True)
    with patch.context() as whole:
        whole.setattr("compare.mutants.equivalence.EquivalenceTest.test", lambda *_: (None, None))
        full = run_mutation_test(subject, only_check=True)
    reports = [report.to_dict() | {"seconds": 0, "total_seconds": 0} for report in (short, full)]
    return reports[0], reports[1]


def _of_softmax(x: Tensor, grad_output: Tensor) -> dict[str, Tensor]:
    e = torch.exp(4 * x - (4 * x).amax(1, keepdim=True))  # overflows without the shift
    p = e / e.sum(1, keepdim=True)
    return {"x": 4 * p * (grad_output - (grad_output * p).sum(1, keepdim=True))}


def _of_unsupported(x: Tensor, t: Tensor, grad_output: Tensor) -> dict[str, Tensor]:
    h = torch.tanh(x)
    one = torch.special.bessel_j0(0 * x)  # not supported: t is judged by its numbers alone
    return {"x": grad_output * t * (1 - h * h), "t": grad_output * h * one}


SHORT = ("relu", "penalty", "batch norm", "batch of one", "case", "overflow", "unsupported")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(k, marks=() if k == "relu" else unless_chosen(f"whole check {k}"))
        for k in SHORT
    ],
)
def test_the_equivalence_test_agrees_with_a_whole_check(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lifting only what differs gives the same counts, survivors and reasons."""
    cases = {
        "batch of one": lambda: _check_subject(_backward, _forward, _inputs(1)),
        "case": lambda: CaseSubject(CASES["two_layer"]),
        "overflow": lambda: _check_subject(
            _of_softmax, lambda x: torch.softmax(4 * x, 1), {"x": _normal(4, 5).float()}
        ),
        "unsupported": lambda: _check_subject(
            _of_unsupported,
            lambda x, t: torch.tanh(x) * t,
            {"x": _normal(4, 5), "t": _normal(4, 5)},
        ),
    }
    short, full = _all_by_check((cases | PIECES)[name](), monkeypatch)
    assert short == full


def test_the_first_wrong_quantity_is_that_check_subject() -> None:
    """`check` of a mutant as a backward pass is WRONG, and first in the same quantity."""
    subject = _check_subject(_backward, _forward, _inputs(5))
    report = compare.check(_backward, _forward, _inputs(5))
    equivalence = EquivalenceTest(subject, list(report.quantities))
    for mutant in list(mutants(subject.manual_program, subject.program_inputs))[::6]:

        def backward(x: Tensor, w: Tensor, grad_output: Tensor, m: Any = mutant) -> Any:
            return evaluate(m.program, {"x": x, "w": w, "grad_output": grad_output})

        whole = compare.check(backward, _forward, _inputs(5))
        assert equivalence.test(mutant) == (False, whole.first_wrong), mutant.description


def test_gradcheck_is_left_out_where_it_would_take_minutes() -> None:
    """It perturbs one element at a time; the report says so, and shows no count."""
    inputs = {"x": _normal(40, 30), "w": _normal(30, 20), "b": _normal(1, 20)}
    other_checks = OtherChecks(_check_subject(_backward, _forward, inputs))
    assert other_checks.cannot_run["gradcheck"] == (
        "too slow: it would take 3,640 inputs and outputs one at a time for each mutant; the limit "
        "is 2,000"
    )
    report = MutationReport("", "EXACT", cannot_run=other_checks.cannot_run)
    assert str(report).splitlines()[1].split() == ["caught", "0", "0", "0", "0", "-", "0", "0"]


def test_dropping_a_multiplication_by_one_is_an_equivalent_mutant() -> None:
    """Lifting shows that it is no bug, so it is counted apart."""
    report = compare.power(
        lambda x, grad_output: (grad_output * 2 * x * 1.0,), lambda x: x * x, (_normal(4),)
    )
    assert report.same_function >= 2  # dropped, and divided by one
    assert report.ok, str(report)


def test_a_pass_that_cannot_be_mutated_is_refused_in_one_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is WRONG, cannot be traced, or has no elements or too many."""
    with pytest.raises(BadInput, match="backward is WRONG even without a mutation, first in x: "):
        compare.power(lambda x, grad_output: (grad_output,), lambda x: x * x, (_normal(4),))
    with pytest.raises(BadInput, match=r"backward cannot be traced: .*write it"):
        compare.power(
            lambda x, grad_output: (2 * unseen(x) * grad_output,), lambda x: x * x, (_normal(4),),
        )  # fmt: skip
    with pytest.raises(BadInput, match="backward has no input with elements, so no mutant"):
        compare.power(
            lambda x, grad_output: (2 * x * grad_output,), lambda x: x * x, (torch.ones(0, 3),)
        )
    monkeypatch.setattr("compare.passes.inputs.TOO_MANY", 1_000)
    with pytest.raises(BadInput, match="backward: 1,001 elements take long to compute exactly"):
        compare.power(
            lambda x, grad_output: (2 * x * grad_output,), lambda x: x * x, (torch.ones(1_001),)
        )
    with pytest.raises(
        BadInput, match="dropout_as_published is WRONG even without a mutation, first in l1"
    ):
        run_mutation_test(CaseSubject(CASES["dropout_as_published"]))


def test_each_mutant_is_yielded_once_and_has_its_line() -> None:
    """Of two changes that lead to the same operations only the first is kept."""
    subject = _check_subject(_backward, _forward, _inputs(5))
    every = list(mutants(subject.manual_program, subject.program_inputs))
    assert len({(m.kind, m.description, m.node) for m in every}) == len(every) > 20
    assert all(m.line and m.line[0] == __file__ and m.affects for m in every)


# -- the command

FILE = """\
import torch


def forward(x, b):
    return x * x + b


def backward(x, grad_output):
    return {"x": 2 * x * grad_output, "b": grad_output.sum(0, keepdim=True)}


inputs = {"x": torch.tensor([[1.0, 2.0, -3.0]]), "b": torch.zeros(1, 3)}
"""


def test_the_command_saves_inputs_that_catch_more(tmp_path: Path, capsys: Any) -> None:
    """Both `mutants` and `check` load the file safely, and its inputs catch the survivors."""
    file, saved = tmp_path / "my_pass.py", tmp_path / "better.pt"
    file.write_text(FILE)
    assert main(["mutants", str(file), "--save", str(saved)]) == 1
    out = capsys.readouterr().out
    assert "not exercised" in out
    assert f"python -m compare mutants {file} --inputs {saved}" in out
    assert set(torch.load(saved, weights_only=True)) == {"x", "b"}
    assert main(["mutants", str(file), "--inputs", str(saved), "--quiet"]) == 0
    assert capsys.readouterr().out.startswith("ALL CAUGHT")
    assert main(["check", str(file), "--inputs", str(saved), "--quiet"]) == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["three_laier"], "unknown file or case 'three_laier': did you mean three_layer"),
        (["three_layer", "--inputs", "nowhere.pt"], "nowhere.pt: No such file or directory"),
        (["three_layer", "--dtype", "float31"], "unknown dtype 'float31'"),
        (
            ["three_layer", "--save", "/nowhere/x.pt"],
            "--save /nowhere/x.pt: no file can be written",
        ),
    ],
)
def test_bad_input_is_one_line(words: list[str], message: str, capsys: Any) -> None:
    """The line says what to change, and the exit code is 2."""
    assert main(["mutants", *words]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
