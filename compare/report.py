"""What a run found: one verdict for each quantity and one for all; as text, rich table and JSON."""

import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from compare.board.page import Curve, fragment, page
from compare.errors import BadInput
from compare.files import save
from compare.proof.verdict import (
    EXACT,
    ROUNDING,
    STYLE,
    UNDECIDED,
    WEIGHT,
    WRONG,
    Diagnosis,
    Proof,
)
from compare.training.chunk import Bucket
from compare.training.one_process import OneProcess


@dataclass(frozen=True)
class Place:
    """Where two values were furthest apart: step from 0, network's seed, index, both values."""

    step: int | None  # None where there are no steps
    seed: int | None
    index: tuple[int, ...]
    manual: float
    autograd: float
    rank: int | None = None  # whose rows, where many processes share them

    def to_dict(self) -> dict[str, Any]:
        """Return it for JSON, both values as float.hex() so that no bit is lost."""
        return {
            **({} if self.rank is None else {"rank": self.rank}),
            "step": self.step,
            "seed": self.seed,
            "index": list(self.index),
            "manual": self.manual.hex(),
            "autograd": self.autograd.hex(),
        }


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
    worst: Place | None = None
    first_unequal: int | None = None  # the step
    problem: str | None = None  # why it could not be compared at all
    proof: Proof | None = None

    @property
    def verdict(self) -> str:
        """The proof's; without one EXACT for equal bits, WRONG for a NaN, else UNDECIDED."""
        if self.problem or self.nans:
            return WRONG
        if self.proof:
            return self.proof.verdict
        if self.compared and self.equal == self.compared:
            return EXACT
        return UNDECIDED

    @property
    def diagnosis(self) -> Diagnosis | None:
        """What a search found that would make it right, or exact; None where there was none."""
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
            "name": self.name,
            "shape": list(self.shape),
            "dtype": self.dtype,
            "compared": self.compared,
            "equal": self.equal,
            "nans": self.nans,
            "max_ulp": self.max_ulp,
            "first_unequal": self.first_unequal,
            "worst": self.worst.to_dict() if self.worst else None,
            "problem": self.problem,
            "proof": self.proof.to_dict() if self.proof else None,
            "diagnosis": self.diagnosis.to_dict() if self.diagnosis else None,
            "verdict": self.verdict,
        }


@dataclass
class Report:
    """What was found: of a run at every step, of `check` at its inputs."""

    case: str
    settings: dict[str, Any]  # dtype, device, seed, population, as the command line names them
    unnamed: tuple[str, ...] = ()  # quantities that the by-hand side has no name or value for
    steps: int = 0  # compared so far
    quantities: dict[str, Quantity] = field(default_factory=dict)  # in the order of computation
    follows: dict[str, list[str]] = field(default_factory=dict)  # what is computed from each
    free_gap: float | None = 0.0  # None: autograd was not let go on its own
    accuracy: float | None = None  # share of the rows kept back whose class is right, by hand
    classes: tuple[str, ...] = ()
    confusion: list[list[int]] | None = None  # rows kept back: of each class, taken for which
    output: list[list[float]] = field(default_factory=list)  # the first network's last lN
    environment: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    interrupted: bool = False
    curves: list[Bucket] = field(default_factory=list)  # of a run, not in its JSON
    command: str | None = None  # what shows the same again, where a command does
    one_process: OneProcess | None = None  # beside it, where several ranks share the rows

    @property
    def verdict(self) -> str:
        """The weightiest verdict of any quantity; UNDECIDED where nothing was compared."""
        found = {quantity.verdict for quantity in self.quantities.values()} or {UNDECIDED}
        if self.one_process and self.one_process.verdict == WRONG:
            found.add(WRONG)
        return next(verdict for verdict in WEIGHT if verdict in found)

    @property
    def first_wrong(self) -> str | None:
        """The first quantity that is WRONG: at the earliest step, in the order of computation."""
        wrong = [q for q in self.quantities.values() if q.verdict == WRONG]
        return min(wrong, key=lambda q: q.first_unequal or 0).name if wrong else None

    @property
    def ok(self) -> bool:
        """Whether every quantity is EXACT or ROUNDING."""
        return self.meets("rounding")

    def meets(self, demand: str) -> bool:
        """Whether the verdict is at least as good as `demand`, "exact" or "rounding"."""
        return self.verdict in ({EXACT} if demand == "exact" else {EXACT, ROUNDING})

    def to_dict(self) -> dict[str, Any]:
        """Return everything as what JSON can hold."""
        return {
            "case": self.case,
            "verdict": self.verdict,
            "first_wrong": self.first_wrong,
            "steps": self.steps,
            "interrupted": self.interrupted,
            **self.settings,
            "unnamed": list(self.unnamed),
            "quantities": [quantity.to_dict() for quantity in self.quantities.values()],
            "free_gap": None if self.free_gap is None else self.free_gap.hex(),
            "accuracy": self.accuracy,
            **({"one_process": self.one_process.to_dict()} if self.one_process else {}),
            "classes": list(self.classes),
            "confusion": self.confusion,
            "output": [[value.hex() for value in row] for row in self.output],
            "environment": self.environment,
            "seconds": self.seconds,
        }

    def to_json(self) -> str:
        """Return `to_dict` as indented JSON text."""
        return json.dumps(self.to_dict(), indent=1) + "\n"

    def cells(self) -> list[tuple[str, ...]]:
        """Return the table's texts: a row of titles, then one for each quantity."""
        titles = ("quantity", "shape", "compared", "equal bits", "max ulp", "verdict")
        rows: list[tuple[str, ...]] = [titles]
        for q in self.quantities.values():
            ulp = "NaN" if q.nans else _short(q.max_ulp)
            shape = str(q.shape).replace(" ", "")
            rows.append((q.name, shape, f"{q.compared:,}", f"{q.equal:,}", ulp, q.verdict))
        return rows

    def about(self) -> list[tuple[str, str]]:
        """Return what is known of the run: settings, time, machine and versions."""
        known = {**self.settings, "seconds": f"{self.seconds:.1f}", **self.environment}
        again = {"again": self.command} if self.command and self.verdict == EXACT else {}
        return [(key, str(value)) for key, value in {**known, **again}.items()]

    def markdown(self) -> str:
        """Return the report as markdown: the verdict and its table, what is wrong, the machine."""
        titles, *rows = self.cells()
        table = [titles, ("---",) * len(titles), *rows]
        parts = [f"**{self.verdict}** {self._claim()}"]
        parts.append("\n".join(f"| {' | '.join(row)} |" for row in table))
        if lines := [f"    {label:<{_LABEL}} {text}" for label, text in self._explanation()]:
            parts += ["### What stands behind it", "\n".join(lines)]
        about = "\n".join(f"| {key} | {value} |" for key, value in self.about())
        return "\n\n".join([*parts, "### Environment", f"| | |\n|---|---|\n{about}"])

    def save(self, path: str | Path) -> None:
        """Write the report to a file: .html a page with plots, .json, .txt the text.

        Raises BadInput for another ending, or where it cannot be written.
        """
        path = Path(path)
        forms: dict[str, Callable[[], str]] = {
            ".html": lambda: page(f"{self.case}: {self.verdict}", self._repr_html_()),
            ".json": self.to_json,
            ".txt": lambda: f"{self}\n",
        }
        if path.suffix not in forms:
            raise BadInput(f"{path}: name a file that ends in {', '.join(forms)}")
        save(path, forms[path.suffix]())

    def _repr_html_(self) -> str:
        """Return the report as a notebook shows it."""
        plots: list[tuple[str, list[Curve]]] = []
        if self.curves:
            sides = ("autograd", "by hand"), ("autograd", "manual")
            losses: list[Curve] = [
                (label, [(b.start, b.values[side]["loss"]) for b in self.curves])
                for label, side in zip(*sides, strict=True)
            ]
            ulps = [(b.start, b.largest_ulp) for b in self.curves]
            plots = [("Loss", losses), ("Largest difference, in ulps", [("ulps", ulps)])]
        about = self.about()
        claim = self._claim()
        lines = self._explanation()
        return fragment(self.case, self.verdict, claim, self.cells(), lines, plots, about)

    def headline(self) -> Text:
        """Return the verdict and what it rests on, in one line."""
        line = Text(self.verdict, style=STYLE[self.verdict])
        line.append(f"  {self._claim()}", style="default")
        if self.interrupted:
            line.append(" (interrupted: the steps until then)", style="default")
        return line

    def _claim(self) -> str:
        rows = list(self.quantities.values())
        if not rows:
            return "nothing was compared"
        where = "" if self.case == "check" else f" at each of {_plural(self.steps, 'step')}"
        if self.verdict == EXACT:
            if not any(q.compared for q in rows):
                return "nothing to compare: no quantity has any elements"
            if len(rows) == 1:
                return f"{rows[0].name} has autograd's bits{where}"
            return f"all {len(rows)} quantities have autograd's bits{where}"
        odd = [q for q in rows if q.verdict == self.verdict]
        names = ", ".join(q.name for q in odd)
        if self.verdict == ROUNDING:
            shown = "at these inputs" if self.case == "check" else "at the steps lifted"
            at_all = "" if self.case == "check" else " at every step"
            return f"the same formulas {shown}; {names}: other bits, within rounding{at_all}"
        if not odd:
            return "what the ranks add is not what one process finds"
        word = "wrong" if self.verdict == WRONG else "undecided"
        first = self.quantities[self.first_wrong] if self.first_wrong else odd[0]
        at = f", at step {first.first_unequal}" if first.first_unequal is not None else ""
        return f"{first.name} is the first {word} quantity{at}"

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield self._table(options.max_width)
        yield self.headline()
        for label, text in self._explanation():
            yield _line(label, text)

    def _explanation(self) -> Iterator[tuple[str, str]]:
        """Yield labelled lines on what is not EXACT, the first wrong quantity first."""
        rows = list(self.quantities.values())
        if self.first_wrong:
            above = itertools.takewhile(lambda q: q.name != self.first_wrong, rows)
            before = [q.name for q in above if q.verdict != WRONG]
            if before:
                yield "right so far", ", ".join(before)
        for q in sorted(rows, key=lambda q: WEIGHT.index(q.verdict)):
            if q.verdict != EXACT:
                yield from self._on(q)
        if self.first_wrong and (after := self.follows.get(self.first_wrong)):
            yield "follows", ", ".join(after)
        if self.one_process:
            yield "one process", self.one_process.text
        if self.unnamed:
            why = "the by-hand side gives none"
            yield "not judged", f"{', '.join(self.unnamed)} ({why})"
        if self.command and self.verdict != EXACT:
            yield "again", self.command

    def _on(self, q: Quantity) -> Iterator[tuple[str, str]]:
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
            yield "", f"by hand {w.manual!r}   autograd {w.autograd!r}"
        if q.proof:
            yield "", q.proof.text
            if q.proof.manual_error is not None and q.proof.autograd_error is not None:
                errors = (q.proof.manual_error, q.proof.autograd_error)
                yield (
                    "",
                    "off the exact value by {:.2g} ulp by hand, {:.2g} by autograd".format(*errors),
                )
        yield from _remedies(q)

    def _table(self, width: int) -> Table:
        """Return a row for each quantity; what does not fit is left out, the verdict never."""
        rows = self.cells()
        kept = list(range(len(rows[0])))
        for column in (2, 1, 3, 4):  # compared, shape, equal bits, max ulp
            if sum(max(len(row[k]) for row in rows) + 2 for k in kept) - 2 <= width:
                break
            kept.remove(column)
        table = Table(box=None, pad_edge=False, header_style="bold")
        for k in kept:
            table.add_column(rows[0][k], no_wrap=True, justify="right" if 2 <= k <= 4 else "left")
        for row in rows[1:]:
            verdict = Text(row[-1], style=STYLE[row[-1]])
            table.add_row(*(row[k] for k in kept[:-1]), verdict)
        return table

    def __str__(self) -> str:
        console = Console(width=100, no_color=True, highlight=False, markup=False)
        with console.capture() as capture:
            console.print(self, crop=False)
        return capture.get().rstrip("\n")


_LABEL = 14  # columns for a line's label


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


def _line(label: str, text: str) -> Text:
    """Return a labelled line that is never broken, so that a command can be copied."""
    return Text(
        f"  {label:<{_LABEL}}{' ' if label else '  '}{text}", no_wrap=True, overflow="ignore"
    )


def _plural(count: int, noun: str) -> str:
    plural = noun[:-1] + "ies" if noun.endswith("y") else noun + "s"
    return f"{count:,} {noun if count == 1 else plural}"


def _short(count: int) -> str:
    """Return a count in at most 9 columns."""
    return f"{count:,}" if count < 10_000_000 else f"{count:.1e}"
