"""The two sides as the harness calls them: by hand, and autograd, as closely watched as needed.

Injection: autograd's own value of a named quantity is looked at, and where its bits are others the
by-hand value put in its place, so that each quantity is judged on the by-hand values above it. A
layer's value is overwritten in its own storage, which is also what the backward pass saved of it.
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
Look = Callable[[str, Tensor], Tensor | None]


def by_hand(case: Case) -> Step:
    """Return the step of the case's module in manual/, with the question put to it.

    A listing of the blog knows fewer fields than there are; those that ask for nothing unusual are
    left out. Any other that it does not know is its TypeError: nothing is ignored in silence.
    """
    own: Any = {} if case.grouping is None else {"grouping": case.grouping}
    if case.by_hand == "network":
        return partial(ByHand(**case.network.arguments()).step, **own)
    step: Step = importlib.import_module(f"manual.{case.by_hand}").step
    known = inspect.signature(step).parameters.keys() | case.network.non_default()
    question = {n: value for n, value in case.network.arguments().items() if n in known}
    return partial(step, **question, **own)


def by_hand_prediction(case: Case) -> Step:
    """Return evaluation by hand, with the question put to it; the listings have that of network."""
    return ByHand(**case.network.arguments()).predict


class Autograd:
    """The reference side: a trainer for each number of networks, built when first needed."""

    def __init__(self, case: Case, ranks: int = 1) -> None:
        self.arguments: dict[str, Any] = case.network.arguments() | {"ranks": ranks}
        self.trainers: dict[int, Trainer] = {}

    def trainer(self, like: Tensor) -> Trainer:
        """Return the trainer for as many networks as `like` holds."""
        if len(like) not in self.trainers:
            self.trainers[len(like)] = Trainer(like=like, **self.arguments)
        return self.trainers[len(like)]

    def step(self, **given: Tensor) -> Named:
        """Take one step, from copies: neither side ever holds storage of the other's."""
        return _noted(self.learn, copies(given))

    def learn(self, look: Look, **given: Tensor) -> None:
        """Take one step, as `look` would have it; the weights given are taken over and moved."""
        with _lent(self.trainer(given["X"]), given) as trainer:
            trainer.learn(look, **given)

    def unequal(self, by_hand: Named, **given: Tensor) -> Named:
        """Take one step likewise, going on from `by_hand`; return what has other bits there."""
        found: Named = {}

        def look(name: str, value: Tensor) -> Tensor | None:
            if name not in by_hand or same_bits(by_hand[name], value):
                return None
            found[name] = value.detach().clone()
            return by_hand[name].clone()

        self.learn(look, **given)
        return found

    def step_from(self, by_hand: Named, **given: Tensor) -> Named:
        """Take one step from copies, each quantity from the by-hand values of those above it.

        What has another shape or dtype by hand, or no value there, stays autograd's own.
        """
        return _noted(self.learn, copies(given), by_hand)

    def predict_from(self, by_hand: Named, **given: Tensor) -> Named:
        """Evaluate, each layer's value from the by-hand ones of those before it."""
        with _lent(self.trainer(given["X"]), given) as trainer:
            return _noted(trainer.predict, given, by_hand)

    def kinds(self, **given: Tensor) -> dict[str, TensorSpec]:
        """Return the shape, dtype and device of each named value of a step."""
        found: dict[str, TensorSpec] = {}

        def note(name: str, value: Tensor) -> None:
            found[name] = tensor_spec(value)

        self.learn(note, **copies(given))
        return found

    def loss(self, l: Tensor, y: Tensor) -> Tensor:
        """Return the loss of an output, one for each network."""
        loss: Tensor = self.trainer(y[0]).loss(l, y)
        return loss

    def learned(self, like: Tensor) -> list[str]:
        """Return the names of what an evaluation needs: weights and running statistics."""
        trainer = self.trainer(like)
        return [*trainer.parameters, *trainer.statistics]

    def traceable(self, **given: Tensor) -> Named:
        """Take one step of a trainer made for it, for reading the step as a program."""
        return _noted(self._plain(given["X"]).learn, given)

    def traceable_prediction(self, **given: Tensor) -> Named:
        """Evaluate by a trainer made for it, for reading it as a program."""
        return _noted(self._plain(given["X"]).predict, given)

    def _plain(self, like: Tensor) -> Trainer:
        """Return a trainer with plain tensors as parameters: nn.Parameter cuts a recording off."""
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


def copies(given: Named) -> Named:
    """Return a copy of each tensor."""
    return {name: value.clone() for name, value in given.items()}


def _noted(work: Callable[..., None], given: Named, by_hand: Named | None = None) -> Named:
    """Return a copy of every named value of a step or an evaluation, going on from `by_hand`."""
    mine, named = by_hand or {}, dict[str, Tensor]()

    def look(name: str, value: Tensor) -> Tensor | None:
        named[name] = value.detach().clone()
        fits = name in mine and tensor_spec(mine[name]) == tensor_spec(value)
        return mine[name].clone() if fits else None

    work(look, **given)
    return named


@contextmanager
def _lent(trainer: Trainer, given: Named) -> Iterator[Trainer]:
    """Within, the trainer's weights are those given, without a copy; afterwards it holds none."""
    for name, parameter in trainer.parameters.items():
        parameter.data = given[name].contiguous()
    try:
        yield trainer
    finally:
        trainer.optimizer.zero_grad()
        trainer.optimizer.state.clear()
        for parameter in trainer.parameters.values():
            parameter.data = parameter.new_empty(0)
