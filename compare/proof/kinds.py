"""What an input visibly is, and other inputs of that kind.

A formula is right if it is right beside the given inputs too. But those are often of a kind that a
pass may rely on: rows that sum to 1, a symmetric matrix, one-hot rows, a mask, zeros that were
pruned. So another input is made of the given one's own rows, each mixed with another: a mixture has
the range, the sums, the signs and the empty columns of what it is mixed from.
"""

import math
from dataclasses import dataclass

import flint
import numpy as np
import torch
from torch import Tensor

from compare.proof.balls import Array
from compare.proof.draws import generator

# How far a sum or a length may be off 1, in spacings of the dtype at 1, to be 1 but for rounding.
_OFF = 4.0
NEAREST, FURTHEST = 1 / 64, 1 / 8  # how much of another row is mixed in


@dataclass(frozen=True)
class Unit:
    """Numbers that sum to 1 but for rounding, or whose squares do, along a dimension or in all."""

    power: int
    dim: int | None  # None: all of the tensor

    def normalised(self, values: Tensor) -> Tensor:
        """Return floats whose sum, or length, is 1 again."""
        powers = values.double() ** self.power
        total = powers.sum() if self.dim is None else powers.sum(self.dim, keepdim=True)
        size = total if self.power == 1 else total.sqrt()
        return torch.where(size == 0, values.double(), values.double() / size).to(values.dtype)

    def exactly(self, values: Array) -> Array:
        """Return lifted numbers whose sum, or length, is 1 exactly."""
        shape = values.shape
        moved = values.reshape(1, -1) if self.dim is None else np.moveaxis(values, self.dim, -1)
        found = np.empty_like(moved)
        for row in np.ndindex(moved.shape[:-1]):
            total = sum((x**self.power for x in moved[row]), flint.arb(0))
            size = total if self.power == 1 else total.sqrt()
            found[row] = [x / size for x in moved[row]] if total != 0 else moved[row]
        return found.reshape(shape) if self.dim is None else np.moveaxis(found, -1, self.dim)

    @property
    def text(self) -> str:
        """What it is, in words."""
        return "sums of 1" if self.power == 1 else "lengths of 1"


@dataclass(frozen=True)
class Symmetric:
    """Square matrices that are symmetric but for rounding."""

    text = "a symmetry"

    def exactly(self, values: Array) -> Array:
        """Return lifted numbers that are symmetric exactly."""
        return (values + np.swapaxes(values, -1, -2)) / 2


def but_for_rounding(values: Tensor) -> Unit | Symmetric | None:
    """Return what an input is but for rounding, None where it is that exactly, or nothing."""
    if (kind := unit(values)) is not None or not values.is_floating_point():
        return kind
    alike = _symmetric(values.detach().double().cpu(), _spacing(values))
    return Symmetric() if alike and not torch.equal(values, values.mT) else None


def unit(values: Tensor) -> Unit | None:
    """Return along what the numbers of an input sum to 1, or have length 1, None along nothing.

    Lines of zeros, as padding has them, may be among them.
    """
    if not values.is_floating_point() or values.numel() < 2 or not bool(values.isfinite().all()):
        return None
    exact, spacing = values.detach().double(), _spacing(values)
    dims: list[int | None] = [d for d in reversed(range(values.ndim)) if values.shape[d] > 1]
    for power in (1, 2):
        if power == 1 and bool((exact < 0).any()):
            continue
        for dim in [*dims, None] if values.ndim > 1 else dims:
            powers = exact**power
            total = powers.sum() if dim is None else powers.sum(dim)
            near = (total.sqrt() if power == 2 else total).sub(1).abs() <= spacing
            if bool((near | (total == 0)).all()) and bool(near.any()):
                return Unit(power, dim)
    return None


def other(name: str, values: Tensor, *, leaf: bool, share: float = 1.0, draw: int = 0) -> Tensor:
    """Return another input of the same kind; a `leaf` is one whose gradient is asked for.

    Each row becomes a mixture with another one, of which it takes 1/64 to 1/8 times `share`. Seeded
    by the name and the number of the draw. Infinities, and zeros among other numbers, stay where
    they are; so do whole numbers (counts, classes, exponents) that are no leaf.
    """
    if not values.is_floating_point() or not values.numel():
        return values.clone()
    chance = generator("other", name, tuple(values.shape), draw)
    mix = _Mix(values, leaf, share, chance)
    found = mix.all().to(values.dtype).to(values.device)
    found = mix.kind.normalised(found) if mix.kind and not mix.shuffled else found
    return torch.where(values.isfinite(), found, values.detach())


class _Mix:
    """One input, in float64, and what is drawn for it."""

    def __init__(self, values: Tensor, leaf: bool, share: float, chance: torch.Generator) -> None:
        self.leaf, self.share, self.chance = leaf, share, chance
        self.values, self.kind = values.detach().double().cpu(), unit(values)
        self.symmetric = _symmetric(self.values, _spacing(values))
        self.shuffled = False  # nothing but the order of the rows is another

    def all(self) -> Tensor:
        """Return the other input."""
        x = self.values
        kinds = x.unique()
        if len(kinds) == 1:
            return self._constant(float(kinds[0]))
        if len(kinds) == 2 and x.numel() > 2:
            return self._codes()
        if not self.leaf and bool((x == x.round())[x.isfinite()].all()):
            return x
        if self.symmetric:
            return self._alike()
        if x.ndim and x.numel() == x.shape[-1]:
            return self._row(x.flatten()).reshape(x.shape)
        return self._rows(x.mT).mT if self.kind and self.kind.dim == x.ndim - 2 else self._rows(x)

    def _shares(self, *shape: int) -> Tensor:
        """Draw how much of another row each row takes."""
        drawn = torch.rand(shape, generator=self.chance, dtype=torch.float64)
        return (NEAREST + (FURTHEST - NEAREST) * drawn) * self.share

    def _constant(self, value: float) -> Tensor:
        """Scale what is the same number everywhere, element by element."""
        x = self.values
        if not math.isfinite(value) or (value.is_integer() and value != 1 and not self.leaf):
            return x
        shares = self._shares(*x.shape)
        return shares if value == 0 else x * (1 + shares)

    def _codes(self) -> Tensor:
        """Shuffle the rows of what has two values, a mask or classes; a causal mask stays."""
        x, self.shuffled = self.values, True
        if self.symmetric:
            order = torch.randperm(x.shape[-1], generator=self.chance)
            return x[..., order, :][..., order]
        if x.ndim > 1 and _triangular(x):
            return x
        rows = x.reshape(-1, x.shape[-1]) if x.ndim > 1 else x
        return rows[torch.randperm(len(rows), generator=self.chance)].reshape(x.shape)

    def _alike(self) -> Tensor:
        """Mix rows and columns alike."""
        x = self.values
        order = torch.randperm(x.shape[-1], generator=self.chance)
        return self._kept(x + self._shares(1) * (x[..., order, :][..., order] - x))

    def _row(self, x: Tensor) -> Tensor:
        """Mix the elements of one row, all by one share: its sum stays, and so does its order."""
        free = x.isfinite() & (x != 0)
        some = x[free]
        if len(some) < 2:
            return torch.where(free, x * (1 + self._shares(*x.shape)), x)
        rising = some[1:] >= some[:-1]
        if len(some) > 2 and bool(rising.all() | ~rising.any()):
            beside = torch.cat([some[1:], some[-1:]])
        else:
            beside = some[self._derangement(len(some))]
        found = x.clone()
        found[free] = some + self._shares(1) * (beside - some)
        return found

    def _rows(self, x: Tensor) -> Tensor:
        """Mix each row with another one."""
        rows = x.reshape(-1, x.shape[-1])
        beside = rows[self._derangement(len(rows))]
        mixed = rows + self._shares(len(rows), 1) * (beside - rows)
        mixed = torch.where(beside.isfinite(), mixed, rows)
        return self._kept(mixed.reshape(x.shape), x)

    def _kept(self, mixed: Tensor, x: Tensor | None = None) -> Tensor:
        """Return a mixture with the zeros of what was mixed."""
        return torch.where((self.values if x is None else x) == 0, 0.0, mixed)

    def _derangement(self, count: int) -> Tensor:
        """Draw another row for each: a shuffle, each row of which goes to the next one's place."""
        order = torch.randperm(count, generator=self.chance)
        found = torch.empty_like(order)
        found[order] = order.roll(1)
        return found


def _spacing(values: Tensor) -> float:
    return _OFF * torch.finfo(values.dtype).eps


def _symmetric(x: Tensor, off: float) -> bool:
    """Whether it is square matrices that are symmetric, to rounding."""
    if x.ndim < 2 or x.shape[-1] != x.shape[-2] or x.shape[-1] < 2:
        return False
    return bool((x == x.mT).logical_or((x - x.mT).abs() <= off * x.abs()).all())


def _triangular(x: Tensor) -> bool:
    """Whether one of two values is what stands on one side of the diagonal.

    Such is a causal mask: its order says which row comes first.
    """
    mark = x == x[..., :1, :1]
    sides = torch.ones_like(mark).triu(1), torch.ones_like(mark).tril(-1)
    return any(bool((mark != side).all()) for side in sides)
