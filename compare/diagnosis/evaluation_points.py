"""Every value of both programs at two sets of inputs: the evaluation points of a search for fixes.

A candidate that holds at the user's inputs may hold by accident. So it must also hold at other
inputs drawn near them. Comparing the balls' midpoints in float64 rejects most candidates cheaply,
before any ball is computed.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from compare.proof.balls import Balls
from compare.proof.complex_numbers import Complex
from compare.proof.interpreter import Cache, Lifted, Unsupported, lift
from compare.proof.other_inputs import nearby_same_kind
from compare.proof.pair import Pair
from compare.proof.program import Program

Nodes = dict[fx.Node, "Value"]


class Value(Lifted):
    """One value at one evaluation point: its floats, and its numbers in balls."""

    @cached_property
    def midpoints(self) -> Tensor:
        """The balls' midpoints in float64, NaN where unknown; integers and booleans unchanged."""
        return self.numbers if isinstance(self.numbers, Tensor) else midpoints(self.numbers)


def midpoints(balls: Any) -> Tensor:
    """Return the midpoints of an array of balls in float64."""
    middles = np.frompyfunc(lambda ball: float(ball.mid()), 1, 1)(np.asarray(balls, dtype=object))
    return torch.from_numpy(np.array(middles, dtype=np.float64))


@dataclass(frozen=True)
class EvaluationPoint:
    """The value of every node of both programs at one set of inputs."""

    manual: Nodes
    reference: Nodes


def evaluation_points(
    pair: Pair, injected: Collection[str]
) -> tuple[EvaluationPoint, EvaluationPoint]:
    """Return both programs evaluated at the user's inputs, and at other inputs near them.

    Both sides of `pair` must be programs.

    Args:
        pair: the two passes.
        injected: quantities from whose by-hand values the reference continues.
    """
    other_inputs = {name: nearby_same_kind(name, value) for name, value in pair.inputs.items()}
    return _evaluate(pair, pair.inputs, injected), _evaluate(pair, other_inputs, injected)


def _evaluate(
    pair: Pair, inputs: Mapping[str, Tensor], injected: Collection[str]
) -> EvaluationPoint:
    """Lift both programs; at other inputs the by-hand pass takes the reference's intermediates."""
    manual_program, reference = pair.manual_program, pair.reference
    assert isinstance(manual_program, Program)
    assert isinstance(reference, Program)
    balls = Balls(pair.entries)
    outputs = lift(reference, balls, inputs)
    manual_inputs = pair.lifted_manual_inputs(outputs, None if inputs is pair.inputs else inputs)
    manual = _all_nodes(manual_program, balls, *manual_inputs)
    overrides = {name: manual[manual_program.outputs[name]] for name in injected}
    return EvaluationPoint(manual, _all_nodes(reference, balls, inputs, overrides=overrides))


def _all_nodes(program: Program, *args: Any, **kwargs: Any) -> Nodes:
    """Return the value of every node, that of its override where it has one.

    The arguments are those of `lift`. Left out are nodes that cannot be lifted, nodes of complex
    numbers, and nodes whose value is not a tensor.
    """
    cache: Cache = {}
    lift(program, *args, **kwargs | {"cache": cache})
    return {
        node: Value(value.floats, value.numbers)
        for node, value in cache.items()
        if isinstance(value.floats, Tensor) and not isinstance(value.numbers, Unsupported | Complex)
    }


def constant_ratio(a: Tensor, b: Tensor) -> float | None:
    """Return the number r with b = r * a in every element, None if there is none."""
    if a.shape != b.shape or not a.is_floating_point():
        return None
    at = int(a.abs().nan_to_num(0).argmax()) if a.numel() else -1
    if at < 0 or not float(a.flatten()[at]):
        return None
    ratio = float(b.flatten()[at] / a.flatten()[at])
    return ratio if a.numel() > 1 and ratio and nearly_equal(a * ratio, b) else None


def nearly_equal(a: Any, b: Tensor) -> bool:
    """Whether two float64 tensors are close wherever neither is NaN: a cheap first test."""
    if not isinstance(a, Tensor) or a.shape != b.shape:
        return False
    if not (a.is_floating_point() and b.is_floating_point()):
        return False
    known = ~(a.isnan() | b.isnan())
    if not known.any():
        return False
    a, b = a[known], b[known]
    return bool(((a - b).abs() <= 1e-8 * b.abs() + 1e-11 * b.abs().max()).all())


def nearly_equal_rows(rows: Tensor, target: Tensor) -> list[int]:
    """Return the indices of the rows close to `target`: the first test for many candidates."""
    tolerance = 1e-8 * target.abs() + 1e-11 * target.abs().nan_to_num(0).max()
    far = (rows - target).abs() > tolerance  # False for NaN: unknown, so not ruled out
    return [int(at) for at in (~far.any(1)).nonzero().flatten()]


def broadcasts_to(tensor: Tensor, target: Tensor) -> bool:
    """Whether a tensor of floats can be broadcast to another's shape."""
    try:
        shape = torch.broadcast_shapes(tensor.shape, target.shape)
    except RuntimeError:
        return False
    return tensor.is_floating_point() and shape == target.shape
