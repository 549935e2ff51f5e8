"""The verdict on each quantity, from bits, balls and bounds; there is no tolerance to set.

Three questions are asked of the two programs:
1. Is it the same formula? Both are computed in exact arithmetic (lifted) from the inputs on. For
   a quantity that is computed by hand from a WRONG one, autograd's formula is applied to that wrong
   value, so that one bug makes one WRONG quantity.
2. Do they differ by no more than rounding? Both are run from the by-hand floats, from one named
   quantity to the next: lifted, for the exact value, and with bounds, for the distance that a float
   run may have from it.
3. Has the by-hand side lost digits that autograd keeps? The correct bits of both sides are counted,
   relative to the exact values.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import flint
import numpy as np
import torch
from torch import Tensor

from compare.progress import counted
from compare.proof.balls import PRECISION
from compare.proof.bits import same_bits
from compare.proof.exact_values import ball_at, finite, magnitude
from compare.proof.explanations import explain_kink, narrowing_cast
from compare.proof.interpreter import Lifted, Unsupported
from compare.proof.lifted_pair import LiftedPair
from compare.proof.literals import AS_WRITTEN, IN_ANY_READING, Reading, readings
from compare.proof.pair import Pair
from compare.proof.program import Key, Opaque, operation
from compare.proof.rounding import (
    Accuracy,
    LiftedQuantity,
    largest_share,
    looks_systematic,
    overflowed,
    share_of_rounding,
)
from compare.proof.same_formula import MOST_DIGITS, Formula, same_formula
from compare.proof.verdict import EXACT, INACCURATE, ROUNDING, UNDECIDED, WRONG, Proof
from compare.proof.wide import RESTARTED, RESTARTED_DIGITS

# Opaque code may sum in another order and in a narrower dtype than the reference: its numbers are
# WRONG only outside this many times the reference's own bound.
OPAQUE_SLACK = 64.0
# Two values differ in every reading of the code's numbers if their difference is this many times
# larger than the change from one reading to another.
FAR = 2.0**10
FAR_EACH = 4.0  # where the change that each number causes is known
# Two formulas that part at smaller inputs part at the given ones too if their values in float64 do,
# over all elements: algebra that loses so many digits of float64 has none in float32.
ANOTHER_FORMULA = 2.0**-18


def judge(
    pair: Pair, order: Sequence[str], *, brief: bool = False, formulas_only: bool = False,
    stop_at_first_wrong: bool = False, elsewhere: Mapping[str, Proof] | None = None,
    proofs: dict[str, Proof] | None = None,
) -> dict[str, Proof]:  # fmt: skip
    """Return the proof for each quantity.

    Args:
        pair: Both sides. `pair.manual` and `pair.autograd` hold every quantity in `order`, each
            with the same shape and dtype on both sides.
        order: The names of the quantities in the order of computation.
        brief: Whether to leave out errors in ulps and the explanation of kinks.
        formulas_only: Whether to leave out questions 2 and 3 for numbers that have the bits of
            their program's operations, which round as they did where these were asked.
        stop_at_first_wrong: Whether to leave out all quantities after the first WRONG one.
        elsewhere: The proofs of the same operations at smaller inputs, of every quantity. The
            formulas are not compared here then. A quantity whose formula is another one there is
            WRONG only if both sides are far apart here too, else UNDECIDED.
        proofs: Where to put each proof once it is known; None for a new dict.
    """
    with torch.no_grad(), flint.ctx.workprec(PRECISION):
        return _Judge(pair, brief or formulas_only, formulas_only, elsewhere or {}).all(
            order, {} if proofs is None else proofs, stop_at_first_wrong=stop_at_first_wrong
        )


class _Judge:
    def __init__(
        self, pair: Pair, brief: bool, formulas_only: bool, elsewhere: Mapping[str, Proof]
    ) -> None:
        self.pair, self.brief, self.formulas_only = pair, brief, formulas_only
        self.elsewhere = elsewhere
        self.divergent: set[str] = set()  # WRONG, or a different formula that the user accepts
        self.lifted = LiftedPair(pair, in_float64=bool(elsewhere))

    @cached_property
    def manual_outputs(self) -> Mapping[Key, Lifted]:
        """The by-hand program lifted from the inputs on."""
        return self.lifted.manual_program().outputs

    def all(
        self, order: Sequence[str], proofs: dict[str, Proof], *, stop_at_first_wrong: bool
    ) -> dict[str, Proof]:
        for name in counted("judging {}", order):
            proof = proofs[name] = self._one(name)
            if proof.verdict == WRONG and stop_at_first_wrong:
                break
            if proof.verdict == WRONG or proof.accepted:
                self.divergent.add(name)
        return proofs

    def _one(self, name: str) -> Proof:
        manual, autograd = self.pair.manual[name], self.pair.autograd[name]
        same = same_bits(manual, autograd)
        if manual.isnan().any() or autograd.isnan().any():
            return Proof(WRONG, "contains NaN, so nothing can be verified")
        if name in self.elsewhere:
            return self._with_formula_from_elsewhere(name, same)
        if self._is_uninitialised(name):
            return Proof(WRONG, "uses uninitialised memory (torch.empty); initialise it first")
        obstacle = self._obstacle(name)
        formula, reading = Formula(None, obstacle or ""), AS_WRITTEN
        if obstacle is None:
            formula, reading = self._formula(name)
            if self.brief and formula.same is False:
                return Proof(WRONG, formula.text, at=formula.at)
            if self.brief and formula.same and (same or self._is_its_program(name)):
                verdict = EXACT if same else ROUNDING
                return Proof(verdict, formula.text, lifted=True, accepted=formula.accepted)
        by_hand, reference = (
            self.lifted.quantity(program, reading, name, formula.precision)
            for program in (self.pair.manual_program, self.pair.reference)
        )
        errors: dict[str, Any] = {}
        if not self.brief:
            errors["manual_error"] = by_hand and by_hand.error_in_ulps(manual, reference)
            errors["autograd_error"] = reference and reference.error_in_ulps(autograd, reference)
        if formula.same is False:
            explanation, at = "", formula.at
            if not self.brief and at is not None:
                exact = ball_at(self.manual_outputs[name].numbers, at)
                explanation = explain_kink(self.pair, name, at, exact)
            return Proof(WRONG, formula.text + explanation, at=at, **errors)
        if formula.same and (formula.accepted or not same):
            proof = self._rounding(name, formula.text, by_hand, reference, errors)
            return replace(proof, accepted=formula.accepted)
        if same:
            text = formula.text if formula.same else f"formula not checked: {formula.text}"
            if formula.same and not self.brief:
                errors |= self._correct_bits(name, by_hand, reference)
            why = "" if formula.same else formula.text
            return Proof(EXACT, text, bool(formula.same), obstacle=why, **errors)
        if obstacle is not None and reference is not None and reference.known:
            return self._opaque(name, obstacle, reference, errors)
        why = "" if formula.apart else formula.text  # numbers cannot decide how others are read
        return Proof(UNDECIDED, formula.text, obstacle=why, **errors)

    def _with_formula_from_elsewhere(self, name: str, same: bool) -> Proof:
        """Judge bits and bounds here, where the formulas were compared at smaller inputs."""
        there = self.elsewhere[name]
        manual, autograd = self.pair.manual[name], self.pair.autograd[name]
        by_hand, reference = (
            self.lifted.quantity(program, AS_WRITTEN, name)
            for program in (self.pair.manual_program, self.pair.reference)
        )
        if by_hand is None or reference is None:
            return Proof(UNDECIDED, there.text, obstacle="missing from a traced pass")
        if there.verdict == WRONG:
            # a size that is written down makes it wrong there and right here
            apart = by_hand.distance_in_float64(reference)
            if apart is not None and apart > ANOTHER_FORMULA:
                return replace(there, at=None)
            return Proof(UNDECIDED, there.text)
        errors: dict[str, Any] = {}
        if by_hand.known and reference.known:
            errors["manual_error"] = by_hand.error_in_ulps(manual, reference)
            errors["autograd_error"] = reference.error_in_ulps(autograd, reference)
        if same:
            errors |= self._correct_bits(name, by_hand, reference)
            return Proof(EXACT, there.text, lifted=True, accepted=there.accepted, **errors)
        together = by_hand.bound_together(reference)
        if together is None:
            return Proof(UNDECIDED, f"{there.text}; no rounding bound could be computed")
        floats = manual.double().cpu(), autograd.double().cpu()
        if looks_systematic(floats[0] - floats[1], floats[1], together):
            return Proof(UNDECIDED, f"{there.text}, but the difference looks systematic here")
        if by_hand.known and reference.known:
            proof = self._rounding(name, there.text, by_hand, reference, errors)
            return replace(proof, accepted=there.accepted)
        share = largest_share(share_of_rounding(manual, autograd, together))
        if share <= 1:
            return replace(there, verdict=ROUNDING, share=share)
        text = f"{there.text}, but both sides are {share:.3g} times both rounding bounds apart"
        return Proof(UNDECIDED, text, share=share)

    def _is_its_program(self, name: str) -> bool:
        """Whether nothing but the formula is asked of a value that its own program computes."""
        floats = self.manual_outputs[name].floats
        return self.formulas_only and same_bits(floats, self.pair.manual[name])

    def _is_uninitialised(self, name: str) -> bool:
        """Whether the by-hand value holds whatever the memory of a torch.empty contained."""
        program = self.pair.manual_program
        if isinstance(program, Opaque) or name not in self.manual_outputs:
            return False
        # lifting fills such memory with NaN
        has_nan = bool(self.manual_outputs[name].floats.isnan().any())
        return has_nan and any("empty" in operation(node) for node in program.graph.nodes)

    def _obstacle(self, name: str) -> str | None:
        """Return the reason why a quantity cannot be lifted on both sides, None if it can."""
        manual, reference_program = self.pair.manual_program, self.pair.reference
        if isinstance(manual, Opaque):  # one reason for both: nothing was to be lifted
            return str(manual) if manual is reference_program else f"the by-hand side {manual}"
        if isinstance(reference_program, Opaque):
            return f"the autograd side {reference_program}"
        reference = self.lifted.reference().outputs
        for side, traced, outputs in (
            ("by hand", "by-hand pass", self.manual_outputs),
            ("autograd", "autograd pass", reference),
        ):
            if name not in outputs:
                return f"missing from the traced {traced}"
            if isinstance(outputs[name].numbers, Unsupported):
                return f"{side}, {outputs[name].numbers}"
        # what wide arithmetic does not know may be a number near the largest float64
        tried = {self.pair.precisions[0], PRECISION}.intersection(self.pair.precisions)
        if all(self._has_poles(name, precision) for precision in sorted(tried)):
            return "by hand the exact value is not finite (a division by zero, a pole)"
        return None

    def _has_poles(self, name: str, precision: int) -> bool:
        """Whether some exact value by hand is not finite, and the floats no common infinity."""
        lifted = self.lifted.manual_program(precision=precision)
        poles = ~finite(lifted.outputs[name].numbers)
        return not lifted.n.skipped and not bool(self._infinite(name)[poles].all())

    # -- question 1: the same formula?

    def _formula(self, name: str) -> tuple[Formula, Reading]:
        """Compare the two lifted values in one reading of the code's numbers after another."""
        written = self._compared(name, AS_WRITTEN)
        if written.same is not False:
            return written, AS_WRITTEN
        others, complete = self._other_readings
        if not others:
            return written, AS_WRITTEN
        if self._compared(name, IN_ANY_READING).same is False:
            return written, AS_WRITTEN
        all_differ, tried = True, 0
        for reading in others:
            if len(reading.exceptions) > tried:  # all readings with fewer exceptions were tried
                earlier = [other for other in others if len(other.exceptions) <= tried]
                if self._is_far(name, written.at, earlier):
                    return written, AS_WRITTEN
                tried = len(reading.exceptions)
            formula = self._compared(name, reading)
            if formula.same:
                return replace(formula, text=f"{formula.text}{reading.text}"), reading
            all_differ = all_differ and formula.same is False
        if all_differ and complete:
            return written, AS_WRITTEN
        text = (
            f"it depends on how the numbers in the code are read; in none of the {1 + len(others)} "
            f"readings that were tried do both sides agree: {written.text}"
        )
        return Formula(None, text, apart=True), AS_WRITTEN

    @cached_property
    def _other_readings(self) -> tuple[list[Reading], bool]:
        """All readings but AS_WRITTEN, and whether the list is complete."""
        first_to_last, complete = readings(
            self.lifted.literals,
            tables=self.lifted.has_tables,
            exact_structure=bool(self.pair.exact_structure),
        )
        return first_to_last[1:], complete

    def _compared(self, name: str, reading: Reading) -> Formula:
        """Compare the two lifted values, both continued from the divergent by-hand values."""
        divergent = self.pair.injected_ancestors(name) & self.divergent
        formula = Formula(None, "")
        for precision in self._precisions:
            both = self.lifted.both_sides(name, reading, precision, divergent)
            with flint.ctx.workprec(max(precision, PRECISION)):
                found = same_formula(
                    *both,
                    self.pair.manual[name].dtype,
                    terms=lambda: self.lifted.terms(name),
                    infinite=self._infinite(name),
                    sampled=self.lifted.skipped(reading, precision, divergent),
                    skip=int(self.pair.has_population_dim),
                    of_complex=self.pair.is_complex(name),
                    accept=self.pair.formula_ulps,
                    most_digits=RESTARTED_DIGITS if precision == RESTARTED else MOST_DIGITS,
                )
            if precision == RESTARTED:  # it can only show that the formulas are the same
                if found.same:
                    text = f"{found.text}, from one matrix product to the next"
                    return replace(found, text=text, precision=precision)
                continue
            formula = replace(found, precision=precision)
            if found.same is not None or found.at is None or reading == IN_ANY_READING:
                break
        return formula

    @property
    def _precisions(self) -> tuple[int, ...]:
        """The precisions to try; first the one that mostly decides, where only the formula counts.

        A deep network leaves too few digits from the inputs on, but not from product to product.
        """
        tried = self.pair.precisions
        return tuple(sorted(tried, key=RESTARTED.__ne__)) if self.formulas_only else tried

    def _infinite(self, name: str) -> Any:
        """Return a mask of the elements where both sides have the same infinity.

        It may come from a mask, a pole or an overflow.
        """
        manual, autograd = self.pair.manual[name], self.pair.autograd[name]
        return (manual.isinf() & (manual == autograd)).cpu().numpy()

    def _is_far(self, name: str, at: tuple[int, ...] | None, others: Sequence[Reading]) -> bool:
        """Whether the two sides differ by far more than these readings change them."""
        divergent = self.pair.injected_ancestors(name) & self.divergent

        def both(reading: Reading) -> list[Any]:
            precision = self.pair.precisions[0]
            sides = self.lifted.both_sides(name, reading, precision, divergent)
            return [ball_at(side, at) for side in sides]

        written, change = both(AS_WRITTEN), 0.0
        for reading in others:
            for before, after in zip(written, both(reading), strict=True):
                change += magnitude(before - after) + float(after.rad())
        # with single exceptions the sum holds the change that each number causes
        factor = FAR_EACH if any(len(reading.exceptions) == 1 for reading in others) else FAR
        return magnitude(written[0] - written[1]) > factor * change

    # -- question 2: no further apart than rounding?

    def _rounding(
        self,
        name: str,
        text: str,
        by_hand: LiftedQuantity | None,
        reference: LiftedQuantity | None,
        errors: dict[str, Any],
    ) -> Proof:
        """Judge different bits of the same formula: is each side within its own bound?"""
        assert by_hand is not None
        assert reference is not None
        if not (by_hand.known and reference.known):
            why = "no rounding bound could be computed"
            return Proof(UNDECIDED, f"{text}; {why}", obstacle=why, **errors)
        manual, autograd = self.pair.manual[name], self.pair.autograd[name]
        # downstream of an output that overflowed by hand there is no exact value by hand
        lost = overflowed(manual, autograd, by_hand.exact)
        lost |= overflowed(manual, autograd, reference.exact)
        if bool(lost.any()):
            return Proof(INACCURATE, f"{text}, but by hand it overflows {self._at(lost)}", **errors)
        shares = [by_hand.shares_of_bound(manual), reference.shares_of_bound(autograd)]
        manual_share, autograd_share = map(largest_share, shares)
        share = max(manual_share, autograd_share)
        bound = "times the rounding bound of its own operations"
        if not manual_share <= 1:
            text += f", but the error by hand is {manual_share:.3g} {bound}"
            return Proof(WRONG, text, share=manual_share, **errors)
        if not autograd_share <= 1:
            text += f", but the error of autograd's kernel is {autograd_share:.3g} {bound}"
            return Proof(UNDECIDED, text, share=autograd_share, **errors)
        accuracy = Accuracy.of(by_hand, manual, reference, autograd)
        if accuracy is not None:
            errors |= accuracy.proof_fields(manual.dtype)
            if accuracy.worse:
                errors["shortfall"] = f"keeps {accuracy}"
                why = f"by hand it {errors['shortfall']}"
                if cast := narrowing_cast(self.pair, name):
                    why = f"{why}: {cast}"
                if accuracy.lost:
                    return Proof(INACCURATE, f"{text}, but {why}", **errors)
                text = f"{text}; {why}"
            else:
                ulps = errors.get("manual_error"), errors.get("autograd_error")
                errors["shortfall"] = accuracy.element_loss(manual.dtype, *ulps)
        # an element without a bound is verified only where it has autograd's bits
        unbounded = sum(shares).isnan() & (manual != autograd).cpu()  # type: ignore[union-attr]
        if bool(unbounded.any()):
            why = f"its rounding bound is not finite {self._at(unbounded)}"
            if accuracy is None:
                return Proof(UNDECIDED, f"{text}; {why}", **errors)
            text = f"{text}; {why}, so there only the number of correct bits was checked"
        mask = torch.from_numpy(np.asarray(~(finite(by_hand.exact) & finite(reference.exact))))
        if mask.any():  # entries of a sampled product: judged by the bound alone
            room = by_hand.bound.error.cpu() + reference.bound.error.cpu()
            unlifted_shares = share_of_rounding(manual, autograd, room)[mask]
            share = max(share, float(unlifted_shares.max()))
            if not share <= 1:
                why = (
                    f"in elements that were not computed exactly the difference is {share:.3g} "
                    "times the sum of both rounding bounds: use lift all"
                )
                return Proof(UNDECIDED, f"{text}; {why}", share=share, **errors)
        return Proof(ROUNDING, text, lifted=True, share=share, **errors)

    def _correct_bits(
        self, name: str, by_hand: LiftedQuantity | None, reference: LiftedQuantity | None
    ) -> dict[str, Any]:
        """Return the number of correct bits on both sides, where the exact values are known."""
        if by_hand is None or reference is None or not (by_hand.known and reference.known):
            return {}
        manual = self.pair.manual[name]
        accuracy = Accuracy.of(by_hand, manual, reference, self.pair.autograd[name])
        return {} if accuracy is None else accuracy.proof_fields(manual.dtype)

    def _opaque(
        self, name: str, obstacle: str, reference: LiftedQuantity, errors: dict[str, Any]
    ) -> Proof:
        """Judge a by-hand side that cannot be traced by its distance from the lifted reference."""
        manual = self.pair.manual[name]
        shares = reference.shares_of_bound(manual) / OPAQUE_SLACK
        share = largest_share(shares)
        error = reference.error_in_ulps(manual, reference)
        autograd_error = errors.get("autograd_error")
        numbers = f"the error is {_ulps(error)} by hand, {_ulps(autograd_error)} by autograd"
        errors = {**errors, "manual_error": error}
        lost = overflowed(manual, self.pair.autograd[name], reference.exact)
        if bool(lost.any()):
            text = f"{numbers}: it overflows {self._at(lost)}; {obstacle}"
            return Proof(WRONG, text, **errors)
        if not share <= 1:
            text = f"{numbers}: outside {OPAQUE_SLACK:g} times autograd's rounding bound"
            return Proof(WRONG, f"{text}; {obstacle}", obstacle=obstacle, share=share, **errors)
        text = f"the formula could not be compared: {obstacle}"
        if bool(shares.isnan().any()):
            text += f"; without a finite rounding bound {self._at(shares.isnan())}"
        text = f"{text}; torch operations in its place would decide it"
        return Proof(UNDECIDED, text, obstacle=obstacle, **errors)

    def _at(self, mask: Tensor) -> str:
        """Return in words the index of the first element of a mask, and the number of elements."""
        first = mask.nonzero()[0].tolist()[int(self.pair.has_population_dim) :]
        return f"at {first} ({int(mask.sum()):,} of {mask.numel():,} elements)"


def _ulps(error: float | None) -> str:
    return "unknown" if error is None else f"{error:.3g} ulp"
