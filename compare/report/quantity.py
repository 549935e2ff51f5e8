"""One named quantity: how many of its bits are equal, where they are not, and what was shown.

Also how it is told: a row of the table, and what stands behind it, in words.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from rich.table import Table
from rich.text import Text
from torch import Tensor

from compare.errors import printable
from compare.proof.bits import Difference, WorstElement, compare_bits, mismatch
from compare.proof.verdict import EXACT, UNDECIDED, WRONG, Diagnosis, Proof, Verdict
from compare.report.document import plain_table
from compare.state_dict import plain


@dataclass
class Quantity:
    """One named quantity over all compared steps and networks."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    compared: int = 0
    equal: int = 0
    nans: int = 0
    max_ulp: int = 0
    first_unequal: int | None = None  # the step
    worst: WorstElement | None = None
    problem: str | None = None  # why it could not be compared at all
    proof: Proof | None = None

    @classmethod
    def of(cls, name: str, manual: Tensor | None, autograd: Tensor) -> "Quantity":
        """Return one quantity with its bits compared; `manual` is None where it is missing."""
        row = cls(name, tuple(autograd.shape), str(autograd.dtype).removeprefix("torch."))
        if manual is None:
            row.problem = (
                "missing by hand: return its gradient (None for zero), or say which inputs need "
                "one with requires_grad=True"
            )
        elif problem := mismatch(manual, autograd):
            row.problem = problem
        else:
            found = compare_bits(manual, autograd)
            row.add(found, found.worst)
        return row

    def add(self, found: Difference, worst: WorstElement | None) -> None:
        """Add what was found for some of its elements, at `worst` the furthest apart."""
        self.compared += found.total
        self.equal += found.equal
        if worst and worst.outranks(self.max_ulp, nan=self.nans > 0):
            self.worst = worst
        self.nans += found.nans
        self.max_ulp = max(self.max_ulp, found.max_ulp)

    @property
    def since(self) -> int | None:
        """The step of a run that first showed its verdict, None where there are no steps.

        Its bits may differ before that: rounding may come first, and a bug later.
        """
        nan = self.worst.step if self.nans and self.worst else None  # the first NaN's
        shown = self.proof.step if self.proof else None
        return min((k for k in (nan, shown) if k is not None), default=self.first_unequal)

    @property
    def verdict(self) -> Verdict:
        """The proof's; without one EXACT for equal bits, WRONG for a NaN, else UNDECIDED."""
        if self.problem or self.nans:
            return WRONG
        if self.proof:
            return self.proof.verdict
        return EXACT if self.compared and self.equal == self.compared else UNDECIDED

    @property
    def diagnosis(self) -> Diagnosis | None:
        """The fixes that a search found, None if there was no search."""
        return self.proof.diagnosis if self.proof else None

    @property
    def total(self) -> int:
        """How many elements were compared."""
        return self.compared

    @property
    def worst_index(self) -> tuple[int, ...] | None:
        """Where the two are furthest apart, None where they are nowhere."""
        return self.worst.index if self.worst else None

    @property
    def manual(self) -> float | None:
        """The by-hand value there."""
        return self.worst.manual if self.worst else None

    @property
    def autograd(self) -> float | None:
        """Autograd's value there."""
        return self.worst.autograd if self.worst else None

    def to_dict(self) -> dict[str, Any]:
        """Return the contract's fields of result.json."""
        return {
            **plain(self),
            "worst": self.worst and self.worst.to_dict(),
            "proof": self.proof and self.proof.to_dict(),
            "diagnosis": plain(self.diagnosis),
            "verdict": self.verdict,
        }


# The verdict is never left out.
DROPPABLE = "compared", "shape", "equal bits", "max ulp"


def table(quantities: Iterable[Quantity]) -> Table:
    """Return a row for each quantity."""
    numbers = "compared", "equal bits", "max ulp"
    made = plain_table("quantity", "shape", *numbers, "verdict", right=numbers)
    for q in quantities:
        ulp = "NaN" if q.nans else f"{q.max_ulp:,}" if q.max_ulp < 10**7 else f"{q.max_ulp:.1e}"
        shape, verdict = str(q.shape).replace(" ", ""), Text(q.verdict, style=q.verdict.style)
        made.add_row(printable(q.name), shape, f"{q.compared:,}", f"{q.equal:,}", ulp, verdict)
    return made


def lines(q: Quantity) -> Iterator[tuple[str, str]]:
    """Yield the lines on one quantity."""
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
        yield "", f"worst at {step}{list(w.index)}"
        zeros = "   (the sign of a zero)" if w.manual == w.autograd == 0 else ""
        yield "", f"by hand {w.manual!r}   autograd {w.autograd!r}{zeros}"
    if q.proof:
        yield "", q.proof.text
        of = q.proof.manual_error, q.proof.autograd_error
        if None not in of:
            yield "", "off the exact value by {:.2g} ulp by hand, {:.2g} by autograd".format(*of)
        of = q.proof.manual_bits, q.proof.autograd_bits
        if None not in of:
            lost = f": {q.proof.both_lost}" if q.proof.both_lost else ""
            yield "", "right to {:.1f} bits by hand, {:.1f} by autograd".format(*of) + lost
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
    """Yield to how many bits quantities are right that have autograd's own."""
    known = {q.name: q.proof for q in rows if q.proof and q.proof.manual_bits is not None}
    bits = {name: proof.manual_bits or 0.0 for name, proof in known.items()}
    if len(bits) > 3:
        least = min(bits, key=bits.__getitem__)
        told = f"each to {bits[least]:.1f} bits or more ({least})"
    else:
        told = ", ".join(f"{name} to {count:.1f} bits" for name, count in bits.items())
    if told:
        yield "right", f"{told}, on both sides alike"
    for name, proof in known.items():
        if proof.both_lost:
            yield "", f"{name}: {proof.both_lost}"
