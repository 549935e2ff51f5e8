"""A step that goes another way at other numbers is judged by the way that it goes there."""

import dataclasses
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from compare.cases.cases import CASES
from compare.proof.program import Opaque, Program
from compare.proof.trace import recorded_texts, trace
from compare.proof.verdict import Proof
from compare.training.adapters import Named, Step, by_hand
from compare.training.control_flow import branches
from compare.training.harness import run
from compare.training.prover import Prover
from tests.conftest import planted

THREE_LAYER = CASES["three_layer"]
X = torch.linspace(0.1, 0.9, 12, dtype=torch.float64).view(1, 4, 3)


def _first_beyond(limit: float, dtype: str = "float64") -> int:
    """Return the first step of three_layer that is given a weight of syn1 beyond the limit."""
    step, at = by_hand(THREE_LAYER), list[int]()
    calls = iter(range(1000))

    def watched(**given: Tensor) -> Named:
        if torch.is_inference_mode_enabled():
            here = next(calls)
            if float(given["syn1"].abs().max()) > limit:
                at.append(here)
        return step(**given)

    run(THREE_LAYER, steps=300, dtype=dtype, step=watched, lift="none")
    return at[0]


def _off_beyond(limit: float, factor: float, until: float = torch.inf) -> Step:
    """Return the step by hand with l1_delta times a factor where syn1 is beyond the limit."""
    step = by_hand(THREE_LAYER)

    def other(**given: Tensor) -> Named:
        values = dict(step(**given))
        size = given["syn1"].abs().max()
        if size > limit and size <= until:
            values["l1_delta"] = values["l1_delta"] * factor
        return values

    return other


@pytest.mark.parametrize(
    ("dtype", "factor"), [("bfloat16", 1 + 1e-3), ("float16", 1 + 2e-4), ("float32", 1 + 1e-8)]
)
def test_a_formula_that_changes_on_the_way_is_wrong_though_the_bits_are_equal(
    dtype: str, factor: float
) -> None:
    """The dtype hides the factor; the last step is read as it is at the last step."""
    assert 50 < _first_beyond(2.0, dtype) < 150
    report = run(THREE_LAYER, steps=300, dtype=dtype, step=_off_beyond(2.0, factor))
    row = report.quantities["l1_delta"]
    assert row.equal == row.compared
    assert (report.verdict, report.first_wrong) == ("WRONG", "l1_delta"), str(report)
    assert row.proof is not None
    assert row.proof.text.startswith("at step 299: different formula")
    # ... and from the first step on, at the first step
    report = run(THREE_LAYER, steps=300, dtype=dtype, step=_off_beyond(-1.0, factor))
    assert report.quantities["l1_delta"].proof is not None
    assert report.quantities["l1_delta"].proof.text.startswith("at step 0: different formula")


def test_a_formula_that_is_another_in_the_middle_alone_is_wrong_there() -> None:
    """It is seen by its bits, and then read as it is there."""
    first, end = _first_beyond(1.9), _first_beyond(2.0)
    assert 0 < first < end < 299
    report = run(THREE_LAYER, steps=300, step=_off_beyond(1.9, 1 + 1e-12, until=2.0))
    row = report.quantities["l1_delta"]
    assert (report.verdict, report.first_wrong) == ("WRONG", "l1_delta"), str(report)
    assert row.first_unequal == first
    assert row.proof is not None
    assert row.proof.text.startswith(f"at step {first}: different formula")


def _trimmed(values: Named, name: str, limit: float) -> Tensor:
    delta = values[name]
    return delta.clamp(-limit, limit) if bool((delta.abs() > limit).any()) else delta


def test_a_branch_that_saves_work_is_no_other_formula() -> None:
    """Deltas trimmed only where any is too large, beside the clamp of all of them."""
    case = CASES["delta_trimming"]
    case = dataclasses.replace(case, network=dataclasses.replace(case.network, trim=0.14))
    whole = dataclasses.replace(case.network, trim=1e9)
    untrimmed = by_hand(dataclasses.replace(case, network=whole))
    ways: set[bool] = set()

    def step(**given: Tensor) -> Named:
        q = dict(untrimmed(**given))
        ways.add(bool((q["l2_delta"].abs() > 0.14).any()))
        q["l2_delta"] = _trimmed(q, "l2_delta", 0.14)
        q["l1_error"] = q["l2_delta"] @ given["syn1"].mT
        q["l1_delta"] = q["l1_error"] * (1 - q["l1"]) * q["l1"]
        q["l1_delta"] = _trimmed(q, "l1_delta", 0.14)
        for n in (0, 1):
            q[f"syn{n}_update"] = q[f"l{n}"].mT @ q[f"l{n + 1}_delta"]
            q[f"syn{n}"] = given[f"syn{n}"] + q[f"syn{n}_update"]
        return q

    assert run(case, steps=114).verdict == "EXACT"
    report = run(case, steps=114, step=step)
    assert ways == {True, False}
    assert report.verdict == "EXACT", str(report)


def test_one_steps_bound_is_not_anothers() -> None:
    """Some steps round to float32; what they may round hides nothing at the others."""
    blog = CASES["three_layer_blog_grouping"]
    step = by_hand(blog)

    def rounded(**given: Tensor) -> Named:
        values = dict(step(**given))
        if given["syn1"].abs().max() > 2:
            values["l1_delta"] = values["l1_delta"].float().double()
        return values

    def off(values: Named) -> None:
        values["l1_delta"] = values["l1_delta"] * (1 + 1e-10)

    calls = iter(range(1000))

    def at_20(**given: Tensor) -> Named:
        values = rounded(**given)
        if torch.is_inference_mode_enabled() and next(calls) == 20:
            off(values)
        return values

    report = run(blog, steps=150, step=rounded)
    assert report.verdict != "WRONG", str(report)
    report = run(blog, steps=150, step=at_20)
    row = report.quantities["l1_delta"]
    assert row.first_unequal is not None
    assert row.first_unequal < 20  # so that it is not lifted for being the first
    assert (report.verdict, report.first_wrong) == ("WRONG", "l1_delta"), str(report)
    assert row.proof is not None
    assert row.proof.text.startswith("at step 20: ")
    assert "times the rounding bound of its own operations" in row.proof.text


def _beyond_one(one: Callable[[Tensor], Tensor], other: Callable[[Tensor], Tensor]) -> Step:
    """Return a step that does the one thing up to 1 and the other beyond."""
    return lambda X: {"out": (other if bool(X.max() > 1) else one)(X)}


def _proof(prover: Prover, given: Tensor) -> Proof:
    manual_step, reference = prover.manual_step(X=given), prover.reference(X=given)
    return prover.proof({"X": given}, manual_step, reference)["out"]


def _doubled(X: Tensor) -> Tensor:
    return X * 2


def _hardly_more(X: Tensor) -> Tensor:
    return (X.double() * (2 + 1e-9)).to(X.dtype)


def test_either_side_is_read_anew() -> None:
    """With the same bits, in float32; what was read before serves again where it is the same."""
    same, branch = _beyond_one(_doubled, _doubled), _beyond_one(_doubled, _hardly_more)
    small, large = X.float(), X.float() * 2
    for manual_step, reference in ((branch, same), (same, branch)):
        prover = Prover(manual_step, reference, None, None)
        assert _proof(prover, small).verdict == "EXACT"
        assert _proof(prover, large).verdict == "WRONG"
        assert _proof(prover, small).verdict == "EXACT"
        assert len(prover.programs) == 3
    both = Prover(branch, branch, None, None)
    assert [_proof(both, given).verdict for given in (small, large)] == ["EXACT", "EXACT"]
    assert len(both.programs) == 4


def test_work_that_leaves_no_trace_in_the_operations_is_noticed() -> None:
    """A program read before serves only where it gives the step's own bits."""

    def in_numpy(X: Tensor) -> Tensor:
        found = X * 2
        found.numpy()[:] *= 1.5
        return found

    prover = Prover(_beyond_one(_doubled, in_numpy), _beyond_one(_doubled, _doubled), None, None)
    _proof(prover, X)
    assert isinstance(prover.by_hand()[-1], Program)
    assert recorded_texts(prover.manual_step, {"X": X}) is not None
    assert recorded_texts(prover.manual_step, {"X": X * 2}) is None
    _proof(prover, X * 2)
    assert isinstance(prover.by_hand()[-1], Opaque)


def test_no_more_programs_are_kept_than_can_be_of_use(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step with numbers of its own each time is another program each time."""
    monkeypatch.setattr("compare.training.prover.KEPT", 5)
    factor = 1.0

    def changing(X: Tensor) -> Named:
        return {"out": X * torch.tensor(factor, dtype=X.dtype)}

    prover = Prover(changing, changing, None, None)
    for _ in range(4):
        factor += 1
        assert _proof(prover, X).verdict == "EXACT"
    assert len(prover.programs) == 5


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_function_near_its_threshold_is_traced(dtype: torch.dtype) -> None:
    """Inputs moved by a percent are beyond the threshold; those moved by a few floats are not."""
    given = {"X": X.to(dtype)}
    near = float(given["X"].max()) * (1 + 1e-4)
    function = lambda X: {"out": X * 2 if bool((near > X).all()) else X.exp()}  # noqa: E731
    program = trace(function, given)
    assert "exp" not in str(program.graph)


def test_work_outside_torch_is_noticed_despite_a_branch() -> None:
    """Different operations at other inputs do not excuse different results."""

    def outside_torch(X: Tensor) -> Named:
        scale = torch.from_numpy(X.numpy() * 2)
        return {"out": X * scale if bool((X < 0.9001).all()) else X.exp() * scale}

    with pytest.raises(Opaque, match="gave different results"):
        trace(outside_torch, {"X": X})


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda X, t: X if bool((X > 2).any()) else -X, True),
        (lambda X, t: X if torch.equal(X, -X) else -X, True),
        (lambda X, t: X[X > 0.5], True),
        (lambda X, t: X if X.numpy().max() > 2 else -X, True),
        (lambda X, t: X if max(X.flatten().tolist()) > 2 else -X, True),
        (lambda X, t: torch.zeros_like(X).add_(X)[0, 0, 0] > 2 or X, True),
        (lambda X, t: torch.where(X > 2, X, -X), False),
        (lambda X, t: X * 0.9 ** int(t.flatten()[0]), False),
        (lambda X, t: X * torch.tensor(3.0).item(), False),
        (lambda X, t: torch.optim.SGD([X.requires_grad_()], 0.1), False),
    ],
)
def test_which_functions_may_go_another_way(
    function: Callable[[Tensor, Tensor], object], expected: bool
) -> None:
    """Those that read what depends on the floats they are given, not the number of the step."""
    assert branches(function, {"X": X, "t": torch.tensor([3])}) is expected


@pytest.mark.parametrize("name", ["three_layer", "adam", "everything"])
def test_the_cases_own_steps_go_one_way(name: str) -> None:
    """So that the steps of a chunk are bounded together."""
    case, found = CASES[name], list[bool]()
    prover_branches = Prover.branches

    def noted(self: Prover, given: Named) -> bool:
        found.append(prover_branches(self, given))
        return found[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Prover, "branches", noted)
        step = planted(case, lambda q: q.update(l1=q["l1"].nextafter(q["l1"] + 1)), at=3)
        run(case, steps=8, step=step)
    assert found == [False]
