"""`python -m compare runs` and `diff`: what stands in the run folders."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from compare.errors import BadInput, unknown
from compare.training.folder import RESULT, STEPS

_OF_EACH_RUN = {"quantities", "seconds", "output", "free_gap"}  # not settings


@dataclass(frozen=True)
class Kept:
    """A run folder: its name, and its result where it came to an end."""

    path: Path
    result: dict[str, Any] | None

    @property
    def name(self) -> str:
        """The folder's own name."""
        return self.path.name


def runs(log_dir: Path) -> list[Kept]:
    """Return the run folders, oldest first; raises BadInput where there are none."""
    found = [path for path in log_dir.glob("*") if _is_run(path)]
    # a name counts seconds; of one second the folder that was made first
    folders = sorted(found, key=lambda p: (p.name[:19], (p / "manual").stat().st_mtime_ns))
    if not folders:
        raise BadInput(
            f"nothing in {log_dir} yet: python -m compare runs a case and leaves a folder there"
        )
    return [Kept(path, result(path)) for path in folders]


def find(log_dir: Path, name: str) -> Kept:
    """Return the run called `name`, or the one in that folder; raises BadInput with near names."""
    path = Path(name)
    if _is_run(path):
        return Kept(path, result(path))
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
    return any(path.glob("manual/events.out.tfevents.*"))


def differences(one: Kept, other: Kept) -> Iterator[tuple[str, str, str]]:
    """Yield in what two runs differ: what it is, and how it is in each.

    Raises BadInput for a run without a result.
    """
    results = []
    for run in (one, other):
        if run.result is None:
            raise BadInput(f"run {run.name}: it has no {RESULT}, it was stopped before its end")
        results.append(run.result)
    flat = [dict(_flat(result)) for result in results]
    for key in dict.fromkeys([*flat[0], *flat[1]]):
        values = [str(each.get(key, "none")) for each in flat]
        if values[0] != values[1]:
            yield key, values[0], values[1]
    yield from _quantities(results[0], results[1])
    first = _first_unequal_loss(one, other)
    if first is not None:
        step, losses = first
        label = f"loss by hand at step {step:,}, the first to differ"
        yield label, repr(losses[0]), repr(losses[1])


def _flat(result: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in result.items():
        if key in _OF_EACH_RUN:
            continue
        if isinstance(value, dict):
            yield from ((f"{key}.{inner}", each) for inner, each in value.items())
        else:
            yield key, value


def _quantities(one: dict[str, Any], other: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Yield each quantity's verdict and its first unequal step where they differ."""
    rows = [{row["name"]: row for row in result["quantities"]} for result in (one, other)]
    for name in dict.fromkeys([*rows[0], *rows[1]]):
        for key, label in (("verdict", "verdict"), ("first_unequal", "first unequal step")):
            values = [str(side[name][key]) if name in side else "none" for side in rows]
            if values[0] != values[1]:
                yield f"{name} {label}", values[0], values[1]


def _first_unequal_loss(one: Kept, other: Kept) -> tuple[int, tuple[float, float]] | None:
    """Return the first step at which the two by-hand sides have another loss, and both losses."""
    try:
        losses = [np.load(run.path / STEPS)["loss_manual"] for run in (one, other)]
    except (OSError, KeyError, ValueError):
        return None
    shared = min(map(len, losses))
    differ = np.flatnonzero(losses[0][:shared] != losses[1][:shared])
    if not differ.size:
        return None
    step = int(differ[0])
    return step, (float(losses[0][step]), float(losses[1][step]))


def result(path: Path) -> dict[str, Any] | None:
    """Return what a run folder's result.json holds, None where there is none that can be read."""
    try:
        found = json.loads((path / RESULT).read_text())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None
