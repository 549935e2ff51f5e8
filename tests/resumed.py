"""Helpers for tests of resumed runs: copy a run in its middle, and read a run folder."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

from compare.board.run_folder import RunFolder
from compare.checkpoint import checkpoint
from compare.report.chunk import Chunk
from compare.training.harness import Run


def copied(run: Run, log_dir: Path, *, at: int) -> tuple[Path, Path]:
    """Train to the end; return the run folder, and a copy of it as a kill would leave it.

    The copy has a checkpoint of step `at`, and is made one chunk later.
    """
    folder = RunFolder(log_dir / "whole", run)
    copy = log_dir / "copy" / folder.path.name

    def watch(chunk: Chunk) -> None:
        stop = chunk.start + chunk.steps
        checkpoint.EVERY = 1e9 if stop >= at else 0.0
        if stop > at and not copy.exists():
            shutil.copytree(folder.path, copy)

    before = checkpoint.EVERY, checkpoint.SHARE
    checkpoint.EVERY, checkpoint.SHARE = 0.0, 1e9
    try:
        folder.finish(run.train([folder, watch]))
    finally:
        checkpoint.EVERY, checkpoint.SHARE = before
    assert folder.failed is None
    return folder.path, copy


def folder_contents(path: Path) -> dict[str, Any]:
    """Return the contents of a finished run's folder, except times."""
    result = json.loads((path / "result.json").read_text())
    del result["seconds"]
    with np.load(path / "steps.npz") as arrays:
        steps = {name: (str(arrays[name].dtype), arrays[name].tobytes()) for name in arrays}
    files = sorted(file.name for file in path.iterdir() if not file.name.startswith("events."))
    events = {part: _events(path / part) for part in (".", "manual", "autograd", "compare")}
    return {"result": result, "steps": steps, "files": files, "events": events}


def _events(folder: Path) -> list[tuple[int, bytes]]:
    """Return every event of a folder's only event file, with the seconds masked."""
    (file,) = folder.glob("events.*")
    masked = re.compile(rb"\| seconds \| [\d.]+ \|")
    events = []
    for event in EventFileLoader(str(file)).Load():
        words = [masked.sub(b"", b"".join(v.tensor.string_val)) for v in event.summary.value]
        for value in event.summary.value:
            if value.tag.startswith("verdict"):
                value.ClearField("tensor")
        events.append((event.step, event.summary.SerializeToString(deterministic=True)))
        events += [(event.step, word) for word in words]
    return events
