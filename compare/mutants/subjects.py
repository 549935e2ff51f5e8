"""The subjects of mutation tests: a traced by-hand pass and its reference, at some inputs.

The same two programs are used at other inputs of the same shapes, and in another dtype.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor

from compare.cases.cases import Case, quantity_kind
from compare.environment import dtype_named
from compare.errors import BadInput
from compare.mutants.mutate import without_copies
from compare.passes.inputs import lift_limits, numbered, tensors
from compare.passes.passes import Passes
from compare.proof.bits import mismatch
from compare.proof.interpreter import Floats, evaluate
from compare.proof.judge import judge
from compare.proof.pair import Pair
from compare.proof.program import Opaque, Program, base_name, meta_tensor
from compare.proof.trace import try_trace
from compare.report.quantity import Quantity
from compare.report.report import Report
from compare.training.adapters import Autograd, manual_step_of
from compare.training.sampling import draw

Named = dict[str, Tensor]
DOUBLE = torch.float64


class Subject(ABC):
    """A by-hand pass and its reference as programs, at some inputs."""

    manual_program: Program
    reference: Program
    program_inputs: Named  # of `manual_program`: the inputs, intermediates and cotangents
    inputs: Named  # the tensors for which other values can be drawn
    all_inputs: dict[str, Any]  # also those that are not tensors, to be saved
    name: str

    @property
    def returns_output(self) -> bool:
        """Whether the pass also returns the output, so that mutants may have a wrong output."""
        return any(base_name(name) == "output" for name in self.manual_program.outputs)

    @property
    def dtype(self) -> torch.dtype:
        """The narrowest float dtype among the inputs."""
        dtypes = [v.dtype for v in self.inputs.values() if v.is_floating_point()]
        return max(dtypes, key=lambda dtype: torch.finfo(dtype).eps)

    def values(self, program: Program, *, read_in: torch.dtype | None = None) -> Named:
        """Run a mutant; one that was traced in the dtype `read_in` runs in this subject's dtype."""
        own_dtype = self.dtype

        def converted(dtype: torch.dtype) -> torch.dtype:
            widens = own_dtype == DOUBLE and read_in is not None and dtype.is_floating_point
            return own_dtype if dtype == read_in or widens else dtype

        return evaluate(program, self.program_inputs, Floats(converted))

    def judge(self, program: Program) -> Report:
        """Run and judge a mutant, each quantity from the mutant's own values above it."""
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
        """Return autograd's values with a mutant's injected, and both sides as a pair."""

    @abstractmethod
    def autograd(self) -> Named:
        """Return the reference's values, without injection."""

    @abstractmethod
    def at(self, inputs: Named) -> "Subject":
        """Return the same pass at other values of the inputs."""

    def retraced(self, inputs: Named) -> "Subject | None":
        """Return the pass traced again at inputs of other shapes, None if it does not take any."""
        del inputs
        return None

    @abstractmethod
    def differentiable(self) -> "tuple[Named, Callable[..., Any], Callable[..., Any]]":
        """Return what gradcheck needs: the leaves, a forward function and a backward function.

        `run(program, *leaves)` returns the outputs. `back(program, leaves, grads)` returns the
        mutant's gradient of each leaf, None where it returns none.
        """

    def to(self, dtype: torch.dtype) -> "Subject":
        """Return the same pass with its float inputs in another dtype."""
        return self.at({
            name: value.detach().to(dtype) if value.is_floating_point() else value
            for name, value in self.inputs.items()
        })  # fmt: skip

    @cached_property
    @abstractmethod
    def pair(self) -> Pair:
        """The unmutated pass and its reference; a mutant replaces the by-hand side."""


def traced(name: str, program: Program | Opaque) -> Program:
    """Return a program without copies; raise BadInput if the pass could not be traced."""
    if isinstance(program, Opaque):
        raise BadInput(f"{name} {program}: write it in torch operations to create mutants of it")
    values = map(meta_tensor, program.graph.nodes)
    if any(value is not None and value.is_complex() for value in values):
        raise BadInput(f"{name} has complex numbers, of which no mutants can be created")
    return without_copies(program)


def too_large(name: str, reason: Opaque) -> BadInput:
    """Return the error for inputs of which `check` would lift nothing."""
    return BadInput(f"{name}: {reason}; use smaller inputs to test mutants")


def double(dtype: torch.dtype) -> torch.dtype:
    """Return float64 for a float dtype, and any other dtype unchanged."""
    return DOUBLE if dtype.is_floating_point else dtype


class CheckSubject(Subject):
    """A backward pass with the arguments of `check`."""

    name = "backward"

    def __init__(self, passes: Passes, programs: tuple[Program, Program] | None = None) -> None:
        self.passes, self.forward = passes, passes.forward
        if passes.not_lifted:
            raise too_large(self.name, passes.not_lifted)
        self.all_inputs = self.forward.inputs
        self.inputs = tensors(self.all_inputs)
        self.program_inputs = {k: v.detach() for k, v in tensors(passes.backward.arguments).items()}
        if programs is None:
            programs = (
                traced("backward", passes.manual_program),
                traced("forward", passes.reference),
            )
        self.manual_program, self.reference = passes.manual_program, passes.reference = programs

    def compared(self, program: Program, values: Named) -> tuple[Named, Pair]:
        """Return autograd's values with a mutant's injected, and both sides as a pair."""
        return self.passes.with_autograd(values, program)

    @cached_property
    def pair(self) -> Pair:
        """The unmutated pass and its reference."""
        values = self.values(self.manual_program)
        return self.passes.pair(values, values)

    def autograd(self) -> Named:
        """Return autograd's gradients, and the output if the pass returns it."""
        values = self.forward.reference(**self.forward.arguments)
        return {name: values[name] for name in self.manual_program.outputs}

    def at(self, inputs: Named) -> "CheckSubject":
        """Return the same pass at other inputs, with the cotangents in their dtype."""
        changed = {v.dtype for k, v in inputs.items() if v.dtype != self.inputs[k].dtype}
        dtype = changed.pop() if len(changed) == 1 else None
        grads = [grad.to(dtype or grad.dtype) for grad in self.forward.cotangents]
        passes = self.passes.at({k: v.clone() for k, v in inputs.items()}, grads)
        return CheckSubject(passes, (self.manual_program, self.reference))

    def retraced(self, inputs: Named) -> "CheckSubject":
        """Return the pass traced again at inputs of other shapes."""
        inputs = {k: v.requires_grad_(k in self.forward.leaves) for k, v in inputs.items()}
        return CheckSubject(self.passes.retraced_at({**self.forward.inputs, **inputs}))

    def differentiable(self) -> tuple[Named, Callable[..., Any], Callable[..., Any]]:
        """Return the differentiable inputs, the forward pass and the mutant as backward pass."""
        forward, returns_output = self.forward, self.returns_output

        def arguments(
            leaves: Sequence[Tensor], grads: Sequence[Tensor] | None = None
        ) -> tuple[Named, list[Tensor]]:
            """Return a mutant's inputs there, with zero cotangents by default, and the outputs."""
            inputs = {**forward.inputs, **dict(zip(forward.leaves, leaves, strict=True))}
            outputs, named = forward.at(inputs)
            outputs = [output.detach() for output in outputs]
            cotangents = grads or [torch.zeros_like(output) for output in outputs]
            values = {k: v.detach() for k, v in tensors({**inputs, **named}).items()}
            values |= numbered("output", outputs) | numbered("grad_output", cotangents)
            return values, outputs

        def run(program: Program, *leaves: Tensor) -> list[Tensor]:
            values, outputs = arguments(leaves)
            if not returns_output:
                return outputs
            results = evaluate(program, values, Floats(double))
            return [results[name] for name in numbered("output", outputs)]

        def back(program: Program, leaves: Sequence[Tensor], grads: Sequence[Tensor]) -> list[Any]:
            values, outputs = arguments(leaves, grads)
            gradients = evaluate(program, values, Floats(double))
            # without grad_output it takes the gradient of a scalar loss to be 1: scale its result
            if self.passes.backward.unit_cotangents and not returns_output and not outputs[0].ndim:
                gradients = {name: value * grads[0] for name, value in gradients.items()}
            return [gradients.get(label) for label in forward.leaves]

        return {k: self.inputs[k].detach() for k in forward.leaves}, run, back


class CaseSubject(Subject):
    """The by-hand step of a case, after a few steps so that an optimizer's moments are not 0."""

    STEPS = 3  # before the step that is judged

    def __init__(
        self, case: Case, *, dtype: str = "float64",
        inputs: Named | None = None, programs: tuple[Program, Program] | None = None,
    ) -> None:  # fmt: skip
        self.case, self.name = case, f"case {case.name}"
        self.side = Autograd(case)
        manual_program = manual_step_of(case)
        if inputs is None:
            drawn = draw(case, seed=1, population=1, dtype=dtype_named(dtype),
                         device=torch.device("cpu"))  # fmt: skip
            state = drawn.state
            *before, last = drawn.steps(self.STEPS + 1)
            for data in before:
                after = manual_program(
                    **{name: value.clone() for name, value in (data | state).items()}
                )
                state = {name: after.get(name, state[name]) for name in state}
            inputs = last | state
        self.program_inputs = self.inputs = self.all_inputs = inputs
        off, self.entries = lift_limits("auto", inputs.values())
        if off:
            raise too_large(self.name, off)
        if programs is None:
            programs = (
                traced("backward", try_trace(manual_program, inputs)),
                traced("autograd's step", try_trace(self.side.traceable, inputs)),
            )
        self.manual_program, self.reference = programs
        self.reference_values = self.side.step(**inputs)

    def compared(self, program: Program, values: Named) -> tuple[Named, Pair]:
        """Return autograd's step with a mutant's values injected, and both sides as a pair."""
        injected = {
            k: v for k, v in values.items() if mismatch(v, self.reference_values[k]) is None
        }
        step = self.side.step_from(injected, **self.program_inputs)
        autograd = {name: step[name] for name in values}
        compared = {name: step[name] for name in injected}
        pair = replace(self.pair, manual_program=program, manual=injected, autograd=compared)
        return autograd, pair

    @cached_property
    def pair(self) -> Pair:
        """The unmutated step and autograd's."""
        values = self.values(self.manual_program)
        return Pair(
            manual_program=self.manual_program, reference=self.reference, inputs=self.inputs,
            manual_inputs={name: (value, None) for name, value in self.program_inputs.items()},
            manual=values, autograd=values, entries=self.entries,
        )  # fmt: skip

    def autograd(self) -> Named:
        """Return autograd's step, without injection."""
        return {name: self.reference_values[name] for name in self.manual_program.outputs}

    def at(self, inputs: Named) -> "CaseSubject":
        """Return the step at other weights and rows."""
        return CaseSubject(self.case, inputs=inputs, programs=(self.manual_program, self.reference))

    def differentiable(self) -> tuple[Named, Callable[..., Any], Callable[..., Any]]:
        """Return the weights, the loss as their function, and the mutant's updates, negated."""
        names = [name for name in self.side.trainer(self.inputs["X"]).parameters
                 if f"{name}_update" in self.manual_program.outputs]  # fmt: skip

        def back(program: Program, leaves: Sequence[Tensor], grads: Sequence[Tensor]) -> list[Any]:
            values = self.program_inputs | dict(zip(names, leaves, strict=True))
            step = evaluate(program, values, Floats(double))
            return [-grads[0] * step[f"{name}_update"] for name in names]

        return {k: self.inputs[k] for k in names}, partial(self._loss, names), back

    def _loss(self, names: Sequence[str], _program: Program, *leaves: Tensor) -> list[Tensor]:
        """Return the loss at these weights, penalties included."""
        trainer = self.side.trainer(self.inputs["X"])
        for name, mask in trainer.masks.items():
            mask.mask = self.inputs[name]
        torch_names = {id(weight): name for name, weight in trainer.network.named_parameters()}
        weights = {name: self.inputs[name] for name in trainer.parameters}
        weights |= zip(names, leaves, strict=True)
        parameters = {
            torch_names[id(trainer.parameters[name])]: value for name, value in weights.items()
        }
        trainer.network.train()
        layer = torch.func.functional_call(trainer.network, parameters, (self.inputs["X"],))
        loss = trainer.loss(layer, self.inputs["y"]).sum()
        l1, l2 = trainer.penalties
        syns = [
            weight
            for name, weight in weights.items()
            if quantity_kind(name) == "syn" and (l1 or l2)
        ]
        return [loss + sum(l2 / 2 * (w**2).sum() + l1 * w.abs().sum() for w in syns)]
