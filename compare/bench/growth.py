"""Measures how the time of a checked step grows with width, depth, batch, steps and population.

The population is the number of networks that are trained side by side.

A slope of 1 in a log-log plot is linear growth. At small sizes Python's overhead dominates, at
large ones the arithmetic. The slope over all sizes mixes both, so the slope between the two largest
sizes is given too.
"""

import io
import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from compare.bench.checked import checked, checked_run
from compare.bench.large_passes import checked_pass, layer_norm
from compare.bench.timing import Take, Times, Work
from compare.bench.torch_steps import random_case
from compare.cases.cases import CASES, Case
from compare.errors import BadInput
from compare.files import save

SIZES = {
    "width": (32, 64, 128, 256, 512),
    "depth": (2, 4, 8, 16, 32),
    "batch": (16, 64, 256, 1024, 4096),
    "steps": (250, 500, 1000, 2000, 4000),
    "population": (1, 4, 16, 64, 256, 1024),
    "check": (64, 256, 1024, 4096),
}
SMALL = {
    "width": (2, 3, 4, 6), "depth": (1, 2, 3, 4), "batch": (2, 3, 4, 6), "steps": (1, 2, 3, 4),
    "population": (1, 2, 3, 4), "check": (2, 3, 4, 6),
}  # fmt: skip


@dataclass(frozen=True)
class Growth:
    """The seconds at each size."""

    name: str
    sizes: tuple[int, ...]
    seconds: tuple[float, ...]

    @property
    def slope(self) -> float:
        """The least-squares slope of log(seconds) over log(size)."""
        return float(np.polyfit(np.log(self.sizes), np.log(self.seconds), 1)[0])

    @property
    def last(self) -> float:
        """The slope between the two largest sizes."""
        (one, other), (before, after) = self.sizes[-2:], self.seconds[-2:]
        return math.log(after / before) / math.log(other / one)


def works(name: str, *, small: bool = False) -> list[Work]:
    """Return a workload for each size."""
    sizes = (SMALL if small else SIZES)[name]
    take, steps = _TAKES[name]
    return [Work(str(size), partial(take, size), steps) for size in sizes]


def measured(name: str, times: Times) -> Growth:
    """Return the measured growth: the median of the rounds at each size."""
    medians = {int(size): statistics.median(seconds) for size, seconds in times.figures.items()}
    return Growth(name, tuple(medians), tuple(medians.values()))


def _without_proofs(case: Case, **settings: Any) -> Take:
    """Return a function that runs checked steps without proofs, whose cost does not grow."""
    return lambda steps: checked_run(case, steps, lift="none", **settings)().seconds


#: Name -> a function from the size to the function that is timed, and the number of steps.
_TAKES: dict[str, tuple[Callable[[int], Take], int]] = {
    "width": (lambda size: _without_proofs(random_case((size,) * 3, 32), dtype="float32"), 32),
    "depth": (
        lambda size: _without_proofs(random_case((8,) * (size + 1), 4), dtype="float64"),
        128,
    ),
    "batch": (lambda size: _without_proofs(random_case((64, 64, 10), size), dtype="float32"), 32),
    "steps": (lambda size: lambda _: checked(CASES["three_layer"])(size), 1),
    "population": (lambda size: _without_proofs(CASES["three_layer"], population=size), 64),
    "check": (lambda size: checked_pass(layer_norm(size, 768)), 1),
}


def check_plot(name: str) -> None:
    """Raise BadInput if the plot could not be drawn; this runs before the timing."""
    if not name.endswith(".png"):
        raise BadInput(f"--plot {name}: name a file that ends in .png")
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise BadInput(
            "--plot needs matplotlib: pip install matplotlib, or leave --plot out"
        ) from None


def plot(growths: list[Growth], path: Path) -> None:
    """Draw each growth in a log-log plot, with the fitted line, and save the picture as PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4 * len(growths), 3.6), layout="constrained")
    for axes, growth in zip(np.ravel(figure.subplots(1, len(growths))), growths, strict=True):
        fit = np.polyfit(np.log(growth.sizes), np.log(growth.seconds), 1)
        axes.loglog(growth.sizes, np.exp(np.polyval(fit, np.log(growth.sizes))), "--", c="0.6")
        axes.loglog(growth.sizes, growth.seconds, "o-")
        axes.set_xticks(growth.sizes, map(str, growth.sizes))
        axes.minorticks_off()
        axes.set_title(f"slope {growth.slope:.2f}, last {growth.last:.2f}", fontsize=10)
        axes.set_xlabel(growth.name)
        axes.set_ylabel(
            {"steps": "seconds of a run", "check": "seconds of a check"}.get(
                growth.name, "seconds per checked step"
            )
        )
        axes.grid(alpha=0.3)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=110)
    save(path, file.getvalue())
