"""The blog's `nonlin`: the sigmoid, and its backward pass.

The derivative of the sigmoid is l * (1 - l), written with the sigmoid's own value l. The product
error * l * (1 - l) can be grouped in two ways. Both give the same real number, but they round
differently, so their last bits can differ.

Example:
    >>> import torch
    >>> from manual.sigmoid import delta_left_to_right, sigmoid
    >>> l = sigmoid(torch.tensor([-2.0, 0.0, 2.0]))
    >>> l
    tensor([0.1192, 0.5000, 0.8808])
    >>> delta_left_to_right(torch.tensor([1.0, 1.0, 1.0]), l)
    tensor([0.1050, 0.2500, 0.1050])
"""

from collections.abc import Callable

import torch
from torch import Tensor


def sigmoid(x: Tensor) -> Tensor:
    """Return 1 / (1 + exp(-x)), elementwise; any shape."""
    return torch.sigmoid(x)


def delta_left_to_right(error: Tensor, l: Tensor) -> Tensor:
    """Return (error * (1 - l)) * l, grouped as in torch's kernel, so it has the same bits.

    On the CPU the kernel computes bfloat16 in float32 and rounds once at the end, and so does this
    function; in float16 the kernel rounds after every operation.

    Args:
        error: the error at the output l, any shape.
        l: the output of the sigmoid, shaped as error.
    """
    if l.dtype is torch.bfloat16 and l.device.type == "cpu":
        return (error.float() * (1 - l.float()) * l.float()).to(l.dtype)
    return error * (1 - l) * l


def delta_as_blog(error: Tensor, l: Tensor) -> Tensor:
    """Return error * (l * (1 - l)), grouped as in the blog: about an ulp off torch's bits.

    Args:
        error: the error at the output l, any shape.
        l: the output of the sigmoid, shaped as error.
    """
    return error * (l * (1 - l))


#: The two groupings of error * l * (1 - l), by name.
GROUPINGS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "left_to_right": delta_left_to_right,
    "blog": delta_as_blog,
}
