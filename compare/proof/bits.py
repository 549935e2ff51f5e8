"""Compares two tensors bit for bit: how many elements differ, by how many ulps, and where.

The lowest module of the package: it imports torch and numpy, nothing of the project.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

_BLOCK = 1 << 20  # elements compared in detail at a time, which bounds the memory for it
_INTEGERS = {8: torch.int64, 4: torch.int32, 2: torch.int16, 1: torch.int8}


class TensorSpec(NamedTuple):
    """A tensor's shape, dtype and device, without its values."""

    shape: torch.Size
    dtype: torch.dtype
    device: torch.device


def tensor_spec(value: Tensor) -> TensorSpec:
    """Return a tensor's shape, dtype and device."""
    return TensorSpec(value.shape, value.dtype, value.device)


def mismatch(
    manual: Tensor, other: Tensor | TensorSpec, where: str = "on the autograd side"
) -> str | None:
    """Return in words how shape, dtype or device of two tensors differ; None if they do not.

    Args:
        manual: The by-hand tensor.
        other: The tensor to compare it with, or its specification.
        where: Names the other tensor in the text: "shape (4,) by hand, (4, 1) {where}".
    """
    for attribute in ("shape", "dtype", "device"):
        one, two = getattr(manual, attribute), getattr(other, attribute)
        if one != two:
            if isinstance(one, torch.Size):
                one, two = tuple(one), tuple(two)
            return f"{attribute} {one} by hand, {two} {where}"
    return None


def real_view(values: Tensor) -> Tensor:
    """Return complex numbers as real ones, with one more dimension of size 2: real, imaginary.

    A tensor that is not complex is returned unchanged.
    """
    return torch.view_as_real(values.resolve_conj()) if values.is_complex() else values


def of_real_view(values: Tensor, like: Tensor) -> Tensor:
    """Return the complex tensor whose real view is given, if `like` is complex."""
    if not like.is_complex() or values.is_complex():
        return values
    return torch.view_as_complex(values.contiguous())


def place(index: Sequence[int], *, of_complex: bool = False) -> str:
    """Return the index of an element in words; the last index of a real view names the part."""
    if not of_complex:
        return str(list(index))
    *number, part = index
    return f"{number} ({('real', 'imaginary')[part]} part)"


def as_integers(values: Tensor) -> Tensor:
    """Return the bits of a floating-point tensor as integers of the same width and shape.

    Those of a complex tensor are the bits of its real view.
    """
    values = real_view(values)
    if not values.dtype.is_floating_point:
        return values
    return values.resolve_neg().contiguous().view(_INTEGERS[values.dtype.itemsize])


def ordered_ints(values: Tensor) -> Tensor:
    """Return the rank of each float as int64: neighbours differ by 1, -0.0 is just below +0.0."""
    bits = as_integers(values).to(torch.int64)
    magnitude = torch.iinfo(as_integers(values).dtype).max  # all bits but the sign
    return torch.where(bits < 0, -(bits & magnitude) - 1, bits)


def ulps(one: Tensor, other: Tensor) -> Tensor:
    """Return the elementwise distance in ulps, as an unsigned 64-bit integer held in int64.

    Two float64 of opposite sign can be more than 2**63 apart; the int64 subtraction then wraps
    around to the bits of that unsigned distance. Neighbouring floats are 1 apart, as are -0.0 and
    +0.0.
    """
    a, b = ordered_ints(one), ordered_ints(other)
    return torch.maximum(a, b) - torch.minimum(a, b)


@dataclass(frozen=True)
class WorstElement:
    """The element with the largest difference, or the first NaN: its index and both values."""

    index: tuple[int, ...]
    manual: float
    autograd: float
    ulp: int  # 0 if either value is NaN, which has no distance to anything
    step: int | None = None  # step of the run, counted from 0
    seed: int | None = None  # seed of the network
    rank: int | None = None  # the process whose rows they are, if several share the rows

    @property
    def nan(self) -> bool:
        """Whether either value is NaN."""
        return math.isnan(self.manual) or math.isnan(self.autograd)

    def outranks(self, ulp: int, *, nan: bool) -> bool:
        """Whether this element is worse than one that is `ulp` apart, or that is NaN (`nan`)."""
        return not nan and (self.nan or self.ulp > ulp)

    def to_dict(self) -> dict[str, Any]:
        """Return the element for JSON, both values as float.hex(), which keeps every bit."""
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
    """The result of comparing two tensors of the same shape and dtype bit for bit."""

    total: int  # number of elements
    equal: int  # number of elements with equal bits and without NaN
    nans: int = 0  # number of elements with NaN on either side
    max_ulp: int = 0
    worst: WorstElement | None = None  # None if all bits are equal and nothing is NaN
    first: int = 0  # the first index in the leading dimension with an unequal element


def same_bits(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors of the same dtype have equal shapes and bits; equal NaN bits count."""
    if one is other:
        return True
    if one.shape != other.shape:
        return False
    bits = [as_integers(values.detach()).reshape(-1) for values in (one, other)]
    if all(_viewable_as_int64(flat) for flat in bits):  # fewer numbers to compare
        bits = [flat.view(torch.int64) for flat in bits]
    return torch.equal(*bits)


def _viewable_as_int64(flat: Tensor) -> bool:
    """Whether a vector's memory can be viewed as int64."""
    counts = flat.numel(), flat.storage_offset()
    # a tensor of at most one element may have any stride
    return flat.stride(0) == 1 and all(count * flat.itemsize % 8 == 0 for count in counts)


def compare_bits(manual: Tensor, autograd: Tensor) -> Difference:
    """Compare two tensors of the same shape and dtype bit for bit.

    An element that is NaN on either side counts as unequal, even if both sides hold the same NaN:
    nothing can be verified from a NaN. Of complex numbers each part is an element.
    """
    manual, autograd = real_view(manual), real_view(autograd)
    total = manual.numel()
    difference = Difference(total=total, equal=total)
    # a finite sum rules out NaN; if the sum overflows, the loop below looks for it
    if same_bits(manual, autograd) and bool(manual.sum().isfinite()):
        return difference
    for start in range(0, total, _BLOCK):
        block = slice(start, start + _BLOCK)
        one, other = manual.reshape(-1)[block], autograd.reshape(-1)[block]
        difference = _with_block(difference, one, other, start, manual.shape)
    return difference


def _with_block(
    before: Difference, one: Tensor, other: Tensor, start: int, shape: torch.Size
) -> Difference:
    """Return the difference with a block of elements, from flat index `start` on, added to it."""
    nan = one.isnan() | other.isnan()
    unequal = (as_integers(one) != as_integers(other)) | nan
    count = int(unequal.sum())
    if not count:
        return before
    distance = torch.where(nan, 0, ulps(one, other))
    order = distance ^ torch.iinfo(torch.int64).min  # unsigned order: flip the top bit
    at = int(torch.where(nan, torch.iinfo(torch.int64).max, order).argmax())
    index = unravel(start + at, shape)
    worst = WorstElement(index, float(one[at]), float(other[at]), _unsigned(distance[at]))
    first = start + int(unequal.to(torch.uint8).argmax())
    outranks = worst.outranks(before.max_ulp, nan=before.nans > 0)
    return Difference(
        total=before.total,
        equal=before.equal - count,
        nans=before.nans + int(nan.sum()),
        max_ulp=max(before.max_ulp, _unsigned(distance[order.argmax()])),
        worst=worst if outranks else before.worst,
        first=unravel(first, (*shape, 1))[0] if before.worst is None else before.first,
    )


@dataclass(frozen=True)
class StepDifferences:
    """For each step of a run: how many elements of a quantity differ, and by how many ulps."""

    unequal: np.ndarray  # (steps,) int64; a NaN counts as unequal
    max_ulp: np.ndarray  # (steps,) uint64

    def __add__(self, other: "StepDifferences") -> "StepDifferences":
        """Return the differences of two sets of elements taken together."""
        largest = np.maximum(self.max_ulp, other.max_ulp)
        return StepDifferences(self.unequal + other.unequal, largest)


def differences_by_step(manual: Tensor, autograd: Tensor, total: Difference) -> StepDifferences:
    """Return the differences of two tensors step by step.

    Args:
        manual: By-hand values, (steps, ...).
        autograd: The reference's values, of the same shape and dtype.
        total: The result of `compare_bits` on the two; with a single step nothing is recomputed.
    """
    if len(manual) == 1:  # a single step may hold a large tensor
        count = np.array([total.total - total.equal])
        return StepDifferences(count, np.array([total.max_ulp], np.uint64))
    nan = manual.isnan() | autograd.isnan()
    unequal = (as_integers(manual) != as_integers(autograd)) | nan
    order = torch.where(nan, 0, ulps(manual, autograd)) ^ torch.iinfo(torch.int64).min
    largest = order.flatten(1).amax(1) ^ torch.iinfo(torch.int64).min
    counts = unequal.flatten(1).sum(1)
    return StepDifferences(counts.cpu().numpy(), largest.cpu().numpy().view(np.uint64))


def unravel(at: int, shape: Sequence[int]) -> tuple[int, ...]:
    """Return the multi-dimensional index of the flat index `at` in a tensor of `shape`."""
    return tuple(int(i) for i in np.unravel_index(at, tuple(shape)))


def _unsigned(value: Tensor) -> int:
    return int(value) % 2**64
