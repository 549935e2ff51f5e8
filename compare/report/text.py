"""How quantities are told: their table, and what stands behind each, in words."""

from collections.abc import Iterable, Iterator

from rich.table import Table
from rich.text import Text

from compare.errors import printable
from compare.proof.verdict import WRONG
from compare.report.document import plain_table
from compare.report.quantity import Quantity

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
        yield from _remedies(q)
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
    yield from _remedies(q)


def _remedies(q: Quantity) -> Iterator[tuple[str, str]]:
    """Yield where a wrong quantity stands, and what would make it right, or that nothing would."""
    if q.proof and q.proof.line:
        yield "at", q.proof.line
    if q.diagnosis is None:
        return
    if q.verdict != WRONG:
        for text in q.diagnosis.found:
            yield "", f"for autograd's bits {text}"
        return
    for k, text in enumerate(q.diagnosis.found):
        yield "or" if k else "would be right", text
    if not q.diagnosis.found:
        yield "", f"nothing found that would make it right ({q.diagnosis.note})"


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
