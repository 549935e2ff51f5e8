"""By-hand steps in one batch: a draft of the weights saves time and decides nothing."""

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from compare.cases.cases import CASES
from compare.proof.bits import same_bits
from compare.report.report import Report
from compare.training.adapters import Named, manual_step_of
from compare.training.chunking import Shard, stacked
from compare.training.draft import Draft, draft_of
from compare.training.harness import Run
from tests.conftest import one_ulp

pytestmark = pytest.mark.bits

THREE_LAYER = CASES["three_layer"]
CHUNK = 20


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("compare.training.chunking.STEPS", CHUNK)


def assert_same_report(one: Report, other: Report) -> None:
    """Assert the same verdicts with the same proofs, counts, worst elements, output and curves."""
    assert one.verdict == other.verdict
    for row, again in zip(one.quantities.values(), other.quantities.values(), strict=True):
        assert row == again
    assert (one.output, one.free_gap, one.curves) == (other.output, other.free_gap, other.curves)


@pytest.mark.parametrize(
    ("name", "population"),
    [("three_layer", 1), ("three_layer", 5), ("three_layer_blog_grouping", 1),
     ("three_layer_blog_grouping", 4), ("mini_batches", 5), ("dropout", 1), ("batch_norm", 3)],
)  # fmt: skip
def test_a_run_in_batches_has_the_report_of_the_plain_one(name: str, population: int) -> None:
    """All chunks but the first, in which both roads are compared, are taken in one batch."""
    settings: Any = {"steps": 5 * CHUNK - 7, "population": population}
    batches, plain = Run(CASES[name], **settings), Run(CASES[name], **settings, plain=True)
    assert_same_report(batches.train(), plain.train())
    assert batches.manual_batch is not None
    assert batches.manual_batch.chunks == 4
    assert plain.manual_batch is None


def a_chunk(name: str) -> tuple[Run, Shard, list[Named]]:
    run = Run(CASES[name], steps=CHUNK)
    return run, run.shards[0], [run.shards[0].data(step) for step in run.sampler.steps(CHUNK)]


@pytest.mark.parametrize(
    "name", ["two_layer", "three_layer", "deep", "bias", "mini_batches", "dropout", "momentum"]
)
def test_a_draft_has_the_bits_of_the_steps(name: str) -> None:
    """Also when the same draft is used again, for fewer steps from other weights."""
    run, shard, data = a_chunk(name)
    draft = draft_of(run.manual_side.step, data[0], shard.state, CHUNK)
    assert draft is not None
    state = shard.state
    for part in (data, data[3:10]):
        states = draft.run(stacked(part), state)
        _, after, state = run.manual_side.take(part, {n: v.clone() for n, v in state.items()})
        for name, value in states.items():
            assert len(value) == len(part) + 1
            for k, values in enumerate(after):
                assert same_bits(value[k + 1], values[name]), (name, k)
    assert not same_bits(state["syn0"], shard.state["syn0"]), "the steps change the weights"


def _reads_a_number(X: Tensor, w: Tensor) -> Named:
    return {"w": w + float(X[0, 0, 0])}


def _has_no_form_with_out(X: Tensor, w: Tensor) -> Named:
    return {"w": w + torch.relu(X)}


def _returns_no_state(X: Tensor, w: Tensor) -> Named:
    return {"v": w + X}


@pytest.mark.parametrize("step", [_reads_a_number, _has_no_form_with_out, _returns_no_state])
def test_a_step_that_cannot_be_replayed_has_no_draft(step: Callable[..., Named]) -> None:
    X, w = torch.ones(1, 2, 3), torch.ones(1, 2, 3)
    assert draft_of(step, {"X": X}, {"w": w}, 4) is None
    assert draft_of(lambda X, w: {"w": w + X}, {"X": X}, {"w": w}, 4) is not None


@pytest.mark.parametrize("at", [0, 7, CHUNK - 1])
def test_a_wrong_draft_changes_no_number(monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    """One bit of a weight, at any step of the third chunk: its steps are taken one by one."""
    unchanged, calls = Draft.run, itertools.count()

    def planted(self: Draft, inputs: Named, state: Named) -> Named:
        states = unchanged(self, inputs, state)
        if next(calls) == 1:
            one_ulp("syn1", at + 1, 0, 2, 0)(states)
        return states

    plain = Run(THREE_LAYER, steps=5 * CHUNK, plain=True).train()
    monkeypatch.setattr(Draft, "run", planted)
    run = Run(THREE_LAYER, steps=5 * CHUNK)
    assert_same_report(run.train(), plain)
    assert run.manual_batch is not None
    assert run.manual_batch.chunks == 1
    assert set(run.manual_batch.drafts.values()) == {None}


def case_step_with(monkeypatch: pytest.MonkeyPatch, change: Callable[[Named, bool], None]) -> None:
    """Let `change` change the values of the case's step; it is told whether they are a batch."""
    step = manual_step_of(THREE_LAYER)

    def changed(**inputs: Tensor) -> Named:
        values = step(**inputs)
        if torch.is_inference_mode_enabled():  # tracing does not count
            change(values, len(inputs["X"]) >= CHUNK)
        return values

    monkeypatch.setattr("compare.training.harness.manual_step_of", lambda _case: changed)


def test_a_step_with_other_bits_in_a_batch_is_taken_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """It shows in the first chunk; the batch's bits appear nowhere."""
    plain = Run(THREE_LAYER, steps=3 * CHUNK, plain=True).train()

    def change(values: Named, batch: bool) -> None:
        if batch:
            one_ulp("l2_error", 3, 1, 0)(values)

    case_step_with(monkeypatch, change)
    run = Run(THREE_LAYER, steps=3 * CHUNK)
    assert_same_report(run.train(), plain)
    assert run.manual_batch is not None
    assert run.manual_batch.chunks == 0


def test_other_bits_in_a_later_batch_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """The steps judged before are then in doubt too, so the run ends without a report."""
    calls = itertools.count()

    def change(values: Named, batch: bool) -> None:
        if batch and next(calls) == 2:  # the batch of the third chunk
            values["l2_error"] = values["l2_error"].nextafter(torch.tensor(9.0).double())

    case_step_with(monkeypatch, change)
    message = "a by-hand step has other bits in a batch of 20 steps than alone"
    with pytest.raises(RuntimeError, match=message):
        Run(THREE_LAYER, steps=5 * CHUNK).train()


def test_a_quantity_that_goes_missing_in_a_batch_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = itertools.count()

    def change(values: Named, batch: bool) -> None:
        if next(calls) > CHUNK + 2:  # from the third chunk on, in the batch and alone
            del values["l1_delta"]

    case_step_with(monkeypatch, change)
    report = Run(THREE_LAYER, steps=5 * CHUNK).train()
    assert (report.verdict, report.first_wrong, report.steps) == ("WRONG", "l1_delta", 2 * CHUNK)
    assert report.quantities["l1_delta"].problem == "from step 40 on: missing by hand"


def test_one_step_of_each_chunk_is_taken_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The step's own code runs in each chunk in the batch, and at one of its steps."""
    sizes: list[bool] = []
    case_step_with(monkeypatch, lambda _values, batch: sizes.append(batch))
    Run(THREE_LAYER, steps=4 * CHUNK).train()
    assert sizes == [False] * CHUNK + [True] + [True, False] * 3


def test_a_step_of_the_users_is_never_taken_in_a_batch() -> None:
    """It may count its calls, for example."""
    run = Run(THREE_LAYER, steps=3 * CHUNK, step=manual_step_of(THREE_LAYER))
    assert run.manual_batch is None


def test_a_run_of_one_chunk_records_no_draft() -> None:
    run = Run(THREE_LAYER, steps=CHUNK)
    run.train()
    assert run.manual_batch is not None
    assert run.manual_batch.drafts == {}
