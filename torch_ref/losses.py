"""The losses as torch.nn.functional has them, one value for each of the networks side by side.

With several ranks l and y are one's rows, and the value is its share of the loss of all rows.
"""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor


def half_squared_error(l: Tensor, y: Tensor, ranks: int = 1) -> Tensor:
    """Return sum((y - l)**2) / 2 over rows and outputs."""
    del ranks
    return ((y - l) ** 2).sum((-2, -1)) / 2


def mse(l: Tensor, y: Tensor, ranks: int = 1) -> Tensor:
    """Return the mean over rows and outputs."""
    return _mean(F.mse_loss(l, y, reduction="none"), (-2, -1), ranks)


def binary_cross_entropy_with_logits(l: Tensor, y: Tensor, ranks: int = 1) -> Tensor:
    """Return the mean over rows and outputs; y in [0, 1]."""
    each = F.binary_cross_entropy_with_logits(l, y, reduction="none")
    return _mean(each, (-2, -1), ranks)


def cross_entropy(l: Tensor, y: Tensor, ranks: int = 1) -> Tensor:
    """Return the mean over rows; y is 1 at the row's class and 0 elsewhere."""
    rows = F.cross_entropy(l.flatten(0, -2), y.argmax(-1).flatten(), reduction="none")
    return _mean(rows.unflatten(0, l.shape[:-1]), (-1,), ranks)


def _mean(values: Tensor, dims: tuple[int, ...], ranks: int) -> Tensor:
    """Return what `values` have in the mean over `dims` of all ranks' values."""
    if ranks == 1:
        return values.mean(dims)
    total = values.sum(dims)
    return total / (values.numel() // total.numel() * ranks)


#: Every loss by its name.
LOSSES: dict[str, Callable[..., Tensor]] = {
    "half_squared_error": half_squared_error,
    "mse": mse,
    "binary_cross_entropy_with_logits": binary_cross_entropy_with_logits,
    "cross_entropy": cross_entropy,
}
