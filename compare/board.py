"""A run's folder for TensorBoard: curves of both sides under the same tags, and result.json.

Event files are for looking: their values are float32 and thinned out. What is exact stands in
result.json beside them.
"""

import os
import shutil
import time
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from compare.errors import BadInput
from compare.harness import Chunk
from compare.report import Report, save_text

MOST_POINTS = 1000  # what TensorBoard's server keeps of a curve by default
SUBRUNS = ("manual", "autograd", "compare")


class EventFile:
    """One TensorBoard event file, written by this thread and flushed at every point.

    TensorBoard's own EventFileWriter writes from a thread of its own, where a full disk ends in
    that thread's traceback and a kill loses what is queued.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        now = time.time()
        name = f"events.out.tfevents.{int(now):010d}.{os.getpid()}"
        self.records = RecordWriter((folder / name).open("wb"))
        self._write(Event(wall_time=now, file_version="brain.Event:2"))

    def add(self, step: int, values: dict[str, float]) -> None:
        """Add one point to each of the curves named by `values`."""
        summary = Summary(
            value=[Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
        )
        self._write(Event(wall_time=time.time(), step=step, summary=summary))

    def close(self) -> None:
        """Close the file."""
        self.records.close()

    def _write(self, event: Event) -> None:
        self.records.write(event.SerializeToString())
        self.records.flush()


class RunFolder:
    """`log_dir/2026-11-21_00-05-03_case/`, watched into while the run goes on.

    Raises BadInput if the folder cannot be made. When writing fails later, `failed` says why, and
    what was half written is gone; the check itself goes on.
    """

    def __init__(self, log_dir: Path, case: str, steps: int) -> None:
        self.every = -(-steps // MOST_POINTS)
        self.failed: str | None = None
        self.path = _fresh(log_dir, case)
        self.files: dict[str, EventFile] = {}
        try:
            for name in SUBRUNS:
                self.files[name] = EventFile(self.path / name)
        except OSError as error:
            self._give_up(error)
            raise BadInput(f"log folder {log_dir}: {error.strerror}; {_CHANGE}") from error

    def __call__(self, chunk: Chunk) -> None:
        """Write the chunk's points: one each `every` steps."""
        if self.failed:
            return
        first = -chunk.start % self.every
        try:
            for k in range(first, chunk.steps, self.every):
                for side in ("manual", "autograd"):
                    loss, error = chunk.loss[side][k], chunk.error[side][k]
                    values = {"loss": float(loss), "mean absolute error": float(error)}
                    self.files[side].add(chunk.start + k, values)
            so_far = {
                "unequal elements so far": chunk.unequal,
                "largest ulp so far": chunk.max_ulp,
                "free-running gap": chunk.free_gap,
            }
            self.files["compare"].add(chunk.start + chunk.steps - 1, so_far)
        except OSError as error:
            self._give_up(error)

    def finish(self, report: Report) -> None:
        """Close the event files and write result.json."""
        if self.failed:
            return
        try:
            for file in self.files.values():
                file.close()
            save_text(self.path / "result.json", report.to_json())
        except (OSError, BadInput) as error:
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        """Remove the half-written folder and remember why."""
        why = getattr(error, "strerror", None) or str(error)
        self.failed = f"run folder {self.path}: {why}; {_CHANGE}"
        self.discard()

    def discard(self) -> None:
        """Remove the folder: nothing half written stays."""
        for file in self.files.values():
            with suppress(OSError):  # closing flushes, and the disk may be full
                file.close()
        shutil.rmtree(self.path, ignore_errors=True)


_CHANGE = "give --log-dir another place, or --no-board"


def _fresh(log_dir: Path, case: str) -> Path:
    """Make a folder that was never there before; two in one second get -2, -3, ..."""
    if log_dir.exists() and not log_dir.is_dir():
        raise BadInput(f"log folder {log_dir} is a file; {_CHANGE}")
    stem = f"{datetime.now():%Y-%m-%d_%H-%M-%S}_{case}"
    try:
        log_dir.mkdir(parents=True, exist_ok=True)
        for n in range(1, 10_000):
            path = log_dir / (stem if n == 1 else f"{stem}-{n}")
            try:
                path.mkdir()
            except FileExistsError:
                continue
            return path
        raise BadInput(f"log folder {log_dir}: full of {stem}-...; {_CHANGE}")
    except OSError as error:
        raise BadInput(f"log folder {log_dir}: {error.strerror}; {_CHANGE}") from error
