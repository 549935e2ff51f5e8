"""What a node of a program computes, in the words that someone would write it with."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx

from compare.proof.program import operation

#: Operations that hand on the same numbers, at most in another shape: words leave them out.
SAME = {
    "_to_copy", "_unsafe_view", "alias", "clone", "contiguous", "copy", "detach", "detach_copy",
    "expand", "expand_copy", "lift_fresh_copy", "squeeze", "squeeze_copy", "unsqueeze",
    "unsqueeze_copy", "view", "view_copy",
}  # fmt: skip
_PRODUCTS = {"mm", "bmm", "matmul", "mv", "dot"}
_MADE = {"full", "full_like", "scalar_tensor", "zeros", "zeros_like", "ones", "ones_like"}
_SIGNS = {"gt": ">", "ge": ">=", "lt": "<", "le": "<=", "eq": "==", "ne": "!="}
_LONGEST = 1_000  # characters of an expression that anyone would read
_SUM, _PRODUCT, _SIGN, _ATOM = range(4)  # how tightly an expression holds together


def behind(node: fx.Node) -> fx.Node:
    """Return the node whose numbers `node` hands on, whatever the shape."""
    while operation(node) in SAME:
        node = node.args[1 if operation(node) == "copy" else 0]  # type: ignore[assignment]
    return node


def words(node: fx.Node, names: Mapping[fx.Node, str], *, inside: bool = False) -> str:
    """Return the expression behind a node, down to nodes that have names.

    With `inside` the node's own name is not used.
    """
    return _Words(names).of(node, inside=inside)[0]


def short(text: str) -> str:
    """Return an expression, of a long one an end that can be read by itself, if it has one."""
    for start in range(len(text) - 48, len(text) - 8) if len(text) > 64 else ():
        end = text[start:]
        if text[start - 1] in " (" and end[0] not in " -+*/@" and _closed(end):
            return f"...{end}"
    return text


def _closed(text: str) -> bool:
    """Whether every bracket in a text is opened and closed within it."""
    depth = 0
    for sign in text:
        depth += (sign in "([") - (sign in ")]")
        if depth < 0:
            return False
    return depth == 0


def inner(text: str) -> str:
    """Return an expression as part of a larger one."""
    loose = any(sign in text for sign in (" + ", " - ", " * ", " / ", " @ ", "**"))
    return f"({text})" if loose or text.startswith("-") else text


class _Words:
    def __init__(self, names: Mapping[fx.Node, str]) -> None:
        self.names = names
        self.known: dict[fx.Node, tuple[str, int]] = {}  # a loop reads its values again and again

    def of(self, node: Any, *, inside: bool = False) -> tuple[str, int]:
        """Return an argument's text and how tightly it holds together."""
        if isinstance(node, fx.Node):
            if not inside and node in self.names:
                return self.names[node], _ATOM
            source = behind(node)
            if source is not node:
                return self.of(source, inside=inside)
            if node not in self.known:
                text, binds = self._node(node)
                self.known[node] = (text, binds) if len(text) <= _LONGEST else ("...", _ATOM)
            return self.known[node]
        if isinstance(node, float):
            return (f"{node:.12g}", _ATOM if node >= 0 else _SIGN)
        if isinstance(node, list | tuple):
            return f"[{', '.join(self.of(item)[0] for item in node)}]", _ATOM
        return str(node), _ATOM

    def tight(self, node: Any, least: int) -> str:
        """Return an argument's text in brackets unless it holds together as well as `least`."""
        text, binds = self.of(node)
        return text if binds >= least else f"({text})"

    def _node(self, node: fx.Node) -> tuple[str, int]:
        name, args = operation(node), node.args
        if node.op == "get_attr":
            return _constant(node), _ATOM
        if not name or name == "getitem":
            return node.name, _ATOM
        if name in ("add", "sub"):
            alpha = node.kwargs.get("alpha", 1)
            sign = "+" if name == "add" else "-"
            if isinstance(alpha, int | float) and alpha < 0:
                sign, alpha = {"+": "-", "-": "+"}[sign], -alpha
            second = self.tight(args[1], _PRODUCT)
            if alpha != 1:
                second = f"{self.of(alpha)[0]} * {self.tight(args[1], _SIGN)}"
            return f"{self.tight(args[0], _SUM)} {sign} {second}", _SUM
        if name in ("mul", "div"):
            sign = "*" if name == "mul" else "/"
            one = self.tight(args[0], _PRODUCT)
            return f"{one} {sign} {self.tight(args[1], _SIGN)}", _PRODUCT
        if name in _PRODUCTS:
            return f"{self.tight(args[0], _PRODUCT)} @ {self.tight(args[1], _SIGN)}", _PRODUCT
        if name == "neg":
            return f"-{self.tight(args[0], _ATOM)}", _SIGN
        if name == "pow":
            return f"{self.tight(args[0], _ATOM)}**{self.tight(args[1], _ATOM)}", _SIGN
        if name == "reciprocal":
            return f"1 / {self.tight(args[0], _ATOM)}", _PRODUCT
        if name == "permute" and _swaps_last(args[1]):
            return f"{self.tight(args[0], _ATOM)}.mT", _ATOM
        if name in ("sum", "mean", "amax", "amin"):
            return f"{self.tight(args[0], _ATOM)}.{name}({_dims(args[1:])})", _ATOM
        if name in ("index", "index_select"):
            return f"{self.tight(args[0], _ATOM)}[...]", _ATOM
        if name in _SIGNS:
            return f"({self.of(args[0])[0]} {_SIGNS[name]} {self.of(args[1])[0]})", _ATOM
        if name in _MADE:
            numbers = [a for a in args if isinstance(a, int | float)] or [int("one" in name)]
            return self.of(numbers[-1])
        return f"{name}({', '.join(self.of(argument)[0] for argument in args)})", _ATOM


def _constant(node: fx.Node) -> str:
    """Return a tensor that the code made: its number where it is one."""
    value = node.meta["val"]
    if isinstance(value, Tensor) and value.numel() == 1:
        return f"{float(value.detach()):.12g}"
    if isinstance(value, Tensor) and value.dtype != torch.bool and value.numel() <= 8:
        return str(value.tolist())
    return "a constant"


def _swaps_last(order: Any) -> bool:
    count = len(order)
    return count >= 2 and list(order) == [*range(count - 2), count - 1, count - 2]


def _dims(args: Any) -> str:
    """Return the dimensions of a reduction as one writes them."""
    dims = args[0] if args else []
    if isinstance(dims, list | tuple):
        text = str(dims[0]) if len(dims) == 1 else str(tuple(dims)) if dims else ""
    else:
        text = str(dims)
    keeps = len(args) > 1 and args[1] is True
    return text + (", keepdim=True" if text else "keepdim=True") * keeps
