"""Rows of the table for reductions of groups: at given indices, and of segments.

Such an operation reduces, for each element of its result, a group of elements of its inputs. The
groups become the rows of a table of flat indices, padded with -1.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from compare.proof.arithmetic_interface import Call, N, flat_indices

# Numbers in a padded table of groups; a larger one would take minutes.
_MAX_TABLE = 1_000_000


def _table(groups: Tensor, count: int) -> Tensor:
    """Return the members of each group, (count, largest group), padded with -1.

    Args:
        groups: The group of each member, (members,); -1 for a member of none.
        count: The number of groups.
    """
    order = groups.argsort(stable=True)
    order = order[groups[order] >= 0]
    sizes = torch.bincount(groups[order], minlength=count)
    width = int(sizes.max()) if count else 0
    if count * width > _MAX_TABLE:
        limit = f"at most {_MAX_TABLE:,} are supported"
        raise ValueError(f"it needs {count * width:,} intermediate numbers, and {limit}")
    table = torch.full((count, width), -1)
    rank = torch.arange(len(order)) - (sizes.cumsum(0) - sizes)[groups[order]]
    table[groups[order], rank] = order
    return table


def reduce_groups(n: Call[N], members: N, groups: Tensor, count: int, how: str, empty: float) -> N:
    """Return the reduction of each group of a vector of members, (count,).

    Args:
        n: The arithmetic.
        members: The numbers, (members,).
        groups: The group of each member, (members,); -1 for a member of none.
        count: The number of groups.
        how: sum, mean, prod, amax (or max) or amin (or min).
        empty: The result for an empty group.
    """
    table = _table(groups, count)
    filled = (table >= 0).any(1)
    nothing = n.broadcast_to(n.exact(torch.tensor(empty, dtype=torch.float64)), (count,))
    if not bool(filled.any()):
        return nothing
    if how in ("sum", "mean"):  # every addition rounds to the dtype, as in scatter_add
        result = n.scatter_add(n.exact(torch.zeros(count)), groups, members)
        if how == "mean":
            result = result / n.exact((table >= 0).sum(1).clamp_min(1).double())
    elif how == "prod":
        with_one = n.join([members, n.exact(torch.ones(1))])
        result = n.product(n.take(with_one, table.where(table >= 0, len(groups))), 1)
        result = n.take(result, torch.arange(count))
    else:
        full = table.where(table >= 0, table[:, :1].clamp_min(0))
        values = n.take(members, full)
        low = how in ("amin", "min")
        result = -n.amax(-values, [1], False) if low else n.amax(values, [1], False)
    return n.where(filled, result, nothing)


def _in_shape(n: Call[N], x: N, shape: Sequence[int]) -> N:
    return n.take(x, flat_indices(shape))


def _scatter_reduce(
    n: Call[N], x: N, dim: int, index: Tensor, source: N, reduce: str, include_self: bool = True
) -> N:
    index = index.cpu()
    targets = flat_indices(x.shape)
    if not x.ndim:
        targets, index = targets.reshape(1), index.reshape(1)
    part = flat_indices(source.shape).reshape(source.shape if source.ndim else (1,))
    part = part[tuple(slice(size) for size in index.shape)].flatten()
    target = targets.gather(dim, index).flatten()
    own = targets.flatten().clone()
    count = own.numel()
    if not include_self:  # what is not the target of any source keeps its own value
        own[target] = -1
    members = n.join([x, n.take(source, part)])
    groups = torch.cat([own, target])
    return _in_shape(n, reduce_groups(n, members, groups, count, reduce, 0.0), x.shape)


def _index_reduce(
    n: Call[N], x: N, dim: int, index: Tensor, source: N, reduce: str, *, include_self: bool = True
) -> N:
    along = [1] * source.ndim
    if source.ndim:
        along[dim] = -1
    full = index.cpu().reshape(along).expand(tuple(source.shape))
    return _scatter_reduce(n, x, dim, full, source, reduce, include_self)


def _segments(
    shape: Sequence[int], lengths: Tensor | None, offsets: Tensor | None, axis: int
) -> tuple[Tensor, list[int]]:
    """Return the segment of each element as a flat index of the result, and the result's shape."""
    if lengths is None:
        assert offsets is not None
        lengths = offsets.diff(dim=-1)
    lengths = lengths.cpu()
    outer, inner = lengths.shape[:-1], list(shape[axis + 1 :])
    size, count = shape[axis], lengths.shape[-1]
    ends = lengths.cumsum(-1).reshape(-1, count)
    at = torch.arange(size).expand(len(ends), size).contiguous()
    segment = torch.searchsorted(ends.contiguous(), at, right=True)
    rows = torch.arange(len(ends)).unsqueeze(1)
    flat = torch.where(segment < count, rows * count + segment, -1)
    wide = math.prod(inner)
    groups = flat.unsqueeze(-1) * wide + torch.arange(wide)
    groups = torch.where(flat.unsqueeze(-1) >= 0, groups, -1)
    return groups.flatten(), [*outer, count, *inner]


_STARTS = {"max": -math.inf, "min": math.inf, "mean": math.nan, "sum": 0.0, "prod": 1.0}


def _segment_reduce(
    n: Call[N], data: N, reduce: str, *, lengths: Tensor | None = None,
    offsets: Tensor | None = None, axis: int = 0, initial: Any = None, **_: Any,
) -> N:  # fmt: skip
    groups, shape = _segments(data.shape, lengths, offsets, axis)
    count = math.prod(shape)
    start = _STARTS[reduce] if initial is None else float(n.scalar(initial))
    members = n.take(data, flat_indices(data.shape).flatten())
    if initial is not None:  # a member of every segment; a mean does not count it
        if reduce == "mean":
            raise ValueError("it has an initial value")
        first = n.broadcast_to(n.exact(torch.tensor(start, dtype=torch.float64)), (count,))
        members, groups = n.join([members, first]), torch.cat([groups, torch.arange(count)])
    return _in_shape(n, reduce_groups(n, members, groups, count, reduce, start), shape)


def _segment_reduce_backward(
    n: Call[N], g: N, _output: N, data: N, reduce: str, *, lengths: Tensor | None = None,
    offsets: Tensor | None = None, axis: int = 0, initial: Any = None,
) -> N:  # fmt: skip
    """Return the gradient; of max and min its shares are equal among the float run's ties."""
    groups, shape = _segments(data.shape, lengths, offsets, axis)
    count = math.prod(shape)
    sizes = torch.bincount(groups[groups >= 0], minlength=count)
    share = n.take(g, torch.where(groups >= 0, groups, -1))
    if reduce in ("max", "min"):
        out, values = (floats.flatten().cpu() for floats in n.arguments[1:3])
        tied = (values == out[groups]) & (groups >= 0)
        ties = torch.bincount(groups[tied], minlength=count)
        share = share / n.exact(ties[groups].clamp_min(1).double())
        zero = n.broadcast_to(n.exact(torch.zeros(())), groups.shape)
        share = n.where(tied, share, zero)
    elif reduce == "mean":
        share = share / n.exact(sizes[groups].clamp_min(1).double())
    elif reduce == "prod":
        share = share * _other_factors(n, data, groups, count, initial)
    return _in_shape(n, share, data.shape)


def _other_factors(n: Call[N], data: N, groups: Tensor, count: int, initial: Any) -> N:
    """Return, for each element of the data, the product of the others in its segment."""
    table = _table(groups, count)
    size = table.shape[1]
    rows = table[groups.clamp_min(0)]  # (members, size)
    own = torch.arange(len(groups)).unsqueeze(1)
    used = (rows >= 0) & (rows != own)
    flat = n.take(data, flat_indices(data.shape).flatten())
    with_one = n.join([flat, n.exact(torch.ones(1))])
    if len(groups) * size > _MAX_TABLE:
        raise ValueError(f"it needs {len(groups) * size:,} intermediate numbers")
    product = n.take(n.product(n.take(with_one, rows.where(used, len(groups))), 1), own.flatten())
    return product if initial is None else product * initial


def _put(n: Call[N], x: N, index: Tensor, source: N, accumulate: bool = False) -> N:
    index, count = index.cpu().flatten(), math.prod(x.shape)
    index = torch.where(index < 0, index + count, index)
    values = n.take(source, flat_indices(source.shape).flatten())
    if accumulate:
        return n.scatter_add(x, index, values)
    chosen = flat_indices(x.shape).flatten()
    chosen[index] = torch.arange(count, count + len(index))
    return _in_shape(n, n.take(n.join([x, values]), chosen), x.shape)


def _masked_scatter_backward(n: Call[N], g: N, mask: Tensor, sizes: Sequence[int]) -> N:
    picked = flat_indices(g.shape)[mask.cpu().expand(tuple(g.shape))]
    index = torch.full((math.prod(sizes),), -1)
    index[: len(picked)] = picked
    return n.take(g, index.reshape(tuple(sizes)))


GROUP_REDUCTIONS: dict[str, Callable[..., Any]] = {
    "scatter_reduce": _scatter_reduce,
    "index_reduce": _index_reduce,
    "segment_reduce": _segment_reduce,
    "_segment_reduce_backward": _segment_reduce_backward,
    "put": _put,
    "masked_scatter_backward": _masked_scatter_backward,
}
