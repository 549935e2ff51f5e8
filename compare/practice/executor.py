"""Runs the statements of a practice file one by one, and returns their values by name.

The data and the weights of a step are passed in: the file and autograd get the same ones. A line
that fails, or that assigns a value of a wrong type, shape or dtype, raises `Problem`. All tensors
are those of a single network, without a leading dimension.
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
from compare.practice.result import BLANK, CHANGED, MISSING, STOPS, WRONG, Problem, Result
from compare.training.adapters import Autograd, Named
from compare.training.sampling import draw


class Attempt:
    """A practice file whose lines before the loop have been run.

    Args:
        level: the level to check it against.
        text: the text of the file.
        path: its path, for messages and tracebacks.

    Raises:
        Problem: if the lines before the loop fail, or change the data of the level.
    """

    def __init__(self, level: Level, text: str, path: str) -> None:
        wanted = frozenset(level.blanks)
        self.level, self.path = level, path
        self.exercise: Exercise = read(text, path, wanted)
        self.solution: Exercise = read(level.solution, f"the solution of {level.name}", wanted)
        self.checked = ("l0", *level.blanks)  # the names whose values are checked
        kind, place = torch.float64, torch.device("cpu")
        self.sample = draw(level.case, seed=1, population=1, dtype=kind, device=place)
        data = self.sample.steps(1)[0]  # the inputs of a step besides the state
        self.first = {n: v[0] for n, v in {**data, **self.sample.state}.items()}
        self.autograd = Autograd(level.case)
        self.expected = self.first | self.autograd.step(**self.first)  # for shapes and dtypes
        #: Name on the autograd side -> name in the file, for the inputs of a step.
        self.file_names = {n: n for n in self.first} | {self.ref(n): n for n in level.names}
        self.drawn = data.keys() - self.solution.assigned.keys()  # drawn again at every step
        self.names: dict[str, Any] = {"__name__": "__main__", "__file__": path}
        self.count: Any = 0  # the value of the loop variable
        with self.problems(-1):
            exec(self.exercise.before, self.names)
        self.numpy = isinstance(self.names.get("X"), np.ndarray)
        self._check_before()
        self._check_data()

    def run_step(
        self, inputs: Named, stop: int | None = None, *, loud: bool = False
    ) -> tuple[Named, Problem | None]:
        """Run the statements of the loop once; return their values, and the first problem.

        Args:
            inputs: the data and the weights of the step, by their names on the autograd side.
            stop: the index of the statement before which to stop, None to run all.
            loud: whether to run lines that assign nothing, and to let the file print.

        Returns:
            the values by their names on the autograd side, and the problem that ended the step.
        """
        names = self.names | self.to_file(inputs) | {self.exercise.counter: self.count}
        values: Named = {}
        try:
            with contextlib.nullcontext() if loud else silence():
                for k, statement in enumerate(self.exercise.statements[:stop]):
                    drawn = statement.assigns & self.drawn
                    if drawn or not (loud or statement.assigns):
                        continue
                    if statement.blank:
                        raise self.problem(BLANK, k, "is not filled in yet")
                    with self.problems(k, names):
                        exec(statement.code, names)
                    for name in statement.assigns & set(self.checked):
                        if self.exercise.last[name] == k:
                            values[self.ref(name)] = self._value(name, names.get(name), k, names)
        except Problem as problem:
            return values, problem
        return values, None

    def to_file(self, inputs: Named) -> dict[str, Any]:
        """Return copies of a step's inputs under the names of the file, as tensors or arrays."""
        variables: dict[str, Any] = {}
        for ref, value in inputs.items():
            name = self.file_names[ref]
            if name in self.solution.assigned or name in self.drawn:
                tensor = self.signed(name, value.clone())
                variables[name] = tensor.numpy() if self.numpy else tensor
        return variables

    def inputs(self, names: dict[str, Any]) -> Named:
        """Return the inputs of the next step: the data, and the weights that the file holds."""
        inputs, end = dict(self.first), len(self.exercise.statements) - 1
        for ref in self.first:
            name = self.file_names[ref]
            stated = name in self.solution.assigned and ref in self.sample.state
            if name in self.drawn or stated:
                inputs[ref] = self._value(name, names[name], end, names)
        return inputs

    def ref(self, name: str) -> str:
        """Return the name on the autograd side (the reference) of a value of the file."""
        return self.level.names.get(name, name).lstrip("-")

    def signed(self, name: str, value: Tensor) -> Tensor:
        """Return `value` negated if the file and autograd use opposite signs for this name."""
        return -value if self.level.names.get(name, "").startswith("-") else value

    # -- problems

    def problem(self, state: str, index: float, message: str, **fields: Any) -> Problem:
        """Return a problem with the statement at `index` of the loop."""
        statement = self.exercise.statements[int(index)]
        assigned = [name for name in self.checked if name in statement.assigns]
        fields = {"line": statement.line, "text": statement.text, **fields}
        return Problem(
            Result(state, message, name=assigned[0] if assigned else "", **fields), index
        )

    @contextlib.contextmanager
    def problems(self, index: int | None, names: dict[str, Any] | None = None) -> Iterator[None]:
        """Turn an exception of the file's code into a `Problem` with its line.

        Args:
            index: the index of the statement that runs within; outside the range of the loop's
                statements for code before or after the loop, None for the whole loop.
            names: the variables of the file, for a remark on shapes.
        """
        try:
            yield
        except Problem:
            raise
        except BaseException as error:
            stack = traceback.extract_tb(error.__traceback__)
            lines = [f.lineno or 0 for f in stack if f.filename == self.path]
            if not lines:
                raise  # an internal error, not one of the file
            line = lines[-1]
            statements = self.exercise.statements
            if index is None:
                index = max((k for k, s in enumerate(statements) if s.line <= lines[0]), default=0)
            text = self.exercise.lines[line - 1].strip()
            if isinstance(error, SystemExit):
                message = "ends the program: remove sys.exit() or exit()"
            else:
                message = f"does not run: {first_line(error, 300)}".rstrip(": ")
            if not 0 <= index < len(statements):
                raise Problem(Result(STOPS, message, line, text), index) from error
            remarks = self.shapes(statements[index], names or {})
            if line != statements[index].line:
                remarks.append(f"called from line {statements[index].line}")
            if "numpy" in message and not self.numpy:
                remarks.append(
                    "np.dot and similar functions return numpy arrays; with torch tensors use @"
                )
            problem = self.problem(STOPS, index, message, line=line, text=text, remarks=remarks)
            raise problem from error

    def shapes(self, statement: Statement, names: dict[str, Any]) -> list[str]:
        """Return a remark on the shapes of the variables that a statement reads."""
        known = ((name, names.get(name)) for name in sorted(statement.reads))
        arrays = ((name, v) for name, v in known if isinstance(v, Tensor | np.ndarray))
        shapes = ", ".join(f"{name} {tuple(array.shape)}" for name, array in arrays)
        return [f"shapes: {shapes}"] if shapes else []

    def _value(self, name: str, value: Any, index: int, names: dict[str, Any]) -> Tensor:
        """Return a value of the file as a tensor with autograd's sign.

        Raises:
            Problem: for another type, shape or dtype than autograd's.
        """
        remarks = self.shapes(self.exercise.statements[index], names)
        if isinstance(value, np.ndarray | np.generic) and value.dtype.kind in "fiub":
            value = torch.from_numpy(np.array(value))
        if not isinstance(value, Tensor):
            message = f"makes {name} a {type(value).__name__}; it must be a tensor"
            raise self.problem(WRONG, index, message, remarks=remarks)
        expected = self.expected[self.ref(name)]
        if value.shape != expected.shape:
            shapes = tuple(value.shape), tuple(expected.shape)
            message = f"gives {name} the shape {shapes[0]}; it should be {shapes[1]}"
            raise self.problem(WRONG, index, message, remarks=remarks)
        if value.dtype != expected.dtype:
            dtypes = [str(tensor.dtype).removeprefix("torch.") for tensor in (value, expected)]
            message = f"makes {name} {dtypes[0]}; the other values are {dtypes[1]}"
            raise self.problem(WRONG, index, message)
        return self.signed(name, value.detach().clone())

    def missing(self) -> Problem | None:
        """Return a problem for the first name of the level that no line assigns."""
        last = self.exercise.last
        before = -0.5
        for name in self.checked:
            if name in last:
                before = max(before, last[name] + 0.5)
            elif name != "l0":
                known = {n for s in self.solution.statements for n in s.assigns}
                others = [n for n in last if n not in known and not n.startswith("_")]
                message = f"no line assigns {name}; the check needs the original names"
                remarks = [f"did you rename it to {' or '.join(others)}?"] if others else []
                return Problem(Result(MISSING, message, name=name, remarks=remarks), before)
        return None

    # -- lines that a learner must not change

    def _check_before(self) -> None:
        """Raise Problem if the data, the first weights or a constant are not those of the level."""
        right: dict[str, Any] = {}
        exec(self.solution.before, right)
        for name, line in self.solution.assigned.items():
            original = [self.solution.lines[line - 1]]
            if original[0] in self.exercise.lines:  # unchanged: so the error is in another line
                end = self.solution.line - 1
                original = [t for t in self.solution.lines[:end] if t not in self.exercise.lines]
            if name not in self.names:
                raise Problem(Result(CHANGED, f"{name} is missing", put_back=original))
            if not _same(self.names[name], right[name]):
                at = self.exercise.assigned.get(name, 0)
                text = self.exercise.lines[at - 1].strip() if at else ""
                message = f"gives {name} a value that is not the one of this level"
                raise Problem(Result(CHANGED, message, at, text, put_back=original))

    def _check_data(self) -> None:
        """Raise Problem if a line of the loop changes the data, or the way in which it is drawn."""
        original = {s.dump: s for s in self.solution.statements if s.assigns & self.drawn}
        data = self.drawn | {"X", "y"}
        for s in self.exercise.statements:
            if (names := s.assigns & data) and s.dump not in original:
                message = f"changes {', '.join(names)}, which is data: assign to another name"
                lines = [o.text for o in original.values()]
                raise Problem(Result(CHANGED, message, s.line, s.text, put_back=lines))

    def changed(self) -> list[str]:
        """Return the original lines of the loop that the file no longer contains."""
        present = {s.dump for s in self.exercise.statements}
        blanks = self.level.blanks.keys()
        original = [s for s in self.solution.statements if not s.assigns & blanks]
        return [s.text for s in original if s.dump not in present]


def _same(value: Any, right: Any) -> bool:
    """Whether two values are equal numbers, or tensors of equal dtype, shape and elements."""
    if isinstance(value, np.ndarray) and value.dtype.kind == "f":
        value = torch.from_numpy(value)
    if isinstance(right, Tensor):
        same_kind = isinstance(value, Tensor) and value.dtype == right.dtype
        return same_kind and torch.equal(value, right)
    return isinstance(value, int | float) and bool(value == right)


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Discard everything that is printed within."""
    with (
        Path(os.devnull).open("w") as null,
        contextlib.redirect_stdout(null),
        contextlib.redirect_stderr(null),
    ):
        yield
