"""The losses, and the error -dLoss/dl with which the backward pass starts.

`LOSSES` has one row for each. The output l and the target y are (..., B, O): B rows, O outputs;
each of the networks side by side has its own loss. Where a mean divides by the number of elements,
the error is multiplied by the reciprocal of that number, which is rounded to the dtype first, as in
the backward pass of autograd's mean.

With several ranks (processes), l and y are the rows of one rank, and a mean is over the rows of all
ranks.

Example:
    >>> import torch
    >>> from manual.losses import LOSSES
    >>> l, y = torch.tensor([[0.5], [0.25]]), torch.tensor([[1.0], [0.0]])  # (2, 1)
    >>> LOSSES["half_squared_error"].value(l, y)
    tensor(0.1562)
    >>> LOSSES["half_squared_error"].error(l, y)
    tensor([[ 0.5000],
            [-0.2500]])
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from manual.sigmoid import sigmoid


@dataclass(frozen=True)
class Loss:
    """A loss: `value(l, y)` is (...,), `error(l, y, ranks)` is -dLoss/dl, shaped as l."""

    value: Callable[[Tensor, Tensor], Tensor]
    error: Callable[..., Tensor]


def half_squared_error(l: Tensor, y: Tensor) -> Tensor:
    """Return sum((y - l)**2) / 2, the blog's loss.

    Args:
        l: the output of the network, (..., B, O).
        y: the target, shaped as l.
    """
    return ((y - l) ** 2).sum((-2, -1)) / 2


def half_squared_error_error(l: Tensor, y: Tensor, ranks: int = 1) -> Tensor:
    """Return y - l: how much did we miss the target value?

    Args:
        l: the output of the network, (..., B, O).
        y: the target, shaped as l.
        ranks: the number of processes that share the rows; it does not matter for a sum.
    """
    del ranks
    return y - l


def mse(l: Tensor, y: Tensor) -> Tensor:
    """Return the mean of (y - l)**2 over rows and outputs.

    The arguments are those of `half_squared_error`.
    """
    return ((y - l) ** 2).mean((-2, -1))


def mse_error(l: Tensor, y: Tensor, ranks: int = 1) -> Tensor:
    """Return 2 / (B * O) * (y - l).

    It is computed as (l - y) * -(2 / (B * O)), so that a difference of 0 gives -0, as in autograd.

    Args:
        l: the output of the network, (..., B, O).
        y: the target, shaped as l.
        ranks: the number of processes that share the rows; the mean is over the rows of all.
    """
    return (l - y) * (-2 * _one_of(l.shape[-2] * l.shape[-1] * ranks, l))


def binary_cross_entropy_with_logits(l: Tensor, y: Tensor) -> Tensor:
    """Return the mean of log(1 + exp(l)) - y * l over rows and outputs.

    Args:
        l: the logits, (..., B, O): sigmoid(l) is the probability of a 1.
        y: the target, shaped as l, from 0 to 1.
    """
    softplus = l.clamp(min=0) + torch.log1p(torch.exp(-l.abs()))
    return (softplus - y * l).mean((-2, -1))


def binary_cross_entropy_with_logits_error(l: Tensor, y: Tensor, ranks: int = 1) -> Tensor:
    """Return (y - sigmoid(l)) / (B * O).

    It is computed as (sigmoid(l) - y) * -(1 / (B * O)), so that a difference of 0 gives -0, as in
    autograd.

    Args:
        l: the logits, (..., B, O).
        y: the target, shaped as l, from 0 to 1.
        ranks: the number of processes that share the rows; the mean is over the rows of all.
    """
    return (sigmoid(l) - y) * -_one_of(l.shape[-2] * l.shape[-1] * ranks, l)


def cross_entropy(l: Tensor, y: Tensor) -> Tensor:
    """Return the mean over rows of -log softmax(l) at the class of the row.

    Args:
        l: the logits, (..., B, O).
        y: the target, shaped as l: 1 at the class of the row, 0 elsewhere (one-hot).
    """
    return -(y * torch.log_softmax(l, -1)).sum(-1).mean(-1)


def cross_entropy_error(l: Tensor, y: Tensor, ranks: int = 1) -> Tensor:
    """Return (y - softmax(l)) / B. Source: Bishop, Pattern Recognition, (4.109).

    The bits are not always those of autograd: exp(log_softmax(l)) comes nearest, but the exp inside
    autograd's kernel differs from torch.exp.

    Args:
        l: the logits, (..., B, O).
        y: the target, shaped as l: 1 at the class of the row, 0 elsewhere (one-hot).
        ranks: the number of processes that share the rows; the mean is over the rows of all.
    """
    return (y - torch.exp(torch.log_softmax(l, -1))) * _one_of(l.shape[-2] * ranks, l)


def _one_of(count: int, like: Tensor) -> Tensor | float:
    """Return 1 / count, as a tensor for half precision, so that it is rounded to that dtype."""
    return like.new_ones(()) / count if like.dtype.itemsize == 2 else 1 / count


#: All losses, by name.
LOSSES = {
    "half_squared_error": Loss(half_squared_error, half_squared_error_error),
    "mse": Loss(mse, mse_error),
    "binary_cross_entropy_with_logits": Loss(
        binary_cross_entropy_with_logits, binary_cross_entropy_with_logits_error
    ),
    "cross_entropy": Loss(cross_entropy, cross_entropy_error),
}
