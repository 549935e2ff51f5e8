"""How much a check sees: mutants of a backward pass, and how many of them each check catches."""

import contextlib
import re
import shlex
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from compare.cases.cases import CASES
from compare.checking.user_file import defining, load_inputs, theirs
from compare.environment import dtype_named, short
from compare.errors import BadInput
from compare.guard.child_process import Tell
from compare.guard.terminal_text import rendered
from compare.mutants.equivalence import Formulas
from compare.mutants.inputs import draws, reshaped, why
from compare.mutants.mutate import Mutant, mutants
from compare.mutants.other_checks import OtherChecks
from compare.mutants.report import MutationReport, Survivor
from compare.mutants.subjects import OfCase, OfCheck, Subject
from compare.passes.backward import Backward
from compare.passes.buffers import put_back
from compare.passes.inputs import Forward, Inputs, check_modes, tensors
from compare.passes.passes import Passes
from compare.proof.program import Opaque
from compare.proof.verdict import UNDECIDED, WRONG
from compare.report.report import Report

Watch = Callable[[int], None]  # is told how many mutants are done


def power(
    backward: Backward,
    forward: Forward,
    inputs: Inputs,
    *,
    seed: int = 0,
    watch: Watch | None = None,
) -> MutationReport:
    """Make mutants of `backward` and let `check` and the usual checks look for what is wrong.

    The arguments are those of `check`. Each operation of the pass, read as a program, is made
    wrong in turn (see `mutate`). `.caught` says how many mutants each check refuses: a
    verdict of WRONG by `check`; `torch.allclose` and `assert_close` with their defaults, shown
    every quantity that the pass returns; gradcheck, slow and fast, with its defaults in float64,
    which sees the gradients of inputs and no others; and the rule of flash-attention's tests,
    twice the error of a low-precision reference. A mutant that gives the same real numbers at
    these and at other inputs is counted in `.same_function` and by nothing else; what `check`
    does not refuse is in `.survivors`, with the reason. `watch` is told how many are done.

    Raises BadInput for what cannot be judged, cannot be read as a program, or is WRONG as it is.
    """
    if watch is not None and not callable(watch):
        raise BadInput(f"watch is {watch!r}: give a function of a count")
    check_modes()
    with put_back(backward, forward):
        return of_subject(OfCheck(Passes(backward, forward, inputs, seed)), seed=seed, watch=watch)


def _subject(target: str, dtype: str | None, inputs: Path | None) -> Subject:
    """Return one step of a case by hand, or the pass of a file as `check` takes it."""
    if target not in CASES:
        path = Path(target)
        kind = None if dtype is None else dtype_named(dtype)
        module, given = defining(path, kind, torch.device("cpu"), inputs)
        with theirs(path):
            return OfCheck(Passes(module.backward, module.forward, given))
    case = CASES[target]
    if case.sweep:
        case = replace(case, network=case.sweep[0], sweep=())
    subject = OfCase(case, dtype=dtype or "float64")
    if inputs is None:
        return subject
    return subject.at(_fitting(load_inputs(inputs), subject.given, inputs))


def _fitting(found: dict[str, Any], given: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Return saved inputs for a step; raises BadInput where they are not what it takes."""
    wanted, held = (
        {name: f"{tuple(v.shape)} {short(v.dtype)}" for name, v in tensors(values).items()}
        for values in (given, found)
    )
    for name in sorted(wanted.keys() | held.keys()):
        if wanted.get(name) != held.get(name):
            raise BadInput(
                f"{path}: the step takes {wanted.get(name, 'nothing')} as {name!r} and the file "
                f"has {held.get(name, 'nothing')}: save its own inputs, with mutants CASE --save"
            )
    return found


def of_subject(
    subject: Subject, *, seed: int = 0, watch: Watch | None = None, alone: bool = False
) -> MutationReport:
    """Make mutants of a subject's pass and judge them all; `alone` leaves the usual checks out."""
    return _MutationTest(subject, seed, alone).run(watch or (lambda _count: None))


# What code may raise that does not take the inputs that were drawn for it; then there are others.
_NOT_FOR_SUCH = Opaque, ArithmeticError, LookupError, RuntimeError, TypeError, ValueError


class _MutationTest:
    def __init__(self, subject: Subject, seed: int, alone: bool) -> None:
        self.subject, self.seed = subject, seed
        if not any(value.numel() for value in subject.inputs.values()):
            raise BadInput(f"{subject.name} is given no elements: there is nothing to do wrong")
        report = subject.judge(subject.manual_program)
        if report.verdict == WRONG:
            raise BadInput(
                f"{subject.name} is WRONG as it stands, first in {report.first_wrong}: mutants of "
                "a wrong pass show nothing, put it right first"
            )
        self.power = MutationReport(subject.name, report.verdict)
        self.rivals = None if alone else OtherChecks(subject)
        if self.rivals:
            as_it_is = self.rivals.verdicts(subject.manual_program)
            self.power.refuses = [name for name, caught in as_it_is.items() if caught]
            self.power.cannot = self.rivals.cannot
        self.formulas = Formulas(subject, list(report.quantities))
        self.shown_by: Counter[str] = Counter()  # how many survivors die at each of the others

    def run(self, watch: Watch) -> MutationReport:
        found, spent = self.power, 0.0
        started = time.perf_counter()
        for mutant in mutants(self.subject.manual_program, self.subject.given):
            before = time.perf_counter()
            same, first = self.formulas.same(mutant)
            survivor = None
            if same is not False:
                report = self.subject.judge(mutant.program)
                first = report.first_wrong
                survivor = self._survivor(mutant, report) if first is None else None
            spent += time.perf_counter() - before
            caught = first is not None
            rivals = self.rivals.verdicts(mutant.program) if self.rivals else {}
            found.add(mutant, not caught and survivor is None, {"check": caught, **rivals})
            led_to = (name for name in self.formulas.order if name in mutant.leads_to)
            found.named += caught and first == next(led_to, None)
            if survivor is not None:
                found.survivors.append(survivor)
            watch(found.mutants)
        found.seconds["check"] = spent
        found.seconds |= self.rivals.seconds if self.rivals else {}
        found.total = time.perf_counter() - started
        if self.shown_by:
            self._offer()
        return found

    # -- what check does not refuse

    def _survivor(self, mutant: Mutant, report: Report) -> Survivor | None:
        """Return the mutant as a survivor, None where it is shown to be the same function."""
        there = {words: _same(mutant, formulas) for words, formulas in self.others.items()}
        if dies_at := [words for words, same in there.items() if same is False]:
            return self._weak(mutant, dies_at)
        if report.verdict == UNDECIDED or not _lifted(report):
            proofs = [q.proof for q in report.quantities.values() if q.proof]
            text = next((p.text for p in proofs if p.verdict == UNDECIDED or not p.lifted), "")
            return Survivor.of(mutant, "undecided", text)
        if True not in there.values():
            return Survivor.of(mutant, "undecided", "no other inputs were found to try it at")
        for words, formulas, made in self.reshaped:
            other = made.get(_way(mutant, self.subject))
            if other and _same(other, formulas) is False:
                dies_at.append(words)
        return self._weak(mutant, dies_at) if dies_at else None

    def _weak(self, mutant: Mutant, dies_at: list[str]) -> Survivor:
        self.shown_by.update(dies_at)
        other = self.others.get(dies_at[0])
        there = other.floats if other else {}  # of another shape: other operations
        here = self.formulas.floats
        return Survivor.of(mutant, "weak inputs", why(mutant, here, there), dies_at[0])

    @cached_property
    def others(self) -> dict[str, Formulas]:
        """The same pass at other inputs, where it is right as it stands."""
        return dict(
            self._usable(draws(self.subject.inputs, self.subject.manual_program, self.seed))
        )

    @cached_property
    def reshaped(self) -> list[tuple[str, Formulas, dict[str, Mutant]]]:
        """The pass at inputs of other shapes, with its mutants there."""
        found = []
        for words, formulas in self._usable(reshaped(self.subject.inputs, self.seed), anew=True):
            there = formulas.subject
            made = {
                _way(mutant, there): mutant for mutant in mutants(there.manual_program, there.given)
            }
            found.append((words, formulas, made))
        return found

    def _usable(
        self, inputs: Iterator[tuple[str, dict[str, Any]]], *, anew: bool = False
    ) -> Iterator[tuple[str, Formulas]]:
        for words, values in inputs:
            with contextlib.suppress(*_NOT_FOR_SUCH), warnings.catch_warnings(action="ignore"):
                subject = self.subject.anew(values) if anew else self.subject.at(values)
                if subject is not None and (report := subject.judge(subject.manual_program)).ok:
                    yield words, Formulas(subject, list(report.quantities))

    def _offer(self) -> None:
        """Keep the inputs that show the most of what survived."""
        # of two that show as much the one of another shape hides less: no dimension of it is 1
        shown = self.shown_by
        words = max(shown, key=lambda words: (shown[words], words not in self.others))
        other = (formulas for at, formulas, _ in self.reshaped if at == words)
        self.power.better = (self.others.get(words) or next(other)).subject.everything
        self.power.better_words = f"{words}: {self.shown_by[words]} of {len(self.power.survivors)}"


def _same(mutant: Mutant, formulas: Formulas) -> bool | None:
    """Return whether a mutant is right at some inputs, lifted; None where it is not known."""
    same, _ = formulas.same(mutant)
    if same is not None:
        return same
    report = formulas.subject.judge(mutant.program)
    return False if report.verdict == WRONG else True if _lifted(report) else None


def _lifted(report: Report) -> bool:
    """Whether every quantity is shown to be the same real number."""
    rows = report.quantities.values()
    return report.ok and all(q.proof is not None and q.proof.lifted for q in rows)


def _way(mutant: Mutant, subject: Subject) -> str:
    """Return what a mutant shares with the one made the same way at inputs of another shape."""
    nodes = [n for n in subject.manual_program.graph.nodes if n.op == "call_function"]
    words = re.sub(r"\d[\d.e+-]*", "#", mutant.what)
    return f"{nodes.index(mutant.node)} {mutant.kind} {words}"


def judged(
    tell: Tell, *, target: str, dtype: str | None, seed: int, inputs: str | None, save: str | None,
    quiet: bool, width: int,
) -> dict[str, Any]:  # fmt: skip
    """Count what each check catches; return what there is to show of it, as `Judged` has it."""
    subject = _subject(target, dtype, None if inputs is None else Path(inputs))
    found = of_subject(subject, seed=seed, watch=lambda count: tell({"count": count}))
    notes = []
    if save is not None and found.better is not None:
        found.save_inputs(save)
        again = f"--inputs {shlex.quote(save)}"
        found.again = f"python -m compare mutants {shlex.quote(target)} {again}"
    elif save is not None:
        notes = [f"  --save {save}: nothing to save, no mutant survives at these inputs alone"]
    return {
        "code": 0 if found.ok else 1,
        "text": rendered(width, found.headline() if quiet else found, *notes),
        "json": found.to_dict(),
        "page": "",
    }
