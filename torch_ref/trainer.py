"""One training step of the network at a time: loss, backward() and torch.optim."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from torch_ref.losses import LOSSES
from torch_ref.network import Mask, Network, Settings, Synapse

Look = Callable[[str, Tensor], Tensor | None]

#: Every optimizer by its name.
OPTIMIZERS = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}


class Trainer:
    """One step at a time of `Network`, from whatever weights and moments it is given.

    The blog adds its updates, so backward() is of -Loss: each of its gradients is then an update
    with its sign, down to the sign of a zero, and `l2_delta` is -dLoss/dz2. The optimizer is given
    the gradient of Loss.

    With several ranks each has its rows of every step, and DistributedDataParallel adds what they
    ask for. Its hook adds one weight's gradients at a time, in place of buckets of them: how a sum
    over ranks is rounded depends on how much is added at once.
    """

    def __init__(self, *, like: Tensor, ranks: int = 1, **fields: Any) -> None:
        asked = Settings(**fields)
        self.network = Network(asked, like)
        self.loss = partial(LOSSES[asked.loss], ranks=ranks)
        self.penalties = asked.l1_penalty / ranks, asked.l2_penalty / ranks  # each rank its share
        self.ranks = ranks
        self.parallel: DistributedDataParallel | None = None  # made when first needed
        self.sums: dict[str, Tensor] = {}  # over the ranks, where they are given
        self.parameters: dict[str, nn.Parameter] = {}
        self.statistics: dict[str, Tensor] = {}
        self.masks: dict[str, Mask] = {}
        self.look: Look = _overlook
        for n, layer in enumerate(self.network.layers, start=1):
            last = "norm" if "norm" in layer else "z"  # before the activation, where the delta is
            gradients = {"z": f"z{n}_delta", "a": f"a{n}_error", "l": f"l{n}_error"}
            gradients[last] = f"l{n}_delta"
            for kind, module in layer.items():
                number = n - 1 if kind == "z" else n  # syn0 leads from layer 0 to layer 1
                self.parameters |= {f"{key}{number}": p for key, p in module.named_parameters()}
                self.statistics |= {f"{key}{n}": b for key, b in module.named_buffers()}
                if isinstance(module, Mask):
                    self.masks[f"mask{n}"] = module
                if asked.trim and kind == last:
                    module.register_forward_hook(partial(_trim, asked))
                name = "" if kind == last == "z" else f"{kind}{n}"  # a value that has no name
                module.register_forward_hook(partial(self._saw, kind, name, gradients[kind]))

        if asked.optimizer == "sgd":
            own: dict[str, Any] = {"momentum": asked.momentum, "nesterov": asked.nesterov}
            self.moments = ["momentum_buffer"] if asked.momentum else []
        else:
            own = {"betas": asked.betas, "eps": asked.adam_eps, "weight_decay": asked.weight_decay}
            self.moments = ["exp_avg", "exp_avg_sq"]
        own |= {"params": self.parameters.values(), "lr": asked.alpha}
        self.optimizer: torch.optim.Optimizer = OPTIMIZERS[asked.optimizer](**own)
        self.optimizer.register_step_pre_hook(self._saw_updates)

    def learn(self, look: Look, *, X: Tensor, y: Tensor, **given: Tensor) -> None:
        """Take one step from the weights given; `look` sees every named value as it comes up.

        Shapes: X (..., B, I), y (..., B, O), syn<n> (..., sizes[n], sizes[n+1]), bias<n> and what
        batch norm learns and keeps (..., 1, sizes[n]), each moment as its weight, mask<n>
        (..., B, sizes[n]); t, for adam, is the number of the step from 1.
        `look(name, value)` may return what the step is to go on with in place of a layer's value
        or a gradient. What it is shown changes later on: it copies what it wants to keep.
        With several ranks <weight>_part is this rank's part of <weight>_update; where that sum is
        given too, no other rank is asked.
        Raises TypeError for other names.
        """
        self.network.train()
        self._take(given, training=True)
        self.look = look
        look("l0", X)
        loss = self.loss(self._model()(X), y)
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

    def _saw(
        self, kind: str, name: str, gradient: str, _module: nn.Module, _inputs: Any, output: Tensor
    ) -> None:
        """Show a layer's value, and later on the gradient at it."""
        if name and (self.network.training or kind != "a"):
            value = self.look(name, output.detach())
            if value is not None:
                output.data.copy_(value)  # also what the way back has saved of it
        if output.requires_grad:
            output.register_hook(lambda value: self.look(gradient, value))

    def _saw_updates(self, *_: Any) -> None:
        """Show the gradients of the weights before the optimizer moves them."""
        for name in reversed(self.parameters):
            parameter = self.parameters[name]
            assert parameter.grad is not None
            if name in self.sums:
                self.look(f"{name}_part", parameter.grad)
                parameter.grad = self.sums[name]
            value = self.look(f"{name}_update", parameter.grad)
            if value is not None:
                parameter.grad = value
            parameter.grad.neg_()

    def _model(self) -> nn.Module:
        """Return the network, as one of several ranks where their parts are to be added."""
        if self.ranks == 1 or self.sums:
            return self.network
        if self.parallel is None:
            self.parallel = DistributedDataParallel(self.network)
            self.parallel.register_comm_hook(None, self._add)
        return self.parallel

    def _add(
        self,
        _state: None,
        bucket: dist.GradBucket,  # type: ignore[name-defined]
    ) -> torch.futures.Future[Tensor]:  # as DistributedDataParallel asks for it
        """Show this rank's gradients, then add all ranks', each weight's by itself."""
        names = {id(parameter): name for name, parameter in self.parameters.items()}
        pairs = list(zip(bucket.parameters(), bucket.gradients(), strict=True))
        sums = []
        for parameter, gradient in reversed(pairs):
            value = self.look(f"{names[id(parameter)]}_part", gradient)
            if value is not None:
                gradient.copy_(value)
            sums.append(dist.all_reduce(gradient, async_op=True).get_future())
        return torch.futures.collect_all(sums).then(lambda _: bucket.buffer())

    def _take(self, given: dict[str, Tensor], *, training: bool) -> None:
        """Load weights, statistics, moments and masks."""
        moments = [f"{name}_{moment}" for name in self.parameters for moment in self.moments]
        given = dict(given)
        updates = {name: f"{name}_update" for name in self.parameters if self.ranks > 1}
        self.sums = {n: given.pop(update) for n, update in updates.items() if update in given}
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
        for syn in (m.syn for m in self.network.modules() if isinstance(m, Synapse)):
            if l2:
                total = total + l2 / 2 * (syn**2).sum((-2, -1))
            if l1:
                total = total + l1 * syn.abs().sum((-2, -1))
        return total


def _trim(asked: Settings, _module: nn.Module, _inputs: Any, z: Tensor) -> None:
    """Have the gradient at a pre-activation trimmed on its way back."""
    limit, clip = asked.trim, asked.trimming == "clip"
    if z.requires_grad:
        z.register_hook(lambda g: g.clamp(-limit, limit) if clip else F.hardshrink(g, limit))


def _overlook(name: str, value: Tensor) -> None:
    """Look at nothing."""
