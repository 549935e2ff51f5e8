"""Many processes, each with its own rows of every step: their updates are added.

A loss over rows is a sum of the rows' own losses (a mean divides each by the number of all rows),
so -dLoss/dweight is the sum of what each rank finds for its rows. That sum is the same on every
rank, and so are the weights after it. Source: Li et al., PyTorch Distributed, VLDB 2020.
"""

from torch import Tensor, distributed


def added(part: Tensor) -> Tensor:
    """Return the sum over all ranks of `part`, shaped as it is; every rank must ask for it.

    Raises RuntimeError where a rank does not come.
    """
    total = part.clone()
    distributed.all_reduce(total)
    return total
