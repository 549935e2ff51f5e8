"""What a run tells its watchers after each chunk of steps."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from compare.proof.bits import StepDifferences


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
    free_gap: float | None = 0.0  # so far; None: autograd was not let go on its own


@dataclass
class Chunk:
    """Steps start to start + steps - 1 in full."""

    start: int
    steps: int
    loss: dict[str, Tensor]  # of each side, (steps,), the mean over the population
    error: dict[str, Tensor]  # mean absolute error of the prediction, likewise
    accuracy: dict[str, Tensor]  # share of rows whose class is right, likewise; empty: no classes
    compared: dict[str, int]  # elements of each quantity at each step
    differences: dict[str, StepDifferences]  # of the quantities that differ at any of the steps
    shares: dict[str, np.ndarray]  # of the bound on rounding, the largest at each step, of those
    values: dict[str, dict[str, Tensor]]  # of each side, (steps, networks, ...)
    free_gap: float | None  # so far
    networks: int = 1
    buckets: list[Bucket] = field(default_factory=list)  # that end within the chunk


def furthest(gaps: Iterable[float]) -> float:
    """Return the largest gap, a NaN before any number."""
    return max(gaps, key=lambda gap: (gap != gap, gap))


def merged(parts: Sequence[Chunk]) -> Chunk:
    """Return the same steps of several parts of a population as one chunk; values: the first's."""
    first = parts[0]
    if len(parts) == 1:
        return first
    networks = sum(part.networks for part in parts)

    def mean(what: str) -> dict[str, Tensor]:
        columns: list[dict[str, Tensor]] = [getattr(part, what) for part in parts]
        weights = torch.tensor([part.networks / networks for part in parts]).double()
        return {
            side: torch.stack([c[side].double() for c in columns], -1) @ weights.to(column.device)
            for side, column in columns[0].items()
        }

    differences: dict[str, StepDifferences] = {}
    shares: dict[str, np.ndarray] = {}
    for part in parts:
        for name, found in part.differences.items():
            differences[name] = found + differences[name] if name in differences else found
        for name, share in part.shares.items():
            shares[name] = np.fmax(share, shares.get(name, share))
    return replace(
        first,
        networks=networks,
        loss=mean("loss"),
        error=mean("error"),
        accuracy=mean("accuracy"),
        compared={name: sum(part.compared[name] for part in parts) for name in first.compared},
        differences=differences,
        shares=shares,
        free_gap=parts[-1].free_gap,
    )
