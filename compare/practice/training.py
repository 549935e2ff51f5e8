"""Trains the network of a practice file by running its own loop as it stands.

At some of the steps its lines are judged once more, and its error is kept at some.
"""

import contextlib
from collections.abc import Callable
from typing import Any

import torch

from compare.practice.executor import Attempt, silence
from compare.practice.parser import STEP
from compare.practice.result import WRONG, Answer, Finding
from compare.training.adapters import Named

_JUDGED = (0, 1, 2, 10, 100, 1000, 10_000)  # steps, besides the end
_TOLD = (0, 1, 3, 10, 30, 100, 300, 1000, 3000, 10_000, 30_000)  # steps whose error is kept

Judge = Callable[[Named, str], Answer | None]


def train(attempt: Attempt, finding: Finding, judge: Judge) -> None:
    """Run the loop and what stands after it; note in `finding` how the network trained.

    `judge` is given what a step was given, and a remark for its answer. Raises Answer where it has
    one, or where a line does not run.
    """
    training = _Training(attempt, finding, judge)
    exercise, names = attempt.exercise, training.names
    with training.muted, attempt.python(None, names):
        exec(exercise.loop, names)
    if training.step < 0:
        said, text = "the loop runs no step: give range a number", exercise.lines[exercise.line - 1]
        raise Answer(Finding(WRONG, said, exercise.line, text.strip()))
    training.end()
    training.look_at(attempt.now(names), "after training it does")
    if finding.errors[-1][0] != training.step:
        finding.errors.append((training.step, training.error()))
    finding.output = torch.as_tensor(names[training.output]).flatten().tolist()
    finding.wanted = attempt.first["y"].flatten().tolist()
    with attempt.python(len(exercise.statements)):
        exec(exercise.after, names)


class _Training:
    def __init__(self, attempt: Attempt, finding: Finding, judge: Judge) -> None:
        self.attempt, self.finding, self.judge = attempt, finding, judge
        self.names: dict[str, Any] = {
            **attempt.names, **attempt.to_file(attempt.first), STEP: self.begin
        }  # fmt: skip
        self.output = attempt.level.case.network.prediction
        self.step = -1
        self.before: Named = {}  # what a step that is to be judged was given
        self.muted = contextlib.ExitStack()

    def begin(self) -> None:
        """Go from one step to the next; the loop calls it."""
        if self.step >= 0:
            self.end()
        self.step += 1
        if self.step == 0:
            self.muted.enter_context(silence())  # what it prints was printed when it was judged
        elif self.step == 1:
            self.muted.close()
        if self.step in _JUDGED:
            self.before = self.attempt.now(self.names)
            self.attempt.count = self.names.get(self.attempt.exercise.counter)

    def end(self) -> None:
        """Judge the step that is over, if it is one of those, and keep its error."""
        if self.before:
            now, handed = self.attempt.now(self.names), self.attempt.handed
            drawn = {ref: v for ref, v in now.items() if self.attempt.named[ref] in handed}
            self.look_at(self.before | drawn, f"at step {self.step:,} it does")
            self.before = {}
            self.finding.judged_at.append(self.step)
        if self.step in _TOLD:
            self.finding.errors.append((self.step, self.error()))

    def look_at(self, given: Named, remark: str) -> None:
        """Judge a step; raises the answer where there is one."""
        if answer := self.judge(given, f"at the first steps this does not show, {remark}"):
            raise answer

    def error(self) -> float:
        """Return the mean absolute error of the output."""
        output = torch.as_tensor(self.names[self.output])
        return float((self.attempt.first["y"] - output).abs().mean())
