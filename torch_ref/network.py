"""The blog's network, with every item of its list of future work, as an ordinary nn.Module.

Example: the submodules are named after the values that they return.
    >>> import torch
    >>> from torch_ref.network import Network, Settings
    >>> settings = Settings(
    ...     sizes=(3, 4, 1), alpha=1.0, activation="tanh", output="sigmoid",
    ...     loss="half_squared_error", bias=True, batch_norm=True, batch_norm_eps=1e-5,
    ...     batch_norm_momentum=0.1, dropout=0.0, trim=0.0, trimming="clip", l1_penalty=0.0,
    ...     l2_penalty=0.0, optimizer="sgd", momentum=0.0, nesterov=False, betas=(0.9, 0.999),
    ...     adam_eps=1e-8, weight_decay=0.0,
    ... )
    >>> network = Network(settings, like=torch.zeros(2, 3))
    >>> [name for name, _ in network.named_children()]
    ['z1', 'norm1', 'l1', 'z2', 'l2']
    >>> network(torch.ones(2, 3))  # all weights are 0
    tensor([[0.5000],
            [0.5000]], grad_fn=<SigmoidBackward0>)
"""

from collections import OrderedDict
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class Settings:
    """A network and its training method; the fields are those of compare's Network.

    No field has a default value: a missing or an unknown field is a TypeError.
    """

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
    """The weights between two layers: (..., B, I) @ (..., I, O) -> (..., B, O).

    It is nn.Linear with two changes: the weight is stored as in the blog, (I, O), and it may have
    leading dimensions, networks side by side.

    Args:
        syn: the weights, (..., I, O).
        bias: the bias, (..., 1, O), or None for a layer without one.
    """

    def __init__(self, syn: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.syn = nn.Parameter(syn)
        self.bias = None if bias is None else nn.Parameter(bias)

    def forward(self, layer: Tensor) -> Tensor:
        """Return layer @ syn, plus the bias if there is one: (..., B, I) -> (..., B, O)."""
        z = layer @ self.syn
        return z if self.bias is None else z + self.bias


class BatchNorm(nn.Module):
    """nn.BatchNorm1d for networks side by side: (..., B, H) -> (..., B, H).

    Args:
        ones: ones, (..., 1, H), the shape of gamma, beta and the running statistics.
        eps: added to the variance.
        momentum: the share of a batch in the running statistics.
    """

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
        """Return z normalised over its rows; in training mode, update the running statistics."""
        side_by_side = z.movedim(-2, 0)
        out = F.batch_norm(
            side_by_side.flatten(1), self.mean.view(-1), self.var.view(-1), self.gamma.view(-1),
            self.beta.view(-1), self.training, self.momentum, self.eps,
        )  # fmt: skip
        return out.view(side_by_side.shape).movedim(0, -2)


class Identity(nn.Module):
    """nn.Identity that returns a view, so that hooks see a tensor of its own."""

    def forward(self, z: Tensor) -> Tensor:
        """Return a view of z."""
        return z.view_as(z)


class Mask(nn.Module):
    """nn.Dropout with a prescribed mask; kept values are scaled by 1 / (1 - p).

    Args:
        p: the share of values that is dropped.
    """

    mask: Tensor  # 1 keeps a value, 0 drops it; set before every step, shaped as the layer

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, layer: Tensor) -> Tensor:
        """Return layer * mask / (1 - p) in training mode, and `layer` in evaluation mode."""
        return layer * (self.mask / (1 - self.p)) if self.training else layer


#: All activations, by name.
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
    """The network: submodules z1, norm1, a1, l1, z2, ..., named after the values that they return.

    norm<n> exists only with batch norm. With dropout, the activation of a hidden layer is a<n>, and
    l<n> is the value after the mask. `layers` lists the submodules of each layer, by kind.
    """

    def __init__(self, settings: Settings, like: Tensor) -> None:
        """Build the network with all weights 0.

        Args:
            settings: the description of the network.
            like: a tensor (..., B, I) with the dtype, device and leading dimensions of the network.
        """
        leading = like.shape[:-2]
        layers: list[dict[str, nn.Module]] = []
        for n, (inputs, outputs) in enumerate(pairwise(settings.sizes), start=1):
            hidden = n < len(settings.sizes) - 1
            dropped = hidden and settings.dropout > 0
            zeros = like.new_zeros(*leading, 1, outputs)
            normed = settings.batch_norm and hidden
            biased = settings.bias and not normed  # with batch norm, beta is the bias
            syn = like.new_zeros(*leading, inputs, outputs)
            layer: dict[str, nn.Module] = {"z": Synapse(syn, zeros if biased else None)}
            if normed:
                layer["norm"] = BatchNorm(
                    zeros + 1, eps=settings.batch_norm_eps, momentum=settings.batch_norm_momentum
                )
            activation = settings.activation if hidden else settings.output
            layer["a" if dropped else "l"] = ACTIVATIONS[activation]()
            if dropped:
                layer["l"] = Mask(settings.dropout)
            layers.append(layer)
        super().__init__(OrderedDict(
            (f"{kind}{n}", module)
            for n, layer in enumerate(layers, start=1) for kind, module in layer.items()
        ))  # fmt: skip
        self.layers = layers
