"""The losses as torch.nn.functional has them, one value for each of the networks side by side."""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor


def half_squared_error(l: Tensor, y: Tensor) -> Tensor:
    """Return sum((y - l)**2) / 2 over rows and outputs."""
    return ((y - l) ** 2).sum((-2, -1)) / 2


def mse(l: Tensor, y: Tensor) -> Tensor:
    """Return the mean over rows and outputs."""
    return F.mse_loss(l, y, reduction="none").mean((-2, -1))


def binary_cross_entropy_with_logits(l: Tensor, y: Tensor) -> Tensor:
    """Return the mean over rows and outputs; y in [0, 1]."""
    return F.binary_cross_entropy_with_logits(l, y, reduction="none").mean((-2, -1))


def cross_entropy(l: Tensor, y: Tensor) -> Tensor:
    """Return the mean over rows; y is 1 at the row's class and 0 elsewhere."""
    rows = F.cross_entropy(l.flatten(0, -2), y.argmax(-1).flatten(), reduction="none")
    loss: Tensor = rows.unflatten(0, l.shape[:-1]).mean(-1)
    return loss


#: Every loss by its name.
LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "half_squared_error": half_squared_error,
    "mse": mse,
    "binary_cross_entropy_with_logits": binary_cross_entropy_with_logits,
    "cross_entropy": cross_entropy,
}
