"""How well an output tells y: of logits as chances or classes, of anything else as numbers.

Outputs and targets are (steps, networks, rows, outputs).
"""

import torch
from torch import Tensor

MOST_CLASSES = 256  # that a confusion matrix tells apart: it grows with their square


def prediction(l: Tensor, loss: str) -> Tensor:
    """Return what an output says of y: its logits as chances."""
    if loss == "cross_entropy":
        return torch.softmax(l, -1)
    return torch.sigmoid(l) if loss == "binary_cross_entropy_with_logits" else l


def error(l: Tensor, y: Tensor, loss: str) -> Tensor:
    """Return the mean absolute error over networks, rows and outputs."""
    return (y - prediction(l, loss)).abs().mean((-3, -2, -1))


def right(l: Tensor, y: Tensor, loss: str) -> Tensor:
    """Return the share of rows whose class is right, over networks and rows."""
    if loss == "cross_entropy":
        hits = l.argmax(-1) == y.argmax(-1)
    else:
        hits = ((l > 0) == (y > 0.5)).all(-1)
    return hits.to(torch.float64).mean((-2, -1))


def confusion(l: Tensor, y: Tensor) -> list[list[int]]:
    """Return how many rows of each class were taken for which, of (networks, rows, classes).

    Of more than MOST_CLASSES classes each row and column is of `classes_each` neighbouring ones.
    """
    each = classes_each(y.shape[-1])
    count = -(-y.shape[-1] // each)
    pairs = y.argmax(-1).flatten() // each * count + l.argmax(-1).flatten() // each
    found: list[list[int]] = torch.bincount(pairs, minlength=count**2).view(count, count).tolist()
    return found


def classes_each(classes: int) -> int:
    """Return how many classes share a row of a confusion matrix."""
    return max(1, -(-classes // MOST_CLASSES))
