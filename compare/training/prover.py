"""Proofs of a run beyond its bits: exact arithmetic at some steps, rounding bounds at all."""

from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from torch import Tensor

from compare.diagnosis.bit_exact_search import suggest_rewrites
from compare.diagnosis.diagnosis import diagnose
from compare.proof.bounds import Bound
from compare.proof.interpreter import Lifted, Unsupported, lift
from compare.proof.judge import judge
from compare.proof.pair import Pair
from compare.proof.program import Opaque, Program, node_text
from compare.proof.rounding import bounds_for, share_of_rounding
from compare.proof.trace import recorded_texts, try_trace
from compare.proof.verdict import ROUNDING, WRONG, Proof, Verdict
from compare.stateful import Stateful, Types, require
from compare.training.adapters import Named, Step, copies
from compare.training.chunking import one_network
from compare.training.control_flow import may_branch

_Read = Program | Opaque

MAX_PROGRAMS = 100  # in the cache: a step whose constants change each time has one for each step


class Prover(Stateful):
    """Traces both sides of a run as programs, and computes proofs and rounding bounds.

    A step may execute other operations at other inputs. So it is recorded at each step that is
    proved, and traced anew unless a traced program has the same operations and constants.

    Args:
        manual_step: the by-hand step, a function of named tensors.
        reference: autograd's step, likewise, in a form that can be traced.
        off: the reason for lifting nothing, None to lift.
        entries: number of entries of a large product to lift, None for all.
        find_fixes: search for a fix of what is WRONG, and for the code that has autograd's bits.
        numbers: constants of the network by name, which a fix may use.
        injected_step: autograd's step with the by-hand values injected, for proofs at other inputs;
            None where it cannot be taken at others.
    """

    STATE = Types(diagnosed=dict[Verdict, set[str]])

    def __init__(
        self, manual_step: Step, reference: Step, off: Opaque | None, entries: int | None, *,
        find_fixes: bool = True, numbers: Mapping[str, float] | None = None,
        injected_step: Callable[..., Named] | None = None,
    ) -> None:  # fmt: skip
        self.manual_step, self.reference = manual_step, reference
        self.off, self.entries = off, entries
        # by side, batch size, and the text of the operations with their constants
        self.programs: dict[tuple[str, int, tuple[str, ...] | None], _Read] = {}
        self.find_fixes, self.numbers = find_fixes, dict(numbers or {})
        self.injected_step = injected_step
        # the quantities that were searched for a fix, by verdict: each is searched once
        self.diagnosed: dict[str, set[str]] = {WRONG: set(), ROUNDING: set()}

    def check_state(self, state: Any) -> None:
        """Raise ValueError for other verdicts than those that are searched for a fix."""
        require({*state.diagnosed} == {*self.diagnosed}, "diagnosed", "other verdicts")

    def proof(self, inputs: Named, manual: Named, autograd: Named) -> dict[str, Proof]:
        """Return the proof of each quantity of one step of one network.

        Args:
            inputs: named inputs of the step, (1, ...) each.
            manual: by-hand values by name, (1, ...) each.
            autograd: autograd's values with the by-hand values injected, likewise.
        """
        pair = self._pair(inputs, manual, autograd)
        proofs = judge(pair, list(manual))
        if not self.find_fixes:
            return proofs
        proofs = diagnose(pair, proofs, skip=self.diagnosed[WRONG])
        proofs = suggest_rewrites(pair, proofs, self.diagnosed[ROUNDING])
        for name, proof in proofs.items():
            if proof.verdict in self.diagnosed:
                self.diagnosed[proof.verdict].add(name)
        return proofs

    def misshapen(self, inputs: Named, names: Collection[str]) -> dict[str, Proof]:
        """Return proofs with a fix for quantities of a wrong shape; see `diagnose`."""
        first = copies(one_network(inputs, 0))
        return diagnose(self._pair(first, {}, {}), {}, names)

    def _pair(self, inputs: Named, manual: Named, autograd: Named) -> Pair:
        manual_program, reference = self._programs(inputs)
        return Pair(
            manual_program=manual_program, reference=reference, inputs=inputs, manual=manual,
            autograd=autograd,
            manual_inputs={name: (value, None) for name, value in inputs.items()},
            entries=self.entries, constants=self.numbers, has_population_dim=True,
            remake=self._pair_at if self.injected_step else None,
        )  # fmt: skip

    def _pair_at(self, inputs: Mapping[str, Tensor]) -> Pair:
        """Return the step at other inputs, with the by-hand values injected into autograd's."""
        assert self.injected_step is not None
        named = dict(inputs)
        manual = self.manual_step(**copies(named))
        return self._pair(named, manual, self.injected_step(manual, **named))

    def follows(self) -> dict[str, list[str]]:
        """Return for each quantity the names of those that are computed from it by hand."""
        programs = (p for p in self.manual_programs() if isinstance(p, Program))
        return next((program.descendants() for program in programs), {})

    def manual_programs(self) -> list[_Read]:
        """Return the programs that the by-hand side was traced as, at the steps proved so far."""
        return [read for (side, *_), read in self.programs.items() if side == "by hand"]

    def may_branch(self, inputs: Named) -> bool:
        """Whether the steps of a batch may execute different operations.

        Then no step can stand for the others. False where a side cannot be traced.
        """
        sides = self.manual_step, self.reference
        if self.off or not any(may_branch(side, inputs) for side in sides):
            return False
        return all(isinstance(program, Program) for program in self._programs(inputs))

    def shares(
        self, names: list[str], inputs: Named, manual: Named, autograd: Named
    ) -> dict[str, Tensor | None]:
        """Return |by hand - autograd| / rounding bound of each element.

        On both sides each quantity is computed from the by-hand values above it.

        Args:
            names: the quantities to bound.
            inputs: named inputs of some steps, (P, ...) each.
            manual: by-hand values by name, (P, ...) each.
            autograd: autograd's values with the by-hand values injected, likewise.

        Returns:
            The shares by name, (P, ...) each; None where no bound could be computed.
        """
        sides = [self._bounds(p, inputs, manual, names) for p in self._programs(inputs)]
        shares: dict[str, Tensor | None] = {}
        for name in names:
            bounds = [side.get(name) for side in sides]
            shares[name] = None
            if all(isinstance(bound, Bound) for bound in bounds):
                allowed = sum(bound.error for bound in bounds)  # type: ignore[union-attr]
                shares[name] = share_of_rounding(manual[name], autograd[name], allowed)
        return shares

    def without_step_count(self, inputs: Named, names: list[str], starts: Named) -> Named | None:
        """Return inputs with integers fixed to 1 if `names` do not depend on them, else None.

        One program then serves every step. The quantities do not depend on the integers if the same
        operations lead to them with 1 and with 2.

        Args:
            inputs: named inputs of some steps, (P, ...) each.
            names: the quantities to compute.
            starts: values by name from which they are computed.
        """
        ones, twos = (
            {n: v if v.is_floating_point() else torch.full_like(v, k) for n, v in inputs.items()}
            for k in (1, 2)
        )
        for first, second in zip(self._programs(ones), self._programs(twos), strict=True):
            if isinstance(first, Program) and isinstance(second, Program):
                texts = [
                    sorted(map(node_text, p.nodes_leading_to(names, starts)))
                    for p in (first, second)
                ]
                if texts[0] != texts[1]:
                    return None
        return ones

    def _bounds(
        self, program: _Read, inputs: Named, manual: Named, names: list[str]
    ) -> Mapping[str, Any]:
        if isinstance(program, Opaque):
            return {}
        n = bounds_for(program, inputs.values())
        overrides = {name: Lifted(value, n.exact(value)) for name, value in manual.items()}
        lifted = lift(program, n, inputs, overrides=overrides, only=names)
        return {k: v.numbers for k, v in lifted.items() if not isinstance(v.numbers, Unsupported)}

    def _programs(self, inputs: Named) -> tuple[_Read, _Read]:
        """Return the programs of both sides at these inputs."""
        return (
            self._program("by hand", self.manual_step, inputs),
            self._program("autograd", self.reference, inputs),
        )

    def _program(self, side: str, function: Step, inputs: Named) -> _Read:
        """Return the program of a side, from the cache if its operations are still the same."""
        if self.off:
            return self.off
        texts = recorded_texts(function, inputs)
        key = side, len(inputs["X"]), texts
        if texts is None or key not in self.programs:
            while len(self.programs) >= MAX_PROGRAMS:
                del self.programs[next(iter(self.programs))]
            self.programs[key] = try_trace(function, inputs)
        return self.programs[key]


def whole_numbers(inputs: Named) -> tuple[int, ...]:
    """Return all integers in the inputs: the step number of each network."""
    tensors = (value for value in inputs.values() if not value.is_floating_point())
    return tuple(number for value in tensors for number in value.flatten().tolist())
