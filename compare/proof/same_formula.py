"""The first question of a verdict: do both sides compute the same formula?

Two lifted tensors are compared element by element in exact real arithmetic. An overlap of two balls
counts only if they are far narrower than a float run can resolve: balls as wide as the spacing of
the dtype overlap whichever formulas they come from.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import flint
import numpy as np
import torch
from torch import Tensor

from compare.proof.balls import Array
from compare.proof.bits import place, unravel

# The largest sum of two balls' radii that can decide, in ulps of the quantity's dtype. The ulp is
# that of the larger of the value and the largest term added up to it.
MAX_WIDTH = 2.0**-20

# Half the least subnormal of float64: no dtype can hold a difference smaller than this.
BELOW_EVERY_DTYPE = flint.arb(2) ** -1075
_ZERO = flint.arb(0)


@dataclass(frozen=True)
class Formula:
    """The result of comparing two lifted tensors.

    Attributes:
        same: Whether they are the same formula; None if the balls are too wide to decide.
        text: The result as a sentence for the report.
        at: The index of the element where they differ, or where the balls are too wide.
        accepted: The size of a difference that the user accepts; empty if there is none.
        apart: Whether they differ in all readings of the code's numbers that were tried.
    """

    same: bool | None
    text: str
    at: tuple[int, ...] | None = None
    accepted: str = ""
    apart: bool = False


def same_formula(
    manual: Array, autograd: Array, dtype: torch.dtype, *,
    terms: Callable[[], Tensor | None] = lambda: None, infinite: Any = False,
    sampled: bool = False, skip: int = 0, of_complex: bool = False, accept: float = 0.0,
) -> Formula:  # fmt: skip
    """Compare two lifted tensors of one quantity.

    Args:
        manual: The exact values by hand, an array of balls.
        autograd: The exact values of the reference, of the same shape.
        dtype: The dtype of the quantity's floats.
        terms: Returns the largest term that was added up to each element, None if unknown. It is
            called only if it can decide.
        infinite: A mask of the elements whose floats are the same infinity on both sides; those
            need no finite exact value.
        sampled: Whether only some elements may have been lifted; then only those are compared.
        skip: The number of leading dimensions to leave out of indices in the text.
        of_complex: Whether the last dimension holds the two parts of complex numbers.
        accept: The largest difference, in ulps of the dtype, that counts as the same formula.
    """
    known = elementwise(_both_finite, manual, autograd).astype(bool)
    remark = ""
    if (poles := np.asarray(infinite) & ~known).any() and not poles.all():
        remark = f"; {int(poles.sum()):,} of {known.size:,} elements are infinite on both sides"
        manual, autograd = manual.copy(), autograd.copy()
        manual[poles] = autograd[poles] = _ZERO
        known = known | poles
    if sampled and known.size and not known.any():
        text = "it depends on entries of a large product that were not computed exactly"
        return Formula(None, f"{text}: use lift all")
    chosen: Any = ...
    if sampled and known.any() and not known.all():
        remark += f" ({int(known.sum()):,} of {known.size:,} elements computed exactly)"
        chosen = known
        manual, autograd = manual[known], autograd[known]
    distinct = ~elementwise(lambda a, b: a.overlaps(b), manual, autograd).astype(bool)
    apart = distinct & elementwise(_can_be_held_apart, manual, autograd).astype(bool)
    gaps = np.zeros(apart.shape)
    if apart.any():
        ulps = ulp(elementwise(_larger, manual, autograd), dtype)
        distances = elementwise(lambda a, b: magnitude(a - b), manual, autograd)
        gaps = np.where(apart, distances / ulps, 0.0)
        apart &= ~(gaps <= accept)
    if apart.any():
        gaps_relative = np.where(apart, elementwise(_relative_gap, manual, autograd), -1.0)
        at = unravel(int(gaps_relative.argmax()), gaps_relative.shape)
        one, other = _distinct_digits(manual[at], autograd[at])
        element = place(at[skip:], of_complex=of_complex)
        text = (
            f"different formula: computed exactly, {one} by hand and {other} by autograd at "
            f"{element}; {int(apart.sum()):,} of {apart.size:,} elements differ"
        )
        if np.isfinite(gaps.max()):
            text += f", by at most {gaps.max():.2g} ulp of the larger value"
        return Formula(False, text, at)
    if not manual.size:
        return Formula(True, "same formula; it has no elements")
    radius = elementwise(lambda a, b: float(a.rad()) + float(b.rad()), manual, autograd)
    middle = elementwise(_larger, manual, autograd)
    wide = ~(radius <= MAX_WIDTH * ulp(middle, dtype))
    if wide.any() and (largest_terms := terms()) is not None:
        largest = np.fmax(middle, np.asarray(largest_terms.numpy())[chosen])
        wide = ~(radius <= MAX_WIDTH * ulp(largest, dtype))
    if wide.any():
        at = unravel(int(wide.argmax()), wide.shape)
        text = "the interval around its exact value is too wide to decide"
        return Formula(None, f"{text}, at {place(at[skip:], of_complex=of_complex)}", at)
    if gaps.any():
        gap = f"{gaps.max():.2g} ulp"
        text = (
            f"the formulas differ by {gap}, which formula_ulps={accept:g} accepts, at these "
            f"inputs{remark}; the rounding of each side is measured from its own exact value"
        )
        return Formula(True, text, accepted=gap)
    if distinct.any():
        remark = f"{_gap_below_every_dtype(manual[distinct], autograd[distinct])}{remark}"
    zero = radius >= middle  # 0, as far as the balls tell
    relative = np.divide(radius, middle, out=np.zeros_like(radius), where=~zero).max()
    digits = 60 if relative == 0 else min(60, int(-math.log10(relative)))
    near_zero = f"0 to within {radius[zero].max():.1g}" if radius[zero].any() else ""
    if zero.all() and near_zero:
        return Formula(True, f"same formula: both sides are {near_zero} at these inputs{remark}")
    also = f" (some are {near_zero})" if near_zero else ""
    agree = f"same formula: both sides agree to {digits} digits{also}"
    return Formula(True, f"{agree} at these inputs{remark}")


def _gap_below_every_dtype(manual: Array, autograd: Array) -> str:
    distances = [abs(a - b) for a, b in zip(manual.ravel(), autograd.ravel(), strict=True)]
    largest = max(distances, key=lambda x: x.mid())
    return f"; they differ by {largest.str(1, radius=False)}, less than any dtype can hold"


def ulp(sizes: Any, dtype: torch.dtype) -> Any:
    """Return the spacing of a dtype's floats at each size; that at 0 where a size is infinite."""
    least = torch.finfo(dtype).smallest_normal
    finite = np.where(np.isfinite(sizes), np.maximum(sizes, least), least)
    return np.asarray(np.ldexp(torch.finfo(dtype).eps, np.frexp(finite)[1] - 1))


def elementwise(function: Any, *arrays: Any) -> Any:
    """Return an array of the floats that a function returns for each element or tuple of elements.

    Arrays of 0 dimensions give an array of 0 dimensions.
    """
    with np.errstate(invalid="ignore"):  # NaN is a valid result
        result = np.frompyfunc(lambda *x: float(function(*x)), len(arrays), 1)(*arrays)
    return np.asarray(result, dtype=float)


def magnitude(a: Any) -> float:
    """Return the absolute value of a ball's midpoint."""
    return float(abs(a).mid())


def _larger(a: Any, b: Any) -> float:
    return max(magnitude(a), magnitude(b))


def _both_finite(a: Any, b: Any) -> bool:
    return bool(a.is_finite() and b.is_finite())


def _can_be_held_apart(a: Any, b: Any) -> bool:
    return not abs(a - b) <= BELOW_EVERY_DTYPE


def _relative_gap(a: Any, b: Any) -> float:
    scale = _larger(a, b)
    distance = magnitude(a - b)
    return distance / scale if scale else 0.0


def _distinct_digits(one: Any, other: Any) -> tuple[str, str]:
    """Return two balls that do not overlap as decimals, with enough digits to differ."""
    texts = [f"{float(x.mid()):.9g}" for x in (one, other)]
    digits = 10
    while texts[0] == texts[1]:
        texts = [x.mid().str(digits, radius=False) for x in (one, other)]
        digits += 5
    return texts[0], texts[1]
