"""How many steps autograd may judge in one batch without changing a bit.

The result of an elementwise operation depends on where in a tensor an element stands: what does
not fill a whole vector goes through scalar code, whose exp has other last bits. And a matrix
product's bits depend on the kernel that its size selects. Both were measured, see tests.
"""

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from compare.cases.cases import Network

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
