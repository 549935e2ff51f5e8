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
from compare.state_dict import Types, require, typed
from compare.training.downsample import SIDES

_SHARE = 0.02  # of a run's time may go into saving while it goes on
_STATE = Types(names=list[str], arrays=dict[str, Tensor])


class StepLog:
    """Keeps each step's losses of both sides, and its differences; saves them now and then.

    In the file: `loss_manual`, `loss_autograd` (steps,) float64; `names`, every quantity; and of
    those that ever differ `unequal/<name>` (steps,), how many elements, and `max_ulp/<name>`
    (steps,). Memory and file grow with the steps: 16 bytes for each, and 16 for each quantity that
    differs. The file is whole at any moment: it is written beside and renamed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.steps = 0
        self.names: list[str] = []
        # what stands in the file, by its name there, in pieces
        self.columns = {f"loss_{side}": [np.empty(0)] for side in SIDES}
        self.saved = time.monotonic()
        self.cost = 0.0  # seconds of the last saving

    def add(self, chunk: Chunk) -> None:
        """Keep a chunk, and save where the last saving was long ago for what it cost."""
        news = not self.steps or (bool(chunk.differences) and len(self.columns) == len(SIDES))
        self.names = list(chunk.compared)
        found = {f"loss_{side}": loss.double().cpu().numpy() for side, loss in chunk.loss.items()}
        for name, steps in chunk.differences.items():
            found |= {f"unequal/{name}": steps.unequal, f"max_ulp/{name}": steps.max_ulp}
        for name, values in found.items():  # nothing was unequal before
            self.columns.setdefault(name, [np.zeros(self.steps, values.dtype)])
        for name, pieces in self.columns.items():
            pieces.append(found.get(name, np.zeros(chunk.steps, pieces[0].dtype)))
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
        self.columns = {name: [np.concatenate(each)] for name, each in self.columns.items()}
        return {name: each for name, (each,) in self.columns.items()}

    def state_dict(self) -> dict[str, Any]:
        """Return the names, and the numbers as tensors."""
        arrays = {name: torch.from_numpy(array) for name, array in self.arrays().items()}
        return {"names": self.names, "arrays": arrays}

    def load_state_dict(self, state: object, steps: int) -> None:
        """Take over the record of so many steps; raises ValueError where it is none."""
        found = typed(state, _STATE)
        kinds = dict.fromkeys(self.columns, torch.float64)
        for name in found.names:
            both = {f"unequal/{name}": torch.int64, f"max_ulp/{name}": torch.uint64}
            kinds |= both if both.keys() & found.arrays else {}
        require(kinds.keys() == found.arrays.keys(), "arrays", "not of what was named")
        for name, kind in kinds.items():
            fits = found.arrays[name].shape == (steps,) and found.arrays[name].dtype == kind
            require(fits, f"arrays.{name}", f"not {steps:,} numbers of {kind}")
        self.columns = {name: [array.numpy()] for name, array in found.arrays.items()}
        self.names, self.steps = found.names, steps
