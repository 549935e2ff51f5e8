"""The state of a run between two chunks of steps, as tensors and plain values, and back.

Everything that a later step, or the end, looks at: the weights and autograd's own, the random
streams, what was found so far. What can be drawn or read again from the settings is not here.
"""

import time
from typing import Any

import numpy as np
import torch
from msgspec import to_builtins

from compare.checkpoint.schema import RunState
from compare.training.adapters import Named
from compare.training.harness import Run
from compare.training.shard import Part


def gathered(run: Run) -> dict[str, Any]:
    """Return the state of a run as tensors and plain values."""
    given, report, tally, buckets = run.given, run.report, run.tally, run.buckets
    return {
        # of the rows that ranks share all have the same weights: rank 0's are kept
        "parts": None if run.along.rank else [_part(part) for part in run.parts],
        "last": None if run.last_output is None else run.last_output.to("cpu", copy=True),
        "unequal_chunks": run.judging.unequal_chunks,
        "curves": [to_builtins(bucket) for bucket in run.curves],
        "taken": given.taken,
        "order": None if given.order is None else torch.from_numpy(given.order),
        "chances": [_stream(chance) for chance in given.chances],
        "seconds": time.perf_counter() - run.started,
        "steps": report.steps,
        "free_gap": report.free_gap,
        "one_process": report.one_process and to_builtins(report.one_process),
        "quantities": [to_builtins(row) for row in report.quantities.values()],
        "first": {name: tuple(kind) for name, kind in tally.first.items()},
        "proofs": {n: [(k, to_builtins(p)) for k, p in each] for n, each in tally.proofs.items()},
        "bounds": tally.bounds,
        "diagnosed": {str(v): sorted(names) for v, names in run.prover.diagnosed.items()},
        "open": buckets.open and to_builtins(buckets.open),
        "so_far": {n: getattr(buckets, n) for n in ("unequal", "compared", "max_ulp")},
    }


def restore(run: Run, kept: RunState) -> None:
    """Give a run that is ready to train what `gathered` found, and `check_state` looked at."""
    given, report, tally, buckets = run.given, run.report, run.tally, run.buckets
    place = given.X.device
    for part, was in zip(run.parts, kept.parts or (), strict=True):
        part.state = {n: v.to(place, copy=True) for n, v in was.state.items()}
        if was.free is not None:
            part.free = {n: v.to(place, copy=True) for n, v in was.free.items()}
    run.last_output = None if kept.last is None else kept.last.to(place)
    run.judging.unequal_chunks = kept.unequal_chunks
    run.curves = kept.curves
    given.taken = kept.taken
    given.order = None if kept.order is None else kept.order.numpy()
    for chance, stream in zip(given.chances, kept.chances, strict=True):
        kind, keys, position, has_gauss, gauss = stream
        chance.set_state((kind, keys.numpy().astype(np.uint32), position, has_gauss, gauss))
    report.seconds, report.steps = kept.seconds, kept.steps
    report.free_gap = kept.free_gap
    if report.one_process and kept.one_process:
        vars(report.one_process).update(vars(kept.one_process))
    report.quantities |= {row.name: row for row in kept.quantities}
    tally.first, tally.proofs, tally.bounds = kept.first, kept.proofs, kept.bounds
    run.prover.diagnosed = {v: set(names) for v, names in kept.diagnosed.items()}
    buckets.open = kept.open
    vars(buckets).update(vars(kept.so_far))


def _part(part: Part) -> dict[str, Any]:
    return {"state": _own(part.state), "free": part.free and _own(part.free)}


def _own(values: Named) -> Named:
    """Return copies with storage of their own: a view would bring all that it is a view of."""
    return {name: value.to("cpu", copy=True) for name, value in values.items()}


def _stream(chance: np.random.RandomState) -> tuple[Any, ...]:
    kind, keys, *rest = chance.get_state(legacy=True)
    return kind, torch.from_numpy(np.asarray(keys, np.int64)), *rest  # ranks cannot send uint32
