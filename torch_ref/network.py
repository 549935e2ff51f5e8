"""The blog's network, and its list of future work, as an ordinary nn.Module."""

from collections import OrderedDict
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the network is and how it learns; a field missing or too many is a TypeError."""

    sizes: tuple[int, ...]
    alpha: float
    activation: str
    output: str
    loss: str
    bias: bool
    batch_norm: bool
    batch_norm_eps: float
    batch_norm_momentum: float
    dropout: float
    trim: float
    trimming: str
    l1_penalty: float
    l2_penalty: float
    optimizer: str
    momentum: float
    nesterov: bool
    betas: tuple[float, float]
    adam_eps: float
    weight_decay: float


class Synapse(nn.Module):
    """A matrix of weights between two layers: (..., B, I) @ (..., I, O) -> (..., B, O).

    nn.Linear, but for its weight, which lies as the blog's does, (I, O), and may have leading
    dimensions: networks side by side.
    """

    def __init__(self, syn: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.syn = nn.Parameter(syn)
        self.bias = None if bias is None else nn.Parameter(bias)

    def forward(self, layer: Tensor) -> Tensor:
        """Return `layer` times the weights, plus the bias if there is one."""
        z = layer @ self.syn
        return z if self.bias is None else z + self.bias


class BatchNorm(nn.Module):
    """nn.BatchNorm1d for networks side by side: (..., B, H), its numbers (..., 1, H)."""

    mean: Tensor
    var: Tensor

    def __init__(self, ones: Tensor, *, eps: float, momentum: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(ones.clone())
        self.beta = nn.Parameter(torch.zeros_like(ones))
        self.register_buffer("mean", torch.zeros_like(ones))
        self.register_buffer("var", ones.clone())
        self.eps, self.momentum = eps, momentum

    def forward(self, z: Tensor) -> Tensor:
        """Return z normalised; in training the running statistics move."""
        side_by_side = z.movedim(-2, 0)
        out = F.batch_norm(
            side_by_side.flatten(1), self.mean.view(-1), self.var.view(-1), self.gamma.view(-1),
            self.beta.view(-1), self.training, self.momentum, self.eps,
        )  # fmt: skip
        return out.view(side_by_side.shape).movedim(0, -2)


class Identity(nn.Module):
    """nn.Identity, as a view: a tensor of its own for hooks."""

    def forward(self, z: Tensor) -> Tensor:
        """Return z."""
        return z.view_as(z)


class Mask(nn.Module):
    """nn.Dropout with a mask that is given: what is kept is scaled by 1 / (1 - p)."""

    mask: Tensor  # 0 and 1, set before each step

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, layer: Tensor) -> Tensor:
        """Return what the mask keeps of `layer`, scaled; in evaluation all of it."""
        return layer * (self.mask / (1 - self.p)) if self.training else layer


#: Every activation by its name.
ACTIVATIONS: dict[str, type[nn.Module]] = {
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "softplus": nn.Softplus,
    "identity": Identity,
}


class Network(nn.Sequential):
    """z1, norm1, a1, l1, z2, ...: each submodule is called by the name of the value it returns.

    norm<n> is there with batch norm; with dropout a hidden layer's activation is called a<n>, and
    l<n> is what its mask keeps. `layers` holds them by layer, from the first on, and by kind.
    """

    def __init__(self, asked: Settings, like: Tensor) -> None:
        """Build it with zero weights, in the dtype, device and leading dimensions of `like`."""
        leading = like.shape[:-2]
        layers: list[dict[str, nn.Module]] = []
        for n, (inputs, outputs) in enumerate(pairwise(asked.sizes), start=1):
            hidden = n < len(asked.sizes) - 1
            dropped = hidden and asked.dropout > 0
            zeros = like.new_zeros(*leading, 1, outputs)
            biased = asked.bias and not (asked.batch_norm and hidden)  # there beta takes its place
            syn = like.new_zeros(*leading, inputs, outputs)
            layer: dict[str, nn.Module] = {"z": Synapse(syn, zeros if biased else None)}
            if asked.batch_norm and hidden:
                layer["norm"] = BatchNorm(
                    zeros + 1, eps=asked.batch_norm_eps, momentum=asked.batch_norm_momentum
                )
            activation = asked.activation if hidden else asked.output
            layer["a" if dropped else "l"] = ACTIVATIONS[activation]()
            if dropped:
                layer["l"] = Mask(asked.dropout)
            layers.append(layer)
        super().__init__(OrderedDict(
            (f"{kind}{n}", module)
            for n, layer in enumerate(layers, start=1) for kind, module in layer.items()
        ))  # fmt: skip
        self.layers = layers
