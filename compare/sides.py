"""The two sides as the harness calls them: by hand, autograd, autograd from by-hand values.

Injection: autograd's own value of a named quantity is noted and the by-hand value put in its place,
so that each quantity is judged on the by-hand values above it. A layer's value is overwritten in
its own storage, which is also what the backward pass saved of it; a gradient is replaced by a hook.
"""

import importlib
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor

from compare.cases import Case
from torch_ref import Trainer

Named = dict[str, Tensor]
Step = Callable[..., Named]


def by_hand(case: Case) -> Step:
    """Return the step of the case's module in manual/, with the question put to it.

    A listing of the blog knows fewer fields than there are; those that ask for nothing unusual are
    left out. Any other that it does not know is its TypeError: nothing is ignored in silence.
    """
    module = importlib.import_module(f"manual.{case.by_hand}")
    known = inspect.signature(module.step).parameters
    unusual = case.network.unusual()
    question = {
        name: value
        for name, value in case.network.question().items()
        if name in known or name in unusual
    }
    own = {} if case.grouping is None else {"grouping": case.grouping}
    return partial(module.step, **question, **own)


def by_hand_prediction(case: Case) -> Step:
    """Return evaluation by hand, with the question put to it; the listings have that of network."""
    predict = importlib.import_module("manual.network").predict
    known = inspect.signature(predict).parameters
    question = {n: v for n, v in case.network.question().items() if n in known}
    return partial(predict, **question)


class Autograd:
    """The reference side: a trainer for each number of networks, built when first needed."""

    def __init__(self, case: Case) -> None:
        self.question: dict[str, Any] = case.network.question()
        self.trainers: dict[int, Trainer] = {}

    def trainer(self, like: Tensor) -> Trainer:
        """Return the trainer for as many networks as `like` holds."""
        if len(like) not in self.trainers:
            self.trainers[len(like)] = Trainer(like=like, **self.question)
        return self.trainers[len(like)]

    def step(self, **given: Tensor) -> Named:
        """Take one step, from copies: neither side ever holds storage of the other's."""
        copies = {name: value.clone() for name, value in given.items()}
        return self.trainer(given["X"]).step(**copies)

    def step_from(self, by_hand: Named, **given: Tensor) -> Named:
        """Take one step, each quantity computed from the by-hand values of those above it."""
        with _injected(self.trainer(given["X"]), by_hand) as own:
            named = self.step(**given)
        return {**named, **own}

    def loss(self, l: Tensor, y: Tensor) -> Tensor:
        """Return the loss of an output, one for each network."""
        loss: Tensor = self.trainer(y[0]).loss(l, y)
        return loss

    def learned(self, like: Tensor) -> list[str]:
        """Return the names of what an evaluation needs: weights and running statistics."""
        trainer = self.trainer(like)
        return [*trainer.parameters, *trainer.statistics]

    def predict_from(self, by_hand: Named, **given: Tensor) -> Named:
        """Return every layer's value in evaluation, each from the by-hand values above it."""
        with _injected(self.trainer(given["X"]), by_hand) as own:
            named = self.trainer(given["X"]).predict(**given)
        return {**named, **own}

    def traceable(self, **given: Tensor) -> Named:
        """Take one step of a trainer made for it, for reading the step as a program."""
        return self._plain(given["X"]).step(**given)

    def traceable_prediction(self, **given: Tensor) -> Named:
        """Evaluate by a trainer made for it, for reading it as a program."""
        return self._plain(given["X"]).predict(**given)

    def _plain(self, like: Tensor) -> Trainer:
        """Return a trainer with plain tensors as parameters: nn.Parameter cuts a recording off."""
        trainer = Trainer(like=like, **self.question)
        for module in trainer.network.modules():
            for name, parameter in module._parameters.items():
                if parameter is not None:
                    size, kind, place = parameter.shape, parameter.dtype, parameter.device
                    plain = torch.zeros(size, dtype=kind, device=place)
                    module._parameters[name] = plain.requires_grad_()  # type: ignore[assignment]
        leaves = list(trainer.network.parameters())
        trainer.parameters = dict(zip(trainer.parameters, leaves, strict=True))
        trainer.optimizer.param_groups[0]["params"] = leaves
        return trainer


@contextmanager
def _injected(trainer: Trainer, by_hand: Named) -> Iterator[Named]:
    """Within, let the trainer go on from the by-hand values; yields what it computed itself."""
    own: Named = {}

    def note(name: str, value: Tensor) -> Tensor | None:
        own[name] = value.detach().clone()
        return by_hand[name].clone() if name in by_hand else None

    def after(name: str, _module: Any, _inputs: Any, output: Tensor) -> None:
        if (value := note(name, output)) is not None:
            output.data.copy_(value)
        if output.requires_grad:
            output.register_hook(partial(note, trainer.gradients[name]))

    modules = trainer.network.named_children()
    handles = [module.register_forward_hook(partial(after, name)) for name, module in modules]
    for name, parameter in trainer.parameters.items():
        handles.append(parameter.register_hook(partial(note, f"{name}_update")))
    try:
        yield own
    finally:
        for handle in handles:
            handle.remove()
        for name in own.keys() - by_hand.keys():
            del own[name]  # the by-hand side has no names for these
