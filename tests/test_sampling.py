"""The inputs of both sides: rows, masks and weights, sampled once."""

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from compare.cases.cases import CASES, Case, Network
from compare.cases.data import Table
from compare.training.harness import run
from compare.training.sampling import Sampler, draw, first_weights
from manual.batch_norm import normalise


def _sampler(case: Case, population: int = 1) -> Sampler:
    cpu = torch.device("cpu")
    return draw(case, seed=1, population=population, dtype=torch.float64, device=cpu)


def test_every_epoch_has_each_row_once_in_a_new_order() -> None:
    sampler = _sampler(CASES["mini_batches"], population=3)
    epochs = [torch.cat([step["X"] for step in sampler.steps(2)], -2) for _ in range(20)]
    for epoch in epochs:
        assert epoch.shape == sampler.X.shape
        for taken, rows in zip(epoch, sampler.X, strict=True):
            assert sorted(taken.tolist()) == sorted(rows.tolist())
    assert len({str(epoch) for epoch in epochs}) > 5
    assert any(
        not torch.equal(epoch[0], epoch[1]) for epoch in epochs
    )  # a different one for each network


def test_rows_and_targets_stay_together() -> None:
    sampler = _sampler(CASES["mini_batches"])
    pairs = {
        tuple(x): tuple(t)
        for x, t in zip(sampler.X[0].tolist(), sampler.y[0].tolist(), strict=True)
    }
    for step in sampler.steps(50):
        for x, t in zip(step["X"][0].tolist(), step["y"][0].tolist(), strict=True):
            assert pairs[tuple(x)] == tuple(t)


def test_an_incomplete_batch_is_dropped() -> None:
    case = dataclasses.replace(CASES["mini_batches"], batch_size=3)
    steps = _sampler(case).steps(30)
    assert {step["X"].shape for step in steps} == {(1, 3, 3)}
    assert len({row for step in steps for row in map(tuple, step["X"][0].tolist())}) == 4


@pytest.mark.parametrize("cuts", [(40,), (1, 7, 32), (20, 20)])
def test_the_samples_do_not_depend_on_the_chunks(cuts: tuple[int, ...]) -> None:
    case = CASES["everything"]
    sampler, whole = _sampler(case), _sampler(case).steps(40)
    pieces = [step for cut in cuts for step in sampler.steps(cut)]
    for one, other in zip(pieces, whole, strict=True):
        assert one.keys() == other.keys() == {"X", "y", "mask1", "mask2"}
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_mask_keeps_its_share() -> None:
    masks = torch.cat([step["mask1"].flatten() for step in _sampler(CASES["dropout"]).steps(2000)])
    assert set(masks.tolist()) == {0.0, 1.0}
    assert float(masks.mean()) == pytest.approx(0.8, abs=0.01)


@pytest.mark.parametrize(
    ("init", "deviation"),
    [("blog", 1 / math.sqrt(3)), ("glorot", math.sqrt(2 / 700)), ("he", math.sqrt(2 / 300))],
)
def test_first_weights_have_their_standard_deviation(init: str, deviation: float) -> None:
    syn0 = first_weights((300, 400), init, np.random.RandomState(2))["syn0"]
    assert syn0.shape == (300, 400)
    assert syn0.mean() == pytest.approx(0, abs=4 * deviation / math.sqrt(syn0.size))
    assert syn0.std() == pytest.approx(deviation, rel=0.01)


def test_an_unknown_init() -> None:
    with pytest.raises(ValueError, match="unknown init 'glorit': did you mean glorot"):
        _sampler(dataclasses.replace(CASES["bias"], init="glorit"))


def _blobs(_seed: int) -> Table:
    """Return a table of two classes that are easy to separate."""
    chance = np.random.RandomState(5)
    kinds = np.arange(60) % 2
    X = chance.standard_normal((60, 3)) * 0.4 + np.outer(2 * kinds - 1, [1.0, -1.0, 0.5])
    y = np.eye(2)[kinds]
    return Table(X[:40], y[:40], X[40:], y[40:], ("a", "b"))


def test_evaluation_uses_running_statistics_and_no_dropout() -> None:
    """Both sides evaluate the test rows, and every layer's value gets a verdict."""
    network = Network(
        (3, 6, 4, 2), alpha=0.05, activation="tanh", output="identity", loss="cross_entropy",
        bias=True, batch_norm=True, dropout=0.2, momentum=0.9,
    )  # fmt: skip
    case = Case("blobs", "", network, steps=60, batch_size=8, data=_blobs, init="glorot")
    report = run(case)
    assert report.verdict == "ROUNDING", str(report)
    tested = [q for name, q in report.quantities.items() if name.startswith("test_")]
    assert [q.name for q in tested] == [
        "test_l0", "test_z1", "test_norm1", "test_l1", "test_z2", "test_norm2", "test_l2", "test_l3"
    ]  # fmt: skip
    assert all(q.verdict in ("EXACT", "ROUNDING") and q.proof and q.proof.lifted for q in tested)
    assert report.accuracy == 1.0


def test_a_wrong_evaluation_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the statistics of the batch in place of the running ones, the first norm is WRONG."""

    def batch_statistics(z: Tensor, gamma: Tensor, beta: Tensor, *args: Any) -> Tensor:
        return normalise(z, gamma, beta, 1e-5)[0]

    monkeypatch.setattr("manual.network.normalise_as_learned", batch_statistics)
    network = Network((3, 6, 2), alpha=0.05, batch_norm=True)
    report = run(Case("blobs", "", network, steps=20, batch_size=8, data=_blobs))
    assert (report.verdict, report.first_wrong) == ("WRONG", "test_norm1")
    assert report.quantities["test_l1"].verdict == "EXACT"
