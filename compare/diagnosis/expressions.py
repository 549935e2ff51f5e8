"""Expression trees with one printer and one evaluator, so that a report prints what was computed.

The formulas of the tables, the rewrites of a quantity, and the expression that computes a node of a
program are all an `Expr`.
"""

import itertools
import math
import operator
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

import flint
import torch
from torch import Tensor, fx

from compare.proof.balls import Balls
from compare.proof.constants import intended_value
from compare.proof.program import RESHAPES, SAME_SHAPE, operation

#: Operations that expressions leave out: they change at most the shape or the dtype.
PASS_THROUGH = SAME_SHAPE | RESHAPES | {"_to_copy", "copy"}
_MAX_CHARACTERS = 1_000  # a longer expression is printed as "..."
COMPARISON, SUM, PRODUCT, SIGN, ATOM = range(5)  # precedence, the loosest first


def _operator(op: str) -> tuple[Callable[[Any, Any], "Expr"], Callable[[Any, Any], "Expr"]]:
    """Return the methods of a Python operator: one for `a op b`, one for `b op a`."""
    return lambda a, b: Expr(op, a, b), lambda a, b: Expr(op, b, a)


class Expr:
    """An operation and its arguments: expressions, numbers and other arguments of torch functions.

    The operation is a key of OPERATORS, a method (".sum") or a function ("exp"). `Expr` can be
    passed to `run` like `float_op` and `ball_op`: the result is then another expression.
    """

    def __init__(self, op: str, *args: Any, **kwargs: Any) -> None:
        self.op, self.args, self.kwargs = op, args, kwargs
        self.node: fx.Node | None = None  # of the program that it was read from

    __add__, __radd__ = _operator("+")
    __sub__, __rsub__ = _operator("-")
    __mul__, __rmul__ = _operator("*")
    __truediv__, __rtruediv__ = _operator("/")
    __matmul__, __pow__, __gt__ = (_operator(op)[0] for op in ("@", "**", ">"))

    def __neg__(self) -> "Expr":
        return Expr("neg", self)

    @property
    def mT(self) -> "Expr":  # noqa: N802
        """The transpose, by torch's name for it."""
        return Expr(".mT", self)

    @property
    def as_leaf(self) -> "Expr":
        """A leaf with the value of this expression's node, printed like the expression."""
        return self if self.op == "leaf" or self.node is None else leaf(self, self.node)

    @property
    def text(self) -> str:
        """The expression as written in code."""
        return self.within(SUM)

    def within(self, least: int) -> str:
        """Return the text, in brackets if its precedence is below `least`."""
        text, precedence = self.printed
        return text if precedence >= least else f"({text})"

    @cached_property
    def printed(self) -> tuple[str, int]:
        """The text without brackets around it, and its precedence."""
        if self.op == "leaf":
            shown, _, precedence = self.args
            return shown.printed if isinstance(shown, Expr) else (shown, precedence)
        if self.op in OPERATORS:
            template, precedence, least, _ = OPERATORS[self.op]
            return template.format(*map(_text, self.args, least)), precedence
        method = self.op.startswith(".")
        rest = [_text(arg, COMPARISON) for arg in self.args[method:]]
        rest += [f"{name}={_text(value, COMPARISON)}" for name, value in self.kwargs.items()]
        return f"{_text(self.args[0], ATOM) if method else ''}{self.op}({', '.join(rest)})", ATOM

    def run(self, arithmetic: Callable[..., Any], values: Callable[[Any], Any]) -> Any:
        """Return the value of the expression.

        Args:
            arithmetic: computes one operation: `float_op`, `ball_op` or `Expr`.
            values: returns the value of a leaf by the leaf's key.
        """
        if self.op == "leaf":
            return values(self.args[1])
        if self.op == "in float32":
            expr, half = self.args
            return expr.run(arithmetic, lambda key: _widened(values(key), half)).to(half)
        args = [arg.run(arithmetic, values) if isinstance(arg, Expr) else arg for arg in self.args]
        return arithmetic(self.op, *args, **self.kwargs)


def leaf(shown: str | Expr, key: Any = None, precedence: int = ATOM) -> Expr:
    """Return a leaf: a value looked up by `key`, printed as a name or as another expression."""
    return Expr("leaf", shown, key, precedence)


def reduced(name: str, expr: Any, dims: Any = (), keep: bool = False) -> Expr:
    """Return a reduction over the given dimensions, over all if `dims` is empty."""
    dims = tuple(dims) if isinstance(dims, list | tuple) else (dims,)
    args = (dims,) if len(dims) > 1 else dims
    return Expr(f".{name}", expr, *args, **{"keepdim": True} if keep else {})


def _text(value: Any, least: int) -> str:
    """Return an argument as written in code, in brackets if its precedence is below `least`."""
    if isinstance(value, Expr):
        return value.within(least)
    if isinstance(value, list):
        return f"[{', '.join(_text(item, COMPARISON) for item in value)}]"
    if isinstance(value, float):
        return f"{value:.12g}" if value >= 0 or least < ATOM else f"({value:.12g})"
    return str(value)


# -- one operation in floats or in balls


def float_op(op: str, *args: Any, **kwargs: Any) -> Any:
    """Compute one operation on tensors and numbers."""
    args = tuple(float(arg.mid()) if isinstance(arg, flint.arb) else arg for arg in args)
    if op == ">":
        return (args[0] > args[1]).double()
    if op in OPERATORS:
        return OPERATORS[op][3](*args)
    if op.startswith("."):
        return getattr(args[0], op[1:])(*args[1:], **kwargs)
    modules = (torch, torch.nn.functional) if isinstance(args[0], Tensor) else (math,)
    name = op.removeprefix("torch.")
    return next(getattr(m, name) for m in modules if hasattr(m, name))(*args, **kwargs)


def ball_op(op: str, *args: Any) -> Any:
    """Compute one operation on arrays of balls; a literal has the value that it is written for."""
    if op == ">":
        return (args[0] > args[1]) * 1
    args = tuple(
        intended_value(float(arg)) if isinstance(arg, int | float) else arg for arg in args
    )
    return OPERATORS[op][3](*args) if op in OPERATORS else Balls().function(op, args[0])[()]


def _widened(value: Tensor, half: torch.dtype) -> Tensor:
    return value.float() if value.dtype == half else value


def _one_by_one(x: Tensor, dim: int, keep: bool) -> Any:
    total: Any = sum(x.unbind(dim))
    return total.unsqueeze(dim) if keep else total


def _other_kernel(a: Tensor, b: Tensor) -> Tensor:
    return (a[0] @ b[0])[None] if a.ndim == 3 and len(a) == 1 else a[None] @ b[None]


#: For each operator: its text, its precedence, the least precedence of each operand without
#: brackets, and its function (None: never computed). Where torch has no short form the text ends in
#: words.
OPERATORS: dict[str, tuple[str, int, tuple[int, ...], Any]] = {
    "+": ("{} + {}", SUM, (SUM, PRODUCT), operator.add),
    "-": ("{} - {}", SUM, (SUM, PRODUCT), operator.sub),
    "*": ("{} * {}", PRODUCT, (PRODUCT, SIGN), operator.mul),
    "/": ("{} / {}", PRODUCT, (PRODUCT, SIGN), operator.truediv),
    "ratio": ("{}/{}", PRODUCT, (PRODUCT, ATOM), operator.truediv),
    "@": ("{} @ {}", PRODUCT, (PRODUCT, SIGN), operator.matmul),
    "neg": ("-{}", SIGN, (ATOM,), operator.neg),
    "**": ("{}**{}", SIGN, (ATOM, ATOM), operator.pow),
    "reciprocal": ("1 / {}", PRODUCT, (ATOM,), lambda x: 1 / x),
    **{sign: (f"{{}} {sign} {{}}", COMPARISON, (SUM, SUM), None)
       for sign in (">", ">=", "<", "<=", "==", "!=")},
    "where": ("where({}, {}, {})", ATOM, (COMPARISON,) * 3, lambda mask, x, y: y + (x - y) * mask),
    "printed as": ("{1}", ATOM, (ATOM, ATOM), lambda value, _text: value),
    ".mT": ("{}.mT", ATOM, (ATOM,), lambda x: x.mT),
    "[]": ("{}[...]", ATOM, (ATOM,), None),
    "in float32": ("({}) in float32, rounded once", ATOM, (SUM, SUM), None),
    "one by one": ("sum({}.unbind({})), added one by one", ATOM, (ATOM,) * 3, _one_by_one),
    "other kernel": (
        "{} @ {}, by bmm in place of mm or the reverse", SUM, (ATOM, ATOM), _other_kernel),
    "outer": ("({}[..., None] * {}[..., None, :, :]).sum(-2)", ATOM, (ATOM, ATOM),
              lambda a, b: (a[..., None] * b[..., None, :, :]).sum(-2)),
}  # fmt: skip


# -- the nodes of a program

_SIGNS = {
    "add": "+", "sub": "-", "mul": "*", "div": "/", "mm": "@", "bmm": "@", "matmul": "@",
    "mv": "@", "dot": "@", "pow": "**", "gt": ">", "ge": ">=", "lt": "<", "le": "<=", "eq": "==",
    "ne": "!=", "index": "[]", "index_select": "[]",
}  # fmt: skip
_FILLS = {"full", "full_like", "scalar_tensor", "zeros", "zeros_like", "ones", "ones_like"}


def expression(node: fx.Node, names: Mapping[fx.Node, str], *, inside: bool = False) -> Expr:
    """Return the expression that computes a node from the named nodes.

    Args:
        node: of a program.
        names: of the nodes at which the expression ends.
        inside: ignore the name of `node` itself.
    """
    expr: Expr = _Reader(names).read(node, inside=inside)
    return expr


def shortened(expr: Expr) -> Expr:
    """Return the expression; if it is long, "..." and an end that can be read by itself."""
    text = expr.text
    for start in range(len(text) - 48, len(text) - 8) if len(text) > 64 else ():
        end = text[start:]
        if text[start - 1] in " (" and end[0] not in " -+*/@" and _balanced(end):
            return leaf(f"...{end}", precedence=expr.printed[1])
    return expr


def _balanced(text: str) -> bool:
    """Whether every bracket in a text is opened and closed within it."""
    depth = list(itertools.accumulate((sign in "([") - (sign in ")]") for sign in text))
    return min(depth) == depth[-1] == 0


def shape_of(node: Any) -> tuple[int, ...]:
    """Return the shape of a node's value, () if it is not a tensor."""
    value = node.meta.get("val")
    return tuple(value.shape) if isinstance(value, Tensor) else ()


class _Reader:
    """Reads expressions from the nodes of a program."""

    def __init__(self, names: Mapping[fx.Node, str]) -> None:
        self.names = names
        self.cache: dict[fx.Node, Expr] = {}  # an unrolled loop reads its values many times

    def read(self, node: Any, *, inside: bool = False) -> Any:
        """Return the expression of a node; an argument that is not a node is returned as it is."""
        if isinstance(node, list | tuple):
            return [self.read(item) for item in node]
        if not isinstance(node, fx.Node):
            return node
        if not inside and node in self.names:
            return leaf(self.names[node], node)
        if operation(node) in PASS_THROUGH:
            source: Any = node.args[1 if operation(node) == "copy" else 0]
            expr = self.read(source, inside=inside)
            return expr if shape_of(source) == shape_of(node) else leaf(expr, node)
        if node not in self.cache:
            expr = self._operation(node)
            expr.node = node
            self.cache[node] = expr if len(expr.text) <= _MAX_CHARACTERS else leaf("...", node)
        return self.cache[node]

    def _operation(self, node: fx.Node) -> Expr:
        name = operation(node)
        if node.op == "get_attr":
            return leaf(_constant(node.meta["val"]), node)
        if not name or name == "getitem":
            return leaf(node.name, node)
        if name in _FILLS:
            numbers = [a for a in node.args if isinstance(a, int | float)] or [int("one" in name)]
            return leaf(Expr("printed as", numbers[-1], _text(numbers[-1], SUM)), node)
        args = [self.read(argument) for argument in node.args]
        if (alpha := self.read(node.kwargs.get("alpha", 1))) != 1:
            if isinstance(alpha, int | float) and alpha < 0:
                name, alpha = {"add": "sub", "sub": "add"}[name], -alpha
            args[1] = Expr("*", alpha, args[1]) if alpha != 1 else args[1]
        if name == "permute" and _swaps_last(args[1]):
            return Expr(".mT", args[0])
        if name in ("sum", "mean", "amax", "amin"):
            return reduced(name, *args[:3])
        return Expr(_SIGNS.get(name, name), *args)


def _constant(value: Any) -> str | Expr:
    """Return a constant tensor as its number, its list of numbers, or "a constant"."""
    if isinstance(value, Tensor) and value.numel() == 1:
        return Expr("printed as", number := float(value.detach()), f"{number:.12g}")
    if isinstance(value, Tensor) and value.dtype != torch.bool and value.numel() <= 8:
        return str(value.tolist())
    return "a constant"


def _swaps_last(order: Any) -> bool:
    count = len(order)
    return count >= 2 and list(order) == [*range(count - 2), count - 1, count - 2]
