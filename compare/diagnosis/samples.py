"""Both programs at two sets of inputs, value by value: where a diagnosis looks, and tries again.

What holds at the inputs of the check may be an accident of them; at inputs drawn beside them it is
not one any more.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from compare.proof.balls import Balls
from compare.proof.judge import Evidence
from compare.proof.lift import Missing, Seen, Start, lift
from compare.proof.program import Program, beside

Nodes = dict[fx.Node, "Value"]


@dataclass(frozen=True)
class Value:
    """One value at one set of inputs: its float run, its balls."""

    floats: Tensor
    balls: Any

    @cached_property
    def near(self) -> Tensor:
        """The balls' middles in float64, NaN where nothing is known; what is no float as it is."""
        if isinstance(self.balls, Tensor):
            return self.balls
        return near(self.balls)


def near(balls: Any) -> Tensor:
    """Return the middles of an array of balls in float64."""
    middles = np.frompyfunc(lambda ball: float(ball.mid()), 1, 1)(np.asarray(balls, dtype=object))
    return torch.from_numpy(np.array(middles, dtype=np.float64))


@dataclass(frozen=True)
class Sample:
    """Both programs at one set of inputs: every node of each."""

    hand: Nodes
    reference: Nodes


def samples(evidence: Evidence, wrong: Collection[str]) -> tuple[Sample, Sample]:
    """Return both programs at the inputs and beside them.

    The reference goes on from the by-hand values of `wrong`. Both sides are programs.
    """
    assert isinstance(evidence.hand, Program)
    assert isinstance(evidence.reference, Program)
    moved = {name: elsewhere(name, value) for name, value in evidence.inputs.items()}
    return _sample(evidence, evidence.inputs, False, wrong), _sample(evidence, moved, True, wrong)


def elsewhere(name: str, tensor: Tensor) -> Tensor:
    """Return other inputs of the same kind: floats moved a little, rows of 0 and 1 in other order.

    A mask stays a mask then, and a class a class.
    """
    if (
        tensor.is_floating_point()
        and tensor.numel()
        and bool(((tensor == 0) | (tensor == 1)).all())
    ):
        rows = max(tensor.ndim - 2, 0)
        if tensor.ndim and tensor.shape[rows] > 1:
            chance = torch.Generator().manual_seed(sum(name.encode()))
            order = torch.randperm(tensor.shape[rows], generator=chance)
            return tensor.index_select(rows, order.to(tensor.device))
        return tensor.clone()
    return beside(tensor)


def _sample(
    evidence: Evidence, inputs: Mapping[str, Tensor], moved: bool, wrong: Collection[str]
) -> Sample:
    """Lift both programs; at `moved` inputs the by-hand side is given the reference's own."""
    hand, reference = evidence.hand, evidence.reference
    assert isinstance(hand, Program)
    assert isinstance(reference, Program)
    n = Balls(evidence.entries)
    plain = lift(reference, n, inputs)
    mine = _every(hand, n, *evidence.handed(plain, inputs if moved else None))
    starts = {
        name: Start(mine[hand.outputs[name]].floats, mine[hand.outputs[name]].balls)
        for name in wrong
    }
    return Sample(mine, _every(reference, n, inputs, starts=starts))


def _every(
    program: Program,
    n: Balls,
    inputs: Mapping[str, Tensor],
    lifted: Mapping[str, Any] | None = None,
    starts: Mapping[str, Start] | None = None,
) -> Nodes:
    """Return the value of every node, a start's own where one takes its place.

    Nodes that could not be lifted, and those of no tensor, are left out.
    """
    seen: Seen = {}
    lift(program, n, inputs, lifted, starts, seen=seen)
    values = {
        node: Value(floats, numbers)
        for node, (floats, numbers) in seen.items()
        if isinstance(floats, Tensor) and not isinstance(numbers, Missing)
    }
    for name, start in (starts or {}).items():
        values[program.outputs[name]] = Value(start.floats, start.lifted)
    return values
