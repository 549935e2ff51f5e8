"""steps.npz: what was found at every step of a run, exactly, beside the curves for looking."""

import io
import time
from pathlib import Path
from typing import Any

import numpy as np

from compare.files import save
from compare.report.chunk import Chunk

_SHARE = 0.02  # of a run's time may go into saving while it goes on


class Record:
    """Keeps each step's losses of both sides, and its differences; saves them now and then.

    In the file: `loss_manual`, `loss_autograd` (steps,) float64; `names`, every quantity; and of
    those that ever differ `unequal/<name>` (steps,), how many elements, and `max_ulp/<name>`
    (steps,). Memory and file grow with the steps: 16 bytes for each, and 16 for each quantity that
    differs. The file is whole at any moment: it is written beside and renamed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.steps = 0
        self.losses: dict[str, list[np.ndarray]] = {"manual": [], "autograd": []}
        self.names: list[str] = []
        self.differences: dict[str, list[tuple[int, np.ndarray, np.ndarray]]] = {}
        self.saved = time.monotonic()
        self.cost = 0.0  # seconds of the last saving

    def add(self, chunk: Chunk) -> None:
        """Keep a chunk, and save where the last saving was long ago for what it cost."""
        news = not self.steps or (bool(chunk.differences) and not self.differences)
        self.names = list(chunk.compared)
        for side, losses in self.losses.items():
            losses.append(chunk.loss[side].double().cpu().numpy())
        for name, found in chunk.differences.items():
            entry = (chunk.start, found.unequal, found.max_ulp)
            self.differences.setdefault(name, []).append(entry)
        self.steps = chunk.start + chunk.steps
        if news or time.monotonic() - self.saved > self.cost / _SHARE:
            self.save()

    def save(self, *, last: bool = False) -> None:
        """Write the file, at last compressed; raises BadInput where it cannot be written."""
        started = time.monotonic()
        arrays: dict[str, Any] = {"names": np.array(self.names), **self.arrays()}
        file = io.BytesIO()
        (np.savez_compressed if last else np.savez)(file, **arrays)
        save(self.path, file.getvalue(), durable=last)
        self.saved = time.monotonic()
        self.cost = self.saved - started

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the numbers as they stand in the file."""
        arrays: dict[str, np.ndarray] = {}
        for side, losses in self.losses.items():
            arrays[f"loss_{side}"] = np.concatenate(losses or [np.empty(0)])
        for name, entries in self.differences.items():
            unequal, max_ulp = np.zeros(self.steps, np.int64), np.zeros(self.steps, np.uint64)
            for start, counts, largest in entries:
                unequal[start : start + len(counts)] = counts
                max_ulp[start : start + len(largest)] = largest
            arrays |= {f"unequal/{name}": unequal, f"max_ulp/{name}": max_ulp}
        return arrays

    def restore(self, names: list[str], arrays: dict[str, np.ndarray]) -> None:
        """Go on from the names and the `arrays` of a record that was stopped."""
        self.names = names
        self.losses = {side: [arrays[f"loss_{side}"]] for side in self.losses}
        self.steps = len(arrays["loss_manual"])
        for key, unequal in arrays.items():
            kind, _, name = key.partition("/")
            if kind == "unequal":
                self.differences[name] = [(0, unequal, arrays[f"max_ulp/{name}"])]
