"""The losses: what is made small, and the error -dLoss/dl that starts the way back.

One row of `LOSSES` for each. l and y are (..., B, O): B rows, O outputs; leading dimensions are
networks side by side, each with a loss of its own. What is divided by a number of elements is
multiplied by its reciprocal, rounded to the dtype first, as autograd's mean does. An error is that
of the mean over the rows of all `ranks`, of which l and y are one's.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from manual.sigmoid import sigmoid


@dataclass(frozen=True)
class Loss:
    """`value(l, y)` is (...,), `error(l, y, ranks)` is -dLoss/dl, shaped as l."""

    value: Callable[[Tensor, Tensor], Tensor]
    error: Callable[..., Tensor]


def half_squared_error(l: Tensor, y: Tensor) -> Tensor:
    """Return sum((y - l)**2) / 2, the blog's."""
    return ((y - l) ** 2).sum((-2, -1)) / 2


def half_squared_error_error(l: Tensor, y: Tensor, ranks: int = 1) -> Tensor:
    """Return y - l: how much did we miss the target value? A sum, however many ranks."""
    del ranks
    return y - l


def mse(l: Tensor, y: Tensor) -> Tensor:
    """Return the mean of (y - l)**2 over rows and outputs."""
    return ((y - l) ** 2).mean((-2, -1))


def mse_error(l: Tensor, y: Tensor, ranks: int = 1) -> Tensor:
    """Return 2 / (B * O) * (y - l), signs turned as autograd's: a miss of 0 gives its -0."""
    return (l - y) * (-2 * _one_of(l.shape[-2] * l.shape[-1] * ranks, l))


def binary_cross_entropy_with_logits(l: Tensor, y: Tensor) -> Tensor:
    """Return the mean of log(1 + exp(l)) - y * l; y in [0, 1], sigmoid(l) the chance of a 1."""
    softplus = l.clamp(min=0) + torch.log1p(torch.exp(-l.abs()))
    return (softplus - y * l).mean((-2, -1))


def binary_cross_entropy_with_logits_error(l: Tensor, y: Tensor, ranks: int = 1) -> Tensor:
    """Return (y - sigmoid(l)) / (B * O), signs turned as autograd's: a miss of 0 gives its -0."""
    return (sigmoid(l) - y) * -_one_of(l.shape[-2] * l.shape[-1] * ranks, l)


def cross_entropy(l: Tensor, y: Tensor) -> Tensor:
    """Return the mean over rows of -log softmax(l) at the row's class; y is 1 there, else 0."""
    return -(y * torch.log_softmax(l, -1)).sum(-1).mean(-1)


def cross_entropy_error(l: Tensor, y: Tensor, ranks: int = 1) -> Tensor:
    """Return (y - softmax(l)) / B; source: Bishop, Pattern Recognition, (4.109).

    Not always autograd's bits: exp(log_softmax) comes nearest, and its kernel's exp is another.
    """
    return (y - torch.exp(torch.log_softmax(l, -1))) * _one_of(l.shape[-2] * ranks, l)


def _one_of(count: int, like: Tensor) -> Tensor | float:
    """Return 1 / count, which half precision would not round by itself."""
    return like.new_ones(()) / count if like.dtype.itemsize == 2 else 1 / count


#: Every loss by its name.
LOSSES = {
    "half_squared_error": Loss(half_squared_error, half_squared_error_error),
    "mse": Loss(mse, mse_error),
    "binary_cross_entropy_with_logits": Loss(
        binary_cross_entropy_with_logits, binary_cross_entropy_with_logits_error
    ),
    "cross_entropy": Loss(cross_entropy, cross_entropy_error),
}
