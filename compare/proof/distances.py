"""Gradients of p-norms of differences, for the rows of cdist and pdist.

Shapes: N points of M coordinates.
"""

import math
from typing import Any

import torch
from torch import Tensor

from compare.proof.arithmetic_interface import Call, N, flat_indices


def distance_backward(
    n: Call[N], weight: N, difference: N, floats: Tensor, order: float, size: N, lengths: Tensor
) -> N:
    """Return the gradient of the p-norm of differences, at the differences.

    It is weight * sign(d) * (|d| / norm)**(p - 1), and torch's 0 where the norm is 0.

    Args:
        n: The arithmetic.
        weight: The cotangent of each norm, (..., 1).
        difference: The differences, (..., M).
        floats: The float run's differences, (..., M).
        order: The order p of the norm.
        size: The norms, (..., 1).
        lengths: The float run's norms, (..., 1).
    """
    shape = tuple(floats.shape)
    floats, lengths = floats.detach().double().cpu(), lengths.detach().double().cpu()
    zero = n.broadcast_to(n.exact(torch.zeros(())), shape)
    one = n.broadcast_to(n.exact(torch.ones(())), shape)
    if order == 0:
        return zero
    sign = n.exact(floats.sign())
    if order == 1:
        return sign * weight
    if order == math.inf:
        return n.where(floats.abs() == lengths, sign * weight, zero)
    far = (lengths != 0).expand(shape)
    wide = n.where(far, n.broadcast_to(size, shape), one)
    if order == 2:
        return n.where(far, difference / wide, zero) * weight
    used = far & (floats != 0)
    step = n.where(used, n.function("abs", difference), one)
    share = n.power(step, order - 1, n.dtype) / n.power(wide, order - 1, n.dtype)
    return n.where(used, sign * share * weight, zero)


def pair_rows(n: Call[N], x: N) -> tuple[N, N]:
    """Return the two points of each pair, (N * (N - 1) / 2, M) each, in the order of pdist."""
    first, second = _pairs(x.shape[0])
    rows = flat_indices(x.shape)
    return n.take(x, rows[first]), n.take(x, rows[second])


def _pairs(count: int) -> Tensor:
    return torch.triu_indices(count, count, 1)


def pdist_backward(n: Call[N], g: N, x: N, p: Any, distance: N) -> N:
    """Return the gradient of the points, (N, M): each pair adds its own to both."""
    floats, lengths = n.arguments[1], n.arguments[3].unsqueeze(-1)
    first, second = _pairs(x.shape[0])
    one, other = pair_rows(n, x)
    size, weight = (n.take(v, flat_indices(v.shape).unsqueeze(-1)) for v in (distance, g))
    difference = floats[first] - floats[second]
    share = distance_backward(n, weight, one - other, difference, float(n.scalar(p)), size, lengths)
    rows = flat_indices(x.shape)
    target = torch.cat([rows[first], rows[second]]).flatten()
    return n.scatter_add(n.exact(torch.zeros(tuple(x.shape))), target, n.join([share, -share]))
