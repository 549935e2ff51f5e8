"""Formulas as trees, with one printer and one evaluator.

A formula of this package's tables, a way to write a quantity, and the expression behind a node of a
program are all an `Expr`: what a report prints is what was computed.
"""

import itertools
import math
import operator
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from typing import Any

import flint
import torch
from torch import Tensor, fx

from compare.proof.balls import Balls
from compare.proof.constants import intended_value
from compare.proof.program import RESHAPES, SAME_SHAPE, operation

#: Operations that expressions leave out: they give the same numbers, at most in another shape or
#: dtype.
SAME = SAME_SHAPE | RESHAPES | {"_to_copy", "copy"}
_LONGEST = 1_000  # characters of an expression that anyone would read
COMPARISON, SUM, PRODUCT, SIGN, ATOM = range(5)  # how tightly an expression holds together


def _operator(op: str) -> tuple[Callable[[Any, Any], "Expr"], Callable[[Any, Any], "Expr"]]:
    """Return a Python operator of expressions, and the one with its operands swapped."""
    return lambda a, b: Expr(op, a, b), lambda a, b: Expr(op, b, a)


class Expr:
    """An operation of expressions, numbers and what torch takes besides.

    The operation is one of OPERATORS, a method (".sum") or a function ("exp"). The class is an
    arithmetic like `floats` and `balls`: run on expressions, a formula gives a formula.
    """

    def __init__(self, op: str, *args: Any, **kwargs: Any) -> None:
        self.op, self.args, self.kwargs = op, args, kwargs
        self.node: fx.Node | None = None  # of a program, that it was read from

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
    def value(self) -> "Expr":
        """The leaf of this node's value, written like it."""
        return self if self.op == "leaf" or self.node is None else leaf(self, self.node)

    @property
    def text(self) -> str:
        """The expression as one writes it."""
        return self.within(SUM)

    def within(self, least: int) -> str:
        """Return the text, in brackets unless it holds together as tightly as `least`."""
        text, binds = self.printed
        return text if binds >= least else f"({text})"

    @cached_property
    def printed(self) -> tuple[str, int]:
        """The text without brackets around it, and how tightly it holds together."""
        if self.op == "leaf":
            shown, _, binds = self.args
            return shown.printed if isinstance(shown, Expr) else (shown, binds)
        if self.op in OPERATORS:
            template, binds, least, _ = OPERATORS[self.op]
            return template.format(*map(_text, self.args, least)), binds
        method = self.op.startswith(".")
        rest = [_text(arg, COMPARISON) for arg in self.args[method:]]
        rest += [f"{name}={_text(value, COMPARISON)}" for name, value in self.kwargs.items()]
        return f"{_text(self.args[0], ATOM) if method else ''}{self.op}({', '.join(rest)})", ATOM

    def run(self, arithmetic: Callable[..., Any], values: Callable[[Any], Any]) -> Any:
        """Return what it comes to, with `values` of the keys of its leaves."""
        if self.op == "leaf":
            return values(self.args[1])
        if self.op == "in float32":
            one, half = self.args
            return one.run(arithmetic, lambda key: _widened(values(key), half)).to(half)
        args = [arg.run(arithmetic, values) if isinstance(arg, Expr) else arg for arg in self.args]
        return arithmetic(self.op, *args, **self.kwargs)


def leaf(shown: str | Expr, key: Any = None, binds: int = ATOM) -> Expr:
    """Return a value that has a key, and is written as a name or as what it was computed from."""
    return Expr("leaf", shown, key, binds)


def reduced(name: str, one: Any, dims: Any = (), keep: bool = False) -> Expr:
    """Return a reduction over some dimensions, all where there are none."""
    dims = tuple(dims) if isinstance(dims, list | tuple) else (dims,)
    args = (dims,) if len(dims) > 1 else dims
    return Expr(f".{name}", one, *args, **{"keepdim": True} if keep else {})


def _text(value: Any, least: int) -> str:
    """Return an argument as one writes it."""
    if isinstance(value, Expr):
        return value.within(least)
    if isinstance(value, list):
        return f"[{', '.join(_text(item, COMPARISON) for item in value)}]"
    if isinstance(value, float):
        return f"{value:.12g}" if value >= 0 or least < ATOM else f"({value:.12g})"
    return str(value)


# -- the arithmetics


def floats(op: str, *args: Any, **kwargs: Any) -> Any:
    """Work out an operation on tensors and numbers."""
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


def balls(op: str, *args: Any) -> Any:
    """Work out an operation on arrays of balls; a number is what it is written for."""
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


#: How each is written and how tightly that holds together, how tightly its operands have to, and
#: what works it out, if anything does. What torch has no short form for is told in words.
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
    "where": ("where({}, {}, {})", ATOM, (COMPARISON,) * 3, lambda at, x, y: y + (x - y) * at),
    "as": ("{1}", ATOM, (ATOM, ATOM), lambda meaning, _name: meaning),
    ".mT": ("{}.mT", ATOM, (ATOM,), lambda x: x.mT),
    "[]": ("{}[...]", ATOM, (ATOM,), None),
    "in float32": ("({}) in float32, rounded once", ATOM, (SUM, SUM), None),
    "one by one": ("sum({}.unbind({})), one after the other", ATOM, (ATOM,) * 3, _one_by_one),
    "other kernel": ("{} @ {}, by the other of mm and bmm", SUM, (ATOM, ATOM), _other_kernel),
    "outer": ("({}[..., None] * {}[..., None, :, :]).sum(-2)", ATOM, (ATOM, ATOM),
              lambda a, b: (a[..., None] * b[..., None, :, :]).sum(-2)),
}  # fmt: skip


# -- the nodes of a program

_SIGNS = {
    "add": "+", "sub": "-", "mul": "*", "div": "/", "mm": "@", "bmm": "@", "matmul": "@",
    "mv": "@", "dot": "@", "pow": "**", "gt": ">", "ge": ">=", "lt": "<", "le": "<=", "eq": "==",
    "ne": "!=", "index": "[]", "index_select": "[]",
}  # fmt: skip
_MADE = {"full", "full_like", "scalar_tensor", "zeros", "zeros_like", "ones", "ones_like"}


def expression(node: fx.Node, names: Mapping[fx.Node, str], *, inside: bool = False) -> Expr:
    """Return the expression behind a node, down to nodes that have names.

    With `inside` the node's own name is not used.
    """
    found: Expr = _Nodes(names).of(node, inside=inside)
    return found


def short(one: Expr) -> Expr:
    """Return an expression, of a long one an end that can be read by itself, if it has one."""
    text = one.text
    for start in range(len(text) - 48, len(text) - 8) if len(text) > 64 else ():
        end = text[start:]
        if text[start - 1] in " (" and end[0] not in " -+*/@" and _closed(end):
            return leaf(f"...{end}", binds=one.printed[1])
    return one


def _closed(text: str) -> bool:
    """Whether every bracket in a text is opened and closed within it."""
    depth = list(itertools.accumulate((sign in "([") - (sign in ")]") for sign in text))
    return min(depth) == depth[-1] == 0


def shape_of(node: Any) -> tuple[int, ...]:
    """Return the shape of a node's value, none of what is no tensor."""
    value = node.meta.get("val")
    return tuple(value.shape) if isinstance(value, Tensor) else ()


def elements(nodes: Iterable[fx.Node]) -> int:
    """Return how many numbers the values of nodes have together."""
    values = (node.meta.get("val") for node in nodes)
    return sum(value.numel() for value in values if isinstance(value, Tensor))


class _Nodes:
    def __init__(self, names: Mapping[fx.Node, str]) -> None:
        self.names = names
        self.known: dict[fx.Node, Expr] = {}  # a loop reads its values again and again

    def of(self, node: Any, *, inside: bool = False) -> Any:
        """Return the expression of a node, and what is none as it is."""
        if isinstance(node, list | tuple):
            return [self.of(item) for item in node]
        if not isinstance(node, fx.Node):
            return node
        if not inside and node in self.names:
            return leaf(self.names[node], node)
        if operation(node) in SAME:
            source: Any = node.args[1 if operation(node) == "copy" else 0]
            found = self.of(source, inside=inside)
            return found if shape_of(source) == shape_of(node) else leaf(found, node)
        if node not in self.known:
            found = self._node(node)
            found.node = node
            self.known[node] = found if len(found.text) <= _LONGEST else leaf("...", node)
        return self.known[node]

    def _node(self, node: fx.Node) -> Expr:
        name = operation(node)
        if node.op == "get_attr":
            return leaf(_constant(node.meta["val"]), node)
        if not name or name == "getitem":
            return leaf(node.name, node)
        if name in _MADE:
            numbers = [a for a in node.args if isinstance(a, int | float)] or [int("one" in name)]
            return leaf(Expr("as", numbers[-1], _text(numbers[-1], SUM)), node)
        args = [self.of(argument) for argument in node.args]
        if (alpha := self.of(node.kwargs.get("alpha", 1))) != 1:
            if isinstance(alpha, int | float) and alpha < 0:
                name, alpha = {"add": "sub", "sub": "add"}[name], -alpha
            args[1] = Expr("*", alpha, args[1]) if alpha != 1 else args[1]
        if name == "permute" and _swaps_last(args[1]):
            return Expr(".mT", args[0])
        if name in ("sum", "mean", "amax", "amin"):
            return reduced(name, *args[:3])
        return Expr(_SIGNS.get(name, name), *args)


def _constant(value: Any) -> str | Expr:
    """Return a tensor that the code made: its number where it is one."""
    if isinstance(value, Tensor) and value.numel() == 1:
        return Expr("as", number := float(value.detach()), f"{number:.12g}")
    if isinstance(value, Tensor) and value.dtype != torch.bool and value.numel() <= 8:
        return str(value.tolist())
    return "a constant"


def _swaps_last(order: Any) -> bool:
    count = len(order)
    return count >= 2 and list(order) == [*range(count - 2), count - 1, count - 2]
