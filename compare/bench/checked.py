"""Checked training steps for `bench`: a whole run, or the steps alone."""

from collections.abc import Callable
from time import perf_counter
from typing import Any

from compare.bench.timing import Take
from compare.cases.cases import Case
from compare.report.chunk import Chunk
from compare.report.report import Report
from compare.training.harness import Run


def checked_run(case: Case, steps: int, **settings: Any) -> Callable[[], Report]:
    """Make a run; return a function that trains it and asserts the case's expected verdict."""
    run = Run(case, steps=steps, **settings)

    def train() -> Report:
        report = run.train()
        if not report.interrupted and not report.meets(case.demand):
            raise AssertionError(str(report))
        return report

    return train


def checked(case: Case, **settings: Any) -> Take:
    """Return a function that runs so many checked steps as a whole run, proofs included."""

    def take(steps: int) -> None:
        checked_run(case, steps, **settings)()

    return take


def checked_steps(case: Case, **settings: Any) -> Take:
    """Return a function that runs so many checked steps, and returns the seconds of these alone.

    This is for large networks, where each step is a chunk of its own. The first and the last step
    are not timed, because they are checked more closely than the others.
    """

    def take(steps: int) -> float:
        marks: list[tuple[float, int]] = []

        def mark(chunk: Chunk) -> None:
            marks.append((perf_counter(), chunk.start + chunk.steps))

        report = Run(case, steps=steps + 2, **settings).train([mark])
        if report.interrupted:
            return float("nan")
        (started, first), (ended, last) = marks[0], marks[-2]
        return (ended - started) / (last - first) * steps

    return take
