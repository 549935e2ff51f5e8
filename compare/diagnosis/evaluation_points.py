"""Both programs at two sets of inputs, value by value: where a diagnosis looks, and tries again.

What holds at the inputs of the check may be an accident of them; at inputs drawn beside them it is
not one any more. Their middles in float64 sort out most candidates before any ball is worked out.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from compare.proof.balls import Balls
from compare.proof.interpreter import Cache, Lifted, Unsupported, lift
from compare.proof.other_inputs import nearby_same_kind
from compare.proof.pair import Pair
from compare.proof.program import Program

Nodes = dict[fx.Node, "Value"]


class Value(Lifted):
    """One value at one set of inputs: its float run, its numbers in balls."""

    @cached_property
    def near(self) -> Tensor:
        """The balls' middles in float64, NaN where nothing is known; what is no float as it is."""
        return self.numbers if isinstance(self.numbers, Tensor) else near(self.numbers)


def near(balls: Any) -> Tensor:
    """Return the middles of an array of balls in float64."""
    middles = np.frompyfunc(lambda ball: float(ball.mid()), 1, 1)(np.asarray(balls, dtype=object))
    return torch.from_numpy(np.array(middles, dtype=np.float64))


@dataclass(frozen=True)
class Sample:
    """Both programs at one set of inputs: every node of each."""

    manual_program: Nodes
    reference: Nodes


def samples(pair: Pair, wrong: Collection[str]) -> tuple[Sample, Sample]:
    """Return both programs at the inputs and beside them.

    The reference goes on from the by-hand values of `wrong`. Both sides are programs.
    """
    moved = {name: nearby_same_kind(name, value) for name, value in pair.inputs.items()}
    return _sample(pair, pair.inputs, wrong), _sample(pair, moved, wrong)


def _sample(pair: Pair, inputs: Mapping[str, Tensor], wrong: Collection[str]) -> Sample:
    """Lift both programs; at other inputs the by-hand side is given the reference's own."""
    manual_program, reference = pair.manual_program, pair.reference
    assert isinstance(manual_program, Program)
    assert isinstance(reference, Program)
    n = Balls(pair.entries)
    plain = lift(reference, n, inputs)
    mine = _every(
        manual_program,
        n,
        *pair.lifted_manual_inputs(plain, None if inputs is pair.inputs else inputs),
    )
    injected = {name: mine[manual_program.outputs[name]] for name in wrong}
    return Sample(mine, _every(reference, n, inputs, overrides=injected))


def _every(program: Program, *given: Any, **how: Any) -> Nodes:
    """Return the value of every node, an override's own where one takes its place.

    It is lifted from what is `given`. Nodes that could not be lifted, and those of no tensor, are
    left out.
    """
    cache: Cache = {}
    lift(program, *given, **how | {"cache": cache})
    return {
        node: Value(value.floats, value.numbers)
        for node, value in cache.items()
        if isinstance(value.floats, Tensor) and not isinstance(value.numbers, Unsupported)
    }


def ratio(one: Tensor, other: Tensor) -> float | None:
    """Return the number that `other` is times `one` everywhere, None if it is none."""
    if one.shape != other.shape or not one.is_floating_point():
        return None
    at = int(one.abs().nan_to_num(0).argmax()) if one.numel() else -1
    if at < 0 or not float(one.flatten()[at]):
        return None
    found = float(other.flatten()[at] / one.flatten()[at])
    return found if one.numel() > 1 and found and alike(one * found, other) else None


def alike(one: Any, other: Tensor) -> bool:
    """Whether two float64 tensors are near each other wherever both are known: a first test."""
    if not isinstance(one, Tensor) or one.shape != other.shape:
        return False
    if not (one.is_floating_point() and other.is_floating_point()):
        return False
    known = ~(one.isnan() | other.isnan())
    if not known.any():
        return False
    a, b = one[known], other[known]
    return bool(((a - b).abs() <= 1e-8 * b.abs() + 1e-11 * b.abs().max()).all())


def near_rows(rows: Tensor, wanted: Tensor) -> list[int]:
    """Return the rows that are near `wanted`: the first test for many candidates at once."""
    room = 1e-8 * wanted.abs() + 1e-11 * wanted.abs().nan_to_num(0).max()
    far = (rows - wanted).abs() > room  # a NaN is unknown, not far
    return [int(at) for at in (~far.any(1)).nonzero().flatten()]


def broadcasts(part: Tensor, whole: Tensor) -> bool:
    """Whether a tensor of floats fits into another's shape."""
    try:
        both = torch.broadcast_shapes(part.shape, whole.shape)
    except RuntimeError:
        return False
    return part.is_floating_point() and both == whole.shape
