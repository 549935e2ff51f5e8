"""A step that branches on its inputs is judged by the operations that it executes there."""

import dataclasses
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from compare.cases.cases import CASES
from compare.proof.program import Opaque, Program
from compare.proof.trace import recorded_texts, trace
from compare.proof.verdict import Proof
from compare.training.adapters import Named, Step, manual_step_of
from compare.training.control_flow import may_branch
from compare.training.harness import run
from compare.training.prover import Prover
from tests.conftest import planted
from tests.opaque import memory

THREE_LAYER = CASES["three_layer"]
X = torch.linspace(0.1, 0.9, 12, dtype=torch.float64).view(1, 4, 3)


def _first_beyond(limit: float, dtype: str = "float64") -> int:
    """Return the first step of three_layer with a weight of syn1 beyond the limit."""
    step, at = manual_step_of(THREE_LAYER), list[int]()
    calls = iter(range(1000))

    def watched(**inputs: Tensor) -> Named:
        if torch.is_inference_mode_enabled():
            number = next(calls)
            if float(inputs["syn1"].abs().max()) > limit:
                at.append(number)
        return step(**inputs)

    run(THREE_LAYER, steps=300, dtype=dtype, step=watched, lift="none")
    return at[0]


def _off_beyond(limit: float, factor: float, until: float = torch.inf) -> Step:
    """Return the step by hand with l1_delta times a factor where syn1 is beyond the limit."""
    step = manual_step_of(THREE_LAYER)

    def other(**inputs: Tensor) -> Named:
        values = dict(step(**inputs))
        size = inputs["syn1"].abs().max()
        if size > limit and size <= until:
            values["l1_delta"] = values["l1_delta"] * factor
        return values

    return other


@pytest.mark.parametrize(
    ("dtype", "factor"), [("bfloat16", 1 + 1e-3), ("float16", 1 + 2e-4), ("float32", 1 + 1e-8)]
)
def test_a_formula_that_changes_during_a_run_is_wrong_though_the_bits_are_equal(
    dtype: str, factor: float
) -> None:
    """The dtype hides the factor; the last step is traced at its own inputs."""
    assert 50 < _first_beyond(2.0, dtype) < 150
    report = run(THREE_LAYER, steps=300, dtype=dtype, step=_off_beyond(2.0, factor))
    row = report.quantities["l1_delta"]
    assert row.equal == row.compared
    assert (report.verdict, report.first_wrong) == ("WRONG", "l1_delta"), str(report)
    assert row.proof is not None
    assert row.proof.text.startswith("at step 299: different formula")
    # from the first step on it is found at the first step
    report = run(THREE_LAYER, steps=300, dtype=dtype, step=_off_beyond(-1.0, factor))
    assert report.quantities["l1_delta"].proof is not None
    assert report.quantities["l1_delta"].proof.text.startswith("at step 0: different formula")


def test_a_formula_that_differs_only_in_the_middle_is_wrong_there() -> None:
    """Its bits show it, and the step is then traced at its own inputs."""
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


def test_a_branch_that_saves_work_is_the_same_formula() -> None:
    """By hand deltas are trimmed only where one is too large; autograd clamps all of them."""
    case = CASES["delta_trimming"]
    case = dataclasses.replace(case, network=dataclasses.replace(case.network, trim=0.14))
    whole = dataclasses.replace(case.network, trim=1e9)
    untrimmed = manual_step_of(dataclasses.replace(case, network=whole))
    branches: set[bool] = set()

    def step(**inputs: Tensor) -> Named:
        q = dict(untrimmed(**inputs))
        branches.add(bool((q["l2_delta"].abs() > 0.14).any()))
        q["l2_delta"] = _trimmed(q, "l2_delta", 0.14)
        q["l1_error"] = q["l2_delta"] @ inputs["syn1"].mT
        q["l1_delta"] = q["l1_error"] * (1 - q["l1"]) * q["l1"]
        q["l1_delta"] = _trimmed(q, "l1_delta", 0.14)
        for n in (0, 1):
            q[f"syn{n}_update"] = q[f"l{n}"].mT @ q[f"l{n + 1}_delta"]
            q[f"syn{n}"] = inputs[f"syn{n}"] + q[f"syn{n}_update"]
        return q

    assert run(case, steps=114).verdict == "EXACT"
    report = run(case, steps=114, step=step)
    assert branches == {True, False}
    assert report.verdict == "EXACT", str(report)


def test_one_steps_bound_is_not_anothers() -> None:
    """Some steps round to float32; their larger bound hides nothing at the others."""
    blog = CASES["three_layer_blog_grouping"]
    step = manual_step_of(blog)

    def rounded(**inputs: Tensor) -> Named:
        values = dict(step(**inputs))
        if inputs["syn1"].abs().max() > 2:
            values["l1_delta"] = values["l1_delta"].float().double()
        return values

    def off(values: Named) -> None:
        values["l1_delta"] = values["l1_delta"] * (1 + 1e-10)

    calls = iter(range(1000))

    def at_20(**inputs: Tensor) -> Named:
        values = rounded(**inputs)
        if torch.is_inference_mode_enabled() and next(calls) == 20:
            off(values)
        return values

    report = run(blog, steps=150, step=rounded)
    assert report.verdict != "WRONG", str(report)
    report = run(blog, steps=150, step=at_20)
    row = report.quantities["l1_delta"]
    assert row.first_unequal is not None
    assert row.first_unequal < 20  # so that it is not lifted as the first unequal step
    assert (report.verdict, report.first_wrong) == ("WRONG", "l1_delta"), str(report)
    assert row.proof is not None
    assert row.proof.text.startswith("at step 20: ")
    assert "times the rounding bound of its own operations" in row.proof.text


def _beyond_one(one: Callable[[Tensor], Tensor], other: Callable[[Tensor], Tensor]) -> Step:
    """Return a step that computes `one` for inputs up to 1 and `other` beyond."""
    return lambda X: {"out": (other if bool(X.max() > 1) else one)(X)}


def _proof(prover: Prover, X: Tensor) -> Proof:
    manual, autograd = prover.manual_step(X=X), prover.reference(X=X)
    return prover.proof({"X": X}, manual, autograd)["out"]


def _doubled(X: Tensor) -> Tensor:
    return X * 2


def _slightly_more_than_doubled(X: Tensor) -> Tensor:
    return (X.double() * (2 + 1e-9)).to(X.dtype)


def test_either_side_is_traced_again() -> None:
    """The bits are equal in float32; a program with the same operations is used again."""
    same, branch = (
        _beyond_one(_doubled, _doubled),
        _beyond_one(_doubled, _slightly_more_than_doubled),
    )
    small, large = X.float(), X.float() * 2
    for manual_step, reference in ((branch, same), (same, branch)):
        prover = Prover(manual_step, reference, None, None)
        assert _proof(prover, small).verdict == "EXACT"
        assert _proof(prover, large).verdict == "WRONG"
        assert _proof(prover, small).verdict == "EXACT"
        assert len(prover.programs) == 3
    both = Prover(branch, branch, None, None)
    assert [_proof(both, inputs).verdict for inputs in (small, large)] == ["EXACT", "EXACT"]
    assert len(both.programs) == 4


def test_work_outside_the_operations_is_noticed() -> None:
    """A traced program is used again only where it has the bits of the step."""

    def in_a_kernel(X: Tensor) -> Tensor:
        product = X * 2
        memory(product)[:] *= 1.5
        return product

    prover = Prover(_beyond_one(_doubled, in_a_kernel), _beyond_one(_doubled, _doubled), None, None)
    _proof(prover, X)
    assert isinstance(prover.manual_programs()[-1], Program)
    assert recorded_texts(prover.manual_step, {"X": X}) is not None
    assert recorded_texts(prover.manual_step, {"X": X * 2}) is None
    _proof(prover, X * 2)
    assert isinstance(prover.manual_programs()[-1], Opaque)


def test_the_cache_of_programs_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step whose constants change each time is another program each time."""
    monkeypatch.setattr("compare.training.prover.MAX_PROGRAMS", 5)
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
    """Inputs that are one percent larger are beyond it; inputs a few floats away are not."""
    inputs = {"X": X.to(dtype)}
    near = float(inputs["X"].max()) * (1 + 1e-4)
    function = lambda X: {"out": X * 2 if bool((near > X).all()) else X.exp()}  # noqa: E731
    program = trace(function, inputs)
    assert "exp" not in str(program.graph)


def test_a_value_computed_in_a_kernel_is_noticed_despite_a_branch() -> None:
    """Other operations at other inputs do not excuse it."""

    def with_kernel(X: Tensor) -> Named:
        scale = torch.from_numpy(memory(X) * 2)
        return {"out": X * scale if bool((X < 0.9001).all()) else X.exp() * scale}

    with pytest.raises(
        Opaque,
        match=r"computed outside torch at test_control_flow.py:\d+, by NumPy",
    ):
        trace(with_kernel, {"X": X})


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
def test_functions_that_may_branch(
    function: Callable[[Tensor, Tensor], object], expected: bool
) -> None:
    """They read a value that depends on their float inputs, not only on the step number."""
    assert may_branch(function, {"X": X, "t": torch.tensor([3])}) is expected


@pytest.mark.parametrize("name", ["three_layer", "adam", "everything"])
def test_the_steps_of_the_cases_do_not_branch(name: str) -> None:
    """So the steps of a chunk are bounded together."""
    case, answers = CASES[name], list[bool]()
    may_branch_of_prover = Prover.may_branch

    def recorded_answer(self: Prover, inputs: Named) -> bool:
        answers.append(may_branch_of_prover(self, inputs))
        return answers[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Prover, "may_branch", recorded_answer)
        step = planted(case, lambda q: q.update(l1=q["l1"].nextafter(q["l1"] + 1)), at=3)
        run(case, steps=8, step=step)
    assert answers == [False]
