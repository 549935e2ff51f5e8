"""What is said beside a verdict of where two formulas part, and of where digits are lost.

Two may part at these very inputs and not beside them: at a kink, or by a fault. A gradient that
jumps from one side of the input to the other stands at a kink, where any value in between may be
taken. One that does not is smooth there, and only one value is the derivative.
"""

import linecache
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flint
import torch
from torch import Tensor, fx

from compare.proof.balls import Balls
from compare.proof.interpreter import Cache, Unsupported, lift
from compare.proof.other_inputs import nearby, very_near
from compare.proof.pair import Pair
from compare.proof.program import Opaque, Program, float_meta_tensor, source_line, upstream
from compare.proof.rounding import bounds_for
from compare.proof.same_formula import magnitude, same_formula

# A difference of a smooth function shrinks with the step; a jump is the same at FAR times the step.
FAR = 4


def explain_kink(pair: Pair, name: str, at: tuple[int, ...], by_hand: Any) -> str:
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
        room = flint.arb(0, max(magnitude(right - far_right), magnitude(left - far_left)))
        told = (
            "the by-hand side takes another subgradient than autograd"
            if by_hand.overlaps(left.union(right) + room)
            else f"by hand it is none of the values from {_short(left)} to {_short(right)} that it "
            "may have"
        )
        place = list(at[int(pair.has_population_dim) :])
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
    return magnitude(near) > magnitude(far) / 2


def _short(a: Any) -> str:
    return str(a.str(6, radius=False))


def _agree_beside(pair: Pair, name: str) -> bool:
    """Whether both sides are the same formula at other inputs close by."""
    assert isinstance(pair.manual_program, Program)
    assert isinstance(pair.reference, Program)
    inputs = {key: nearby(key, value) for key, value in pair.inputs.items()}
    reference = lift(pair.reference, Balls(pair.entries), inputs)
    manual_program = lift(
        pair.manual_program, Balls(pair.entries), *pair.lifted_manual_inputs(reference, inputs)
    )
    both = manual_program[name].numbers, reference[name].numbers
    return bool(same_formula(*both, pair.manual[name].dtype).same)


def _both_sides(
    pair: Pair, name: str, at: tuple[int, ...], times: int
) -> tuple[Mapping[str, Tensor], Mapping[str, Tensor]]:
    """Return the inputs moved a little one way and the other: that element, or all for a value."""
    moved = {
        key: value + times * (very_near(key, value) - value).nan_to_num(0)
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


def narrowing_cast(pair: Pair, name: str) -> str:
    """Return in words which line of the by-hand side rounds a quantity to a narrower dtype.

    Such is an autocast by accident.
    "" where none does, or changes no number by it, or where the reference rounds to that dtype too.
    """
    manual_program, reference, dtype = pair.manual_program, pair.reference, pair.manual[name].dtype
    if isinstance(manual_program, Opaque) or isinstance(reference, Opaque):
        return ""
    theirs = {_narrow(node, dtype) for node in upstream([reference.outputs[name]])}
    needed = upstream([manual_program.outputs[name]])
    nodes = (node for node in manual_program.graph.nodes if node in needed)
    casts = {node: to for node in nodes if (to := _narrow(node, dtype))}
    cache: Cache = {}
    if casts:
        lift(
            manual_program,
            bounds_for(manual_program, pair.manual_floats.values()),
            pair.manual_floats,
            cache=cache,
        )
    for node, to in casts.items():
        if to not in theirs and _changes(node, cache):
            line = source_text(node)
            return f"it rounds to {str(to).removeprefix('torch.')}{' at ' if line else ''}{line}"
    return ""


def _narrow(node: fx.Node, dtype: torch.dtype) -> torch.dtype | None:
    """Return the dtype that an operation casts to if it has fewer bits than `dtype` has."""
    value = float_meta_tensor(node)
    if value is None or not _fewer_bits(value.dtype, dtype):
        return None
    of = [source for one in node.all_input_nodes if (source := float_meta_tensor(one)) is not None]
    return value.dtype if any(_fewer_bits(value.dtype, one.dtype) for one in of) else None


def _fewer_bits(one: torch.dtype, other: torch.dtype) -> bool:
    return torch.finfo(one).eps > torch.finfo(other).eps


def _changes(node: fx.Node, cache: Cache) -> bool:
    """Whether an operation gives other numbers than it takes: 0 and 1 are the same in any dtype."""
    made: Any = cache[node].floats.double()
    taken = [cache[source].floats for source in node.all_input_nodes]
    taken = [t.double() for t in taken if isinstance(t, Tensor) and t.is_floating_point()]
    return not any(t.shape == made.shape and torch.equal(t, made) for t in taken)


def code_at(line: tuple[str, int] | None) -> str:
    """Return a line of code without the remark at its end, empty where it is not known."""
    return linecache.getline(*line).partition("  #")[0].strip() if line else ""


def source_text(node: fx.Node) -> str:
    """Return `file.py:14  its text` of what asked for an operation, empty where it is not known."""
    line = source_line(node)
    text = code_at(line)
    return f"{Path(line[0]).name}:{line[1]}  {text}" if line and text else ""
