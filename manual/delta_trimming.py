"""Delta trimming: an item of the blog's list that the blog does not explain.

The two variants here are this project's interpretation of the name.
"""

import torch
from torch import Tensor


def trim(delta: Tensor, limit: float, trimming: str) -> Tensor:
    """Return delta clipped to [-limit, limit], or with all values in that interval set to 0.

    Args:
        delta: the deltas of a layer, any shape.
        limit: the largest absolute value that is kept ("clip") or zeroed ("zero").
        trimming: "clip" or "zero".

    Raises:
        KeyError: for any other `trimming`.
    """
    return {"clip": _clip, "zero": _zero}[trimming](delta, limit)


def _clip(delta: Tensor, limit: float) -> Tensor:
    return delta.clamp(-limit, limit)


def _zero(delta: Tensor, limit: float) -> Tensor:
    return torch.where(delta.abs() > limit, delta, 0)
