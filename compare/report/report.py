"""What a run found: one verdict for each quantity and one for all; as text, rich table and JSON."""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta

from compare.errors import BadInput, unknown
from compare.files import save
from compare.proof.verdict import EXACT, ROUNDING, UNDECIDED, WRONG, OtherInputs, Verdict
from compare.report.chunk import Bucket
from compare.report.contract_line import Line, broken, refusals, told
from compare.report.document import Document, Documented, plural
from compare.report.html import Curve, page
from compare.report.quantity import DROPPABLE, Quantity, lines, right_bits, table
from compare.report.single_process import SingleProcessResult
from compare.state_dict import Count, Stateful, Types, plain, require

_DEMANDS = {"exact": EXACT, "rounding": ROUNDING}  # the gravest verdict that meets each


@dataclass
class Report(Documented, Stateful):
    """What was found: of a run at every step, of `check` at its inputs."""

    STATE = Types(
        steps=Count, seconds=Annotated[float, Meta(ge=0)], free_gap=float | None,
        quantities=dict[str, Quantity], one_process=SingleProcessResult | None,
    )  # fmt: skip

    case: str
    settings: dict[str, Any]  # dtype, device, seed, population, as the command line names them
    unnamed: tuple[str, ...] = ()  # quantities that the by-hand side has no name or value for
    not_judged: tuple[str, ...] = ()  # parameters that forward reaches and by hand has none for
    beside: OtherInputs | None = (
        None  # of a check: at other inputs; None where nothing was asked there
    )
    conditions: tuple[str, ...] = ()  # for which alone the verdict holds: "grad_output = 1"
    steps: int = 0  # compared so far
    quantities: dict[str, Quantity] = field(default_factory=dict)  # in the order of computation
    follows: dict[str, list[str]] = field(default_factory=dict)  # what is computed from each
    free_gap: float | None = 0.0  # None: autograd was not let go on its own
    accuracy: float | None = None  # share of the rows kept back whose class is right, by hand
    classes: tuple[str, ...] = ()
    # rows kept back: of each class, taken for which; of very many classes, some to a row and column
    confusion: list[list[int]] | None = None
    output: list[list[float]] = field(default_factory=list)  # the first network's last lN
    environment: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    interrupted: bool = False
    curves: list[Bucket] = field(default_factory=list)  # of a run, not in its JSON
    command: str | None = None  # what shows the same again, where a command does
    contract: tuple[Line, ...] = ()  # of check: what other calls of the by-hand side gave
    one_process: SingleProcessResult | None = None  # beside it, where several ranks share the rows

    def check_state(self, found: Any) -> None:
        """Raise ValueError for rows under other names, or another process that was not asked."""
        names = [row.name for row in found.quantities.values()]
        require(names == [*found.quantities], "quantities", "under other names")
        asked = (found.one_process is None) == (self.one_process is None)
        require(asked, "one_process", "unasked")

    @property
    def verdict(self) -> Verdict:
        """The gravest verdict of any quantity; UNDECIDED where nothing was compared."""
        if broken(self.contract) or (self.one_process and self.one_process.verdict == WRONG):
            return WRONG
        return max((q.verdict for q in self.quantities.values()), default=UNDECIDED)

    @property
    def first_wrong(self) -> str | None:
        """The first quantity shown to be WRONG: by the step, then in the order of computation."""
        wrong = [q for q in self.quantities.values() if q.verdict == WRONG]
        return min(wrong, key=lambda q: q.since or 0).name if wrong else None

    @property
    def ok(self) -> bool:
        """Whether every quantity is EXACT or ROUNDING."""
        return self.meets("rounding")

    def meets(self, demand: str) -> bool:
        """Whether the verdict is at least as good as `demand`, "exact" or "rounding"."""
        if demand not in _DEMANDS:
            raise unknown("demand", demand, _DEMANDS)
        return self.verdict <= _DEMANDS[demand]

    @property
    def classes_each(self) -> int:
        """How many neighbouring classes stand in one row, and one column, of `confusion`."""
        return -(-len(self.classes) // len(self.confusion)) if self.confusion else 1

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
            "not_judged": list(self.not_judged),
            "conditions": list(self.conditions),
            "beside": plain(self.beside),
            "contract": plain(self.contract),
            "quantities": [quantity.to_dict() for quantity in self.quantities.values()],
            "free_gap": None if self.free_gap is None else self.free_gap.hex(),
            "accuracy": self.accuracy,
            **({"one_process": self.one_process.to_dict()} if self.one_process else {}),
            "classes": list(self.classes),
            "confusion": self.confusion,
            **({"classes_each": self.classes_each} if self.confusion else {}),
            "output": [[value.hex() for value in row] for row in self.output],
            "environment": self.environment,
            "seconds": self.seconds,
        }

    def about(self) -> list[tuple[str, str]]:
        """Return what is known of the run: settings, time, machine and versions."""
        known = {**self.settings, "seconds": f"{self.seconds:.1f}", **self.environment}
        again = {"again": self.command} if self.command and self.verdict == EXACT else {}
        return [(key, str(value)) for key, value in {**known, **again}.items()]

    def markdown(self) -> str:
        """Return the report as markdown: the verdict and its table, what is wrong, the machine."""
        return self.document().markdown()

    def save(self, path: str | Path) -> None:
        """Write the report to a file: .html a page with plots, .json, .txt the text.

        Raises BadInput for another ending, or where it cannot be written.
        """
        try:
            path = Path(path)
        except TypeError:
            raise BadInput(f"path is {path!r}: give the name of a file") from None
        forms: dict[str, Callable[[], str]] = {
            ".html": self.page, ".json": self.to_json, ".txt": lambda: f"{self}\n",
        }  # fmt: skip
        if path.suffix not in forms:
            raise BadInput(f"{path}: name a file that ends in {', '.join(forms)}")
        save(path, forms[path.suffix]())

    def page(self) -> str:
        """Return the report as a page with plots."""
        return page(f"{self.case}: {self.verdict}", self._repr_html_())

    def document(self) -> Document:
        """Return what there is to show of it."""
        plots: list[tuple[str, list[Curve]]] = []
        if self.curves:
            losses: list[Curve] = [
                (label, [(b.start, b.values[side]["loss"]) for b in self.curves])
                for label, side in (("autograd", "autograd"), ("by hand", "manual"))
            ]
            ulps = [(b.start, b.largest_ulp) for b in self.curves]
            plots = [("Loss", losses), ("Largest difference, in ulps", [("ulps", ulps)])]
        return Document(
            self.case, self.verdict, self.verdict, self._claim() + self._only_for(),
            table(self.quantities.values()), DROPPABLE, list(self._explanation()), plots,
            self.about(),
        )  # fmt: skip

    def _only_for(self) -> str:
        """Return what the claim holds for alone, and what is not judged or refused."""
        only = f", for {', '.join(self.conditions)}" if self.conditions else ""
        only += f"; not judged: {', '.join(self.not_judged)}" if self.not_judged else ""
        until = " (interrupted: the steps until then)" if self.interrupted else ""
        return only + refusals(self.contract) + until

    def _claim(self) -> str:
        """Return what the verdict rests on, in one line."""
        rows = list(self.quantities.values())
        if not rows:
            return "nothing was compared"
        where = "" if self.case == "check" else f" at each of {plural(self.steps, 'step')}"
        if self.verdict == EXACT:
            if not any(q.compared for q in rows):
                return "nothing to compare: no quantity has any elements"
            whose = f"all {len(rows)} quantities have" if rows[1:] else f"{rows[0].name} has"
            return f"{whose} autograd's bits{where}"
        odd = [q for q in rows if q.verdict == self.verdict]
        names = ", ".join(q.name for q in odd)
        if self.verdict == ROUNDING:
            shown = "at these inputs" if self.case == "check" else "at the steps lifted"
            shown += " and beside them" if self.beside and self.beside == OtherInputs(True) else ""
            at_all = "" if self.case == "check" else " at every step"
            accepted = {q.name: q.proof.accepted for q in odd if q.proof and q.proof.accepted}
            names = ", ".join(q.name for q in odd if q.name not in accepted)
            claim = [f"the same formulas {shown}"]
            claim += [f"{names}: other bits, within rounding{at_all}"] if names else []
            claim += [f"{name}: but for {gap}, as accepted" for name, gap in accepted.items()]
            claim += [f"{q.name} {q.proof.shortfall}" for q in odd if q.proof and q.proof.shortfall]
            return "; ".join(claim)
        if not odd:
            return broken(self.contract) or "what the ranks add is not what one process finds"
        first = min(odd, key=lambda q: q.since or 0)
        at = f", at step {first.since}" if first.since is not None else ""
        lost = first.proof.shortfall if first.proof else ""
        word = self.verdict.lower()
        return f"{first.name} is the first {word} quantity{at}{lost and f': it {lost}'}"

    def _explanation(self) -> Iterator[tuple[str, str]]:
        """Yield labelled lines on what is not EXACT, the first wrong quantity first."""
        rows = list(self.quantities.values())
        if self.first_wrong:
            above = itertools.takewhile(lambda q: q.name != self.first_wrong, rows)
            if before := [q.name for q in above if q.verdict != WRONG]:
                yield "right so far", ", ".join(before)
        for q in sorted(rows, key=lambda q: q.verdict, reverse=True):
            if q.verdict != EXACT:
                yield from lines(q)
        if self.first_wrong and (after := self.follows.get(self.first_wrong)):
            yield "follows", ", ".join(after)
        yield from right_bits(q for q in rows if q.verdict == EXACT)
        unread: dict[str, list[str]] = {}
        for q in rows:
            if q.verdict == EXACT and q.proof and not q.proof.lifted:
                unread.setdefault(q.proof.text.removeprefix("formula not checked: "), []).append(
                    q.name
                )
        for why, names in unread.items():
            yield "the bits alone", f"{', '.join(names)}: the formula was not lifted ({why})"
        if self.beside and self.beside.text:
            yield "beside", self.beside.text
        yield from told(self.contract)
        if self.one_process:
            yield "one process", self.one_process.text
        if self.unnamed:
            yield "not judged", f"{', '.join(self.unnamed)} (the by-hand side gives none)"
        if "note" in self.environment:
            yield "note", self.environment["note"]
        if self.command and self.verdict != EXACT:
            yield "again", self.command
