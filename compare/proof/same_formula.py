"""The first question of a verdict: do both sides compute the same formula?

Two lifted tensors are compared element by element in exact real arithmetic. An overlap of two balls
counts only if they are far narrower than a float run can resolve: balls as wide as the spacing of
the dtype overlap whichever formulas they come from.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from compare.proof.bits import place, unravel
from compare.proof.exact_values import (
    Exact,
    ball_at,
    balls_of,
    can_be_held_apart,
    distances,
    distinct,
    finite,
    magnitudes,
    radii,
    with_zeros,
)

# The largest sum of two balls' radii that can decide, in ulps of the quantity's dtype. The ulp is
# that of the larger of the value and the largest term added up to it.
MAX_WIDTH = 2.0**-20
MOST_DIGITS = 60  # that a report says to agree


@dataclass(frozen=True)
class Formula:
    """The result of comparing two lifted tensors.

    Attributes:
        same: Whether they are the same formula; None if the balls are too wide to decide.
        text: The result as a sentence for the report.
        at: The index of the element where they differ, or where the balls are too wide.
        accepted: The size of a difference that the user accepts; empty if there is none.
        apart: Whether they differ in all readings of the code's numbers that were tried.
        precision: Of the arithmetic that decided, bits; None if there was none.
    """

    same: bool | None
    text: str
    at: tuple[int, ...] | None = None
    accepted: str = ""
    apart: bool = False
    precision: int | None = None


def same_formula(
    manual: Exact, autograd: Exact, dtype: torch.dtype, *,
    terms: Callable[[], Tensor | None] = lambda: None, infinite: Any = False,
    sampled: bool = False, skip: int = 0, of_complex: bool = False, accept: float = 0.0,
    most_digits: int = MOST_DIGITS,
) -> Formula:  # fmt: skip
    """Compare two lifted tensors of one quantity.

    Args:
        manual: The exact values by hand, an array of balls or wide numbers.
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
        most_digits: That the text may say to agree.
    """
    known = finite(manual) & finite(autograd)
    remark = ""
    if (poles := np.asarray(infinite) & ~known).any() and not poles.all():
        remark = f"; {int(poles.sum()):,} of {known.size:,} elements are infinite on both sides"
        manual, autograd = with_zeros(manual, poles), with_zeros(autograd, poles)
        known = known | poles
    if sampled and known.size and not known.any():
        text = "it depends on entries of a large product that were not computed exactly"
        return Formula(None, f"{text}: use lift all")
    chosen: Any = ...
    if sampled and known.any() and not known.all():
        remark += f" ({int(known.sum()):,} of {known.size:,} elements computed exactly)"
        chosen = known
        manual, autograd = manual[known], autograd[known]
    different = distinct(manual, autograd)
    apart = different.copy()
    gaps = np.zeros(apart.shape)
    sizes = np.fmax(magnitudes(manual), magnitudes(autograd))
    if apart.any():
        apart &= can_be_held_apart(manual, autograd)
        far = distances(manual, autograd)
        gaps = np.where(apart, far / ulp(sizes, dtype), 0.0)
        apart &= ~(gaps <= accept)
    if apart.any():
        with np.errstate(invalid="ignore"):  # of two infinities
            relative_gaps = np.divide(far, sizes, out=np.zeros_like(far), where=sizes != 0)
        at = unravel(int(np.where(apart, relative_gaps, -1.0).argmax()), apart.shape)
        one, other = _distinct_digits(ball_at(manual, at), ball_at(autograd, at))
        element = place(at[skip:], of_complex=of_complex)
        text = (
            f"different formula: computed exactly, {one} by hand and {other} by autograd at "
            f"{element}; {int(apart.sum()):,} of {apart.size:,} elements differ"
        )
        if np.isfinite(gaps.max()):
            text += f", by at most {gaps.max():.2g} ulp of the larger value"
        return Formula(False, text, at)
    if not sizes.size:
        return Formula(True, "same formula; it has no elements")
    radius = radii(manual) + radii(autograd)
    wide = ~(radius <= MAX_WIDTH * ulp(sizes, dtype))
    if wide.any() and (largest_terms := terms()) is not None:
        largest = np.fmax(sizes, np.asarray(largest_terms.numpy())[chosen])
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
    if different.any():
        remark = f"{_gap_below_every_dtype(manual[different], autograd[different])}{remark}"
    zero = radius >= sizes  # 0, as far as the exact values tell
    relative = np.divide(radius, sizes, out=np.zeros_like(radius), where=~zero).max()
    digits = most_digits
    if relative > 0:
        digits = min(digits, int(-math.log10(relative)))
    near_zero = f"0 to within {radius[zero].max():.1g}" if radius[zero].any() else ""
    if zero.all() and near_zero:
        return Formula(True, f"same formula: both sides are {near_zero} at these inputs{remark}")
    also = f" (some are {near_zero})" if near_zero else ""
    agree = f"same formula: both sides agree to {digits} digits{also}"
    return Formula(True, f"{agree} at these inputs{remark}")


def _gap_below_every_dtype(manual: Exact, autograd: Exact) -> str:
    pairs = zip(balls_of(manual).ravel(), balls_of(autograd).ravel(), strict=True)
    largest = max((abs(a - b) for a, b in pairs), key=lambda x: x.mid())
    return f"; they differ by {largest.str(1, radius=False)}, less than any dtype can hold"


def ulp(sizes: Any, dtype: torch.dtype) -> Any:
    """Return the spacing of a dtype's floats at each size; that at 0 where a size is infinite."""
    least = torch.finfo(dtype).smallest_normal
    finite = np.where(np.isfinite(sizes), np.maximum(sizes, least), least)
    return np.asarray(np.ldexp(torch.finfo(dtype).eps, np.frexp(finite)[1] - 1))


def _distinct_digits(one: Any, other: Any) -> tuple[str, str]:
    """Return two balls that do not overlap as decimals, with enough digits to differ."""
    texts = [f"{float(x.mid()):.9g}" for x in (one, other)]
    digits = 10
    while texts[0] == texts[1]:
        texts = [x.mid().str(digits, radius=False) for x in (one, other)]
        digits += 5
    return texts[0], texts[1]
