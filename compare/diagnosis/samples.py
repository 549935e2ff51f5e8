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
from compare.proof.lift import Cache, Lifted, Unsupported, lift
from compare.proof.other_inputs import elsewhere
from compare.proof.pair import Pair
from compare.proof.program import Program

Nodes = dict[fx.Node, "Value"]


class Value(Lifted):
    """One value at one set of inputs: its float run, its balls."""

    @property
    def balls(self) -> Any:
        """Its numbers."""
        return self.numbers

    @cached_property
    def near(self) -> Tensor:
        """The balls' middles in float64, NaN where nothing is known; what is no float as it is."""
        return self.balls if isinstance(self.balls, Tensor) else near(self.balls)


def near(balls: Any) -> Tensor:
    """Return the middles of an array of balls in float64."""
    middles = np.frompyfunc(lambda ball: float(ball.mid()), 1, 1)(np.asarray(balls, dtype=object))
    return torch.from_numpy(np.array(middles, dtype=np.float64))


@dataclass(frozen=True)
class Sample:
    """Both programs at one set of inputs: every node of each."""

    hand: Nodes
    reference: Nodes


def samples(pair: Pair, wrong: Collection[str]) -> tuple[Sample, Sample]:
    """Return both programs at the inputs and beside them.

    The reference goes on from the by-hand values of `wrong`. Both sides are programs.
    """
    assert isinstance(pair.hand, Program)
    assert isinstance(pair.reference, Program)
    moved = {name: elsewhere(name, value) for name, value in pair.inputs.items()}
    return _sample(pair, pair.inputs, False, wrong), _sample(pair, moved, True, wrong)


def _sample(
    pair: Pair, inputs: Mapping[str, Tensor], moved: bool, wrong: Collection[str]
) -> Sample:
    """Lift both programs; at `moved` inputs the by-hand side is given the reference's own."""
    hand, reference = pair.hand, pair.reference
    assert isinstance(hand, Program)
    assert isinstance(reference, Program)
    n = Balls(pair.entries)
    plain = lift(reference, n, inputs)
    mine = _every(hand, n, *pair.handed(plain, inputs if moved else None))
    injected = {name: mine[hand.outputs[name]] for name in wrong}
    return Sample(mine, _every(reference, n, inputs, overrides=injected))


def _every(
    program: Program,
    n: Balls,
    inputs: Mapping[str, Tensor],
    lifted: Mapping[str, Any] | None = None,
    overrides: Mapping[str, Lifted] | None = None,
) -> Nodes:
    """Return the value of every node, an override's own where one takes its place.

    Nodes that could not be lifted, and those of no tensor, are left out.
    """
    cache: Cache = {}
    lift(program, n, inputs, lifted, overrides, cache=cache)
    return {
        node: Value(value.floats, value.numbers)
        for node, value in cache.items()
        if isinstance(value.floats, Tensor) and not isinstance(value.numbers, Unsupported)
    }
