"""The checkpoint of a run: its settings, its state, and what its bits depend on; in one file.

The data and the first weights are drawn again from the settings, and a digest says whether the rows
are still the same. Of several ranks rank 0 writes what all of them have after the same chunk, and
hands it out again: a checkpoint is of one step and whole, and other machines need no file.

The state is that of each part of the run that has one, between two chunks of steps: everything that
a later step, or the end, looks at: the weights and autograd's own, the random streams, what was
found so far. What can be drawn or read again from the settings is not in it.
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
from compare.state_dict import Count, Stateful, Types, plain, require, typed
from compare.training.downsample import SIDES
from compare.training.harness import Run
from compare.training.sampling import Sampler

EVERY = 5.0  # seconds at least between two, so that a short run writes none
SHARE = 0.02  # of a run's time may go into writing them
PART = "part "  # of a population, before its number

Positive = Annotated[int, Meta(ge=1)]
#: A case without its data and its table of networks, and the keyword arguments of Run.
_CASE = Types({f.name: f.type for f in fields(Case) if f.name not in ("data", "sweep")})
_ASKED = Types(
    dtype=str, device=str, seed=Count, population=Positive, steps=Positive, plain=bool,
    lift=str | Count,
)  # fmt: skip


@dataclass(frozen=True)
class RankState:
    """What one rank has: what its bits depend on, and its run."""

    world: dict[str, str]
    run: dict[str, Any]


@dataclass
class Checkpoint:
    """A run that was stopped: what it was asked, and how far it had come."""

    path: Path  # of the file
    case: Case
    data: str | tuple[str, str | None] | None  # a case's name, or a file and its target
    asked: dict[str, Any]  # the keyword arguments of Run
    rows: str  # a digest of them
    ranks: Annotated[list[RankState], Meta(min_length=1)]  # of all that it was run on
    folder: dict[str, Any]  # what the run folder keeps of its own

    @property
    def name(self) -> str:
        """The run folder's."""
        return self.path.parent.name

    def of(self, rank: int) -> "Checkpoint":
        """Return what one rank goes on with: its state alone, and nothing of the folder."""
        first, own = self.ranks[0].run, self.ranks[rank]
        parts = {name: state for name, state in first.items() if name.startswith(PART)}
        ranks = [RankState(own.world, parts | own.run)]
        return dataclasses.replace(self, ranks=ranks, folder={})

    def run(self, ranks: Ranks = ALONE) -> Run:
        """Return the run as it was on the one rank whose state this is.

        Raises BadInput where its bits could come out otherwise.
        """
        here = _world(environment(device_named(self.asked["device"])))
        (own,) = self.ranks
        was = own.world
        for item in {**was, **here}:
            if was.get(item) != here.get(item):
                raise BadInput(
                    f"run {self.name}: {item} was {was.get(item)} and is {here.get(item)} here, "
                    "and other bits could come of it: resume it where it was begun, or run it anew"
                )
        with usable(self.path):
            run = Run(self.case, ranks=ranks, **self.asked)
        if _digest(run.given) != self.rows:
            file = self.data
            what = f"--data {file[0]}" if isinstance(file, tuple) else f"case {self.case.name}"
            raise BadInput(
                f"run {self.name}: {what} holds other rows than when it was begun: "
                "put those back, or run it anew"
            )
        with usable(self.path):
            _load_state_dict(run, own.run)
        return run


#: What the file holds; the states are looked at by whose they are.
_KEPT = Types({f.name: f.type for f in fields(Checkpoint) if f.name != "path"})
_KEPT["case"] = dict[str, Any]


def can(run: Run) -> bool:
    """Whether a file can hold the run: not one with Python code of one's own."""
    return not run.own_step and (run.case.data is None or _data(run.case) is not None)


def states(run: Run, wanted: bool = False) -> list[dict[str, Any]] | None:
    """Return, on rank 0, the states of all ranks, if it `wanted` them and they make a checkpoint.

    All ranks ask this after each chunk.
    """
    last = run.report.steps == run.steps or not run.regular
    if last or not can(run) or not run.ranks.any(wanted):
        return None
    mine = {"world": _world(run.report.environment), "run": _state_dict(run)}
    return run.ranks.to_first(mine)


def save(run: Run, states: list[dict[str, Any]], path: Path, folder: dict[str, Any]) -> None:
    """Write a checkpoint; raises BadInput where it cannot be written."""
    kept = {
        "case": plain(dataclasses.replace(run.case, data=None, sweep=())),
        "data": _data(run.case),
        "asked": run.asked,
        "rows": _digest(run.given),
        "ranks": states,
        "folder": folder,
    }
    checksummed.write(path, kept)


def load(path: Path) -> Checkpoint:
    """Read a checkpoint; raises BadInput where there is none, or none that can be used."""
    if not path.exists():
        raise BadInput(
            f"run {path.parent.name}: there is no checkpoint in it (the first is written after "
            f"{EVERY:g} s, and none of a step or data of one's own from Python): run it anew"
        )
    found = checksummed.read(path)
    with usable(path):
        kept = typed(found, _KEPT)
        case = Case(**vars(typed(kept.case, _CASE)))
        asked = vars(typed(kept.asked, _ASKED))
        case.network.check()
        if (case.by_hand, case.grouping) not in {(c.by_hand, c.grouping) for c in CASES.values()}:
            raise ValueError(f"{case.by_hand!r} is no listing of this project - at `$.case`")
        if isinstance(kept.data, tuple):
            file, target = kept.data
            case = dataclasses.replace(case, data=functools.partial(csv_table, Path(file), target))
        elif kept.data is not None:
            case = dataclasses.replace(case, data=CASES[kept.data].data)
    kept.case, kept.asked = case, asked
    return Checkpoint(path, **vars(kept))


@contextlib.contextmanager
def usable(path: Path) -> Iterator[None]:
    """Turn whatever an odd checkpoint ends in into BadInput: nothing is touched before."""
    try:
        yield
    except BadInput:
        raise
    except Exception as error:
        raise BadInput(
            f"{path} holds no run that can be gone on with ({first_line(error)}): "
            "put the run's own back, or run it anew"
        ) from error


def _owners(run: Run) -> dict[str, Stateful]:
    """Return whatever has a state, each after those that it is checked by."""
    return {
        "report": run.report, "run": run, "given": run.given, "tally": run.tally,
        "buckets": run.buckets, "prover": run.prover, "judging": run.judging,
        **{f"{PART}{k}": part for k, part in enumerate(run.parts)},
    }  # fmt: skip


def _state_dict(run: Run) -> dict[str, Any]:
    """Return the state of a run as tensors and plain values."""
    run.report.seconds = time.perf_counter() - run.started
    # of the rows that ranks share all have the same weights: rank 0's are kept
    owners = {n: o for n, o in _owners(run).items() if not (run.along.rank and n.startswith(PART))}
    return {name: owner.state_dict() for name, owner in owners.items()}


def _load_state_dict(run: Run, state: dict[str, Any]) -> None:
    """Give a run that is ready to train what `_state_dict` returned.

    Raises an exception where it is not a state that this run can come to, and is of no use then.
    """
    for name, owner in _owners(run).items():
        owner.load_state_dict(state[name])
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


def _data(case: Case) -> str | list[str | None] | None:
    """Return what names the data: a case's name, or a file and its target; None: nothing does."""
    if isinstance(case.data, functools.partial) and case.data.func is csv_table:
        path, target = case.data.args
        return [str(path), target]
    return next((c.name for c in CASES.values() if case.data and c.data is case.data), None)


def _world(environment: dict[str, Any]) -> dict[str, str]:
    """Return what the bits depend on: this project's own code, and the machine's."""
    code = hashlib.sha256()
    for package in ("compare", "manual", "torch_ref"):
        for file in sorted((Path(__file__).parents[2] / package).rglob("*.py")):
            code.update(file.read_bytes())
    own = f"{compare.__version__}+{code.hexdigest()[:12]}"
    return {"deltacheck": own, **{item: str(value) for item, value in environment.items()}}


def _digest(given: Sampler) -> str:
    """Return a digest of the rows to learn from and of those kept back."""
    found = hashlib.sha256(repr(given.classes).encode())
    for value in (given.X, given.y, given.X_test, given.y_test):
        if value is not None:
            one = value[0].cpu().contiguous()
            found.update(repr(tuple(one.shape)).encode() + one.view(torch.uint8).numpy().tobytes())
    return found.hexdigest()
