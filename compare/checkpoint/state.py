"""The state of a run between two chunks of steps: that of each part of it that has one.

Everything that a later step, or the end, looks at: the weights and autograd's own, the random
streams, what was found so far. What can be drawn or read again from the settings is not here.
"""

import time
from itertools import pairwise
from typing import Any

from compare.state_dict import Stateful, require
from compare.training.downsample import SIDES
from compare.training.harness import Run

PART = "part "  # of a population, before its number


def _owners(run: Run) -> dict[str, Stateful]:
    """Return whatever has a state, each after those that it is checked by."""
    return {
        "report": run.report, "run": run, "given": run.given, "tally": run.tally,
        "buckets": run.buckets, "prover": run.prover, "judging": run.judging,
        **{f"{PART}{k}": part for k, part in enumerate(run.parts)},
    }  # fmt: skip


def state_dict(run: Run) -> dict[str, Any]:
    """Return the state of a run as tensors and plain values."""
    run.report.seconds = time.perf_counter() - run.started
    # of the rows that ranks share all have the same weights: rank 0's are kept
    owners = {n: o for n, o in _owners(run).items() if not (run.along.rank and n.startswith(PART))}
    return {name: owner.state_dict() for name, owner in owners.items()}


def load_state_dict(run: Run, state: dict[str, Any]) -> None:
    """Give a run that is ready to train what `state_dict` returned.

    Raises an exception where it is not a state that this run can come to, and is of no use then.
    """
    for name, owner in _owners(run).items():
        owner.load_state_dict(state[name])
    if run.single_process and run.report.one_process:
        run.single_process.found = run.report.one_process
    steps, every, buckets = run.report.steps, run.buckets.every, run.buckets.all
    require(steps < run.steps, "steps", f"{steps:,} done of {run.steps:,}")
    require(run.given.taken == steps, "taken", f"{run.given.taken:,} after {steps:,} steps")
    within = run.buckets.open is not None
    require(within == (steps % every != 0), "open", "a bucket too many or too few")
    cuts = [*range(0, steps, every), steps]
    found = [(bucket.start, bucket.stop) for bucket in buckets]
    require(found == [*pairwise(cuts)], "ended", "steps left out or twice")
    for bucket in buckets:
        both = set(bucket.values) == {*SIDES} and all("loss" in v for v in bucket.values.values())
        require(both, "ended", "not the losses of both sides")
