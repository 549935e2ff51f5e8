"""Rows of the table for embedding bags: sums, means or maxima of rows of a table.

Shapes: the table is (W, D), the indices (I,), the result (B, D). Without padding, bag b holds the
indices from offsets[b] up to the next offset.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from compare.proof.arithmetic_interface import Call, N, flat_indices
from compare.proof.group_reductions import reduce_groups

_HOW = "sum", "mean", "amax"


def _bags(indices: Tensor, offsets: Tensor, count: int, padding: int) -> Tensor:
    """Return the bag of each index, (I,); -1 for padding.

    Raises:
        ValueError: The last of `count` + 1 offsets leaves indices over, which torch's kernels drop
            or not.
    """
    if len(offsets) > count and int(offsets[-1]) != len(indices):
        raise ValueError("its last offset is not the number of indices")
    at = torch.arange(len(indices))
    bags = torch.searchsorted(offsets.contiguous(), at, right=True) - 1
    return torch.where(indices != padding, bags, -1)


def _cells(rows: Tensor, width: int) -> Tensor:
    """Return the flat indices of the elements of rows, (rows, width); -1 for those of row -1."""
    cells = rows.unsqueeze(1) * width + torch.arange(width)
    return torch.where(rows.unsqueeze(1) >= 0, cells, -1)


def _column(n: Call[N], x: N) -> N:
    return n.take(x, flat_indices(x.shape).unsqueeze(1))


def _embedding_bag(
    n: Call[N], w: N, indices: Tensor, offsets: Tensor, _by_frequency: bool = False, mode: int = 0,
    _sparse: bool = False, weights: N | None = None, _last: bool = False,
    padding: int = -1,
) -> tuple[Any, ...]:  # fmt: skip
    indices, offsets, (count, width) = indices.cpu(), offsets.cpu(), n.out[0].shape
    bags = _bags(indices, offsets, count, padding)
    rows = n.take(w, _cells(indices, width))
    if weights is not None:
        rows = rows * _column(n, weights)
    members = n.take(rows, flat_indices(rows.shape).flatten())
    groups = _cells(bags, width).flatten()
    result = reduce_groups(n, members, groups, count * width, _HOW[mode], 0.0)
    return n.take(result, flat_indices((count, width))), *n.out[1:]


def _embedding_bag_backward(
    n: Call[N], g: N, indices: Tensor, offsets: Tensor, _offset2bag: Tensor, sizes: Tensor,
    largest: Tensor, table: int, by_frequency: bool, mode: int, _sparse: bool,
    weights: N | None, padding: int = -1,
) -> N:  # fmt: skip
    """Return the gradient of the table; of a maximum it goes to the row of the float run.

    Raises:
        ValueError: It scales by frequency: torch's kernel on the CPU divides by the frequency of
            another index.
    """
    if by_frequency:
        raise ValueError("it scales by frequency")
    indices, sizes, (count, width) = indices.cpu(), sizes.cpu(), g.shape
    zero = n.exact(torch.zeros(table, width))
    if _HOW[mode] == "amax":
        used = (sizes > 0).unsqueeze(1)
        target = torch.where(used, largest.cpu() * width + torch.arange(width), -1)
        return n.scatter_add(zero, target, g)
    bags = _bags(indices, offsets.cpu(), count, padding)
    share = n.take(g, _cells(bags, width))
    if weights is not None:
        share = share * _column(n, weights)
    if _HOW[mode] == "mean":
        share = share / n.exact(sizes[bags].clamp_min(1).double().unsqueeze(1))
    return n.scatter_add(zero, _cells(torch.where(bags < 0, -1, indices), width), share)


def _weights_backward(
    n: Call[N], g: N, w: N, indices: Tensor, offsets: Tensor, _offset2bag: Tensor, _mode: int,
    padding: int = -1,
) -> N:  # fmt: skip
    """Return the gradient of the weight of each index, (I,)."""
    count, width = g.shape
    bags = _bags(indices.cpu(), offsets.cpu(), count, padding)
    return n.sum(
        n.take(g, _cells(bags, width)) * n.take(w, _cells(indices.cpu(), width)), [1], False
    )


EMBEDDING_BAGS: dict[str, Callable[..., Any]] = {
    "_embedding_bag": _embedding_bag,
    "_embedding_bag_backward": _embedding_bag_backward,
    "_embedding_bag_per_sample_weights_backward": _weights_backward,
}
