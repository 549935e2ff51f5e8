"""Whether two recordings of one function, at inputs of different sizes, hold the same operations.

What is shown of the formulas at smaller inputs holds at the given ones only if the code takes the
same steps there: no branch on a size, and no number that depends on a size in another way than a
mean or a variance does.
"""

import itertools
import math
from collections.abc import Iterator
from typing import Any

from torch import Tensor, fx

from compare.proof.bits import same_bits
from compare.proof.program import Program, meta_tensor

FEW = 16  # distinct values of a mask, of ones, or of a table of a few numbers
_CLOSE = 1e-12  # relative: a ratio of two numbers that were computed from sizes, in float64

Sizes = set[tuple[int, int]]


def same_operations(large: Program, small: Program) -> bool:
    """Return whether both programs are the same but for sizes.

    Args:
        large: The program at the given inputs.
        small: The program of the same function at smaller ones.
    """
    if large.outputs.keys() != small.outputs.keys() or large.inputs != small.inputs:
        return False
    nodes, others = list(large.graph.nodes), list(small.graph.nodes)
    if [node.target for node in nodes if node.op == "call_function"] != [
        node.target for node in others if node.op == "call_function"
    ] or [node.op for node in nodes] != [node.op for node in others]:
        return False
    pairs = list(zip(nodes, others, strict=True))
    sizes = {pair for one, other in pairs for pair in _sizes(one, other)}
    place = {node: k for order in (nodes, others) for k, node in enumerate(order)}
    if any(place[large.outputs[k]] != place[small.outputs[k]] for k in large.outputs):
        return False
    return all(
        _same_constant(one.meta["val"], other.meta["val"])
        if one.op == "get_attr"
        else _same_arguments((one.args, one.kwargs), (other.args, other.kwargs), place, sizes)
        for one, other in pairs
    )


def _sizes(one: fx.Node, other: fx.Node) -> Iterator[tuple[int, int]]:
    """Yield the sizes of a value in the large and in the small program."""
    large, small = meta_tensor(one), meta_tensor(other)
    if large is not None and small is not None and large.ndim == small.ndim:
        yield from zip(large.shape, small.shape, strict=True)
        yield large.numel(), small.numel()


def _same_arguments(one: Any, other: Any, place: dict[fx.Node, int], sizes: Sizes) -> bool:
    if isinstance(one, fx.Node) and isinstance(other, fx.Node):
        return place[one] == place[other]
    if isinstance(one, dict) and isinstance(other, dict):
        keys = one.keys() == other.keys()
        return keys and all(_same_arguments(one[k], other[k], place, sizes) for k in one)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        pairs = zip(one, other, strict=False)
        return len(one) == len(other) and all(_same_arguments(*p, place, sizes) for p in pairs)
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, int | float) and isinstance(other, int | float):
        return one == other or _follows_sizes(one, other, sizes)
    return bool(one == other)


def _follows_sizes(one: float, other: float, sizes: Sizes) -> bool:
    """Whether two numbers differ as sizes do: n, n - 1, their inverses, or roots of these."""
    if isinstance(one, int) and isinstance(other, int):
        # a size, the index of the last element, and an index from the end
        return any(pair in sizes for pair in ((one, other), (one + 1, other + 1), (-one, -other)))
    if not (one and other and math.isfinite(one) and math.isfinite(other)):
        return False
    for (n, m), less, power in itertools.product(sizes, (0, 1), (1, -1, 0.5, -0.5)):
        ratio = (n - less) / (m - less) if m > less else 0.0
        if ratio and math.isclose(one / other, ratio**power, rel_tol=_CLOSE):
            return True
    return False


def _same_constant(large: Tensor, small: Tensor) -> bool:
    """Whether a constant is the leading part of another one, and of its kind: masks, positions."""
    if large.dtype != small.dtype or large.ndim != small.ndim:
        return False
    if any(n < m for n, m in zip(large.shape, small.shape, strict=True)):
        return False
    if not same_bits(large[tuple(slice(m) for m in small.shape)], small):
        return False
    if large.shape == small.shape:
        return True
    distinct = large.unique()
    return len(distinct) > FEW or bool(same_bits(distinct, small.unique()))
