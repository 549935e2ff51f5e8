"""Compares the lines of a practice file with autograd, then trains the file's network.

This runs in the separate process. As in any run, autograd computes each line from the learner's
own values of the lines before it, so that one bug makes one wrong line.
"""

import contextlib
import sys
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from compare.cases.cases import quantity_kind
from compare.practice.executor import Attempt, silence
from compare.practice.levels import Level, find
from compare.practice.parser import STEP, text_of
from compare.practice.result import RIGHT, WRONG, Problem, Result
from compare.proof.bits import compare_bits
from compare.proof.other_inputs import uniform
from compare.proof.program import Opaque
from compare.proof.verdict import Verdict
from compare.training.adapters import Named
from compare.training.prover import Prover

_CHECKED = (0, 1, 2, 10, 100, 1000, 10_000)  # steps at which lines are compared, and the last one
_ERRORS = (0, 1, 3, 10, 30, 100, 300, 1000, 3000, 10_000, 30_000)  # steps whose error is kept


def grade(level: Level, text: str, path: str) -> Result:
    """Return the result of checking a practice file.

    Args:
        level: the level to check it against.
        text: the text of the file.
        path: its path, for messages and tracebacks.
    """
    try:
        grader = _Grader(Attempt(level, text, path))
    except Problem as problem:
        return problem.result
    return grader.grade()


class _Grader:
    def __init__(self, attempt: Attempt) -> None:
        self.a = attempt
        self.provers: dict[int | None, Prover] = {}
        self.verdicts: dict[str, Verdict] = {}  # by the names of the file
        self.why_numbers = ""
        self.places = {  # name on the autograd side -> index of its statement, name in the file
            attempt.ref(name): (attempt.exercise.last[name], name)
            for name in attempt.checked
            if name in attempt.exercise.last
        }

    def grade(self) -> Result:
        """Check all lines at the first step and at random weights, then train the network."""
        a = self.a
        _, ended = a.run_step(a.first, loud=True)
        stop = None if ended is None else int(ended.index)
        remark = "the error does not show at the first step; it shows with other weights"
        candidates = [ended, a.missing(), self.check(a.first, stop, "")]
        candidates.append(self.check(_random_inputs(a.first), stop, remark))
        places = sorted(self.places.values())
        try:
            if problems := [problem for problem in candidates if problem is not None]:
                raise min(problems, key=lambda problem: problem.index)
            result = Result(RIGHT)
            _Training(self, result).run()
        except Problem as problem:
            result = problem.result  # gets the verdicts of the lines up to its own
            places = [(k, name) for k, name in dict(places).items() if k <= problem.index]
        result.verdicts = {n: self.verdicts[n] for _, n in places if n in self.verdicts}
        result.why_numbers = self.why_numbers
        result.left = sum(s.blank for s in a.exercise.statements)
        return result

    def check(self, inputs: Named, stop: int | None, remark: str) -> Problem | None:
        """Compare the values of one step up to statement `stop`; return the first problem."""
        a = self.a
        manual, ended = a.run_step(inputs, stop)
        autograd = a.autograd.step_from(manual, **inputs)
        if (prover := self.provers.get(stop)) is None:
            prover = self.provers[stop] = Prover(  # a level has its own hints
                lambda **inputs: a.run_step(inputs, stop)[0], a.autograd.traceable, None, None,
                find_fixes=False,
            )  # fmt: skip
        with silence():
            proofs = prover.proof(inputs, manual, {name: autograd[name] for name in manual})
        for program in prover.manual_programs():
            if isinstance(program, Opaque):
                self.why_numbers = str(program)
        for ref, proof in proofs.items():
            _, name = self.places[ref]
            self.verdicts[name] = max(proof.verdict, self.verdicts.get(name, proof.verdict))
        wrong = [(*self.places[r], r) for r, p in proofs.items() if p.verdict == Verdict.WRONG]
        if not wrong:
            return ended
        index, name, ref = min(wrong)
        value, right = a.signed(name, manual[ref]), a.signed(name, autograd[ref])
        message = _difference(name, value, right, proofs[ref].at)
        remarks = [*self._remarks(index), *([remark] if remark else [])]
        return a.problem(WRONG, index, message, remarks=remarks, put_back=a.changed())

    def _remarks(self, index: int) -> list[str]:
        """Return possible causes of a wrong line."""
        exercise = self.a.exercise
        statement = exercise.statements[index]
        state = {self.a.file_names[ref] for ref in self.a.sample.state}
        above = {n: s.line for s in exercise.statements[:index] for n in s.assigns}
        remarks = [
            f"it reads {name} after line {above[name]} changed it: update the weights last"
            for name in sorted(statement.reads & state & above.keys())
        ]
        for name in sorted(statement.reads & exercise.functions.keys()):
            if name not in self.a.solution.functions or _function_changed(self.a, name):
                remarks.append(f"it calls {name} (line {exercise.functions[name]}): check it too")
        name = next(n for n in self.a.checked if n in statement.assigns)
        if name in above:
            remarks.append(f"line {above[name]} computed {name}, and this line changes it")
        return remarks


def _random_inputs(inputs: Named) -> Named:
    """Return random inputs of the same shapes, because weights that start at 0 or 1 hide bugs."""
    return {
        name: value if quantity_kind(name) in ("mask", "mean", "var") else uniform(name, value)
        for name, value in inputs.items()
    }


def _function_changed(attempt: Attempt, name: str) -> bool:
    """Whether a function that came with the file was changed."""
    line, original = attempt.exercise.functions[name], attempt.solution.functions[name]
    text = attempt.exercise.lines[line - 1 : line + 1]
    return text != attempt.solution.lines[original - 1 : original + 1]


def _difference(name: str, value: Tensor, right: Tensor, at: tuple[int, ...] | None) -> str:
    """Return a message with one element that differs, in as few digits as show the difference."""
    if value.isnan().any():
        return f"makes {name} not a number (NaN)"
    worst = compare_bits(value, right).worst
    at = at if at is not None else worst.index if worst else (0,) * value.ndim
    one, other = float(value[at]), float(right[at])
    texts = next(
        (t for d in (4, 8, 17) if len(set(t := (f"{one:.{d}g}", f"{other:.{d}g}"))) > 1),
        (repr(one), repr(other)),
    )
    element = f"{name}[{', '.join(map(str, at))}]"
    return f"sets {element} to {texts[0]}; autograd gives {texts[1]}"


class _Training:
    """Trains the network by running the loop of the file as it is.

    It compares the lines at the steps in _CHECKED, and keeps the error at those in _ERRORS.
    """

    def __init__(self, grader: _Grader, result: Result) -> None:
        self.grader, self.a, self.result = grader, grader.a, result
        self.names: dict[str, Any] = {
            **self.a.names, **self.a.to_file(self.a.first), STEP: self.begin
        }  # fmt: skip
        self.step = -1
        self.before: Named = {}  # the inputs of a step that is to be checked
        self.muted = contextlib.ExitStack()

    def run(self) -> None:
        """Run the loop and the code after it; record in `result` how the network trained.

        Raises:
            Problem: if a line is wrong, or fails.
        """
        exercise = self.a.exercise
        with self.muted, self.a.problems(None, self.names):
            exec(exercise.loop, self.names)
        if self.step < 0:
            text = exercise.lines[exercise.line - 1].strip()
            message = "the loop runs no step: give range a positive number"
            raise Problem(Result(WRONG, message, exercise.line, text))
        self.end()
        self.check(self.a.inputs(self.names), "after training")
        if self.result.errors[-1][0] != self.step:
            self.result.errors.append((self.step, self.error()))
        self.result.output = self.output().flatten().tolist()
        self.result.wanted = self.a.first["y"].flatten().tolist()
        with self.a.problems(len(exercise.statements)):
            exec(exercise.after, self.names)

    def begin(self) -> None:
        """End the last step and begin the next one; the loop of the file calls this."""
        if self.step >= 0:
            self.end()
        self.step += 1
        if self.step == 0:
            self.muted.enter_context(silence())  # `grade` has printed the output of step 0 already
        elif self.step == 1:
            self.muted.close()
        if self.step in _CHECKED:
            self.before = self.a.inputs(self.names)
            self.a.count = self.names.get(self.a.exercise.counter)

    def end(self) -> None:
        """Check the step that is over, if it is one of _CHECKED, and keep its error."""
        if self.before:
            now = self.a.inputs(self.names)
            drawn = {ref: now[ref] for ref in now if self.a.file_names[ref] in self.a.drawn}
            self.check(self.before | drawn, f"at step {self.step:,}")
            self.before = {}
            self.result.judged_at.append(self.step)
        if self.step in _ERRORS:
            self.result.errors.append((self.step, self.error()))

    def check(self, inputs: Named, when: str) -> None:
        """Check a step; raise its problem if there is one."""
        remark = f"the error does not show at the first steps; it shows {when}"
        if problem := self.grader.check(inputs, None, remark):
            raise problem

    def error(self) -> float:
        """Return the mean absolute error of the output."""
        return float((self.a.first["y"] - self.output()).abs().mean())

    def output(self) -> Tensor:
        """Return the latest output of the network."""
        return torch.as_tensor(self.names[self.a.level.case.network.prediction])


def grade_file(*, file: str, level: str) -> dict[str, Any]:
    """Return the result of checking a practice file, as a dict: the work of `guarded`."""
    warnings.simplefilter("ignore")  # warnings about the user's code are no part of the feedback
    torch.set_num_threads(1)  # the tensors are small
    path = Path(file)
    sys.path.append(str(path.resolve().parent))
    return asdict(grade(find(level), text_of(path), file))
