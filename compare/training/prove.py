"""What a run shows beyond bits: lifted proof at sampled steps, a rounding bound at every step."""

from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from torch import Tensor

from compare.diagnosis.bitwise import rewritten
from compare.diagnosis.diagnosis import diagnose
from compare.proof.bounds import Bound
from compare.proof.judge import judge
from compare.proof.lift import Missing, Start, cone, lift
from compare.proof.pair import Pair
from compare.proof.program import Opaque, Program, text_of, trace
from compare.proof.rounding import bounds_for, share_of_rounding
from compare.proof.verdict import ROUNDING, WRONG, Proof
from compare.training.sides import Named, Step

_Read = Program | Opaque


class Prover:
    """Both sides of a run as programs, each read once for every size of batch.

    `off` says why nothing is lifted, `entries` how much of large products is; with `remedies` it
    looks for what would make a quantity right, the `numbers` of the question, by name, among it;
    `judged` is autograd's step from by-hand values, where it can be taken at other inputs.
    """

    def __init__(
        self, hand: Step, reference: Step, off: Opaque | None, entries: int | None, *,
        remedies: bool = True, numbers: Mapping[str, float] | None = None,
        judged: Callable[..., Named] | None = None,
    ) -> None:  # fmt: skip
        self.hand, self.reference = hand, reference
        self.off, self.entries = off, entries
        self.programs: dict[tuple[object, ...], tuple[_Read, _Read]] = {}
        self.remedies, self.numbers, self.judged = remedies, dict(numbers or {}), judged
        # What a search was made for, by verdict: once, where it is first seen so.
        self.diagnosed: dict[str, set[str]] = {WRONG: set(), ROUNDING: set()}

    def proof(self, given: Named, manual: Named, autograd: Named) -> dict[str, Proof]:
        """Return the full proof for one step of one network, its tensors (1, ...)."""
        pair = self._pair(given, manual, autograd)
        proofs = judge(pair, list(manual))
        if not self.remedies:
            return proofs
        proofs = diagnose(pair, proofs, known=self.diagnosed[WRONG])
        proofs = rewritten(pair, proofs, self.diagnosed[ROUNDING])
        for name, proof in proofs.items():
            if proof.verdict in self.diagnosed:
                self.diagnosed[proof.verdict].add(name)
        return proofs

    def misshapen(self, given: Named, names: Collection[str]) -> dict[str, Proof]:
        """Return what would give quantities of another shape the right one, and right values."""
        one = {name: value[:1].clone() for name, value in given.items()}
        return diagnose(self._pair(one, {}, {}), {}, names)

    def _pair(self, given: Named, manual: Named, autograd: Named) -> Pair:
        hand, reference = self._programs(given)
        return Pair(
            hand=hand,
            reference=reference,
            inputs=given,
            given={name: (value, None) for name, value in given.items()},
            manual=manual,
            autograd=autograd,
            entries=self.entries,
            numbers=self.numbers,
            networks=True,
            maker=self._at if self.judged else None,
        )

    def _at(self, inputs: Mapping[str, Tensor]) -> Pair:
        """Return a step at other inputs: by hand, and autograd going on from it."""
        assert self.judged is not None
        given = dict(inputs)
        manual = self.hand(**{name: value.clone() for name, value in given.items()})
        return self._pair(given, manual, self.judged(manual, **given))

    def follows(self) -> dict[str, list[str]]:
        """Return, for each quantity, those that are computed from it by hand."""
        programs = (hand for hand, _ in self.programs.values() if isinstance(hand, Program))
        return next((program.follows() for program in programs), {})

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

    def timeless(self, given: Named, names: list[str], starts: Named) -> Named | None:
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
                    sorted(map(text_of, cone(program, names, starts))) for program in (mine, other)
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
        starts = {name: Start(value, n.exact(value)) for name, value in manual.items()}
        found = lift(program, n, given, starts=starts, only=names)
        return {k: v.numbers for k, v in found.items() if not isinstance(v.numbers, Missing)}

    def _programs(self, given: Named) -> tuple[_Read, _Read]:
        """Return both programs for tensors of this size; whole numbers may be read into them."""
        key = (len(given["X"]), *whole_numbers(given))
        if key not in self.programs:
            self.programs[key] = (
                self.off or _read(self.hand, given),
                self.off or _read(self.reference, given),
            )
        return self.programs[key]


def whole_numbers(given: Named) -> tuple[int, ...]:
    """Return what of `given` is no float: the number of the step."""
    wholes = (value for value in given.values() if not value.is_floating_point())
    return tuple(number for value in wholes for number in value.flatten().tolist())


def _read(function: Step, given: Named) -> _Read:
    try:
        return trace(function, given)
    except Opaque as why:
        return why
