"""Mutants of anyone's backward pass."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from compare.checking.check import Check, Forward
from compare.mutants.mutate import evaluate, plain
from compare.mutants.subjects import Named, Subject, double, read
from compare.passes.backward import Backward
from compare.passes.inputs import numbered, tensors
from compare.proof.pair import Pair
from compare.proof.program import Program
from compare.report.report import Report


class OfCheck(Subject):
    """A backward pass as `check` takes it."""

    name = "backward"

    def __init__(
        self,
        backward: Backward,
        forward: Forward,
        inputs: Mapping[str, Any] | Sequence[Any],
        seed: int = 0,
        programs: tuple[Program, Program] | None = None,
        grads: Sequence[Tensor] | None = None,
    ) -> None:
        self.check = Check(backward, forward, inputs, seed, grads)
        self.forward, self.backward = self.check.forward, self.check.backward
        self.seed = seed
        self.inputs = tensors(self.forward.inputs)
        self.given = {k: v.detach() for k, v in tensors(self.backward.given).items()}
        if programs is None:
            self.backward.run()
            programs = (
                plain(read("backward", self.backward, self.backward.given)),
                plain(read("forward", self.forward.reference, self.forward.given)),
            )
        self.hand, self.reference = programs

    def judge(self, program: Program, values: Named) -> Report:
        """Judge a mutant as `check` would."""
        return self.check.compared(values, program, self.reference, self.entries, brief=True)

    @cached_property
    def pair(self) -> Pair:
        """The pass as it stands beside its reference."""
        values = self.values(self.hand)
        return self.check.pair(values, values, self.hand, self.reference, self.entries)

    def autograd(self) -> Named:
        """Return autograd's own gradients, and the output where the pass gives one."""
        found = self.forward.reference(**self.forward.given)
        return {name: found[name] for name in self.hand.outputs}

    def at(self, inputs: Named) -> "OfCheck":
        """Return the same pass at other inputs; what stands above the output is of their dtype."""
        leaves = self.forward.leaves
        marked = {k: v.detach().clone().requires_grad_(k in leaves) for k, v in inputs.items()}
        grads = [grad.to(self._like(grad, inputs)) for grad in self.forward.grads]
        return self._with(marked, (self.hand, self.reference), grads)

    def anew(self, inputs: Named) -> "OfCheck":
        """Return the pass read again, at inputs of other shapes."""
        inputs = {k: v.requires_grad_(k in self.forward.leaves) for k, v in inputs.items()}
        return self._with(inputs)

    def _with(self, inputs: Named, *others: Any) -> "OfCheck":
        every = {**self.forward.inputs, **inputs}
        return OfCheck(self.backward.function, self.forward.function, every, self.seed, *others)

    def everything(self) -> dict[str, Any]:
        """Return all that forward takes."""
        return dict(self.forward.inputs)

    def _like(self, grad: Tensor, inputs: Named) -> torch.dtype:
        """Return the dtype of an output's gradient at other inputs."""
        changed = {v.dtype for k, v in inputs.items() if v.dtype != self.inputs[k].dtype}
        return changed.pop() if len(changed) == 1 else grad.dtype

    def differentiable(self) -> tuple[Named, Callable[..., Any], Callable[..., Any]]:
        """Return the differentiable inputs, forward, and the mutant as its backward pass."""
        forward, own = self.forward, self.gives_output

        def offer(leaves: Sequence[Tensor]) -> tuple[dict[str, Any], list[Tensor]]:
            inputs = {**forward.inputs, **dict(zip(forward.leaves, leaves, strict=True))}
            outputs, named = forward.at(inputs)
            detached = [output.detach() for output in outputs]
            offered = {**inputs, **named, **dict(zip(numbered("output", outputs), detached,
                                                     strict=True))}  # fmt: skip
            return {k: v.detach() for k, v in tensors(offered).items()}, detached

        def with_grads(
            leaves: Sequence[Tensor], grads: Sequence[Tensor] | None
        ) -> tuple[Named, list[Tensor]]:
            offered, outputs = offer(leaves)
            grads = [torch.zeros_like(output) for output in outputs] if grads is None else grads
            return {
                **offered,
                **dict(zip(numbered("grad_output", outputs), grads, strict=True)),
            }, outputs

        def run(program: Program, *leaves: Tensor) -> list[Tensor]:
            given, outputs = with_grads(leaves, None)
            if not own:
                return outputs
            found = evaluate(program, given, double)
            return [found[name] for name in numbered("output", outputs)]

        def back(program: Program, leaves: Sequence[Tensor], grads: Sequence[Tensor]) -> list[Any]:
            given, outputs = with_grads(leaves, grads)
            found = evaluate(program, given, double)
            # one that takes the loss's own gradient for 1 is the factor of whatever stands above
            above = grads[0] if self.backward.ones and not own else None
            if above is not None and not outputs[0].ndim:
                found = {name: value * above for name, value in found.items()}
            return [found.get(label) for label in forward.leaves]

        return {k: self.inputs[k].detach() for k in forward.leaves}, run, back

    def _values(self) -> Iterable[Any]:
        return [*self.forward.inputs.values(), *self.forward.values.values()]
