"""Many processes started by torchrun: who this one is, and what they tell each other.

Imports torch only where they speak. `watchdog` sees to it that no rank waits for ever.
"""

import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from compare.errors import BadInput

if TYPE_CHECKING:
    from torch import Tensor

_Told = TypeVar("_Told")


@dataclass(frozen=True)
class Ranks:
    """Who a process is: `rank` of `count`; a run of one process has the only rank, 0 of 1."""

    rank: int = 0
    count: int = 1

    def gather(self, told: _Told) -> list[_Told]:
        """Return what every rank has told, in the order of ranks; each of them must tell."""
        if self.count == 1:
            return [told]
        from torch import distributed

        found: list[_Told | None] = [None] * self.count
        distributed.all_gather_object(found, told)
        return found  # type: ignore[return-value]

    def to_first(self, told: _Told) -> list[_Told] | None:
        """Return on rank 0 what every rank has told; each of them must tell."""
        if self.count == 1:
            return [told]
        from torch import distributed

        found: list[_Told | None] | None = None if self.rank else [None] * self.count
        distributed.gather_object(told, found)
        return found  # type: ignore[return-value]

    def from_first(self, each: list[_Told] | None) -> _Told:
        """Return what rank 0 has for this one in a list with one for each; all of them must ask."""
        if self.count == 1:
            assert each
            return each[0]
        from torch import distributed

        found: list[_Told | None] = [None]
        distributed.scatter_object_list(found, each)
        return found[0]  # type: ignore[return-value]

    def any(self, told: bool) -> bool:
        """Whether any rank says so; each of them must say."""
        return any(self.gather(told))

    def added(self, part: "Tensor") -> "Tensor":
        """Return the sum of every rank's tensor; each of them must give one."""
        if self.count == 1:
            return part
        from torch import distributed

        total = part.clone()
        distributed.all_reduce(total)
        return total

    def own(self, rows: "Tensor") -> "Tensor":
        """Return this rank's of (..., B, columns) rows, as many as any other's."""
        each = rows.shape[-2] // self.count
        return rows[..., self.rank * each : (self.rank + 1) * each, :].contiguous()

    def networks(self, population: int) -> range:
        """Return which networks of a population are this rank's; raises BadInput for too few."""
        if population < self.count > 1:
            raise BadInput(
                f"population {population} on {self.count} ranks: give {self.count} or more, or 1 "
                "network, whose rows they share"
            )
        firsts = [population * k // self.count for k in range(self.count + 1)]
        return range(firsts[self.rank], firsts[self.rank + 1])

    def command(self, alone: str, here: int | None = None) -> str:
        """Return the command line of a run with as many ranks, from that of a run of one.

        On this machine there are to be as many as are `here`, which torchrun says of a run of its.
        """
        if self.count == 1:
            return alone
        here = here or int(os.environ.get("LOCAL_WORLD_SIZE", self.count))
        nodes = "" if here == self.count else f"--nnodes {self.count // here} "
        words = alone.removeprefix("python ")
        return f"torchrun {nodes}--nproc-per-node {here} {words}"


ALONE = Ranks()


def started() -> Ranks:
    """Return who this process is by what torchrun has put into its environment."""
    told = os.environ.get("RANK", "0"), os.environ.get("WORLD_SIZE", "1")
    try:
        rank, count = map(int, told)
    except ValueError:
        rank, count = -1, 2
    if count > 1 and rank not in range(count):
        raise BadInput(
            f"RANK {told[0]!r} of WORLD_SIZE {told[1]!r}: start with torchrun, which sets them, or "
            "unset both"
        )
    return Ranks(rank, count) if count > 1 else ALONE


def named(ranks: Sequence[int]) -> str:
    """Return some ranks in words."""
    return f"rank{'s' if len(ranks) > 1 else ''} {', '.join(map(str, ranks))}"


def fingerprint(values: "Sequence[Tensor]") -> list[int]:
    """Return a number for the bits of each tensor: other bits, almost surely another number."""
    import torch

    return [
        zlib.crc32(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        for value in values
    ]
