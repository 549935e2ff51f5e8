"""Judges a practice file's lines by autograd, then trains it: the guarded process's work.

Every value is judged on the learner's own values above it, as in any run: one bug makes one wrong
line.
"""

import sys
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from compare.guard.child import Tell
from compare.practice.executor import Attempt, silence
from compare.practice.levels import Level, find
from compare.practice.parser import text_of
from compare.practice.result import RIGHT, WRONG, Answer, Finding
from compare.practice.training import train
from compare.proof.bits import compare_bits
from compare.proof.other_inputs import uniform
from compare.proof.program import Opaque
from compare.proof.verdict import Verdict
from compare.training.adapters import Named
from compare.training.prover import Prover


def look_at(level: Level, text: str, path: str) -> Finding:
    """Return what there is to say of a practice file."""
    try:
        trial = _Trial(Attempt(level, text, path))
    except Answer as answer:
        return answer.finding
    return trial.find()


class _Trial:
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
        answers = [ended, a.missing(), self._judge(a.first, stop, "")]
        answers.append(self._judge(_elsewhere(a.first), stop, elsewhere))
        places = sorted(self.places.values())
        try:
            if found := [answer for answer in answers if answer is not None]:
                raise min(found, key=lambda answer: answer.index)
            finding = Finding(RIGHT)
            train(a, finding, lambda given, remark: self._judge(given, None, remark))
        except Answer as answer:
            finding = answer.finding  # with the verdicts on the lines up to its own
            places = [(k, name) for k, name in dict(places).items() if k <= answer.index]
        finding.verdicts = {n: self.verdicts[n] for _, n in places if n in self.verdicts}
        finding.why_numbers = self.why_numbers
        finding.left = sum(s.blank for s in a.exercise.statements)
        return finding

    def _judge(self, given: Named, stop: int | None, remark: str) -> Answer | None:
        """Judge one step's values up to `stop`; return an answer about the first wrong one."""
        a = self.a
        ours, ended = a.walk(given, stop)
        theirs = a.autograd.step_from(ours, **given)
        if (prover := self.provers.get(stop)) is None:
            prover = self.provers[stop] = Prover(  # no remedies: the hints are the level's own
                lambda **inputs: a.walk(inputs, stop)[0], a.autograd.traceable, None, None,
                remedies=False,
            )  # fmt: skip
        with silence():
            proofs = prover.proof(given, ours, {name: theirs[name] for name in ours})
        for hand in prover.by_hand():
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
        name: value if name.startswith(("mask", "mean", "var")) else uniform(name, value)
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


def judged(_tell: Tell, *, file: str, level: str) -> dict[str, Any]:
    """Return what was found of a file."""
    warnings.simplefilter("ignore")  # theirs, and torch's on their code
    torch.set_num_threads(1)  # small tensors
    path = Path(file)
    sys.path.append(str(path.resolve().parent))
    return asdict(look_at(find(level), text_of(path), file))
