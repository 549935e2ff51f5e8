"""The ranks of a run under torchrun: this process's rank, and the communication between ranks.

torch is imported only for communication. `watchdog` ensures that no rank waits for ever.
"""

import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from compare.errors import BadInput

if TYPE_CHECKING:
    from torch import Tensor

_Value = TypeVar("_Value")


@dataclass(frozen=True)
class Ranks:
    """The place of a process among the ranks: number `rank` of `count`; a single process is 0 of 1.

    Every rank has to call a collective method, or the others wait for it.
    """

    rank: int = 0
    count: int = 1

    def gather(self, value: _Value) -> list[_Value]:
        """Return the values of all ranks, in their order. Collective."""
        if self.count == 1:
            return [value]
        from torch import distributed

        values: list[_Value | None] = [None] * self.count
        distributed.all_gather_object(values, value)
        return values  # type: ignore[return-value]

    def gather_to_rank0(self, value: _Value) -> list[_Value] | None:
        """Return the values of all ranks on rank 0, None on the others. Collective."""
        if self.count == 1:
            return [value]
        from torch import distributed

        values: list[_Value | None] | None = None if self.rank else [None] * self.count
        distributed.gather_object(value, values)
        return values  # type: ignore[return-value]

    def scatter_from_rank0(self, values: list[_Value] | None) -> _Value:
        """Return this rank's item of rank 0's list, which has one for each rank. Collective."""
        if self.count == 1:
            assert values
            return values[0]
        from torch import distributed

        received: list[_Value | None] = [None]
        distributed.scatter_object_list(received, values)
        return received[0]  # type: ignore[return-value]

    def any(self, value: bool) -> bool:
        """Whether `value` is true on any rank. Collective."""
        return any(self.gather(value))

    def sum(self, part: "Tensor") -> "Tensor":
        """Return the sum of the tensors of all ranks. Collective."""
        if self.count == 1:
            return part
        from torch import distributed

        total = part.clone()
        distributed.all_reduce(total)
        return total

    def own_rows(self, rows: "Tensor") -> "Tensor":
        """Return this rank's share of rows (..., B, columns), (..., B / count, columns)."""
        each = rows.shape[-2] // self.count
        return rows[..., self.rank * each : (self.rank + 1) * each, :].contiguous()

    def networks(self, population: int) -> range:
        """Return the numbers of this rank's networks in a population.

        Raises:
            BadInput: for fewer networks than ranks.
        """
        if population < self.count > 1:
            raise BadInput(
                f"population {population} on {self.count} ranks: give {self.count} or more, or 1 "
                "network, whose rows the ranks share"
            )
        firsts = [population * k // self.count for k in range(self.count + 1)]
        return range(firsts[self.rank], firsts[self.rank + 1])

    def command(self, single: str, local: int | None = None) -> str:
        """Return the torchrun command line for these ranks.

        Args:
            single: the command line for a single process.
            local: number of ranks on this machine; None takes torchrun's LOCAL_WORLD_SIZE.
        """
        if self.count == 1:
            return single
        local = local or int(os.environ.get("LOCAL_WORLD_SIZE", self.count))
        nodes = "" if local == self.count else f"--nnodes {self.count // local} "
        return f"torchrun {nodes}--nproc-per-node {local} {single.removeprefix('python ')}"


ALONE = Ranks()


def current_ranks() -> Ranks:
    """Return the rank of this process, from the environment variables of torchrun.

    Raises:
        BadInput: if RANK and WORLD_SIZE are no rank and number of ranks.
    """
    values = os.environ.get("RANK", "0"), os.environ.get("WORLD_SIZE", "1")
    try:
        rank, count = map(int, values)
    except ValueError:
        rank, count = -1, 2
    if count > 1 and rank not in range(count):
        raise BadInput(
            f"RANK {values[0]!r} of WORLD_SIZE {values[1]!r}: start with torchrun, which sets "
            "them, or unset both"
        )
    return Ranks(rank, count) if count > 1 else ALONE


def rank_names(ranks: Sequence[int]) -> str:
    """Return some ranks as text: "rank 1", "ranks 1, 2"."""
    return f"rank{'s' if len(ranks) > 1 else ''} {', '.join(map(str, ranks))}"


def checksums(values: "Sequence[Tensor]") -> list[int]:
    """Return the CRC-32 of the bits of each tensor."""
    import torch

    return [
        zlib.crc32(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        for value in values
    ]
