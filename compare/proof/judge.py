"""The verdict on each quantity, from bits, balls and bounds; no tolerance anywhere.

Two questions, asked of the two programs:
1. The same formula? Both are lifted from the inputs on, in exact real arithmetic. Where a quantity
   is WRONG, what depends on it by hand is compared with the reference going on from the by-hand
   value, so that one bug makes one red line.
2. No further apart than rounding? Both are run from the by-hand floats, one named quantity to the
   next, lifted (what is exact there) and with bounds (how far a float run may lie from it).
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import flint
import numpy as np
import torch
from torch import Tensor

from compare.proof.balls import PRECISION, Balls
from compare.proof.bits import same_bits
from compare.proof.bounds import Bounds
from compare.proof.formula import Formula, pairs, same_formula
from compare.proof.lift import Lifted, Missing, Start, lift
from compare.proof.program import Opaque, Program, beside, operation
from compare.proof.rounding import (
    Side,
    bounds_for,
    noise,
    share_of_rounding,
    sum_of_bounds,
)
from compare.proof.verdict import EXACT, ROUNDING, UNDECIDED, WRONG, Proof

# A kernel that cannot be read may sum in another order and narrower than the reference does: its
# numbers are WRONG only outside this many times the reference's own bound.
OPAQUE_SLACK = 64.0

Floats = tuple[Mapping[str, Any], Mapping[str, Tensor], Mapping[str, Tensor]]


@dataclass
class Evidence:
    """Both sides as given to the judge.

    `given` names, for each input of the by-hand program, its floats and the reference's output of
    the same value, None where it is an input of the reference too.
    """

    hand: Program | Opaque
    reference: Program | Opaque
    inputs: Mapping[str, Tensor]
    given: Mapping[str, tuple[Tensor, str | None]]
    manual: Mapping[str, Tensor]
    autograd: Mapping[str, Tensor]
    entries: int | None = None  # how many of a large product to lift, None for all
    # The quantities that autograd went on from by hand, None for all: no gradient of an input is.
    replaced: Collection[str] | None = None
    networks: bool = False  # whether the first dimension counts networks, of which there is one
    gradients: bool = False  # whether the quantities are the gradients at the inputs they name
    numbers: Mapping[str, float] = field(default_factory=dict)  # of the question, by name: alpha
    # Both sides once more at other inputs: what the by-hand side is given there, and both values.
    again: Callable[[Mapping[str, Tensor]], "Floats"] | None = None

    def went_on_from(self, names: Collection[str]) -> frozenset[str]:
        """Return those of the quantities in whose place autograd had the by-hand values."""
        return frozenset(names if self.replaced is None else {*names} & {*self.replaced})

    @property
    def floats(self) -> dict[str, Tensor]:
        """What the by-hand program is given, in floats."""
        return {name: value for name, (value, _) in self.given.items()}

    def handed(
        self, reference: Mapping[str, Lifted], inputs: Mapping[str, Tensor] | None = None
    ) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return what the by-hand program is given, in floats and what of it is lifted.

        What comes from the forward pass is the `reference`'s, with `inputs` in floats too: those
        are other ones.
        """
        keys = {name: key for name, (_, key) in self.given.items() if key is not None}
        lifted = {name: reference[key].numbers for name, key in keys.items() if key in reference}
        if inputs is None:
            return self.floats, lifted
        floats = {n: reference[keys[n]].floats if n in keys else inputs[n] for n in self.given}
        return floats, lifted


def judge(
    evidence: Evidence,
    order: Sequence[str],
    *,
    shared: Mapping[str, Lifted] | None = None,
    brief: bool = False,
) -> dict[str, Proof]:
    """Return the proof for each quantity named in `order`, the order of computation.

    Every one of them is in `manual` and `autograd`, of one shape and dtype. Of many by-hand sides
    judged at the same inputs each can be given what they share, the reference as `lifted` has it;
    `brief`
    ends with the first WRONG one, and leaves out what only a reader wants to know: errors in ulps,
    and whether this is a kink.
    """
    with torch.no_grad(), flint.ctx.workprec(PRECISION):
        return _Judge(evidence, shared, brief).all(order)


def lifted(
    reference: Program | Opaque, inputs: Mapping[str, Tensor], entries: int | None
) -> dict[str, Lifted]:
    """Return the reference lifted from its inputs, empty where it cannot be read."""
    if isinstance(reference, Opaque):
        return {}
    return lift(reference, Balls(entries), inputs)


class _Judge:
    def __init__(
        self, evidence: Evidence, shared: Mapping[str, Lifted] | None, brief: bool
    ) -> None:
        self.e, self.brief = evidence, brief
        self.balls = Balls(evidence.entries)  # of the by-hand side
        self.wrong: set[str] = set()
        self.references: dict[frozenset[str], Mapping[str, Lifted]] = {}
        if shared is not None:
            self.references[frozenset()] = shared
        self.noise: Mapping[str, Tensor | None] | None = None
        self.above = evidence.hand.ancestors() if isinstance(evidence.hand, Program) else {}
        self.by_hand = self._by_hand(self._reference(frozenset()))

    def all(self, order: Sequence[str]) -> dict[str, Proof]:
        proofs: dict[str, Proof] = {}
        for name in order:
            proofs[name] = self._one(name)
            if proofs[name].verdict == WRONG:
                self.wrong.add(name)
                if self.brief:
                    break
        return proofs

    @cached_property
    def _locals(self) -> tuple[dict[str, Side], dict[str, Side]]:
        return self._local(self.e.hand), self._local(self.e.reference)

    def _one(self, name: str) -> Proof:
        manual, autograd = self.e.manual[name], self.e.autograd[name]
        same = same_bits(manual, autograd)
        if manual.isnan().any() or autograd.isnan().any():
            return Proof(WRONG, "a NaN shows nothing")
        if self._unwritten(name):
            return Proof(WRONG, "it reads memory that nobody wrote (torch.empty): fill it first")
        unread = self._unread(name)
        if self.brief and unread is None:  # no bound is needed where the formulas settle it
            formula = self._formula(name, noise=False)
            if formula.same is False:
                return Proof(WRONG, formula.text, at=formula.at)
            if formula.same and same:
                return Proof(EXACT, formula.text, lifted=True)
        hand, reference = (side.get(name) for side in self._locals)
        off: dict[str, Any] = {} if self.brief else {
            "manual_error": hand and hand.error_in_ulps(manual),
            "autograd_error": reference and reference.error_in_ulps(autograd),
        }  # fmt: skip
        if unread is None:
            room = sum_of_bounds(hand, reference)
            formula = self._formula(name, room)
            if formula.same is False:
                kink = "" if self.brief else self._kink(name)
                return Proof(WRONG, formula.text + kink, at=formula.at, **off)
            if formula.same and not same:
                return self._rounding(name, formula.text, hand, reference, off)
            text = formula.text
        else:
            text = unread
        if same:
            known = unread is None and formula.same
            return Proof(EXACT, text if known else f"not lifted: {text}", bool(known), **off)
        if unread is not None and reference is not None and reference.known:
            return self._by_numbers(name, text, reference, off)
        return Proof(UNDECIDED, text, **off)

    def _unwritten(self, name: str) -> bool:
        """Whether by hand it holds what the memory of a torch.empty happened to hold."""
        if isinstance(self.e.hand, Opaque) or name not in self.by_hand:
            return False
        # lifting fills such memory with NaN
        odd = bool(self.by_hand[name].floats.isnan().any())
        return odd and any("empty" in operation(node) for node in self.e.hand.graph.nodes)

    def _unread(self, name: str) -> str | None:
        """Return why the quantity cannot be lifted on both sides, None if it can."""
        if isinstance(self.e.hand, Opaque):
            return f"by hand: {self.e.hand}"
        if isinstance(self.e.reference, Opaque):
            return f"autograd: {self.e.reference}"
        for side, values in (("by hand", self.by_hand), ("autograd", self._reference(frozenset()))):
            if name not in values:
                return f"{side} it does not come out of the program"
            if isinstance(values[name].numbers, Missing):
                return f"{side}, {values[name].numbers}"
        mine = np.asarray(self.by_hand[name].numbers, dtype=object)
        if not self.balls.skipped and not all(ball.is_finite() for ball in mine.ravel()):
            return "by hand it has no finite value in exact arithmetic (a division by zero, a pole)"
        return None

    # -- the same formula?

    def _reference(self, wrong: frozenset[str]) -> Mapping[str, Lifted]:
        """Return the reference lifted from the inputs, going on from the by-hand values `wrong`."""
        if isinstance(self.e.reference, Opaque):
            return {}
        if wrong not in self.references:
            starts = {
                name: Start(self.e.manual[name], self.by_hand[name].numbers) for name in wrong
            }
            self.references[wrong] = lift(
                self.e.reference, Balls(self.e.entries), self.e.inputs, starts=starts
            )
        return self.references[wrong]

    def _by_hand(self, reference: Mapping[str, Lifted]) -> dict[str, Lifted]:
        """Return the by-hand side lifted; what it is given of the forward pass is lifted too."""
        if isinstance(self.e.hand, Opaque):
            return {}
        return lift(self.e.hand, self.balls, *self.e.handed(reference))

    def _formula(self, name: str, room: Tensor | None = None, *, noise: bool = True) -> Formula:
        """Compare the two lifted values, going on from what is WRONG above."""
        wrong = self.e.went_on_from(self.wrong & self.above.get(name, set()))
        mine, theirs = self.by_hand[name].numbers, self._reference(wrong)[name].numbers
        least = partial(self._noise, name) if noise else lambda: None
        return same_formula(
            mine,
            theirs,
            room,
            noise=least,
            sampled=self.e.entries is not None,
            skip=int(self.e.networks),
        )

    def _noise(self, name: str) -> Tensor | None:
        """Return what may be rounded away from the inputs on, None where unknown."""
        if self.noise is None:
            assert isinstance(self.e.reference, Program)
            self.noise = noise(self.e.reference, self.e.inputs)
        return self.noise[name]

    def _kink(self, name: str) -> str:
        """Return a remark where the two formulas part at these very inputs and not beside them."""
        assert isinstance(self.e.hand, Program)
        assert isinstance(self.e.reference, Program)
        inputs = {key: beside(value) for key, value in self.e.inputs.items()}
        reference = lift(self.e.reference, Balls(self.e.entries), inputs)
        hand = lift(self.e.hand, Balls(self.e.entries), *self.e.handed(reference, inputs))
        if not same_formula(hand[name].numbers, reference[name].numbers).same:
            return ""
        return (
            "; at inputs close by the two agree, so these stand at a kink (relu at 0, equal "
            "maxima, a norm at 0) and the by-hand side takes another subgradient than autograd"
        )

    # -- no further apart than rounding?

    def _local(self, side: Program | Opaque) -> dict[str, Side]:
        """Return each quantity of a side from the by-hand floats above it."""
        if isinstance(side, Opaque):
            return {}
        if side is self.e.hand:
            floats = self.e.floats
            forward: dict[str, Tensor] = {}
        else:
            floats = dict(self.e.inputs)
            forward = {key: value for value, key in self.e.given.values() if key is not None}
        values = forward | {
            name: self.e.manual[name] for name in self.e.went_on_from(self.e.manual)
        }
        arithmetics: list[Balls | Bounds] = [
            Balls(self.e.entries),
            bounds_for(side, floats.values()),
        ]
        exact, bound = (
            lift(side, n, floats, starts={k: Start(v, n.exact(v)) for k, v in values.items()})
            for n in arithmetics
        )
        return {name: Side(exact[name].numbers, bound[name].numbers) for name in exact}

    def _rounding(
        self, name: str, text: str, hand: Side | None, reference: Side | None, off: dict[str, Any]
    ) -> Proof:
        """Judge other bits of the same formula: is each side within its own bound?"""
        assert hand is not None
        assert reference is not None
        if not (hand.known and reference.known):
            return Proof(UNDECIDED, f"{text}; no bound on the rounding", **off)
        manual, autograd = self.e.manual[name], self.e.autograd[name]
        shares = [hand.share_of_bound(manual), reference.share_of_bound(autograd)]
        share = max(shares)
        if any(map(math.isnan, shares)):
            return Proof(UNDECIDED, f"{text}; the bound on its rounding is not finite", **off)
        if not shares[0] <= 1:
            return Proof(
                WRONG,
                f"{text}, but by hand it is {shares[0]:.3g} times further from it than its own "
                "operations can round",
                share=shares[0],
                **off,
            )
        if not shares[1] <= 1:
            return Proof(
                UNDECIDED,
                f"{text}, but autograd's kernel is {shares[1]:.3g} times outside the bound of its "
                "own operations",
                share=shares[1],
                **off,
            )
        room = sum_of_bounds(hand, reference)
        unlifted = torch.from_numpy(pairs(_unknown, hand.exact, reference.exact)) == 1
        if room is not None and unlifted.any():  # of a sampled product: judged by the bound alone
            beyond = share_of_rounding(manual, autograd, room)[unlifted]
            share = max(share, float(beyond.max()))
            if not share <= 1:
                why = f"where nothing was lifted the two are {share:.3g} times what both may round"
                return Proof(UNDECIDED, f"{text}; {why} apart: use lift all", share=share, **off)
        return Proof(ROUNDING, text, lifted=True, share=share, **off)

    def _by_numbers(self, name: str, text: str, reference: Side, off: dict[str, Any]) -> Proof:
        """Judge a by-hand side that cannot be read, against the lifted reference."""
        share = reference.share_of_bound(self.e.manual[name]) / OPAQUE_SLACK
        error = reference.error_in_ulps(self.e.manual[name])
        theirs = off.get("autograd_error")
        numbers = f"by hand {_ulps(error)} from the exact value, autograd {_ulps(theirs)}"
        if theirs and error is not None:
            numbers += f" (ratio {error / theirs:.2g})"
        off = {**off, "manual_error": error}
        if not math.isnan(share) and not share <= 1:
            reach = f"outside {OPAQUE_SLACK:g} times the rounding that its shape allows"
            return Proof(WRONG, f"{numbers}: {reach}; {text}", share=share, **off)
        return Proof(UNDECIDED, f"{numbers}; not shown: the same formula ({text})", **off)


def _unknown(a: Any, b: Any) -> bool:
    return not (a.is_finite() and b.is_finite())


def _ulps(error: float | None) -> str:
    return "unknown" if error is None else f"{error:.3g} ulp"
