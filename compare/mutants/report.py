"""What mutants showed: how many each check caught, what survived and why; as text and JSON."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from compare.errors import BadInput
from compare.mutants.mutate import Mutant
from compare.mutants.operators import KINDS
from compare.proof.verdict import EXACT, WRONG

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
class Power:
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

    def to_json(self) -> str:
        """Return `to_dict` as indented JSON text."""
        return json.dumps(self.to_dict(), indent=1) + "\n"

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

    def headline(self) -> Text:
        """Return in one line how much `check` sees."""
        if not self.mutants:
            return Text(f"NO MUTANTS  {self.name} computes nothing that could be wrong")
        style = (EXACT if self.ok else WRONG).style
        word = "ALL CAUGHT" if self.ok else f"{len(self.survivors)} SURVIVED"
        same = f", {self.same_function} more are the same function" if self.same_function else ""
        line = Text(word, style=style, no_wrap=True, overflow="ignore")
        of = f"{self.caught['check']} of {self.wrong} wrong mutants of {self.name}{same}"
        line.append(f"  check refuses {of}", style="default")
        return line

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield self._table()
        yield self.headline()
        for label, text in self._notes():
            yield Text(f"  {label:<14} {text}", no_wrap=True, overflow="ignore")

    def _table(self) -> Table:
        """Return a row for each kind of mutant, a column for each check."""
        table = Table(box=None, pad_edge=False, header_style="bold")
        table.add_column("mutation", no_wrap=True)
        for title in ("mutants", *CHECKS.values()):
            table.add_column(title, justify="right", no_wrap=True)
        for kind in (kind for kind in KINDS if kind in self.kinds):
            row = self.kinds[kind]
            if row["mutants"]:
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

    def _notes(self) -> list[tuple[str, str]]:
        notes: list[tuple[str, str]] = []
        if count := self.caught["check"]:
            notes.append(
                ("first wrong", f"named where the mutation is for {self.named} of {count}")
            )
        if self.same_function:
            shown = "lifted, the same real numbers at these and at other inputs"
            notes.append(("same function", f"{self.same_function}: {shown}"))
        alarms = {n: k for n, k in self.false_alarms.items() if k and n not in self.refuses}
        for name, count in alarms.items():
            notes.append(("false alarm", f"{name} refuses {count} of those"))
        for name in self.refuses:
            notes.append(("false alarm", f"{name} refuses the pass as it stands, unmutated"))
        notes += [("not run", f"{name}: {reason}") for name, reason in self.cannot.items()]
        lines: dict[tuple[str, str, str], list[Survivor]] = {}
        for survivor in self.survivors:
            lines.setdefault((survivor.reason, survivor.where, survivor.text), []).append(survivor)
        for (reason, where, text), found in lines.items():
            weak = reason == "weak inputs"
            notes.append(("not exercised" if weak else reason, f"{where}  {text}".strip()))
            for survivor in found:
                told = f": {survivor.why}" if survivor.why else ""
                notes.append(("", f"{survivor.what}{told}"))
        if self.better_words:
            notes.append(("better inputs", f"{self.better_words} survivors die there"))
            notes.append(("", f"saved as {self.saved}: {self.again}" if self.saved and self.again
                          else f"saved as {self.saved}" if self.saved
                          else "--save FILE keeps them"))  # fmt: skip
        return notes

    def __str__(self) -> str:
        console = Console(width=100, no_color=True, highlight=False, markup=False)
        with console.capture() as capture:
            console.print(self, crop=False)
        return "\n".join(line.rstrip() for line in capture.get().rstrip("\n").splitlines())


_WORDS = {"count": "n - 1 for n", "stale": "other tensor", "element": "one element"}
