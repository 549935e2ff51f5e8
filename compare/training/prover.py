"""What a run shows beyond bits: lifted proof at sampled steps, a rounding bound at every step."""

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
from compare.state_dict import Stateful, Types, require
from compare.training.adapters import Named, Step, copies
from compare.training.chunking import one_network
from compare.training.control_flow import branches

_Read = Program | Opaque

KEPT = 100  # programs at a time: a step with numbers of its own each time has as many as steps


class Prover(Stateful):
    """Both sides of a run as programs, each as it is at the step that is proved.

    A step is recorded wherever it is looked at, and read as a program where its operations or
    constants are not those of one that was read before: it may take another way at other numbers.

    `off` says why nothing is lifted, `entries` how much of large products is; with `remedies` it
    looks for what would make a quantity right, the `numbers` of the question, by name, among it;
    `judged` is autograd's step from by-hand values, where it can be taken at other inputs.
    """

    STATE = Types(diagnosed=dict[Verdict, set[str]])

    def __init__(
        self, manual_step: Step, reference: Step, off: Opaque | None, entries: int | None, *,
        remedies: bool = True, numbers: Mapping[str, float] | None = None,
        judged: Callable[..., Named] | None = None,
    ) -> None:  # fmt: skip
        self.manual_step, self.reference = manual_step, reference
        self.off, self.entries = off, entries
        # by the side, the size of the batch and the operations with their constants
        self.programs: dict[tuple[str, int, tuple[str, ...] | None], _Read] = {}
        self.remedies, self.numbers, self.judged = remedies, dict(numbers or {}), judged
        # What a search was made for, by verdict: once, where it is first seen so.
        self.diagnosed: dict[str, set[str]] = {WRONG: set(), ROUNDING: set()}

    def check_state(self, found: Any) -> None:
        """Raise ValueError for verdicts that no search is made for."""
        require({*found.diagnosed} == {*self.diagnosed}, "diagnosed", "other verdicts")

    def proof(self, given: Named, manual: Named, autograd: Named) -> dict[str, Proof]:
        """Return the full proof for one step of one network, its tensors (1, ...)."""
        pair = self._pair(given, manual, autograd)
        proofs = judge(pair, list(manual))
        if not self.remedies:
            return proofs
        proofs = diagnose(pair, proofs, skip=self.diagnosed[WRONG])
        proofs = suggest_rewrites(pair, proofs, self.diagnosed[ROUNDING])
        for name, proof in proofs.items():
            if proof.verdict in self.diagnosed:
                self.diagnosed[proof.verdict].add(name)
        return proofs

    def misshapen(self, given: Named, names: Collection[str]) -> dict[str, Proof]:
        """Return what would give quantities of another shape the right one, and right values."""
        one = copies(one_network(given, 0))
        return diagnose(self._pair(one, {}, {}), {}, names)

    def _pair(self, given: Named, manual: Named, autograd: Named) -> Pair:
        manual_program, reference = self._programs(given)
        return Pair(
            manual_program=manual_program, reference=reference, inputs=given, manual=manual,
            autograd=autograd,
            manual_inputs={name: (value, None) for name, value in given.items()},
            entries=self.entries, constants=self.numbers, has_population_dim=True,
            remake=self._at if self.judged else None,
        )  # fmt: skip

    def _at(self, inputs: Mapping[str, Tensor]) -> Pair:
        """Return a step at other inputs: by hand, and autograd going on from it."""
        assert self.judged is not None
        given = dict(inputs)
        manual = self.manual_step(**copies(given))
        return self._pair(given, manual, self.judged(manual, **given))

    def follows(self) -> dict[str, list[str]]:
        """Return, for each quantity, those that are computed from it by hand."""
        programs = (
            manual_step for manual_step in self.by_hand() if isinstance(manual_step, Program)
        )
        return next((program.descendants() for program in programs), {})

    def by_hand(self) -> list[_Read]:
        """Return what the by-hand side was read as, at the steps looked at so far."""
        return [read for (side, *_), read in self.programs.items() if side == "by hand"]

    def branches(self, given: Named) -> bool:
        """Whether some steps, side by side, may each go a way of its own.

        Then none of them can stand for the others. Nothing is said of what cannot be read.
        """
        if self.off or not any(
            branches(side, given) for side in (self.manual_step, self.reference)
        ):
            return False
        return all(isinstance(program, Program) for program in self._programs(given))

    def shares(
        self, names: list[str], given: Named, manual: Named, autograd: Named
    ) -> dict[str, Tensor | None]:
        """Return |by hand - autograd| over what both may round, elementwise, None where unknown.

        Each quantity is taken from the by-hand values above it, on both sides.
        """
        sides = [self._bounds(program, given, manual, names) for program in self._programs(given)]
        shares: dict[str, Tensor | None] = {}
        for name in names:
            bounds = [side.get(name) for side in sides]
            shares[name] = None
            if all(isinstance(bound, Bound) for bound in bounds):
                allowed = sum(bound.error for bound in bounds)  # type: ignore[union-attr]
                shares[name] = share_of_rounding(manual[name], autograd[name], allowed)
        return shares

    def without_step_count(self, given: Named, names: list[str], starts: Named) -> Named | None:
        """Return `given` with 1 for every whole number, if `names` do not depend on them.

        They do not if with 2 the same operations lead to them from the starts. One program then
        serves every step.
        """
        one, two = (
            {n: v if v.is_floating_point() else torch.full_like(v, k) for n, v in given.items()}
            for k in (1, 2)
        )
        for mine, other in zip(self._programs(one), self._programs(two), strict=True):
            if isinstance(mine, Program) and isinstance(other, Program):
                texts = [
                    sorted(map(node_text, p.nodes_leading_to(names, starts))) for p in (mine, other)
                ]
                if texts[0] != texts[1]:
                    return None
        return one

    def _bounds(
        self, program: _Read, given: Named, manual: Named, names: list[str]
    ) -> Mapping[str, Any]:
        if isinstance(program, Opaque):
            return {}
        n = bounds_for(program, given.values())
        overrides = {name: Lifted(value, n.exact(value)) for name, value in manual.items()}
        found = lift(program, n, given, overrides=overrides, only=names)
        return {k: v.numbers for k, v in found.items() if not isinstance(v.numbers, Unsupported)}

    def _programs(self, given: Named) -> tuple[_Read, _Read]:
        """Return both programs as they are at what is given."""
        return (
            self._program("by hand", self.manual_step, given),
            self._program("autograd", self.reference, given),
        )

    def _program(self, side: str, function: Step, given: Named) -> _Read:
        """Return a side's program: one read before where it still is the same."""
        if self.off:
            return self.off
        texts = recorded_texts(function, given)
        key = side, len(given["X"]), texts
        if texts is None or key not in self.programs:
            while len(self.programs) >= KEPT:
                del self.programs[next(iter(self.programs))]
            self.programs[key] = try_trace(function, given)
        return self.programs[key]


def whole_numbers(given: Named) -> tuple[int, ...]:
    """Return what of `given` is no float: the number of the step."""
    wholes = (value for value in given.values() if not value.is_floating_point())
    return tuple(number for value in wholes for number in value.flatten().tolist())
