"""Reads run folders, for `python -m compare runs` and `diff`."""

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
from compare.checkpoint.run_folder_files import EVENTS, RESULT, STEPS
from compare.errors import BadInput, first_line, unknown
from compare.proof.verdict import Verdict

MOST_RESULT, MOST_RECORD = 2**26, 2**32  # bytes: the largest result.json and log that are read
_NOT_SETTINGS = {"quantities", "seconds", "output", "free_gap"}


@dataclass(frozen=True)
class _Row:
    """The part of a quantity in result.json that is read."""

    name: str
    verdict: Verdict
    first_unequal: int | None = None


@dataclass(frozen=True)
class _Result:
    """The part of result.json that is read."""

    case: str
    verdict: Verdict
    steps: Annotated[int, Meta(ge=0, le=10**15)]
    seconds: Annotated[float, Meta(ge=0, le=1e15)]
    quantities: list[_Row]
    interrupted: bool = False


@dataclass(frozen=True)
class RunEntry:
    """A run folder, and its result if the run ended and the result can be read."""

    path: Path
    result: dict[str, Any] | None
    problem: str = ""  # the reason why the result cannot be read

    @property
    def name(self) -> str:
        """The name of the folder."""
        return self.path.name


def runs(log_dir: Path) -> list[RunEntry]:
    """Return the run folders, oldest first; raise BadInput if there are none."""
    paths = [path for path in log_dir.glob("*") if _is_run(path)]
    # a name holds the time to the second; within a second the folder that was made first is first
    folders = sorted(paths, key=lambda p: (p.name[:19], (p / "manual").lstat().st_mtime_ns))
    if not folders:
        raise BadInput(
            f"no runs in {log_dir} yet: python -m compare runs a case and makes a run folder there"
        )
    return [_entry(path) for path in folders]


def find(log_dir: Path, name: str) -> RunEntry:
    """Return the run that `name` names.

    Args:
        log_dir: the folder that holds the run folders.
        name: the name of a run folder, the end of the name, or a path.

    Raises:
        BadInput: if no run has this name, with similar names, or if several names end in it.
    """
    path = Path(name)
    if _is_run(path):
        return _entry(path)
    entries = {run.name: run for run in runs(log_dir)}
    matches = [run for key, run in entries.items() if key.endswith(name)] if name else []
    if name in entries:
        return entries[name]
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise BadInput(
            f"run {name!r}: {len(matches)} names end in it; give a complete name, the newest is "
            f"{matches[-1].name}"
        )
    raise unknown("run", name, entries)


def _is_run(path: Path) -> bool:
    return any((path / "manual").glob(f"{EVENTS}*"))


def _entry(path: Path) -> RunEntry:
    try:
        return RunEntry(path, result(path))
    except BadInput as error:
        return RunEntry(path, None, str(error))


def differences(one: RunEntry, other: RunEntry) -> Iterator[tuple[str, str, str]]:
    """Yield the differences between two runs: a name, and its value in each run.

    Raises:
        BadInput: for a run without a result, or with files that cannot be read.
    """
    results = []
    for run in (one, other):
        if run.problem:
            raise BadInput(run.problem)
        if run.result is None:
            raise BadInput(f"run {run.name} has no {RESULT}: it was stopped early")
        results.append(run.result)
    for part in (_settings, _quantities):
        flat = [dict(part(result)) for result in results]
        for key in dict.fromkeys([*flat[0], *flat[1]]):
            values = [str(each.get(key, "none")) for each in flat]
            if values[0] != values[1]:
                yield key, values[0], values[1]
    yield from _first_unequal_loss(one, other)


def _settings(result: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in result.items():
        if key in _NOT_SETTINGS:
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
    """Yield the losses by hand at the first step at which they differ, if there is one."""
    first, second = (_losses(run.path / STEPS) for run in (one, other))
    if first is None or second is None:
        return
    shared = min(len(first), len(second))
    for step in np.flatnonzero(first[:shared] != second[:shared])[:1]:
        label = f"loss by hand at step {step:,}, the first that differs"
        yield label, repr(float(first[step])), repr(float(second[step]))


def _losses(path: Path) -> Any:
    """Return the by-hand losses in steps.npz, None if there is no such file.

    Raises:
        BadInput: if the file is damaged.
    """
    try:
        data = untrusted.read(path, MOST_RECORD)
    except FileNotFoundError:
        return None
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            part = archive.getinfo("loss_manual.npy")
            if part.file_size > MOST_RECORD:
                raise ValueError(f"{part.file_size:,} bytes of losses")
            with archive.open(part) as file:
                whole = file.read(MOST_RECORD)
        return _vector(whole)
    except Exception as error:  # a damaged or forged file can raise any exception
        raise BadInput(
            f"{path} cannot be read ({first_line(error)}): restore the original, or delete it"
        ) from None


def _vector(data: bytes) -> np.ndarray:
    """Return the float64 numbers of a .npy file; raise ValueError if it holds anything else."""
    file = io.BytesIO(data)
    if np.lib.format.read_magic(file) != (1, 0):
        raise ValueError("a .npy file of another version")
    shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    rest = data[file.tell() :]
    if dtype != np.float64 or len(shape) != 1 or shape[0] * 8 != len(rest):
        raise ValueError(f"an array of {shape} {dtype}")
    return np.frombuffer(rest, dtype)


def result(path: Path) -> dict[str, Any] | None:
    """Return the content of result.json in a run folder, None if there is no such file.

    Raises:
        BadInput: if the file cannot be read, or does not hold a result.
    """
    file = path / RESULT
    try:
        content = json.loads(untrusted.read(file, MOST_RESULT))
        untrusted.converted(content, _Result)
    except FileNotFoundError:
        return None
    except BadInput:
        raise
    except (ValueError, RecursionError) as error:
        raise BadInput(
            f"{file} is not a result ({first_line(error)}): restore the original, or delete it"
        ) from None
    return dict(content)
