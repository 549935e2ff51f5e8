"""Finds structure that an input has up to rounding: rows that sum to 1, unit rows, symmetry.

A pass may rely on such a structure, but floats have it only up to rounding, so that the exact
formula of a correct pass would differ from the reference's in the last digit. So there is a
second set of exact numbers that the floats may stand for: those with the structure made exact.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import flint
import numpy as np
import torch
from torch import Tensor

from compare.proof.balls import Array

# How far a sum or a length may be from its exact value and still count as rounded, in machine
# epsilons of the dtype. bfloat16's epsilon is near a hundredth, so half precision gets only one:
# each number is rounded once.
_TOLERANCE, _TOLERANCE_IN_HALF = 4.0, 1.0


def tolerance_unit(dtype: torch.dtype) -> float:
    """Return the unit of `_TOLERANCE`: machine epsilon, a fourth of it in half precision."""
    factor = 1 if dtype.itemsize >= 4 else _TOLERANCE_IN_HALF / _TOLERANCE
    return torch.finfo(dtype).eps * factor


def _sum_to_1(x: Tensor) -> tuple[Tensor, Tensor]:
    return x.sum(-1) - 1, torch.where((x < 0).any(-1), 0.0, _TOLERANCE)


def _unit_length(x: Tensor) -> tuple[Tensor, Tensor]:
    return x.square().sum(-1).sqrt() - 1, torch.full_like(x.sum(-1), _TOLERANCE)


def _sum_to_0(x: Tensor) -> tuple[Tensor, Tensor]:
    return x.sum(-1), _TOLERANCE / 4 * x.abs().sum(-1)


def _log_probabilities(x: Tensor) -> tuple[Tensor, Tensor]:
    size = 1 + x.abs().amax(-1)
    return x.logsumexp(-1), torch.where((x > 0).any(-1), 0.0, _TOLERANCE * size)


@dataclass(frozen=True)
class _Kind:
    """A kind of normalised line. A line is a row, a column or another one-dimensional slice."""

    # For lines along the last dimension: the deviation of each, and its tolerance in units.
    deviation: Callable[[Tensor], tuple[Tensor, Tensor]]
    # Normalises lines of floats along the last dimension.
    floats: Callable[[Tensor], Tensor]
    # For one line of balls: the function that normalises each of its numbers.
    balls: Callable[[list[flint.arb]], Callable[[flint.arb], flint.arb]]


def _sum(numbers: Iterable[flint.arb]) -> flint.arb:
    return sum(numbers, flint.arb(0))


def _divide_by(divisor: flint.arb) -> Callable[[flint.arb], flint.arb]:
    return lambda x: x / divisor


def _subtract(shift: flint.arb) -> Callable[[flint.arb], flint.arb]:
    return lambda x: x - shift


def _centred(x: Tensor) -> Tensor:
    """Return lines with their nonzero numbers shifted so that they sum to 0."""
    nonzero = x != 0
    return x - nonzero * (x.sum(-1, keepdim=True) / nonzero.sum(-1, keepdim=True).clamp_min(1))


_KINDS = {
    "sums of 1": _Kind(
        _sum_to_1, lambda x: x / x.sum(-1, keepdim=True), lambda row: _divide_by(_sum(row))
    ),
    "unit lengths": _Kind(
        _unit_length,
        lambda x: x / x.square().sum(-1, keepdim=True).sqrt(),
        lambda row: _divide_by(_sum(y * y for y in row).sqrt()),
    ),
    "sums of 0": _Kind(
        _sum_to_0, _centred, lambda row: _subtract(_sum(row) / max(1, sum(x != 0 for x in row)))
    ),
    "log probabilities": _Kind(
        _log_probabilities,
        lambda x: x - x.logsumexp(-1, keepdim=True),
        lambda row: _subtract(_sum(y.exp() for y in row).log()),
    ),
}


def _lines_last(x: Tensor, dim: int | None) -> Tensor:
    """Return a tensor with the lines along `dim` last; for None all elements as one line."""
    return x.reshape(1, -1) if dim is None else x.movedim(dim, -1)


@dataclass(frozen=True)
class NormalisedLines:
    """The structure of a tensor whose lines along a dimension are all normalised."""

    kind: str  # a key of _KINDS
    dim: int | None  # None: all elements as one line

    def renormalise(self, values: Tensor) -> Tensor:
        """Return floats normalised again, up to rounding; lines of zeros stay."""
        x = _lines_last(values.double(), self.dim)
        lines = torch.where((x == 0).all(-1, keepdim=True), x, _KINDS[self.kind].floats(x))
        if self.dim is not None:
            lines = lines.movedim(-1, self.dim)
        return lines.reshape(values.shape).to(values.dtype)

    def made_exact(self, values: Array) -> Array:
        """Return balls normalised exactly; zeros stay."""
        moved = values.reshape(1, -1) if self.dim is None else np.moveaxis(values, self.dim, -1)
        exact = np.empty_like(moved)
        for at in np.ndindex(moved.shape[:-1]):
            row = list(moved[at])
            change = _KINDS[self.kind].balls(row)
            exact[at] = [change(x) if x != 0 else x for x in row]
        exact = exact if self.dim is None else np.moveaxis(exact, -1, self.dim)
        return exact.reshape(values.shape)


@dataclass(frozen=True)
class Symmetry:
    """The structure of square matrices that are symmetric, or skew-symmetric, up to rounding."""

    sign: int  # 1: symmetric, -1: skew-symmetric

    def made_exact(self, values: Array) -> Array:
        """Return balls that are exactly symmetric, or skew-symmetric."""
        return (values + self.sign * np.swapaxes(values, -1, -2)) / 2


def line_kind(values: Tensor, dim: int | None) -> str | None:
    """Return the kind of the lines along a dimension if all are normalised alike, else None.

    Some of the lines may be all zeros, as in padding.

    Args:
        values: A floating-point tensor.
        dim: The dimension; None for all elements as one line.
    """
    x, unit = _lines_last(values.detach().double(), dim), tolerance_unit(values.dtype)
    empty = (x == 0).all(-1)
    for name, kind in _KINDS.items():
        deviation, tolerance = kind.deviation(x)
        near = (deviation.abs() <= unit * tolerance) & ~empty & (tolerance > 0)
        if bool((near | empty).all()) and bool(near.any()):
            return name
    return None


def symmetry_sign(values: Tensor) -> int | None:
    """Return 1 for symmetric matrices, -1 for skew-symmetric ones, up to rounding; else None."""
    x = values.detach().double()
    if x.ndim < 2 or x.shape[-1] != x.shape[-2] or x.shape[-1] < 2:
        return None
    # A matrix product rounds in proportion to its largest terms; in half precision each element is
    # rounded once, in proportion to itself.
    size = x.abs().masked_fill(~x.isfinite(), 0)
    if values.dtype.itemsize >= 4:
        size = size.amax((-2, -1), keepdim=True)
    tolerance = _TOLERANCE * tolerance_unit(values.dtype) * size
    for sign in (1, -1):
        transposed = sign * x.mT
        if bool(((x == transposed) | ((x - transposed).abs() <= tolerance)).all()):
            return sign
    return None


def find_normalised_lines(values: Tensor) -> NormalisedLines | None:
    """Return the dimension along which an input is normalised, with the kind; None if along none.

    The last dimension is tried first, all elements as one line at the end. An input with infinities
    has no such structure.
    """
    if not values.is_floating_point() or values.numel() < 2 or values.dtype.itemsize < 2:
        return None
    if not bool(values.isfinite().all()):
        return None
    dims: list[int | None] = [d for d in reversed(range(values.ndim)) if values.shape[d] > 1]
    for dim in [*dims, None] if values.ndim > 1 else dims:
        if (kind := line_kind(values, dim)) is not None:
            return NormalisedLines(kind, dim)
    return None


def find_structure(values: Tensor) -> NormalisedLines | Symmetry | None:
    """Return the structure that an input has up to rounding, None if it has none."""
    if not values.is_floating_point() or values.dtype.itemsize < 2:
        return None
    sign = symmetry_sign(values)
    if sign is not None and not torch.equal(values, sign * values.mT):
        return Symmetry(sign)
    return find_normalised_lines(values)
