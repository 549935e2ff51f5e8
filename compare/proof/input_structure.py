"""What an input visibly is, but for rounding: rows that sum to 1, unit rows, a symmetric matrix.

A pass may rely on that, and floats have it only to rounding, so that a right pass would be another
formula by the last digit. What it is exactly is a second reading of such an input.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import flint
import numpy as np
import torch
from torch import Tensor

from compare.proof.balls import Array

# How far a sum or a length may be off, in spacings of the dtype, to be what it is but for rounding.
# bfloat16's is near a hundredth: in half precision one must do, each number rounded once.
_OFF, _OFF_IN_HALF = 4.0, 1.0


def spacing(dtype: torch.dtype) -> float:
    """Return what `_OFF` is counted in: the spacing at 1, a fourth of it in half precision."""
    return torch.finfo(dtype).eps * (1 if dtype.itemsize >= 4 else _OFF_IN_HALF / _OFF)


def _to_1(x: Tensor) -> tuple[Tensor, Tensor]:
    return x.sum(-1) - 1, torch.where((x < 0).any(-1), 0.0, _OFF)


def _length_1(x: Tensor) -> tuple[Tensor, Tensor]:
    return x.square().sum(-1).sqrt() - 1, torch.full_like(x.sum(-1), _OFF)


def _to_0(x: Tensor) -> tuple[Tensor, Tensor]:
    return x.sum(-1), _OFF / 4 * x.abs().sum(-1)


def _logs(x: Tensor) -> tuple[Tensor, Tensor]:
    size = 1 + x.abs().amax(-1)
    return x.logsumexp(-1), torch.where((x > 0).any(-1), 0.0, _OFF * size)


@dataclass(frozen=True)
class _Line:
    """A kind of line: how far off it is, what it may be in spacings, and what makes it right.

    Of floats these are lines along the last dimension; of balls it is one, and one of its numbers.
    """

    off: Callable[[Tensor], tuple[Tensor, Tensor]]
    floats: Callable[[Tensor], Tensor]
    balls: Callable[[list[flint.arb]], Callable[[flint.arb], flint.arb]]


def _sum(numbers: Iterable[flint.arb]) -> flint.arb:
    return sum(numbers, flint.arb(0))


def _divided(by: flint.arb) -> Callable[[flint.arb], flint.arb]:
    return lambda x: x / by


def _less(what: flint.arb) -> Callable[[flint.arb], flint.arb]:
    return lambda x: x - what


def _shifted(x: Tensor) -> Tensor:
    free = x != 0
    return x - free * (x.sum(-1, keepdim=True) / free.sum(-1, keepdim=True).clamp_min(1))


_LINES = {
    "sums of 1": _Line(
        _to_1, lambda x: x / x.sum(-1, keepdim=True), lambda row: _divided(_sum(row))
    ),
    "lengths of 1": _Line(
        _length_1,
        lambda x: x / x.square().sum(-1, keepdim=True).sqrt(),
        lambda row: _divided(_sum(y * y for y in row).sqrt()),
    ),
    "sums of 0": _Line(
        _to_0, _shifted, lambda row: _less(_sum(row) / max(1, sum(x != 0 for x in row)))
    ),
    "logarithms of shares": _Line(
        _logs,
        lambda x: x - x.logsumexp(-1, keepdim=True),
        lambda row: _less(_sum(y.exp() for y in row).log()),
    ),
}


def _along(x: Tensor, dim: int | None) -> Tensor:
    """Return a tensor with its lines in the last dimension: those along `dim`, or all as one."""
    return x.reshape(1, -1) if dim is None else x.movedim(dim, -1)


@dataclass(frozen=True)
class Lines:
    """Along a dimension, or in all, the numbers have sums of 1, or another of those kinds."""

    kind: str
    dim: int | None

    def normalised(self, values: Tensor) -> Tensor:
        """Return floats that are of the kind again, to rounding."""
        x = _along(values.double(), self.dim)
        found = torch.where((x == 0).all(-1, keepdim=True), x, _LINES[self.kind].floats(x))
        if self.dim is not None:
            found = found.movedim(-1, self.dim)
        return found.reshape(values.shape).to(values.dtype)

    def exactly(self, values: Array) -> Array:
        """Return lifted numbers that are of the kind exactly."""
        moved = values.reshape(1, -1) if self.dim is None else np.moveaxis(values, self.dim, -1)
        found = np.empty_like(moved)
        for at in np.ndindex(moved.shape[:-1]):
            row = list(moved[at])
            change = _LINES[self.kind].balls(row)
            found[at] = [change(x) if x != 0 else x for x in row]
        found = found if self.dim is None else np.moveaxis(found, -1, self.dim)
        return found.reshape(values.shape)


@dataclass(frozen=True)
class Turned:
    """Square matrices that are their own transpose, or minus that, but for rounding."""

    sign: int

    def exactly(self, values: Array) -> Array:
        """Return lifted numbers that are so exactly."""
        return (values + self.sign * np.swapaxes(values, -1, -2)) / 2


def lines(values: Tensor, dim: int | None) -> str | None:
    """Return of what kind all lines along a dimension are, None of none.

    Lines of zeros, as padding has them, may be among them.
    """
    x, unit = _along(values.detach().double(), dim), spacing(values.dtype)
    empty = (x == 0).all(-1)
    for kind, line in _LINES.items():
        off, room = line.off(x)
        near = (off.abs() <= unit * room) & ~empty & (room > 0)
        if bool((near | empty).all()) and bool(near.any()):
            return kind
    return None


def turned(values: Tensor) -> int | None:
    """Return 1 for symmetric matrices, -1 for skew ones, to rounding; else None."""
    x = values.detach().double()
    if x.ndim < 2 or x.shape[-1] != x.shape[-2] or x.shape[-1] < 2:
        return None
    # a product's rounding is of the size of what was added up; in half precision it is rounded once
    size = x.abs().masked_fill(~x.isfinite(), 0)
    if values.dtype.itemsize >= 4:
        size = size.amax((-2, -1), keepdim=True)
    room = _OFF * spacing(values.dtype) * size
    for sign in (1, -1):
        other = sign * x.mT
        if bool(((x == other) | ((x - other).abs() <= room)).all()):
            return sign
    return None


def kind_of(values: Tensor) -> Lines | None:
    """Return along what an input is of a kind: a dimension, the last one first, or in all.

    None along nothing, or with infinities.
    """
    if not values.is_floating_point() or values.numel() < 2 or values.dtype.itemsize < 2:
        return None
    if not bool(values.isfinite().all()):
        return None
    dims: list[int | None] = [d for d in reversed(range(values.ndim)) if values.shape[d] > 1]
    for dim in [*dims, None] if values.ndim > 1 else dims:
        if (kind := lines(values, dim)) is not None:
            return Lines(kind, dim)
    return None


def but_for_rounding(values: Tensor) -> Lines | Turned | None:
    """Return what an input is but for rounding, None for nothing."""
    if not values.is_floating_point() or values.dtype.itemsize < 2:
        return None
    sign = turned(values)
    if sign is not None and not torch.equal(values, sign * values.mT):
        return Turned(sign)
    return kind_of(values)
