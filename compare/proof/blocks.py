"""Cuts large arrays into blocks whose intermediate results stay in the processor's cache.

An elementwise operation of many steps takes a fraction of the time so: 10 ns an element instead of
60 for a product of double-double numbers.
"""

from collections.abc import Sequence
from itertools import product
from typing import Any

BLOCK = 16_384  # elements; from 32,768 on, memory is fetched from the operating system each time


LARGE_BLOCK = 2**20  # elements, where memory is to be saved


def blocks(shape: Sequence[int], size: int = BLOCK) -> list[tuple[Any, ...]]:
    """Return indices that cut an array of this shape into blocks of at most `size` elements."""
    dim, inner = len(shape), 1
    while dim > 0 and inner * shape[dim - 1] <= size:
        dim -= 1
        inner *= shape[dim]
    if dim == 0:
        return [()]
    step = size // inner
    cuts = [slice(k, k + step) for k in range(0, shape[dim - 1], step)]
    outer = product(*(range(size) for size in shape[: dim - 1]))
    return [(*at, cut) for at in outer for cut in cuts]
