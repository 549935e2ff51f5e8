"""The losses of torch.nn.functional, with one value for each of the networks side by side.

The output l and the target y are (..., B, O), and every loss is (...). With several ranks
(processes), l and y are the rows of one rank, and the value is the rank's share of the loss over
the rows of all ranks.

Example:
    >>> import torch
    >>> from torch_ref.losses import LOSSES
    >>> l, y = torch.tensor([[0.5], [0.25]]), torch.tensor([[1.0], [0.0]])  # (2, 1)
    >>> LOSSES["half_squared_error"](l, y)
    tensor(0.1562)
"""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor


def half_squared_error(l: Tensor, y: Tensor, ranks: int = 1) -> Tensor:
    """Return sum((y - l)**2) / 2 over rows and outputs, the blog's loss.

    Args:
        l: the output of the network, (..., B, O).
        y: the target, shaped as l.
        ranks: the number of processes that share the rows; it does not matter for a sum.
    """
    del ranks
    return ((y - l) ** 2).sum((-2, -1)) / 2


def mse(l: Tensor, y: Tensor, ranks: int = 1) -> Tensor:
    """Return the mean of (y - l)**2 over rows and outputs.

    Args:
        l: the output of the network, (..., B, O).
        y: the target, shaped as l.
        ranks: the number of processes that share the rows.
    """
    return _mean(F.mse_loss(l, y, reduction="none"), (-2, -1), ranks)


def binary_cross_entropy_with_logits(l: Tensor, y: Tensor, ranks: int = 1) -> Tensor:
    """Return the mean of log(1 + exp(l)) - y * l over rows and outputs.

    Args:
        l: the logits, (..., B, O).
        y: the target, shaped as l, from 0 to 1.
        ranks: the number of processes that share the rows.
    """
    each = F.binary_cross_entropy_with_logits(l, y, reduction="none")
    return _mean(each, (-2, -1), ranks)


def cross_entropy(l: Tensor, y: Tensor, ranks: int = 1) -> Tensor:
    """Return the mean over rows of -log softmax(l) at the class of the row.

    Args:
        l: the logits, (..., B, O).
        y: the target, shaped as l: 1 at the class of the row, 0 elsewhere (one-hot).
        ranks: the number of processes that share the rows.
    """
    rows = F.cross_entropy(l.flatten(0, -2), y.argmax(-1).flatten(), reduction="none")
    return _mean(rows.unflatten(0, l.shape[:-1]), (-1,), ranks)


def _mean(values: Tensor, dims: tuple[int, ...], ranks: int) -> Tensor:
    """Return the sum of `values` over `dims`, divided by the number of values on all ranks."""
    if ranks == 1:
        return values.mean(dims)
    total = values.sum(dims)
    return total / (values.numel() // total.numel() * ranks)


#: All losses, by name.
LOSSES: dict[str, Callable[..., Tensor]] = {
    "half_squared_error": half_squared_error,
    "mse": mse,
    "binary_cross_entropy_with_logits": binary_cross_entropy_with_logits,
    "cross_entropy": cross_entropy,
}
