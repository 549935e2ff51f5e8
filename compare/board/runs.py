"""`python -m compare runs` and `diff`: what stands in the run folders."""

import io
import json
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from msgspec import Meta

from compare import untrusted
from compare.checkpoint.folder import EVENTS, RESULT, STEPS
from compare.errors import BadInput, first_line, unknown
from compare.proof.verdict import Verdict

MOST_RESULT, MOST_RECORD = 2**26, 2**32  # bytes that are read
_OF_EACH_RUN = {"quantities", "seconds", "output", "free_gap"}  # not settings


@dataclass(frozen=True)
class _Row:
    """A quantity in result.json, as far as it is read."""

    name: str
    verdict: Verdict
    first_unequal: int | None = None


@dataclass(frozen=True)
class _Result:
    """result.json, as far as it is read."""

    case: str
    verdict: Verdict
    steps: Annotated[int, Meta(ge=0, le=10**15)]
    seconds: Annotated[float, Meta(ge=0, le=1e15)]
    quantities: list[_Row]
    interrupted: bool = False


@dataclass(frozen=True)
class RunEntry:
    """A run folder: its name, and its result where it came to an end and can be read."""

    path: Path
    result: dict[str, Any] | None
    problem: str = ""  # why it cannot

    @property
    def name(self) -> str:
        """The folder's own name."""
        return self.path.name


def runs(log_dir: Path) -> list[RunEntry]:
    """Return the run folders, oldest first; raises BadInput where there are none."""
    found = [path for path in log_dir.glob("*") if _is_run(path)]
    # a name counts seconds; of one second the folder that was made first
    folders = sorted(found, key=lambda p: (p.name[:19], (p / "manual").lstat().st_mtime_ns))
    if not folders:
        raise BadInput(
            f"nothing in {log_dir} yet: python -m compare runs a case and leaves a folder there"
        )
    return [_kept(path) for path in folders]


def find(log_dir: Path, name: str) -> RunEntry:
    """Return the run called `name`, or the one in that folder; raises BadInput with near names."""
    path = Path(name)
    if _is_run(path):
        return _kept(path)
    kept = {run.name: run for run in runs(log_dir)}
    ending = [run for key, run in kept.items() if key.endswith(name)] if name else []
    if name in kept:
        return kept[name]
    if len(ending) == 1:
        return ending[0]
    if ending:
        raise BadInput(
            f"run {name!r} is the end of {len(ending)} names: give one whole, the newest is "
            f"{ending[-1].name}"
        )
    raise unknown("run", name, kept)


def _is_run(path: Path) -> bool:
    return any((path / "manual").glob(f"{EVENTS}*"))


def _kept(path: Path) -> RunEntry:
    try:
        return RunEntry(path, result(path))
    except BadInput as error:
        return RunEntry(path, None, str(error))


def differences(one: RunEntry, other: RunEntry) -> Iterator[tuple[str, str, str]]:
    """Yield in what two runs differ: what it is, and how it is in each.

    Raises BadInput for a run without a result, or with files that cannot be read.
    """
    results = []
    for run in (one, other):
        if run.problem:
            raise BadInput(run.problem)
        if run.result is None:
            raise BadInput(f"run {run.name}: it has no {RESULT}, it was stopped before its end")
        results.append(run.result)
    for told_of in (_settings, _quantities):
        flat = [dict(told_of(result)) for result in results]
        for key in dict.fromkeys([*flat[0], *flat[1]]):
            values = [str(each.get(key, "none")) for each in flat]
            if values[0] != values[1]:
                yield key, values[0], values[1]
    yield from _first_unequal_loss(one, other)


def _settings(result: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in result.items():
        if key in _OF_EACH_RUN:
            continue
        if isinstance(value, dict):
            yield from ((f"{key}.{inner}", each) for inner, each in value.items())
        else:
            yield key, value


def _quantities(result: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for row in result["quantities"]:
        yield f"{row['name']} verdict", row["verdict"]
        yield f"{row['name']} first unequal step", row.get("first_unequal")


def _first_unequal_loss(one: RunEntry, other: RunEntry) -> Iterator[tuple[str, str, str]]:
    """Yield the losses at the first step at which the two by-hand sides have another one."""
    mine, others = (_losses(run.path / STEPS) for run in (one, other))
    if mine is None or others is None:
        return
    shared = min(len(mine), len(others))
    for step in np.flatnonzero(mine[:shared] != others[:shared])[:1]:
        label = f"loss by hand at step {step:,}, the first to differ"
        yield label, repr(float(mine[step])), repr(float(others[step]))


def _losses(path: Path) -> Any:
    """Return the by-hand losses of steps.npz, None where there is none of it.

    Raises BadInput for a file that is damaged.
    """
    try:
        data = untrusted.read(path, MOST_RECORD)
    except FileNotFoundError:
        return None
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as found:
            part = found.getinfo("loss_manual.npy")
            if part.file_size > MOST_RECORD:
                raise ValueError(f"{part.file_size:,} bytes of losses")
            with found.open(part) as file:
                whole = file.read(MOST_RECORD)
        return _vector(whole)
    except Exception as error:  # what an odd file ends in is anything: it is bytes of anybody's
        raise BadInput(
            f"{path} cannot be read ({first_line(error)}): put the run's own back, or remove it"
        ) from None


def _vector(data: bytes) -> np.ndarray:
    """Return the float64 numbers of a .npy file; raises ValueError for anything else in it."""
    file = io.BytesIO(data)
    if np.lib.format.read_magic(file) != (1, 0):
        raise ValueError("another kind of .npy file")
    shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    rest = data[file.tell() :]
    if dtype != np.float64 or len(shape) != 1 or shape[0] * 8 != len(rest):
        raise ValueError(f"an array of {shape} {dtype}")
    return np.frombuffer(rest, dtype)


def result(path: Path) -> dict[str, Any] | None:
    """Return what a run folder's result.json holds, None where there is none.

    Raises BadInput for one that cannot be read, or is no result.
    """
    file = path / RESULT
    try:
        found = json.loads(untrusted.read(file, MOST_RESULT))
        untrusted.converted(found, _Result)
    except FileNotFoundError:
        return None
    except BadInput:
        raise
    except (ValueError, RecursionError) as error:
        raise BadInput(
            f"{file} is no result ({first_line(error)}): put the run's own back, or remove it"
        ) from None
    return dict(found)
