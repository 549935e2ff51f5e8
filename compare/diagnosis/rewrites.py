"""Other ways to write the operations of a quantity: the same number, with other roundings.

Groupings of products, fused products and sums, reciprocals, the order of a sum, the kernel of an
activation, and half precision computed in float32. Each is run in floats; none is judged here.
"""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from functools import reduce
from operator import mul, truediv
from typing import Any

import torch
from torch import Tensor, fx

from compare.diagnosis.edits import Way
from compare.diagnosis.expressions import ATOM, SAME, SUM, Expr, expression, leaf, reduced
from compare.proof.program import operation

MOST = 60  # ways for any one part of an expression


def writings(way: Way, names: Mapping[fx.Node, str]) -> Iterator[Expr]:
    """Yield ways to write the quantity at the end of `way`; the keys of leaves are nodes."""
    found = _Forms(way, names).of(way.end, top=True) + _wholes(way, names)
    yield from found
    if (dtype := way.end.meta["val"].dtype) in (torch.float16, torch.bfloat16):
        yield from (Expr("in float32", one, dtype) for one in found)


def left_to_right(one: Any) -> bool:
    """Whether it is a product that says so only if one reads it from left to right."""
    if not isinstance(one, Expr) or one.op != "*":
        return False
    first, second = (arg.printed[1] if isinstance(arg, Expr) else ATOM for arg in one.args)
    return second == SUM or (second == ATOM and (first == ATOM or left_to_right(one.args[0])))


def _wholes(way: Way, names: Mapping[fx.Node, str]) -> list[Expr]:
    """Return the sums, and the products of matrices, that have the shape of the quantity."""
    shape = _shape(way.end)
    leaves = [node for node, _ in way.operands() if names.get(node, "").replace("_", "").isalnum()]
    read = [leaf(names[node], node) for node in leaves]
    sizes = [_shape(node) for node in leaves]
    found: list[Expr] = []
    for one, size in zip(read, sizes, strict=True):
        for dim in range(len(size)):
            kept = (*size[:dim], 1, *size[dim + 1 :])
            if kept == shape or (*size[:dim], *size[dim + 1 :]) == shape:
                found.append(reduced("sum", one, dim - len(size), kept == shape))
    for (a, left), (b, right) in itertools.product(zip(read, sizes, strict=True), repeat=2):
        if len(left) != len(right) or len(left) < 2 or len(shape) < 2 or a is b:
            continue
        for first, second in itertools.product((False, True), repeat=2):
            rows, inner = left[-2:][::-1] if first else left[-2:]
            again, columns = right[-2:][::-1] if second else right[-2:]
            if inner == again and (rows, columns) == tuple(shape[-2:]):
                found += _matrix_products(a.mT if first else a, b.mT if second else b)
    return found


class _Forms:
    """The ways to write each node between named values and the end."""

    def __init__(self, way: Way, names: Mapping[fx.Node, str]) -> None:
        self.inside, self.end = set(way.nodes), way.end
        self.names = {node: name for node, name in names.items() if node is not way.end}
        self.known: dict[fx.Node, list[Expr]] = {}

    def of(self, node: Any, *, top: bool = False) -> list[Expr]:
        """Return the ways to write an argument."""
        if not isinstance(node, fx.Node):
            return [Expr("as", node, f"{node:.12g}")]
        node = self._behind(node)
        if node not in self.known:
            made = [self._atom(node)] if node in self.names and not top else self._made(node)
            self.known[node] = list({one.text: one for one in made}.values())[
                : 40 * MOST if top else MOST
            ]
        return self.known[node]

    def _behind(self, node: fx.Node) -> fx.Node:
        """Return what a node hands on, as far as broadcasting makes no difference."""
        while node in self.inside and node not in self.names and operation(node) in SAME:
            source = node.args[1 if operation(node) == "copy" else 0]
            if not isinstance(source, fx.Node) or _shape(source) != _shape(node):
                break
            node = source
        return node

    def _atom(self, node: fx.Node) -> Expr:
        return leaf(expression(node, self.names), node)

    def _made(self, node: fx.Node) -> list[Expr]:
        name = operation(node)
        if node not in self.inside or not name:
            return [self._atom(node)]
        if name in ("mul", "div", "neg", "reciprocal", "pow"):
            return self._product(node)
        if name in ("add", "sub"):
            return self._sum(node)
        if name in ("sum", "mean"):
            return self._reduced(node)
        if name in ("mm", "bmm"):
            factors = (self._atom(self._behind(a)) for a in node.all_input_nodes)
            return [self._atom(node), *_matrix_products(*factors)]
        if name == "view" or name in SAME:
            source = node.all_input_nodes[0]
            if operation(source) in ("mm", "bmm") and source in self.inside:
                return self.of(source)
        return [self._atom(node)]

    # -- products

    def _factors(self, node: Any) -> tuple[list[Any], list[Any], int]:
        """Return what is multiplied, what it is divided by, and the sign."""
        if isinstance(node, fx.Node):
            node = self._behind(node)
        if not isinstance(node, fx.Node):
            if isinstance(node, int | float) and abs(node) == 1:
                return [], [], int(node)
            return [node], [], 1
        name = operation(node)
        if (node in self.names and node is not self.end) or node not in self.inside:
            return [node], [], 1
        if name == "neg":
            top, bottom, sign = self._factors(node.args[0])
            return top, bottom, -sign
        if name == "reciprocal":
            top, bottom, sign = self._factors(node.args[0])
            return bottom, top, sign
        if name in ("mul", "div"):
            one, other = (self._factors(argument) for argument in node.args[:2])
            if name == "div":
                other = (other[1], other[0], other[2])
            return one[0] + other[0], one[1] + other[1], one[2] * other[2]
        if name == "pow" and node.args[1] in (2, 3, -1, -2):
            power = int(node.args[1])  # type: ignore[arg-type]
            top, bottom, sign = self._factors(node.args[0])
            top, bottom = (top, bottom) if power > 0 else (bottom, top)
            return top * abs(power), bottom * abs(power), sign ** abs(power)
        return [node], [], 1

    def _product(self, node: fx.Node) -> list[Expr]:
        top, bottom, sign = self._factors(node)
        if not 1 <= len(top) + len(bottom) <= 5 or top == [node]:
            return [self._atom(node)]
        found: list[Expr] = []
        forms = [self.of(factor) for factor in top]
        under = [self.of(factor) for factor in bottom]
        for chosen in itertools.islice(itertools.product(*forms, *under), MOST):
            above, below = list(chosen[: len(top)]), list(chosen[len(top) :])
            found += _groupings(above) if not below else _quotients(above, below)
        found += self._sigmoids(top, bottom)
        return [-one for one in found] if sign < 0 else found

    def _sigmoids(self, top: list[Any], bottom: list[Any]) -> list[Expr]:
        """Write 1 / (1 + exp(-z)) with the kernel."""
        if top or len(bottom) != 1 or not isinstance(bottom[0], fx.Node):
            return []
        below = bottom[0]
        parts = below.args if operation(below) == "add" else ()
        e = next((self._behind(p) for p in parts if isinstance(p, fx.Node)), None)
        if len(parts) != 2 or 1 not in parts or e is None or operation(e) != "exp":
            return []
        inner = self._behind(e.all_input_nodes[0])
        if operation(inner) != "neg":
            return []
        return [Expr("torch.sigmoid", self.of(inner.args[0])[0])]

    # -- sums

    def _sum(self, node: fx.Node) -> list[Expr]:
        first, second = node.args[:2]
        alpha = node.kwargs.get("alpha", 1)
        minus = operation(node) == "sub"
        if not isinstance(alpha, int | float):
            return [self._atom(node)]
        scale = -alpha if minus else alpha
        found: list[Expr] = []
        for a, b in itertools.islice(itertools.product(self.of(first), self.of(second)), MOST):
            found += _sums(a, b, scale)
            if not minus and alpha == 1:
                found += _fused(b, self._terms(first), 1)
            found += _fused(a, self._terms(second), scale)
        return found

    def _terms(self, node: Any) -> list[Expr]:
        """Return the two factors of a product, to be fused with a sum; none if it is no product."""
        top, bottom, sign = self._factors(node)
        if bottom or sign < 0 or len(top) != 2:
            return []
        return [self.of(factor)[0] for factor in top]

    def _reduced(self, node: fx.Node) -> list[Expr]:
        source, dims = node.args[0], node.args[1] if len(node.args) > 1 else None
        assert isinstance(source, fx.Node)
        keep = bool(node.args[2]) if len(node.args) > 2 else False
        shape = _shape(source)
        across: Any = [dims] if isinstance(dims, int) else dims or range(len(shape))
        across = sorted(d % len(shape) - len(shape) for d in across)
        found: list[Expr] = []
        for inner in self.of(source)[:6]:
            for order in itertools.permutations(across):
                found.append(reduced("sum", inner, order, keep))
                if len(order) > 1:
                    each = reduce(lambda one, d: reduced("sum", one, d, True), order, inner)
                    found.append(each if keep else Expr(".squeeze", each, order))
            if len(across) == 1:
                found.append(Expr("one by one", inner, across[0], keep))
        if operation(node) == "sum":
            return found
        size = math.prod(shape[d] for d in across)
        means = ([one / size, one * (Expr("as", 1, "1") / size)] for one in found)
        return [self._atom(node), *itertools.chain(*means)]


def _shape(node: fx.Node) -> tuple[int, ...]:
    value = node.meta.get("val")
    return tuple(value.shape) if isinstance(value, Tensor) else ()


# -- ways to write one operation on expressions


def _groupings(factors: Sequence[Expr]) -> list[Expr]:
    """Return every grouping of a product, those from left to right first."""
    orders = list(itertools.permutations(factors))
    found = [reduce(mul, order) for order in orders]
    if len(factors) == 3:
        found += [a * (b * c) for a, b, c in orders]
    if len(factors) == 4:
        for a, b, c, d in orders:
            found += [(a * b) * (c * d), a * ((b * c) * d), (a * (b * c)) * d]
    return found


def _quotients(above: list[Expr], below: list[Expr]) -> list[Expr]:
    """Return ways to divide: at once, one after the other, by reciprocals."""
    one = Expr("as", 1, "1")
    tops = _groupings(above) if above else [one]
    found = [top / bottom for top, bottom in itertools.product(tops, _groupings(below))]
    found += [reduce(truediv, below, top) for top in tops]
    if len(above) + len(below) <= 4:
        found += _groupings([*above, *(one / bottom for bottom in below)])
    if len(above) > 1:  # divide one factor first
        for k, factor in enumerate(above):
            rest = _groupings([*above[:k], *above[k + 1 :]])
            found += [tree * (factor / low) for tree in rest for low in _groupings(below)]
    return found


def _sums(a: Expr, b: Expr, scale: float) -> list[Expr]:
    """Return ways to write a + scale * b."""
    if scale in (1, -1):
        return [a + b if scale > 0 else a - b]
    return [Expr("torch.add", a, b, alpha=scale), a + scale * b]


def _fused(a: Expr, product: list[Expr], scale: float) -> list[Expr]:
    """Return a + scale * p * q in one kernel, which may round only once."""
    if not product or scale not in (1, -1):
        return []
    p, q = product
    if a.op == "as":  # a number: the kernel takes tensors
        fill = Expr("torch.full_like", p, a)
        a = Expr("torch.ones_like", p) if a.args[0] == 1 else fill
    numbers = [(one.args[0], other) for one, other in ((p, q), (q, p)) if one.op == "as"]
    if numbers:
        return [_sums(a, other, number * scale)[0] for number, other in numbers]
    return [Expr("torch.addcmul", a, p, q, **{} if scale == 1 else {"value": -1})]


def _matrix_products(a: Expr, b: Expr) -> list[Expr]:
    """Return ways to multiply two matrices: another kernel may sum in another order."""
    ways = (Expr(op, a, b) for op in ("@", "other kernel", "outer"))
    return [next(ways), (b.mT @ a.mT).mT, *ways]
