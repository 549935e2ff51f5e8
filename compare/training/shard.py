"""Some networks of a population at a time, and values of them over (steps, networks, ...)."""

from typing import Any

import torch
from torch import Tensor

from compare.proof.bits import as_integers
from compare.ranks.ranks import Ranks
from compare.state_dict import Stateful, Types, require
from compare.training.adapters import Named
from compare.training.chunking import fill
from compare.training.merge import own_rows
from compare.training.sampling import Given


class Part(Stateful):
    """Some networks of a population, as many as are in hand at a time."""

    STATE = Types(state=Named, free=Named | None)

    def __init__(
        self, first: int, networks: int, given: Given, multiple: int, ranks: Ranks
    ) -> None:
        self.first, self.networks, self.multiple, self.ranks = first, networks, multiple, ranks
        self.state = self._cut(given.state)
        self.free: Named | None = None  # autograd's state since it went on its own
        # the same at every step, where there are no mini-batches
        rows = own_rows({"X": given.X, "y": given.y}, ranks)
        self.rows = {} if given.case.batch_size else self._cut(rows)

    def check_state(self, found: Any) -> None:
        """Raise ValueError for weights of other names or shapes; put those on their device."""
        for what in ("state", "free") if found.free is not None else ("state",):
            values = getattr(found, what)
            require([*values] == [*self.state], what, "other names")
            for name, mine in self.state.items():
                kinds = [(tuple(v.shape), v.dtype, v.layout) for v in (values[name], mine)]
                require(kinds[0] == kinds[1], f"{what}.{name}", "another shape or dtype")
                values[name] = values[name].to(mine.device, copy=True)

    def data(self, step: Named) -> Named:
        """Return these networks' of what a step is given besides the state."""
        others = {name: v for name, v in step.items() if name not in self.rows}
        return {**self.rows, **self._cut(own_rows(others, self.ranks))}

    def _cut(self, values: Named) -> Named:
        """Return these networks' of (population, ...) values, as many as fill whole vectors."""
        mine = slice(self.first, self.first + self.networks)
        return {name: fill(value[mine], self.multiple) for name, value in values.items()}

    def batch(self, value: Tensor) -> Tensor:
        """Return (steps, networks, ...) values side by side, filled up to whole vectors."""
        return fill(value[:, : self.networks].flatten(0, 1).contiguous(), self.multiple)

    def batched(self, values: Named) -> Named:
        """Return each of the values as `batch` does."""
        return {name: self.batch(value) for name, value in values.items()}

    def unbatched(self, value: Tensor, steps: int) -> Tensor:
        """Return a batch's values as (steps, networks, ...)."""
        split: Tensor = value[: steps * self.networks].unflatten(0, (steps, self.networks))
        return split


def stacked(steps: list[Named]) -> Named:
    """Return each quantity over (steps, networks, ...)."""
    if len(steps) == 1:
        return {name: value[None] for name, value in steps[0].items()}
    return {name: torch.stack([named[name] for named in steps]) for name in steps[0]}


def at(values: Named, steps: int | list[int]) -> Named:
    """Return one or some of the steps of (steps, networks, ...) values."""
    return {name: value[steps] for name, value in values.items()}


def one_network(values: Named, network: int) -> Named:
    """Return one network's of (networks, ...) values."""
    return {name: value[network : network + 1] for name, value in values.items()}


def unequal_steps(ours: Named, theirs: Named, networks: int) -> list[int]:
    """Return the steps at which any of so many networks has other bits in (steps, ...) values."""
    found: set[int] = set()
    for name, mine in ours.items():
        if (other := theirs[name]) is not mine:
            differ = as_integers(mine[:, :networks]) != as_integers(other[:, :networks])
            found.update(differ.flatten(1).any(1).nonzero().flatten().tolist())
    return sorted(found)
