"""Are two tensors the same bits, and if not, how far apart and where?

The lowest room of the house: imports torch and numpy, nothing of the project.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

_BLOCK = 1 << 20  # elements looked at more closely at a time, which bounds the memory for it
_INTEGERS = {8: torch.int64, 4: torch.int32, 2: torch.int16, 1: torch.int8}


class Kind(NamedTuple):
    """What a tensor is, without its values."""

    shape: torch.Size
    dtype: torch.dtype
    device: torch.device


def kind(value: Tensor) -> Kind:
    """Return what a tensor is."""
    return Kind(value.shape, value.dtype, value.device)


def mismatch(
    manual: Tensor, other: Tensor | Kind, where: str = "on the autograd side"
) -> str | None:
    """Return how two tensors differ before any value is looked at."""
    for what in ("shape", "dtype", "device"):
        one, two = getattr(manual, what), getattr(other, what)
        if one != two:
            if isinstance(one, torch.Size):
                one, two = tuple(one), tuple(two)
            return f"{what} {one} by hand, {two} {where}"
    return None


def as_integers(values: Tensor) -> Tensor:
    """Return the bits of `values` as integers of its width, in its shape."""
    if not values.dtype.is_floating_point:
        return values
    return values.contiguous().view(_INTEGERS[values.dtype.itemsize])


def ordered_ints(values: Tensor) -> Tensor:
    """Return int64 that count up by one from each float to the next, -0.0 just below +0.0."""
    bits = as_integers(values).to(torch.int64)
    magnitude = torch.iinfo(as_integers(values).dtype).max  # all bits but the sign
    return torch.where(bits < 0, -(bits & magnitude) - 1, bits)


def ulps(one: Tensor, other: Tensor) -> Tensor:
    """Return how many floats lie between, elementwise, as the bits of an unsigned 64-bit integer.

    Two float64 of opposite sign can be more than 2**63 apart; the subtraction then wraps to just
    those unsigned bits. Neighbours are 1 apart, -0.0 and +0.0 too.
    """
    a, b = ordered_ints(one), ordered_ints(other)
    return torch.maximum(a, b) - torch.minimum(a, b)


@dataclass(frozen=True)
class Place:
    """The element that is furthest apart, or the first NaN: where it is and both its values."""

    index: tuple[int, ...]
    manual: float
    autograd: float
    ulp: int  # 0 where one of the two is NaN: a NaN is at no distance
    step: int | None = None  # of a run, from 0
    seed: int | None = None  # of the network
    rank: int | None = None  # whose rows, where many processes share them

    @property
    def nan(self) -> bool:
        """Whether either value is NaN."""
        return math.isnan(self.manual) or math.isnan(self.autograd)

    def outranks(self, ulp: int, *, nan: bool) -> bool:
        """Whether this is worse than an element `ulp` apart, or than one that is NaN."""
        return not nan and (self.nan or self.ulp > ulp)

    def to_dict(self) -> dict[str, Any]:
        """Return it for JSON, both values as float.hex() so that no bit is lost."""
        return {
            **({} if self.rank is None else {"rank": self.rank}),
            "step": self.step,
            "seed": self.seed,
            "index": list(self.index),
            "manual": self.manual.hex(),
            "autograd": self.autograd.hex(),
        }


@dataclass(frozen=True)
class Difference:
    """What an elementwise comparison of two tensors of one shape and dtype found."""

    total: int
    equal: int
    nans: int = 0
    max_ulp: int = 0
    worst: Place | None = None  # None when all is equal and nothing is NaN
    first: int = 0  # the first index in the leading dimension with an unequal element


def same_bits(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors of one dtype have the same shape and bits; NaN is not asked about."""
    if one is other:
        return True
    if one.shape != other.shape:
        return False
    bits = [as_integers(values.detach()).reshape(-1) for values in (one, other)]
    if all(_fills_words(flat) for flat in bits):  # fewer numbers to compare
        bits = [flat.view(torch.int64) for flat in bits]
    return torch.equal(*bits)


def _fills_words(flat: Tensor) -> bool:
    """Whether a vector can be viewed as int64."""
    places = flat.numel(), flat.storage_offset()
    # one element or none may have any stride; complex numbers stay as they are
    straight = flat.stride(0) == 1 and not flat.is_complex()
    return straight and all(place * flat.itemsize % 8 == 0 for place in places)


def compare_bits(manual: Tensor, autograd: Tensor) -> Difference:
    """Compare two tensors of one shape and dtype bit for bit.

    An element that is NaN on either side counts as unequal, also where both have the same NaN:
    a NaN shows nothing.
    """
    total = manual.numel()
    found = Difference(total=total, equal=total)
    # a finite sum has no NaN in it; one that overflows is looked at more closely below
    if same_bits(manual, autograd) and bool(manual.sum().isfinite()):
        return found
    for start in range(0, total, _BLOCK):
        block = slice(start, start + _BLOCK)
        one, other = manual.reshape(-1)[block], autograd.reshape(-1)[block]
        found = _with(found, one, other, start, manual.shape)
    return found


def _with(found: Difference, one: Tensor, other: Tensor, at: int, shape: torch.Size) -> Difference:
    """Return what was found, with a block of elements from `at` on added."""
    nan = one.isnan() | other.isnan()
    unequal = (as_integers(one) != as_integers(other)) | nan
    count = int(unequal.sum())
    if not count:
        return found
    distance = torch.where(nan, 0, ulps(one, other))
    order = distance ^ torch.iinfo(torch.int64).min  # unsigned order: flip the top bit
    place = int(torch.where(nan, torch.iinfo(torch.int64).max, order).argmax())
    index = unravel(at + place, shape)
    worst = Place(index, float(one[place]), float(other[place]), _unsigned(distance[place]))
    first = at + int(unequal.to(torch.uint8).argmax())
    outranks = worst.outranks(found.max_ulp, nan=found.nans > 0)
    return Difference(
        total=found.total,
        equal=found.equal - count,
        nans=found.nans + int(nan.sum()),
        max_ulp=max(found.max_ulp, _unsigned(distance[order.argmax()])),
        worst=worst if outranks else found.worst,
        first=unravel(first, (*shape, 1))[0] if found.worst is None else found.first,
    )


@dataclass(frozen=True)
class Steps:
    """Of a quantity's elements at each step: how many differ, and the largest distance in ulps."""

    unequal: np.ndarray  # (steps,) int64; a NaN counts
    max_ulp: np.ndarray  # (steps,) uint64

    def __add__(self, other: "Steps") -> "Steps":
        """Return what two sets of elements have together."""
        largest = np.maximum(self.max_ulp, other.max_ulp)
        return Steps(self.unequal + other.unequal, largest)


def at_each_step(manual: Tensor, autograd: Tensor, found: Difference) -> Steps:
    """Return step by step what was `found` of two tensors (steps, ...) in all."""
    if len(manual) == 1:  # which may be large
        count = np.array([found.total - found.equal])
        return Steps(count, np.array([found.max_ulp], np.uint64))
    nan = manual.isnan() | autograd.isnan()
    unequal = (as_integers(manual) != as_integers(autograd)) | nan
    order = torch.where(nan, 0, ulps(manual, autograd)) ^ torch.iinfo(torch.int64).min
    largest = order.flatten(1).amax(1) ^ torch.iinfo(torch.int64).min
    counts = unequal.flatten(1).sum(1)
    return Steps(counts.cpu().numpy(), largest.cpu().numpy().view(np.uint64))


def unravel(at: int, shape: Sequence[int]) -> tuple[int, ...]:
    """Return the index of the element `at` of a contiguous tensor of `shape`."""
    return tuple(int(i) for i in np.unravel_index(at, tuple(shape)))


def _unsigned(value: Tensor) -> int:
    return int(value) % 2**64
