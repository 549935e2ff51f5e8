"""How the harness calls the two sides: the by-hand step, and the autograd reference.

Injection makes one bug give one wrong quantity: a hook sees autograd's value of each named
quantity, and where its bits differ from the by-hand value it puts the by-hand value in its place.
So autograd computes the next quantity from the by-hand one. A layer's value is overwritten in its
own storage, which is also the tensor that autograd saved for the backward pass.
"""

import importlib
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor

from compare.cases.cases import Case
from compare.proof.bits import TensorSpec, same_bits, tensor_spec
from manual.network import Network as ByHand
from torch_ref import Trainer

Named = dict[str, Tensor]
Step = Callable[..., Named]
#: Sees a named value of autograd's step; returns a tensor to replace it, or None.
Hook = Callable[[str, Tensor], Tensor | None]


def manual_step_of(case: Case) -> Step:
    """Return the by-hand step of a case, a function of the named inputs of a step.

    The step comes from the case's module in manual/, with the fields of the network filled in. A
    listing of the blog takes fewer fields than `Network` has. Fields at their defaults are left
    out; any other that the listing does not take raises its TypeError, so none is ignored.
    """
    options: Any = {} if case.grouping is None else {"grouping": case.grouping}
    if case.by_hand == "network":
        return partial(ByHand(**case.network.arguments()).step, **options)
    step: Step = importlib.import_module(f"manual.{case.by_hand}").step
    passed = inspect.signature(step).parameters.keys() | case.network.non_default()
    fields = {n: value for n, value in case.network.arguments().items() if n in passed}
    return partial(step, **fields, **options)


def manual_prediction_of(case: Case) -> Step:
    """Return the by-hand evaluation of a case; the blog's listings share that of `Network`."""
    return ByHand(**case.network.arguments()).predict


class Autograd:
    """The reference side: a trainer for each number of networks, built when first needed.

    The inputs of a step are named tensors: X (P, rows, I), y (P, rows, O), each weight (P, ...),
    and the masks and the step number t where the network has them, for P networks.

    Args:
        case: the case of the run.
        ranks: number of ranks that share the rows of each step.
    """

    def __init__(self, case: Case, ranks: int = 1) -> None:
        self.arguments: dict[str, Any] = case.network.arguments() | {"ranks": ranks}
        self.trainers: dict[int, Trainer] = {}

    def trainer(self, like: Tensor) -> Trainer:
        """Return the trainer for the number of networks in `like` (P, ...)."""
        if len(like) not in self.trainers:
            self.trainers[len(like)] = Trainer(like=like, **self.arguments)
        return self.trainers[len(like)]

    def step(self, **inputs: Tensor) -> Named:
        """Take one step from copies of the inputs, so the sides never share storage."""
        return _recorded(self.learn, copies(inputs))

    def learn(self, hook: Hook, **inputs: Tensor) -> None:
        """Take one step with `hook` on each named value; the weights are updated in place."""
        with _loaded(self.trainer(inputs["X"]), inputs) as trainer:
            trainer.learn(hook, **inputs)

    def unequal(self, manual: Named, **inputs: Tensor) -> Named:
        """Take one step in place with `manual` injected; return the values whose bits differ."""
        differing: Named = {}

        def hook(name: str, value: Tensor) -> Tensor | None:
            if name not in manual or same_bits(manual[name], value):
                return None
            differing[name] = value.detach().clone()
            return manual[name].clone()

        self.learn(hook, **inputs)
        return differing

    def step_from(self, manual: Named, **inputs: Tensor) -> Named:
        """Take one step from copies of the inputs, with the by-hand values injected.

        A quantity that `manual` lacks, or has with another shape or dtype, keeps autograd's value.

        Args:
            manual: by-hand values of the step by name, (P, ...) each.
            inputs: named inputs of the step.

        Returns:
            Autograd's value of each named quantity, before its injection.
        """
        return _recorded(self.learn, copies(inputs), manual)

    def predict_from(self, manual: Named, **inputs: Tensor) -> Named:
        """Evaluate with the by-hand values injected; return autograd's value of each layer."""
        with _loaded(self.trainer(inputs["X"]), inputs) as trainer:
            return _recorded(trainer.predict, inputs, manual)

    def kinds(self, **inputs: Tensor) -> dict[str, TensorSpec]:
        """Return the shape, dtype and device of each named value of a step."""
        kinds: dict[str, TensorSpec] = {}

        def hook(name: str, value: Tensor) -> None:
            kinds[name] = tensor_spec(value)

        self.learn(hook, **copies(inputs))
        return kinds

    def loss(self, l: Tensor, y: Tensor) -> Tensor:
        """Return the loss of an output `l` (steps, P, rows, O), one for each step and network."""
        loss: Tensor = self.trainer(y[0]).loss(l, y)
        return loss

    def learned(self, like: Tensor) -> list[str]:
        """Return the names of the tensors that an evaluation needs besides X."""
        trainer = self.trainer(like)
        return [*trainer.parameters, *trainer.statistics]

    def traceable(self, **inputs: Tensor) -> Named:
        """Take one step in a form that can be traced as a program."""
        return _recorded(self._traceable_trainer(inputs["X"]).learn, inputs)

    def traceable_prediction(self, **inputs: Tensor) -> Named:
        """Evaluate in a form that can be traced as a program."""
        return _recorded(self._traceable_trainer(inputs["X"]).predict, inputs)

    def _traceable_trainer(self, like: Tensor) -> Trainer:
        """Return a trainer with plain tensors as parameters: nn.Parameter ends a recording."""
        trainer = Trainer(like=like, **self.arguments)
        leaves: list[Any] = []
        for module in trainer.network.modules():
            for name, parameter in list(module.named_parameters(recurse=False)):
                delattr(module, name)
                leaves.append(torch.zeros_like(parameter, requires_grad=True))
                setattr(module, name, leaves[-1])
        trainer.parameters = dict(zip(trainer.parameters, leaves, strict=True))
        trainer.optimizer.param_groups[0]["params"] = leaves
        return trainer


def copies(tensors: Named) -> Named:
    """Return a copy of each tensor."""
    return {name: value.clone() for name, value in tensors.items()}


def _recorded(work: Callable[..., None], inputs: Named, injected: Named | None = None) -> Named:
    """Run a step or an evaluation with by-hand values injected; return copies of its values."""
    manual, values = injected or {}, dict[str, Tensor]()

    def hook(name: str, value: Tensor) -> Tensor | None:
        values[name] = value.detach().clone()
        fits = name in manual and tensor_spec(manual[name]) == tensor_spec(value)
        return manual[name].clone() if fits else None

    work(hook, **inputs)
    return values


@contextmanager
def _loaded(trainer: Trainer, inputs: Named) -> Iterator[Trainer]:
    """Put the weights into the trainer without a copy; on exit take them out again."""
    for name, parameter in trainer.parameters.items():
        parameter.data = inputs[name].contiguous()
    try:
        yield trainer
    finally:
        trainer.optimizer.zero_grad()
        trainer.optimizer.state.clear()
        for parameter in trainer.parameters.values():
            parameter.data = parameter.new_empty(0)
