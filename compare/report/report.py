"""The report of a check or a run: a verdict for each quantity, and one for all of them."""

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta

from compare.errors import BadInput, unknown
from compare.files import save
from compare.proof.verdict import (
    EXACT,
    ROUNDING,
    UNDECIDED,
    WITHIN,
    WRONG,
    OtherInputs,
    Verdict,
)
from compare.report.chunk import Bucket
from compare.report.contract_line import Line, broken, labelled, refusals
from compare.report.html import Curve, page
from compare.report.quantity import DROPPABLE, Quantity, lines, right_bits, table
from compare.report.rendering import Document, Documented, plural
from compare.report.single_process import SingleProcessResult
from compare.stateful import Count, Stateful, Types, plain, require

#: Demand -> gravest verdict that meets it.
DEMANDS = {"exact": EXACT, "rounding": ROUNDING, "within": WITHIN}


@dataclass
class Report(Documented, Stateful):
    """The verdicts of `compare.check` at its inputs, or of `compare.run` at every step.

    `str(report)` is the text that the command line prints; a notebook shows the report as HTML.
    `verdict`, `first_wrong`, `ok` and `quantities` are the findings, `to_dict` has all of them.

    Example:
        >>> import torch
        >>> import compare
        >>> def backward(grad_output, x):
        ...     return {"x": 2 * x * grad_output}
        >>> x = torch.tensor([0.5, -1.0, 2.0])
        >>> report = compare.check(backward, lambda x: x * x, {"x": x})
        >>> print(report.headline())
        EXACT  x has autograd's bits
        >>> report.ok, report.first_wrong
        (True, None)
        >>> row = report.quantities["x"]
        >>> row.verdict, row.equal, row.total, row.max_ulp
        ('EXACT', 3, 3, 0)
    """

    STATE = Types(
        steps=Count, seconds=Annotated[float, Meta(ge=0)], free_gap=float | None,
        quantities=dict[str, Quantity], one_process=SingleProcessResult | None,
    )  # fmt: skip

    case: str
    settings: dict[str, Any]  # dtype, device, seed, population, as the command line names them
    unnamed: tuple[str, ...] = ()  # quantities for which the by-hand side has no name or value
    not_judged: tuple[str, ...] = ()  # parameters of forward without a gradient by hand
    beside: OtherInputs | None = None  # the check at other inputs; None: there was none
    budget: float | None = None  # seconds that the check might take
    left_out: tuple[str, ...] = ()  # what was not done in that time
    smaller: str = ""  # inputs at which the formulas were compared, and the contract asked
    reference_fault: str = ""  # in words, where autograd is not the derivative of forward
    conditions: tuple[str, ...] = ()  # under which the verdict holds: "grad_output = 1"
    steps: int = 0  # compared so far
    quantities: dict[str, Quantity] = field(default_factory=dict)  # in the order of computation
    # quantity -> those computed from it by hand
    follows: dict[str, list[str]] = field(default_factory=dict)
    # largest weight difference to autograd trained alone; None: not trained
    free_gap: float | None = 0.0
    accuracy: float | None = None  # fraction of held-out rows classified correctly, by hand
    classes: tuple[str, ...] = ()
    # held-out rows by class (row) and predicted class (column); each row and column stands for
    # `classes_each` classes
    confusion: list[list[int]] | None = None
    output: list[list[float]] = field(default_factory=list)  # last layer of the first network
    environment: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    interrupted: bool = False
    curves: list[Bucket] = field(default_factory=list)  # of a run; not in the JSON
    command: str | None = None  # the command that repeats this, if one does
    contract: tuple[Line, ...] = ()  # of a check: the outcomes of other calls of the by-hand side
    one_process: SingleProcessResult | None = None  # of a run whose rows several ranks share

    def check_state(self, state: Any) -> None:
        """Raise ValueError for a state with misnamed rows, or of a run with other comparisons."""
        names = [row.name for row in state.quantities.values()]
        require(names == [*state.quantities], "quantities", "under other names")
        expected = (state.one_process is None) == (self.one_process is None)
        require(expected, "one_process", "unasked")

    @property
    def verdict(self) -> Verdict:
        """The gravest verdict of any quantity; UNDECIDED if no quantity was compared."""
        if broken(self.contract) or (self.one_process and self.one_process.verdict == WRONG):
            return WRONG
        return max((q.verdict for q in self.quantities.values()), default=UNDECIDED)

    @property
    def first_wrong(self) -> str | None:
        """The name of the first WRONG quantity, by step, then by order of computation, or None."""
        wrong = [q for q in self.quantities.values() if q.verdict == WRONG]
        return min(wrong, key=lambda q: q.since or 0).name if wrong else None

    @property
    def ok(self) -> bool:
        """Whether every quantity is EXACT or ROUNDING, and the contract is kept."""
        return self.meets("rounding")

    def meets(self, demand: str) -> bool:
        """Return whether the verdict meets `demand`.

        Args:
            demand: "exact" accepts EXACT; "rounding" accepts EXACT and ROUNDING; "within" accepts
                WITHIN too.

        Raises:
            BadInput: `demand` is another word.
        """
        if demand not in DEMANDS:
            raise unknown("demand", demand, DEMANDS)
        return self.verdict <= DEMANDS[demand]

    @property
    def classes_each(self) -> int:
        """The number of neighbouring classes in each row and column of `confusion`."""
        return -(-len(self.classes) // len(self.confusion)) if self.confusion else 1

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain values for JSON; these are the keys of result.json."""
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
            "reference_fault": self.reference_fault,
            "beside": plain(self.beside),
            "smaller_inputs": self.smaller or None,
            "budget": self.budget,
            "left_out": list(self.left_out),
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
        """Return (name, value) of the settings, the time, the machine and the versions."""
        about = {**self.settings, "seconds": f"{self.seconds:.1f}", **self.environment}
        if self.command and self.verdict == EXACT:
            about["run again"] = self.command
        return [(key, str(value)) for key, value in about.items()]

    def markdown(self) -> str:
        """Return the report as markdown: verdict, table, evidence, environment."""
        return self.document().markdown()

    def save(self, path: str | Path) -> None:
        """Write the report to a file.

        Args:
            path: A name that ends in .html (a page with plots), .json, or .txt (the text).

        Raises:
            BadInput: The name has another ending, or the file cannot be written.
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
        """Return the report as an HTML page with plots."""
        return page(f"{self.case}: {self.verdict}", self._repr_html_())

    def document(self) -> Document:
        """Return the report as a document."""
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
        """Return the limits of the claim: conditions, parameters not checked, refused calls."""
        only = f", for {', '.join(self.conditions)}" if self.conditions else ""
        only += f"; not checked: {', '.join(self.not_judged)}" if self.not_judged else ""
        if self.left_out:
            only += f"; not done within {self.budget:g} s: {', '.join(self.left_out)}"
        partial = " (interrupted: the steps run so far)" if self.interrupted else ""
        only += f"; {self.reference_fault}" if self.reference_fault else ""
        return only + refusals(self.contract) + partial

    def _claim(self) -> str:
        """Return the finding that the verdict rests on, in one line."""
        rows = list(self.quantities.values())
        if not rows:
            return "no quantity was compared"
        where = "" if self.case == "check" else f" at each of {plural(self.steps, 'step')}"
        if self.verdict == EXACT:
            if not any(q.compared for q in rows):
                return "nothing to compare: every quantity is empty"
            count = "both" if len(rows) == 2 else f"all {len(rows)}"
            subject = f"{count} quantities have" if rows[1:] else f"{rows[0].name} has"
            return f"{subject} autograd's bits{where}"
        worst = [q for q in rows if q.verdict == self.verdict]
        names = ", ".join(q.name for q in worst)
        if self.verdict == ROUNDING:
            shown = "at these inputs" if self.case == "check" else "at the sampled steps"
            if self.smaller:
                shown = "at smaller inputs, by the same operations,"
            shown += (
                " and at other inputs" if self.beside and self.beside == OtherInputs(True) else ""
            )
            at_all = "" if self.case == "check" else " at every step"
            accepted = {q.name: q.proof.accepted for q in worst if q.proof and q.proof.accepted}
            names = ", ".join(q.name for q in worst if q.name not in accepted)
            claim = [f"same formulas {shown}"]
            claim += [f"{names}: different bits, within rounding{at_all}"] if names else []
            claim += [
                f"{name}: formulas differ by {gap}, as accepted" for name, gap in accepted.items()
            ]
            claim += _shortfalls(worst)
            return "; ".join(claim)
        if self.verdict == WITHIN:
            proofs = [q.proof for q in worst if q.proof]
            resolution = max(proof.resolution or 0.0 for proof in proofs)
            shown = f"a relative error above {resolution:.1g} would have shown"
            claim = [f"{names}: by numbers within autograd's rounding, {shown}"]
            claim += _shortfalls(worst)
            return "; ".join(claim)
        if not worst:
            return (
                broken(self.contract) or "the ranks' summed update disagrees with a single process"
            )
        first = min(worst, key=lambda q: q.since or 0)
        at = f", at step {first.since}" if first.since is not None else ""
        lost = first.proof.shortfall if first.proof else ""
        word = self.verdict.lower()
        return f"{first.name} is the first {word} quantity{at}{lost and f': it {lost}'}"

    def _explanation(self) -> Iterator[tuple[str, str]]:
        """Yield (label, text) for the lines below the verdict, the worst quantities first."""
        rows = list(self.quantities.values())
        if self.first_wrong:
            above = itertools.takewhile(lambda q: q.name != self.first_wrong, rows)
            if right := [q.name for q in above if q.verdict != WRONG]:
                yield "right so far", ", ".join(right)
        for q in sorted(rows, key=lambda q: q.verdict, reverse=True):
            if q.verdict != EXACT:
                yield from lines(q)
        if self.first_wrong and (affected := self.follows.get(self.first_wrong)):
            yield "affected", f"{', '.join(affected)} (computed from {self.first_wrong})"
        yield from right_bits(q for q in rows if q.verdict == EXACT)
        by_numbers: dict[str, list[str]] = {}
        for q in rows:
            if q.proof and q.proof.tried and q.verdict != EXACT:
                text = f"at {q.proof.tried}; formulas not compared: {q.proof.obstacle}"
                by_numbers.setdefault(text, []).append(q.name)
        for text, names in by_numbers.items():
            yield "by numbers", f"{', '.join(names)}: {text}"
        bits_only: dict[str, list[str]] = {}
        for q in rows:
            if q.verdict == EXACT and q.proof and not q.proof.lifted:
                text = f"({q.proof.text.removeprefix('formula not checked: ')})"
                if q.proof.tried:
                    text += f"; within autograd's rounding bound at {q.proof.tried}"
                bits_only.setdefault(text, []).append(q.name)
        for text, names in bits_only.items():
            yield "bits only", f"{', '.join(names)}: the formula was not checked {text}"
        if self.smaller:
            also = "formulas, other inputs and contract"
            there = "bits and rounding bounds of every element are those at the given inputs"
            yield "smaller inputs", f"{self.smaller}: {also}; {there}"
        if self.beside and self.beside.text:
            yield "other inputs", self.beside.text
        yield from labelled(self.contract)
        if self.one_process:
            yield "single process", self.one_process.text
        if self.unnamed:
            yield (
                "not checked",
                f"{', '.join(self.unnamed)} (the by-hand side returns no value)",
            )
        if "note" in self.environment:
            yield "note", self.environment["note"]
        if self.command and self.verdict != EXACT:
            yield "run again", self.command


def _shortfalls(rows: Iterable[Quantity]) -> list[str]:
    return [f"{q.name} {q.proof.shortfall}" for q in rows if q.proof and q.proof.shortfall]
