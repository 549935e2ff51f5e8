"""Judges a practice file's lines by autograd, then trains it: the guarded process's work.

Every value is judged on the learner's own values above it, as in any run: one bug makes one wrong
line.
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
from compare.guard.child_process import Tell
from compare.practice.executor import Attempt, silence
from compare.practice.levels import Level, find
from compare.practice.parser import STEP, text_of
from compare.practice.result import RIGHT, WRONG, Answer, Finding
from compare.proof.bits import compare_bits
from compare.proof.other_inputs import uniform
from compare.proof.program import Opaque
from compare.proof.verdict import Verdict
from compare.training.adapters import Named
from compare.training.prover import Prover

_JUDGED = (0, 1, 2, 10, 100, 1000, 10_000)  # steps, besides the end
_TOLD = (0, 1, 3, 10, 30, 100, 300, 1000, 3000, 10_000, 30_000)  # steps whose error is kept


def look_at(level: Level, text: str, path: str) -> Finding:
    """Return what there is to say of a practice file."""
    try:
        trial = _Grader(Attempt(level, text, path))
    except Answer as answer:
        return answer.finding
    return trial.find()


class _Grader:
    def __init__(self, attempt: Attempt) -> None:
        self.a = attempt
        self.provers: dict[int | None, Prover] = {}
        self.verdicts: dict[str, Verdict] = {}  # by the file's names
        self.why_numbers = ""
        self.places = {  # of the reference's names in the loop
            attempt.ref(name): (attempt.exercise.last[name], name)
            for name in attempt.own
            if name in attempt.exercise.last
        }

    def find(self) -> Finding:
        """Judge what is there at the first step and at numbers drawn at random, then train."""
        a = self.a
        _, ended = a.walk(a.first, loud=True)
        stop = None if ended is None else int(ended.index)
        elsewhere = "at the first step this does not show, with other weights it does"
        answers = [ended, a.missing(), self.judge(a.first, stop, "")]
        answers.append(self.judge(_elsewhere(a.first), stop, elsewhere))
        places = sorted(self.places.values())
        try:
            if found := [answer for answer in answers if answer is not None]:
                raise min(found, key=lambda answer: answer.index)
            finding = Finding(RIGHT)
            _Training(self, finding).run()
        except Answer as answer:
            finding = answer.finding  # with the verdicts on the lines up to its own
            places = [(k, name) for k, name in dict(places).items() if k <= answer.index]
        finding.verdicts = {n: self.verdicts[n] for _, n in places if n in self.verdicts}
        finding.why_numbers = self.why_numbers
        finding.left = sum(s.blank for s in a.exercise.statements)
        return finding

    def judge(self, given: Named, stop: int | None, remark: str) -> Answer | None:
        """Judge one step's values up to `stop`; return an answer about the first wrong one."""
        a = self.a
        ours, ended = a.walk(given, stop)
        theirs = a.autograd.step_from(ours, **given)
        if (prover := self.provers.get(stop)) is None:
            prover = self.provers[stop] = Prover(  # no remedies: the hints are the level's own
                lambda **inputs: a.walk(inputs, stop)[0], a.autograd.traceable, None, None,
                find_fixes=False,
            )  # fmt: skip
        with silence():
            proofs = prover.proof(given, ours, {name: theirs[name] for name in ours})
        for hand in prover.manual_programs():
            if isinstance(hand, Opaque):
                self.why_numbers = str(hand)
        for ref, proof in proofs.items():
            _, name = self.places[ref]
            self.verdicts[name] = max(proof.verdict, self.verdicts.get(name, proof.verdict))
        wrong = [(*self.places[r], r) for r, p in proofs.items() if p.verdict == Verdict.WRONG]
        if not wrong:
            return ended
        index, name, ref = min(wrong)
        mine, right = a.turned(name, ours[ref]), a.turned(name, theirs[ref])
        said = _apart(name, mine, right, proofs[ref].at)
        remarks = [*self._remarks(index), *([remark] if remark else [])]
        return a.answer(WRONG, index, said, remarks=remarks, put_back=a.changed())

    def _remarks(self, index: int) -> list[str]:
        """Return what is worth a look besides the wrong line itself."""
        exercise = self.a.exercise
        statement = exercise.statements[index]
        state = {self.a.named[ref] for ref in self.a.given.state}
        above = {n: s.line for s in exercise.statements[:index] for n in s.assigns}
        remarks = [
            f"it reads {name} after line {above[name]} has moved it: weights move last"
            for name in sorted(statement.reads & state & above.keys())
        ]
        for name in sorted(statement.reads & exercise.functions.keys()):
            if name not in self.a.fresh.functions or _function_changed(self.a, name):
                remarks.append(f"it calls {name}, line {exercise.functions[name]}: look there too")
        name = next(n for n in self.a.own if n in statement.assigns)
        if name in above:
            remarks.append(f"{name} had its value from line {above[name]}, and is changed here")
        return remarks


def _elsewhere(given: Named) -> Named:
    """Return numbers of the same shapes, drawn at random: what starts at 0 or 1 hides bugs."""
    return {
        name: value if quantity_kind(name) in ("mask", "mean", "var") else uniform(name, value)
        for name, value in given.items()
    }


def _function_changed(attempt: Attempt, name: str) -> bool:
    """Whether a function that came with the file is not as it came."""
    mine, fresh = attempt.exercise.functions[name], attempt.fresh.functions[name]
    of_mine = attempt.exercise.lines[mine - 1 : mine + 1]
    return of_mine != attempt.fresh.lines[fresh - 1 : fresh + 1]


def _apart(name: str, mine: Tensor, right: Tensor, at: tuple[int, ...] | None) -> str:
    """Return where two values are apart, in as few digits as show it."""
    if mine.isnan().any():
        return f"makes {name} not a number (NaN)"
    worst = compare_bits(mine, right).worst
    at = at if at is not None else worst.index if worst else (0,) * mine.ndim
    one, other = float(mine[at]), float(right[at])
    texts = next(
        (t for d in (4, 8, 17) if len(set(t := (f"{one:.{d}g}", f"{other:.{d}g}"))) > 1),
        (repr(one), repr(other)),
    )
    place = f"{name}[{', '.join(map(str, at))}]"
    return f"gives {place} the value {texts[0]}; by autograd it is {texts[1]}"


class _Training:
    """Trains the network by running the file's own loop as it stands.

    At some of the steps its lines are judged once more, and its error is kept at some.
    """

    def __init__(self, trial: _Grader, finding: Finding) -> None:
        self.trial, self.a, self.finding = trial, trial.a, finding
        self.names: dict[str, Any] = {
            **self.a.names, **self.a.to_file(self.a.first), STEP: self.begin
        }  # fmt: skip
        self.step = -1
        self.before: Named = {}  # what a step that is to be judged was given
        self.muted = contextlib.ExitStack()

    def run(self) -> None:
        """Run the loop and what stands after it; note in `finding` how the network trained.

        Raises Answer where a line is wrong, or does not run.
        """
        exercise = self.a.exercise
        with self.muted, self.a.python(None, self.names):
            exec(exercise.loop, self.names)
        if self.step < 0:
            text = exercise.lines[exercise.line - 1].strip()
            said = "the loop runs no step: give range a number"
            raise Answer(Finding(WRONG, said, exercise.line, text))
        self.end()
        self.look_at(self.a.now(self.names), "after training it does")
        if self.finding.errors[-1][0] != self.step:
            self.finding.errors.append((self.step, self.error()))
        self.finding.output = self.output().flatten().tolist()
        self.finding.wanted = self.a.first["y"].flatten().tolist()
        with self.a.python(len(exercise.statements)):
            exec(exercise.after, self.names)

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
            self.before = self.a.now(self.names)
            self.a.count = self.names.get(self.a.exercise.counter)

    def end(self) -> None:
        """Judge the step that is over, if it is one of those, and keep its error."""
        if self.before:
            now = self.a.now(self.names)
            drawn = {ref: now[ref] for ref in now if self.a.named[ref] in self.a.handed}
            self.look_at(self.before | drawn, f"at step {self.step:,} it does")
            self.before = {}
            self.finding.judged_at.append(self.step)
        if self.step in _TOLD:
            self.finding.errors.append((self.step, self.error()))

    def look_at(self, given: Named, remark: str) -> None:
        """Judge a step; raises the answer where there is one."""
        said = f"at the first steps this does not show, {remark}"
        if answer := self.trial.judge(given, None, said):
            raise answer

    def error(self) -> float:
        """Return the mean absolute error of the output."""
        return float((self.a.first["y"] - self.output()).abs().mean())

    def output(self) -> Tensor:
        """Return what the network gave last."""
        return torch.as_tensor(self.names[self.a.level.case.network.prediction])


def judged(_tell: Tell, *, file: str, level: str) -> dict[str, Any]:
    """Return what was found of a file."""
    warnings.simplefilter("ignore")  # theirs, and torch's on their code
    torch.set_num_threads(1)  # small tensors
    path = Path(file)
    sys.path.append(str(path.resolve().parent))
    return asdict(look_at(find(level), text_of(path), file))
