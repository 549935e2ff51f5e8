"""The report of a mutation test: how many mutants each check caught, and which survived and why."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from compare.errors import BadInput
from compare.mutants.mutate import Mutant
from compare.mutants.operators import KINDS
from compare.proof.verdict import EXACT, UNDECIDED, WRONG
from compare.report.rendering import Document, Documented, plain_table, plural

#: Each check's key in JSON, and its column in the table.
CHECKS = {
    "check": "check",
    "allclose": "allclose",
    "assert_close": "assert_close",
    "gradcheck": "gradcheck",
    "gradcheck_fast": "(fast)",
    "twice_low_precision": "2x low",
}


@dataclass(frozen=True)
class Survivor:
    """A mutant that `check` does not catch at these inputs."""

    kind: str
    what: str
    file: str | None
    line: int | None
    text: str  # of that line
    reason: str  # "weak inputs": other inputs catch it; "undecided": right or wrong is not shown
    why: str
    dies_at: str | None = None  # description of inputs that catch it

    @classmethod
    def of(cls, mutant: Mutant, reason: str, why: str, dies_at: str | None = None) -> "Survivor":
        """Return a mutant as a survivor; the arguments are those of the class."""
        file, line = mutant.line or (None, None)
        return cls(mutant.kind, mutant.description, file, line, mutant.text, reason, why, dies_at)

    @property
    def where(self) -> str:
        """The file name and line number, empty if they are unknown."""
        return f"{Path(self.file).name}:{self.line}" if self.file else ""


@dataclass
class MutationReport(Documented):
    """How many mutants there were, how many each check caught, and which survived."""

    name: str
    verdict: str  # of the unmutated pass
    mutants: int = 0  # that were tried
    untried: int = 0  # mutants that the budget left no time for
    budget: float | None = None  # seconds
    same_function: int = 0  # of them, those equivalent to the pass
    caught: dict[str, int] = field(default_factory=lambda: dict.fromkeys(CHECKS, 0))
    localised: int = 0  # caught by check, and its first wrong quantity is the mutated operation's
    survivors: list[Survivor] = field(default_factory=list)
    #: For each check, the number of equivalent mutants that it rejects.
    false_alarms: dict[str, int] = field(default_factory=lambda: dict.fromkeys(CHECKS, 0))
    #: kind -> {"mutants": the number that are not equivalent, check: the number that it caught}
    kinds: dict[str, dict[str, int]] = field(default_factory=dict)
    rejects_unmutated: list[str] = field(default_factory=list)  # checks that reject the pass itself
    cannot_run: dict[str, str] = field(default_factory=dict)  # check -> why it does not run on it
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(CHECKS, 0.0))
    total_seconds: float = 0.0
    better_inputs: dict[str, Any] | None = None  # those that catch the most survivors
    better_inputs_note: str = ""  # their description, and how many survivors they catch
    saved: str | None = None  # the file that holds them
    command: str | None = None  # that runs with this file

    @property
    def wrong(self) -> int:
        """The number of mutants that are not equivalent to the pass."""
        return self.mutants - self.same_function

    @property
    def ok(self) -> bool:
        """Whether every mutant was tried and `check` caught it, or it is equivalent to the pass."""
        return not self.survivors and not self.untried

    def add(self, mutant: Mutant, equivalent: bool, rejections: Mapping[str, bool]) -> None:
        """Count a mutant, and for each check whether it rejects the mutant."""
        self.mutants += 1
        self.same_function += equivalent
        row = self.kinds.setdefault(mutant.kind, dict.fromkeys(("mutants", *CHECKS), 0))
        row["mutants"] += not equivalent
        for name, rejects in rejections.items():
            if equivalent:
                self.false_alarms[name] += rejects
            else:
                self.caught[name] += rejects
                row[name] += rejects

    def to_dict(self) -> dict[str, Any]:
        """Return the report as a dict for JSON."""
        return {
            "name": self.name,
            "verdict": self.verdict,
            "mutants": self.mutants,
            "untried": self.untried,
            "budget": self.budget,
            "same_function": self.same_function,
            "caught": self.caught,
            "named_where_it_is": self.localised,
            "survivors": [vars(survivor) for survivor in self.survivors],
            "false_alarms": self.false_alarms,
            "kinds": self.kinds,
            "refuses_the_pass_itself": self.rejects_unmutated,
            "cannot_run": self.cannot_run,
            "seconds": {name: round(spent, 3) for name, spent in self.seconds.items()},
            "total_seconds": round(self.total_seconds, 3),
            "better_inputs": self.better_inputs_note or None,
            "saved": self.saved,
        }

    def save_inputs(self, path: str | Path) -> None:
        """Save the inputs that catch the most survivors; `torch.load(path)` reads them.

        Raises:
            BadInput: if there are none, or the file cannot be written.
        """
        import torch

        if self.better_inputs is None:
            raise BadInput(f"{path}: not written, since no other inputs catch more mutants")
        try:
            torch.save(self.better_inputs, path)
            torch.load(path, weights_only=True)
        except (OSError, RuntimeError) as error:
            raise BadInput(f"cannot write {path}: {str(error).splitlines()[0]}") from None
        except Exception:
            types = {type(value).__name__ for value in self.better_inputs.values()}
            raise BadInput(
                f"{path}: not written, since torch.load reads only tensors and plain values safely "
                f"and the inputs have the types {', '.join(sorted(types))}: let forward make others"
            ) from None
        self.saved = str(path)

    def document(self) -> Document:
        """Return the report as a document."""
        if not self.mutants and not self.untried:
            word, colour = "NO MUTANTS", None
            claim = f"{self.name} has no operation that could be mutated"
        else:
            word = "ALL CAUGHT" if self.ok else f"{self.untried} UNTRIED"
            colour = EXACT if self.ok else UNDECIDED
            if self.survivors:
                word, colour = f"{len(self.survivors)} SURVIVED", WRONG
            tried = " tried" if self.untried else ""
            wrong = plural(self.wrong, "wrong mutant")
            claim = f"check catches {self.caught['check']} of {wrong}{tried} of {self.name}"
            if self.untried:
                claim += f"; {self.untried:,} not tried within {self.budget:g} s"
        return Document(
            f"mutants of {self.name}", word, colour, claim, self._table(),
            lines=list(self._notes()), wraps=False,
        )  # fmt: skip

    def _table(self) -> Table:
        """Return the table: a row for each kind of mutant, a column for each check."""
        numbers = "mutants", *CHECKS.values()
        table = plain_table("mutation", *numbers, right=numbers)
        for kind in KINDS:
            if (row := self.kinds.get(kind)) and row["mutants"]:
                cells = (self._cell(name, row[name], row["mutants"]) for name in CHECKS)
                table.add_row(_KINDS.get(kind, kind), str(row["mutants"]), *cells)
        caught = (self._cell(name, self.caught[name], None) for name in CHECKS)
        table.add_row("caught", str(self.wrong), *caught, style="bold")
        table.add_row(
            "seconds", f"{self.total_seconds:.1f}", *(f"{self.seconds[n]:.1f}" for n in CHECKS)
        )
        return table

    def _cell(self, name: str, caught: int, of: int | None) -> Text:
        """Return the number that a check caught, in red if it missed some; "-" if it cannot run."""
        if name in self.cannot_run:
            return Text("-")
        return Text(str(caught), style="" if of in (None, caught) else WRONG.style)

    def _notes(self) -> Iterator[tuple[str, str]]:
        if count := self.caught["check"]:
            where = "the first quantity that the mutation affects"
            yield "first wrong", f"{where}, for {self.localised} of {count}"
        if count := self.same_function:
            same = "computed exactly, the same numbers as the pass at these and at other inputs"
            yield "equivalent", f"{plural(count, 'mutant')}, not counted above: {same}"
        for name, count in self.false_alarms.items():
            if count and name not in self.rejects_unmutated:
                yield "false alarm", f"{name} rejects {plural(count, 'equivalent mutant')}"
        for name in self.rejects_unmutated:
            yield "false alarm", f"{name} rejects the unmutated pass"
        for name, reason in self.cannot_run.items():
            yield "not run", f"{name}: {reason}"
        lines: dict[tuple[str, str, str], list[Survivor]] = {}
        for survivor in self.survivors:
            lines.setdefault((survivor.reason, survivor.where, survivor.text), []).append(survivor)
        for (reason, where, text), survivors in lines.items():
            yield "not exercised" if reason == "weak inputs" else reason, f"{where}  {text}".strip()
            for survivor in survivors:
                yield "", f"{survivor.what}: {survivor.why}" if survivor.why else survivor.what
        if self.better_inputs_note:
            yield "better inputs", f"{self.better_inputs_note} survivors are caught"
            command = f": {self.command}" if self.command else ""
            saved = f"saved as {self.saved}{command}"
            yield "", saved if self.saved else "--save FILE writes them to a file"


#: The table's words for some kinds.
_KINDS = {"count": "n - 1 for n", "stale": "other tensor", "element": "one element"}
