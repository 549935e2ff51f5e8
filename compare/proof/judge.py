"""The verdict on each quantity, from bits, balls and bounds; no tolerance to set.

Three questions, asked of the two programs:
1. The same formula? Both are lifted from the inputs on, in exact real arithmetic. Where a quantity
   is WRONG, what depends on it by hand is compared with the reference going on from the by-hand
   value, so that one bug makes one red line.
2. No further apart than rounding? Both are run from the by-hand floats, one named quantity to the
   next, lifted (what is exact there) and with bounds (how far a float run may lie from it).
3. No digits lost that autograd keeps? Both sides' right bits, beside what is exact.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import flint
import numpy as np
import torch
from torch import Tensor

from compare.proof.balls import PRECISION
from compare.proof.bits import same_bits
from compare.proof.explanations import explain_kink, narrowing_cast
from compare.proof.interpreter import Unsupported
from compare.proof.lifted_pair import LiftedPair
from compare.proof.literals import AS_WRITTEN, IN_ANY_READING, Reading, readings
from compare.proof.pair import Pair
from compare.proof.program import Opaque, operation
from compare.proof.rounding import (
    Accuracy,
    LiftedQuantity,
    largest_share,
    overflowed,
    share_of_rounding,
)
from compare.proof.same_formula import Formula, elementwise, magnitude, same_formula
from compare.proof.verdict import EXACT, INACCURATE, ROUNDING, UNDECIDED, WRONG, Proof

# A kernel that cannot be read may sum in another order and narrower than the reference does: its
# numbers are WRONG only outside this many times the reference's own bound.
OPAQUE_SLACK = 64.0
# Balls that are too wide to tell are lifted once more: what is deep loses some bits at each layer.
PRECISIONS = PRECISION, 5 * PRECISION
# Two values are apart in every reading of the code's numbers where they are this many times
# further apart than the reading moves them.
FAR = 2.0**10
FAR_EACH = 4.0  # where it is known what each number moves


def judge(
    pair: Pair, order: Sequence[str], *, brief: bool = False, stop_at_first_wrong: bool = False
) -> dict[str, Proof]:
    """Return the proof for each quantity named in `order`, the order of computation.

    Every one of them is in `manual` and `autograd`, of one shape and dtype. `brief` leaves out what
    only a reader wants to know: errors in ulps, and whether this is a kink. It ends with the
    first WRONG one, if that is all that is asked.
    """
    with torch.no_grad(), flint.ctx.workprec(PRECISION):
        return _Judge(pair, brief).all(order, stop_at_first_wrong=stop_at_first_wrong)


class _Judge:
    def __init__(self, pair: Pair, brief: bool) -> None:
        self.e, self.brief = pair, brief
        self.apart: set[str] = set()  # WRONG, or another formula that its writer accepts
        self.lifted = LiftedPair(pair)
        self.by_hand = self.lifted.manual_program().outputs

    def all(self, order: Sequence[str], *, stop_at_first_wrong: bool) -> dict[str, Proof]:
        proofs: dict[str, Proof] = {}
        for name in order:
            proofs[name] = self._one(name)
            if proofs[name].verdict == WRONG and stop_at_first_wrong:
                break
            if proofs[name].verdict == WRONG or proofs[name].accepted:
                self.apart.add(name)
        return proofs

    def _one(self, name: str) -> Proof:
        manual, autograd = self.e.manual[name], self.e.autograd[name]
        same = same_bits(manual, autograd)
        if manual.isnan().any() or autograd.isnan().any():
            return Proof(WRONG, "a NaN shows nothing")
        if self._unwritten(name):
            return Proof(WRONG, "it reads memory that nobody wrote (torch.empty): fill it first")
        unread = self._unread(name)
        formula, reading = Formula(None, unread or ""), AS_WRITTEN
        if unread is None:
            formula, reading = self._formula(name)
            if self.brief and formula.same is False:
                return Proof(WRONG, formula.text, at=formula.at)
            if self.brief and formula.same and same:  # no bound is needed
                return Proof(EXACT, formula.text, lifted=True)
        manual_program, reference = (
            self.lifted.quantity(side, reading, name)
            for side in (self.e.manual_program, self.e.reference)
        )
        off: dict[str, Any] = {} if self.brief else {
            "manual_error": manual_program and manual_program.error_in_ulps(manual, reference),
            "autograd_error": reference and reference.error_in_ulps(autograd, reference),
        }  # fmt: skip
        if formula.same is False:
            told, at = "", formula.at
            if not self.brief and at is not None:
                told = explain_kink(self.e, name, at, self.by_hand[name].numbers[at])
            return Proof(WRONG, formula.text + told, at=at, **off)
        if formula.same and (formula.accepted or not same):
            found = self._rounding(name, formula.text, manual_program, reference, off)
            return replace(found, accepted=formula.accepted)
        if same:
            text = formula.text if formula.same else f"not lifted: {formula.text}"
            if formula.same and not self.brief:
                off |= self._right_bits(name, manual_program, reference)
            return Proof(EXACT, text, bool(formula.same), **off)
        if unread is not None and reference is not None and reference.known:
            return self._by_numbers(name, unread, reference, off)
        return Proof(UNDECIDED, formula.text, **off)

    def _unwritten(self, name: str) -> bool:
        """Whether by hand it holds what the memory of a torch.empty happened to hold."""
        if isinstance(self.e.manual_program, Opaque) or name not in self.by_hand:
            return False
        # lifting fills such memory with NaN
        odd = bool(self.by_hand[name].floats.isnan().any())
        return odd and any("empty" in operation(node) for node in self.e.manual_program.graph.nodes)

    def _unread(self, name: str) -> str | None:
        """Return why the quantity cannot be lifted on both sides, None if it can."""
        if isinstance(self.e.manual_program, Opaque):
            return f"by hand: {self.e.manual_program}"
        if isinstance(self.e.reference, Opaque):
            return f"autograd: {self.e.reference}"
        theirs = self.lifted.reference().outputs
        for side, values in (("by hand", self.by_hand), ("autograd", theirs)):
            if name not in values:
                return f"{side} it does not come out of the program"
            if isinstance(values[name].numbers, Unsupported):
                return f"{side}, {values[name].numbers}"
        mine = np.asarray(self.by_hand[name].numbers, dtype=object)
        skipped = self.lifted.manual_program().n.skipped
        poles = [not ball.is_finite() for ball in mine.ravel()]
        if not skipped and any(poles) and not bool(self._infinite(name).ravel()[poles].all()):
            return "by hand it has no finite value in exact arithmetic (a division by zero, a pole)"
        return None

    # -- the same formula?

    def _formula(self, name: str) -> tuple[Formula, Reading]:
        """Compare the two lifted values in one reading of the code's numbers after the other."""
        written = self._compared(name, AS_WRITTEN)
        if written.same is not False:
            return written, AS_WRITTEN
        others, complete = self._others
        if not others:
            return written, AS_WRITTEN
        if self._compared(name, IN_ANY_READING).same is False:
            return written, AS_WRITTEN
        told, flipped = True, 0
        for reading in others:
            if len(reading.exceptions) > flipped:  # all with fewer of them have been tried
                if self._far(name, written.at, [o for o in others if len(o.exceptions) <= flipped]):
                    return written, AS_WRITTEN
                flipped = len(reading.exceptions)
            found = self._compared(name, reading)
            if found.same:
                return replace(found, text=f"{found.text}{reading.text}"), reading
            told = told and found.same is False
        if told and complete:
            return written, AS_WRITTEN
        return Formula(
            None, f"it depends on how the numbers in the code are read, and in none of the "
            f"{1 + len(others)} ways that were tried is it the same: {written.text}",
        ), AS_WRITTEN  # fmt: skip

    @cached_property
    def _others(self) -> tuple[list[Reading], bool]:
        """The readings but for the first, as written; and whether those are all there are."""
        found, complete = readings(
            self.lifted.literals,
            tables=self.lifted.has_tables,
            exact_structure=bool(self.e.exact_structure),
        )
        return found[1:], complete

    def _compared(self, name: str, reading: Reading) -> Formula:
        """Compare the two lifted values, going on from what is WRONG above."""
        wrong = self.e.injected_ancestors(name) & self.apart
        for precision in PRECISIONS:
            both = self.lifted.both_sides(name, reading, precision, wrong)
            with flint.ctx.workprec(precision):
                found = same_formula(
                    *both,
                    self.e.manual[name].dtype,
                    terms=lambda: self.lifted.terms(name),
                    infinite=self._infinite(name),
                    sampled=self.e.entries is not None,
                    skip=int(self.e.has_population_dim),
                    accept=self.e.formula_ulps,
                )
            if found.same is not None or found.at is None or reading == IN_ANY_READING:
                break
        return found

    def _infinite(self, name: str) -> Any:
        """Where both sides have the same infinity: a mask's, a pole's, or an overflow."""
        manual, autograd = self.e.manual[name], self.e.autograd[name]
        return (manual.isinf() & (manual == autograd)).cpu().numpy()

    def _far(self, name: str, at: tuple[int, ...] | None, others: Sequence[Reading]) -> bool:
        """Whether the two are much further apart than these readings move them."""
        wrong = self.e.injected_ancestors(name) & self.apart

        def both(reading: Reading) -> list[Any]:
            return [side[at] for side in self.lifted.both_sides(name, reading, PRECISION, wrong)]

        written, moved = both(AS_WRITTEN), 0.0
        for reading in others:
            for was, now in zip(written, both(reading), strict=True):
                moved += magnitude(was - now) + float(now.rad())
        each = any(
            len(reading.exceptions) == 1 for reading in others
        )  # what each moves is in the sum
        return magnitude(written[0] - written[1]) > (FAR_EACH if each else FAR) * moved

    # -- no further apart than rounding?

    def _rounding(
        self,
        name: str,
        text: str,
        manual_program: LiftedQuantity | None,
        reference: LiftedQuantity | None,
        off: dict[str, Any],
    ) -> Proof:
        """Judge other bits of the same formula: is each side within its own bound?"""
        assert manual_program is not None
        assert reference is not None
        if not (manual_program.known and reference.known):
            return Proof(UNDECIDED, f"{text}; no bound on the rounding", **off)
        manual, autograd = self.e.manual[name], self.e.autograd[name]
        # from an output that overflowed there is no exact value by hand
        lost = overflowed(manual, autograd, manual_program.exact)
        lost |= overflowed(manual, autograd, reference.exact)
        if bool(lost.any()):
            return Proof(INACCURATE, f"{text}, but by hand it overflows {self._at(lost)}", **off)
        shares = [manual_program.shares_of_bound(manual), reference.shares_of_bound(autograd)]
        mine, theirs = map(largest_share, shares)
        share = max(mine, theirs)
        if not mine <= 1:
            text += f", but by hand it is {mine:.3g} times further from it than its own operations"
            return Proof(WRONG, f"{text} can round", share=mine, **off)
        if not theirs <= 1:
            text += f", but autograd's kernel is {theirs:.3g} times outside the bound of its own"
            return Proof(UNDECIDED, f"{text} operations", share=theirs, **off)
        accuracy = Accuracy.of(manual_program, manual, reference, autograd)
        if accuracy is not None:
            off |= accuracy.proof_fields(manual.dtype)
            if accuracy.worse:
                off["shortfall"] = f"keeps {accuracy}"
                why = f"by hand it {off['shortfall']}"
                if cast := narrowing_cast(self.e, name):
                    why = f"{why}: {cast}"
                if accuracy.lost:
                    return Proof(INACCURATE, f"{text}, but {why}", **off)
                text = f"{text}; {why}"
            else:
                errors = off.get("manual_error"), off.get("autograd_error")
                off["shortfall"] = accuracy.element_loss(manual.dtype, *errors)
        # an element without a bound is shown where it has autograd's bits
        loose = sum(shares).isnan() & (manual != autograd).cpu()  # type: ignore[union-attr]
        if bool(loose.any()):
            why = f"the bound on its rounding is not finite {self._at(loose)}"
            if accuracy is None:
                return Proof(UNDECIDED, f"{text}; {why}", **off)
            text = f"{text}; {why}, so that it is known by its right bits alone"
        unlifted = (
            torch.from_numpy(elementwise(_unknown, manual_program.exact, reference.exact)) == 1
        )
        if unlifted.any():  # of a sampled product: judged by the bound alone
            room = manual_program.bound.error.cpu() + reference.bound.error.cpu()
            beyond = share_of_rounding(manual, autograd, room)[unlifted]
            share = max(share, float(beyond.max()))
            if not share <= 1:
                why = f"where nothing was lifted the two are {share:.3g} times what both may round"
                return Proof(UNDECIDED, f"{text}; {why} apart: use lift all", share=share, **off)
        return Proof(ROUNDING, text, lifted=True, share=share, **off)

    def _right_bits(
        self, name: str, manual_program: LiftedQuantity | None, reference: LiftedQuantity | None
    ) -> dict[str, Any]:
        """Return how many bits of both sides are right, where the exact values are known."""
        if (
            manual_program is None
            or reference is None
            or not (manual_program.known and reference.known)
        ):
            return {}
        manual = self.e.manual[name]
        accuracy = Accuracy.of(manual_program, manual, reference, self.e.autograd[name])
        return {} if accuracy is None else accuracy.proof_fields(manual.dtype)

    def _by_numbers(
        self, name: str, text: str, reference: LiftedQuantity, off: dict[str, Any]
    ) -> Proof:
        """Judge a by-hand side that cannot be read, against the lifted reference."""
        manual = self.e.manual[name]
        shares = reference.shares_of_bound(manual) / OPAQUE_SLACK
        share = largest_share(shares)
        error = reference.error_in_ulps(manual, reference)
        theirs = off.get("autograd_error")
        numbers = f"by hand {_ulps(error)} from the exact value, autograd {_ulps(theirs)}"
        if theirs and error is not None:
            numbers += f" (ratio {error / theirs:.2g})"
        off = {**off, "manual_error": error}
        if bool((lost := overflowed(manual, self.e.autograd[name], reference.exact)).any()):
            return Proof(WRONG, f"{numbers}: it overflows {self._at(lost)}; {text}", **off)
        if not share <= 1:
            reach = f"outside {OPAQUE_SLACK:g} times the rounding that its shape allows"
            return Proof(WRONG, f"{numbers}: {reach}; {text}", share=share, **off)
        if bool(shares.isnan().any()):
            numbers += f", without a finite bound {self._at(shares.isnan())}"
        return Proof(UNDECIDED, f"{numbers}; not shown: the same formula ({text})", **off)

    def _at(self, where: Tensor) -> str:
        """Return in words where the first element of a mask stands, and how many there are."""
        first = where.nonzero()[0].tolist()[int(self.e.has_population_dim) :]
        return f"at {first} ({int(where.sum()):,} of {where.numel():,} elements)"


def _unknown(a: Any, b: Any) -> bool:
    return not (a.is_finite() and b.is_finite())


def _ulps(error: float | None) -> str:
    return "unknown" if error is None else f"{error:.3g} ulp"
