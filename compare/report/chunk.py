"""A chunk of steps of a run, as the board and the progress bar receive it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from compare.proof.bits import StepDifferences


@dataclass
class Bucket:
    """A summary of the steps start to stop - 1; a run has at most 1,000 buckets."""

    start: int
    stop: int
    values: dict[str, dict[str, float]]  # metrics at the first step: side -> name -> value
    largest_ulp: float = 0.0  # within the bucket
    # quantity -> largest difference within the bucket, as a fraction of the rounding bound
    share_of_bound: dict[str, float] = field(default_factory=dict)
    unequal: int = 0  # elements that differ, from step 0 on
    max_ulp: float = 0.0  # largest difference, from step 0 on
    # quantity -> fraction of the elements that are equal, from step 0 on
    exact: dict[str, float] = field(default_factory=dict)
    # largest weight difference to autograd trained alone, from step 0 on; None: not trained
    free_gap: float | None = 0.0


@dataclass
class Chunk:
    """The steps start to start + steps - 1 in full; "side" is "manual" or "autograd"."""

    start: int
    steps: int
    loss: dict[str, Tensor]  # side -> (steps,), the mean over the population
    error: dict[str, Tensor]  # side -> (steps,), mean absolute error of the prediction
    # side -> (steps,), fraction of the rows classified correctly; empty if there are no classes
    accuracy: dict[str, Tensor]
    compared: dict[str, int]  # quantity -> number of elements at each step
    differences: dict[str, StepDifferences]  # of each quantity that differs at any of the steps
    # quantity that differs -> (steps,), largest difference as a fraction of the rounding bound
    shares: dict[str, np.ndarray]
    values: dict[str, dict[str, Tensor]]  # side -> quantity -> (steps, networks, ...)
    free_gap: float | None  # as in Bucket
    networks: int = 1
    buckets: list[Bucket] = field(default_factory=list)  # those that end within the chunk


def furthest(gaps: Iterable[float]) -> float:
    """Return the largest gap; NaN counts as larger than any number."""
    return max(gaps, key=lambda gap: (gap != gap, gap))


def merged(parts: Sequence[Chunk]) -> Chunk:
    """Return one chunk for the whole population, from chunks of the same steps of its parts.

    Losses, errors and accuracies are means over all networks; `values` are those of the first part.
    """
    first = parts[0]
    if len(parts) == 1:
        return first
    networks = sum(part.networks for part in parts)

    def mean(attribute: str) -> dict[str, Tensor]:
        columns: list[dict[str, Tensor]] = [getattr(part, attribute) for part in parts]
        weights = torch.tensor([part.networks / networks for part in parts]).double()
        return {
            side: torch.stack([c[side].double() for c in columns], -1) @ weights.to(column.device)
            for side, column in columns[0].items()
        }

    differences: dict[str, StepDifferences] = {}
    shares: dict[str, np.ndarray] = {}
    for part in parts:
        for name, steps in part.differences.items():
            differences[name] = steps + differences[name] if name in differences else steps
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
