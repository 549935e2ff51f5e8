"""Explanations for a report: where two formulas differ, and where digits are lost.

Two formulas may differ at the given inputs and agree at nearby ones. Either the element is at a
kink, where the gradient jumps and any value in between is a subgradient; or forward is smooth
there, only one value is the derivative, and one side is wrong.
"""

import linecache
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flint
import torch
from torch import Tensor, fx

from compare.proof.bits import place
from compare.proof.exact_values import ball_at, magnitude
from compare.proof.interpreter import Cache, Unsupported, lift
from compare.proof.other_inputs import nearby, very_near
from compare.proof.pair import Pair
from compare.proof.program import Opaque, Program, float_meta_tensor, source_line, upstream
from compare.proof.rounding import bounds_for
from compare.proof.same_formula import same_formula

# With STEP_RATIO times the step a smooth function changes more, while a jump stays the same.
STEP_RATIO = 4


def explain_kink(pair: Pair, name: str, at: tuple[int, ...], by_hand: Any) -> str:
    """Return the end of a sentence on a different formula; empty if it differs nearby too.

    Args:
        pair: Both sides.
        name: The quantity whose formulas differ.
        at: The index of the element where they differ most.
        by_hand: The exact by-hand value of that element, a ball.
    """
    if not agree_nearby(pair, name):
        return ""
    agree = "; at nearby inputs both sides agree"
    here = _exact_reference(pair, name, pair.inputs, at)
    (right, left), (far_right, far_left) = (
        [_exact_reference(pair, name, inputs, at) for inputs in _both_sides(pair, name, at, steps)]
        for steps in (1, STEP_RATIO)
    )
    if any(x is None for x in (here, right, left, far_right, far_left)):
        return f"{agree}, so they differ only at these elements"
    if _jumps(right - left, far_right - far_left):
        room = flint.arb(0, max(magnitude(right - far_right), magnitude(left - far_left)))
        index = at[int(pair.has_population_dim) :]
        element = place(index, of_complex=pair.is_complex(name))
        kink = f"element {element} is at a kink (relu at 0, equal maxima, a norm at 0)"
        if by_hand.overlaps(left.union(right) + room):
            finding = "the by-hand side uses another subgradient than autograd"
        else:
            finding = (
                "the by-hand value is no subgradient: those range from "
                f"{_decimal(left)} to {_decimal(right)}"
            )
        return f"{agree}, so {kink}, and there {finding}"
    if _jumps(here - right, here - far_right) and _jumps(here - left, here - far_left):
        return (
            f"{agree}, and autograd's own value here is not the derivative, which is "
            f"{_decimal(right)} from both sides"
        )
    return f"{agree}, and there is no kink here: the by-hand value is wrong only at these elements"


def _jumps(change: Any, change_at_larger_step: Any) -> bool:
    return magnitude(change) > magnitude(change_at_larger_step) / 2


def _decimal(a: Any) -> str:
    return str(a.str(6, radius=False))


def agree_nearby(pair: Pair, name: str) -> bool:
    """Whether both sides are the same formula at nearby inputs."""
    assert isinstance(pair.manual_program, Program)
    assert isinstance(pair.reference, Program)
    inputs = {key: nearby(key, value) for key, value in pair.inputs.items()}
    reference = lift(pair.reference, pair.exact_arithmetic(), inputs)
    manual_inputs = pair.lifted_manual_inputs(reference, inputs)
    by_hand = lift(pair.manual_program, pair.exact_arithmetic(), *manual_inputs)
    both = by_hand[name].numbers, reference[name].numbers
    return bool(same_formula(*both, pair.manual[name].dtype).same)


def _both_sides(
    pair: Pair, name: str, at: tuple[int, ...], steps: int
) -> tuple[Mapping[str, Tensor], Mapping[str, Tensor]]:
    """Return the inputs moved a little to one side and to the other.

    For the gradient of an input only that element moves, for any other quantity all floats.
    """
    moved = {
        key: value + steps * (very_near(key, value) - value).nan_to_num(0)
        for key, value in pair.inputs.items()
        if value.is_floating_point()
    }
    if name in pair.inputs:
        one_element = pair.inputs[name].clone()
        one_element[at] = moved[name][at]
        moved = {name: one_element}
    mirrored = {
        key: torch.where(value.isfinite(), 2 * pair.inputs[key] - value, value)
        for key, value in moved.items()
    }
    return {**pair.inputs, **moved}, {**pair.inputs, **mirrored}


def _exact_reference(
    pair: Pair, name: str, inputs: Mapping[str, Tensor], at: tuple[int, ...]
) -> Any:
    """Return the reference's exact value of an element, None if it is not finite or unknown."""
    assert isinstance(pair.reference, Program)
    numbers = lift(pair.reference, pair.exact_arithmetic(), inputs, only=[name])[name].numbers
    if isinstance(numbers, Unsupported):
        return None
    ball = ball_at(numbers, at)
    return ball if ball.is_finite() else None


def narrowing_cast(pair: Pair, name: str) -> str:
    """Return in words the line by hand that rounds a quantity to a narrower dtype, or "".

    Such a cast is an autocast by accident, for instance. It is not named if it changes no number,
    or if the reference casts to that dtype too.
    """
    manual_program, reference, dtype = pair.manual_program, pair.reference, pair.manual[name].dtype
    if isinstance(manual_program, Opaque) or isinstance(reference, Opaque):
        return ""
    reference_casts = {_narrower_dtype(node, dtype) for node in upstream([reference.outputs[name]])}
    needed = upstream([manual_program.outputs[name]])
    nodes = (node for node in manual_program.graph.nodes if node in needed)
    casts = {node: to for node in nodes if (to := _narrower_dtype(node, dtype))}
    cache: Cache = {}
    if casts:
        floats = pair.manual_floats
        lift(manual_program, bounds_for(manual_program, floats.values()), floats, cache=cache)
    for node, to in casts.items():
        if to not in reference_casts and _changes_numbers(node, cache):
            line = source_text(node)
            return f"it rounds to {str(to).removeprefix('torch.')}{' at ' if line else ''}{line}"
    return ""


def _narrower_dtype(node: fx.Node, dtype: torch.dtype) -> torch.dtype | None:
    """Return the dtype that an operation casts to, if it has fewer bits than `dtype`."""
    value = float_meta_tensor(node)
    if value is None or not _has_fewer_bits(value.dtype, dtype):
        return None
    sources = (float_meta_tensor(source) for source in node.all_input_nodes)
    casts = any(s is not None and _has_fewer_bits(value.dtype, s.dtype) for s in sources)
    return value.dtype if casts else None


def _has_fewer_bits(one: torch.dtype, other: torch.dtype) -> bool:
    return torch.finfo(one).eps > torch.finfo(other).eps


def _changes_numbers(node: fx.Node, cache: Cache) -> bool:
    """Whether an operation's result differs from its operands: 0 and 1 survive any cast."""
    result: Any = cache[node].floats.double()
    operands = [cache[source].floats for source in node.all_input_nodes]
    operands = [t.double() for t in operands if isinstance(t, Tensor) and t.is_floating_point()]
    return not any(t.shape == result.shape and torch.equal(t, result) for t in operands)


def code_at(line: tuple[str, int] | None) -> str:
    """Return a line of code without its comment, empty if it is unknown."""
    return linecache.getline(*line).partition("  #")[0].strip() if line else ""


def source_text(node: fx.Node) -> str:
    """Return `file.py:14  its text` for the code behind an operation, empty if it is unknown."""
    line = source_line(node)
    text = code_at(line)
    return f"{Path(line[0]).name}:{line[1]}  {text}" if line and text else ""
