"""The by-hand passes of large sizes, at small ones: they are right, and a planted factor is not."""

from collections.abc import Callable
from functools import partial, wraps

import pytest
import torch
from torch import Tensor

import compare
from compare.bench import large_passes
from compare.bench.large_passes import Pass

PASSES: dict[str, Callable[[], Pass]] = {
    "layer norm": partial(large_passes.layer_norm, 3, 8),
    "mlp": partial(large_passes.mlp, 3, 4, 6),
    "attention": partial(large_passes.attention, 2, 5, 4),
    "convolution": partial(large_passes.convolution, 2, 3, 5, 3),
    "embedding": partial(large_passes.embedding, 4, 7, 3),
    "block": partial(large_passes.block, 4, 6, 2),
}


@pytest.mark.parametrize("arithmetic", ["balls", "wide"])
@pytest.mark.parametrize("name", PASSES)
def test_a_pass_is_right_and_a_factor_is_seen(
    name: str, arithmetic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if arithmetic == "wide":
        monkeypatch.setattr("compare.proof.pair.MOST_FOR_BALLS_ALONE", 0)
    made = PASSES[name]()
    inputs = made.inputs(torch.Generator().manual_seed(0))
    report = compare.check(made.backward, made.forward, inputs)
    assert report.ok, str(report)
    last = list(report.quantities)[-1]

    @wraps(made.backward)
    def too_large(**given: Tensor) -> dict[str, Tensor]:
        gradients = made.backward(**given)
        return {**gradients, last: gradients[last] * 1.00001}

    wrong = compare.check(too_large, made.forward, inputs)
    verdicts = {key: quantity.verdict for key, quantity in wrong.quantities.items()}
    assert verdicts[last] == "WRONG", str(wrong)


@pytest.mark.parametrize("factor", [1.0, 1.00001])
def test_a_deep_pass_is_followed_from_product_to_product(
    factor: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Too few bits are left from the inputs on; a bug in between shows all the same."""
    monkeypatch.setattr("compare.proof.pair.MOST_FOR_BALLS_ALONE", 0)
    monkeypatch.setattr("compare.proof.pair.MOST_FOR_BALLS", 0)
    made = large_passes.block(16, 192, 4)

    @wraps(made.backward)
    def backward(**given: Tensor) -> dict[str, Tensor]:
        gradients = made.backward(**given)
        return {**gradients, "wqkv": gradients["wqkv"] * factor}

    report = compare.check(backward, made.forward, made.inputs(torch.Generator().manual_seed(0)))
    assert report.quantities["wqkv"].verdict == ("ROUNDING" if factor == 1 else "WRONG")
    texts = [quantity.proof.text for quantity in report.quantities.values() if quantity.proof]
    assert any("from one matrix product to the next" in text for text in texts)
