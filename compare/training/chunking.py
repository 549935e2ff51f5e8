"""How a run is divided into chunks: the steps and networks that autograd computes in one batch.

The bits of an elementwise operation depend on an element's position in its tensor: elements that do
not fill a whole vector go through scalar code, whose exp has other last bits. The bits of a matrix
product depend on the kernel that its size selects. Both were measured, see tests.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from compare.cases.cases import Network
from compare.proof.bits import as_integers
from compare.ranks.ranks import Ranks
from compare.stateful import Stateful, Types, require
from compare.training.adapters import Named
from compare.training.merge import rank_inputs
from compare.training.sampling import Sampler

# On the CPU torch multiplies a batch of matrices by its own loop while rows * inner * columns
# stays below this (aten/src/ATen/native/LinearAlgebra.cpp); each product's bits then do not depend
# on the size of the batch. From there on MKL multiplies, and they do.
OWN_LOOP = 400
# From this many elements on an elementwise operation is split over threads, and each thread's part
# has a scalar tail (at::internal::GRAIN_SIZE).
GRAIN = 32_768
# The bytes that the widest unrolled vector loop takes at once: two AVX-512 registers.
VECTOR_BYTES = 128
# The most steps of a chunk: more do not make a step cheaper, and a kill loses the chunk.
STEPS = 512


@dataclass(frozen=True)
class Plan:
    """How a run is divided into chunks of steps and shards of networks.

    A shard is filled up to a multiple of `multiple` networks, so that every tensor fills whole
    vectors. The bits of a network then do not depend on the number of networks beside it. This does
    not hold for large networks, whose products go to MKL.
    """

    steps: int  # of a chunk
    networks: int  # of a shard, before it is filled up
    one_batch: bool  # whether autograd judges all steps of a chunk in one batch
    multiple: int


def plan(
    network: Network, *, rows: int, population: int, dtype: torch.dtype, device: torch.device
) -> Plan:
    """Return the plan for a run.

    A chunk of a shard holds at most GRAIN values of any one quantity, or one step of one network
    where that is more. So the memory does not grow with the steps or the population, except for the
    weights themselves.

    Args:
        network: description of the network.
        rows: rows of a step in this process.
        population: networks in this process.
        dtype: dtype of the run.
        device: device of the run.
    """
    pairs = list(pairwise(network.sizes))
    values = [count for i, o in pairs for count in (rows * o, i * o)]
    if network.bias or network.batch_norm:
        values += network.sizes[1:]
    largest = max(rows * network.sizes[0], *values)
    networks = max(1, min(population, GRAIN // largest))
    steps = max(1, min(STEPS, GRAIN // (networks * largest)))
    small = max(rows * i * o for i, o in pairs) < OWN_LOOP
    # torch.optim.Adam has one step count for all weights, so steps cannot share a batch
    stateless = network.optimizer == "sgd"
    if device.type != "cpu" or not small:
        return Plan(steps, networks, one_batch=False, multiple=1)
    lanes = VECTOR_BYTES // dtype.itemsize
    multiple = lanes // math.gcd(lanes, *values)
    return Plan(steps, networks, one_batch=stateless and steps > 1, multiple=multiple)


def fill(tensor: Tensor, multiple: int) -> Tensor:
    """Return `tensor` (networks, ...) with its last network repeated up to the next multiple."""
    missing = -len(tensor) % multiple
    if not missing:
        return tensor
    return torch.cat([tensor, tensor[-1:].expand(missing, *tensor.shape[1:])])


class Shard(Stateful):
    """The networks of a population that take a chunk of steps at a time, and their state.

    Args:
        first: number of its first network among those of this process.
        networks: number of its networks.
        sampler: data and first weights of all networks of this process.
        multiple: number of networks to fill it up to a multiple of, see `Plan`.
        ranks: the ranks that share the rows of each step.
    """

    STATE = Types(state=Named, free=Named | None)

    def __init__(
        self, first: int, networks: int, sampler: Sampler, multiple: int, ranks: Ranks
    ) -> None:
        self.first, self.networks, self.multiple, self.ranks = first, networks, multiple, ranks
        self.state = self._select(sampler.state)
        self.free: Named | None = None  # autograd's state since it trains alone
        # without mini-batches the rows are the same at every step
        rows = rank_inputs({"X": sampler.X, "y": sampler.y}, ranks)
        self.rows = {} if sampler.case.batch_size else self._select(rows)

    def check_state(self, state: Any) -> None:
        """Raise ValueError for weights of other names or shapes; move the weights to the device."""
        for item in ("state", "free") if state.free is not None else ("state",):
            values = getattr(state, item)
            require([*values] == [*self.state], item, "other names")
            for name, expected in self.state.items():
                kinds = [(tuple(v.shape), v.dtype, v.layout) for v in (values[name], expected)]
                require(kinds[0] == kinds[1], f"{item}.{name}", "another shape or dtype")
                values[name] = values[name].to(expected.device, copy=True)

    def data(self, step: Named) -> Named:
        """Return the inputs of a step of these networks: the rows, the masks and t."""
        others = {name: v for name, v in step.items() if name not in self.rows}
        if not others:  # one dict for all steps, whose tensors then need not be stacked
            return self.rows
        return {**self.rows, **self._select(rank_inputs(others, self.ranks))}

    def _select(self, values: Named) -> Named:
        """Return the (population, ...) values of these networks, filled up to whole vectors."""
        networks = slice(self.first, self.first + self.networks)
        return {name: fill(value[networks], self.multiple) for name, value in values.items()}

    def batched(self, values: Named) -> Named:
        """Return (steps, networks, ...) values as one batch, filled up to whole vectors."""
        batch = {n: v[:, : self.networks].flatten(0, 1).contiguous() for n, v in values.items()}
        return {name: fill(value, self.multiple) for name, value in batch.items()}


class Steps(Sequence[Named]):
    """Named values of the steps of a chunk, all steps in one tensor; each step is a slice of it.

    Args:
        values: the values, (steps, networks, ...) each.
        multiple: the networks of a slice are filled up to a multiple of it, see `Plan`.
    """

    def __init__(self, values: Named, multiple: int) -> None:
        self.values, self.multiple = values, multiple

    def __len__(self) -> int:
        return len(next(iter(self.values.values())))

    def __getitem__(self, step: Any) -> Any:
        return {n: fill(v, self.multiple) for n, v in at_steps(self.values, step).items()}


def stacked(steps: Sequence[Named], names: Iterable[str] | None = None) -> Named:
    """Return quantities of some steps, by default all, as one tensor (steps, networks, ...) each.

    A tensor that is the same at all steps is not copied.
    """
    names = list(steps[0]) if names is None else names
    if isinstance(steps, Steps):
        return {name: steps.values[name] for name in names}
    return {name: _stack([named[name] for named in steps]) for name in names}


def _stack(values: list[Tensor]) -> Tensor:
    if all(value is values[0] for value in values):
        return values[0].expand(len(values), *values[0].shape)
    return torch.stack(values)


def at_steps(values: Named, steps: int | list[int]) -> Named:
    """Return (steps, networks, ...) values at one step, or at some."""
    return {name: value[steps] for name, value in values.items()}


def one_network(values: Named, network: int) -> Named:
    """Return (networks, ...) values of one network, (1, ...)."""
    return {name: value[network : network + 1] for name, value in values.items()}


def unequal_steps(manual: Named, autograd: Named, networks: int) -> list[int]:
    """Return the steps at which any bit of the first `networks` networks differs.

    Args:
        manual: by-hand values by name, (steps, networks, ...) each.
        autograd: autograd's values, likewise.
        networks: number of networks to compare; further ones only fill whole vectors.
    """
    steps: set[int] = set()
    for name, value in manual.items():
        if (other := autograd[name]) is not value:
            differ = as_integers(value[:, :networks]) != as_integers(other[:, :networks])
            steps.update(differ.flatten(1).any(1).nonzero().flatten().tolist())
    return sorted(steps)
