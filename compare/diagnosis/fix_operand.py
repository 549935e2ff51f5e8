"""Candidate fixes inside the operations: other operands, another number, sign or function.

An operand is replaced, moved, summed or scaled.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from compare.diagnosis.evaluation_points import Value, alike, broadcasts, ratio
from compare.diagnosis.expressions import ATOM, Expr, expression, leaf, reduced, short
from compare.diagnosis.fix_tables import FUNCTIONS, SLOPES, USUAL, factor, other_numbers
from compare.diagnosis.known_values import Known
from compare.diagnosis.search import Search
from compare.diagnosis.slice import Substitution, another, elsewhere, moved
from compare.proof.program import operation

_ROOTS = {"sqrt", "rsqrt", "reciprocal", "div", "pow"}  # where an eps is wont to be
_MANY = 40  # values: of more only those with a name are tried as terms inside


@dataclass(frozen=True)
class _Read:
    """A value that is read on the way, and by whom: by all, or by one of several readers."""

    node: fx.Node
    values: tuple[Value, ...]
    readers: list[fx.Node]
    expr: Expr  # a leaf whose key are the values
    where: str  # " in ...", where only one of several readers is meant
    part: float  # of the cost: less simple then

    @property
    def text(self) -> str:
        """The value as one writes it."""
        return self.expr.text

    def edit(self, new: tuple[Value, ...]) -> Substitution:
        """Return the change that has other values read in its place."""
        return Substitution(self.node, new, self.readers)


def operands(t: Search) -> None:
    """Try another value, or the same one changed, in the place of each that is read."""
    for node, readers in t.way.operands():
        if not all(node in sample.manual_program for sample in t.both):
            continue
        values = tuple(sample.manual_program[node] for sample in t.both)
        if not values[0].near.is_floating_point() or not values[0].near.numel():
            continue
        expr = leaf(short(expression(node, t.names)), values)
        _operand(t, _Read(node, values, readers, expr, "", 0))
        for reader in readers if len(readers) > 1 else ():
            where = f" in {short(expression(reader, t.names, inside=True)).text}"
            _operand(t, _Read(node, values, [reader], expr, where, 0.5))


def _operand(t: Search, read: _Read) -> None:
    like = read.values[0].near
    for known in t.known:
        near = known.at[0].near
        if near.shape == like.shape and not alike(near, like):
            _swap(t, read, known)
    for how, put in elsewhere(tuple(like.shape)):
        new = tuple(moved(value, put) for value in read.values)
        _instead(t, 3, read, f"{read.expr.within(ATOM)}{how}", new)
    for dim in range(like.ndim):
        if like.shape[dim] > 1:
            new = tuple(_summed(t, value, dim) for value in read.values)
            _instead(t, 3, read, reduced("sum", read.expr, dim - like.ndim, True).text, new)
    if any(operation(reader) in _ROOTS for reader in read.readers):
        _eps(t, read)
    if not t.whole and t.way.nodes and read.node is not t.way.end:
        _terms(t, read)


def _instead(t: Search, cost: float, read: _Read, text: str, new: tuple[Value, ...]) -> bool:
    told = f"with {text} in place of {read.text}{read.where}"
    return t.edit(cost + read.part, told, read.edit(new))


def _summed(t: Search, value: Value, dim: int) -> Value:
    floats = value.floats.sum(dim, keepdim=True).expand_as(value.floats)
    return Value(floats, t.n.broadcast_to(t.n.sum(value.numbers, [dim], True), floats.shape))


def _eps(t: Search, read: _Read) -> None:
    """Try an eps that was left out, before a root or a division."""
    for eps in dict.fromkeys([*t.numbers_there(), *USUAL]):
        if 0 < eps <= 1e-2:
            told = f"with {eps:g} added to {read.text}{read.where}"
            t.edit(3 + read.part, told, read.edit(t.values(read.expr + eps)))


# -- another value


def _swap(t: Search, read: _Read, known: Known) -> None:
    """Try another value in the place of one that is read, if need be times a third."""
    remark = t.before(read.values[0].near, known.at[0].near)
    name, text = known.full, read.text
    if text == f"{known.text} after its update":
        name = f"{known.text} before its update"
    elif known.text == f"{text} after its update":
        text += " before its update"
    told = f"with {name}{remark} in place of {text}{read.where}"
    if t.edit(2 + known.rank + read.part, told, read.edit(known.at)):
        return
    if known.rank > 1 or any(cost <= 2.2 for cost, _ in t.found):
        return
    edit = read.edit(known.at)
    first, theirs = t.way.near(t.both[0].manual_program, edit, 0), t.theirs[0].near
    if first is None or first.shape != theirs.shape or not first.any():
        return
    for third in t.known:
        at = third.at[0].near
        if third.rank <= 1 and broadcasts(at, theirs) and alike(first * at, theirs):
            slope = _slope_told(t, read, known, first, remark)
            cost = (2.3 if slope else 4) + (known.rank + third.rank + read.part) / 8
            words = f"{slope or told}, and times {third.expr.within(ATOM)}"
            _swap_times(t, cost, words, edit, third)


def _swap_times(t: Search, cost: float, told: str, edit: Substitution, third: Known) -> None:
    def near(k: int) -> Any:
        found = t.way.near(t.both[k].manual_program, edit, k)
        return None if found is None else found * third.at[k].near

    def balls(k: int) -> Any:
        found = t.way.balls(t.both[k].manual_program, edit, k, t.n)
        return None if found is None else found * third.at[k].numbers

    t.attempt(cost, told, near, balls)


def _slope_told(t: Search, read: _Read, known: Known, now: Tensor, remark: str) -> str:
    """Return the words for a swap that only takes an activation's slope elsewhere."""
    was, mine = read.values[0].near, t.mine[0].near
    if was.shape != mine.shape:
        return ""
    for slope in SLOPES:
        old, new = (slope.near(x) for x in (was, known.at[0].near))
        if slope.activation and old.any() and alike(mine * new, now * old):
            there = f"in place of at {read.text}"
            return f"with the slope of {slope.of} at {known.full}{remark} {there}"
    return ""


# -- terms and factors


def _terms(t: Search, read: _Read) -> None:
    """Try a term beside a value that is read, and the value taken another number of times."""
    like = read.values[0].near
    if (times := _times(t, read, 2 * read.expr)) is not None:
        _scaled(t, read, times + 1)
    for known in t.known:
        near = known.at[0].near
        if (known.rank == 1 and len(t.known) > _MANY) or not broadcasts(near, like):
            continue
        if alike(near.expand_as(like), like):
            continue
        if (times := _times(t, read, read.expr + known.expr)) is not None:
            _added(t, read, known, times)


def _times(t: Search, read: _Read, more: Expr) -> float | None:
    """Return how often a change is to be made, from what making it once does; None if never."""
    t.in_time()
    once = t.way.near(t.both[0].manual_program, read.edit(t.values(more)), 0)
    mine = t.mine[0].near
    if once is None or once.shape != mine.shape:
        return None
    return ratio(once - mine, t.theirs[0].near - mine)


def _scaled(t: Search, read: _Read, times: float) -> None:
    if abs(times) < 1e-9:
        told = f"without {read.text}{read.where}"
        t.edit(3.5 + read.part, told, read.edit(t.values(0 * read.expr)))
    elif number := _nearest(t, times):
        scaled = number * read.expr
        _instead(t, 3.5, read, scaled.text, t.values(scaled))


def _added(t: Search, read: _Read, known: Known, times: float) -> None:
    if number := _nearest(t, times):
        plus, minus = read.expr + known.expr, read.expr - known.expr
        one = {"1": plus, "-1": minus}.get(number.text, read.expr + number * known.expr)
        _instead(t, 4 + known.rank, read, one.text, t.values(one))


def _nearest(t: Search, number: float) -> Expr | None:
    """Return the factor of the table that a float can be."""
    found = (one.expr for one in (factor(1), *t.factors)
             if abs(float(one.ball.mid()) - number) <= 1e-8 * abs(number))  # fmt: skip
    return next(found, None)


# -- another number, sign or function


def constants(t: Search) -> None:
    """Try other numbers where one is written."""
    sizes = {s for value in t.e.inputs.values() for s in value.shape if s > 1}
    there = t.numbers_there()
    written: dict[float, list[fx.Node]] = {}
    for node in t.way.nodes:
        if any(operation(source) == "arange" for source in node.all_input_nodes):
            continue  # the places of a roll, not numbers
        if operation(node) in ("add", "sub", "mul", "div", "pow", "remainder", "rsub"):
            for number in {a for a in node.args if isinstance(a, int | float)}:
                written.setdefault(float(number), []).append(node)
    for number, nodes in written.items():
        groups = [[node] for node in nodes] + ([nodes] if len(nodes) > 1 else [])
        for group in groups:
            if t.whole and all(operation(node) in ("mul", "div") for node in group):
                continue
            where = short(expression(group[0], t.names, inside=True)).text
            where = f"in {where}" if len(group) == 1 else "everywhere on the way to it"
            for other in other_numbers(number, sorted(sizes), there):
                told = f"with {other:.10g} in place of {number:.10g} {where}"
                t.edit(
                    2.5,
                    told,
                    Substitution(operations={n: _written(n, number, other) for n in group}),
                )


def signs(t: Search) -> None:
    """Try a difference where there is a sum, and a sum where there is a difference."""
    for node in t.way.nodes:
        sign = {"add": "-", "sub": "+"}.get(operation(node))
        if sign and all(isinstance(value, fx.Node) for value in node.args[:2]):
            target = torch.ops.aten.sub.Tensor if sign == "-" else torch.ops.aten.add.Tensor
            one, other = (short(expression(value, t.names)).text for value in node.args[:2])
            told = f"with {sign} in place of {'+' if sign == '-' else '-'}: {one} {sign} {other}"
            t.edit(2, told, Substitution(operations={node: another(node, target)}))


def functions(t: Search) -> None:
    """Try other elementwise functions where one is taken."""
    for node in t.way.nodes:
        taken = operation(node)
        for name in FUNCTIONS if taken in FUNCTIONS else ():
            if name != taken:
                text = short(expression(node, t.names, inside=True)).text
                new = another(node, getattr(torch.ops.aten, name).default)
                told = f"with {name} in place of {taken} in {text}"
                t.edit(3, told, Substitution(operations={node: new}))


def _written(node: fx.Node, number: float, other: float) -> fx.Node:
    """Return the node with another number written in it, a whole one where it was one."""

    def swapped(value: Any) -> Any:
        if isinstance(value, bool) or not isinstance(value, int | float) or value != number:
            return value
        return int(other) if isinstance(value, int) and other.is_integer() else other

    return another(node, args=tuple(swapped(value) for value in node.args))
