"""A run's folder: curves, text and pictures for TensorBoard, and the exact results.

The event files are for viewing: their values are float32 and stand for buckets of steps. The exact
values are in result.json and steps.npz.
"""

import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from msgspec import Meta
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter
from torch import Tensor
from torch.utils.tensorboard import summary as summaries

from compare.board.pictures import Pair, confusion, heat_maps, surface
from compare.board.step_log import StepLog
from compare.cases.cases import quantity_kind
from compare.checkpoint import checkpoint
from compare.checkpoint.checkpoint import Checkpoint
from compare.checkpoint.run_folder_files import (
    CHECKPOINT,
    EVENTS,
    RESULT,
    STEPS,
    SUBRUNS,
    Lock,
    SubRun,
    cut_back,
)
from compare.errors import BadInput, first_line
from compare.files import save
from compare.report.chunk import Bucket, Chunk
from compare.report.report import Report
from compare.stateful import Count, Types, require, typed
from compare.training.downsample import SIDES
from compare.training.evaluation import decision_surface
from compare.training.harness import Run

_BINS = 30  # of a histogram
_PICTURES = 8  # heat maps are drawn at so many steps of a run
_GAP = "differences/free-running gap"
_FIX = "choose another --log-dir, or use --no-board"
#: The name of an event file; a pattern without separators, so that it cannot lead elsewhere.
EventFileName = Annotated[str, Meta(pattern=r"\Aevents\.out\.tfevents\.[0-9A-Za-z._-]{1,200}\Z")]
_STATE = Types(told=Count, files=dict[SubRun, tuple[EventFileName, Count]], record=dict[str, Any])


class EventFile:
    """One TensorBoard event file, written in this thread and flushed after every point.

    TensorBoard's EventFileWriter writes in a separate thread: there a full disk raises in that
    thread, and a kill loses the queued points.

    Args:
        folder: the folder of the file, made if it does not exist.
        name: the name of a file to append to, None for a new file.
    """

    def __init__(self, folder: Path, name: str | None = None) -> None:
        folder.mkdir(exist_ok=True)
        now = time.time()
        self.name = name or f"{EVENTS}{int(now):010d}.{os.getpid()}"
        self.path = folder / self.name
        self.file = self.path.open("ab")
        self.identity = os.fstat(self.file.fileno())
        self.records = RecordWriter(self.file)
        if name is None:
            self._write(Event(wall_time=now, file_version="brain.Event:2"))

    def add(self, step: int, values: dict[str, float]) -> None:
        """Add a point at `step` to every curve in `values`: tag -> value."""
        points = [Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
        self.put(step, Summary(value=points))

    def put(self, step: int, summary: Summary) -> None:
        """Add a summary of any kind at `step`."""
        self._write(Event(wall_time=time.time(), step=step, summary=summary))

    def picture(self, tag: str, step: int, png: bytes) -> None:
        """Add a PNG picture at `step`."""
        width, height = (int.from_bytes(png[k : k + 4], "big") for k in (16, 20))  # PNG's IHDR
        image = Summary.Image(encoded_image_string=png, width=width, height=height, colorspace=3)
        self.put(step, Summary(value=[Summary.Value(tag=tag, image=image)]))

    def mark(self) -> tuple[str, int]:
        """Return the name and the length of the file, after it is synced to disk."""
        os.fsync(self.file.fileno())
        return self.name, self.file.tell()

    def is_there(self) -> bool:
        """Whether the open file is still the one at its path: someone may have removed it."""
        return _same(self.path, self.identity)

    def close(self) -> None:
        """Close the file."""
        self.records.close()

    def _write(self, event: Event) -> None:
        self.records.write(event.SerializeToString())
        self.records.flush()


class RunFolder:
    """The folder `log_dir/2026-11-21_00-05-03_case/`, written while the run trains.

    If writing or drawing fails during the run, `failed` holds the reason, and the run continues
    without the folder. The incomplete folder is removed, unless it holds a checkpoint or somebody
    else has changed it.

    Args:
        log_dir: the folder that holds the run folders.
        run: the run to record.
        stopped: the checkpoint of a run to resume in its own folder; the caller holds the lock.

    Raises:
        BadInput: if the folder cannot be made.
    """

    def __init__(self, log_dir: Path, run: Run, stopped: Checkpoint | None = None) -> None:
        self.run = run
        self.written = 0  # buckets
        last = run.steps - 1
        self.drawn = {last * k // (_PICTURES - 1) for k in range(_PICTURES)}
        self.failed: str | None = None
        self.path = log_dir / stopped.name if stopped else _new_folder(log_dir, run.case.name)
        self.lock = None if stopped else Lock(self.path)
        self.identity = self.path.stat()  # the lock keeps the folder open, so the inode stays
        self.saved, self.cost = time.monotonic(), 0.0  # last checkpoint: its time, its seconds
        self.log = StepLog(self.path / STEPS)
        self.files: dict[str, EventFile] = {}
        try:
            names = self._load_state_dict(stopped) if stopped else {}
            for name in SUBRUNS:
                self.files[name] = EventFile(self.path / name, names.get(name))
        except OSError as error:
            self._give_up(error)
            message = f"log folder {log_dir}: {error.strerror}; {_FIX}"
            raise BadInput(self.failed if stopped else message) from error

    def __call__(self, chunk: Chunk) -> None:
        """Write the buckets that end within the chunk, and a checkpoint if one is due."""
        if not self.failed:
            with self._surviving():
                self._check_unmoved()
                self._write(self.run.buckets.ended)
                stop = chunk.start + chunk.steps
                for step in sorted(self.drawn & set(range(chunk.start, stop))):
                    self._draw(chunk, step)
                self.log.add(chunk)
        # also after a failure, because `states` gathers from all ranks
        started = time.monotonic()
        due = started - self.saved >= max(checkpoint.EVERY, self.cost / checkpoint.SHARE)
        states = None
        with self._surviving() if self.run.ranks.count == 1 else nullcontext():
            states = checkpoint.states(self.run, not self.failed and (due or self.run.stopping))
        if states:
            with self._surviving():
                checkpoint.save(self.run, states, self.path / CHECKPOINT, self._state_dict())
            self.saved = time.monotonic()
            self.cost = self.saved - started

    def finish(self, report: Report) -> None:
        """Write the last bucket, the verdict, result.json and steps.npz; close the event files."""
        if self.failed:
            return
        with self._surviving():
            self._check_unmoved()
            self._write(report.curves, last=True)
            self.log.save(last=True)
            for tag, png in _last_pictures(self.run, report):
                self.files["compare"].picture(tag, report.steps, png)
            self.files["compare"].put(report.steps, summaries.text("verdict", report.markdown()))
            whole = EventFile(self.path)  # in the run folder: one row in the hyperparameter table
            self.files["run"] = whole
            for part in summaries.hparams(*_hparams(self.run, report)):
                whole.put(0, part)
            whole.add(report.steps, _metrics(report))
            for file in self.files.values():
                file.close()
            save(self.path / RESULT, report.to_json())
            self._check_unmoved()
            if not report.interrupted:
                (self.path / CHECKPOINT).unlink(missing_ok=True)
            self._unlock()

    def _state_dict(self) -> dict[str, Any]:
        """Return this object's part of a checkpoint, after the curves are synced to disk."""
        return {
            "told": self.written,
            "files": {name: file.mark() for name, file in self.files.items()},
            "record": self.log.state_dict(),
        }

    def _load_state_dict(self, stopped: Checkpoint) -> Mapping[SubRun, str]:
        """Restore the folder as it was at the checkpoint; return the names of its event files.

        Raises:
            BadInput: if the state does not fit the run; no file is changed then.
        """
        with checkpoint.usable(stopped.path):
            state = typed(stopped.folder, _STATE)
            require(set(state.files) == {*SUBRUNS}, "files", "not one of each sub-run")
            ended = len(self.run.buckets.ended)
            require(state.told <= ended, "told", "more than there are curves")
            self.log.load_state_dict(state.record, self.run.report.steps)
        cut_back(self.path, state.files)
        self.written = state.told
        return {part: name for part, (name, _) in state.files.items()}

    def _write(self, buckets: list[Bucket], *, last: bool = False) -> None:
        """Write the buckets that ended since the last call.

        The shares of exact elements are 1 until something differs. As long as they are, only the
        first point, the last one before a difference, and the last one of the run are written.
        """
        compared = self.files["compare"]

        def write_last_shares() -> None:
            if self.written > 1 and not (previous := buckets[self.written - 1]).unequal:
                compared.add(previous.stop - 1, _shares(previous))

        for bucket in buckets[self.written :]:
            for side in SIDES:
                self.files[side].add(bucket.start, bucket.values[side])
            points = {
                "differences/unequal elements so far": bucket.unequal,
                "differences/largest ulp so far": bucket.max_ulp,
                "differences/largest ulp of the bucket": bucket.largest_ulp,
                **({} if bucket.free_gap is None else {_GAP: bucket.free_gap}),
                **{f"error over bound/{n}": s for n, s in bucket.share_of_bound.items()},
            }
            if bucket.unequal:
                write_last_shares()
            shares = _shares(bucket) if bucket.unequal or not self.written else {}
            compared.add(bucket.stop - 1, points | shares)
            self.written += 1
        if last:
            write_last_shares()

    def _draw(self, chunk: Chunk, step: int) -> None:
        """Draw weights and deltas of the first network at a step, and histograms of its weights."""
        pairs = []
        for name in chunk.values["manual"]:
            if quantity_kind(name) not in ("syn", "delta"):
                continue
            sides = [_matrix(chunk.values[side][name][step - chunk.start, 0]) for side in SIDES]
            pairs.append(Pair(name, *sides))
            if quantity_kind(name) == "syn":
                for side, values in zip(SIDES, sides, strict=True):
                    finite = values[np.isfinite(values)]
                    if finite.size:
                        part = summaries.histogram(f"weights/{name}", finite, _BINS)
                        self.files[side].put(step, part)
        png = heat_maps(f"{self.run.case.name}, step {step:,}", pairs)
        self.files["compare"].picture("weights and deltas", step, png)

    @contextmanager
    def _surviving(self) -> Iterator[None]:
        """Turn an exception within into the end of the writing, so that the run continues."""
        try:
            yield
        except Exception as error:
            self._give_up(error)

    def _missing(self) -> str | None:
        """Return the folder or file that others have moved, removed or replaced, if any."""
        if not _same(self.path, self.identity):
            return "the folder"
        files = (file.path for file in self.files.values() if not file.is_there())
        return next((str(path.relative_to(self.path)) for path in files), None)

    def _check_unmoved(self) -> None:
        if missing := self._missing():
            raise FileNotFoundError(missing)

    def _give_up(self, error: Exception) -> None:
        """Remember the reason in `failed`, and remove the incomplete folder."""
        resumable = (self.path / CHECKPOINT).exists()
        reason = getattr(error, "why", None) or getattr(error, "strerror", None)
        reason = reason or (str(error) if isinstance(error, BadInput) else first_line(error))
        fix = f"fix that, then use --resume {self.path.name}" if resumable else _FIX
        if missing := self._missing():
            reason = f"{missing} was moved, removed or replaced during the run"
            fix = "start a new run, and do not touch its folder until it ends"
        self.failed = f"run folder {self.path}: {reason}; {fix}"
        self.discard()

    def discard(self) -> None:
        """Remove the incomplete folder, unless it has a checkpoint or others have changed it."""
        for file in self.files.values():
            with suppress(Exception):  # closing flushes, and the disk may be full
                file.close()
        if not self._missing() and not (self.path / CHECKPOINT).exists():
            shutil.rmtree(self.path, ignore_errors=True)
        self._unlock()

    def _unlock(self) -> None:
        if self.lock:
            self.lock.close()


def _same(path: Path, identity: os.stat_result) -> bool:
    try:
        return os.path.samestat(path.stat(), identity)
    except OSError:
        return False


def _matrix(values: Tensor) -> np.ndarray:
    """Return a tensor of any shape as a matrix, without a copy if numpy has its dtype."""
    known = values.float() if values.dtype == torch.bfloat16 else values
    array: np.ndarray = np.atleast_2d(known.detach().cpu().numpy())
    return array.reshape(-1, array.shape[-1])


def _last_pictures(run: Run, report: Report) -> Iterator[tuple[str, bytes]]:
    """Yield the pictures after training: a decision surface, a confusion matrix."""
    if (drawing := decision_surface(run.case, run.sampler, run.state)) is not None:
        grid, axes, points = drawing
        name, seed = run.case.network.prediction, run.report.settings["seed"]
        title = f"{name} after {report.steps:,} steps, seed {seed}"
        yield "decision surface", surface(title, grid, axes, points)
    if report.confusion is not None:
        counts = np.array(report.confusion)
        title = f"{counts.sum():,} held-out rows: {report.accuracy:.1%} correct"
        yield "confusion matrix", confusion(title, counts, report.classes)


def _shares(bucket: Bucket) -> dict[str, float]:
    return {f"share of exact elements/{name}": share for name, share in bucket.exact.items()}


def _hparams(run: Run, report: Report) -> tuple[dict[str, Any], dict[str, float]]:
    """Return the settings and the results of a run, for TensorBoard's hyperparameter table."""
    settings = {"case": report.case, **run.case.network.arguments(), **report.settings}
    settings |= {"steps": report.steps, "init": run.case.init, "verdict": report.verdict}
    settings["batch_size"] = run.sampler.rows
    plain = (bool, int, float, str)
    values = {k: v if isinstance(v, plain) else str(v) for k, v in settings.items()}
    return values, _metrics(report)


def _metrics(report: Report) -> dict[str, float]:
    rows = report.quantities.values()
    metrics = {
        "unequal elements": float(sum(row.compared - row.equal for row in rows)),
        "largest ulp": float(max((row.max_ulp for row in rows), default=0)),
    }
    if report.accuracy is not None:
        metrics["right of what was kept back"] = report.accuracy
    return {f"result/{name}": value for name, value in metrics.items()}


def _new_folder(log_dir: Path, case: str) -> Path:
    """Make a new folder named after the time; several within a second get -2, -3, ..."""
    stem = f"{datetime.now():%Y-%m-%d_%H-%M-%S}_{case}"
    try:
        if log_dir.exists() and not log_dir.is_dir():
            raise BadInput(f"log folder {log_dir} is a file; {_FIX}")
        log_dir.mkdir(parents=True, exist_ok=True)
        for n in range(1, 10_000):
            path = log_dir / (stem if n == 1 else f"{stem}-{n}")
            try:
                path.mkdir()
            except FileExistsError:
                continue
            return path
        raise BadInput(f"log folder {log_dir} has 9,999 folders {stem}-...; {_FIX}")
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        if isinstance(error, BadInput):
            raise
        reason = getattr(error, "strerror", None) or str(error)
        raise BadInput(f"log folder {log_dir}: {reason}; {_FIX}") from error
