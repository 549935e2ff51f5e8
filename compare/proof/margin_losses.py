"""Rows of the table for the backward passes of margin losses.

Shapes: B rows of C scores. Which margins are violated is decided by the float run. Source:
PyTorch's documentation of torch.nn.MultiMarginLoss and torch.nn.MultiLabelMarginLoss.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from compare.proof.arithmetic_interface import Call, N, flat_indices

_MEAN = 1  # torch's number for this reduction


def _scaled(n: Call[N], g: N, gradient: N, shape: Any, reduction: int) -> N:
    """Return the gradient of the sum times the cotangent, over C, and over B for a mean."""
    rows, classes = gradient.shape
    along = (rows, 1) if g.ndim and reduction != _MEAN and len(shape) == 2 else (1, 1)
    gradient = gradient * n.take(g, flat_indices(g.shape).reshape(along))
    gradient = gradient / (classes * rows if reduction == _MEAN else classes)
    return n.take(gradient, flat_indices(shape))


def _multi_margin_backward(
    n: Call[N], g: N, x: N, target: Tensor, p: Any, margin: Any, weight: N | None = None,
    reduction: int = _MEAN,
) -> N:  # fmt: skip
    classes = x.shape[-1] if x.ndim else 1
    target = target.cpu().reshape(-1, 1)
    flat = flat_indices(x.shape).reshape(-1, classes)
    own = flat.gather(1, target)
    floats = n.arguments[1].detach().cpu().reshape(-1, classes)
    violated = float(n.scalar(margin)) - floats.gather(1, target) + floats > 0
    violated = violated.scatter(1, target, value=False)
    slope = n.broadcast_to(n.exact(torch.ones(())), flat.shape)
    if n.scalar(p) == 2:
        slope = (n.take(x, flat) - n.take(x, own) + margin) * 2
    if weight is not None:
        slope = slope * n.take(weight, target)
    zero = n.broadcast_to(n.exact(torch.zeros(())), flat.shape)
    slope = n.where(violated, slope, zero)
    gradient = n.scatter_add(slope, own.expand_as(flat) - flat[0, 0], -slope)
    return _scaled(n, g, gradient, x.shape, reduction)


def _multilabel_margin_backward(
    n: Call[N], g: N, x: N, target: Tensor, reduction: int, _is_target: N
) -> N:
    classes = x.shape[-1] if x.ndim else 1
    floats = n.arguments[1].detach().cpu().reshape(-1, classes)
    target, others = target.cpu().reshape(-1, classes), n.arguments[4].cpu() == 0
    others = others.reshape(-1, classes)
    listed = (target >= 0).int().cummin(1).values == 1  # the list ends at the first -1
    own = floats.gather(1, target.clamp_min(0)).unsqueeze(2)
    violated = (1 - own + floats.unsqueeze(1) > 0) & listed.unsqueeze(2) & others.unsqueeze(1)
    row, place, other = violated.nonzero(as_tuple=True)
    raised = n.exact(torch.ones(len(row)))
    at = torch.cat([row * classes + other, row * classes + target[row, place]])
    gradient = n.scatter_add(n.exact(torch.zeros(floats.shape)), at, n.join([raised, -raised]))
    return _scaled(n, g, gradient, x.shape, reduction)


MARGIN_LOSSES: dict[str, Callable[..., Any]] = {
    "multi_margin_loss_backward": _multi_margin_backward,
    "multilabel_margin_loss_backward": _multilabel_margin_backward,
}
