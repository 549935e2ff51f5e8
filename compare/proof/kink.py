"""Two formulas that part at these very inputs and not beside them: at a kink, or by a fault.

A gradient that jumps from one side of the input to the other stands at a kink, where any value in
between may be taken. One that does not is smooth there, and only one value is the derivative.
"""

from collections.abc import Mapping
from typing import Any

import flint
import torch
from torch import Tensor

from compare.proof.balls import Balls
from compare.proof.formula import same_formula, size
from compare.proof.lift import Unsupported, lift
from compare.proof.other_inputs import beside, hardly_beside
from compare.proof.pair import Pair
from compare.proof.program import Program

# A difference of a smooth function shrinks with the step; a jump is the same at FAR times the step.
FAR = 4


def remark(pair: Pair, name: str, at: tuple[int, ...], by_hand: Any) -> str:
    """Return what is to be said of a quantity that is another formula `at` an element.

    `by_hand` is its exact value there. "" where it is another one beside these inputs too.
    """
    if not _agree_beside(pair, name):
        return ""
    close = "; at inputs close by the two agree"
    here = _reference(pair, name, pair.inputs, at)
    (right, left), (far_right, far_left) = (
        [_reference(pair, name, inputs, at) for inputs in _both_sides(pair, name, at, times)]
        for times in (1, FAR)
    )
    if any(x is None for x in (here, right, left, far_right, far_left)):
        return f"{close}: they part at these elements alone"
    if _stays(right - left, far_right - far_left):
        room = flint.arb(0, max(size(right - far_right), size(left - far_left)))
        told = (
            "the by-hand side takes another subgradient than autograd"
            if by_hand.overlaps(left.union(right) + room)
            else f"by hand it is none of the values from {_short(left)} to {_short(right)} that it "
            "may have"
        )
        place = list(at[int(pair.networks) :])
        return (
            f"{close}, so {place} stands at a kink (relu at 0, equal maxima, a norm at 0) and "
            f"{told} there"
        )
    if _stays(here - right, here - far_right) and _stays(here - left, here - far_left):
        return (
            f"{close}, and autograd's own value here is not the derivative: it comes to "
            f"{_short(right)} from both sides"
        )
    return f"{close}, and there is no kink here: by hand it is wrong at these elements alone"


def _stays(near: Any, far: Any) -> bool:
    return size(near) > size(far) / 2


def _short(a: Any) -> str:
    return str(a.str(6, radius=False))


def _agree_beside(pair: Pair, name: str) -> bool:
    """Whether both sides are the same formula at other inputs close by."""
    assert isinstance(pair.hand, Program)
    assert isinstance(pair.reference, Program)
    inputs = {key: beside(key, value) for key, value in pair.inputs.items()}
    reference = lift(pair.reference, Balls(pair.entries), inputs)
    hand = lift(pair.hand, Balls(pair.entries), *pair.handed(reference, inputs))
    both = hand[name].numbers, reference[name].numbers
    return bool(same_formula(*both, pair.manual[name].dtype).same)


def _both_sides(
    pair: Pair, name: str, at: tuple[int, ...], times: int
) -> tuple[Mapping[str, Tensor], Mapping[str, Tensor]]:
    """Return the inputs moved a little one way and the other: that element, or all for a value."""
    moved = {
        key: value + times * (hardly_beside(key, value) - value).nan_to_num(0)
        for key, value in pair.inputs.items()
        if value.is_floating_point()
    }
    if name in pair.inputs:
        alone = pair.inputs[name].clone()
        alone[at] = moved[name][at]
        moved = {name: alone}
    mirrored = {
        key: torch.where(value.isfinite(), 2 * pair.inputs[key] - value, value)
        for key, value in moved.items()
    }
    return {**pair.inputs, **moved}, {**pair.inputs, **mirrored}


def _reference(pair: Pair, name: str, inputs: Mapping[str, Tensor], at: tuple[int, ...]) -> Any:
    """Return the reference's exact value of an element, None where it has none."""
    assert isinstance(pair.reference, Program)
    found = lift(pair.reference, Balls(pair.entries), inputs, only=[name])[name].numbers
    if isinstance(found, Unsupported) or not found[at].is_finite():
        return None
    return found[at]
