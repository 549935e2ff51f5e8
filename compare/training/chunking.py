"""How a run is cut: how many steps and networks autograd judges at once, and which.

The result of an elementwise operation depends on where in a tensor an element stands: what does
not fill a whole vector goes through scalar code, whose exp has other last bits. And a matrix
product's bits depend on the kernel that its size selects. Both were measured, see tests.
"""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from compare.cases.cases import Network
from compare.proof.bits import as_integers
from compare.ranks.ranks import Ranks
from compare.state_dict import Stateful, Types, require
from compare.training.adapters import Named
from compare.training.merge import own_rows
from compare.training.sampling import Sampler

# On the CPU torch multiplies a batch of matrices by its own loop while rows * inner * columns
# stays below this (aten/src/ATen/native/LinearAlgebra.cpp); each product's bits then do not depend
# on how many stand beside it. From there on MKL does it, and they do.
OWN_LOOP = 400
# From this many elements on an elementwise operation goes to several threads, each with a tail of
# its own (at::internal::GRAIN_SIZE).
GRAIN = 32_768
# What the widest unrolled vector loop takes at once: two AVX-512 registers.
VECTOR_BYTES = 128
# So many steps at most: more do not make a step cheaper, and what is in hand is lost at a kill.
STEPS = 512


@dataclass(frozen=True)
class Plan:
    """How a run is cut into chunks: `steps` of `members` networks go ahead, then are judged.

    `together` in one batch of autograd, else one by one; with the number of networks in hand a
    multiple of `multiple`, so that every tensor fills whole vectors: whatever number stand beside
    it, a network then has the same bits. Not so of large networks, whose products are MKL's.
    """

    steps: int
    members: int
    together: bool
    multiple: int


def plan(
    network: Network, *, rows: int, population: int, dtype: torch.dtype, device: torch.device
) -> Plan:
    """Return the plan for a case.

    What is in hand at a time holds at most GRAIN values of any one quantity, or one step of one
    network where that is more; so neither the number of steps nor the population's size matters
    for the memory, but for the weights themselves.
    """
    pairs = list(pairwise(network.sizes))
    values = [count for i, o in pairs for count in (rows * o, i * o)]
    if network.bias or network.batch_norm:
        values += network.sizes[1:]
    largest = max(rows * network.sizes[0], *values)
    members = max(1, min(population, GRAIN // largest))
    steps = max(1, min(STEPS, GRAIN // (members * largest)))
    small = max(rows * i * o for i, o in pairs) < OWN_LOOP
    alike = network.optimizer == "sgd"  # torch.optim.Adam has one number of steps for all weights
    if device.type != "cpu" or not small:
        return Plan(steps, members, together=False, multiple=1)
    lanes = VECTOR_BYTES // dtype.itemsize
    multiple = lanes // math.gcd(lanes, *values)
    return Plan(steps, members, together=alike and steps > 1, multiple=multiple)


def fill(tensor: Tensor, multiple: int) -> Tensor:
    """Return `tensor` (networks, ...) with its last one repeated up to the next multiple."""
    missing = -len(tensor) % multiple
    if not missing:
        return tensor
    return torch.cat([tensor, tensor[-1:].expand(missing, *tensor.shape[1:])])


class Part(Stateful):
    """Some networks of a population, as many as are in hand at a time."""

    STATE = Types(state=Named, free=Named | None)

    def __init__(
        self, first: int, networks: int, given: Sampler, multiple: int, ranks: Ranks
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

    def batched(self, values: Named) -> Named:
        """Return (steps, networks, ...) values side by side, filled up to whole vectors."""
        ours = {n: v[:, : self.networks].flatten(0, 1).contiguous() for n, v in values.items()}
        return {name: fill(value, self.multiple) for name, value in ours.items()}


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
