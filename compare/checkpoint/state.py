"""The state of a run between two chunks of steps: that of each part of it that has one.

Everything that a later step, or the end, looks at: the weights and autograd's own, the random
streams, what was found so far. What can be drawn or read again from the settings is not here.
"""

import time
from typing import Annotated, Any

from msgspec import Meta
from torch import Tensor

from compare.report.quantity import Quantity
from compare.report.single_process import OneProcess
from compare.state_dict import Count, Stateful, Types, require, state_of, typed
from compare.training.downsample import SIDES
from compare.training.harness import Run

_REPORT = Types(
    steps=Count, seconds=Annotated[float, Meta(ge=0)], free_gap=float | None,
    quantities=dict[str, Quantity], one_process=OneProcess | None,
)  # fmt: skip
_RUN = Types(last_output=Tensor | None)


def _owners(run: Run) -> dict[str, Stateful]:
    """Return what has a state of its own, besides the parts of a population."""
    return {
        "given": run.given, "tally": run.tally, "buckets": run.buckets, "prover": run.prover,
        "judging": run.judging,
    }  # fmt: skip


def state_dict(run: Run) -> dict[str, Any]:
    """Return the state of a run as tensors and plain values."""
    run.report.seconds = time.perf_counter() - run.started
    return {
        "report": state_of(run.report, _REPORT),
        "run": state_of(run, _RUN),
        # of the rows that ranks share all have the same weights: rank 0's are kept
        "parts": None if run.along.rank else [part.state_dict() for part in run.parts],
        **{name: owner.state_dict() for name, owner in _owners(run).items()},
    }


def load_state_dict(run: Run, state: dict[str, Any]) -> None:
    """Give a run that is ready to train what `state_dict` returned.

    Raises an exception where it is not a state that this run can come to, and is of no use then.
    """
    report, own = typed(state["report"], _REPORT), typed(state["run"], _RUN)
    asked = run.report.one_process is not None
    require((report.one_process is not None) == asked, "one_process", "unasked")
    names = [row.name for row in report.quantities.values()]
    require(names == [*report.quantities], "quantities", "under other names")
    vars(run.report).update(vars(report))
    if run.beside:
        run.beside.found = report.one_process
    last = own.last_output
    if last is not None:
        require(last.ndim == 2 and last.is_floating_point(), "last_output", "no table of floats")
        run.last_output = last.to(run.given.X.device)
    for part, kept in zip(run.parts, state["parts"], strict=True):
        part.load_state_dict(kept)
    for name, owner in _owners(run).items():
        owner.load_state_dict(state[name])
    _check_steps(run)


def _check_steps(run: Run) -> None:
    """Raise ValueError where the parts of a run have not come equally far."""
    steps, every, buckets = run.report.steps, run.buckets.every, run.buckets.all
    require(steps < run.steps, "steps", f"{steps:,} done of {run.steps:,}")
    require(run.given.taken == steps, "taken", f"{run.given.taken:,} after {steps:,} steps")
    within = run.buckets.open is not None
    require(within == (steps % every != 0), "open", "a bucket too many or too few")
    ends = [bucket.start for bucket in buckets] + [steps]
    require(ends == [*range(0, steps, every), steps], "ended", "steps left out or twice")
    require([bucket.stop for bucket in buckets] == ends[1:], "ended", "steps left out or twice")
    for bucket in buckets:
        require(set(bucket.values) == {*SIDES}, "ended", "not of both sides")
        told = all("loss" in values for values in bucket.values.values())
        require(told, "ended", "no loss")
