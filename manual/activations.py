"""The activations l = f(z), and their backward passes error * f'(z).

`ACTIVATIONS` has one row for each. All of them are elementwise and take any shape. The derivatives
are grouped as torch's CPU kernels group them, and fused where those fuse, so that error * f'(z) has
the kernel's bits. Where that is impossible the docstring gives the reason. In half precision the
kernels compute in float32 and round once at the end, and so do these functions (`_wide`). The
sigmoid has a rule of its own, see `manual.sigmoid`.

Every backward pass has the same arguments, whether it needs them or not: `error`, the error at the
output (-dLoss/dl); `z`, the activation's input; and `l`, its output. All three
have the same shape, and so has the result.

Example:
    >>> import torch
    >>> from manual.activations import ACTIVATIONS
    >>> relu = ACTIVATIONS["relu"]
    >>> z = torch.tensor([-1.0, 0.0, 2.0])
    >>> l = relu.value(z)
    >>> l
    tensor([0., 0., 2.])
    >>> relu.delta(torch.tensor([5.0, 5.0, 5.0]), z, l)
    tensor([0., 0., 5.])
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps

import torch
from torch import Tensor

from manual.sigmoid import delta_left_to_right, sigmoid


@dataclass(frozen=True)
class Activation:
    """An activation: `value(z)` is l, `delta(error, z, l)` is error * dl/dz, all of one shape."""

    value: Callable[[Tensor], Tensor]
    delta: Callable[[Tensor, Tensor, Tensor], Tensor]


def _wide(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return a version of `function` that computes half precision in float32 and rounds once."""

    @wraps(function)
    def widened(*tensors: Tensor) -> Tensor:
        dtype = tensors[0].dtype
        if dtype in (torch.float16, torch.bfloat16):
            return function(*(tensor.float() for tensor in tensors)).to(dtype)
        return function(*tensors)

    return widened


def sigmoid_delta(error: Tensor, z: Tensor, l: Tensor) -> Tensor:
    """Return error * (1 - l) * l, the blog's delta.

    Args:
        error: the error at the output l, any shape.
        z: the input of the activation, not needed here.
        l: the output of the activation.
    """
    return delta_left_to_right(error, l)


@_wide
def tanh_delta(error: Tensor, z: Tensor, l: Tensor) -> Tensor:
    """Return error * (1 - l * l).

    The kernel rounds the derivative once (fused multiply-add), so this uses addcmul.
    The arguments are those of `sigmoid_delta`.
    """
    return error * torch.addcmul(torch.ones_like(l), l, l, value=-1)


def relu_delta(error: Tensor, z: Tensor, l: Tensor) -> Tensor:
    """Return error where l > 0, else 0. At the kink, l = 0, torch's choice is 0.

    The arguments are those of `sigmoid_delta`.
    """
    return torch.where(l <= 0.0, 0.0, error)


def leaky_relu(z: Tensor) -> Tensor:
    """Return z where z > 0, else 0.01 * z; any shape. Source: Maas et al., 2013."""
    return torch.where(z > 0, z, z * 0.01)


def leaky_relu_delta(error: Tensor, z: Tensor, l: Tensor) -> Tensor:
    """Return error where z > 0, else 0.01 * error.

    The arguments are those of `sigmoid_delta`.
    """
    return torch.where(z > 0, error, error * 0.01)


@_wide
def gelu(z: Tensor) -> Tensor:
    """Return z * P(z), where P is the normal distribution function; any shape.

    Source: Hendrycks and Gimpel, 2016. The bits are not always those of torch's kernel, because its
    erf differs from torch.erf.
    """
    return 0.5 * z * (1 + torch.erf(z * math.sqrt(0.5)))


@_wide
def gelu_delta(error: Tensor, z: Tensor, l: Tensor) -> Tensor:
    """Return error * (P(z) + z * p(z)), where p is the normal density and P its integral.

    The bits are not those of torch's kernel, because its erf and exp differ from torch.erf and
    torch.exp.
    The arguments are those of `sigmoid_delta`.
    """
    P = 0.5 * (1 + torch.erf(z * math.sqrt(0.5)))
    p = torch.exp(z * z * -0.5) * (1 / math.sqrt(2 * math.pi))
    return error * torch.addcmul(P, z, p)


@_wide
def silu(z: Tensor) -> Tensor:
    """Return z * sigmoid(z); any shape. Source: Elfwing et al., 2017.

    The bits are not always those of torch's kernel, because its exp differs from torch.exp.
    """
    return z / (1 + torch.exp(-z))


@_wide
def silu_delta(error: Tensor, z: Tensor, l: Tensor) -> Tensor:
    """Return error * s * (1 + z * (1 - s)), where s = sigmoid(z).

    The kernel fuses the last product and sum, so this uses addcmul.
    The arguments are those of `sigmoid_delta`.
    """
    s = sigmoid(z)
    return error * s * torch.addcmul(torch.ones_like(z), z, 1 - s)


@_wide
def softplus(z: Tensor) -> Tensor:
    """Return log(1 + exp(z)), or z itself where z > 20, as torch does; any shape.

    Source: Dugas et al., 2001. The bits are not always those of torch's kernel, because its exp
    differs from torch.exp.
    """
    return torch.where(z > 20, z, torch.log1p(torch.exp(z)))


@_wide
def softplus_delta(error: Tensor, z: Tensor, l: Tensor) -> Tensor:
    """Return error * e / (e + 1), where e = exp(z), or error itself where z > 20.

    The bits are not always those of torch's kernel, because its exp differs from torch.exp.
    The arguments are those of `sigmoid_delta`.
    """
    e = torch.exp(z)
    return torch.where(z > 20, error, error * e / (e + 1))


def identity(z: Tensor) -> Tensor:
    """Return z unchanged: for outputs that go into the loss as they are, such as logits."""
    return z


def identity_delta(error: Tensor, z: Tensor, l: Tensor) -> Tensor:
    """Return error unchanged: the derivative is 1.

    The arguments are those of `sigmoid_delta`.
    """
    return error


#: All activations, by name.
ACTIVATIONS = {
    "sigmoid": Activation(sigmoid, sigmoid_delta),
    "tanh": Activation(torch.tanh, tanh_delta),
    "relu": Activation(torch.relu, relu_delta),
    "leaky_relu": Activation(leaky_relu, leaky_relu_delta),
    "gelu": Activation(gelu, gelu_delta),
    "silu": Activation(silu, silu_delta),
    "softplus": Activation(softplus, softplus_delta),
    "identity": Activation(identity, identity_delta),
}
