"""Mutants: every one that is another function is caught and named, weak inputs are said to be."""

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
from compare.mutants.equivalence import Formulas
from compare.mutants.mutants import of_subject
from compare.mutants.mutate import mutants
from compare.mutants.other_checks import OtherChecks
from compare.mutants.report import CHECKS, MutationReport
from compare.mutants.subjects import OfCase, OfCheck
from compare.passes.passes import Passes
from compare.proof.interpreter import evaluate
from manual.activations import ACTIVATIONS
from manual.losses import LOSSES
from tests.test_pieces import (
    TORCHS,
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

# -- the tool on itself: every row of manual/'s tables, and its cases

EDGES = torch.tensor([0, 1e-5, 5e-5, 19.5, 20, 20.001, 20.5, 25, -25], dtype=torch.float64)


def _torch_norm(z: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
    return F.batch_norm(z, None, None, gamma.flatten(), beta.flatten(), True, 0.1, 1e-5)


def _zeros_too(*shape: int) -> Tensor:
    values = _normal(*shape)
    values[0, 0] = 0
    return values


def _of_check(*given: Any) -> OfCheck:
    return OfCheck(Passes(*given))


def _of_activation(name: str) -> OfCheck:
    z = torch.cat([_normal(9, scale=2), EDGES])
    return _of_check(_activation(name), lambda z: TORCHS[name](z), {"z": z})


def _of_loss(name: str) -> OfCheck:
    l, y = _rows(name, torch.float64, 4, 3)
    given = {"l": l.requires_grad_(), "y": y}
    return _of_check(_loss(name), lambda l, y: losses.LOSSES[name](l, y), given)


PIECES: dict[str, Callable[[], OfCheck]] = {
    **{name: partial(_of_activation, name) for name in ACTIVATIONS},
    **{name: partial(_of_loss, name) for name in LOSSES},
    "batch norm": lambda: _of_check(
        _BatchNorm, _torch_norm,
        {"z": _normal(5, 3), "gamma": _normal(1, 3, seed=4), "beta": _normal(1, 3, seed=5)},
    ),
    "dropout": lambda: _of_check(
        _Drop, lambda a, mask: a * mask / 0.7,
        {"a": _normal(4, 5).requires_grad_(), "mask": (_normal(4, 5, seed=14) > 0).double()},
    ),
    "penalty": lambda: _of_check(
        _Penalty, lambda syn: 0.15 * (syn**2).sum() + 0.2 * syn.abs().sum(),
        {"syn": _zeros_too(4, 5)},
    ),
}  # fmt: skip


def _assert_all_caught_and_named(found: MutationReport) -> None:
    """At these inputs or at others drawn, and at these each at its own line."""
    assert not [s for s in found.survivors if s.reason != "weak inputs"], str(found)
    assert found.caught["check"] == found.named > 0.8 * found.wrong


@pytest.mark.parametrize("name", PIECES)
def test_every_mutant_of_a_piece_by_hand_is_caught(name: str) -> None:
    """Of each activation, loss and piece: all that are another function, at their own line."""
    found = of_subject(PIECES[name](), alone=True)
    if name == "identity":
        assert not found.mutants  # it computes nothing
    else:
        _assert_all_caught_and_named(found)


# What no case asks for.
NETWORKS: dict[str, dict[str, Any]] = {
    "momentum": {"momentum": 0.9},
    "zeroed": {"trim": 0.01, "trimming": "zero"},
}


@pytest.mark.parametrize("name", NETWORKS)
def test_every_mutant_of_a_networks_step_is_caught(name: str) -> None:
    """Of what the cases leave out, in a small network: at these inputs, or at others drawn."""
    network = Network(**({"sizes": (3, 4, 2), "alpha": 0.3} | NETWORKS[name]))
    _assert_all_caught_and_named(of_subject(OfCase(Case("mutated", "", network, X, Y)), alone=True))


def _smaller(case: Case) -> Case:
    """Return the case, one that is large on 5 rows (4 in a batch of its own), 3-6-2 of a kind."""
    if case.name == "alpha":
        return replace(case, network=case.sweep[10], sweep=())  # 32 hidden, alpha 1
    if case.name not in ("everything", "digits"):
        return case
    network = replace(case.network, sizes=(3, 6, 2))
    return replace(case, network=network, X=X, y=Y, data=None, batch_size=4)


@pytest.mark.parametrize("name", [name for name in CASES if name != "dropout_as_published"])
def test_every_mutant_of_a_cases_step_is_caught(name: str) -> None:
    """At the case's own inputs, or at others drawn where its own hide it.

    Of `everything` and `digits` the same network, with all that they ask for, of fewer and smaller
    layers; rows, inputs, hidden and outputs are all of different sizes, so no transpose hides.
    """
    _assert_all_caught_and_named(of_subject(OfCase(_smaller(CASES[name])), alone=True))


# -- power


def _forward(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    return torch.relu(x @ w) + b


def _backward(x: Tensor, w: Tensor, grad_output: Tensor) -> dict[str, Tensor]:
    dz = grad_output * (x @ w > 0)
    return {"x": dz @ w.mT, "w": x.mT @ dz, "b": grad_output.sum(0, keepdim=True)}


def _given(rows: int) -> dict[str, Tensor]:
    return {"x": _normal(rows, 4), "w": _normal(4, 3, seed=4), "b": _normal(1, 3, seed=5)}


def test_power_counts_what_each_check_catches() -> None:
    """Exactly the six checks; a mutant is the same function, caught, or a survivor."""
    found = compare.power(_backward, _forward, _given(5))
    assert list(found.caught) == [
        "check", "allclose", "assert_close", "gradcheck", "gradcheck_fast", "twice_low_precision"
    ]  # fmt: skip
    assert found.mutants == found.same_function + found.caught["check"] + len(found.survivors)
    assert all(0 < count <= found.wrong for count in found.caught.values())
    assert found.refuses == []
    assert json.loads(found.to_json())["caught"] == found.caught
    assert set(found.seconds) == set(CHECKS)


def test_a_batch_of_one_is_said_to_hide_a_sum() -> None:
    """The line is named, the reason too, and the inputs that are offered show it."""
    found = compare.power(_backward, _forward, _given(1))
    hidden = [s for s in found.survivors if s.what == "sum: left out"]
    assert [(s.reason, s.text) for s in hidden] == [
        (
            "weak inputs",
            'return {"x": dz @ w.mT, "w": x.mT @ dz, "b": grad_output.sum(0, keepdim=True)}',
        )
    ]
    assert "a batch of one" in hidden[0].why
    assert "not exercised  test_power.py:" in str(found)
    assert "<dt>not exercised</dt>" in found._repr_html_()
    assert found.better is not None
    again = compare.power(_backward, _forward, found.better)
    assert len(again.survivors) < len(found.survivors)


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
# The pass, its forward pass, inputs too weak, the line that they do not exercise, and why.
WEAK: dict[str, tuple[Any, Any, dict[str, Tensor], str, str]] = {
    "all zeros": (
        _of_product, lambda w, x: w * x * x, {"w": torch.zeros(4, 3).double(), "x": _normal(4, 3)},
        "dx = 2 * x * w * grad_output", "w is all zeros here",
    ),
    "square": (
        _of_linear, lambda x, w: x @ w, {"x": _normal(4, 3), "w": SYMMETRIC},
        "dx = grad_output @ w.mT", "w is of a square shape here, and symmetric",
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
def test_inputs_too_weak_to_see_are_said_to_be(name: str) -> None:
    """The report names the line and the reason, and the inputs it offers show every mutant."""
    backward, forward, inputs, line, why = WEAK[name]
    found = compare.power(backward, forward, inputs)
    hidden = [s for s in found.survivors if s.text == line]
    assert why in {s.why for s in hidden}, str(found)
    assert {s.reason for s in hidden} == {"weak inputs"}
    assert f": {why}\n" in str(found)
    assert f"{line}\n" in str(found).partition("not exercised  test_power.py:")[2]
    assert found.better is not None
    assert compare.power(backward, forward, found.better).ok


def test_what_is_odd_where_the_mutant_is_seen_too_is_no_reason() -> None:
    """Dead relus hide a change of z; zeros of a matrix of ones and zeros beside it do not."""
    mask = (_normal(4, 5) > 0).double()
    z = -_normal(4, 5, seed=3).abs()
    found = compare.power(
        lambda z, mask, grad_output: {"z": torch.where(z > 0, mask * grad_output, 0.0)},
        lambda z, mask: torch.relu(z) * mask, {"z": z.requires_grad_(), "mask": mask},
    )  # fmt: skip
    assert found.survivors
    assert not any("mask" in s.why for s in found.survivors), str(found)


def _all_by_check(subject: OfCheck | OfCase, patch: pytest.MonkeyPatch) -> tuple[Any, Any]:
    """Return what mutants show by the short way, and by a whole check of each."""
    short = of_subject(subject, alone=True)
    with patch.context() as whole:
        whole.setattr("compare.mutants.equivalence.Formulas.same", lambda *_: (None, None))
        full = of_subject(subject, alone=True)
    told = [found.to_dict() | {"seconds": 0, "total_seconds": 0} for found in (short, full)]
    return told[0], told[1]


def _of_softmax(x: Tensor, grad_output: Tensor) -> dict[str, Tensor]:
    e = torch.exp(4 * x - (4 * x).amax(1, keepdim=True))  # overflows without what is taken off
    p = e / e.sum(1, keepdim=True)
    return {"x": 4 * p * (grad_output - (grad_output * p).sum(1, keepdim=True))}


def _of_unread(x: Tensor, t: Tensor, grad_output: Tensor) -> dict[str, Tensor]:
    h = torch.tanh(x)
    one = torch.special.bessel_j0(0 * x)  # no row in the table: t is judged by its numbers
    return {"x": grad_output * t * (1 - h * h), "t": grad_output * h * one}


SHORT = ("relu", "penalty", "batch norm", "batch of one", "case", "overflow", "unread")


@pytest.mark.parametrize("name", SHORT)
def test_the_short_way_finds_what_a_whole_check_finds(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a mutant only what differs is lifted: the same counts, the same survivors and reasons."""
    cases = {
        "batch of one": lambda: _of_check(_backward, _forward, _given(1)),
        "case": lambda: OfCase(CASES["two_layer"]),
        "overflow": lambda: _of_check(
            _of_softmax, lambda x: torch.softmax(4 * x, 1), {"x": _normal(4, 5).float()}
        ),
        "unread": lambda: _of_check(
            _of_unread, lambda x, t: torch.tanh(x) * t, {"x": _normal(4, 5), "t": _normal(4, 5)}
        ),
    }
    short, full = _all_by_check((cases | PIECES)[name](), monkeypatch)
    assert short == full


def test_the_first_wrong_quantity_is_that_of_check() -> None:
    """A mutant as a backward pass of its own, given to `check`: WRONG, and at the same place."""
    subject = _of_check(_backward, _forward, _given(5))
    report = compare.check(_backward, _forward, _given(5))
    formulas = Formulas(subject, list(report.quantities))
    for mutant in list(mutants(subject.manual_program, subject.given))[::6]:

        def backward(x: Tensor, w: Tensor, grad_output: Tensor, m: Any = mutant) -> Any:
            return evaluate(m.program, {"x": x, "w": w, "grad_output": grad_output})

        whole = compare.check(backward, _forward, _given(5))
        assert formulas.same(mutant) == (False, whole.first_wrong), mutant.what


def test_gradcheck_is_left_out_where_it_would_take_minutes() -> None:
    """It moves each element by itself; the report says so, and shows no count."""
    given = {"x": _normal(40, 30), "w": _normal(30, 20), "b": _normal(1, 20)}
    found = OtherChecks(_of_check(_backward, _forward, given))
    assert found.cannot["gradcheck"] == (
        "3,640 elements of inputs and results, each of which it moves or asks for by itself, of "
        "every mutant: more than 2,000"
    )
    power = MutationReport("", "EXACT", cannot=found.cannot)
    assert str(power).splitlines()[1].split() == ["caught", "0", "0", "0", "0", "-", "0", "0"]


def test_a_multiplication_by_one_is_the_same_function() -> None:
    """Dropping it is no bug; lifting shows so, and it is counted apart."""
    found = compare.power(
        lambda x, grad_output: (grad_output * 2 * x * 1.0,), lambda x: x * x, (_normal(4),)
    )
    assert found.same_function >= 2  # dropped, and divided by one
    assert found.ok, str(found)


def test_what_has_no_mutants_is_refused_in_one_line() -> None:
    """A pass that is wrong as it stands, and one that is no program."""
    with pytest.raises(BadInput, match="backward is WRONG as it stands, first in x: "):
        compare.power(lambda x, grad_output: (grad_output,), lambda x: x * x, (_normal(4),))
    with pytest.raises(BadInput, match=r"backward cannot be traced: .*write it"):
        compare.power(
            lambda x, grad_output: (torch.from_numpy(2 * x.numpy()) * grad_output,),
            lambda x: x * x, (_normal(4),),
        )  # fmt: skip
    with pytest.raises(BadInput, match="backward is given no elements: there is nothing"):
        compare.power(
            lambda x, grad_output: (2 * x * grad_output,), lambda x: x * x, (torch.ones(0, 3),)
        )
    with pytest.raises(BadInput, match="backward: 2,000,001 elements take long to lift"):
        compare.power(
            lambda x, grad_output: (2 * x * grad_output,), lambda x: x * x, (torch.ones(2_000_001),)
        )
    with pytest.raises(BadInput, match="dropout_as_published is WRONG as it stands, first in l1"):
        of_subject(OfCase(CASES["dropout_as_published"]))


def test_each_mutant_is_there_once_and_runs() -> None:
    """Of two ways to the same operations one is kept; each names its line."""
    subject = _of_check(_backward, _forward, _given(5))
    found = list(mutants(subject.manual_program, subject.given))
    assert len({(m.kind, m.what, m.node) for m in found}) == len(found) > 20
    assert all(m.line and m.line[0] == __file__ and m.leads_to for m in found)


# -- the command

FILE = """\
import torch


def forward(x, b):
    return x * x + b


def backward(x, grad_output):
    return {"x": 2 * x * grad_output, "b": grad_output.sum(0, keepdim=True)}


inputs = {"x": torch.tensor([[1.0, 2.0, -3.0]]), "b": torch.zeros(1, 3)}
"""


def test_the_command_saves_inputs_that_show_more(tmp_path: Path, capsys: Any) -> None:
    """What it saves is loaded safely, by itself and by check, and catches what survived."""
    file, saved = tmp_path / "mine.py", tmp_path / "better.pt"
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
    ("words", "says"),
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
def test_bad_input_is_one_line(words: list[str], says: str, capsys: Any) -> None:
    """It says what to change, and the exit code is 2."""
    assert main(["mutants", *words]) == 2
    err = capsys.readouterr().err
    assert says in err
    assert err.count("\n") == 1
