"""What mutants showed: how many each check caught, what survived and why; as text and JSON."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from compare.errors import BadInput
from compare.mutants.mutate import Mutant
from compare.mutants.operators import KINDS
from compare.proof.verdict import EXACT, WRONG
from compare.report.document import Document, Documented, plain_table

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
    """A mutant that `check` does not refuse at these inputs."""

    kind: str
    what: str
    file: str | None
    line: int | None
    text: str  # of that line
    reason: str  # "weak inputs": it dies at others; "undecided": neither could be shown
    why: str
    dies_at: str | None = None  # the inputs that show it

    @classmethod
    def of(cls, mutant: Mutant, reason: str, why: str, dies_at: str | None = None) -> "Survivor":
        """Return the survivor that a mutant is."""
        file, line = mutant.line or (None, None)
        return cls(mutant.kind, mutant.what, file, line, mutant.text, reason, why, dies_at)

    @property
    def where(self) -> str:
        """The file's name and the line's number, empty where unknown."""
        return f"{Path(self.file).name}:{self.line}" if self.file else ""


@dataclass
class MutationReport(Documented):
    """How many mutants there were, what each check caught, and what survived."""

    name: str
    verdict: str  # of the pass as it stands
    mutants: int = 0
    same_function: int = 0
    caught: dict[str, int] = field(default_factory=lambda: dict.fromkeys(CHECKS, 0))
    named: int = 0  # of what check caught: its first wrong quantity is where the mutation is
    survivors: list[Survivor] = field(default_factory=list)
    false_alarms: dict[str, int] = field(default_factory=lambda: dict.fromkeys(CHECKS, 0))
    kinds: dict[str, dict[str, int]] = field(default_factory=dict)  # "mutants", and caught by each
    refuses: list[str] = field(default_factory=list)  # checks that refuse the pass as it stands
    cannot: dict[str, str] = field(default_factory=dict)  # checks that do not run on it, and why
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(CHECKS, 0.0))
    total: float = 0.0
    better: dict[str, Any] | None = None  # inputs that show the most of what survived
    better_words: str = ""
    saved: str | None = None  # the file that holds them, and what runs with it
    again: str | None = None

    @property
    def wrong(self) -> int:
        """How many mutants are another function than the pass."""
        return self.mutants - self.same_function

    @property
    def ok(self) -> bool:
        """Whether `check` refused every mutant that is not the same function."""
        return not self.survivors

    def add(self, mutant: Mutant, same: bool, refused: Mapping[str, bool]) -> None:
        """Count a mutant; `same` if it is the same function."""
        self.mutants += 1
        self.same_function += same
        row = self.kinds.setdefault(mutant.kind, dict.fromkeys(("mutants", *CHECKS), 0))
        row["mutants"] += not same
        for name, caught in refused.items():
            if same:
                self.false_alarms[name] += caught
            else:
                self.caught[name] += caught
                row[name] += caught

    def to_dict(self) -> dict[str, Any]:
        """Return everything as what JSON can hold."""
        return {
            "name": self.name,
            "verdict": self.verdict,
            "mutants": self.mutants,
            "same_function": self.same_function,
            "caught": self.caught,
            "named_where_it_is": self.named,
            "survivors": [vars(survivor) for survivor in self.survivors],
            "false_alarms": self.false_alarms,
            "kinds": self.kinds,
            "refuses_the_pass_itself": self.refuses,
            "cannot_run": self.cannot,
            "seconds": {name: round(spent, 3) for name, spent in self.seconds.items()},
            "total_seconds": round(self.total, 3),
            "better_inputs": self.better_words or None,
            "saved": self.saved,
        }

    def save_inputs(self, path: str | Path) -> None:
        """Save the inputs that show the most of what survived: `torch.load(path)` reads them.

        Raises BadInput where there are none, or the file cannot be written.
        """
        import torch

        if self.better is None:
            raise BadInput(f"{path}: nothing to save, no mutant survives at these inputs alone")
        try:
            torch.save(self.better, path)
            torch.load(path, weights_only=True)
        except (OSError, RuntimeError) as error:
            raise BadInput(f"cannot write {path}: {str(error).splitlines()[0]}") from None
        except Exception:
            kinds = {type(value).__name__ for value in self.better.values()}
            raise BadInput(
                f"{path}: an input is no tensor or plain value ({', '.join(sorted(kinds))}), so it "
                "cannot be loaded safely: pass it to forward in another way"
            ) from None
        self.saved = str(path)

    def document(self) -> Document:
        """Return what there is to show of it."""
        if not self.mutants:
            word, colour = "NO MUTANTS", None
            claim = f"{self.name} computes nothing that could be wrong"
        else:
            word = "ALL CAUGHT" if self.ok else f"{len(self.survivors)} SURVIVED"
            colour = EXACT if self.ok else WRONG
            same = f", {self.same_function} more are the same function"
            claim = f"check refuses {self.caught['check']} of {self.wrong} wrong mutants of "
            claim += self.name + (same if self.same_function else "")
        return Document(
            f"mutants of {self.name}", word, colour, claim, self._table(),
            lines=list(self._notes()), wraps=False,
        )  # fmt: skip

    def _table(self) -> Table:
        """Return a row for each kind of mutant, a column for each check."""
        numbers = "mutants", *CHECKS.values()
        table = plain_table("mutation", *numbers, right=numbers)
        for kind in KINDS:
            if (row := self.kinds.get(kind)) and row["mutants"]:
                parts = (self._part(name, row[name], row["mutants"]) for name in CHECKS)
                table.add_row(_WORDS.get(kind, kind), str(row["mutants"]), *parts)
        caught = (self._part(name, self.caught[name], None) for name in CHECKS)
        table.add_row("caught", str(self.wrong), *caught, style="bold")
        table.add_row("seconds", f"{self.total:.1f}", *(f"{self.seconds[n]:.1f}" for n in CHECKS))
        return table

    def _part(self, name: str, caught: int, of: int | None) -> Text:
        """Return how many a check caught, in red where some are left."""
        if name in self.cannot:
            return Text("-")
        return Text(str(caught), style="" if of in (None, caught) else WRONG.style)

    def _notes(self) -> Iterator[tuple[str, str]]:
        if count := self.caught["check"]:
            yield "first wrong", f"named where the mutation is for {self.named} of {count}"
        if same := self.same_function:
            shown = "lifted, the same real numbers at these and at other inputs"
            yield "same function", f"{same}: {shown}"
        for name, count in self.false_alarms.items():
            if count and name not in self.refuses:
                yield "false alarm", f"{name} refuses {count} of those"
        for name in self.refuses:
            yield "false alarm", f"{name} refuses the pass as it stands, unmutated"
        for name, reason in self.cannot.items():
            yield "not run", f"{name}: {reason}"
        lines: dict[tuple[str, str, str], list[Survivor]] = {}
        for survivor in self.survivors:
            lines.setdefault((survivor.reason, survivor.where, survivor.text), []).append(survivor)
        for (reason, where, text), found in lines.items():
            yield "not exercised" if reason == "weak inputs" else reason, f"{where}  {text}".strip()
            for survivor in found:
                yield "", f"{survivor.what}: {survivor.why}" if survivor.why else survivor.what
        if self.better_words:
            yield "better inputs", f"{self.better_words} survivors die there"
            again = f": {self.again}" if self.again else ""
            yield "", f"saved as {self.saved}{again}" if self.saved else "--save FILE keeps them"


_WORDS = {"count": "n - 1 for n", "stale": "other tensor", "element": "one element"}
