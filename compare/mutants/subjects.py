"""What mutants are made of and judged with.

A subject is a by-hand pass read as a program, at some inputs, with the reference it is judged by.
The same two programs serve at other inputs of the same shapes, and in another dtype.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor

from compare.cases.cases import Case, kind_of
from compare.environment import dtype_named
from compare.errors import BadInput
from compare.mutants.mutate import plain
from compare.passes.inputs import lift_limits, numbered, tensors
from compare.passes.passes import Passes
from compare.proof.bits import mismatch
from compare.proof.interpreter import Floats, evaluate
from compare.proof.judge import judge
from compare.proof.pair import Pair
from compare.proof.program import Opaque, Program, base_name
from compare.proof.trace import try_trace
from compare.report.quantity import Quantity
from compare.report.report import Report
from compare.training.adapters import Autograd, by_hand
from compare.training.sampling import draw

Named = dict[str, Tensor]
DOUBLE = torch.float64


class Subject(ABC):
    """A pass at some inputs: `manual_program`, what it is `given`, and the `reference`."""

    manual_program: Program
    reference: Program
    given: Named  # what the program takes
    inputs: Named  # what other values can be drawn for
    everything: dict[str, Any]  # that is given, also what is no tensor, to be saved
    name: str

    @property
    def gives_output(self) -> bool:
        """Whether the pass gives the output as well, so that mutants may get that wrong."""
        return any(base_name(name) == "output" for name in self.manual_program.outputs)

    @property
    def dtype(self) -> torch.dtype:
        """The narrowest dtype of the inputs' floats."""
        found = [v.dtype for v in self.inputs.values() if v.is_floating_point()]
        return max(found, key=lambda dtype: torch.finfo(dtype).eps)

    def values(self, program: Program, *, was: torch.dtype | None = None) -> Named:
        """Run a mutant; one that was read in the dtype `was` is brought to this subject's."""
        here = self.dtype

        def moved(d: torch.dtype) -> torch.dtype:
            widened = here == DOUBLE and was is not None and d.is_floating_point
            return here if d == was or widened else d

        return evaluate(program, self.given, Floats(moved))

    def judge(self, program: Program) -> Report:
        """Run and judge a mutant, each quantity from its own values above it."""
        values = self.values(program)
        autograd, pair = self.compared(program, values)
        report = Report("check", {}, steps=1)
        for name, value in autograd.items():
            report.quantities[name] = Quantity.of(name, values.get(name), value)
        for name, proof in judge(
            pair, list(pair.manual), brief=True, stop_at_first_wrong=True
        ).items():
            report.quantities[name].proof = proof
        return report

    @abstractmethod
    def compared(self, program: Program, values: Named) -> tuple[Named, Pair]:
        """Return autograd's values going on from a mutant's, and both as a pair."""

    @abstractmethod
    def autograd(self) -> Named:
        """Return the reference's own values, from the inputs on."""

    @abstractmethod
    def at(self, inputs: Named) -> "Subject":
        """Return the same pass at other values of the inputs."""

    def anew(self, inputs: Named) -> "Subject | None":
        """Return the pass read again, at inputs of other shapes; None where that cannot be."""
        del inputs
        return None

    @abstractmethod
    def differentiable(self) -> "tuple[Named, Callable[..., Any], Callable[..., Any]]":
        """Return what gradcheck needs: the leaves, run(program, *leaves) and back.

        `run` returns the outputs; `back(program, leaves, grads)` returns the mutant's gradient of
        each leaf, None where it gives none.
        """

    def to(self, dtype: torch.dtype) -> "Subject":
        """Return the same pass with the floats of its inputs in another dtype."""
        return self.at({
            name: value.detach().to(dtype) if value.is_floating_point() else value
            for name, value in self.inputs.items()
        })  # fmt: skip

    @cached_property
    @abstractmethod
    def pair(self) -> Pair:
        """The pass as it stands beside its reference; a mutant is another by-hand side of it."""


def readable(what: str, program: Program | Opaque) -> Program:
    """Return a program without what only hands on; raises BadInput where there is none."""
    if isinstance(program, Opaque):
        raise BadInput(f"{what} {program}: write it in torch operations, to have mutants of it")
    return plain(program)


def too_large(what: str, off: Opaque) -> BadInput:
    """Return the error for inputs of which `check` would lift nothing."""
    return BadInput(f"{what}: {off}; for mutants of it give smaller inputs")


def double(dtype: torch.dtype) -> torch.dtype:
    """Return float64 for a dtype of floats, others as they are."""
    return DOUBLE if dtype.is_floating_point else dtype


class OfCheck(Subject):
    """A backward pass as `check` takes it."""

    name = "backward"

    def __init__(self, passes: Passes, programs: tuple[Program, Program] | None = None) -> None:
        self.passes, self.forward = passes, passes.forward
        if passes.off:
            raise too_large(self.name, passes.off)
        self.everything = self.forward.inputs
        self.inputs = tensors(self.everything)
        self.given = {k: v.detach() for k, v in tensors(passes.backward.given).items()}
        if programs is None:
            programs = (
                readable("backward", passes.manual_program),
                readable("forward", passes.reference),
            )
        self.manual_program, self.reference = passes.manual_program, passes.reference = programs

    def compared(self, program: Program, values: Named) -> tuple[Named, Pair]:
        """Return autograd's values going on from a mutant's, and both as a pair."""
        return self.passes.compared(values, program)

    @cached_property
    def pair(self) -> Pair:
        """The pass as it stands beside its reference."""
        values = self.values(self.manual_program)
        return self.passes.pair(values, values)

    def autograd(self) -> Named:
        """Return autograd's own gradients, and the output where the pass gives one."""
        found = self.forward.reference(**self.forward.given)
        return {name: found[name] for name in self.manual_program.outputs}

    def at(self, inputs: Named) -> "OfCheck":
        """Return the same pass at other inputs; what stands above the output is of their dtype."""
        changed = {v.dtype for k, v in inputs.items() if v.dtype != self.inputs[k].dtype}
        dtype = changed.pop() if len(changed) == 1 else None
        grads = [grad.to(dtype or grad.dtype) for grad in self.forward.grads]
        there = self.passes.at({k: v.clone() for k, v in inputs.items()}, grads)
        return OfCheck(there, (self.manual_program, self.reference))

    def anew(self, inputs: Named) -> "OfCheck":
        """Return the pass read again, at inputs of other shapes."""
        inputs = {k: v.requires_grad_(k in self.forward.leaves) for k, v in inputs.items()}
        return OfCheck(self.passes.anew({**self.forward.inputs, **inputs}))

    def differentiable(self) -> tuple[Named, Callable[..., Any], Callable[..., Any]]:
        """Return the differentiable inputs, forward, and the mutant as its backward pass."""
        forward, own = self.forward, self.gives_output

        def offered(
            leaves: Sequence[Tensor], grads: Sequence[Tensor] | None = None
        ) -> tuple[Named, list[Tensor]]:
            """Return what a mutant is given there, zeros above the outputs; and the outputs."""
            inputs = {**forward.inputs, **dict(zip(forward.leaves, leaves, strict=True))}
            outputs, named = forward.at(inputs)
            outputs = [output.detach() for output in outputs]
            above = grads or [torch.zeros_like(output) for output in outputs]
            given = {k: v.detach() for k, v in tensors({**inputs, **named}).items()}
            return given | numbered("output", outputs) | numbered("grad_output", above), outputs

        def run(program: Program, *leaves: Tensor) -> list[Tensor]:
            given, outputs = offered(leaves)
            if not own:
                return outputs
            found = evaluate(program, given, Floats(double))
            return [found[name] for name in numbered("output", outputs)]

        def back(program: Program, leaves: Sequence[Tensor], grads: Sequence[Tensor]) -> list[Any]:
            given, outputs = offered(leaves, grads)
            found = evaluate(program, given, Floats(double))
            # one that takes the loss's own gradient for 1 is the factor of whatever stands above
            above = grads[0] if self.passes.backward.ones and not own else None
            if above is not None and not outputs[0].ndim:
                found = {name: value * above for name, value in found.items()}
            return [found.get(label) for label in forward.leaves]

        return {k: self.inputs[k].detach() for k in forward.leaves}, run, back


class OfCase(Subject):
    """A case's by-hand step, some steps into its training, when moments are no longer 0."""

    STEPS = 3  # by hand before the step that is judged

    def __init__(
        self, case: Case, *, dtype: str = "float64",
        given: Named | None = None, programs: tuple[Program, Program] | None = None,
    ) -> None:  # fmt: skip
        self.case, self.name = case, f"case {case.name}"
        self.side = Autograd(case)
        manual_program = by_hand(case)
        if given is None:
            drawn = draw(case, seed=1, population=1, dtype=dtype_named(dtype),
                         device=torch.device("cpu"))  # fmt: skip
            state = drawn.state
            *before, last = drawn.steps(self.STEPS + 1)
            for data in before:
                after = manual_program(
                    **{name: value.clone() for name, value in (data | state).items()}
                )
                state = {name: after.get(name, state[name]) for name in state}
            given = last | state
        self.given = self.inputs = self.everything = given
        off, self.entries = lift_limits("auto", given.values())
        if off:
            raise too_large(self.name, off)
        if programs is None:
            programs = (
                readable("backward", try_trace(manual_program, given)),
                readable("autograd's step", try_trace(self.side.traceable, given)),
            )
        self.manual_program, self.reference = programs
        self.plain = self.side.step(**given)

    def compared(self, program: Program, values: Named) -> tuple[Named, Pair]:
        """Return autograd's step going on from a mutant's values, and both as a pair."""
        fitting = {k: v for k, v in values.items() if mismatch(v, self.plain[k]) is None}
        theirs = self.side.step_from(fitting, **self.given)
        autograd = {name: theirs[name] for name in values}
        both = {name: theirs[name] for name in fitting}
        return autograd, replace(self.pair, manual_program=program, manual=fitting, autograd=both)

    @cached_property
    def pair(self) -> Pair:
        """The step as it stands beside autograd's."""
        values = self.values(self.manual_program)
        return Pair(
            manual_program=self.manual_program, reference=self.reference, inputs=self.given,
            manual_inputs={name: (value, None) for name, value in self.given.items()},
            manual=values, autograd=values, entries=self.entries,
        )  # fmt: skip

    def autograd(self) -> Named:
        """Return autograd's step, from the weights on."""
        return {name: self.plain[name] for name in self.manual_program.outputs}

    def at(self, inputs: Named) -> "OfCase":
        """Return the step at other weights and rows."""
        return OfCase(self.case, given=inputs, programs=(self.manual_program, self.reference))

    def differentiable(self) -> tuple[Named, Callable[..., Any], Callable[..., Any]]:
        """Return the weights, the loss as a function of them, and minus the mutant's updates."""
        names = [name for name in self.side.trainer(self.given["X"]).parameters
                 if f"{name}_update" in self.manual_program.outputs]  # fmt: skip

        def back(program: Program, leaves: Sequence[Tensor], grads: Sequence[Tensor]) -> list[Any]:
            given = self.given | dict(zip(names, leaves, strict=True))
            found = evaluate(program, given, Floats(double))
            return [-grads[0] * found[f"{name}_update"] for name in names]

        return {k: self.given[k] for k in names}, partial(self._loss, names), back

    def _loss(self, names: Sequence[str], _program: Program, *leaves: Tensor) -> list[Tensor]:
        """Return the loss at these weights, the penalties too."""
        trainer = self.side.trainer(self.given["X"])
        for name, mask in trainer.masks.items():
            mask.mask = self.given[name]
        own = {id(weight): name for name, weight in trainer.network.named_parameters()}
        weights = {name: self.given[name] for name in trainer.parameters}
        weights |= zip(names, leaves, strict=True)
        there = {own[id(trainer.parameters[name])]: value for name, value in weights.items()}
        trainer.network.train()
        layer = torch.func.functional_call(trainer.network, there, (self.given["X"],))
        loss = trainer.loss(layer, self.given["y"]).sum()
        l1, l2 = trainer.penalties
        syns = [weight for name, weight in weights.items() if kind_of(name) == "syn" and (l1 or l2)]
        return [loss + sum(l2 / 2 * (w**2).sum() + l1 * w.abs().sum() for w in syns)]
