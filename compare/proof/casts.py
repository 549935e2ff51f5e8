"""Where a pass rounds to a dtype that is narrower than its quantity's: an autocast by accident."""

import torch
from torch import Tensor, fx

from compare.proof.lift import cone
from compare.proof.program import Opaque, Program, operation
from compare.proof.source import shown


def told(hand: Program | Opaque, reference: Program | Opaque, name: str, dtype: torch.dtype) -> str:
    """Return in words which line of the by-hand side rounds a quantity to a narrower dtype.

    "" where none does, or where the reference rounds to that dtype too.
    """
    if isinstance(hand, Opaque) or isinstance(reference, Opaque):
        return ""
    theirs = {_narrow(node, dtype) for node in _above(reference, name)}
    for node in _above(hand, name):
        narrow = _narrow(node, dtype)
        if narrow is not None and narrow not in theirs:
            line = shown(node)
            at = f" at {line}" if line else ""
            return f"it rounds to {str(narrow).removeprefix('torch.')}{at}"
    return ""


def _above(program: Program, name: str) -> list[fx.Node]:
    """Return the operations that a quantity comes from, in order."""
    needed = cone(program, [name], ())
    return [node for node in program.graph.nodes if node in needed]


def _narrow(node: fx.Node, dtype: torch.dtype) -> torch.dtype | None:
    """Return the dtype that an operation casts to if it has fewer bits than `dtype` has."""
    value = node.meta.get("val")
    if operation(node) != "_to_copy" or not isinstance(value, Tensor):
        return None
    if not value.is_floating_point():
        return None
    return value.dtype if torch.finfo(value.dtype).eps > torch.finfo(dtype).eps else None
