"""The fused step uses the formulas of the listing in place and allocates no new memory."""

import pytest
import torch
from torch import Tensor

from compare.cases.cases import CASES, Case, Network
from compare.cases.data import Table
from compare.training.harness import run
from manual.fused import Fused, step
from manual.three_layer import step as listing

pytestmark = pytest.mark.bits

SIZES = (5, 7, 3)


def _drawn(*leading: int, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    rng = torch.Generator().manual_seed(3)
    shapes = {"X": (6, 5), "y": (6, 3), "syn0": (5, 7), "syn1": (7, 3)}
    return {
        name: torch.randn(*leading, *shape, generator=rng, dtype=torch.float64).to(dtype)
        for name, shape in shapes.items()
    }


@pytest.mark.parametrize("leading", [(), (4,)])
def test_many_fused_steps_train_as_the_listing_does(leading: tuple[int, ...]) -> None:
    tensors = _drawn(*leading)
    fused = Fused(**{n: v.clone() for n, v in tensors.items()}, sizes=SIZES, alpha=0.1)
    memory = fused.l1.data_ptr(), fused.syn0.data_ptr()
    state = {name: tensors[name] for name in ("syn0", "syn1")}
    for _ in range(50):
        fused.step()
        values = listing(
            X=tensors["X"],
            y=tensors["y"],
            **state,
            sizes=SIZES,
            alpha=0.1,
            grouping="left_to_right",
        )
        state = {name: values[name] for name in state}
    assert (fused.l1.data_ptr(), fused.syn0.data_ptr()) == memory
    torch.testing.assert_close(fused.syn0, state["syn0"], rtol=1e-12, atol=0)
    torch.testing.assert_close(fused.syn1, state["syn1"], rtol=1e-12, atol=0)


def test_other_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"have sizes \(5, 7, 3\), but sizes is \(5, 7, 4\)"):
        step(**_drawn(), sizes=(5, 7, 4), alpha=1.0)


@pytest.mark.parametrize(
    ("dtype", "verdicts"),
    [
        ("float64", {"EXACT"}),
        ("float32", {"EXACT"}),
        ("float16", {"ROUNDING"}),
        ("bfloat16", {"ROUNDING"}),
    ],
)
def test_the_blogs_size(dtype: str, verdicts: set[str]) -> None:
    """Only the weights can differ, because their update is not rounded separately."""
    report = run(CASES["fused"], steps=300, dtype=dtype)
    assert {report.verdict} == verdicts, str(report)
    inexact = [q.name for q in report.quantities.values() if q.verdict != "EXACT"]
    assert set(inexact) <= {"syn0", "syn1"}


def test_a_larger_one_is_rounding_with_its_proof() -> None:
    """In a larger network the matrix product adds the update to the weights in another order."""

    def data(seed: int) -> Table:
        rng = torch.Generator().manual_seed(seed)
        X = torch.randn(32, 40, generator=rng).numpy()
        y = torch.rand(32, 10, generator=rng).numpy()
        return Table(X, y, X[:1], y[:1], tuple("0123456789"))

    case = Case(
        "wide", "", Network((40, 30, 10), alpha=0.3), data=data, init="glorot",
        by_hand="fused", unnamed=("syn1_update", "syn0_update"),
    )  # fmt: skip
    report = run(case, steps=5, dtype="float32")
    assert report.verdict in ("EXACT", "ROUNDING"), str(report)
    rows = report.quantities
    assert {
        n: q.verdict for n, q in rows.items() if n[:3] != "syn" and "test" not in n
    } == dict.fromkeys(("l0", "l1", "l2", "l2_error", "l2_delta", "l1_error", "l1_delta"), "EXACT")
    for name in ("syn0", "syn1"):
        proof = rows[name].proof
        assert proof is not None
        assert proof.lifted, str(report)
