"""One training step of the network at a time: loss, backward() and torch.optim."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torch_ref.losses import LOSSES
from torch_ref.network import BatchNorm, Mask, Network, Synapse

Look = Callable[[str, Tensor], Tensor | None]

_OPTIMIZERS = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}


class Trainer:
    """One step at a time of `Network`, from whatever weights and moments it is given.

    The blog adds its updates, so backward() is of -Loss: each of its gradients is then an update
    with its sign, down to the sign of a zero, and `l2_delta` is -dLoss/dz2. The optimizer is given
    the gradient of Loss.
    """

    def __init__(
        self, *, like: Tensor, sizes: tuple[int, ...], alpha: float, activation: str, output: str,
        loss: str, bias: bool, batch_norm: bool, batch_norm_eps: float,
        batch_norm_momentum: float, dropout: float, trim: float, trimming: str, l1_penalty: float,
        l2_penalty: float, optimizer: str, momentum: float, nesterov: bool,
        betas: tuple[float, float], adam_eps: float, weight_decay: float,
    ) -> None:  # fmt: skip
        self.network = Network(
            sizes=sizes, activation=activation, output=output, bias=bias, batch_norm=batch_norm,
            batch_norm_eps=batch_norm_eps, batch_norm_momentum=batch_norm_momentum,
            dropout=dropout, like=like,
        )  # fmt: skip
        self.loss = LOSSES[loss]
        self.penalties = l1_penalty, l2_penalty
        modules = dict(self.network.named_children())
        self.masks = {name.replace("l", "mask"): m for name, m in modules.items() if isinstance(m, Mask)}  # fmt: skip  # noqa: E501
        self.parameters: dict[str, nn.Parameter] = {}
        self.statistics: dict[str, Tensor] = {}
        #: The name of the gradient at each module's value.
        self.gradients: dict[str, str] = {}
        for name, module in modules.items():
            n = int(name.lstrip("abcdefghijklmnopqrstuvwxyz"))
            normed = f"norm{n}" in modules
            if isinstance(module, Synapse):
                self.parameters |= {f"{key}{n - 1}": p for key, p in module.named_parameters()}
                self.gradients[name] = f"z{n}_delta" if normed else f"l{n}_delta"
            elif isinstance(module, BatchNorm):
                self.parameters |= {f"{key}{n}": p for key, p in module.named_parameters()}
                self.statistics |= {f"{key}{n}": b for key, b in module.named_buffers()}
                self.gradients[name] = f"l{n}_delta"
            else:
                self.gradients[name] = f"{name}_error"
            if trim and self.gradients[name] == f"l{n}_delta":
                module.register_forward_hook(partial(_trim, limit=trim, trimming=trimming))
            module.register_forward_hook(partial(self._saw, name))
        #: The modules whose values have a name: not z where an activation follows at once.
        self.shown = [n for n in modules if n[0] != "z" or n.replace("z", "norm") in modules]
        self.look: Look = _overlook

        options: dict[str, Any] = {"lr": alpha}
        if optimizer == "sgd":
            options |= {"momentum": momentum, "nesterov": nesterov}
            self.moments = ["momentum_buffer"] if momentum else []
        else:
            options |= {"betas": betas, "eps": adam_eps, "weight_decay": weight_decay}
            self.moments = ["exp_avg", "exp_avg_sq"]
        self.optimizer: torch.optim.Optimizer = _OPTIMIZERS[optimizer](
            self.parameters.values(), **options
        )
        self.optimizer.register_step_pre_hook(self._saw_updates)

    def learn(self, look: Look, *, X: Tensor, y: Tensor, **given: Tensor) -> None:
        """Take one step from the weights given; `look` sees every named value as it comes up.

        Shapes: X (..., B, I), y (..., B, O), syn<n> (..., sizes[n], sizes[n+1]), bias<n> and what
        batch norm learns and keeps (..., 1, sizes[n]), each moment as its weight, mask<n>
        (..., B, sizes[n]); t, for adam, is the number of the step from 1.
        `look(name, value)` may return what the step is to go on with in place of a layer's value
        or a gradient. What it is shown changes later on: it copies what it wants to keep.
        Raises TypeError for other names.
        """
        self.network.train()
        self._take(given, training=True)
        self.look = look
        look("l0", X)
        loss = self.loss(self.network(X), y)
        if any(self.penalties):
            loss = loss + self._penalty()
        self.optimizer.zero_grad()
        (-loss).sum().backward()  # the networks side by side have nothing to do with each other
        self.optimizer.step()
        for name, parameter in self.parameters.items():
            state = self.optimizer.state[parameter]
            for moment in self.moments:
                look(f"{name}_{moment}", state[moment])
            look(name, parameter.detach())
        for name, value in self.statistics.items():
            look(name, value)
        self.look = _overlook  # what it holds is not kept alive

    def step(self, **given: Tensor) -> dict[str, Tensor]:
        """Take one step as `learn` does and return every named value of it."""
        named: dict[str, Tensor] = {}

        def keep(name: str, value: Tensor) -> None:
            named[name] = value.detach().clone()

        self.learn(keep, **given)
        return named

    def predict(self, look: Look, *, X: Tensor, **given: Tensor) -> None:
        """Evaluate: nothing is dropped, running statistics; `look` sees every layer's value."""
        self.network.eval()
        self._take(given, training=False)
        self.look = look
        look("l0", X)
        with torch.no_grad():
            self.network(X)
        self.look = _overlook

    def _saw(self, name: str, _module: nn.Module, _inputs: Any, output: Tensor) -> None:
        """Show a layer's value, and later on the gradient at it."""
        if name in self.shown and (self.network.training or name[0] != "a"):
            value = self.look(name, output.detach())
            if value is not None:
                output.data.copy_(value)  # also what the way back has saved of it
        if output.requires_grad:
            output.register_hook(lambda gradient: self.look(self.gradients[name], gradient))

    def _saw_updates(self, *_: Any) -> None:
        """Show the gradients of the weights before the optimizer moves them."""
        for name in reversed(self.parameters):
            parameter = self.parameters[name]
            assert parameter.grad is not None
            value = self.look(f"{name}_update", parameter.grad)
            if value is not None:
                parameter.grad = value
            parameter.grad.neg_()

    def _take(self, given: dict[str, Tensor], *, training: bool) -> None:
        """Load weights, statistics, moments and masks."""
        moments = [f"{name}_{moment}" for name in self.parameters for moment in self.moments]
        own = [*self.parameters, *self.statistics]
        adam = "exp_avg" in self.moments
        expected = [*own, *moments, *self.masks, *(["t"] if adam else [])] if training else own
        if given.keys() != set(expected):
            raise TypeError(f"expected {', '.join(expected)}, got {', '.join(given)}")
        with torch.no_grad():
            for name, tensor in {**self.parameters, **self.statistics}.items():
                if tensor.data_ptr() != given[name].data_ptr():
                    tensor.copy_(given[name])
        if not training:
            return
        for name, mask in self.masks.items():
            mask.mask = given[name]
        for name, parameter in self.parameters.items():
            state = self.optimizer.state[parameter]
            state |= {moment: given[f"{name}_{moment}"].clone() for moment in self.moments}
            if adam:
                state["step"] = torch.tensor(float(int(given["t"].flatten()[0]) - 1))

    def _penalty(self) -> Tensor:
        """Return the penalties on every matrix of weights."""
        l1, l2 = self.penalties
        total = torch.zeros(())
        for name, syn in self.parameters.items():
            if name.startswith("syn"):
                if l2:
                    total = total + l2 / 2 * (syn**2).sum((-2, -1))
                if l1:
                    total = total + l1 * syn.abs().sum((-2, -1))
        return total


def _trim(_module: nn.Module, _inputs: Any, z: Tensor, *, limit: float, trimming: str) -> None:
    """Have the gradient at a pre-activation trimmed on its way back."""
    if z.requires_grad:
        if trimming == "clip":
            z.register_hook(lambda gradient: gradient.clamp(-limit, limit))
        else:
            z.register_hook(lambda gradient: F.hardshrink(gradient, limit))


def _overlook(name: str, value: Tensor) -> None:
    """Look at nothing."""
