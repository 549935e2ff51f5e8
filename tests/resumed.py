"""What tests of resumed runs share: a run copied in its middle, and what two folders tell."""

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
    """Train to the end; return the folder, and a copy of it as a kill would have left it.

    The checkpoint is of step `at`, and the copy is made a chunk later.
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


def told(path: Path) -> dict[str, Any]:
    """Return everything in a finished run's folder but what time it was."""
    result = json.loads((path / "result.json").read_text())
    del result["seconds"]
    with np.load(path / "steps.npz") as kept:
        steps = {name: (str(kept[name].dtype), kept[name].tobytes()) for name in kept}
    files = sorted(file.name for file in path.iterdir() if not file.name.startswith("events."))
    events = {part: _events(path / part) for part in (".", "manual", "autograd", "compare")}
    return {"result": result, "steps": steps, "files": files, "events": events}


def _events(folder: Path) -> list[tuple[int, bytes]]:
    """Return every event of the one event file, seconds masked."""
    (file,) = folder.glob("events.*")
    masked = re.compile(rb"\| seconds \| [\d.]+ \|")
    found = []
    for event in EventFileLoader(str(file)).Load():
        words = [masked.sub(b"", b"".join(v.tensor.string_val)) for v in event.summary.value]
        for value in event.summary.value:
            if value.tag.startswith("verdict"):
                value.ClearField("tensor")
        found.append((event.step, event.summary.SerializeToString(deterministic=True)))
        found += [(event.step, word) for word in words]
    return found
