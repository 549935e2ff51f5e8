"""steps.npz: the exact losses and differences of every step of a run."""

import io
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from compare.files import save
from compare.report.chunk import Chunk
from compare.stateful import Types, require, typed
from compare.training.downsample import SIDES

_SHARE = 0.02  # of a run's time may be spent on saving
_STATE = Types(names=list[str], arrays=dict[str, Tensor])


class StepLog:
    """Collects the losses of both sides and the differences of every step, and saves them at times.

    The file holds `loss_manual` and `loss_autograd`, (steps,) float64; `names`, all quantities; and
    for every quantity that ever differs `unequal/<name>`, (steps,), the number of elements that
    differ, and `max_ulp/<name>`, (steps,). Memory and file grow with the steps: 16 bytes for each,
    and 16 more for each quantity that differs. The file is complete at any moment, because a new
    version is written under another name and then renamed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.steps = 0
        self.names: list[str] = []
        # name in the file -> its values, in pieces
        self.columns = {f"loss_{side}": [np.empty(0)] for side in SIDES}
        self.saved = time.monotonic()
        self.cost = 0.0  # seconds that the last save took

    def add(self, chunk: Chunk) -> None:
        """Add a chunk; save if it is the first, holds the first difference, or a save is due."""
        urgent = not self.steps or (bool(chunk.differences) and len(self.columns) == len(SIDES))
        self.names = list(chunk.compared)
        values = {f"loss_{side}": loss.double().cpu().numpy() for side, loss in chunk.loss.items()}
        for name, steps in chunk.differences.items():
            values |= {f"unequal/{name}": steps.unequal, f"max_ulp/{name}": steps.max_ulp}
        for name, array in values.items():  # a new name: all earlier steps were equal
            self.columns.setdefault(name, [np.zeros(self.steps, array.dtype)])
        for name, pieces in self.columns.items():
            pieces.append(values.get(name, np.zeros(chunk.steps, pieces[0].dtype)))
        self.steps = chunk.start + chunk.steps
        if urgent or time.monotonic() - self.saved > self.cost / _SHARE:
            self.save()

    def save(self, *, last: bool = False) -> None:
        """Write the file, compressed if it is the `last` time; raise BadInput if that fails."""
        started = time.monotonic()
        arrays: dict[str, Any] = {"names": np.array(self.names), **self.arrays()}
        file = io.BytesIO()
        (np.savez_compressed if last else np.savez)(file, **arrays)
        save(self.path, file.getvalue(), durable=last)
        self.saved = time.monotonic()
        self.cost = self.saved - started

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the arrays of the file, by name."""
        self.columns = {name: [np.concatenate(each)] for name, each in self.columns.items()}
        return {name: each for name, (each,) in self.columns.items()}

    def state_dict(self) -> dict[str, Any]:
        """Return the names, and the arrays as tensors, for a checkpoint."""
        arrays = {name: torch.from_numpy(array) for name, array in self.arrays().items()}
        return {"names": self.names, "arrays": arrays}

    def load_state_dict(self, state: object, steps: int) -> None:
        """Restore the log of `steps` steps; raise ValueError if `state` is not one."""
        saved = typed(state, _STATE)
        kinds = dict.fromkeys(self.columns, torch.float64)
        for name in saved.names:
            both = {f"unequal/{name}": torch.int64, f"max_ulp/{name}": torch.uint64}
            kinds |= both if both.keys() & saved.arrays else {}
        require(kinds.keys() == saved.arrays.keys(), "arrays", "not those of the names")
        for name, kind in kinds.items():
            fits = saved.arrays[name].shape == (steps,) and saved.arrays[name].dtype == kind
            require(fits, f"arrays.{name}", f"not {steps:,} numbers of {kind}")
        self.columns = {name: [array.numpy()] for name, array in saved.arrays.items()}
        self.names, self.steps = saved.names, steps
