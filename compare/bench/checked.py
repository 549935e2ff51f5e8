"""A checked step as `bench` times it: within a whole run, or alone."""

from collections.abc import Callable
from time import perf_counter
from typing import Any

from compare.bench.timing import Take
from compare.cases.cases import Case
from compare.report.chunk import Chunk
from compare.report.report import Report
from compare.training.harness import Run


def checked_run(case: Case, steps: int, **settings: Any) -> Callable[[], Report]:
    """Return what trains a run that is ready to, and insists on the verdict promised."""
    run = Run(case, steps=steps, **settings)

    def train() -> Report:
        report = run.train()
        if not report.interrupted and not report.meets(case.demand):
            raise AssertionError(str(report))
        return report

    return train


def checked(case: Case, **settings: Any) -> Take:
    """Return what takes so many checked steps: a whole run, from its drawing to its proofs."""

    def take(steps: int) -> None:
        checked_run(case, steps, **settings)()

    return take


def checked_steps(case: Case, **settings: Any) -> Take:
    """Return what takes so many checked steps, and gives their time alone.

    Of a large network: each is a chunk by itself, and the first and the last, which are judged more
    closely than any other, are not timed.
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
