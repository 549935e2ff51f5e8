"""The blog's listings: its printed numbers, and one step however it is written."""

import importlib

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from compare.cases.cases import CASES, Network
from compare.proof.bits import compare_bits
from compare.report.report import Report
from compare.training.sampling import draw
from manual import network, three_layer, two_layer
from manual.eleven_lines import eleven_lines
from manual.sigmoid import GROUPINGS
from tests.conftest import Curves, run_with_curves
from torch_ref import Trainer

pytestmark = pytest.mark.bits

# As the blog prints them: str() of a float in Python 2, twelve digits.
BLOG_ERRORS = {
    0: "0.496410031903",
    10_000: "0.00858452565325",
    20_000: "0.00578945986251",
    30_000: "0.00462917677677",
    40_000: "0.00395876528027",
    50_000: "0.00351012256786",
}


@pytest.mark.slow
@pytest.mark.parametrize("side", ["manual", "autograd"])
def test_part_2_prints_the_blogs_errors(three_layer: tuple[Report, Curves], side: str) -> None:
    _, curves = three_layer
    assert {step: f"{curves[side][step]:.12g}" for step in BLOG_ERRORS} == BLOG_ERRORS


@pytest.mark.slow
def test_part_2_output_after_training(three_layer: tuple[Report, Curves]) -> None:
    report, _ = three_layer
    assert report.verdict == "EXACT"  # so these are autograd's numbers too
    assert report.steps == 60_000
    printed = [f"{row[0]:.8f}" for row in report.output]
    assert printed == ["0.00260572", "0.99672209", "0.99701711", "0.00386759"]


def test_part_1_output_after_training() -> None:
    report, _ = run_with_curves(CASES["two_layer"])
    assert (report.verdict, report.steps) == ("EXACT", 10_000)
    printed = [f"{row[0]:.8f}" for row in report.output]
    assert printed == ["0.00966449", "0.00786506", "0.99358898", "0.99211957"]


@pytest.mark.slow
def test_the_eleven_lines_train_to_the_same_output() -> None:
    X, y, weights = _blog(CASES["eleven_lines"].name)
    first = {name: w.clone() for name, w in weights.items()}
    trained = eleven_lines(X, y, **weights)
    printed = [f"{row[0]:.8f}" for row in trained["l2"].tolist()]
    assert printed == ["0.00260572", "0.99672209", "0.99701711", "0.00386759"]
    assert all(torch.equal(first[name], weights[name]) for name in first)  # left as they were


def test_the_eleven_lines_are_the_blogs_grouping_but_for_their_sigmoid() -> None:
    """From the same layers on, deltas and weights have the bits of `three_layer`'s."""
    X, y, weights = _blog("three_layer")
    ours = eleven_lines(X, y, **weights, steps=1)
    l2_delta = GROUPINGS["blog"](y - ours["l2"], ours["l2"])
    l1_delta = GROUPINGS["blog"](l2_delta @ weights["syn1"].mT, ours["l1"])
    _assert_same_bits(ours["l2_delta"], l2_delta)
    _assert_same_bits(ours["l1_delta"], l1_delta)
    _assert_same_bits(ours["syn0"], weights["syn0"] + X.mT @ l1_delta)
    _assert_same_bits(ours["syn1"], weights["syn1"] + ours["l1"].mT @ l2_delta)


@pytest.mark.parametrize(("listing", "sizes"), [(two_layer, (3, 2)), (three_layer, (3, 5, 2))])
def test_the_loops_are_the_listings(listing: object, sizes: tuple[int, ...]) -> None:
    """`network` gives the names, the order and the bits of the written-out listings."""
    given = _random(sizes, rows=4, leading=(6,))
    alike = {"sizes": sizes, "alpha": 0.7}
    expected = listing.step(**given, **alike, grouping="left_to_right")  # type: ignore[attr-defined]
    actual = network.Network(**Network(**alike).arguments()).step(**given)
    assert list(actual) == list(expected)
    for name in expected:
        _assert_same_bits(actual[name], expected[name])


def test_names_in_the_order_of_computation() -> None:
    values = three_layer.step(
        **_random((3, 4, 1), rows=4), sizes=(3, 4, 1), alpha=1.0, grouping="blog"
    )
    assert " ".join(values) == (
        "l0 l1 l2 l2_error l2_delta l1_error l1_delta syn1_update syn0_update syn0 syn1"
    )


@settings(deadline=None)
@given(
    sizes=st.lists(st.integers(1, 7), min_size=2, max_size=5),
    rows=st.integers(1, 6),
    population=st.integers(1, 4),
)
def test_a_population_is_its_networks(sizes: list[int], rows: int, population: int) -> None:
    """The same lines serve networks side by side: each is close to what it is alone.

    Close and not equal: another shape selects another kernel, see `compare.training.chunking`.
    """
    shape = tuple(sizes)
    given = _random(shape, rows=rows, leading=(population,))
    asked = network.Network(**Network(shape, alpha=0.5).arguments())
    together = asked.step(**given)
    for p in range(population):
        alone = asked.step(**{name: value[p] for name, value in given.items()})
        for name, value in alone.items():
            torch.testing.assert_close(together[name][p], value, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_one_network_without_a_population_is_autograds_bits(dtype: torch.dtype) -> None:
    """As a reader would call it: plain matrices, other kernels than a population's."""
    given = {name: value.to(dtype) for name, value in _random((3, 5, 2), rows=4).items()}
    question = {"sizes": (3, 5, 2), "alpha": 0.7}
    trainer = Trainer(like=given["X"], **Network(**question).arguments())
    for _ in range(200):
        ours = three_layer.step(**given, **question, grouping="left_to_right")
        theirs = trainer.step(**given)
        for name, value in theirs.items():
            _assert_same_bits(ours[name], value)
        given |= {"syn0": ours["syn0"], "syn1": ours["syn1"]}


def test_the_deltas_are_known_before_a_weight_moves() -> None:
    """With syn1 moved first, l1_error would be another: it is that of the weights given."""
    given = _random((3, 4, 2), rows=5)
    values = three_layer.step(**given, sizes=(3, 4, 2), alpha=1.0, grouping="blog")
    _assert_same_bits(values["l1_error"], values["l2_delta"] @ given["syn1"].mT)


def test_a_side_that_does_not_know_a_field_says_so() -> None:
    given = _random((3, 4, 1), rows=4)
    asked = {"sizes": (3, 4, 1), "alpha": 1.0}
    with pytest.raises(TypeError, match="unexpected keyword"):
        three_layer.step(**given, **asked, grouping="blog", syn7=given["syn1"])
    with pytest.raises(TypeError, match="missing or unknown tensors for this network: syn7"):
        network.Network(**Network(**asked).arguments()).step(**given, syn7=given["syn1"])
    with pytest.raises(ValueError, match=r"syn0 has shape \(3, 4\), but sizes require \(3, 5\)"):
        network.Network(**Network((3, 5, 1)).arguments()).step(**given)
    with pytest.raises(TypeError, match="expected syn0, syn1, got"):
        Trainer(like=given["X"], **Network(**asked).arguments()).step(**given, syn7=given["syn1"])
    with pytest.raises(TypeError, match="alpha"):
        three_layer.step(**given, sizes=(3, 4, 1), grouping="blog")
    with pytest.raises(ValueError, match="three layers and alpha 1"):
        importlib.import_module("manual.eleven_lines").step(**given, sizes=(3, 4, 1), alpha=2.0)


def _blog(case: str) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Return the blog's X, y and first weights without the population's dimension."""
    found = draw(CASES[case], seed=1, population=1, dtype=torch.float64, device=torch.device("cpu"))
    return found.X[0], found.y[0], {name: w[0] for name, w in found.state.items()}


def _random(
    sizes: tuple[int, ...], *, rows: int, leading: tuple[int, ...] = ()
) -> dict[str, Tensor]:
    """Return X, y and weights for `sizes`, signed, the same each time."""
    chance = torch.Generator().manual_seed(3)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*leading, *shape, generator=chance, dtype=torch.float64)

    weights = {f"syn{n}": normal(sizes[n], sizes[n + 1]) for n in range(len(sizes) - 1)}
    return {"X": normal(rows, sizes[0]), "y": normal(rows, sizes[-1]), **weights}


def _assert_same_bits(one: Tensor, other: Tensor) -> None:
    assert one.shape == other.shape
    assert compare_bits(one, other).worst is None
