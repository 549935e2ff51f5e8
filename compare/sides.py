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

    def traceable(self, **given: Tensor) -> Named:
        """Take one step of a trainer made for it, with plain tensors in place of parameters.

        For reading the step as a program: nn.Parameter would cut the recording off.
        """
        trainer = Trainer(like=given["X"], **self.question)
        for module in trainer.network.modules():
            for name, parameter in module._parameters.items():
                assert parameter is not None
                plain = torch.zeros(parameter.shape, dtype=parameter.dtype, device=parameter.device)
                module._parameters[name] = plain.requires_grad_()  # type: ignore[assignment]
        leaves = list(trainer.network.parameters())
        trainer.parameters = dict(zip(trainer.parameters, leaves, strict=True))
        trainer.optimizer.param_groups[0]["params"] = leaves
        return trainer.step(**given)


@contextmanager
def _injected(trainer: Trainer, by_hand: Named) -> Iterator[Named]:
    """Within, let the trainer go on from the by-hand values; yields what it computed itself."""
    own: Named = {}

    def note(name: str, value: Tensor) -> Tensor | None:
        own[name] = value.detach().clone()
        return by_hand[name].clone() if name in by_hand else None

    def after(module_name: str, _module: Any, _inputs: Any, output: Tensor) -> None:
        if (value := note(module_name, output)) is not None:
            output.data.copy_(value)
        kind, number = module_name[0], module_name[1:]
        suffix = {"l": "error", "z": "delta"}.get(kind)
        if suffix:
            output.register_hook(partial(note, f"l{number}_{suffix}"))

    modules = trainer.network.named_children()
    handles = [module.register_forward_hook(partial(after, name)) for name, module in modules]
    for name, parameter in trainer.parameters.items():
        handles.append(parameter.register_hook(partial(note, f"{name}_update")))
    try:
        yield own
    finally:
        for handle in handles:
            handle.remove()
        for name in [name for name in own if name[0] in "za"]:
            del own[name]  # the by-hand side has no names for these
