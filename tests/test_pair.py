"""A pair lifts its reference once per reading and precision, and rebuilds at other inputs."""

from typing import Any

import pytest
import torch
from torch import Tensor

from compare.passes.passes import Passes
from compare.proof.literals import AS_WRITTEN, HELD, Reading
from compare.proof.other_inputs import nearby
from compare.proof.pair import Pair
from compare.training.adapters import Named
from compare.training.prover import Prover

X = torch.tensor([[1.5, -2.0], [0.25, 3.0]])


def backward(x: Tensor, grad_output: Tensor) -> tuple[Tensor]:
    return (2 * x * 0.1 * grad_output,)


def pair() -> Pair:
    """Return a pair as `check` builds it."""
    passes = Passes(backward, lambda x: x * x * 0.1, {"x": X}, lift="all")
    return passes.pair(passes.manual, passes.autograd(passes.manual))


def test_a_cached_lift_has_one_reading_and_one_precision() -> None:
    """It is computed once. With overrides or replacements the lift is not cached."""
    one = pair()
    lifts = [one.lifted_reference(reading, precision) for reading in (AS_WRITTEN, Reading(HELD))
             for precision in (200, 1000)]  # fmt: skip
    assert len({id(lift) for lift in lifts}) == 4
    assert one.lifted_reference() is lifts[0]
    written, held = (lift.outputs["x"].numbers[0, 0] for lift in (lifts[0], lifts[2]))
    assert not written.overlaps(held)
    uncached = one.lifted_reference(replacements={})
    assert uncached is not lifts[0]
    assert one.lifted_reference() is lifts[0]


def test_the_pair_of_a_check_is_rebuilt_at_other_inputs() -> None:
    one = pair()
    moved = {name: nearby(name, value) for name, value in one.inputs.items()}
    other = one.at(moved)
    cotangent = other.inputs["grad_output"]
    assert torch.equal(other.inputs["x"], moved["x"])
    assert torch.equal(other.manual_floats["x"], moved["x"])
    assert not torch.equal(cotangent, one.inputs["grad_output"])
    (by_hand,) = backward(moved["x"], cotangent)
    assert torch.equal(other.manual["x"], by_hand)
    torch.testing.assert_close(other.autograd["x"], by_hand)
    assert (other.manual_program, other.reference) == (one.manual_program, one.reference)
    assert other.reference_lifts is not one.reference_lifts
    with pytest.raises(AssertionError, match="without `remake`"):
        Pair(one.manual_program, one.reference, {}, {}, {}, {}).at({})


def test_the_pair_of_a_step_is_rebuilt_and_autograd_continues_from_its_values() -> None:
    def manual_program(X: Tensor) -> Named:
        a = X * 3  # wrong
        return {"a": a, "b": a + 1}

    def judged(manual: Named, X: Tensor) -> Named:
        return {"a": X * 2, "b": manual["a"] + 1}

    def reference(X: Tensor) -> Named:
        return {"a": X * 2, "b": X * 2 + 1}

    prover: Any = Prover(manual_program, reference, None, None, injected_step=judged)
    one = prover._pair({"X": X}, manual_program(X), judged(manual_program(X), X))
    other = one.at({"X": X + 1})
    assert torch.equal(other.inputs["X"], X + 1)
    assert torch.equal(other.manual["a"], (X + 1) * 3)
    assert torch.equal(other.autograd["a"], (X + 1) * 2)
    assert torch.equal(other.autograd["b"], other.manual["b"])
    without: Any = Prover(manual_program, reference, None, None)
    assert without._pair({"X": X}, manual_program(X), judged(manual_program(X), X)).remake is None
