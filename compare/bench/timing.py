"""Times workloads in turn, round by round, so that noise affects all of them alike.

torch.utils.benchmark times one workload after the other. On a shared machine the load changes in
between, and then a ratio of two such times is mostly a ratio of loads.
"""

import gc
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from time import perf_counter

from compare.errors import BadInput
from compare.interrupts import stop

SLICE = 0.05  # seconds of each workload in a round


class NotAvailable(Exception):
    """A workload that cannot run on this machine; the message is the reason, in a few words."""


Take = Callable[[int], float | None]


@dataclass(frozen=True)
class Work:
    """A workload: something that is timed.

    Attributes:
        label: its name in the tables.
        make: prepares the workload, untimed, and returns a function that runs a number of steps. If
            that function returns a number, it is used in place of the measured seconds. `make`
            raises NotAvailable if the workload cannot run on this machine.
        steps: the number of steps to run at a time, 0 for as many as fill a slice.
        each: the number of networks in a step; times are divided by it.
        warm_up: whether to run once untimed before the first round; not needed in a process of its
            own.
    """

    label: str
    make: Callable[[], Take]
    steps: int = 0
    each: int = 1
    warm_up: bool = True


@dataclass
class Times:
    """The measurements by label, one for each complete round, and the workloads left out."""

    figures: dict[str, list[float]] = field(default_factory=dict)
    not_here: dict[str, str] = field(default_factory=dict)  # label -> reason

    def ratios(self, what: str, over: tuple[str, ...]) -> list[float]:
        """Return what / sum(over) for each round, or the times of `what` if `over` is empty."""
        if any(label not in self.figures for label in (what, *over)):
            return []
        figures = self.figures[what]
        if not over:
            return figures
        bases = zip(*(self.figures[label] for label in over), strict=True)
        return [figure / sum(base) for figure, base in zip(figures, bases, strict=True)]


def spread(figures: list[float]) -> dict[str, float]:
    """Return the median, the smallest and the largest of at least one number."""
    return {"median": statistics.median(figures), "least": min(figures), "most": max(figures)}


def timed(take: Take, steps: int) -> float:
    """Return the seconds of so many steps, or the number that `take` returns.

    The garbage collector is off meanwhile, as in timeit.

    Raises:
        KeyboardInterrupt: if a signal has arrived.
    """
    running = gc.isenabled()
    gc.disable()
    try:
        started = perf_counter()
        value = take(steps)
        seconds = perf_counter() - started
    finally:
        if running:
            gc.enable()
    if stop.is_set():
        raise KeyboardInterrupt
    return seconds if value is None else value


def side_by_side(
    works: Sequence[Work], times: Times, *, seconds: float, rounds: int,
    report: Callable[[str], None] = lambda _: None,
) -> None:  # fmt: skip
    """Time the workloads in turn, for at least so many rounds and seconds.

    Args:
        works: the workloads.
        times: gets the measurements of every complete round.
        seconds: rounds start until so many seconds have passed.
        rounds: the least number of rounds.
        report: called with a text about the progress.

    Raises:
        KeyboardInterrupt: if a signal has arrived; `times` holds the complete rounds.
    """
    plans: list[tuple[Work, Take, int]] = []
    for work in works:
        report(f"warming up: {work.label}")
        try:
            take = work.make()
        except (NotAvailable, BadInput) as error:  # BadInput: digits without scikit-learn
            times.not_here[work.label] = str(error)
            continue
        plans.append((work, take, _steps(work, take)))
    started, done = perf_counter(), 0
    while plans and (done < rounds or perf_counter() - started < seconds):
        figures: dict[str, float] = {}
        for work, take, steps in plans:
            report(f"round {done + 1}: {work.label}")
            figures[work.label] = timed(take, steps) / (steps * work.each)
        for label, figure in figures.items():
            times.figures.setdefault(label, []).append(figure)
        done += 1


def _steps(work: Work, take: Take) -> int:
    """Warm the workload up; return the number of steps that fill a slice.

    The time of the first call counts nowhere: JAX and torch.compile compile in it.
    """
    steps = work.steps or 1
    if work.warm_up:
        timed(take, steps)
    while not work.steps and (seconds := timed(take, steps)) < SLICE:
        steps = min(8 * steps, max(2 * steps, math.ceil(steps * SLICE / max(seconds, 1e-9))))
    return steps
