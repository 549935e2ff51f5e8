"""Row of the table for the product behind a bilinear layer, torch.nn.Bilinear."""

import math
from collections.abc import Sequence

import torch

from compare.proof.arithmetic_interface import Call, N, flat_indices

# Products of three numbers; more would take minutes.
_MAX_PRODUCTS = 1_000_000


def trilinear(
    n: Call[N], a: N, b: N, c: N, new_a: Sequence[int], new_b: Sequence[int], new_c: Sequence[int],
    sum_dims: Sequence[int], _unroll_dim: int = 1,
) -> N:  # fmt: skip
    """Return the sum over some dimensions of the product of three tensors.

    Args:
        n: The arithmetic.
        a: The first factor, broadcast with the others after it has its new dimensions.
        b: The second factor.
        c: The third factor.
        new_a: The dimensions of size 1 that the first factor gets.
        new_b: Those of the second factor.
        new_c: Those of the third factor.
        sum_dims: The dimensions to sum over.

    Raises:
        ValueError: It would need too many numbers.
    """

    def wide(x: N, new: Sequence[int]) -> N:
        indices = flat_indices(x.shape)
        for dim in new:
            indices = indices.unsqueeze(dim)
        return n.take(x, indices)

    factors = [wide(*pair) for pair in ((a, new_a), (b, new_b), (c, new_c))]
    shape = torch.broadcast_shapes(*(tuple(factor.shape) for factor in factors))
    if (count := math.prod(shape)) > _MAX_PRODUCTS:
        raise ValueError(
            f"it needs {count:,} intermediate numbers, and at most {_MAX_PRODUCTS:,} are supported"
        )
    first, second, third = (n.broadcast_to(factor, shape) for factor in factors)
    return n.sum(first * second * third, list(sum_dims), False)
