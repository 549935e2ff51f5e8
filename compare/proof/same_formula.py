"""The same formula? Two lifted tensors compared, element by element, in exact real arithmetic.

That two balls overlap means something only if they are far narrower than what the float run can
tell: balls as wide as the dtype's own spacing overlap whatever they are of.
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
from compare.proof.bits import unravel

# How wide two balls may be together, in ulps of the quantity's dtype: of the larger of the value
# and the largest term added up to it.
NARROW = 2.0**-20

# Half the least subnormal of float64: what is less than this apart is apart in no dtype.
UNHELD = flint.arb(2) ** -1075
_ZERO = flint.arb(0)


@dataclass(frozen=True)
class Formula:
    """Whether two tensors are the same formula, in words, and where they are not."""

    same: bool | None  # None: the balls are too wide to tell
    text: str
    at: tuple[int, ...] | None = None
    accepted: str = ""  # how far they are apart, where that is accepted


def same_formula(
    mine: Array, theirs: Array, dtype: torch.dtype, *,
    terms: Callable[[], Tensor | None] = lambda: None, infinite: Any = False,
    sampled: bool = False, skip: int = 0, accept: float = 0.0,
) -> Formula:  # fmt: skip
    """Compare two lifted tensors of a quantity of this dtype; of sampled ones what is known.

    `terms` gives, where it matters, the largest term that was added up to each element. Where both
    sides' floats are one `infinite` number no finite exact value is asked for. Places are told
    without the first `skip` dimensions. What is apart by `accept` ulps of the dtype at most counts
    as the same.
    """
    known = each(lambda a, b: a.is_finite() and b.is_finite(), mine, theirs).astype(bool)
    share = ""
    if (poles := np.asarray(infinite) & ~known).any() and not poles.all():
        share = f"; {int(poles.sum()):,} of {known.size:,} elements are infinite on both sides"
        mine, theirs = mine.copy(), theirs.copy()
        mine[poles] = theirs[poles] = _ZERO
        known = known | poles
    if sampled and known.size and not known.any():
        return Formula(
            None, "it depends on entries of a large product that were not lifted: use lift all"
        )
    chosen: Any = ...
    if sampled and known.any() and not known.all():
        share += f" ({int(known.sum()):,} of {known.size:,} elements lifted)"
        chosen = known
        mine, theirs = mine[known], theirs[known]
    distinct = ~each(lambda a, b: a.overlaps(b), mine, theirs).astype(bool)
    apart = distinct & each(lambda a, b: not abs(a - b) <= UNHELD, mine, theirs).astype(bool)
    gaps = np.zeros(apart.shape)
    if apart.any():
        ulps = ulp(each(lambda a, b: max(size(a), size(b)), mine, theirs), dtype)
        gaps = np.where(apart, each(lambda a, b: size(a - b), mine, theirs) / ulps, 0.0)
        apart &= ~(gaps <= accept)
    if apart.any():
        shares = np.where(apart, each(_gap, mine, theirs), -1.0)
        at = unravel(int(shares.argmax()), shares.shape)
        text = (
            f"another formula: in exact arithmetic {_apart(mine[at], theirs[at])} at "
            f"{list(at[skip:])}, {int(apart.sum()):,} of {apart.size:,} elements apart"
        )
        text += f", by at most {gaps.max():.2g} ulp" if np.isfinite(gaps.max()) else ""
        return Formula(False, text, at)
    if not mine.size:
        return Formula(True, "the same formula; it has no elements")
    radius = each(lambda a, b: float(a.rad()) + float(b.rad()), mine, theirs)
    middle = each(lambda a, b: max(size(a), size(b)), mine, theirs)
    wide = ~(radius <= NARROW * ulp(middle, dtype))
    if wide.any() and (found := terms()) is not None:
        largest = np.fmax(middle, np.asarray(found.numpy())[chosen])
        wide = ~(radius <= NARROW * ulp(largest, dtype))
    if wide.any():
        at = unravel(int(wide.argmax()), wide.shape)
        return Formula(
            None, f"its exact value is known too loosely to compare, at {list(at)[skip:]}", at
        )
    if gaps.any():
        apart_by = f"{gaps.max():.2g} ulp"
        text = (
            f"the same formula but for {apart_by}, as formula_ulps={accept:g} allows, each side "
            f"beside its own, at these inputs{share}"
        )
        return Formula(True, text, accepted=apart_by)
    if distinct.any():
        share = f"{_unheld(mine[distinct], theirs[distinct])}{share}"
    zero = radius >= middle  # as far as can be told
    relative = np.divide(radius, middle, out=np.zeros_like(radius), where=~zero).max()
    digits = 60 if relative == 0 else min(60, int(-math.log10(relative)))
    also = f", 0 to within {radius[zero].max():.1g}" if radius[zero].any() else ""
    if zero.all() and also:
        return Formula(True, f"the same real number{also}, at these inputs{share}")
    return Formula(True, f"the same real number to {digits} digits{also} at these inputs{share}")


def _unheld(mine: Array, theirs: Array) -> str:
    """Return how far two tensors are apart where that is less than any dtype holds."""
    distances = [abs(a - b) for a, b in zip(mine.ravel(), theirs.ravel(), strict=True)]
    largest = max(distances, key=lambda x: x.mid())
    return f", apart by {largest.str(1, radius=False)}, less than any dtype holds"


def ulp(sizes: Any, dtype: torch.dtype) -> Any:
    """Return the spacing of a dtype's floats at each size, infinite ones as if they were 0."""
    least = torch.finfo(dtype).smallest_normal
    finite = np.where(np.isfinite(sizes), np.maximum(sizes, least), least)
    return np.asarray(np.ldexp(torch.finfo(dtype).eps, np.frexp(finite)[1] - 1))


def each(function: Any, *arrays: Any) -> Any:
    """Return a function of each element, or pair of them, as an array of floats, 0-d ones too."""
    with np.errstate(invalid="ignore"):  # a NaN is an answer too
        found = np.frompyfunc(lambda *x: float(function(*x)), len(arrays), 1)(*arrays)
    return np.asarray(found, dtype=float)


def _gap(a: Any, b: Any) -> float:
    """Return how far apart two balls are, as a share of the larger one."""
    scale = max(size(a), size(b))
    distance = size(a - b)
    return distance / scale if scale else 0.0


def size(a: Any) -> float:
    """Return about how large a ball's number is."""
    return float(abs(a).mid())


def _apart(one: Any, other: Any) -> str:
    """Return two balls that do not overlap, in as many digits as it takes to see them part."""
    texts = [f"{float(x.mid()):.9g}" for x in (one, other)]
    digits = 10
    while texts[0] == texts[1]:
        texts = [x.mid().str(digits, radius=False) for x in (one, other)]
        digits += 5
    return f"{texts[0]} by hand and {texts[1]} for autograd"
