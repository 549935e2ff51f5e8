"""The blog's listings: its printed numbers, and that all versions of a step agree."""

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
    assert all(torch.equal(first[name], weights[name]) for name in first)  # not modified


def test_the_eleven_lines_have_the_blogs_grouping_except_in_the_sigmoid() -> None:
    """With equal layers, deltas and weights have the bits of `three_layer` with that grouping."""
    X, y, weights = _blog("three_layer")
    manual = eleven_lines(X, y, **weights, steps=1)
    l2_delta = GROUPINGS["blog"](y - manual["l2"], manual["l2"])
    l1_delta = GROUPINGS["blog"](l2_delta @ weights["syn1"].mT, manual["l1"])
    _assert_same_bits(manual["l2_delta"], l2_delta)
    _assert_same_bits(manual["l1_delta"], l1_delta)
    _assert_same_bits(manual["syn0"], weights["syn0"] + X.mT @ l1_delta)
    _assert_same_bits(manual["syn1"], weights["syn1"] + manual["l1"].mT @ l2_delta)


@pytest.mark.parametrize(("listing", "sizes"), [(two_layer, (3, 2)), (three_layer, (3, 5, 2))])
def test_the_loops_equal_the_listings(listing: object, sizes: tuple[int, ...]) -> None:
    """`network` returns the names, the order and the bits of the listings."""
    tensors = _random(sizes, rows=4, leading=(6,))
    description = {"sizes": sizes, "alpha": 0.7}
    expected = listing.step(**tensors, **description, grouping="left_to_right")  # type: ignore[attr-defined]
    actual = network.Network(**Network(**description).arguments()).step(**tensors)
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
    """Each network of a population is close to the same network alone.

    The bits may differ, because another shape selects another kernel (compare.training.chunking).
    """
    shape = tuple(sizes)
    tensors = _random(shape, rows=rows, leading=(population,))
    manual = network.Network(**Network(shape, alpha=0.5).arguments())
    together = manual.step(**tensors)
    for p in range(population):
        alone = manual.step(**{name: value[p] for name, value in tensors.items()})
        for name, value in alone.items():
            torch.testing.assert_close(together[name][p], value, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_one_network_without_a_population_has_autograds_bits(dtype: torch.dtype) -> None:
    """As a reader would call it: plain matrices, which use other kernels than a population."""
    tensors = {name: value.to(dtype) for name, value in _random((3, 5, 2), rows=4).items()}
    description = {"sizes": (3, 5, 2), "alpha": 0.7}
    trainer = Trainer(like=tensors["X"], **Network(**description).arguments())
    for _ in range(200):
        manual = three_layer.step(**tensors, **description, grouping="left_to_right")
        reference = trainer.step(**tensors)
        for name, value in reference.items():
            _assert_same_bits(manual[name], value)
        tensors |= {"syn0": manual["syn0"], "syn1": manual["syn1"]}


def test_the_deltas_are_known_before_a_weight_moves() -> None:
    """l1_error uses the old syn1; if syn1 moved first, it would differ."""
    tensors = _random((3, 4, 2), rows=5)
    values = three_layer.step(**tensors, sizes=(3, 4, 2), alpha=1.0, grouping="blog")
    _assert_same_bits(values["l1_error"], values["l2_delta"] @ tensors["syn1"].mT)


def test_an_unknown_field_is_refused() -> None:
    tensors = _random((3, 4, 1), rows=4)
    description = {"sizes": (3, 4, 1), "alpha": 1.0}
    with pytest.raises(TypeError, match="unexpected keyword"):
        three_layer.step(**tensors, **description, grouping="blog", syn7=tensors["syn1"])
    with pytest.raises(TypeError, match="missing or unknown tensors for this network: syn7"):
        network.Network(**Network(**description).arguments()).step(**tensors, syn7=tensors["syn1"])
    with pytest.raises(ValueError, match=r"syn0 has shape \(3, 4\), but sizes require \(3, 5\)"):
        network.Network(**Network((3, 5, 1)).arguments()).step(**tensors)
    with pytest.raises(TypeError, match="expected syn0, syn1, got"):
        Trainer(like=tensors["X"], **Network(**description).arguments()).step(
            **tensors, syn7=tensors["syn1"]
        )
    with pytest.raises(TypeError, match="alpha"):
        three_layer.step(**tensors, sizes=(3, 4, 1), grouping="blog")
    with pytest.raises(ValueError, match="three layers and alpha 1"):
        importlib.import_module("manual.eleven_lines").step(**tensors, sizes=(3, 4, 1), alpha=2.0)


def _blog(case: str) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Return the blog's X, y and first weights, without the leading population dimension."""
    sample = draw(
        CASES[case], seed=1, population=1, dtype=torch.float64, device=torch.device("cpu")
    )
    return sample.X[0], sample.y[0], {name: w[0] for name, w in sample.state.items()}


def _random(
    sizes: tuple[int, ...], *, rows: int, leading: tuple[int, ...] = ()
) -> dict[str, Tensor]:
    """Return X, y and weights for `sizes`, of both signs, the same at each call."""
    rng = torch.Generator().manual_seed(3)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*leading, *shape, generator=rng, dtype=torch.float64)

    weights = {f"syn{n}": normal(sizes[n], sizes[n + 1]) for n in range(len(sizes) - 1)}
    return {"X": normal(rows, sizes[0]), "y": normal(rows, sizes[-1]), **weights}


def _assert_same_bits(one: Tensor, other: Tensor) -> None:
    assert one.shape == other.shape
    assert compare_bits(one, other).worst is None
