"""What a run tells its watchers after each chunk of steps."""

from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from compare.bits import Steps
from compare.sides import Named


@dataclass
class Bucket:
    """Steps start to stop - 1 in brief: at most a thousand of these make a run."""

    start: int
    stop: int
    values: dict[str, dict[str, float]]  # of each side at the first step, by what it is
    largest_ulp: float = 0.0
    share_of_bound: dict[str, float] = field(default_factory=dict)  # the largest, by quantity
    unequal: int = 0  # elements so far
    max_ulp: float = 0.0  # so far
    exact: dict[str, float] = field(default_factory=dict)  # share of elements so far, by quantity
    free_gap: float = 0.0  # so far


@dataclass
class Chunk:
    """Steps start to start + steps - 1 in full."""

    start: int
    steps: int
    loss: dict[str, Tensor]  # of each side, (steps,), the mean over the population
    error: dict[str, Tensor]  # mean absolute error of the prediction, likewise
    accuracy: dict[str, Tensor]  # share of rows whose class is right, likewise; empty: no classes
    compared: dict[str, int]  # elements of each quantity at each step
    differences: dict[str, Steps]  # of the quantities that differ at any of the steps
    shares: dict[str, np.ndarray]  # of the bound on rounding, the largest at each step, of those
    values: dict[str, Named]  # of each side, (steps, networks, ...)
    free_gap: float  # so far
    buckets: list[Bucket] = field(default_factory=list)  # that end within the chunk
