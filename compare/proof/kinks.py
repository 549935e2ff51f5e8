"""Whether a by-hand gradient is another subgradient than autograd's, where forward has a kink.

At relu(0), equal maxima or a norm at 0 the gradient jumps. With v a direction among the elements
that share one kink, <gradient, v> of a subgradient lies between the slopes of forward along v on
both sides; where these agree (all equal maxima moved together) it is that slope. The slopes are
those of float64 runs, so branches follow the moved inputs.
"""

import numpy as np
import torch
from torch import Tensor

from compare.proof.exact_values import distinct, finite
from compare.proof.lifted_pair import LiftedPair
from compare.proof.other_inputs import seeded_generator
from compare.proof.pair import Pair
from compare.proof.witness import ForwardRuns

_STEP = 2.0**-22
_TOLERANCE = 2.0**-14  # of slopes, relative to the terms that they are made of
DIRECTIONS = 8
MOST_ELEMENTS, MOST_AT_KINKS = 100, 12  # of a quantity, and of those that differ


def other_subgradients(pair: Pair, name: str) -> int | None:
    """Count the elements that are another subgradient; None if some differs for another reason.

    Args:
        pair: Both sides.
        name: A gradient whose exact values differ at some elements.
    """
    value = pair.manual[name]
    if not 0 < value.numel() <= MOST_ELEMENTS or pair.is_complex(name):
        return None
    lifted = LiftedPair(pair)
    sides = [side.outputs[name].numbers for side in (lifted.manual_program(), lifted.reference())]
    if not all(bool(np.asarray(finite(side)).all()) for side in sides):
        return None
    apart = torch.from_numpy(np.asarray(distinct(*sides))).reshape(-1)
    places = apart.nonzero().reshape(-1).tolist()
    if not places or len(places) > MOST_AT_KINKS:
        return None
    slopes = _Slopes(ForwardRuns(pair), name, value)
    gradient = value.detach().double().reshape(-1)
    seen: set[int] = set()
    for place in places:
        if place in seen:
            continue
        group = slopes.sharing(place)
        seen.update(group)
        if not slopes.allow(gradient, group):
            return None
    return len(places)


class _Slopes:
    """Slopes of forward on both sides of the inputs, along directions of one tensor."""

    def __init__(self, runs: ForwardRuns, name: str, like: Tensor) -> None:
        self.runs, self.name, self.like = runs, name, like
        self.here = runs.value(name, torch.zeros(like.shape, dtype=torch.float64))
        self.of_element: dict[int, tuple[float, float]] = {}

    def along(self, v: Tensor) -> tuple[float, float]:
        """Return the slopes after and before the inputs along a flat direction."""
        direction = v.reshape(self.like.shape)
        after, before = (self.runs.value(self.name, s * _STEP * direction) for s in (1, -1))
        return (after - self.here) / _STEP, (self.here - before) / _STEP

    def _alone(self, place: int) -> tuple[float, float]:
        if place not in self.of_element:
            self.of_element[place] = self.along(self._unit(place))
        return self.of_element[place]

    def _unit(self, *places: int) -> Tensor:
        v = torch.zeros(self.like.numel(), dtype=torch.float64)
        v[list(places)] = 1
        return v

    def sharing(self, place: int) -> list[int]:
        """Return an element with those that share its kink: their slopes do not add up."""
        group = [place]
        for other in range(self.like.numel()):
            if other == place:
                continue
            both = self.along(self._unit(place, other))
            one, two = self._alone(place), self._alone(other)
            room = self._room(*both, *one, *two)
            if any(abs(b - x - y) > room for b, x, y in zip(both, one, two, strict=True)):
                group.append(other)
        return group

    def allow(self, gradient: Tensor, group: list[int]) -> bool:
        """Whether a flat gradient lies between the slopes along directions of a group."""
        rng = seeded_generator("kink", self.name, tuple(self.like.shape))
        directions = [self._unit(place) for place in group] + [self._unit(*group)]
        for _ in range(DIRECTIONS):
            v = torch.zeros(self.like.numel(), dtype=torch.float64)
            v[group] = 2 * torch.rand(len(group), generator=rng, dtype=torch.float64) - 1
            directions.append(v)
        for v in directions:
            slopes, along = self.along(v), float((gradient * v).sum())
            size = float((gradient * v).abs().sum())
            room = self._room(*slopes, size)
            if not min(slopes) - room <= along <= max(slopes) + room:  # False for NaN
                return False
        return True

    def _room(self, *sizes: float) -> float:
        return _TOLERANCE * max(1e-3 * abs(self.here), *map(abs, sizes))
