"""Copies of tensors in other layouts: the same numbers, other strides."""

import torch
from torch import Tensor


def spread(value: Tensor) -> Tensor:
    """Return its first numbers along the last dimension of several, repeated there by stride 0.

    The memory behind it has as many elements as a dense tensor: code that takes it for one reads
    other numbers, and nothing beyond.
    """
    wide = [k for k, size in enumerate(value.shape) if size > 1]
    if not wide or not value.numel():
        return value.clone()
    return value.contiguous().clone().narrow(wide[-1], 0, 1).expand(value.shape)


def transposed(value: Tensor) -> Tensor:
    """Return the same numbers with the last two dimensions of several the other way in memory."""
    wide = [k for k, size in enumerate(value.shape) if size > 1]
    if len(wide) < 2 or not value.numel():
        return value.clone()
    return value.transpose(*wide[-2:]).contiguous().clone().transpose(*wide[-2:])


def as_it_lies(value: Tensor) -> Tensor:
    """Return a copy with the strides of `value`, what lies between its elements copied too."""
    value = value.detach()
    if value.is_contiguous() or not value.numel():
        return value.clone()
    pairs = zip(value.shape, value.stride(), strict=True)
    extent = 1 + sum((size - 1) * stride for size, stride in pairs)
    # behind what is expanded: code that takes it for dense reads no other's memory
    spare = value.reshape(-1)[: max(0, value.numel() - extent)]
    memory = torch.cat([value.as_strided((extent,), (1,), value.storage_offset()), spare])
    # not as_strided, whose result is a view that a Function may not write into
    return value.new_empty(0).set_(memory.untyped_storage(), 0, value.shape, value.stride())


def keeps_layout(value: Tensor) -> bool:
    """Whether a clone has the strides of `value`: then no other call has its own strides."""
    wide = [k for k, size in enumerate(value.shape) if size > 1]
    return not value.numel() or all(value.stride(k) == value.clone().stride(k) for k in wide)
