"""What a diagnosis prints is what it computed: each text is read back by Python itself."""

import math
import random
from collections.abc import Callable
from typing import Any

import flint
import pytest
import torch
from torch import Tensor

from compare.diagnosis.expressions import Expr, balls, expression, floats, leaf
from compare.diagnosis.fix_tables import SLOPES, Slope, factors
from compare.diagnosis.rewrites import _Forms, writings
from compare.diagnosis.slice import Slice
from compare.proof.balls import PRECISION, Balls
from compare.proof.trace import trace
from tests.test_diagnosis import _drawn

X = torch.tensor([-2.5, -0.3, 0.7, 1.9], dtype=torch.float64)


def _read(text: str, **values: Any) -> Any:
    """Return what Python makes of a text."""
    functions = {name: getattr(torch, name) for name in ("sigmoid", "tanh", "exp", "cos", "sin")}
    return eval(text, {"torch": torch, **functions, **values})


@pytest.mark.parametrize("slope", SLOPES, ids=lambda slope: f"{slope.of} {slope.forward}")
@pytest.mark.parametrize("at", ["x", "x + y", "-x", "x * y"])
def test_a_row_of_the_slopes_prints_what_it_computes(slope: Slope, at: str) -> None:
    x, y = leaf("x", X), leaf("y", X.flip(0))
    value: Expr = eval(at, {"x": x, "y": y})
    number = value.run(floats, lambda key: key)
    text, note = slope.told(value), slope.note.format(l=value.within(4))
    meant: dict[str, Any] = {
        "x": X,
        "y": X.flip(0),
        "where": lambda at, a, b: b + (a - b) * at.double(),
    }
    if note.startswith(", s = "):
        meant["s"] = _read(note.removeprefix(", s = "), **meant)
    elif note:  # in words
        normal = torch.distributions.Normal(0, 1)
        meant |= {"P": normal.cdf(number), "p": normal.log_prob(number).exp()}
    wanted = _read(text.removesuffix(note), **meant).double()
    torch.testing.assert_close(slope.at(value).run(floats, lambda key: key), wanted)
    with flint.ctx.workprec(PRECISION):
        found = slope.at(value).run(balls, Balls().exact)
    assert [float(ball) for ball in found] == pytest.approx(wanted.tolist(), rel=1e-12)


def test_a_row_of_the_factors_prints_what_it_computes() -> None:
    known = {"alpha": 0.25, "beta": 1.7}
    rows = list(factors([(6, 2), (5, 4)], known))
    assert len(rows) > 300
    for row in rows:
        number = eval(row.told.removesuffix(row.remark), {"sqrt": math.sqrt}, known)
        assert float(row.ball.mid()) == pytest.approx(number, rel=1e-14), row.told
        assert row.expr.run(floats, float) == pytest.approx(number, rel=1e-14), row.told


#: Backward passes whose operations have every kind of way to write them.
LINES: list[Callable[[Tensor, Tensor], Tensor]] = [
    lambda x, g: g * (1 - x) * x,
    lambda x, g: -g / x**2,
    lambda x, g: (1 - x * x) * g,
    lambda x, g: g / (2 * x * (x + 3)),
    lambda x, g: 1 / (1 + torch.exp(-x)),
    lambda x, g: g - 0.3 * (x + g) + 2 * x,
    lambda x, g: torch.add(x, g, alpha=-0.7),
    lambda x, g: 2.5 + x * g,
    lambda x, g: (x * g).sum(1, keepdim=True) + (x - g).mean((0, 1)),
    lambda x, g: (x + g).sum((0, 1)),
    lambda x, g: (x / g).mean(0),
    lambda x, g: x.mT @ g,
]


@pytest.mark.parametrize("line", LINES, ids=range(len(LINES)))
def test_a_way_to_write_a_quantity_prints_what_it_computes(line: Any) -> None:
    """Word for word, to the bit; what Python has no words for is told in words after it."""
    given = {"x": _drawn(3, 4), "g": _drawn(3, 4, seed=2)}
    program = trace(lambda **given: {"out": line(**given)}, given)
    names = dict(zip(program.graph.nodes, given, strict=False))
    values: dict[Any, Any] = {node: given[name] for node, name in names.items()}
    for node in program.graph.nodes:
        if node.op == "call_function":
            args, kwargs = torch.fx.node.map_arg((node.args, dict(node.kwargs)), values.get)
            values[node] = node.target(*args, **kwargs)
        values.setdefault(node, node.meta.get("val"))
    way = Slice(program, "out")
    for one in writings(way, names):
        kernel = "by the other of" in one.text
        text = one.text.removesuffix(", by the other of mm and bmm")
        wanted = _read(text.replace(", one after the other", ""), **given)
        found = one.run(floats, values.__getitem__).reshape(wanted.shape)
        assert kernel or torch.equal(found, wanted), one.text
        torch.testing.assert_close(found, wanted)
    ways = _Forms().of(expression(way.end, names))
    for one in ways:  # the same number, whatever the rounding
        found = one.run(floats, values.__getitem__).reshape_as(values[way.end])
        torch.testing.assert_close(found, values[way.end], msg=one.text)
    assert len(ways) > 1


@pytest.mark.parametrize("line", LINES, ids=range(len(LINES)))
def test_the_words_of_a_program_are_what_it_computes(line: Any) -> None:
    given = {"x": _drawn(3, 4), "g": _drawn(3, 4, seed=2)}
    program = trace(lambda **given: {"out": line(**given)}, given)
    names = dict(zip(program.graph.nodes, given, strict=False))
    found = _read(expression(program.outputs["out"], names).text, **given)
    torch.testing.assert_close(found, line(**given))


def _tree(chance: random.Random, depth: int) -> Expr:
    """Draw an expression of operators."""
    if not depth or chance.random() < 0.2:
        return chance.choice([leaf("x", 0.7), leaf("y", -1.3), Expr("as", 2.5, "2.5")])
    op = chance.choice(["+", "-", "*", "/", "ratio", "neg", "**", "reciprocal", "exp", "sqrt"])
    if op in ("neg", "reciprocal", "exp"):
        return Expr(op, _tree(chance, depth - 1))
    if op == "sqrt":
        return Expr(op, _tree(chance, depth - 1) ** 2)
    second = chance.choice([2, 3, -1]) if op == "**" else _tree(chance, depth - 1)
    return Expr(op, _tree(chance, depth - 1), second)


def test_brackets_stand_where_python_needs_them() -> None:
    chance, read = random.Random(1), 0
    for _ in range(2_000):
        one = _tree(chance, 5)
        try:
            found = one.run(floats, lambda key: key)
        except (OverflowError, ZeroDivisionError):
            continue
        text = eval(one.text, {"exp": math.exp, "sqrt": math.sqrt, "x": 0.7, "y": -1.3})
        assert text == found, one.text
        read += 1
    assert read > 1_000
