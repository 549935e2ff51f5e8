"""Finds inputs that are derived from others: a statistic of x, passed to backward next to x.

Forward computes such a value itself; only the by-hand pass reads the copy that was passed in. The
two agree up to rounding. If the input counted as independent, a correct pass would be WRONG.
"""

from dataclasses import replace

import torch
from torch import Tensor, fx

from compare.proof.bounds import Bound
from compare.proof.interpreter import Cache, Lifted, as_real_view, lift
from compare.proof.pair import Pair
from compare.proof.program import Opaque, Program, ValueOf, skip_copies
from compare.proof.rounding import bounds_for

# Largest distance of a derived input from forward's value: this many times forward's rounding error
# plus one ulp.
MAX_ERROR_RATIO = 4.0


def manual_only_inputs(pair: Pair) -> list[str]:
    """Return the input tensors that the by-hand pass reads and the reference does not."""
    if isinstance(pair.reference, Opaque):
        return []
    used_by_hand = (
        pair.manual_program.used_inputs()
        if isinstance(pair.manual_program, Program)
        else [*pair.manual_inputs]
    )
    used_by_reference = pair.reference.used_inputs()
    return [n for n in used_by_hand if n in pair.inputs and n not in used_by_reference]


def with_derived_inputs(pair: Pair) -> Pair:
    """Return the pair with its derived inputs as outputs of the reference, not as inputs."""
    candidates = [n for n in manual_only_inputs(pair) if pair.inputs[n].is_floating_point()]
    if not candidates:
        return pair
    assert isinstance(pair.reference, Program)
    cache: Cache = {}
    lift(pair.reference, bounds_for(pair.reference, pair.inputs.values()), pair.inputs, cache=cache)
    # only values that forward computes: another input with equal values is a separate input
    tensors = (node for node in cache if isinstance(cache[node].floats, Tensor))
    computed = [n for n in tensors if n.op == "call_function" and skip_copies(n) is n]
    sources: dict[str, fx.Node] = {}
    for name in candidates:
        gaps = {node: _gap(pair.inputs[name], as_real_view(cache[node])) for node in computed}
        near = {node: gap for node, gap in gaps.items() if gap is not None}
        if near:
            sources[name] = min(near, key=near.__getitem__)
    outputs = {ValueOf(name): node for name, node in sources.items()}
    return replace(
        pair,
        reference=replace(pair.reference, outputs={**outputs, **pair.reference.outputs}),
        manual_inputs={
            name: (value, ValueOf(name) if name in sources else key)
            for name, (value, key) in pair.manual_inputs.items()
        },
        reference_lifts={} if sources else pair.reference_lifts,
    )


def _gap(values: Tensor, computed: Lifted) -> float | None:
    """Return the total distance of an input from a value of forward, None beyond rounding.

    Rounding is a few times the error of forward's own floats, and within their bound.
    """
    bound = computed.numbers
    if not isinstance(bound, Bound) or _sizes(bound) != _sizes(values):
        return None
    floats = values.detach().double().cpu().reshape(bound.shape)
    gap = (floats - bound.value).abs()
    error = (computed.floats.detach().double().cpu() - bound.value).abs().max()
    ulps = floats.abs() * torch.finfo(values.dtype).eps
    limit = (MAX_ERROR_RATIO * (error + ulps)).minimum(bound.error + ulps)
    return float(gap.sum()) if bool(((gap <= limit) & limit.isfinite()).all()) else None


def _sizes(values: Bound | Tensor) -> list[int]:
    """Return the sizes of the dimensions, without those of size 1."""
    return [size for size in values.shape if size != 1]
