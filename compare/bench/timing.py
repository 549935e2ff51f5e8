"""Timing works side by side: in turn, round by round, so that all meet the same noise.

torch.utils.benchmark times one thing after the other; on a shared machine the ratio of two such
figures says more of the hours between than of the things.
"""

import gc
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from time import perf_counter

from compare.errors import BadInput
from compare.interrupts import stop

SLICE = 0.05  # seconds that a work is given in each round


class NotHere(Exception):
    """A work that cannot be done on this machine, and why, in a few words."""


Take = Callable[[int], float | None]


@dataclass(frozen=True)
class Work:
    """`make()` returns what takes so many steps; if that returns a figure, it stands for the time.

    `steps` at a time, or with 0 as many as fill a slice; a step counts as `each` of them.
    `make` raises NotHere for what cannot be done here; it is not timed.
    """

    label: str
    make: Callable[[], Take]
    steps: int = 0
    each: int = 1
    warm_up: bool = True


@dataclass
class Times:
    """What was measured: a figure for each round by label, of all rounds that came to an end."""

    figures: dict[str, list[float]] = field(default_factory=dict)
    not_here: dict[str, str] = field(default_factory=dict)

    def ratios(self, what: str, over: tuple[str, ...]) -> list[float]:
        """Return what / sum(over) of each round, or the figures themselves where over is empty."""
        if any(label not in self.figures for label in (what, *over)):
            return []
        found = self.figures[what]
        if not over:
            return found
        bases = zip(*(self.figures[label] for label in over), strict=True)
        return [mine / sum(base) for mine, base in zip(found, bases, strict=True)]


def spread(figures: list[float]) -> dict[str, float]:
    """Return the median, the least and the most of at least one figure."""
    return {"median": statistics.median(figures), "least": min(figures), "most": max(figures)}


def timed(take: Take, steps: int) -> float:
    """Return the seconds of so many steps, or the take's own figure; gc off, as timeit has it.

    Raises KeyboardInterrupt once a signal has asked for an end.
    """
    running = gc.isenabled()
    gc.disable()
    try:
        started = perf_counter()
        own = take(steps)
        seconds = perf_counter() - started
    finally:
        if running:
            gc.enable()
    if stop.is_set():
        raise KeyboardInterrupt
    return seconds if own is None else own


def side_by_side(
    works: Sequence[Work], times: Times, *, seconds: float, rounds: int,
    tell: Callable[[str], None] = lambda _: None,
) -> None:  # fmt: skip
    """Measure the works in turn into `times`, for at least so many rounds and seconds.

    Raises KeyboardInterrupt as `timed` does, with the whole rounds so far in `times`.
    """
    plans: list[tuple[Work, Take, int]] = []
    for work in works:
        tell(f"warming up: {work.label}")
        try:
            take = work.make()
        except (NotHere, BadInput) as error:  # digits without scikit-learn
            times.not_here[work.label] = str(error)
            continue
        plans.append((work, take, _steps(work, take)))
    started, done = perf_counter(), 0
    while plans and (done < rounds or perf_counter() - started < seconds):
        found: dict[str, float] = {}
        for work, take, steps in plans:
            tell(f"round {done + 1}: {work.label}")
            found[work.label] = timed(take, steps) / (steps * work.each)
        for label, figure in found.items():
            times.figures.setdefault(label, []).append(figure)
        done += 1


def _steps(work: Work, take: Take) -> int:
    """Warm the work up; return how many steps fill a slice."""
    steps = work.steps or 1
    if not work.warm_up:
        return steps
    seconds = timed(take, steps)
    while not work.steps and seconds < SLICE:
        steps = min(8 * steps, max(2 * steps, math.ceil(steps * SLICE / max(seconds, 1e-9))))
        seconds = timed(take, steps)
    return steps
