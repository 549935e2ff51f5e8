"""The activations: l = f(z), and how an error passes back through each: error * f'(z).

One row of `ACTIVATIONS` for each. All are elementwise, any shape. Each slope is grouped, and fused
where torch's kernel fuses, so that error * slope has that kernel's own bits on the CPU; where it
cannot have them the docstring says why. For half precision those kernels compute in float32 and
round once, and so do these (`_wide`); the sigmoid's own rule is in `manual.sigmoid`.
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
    """`value(z)` is l; `delta(error, z, l)` is error * dl/dz, all of one shape."""

    value: Callable[[Tensor], Tensor]
    delta: Callable[[Tensor, Tensor, Tensor], Tensor]


def _wide(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return `function` computed in float32 for half precision, rounded once at the end."""

    @wraps(function)
    def widened(*tensors: Tensor) -> Tensor:
        dtype = tensors[0].dtype
        if dtype in (torch.float16, torch.bfloat16):
            return function(*(tensor.float() for tensor in tensors)).to(dtype)
        return function(*tensors)

    return widened


def sigmoid_delta(error: Tensor, z: Tensor, l: Tensor) -> Tensor:
    """Return error * (1 - l) * l, the blog's delta."""
    return delta_left_to_right(error, l)


@_wide
def tanh_delta(error: Tensor, z: Tensor, l: Tensor) -> Tensor:
    """Return error * (1 - l * l); the kernel rounds the slope once, so addcmul."""
    return error * torch.addcmul(torch.ones_like(l), l, l, value=-1)


def relu_delta(error: Tensor, z: Tensor, l: Tensor) -> Tensor:
    """Return the error above 0, and 0 at 0 and below: torch's choice at the kink."""
    return torch.where(l <= 0.0, 0.0, error)


def leaky_relu(z: Tensor) -> Tensor:
    """Return z above 0, and 0.01 * z at 0 and below; source: Maas et al., 2013."""
    return torch.where(z > 0, z, z * 0.01)


def leaky_relu_delta(error: Tensor, z: Tensor, l: Tensor) -> Tensor:
    """Return the error above 0, and 0.01 of it at 0 and below."""
    return torch.where(z > 0, error, error * 0.01)


@_wide
def gelu(z: Tensor) -> Tensor:
    """Return z * P(z), P the normal distribution function; source: Hendrycks and Gimpel, 2016.

    Not always the kernel's bits: its erf is not torch.erf.
    """
    return 0.5 * z * (1 + torch.erf(z * math.sqrt(0.5)))


@_wide
def gelu_delta(error: Tensor, z: Tensor, l: Tensor) -> Tensor:
    """Return error * (P(z) + z * p(z)), p the normal density.

    Not the kernel's bits: its erf and its exp are not torch.erf and torch.exp.
    """
    P = 0.5 * (1 + torch.erf(z * math.sqrt(0.5)))
    p = torch.exp(z * z * -0.5) * (1 / math.sqrt(2 * math.pi))
    return error * torch.addcmul(P, z, p)


@_wide
def silu(z: Tensor) -> Tensor:
    """Return z * sigmoid(z); source: Elfwing et al., 2017.

    Not always the kernel's bits: its exp is not torch.exp.
    """
    return z / (1 + torch.exp(-z))


@_wide
def silu_delta(error: Tensor, z: Tensor, l: Tensor) -> Tensor:
    """Return error * s * (1 + z * (1 - s)), s = sigmoid(z); the kernel fuses the last product."""
    s = sigmoid(z)
    return error * s * torch.addcmul(torch.ones_like(z), z, 1 - s)


@_wide
def softplus(z: Tensor) -> Tensor:
    """Return log(1 + exp(z)), z itself above 20 as torch does; source: Dugas et al., 2001.

    Not always the kernel's bits: its exp is not torch.exp.
    """
    return torch.where(z > 20, z, torch.log1p(torch.exp(z)))


@_wide
def softplus_delta(error: Tensor, z: Tensor, l: Tensor) -> Tensor:
    """Return error * e / (e + 1), e = exp(z), and the error itself above 20.

    Not always the kernel's bits: its exp is not torch.exp.
    """
    e = torch.exp(z)
    return torch.where(z > 20, error, error * e / (e + 1))


def identity(z: Tensor) -> Tensor:
    """Return z: for outputs that a loss takes as they are."""
    return z


def identity_delta(error: Tensor, z: Tensor, l: Tensor) -> Tensor:
    """Return the error: the slope is 1."""
    return error


#: Every activation by its name.
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
