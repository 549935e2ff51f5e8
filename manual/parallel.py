"""Data parallelism: each process (rank) has some rows of every step, and the updates are added.

The loss is a sum over rows (a mean divides every term by the number of all rows). Therefore
-dLoss/dweight is the sum of the updates that the ranks compute from their own rows. Every rank gets
the same sum, so the weights stay equal on all ranks. Source: Li et al., PyTorch Distributed, VLDB
2020.
"""

from torch import Tensor, distributed


def added(part: Tensor) -> Tensor:
    """Return the sum of `part` over all ranks. Every rank must call this.

    Args:
        part: the update from the rows of this rank, any shape; it is not modified.

    Raises:
        RuntimeError: if a rank does not join before the time limit of the process group.
    """
    total = part.clone()
    distributed.all_reduce(total)
    return total
