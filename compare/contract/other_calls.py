"""Outputs that need no gradient: those of a Function beside those of forward, by value.

Integers are equal or not; floats with other bits are judged as gradients are.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from compare.contract.calls import Graph
from compare.contract.settle import (
    Broken,
    NotShown,
    Settled,
    Values,
    apart,
    decide,
    equal,
    verdicts_on,
)
from compare.passes.inputs import tensors
from compare.proof.bits import mismatch
from compare.proof.pair import Pair
from compare.proof.program import Program
from compare.proof.trace import read


def compare_others(settled: Settled, graph: Graph) -> str | None:
    """Compare the other outputs of a call, in order; None where it has none.

    Raises Broken and NotShown.
    """
    forward, mine = settled.passes.forward, graph.others()
    if not mine:
        return None
    theirs = _others_of(forward.function, forward.fresh(forward.inputs))
    if len(theirs) != len(mine):
        how = f"returns {len(theirs)} such" if theirs else "does not return it"
        raise NotShown(f"{', '.join(mine)} not judged: forward {how}")
    ones: dict[str, Tensor] = {}
    others: dict[str, Tensor] = {}
    for (name, one), other in zip(mine.items(), theirs, strict=True):
        if one.shape != other.shape:
            raise Broken(f"{name}: shape {tuple(one.shape)}, forward's {tuple(other.shape)}")
        if not equal(one, other):
            if not (one.is_floating_point() and other.is_floating_point()):
                raise Broken(apart(name, one, other, "forward"))
            ones[name], others[name] = one, other
    for name, one in ones.items():
        if why := mismatch(one, others[name], "for forward"):
            raise NotShown(f"{name}: {why}, and other numbers")
    if ones:
        pair = _pair(settled, list(mine), ones, others)
        decide(verdicts_on(pair, list(ones)), ones, others, whose="forward")
    return ""


def _pair(settled: Settled, names: list[str], mine: Values, theirs: Values) -> Pair:
    """Return both forward passes, read for the outputs that need no gradient."""
    passes, forward = settled.passes, settled.passes.forward

    def by_hand(**given: Any) -> dict[str, Tensor]:
        return Graph(passes.backward, given, leaves=forward.leaves).others()

    def reference(**given: Any) -> dict[str, Tensor]:
        return dict(zip(names, _others_of(forward.function, forward.fresh(given)), strict=True))

    given = {k: v.detach() if isinstance(v, Tensor) else v for k, v in forward.inputs.items()}
    readable = isinstance(passes.hand, Program)  # what is too large is left unread here too
    return Pair(
        hand=read(by_hand, given) if readable else passes.hand,
        reference=read(reference, given) if readable else passes.reference,
        entries=passes.entries,
        inputs=tensors(given),
        given={key: (value, None) for key, value in tensors(given).items()},
        manual=mine,
        autograd=theirs,
        replaced=(),
    )


def _others_of(function: Callable[..., Any], arguments: Mapping[str, Any]) -> list[Tensor]:
    """Return the outputs of forward that need no gradient."""
    with torch.enable_grad():
        found = function(**arguments)
    outputs = found if isinstance(found, tuple | list) else [found]
    return [v.detach() for v in outputs if isinstance(v, Tensor) and not v.requires_grad]
