"""What stands in a checkpoint: the type and the range of everything in it.

A file made by somebody else is read by this alone. What fits is then compared with the run that its
settings make, by `check_state` and `check_folder`: names, shapes, dtypes, and how far it has come.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import torch
from msgspec import Meta
from torch import Tensor

from compare.cases.cases import Network, Rows
from compare.checkpoint.folder import SUBRUNS, SubRun
from compare.proof.bits import Kind
from compare.proof.verdict import Proof
from compare.report.chunk import Bucket
from compare.report.quantity import Quantity
from compare.report.single_process import OneProcess
from compare.training.adapters import Named
from compare.training.downsample import SIDES
from compare.training.harness import Run

Count = Annotated[int, Meta(ge=0)]
Positive = Annotated[int, Meta(ge=1)]
#: A file of curves, as this project and TensorBoard name them: no separator, no other file.
EventFileName = Annotated[str, Meta(pattern=r"\Aevents\.out\.tfevents\.[0-9A-Za-z._-]{1,200}\Z")]
_WORDS = 624  # of numpy's generator
Stream = tuple[
    Literal["MT19937"], Tensor, Annotated[int, Meta(ge=0, le=_WORDS)],
    Annotated[int, Meta(ge=0, le=1)], float,
]  # fmt: skip


@dataclass(frozen=True)
class CaseState:
    """A case without its data and its table of networks."""

    name: str
    shows: str
    network: Network
    X: Rows
    y: Rows
    steps: Positive
    by_hand: str
    grouping: str | None
    promises: str
    unnamed: tuple[str, ...]
    init: str
    batch_size: Positive | None


@dataclass(frozen=True)
class Asked:
    """The keyword arguments of Run."""

    dtype: str
    device: str
    seed: Count
    population: Positive
    steps: Positive
    plain: bool
    lift: str | Count


@dataclass(frozen=True)
class PartState:
    """Some networks' weights, by hand and where autograd goes on its own."""

    state: dict[str, Tensor]
    free: dict[str, Tensor] | None


@dataclass(frozen=True)
class SoFar:
    """What the buckets have added up."""

    unequal: dict[str, Count]
    compared: dict[str, Count]
    max_ulp: float


@dataclass(frozen=True)
class RunState:
    """One rank's run after a whole chunk, as `snapshot.gathered` has it."""

    parts: list[PartState] | None
    last: Tensor | None
    unequal_chunks: Count
    curves: list[Bucket]
    taken: Count
    order: Tensor | None
    chances: list[Stream]
    seconds: Annotated[float, Meta(ge=0)]
    steps: Count
    free_gap: float | None
    one_process: OneProcess | None
    quantities: list[Quantity]
    first: dict[str, Kind]
    proofs: dict[str, list[tuple[Count, Proof]]]
    bounds: dict[str, tuple[float | None, Count]]
    diagnosed: dict[str, list[str]]
    open: Bucket | None
    so_far: SoFar


@dataclass(frozen=True)
class RankState:
    """What one rank has: what its bits depend on, and its run."""

    world: dict[str, str]
    run: RunState


@dataclass(frozen=True)
class FolderState:
    """What the run folder keeps of its own."""

    told: Count
    silent: Bucket | None
    files: dict[SubRun, tuple[EventFileName, Count]]
    names: list[str]
    arrays: dict[str, Tensor]


@dataclass(frozen=True)
class Kept:
    """A whole checkpoint."""

    case: CaseState
    data: str | tuple[str, str | None] | None
    asked: Asked
    rows: str
    ranks: Annotated[list[RankState], Meta(min_length=1)]
    folder: FolderState


def check_folder(folder: FolderState, run: RunState) -> None:
    """Raise ValueError where the folder's own state does not go with the first rank's run."""
    _be(set(folder.files) == {*SUBRUNS}, "files", "not one of each sub-run")
    _be(folder.told <= len(run.curves), "told", "more than there are curves")
    arrays, steps = dict(folder.arrays), run.steps
    for side in SIDES:
        _vector(arrays.pop(f"loss_{side}", None), steps, torch.float64, f"arrays.loss_{side}")
    for name in folder.names:
        kinds = {f"unequal/{name}": torch.int64, f"max_ulp/{name}": torch.uint64}
        _be(len(kinds.keys() & arrays.keys()) != 1, "arrays", f"half of {name!r}")
        for key in kinds.keys() & arrays.keys():
            _vector(arrays.pop(key), steps, kinds[key], f"arrays.{key}")
    _be(not arrays, "arrays", f"{next(iter(arrays), '')!r} is of nothing that was named")


def check_state(kept: RunState, run: Run) -> None:
    """Raise ValueError where a state is not one that this run, made anew, can come to."""
    given, every = run.given, run.buckets.every
    _be(kept.steps < run.steps, "steps", f"{kept.steps:,} done of {run.steps:,}")
    _be(kept.taken == kept.steps, "taken", f"{kept.taken:,} after {kept.steps:,} steps")
    _be(len(kept.parts or ()) == len(run.parts), "parts", "another number of them")
    for was, part in zip(kept.parts or (), run.parts, strict=True):
        _alike(was.state, part.state, "parts.state")
        if was.free is not None:
            _alike(was.free, part.state, "parts.free")
    if kept.last is not None:
        _be(kept.last.ndim == 2 and kept.last.is_floating_point(), "last", "no table of floats")
    _be(len(kept.chances) == len(given.chances), "chances", "another number of them")
    for _, words, *_rest in kept.chances:
        _vector(words, _WORDS, torch.int64, "chances")
        _be(bool(((words >= 0) & (words < 2**32)).all()), "chances", "words beyond 32 bits")
    _check_order(kept.order, run, kept.steps)
    _be((kept.one_process is None) == (run.report.one_process is None), "one_process", "unasked")
    rows = {row.name for row in kept.quantities if row.problem is None}
    _be(rows == {*kept.first}, "quantities", "other names than at first")
    _be({*kept.proofs} <= {row.name for row in kept.quantities}, "proofs", "of no quantity")
    _be(all(kept.proofs.values()), "proofs", "none of a quantity")
    buckets = [*kept.curves, *([] if kept.open is None else [kept.open])]
    _be((kept.open is None) == (kept.steps % every == 0), "open", "a bucket too many or too few")
    ends = [bucket.start for bucket in buckets] + [kept.steps]
    _be(ends == [*range(0, kept.steps, every), kept.steps], "curves", "steps left out or twice")
    _be([bucket.stop for bucket in buckets] == ends[1:], "curves", "steps left out or twice")
    for bucket in buckets:
        _be(set(bucket.values) == {*SIDES}, "curves", "not of both sides")
        _be(all("loss" in values for values in bucket.values.values()), "curves", "no loss")


def _check_order(order: Tensor | None, run: Run, steps: int) -> None:
    drawn = run.case.batch_size is not None and steps > 0
    _be((order is None) != drawn, "order", "of rows that are not drawn")
    if order is not None:
        rows = run.given.X.shape[-2]
        fits = order.shape == (len(run.given.chances), rows) and order.dtype == torch.int64
        _be(fits and np.array_equal(order.sort(1).values, torch.arange(rows).expand_as(order)),
            "order", "no order of the rows")  # fmt: skip


def _alike(was: Named, fresh: Named, what: str) -> None:
    _be([*was] == [*fresh], what, "other names")
    for name, value in was.items():
        kinds = [(tuple(v.shape), v.dtype, v.layout) for v in (value, fresh[name])]
        _be(kinds[0] == kinds[1], f"{what}.{name}", "another shape or dtype")


def _vector(value: Tensor | None, length: int, dtype: torch.dtype, what: str) -> None:
    fits = value is not None and value.shape == (length,) and value.dtype == dtype
    _be(fits, what, f"not {length:,} numbers of {str(dtype).removeprefix('torch.')}")


def _be(so: bool, what: str, odd: str) -> None:
    if not so:
        raise ValueError(f"{odd} - at `$.{what}`")
