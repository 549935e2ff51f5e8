"""The steps of a run that are lifted, and the results that are kept of all others."""

import itertools
import math

import pytest
import torch
from torch import Tensor

from compare.cases.cases import CASES
from compare.proof.bits import WorstElement, compare_bits
from compare.proof.verdict import ROUNDING, WRONG, Proof
from compare.report.quantity import Quantity
from compare.report.report import Report
from compare.training.accumulate import Tally
from compare.training.adapters import Named, Step, manual_step_of
from compare.training.harness import Run
from compare.training.merge import _merged_row
from tests.conftest import planted

THREE_LAYER = CASES["three_layer"]
BLOG = CASES["three_layer_blog_grouping"]  # l2_delta and l1_delta have other bits in every chunk


@pytest.fixture(autouse=True)
def _ten_steps_a_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("compare.training.chunking.STEPS", 10)


def _lifted(run: Run) -> list[int]:
    return [step for step, _ in run.tally.proofs["l1_delta"]]


def test_first_and_last_step_are_lifted() -> None:
    """Where all bits are equal, no other step is."""
    run = Run(THREE_LAYER, steps=45)
    assert run.train().verdict == "EXACT"
    assert _lifted(run) == [0, 44]


def test_a_step_of_the_1st_2nd_4th_8th_unequal_chunk_is_lifted() -> None:
    run = Run(BLOG, steps=95)
    assert run.train().verdict == "ROUNDING"
    assert run.report.quantities["l2_delta"].max_ulp > 0  # or nothing would be unequal
    assert sorted({step // 10 for step in _lifted(run)}) == [0, 1, 3, 7, 9]
    assert _lifted(run)[-1] == 94


def test_a_different_formula_within_rounding_is_seen_at_its_first_unequal_step() -> None:
    """A few ulps are planted in the middle of a run, within the rounding bound."""
    step = manual_step_of(THREE_LAYER)
    run = Run(THREE_LAYER, steps=45, step=_branching_at(step, _first_weight(step, at=25)))
    report = run.train()
    row = report.quantities["l1_delta"]
    assert (row.verdict, row.first_unequal) == ("WRONG", 25), str(report)
    assert row.max_ulp <= 6
    assert row.worst is not None
    assert row.worst.step == 25
    assert 25 in _lifted(run)


def _first_weight(step: Step, at: int) -> Tensor:
    """Return a weight of syn0 after one step of the run."""
    weights: list[Tensor] = []

    def recorded(**inputs: Tensor) -> Named:
        values = step(**inputs)
        if torch.is_inference_mode_enabled():
            weights.append(values["syn0"][0, 2, 1])
        return values

    Run(THREE_LAYER, steps=at + 1, step=recorded, lift="none").train()
    return weights[at]


def _branching_at(step: Step, weight: Tensor) -> Step:
    def branching(**inputs: Tensor) -> Named:
        values = dict(step(**inputs))
        if (values["syn0"][0, 2, 1] - weight).abs() < 1e-4:
            values["l1_delta"] = values["l1_delta"] * (1 + 3 * 2.0**-52)
        return values

    return branching


def test_a_step_outside_its_bound_is_lifted() -> None:
    """Its formula is the same, and its chunk the third unequal one: it has no other reason."""

    def off(values: Named) -> None:
        values["l1_delta"] = values["l1_delta"] * (1 + 1e-13)

    run = Run(BLOG, steps=45, step=planted(BLOG, off, at=26))
    report = run.train()
    row = report.quantities["l1_delta"]
    assert 26 in _lifted(run)
    assert row.verdict == "WRONG", str(report)
    assert row.proof is not None
    assert row.proof.text.startswith("at step 26: same formula: both sides")
    assert "times the rounding bound of its own operations" in row.proof.text


@pytest.mark.parametrize(("late", "first"), [(26, "l1_delta"), (1, "l2_delta")])
def test_the_first_wrong_quantity_is_the_one_that_is_wrong_first(late: int, first: str) -> None:
    """It is not the one whose bits differ first: l2_delta rounds from step 2 on."""
    calls = itertools.count()
    step = manual_step_of(BLOG)

    def off(**inputs: Tensor) -> Named:
        values = dict(step(**inputs))
        if torch.is_inference_mode_enabled():  # the run itself, not a trace of the step
            k = next(calls)
            values["l2_delta"] = values["l2_delta"] * (1.5 if k >= late else 1)
            values["l1_delta"] = values["l1_delta"] * (1.5 if k >= 3 else 1)
        return values

    report = Run(BLOG, steps=45, step=off).train()
    rows = report.quantities
    assert (rows["l2_delta"].first_unequal, rows["l2_delta"].since) == (min(late, 2), late), str(
        report
    )
    assert report.first_wrong == first
    assert f"{first} is the first wrong quantity, at step {min(late, 3)}" in str(report)


def test_of_several_ranks_the_earliest_step_counts() -> None:
    """A WRONG quantity counts from its earliest step, though another rank differs more later."""
    proofs = {0: Proof(WRONG, "", share=9.0, step=5), 1: Proof(WRONG, "", share=2.0, step=2)}
    rows = {rank: Quantity("l1", (2,), "float64", proof=proof) for rank, proof in proofs.items()}
    assert _merged_row(rows, shared=False).since == 2


def test_a_nan_counts_from_its_own_step() -> None:
    """The row does not count from its first differing bit."""
    row = Quantity("l1", (2,), "float64", first_unequal=0, nans=1)
    row.worst = WorstElement((0,), math.nan, 1.0, 0, step=7)
    other = Quantity("l2", (2,), "float64", first_unequal=3, problem="missing by hand")
    assert row.since == 7
    assert Report("", {}, quantities={"l1": row, "l2": other}).first_wrong == "l2"


def _tally(total: int = 4) -> Tally:
    """Return a tally of one quantity that differs by an ulp, proven to be the same formula."""
    tally = Tally(Report("", {}), seed=1)
    manual = torch.ones(1, 1, total)
    tally.open({"l1": manual[0]}, {"l1": manual[0]})
    tally.add("l1", 0, compare_bits(manual, manual.nextafter(manual * 2)))
    tally.prove(0, {"l1": Proof(ROUNDING, "the same", lifted=True)})
    return tally


@pytest.mark.parametrize("shares", [(0.5, 0.25), (0.25, 0.5), (0.1, 0.5, 0.2)])
def test_the_largest_share_of_the_bound_is_kept(shares: tuple[float, ...]) -> None:
    tally = _tally()
    for step, share in enumerate(shares):
        tally.bound("l1", share, step)
    tally.conclude()
    assert tally.bounds["l1"] == (0.5, shares.index(0.5))
    row = tally.report.quantities["l1"]
    assert (row.verdict, row.proof and row.proof.share) == ("ROUNDING", 0.5)


@pytest.mark.parametrize("worst", [None, math.nan, math.inf, 1.5])
def test_one_step_without_a_bound_or_outside_it_is_no_pass(worst: float | None) -> None:
    """The bounds before and after it do not change that."""
    tally = _tally()
    for step, share in enumerate((0.5, worst, 0.25)):
        tally.bound("l1", share, step)
    tally.conclude()
    row = tally.report.quantities["l1"]
    assert row.verdict == "UNDECIDED"
    assert row.proof is not None
    assert "at step 1" in row.proof.text
