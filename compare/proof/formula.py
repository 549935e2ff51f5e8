"""The same formula? Two lifted tensors compared, element by element, in exact real arithmetic."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from compare.proof.balls import Array

# A ball is too wide to mean anything when its radius exceeds both the rounding that the float run
# is allowed and this share of its value.
MEANINGFUL = 2.0**-40


@dataclass(frozen=True)
class Formula:
    """Whether two tensors are the same formula, in words, and where they are not."""

    same: bool | None  # None: the balls are too wide to tell
    text: str
    at: tuple[int, ...] | None = None


def same_formula(
    mine: Array, theirs: Array, room: Tensor | None = None, *,
    noise: Callable[[], Tensor | None] = lambda: None, sampled: bool = False, skip: int = 0,
) -> Formula:  # fmt: skip
    """Compare two lifted tensors; of sampled ones what is known.

    A ball may be as wide as `room`, and where that tells nothing as `noise`: where the exact value
    is 0, no precision makes a ball narrow beside it. Places are told without the first `skip`
    dimensions.
    """
    found = _compared(mine, theirs, room, sampled, skip)
    if found.same is None and (least := noise()) is not None:
        found = _compared(
            mine, theirs, least if room is None else least.maximum(room), sampled, skip
        )
    return found


def _compared(mine: Array, theirs: Array, room: Tensor | None, sampled: bool, skip: int) -> Formula:
    known = pairs(lambda a, b: a.is_finite() and b.is_finite(), mine, theirs).astype(bool)
    share = ""
    if sampled and known.size and not known.any():
        return Formula(
            None, "it depends on entries of a large product that were not lifted: use lift all"
        )
    if sampled and known.any() and not known.all():
        share = f" ({int(known.sum()):,} of {known.size:,} elements lifted)"
        mine, theirs = mine[known], theirs[known]
        room = None if room is None else room[torch.from_numpy(known)]
    apart = ~pairs(lambda a, b: a.overlaps(b), mine, theirs).astype(bool)
    if apart.any():
        gaps = np.where(apart, pairs(_gap, mine, theirs), -1.0)
        at = tuple(int(i) for i in np.unravel_index(int(gaps.argmax()), gaps.shape))
        one, other = mine[at], theirs[at]
        text = (
            f"another formula: in exact arithmetic {_digits(one)} by hand and {_digits(other)} for "
            f"autograd at {list(at[skip:])}, {int(apart.sum()):,} of {apart.size:,} elements apart"
        )
        return Formula(False, text, at)
    if not mine.size:
        return Formula(True, "the same formula; it has no elements")
    radius = pairs(lambda a, b: float(a.rad()) + float(b.rad()), mine, theirs)
    middle = pairs(lambda a, _b: size(a), mine, theirs)
    allowed = MEANINGFUL * middle
    if room is not None:
        allowed = np.maximum(allowed, np.where(np.isfinite(room.numpy()), room.numpy(), 0.0))
    wide = ~(radius <= allowed)
    if wide.any():
        at = tuple(int(i) for i in np.unravel_index(int(wide.argmax()), wide.shape))
        return Formula(
            None, f"its exact value is known too loosely to compare, at {list(at)[skip:]}", at
        )
    zero = radius >= middle  # as far as can be told
    relative = np.divide(radius, middle, out=np.zeros_like(radius), where=~zero).max()
    digits = 60 if relative == 0 else min(60, int(-math.log10(relative)))
    also = f", 0 to within {radius[zero].max():.1g}" if radius[zero].any() else ""
    if zero.all() and also:
        return Formula(True, f"the same real number{also}, at these inputs{share}")
    return Formula(True, f"the same real number to {digits} digits{also} at these inputs{share}")


def pairs(function: Any, mine: Any, theirs: Any) -> Any:
    """Return a function of each pair of elements as an array of floats, also of no dimension."""
    with np.errstate(invalid="ignore"):  # a NaN is an answer too
        found = np.frompyfunc(lambda a, b: float(function(a, b)), 2, 1)(mine, theirs)
    return np.asarray(found, dtype=float)


def _gap(a: Any, b: Any) -> float:
    """Return how far apart two balls are, as a share of the larger."""
    scale = max(size(a), size(b))
    distance = size(a - b)
    return distance / scale if scale else 0.0


def size(a: Any) -> float:
    """Return about how large a ball's number is."""
    return float(abs(a).mid())


def _digits(a: Any) -> str:
    return f"{float(a.mid()):.9g}"
