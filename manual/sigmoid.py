"""The blog's `nonlin`: the sigmoid, and how an error passes back through it.

The slope of the sigmoid is l * (1 - l), written with its own value l. There are two ways to
group error * l * (1 - l), the same real number and not the same bits.
"""

from collections.abc import Callable

import torch
from torch import Tensor


def sigmoid(x: Tensor) -> Tensor:
    """Return 1 / (1 + exp(-x)), elementwise, any shape."""
    return torch.sigmoid(x)


def delta_left_to_right(error: Tensor, l: Tensor) -> Tensor:
    """Return (error * (1 - l)) * l, grouped as torch's own kernel does: the same bits.

    `error` and `l` have one shape. On the CPU that kernel takes bfloat16 to float32 and rounds
    once at the end, so this does too; float16 it rounds at every operation.
    """
    if l.dtype is torch.bfloat16 and l.device.type == "cpu":
        return (error.float() * (1 - l.float()) * l.float()).to(l.dtype)
    return error * (1 - l) * l


def delta_as_blog(error: Tensor, l: Tensor) -> Tensor:
    """Return error * (l * (1 - l)), grouped as the blog groups it: off by an ulp or so."""
    return error * (l * (1 - l))


#: How `l_delta = error * slope` is grouped, by name.
GROUPINGS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "left_to_right": delta_left_to_right,
    "blog": delta_as_blog,
}
