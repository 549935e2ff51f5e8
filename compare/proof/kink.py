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
from compare.proof.draws import beside, hardly_beside
from compare.proof.formula import same_formula, size
from compare.proof.lift import Missing, lift
from compare.proof.pair import Pair
from compare.proof.program import Program

JUMP = 2.0**-6  # of the value; and no less than so many roundings of the inputs:
ROUNDINGS = 32.0


def remark(pair: Pair, name: str, at: tuple[int, ...], by_hand: Any) -> str:
    """Return what is to be said of a quantity that is another formula `at` an element.

    `by_hand` is its exact value there. "" where it is another one beside these inputs too.
    """
    if not _agree_beside(pair, name):
        return ""
    close = "; at inputs close by the two agree"
    here = _reference(pair, name, pair.inputs, at)
    right, left = (_reference(pair, name, inputs, at) for inputs in _both_sides(pair, name, at))
    if here is None or right is None or left is None:
        return f"{close}: they part at these elements alone"
    jump = max(JUMP, ROUNDINGS * torch.finfo(pair.manual[name].dtype).eps)
    if _apart(right, left, jump):
        between = left.union(right)
        room = jump * max(size(left), size(right))
        told = (
            "the by-hand side takes another subgradient than autograd"
            if by_hand.overlaps(between + flint.arb(0, room))
            else f"by hand it is none of the values from {left.str(6, radius=False)} to "
            f"{right.str(6, radius=False)} that it may have there"
        )
        return (
            f"{close}, so these stand at a kink (relu at 0, equal maxima, a norm at 0) and {told}"
        )
    if _apart(here, right, jump) and _apart(here, left, jump):
        return (
            f"{close}, and autograd's own value here is not the derivative: it comes to "
            f"{right.str(6, radius=False)} from both sides"
        )
    return f"{close}, and there is no kink here: by hand it is wrong at these elements alone"


def _apart(a: Any, b: Any, jump: float) -> bool:
    return size(a - b) > jump * max(size(a), size(b))


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
    pair: Pair, name: str, at: tuple[int, ...]
) -> tuple[Mapping[str, Tensor], Mapping[str, Tensor]]:
    """Return the inputs moved a little one way and the other: that element, or all for a value."""
    moved = {
        key: hardly_beside(key, value)
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
    if isinstance(found, Missing) or not found[at].is_finite():
        return None
    return found[at]
