"""A by-hand pass and the forward pass that it is for, at some inputs: each run and read once."""

from collections.abc import Collection, Mapping, Sequence
from copy import copy
from functools import cached_property
from typing import Any

from torch import Tensor

from compare.errors import BadInput, unknown, whole
from compare.passes.backward import Backward, BackwardPass
from compare.passes.forward import ForwardPass
from compare.passes.inputs import Forward, Inputs, Values, lift_limits, numbered, tensors
from compare.proof.bits import mismatch
from compare.proof.derived_inputs import with_derived_inputs
from compare.proof.literals import Reading
from compare.proof.pair import Bypasses, Lift, Pair, find_bypasses
from compare.proof.program import Opaque, Program
from compare.proof.trace import try_trace


class Passes:
    """Both passes at some inputs, what they give there, and both as programs.

    The arguments are those of `compare.check`; `grads` stand above the outputs in place of what
    `seed` draws. Raises BadInput for what cannot be judged.
    """

    def __init__(
        self, backward: Backward, forward: Forward, inputs: Inputs, seed: int = 0, *,
        grads: Sequence[Tensor] | None = None, hold: Collection[str] = (),
        formula_ulps: float = 0.0, lift: str | int = "auto",
    ) -> None:  # fmt: skip
        self.seed, self.lift = whole("seed", seed), lift
        if type(formula_ulps) not in (int, float) or not 0 <= formula_ulps <= 1e300:
            raise BadInput(f"formula_ulps is {formula_ulps!r}: give a number of ulps, 0 or more")
        self.formula_ulps = float(formula_ulps)
        self.forward = ForwardPass(forward, inputs, seed, grads)
        if isinstance(hold, str) or not isinstance(hold, Collection):
            raise BadInput(f"hold is {hold!r}: give the names of inputs, as in hold=('p',)")
        self.hold = frozenset(map(str, hold))
        known = [*self.forward.inputs, *self.forward.parameters]
        for label in self.hold - {*known}:
            raise unknown("input to hold", label, known)
        self.backward = BackwardPass(backward, self.forward)
        #: Why nothing is lifted, if nothing is, and how many entries of a large product, or all.
        self.off, self.entries = lift_limits(
            lift, [*self.forward.inputs.values(), *self.forward.values.values()]
        )
        # shared by all pairs at these inputs
        self.reference_lifts: dict[tuple[Reading, int], Lift] = {}

    # -- what they give and how they read; the by-hand side runs first, for it says which of the
    #    parameters have a gradient by hand, and whether copies will do for its inputs

    @cached_property
    def manual(self) -> dict[str, Tensor]:
        """What the by-hand side gives."""
        found = self.backward.run()
        self.forward.judged = [label for label in self.forward.parameters if label in found]
        return found

    @cached_property
    def manual_program(self) -> Program | Opaque:
        """The by-hand side as a program."""
        _ = self.manual  # it runs first
        if self.off:
            return self.off
        if self.backward.by_identity:
            return Opaque(
                "it asks for the gradients of its own inputs by identity, so that no copies of "
                "them can be put in their place"
            )
        return try_trace(self.backward, self.backward.given)

    @cached_property
    def reference(self) -> Program | Opaque:
        """The reference as a program."""
        _ = self.manual  # it runs first
        return self.off or try_trace(self.forward.reference, self.forward.given)

    # -- the same passes otherwise

    def under(self, grads: Sequence[Tensor]) -> "Passes":
        """Return them at the same inputs with other numbers above the outputs."""
        other = copy(self)
        other.forward, other.backward = copy(self.forward), copy(self.backward)
        other.forward.grads, other.backward.forward = [*grads], other.forward
        other.reference_lifts = {}
        other.__dict__.pop("manual", None)
        return other

    def anew(self, inputs: Inputs) -> "Passes":
        """Return them at other inputs, to be run and read again there."""
        return Passes(
            self.backward.function, self.forward.function, inputs, self.seed, hold=self.hold,
            formula_ulps=self.formula_ulps, lift=self.lift,
        )  # fmt: skip

    def at(self, inputs: Mapping[str, Any], grads: Sequence[Tensor] | None = None) -> "Passes":
        """Return them at other values of the inputs, read as they were here.

        Where no `grads` are given, others are drawn.
        """
        every = {**self.forward.inputs, **inputs}
        for key in self.forward.leaves:
            every[key] = every[key].detach().requires_grad_()
        seed = self.seed + 1 if grads is None else self.seed
        other = Passes(self.backward.function, self.forward.function, every, seed, grads=grads)
        other.manual_program, other.reference = self.manual_program, self.reference
        other.off, other.entries = self.off, self.entries
        other.forward.judged = [*self.forward.judged]
        return other

    # -- both sides together

    @property
    def outputs(self) -> dict[str, Tensor]:
        """Forward's outputs where they are judged: by hand a Function gives them too."""
        return numbered("output", self.forward.outputs) if self.backward.is_function else {}

    def autograd(self, manual: Values) -> dict[str, Tensor]:
        """Return autograd's values in the order of computation, a Function's outputs first.

        Each goes on from the by-hand gradients above it.
        """
        return {**self.outputs, **self.forward.gradients(manual)}

    def compared(
        self, manual: Values, manual_program: Program | Opaque, bypasses: Bypasses | None = None
    ) -> tuple[dict[str, Tensor], Pair]:
        """Return autograd's values, along the by-hand pass's own path, and both sides as a pair."""
        if bypasses is None:
            injected = [label for label in self.forward.values if label in manual]
            bypasses = find_bypasses(manual_program, self.reference, injected)
        autograd = self.autograd(manual)
        for used in {*bypasses.values()}:
            gradients = self.forward.gradients(manual, used)
            autograd |= {name: gradients[name] for name, own in bypasses.items() if own == used}
        return autograd, self.pair(manual, autograd, manual_program, bypasses)

    def pair(
        self, manual: Values, autograd: Values, manual_program: Program | Opaque | None = None,
        bypasses: Bypasses | None = None,
    ) -> Pair:  # fmt: skip
        """Return what each side gave as a pair, of it only what can be compared."""
        forward, given = self.forward, tensors(self.backward.given)
        judged = [k for k, v in autograd.items() if k in manual and not mismatch(manual[k], v)]
        pair = Pair(
            manual_program=self.manual_program if manual_program is None else manual_program,
            reference=self.reference,
            entries=self.entries,
            inputs=tensors(forward.given),
            manual_inputs={key: (value, forward.counterpart(key)) for key, value in given.items()},
            manual={label: manual[label] for label in judged},
            autograd={label: autograd[label] for label in judged},
            quantities_are_gradients=True,
            injected=[label for label in forward.values if label in judged],
            formula_ulps=self.formula_ulps,
            bypasses=bypasses or {},
            constants={k: v for k, v in forward.inputs.items() if isinstance(v, float)},
            remake=self._pair_at,
            reference_lifts=self.reference_lifts,
        )
        return with_derived_inputs(pair)

    def _pair_at(self, inputs: Values) -> Pair:
        """Return both sides at other inputs, run there and not read again."""
        there = self.at({key: inputs[key] for key in self.forward.inputs if key in inputs})
        return there.pair(there.manual, there.autograd(there.manual))
