"""One WRONG quantity, and what counts as a remedy found.

A change is found when with it the lifted by-hand value is the same real number as autograd's, at
every element that is lifted, at the inputs and at others beside them.
"""

import itertools
import time
from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from compare.diagnosis.evaluation_points import Sample, Value, alike, broadcasts, ratio
from compare.diagnosis.expressions import Expr, balls, floats, leaf
from compare.diagnosis.fix_tables import SLOPES, Slope, factors
from compare.diagnosis.known_values import Known, called, known_values, names_in
from compare.diagnosis.slice import Slice, Substitution
from compare.proof.balls import Balls
from compare.proof.pair import Pair
from compare.proof.program import Program, operation
from compare.proof.same_formula import same_formula

Numbers = Callable[[int], Any]  # of a sample: a float64 tensor, or an array of balls


class OutOfTime(Exception):
    """The time is up."""


class Search:
    """Tries candidates for one quantity, and keeps those that hold with their cost.

    Of a candidate's cost the whole part says how far-fetched it is; 1 is a factor.
    """

    def __init__(self, pair: Pair, name: str, both: tuple[Sample, ...], until: float) -> None:
        assert isinstance(pair.manual_program, Program)
        assert isinstance(pair.reference, Program)
        self.e, self.both = pair, both
        self.called = called(pair, name)
        self.until = until  # of the process's own time
        self.n = Balls(pair.entries)
        self.way = Slice(pair.manual_program, name)
        target = pair.reference.outputs[name]
        self.mine = [s.manual_program[self.way.end] for s in both]
        self.theirs = [s.reference[target] for s in both]
        near = self.theirs[0].near
        known = known_values(pair, both, name)
        self.known = [one for one in known if ratio(one.at[0].near, near) is None]
        self.names = names_in(pair, pair.manual_program)
        self.found: list[tuple[float, str]] = []
        self.quantity = leaf(self.called, tuple(self.mine))
        shapes = [self.mine[0].near.shape, *(value.shape for value in pair.inputs.values())]
        self.factors = list(factors([tuple(shape) for shape in shapes], dict(pair.constants)))
        self.whole = False  # whether a factor alone makes it right

    def at_a_kink(self) -> bool:
        """Whether the two agree beside these inputs: then there is nothing to put right."""
        mine, theirs = self.mine[1], self.theirs[1]
        if mine.near.shape != theirs.near.shape:
            return False
        return bool(same_formula(mine.numbers, theirs.numbers, theirs.floats.dtype).same)

    def attempt(self, cost: float, text: str, nearly: Numbers, balls: Numbers) -> bool:
        """Note a candidate if it holds; `nearly` gives it in float64 and sorts most out."""
        self.in_time()
        if not all(alike(nearly(k), self.theirs[k].near) for k in range(len(self.both))):
            return False
        if not all(self._same(balls(k), k) for k in range(len(self.both))):
            return False
        self.found.append((cost, text))
        return True

    def formula(self, cost: float, text: str, one: Expr) -> bool:
        """Note a formula of values at the samples if it holds."""
        return self.attempt(
            cost, text,
            lambda k: one.run(floats, lambda at: at[k].near),
            lambda k: one.run(balls, lambda at: at[k].numbers),
        )  # fmt: skip

    def values(self, one: Expr) -> tuple[Value, ...]:
        """Return what a formula of values comes to at each sample."""

        def at(k: int) -> Value:
            wide = one.run(balls, lambda values: values[k].numbers)
            return Value(one.run(floats, lambda values: values[k].floats), wide)

        return tuple(at(k) for k in range(len(self.both)))

    def _same(self, numbers: Any, k: int) -> bool:
        """Whether these are autograd's numbers by the judge's own word."""
        theirs = self.theirs[k]
        if numbers is None or tuple(np.shape(numbers)) != tuple(theirs.near.shape):
            return False
        largest = torch.full_like(theirs.near, float(theirs.near.abs().nan_to_num(0).max()))
        sampled, dtype = self.e.entries is not None, theirs.floats.dtype
        said = same_formula(numbers, theirs.numbers, dtype, terms=lambda: largest, sampled=sampled)
        return bool(said.same)

    def in_time(self) -> None:
        """Raise Late when the time is up."""
        if time.process_time() > self.until:
            raise OutOfTime

    def quotient(self, part: Any, whole: Any, like: Tensor) -> Any:
        """Return the ball of whole / part where part is largest, None where it is 0."""
        at = np.unravel_index(int(like.abs().nan_to_num(0).argmax()), like.shape)
        below: Any = np.asarray(part, dtype=object)[at]
        above: Any = np.asarray(whole, dtype=object)[at]
        return above / below if below.is_finite() and not below.contains(0) else None

    def fitting(self) -> list[Known]:
        """Return what has the quantity's own shape."""
        shape = self.mine[0].near.shape
        return [known for known in self.known if known.at[0].near.shape == shape]

    @cached_property
    def slopes(self) -> list[tuple[Known, Slope, list[Tensor]]]:
        """Return every slope at every value of the quantity's shape, at each sample."""
        found: list[tuple[Known, Slope, list[Tensor]]] = []
        values = [known for known in self.fitting() if not known.is_mask]
        for known, slope in itertools.product(values, SLOPES):
            self.in_time()
            at = [slope.near(value.near) for value in known.at]
            if all(bool(x.nan_to_num(1).isfinite().all()) for x in at):
                found.append((known, slope, at))
        return found

    def before(self, old: Tensor, new: Tensor) -> str:
        """Return a remark where one value is the other before, or after, a mask."""
        for late, early, word in ((old, new, "before"), (new, old, "after")):
            for known in self.known:
                mask = known.at[0].near
                if known.is_mask and broadcasts(mask, early) and late.shape == early.shape:
                    factor = ratio(early * mask, late)
                    if factor is not None and not alike(early, late):
                        return f" ({word} the mask, {known.text})"
        return ""

    def edit(self, cost: float, text: str, edit: Substitution) -> bool:
        """Try a change inside the operations."""
        return self.attempt(
            cost, text,
            lambda k: self.way.near(self.both[k].manual_program, edit, k),
            lambda k: self.way.balls(self.both[k].manual_program, edit, k, self.n),
        )  # fmt: skip

    def numbers_there(self) -> list[float]:
        """Return the small numbers written in the reference."""
        assert isinstance(self.e.reference, Program)
        nodes = filter(operation, self.e.reference.graph.nodes)
        arguments = itertools.chain.from_iterable(node.args for node in nodes)
        return sorted({a for a in arguments if isinstance(a, float) and 0 < abs(a) < 100})
