"""Inputs that follow the others: a statistic that forward computes, handed to the pass beside x.

Forward does not read such an input, and the pass does. It is a value on forward's way, to that
value's own rounding; as an input with a value of its own it would make a right pass wrong.
"""

from dataclasses import replace

import torch
from torch import Tensor, fx

from compare.proof.bounds import Bound
from compare.proof.interpreter import Cache, Lifted, lift
from compare.proof.pair import Pair
from compare.proof.program import Opaque, Program, ValueOf, skip_copies
from compare.proof.rounding import bounds_for

FEW = 4.0  # times what forward's own value is off, and ulps


def by_hand_alone(pair: Pair) -> list[str]:
    """Return the tensors among the inputs that by hand are read and by the reference are not."""
    if isinstance(pair.reference, Opaque):
        return []
    read = (
        pair.manual_program.used_inputs()
        if isinstance(pair.manual_program, Program)
        else [*pair.manual_inputs]
    )
    theirs = pair.reference.used_inputs()
    return [name for name in read if name in pair.inputs and name not in theirs]


def following(pair: Pair) -> Pair:
    """Return the pair with those of them that follow as outputs of the reference, not as inputs."""
    alone = [name for name in by_hand_alone(pair) if pair.inputs[name].is_floating_point()]
    if not alone:
        return pair
    assert isinstance(pair.reference, Program)
    cache: Cache = {}
    lift(pair.reference, bounds_for(pair.reference, pair.inputs.values()), pair.inputs, cache=cache)
    # not an input itself: two that are equal are two
    own = [node for node in cache if node.op == "call_function" and skip_copies(node) is node]
    found: dict[str, fx.Node] = {}
    for name in alone:
        gaps = {node: _gap(pair.inputs[name], cache[node]) for node in own}
        near = {node: gap for node, gap in gaps.items() if gap is not None}
        if near:
            found[name] = min(near, key=near.__getitem__)
    outputs = {ValueOf(name): node for name, node in found.items()}
    return replace(
        pair,
        reference=replace(pair.reference, outputs={**outputs, **pair.reference.outputs}),
        manual_inputs={
            name: (value, ValueOf(name) if name in found else key)
            for name, (value, key) in pair.manual_inputs.items()
        },
        reference_lifts={} if found else pair.reference_lifts,
    )


def _gap(values: Tensor, way: Lifted) -> float | None:
    """Return how far values are from a value on forward's way; None for further than rounding.

    They may be off as far as forward's own floats are, some few times, and within the bound.
    """
    bound = way.numbers
    if not isinstance(bound, Bound) or _sizes(bound) != _sizes(values):
        return None
    floats = values.detach().double().cpu().reshape(bound.shape)
    gap = (floats - bound.value).abs()
    off = (way.floats.detach().double().cpu() - bound.value).abs().max()
    ulps = floats.abs() * torch.finfo(values.dtype).eps
    room = (FEW * (off + ulps)).minimum(bound.error + ulps)
    return float(gap.sum()) if bool(((gap <= room) & room.isfinite()).all()) else None


def _sizes(values: Bound | Tensor) -> list[int]:
    return [size for size in values.shape if size != 1]
