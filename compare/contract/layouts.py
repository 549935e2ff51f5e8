"""Copies of tensors in other layouts: the same numbers, other strides."""

import torch
from torch import Tensor


def spread(value: Tensor, which: int = -1) -> Tensor:
    """Return its first numbers along a dimension of several, repeated there by stride 0.

    That is the last one, or with 0 the first one.

    The memory behind it has as many elements as a dense tensor: code that takes it for one reads
    other numbers, and nothing beyond.
    """
    wide = [k for k, size in enumerate(value.shape) if size > 1]
    if not wide or not value.numel():
        return value.clone()
    return value.contiguous().clone().narrow(wide[which], 0, 1).expand(value.shape)


def transposed(value: Tensor) -> Tensor:
    """Return the same numbers with the last two dimensions of several the other way in memory."""
    wide = [k for k, size in enumerate(value.shape) if size > 1]
    if len(wide) < 2 or not value.numel():
        return value.clone()
    return value.transpose(*wide[-2:]).contiguous().clone().transpose(*wide[-2:])


def cut(value: Tensor) -> Tensor:
    """Return the same numbers cut out of a tensor that is larger on all sides, of NaN there."""
    if not value.ndim or not value.numel():
        return value.clone()
    larger = value.new_full([size + 2 for size in value.shape], torch.nan)
    inner = larger[tuple(slice(1, -1) for _ in value.shape)]
    return inner.copy_(value)


def as_it_lies(value: Tensor) -> Tensor:
    """Return a copy with the strides and the offset of `value`, all between its elements copied."""
    value = value.detach()
    if keeps_layout(value) or not value.numel():
        return value.clone()
    pairs = zip(value.shape, value.stride(), strict=True)
    extent = 1 + sum((size - 1) * stride for size, stride in pairs)
    # behind what is expanded: code that takes it for dense reads no other's memory
    spare = value.reshape(-1)[: max(0, value.numel() - extent)]
    offset = value.storage_offset()
    memory = torch.cat([value.as_strided((offset + extent,), (1,), 0), spare])
    # not as_strided, whose result is a view that a Function may not write into
    return value.new_empty(0).set_(memory.untyped_storage(), offset, value.shape, value.stride())


def keeps_layout(value: Tensor) -> bool:
    """Whether a clone has the strides of `value` and its offset: then no other call has them."""
    wide = [k for k, size in enumerate(value.shape) if size > 1]
    alike = all(value.stride(k) == value.clone().stride(k) for k in wide)
    return not value.numel() or (alike and not value.storage_offset())
