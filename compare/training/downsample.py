"""Downsample a run to at most a thousand buckets of steps, without losing a difference.

A plotting program thins out a curve of every step, and could drop the one that differs. A bucket
has the losses and norms of its first step, its largest difference, and the number of differences so
far.
"""

import torch
from torch import Tensor

from compare.cases.cases import quantity_kind
from compare.report.chunk import Bucket, Chunk
from compare.stateful import Count, Stateful, Types

MAX_BUCKETS = 1000  # the points of a curve that TensorBoard's server keeps by default
SIDES = ("manual", "autograd")
NORM_KINDS = ("syn", "delta", "update")  # the kinds of quantities that have a curve of their norm


class Buckets(Stateful):
    """Sorts the chunks of a run of `steps` steps into buckets."""

    STATE = Types(
        ended=list[Bucket], open=Bucket | None, unequal=dict[str, Count],
        compared=dict[str, Count], max_ulp=float,
    )  # fmt: skip

    def __init__(self, steps: int) -> None:
        self.every = -(-steps // MAX_BUCKETS)
        self.ended: list[Bucket] = []
        self.open: Bucket | None = None
        self.unequal: dict[str, int] = {}  # elements so far
        self.compared: dict[str, int] = {}
        self.max_ulp = 0.0

    @property
    def all(self) -> list[Bucket]:
        """The buckets so far, with the one that is not complete yet."""
        return self.ended if self.open is None else [*self.ended, self.open]

    def add(self, chunk: Chunk) -> list[Bucket]:
        """Add a chunk; return the buckets that it completes."""
        ended = len(self.ended)
        stop = chunk.start + chunk.steps
        firsts = range(chunk.start + -chunk.start % self.every, stop, self.every)
        values = _values(chunk, [first - chunk.start for first in firsts])
        cuts = sorted({chunk.start, stop, *firsts})
        for k, start in enumerate(cuts[:-1]):
            if start % self.every == 0:
                first_values = {side: values[side][firsts.index(start)] for side in SIDES}
                self.open = Bucket(start, start, first_values)
            assert self.open is not None
            self._extend(self.open, chunk, start - chunk.start, cuts[k + 1] - chunk.start)
            if self.open.stop % self.every == 0:
                self.ended.append(self.open)
                self.open = None
        return self.ended[ended:]

    def _extend(self, bucket: Bucket, chunk: Chunk, start: int, stop: int) -> None:
        bucket.stop = chunk.start + stop
        for name, each in chunk.compared.items():
            self.compared[name] = self.compared.get(name, 0) + each * (stop - start)
        for name, differences in chunk.differences.items():
            largest = float(differences.max_ulp[start:stop].max())
            bucket.largest_ulp = max(bucket.largest_ulp, largest)
            count = int(differences.unequal[start:stop].sum())
            self.unequal[name] = self.unequal.get(name, 0) + count
        for name, shares in chunk.shares.items():
            largest = bucket.share_of_bound.get(name, 0.0)
            bucket.share_of_bound[name] = max(largest, float(shares[start:stop].max()))
        self.max_ulp = max(self.max_ulp, bucket.largest_ulp)
        bucket.unequal = sum(self.unequal.values())
        bucket.max_ulp = self.max_ulp
        bucket.exact = {n: 1 - self.unequal.get(n, 0) / c for n, c in self.compared.items() if c}
        bucket.free_gap = chunk.free_gap


def _values(chunk: Chunk, at: list[int]) -> dict[str, list[dict[str, float]]]:
    """Return the losses, errors and norms of each side at some steps: side -> step -> name."""
    values_of: dict[str, list[dict[str, float]]] = {}
    norms: dict[int, Tensor] = {}  # by id: where the bits are equal both sides are one tensor
    for side in SIDES:
        columns = {"loss": chunk.loss[side][at], "mean absolute error": chunk.error[side][at]}
        if side in chunk.accuracy:
            columns["accuracy"] = chunk.accuracy[side][at]
        for name, value in chunk.values[side].items():
            if quantity_kind(name) in NORM_KINDS:
                if id(value) not in norms:
                    steps = slice(None) if len(value) == len(at) else at  # all without a copy
                    norms[id(value)] = _norms(value[steps, 0])
                columns[f"norm/{name}"] = norms[id(value)]
        rows = zip(*(column.tolist() for column in columns.values()), strict=True)
        values_of[side] = [dict(zip(columns, row, strict=True)) for row in rows]
    return values_of


def _norms(values: Tensor) -> Tensor:
    """Return the Euclidean norm of the first network's tensor at each step."""
    wide = torch.promote_types(values.dtype, torch.float32)  # a curve shows no more digits
    norms: Tensor = torch.linalg.vector_norm(values.flatten(1), dim=1, dtype=wide)
    return norms
