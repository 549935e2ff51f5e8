"""Delta trimming, an item of the blog's list that it explains nowhere; both readings are ours."""

import torch
from torch import Tensor


def trim(delta: Tensor, limit: float, trimming: str) -> Tensor:
    """Return delta clipped to [-limit, limit], or with what lies within it zeroed.

    Raises KeyError for another trimming than clip and zero.
    """
    return {"clip": _clip, "zero": _zero}[trimming](delta, limit)


def _clip(delta: Tensor, limit: float) -> Tensor:
    return delta.clamp(-limit, limit)


def _zero(delta: Tensor, limit: float) -> Tensor:
    return torch.where(delta.abs() > limit, delta, 0)
