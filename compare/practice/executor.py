"""Runs the statements of a practice file one by one and hands back their values by name.

What a step is given is handed in, as to either side of a run; a line that cannot be run, or whose
value is of another kind than its name's, is an `Answer`. Tensors here are those of one network.
"""

import contextlib
import os
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from compare.errors import first_line
from compare.practice.levels import Level
from compare.practice.parser import Exercise, Statement, read
from compare.practice.result import BLANK, CHANGED, MISSING, STOPS, WRONG, Answer, Finding
from compare.training.adapters import Autograd, Named
from compare.training.sampling import draw


class Attempt:
    """A practice file of a level, its lines before the loop run.

    Raises Answer where those do not run, or where what they give is not the level's.
    """

    def __init__(self, level: Level, text: str, path: str) -> None:
        wanted = frozenset(level.blanks)
        self.level, self.path = level, path
        self.exercise: Exercise = read(text, path, wanted)
        self.fresh: Exercise = read(level.solution, f"a fresh {level.name}", wanted)
        self.own = ("l0", *level.blanks)  # the names of what is judged, in the file
        kind, place = torch.float64, torch.device("cpu")
        self.given = draw(level.case, seed=1, population=1, dtype=kind, device=place)
        data = self.given.steps(1)[0]  # what a step is given besides the state
        self.first = {n: v[0] for n, v in {**data, **self.given.state}.items()}
        self.autograd = Autograd(level.case)
        self.right_kind = self.first | self.autograd.step(**self.first)
        #: The names in the file of what a step is given, by the reference's names.
        self.named = {n: n for n in self.first} | {self.ref(n): n for n in level.names}
        self.handed = data.keys() - self.fresh.assigned.keys()  # drawn anew at each step
        self.names: dict[str, Any] = {"__name__": "__main__", "__file__": path}
        self.count: Any = 0  # the value of the loop's own variable
        with self.python(-1):
            exec(self.exercise.before, self.names)
        self.numpy = isinstance(self.names.get("X"), np.ndarray)
        self._check_before()
        self._check_handed()

    def walk(
        self, given: Named, stop: int | None = None, *, loud: bool = False
    ) -> tuple[Named, Answer | None]:
        """Run the loop's statements once, up to `stop`; return their values and what ended it.

        The values have the reference's names. Lines that assign nothing are run if `loud`, and only
        then is anything printed.
        """
        names = self.names | self.to_file(given) | {self.exercise.counter: self.count}
        values: Named = {}
        try:
            with contextlib.nullcontext() if loud else silence():
                for k, statement in enumerate(self.exercise.statements[:stop]):
                    drawn = statement.assigns & self.handed
                    if drawn or not (loud or statement.assigns):
                        continue
                    if statement.blank:
                        raise self.answer(BLANK, k, "is still to be filled in")
                    with self.python(k, names):
                        exec(statement.code, names)
                    for name in statement.assigns & set(self.own):
                        if self.exercise.last[name] == k:
                            values[self.ref(name)] = self._value(name, names.get(name), k, names)
        except Answer as answer:
            return values, answer
        return values, None

    def to_file(self, given: Named) -> dict[str, Any]:
        """Return what a step is given under the file's names, as tensors or arrays of its own."""
        found: dict[str, Any] = {}
        for ref, value in given.items():
            name = self.named[ref]
            if name in self.fresh.assigned or name in self.handed:
                own = self.turned(name, value.clone())
                found[name] = own.numpy() if self.numpy else own
        return found

    def now(self, names: dict[str, Any]) -> Named:
        """Return what the next step is given: weights as the file has them, and the data."""
        found, end = dict(self.first), len(self.exercise.statements) - 1
        for ref in self.first:
            name = self.named[ref]
            if name in self.handed or (name in self.fresh.assigned and ref in self.given.state):
                found[ref] = self._value(name, names[name], end, names)
        return found

    def ref(self, name: str) -> str:
        """Return what autograd calls a value of the file."""
        return self.level.names.get(name, name).lstrip("-")

    def turned(self, name: str, value: Tensor) -> Tensor:
        """Return a value with its sign turned if autograd has it so, from either to the other."""
        return -value if self.level.names.get(name, "").startswith("-") else value

    # -- answers

    def answer(self, state: str, index: float, said: str, **more: Any) -> Answer:
        """Return an answer about the statement at `index` of the loop."""
        statement = self.exercise.statements[int(index)]
        about = [name for name in self.own if name in statement.assigns]
        more = {"line": statement.line, "text": statement.text, **more}
        return Answer(Finding(state, said, name=about[0] if about else "", **more), index)

    @contextlib.contextmanager
    def python(self, index: int | None, names: dict[str, Any] | None = None) -> Iterator[None]:
        """Within, an exception of the file's own becomes an answer about its own line.

        `index` is the statement's place in the loop, less or more than any for what stands before
        or after it, None where the whole loop is run.
        """
        try:
            yield
        except Answer:
            raise
        except BaseException as error:
            stack = traceback.extract_tb(error.__traceback__)
            theirs = [f.lineno or 0 for f in stack if f.filename == self.path]
            if not theirs:
                raise  # a fault of this program
            line = theirs[-1]
            statements = self.exercise.statements
            if index is None:
                index = max((k for k, s in enumerate(statements) if s.line <= theirs[0]), default=0)
            text = self.exercise.lines[line - 1].strip()
            if isinstance(error, SystemExit):
                said = "ends the program itself: take sys.exit or exit() out"
            else:
                said = f"does not run: {first_line(error, 300)}".rstrip(": ")
            if not 0 <= index < len(statements):
                raise Answer(Finding(STOPS, said, line, text), index) from error
            remarks = self.shapes(statements[index], names or {})
            if line != statements[index].line:
                remarks.append(f"it was called in line {statements[index].line}")
            if "numpy" in said and not self.numpy:
                remarks.append("np.dot and its like give numpy arrays; of torch tensors it is @")
            raise self.answer(STOPS, index, said, line=line, text=text, remarks=remarks) from error

    def shapes(self, statement: Statement, names: dict[str, Any]) -> list[str]:
        """Return a remark on the shapes of what a statement reads."""
        known = ((name, names.get(name)) for name in sorted(statement.reads))
        arrays = ((name, v) for name, v in known if isinstance(v, Tensor | np.ndarray))
        shapes = ", ".join(f"{name} {tuple(array.shape)}" for name, array in arrays)
        return [f"shapes: {shapes}"] if shapes else []

    def _value(self, name: str, value: Any, index: int, names: dict[str, Any]) -> Tensor:
        """Return a value as autograd has it; raises Answer for another shape or kind."""
        remarks = self.shapes(self.exercise.statements[index], names)
        if isinstance(value, np.ndarray | np.generic) and value.dtype.kind in "fiub":
            value = torch.from_numpy(np.array(value))
        if not isinstance(value, Tensor):
            said = f"makes {name} a {type(value).__name__}; it is to be a tensor"
            raise self.answer(WRONG, index, said, remarks=remarks)
        right = self.right_kind[self.ref(name)]
        if value.shape != right.shape:
            said = f"gives {name} the shape {tuple(value.shape)}; it should be {tuple(right.shape)}"
            raise self.answer(WRONG, index, said, remarks=remarks)
        if value.dtype != right.dtype:
            kinds = (str(kind).removeprefix("torch.") for kind in (value.dtype, right.dtype))
            raise self.answer(WRONG, index, f"makes {name} {' where the rest is '.join(kinds)}")
        return self.turned(name, value.detach().clone())

    def missing(self) -> Answer | None:
        """Return the answer about the first name of the level that no line assigns."""
        last = self.exercise.last
        before = -0.5
        for name in self.own:
            if name in last:
                before = max(before, last[name] + 0.5)
            elif name != "l0":
                known = {n for s in self.fresh.statements for n in s.assigns}
                others = [n for n in last if n not in known and not n.startswith("_")]
                said = f"no line assigns {name}, and its lines are known by their names"
                remarks = [f"is it what is called {' or '.join(others)}?"] if others else []
                return Answer(Finding(MISSING, said, name=name, remarks=remarks), before)
        return None

    # -- what is not to be changed

    def _check_before(self) -> None:
        """Raise Answer where the data, the weights or a number are not the level's."""
        wanted: dict[str, Any] = {}
        exec(self.fresh.before, wanted)
        for name, line in self.fresh.assigned.items():
            fresh = [self.fresh.lines[line - 1]]
            if fresh[0] in self.exercise.lines:  # then it is another line that is not as it was
                end = self.fresh.line - 1
                fresh = [t for t in self.fresh.lines[:end] if t not in self.exercise.lines]
            if name not in self.names:
                raise Answer(Finding(CHANGED, f"{name} is gone", put_back=fresh))
            if not _same(self.names[name], wanted[name]):
                at = self.exercise.assigned.get(name, 0)
                text = self.exercise.lines[at - 1].strip() if at else ""
                said = f"gives {name} another value than this level has"
                raise Answer(Finding(CHANGED, said, at, text, put_back=fresh))

    def _check_handed(self) -> None:
        """Raise Answer where a line of the loop changes what is data, or how it is drawn."""
        fresh = {s.dump: s for s in self.fresh.statements if s.assigns & self.handed}
        data = self.handed | {"X", "y"}
        for s in self.exercise.statements:
            if (names := s.assigns & data) and s.dump not in fresh:
                said = f"changes {', '.join(names)}, which is data: give the value another name"
                back = [f.text for f in fresh.values()]
                raise Answer(Finding(CHANGED, said, s.line, s.text, put_back=back))

    def changed(self) -> list[str]:
        """Return lines of the loop that came with the file and are not there any more."""
        have = {s.dump for s in self.exercise.statements}
        given = [s for s in self.fresh.statements if not s.assigns & self.level.blanks.keys()]
        return [s.text for s in given if s.dump not in have]


def _same(mine: Any, wanted: Any) -> bool:
    """Whether two values are the same number, or tensors of the same kind, shape and numbers."""
    if isinstance(mine, np.ndarray) and mine.dtype.kind == "f":
        mine = torch.from_numpy(mine)
    if isinstance(wanted, Tensor):
        return isinstance(mine, Tensor) and mine.dtype == wanted.dtype and torch.equal(mine, wanted)
    return isinstance(mine, int | float) and bool(mine == wanted)


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Within, nothing is printed."""
    with (
        Path(os.devnull).open("w") as nowhere,
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
    ):
        yield
