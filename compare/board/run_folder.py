"""A run's folder: curves, text and pictures for TensorBoard, and the exact record beside them.

Event files are for looking: their values are float32 and of a bucket of steps. What is exact stands
in result.json and steps.npz.
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
from compare.checkpoint.folder import (
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
from compare.state_dict import Count, Types, require, typed
from compare.training.downsample import SIDES
from compare.training.evaluation import decision_surface
from compare.training.harness import Run

_BINS = 30  # of a histogram
_PICTURES = 8  # how many times in a run heat maps are drawn
_GAP = "differences/free-running gap"
_CHANGE = "give --log-dir another place, or --no-board"
#: A file of curves, as this project and TensorBoard name them: no separator, no other file.
EventFileName = Annotated[str, Meta(pattern=r"\Aevents\.out\.tfevents\.[0-9A-Za-z._-]{1,200}\Z")]
_STATE = Types(told=Count, files=dict[SubRun, tuple[EventFileName, Count]], record=dict[str, Any])


class EventFile:
    """One TensorBoard event file, written by this thread and flushed at every point.

    TensorBoard's own EventFileWriter writes from a thread of its own, where a full disk ends in
    that thread's traceback and a kill loses what is queued.
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
        """Add one point to each of the curves named by `values`."""
        points = [Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
        self.put(step, Summary(value=points))

    def put(self, step: int, summary: Summary) -> None:
        """Add a summary of any kind."""
        self._write(Event(wall_time=time.time(), step=step, summary=summary))

    def picture(self, tag: str, step: int, png: bytes) -> None:
        """Add a picture."""
        width, height = (int.from_bytes(png[k : k + 4], "big") for k in (16, 20))  # PNG's IHDR
        image = Summary.Image(encoded_image_string=png, width=width, height=height, colorspace=3)
        self.put(step, Summary(value=[Summary.Value(tag=tag, image=image)]))

    def mark(self) -> tuple[str, int]:
        """Return its name and its length, once the disk has it."""
        os.fsync(self.file.fileno())
        return self.name, self.file.tell()

    def is_there(self) -> bool:
        """Whether what is written comes into the file of its name: it may have been removed."""
        return _same(self.path, self.identity)

    def close(self) -> None:
        """Close the file."""
        self.records.close()

    def _write(self, event: Event) -> None:
        self.records.write(event.SerializeToString())
        self.records.flush()


class RunFolder:
    """`log_dir/2026-11-21_00-05-03_case/`, watched into while the run goes on.

    Raises BadInput if the folder cannot be made. When writing or drawing fails later, `failed` says
    why, and what was half written is gone, unless a checkpoint makes it useful or others have moved
    it; the check itself goes on.
    `stopped` is a run to go on with in its own folder, which its caller holds the lock of.
    """

    def __init__(self, log_dir: Path, run: Run, stopped: Checkpoint | None = None) -> None:
        self.run = run
        self.told = 0  # buckets
        last = run.steps - 1
        self.drawn = {last * k // (_PICTURES - 1) for k in range(_PICTURES)}
        self.failed: str | None = None
        self.path = log_dir / stopped.name if stopped else _fresh(log_dir, run.case.name)
        self.lock = None if stopped else Lock(self.path)
        self.identity = self.path.stat()  # held by the lock, so that no other folder comes to it
        self.kept, self.cost = time.monotonic(), 0.0  # the last checkpoint: when, its seconds
        self.record = StepLog(self.path / STEPS)
        self.files: dict[str, EventFile] = {}
        try:
            names = self._load_state_dict(stopped) if stopped else {}
            for name in SUBRUNS:
                self.files[name] = EventFile(self.path / name, names.get(name))
        except OSError as error:
            self._give_up(error)
            new = f"log folder {log_dir}: {error.strerror}; {_CHANGE}"
            raise BadInput(self.failed if stopped else new) from error

    def __call__(self, chunk: Chunk) -> None:
        """Write what ends within the chunk, and now and then a checkpoint."""
        if not self.failed:
            with self._surviving():
                self._see_that_all_is_there()
                self._write(self.run.buckets.ended)
                stop = chunk.start + chunk.steps
                for step in sorted(self.drawn & set(range(chunk.start, stop))):
                    self._draw(chunk, step)
                self.record.add(chunk)
        # also where writing has failed: all ranks ask
        started = time.monotonic()
        due = started - self.kept >= max(checkpoint.EVERY, self.cost / checkpoint.SHARE)
        states = None
        with self._surviving() if self.run.ranks.count == 1 else nullcontext():
            states = checkpoint.states(self.run, not self.failed and (due or self.run.stopping))
        if states:
            with self._surviving():
                checkpoint.save(self.run, states, self.path / CHECKPOINT, self._state_dict())
            self.kept = time.monotonic()
            self.cost = self.kept - started

    def finish(self, report: Report) -> None:
        """Write the last bucket, the verdict, result.json and steps.npz; close the event files."""
        if self.failed:
            return
        with self._surviving():
            self._see_that_all_is_there()
            self._write(report.curves, last=True)
            self.record.save(last=True)
            for tag, png in _last_pictures(self.run, report):
                self.files["compare"].picture(tag, report.steps, png)
            self.files["compare"].put(report.steps, summaries.text("verdict", report.markdown()))
            whole = EventFile(self.path)  # one row in the table of hyperparameters
            self.files["run"] = whole
            for part in summaries.hparams(*_hparams(self.run, report)):
                whole.put(0, part)
            whole.add(report.steps, _metrics(report))
            for file in self.files.values():
                file.close()
            save(self.path / RESULT, report.to_json())
            self._see_that_all_is_there()
            if not report.interrupted:
                (self.path / CHECKPOINT).unlink(missing_ok=True)
            self._unlock()

    def _state_dict(self) -> dict[str, Any]:
        """Return what is its own in a checkpoint, once the disk has the curves."""
        return {
            "told": self.told,
            "files": {name: file.mark() for name, file in self.files.items()},
            "record": self.record.state_dict(),
        }

    def _load_state_dict(self, stopped: Checkpoint) -> Mapping[SubRun, str]:
        """Make the folder what it was at the checkpoint; return the names of its event files.

        Nothing is touched, and BadInput raised, where its state does not go with the run's.
        """
        with checkpoint.usable(stopped.path):
            found = typed(stopped.folder, _STATE)
            require(set(found.files) == {*SUBRUNS}, "files", "not one of each sub-run")
            ended = len(self.run.buckets.ended)
            require(found.told <= ended, "told", "more than there are curves")
            self.record.load_state_dict(found.record, self.run.report.steps)
        cut_back(self.path, found.files)
        self.told = found.told
        return {part: name for part, (name, _) in found.files.items()}

    def _write(self, buckets: list[Bucket], *, last: bool = False) -> None:
        """Write what ended since the last call. Shares are 1 until something differs.

        They are told at first, before the fall, and at last.
        """
        compared = self.files["compare"]

        def tell_last() -> None:
            if self.told > 1 and not (known := buckets[self.told - 1]).unequal:
                compared.add(known.stop - 1, _shares(known))

        for bucket in buckets[self.told :]:
            for side in SIDES:
                self.files[side].add(bucket.start, bucket.values[side])
            told = {
                "differences/unequal elements so far": bucket.unequal,
                "differences/largest ulp so far": bucket.max_ulp,
                "differences/largest ulp of the bucket": bucket.largest_ulp,
                **({} if bucket.free_gap is None else {_GAP: bucket.free_gap}),
                **{f"error over bound/{n}": s for n, s in bucket.share_of_bound.items()},
            }
            if bucket.unequal:
                tell_last()
            shares = _shares(bucket) if bucket.unequal or not self.told else {}
            compared.add(bucket.stop - 1, told | shares)
            self.told += 1
        if last:
            tell_last()

    def _draw(self, chunk: Chunk, step: int) -> None:
        """Draw weights and deltas of the first network at one step, and histograms of weights."""
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
        """Within, what cannot be written or drawn ends the writing, not the run."""
        try:
            yield
        except Exception as error:
            self._give_up(error)

    def _missing(self) -> str | None:
        """Return what is no more where it was made, as moved, removed or exchanged by others."""
        if not _same(self.path, self.identity):
            return "the folder"
        files = (file.path for file in self.files.values() if not file.is_there())
        return next((str(path.relative_to(self.path)) for path in files), None)

    def _see_that_all_is_there(self) -> None:
        if missing := self._missing():
            raise FileNotFoundError(missing)

    def _give_up(self, error: Exception) -> None:
        """Remove the half-written folder and remember why."""
        kept = (self.path / CHECKPOINT).exists()
        why = getattr(error, "why", None) or getattr(error, "strerror", None)
        why = why or (str(error) if isinstance(error, BadInput) else first_line(error))
        change = f"put that right, then --resume {self.path.name}" if kept else _CHANGE
        if missing := self._missing():
            why = f"{missing} was moved, removed or exchanged while the run went on"
            change = "run it anew, and leave its folder alone until it ends"
        self.failed = f"run folder {self.path}: {why}; {change}"
        self.discard()

    def discard(self) -> None:
        """Remove the folder: nothing half written stays, but for what a run can go on from.

        Where others have changed it, it stays as they have it.
        """
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
    """Return a tensor of any shape as a matrix, without a copy where numpy knows its dtype."""
    known = values.float() if values.dtype == torch.bfloat16 else values
    array: np.ndarray = np.atleast_2d(known.detach().cpu().numpy())
    return array.reshape(-1, array.shape[-1])


def _last_pictures(run: Run, report: Report) -> Iterator[tuple[str, bytes]]:
    """Yield what is drawn after training: a decision surface, a confusion matrix."""
    if (found := decision_surface(run.case, run.sampler, run.state)) is not None:
        grid, axes, points = found
        name, seed = run.case.network.prediction, run.report.settings["seed"]
        title = f"{name} after {report.steps:,} steps, seed {seed}"
        yield "decision surface", surface(title, grid, axes, points)
    if report.confusion is not None:
        counts = np.array(report.confusion)
        title = f"{counts.sum():,} rows kept back: {report.accuracy:.1%} right"
        yield "confusion matrix", confusion(title, counts, report.classes)


def _shares(bucket: Bucket) -> dict[str, float]:
    return {f"share of exact elements/{name}": share for name, share in bucket.exact.items()}


def _hparams(run: Run, report: Report) -> tuple[dict[str, Any], dict[str, float]]:
    """Return what is asked of a run and what is told of it, as the table of runs shows them."""
    asked = {"case": report.case, **run.case.network.arguments(), **report.settings}
    asked |= {"steps": report.steps, "init": run.case.init, "verdict": report.verdict}
    asked["batch_size"] = run.sampler.rows
    plain = (bool, int, float, str)
    return {k: v if isinstance(v, plain) else str(v) for k, v in asked.items()}, _metrics(report)


def _metrics(report: Report) -> dict[str, float]:
    rows = report.quantities.values()
    told = {
        "unequal elements": float(sum(row.compared - row.equal for row in rows)),
        "largest ulp": float(max((row.max_ulp for row in rows), default=0)),
    }
    kept = {} if report.accuracy is None else {"right of what was kept back": report.accuracy}
    return {f"result/{name}": value for name, value in (told | kept).items()}


def _fresh(log_dir: Path, case: str) -> Path:
    """Make a folder that was never there before; two in one second get -2, -3, ..."""
    stem = f"{datetime.now():%Y-%m-%d_%H-%M-%S}_{case}"
    try:
        if log_dir.exists() and not log_dir.is_dir():
            raise BadInput(f"log folder {log_dir} is a file; {_CHANGE}")
        log_dir.mkdir(parents=True, exist_ok=True)
        for n in range(1, 10_000):
            path = log_dir / (stem if n == 1 else f"{stem}-{n}")
            try:
                path.mkdir()
            except FileExistsError:
                continue
            return path
        raise BadInput(f"log folder {log_dir}: full of {stem}-...; {_CHANGE}")
    except (OSError, ValueError) as error:  # a name with a NUL
        if isinstance(error, BadInput):
            raise
        why = getattr(error, "strerror", None) or str(error)
        raise BadInput(f"log folder {log_dir}: {why}; {_CHANGE}") from error
