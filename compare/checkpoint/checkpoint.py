"""The checkpoint of a run in one file: its settings, its state, and the versions behind its bits.

The data and the first weights are sampled again from the settings; a digest detects changed data
rows. With several ranks, rank 0 writes the states of all ranks after the same chunk, and
distributes them on resuming. So a checkpoint is complete and of one step, and other machines need
no file.

The state is taken between two chunks of steps, from each component of the run that has one. It is
everything that a later step or the end of the run reads: the weights on both sides, the random
streams, and the results so far. Nothing that can be sampled or read again is in it.
"""

import contextlib
import dataclasses
import functools
import hashlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, fields
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import torch
from msgspec import Meta

import compare
from compare.cases.cases import CASES, Case
from compare.cases.data import csv_table
from compare.checkpoint import file as checksummed
from compare.environment import device_named, environment
from compare.errors import BadInput, first_line
from compare.ranks.ranks import ALONE, Ranks
from compare.stateful import Count, Stateful, Types, plain, require, typed
from compare.training.downsample import SIDES
from compare.training.harness import Run
from compare.training.sampling import Sampler

EVERY = 5.0  # the least seconds between two checkpoints, so that a short run writes none
SHARE = 0.02  # the share of a run's time that writing checkpoints may take
PART = "part "  # the name of a shard's state in the file, before its number

Positive = Annotated[int, Meta(ge=1)]
#: The types of a case without its data and its sweep.
_CASE = Types({f.name: f.type for f in fields(Case) if f.name not in ("data", "sweep")})
#: The types of the keyword arguments of Run.
_ARGUMENTS = Types(
    dtype=str, device=str, seed=Count, population=Positive, steps=Positive, plain=bool,
    lift=str | Count,
)  # fmt: skip


@dataclass(frozen=True)
class RankState:
    """The checkpoint of one rank: the environment that its bits depend on, and its run's state."""

    world: dict[str, str]
    run: dict[str, Any]


@dataclass
class Checkpoint:
    """A stopped run: its arguments, and its state at the last checkpoint."""

    path: Path  # of the file
    case: Case
    data: str | tuple[str, str | None] | None  # the name of a case, or a file and its target
    asked: dict[str, Any]  # the keyword arguments of Run
    rows: str  # the digest of the data
    ranks: Annotated[list[RankState], Meta(min_length=1)]  # the state of each rank
    folder: dict[str, Any]  # the state of the run folder

    @property
    def name(self) -> str:
        """The name of the run folder."""
        return self.path.parent.name

    def for_rank(self, rank: int) -> "Checkpoint":
        """Return the checkpoint with the state of one rank only, and without the folder's."""
        first, state = self.ranks[0].run, self.ranks[rank]
        # ranks that share rows have the same weights, which are in the file once, with rank 0
        weights = {name: part for name, part in first.items() if name.startswith(PART)}
        ranks = [RankState(state.world, weights | state.run)]
        return dataclasses.replace(self, ranks=ranks, folder={})

    def run(self, ranks: Ranks = ALONE) -> Run:
        """Return the run, ready to resume; the checkpoint has the state of one rank.

        Args:
            ranks: the ranks that resume the run.

        Raises:
            BadInput: if the environment, the code or the data has changed, so that the bits could
                differ, or if the state is not one of this run.
        """
        now = _world(environment(device_named(self.asked["device"])))
        (state,) = self.ranks
        then = state.world
        for item in {**then, **now}:
            if then.get(item) != now.get(item):
                raise BadInput(
                    f"run {self.name}: {item} was {then.get(item)} and is {now.get(item)} now, "
                    "which could change bits: resume the run in its first environment, or start a "
                    "new run"
                )
        with usable(self.path):
            run = Run(self.case, ranks=ranks, **self.asked)
        if _digest(run.sampler) != self.rows:
            file = self.data
            source = f"--data {file[0]}" if isinstance(file, tuple) else f"case {self.case.name}"
            raise BadInput(
                f"run {self.name}: the rows of {source} have changed since the run started: "
                "restore them, or start a new run"
            )
        with usable(self.path):
            _load_state_dict(run, state.run)
        return run


#: The types of the file's contents; each owner checks the types of its own state.
_CONTENTS = Types({f.name: f.type for f in fields(Checkpoint) if f.name != "path"})
_CONTENTS["case"] = dict[str, Any]


def can_save(run: Run) -> bool:
    """Whether a file can hold the run: not one whose step or data is a function of the user."""
    return not run.has_custom_step and (run.case.data is None or _data(run.case) is not None)


def states(run: Run, requested: bool = False) -> list[dict[str, Any]] | None:
    """Return the states of all ranks for a checkpoint. Every rank has to call it after each chunk.

    Args:
        run: the run.
        requested: whether this rank requests a checkpoint now.

    Returns:
        On rank 0 the state of each rank; None if no rank requested them, if the run is over or
        cannot be saved, and on the other ranks.
    """
    last = run.report.steps == run.steps or not run.regular
    if last or not can_save(run) or not run.ranks.any(requested):
        return None
    state = {"world": _world(run.report.environment), "run": _state_dict(run)}
    return run.ranks.gather_to_rank0(state)


def save(run: Run, states: list[dict[str, Any]], path: Path, folder: dict[str, Any]) -> None:
    """Write a checkpoint.

    Args:
        run: the run.
        states: the state of each rank, from `states`.
        path: the file.
        folder: the state of the run folder, as plain values.

    Raises:
        BadInput: if the file cannot be written.
    """
    contents = {
        "case": plain(dataclasses.replace(run.case, data=None, sweep=())),
        "data": _data(run.case),
        "asked": run.arguments,
        "rows": _digest(run.sampler),
        "ranks": states,
        "folder": folder,
    }
    checksummed.write(path, contents)


def load(path: Path) -> Checkpoint:
    """Read a checkpoint.

    Raises:
        BadInput: if there is no checkpoint, or none that can be used.
    """
    if not path.exists():
        raise BadInput(
            f"run {path.parent.name}: it has no checkpoint (the first is written after {EVERY:g} "
            "s, and none for a step or data function from Python): start a new run"
        )
    raw = checksummed.read(path)
    with usable(path):
        contents = typed(raw, _CONTENTS)
        case = Case(**vars(typed(contents.case, _CASE)))
        arguments = vars(typed(contents.asked, _ARGUMENTS))
        case.network.check()
        if (case.by_hand, case.grouping) not in {(c.by_hand, c.grouping) for c in CASES.values()}:
            raise ValueError(f"{case.by_hand!r} is not a listing of this project - at `$.case`")
        if isinstance(contents.data, tuple):
            file, target = contents.data
            case = dataclasses.replace(case, data=functools.partial(csv_table, Path(file), target))
        elif contents.data is not None:
            case = dataclasses.replace(case, data=CASES[contents.data].data)
    contents.case, contents.asked = case, arguments
    return Checkpoint(path, **vars(contents))


@contextlib.contextmanager
def usable(path: Path) -> Iterator[None]:
    """Turn any exception that an invalid checkpoint causes into BadInput.

    The body must not change any file.
    """
    try:
        yield
    except BadInput:
        raise
    except Exception as error:
        raise BadInput(
            f"{path} is not a run that can be resumed ({first_line(error)}): restore the run's "
            "own checkpoint, or start a new run"
        ) from error


def _owners(run: Run) -> dict[str, Stateful]:
    """Return the objects that have a state, each after those that its check reads."""
    return {
        "report": run.report, "run": run, "given": run.sampler, "tally": run.tally,
        "buckets": run.buckets, "prover": run.prover, "judging": run.comparison,
        **{f"{PART}{k}": shard for k, shard in enumerate(run.shards)},
    }  # fmt: skip


def _state_dict(run: Run) -> dict[str, Any]:
    """Return the state of a run as tensors and plain values."""
    run.report.seconds = time.perf_counter() - run.started
    # ranks that share rows have the same weights: only rank 0's are saved
    shares_weights = run.row_ranks.rank > 0
    owners = {n: o for n, o in _owners(run).items() if not (shares_weights and n.startswith(PART))}
    return {name: owner.state_dict() for name, owner in owners.items()}


def _load_state_dict(run: Run, state: dict[str, Any]) -> None:
    """Load the value of `_state_dict` into a run that is ready to train.

    Raises an exception for a state that this run cannot have; the run must not be used then.
    """
    for name, owner in _owners(run).items():
        owner.load_state_dict(state[name])
    steps, every, buckets = run.report.steps, run.buckets.every, run.buckets.all
    require(steps < run.steps, "steps", f"{steps:,} done of {run.steps:,}")
    require(run.sampler.taken == steps, "taken", f"{run.sampler.taken:,} after {steps:,} steps")
    has_open = run.buckets.open is not None
    require(has_open == (steps % every != 0), "open", "a bucket too many or too few")
    cuts = [*range(0, steps, every), steps]
    ranges = [(bucket.start, bucket.stop) for bucket in buckets]
    require(ranges == [*pairwise(cuts)], "ended", "missing or repeated steps")
    for bucket in buckets:
        complete = set(bucket.values) == {*SIDES} and all(
            "loss" in values for values in bucket.values.values()
        )
        require(complete, "ended", "not the losses of both sides")


def _data(case: Case) -> str | list[str | None] | None:
    """Return the source of the data: a case's name, or a file and its target; None: a function."""
    if isinstance(case.data, functools.partial) and case.data.func is csv_table:
        path, target = case.data.args
        return [str(path), target]
    return next((c.name for c in CASES.values() if case.data and c.data is case.data), None)


def _world(environment: dict[str, Any]) -> dict[str, str]:
    """Return all that the bits depend on: the project's version and source, and the environment."""
    code = hashlib.sha256()
    for package in ("compare", "manual", "torch_ref"):
        for file in sorted((Path(__file__).parents[2] / package).rglob("*.py")):
            code.update(file.read_bytes())
    version = f"{compare.__version__}+{code.hexdigest()[:12]}"
    return {"deltacheck": version, **{item: str(value) for item, value in environment.items()}}


def _digest(sampler: Sampler) -> str:
    """Return a digest of the training rows and the test rows."""
    digest = hashlib.sha256(repr(sampler.classes).encode())
    for value in (sampler.X, sampler.y, sampler.X_test, sampler.y_test):
        if value is not None:
            rows = value[0].cpu().contiguous()  # the same for every network
            digest.update(repr(tuple(rows.shape)).encode())
            digest.update(rows.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
