"""A diagnosis prints what it computed: Python evaluates each printed expression again."""

import math
import random
from collections.abc import Callable
from typing import Any

import flint
import pytest
import torch
from torch import Tensor

from compare.diagnosis.expressions import Expr, ball_op, expression, float_op, leaf
from compare.diagnosis.fix_tables import DERIVATIVES, Derivative, factors
from compare.diagnosis.rewrites import _Rewriter, rewrites
from compare.diagnosis.slice import Slice
from compare.proof.balls import PRECISION, Balls
from compare.proof.trace import trace
from tests.test_diagnosis import _drawn

X = torch.tensor([-2.5, -0.3, 0.7, 1.9], dtype=torch.float64)


def _evaluated(text: str, **values: Any) -> Any:
    """Return the value of an expression's text in Python."""
    functions = {name: getattr(torch, name) for name in ("sigmoid", "tanh", "exp", "cos", "sin")}
    return eval(text, {"torch": torch, **functions, **values})


@pytest.mark.parametrize("row", DERIVATIVES, ids=lambda row: f"{row.function} {row.forward}")
@pytest.mark.parametrize("at", ["x", "x + y", "-x", "x * y"])
def test_a_derivative_prints_what_it_computes(row: Derivative, at: str) -> None:
    x, y = leaf("x", X), leaf("y", X.flip(0))
    value: Expr = eval(at, {"x": x, "y": y})
    number = value.run(float_op, lambda key: key)
    text, note = row.text(value), row.note.format(l=value.within(4))
    names: dict[str, Any] = {
        "x": X,
        "y": X.flip(0),
        "where": lambda at, a, b: b + (a - b) * at.double(),
    }
    if note.startswith(" with s = "):
        names["s"] = _evaluated(note.removeprefix(" with s = "), **names)
    elif note:  # in words
        normal = torch.distributions.Normal(0, 1)
        names |= {"P": normal.cdf(number), "p": normal.log_prob(number).exp()}
    wanted = _evaluated(text.removesuffix(note), **names).double()
    torch.testing.assert_close(row.at(value).run(float_op, lambda key: key), wanted)
    with flint.ctx.workprec(PRECISION):
        balls = row.at(value).run(ball_op, Balls().exact)
    assert [float(ball) for ball in balls] == pytest.approx(wanted.tolist(), rel=1e-12)


def test_a_factor_prints_what_it_computes() -> None:
    known = {"alpha": 0.25, "beta": 1.7}
    rows = list(factors([(6, 2), (5, 4)], known))
    assert len(rows) > 300
    for row in rows:
        number = eval(row.text.removesuffix(row.remark), {"sqrt": math.sqrt}, known)
        assert float(row.ball.mid()) == pytest.approx(number, rel=1e-14), row.text
        assert row.expr.run(float_op, float) == pytest.approx(number, rel=1e-14), row.text


#: Backward passes that together have every kind of rewrite.
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
def test_a_rewrite_prints_what_it_computes(line: Any) -> None:
    """The printed code has the same bits; where Python has no short form, words follow it."""
    inputs = {"x": _drawn(3, 4), "g": _drawn(3, 4, seed=2)}
    program = trace(lambda **kwargs: {"out": line(**kwargs)}, inputs)
    names = dict(zip(program.graph.nodes, inputs, strict=False))
    values: dict[Any, Any] = {node: inputs[name] for node, name in names.items()}
    for node in program.graph.nodes:
        if node.op == "call_function":
            args, kwargs = torch.fx.node.map_arg((node.args, dict(node.kwargs)), values.get)
            values[node] = node.target(*args, **kwargs)
        values.setdefault(node, node.meta.get("val"))
    program_slice = Slice(program, "out")
    for expr in rewrites(program_slice, names):
        kernel = "by bmm in place of mm" in expr.text
        text = expr.text.removesuffix(", by bmm in place of mm or the reverse")
        printed = _evaluated(text.replace(", added one by one", ""), **inputs)
        computed = expr.run(float_op, values.__getitem__).reshape(printed.shape)
        assert kernel or torch.equal(computed, printed), expr.text
        torch.testing.assert_close(computed, printed)
    end = program_slice.end
    forms = _Rewriter().rewrites(expression(end, names))
    for expr in forms:  # the same number, up to rounding
        computed = expr.run(float_op, values.__getitem__).reshape_as(values[end])
        torch.testing.assert_close(computed, values[end], msg=expr.text)
    assert len(forms) > 1


@pytest.mark.parametrize("line", LINES, ids=range(len(LINES)))
def test_the_expression_of_a_program_prints_what_it_computes(line: Any) -> None:
    inputs = {"x": _drawn(3, 4), "g": _drawn(3, 4, seed=2)}
    program = trace(lambda **kwargs: {"out": line(**kwargs)}, inputs)
    names = dict(zip(program.graph.nodes, inputs, strict=False))
    printed = _evaluated(expression(program.outputs["out"], names).text, **inputs)
    torch.testing.assert_close(printed, line(**inputs))


def _random_expression(rng: random.Random, depth: int) -> Expr:
    """Draw an expression of operators."""
    if not depth or rng.random() < 0.2:
        return rng.choice([leaf("x", 0.7), leaf("y", -1.3), Expr("printed as", 2.5, "2.5")])
    op = rng.choice(["+", "-", "*", "/", "ratio", "neg", "**", "reciprocal", "exp", "sqrt"])
    if op in ("neg", "reciprocal", "exp"):
        return Expr(op, _random_expression(rng, depth - 1))
    if op == "sqrt":
        return Expr(op, _random_expression(rng, depth - 1) ** 2)
    second = rng.choice([2, 3, -1]) if op == "**" else _random_expression(rng, depth - 1)
    return Expr(op, _random_expression(rng, depth - 1), second)


def test_an_expression_has_the_brackets_that_python_needs() -> None:
    rng, evaluated = random.Random(1), 0
    for _ in range(2_000):
        expr = _random_expression(rng, 5)
        try:
            computed = expr.run(float_op, lambda key: key)
        except (OverflowError, ZeroDivisionError):
            continue
        printed = eval(expr.text, {"exp": math.exp, "sqrt": math.sqrt, "x": 0.7, "y": -1.3})
        assert printed == computed, expr.text
        evaluated += 1
    assert evaluated > 1_000
