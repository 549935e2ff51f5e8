"""Autograd's gradients through a Function, also through one that works with `.backward()` alone."""

from collections.abc import Sequence

import torch
from torch import Tensor


def gradients(
    outputs: Sequence[Tensor], leaves: Sequence[Tensor], cotangents: Sequence[Tensor], *,
    retain_graph: bool = False,
) -> list[Tensor | None]:  # fmt: skip
    """Return the gradient of each leaf, None where none reaches it.

    A Function that runs autograd itself, as checkpointing does, may refuse torch.autograd.grad:
    "not compatible with .grad(), please use .backward()". It raises before any of its work, so the
    graph is still whole, and `.backward()` is called on it.

    Args:
        outputs: The outputs to differentiate.
        leaves: Leaves of the graph; their `.grad` stays as it is.
        cotangents: One for each output.
        retain_graph: Whether the graph can be used once more.
    """
    try:
        return [
            *torch.autograd.grad(
                outputs, leaves, cotangents, allow_unused=True, retain_graph=retain_graph
            )
        ]
    except RuntimeError as error:
        if "not compatible with .grad()" not in str(error):
            raise
    before = [leaf.grad for leaf in leaves]
    try:
        for leaf in leaves:
            leaf.grad = None
        torch.autograd.backward(outputs, cotangents, retain_graph=retain_graph)
        return [leaf.grad for leaf in leaves]
    finally:
        for leaf, grad in zip(leaves, before, strict=True):
            leaf.grad = grad
