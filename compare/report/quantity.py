"""One named quantity of a report: its comparison, its proof, and their lines in the report."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from rich.table import Table
from rich.text import Text
from torch import Tensor

from compare.errors import printable
from compare.proof.bits import Difference, WorstElement, compare_bits, mismatch, place
from compare.proof.verdict import BY_HAND, EXACT, UNDECIDED, WRONG, Diagnosis, Proof, Verdict
from compare.report.rendering import plain_table
from compare.stateful import plain


@dataclass
class Quantity:
    """One named quantity over all compared steps and networks."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    compared: int = 0  # elements
    equal: int = 0  # elements with equal bits
    nans: int = 0  # elements that are NaN on a side
    max_ulp: int = 0
    first_unequal: int | None = None  # first step at which an element differs
    worst: WorstElement | None = None  # the element with the largest difference
    problem: str | None = None  # reason for which it could not be compared
    proof: Proof | None = None
    # which side is the derivative of forward: both, by hand, autograd, neither; None: not known
    derivative: str | None = None
    derivative_digits: int | None = None  # of the quotient that tells
    derivative_unknown: str = ""  # the reason for which it is not known

    @classmethod
    def of(cls, name: str, manual: Tensor | None, autograd: Tensor) -> "Quantity":
        """Return the quantity with its bits compared; `manual` is None if it is missing."""
        row = cls(name, tuple(autograd.shape), str(autograd.dtype).removeprefix("torch."))
        if manual is None:
            row.problem = (
                "missing by hand: return its gradient (None for zero), or mark only the inputs "
                "that need one with requires_grad=True"
            )
        elif problem := mismatch(manual, autograd):
            row.problem = problem
        else:
            difference = compare_bits(manual, autograd)
            row.add(difference, difference.worst)
        return row

    def add(self, difference: Difference, worst: WorstElement | None) -> None:
        """Add the comparison of further elements, of which `worst` differs most."""
        self.compared += difference.total
        self.equal += difference.equal
        if worst and worst.outranks(self.max_ulp, nan=self.nans > 0):
            self.worst = worst
        self.nans += difference.nans
        self.max_ulp = max(self.max_ulp, difference.max_ulp)

    @property
    def since(self) -> int | None:
        """The first step of a run that showed the verdict, None if there are no steps.

        Bits may differ at earlier steps: first by rounding, later by a bug.
        """
        nan = self.worst.step if self.nans and self.worst else None  # that of the first NaN
        shown = self.proof.step if self.proof else None
        return min((k for k in (nan, shown) if k is not None), default=self.first_unequal)

    @property
    def verdict(self) -> Verdict:
        """The proof's verdict; without one EXACT for equal bits, WRONG for NaN, else UNDECIDED.

        A NaN of autograd's alone counts for nothing where by hand is the derivative of forward.
        """
        if self.problem or (self.nans and self.derivative != BY_HAND):
            return WRONG
        if self.proof:
            return self.proof.verdict
        return EXACT if self.compared and self.equal == self.compared else UNDECIDED

    @property
    def diagnosis(self) -> Diagnosis | None:
        """The fixes that a search found for a quantity that is not EXACT; None: no search."""
        return self.proof.diagnosis if self.proof else None

    @property
    def total(self) -> int:
        """The number of elements compared."""
        return self.compared

    @property
    def worst_index(self) -> tuple[int, ...] | None:
        """The index of the element with the largest difference, None if none differs."""
        return self.worst.index if self.worst else None

    @property
    def manual(self) -> float | None:
        """The by-hand value at `worst_index`."""
        return self.worst.manual if self.worst else None

    @property
    def autograd(self) -> float | None:
        """The value by autograd at `worst_index`."""
        return self.worst.autograd if self.worst else None

    def to_dict(self) -> dict[str, Any]:
        """Return the quantity as it stands in result.json."""
        return {
            **plain(self),
            "worst": self.worst and self.worst.to_dict(),
            "proof": self.proof and self.proof.to_dict(),
            "diagnosis": plain(self.diagnosis),
            "verdict": self.verdict,
        }


# Columns to leave out of a narrow table, in this order; the verdict always stays.
DROPPABLE = "compared", "shape", "equal bits", "max ulp"


def table(quantities: Iterable[Quantity]) -> Table:
    """Return a table with a row for each quantity."""
    numbers = "compared", "equal bits", "max ulp"
    result = plain_table("quantity", "shape", *numbers, "verdict", right=numbers)
    for q in quantities:
        ulp = "NaN" if q.nans else f"{q.max_ulp:,}" if q.max_ulp < 10**7 else f"{q.max_ulp:.1e}"
        shape, verdict = str(q.shape).replace(" ", ""), Text(q.verdict, style=q.verdict.style)
        result.add_row(printable(q.name), shape, f"{q.compared:,}", f"{q.equal:,}", ulp, verdict)
    return result


def lines(q: Quantity) -> Iterator[tuple[str, str]]:
    """Yield (label, text) for each line of the report on one quantity."""
    if q.problem:
        yield q.name, q.problem
        yield from _fixes(q)
        return
    nans = f", {q.nans:,} of them NaN" if q.nans else ""
    differ = f"{q.compared - q.equal:,} of {q.compared:,} differ{nans}"
    yield q.name, f"{q.shape} {q.dtype}: {differ}, by at most {q.max_ulp:,} ulp"
    if w := q.worst:
        step = "" if w.step is None else f"step {w.step}, seed {w.seed}, "
        step += "" if w.rank is None else f"rank {w.rank}, "
        yield "", f"worst at {step}{place(w.index, of_complex=q.dtype.startswith('complex'))}"
        zeros = "   (zeros of opposite sign)" if w.manual == w.autograd == 0 else ""
        yield "", f"by hand {w.manual!r}   autograd {w.autograd!r}{zeros}"
    if q.proof:
        yield "", q.proof.text
        errors = q.proof.manual_error, q.proof.autograd_error
        if None not in errors:
            ulps = "distance from the exact value: up to {:.2g} ulp by hand, {:.2g} by autograd"
            yield "", f"{ulps.format(*errors)} (ulp of the largest number summed)"
        bits = q.proof.manual_bits, q.proof.autograd_bits
        if None not in bits:
            lost = f": {q.proof.both_lost}" if q.proof.both_lost else ""
            yield "", "{:.1f} correct bits by hand, {:.1f} by autograd".format(*bits) + lost
    yield from _fixes(q)


def _fixes(q: Quantity) -> Iterator[tuple[str, str]]:
    """Yield the line of a wrong quantity and its fixes, or how to match autograd bit for bit."""
    if q.proof and q.proof.line:
        yield "line", q.proof.line
    if q.diagnosis is None:
        return
    if q.verdict != WRONG:
        for text in q.diagnosis.found:
            yield "", f"to match autograd bit for bit, {text}"
        return
    for k, text in enumerate(q.diagnosis.found):
        yield "or" if k else "fix", text
    if not q.diagnosis.found:
        yield "", f"no fix found ({q.diagnosis.note})"


def right_bits(rows: Iterable[Quantity]) -> Iterator[tuple[str, str]]:
    """Yield lines on the correct bits of quantities that have autograd's bits."""
    known = {q.name: q.proof for q in rows if q.proof and q.proof.manual_bits is not None}
    bits = {name: proof.manual_bits or 0.0 for name, proof in known.items()}
    if not bits:
        return
    if len(bits) > 3:
        lowest = min(bits, key=bits.__getitem__)
        text = f"at least {bits[lowest]:.1f} correct bits (lowest: {lowest})"
    else:
        first, *others = (f"{name} {count:.1f}" for name, count in bits.items())
        text = ", ".join([f"{first} correct bits", *others])
    yield "accuracy", f"{text}, the same on both sides"
    for name, proof in known.items():
        if proof.both_lost:
            yield "", f"{name}: {proof.both_lost}"
