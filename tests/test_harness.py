"""The training harness compares every bit of every step, and can fail."""

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from compare.cases.cases import CASES, Case, Network
from compare.environment import DTYPES
from compare.errors import BadInput
from compare.proof.rounding import share_of_rounding
from compare.report.chunk import Chunk
from compare.report.report import Report
from compare.training.accumulate import Tally
from compare.training.adapters import manual_step_of
from compare.training.chunking import VECTOR_BYTES, plan
from compare.training.harness import Run, run
from compare.training.prover import Prover
from compare.training.sides import Reference
from tests.conftest import Plant, one_ulp, planted
from tests.tenth import unless_chosen

pytestmark = pytest.mark.bits

THREE_LAYER = CASES["three_layer"]
LISTINGS = [name for name, case in CASES.items() if case.by_hand != "network"]
PIECES = [name for name in CASES if name not in (*LISTINGS, "deep", "alpha", "network")]


def _some(names: Iterable[str], later: tuple[str, ...]) -> list[Any]:
    return [pytest.param(n, marks=pytest.mark.long if n in later else ()) for n in names]


@pytest.mark.slow
@pytest.mark.parametrize("dtype", _some(DTYPES, ("float32", "float16")))
@pytest.mark.parametrize("name", ["two_layer", "three_layer", "deep"])
def test_every_step_is_autograds_bits(name: str, dtype: str) -> None:
    """Every step of the whole run of each case is EXACT, in each dtype."""
    report = run(CASES[name], dtype=dtype)
    assert report.verdict == "EXACT", str(report)
    assert report.steps == CASES[name].steps
    assert report.free_gap == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", _some(PIECES, ("bias", "layer_sizes", "regularization", "adam")))
def test_every_step_is_as_promised(name: str) -> None:
    """The whole run of each item of the blog's list has its verdict; the digits are learned."""
    report = run(CASES[name])
    assert report.verdict == CASES[name].promises, str(report)
    assert report.steps == CASES[name].steps
    assert report.accuracy is None or report.accuracy >= 0.96
    assert (report.accuracy is not None) == (name == "digits")


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("name", [name for name in PIECES if CASES[name].promises == "EXACT"])
def test_first_steps_in_each_dtype(name: str, dtype: str) -> None:
    if name.startswith("adam") and dtype == "float16":
        with pytest.raises(BadInput, match="adam_eps 1e-08 is 0 in float16"):
            run(CASES[name], steps=1, dtype=dtype)
        return
    report = run(CASES[name], steps=200, dtype=dtype)
    assert report.verdict == "EXACT", str(report)


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("dtype", DTYPES)
@settings(
    deadline=None, max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_any_sizes(
    dtype: str, count: int, threads: Callable[[int], None], data: st.DataObject
) -> None:
    """Networks of random sizes are EXACT, with one thread and with two."""
    numbers = st.lists(st.integers(1, 14), min_size=3, max_size=6, unique=True)
    rows, *sizes = data.draw(numbers)
    threads(count)
    report = run(_case(rows, tuple(sizes), alpha=0.3), steps=20, dtype=dtype, lift="none")
    assert report.verdict == "EXACT", str(report)


# the cases that autograd judges in batches
BATCHED = ["bias", "mini_batches", "delta_trimming", "regularization", "dropout", "momentum",
           "batch_norm", "everything"]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "dtype", "population", "steps"),
    [
        pytest.param(*run, marks=unless_chosen(f"the batch of {run}"))
        for run in [
            *((n, d, p, 150) for n in [*LISTINGS, "deep"] for d in DTYPES for p in (1, 16)),
            *((n, d, 3, 60) for n in BATCHED for d in ("float64", "float32")),
        ]
    ],
)
def test_the_batch_has_the_report_of_the_plain_path(
    name: str, dtype: str, population: int, steps: int
) -> None:
    """Verdicts, counts, worst elements and outputs are the same."""
    settings = {"steps": steps, "dtype": dtype, "population": population}
    assert Run(CASES[name], **settings).comparison.reference.one_batch
    fast, plain = run(CASES[name], **settings), run(CASES[name], **settings, plain=True)
    for row, other in zip(fast.quantities.values(), plain.quantities.values(), strict=True):
        assert row.verdict == other.verdict, f"{row}\n{other}"
        assert dataclasses.replace(row, proof=None) == dataclasses.replace(other, proof=None)
    assert (fast.verdict, fast.output, fast.free_gap) == (
        plain.verdict,
        plain.output,
        plain.free_gap,
    )


def test_a_batch_whose_kernels_round_differently_is_not_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """MKL may multiply 9x13 by 13x11 with bits that depend on the batch: the plain path decides."""
    case = _case(9, (13, 11, 3), alpha=1.0)
    cpu = torch.device("cpu")
    chunks = plan(case.network, rows=9, population=1, dtype=torch.float64, device=cpu)
    assert not chunks.one_batch
    monkeypatch.setattr("compare.training.chunking.OWN_LOOP", 10_000)
    batch = Run(case, steps=40)
    assert batch.comparison.reference.one_batch
    report = batch.train()
    assert report.verdict == "EXACT", str(report)
    monkeypatch.setattr(Reference, "_same_alone", lambda *_: True)
    if run(case, steps=40).verdict == "EXACT":  # else the batch alone raises a false alarm
        pytest.skip("the bits of this processor's products do not depend on the batch")


def test_the_blogs_grouping_is_rounding_with_its_proof() -> None:
    """Only the two deltas differ: everything else is judged on the by-hand values above it."""
    report = run(CASES["three_layer_blog_grouping"], steps=3000)
    assert report.verdict == "ROUNDING", str(report)
    odd = {q.name: q.proof for q in report.quantities.values() if q.verdict != "EXACT"}
    assert list(odd) == ["l2_delta", "l1_delta"]
    for proof in odd.values():
        assert proof is not None
        assert proof.lifted
        assert proof.share is not None
        assert 0 < proof.share <= 1
        assert "same formula: both sides agree to 5" in proof.text


def test_dropout_as_published_is_wrong_in_one_line() -> None:
    report = run(CASES["dropout_as_published"], steps=300)
    assert (report.verdict, report.first_wrong) == ("WRONG", "l1_delta")
    assert [q.name for q in report.quantities.values() if q.verdict != "EXACT"] == ["l1_delta"]
    row = report.quantities["l1_delta"]
    assert row.first_unequal == 0
    assert "different formula" in str(report)
    assert "affected       syn0_update, syn0 (computed from l1_delta)" in str(report)
    assert "run again      python -m compare run dropout_as_published --steps 300" in str(report)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_different_formula_with_the_same_bits_is_wrong(dtype: str) -> None:
    """A derivative off by a factor 1 + 1e-7 has the same bits in half precision."""

    def step(**inputs: Tensor) -> dict[str, Tensor]:
        values = unchanged(**inputs)
        factor = 1 + 1e-7
        wide = values["l1_error"].double() * factor * (1 - values["l1"].double())
        wide = wide * values["l1"].double()
        values["l1_delta"] = wide.to(values["l1"].dtype)
        return values

    unchanged = planted(THREE_LAYER, lambda _values: None, at=-1)
    report = run(THREE_LAYER, steps=3, dtype=dtype, step=step)
    assert (report.verdict, report.first_wrong) == ("WRONG", "l1_delta"), str(report)


@pytest.mark.slow
def test_one_ulp_at_one_step_of_60000_is_found() -> None:
    """The report has its name, step, index and both values, and no other difference."""
    at = 41_237
    step = planted(THREE_LAYER, one_ulp("l1_delta", 0, 2, 3), at=at)
    report = run(THREE_LAYER, step=step)
    assert report.steps == 60_000
    odd = {q.name: q for q in report.quantities.values() if q.verdict != "EXACT"}
    assert set(odd) <= {"l1_delta", "syn0_update"}  # the latter judged on the planted l1_delta
    row = odd["l1_delta"]
    # one ulp is within the rounding bound of l1_delta, and its formula was proven
    assert (row.verdict, row.compared - row.equal, row.max_ulp) == ("ROUNDING", 1, 1)
    assert row.first_unequal == at
    assert row.worst is not None
    assert (row.worst.step, row.worst.seed, row.worst.index) == (at, 1, (2, 3))
    assert row.worst.manual == math.nextafter(row.worst.autograd, math.inf)
    assert f"step {at}, seed 1, [2, 3]" in str(report)
    assert not report.meets("exact")
    assert repr(row.worst.manual) in str(report)
    assert repr(row.worst.autograd) in str(report)


@pytest.mark.parametrize("population", [1, 5])
@pytest.mark.parametrize(
    "name", ["l0", "l1", "l2", "l2_error", "l2_delta", "l1_error", "l1_delta",
             "syn1_update", "syn0_update", "syn0", "syn1"],
)  # fmt: skip
def test_one_ulp_in_any_quantity_is_found(name: str, population: int) -> None:
    """Also in the weights: the next steps then start from the by-hand weights."""
    network = population - 1
    step = planted(THREE_LAYER, one_ulp(name, network, 1, 0), at=70)
    report = run(THREE_LAYER, steps=100, population=population, step=step)
    row = report.quantities[name]
    assert row.verdict in ("ROUNDING", "WRONG")  # WRONG where not even one ulp can be rounding
    assert (row.first_unequal, row.compared - row.equal) == (70, 1)
    assert row.worst is not None
    assert (row.worst.step, row.worst.seed, row.worst.index) == (70, 1 + network, (1, 0))
    # those computed from it are judged on the planted value, which the by-hand side did not use
    odd = [q.name for q in report.quantities.values() if q.verdict != "EXACT"]
    assert odd[0] == name
    assert set(odd) <= {name, *report.follows[name]}


def test_minus_zero_for_zero_is_found() -> None:
    """Every weight's update is exactly zero, so only the sign of a zero differs."""
    case = dataclasses.replace(THREE_LAYER, X=((0.0,) * 3,) * 4)

    def plant(values: dict[str, Tensor]) -> None:
        values["syn0_update"] = -values["syn0_update"]

    report = run(case, steps=3, step=planted(case, plant, at=1))
    assert run(case, steps=3).verdict == "EXACT"
    row = report.quantities["syn0_update"]
    assert (row.compared - row.equal, row.max_ulp, row.first_unequal) == (12, 1, 1)
    assert row.worst is not None
    assert {str(row.worst.manual), str(row.worst.autograd)} == {"0.0", "-0.0"}


def test_nan_on_both_sides_is_wrong() -> None:
    """The by-hand weights become NaN, so autograd's next step is NaN too."""

    def plant(values: dict[str, Tensor]) -> None:
        values["syn1"] = torch.full_like(values["syn1"], math.nan)

    report = run(THREE_LAYER, steps=3, step=planted(THREE_LAYER, plant, at=1))
    assert report.verdict == "WRONG"
    assert report.first_wrong == "syn1"  # at step 1, and l2 at the next
    row = report.quantities["l2"]
    assert (row.first_unequal, row.nans) == (2, 4)
    assert row.worst is not None
    assert math.isnan(row.worst.manual)
    assert math.isnan(row.worst.autograd)
    assert "of them NaN" in str(report)


def _drop(values: dict[str, Tensor]) -> None:
    del values["l1_delta"]


def _flatten(values: dict[str, Tensor]) -> None:
    values["l1_delta"] = values["l1_delta"].flatten(-2)


def _broadcastable(values: dict[str, Tensor]) -> None:
    values["l1_delta"] = values["l1_delta"][:, :1]


def _narrow(values: dict[str, Tensor]) -> None:
    values["l1_delta"] = values["l1_delta"].float()


def _extra(values: dict[str, Tensor]) -> None:
    values["l7"] = values["l1"]


@pytest.mark.parametrize(
    ("plant", "name", "problem"),
    [
        (_drop, "l1_delta", "missing by hand"),
        (_extra, "l7", "missing on the autograd side"),
        (_flatten, "l1_delta", "shape (4, 16) by hand, (4, 4, 4) on the autograd side"),
        (_broadcastable, "l1_delta", "shape (4, 1, 4) by hand, (4, 4, 4) on the autograd side"),
        (_narrow, "l1_delta", "dtype torch.float32 by hand, torch.float64 on the autograd side"),
    ],
)
def test_a_missing_or_misshapen_quantity_is_wrong(plant: Plant, name: str, problem: str) -> None:
    report = run(THREE_LAYER, steps=5, step=planted(THREE_LAYER, plant, at=0))
    assert (report.verdict, report.first_wrong) == ("WRONG", name)
    assert report.quantities[name].problem == problem
    assert problem in str(report)


@pytest.mark.parametrize(
    ("plant", "name", "problem"),
    [
        (_drop, "l1_delta", "missing by hand"),
        (_extra, "l7", "a new name by hand that autograd does not have"),
        (_flatten, "l1_delta", "shape (4, 16) by hand, (4, 4, 4) at first"),
        (_broadcastable, "l1_delta", "shape (4, 1, 4) by hand, (4, 4, 4) at first"),
        (_narrow, "l1_delta", "dtype torch.float32 by hand, torch.float64 at first"),
    ],
)
@pytest.mark.parametrize("at", [70, 2048, 2100])
def test_a_quantity_that_goes_missing_later_is_wrong(
    plant: Plant, name: str, problem: str, at: int
) -> None:
    """It is noticed in the middle of a chunk, at its first step, and in a later chunk."""
    report = run(THREE_LAYER, steps=2200, step=planted(THREE_LAYER, plant, at=at))
    assert (report.verdict, report.first_wrong, report.steps) == ("WRONG", name, at)
    row = report.quantities[name]
    assert (row.problem, row.first_unequal) == (f"from step {at} on: {problem}", at)
    assert report.quantities["l1"].compared == 16 * at


@pytest.mark.parametrize("at", [1, 2])
def test_a_quantity_that_moves_to_another_device_later_is_noticed(at: int) -> None:
    """The values of such a step are not stacked with the others."""
    tally = Tally(Report("", {}), seed=1)
    steps = [{"l1": torch.ones(1, 2)} for _ in range(4)]
    assert tally.open(steps[0], steps[0])
    steps[at] = {"l1": steps[at]["l1"].to("meta")}
    assert tally.comparable(steps, networks=1) == at
    problem = f"from step {at} on: device meta by hand, cpu at first"
    assert tally.report.quantities["l1"].problem == problem


def test_another_order_of_names_hides_nothing() -> None:
    """With the quantities in another order, one that is missing later is still noticed."""

    def reordered(**inputs: Tensor) -> dict[str, Tensor]:
        return dict(reversed(step(**inputs).items()))

    step = planted(THREE_LAYER, _drop, at=2100)
    report = run(THREE_LAYER, steps=2200, step=reordered, lift="none")
    assert (report.verdict, report.first_wrong, report.steps) == ("WRONG", "l1_delta", 2100)


def test_an_infinite_bound_is_no_pass() -> None:
    inf = math.inf
    manual = torch.tensor([1.0, 1.0, inf, inf, 2.0])
    autograd = torch.tensor([1.0, 1.5, inf, 3.0, 2.5])
    allowed = torch.tensor([inf, inf, inf, 1.0, 0.25], dtype=torch.float64)
    assert share_of_rounding(manual, autograd, allowed).tolist() == [0, inf, 0, inf, 2]


@pytest.mark.parametrize("plain", [False, True])
def test_a_by_hand_step_that_writes_into_its_inputs_changes_no_other_side(plain: bool) -> None:
    """The blog's `syn1 += update` in place is right; overwriting y in place is noticed."""
    usual = run(THREE_LAYER, steps=50)

    def in_place(**inputs: Tensor) -> dict[str, Tensor]:
        values = dict(step(**{name: value.clone() for name, value in inputs.items()}))
        for name in ("syn0", "syn1"):
            inputs[name] += values[f"{name}_update"]
            values[name] = inputs[name]
        return values

    def overwriting(**inputs: Tensor) -> dict[str, Tensor]:
        inputs["y"].fill_(0.5)
        return step(**inputs)

    step = planted(THREE_LAYER, lambda _values: None, at=-1)
    report = run(THREE_LAYER, steps=50, step=in_place, plain=plain)
    assert report.verdict == "EXACT", str(report)
    assert report.output == usual.output
    overwritten = run(THREE_LAYER, steps=50, step=overwriting, plain=plain)
    assert overwritten.first_wrong == "l2_error"


def test_constants_that_depend_on_the_step_number_need_a_program_for_each_step() -> None:
    """The constants are in tensors that the code makes, not in the text of the operations."""

    def changing(X: Tensor, t: Tensor) -> dict[str, Tensor]:
        return {"out": X * torch.tensor(0.9 ** int(t.flatten()[0]), dtype=X.dtype)}

    def constant(X: Tensor, t: Tensor) -> dict[str, Tensor]:
        return {"out": X * torch.tensor(0.9, dtype=X.dtype)}

    inputs = {"X": torch.ones(1, 2, 3), "t": torch.full((1, 1, 1), 3)}
    prover = Prover(changing, changing, None, None)
    assert prover.without_step_count(inputs, ["out"], {}) is None
    prover = Prover(constant, constant, None, None)
    assert prover.without_step_count(inputs, ["out"], {}) is not None


@pytest.mark.parametrize(("name", "at"), [("syn1", 40), ("syn0", 59)])
def test_a_nan_in_the_weights_is_a_nan_gap(name: str, at: int) -> None:
    """The distance from autograd training alone stays NaN afterwards."""

    def plant(values: dict[str, Tensor]) -> None:
        values[name] = torch.full_like(values[name], math.nan)

    report = run(THREE_LAYER, steps=60, step=planted(THREE_LAYER, plant, at=at))
    assert math.isnan(report.free_gap)


def test_autograd_trains_alone_from_the_first_difference_on() -> None:
    """It never receives the by-hand weights again."""

    def plant(values: dict[str, Tensor]) -> None:
        values["syn0"] = values["syn0"] + 1.0

    report = run(THREE_LAYER, steps=50, step=planted(THREE_LAYER, plant, at=49))
    assert report.free_gap == pytest.approx(1.0, abs=1e-9)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sizes": (3, 5, 2)}, "y has 1 columns and its layer has 2"),
        ({"sizes": (4, 5, 1)}, "X has 3 columns and its layer has 4"),
        ({"sizes": (3,)}, "at least two layers"),
        ({"sizes": (3, 0, 1)}, "each of at least 1"),
    ],
)
def test_sizes_that_do_not_fit(change: dict[str, tuple[int, ...]], message: str) -> None:
    case = dataclasses.replace(CASES["deep"], network=Network(**change))
    with pytest.raises(BadInput, match=message):
        Run(case)


@pytest.mark.parametrize(
    ("change", "dtype", "message"),
    [
        ({"X": ((0.0, math.nan, 1.0),) * 4}, "float64", r"X\[0, 1\] is nan in float64"),
        ({"y": ((0.0,), (1.0,), (math.inf,), (0.0,))}, "float64", r"y\[2, 0\] is inf in float64"),
        ({"X": ((0.0, 1.0, 7e4),) * 4}, "float16", r"X\[0, 2\] is inf in float16"),
        ({"X": ((0.0, 1.0, 1.0),) * 3}, "float64", "X has 3 rows and y has 4"),
        ({"X": ((0.0, 1.0, 1.0), (1.0,))}, "float64", "rows of one length"),
    ],
)
def test_data_that_cannot_be_used(change: dict[str, object], dtype: str, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        Run(dataclasses.replace(THREE_LAYER, **change), dtype=dtype)


def _case(rows: int, sizes: tuple[int, ...], alpha: float) -> Case:
    """Return a case with signed data, zeros among them."""
    chance = torch.Generator().manual_seed(rows)
    X = torch.randn(rows, sizes[0], generator=chance, dtype=torch.float64)
    X[0, 0] = 0
    y = torch.rand(rows, sizes[-1], generator=chance, dtype=torch.float64)
    return Case("any", "", Network(sizes, alpha), _rows(X), _rows(y), steps=20, by_hand="network")


def _rows(table: Tensor) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(row) for row in table.tolist())


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        *((n, "float64") for n in ("three_layer", "dropout", "momentum", "adam", "batch_norm")),
        *((n, "float32") for n in ("two_layer", "bias", "mini_batches", "dropout_as_published")),
        ("everything", "bfloat16"),
    ],
)
def test_a_population_in_shards_has_the_same_report(
    monkeypatch: pytest.MonkeyPatch, name: str, dtype: str
) -> None:
    """With fewer networks at a time, as the memory for a chunk allows, no bit changes.

    A shard's tensors fill whole vectors: elements in an incomplete one have other last bits.
    """
    whole = Run(CASES[name], steps=40, population=7, dtype=dtype, lift="none")
    assert len(whole.shards) == 1
    monkeypatch.setattr("compare.training.chunking.GRAIN", 64)  # values of one quantity
    sharded = Run(CASES[name], steps=40, population=7, dtype=dtype, lift="none")
    assert len(sharded.shards) > 1
    for value in (value for shard in sharded.shards for value in shard.state.values()):
        assert value.nbytes % VECTOR_BYTES == 0
    chunks: list[Chunk] = []
    one, other = whole.train(), sharded.train([chunks.append])
    assert [(c.start, c.networks) for c in chunks] == [(k, 7) for k in range(len(chunks))]
    for row, again in zip(one.quantities.values(), other.quantities.values(), strict=True):
        assert row.verdict == again.verdict
        assert dataclasses.replace(row, proof=None) == dataclasses.replace(again, proof=None)
    assert one.output == other.output


def test_one_ulp_in_the_last_shard_names_its_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("compare.training.chunking.GRAIN", 64)
    # shards of 4 and 3 networks take steps in turn: call 13 is step 6 of the second one
    step = planted(THREE_LAYER, one_ulp("l1_delta", 2, 1, 1), at=13)
    training = Run(THREE_LAYER, steps=20, population=7, seed=5, step=step)
    assert [shard.networks for shard in training.shards] == [4, 3]
    row = training.train().quantities["l1_delta"]
    assert (row.equal, row.compared) == (row.compared - 1, 20 * 7 * 16)
    assert row.worst is not None
    assert (row.worst.step, row.worst.seed, row.worst.index) == (6, 11, (1, 1))


@pytest.mark.parametrize("name", ["three_layer", "three_layer_blog_grouping", "momentum", "adam"])
def test_large_networks_have_the_same_report(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Autograd updates the weights in place and nothing is lifted: no bit or count changes."""
    plain = run(CASES[name], steps=12, lift="none", plain=True)
    monkeypatch.setattr("compare.training.chunking.GRAIN", 1)
    monkeypatch.setattr("compare.passes.inputs.TOO_MANY", 1)
    large = Run(CASES[name], steps=12)
    assert large.manual_side.avoid_copies
    report = large.train()
    for row, other in zip(report.quantities.values(), plain.quantities.values(), strict=True):
        assert dataclasses.replace(row, proof=None) == dataclasses.replace(other, proof=None)


@pytest.mark.parametrize("name", ["bias", "momentum", "adam"])
def test_a_large_network_has_its_weights_in_two_places(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """New weights are written over those that autograd has finished with, in turn."""
    monkeypatch.setattr("compare.training.chunking.GRAIN", 1)
    monkeypatch.setattr("compare.passes.inputs.TOO_MANY", 1)
    places: list[int] = []
    plain = run(CASES[name], steps=12, lift="none", plain=True)
    report = run(
        CASES[name], [lambda c: places.append(c.values["manual"]["syn0"].data_ptr())], steps=12
    )
    assert report.output == plain.output
    assert len(set(places[-6:])) == 2
    assert places[-6:-1:2] == [places[-2]] * 3


def _updated_in_place(values: dict[str, Tensor], inputs: dict[str, Tensor]) -> None:
    for name in ("syn0", "syn1"):
        values[name] = inputs[name].add_(values[f"{name}_update"])


def _unchanged_weights(values: dict[str, Tensor], inputs: dict[str, Tensor]) -> None:
    values |= {name: inputs[name] for name in ("syn0", "syn1")}


def _overwritten_y(_values: dict[str, Tensor], inputs: dict[str, Tensor]) -> None:
    inputs["y"].fill_(0.5)


@pytest.mark.parametrize(
    ("impure", "since", "verdict"),
    [(_updated_in_place, 0, "EXACT"), (_unchanged_weights, 0, "UNDECIDED"),
     (_overwritten_y, 0, "EXACT"), (_updated_in_place, 3, None), (_unchanged_weights, 3, None),
     (_overwritten_y, 3, None)],
)  # fmt: skip
def test_an_impure_step_of_a_large_network_hides_nothing(
    monkeypatch: pytest.MonkeyPatch, impure: Callable[..., None], since: int, verdict: str | None
) -> None:
    """A step that is impure from the start gets copies; one that becomes impure is refused.

    Weights that never change are UNDECIDED, since nothing is lifted here, and so no pass.
    """
    monkeypatch.setattr("compare.training.chunking.GRAIN", 1)
    monkeypatch.setattr("compare.passes.inputs.TOO_MANY", 1)
    manual_step, calls = manual_step_of(THREE_LAYER), itertools.count()

    def step(**inputs: Tensor) -> dict[str, Tensor]:
        values = dict(manual_step(**inputs))
        if next(calls) >= since:
            impure(values, inputs)
        return values

    training = Run(THREE_LAYER, steps=6, step=step)
    if verdict is None:
        with pytest.raises(BadInput, match="and at first it did not"):
            training.train()
        assert training.manual_side.pure
    else:
        report = training.train()
        assert report.verdict == verdict, str(report)
        assert not training.manual_side.pure


@pytest.mark.parametrize("name", ["l1", "l2_delta", "syn0_update", "syn1"])
def test_one_ulp_in_a_large_network_is_found(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr("compare.training.chunking.GRAIN", 1)
    monkeypatch.setattr("compare.passes.inputs.TOO_MANY", 1)
    manual_step, calls = manual_step_of(THREE_LAYER), itertools.count()

    def step(**inputs: Tensor) -> dict[str, Tensor]:
        values = manual_step(**inputs)
        if next(calls) == 3:
            one_ulp(name, 0, 1, 0)(values)
        return values

    report = run(THREE_LAYER, steps=8, step=step)
    unequal = {q.name: q.compared - q.equal for q in report.quantities.values()}
    assert unequal[name] == 1
    odd = [n for n, count in unequal.items() if count]
    assert odd[0] == name
    assert report.quantities[name].first_unequal == 3
