"""steps.npz: what was found at every step of a run, exactly, beside the curves for looking."""

import io
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from compare.files import save
from compare.report.chunk import Chunk
from compare.state_dict import Types, require, require_vector, typed

_SHARE = 0.02  # of a run's time may go into saving while it goes on
_STATE = Types(names=list[str], arrays=dict[str, Tensor])


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

    def state_dict(self) -> dict[str, Any]:
        """Return the names, and the numbers as tensors."""
        arrays = {name: torch.from_numpy(array) for name, array in self.arrays().items()}
        return {"names": self.names, "arrays": arrays}

    def load_state_dict(self, state: object, steps: int) -> None:
        """Take over the record of so many steps; raises ValueError where it is none."""
        found = typed(state, _STATE)
        left = dict(found.arrays)
        for side in self.losses:
            name = f"loss_{side}"
            require_vector(loss := left.pop(name, None), steps, torch.float64, name)
            self.losses[side] = [loss.numpy()]
        for name in found.names:
            unequal, max_ulp = (left.pop(f"{k}/{name}", None) for k in ("unequal", "max_ulp"))
            if unequal is not None or max_ulp is not None:
                require_vector(unequal, steps, torch.int64, f"unequal/{name}")
                require_vector(max_ulp, steps, torch.uint64, f"max_ulp/{name}")
                self.differences[name] = [(0, unequal.numpy(), max_ulp.numpy())]
        require(not left, "arrays", f"{next(iter(left), '')!r} is of nothing that was named")
        self.names, self.steps = found.names, steps
