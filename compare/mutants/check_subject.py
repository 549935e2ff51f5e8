"""Mutants of anyone's backward pass."""

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from compare.mutants.mutate import evaluate
from compare.mutants.subjects import Named, Subject, double, readable, too_large
from compare.passes.inputs import numbered, tensors
from compare.passes.passes import Passes
from compare.proof.pair import Pair
from compare.proof.program import Program


class OfCheck(Subject):
    """A backward pass as `check` takes it."""

    name = "backward"

    def __init__(self, passes: Passes, programs: tuple[Program, Program] | None = None) -> None:
        self.passes, self.forward = passes, passes.forward
        if passes.off:
            raise too_large(self.name, passes.off)
        self.inputs = tensors(self.forward.inputs)
        self.given = {k: v.detach() for k, v in tensors(passes.backward.given).items()}
        if programs is None:
            programs = readable("backward", passes.hand), readable("forward", passes.reference)
        self.hand, self.reference = passes.hand, passes.reference = programs

    def compared(self, program: Program, values: Named) -> tuple[Named, Pair]:
        """Return autograd's values going on from a mutant's, and both as a pair."""
        return self.passes.compared(values, program)

    @cached_property
    def pair(self) -> Pair:
        """The pass as it stands beside its reference."""
        values = self.values(self.hand)
        return self.passes.pair(values, values)

    def autograd(self) -> Named:
        """Return autograd's own gradients, and the output where the pass gives one."""
        found = self.forward.reference(**self.forward.given)
        return {name: found[name] for name in self.hand.outputs}

    def at(self, inputs: Named) -> "OfCheck":
        """Return the same pass at other inputs; what stands above the output is of their dtype."""
        grads = [grad.to(self._like(grad, inputs)) for grad in self.forward.grads]
        there = self.passes.at({k: v.clone() for k, v in inputs.items()}, grads)
        return OfCheck(there, (self.hand, self.reference))

    def anew(self, inputs: Named) -> "OfCheck":
        """Return the pass read again, at inputs of other shapes."""
        inputs = {k: v.requires_grad_(k in self.forward.leaves) for k, v in inputs.items()}
        return OfCheck(self.passes.anew({**self.forward.inputs, **inputs}))

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
            above = grads[0] if self.passes.backward.ones and not own else None
            if above is not None and not outputs[0].ndim:
                found = {name: value * above for name, value in found.items()}
            return [found.get(label) for label in forward.leaves]

        return {k: self.inputs[k].detach() for k in forward.leaves}, run, back
