"""What a run found: one verdict for each quantity and one for all; as text, rich table and JSON."""

import json
import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from compare.errors import BadInput
from compare.verdict import EXACT, ROUNDING, UNDECIDED, WEIGHT, WRONG, Proof

USUAL = {"dtype": "float64", "device": "cpu", "seed": 1, "population": 1}
STYLE = {EXACT: "bold green", ROUNDING: "bold cyan", WRONG: "bold red", UNDECIDED: "bold yellow"}


@dataclass(frozen=True)
class Place:
    """Where two values were furthest apart: step from 0, network's seed, index, both values."""

    step: int | None  # None where there are no steps
    seed: int | None
    index: tuple[int, ...]
    manual: float
    autograd: float

    def to_dict(self) -> dict[str, Any]:
        """Return it for JSON, both values as float.hex() so that no bit is lost."""
        return {
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
            "verdict": self.verdict,
        }


@dataclass
class Report:
    """The result of a run."""

    case: str
    settings: dict[str, Any]  # dtype, device, seed, population, as the command line names them
    unnamed: tuple[str, ...] = ()  # quantities that the by-hand side has no name for
    steps: int = 0  # compared so far
    quantities: dict[str, Quantity] = field(default_factory=dict)
    free_gap: float = 0.0
    output: list[list[float]] = field(default_factory=list)  # the first network's last lN
    environment: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    interrupted: bool = False

    @property
    def verdict(self) -> str:
        """The weightiest verdict of any quantity; UNDECIDED where nothing was compared."""
        found = {quantity.verdict for quantity in self.quantities.values()} or {UNDECIDED}
        return next(verdict for verdict in WEIGHT if verdict in found)

    @property
    def first_wrong(self) -> str | None:
        """The first quantity, in the order of computation, that is WRONG."""
        return next((q.name for q in self.quantities.values() if q.verdict == WRONG), None)

    @property
    def ok(self) -> bool:
        """Whether every quantity is EXACT or ROUNDING."""
        return self.meets("rounding")

    def meets(self, demand: str) -> bool:
        """Whether the verdict is at least as good as `demand`, "exact" or "rounding"."""
        return self.verdict in ({EXACT} if demand == "exact" else {EXACT, ROUNDING})

    def again(self) -> str:
        """Return the command that shows the same once more."""
        options = "".join(
            f" --{name} {value}" for name, value in self.settings.items() if value != USUAL[name]
        )
        return f"python -m compare run {self.case} --steps {self.steps}{options}"

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
            "free_gap": self.free_gap.hex(),
            "output": [[value.hex() for value in row] for row in self.output],
            "environment": self.environment,
            "seconds": self.seconds,
        }

    def to_json(self) -> str:
        """Return `to_dict` as indented JSON text."""
        return json.dumps(self.to_dict(), indent=1) + "\n"

    def headline(self) -> Text:
        """Return the verdict and what it rests on, in one line."""
        line = Text(self.verdict, style=STYLE[self.verdict])
        steps = f"{self.steps:,} step{'' if self.steps == 1 else 's'}"
        odd = [q for q in self.quantities.values() if q.verdict != EXACT]
        if self.verdict == EXACT:
            line.append(
                f"  all {len(self.quantities)} quantities have autograd's bits at each of {steps}",
                style="default",
            )
        elif not odd:
            line.append("  nothing was compared", style="default")
        else:
            first = next(q for q in odd if q.verdict == self.verdict)
            at = f", at step {first.first_unequal}" if first.first_unequal is not None else ""
            word = "wrong" if self.verdict == WRONG else "unequal"
            line.append(f"  {first.name} is the first {word} quantity{at}", style="default")
        if self.interrupted:
            line.append("  (interrupted: the steps until then)", style="default")
        return line

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield self._table()
        yield self.headline()
        for q in self.quantities.values():
            if q.verdict != EXACT:
                yield Text("\n".join(self._explain(q)))
        if self.verdict == UNDECIDED and self.quantities:
            yield Text("  not yet proved rounding or wrong: no such proof is built in so far")
        if self.unnamed:
            yield Text(f"  not compared, since unnamed by hand: {', '.join(self.unnamed)}")
        if any(q.verdict != EXACT for q in self.quantities.values()):
            yield Text(f"  again  {self.again()}", overflow="fold")

    def _table(self) -> Table:
        """Return a row for each quantity."""
        table = Table(box=None, pad_edge=False, header_style="bold")
        table.add_column("quantity", no_wrap=True)
        table.add_column("shape", no_wrap=True)
        for title in ("compared", "equal bits", "max ulp"):
            table.add_column(title, justify="right", no_wrap=True)
        table.add_column("verdict", no_wrap=True)
        for q in self.quantities.values():
            numbers = (f"{q.compared:,}", f"{q.equal:,}", "NaN" if q.nans else f"{q.max_ulp:,}")
            verdict = Text(q.verdict, style=STYLE[q.verdict])
            table.add_row(q.name, str(q.shape).replace(" ", ""), *numbers, verdict)
        return table

    def _explain(self, q: Quantity) -> list[str]:
        """Return the lines on a quantity that is not EXACT."""
        if q.problem:
            return [f"  {q.name}: {q.problem}"]
        nans = f", {q.nans:,} of them NaN" if q.nans else ""
        lines = [
            f"  {q.name}  {q.shape} {q.dtype}: {q.compared - q.equal:,} of {q.compared:,} "
            f"differ{nans}, by at most {q.max_ulp:,} ulp"
        ]
        if w := q.worst:
            lines += [
                f"    worst at step {w.step}, seed {w.seed}, {list(w.index)}",
                f"      by hand {w.manual!r}   autograd {w.autograd!r}",
            ]
        return lines

    def __str__(self) -> str:
        console = Console(width=100, no_color=True, highlight=False)
        with console.capture() as capture:
            console.print(self)
        return capture.get()


def save_text(path: Path, text: str) -> None:
    """Write `text` to `path` whole or not at all; raises BadInput when it cannot be written."""
    try:
        with tempfile.NamedTemporaryFile(
            "w", dir=path.parent, prefix=f".{path.name}.", delete=False
        ) as file:
            try:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
                os.chmod(file.name, 0o644)
                os.replace(file.name, path)
            except BaseException:
                Path(file.name).unlink(missing_ok=True)
                raise
    except OSError as error:
        raise BadInput(f"cannot write {path}: {error.strerror}; name another place") from error
