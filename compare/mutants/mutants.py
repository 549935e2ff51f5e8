"""Mutation tests: mutants of a backward pass, and how many of them each check catches."""

import contextlib
import math
import re
import shlex
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from compare.budget import TimeIsUp, seconds, within
from compare.cases.cases import CASES
from compare.checking.user_file import load_checked_file, load_inputs, user_errors
from compare.environment import dtype_named, short
from compare.errors import BadInput
from compare.guard.terminal_text import rendered
from compare.mutants.equivalence import EquivalenceTest
from compare.mutants.inputs import other_inputs, reason_hidden, reshaped_inputs
from compare.mutants.mutate import Mutant, mutants
from compare.mutants.other_checks import OtherChecks
from compare.mutants.report import MutationReport, Survivor
from compare.mutants.subjects import CaseSubject, CheckSubject, Subject
from compare.passes.backward import Backward
from compare.passes.buffers import restored_buffers
from compare.passes.inputs import Forward, Inputs, check_modes, tensors
from compare.passes.passes import Passes
from compare.progress import counted, stage
from compare.progress_bar import shown_on_terminal
from compare.proof.program import Opaque
from compare.proof.verdict import UNDECIDED, WRONG
from compare.report.report import Report

Watch = Callable[[int], None]  # takes the number of mutants judged so far


def power(
    backward: Backward,
    forward: Forward,
    inputs: Inputs,
    *,
    seed: int = 0,
    watch: Watch | None = None,
    budget: float | None = None,
) -> MutationReport:
    """Run a mutation test: count the mutants of `backward` that `check` and other checks catch.

    Each operation of `backward` is changed in turn, as `compare.mutants.operators` lists. A mutant
    that computes the same real numbers at these and at other inputs is equivalent to `backward`: no
    check could catch it, and it is counted in `same_function` alone. Every other mutant should be
    caught, by each of these checks:

    - "check": `compare.check`, with the verdict WRONG.
    - "allclose", "assert_close": `torch.allclose` and `torch.testing.assert_close` with their
      default tolerances, on every quantity that `backward` returns.
    - "gradcheck", "gradcheck_fast": `torch.autograd.gradcheck` with its defaults in float64, slow
      and fast. It sees only the gradients of the inputs.
    - "twice_low_precision": the rule of flash-attention's tests, which allows twice the error of a
      low-precision reference.

    Args:
        backward: the backward pass under test, as in `check`.
        forward: the forward pass, as in `check`.
        inputs: the inputs, as in `check`.
        seed: for the cotangents of `check`, and for other inputs at which survivors are tested.
        watch: called after each mutant with the number of mutants judged so far.
        budget: about how many seconds the test may take, after the unmutated pass was judged. The
            mutants are then tried in an order that takes some of every part of the code first, and
            the report counts those that were not tried.

    Returns:
        A `MutationReport`. `caught` maps each check to the number of mutants that it catches.
        `survivors` lists the mutants that `check` does not catch, each with its line and the
        reason. `ok` is True if there are none. `save_inputs` writes inputs that catch more.

    Raises:
        BadInput: if `check` cannot judge the arguments, `backward` or `forward` cannot be traced,
            the inputs have no elements or too many, or `backward` is WRONG even unmutated.

    Example:
        >>> import compare, torch
        >>> def forward(x, w):
        ...     return x @ w
        >>> def backward(x, w, grad_output):
        ...     return {"x": grad_output @ w.mT, "w": x.mT @ grad_output}
        >>> inputs = {"x": torch.ones(2, 3), "w": torch.arange(12.0).reshape(3, 4)}
        >>> report = compare.power(backward, forward, inputs)
        >>> report.ok
        True
        >>> report.caught["check"], report.wrong
        (6, 6)
    """
    if watch is not None and not callable(watch):
        raise BadInput(
            f"watch is {watch!r}: pass a function that takes the number of mutants judged"
        )
    limit = seconds(budget)
    check_modes()
    with shown_on_terminal(), restored_buffers(backward, forward):
        with stage("running and recording both passes"):
            subject = CheckSubject(Passes(backward, forward, inputs, seed))
        return run_mutation_test(subject, seed=seed, watch=watch, budget=limit)


def _subject(target: str, dtype: str | None, inputs: Path | None) -> Subject:
    """Return the by-hand step of a case, or the backward pass of a file."""
    if target not in CASES:
        path = Path(target)
        wanted = None if dtype is None else dtype_named(dtype)
        module, values = load_checked_file(path, wanted, torch.device("cpu"), inputs)
        with user_errors(path), stage("running and recording both passes"):
            return CheckSubject(Passes(module.backward, module.forward, values))
    case = CASES[target]
    if case.sweep:
        case = replace(case, network=case.sweep[0], sweep=())
    subject = CaseSubject(case, dtype=dtype or "float64")
    if inputs is None:
        return subject
    return subject.at(_matching(load_inputs(inputs), subject.inputs, inputs))


def _matching(loaded: dict[str, Any], inputs: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Return loaded inputs; raise BadInput unless they have the names, shapes and dtypes needed."""
    needed, present = (
        {name: f"{tuple(v.shape)} {short(v.dtype)}" for name, v in tensors(values).items()}
        for values in (inputs, loaded)
    )
    for name in sorted(needed.keys() | present.keys()):
        if needed.get(name) != present.get(name):
            raise BadInput(
                f"{path}: the step needs {needed.get(name, 'nothing')} as {name!r}, but the file "
                f"has {present.get(name, 'nothing')}: write a file with mutants CASE --save FILE"
            )
    return loaded


def run_mutation_test(
    subject: Subject, *, seed: int = 0, watch: Watch | None = None, only_check: bool = False,
    budget: float | None = None,
) -> MutationReport:  # fmt: skip
    """Make all mutants of a subject's pass and judge them.

    Args:
        subject: the pass, its reference and the inputs.
        seed: for other inputs at which survivors are tested.
        watch: called after each mutant with the number of mutants judged so far.
        only_check: leave out the other checks.
        budget: how many seconds the mutants may take; None for no limit.

    Raises:
        BadInput: if there are no elements, or the pass is WRONG even unmutated.
    """
    test = _MutationTest(subject, seed, only_check)
    with within(budget):
        return test.run(watch or (lambda _count: None), budget)


_GOLDEN = (math.sqrt(5) - 1) / 2
# Code may raise these at newly drawn inputs that it does not take; those inputs are left out.
_REJECTS_INPUTS = Opaque, ArithmeticError, LookupError, RuntimeError, TypeError, ValueError


class _MutationTest:
    """One mutation test: its subject, the checks, and other inputs once a mutant survives."""

    def __init__(self, subject: Subject, seed: int, only_check: bool) -> None:
        self.subject, self.seed = subject, seed
        if not any(value.numel() for value in subject.inputs.values()):
            raise BadInput(
                f"{subject.name} has no input with elements, so no mutant could be caught: pass "
                "inputs with elements"
            )
        with stage("judging the unmutated pass"):
            report = subject.judge(subject.manual_program)
        if report.verdict == WRONG:
            raise BadInput(
                f"{subject.name} is WRONG even without a mutation, first in {report.first_wrong}: "
                "fix it before you test its mutants"
            )
        self.report = MutationReport(subject.name, report.verdict)
        self.other_checks = None if only_check else OtherChecks(subject)
        if self.other_checks:
            rejections = self.other_checks.rejections(subject.manual_program)
            self.report.rejects_unmutated = [
                name for name, rejects in rejections.items() if rejects
            ]
            self.report.cannot_run = self.other_checks.cannot_run
        self.equivalence = EquivalenceTest(subject, list(report.quantities))
        self.detected_at: Counter[str] = Counter()  # survivors detected, by description of inputs

    def run(self, watch: Watch, budget: float | None) -> MutationReport:
        """Judge every mutant that the budget leaves time for, and return the report."""
        report, started = self.report, time.perf_counter()
        every = [*mutants(self.subject.manual_program, self.subject.program_inputs)]
        report.budget = budget
        try:
            self._judge(every if budget is None else _spread(every), watch)
        except TimeIsUp:
            report.untried = len(every) - report.mutants
        report.seconds |= self.other_checks.seconds if self.other_checks else {}
        report.total_seconds = time.perf_counter() - started
        if self.detected_at:
            with contextlib.suppress(TimeIsUp):
                self._suggest_inputs()
        return report

    def _judge(self, every: Sequence[Mutant], watch: Watch) -> None:
        report = self.report
        for mutant in counted("mutant", every):
            before = time.perf_counter()
            same, first_wrong = self.equivalence.test(mutant)
            survivor = None
            if same is not False:
                judged = self.subject.judge(mutant.program)
                first_wrong = judged.first_wrong
                survivor = self._survivor(mutant, judged) if first_wrong is None else None
            report.seconds["check"] += time.perf_counter() - before
            caught = first_wrong is not None
            others = self.other_checks.rejections(mutant.program) if self.other_checks else {}
            equivalent = not caught and survivor is None
            report.add(mutant, equivalent, {"check": caught, **others})
            affected = (name for name in self.equivalence.order if name in mutant.affects)
            report.localised += caught and first_wrong == next(affected, None)
            if survivor is not None:
                report.survivors.append(survivor)
            watch(report.mutants)

    # -- mutants that check does not catch

    def _survivor(self, mutant: Mutant, report: Report) -> Survivor | None:
        """Return the mutant as a survivor, None if it is shown to be equivalent to the pass."""
        same = {words: _is_right(mutant, test) for words, test in self.at_other_inputs.items()}
        if detected_at := [words for words, right in same.items() if right is False]:
            return self._weak_inputs(mutant, detected_at)
        if report.verdict == UNDECIDED or not _same_formulas(report):
            proofs = [q.proof for q in report.quantities.values() if q.proof]
            text = next((p.text for p in proofs if p.verdict == UNDECIDED or not p.lifted), "")
            return Survivor.of(mutant, "undecided", text)
        if True not in same.values():
            text = "could not be tested at other inputs: the code takes none of those drawn"
            return Survivor.of(mutant, "undecided", text)
        for words, test, mutants_there in self.at_other_shapes:
            counterpart = mutants_there.get(_counterpart_key(mutant, self.subject))
            if counterpart and _is_right(counterpart, test) is False:
                detected_at.append(words)
        return self._weak_inputs(mutant, detected_at) if detected_at else None

    def _weak_inputs(self, mutant: Mutant, detected_at: list[str]) -> Survivor:
        self.detected_at.update(detected_at)
        other = self.at_other_inputs.get(detected_at[0])
        detecting = other.floats if other else {}  # at other shapes the program is another one
        why = reason_hidden(mutant, self.equivalence.floats, detecting)
        return Survivor.of(mutant, "weak inputs", why, detected_at[0])

    @cached_property
    def at_other_inputs(self) -> dict[str, EquivalenceTest]:
        """The same pass at other inputs at which it is right unmutated, by their description."""
        inputs = other_inputs(self.subject.inputs, self.subject.manual_program, self.seed)
        return dict(self._usable(inputs, self.subject.at))

    @cached_property
    def at_other_shapes(self) -> list[tuple[str, EquivalenceTest, dict[str, Mutant]]]:
        """The pass at inputs of other shapes, with its mutants there by `_counterpart_key`."""
        tests = []
        inputs = reshaped_inputs(self.subject.inputs, self.seed)
        for words, test in self._usable(inputs, self.subject.retraced):
            subject = test.subject
            mutants_there = {
                _counterpart_key(mutant, subject): mutant
                for mutant in mutants(subject.manual_program, subject.program_inputs)
            }
            tests.append((words, test, mutants_there))
        return tests

    def _usable(
        self, inputs: Iterator[tuple[str, dict[str, Any]]],
        subject_at: Callable[[dict[str, Any]], Subject | None],
    ) -> Iterator[tuple[str, EquivalenceTest]]:  # fmt: skip
        """Yield the pass at those of the inputs at which it runs and is right."""
        for words, values in inputs:
            with contextlib.suppress(*_REJECTS_INPUTS), warnings.catch_warnings(action="ignore"):
                subject = subject_at(values)
                if subject is not None and (report := subject.judge(subject.manual_program)).ok:
                    yield words, EquivalenceTest(subject, list(report.quantities))

    def _suggest_inputs(self) -> None:
        """Put the inputs that detect the most survivors into the report."""
        # of two that detect as many, those of other shapes hide less: no size is 1
        counts = self.detected_at
        words = max(counts, key=lambda words: (counts[words], words not in self.at_other_inputs))
        reshaped = (test for at, test, _ in self.at_other_shapes if at == words)
        test = self.at_other_inputs.get(words) or next(reshaped)
        self.report.better_inputs = test.subject.all_inputs
        survivors = len(self.report.survivors)
        self.report.better_inputs_note = f"{words}: {counts[words]} of {survivors}"


def _spread(every: Sequence[Mutant]) -> list[Mutant]:
    """Return the mutants in an order whose every beginning has some of each part of the code.

    The multiples of the golden ratio, without their whole parts, lie evenly between 0 and 1.
    """
    order = sorted(range(len(every)), key=lambda k: k * _GOLDEN % 1)
    return [every[k] for k in order]


def _is_right(mutant: Mutant, test: EquivalenceTest) -> bool | None:
    """Return whether a mutant has the pass's formulas at some inputs, None if undecided."""
    same, _ = test.test(mutant)
    if same is not None:
        return same
    report = test.subject.judge(mutant.program)
    return False if report.verdict == WRONG else True if _same_formulas(report) else None


def _same_formulas(report: Report) -> bool:
    """Whether every quantity is shown to be the same real number as autograd's."""
    rows = report.quantities.values()
    return report.ok and all(q.proof is not None and q.proof.lifted for q in rows)


def _counterpart_key(mutant: Mutant, subject: Subject) -> str:
    """Return a key that a mutant shares with its counterpart at inputs of other shapes."""
    nodes = [n for n in subject.manual_program.graph.nodes if n.op == "call_function"]
    description = re.sub(r"\d[\d.e+-]*", "#", mutant.description)
    return f"{nodes.index(mutant.node)} {mutant.kind} {description}"


def judged(
    *, target: str, dtype: str | None, seed: int, inputs: str | None, save: str | None,
    budget: float | None, quiet: bool, width: int,
) -> dict[str, Any]:  # fmt: skip
    """Run a mutation test in a guarded process; return the fields of `cli.guarded_file.Judged`."""
    subject = _subject(target, dtype, None if inputs is None else Path(inputs))
    report = run_mutation_test(subject, seed=seed, budget=seconds(budget))
    notes = []
    if save is not None and report.better_inputs is not None:
        report.save_inputs(save)
        options = f"{shlex.quote(target)} --inputs {shlex.quote(save)}"
        report.command = f"python -m compare mutants {options}"
    elif save is not None:
        notes = [f"  --save {save}: not written, since no other inputs catch more mutants"]
    return {
        "code": 0 if report.ok else 1,
        "text": rendered(width, report.headline() if quiet else report, *notes),
        "json": report.to_dict(),
        "page": "",
    }
