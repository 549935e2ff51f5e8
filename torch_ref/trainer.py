"""The training step of the network: loss, backward() and torch.optim."""

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

Hook = Callable[[str, Tensor], Tensor | None]

#: All optimizers, by name.
OPTIMIZERS = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}


class Trainer:
    """Takes single training steps of `Network`, from weights and moments that the caller passes.

    The blog adds its updates to the weights. Therefore backward() starts from -Loss: every gradient
    is then an update with the blog's sign, down to the sign of a zero, and `l2_delta` is
    -dLoss/dz2. The optimizer receives the gradient of Loss itself.

    With several ranks (processes), each has some rows of every step, and DistributedDataParallel
    adds their gradients. Its communication hook adds the gradients weight by weight and not in
    buckets, because the rounding of a sum over ranks depends on how much is added at once.

    Args:
        like: a tensor (..., B, I) with the dtype, device and leading dimensions of the network.
        ranks: the number of processes that share the rows of every step.
        fields: the fields of `Settings`.

    Example: one step of a network without a hidden layer, all weights 0.
        >>> import torch
        >>> from torch_ref import Trainer
        >>> X, y = torch.tensor([[0.0, 1.0], [1.0, 1.0]]), torch.tensor([[0.0], [1.0]])
        >>> trainer = Trainer(
        ...     like=X, sizes=(2, 1), alpha=1.0, activation="sigmoid", output="sigmoid",
        ...     loss="half_squared_error", bias=False, batch_norm=False, batch_norm_eps=1e-5,
        ...     batch_norm_momentum=0.1, dropout=0.0, trim=0.0, trimming="clip", l1_penalty=0.0,
        ...     l2_penalty=0.0, optimizer="sgd", momentum=0.0, nesterov=False, betas=(0.9, 0.999),
        ...     adam_eps=1e-8, weight_decay=0.0,
        ... )
        >>> values = trainer.step(X=X, y=y, syn0=torch.zeros(2, 1))
        >>> list(values)
        ['l0', 'l1', 'l1_error', 'l1_delta', 'syn0_update', 'syn0']
        >>> values["syn0"].mT
        tensor([[0.1250, 0.0000]])
    """

    def __init__(self, *, like: Tensor, ranks: int = 1, **fields: Any) -> None:
        settings = Settings(**fields)
        self.network = Network(settings, like)
        self.loss = partial(LOSSES[settings.loss], ranks=ranks)
        self.penalties = settings.l1_penalty / ranks, settings.l2_penalty / ranks  # a rank's share
        self.ranks = ranks
        self.parallel: DistributedDataParallel | None = None  # made when first needed
        self.sums: dict[str, Tensor] = {}  # weight -> gradient of all ranks, if the caller knows it
        self.parameters: dict[str, nn.Parameter] = {}
        self.statistics: dict[str, Tensor] = {}
        self.masks: dict[str, Mask] = {}
        self.hook: Hook = _no_hook
        for n, layer in enumerate(self.network.layers, start=1):
            last = "norm" if "norm" in layer else "z"  # l<n>_delta is the gradient at its output
            gradients = {"z": f"z{n}_delta", "a": f"a{n}_error", "l": f"l{n}_error"}
            gradients[last] = f"l{n}_delta"
            for kind, module in layer.items():
                number = n - 1 if kind == "z" else n  # syn0 leads from layer 0 to layer 1
                self.parameters |= {f"{key}{number}": p for key, p in module.named_parameters()}
                self.statistics |= {f"{key}{n}": b for key, b in module.named_buffers()}
                if isinstance(module, Mask):
                    self.masks[f"mask{n}"] = module
                if settings.trim and kind == last:
                    module.register_forward_hook(partial(_trim, settings))
                name = (
                    "" if kind == last == "z" else f"{kind}{n}"
                )  # z<n> has a name with batch norm
                module.register_forward_hook(partial(self._on_value, kind, name, gradients[kind]))

        if settings.optimizer == "sgd":
            options: dict[str, Any] = {
                "momentum": settings.momentum, "nesterov": settings.nesterov
            }  # fmt: skip
            self.moments = ["momentum_buffer"] if settings.momentum else []
        else:
            options = {
                "betas": settings.betas, "eps": settings.adam_eps,
                "weight_decay": settings.weight_decay,
            }  # fmt: skip
            self.moments = ["exp_avg", "exp_avg_sq"]
        options |= {"params": self.parameters.values(), "lr": settings.alpha}
        self.optimizer: torch.optim.Optimizer = OPTIMIZERS[settings.optimizer](**options)
        self.optimizer.register_step_pre_hook(self._on_updates)

    def learn(self, hook: Hook, *, X: Tensor, y: Tensor, **tensors: Tensor) -> None:
        """Take one training step; call `hook(name, value)` with every named value, in order.

        Args:
            hook: is called with the name and the value of every quantity of the step, when it is
                computed. For a layer's value or a gradient it may return a tensor, and the step
                then continues from that tensor. Values are overwritten later: a hook must copy
                the ones that it keeps.
            X: the inputs, (..., B, I).
            y: the targets, (..., B, O).
            tensors: every tensor of the network, by keyword:
                syn<n> (..., sizes[n], sizes[n+1]); bias<n> (..., 1, sizes[n+1]);
                gamma<n>, beta<n>, mean<n>, var<n> (..., 1, sizes[n]) and mask<n> (..., B, sizes[n])
                of hidden layers; <weight>_<moment>, shaped as the weight; t, for adam the number of
                the step, counted from 1. With several ranks also <weight>_update, if the sum over
                the ranks is known; then no other rank is needed.

        With several ranks, <weight>_part is the gradient from the rows of this rank, and
        <weight>_update is the sum over the ranks.

        Raises:
            TypeError: for a missing or an unknown tensor.
        """
        self.network.train()
        self._load(tensors, training=True)
        self.hook = hook
        hook("l0", X)
        loss = self.loss(self._model()(X), y)
        if any(self.penalties):
            loss = loss + self._penalty()
        self.optimizer.zero_grad()
        (-loss).sum().backward()  # the sum does not mix networks: each loss has its own weights
        self.optimizer.step()
        for name, parameter in self.parameters.items():
            state = self.optimizer.state[parameter]
            for moment in self.moments:
                hook(f"{name}_{moment}", state[moment])
            hook(name, parameter.detach())
        for name, value in self.statistics.items():
            hook(name, value)
        self.hook = _no_hook  # so that tensors which the hook refers to can be freed

    def step(self, **tensors: Tensor) -> dict[str, Tensor]:
        """Take one training step as `learn` does, and return a copy of every named value.

        Args:
            tensors: X, y and the tensors of `learn`.
        """
        named: dict[str, Tensor] = {}

        def keep(name: str, value: Tensor) -> None:
            named[name] = value.detach().clone()

        self.learn(keep, **tensors)
        return named

    def predict(self, hook: Hook, *, X: Tensor, **tensors: Tensor) -> None:
        """Evaluate the network; call `hook(name, value)` with the value of every layer.

        Nothing is dropped, and batch norm uses its running statistics.

        Args:
            hook: as in `learn`.
            X: the inputs, (..., B, I).
            tensors: the weights and running statistics, shaped as in `learn`.

        Raises:
            TypeError: for a missing or an unknown tensor.
        """
        self.network.eval()
        self._load(tensors, training=False)
        self.hook = hook
        hook("l0", X)
        with torch.no_grad():
            self.network(X)
        self.hook = _no_hook

    def _on_value(
        self, kind: str, name: str, gradient: str, _module: nn.Module, _inputs: Any, output: Tensor
    ) -> None:
        """Call the hook with a module's output, and during backward() with the gradient at it."""
        if name and (self.network.training or kind != "a"):
            value = self.hook(name, output.detach())
            if value is not None:
                output.data.copy_(value)  # in place, so the tensor saved for backward changes too
        if output.requires_grad:
            output.register_hook(lambda value: self.hook(gradient, value))

    def _on_updates(self, *_: Any) -> None:
        """Call the hook with the gradient of every weight, before the optimizer uses them."""
        for name in reversed(self.parameters):
            parameter = self.parameters[name]
            assert parameter.grad is not None
            if name in self.sums:
                self.hook(f"{name}_part", parameter.grad)
                parameter.grad = self.sums[name]
            value = self.hook(f"{name}_update", parameter.grad)
            if value is not None:
                parameter.grad = value
            parameter.grad.neg_()

    def _model(self) -> nn.Module:
        """Return the network, wrapped in DistributedDataParallel if gradients must be added."""
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
    ) -> torch.futures.Future[Tensor]:  # DistributedDataParallel requires this annotation
        """Call the hook with this rank's gradients, then add those of all ranks, one by one."""
        names = {id(parameter): name for name, parameter in self.parameters.items()}
        pairs = list(zip(bucket.parameters(), bucket.gradients(), strict=True))
        sums = []
        for parameter, gradient in reversed(pairs):
            value = self.hook(f"{names[id(parameter)]}_part", gradient)
            if value is not None:
                gradient.copy_(value)
            sums.append(dist.all_reduce(gradient, async_op=True).get_future())
        return torch.futures.collect_all(sums).then(lambda _: bucket.buffer())

    def _load(self, tensors: dict[str, Tensor], *, training: bool) -> None:
        """Load weights and statistics, and for training also masks and moments."""
        moments = [f"{name}_{moment}" for name in self.parameters for moment in self.moments]
        tensors = dict(tensors)
        updates = {name: f"{name}_update" for name in self.parameters if self.ranks > 1}
        self.sums = {n: tensors.pop(update) for n, update in updates.items() if update in tensors}
        learned = [*self.parameters, *self.statistics]
        adam = "exp_avg" in self.moments
        expected = learned
        if training:
            expected = [*learned, *moments, *self.masks, *(["t"] if adam else [])]
        if tensors.keys() != set(expected):
            raise TypeError(f"expected {', '.join(expected)}, got {', '.join(tensors)}")
        with torch.no_grad():
            for name, tensor in {**self.parameters, **self.statistics}.items():
                if tensor.data_ptr() != tensors[name].data_ptr():
                    tensor.copy_(tensors[name])
        if not training:
            return
        for name, mask in self.masks.items():
            mask.mask = tensors[name]
        for name, parameter in self.parameters.items():
            state = self.optimizer.state[parameter]
            state |= {moment: tensors[f"{name}_{moment}"].clone() for moment in self.moments}
            if adam:
                state["step"] = torch.tensor(float(int(tensors["t"].flatten()[0]) - 1))

    def _penalty(self) -> Tensor:
        """Return the L1 and L2 penalties of all matrices of weights, (...)."""
        l1, l2 = self.penalties
        total = torch.zeros(())
        for syn in (m.syn for m in self.network.modules() if isinstance(m, Synapse)):
            if l2:
                total = total + l2 / 2 * (syn**2).sum((-2, -1))
            if l1:
                total = total + l1 * syn.abs().sum((-2, -1))
        return total


def _trim(settings: Settings, _module: nn.Module, _inputs: Any, z: Tensor) -> None:
    """Register a hook that trims the gradient at the pre-activation z (delta trimming)."""
    limit, clip = settings.trim, settings.trimming == "clip"
    if z.requires_grad:
        z.register_hook(lambda g: g.clamp(-limit, limit) if clip else F.hardshrink(g, limit))


def _no_hook(name: str, value: Tensor) -> None:
    """Ignore the value."""
