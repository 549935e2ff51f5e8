"""Where a pass rounds to a dtype that is narrower than its quantity's: an autocast by accident."""

from typing import Any

import torch
from torch import Tensor, fx

from compare.proof.lift import Cache, lift
from compare.proof.pair import Pair
from compare.proof.program import Opaque, above, like_floats
from compare.proof.rounding import bounds_for
from compare.proof.source import shown


def told(pair: Pair, name: str) -> str:
    """Return in words which line of the by-hand side rounds a quantity to a narrower dtype.

    "" where none does, or changes no number by it, or where the reference rounds to that dtype too.
    """
    hand, reference, dtype = pair.hand, pair.reference, pair.manual[name].dtype
    if isinstance(hand, Opaque) or isinstance(reference, Opaque):
        return ""
    theirs = {_narrow(node, dtype) for node in above([reference.outputs[name]])}
    needed = above([hand.outputs[name]])
    nodes = (node for node in hand.graph.nodes if node in needed)
    casts = {node: to for node in nodes if (to := _narrow(node, dtype))}
    cache: Cache = {}
    if casts:
        lift(hand, bounds_for(hand, pair.floats.values()), pair.floats, cache=cache)
    for node, to in casts.items():
        if to not in theirs and _changes(node, cache):
            line = shown(node)
            return f"it rounds to {str(to).removeprefix('torch.')}{' at ' if line else ''}{line}"
    return ""


def _narrow(node: fx.Node, dtype: torch.dtype) -> torch.dtype | None:
    """Return the dtype that an operation casts to if it has fewer bits than `dtype` has."""
    value = like_floats(node)
    if value is None or not _fewer_bits(value.dtype, dtype):
        return None
    of = [source for one in node.all_input_nodes if (source := like_floats(one)) is not None]
    return value.dtype if any(_fewer_bits(value.dtype, one.dtype) for one in of) else None


def _fewer_bits(one: torch.dtype, other: torch.dtype) -> bool:
    return torch.finfo(one).eps > torch.finfo(other).eps


def _changes(node: fx.Node, cache: Cache) -> bool:
    """Whether an operation gives other numbers than it takes: 0 and 1 are the same in any dtype."""
    made: Any = cache[node].floats.double()
    taken = [cache[source].floats for source in node.all_input_nodes]
    taken = [t.double() for t in taken if isinstance(t, Tensor) and t.is_floating_point()]
    return not any(t.shape == made.shape and torch.equal(t, made) for t in taken)
