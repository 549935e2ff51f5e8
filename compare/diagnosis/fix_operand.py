"""Candidate fixes inside the operations: another operand, number, sign or function.

An operand may be replaced by another value, rearranged, summed, scaled, or get a term added.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from compare.diagnosis.evaluation_points import Value, broadcasts_to, constant_ratio, nearly_equal
from compare.diagnosis.expressions import ATOM, PRODUCT, Expr, expression, leaf, reduced, shortened
from compare.diagnosis.fix_tables import (
    DERIVATIVES,
    FUNCTIONS,
    USUAL_EPS,
    factor,
    other_numbers,
)
from compare.diagnosis.known_values import KnownValue
from compare.diagnosis.search import Search
from compare.diagnosis.slice import Substitution, changed_node, rearranged, rearrangements
from compare.proof.program import operation

_EPS_OPERATIONS = {"sqrt", "rsqrt", "reciprocal", "div", "pow"}  # that usually need an eps
_MANY = 40  # known values: with more than these, only named ones are tried as terms


@dataclass(frozen=True)
class _Operand:
    """A value that the slice reads, and its readers: all of them, or one of several."""

    node: fx.Node
    values: tuple[Value, ...]
    readers: list[fx.Node]
    expr: Expr  # a leaf whose key is `values`
    where: str  # " in <expression>" if only one of several readers is meant
    extra_cost: float  # of naming that place

    @property
    def text(self) -> str:
        """The value as written in code."""
        return self.expr.text

    def replaced_by(self, new: tuple[Value, ...]) -> Substitution:
        """Return the substitution that makes the readers read other values."""
        return Substitution(self.node, new, self.readers)


def operands(search: Search) -> None:
    """Try other values, and changes of the same value, in place of each operand."""
    for node, readers in search.slice.operands():
        if not all(node in point.manual for point in search.points):
            continue
        values = tuple(point.manual[node] for point in search.points)
        if not values[0].midpoints.is_floating_point() or not values[0].midpoints.numel():
            continue
        expr = leaf(shortened(expression(node, search.names)), values)
        _try_operand(search, _Operand(node, values, readers, expr, "", 0))
        for reader in readers if len(readers) > 1 else ():
            where = f" in {shortened(expression(reader, search.names, inside=True)).text}"
            _try_operand(search, _Operand(node, values, [reader], expr, where, 0.5))


def _try_operand(search: Search, operand: _Operand) -> None:
    old = operand.values[0].midpoints
    for known in search.known:
        numbers = known.values[0].midpoints
        if numbers.shape == old.shape and not nearly_equal(numbers, old):
            _swap(search, operand, known)
    for call, move in rearrangements(tuple(old.shape)):
        new = tuple(rearranged(value, move) for value in operand.values)
        _replace(search, 3, operand, f"{operand.expr.within(ATOM)}{call}", new)
    for dim in range(old.ndim):
        if old.shape[dim] > 1:
            new = tuple(_summed(search, value, dim) for value in operand.values)
            text = reduced("sum", operand.expr, dim - old.ndim, True).text
            _replace(search, 3, operand, text, new)
    if any(operation(reader) in _EPS_OPERATIONS for reader in operand.readers):
        _add_eps(search, operand)
    if not search.factor_suffices and search.slice.nodes and operand.node is not search.slice.end:
        _scale_and_add(search, operand)


def _replace(
    search: Search, cost: float, operand: _Operand, new_text: str, new: tuple[Value, ...]
) -> bool:
    text = f"use {new_text} in place of {operand.text}{operand.where}"
    return search.try_substitution(cost + operand.extra_cost, text, operand.replaced_by(new))


def _summed(search: Search, value: Value, dim: int) -> Value:
    """Return the sum over a dimension, expanded to the value's shape."""
    n = search.ball_arithmetic
    floats = value.floats.sum(dim, keepdim=True).expand_as(value.floats)
    return Value(floats, n.broadcast_to(n.sum(value.numbers, [dim], True), floats.shape))


def _add_eps(search: Search, operand: _Operand) -> None:
    """Try an eps added to the operand of a root or a division."""
    for eps in dict.fromkeys([*search.reference_numbers(), *USUAL_EPS]):
        if 0 < eps <= 1e-2:
            text = f"add {eps:g} to {operand.text}{operand.where}"
            edit = operand.replaced_by(search.evaluate(operand.expr + eps))
            search.try_substitution(3 + operand.extra_cost, text, edit)


# -- another value


def _swap(search: Search, operand: _Operand, known: KnownValue) -> None:
    """Try another value in place of an operand; where that does not suffice, times a third."""
    remark = search.mask_remark(operand.values[0].midpoints, known.values[0].midpoints)
    new_text, old_text = known.text_with_definition, operand.text
    if old_text == f"{known.text} after its update":
        new_text = f"{known.text} before its update"
    elif known.text == f"{old_text} after its update":
        old_text += " before its update"
    text = f"use {new_text}{remark} in place of {old_text}{operand.where}"
    edit = operand.replaced_by(known.values)
    if search.try_substitution(2 + known.rank + operand.extra_cost, text, edit):
        return
    if known.rank > 1 or any(cost <= 2.2 for cost, _ in search.fixes):
        return
    changed = search.slice.midpoints(search.points[0].manual, edit, 0)
    target = search.autograd[0].midpoints
    if changed is None or changed.shape != target.shape or not changed.any():
        return
    for third in search.known:
        numbers = third.values[0].midpoints
        if third.rank > 1 or not broadcasts_to(numbers, target):
            continue
        if nearly_equal(changed * numbers, target):
            derivative = _derivative_text(search, operand, known, changed, remark)
            ranks = known.rank + third.rank + operand.extra_cost
            cost = (2.3 if derivative else 4) + ranks / 8
            both = f"{derivative or text}, and multiply by {third.expr.within(PRODUCT)}"
            _swap_and_multiply(search, cost, both, edit, third)


def _swap_and_multiply(
    search: Search, cost: float, text: str, edit: Substitution, third: KnownValue
) -> None:
    nodes = [point.manual for point in search.points]

    def midpoints(k: int) -> Any:
        changed = search.slice.midpoints(nodes[k], edit, k)
        return None if changed is None else changed * third.values[k].midpoints

    def balls(k: int) -> Any:
        changed = search.slice.balls(nodes[k], edit, k, search.ball_arithmetic)
        return None if changed is None else changed * third.values[k].numbers

    search.try_fix(cost, text, midpoints, balls)


def _derivative_text(
    search: Search, operand: _Operand, known: KnownValue, changed: Tensor, remark: str
) -> str:
    """Return the text for a swap that only takes an activation's derivative at another value."""
    old, manual = operand.values[0].midpoints, search.manual[0].midpoints
    if old.shape != manual.shape:
        return ""
    for row in DERIVATIVES:
        before, after = (row.in_floats(x) for x in (old, known.values[0].midpoints))
        if row.of_activation and before.any() and nearly_equal(manual * after, changed * before):
            at = f"at {known.text_with_definition}{remark} in place of {operand.text}"
            return f"take the derivative of {row.function} {at}"
    return ""


# -- terms and factors


def _scale_and_add(search: Search, operand: _Operand) -> None:
    """Try to multiply the operand by a number, and to add a multiple of a known value to it."""
    old = operand.values[0].midpoints
    if (times := _multiple(search, operand, 2 * operand.expr)) is not None:
        _scale(search, operand, times + 1)
    for known in search.known:
        numbers = known.values[0].midpoints
        if (known.rank == 1 and len(search.known) > _MANY) or not broadcasts_to(numbers, old):
            continue
        if nearly_equal(numbers.expand_as(old), old):
            continue
        if (times := _multiple(search, operand, operand.expr + known.expr)) is not None:
            _add(search, operand, known, times)


def _multiple(search: Search, operand: _Operand, changed: Expr) -> float | None:
    """Return how many times a change must be made, judging by one time; None if none fits."""
    search.check_time()
    edit = operand.replaced_by(search.evaluate(changed))
    once = search.slice.midpoints(search.points[0].manual, edit, 0)
    manual = search.manual[0].midpoints
    if once is None or once.shape != manual.shape:
        return None
    return constant_ratio(once - manual, search.autograd[0].midpoints - manual)


def _scale(search: Search, operand: _Operand, times: float) -> None:
    if abs(times) < 1e-9:
        text = f"leave out {operand.text}{operand.where}"
        edit = operand.replaced_by(search.evaluate(0 * operand.expr))
        search.try_substitution(3.5 + operand.extra_cost, text, edit)
    elif number := _table_factor(search, times):
        scaled = number * operand.expr
        _replace(search, 3.5, operand, scaled.text, search.evaluate(scaled))


def _add(search: Search, operand: _Operand, known: KnownValue, times: float) -> None:
    if number := _table_factor(search, times):
        plus, minus = operand.expr + known.expr, operand.expr - known.expr
        other = operand.expr + number * known.expr
        changed = {"1": plus, "-1": minus}.get(number.text, other)
        _replace(search, 4 + known.rank, operand, changed.text, search.evaluate(changed))


def _table_factor(search: Search, number: float) -> Expr | None:
    """Return the first factor of the table that is close to a float."""
    close = (row.expr for row in (factor(1), *search.factors)
             if abs(float(row.ball.mid()) - number) <= 1e-8 * abs(number))  # fmt: skip
    return next(close, None)


# -- another number, sign or function


def constants(search: Search) -> None:
    """Try other numbers in place of those written in the code."""
    sizes = {s for value in search.pair.inputs.values() for s in value.shape if s > 1}
    reference_numbers = search.reference_numbers()
    written: dict[float, list[fx.Node]] = {}
    for node in search.slice.nodes:
        if any(operation(source) == "arange" for source in node.all_input_nodes):
            continue  # it computes indices of a roll
        if operation(node) in ("add", "sub", "mul", "div", "pow", "remainder", "rsub"):
            for number in {a for a in node.args if isinstance(a, int | float)}:
                written.setdefault(float(number), []).append(node)
    for number, nodes in written.items():
        groups = [[node] for node in nodes] + ([nodes] if len(nodes) > 1 else [])
        for group in groups:
            if search.factor_suffices and all(operation(n) in ("mul", "div") for n in group):
                continue
            where = f"in {shortened(expression(group[0], search.names, inside=True)).text}"
            where = where if len(group) == 1 else "wherever it is used to compute this quantity"
            for other in other_numbers(number, sorted(sizes), reference_numbers):
                text = f"use {other:.10g} in place of {number:.10g} {where}"
                nodes_with_other = {n: _with_number(n, number, other) for n in group}
                search.try_substitution(2.5, text, Substitution(operations=nodes_with_other))


def signs(search: Search) -> None:
    """Try a difference in place of each sum, and a sum in place of each difference."""
    for node in search.slice.nodes:
        sign = {"add": "-", "sub": "+"}.get(operation(node))
        if sign and all(isinstance(value, fx.Node) for value in node.args[:2]):
            target = torch.ops.aten.sub.Tensor if sign == "-" else torch.ops.aten.add.Tensor
            a, b = (shortened(expression(value, search.names)).text for value in node.args[:2])
            text = f"use {sign} in place of {'+' if sign == '-' else '-'}: {a} {sign} {b}"
            edit = Substitution(operations={node: changed_node(node, target)})
            search.try_substitution(2, text, edit)


def functions(search: Search) -> None:
    """Try other elementwise functions in place of those that the code calls."""
    for node in search.slice.nodes:
        old = operation(node)
        for name in FUNCTIONS if old in FUNCTIONS else ():
            if name != old:
                where = shortened(expression(node, search.names, inside=True)).text
                other = changed_node(node, getattr(torch.ops.aten, name).default)
                text = f"use {name} in place of {old} in {where}"
                search.try_substitution(3, text, Substitution(operations={node: other}))


def _with_number(node: fx.Node, number: float, other: float) -> fx.Node:
    """Return the node with `other` in place of `number`; an int stays an int if it can."""

    def swapped(value: Any) -> Any:
        if isinstance(value, bool) or not isinstance(value, int | float) or value != number:
            return value
        return int(other) if isinstance(value, int) and other.is_integer() else other

    return changed_node(node, args=tuple(swapped(value) for value in node.args))
