"""The blog's network as an nn.Module, and one training step of it with torch.optim.SGD."""

from collections import OrderedDict
from itertools import pairwise

import torch
from torch import Tensor, nn


class Synapse(nn.Module):
    """A matrix of weights between two layers: (..., B, I) @ (..., I, O) -> (..., B, O).

    nn.Linear without a bias, but for its weight, which lies as the blog's does, (I, O), and may
    have leading dimensions: networks side by side.
    """

    def __init__(self, syn: Tensor) -> None:
        super().__init__()
        self.syn = nn.Parameter(syn)

    def forward(self, layer: Tensor) -> Tensor:
        """Return `layer` times the weights."""
        return layer @ self.syn


class Mask(nn.Module):
    """Inverted dropout with a mask that is given: what is kept is scaled by 1 / (1 - p)."""

    mask: Tensor  # 0 and 1, set before each step

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, layer: Tensor) -> Tensor:
        """Return what the mask keeps of `layer`, scaled."""
        return layer * (self.mask / (1 - self.p))


class Network(nn.Sequential):
    """z1, l1, z2, l2, ...: each submodule is called by the name of the value that it returns.

    With dropout a hidden layer's sigmoid is called a1, and l1 is what its mask keeps.
    """

    def __init__(self, *, sizes: tuple[int, ...], dropout: float, like: Tensor) -> None:
        """Build it with zero weights, in the dtype, device and leading dimensions of `like`."""
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        for n, (inputs, outputs) in enumerate(pairwise(sizes), start=1):
            layers[f"z{n}"] = Synapse(like.new_zeros(*like.shape[:-2], inputs, outputs))
            if dropout and n < len(sizes) - 1:
                layers[f"a{n}"] = nn.Sigmoid()
                layers[f"l{n}"] = Mask(dropout)
            else:
                layers[f"l{n}"] = nn.Sigmoid()
        super().__init__(layers)


def half_squared_error(l: Tensor, y: Tensor) -> Tensor:  # noqa: E741 - the blog's letter
    """Return sum((y - l)**2) / 2 over rows and outputs, one for each network."""
    return ((y - l) ** 2).sum((-2, -1)) / 2


class Trainer:
    """One step at a time of `Network`, from whatever weights it is given.

    The blog adds its updates, so this climbs -Loss (`maximize=True`): each gradient is then an
    update with its sign, down to the sign of a zero, and `l2_delta` is -dLoss/dz2.
    """

    def __init__(
        self, *, like: Tensor, sizes: tuple[int, ...], alpha: float, dropout: float
    ) -> None:
        self.network = Network(sizes=sizes, dropout=dropout, like=like)
        self.masks = {
            name.replace("l", "mask"): module
            for name, module in self.network.named_children()
            if isinstance(module, Mask)
        }
        self.parameters = {f"syn{n}": p for n, p in enumerate(self.network.parameters())}
        self.optimizer = torch.optim.SGD(self.network.parameters(), lr=alpha, maximize=True)

    def step(self, *, X: Tensor, y: Tensor, **given: Tensor) -> dict[str, Tensor]:
        """Take one step from the weights given and return every named value of it.

        Shapes: X (..., B, I), y (..., B, O), syn<n> (..., sizes[n], sizes[n+1]); with dropout a
        mask<n> (..., B, sizes[n]) for each hidden layer. Raises TypeError for other names.
        """
        expected = [*self.parameters, *self.masks]
        if given.keys() != set(expected):
            raise TypeError(f"expected {', '.join(expected)}, got {', '.join(given)}")
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(given[name])
        for name, mask in self.masks.items():
            mask.mask = given[name]

        values = {"l0": X}
        layer = X
        for name, module in self.network.named_children():
            layer = values[name] = module(layer)
            layer.retain_grad()
        loss = half_squared_error(layer, y)

        self.optimizer.zero_grad()
        (-loss).sum().backward()  # the networks side by side have nothing to do with each other
        N = len(self.parameters)
        named = {f"l{n}": values[f"l{n}"].detach() for n in range(N + 1)}
        for n in range(N, 0, -1):
            named[f"l{n}_error"] = _grad(values[f"l{n}"])
            named[f"l{n}_delta"] = _grad(values[f"z{n}"])
        for n in range(N - 1, -1, -1):
            named[f"syn{n}_update"] = _grad(self.parameters[f"syn{n}"])
        self.optimizer.step()
        for name, parameter in self.parameters.items():
            named[name] = parameter.detach().clone()
        return named


def _grad(tensor: Tensor) -> Tensor:
    """Return what backward() left on `tensor`."""
    assert tensor.grad is not None
    return tensor.grad
