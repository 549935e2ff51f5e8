"""Float64 tensors beside each other: sorts out most candidates before any ball is worked out."""

from typing import Any

import torch
from torch import Tensor


def ratio(one: Tensor, other: Tensor) -> float | None:
    """Return the number that `other` is times `one` everywhere, None if it is none."""
    if one.shape != other.shape or not one.is_floating_point():
        return None
    at = int(one.abs().nan_to_num(0).argmax()) if one.numel() else -1
    if at < 0 or not float(one.flatten()[at]):
        return None
    found = float(other.flatten()[at] / one.flatten()[at])
    return found if one.numel() > 1 and found and alike(one * found, other) else None


def alike(one: Any, other: Tensor) -> bool:
    """Whether two float64 tensors are near each other wherever both are known: a first test."""
    if not isinstance(one, Tensor) or one.shape != other.shape:
        return False
    if not (one.is_floating_point() and other.is_floating_point()):
        return False
    known = ~(one.isnan() | other.isnan())
    if not known.any():
        return False
    a, b = one[known], other[known]
    return bool(((a - b).abs() <= 1e-8 * b.abs() + 1e-11 * b.abs().max()).all())


def near_rows(rows: Tensor, wanted: Tensor) -> list[int]:
    """Return the rows that are near `wanted`: the first test for many candidates at once."""
    room = 1e-8 * wanted.abs() + 1e-11 * wanted.abs().nan_to_num(0).max()
    far = (rows - wanted).abs() > room  # a NaN is unknown, not far
    return [int(at) for at in (~far.any(1)).nonzero().flatten()]


def broadcasts(part: Tensor, whole: Tensor) -> bool:
    """Whether a tensor of floats fits into another's shape."""
    try:
        both = torch.broadcast_shapes(part.shape, whole.shape)
    except RuntimeError:
        return False
    return part.is_floating_point() and both == whole.shape
