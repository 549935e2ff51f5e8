"""A backward pass and its forward pass at some inputs, each called and traced once."""

from collections.abc import Collection, Mapping, Sequence
from copy import copy
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from compare.errors import BadInput, unknown, whole_number
from compare.passes.backward import Backward, BackwardPass
from compare.passes.forward import ForwardPass
from compare.passes.inputs import Forward, Inputs, Values, lift_limits, numbered, tensors
from compare.passes.numpy_code import on_tensors
from compare.proof.bits import mismatch, of_real_view, real_view
from compare.proof.derived_inputs import with_derived_inputs
from compare.proof.literals import Reading
from compare.proof.pair import Bypasses, Lift, Pair, find_bypasses
from compare.proof.program import Opaque, Program
from compare.proof.trace import try_trace


class Passes:
    """Both passes at some inputs: their values there, and both as programs.

    The by-hand side is called first. Its gradients tell which parameters are checked, and it shows
    whether its inputs can be copies.

    Args:
        backward: The pass under test, as for `compare.check`.
        forward: Differentiable torch code, as for `compare.check`.
        inputs: The arguments of `forward`, as for `compare.check`.
        seed: Seed of the cotangents.
        cotangents: One for each differentiable output and of its shape; None: they are drawn.
        hold: Names of inputs and parameters that other inputs do not change.
        formula_ulps: Accepted difference of two formulas, in ulps of their dtype.
        lift: How many entries of a large matrix product are computed exactly, as for
            `compare.check`.

    Raises:
        BadInput: An argument cannot be used.
    """

    def __init__(
        self, backward: Backward, forward: Forward, inputs: Inputs, seed: int = 0, *,
        cotangents: Sequence[Tensor] | None = None, hold: Collection[str] = (),
        formula_ulps: float = 0.0, lift: str | int = "auto",
    ) -> None:  # fmt: skip
        self.seed, self.lift = whole_number("seed", seed), lift
        if type(formula_ulps) not in (int, float) or not 0 <= formula_ulps <= 1e300:
            raise BadInput(f"formula_ulps is {formula_ulps!r}: give a number of ulps, 0 or more")
        self.formula_ulps = float(formula_ulps)
        backward, inputs = on_tensors(backward, inputs)
        self.forward = ForwardPass(forward, inputs, seed, cotangents)
        if isinstance(hold, str) or not isinstance(hold, Collection):
            raise BadInput(f"hold is {hold!r}: give the names of inputs, as in hold=('p',)")
        self.hold = frozenset(map(str, hold))
        known = [*self.forward.inputs, *self.forward.parameters]
        for label in self.hold - {*known}:
            raise unknown("input to hold", label, known)
        self.backward = BackwardPass(backward, self.forward)
        #: The reason for which nothing is computed exactly, or None; and how many entries of a
        #: large matrix product are, None for all.
        self.not_lifted, self.entries = lift_limits(
            lift, [*self.forward.inputs.values(), *self.forward.intermediates.values()]
        )
        # shared by all pairs at these inputs
        self.reference_lifts: dict[tuple[Reading, int], Lift] = {}

    # -- values and programs

    @cached_property
    def manual(self) -> dict[str, Tensor]:
        """The values of the by-hand side: its gradients, and a Function's outputs."""
        values = self.backward.run()
        self.forward.checked_parameters = [k for k in self.forward.parameters if k in values]
        return values

    @cached_property
    def manual_program(self) -> Program | Opaque:
        """The program of the by-hand side, or the reason for which there is none."""
        _ = self.manual  # called first, see the class
        if self.not_lifted:
            return self.not_lifted
        if self.backward.differentiates_inputs:
            return Opaque(
                "differentiates its own input tensors, as torch.autograd.grad(f(x), x) does, so "
                "copies cannot replace them"
            )
        return try_trace(self.backward, self.backward.arguments)

    @cached_property
    def reference(self) -> Program | Opaque:
        """The program of the reference, or the reason for which there is none."""
        _ = self.manual  # called first, see the class
        return self.not_lifted or try_trace(self.forward.reference, self.forward.arguments)

    # -- the same passes with other cotangents or inputs

    def with_cotangents(self, cotangents: Sequence[Tensor]) -> "Passes":
        """Return the passes at the same inputs with other cotangents, one for each output."""
        other = copy(self)
        other.forward, other.backward = copy(self.forward), copy(self.backward)
        other.forward.cotangents, other.backward.forward = [*cotangents], other.forward
        other.reference_lifts = {}
        other.__dict__.pop("manual", None)
        return other

    def retraced_at(self, inputs: Inputs) -> "Passes":
        """Return the passes at other inputs, where they are called and traced again."""
        return Passes(
            self.backward.function, self.forward.function, inputs, self.seed, hold=self.hold,
            formula_ulps=self.formula_ulps, lift=self.lift,
        )  # fmt: skip

    def traced_at_any_size(self) -> "Passes":
        """Return the passes with the reference as a program, even of too many elements to lift."""
        if self.not_lifted is None or self.lift != "auto":
            return self
        other = copy(self)
        other.reference = try_trace(self.forward.reference, self.forward.arguments)
        return other

    @property
    def is_too_large(self) -> bool:
        """Whether nothing is computed exactly because of the number of elements."""
        return self.not_lifted is not None and self.lift == "auto"

    def in_dtype(self, dtype: torch.dtype) -> "Passes":
        """Return the passes with the inputs and cotangents of fewer bits in a wider dtype."""

        def widened(value: Any) -> Any:
            if not isinstance(value, Tensor):
                return value
            of_floats = value.is_floating_point() or value.is_complex()
            if not of_floats or torch.finfo(value.dtype).eps <= torch.finfo(dtype).eps:
                return value
            to = dtype.to_complex() if value.is_complex() else dtype
            return value.detach().to(to).requires_grad_(value.requires_grad)

        other = Passes(
            self.backward.function, self.forward.function,
            {key: widened(value) for key, value in self.forward.inputs.items()}, self.seed,
            cotangents=[widened(value) for value in self.forward.cotangents], hold=self.hold,
        )  # fmt: skip
        if isinstance(self.manual_program, Opaque):
            other.manual_program = self.manual_program
        return other

    def at(self, inputs: Mapping[str, Any], cotangents: Sequence[Tensor] | None = None) -> "Passes":
        """Return the passes at other values of the inputs, with the programs traced here.

        Args:
            inputs: Name -> new value; the other inputs stay.
            cotangents: One for each output; None: others are drawn than here.
        """
        complete = {**self.forward.inputs, **inputs}
        for key in self.forward.leaves:
            complete[key] = complete[key].detach().requires_grad_()
        other = Passes(
            self.backward.function, self.forward.function, complete,
            self.seed + 1 if cotangents is None else self.seed, cotangents=cotangents,
        )  # fmt: skip
        other.manual_program, other.reference = self.manual_program, self.reference
        other.not_lifted, other.entries = self.not_lifted, self.entries
        other.forward.checked_parameters = [*self.forward.checked_parameters]
        return other

    # -- both sides together

    @property
    def outputs(self) -> dict[str, Tensor]:
        """The outputs of forward to compare with; only a Function computes them by hand too."""
        return numbered("output", self.forward.outputs) if self.backward.is_function else {}

    def autograd(self, manual: Values) -> dict[str, Tensor]:
        """Return autograd's values in the order of computation, a Function's outputs first.

        Each gradient continues from the by-hand gradients of the intermediates above it, so that
        one bug makes one WRONG quantity.
        """
        return {**self.outputs, **self.forward.gradients(manual)}

    def with_autograd(
        self, manual: Values, manual_program: Program | Opaque, bypasses: Bypasses | None = None
    ) -> tuple[dict[str, Tensor], Pair]:
        """Return autograd's values, along the by-hand pass's own path, and both sides as a pair."""
        if bypasses is None:
            injected = [label for label in self.forward.intermediates if label in manual]
            bypasses = find_bypasses(manual_program, self.reference, injected)
        autograd = self.autograd(manual)
        for used in {*bypasses.values()}:
            gradients = self.forward.gradients(manual, used)
            autograd |= {k: gradients[k] for k, path in bypasses.items() if path == used}
        return autograd, self.pair(manual, autograd, manual_program, bypasses)

    def pair(
        self, manual: Values, autograd: Values, manual_program: Program | Opaque | None = None,
        bypasses: Bypasses | None = None,
    ) -> Pair:  # fmt: skip
        """Return both sides' values as a pair, without quantities of different shape or dtype.

        A pair is of real numbers: each complex tensor is its real view there.
        """
        forward, arguments = self.forward, tensors(self.backward.arguments)
        comparable = [k for k, v in autograd.items() if k in manual and not mismatch(manual[k], v)]
        pair = Pair(
            manual_program=self.manual_program if manual_program is None else manual_program,
            reference=self.reference,
            entries=self.entries,
            inputs={k: real_view(value) for k, value in tensors(forward.arguments).items()},
            manual_inputs={
                k: (real_view(value), forward.reference_key(k)) for k, value in arguments.items()
            },
            manual={label: real_view(manual[label]) for label in comparable},
            autograd={label: real_view(autograd[label]) for label in comparable},
            quantities_are_gradients=True,
            injected=[label for label in forward.intermediates if label in comparable],
            formula_ulps=self.formula_ulps,
            bypasses=bypasses or {},
            constants={k: v for k, v in forward.inputs.items() if isinstance(v, float)},
            remake=self._pair_at,
            reference_lifts=self.reference_lifts,
        )
        return with_derived_inputs(pair)

    def _pair_at(self, inputs: Values) -> Pair:
        """Return both sides at other inputs, called there but not traced again."""
        own = self.forward.inputs
        other = self.at({k: of_real_view(inputs[k], own[k]) for k in own if k in inputs})
        return other.pair(other.manual, other.autograd(other.manual))
