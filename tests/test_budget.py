"""A limit on the time of a check: what is not done is named, and nothing of it counts as a pass."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import compare
from compare import budget, progress
from compare.budget import Pieces, TimeIsUp, look, within
from compare.checking import by_numbers
from compare.cli.main import main
from compare.errors import BadInput
from compare.mutants.mutants import _spread
from compare.progress import counted

X, W = torch.linspace(-1, 1, 12).view(4, 3), torch.linspace(0.5, 2, 6).view(3, 2)


def forward(x: Tensor, w: Tensor) -> Tensor:
    return torch.tanh(x @ w)


def backward(x: Tensor, w: Tensor, output: Tensor, grad_output: Tensor) -> dict[str, Tensor]:
    dz = grad_output * (1 - output * output)
    return {"x": dz @ w.mT, "w": (dz.mT @ x).mT}


class _Clock:
    """A clock that is moved by hand."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> _Clock:
    clock = _Clock()
    monkeypatch.setattr("compare.budget.time.monotonic", clock)
    return clock


# -- the limit itself


def test_work_ends_after_its_limit(clock: _Clock) -> None:
    done = []

    def work() -> None:
        for k in counted("piece", range(10)):
            done.append(k)
            clock.now += 1

    with pytest.raises(TimeIsUp), within(3):
        work()
    assert done == [0, 1, 2, 3]
    look()  # no limit any more


def test_an_inner_limit_does_not_outlast_the_outer(clock: _Clock) -> None:
    with within(2), within(100):
        clock.now = 3
        with pytest.raises(TimeIsUp):
            look()
    clock.now = 1000
    look()  # no limit any more


def test_pieces_name_what_was_left_out(clock: _Clock) -> None:
    pieces = Pieces()

    def slow() -> int:
        clock.now = 10
        look()
        return 1

    with within(5):
        assert pieces.do("first", lambda: 1, 0) == 1
        assert pieces.do("second", slow, 0) == 0
        assert pieces.do("third", lambda: 1, 0) == 0
        assert pieces.do("", lambda: 1, 0) == 0
    assert pieces.left_out == ["second", "third"]


@pytest.mark.parametrize("budget", [0, -1, float("nan"), float("inf"), "5", True, [1]])
@pytest.mark.parametrize("call", [compare.check, compare.assert_same, compare.power])
def test_a_budget_is_a_positive_number(call: Any, budget: Any) -> None:
    with pytest.raises(BadInput, match=r"budget is .*: give a number of seconds above 0, or None"):
        call(backward, forward, {"x": X, "w": W}, budget=budget)


# -- checks


def _stops_at(monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    """Let the time be up at the first call of a function."""
    module, _, function = place.rpartition(".")

    def stop(*_: Any, **__: Any) -> Any:
        raise TimeIsUp

    monkeypatch.setattr(f"compare.{module}.{function}", stop)


def test_enough_time_changes_nothing() -> None:
    plain = compare.check(backward, forward, {"x": X, "w": W})
    limited = compare.check(backward, forward, {"x": X, "w": W}, budget=1000)
    assert limited.left_out == ()
    assert limited.to_dict() | {"budget": None, "seconds": 0} == plain.to_dict() | {"seconds": 0}


def test_formulas_that_were_not_compared_are_undecided() -> None:
    report = compare.check(backward, forward, {"x": X, "w": W}, budget=1e-9)
    for quantity in report.quantities.values():
        same = quantity.equal == quantity.total
        assert quantity.verdict == ("EXACT" if same else "UNDECIDED"), str(report)
        assert quantity.proof is not None
        assert not quantity.proof.lifted
        assert "the time was up" in quantity.proof.text
    assert "formulas" in report.left_out
    assert "the check at other inputs" in report.left_out
    assert any("the contract" in piece for piece in report.left_out)
    assert "not done within 1e-09 s: formulas" in str(report).replace("\n", " ")
    assert report.to_dict()["left_out"] == list(report.left_out)
    assert not any(line.outcome == "kept" for line in report.contract)


def test_other_inputs_that_were_not_tried_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    _stops_at(monkeypatch, "checking.check.SecondInputs.judged")
    report = compare.check(backward, forward, {"x": X, "w": W}, budget=1000)
    assert report.verdict == "ROUNDING"
    assert report.left_out == ("the check at other inputs",)
    assert "at other inputs; x" not in str(report)
    assert report.beside is not None
    assert not report.beside.tried


def test_calls_of_the_contract_that_are_left_out_are_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _stops_at(monkeypatch, "contract.contract.Contract._zero")
    report = compare.check(backward, forward, {"x": X, "w": W}, budget=1000)
    outcomes = {line.name: line.outcome for line in report.contract}
    assert outcomes["transposed"] == "kept"
    assert outcomes["zero"] == outcomes["strides"] == "not asked"
    assert report.left_out == ("the contract (zero, strides)",)


def test_an_assertion_with_too_little_time_fails() -> None:
    with pytest.raises(AssertionError, match=r"UNDECIDED: .*not done within 1e-09 s: formulas"):
        compare.assert_same(backward, forward, {"x": X, "w": W}, budget=1e-9)


def test_a_check_ends_soon_after_its_budget() -> None:
    """A slow code under test is called a few times more at most."""

    def slow(x: Tensor, w: Tensor, output: Tensor, grad_output: Tensor) -> dict[str, Tensor]:
        time.sleep(0.05)
        return backward(x, w, output, grad_output)

    calls = time.monotonic()
    report = compare.check(slow, forward, {"x": X, "w": W}, budget=0.01)
    assert time.monotonic() - calls < 5
    assert report.left_out


# -- mutants


def test_mutants_that_were_not_tried_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    whole = compare.power(backward, forward, {"x": X, "w": W}, watch=seen.append)
    assert whole.ok
    clock = _Clock()
    monkeypatch.setattr("compare.budget.time.monotonic", clock)

    def watch(count: int) -> None:
        clock.now = float(count)

    part = compare.power(backward, forward, {"x": X, "w": W}, watch=watch, budget=3.5)
    assert part.mutants == 4
    assert part.untried == whole.mutants - 4
    assert not part.ok
    text = str(part)
    assert "ALL CAUGHT" not in text
    assert f"{part.untried} UNTRIED" in text
    assert "not tried within 3.5 s" in text
    assert part.to_dict()["untried"] == part.untried


# -- the command line

FILE = """
import torch
def forward(x):
    return torch.tanh(x)
def backward(grad_output, output):
    return {"x": (1 - output ** 2) * grad_output}
inputs = {"x": torch.linspace(-2, 2, 7)}
"""


def test_the_commands_take_a_budget(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "mine.py"
    file.write_text(FILE)
    assert main(["check", str(file), "--budget", "0.000001", "--json", "-"]) == 1
    result = json.loads(capsys.readouterr().out)
    assert result["verdict"] == "UNDECIDED"
    assert "formulas" in result["left_out"]
    assert main(["mutants", str(file), "--budget", "0.000001", "--json", "-"]) == 1
    assert json.loads(capsys.readouterr().out)["untried"] > 0
    assert main(["check", str(file), "--budget", "-3"]) == 2
    assert "budget is -3.0: give a number of seconds" in capsys.readouterr().err


# -- wherever the time is up

RELU = (lambda x, grad_output: {"x": grad_output * (x >= 0)}, lambda x: x.relu())
NAN = (
    lambda x, grad_output: {"x": grad_output * torch.where(x > 0, 0.5 / x.abs().sqrt(), x * 0 + 1)},
    lambda x: torch.where(x > 0, torch.sqrt(x), x),
)
TANH = (
    lambda x, grad_output: {"x": grad_output * (1 - x.tanh() ** 2)}, lambda x: x.tanh(),
)  # fmt: skip
TWICE = lambda x, grad_output: {"x": 2 * grad_output * (1 - x.tanh() ** 2)}, TANH[1]


def _recomputed(x: Tensor, w: Tensor, grad_output: Tensor, z: Tensor) -> dict[str, Tensor]:
    """The gradient of z is returned wrong, and computed anew for w."""
    dz, wrong = grad_output * 2 * z, grad_output * 3 * z
    return {"z": wrong, "x": wrong @ w.mT, "w": x.mT @ dz}


def _squared(x: Tensor, w: Tensor) -> Tensor:
    z = compare.name(x @ w, "z")
    return z * z


@pytest.mark.parametrize("reference", [None, "derivative"])
@pytest.mark.parametrize(
    "passes", [RELU, NAN, TANH, TWICE, (_recomputed, _squared)],
    ids=["relu", "NaN", "tanh", "twice", "recomputed"],
)  # fmt: skip
def test_the_time_may_be_up_anywhere(
    passes: Any, reference: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A limit makes a verdict UNDECIDED at most, or leaves EXACT by bits; never another one."""
    by_hand, function = passes
    inputs = {"x": torch.tensor([0.0, 1.5, -0.75])}
    if function is _squared:
        inputs = {"x": X[:, :3], "w": W}
    looks, last = 0, 10**9

    def look() -> None:
        nonlocal looks
        looks += 1
        if looks > last and budget._end.get() is not None:
            raise TimeIsUp

    for module in (budget, progress, by_numbers):
        monkeypatch.setattr(module, "look", look)

    def report() -> Any:
        nonlocal looks
        looks = 0
        return compare.check(by_hand, function, inputs, budget=1000, reference=reference)

    whole, total = report(), looks
    for last in range(0, total, max(1, total // 20)):
        cut = report()
        assert cut.verdict in ("UNDECIDED", whole.verdict), f"{last} of {total}: {cut}"
        assert whole.verdict != "WRONG" or not cut.ok


def test_the_first_mutants_are_of_every_part() -> None:
    numbers: Any = range(100)
    order: list[Any] = list(_spread(numbers))
    assert sorted(order) == list(numbers)
    assert {k // 20 for k in order[:8]} == {0, 1, 2, 3, 4}
