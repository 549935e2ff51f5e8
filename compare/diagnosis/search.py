"""The search for fixes of one WRONG quantity, and the test that a candidate must pass.

A candidate is kept when it makes the by-hand quantity the same real number as autograd's. That is
shown in ball arithmetic, at every element computed exactly, at the user's inputs and at others near
them.
"""

import itertools
import time
from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from compare.diagnosis.evaluation_points import (
    EvaluationPoint,
    Value,
    broadcasts_to,
    constant_ratio,
    nearly_equal,
)
from compare.diagnosis.expressions import Expr, ball_op, float_op, leaf
from compare.diagnosis.fix_tables import DERIVATIVES, Derivative, factors
from compare.diagnosis.known_values import KnownValue, display_name, display_names, known_values
from compare.diagnosis.slice import Slice, Substitution
from compare.proof.balls import Balls
from compare.proof.pair import Pair
from compare.proof.program import Program, operation
from compare.proof.same_formula import same_formula

#: From the index of an evaluation point to a float64 tensor, or to an array of balls.
Numbers = Callable[[int], Any]
#: A value, a derivative taken at it, and the derivative's numbers at each evaluation point.
DerivativeAt = tuple[KnownValue, Derivative, list[Tensor]]


class OutOfTime(Exception):
    """The search has used up its time."""


class Search:
    """Tries candidate fixes for one quantity, and keeps those that hold in `fixes`.

    Every candidate has a cost, and cheaper ones are reported first. From 1 for a factor it rises
    with the number of things that the user would have to change; fractions break ties.
    """

    def __init__(
        self, pair: Pair, name: str, points: tuple[EvaluationPoint, ...], deadline: float
    ) -> None:
        assert isinstance(pair.manual_program, Program)
        assert isinstance(pair.reference, Program)
        self.pair, self.points = pair, points
        self.display_name = display_name(pair, name)
        self.deadline = deadline  # in seconds of `time.process_time`
        self.ball_arithmetic = Balls(pair.entries)
        self.slice = Slice(pair.manual_program, name)
        reference_end = pair.reference.outputs[name]
        self.manual = [point.manual[self.slice.end] for point in points]
        self.autograd = [point.reference[reference_end] for point in points]
        target = self.autograd[0].midpoints
        self.known = [
            known
            for known in known_values(pair, points, name)
            if constant_ratio(known.values[0].midpoints, target) is None
        ]
        self.names = display_names(pair, pair.manual_program)
        self.fixes: list[tuple[float, str]] = []  # cost and text
        self.quantity = leaf(self.display_name, tuple(self.manual))
        shapes = [self.manual[0].midpoints.shape, *(value.shape for value in pair.inputs.values())]
        self.factors = list(factors([tuple(shape) for shape in shapes], dict(pair.constants)))
        self.factor_suffices = False

    def at_a_kink(self) -> bool:
        """Whether both sides agree at the other inputs, so that there is nothing to fix."""
        manual, autograd = self.manual[1], self.autograd[1]
        if manual.midpoints.shape != autograd.midpoints.shape:
            return False
        return bool(same_formula(manual.numbers, autograd.numbers, autograd.floats.dtype).same)

    # -- trying a candidate

    def try_fix(self, cost: float, text: str, midpoints: Numbers, balls: Numbers) -> bool:
        """Keep a candidate if it holds, and return whether it does.

        Raises OutOfTime.

        Args:
            cost: see the class.
            text: the imperative sentence that the report prints.
            midpoints: the changed quantity in float64, which rejects most candidates.
            balls: the changed quantity in balls, which decides.
        """
        self.check_time()
        every = range(len(self.points))
        if not all(nearly_equal(midpoints(k), self.autograd[k].midpoints) for k in every):
            return False
        if not all(self._equals_autograd(balls(k), k) for k in every):
            return False
        self.fixes.append((cost, text))
        return True

    def try_formula(self, cost: float, text: str, expr: Expr) -> bool:
        """Try an expression whose leaves have values at each evaluation point as keys."""
        return self.try_fix(
            cost, text,
            lambda k: expr.run(float_op, lambda values: values[k].midpoints),
            lambda k: expr.run(ball_op, lambda values: values[k].numbers),
        )  # fmt: skip

    def try_substitution(self, cost: float, text: str, edit: Substitution) -> bool:
        """Try a change inside the operations that compute the quantity."""
        return self.try_fix(
            cost, text,
            lambda k: self.slice.midpoints(self.points[k].manual, edit, k),
            lambda k: self.slice.balls(self.points[k].manual, edit, k, self.ball_arithmetic),
        )  # fmt: skip

    def _equals_autograd(self, balls: Any, k: int) -> bool:
        """Whether the judge takes these numbers and autograd's for the same formula."""
        autograd = self.autograd[k]
        if balls is None or tuple(np.shape(balls)) != tuple(autograd.midpoints.shape):
            return False
        largest = float(autograd.midpoints.abs().nan_to_num(0).max())
        terms = torch.full_like(autograd.midpoints, largest)
        sampled, dtype = self.pair.entries is not None, autograd.floats.dtype
        return bool(
            same_formula(
                balls, autograd.numbers, dtype, terms=lambda: terms, sampled=sampled
            ).same
        )  # fmt: skip

    def check_time(self) -> None:
        """Raise OutOfTime after the deadline."""
        if time.process_time() > self.deadline:
            raise OutOfTime

    # -- material for candidates

    def evaluate(self, expr: Expr) -> tuple[Value, ...]:
        """Return the value of an expression at each evaluation point."""

        def at(k: int) -> Value:
            balls = expr.run(ball_op, lambda values: values[k].numbers)
            return Value(expr.run(float_op, lambda values: values[k].floats), balls)

        return tuple(at(k) for k in range(len(self.points)))

    def quotient(self, divisor: Any, dividend: Any, like: Tensor) -> Any:
        """Return the ball of dividend / divisor where `like` is largest, None if it is infinite."""
        at = np.unravel_index(int(like.abs().nan_to_num(0).argmax()), like.shape)
        below: Any = np.asarray(divisor, dtype=object)[at]
        above: Any = np.asarray(dividend, dtype=object)[at]
        return above / below if below.is_finite() and not below.contains(0) else None

    def same_shape_values(self) -> list[KnownValue]:
        """Return the known values that have the quantity's shape."""
        shape = self.manual[0].midpoints.shape
        return [known for known in self.known if known.values[0].midpoints.shape == shape]

    @cached_property
    def derivatives(self) -> list[DerivativeAt]:
        """Every derivative of the table at every value of the quantity's shape."""
        every: list[DerivativeAt] = []
        arguments = [known for known in self.same_shape_values() if not known.is_mask]
        for known, derivative in itertools.product(arguments, DERIVATIVES):
            self.check_time()
            numbers = [derivative.in_floats(value.midpoints) for value in known.values]
            if all(bool(x.nan_to_num(1).isfinite().all()) for x in numbers):
                every.append((known, derivative, numbers))
        return every

    def mask_remark(self, old: Tensor, new: Tensor) -> str:
        """Return a remark if `new` is `old` before, or after, a mask is applied; else nothing."""
        for late, early, word in ((old, new, "before"), (new, old, "after")):
            for known in self.known:
                mask = known.values[0].midpoints
                if known.is_mask and broadcasts_to(mask, early) and late.shape == early.shape:
                    factor = constant_ratio(early * mask, late)
                    if factor is not None and not nearly_equal(early, late):
                        return f" ({word} multiplying by {known.text})"
        return ""

    def reference_numbers(self) -> list[float]:
        """Return the small numbers that the reference's operations take as arguments."""
        assert isinstance(self.pair.reference, Program)
        nodes = filter(operation, self.pair.reference.graph.nodes)
        arguments = itertools.chain.from_iterable(node.args for node in nodes)
        return sorted({a for a in arguments if isinstance(a, float) and 0 < abs(a) < 100})
