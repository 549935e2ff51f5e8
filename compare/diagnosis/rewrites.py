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
from torch import fx

from compare.diagnosis.expressions import Expr, expression, floats, leaf, reduced, shape_of
from compare.diagnosis.slice import Slice

MOST = 60  # ways for any one part of an expression


def writings(way: Slice, names: Mapping[fx.Node, str]) -> Iterator[Expr]:
    """Yield ways to write the quantity at the end of `way`; the keys of leaves are nodes."""
    inside = {node: name for node, name in names.items() if node is not way.end}
    found = _Forms().of(expression(way.end, inside), 40 * MOST) + _wholes(way, names)
    yield from found
    if (dtype := way.end.meta["val"].dtype) in (torch.float16, torch.bfloat16):
        yield from (Expr("in float32", one, dtype) for one in found)


def _wholes(way: Slice, names: Mapping[fx.Node, str]) -> list[Expr]:
    """Return the sums, and the products of matrices, that have the shape of the quantity."""
    shape = shape_of(way.end)
    nodes = [node for node, _ in way.operands() if names.get(node, "").replace("_", "").isalnum()]
    leaves = {node: leaf(names[node], node) for node in nodes}
    found: list[Expr] = []
    for node, one in leaves.items():
        size = shape_of(node)
        for dim in range(len(size)):
            kept = (*size[:dim], 1, *size[dim + 1 :])
            if shape in (kept, (*size[:dim], *size[dim + 1 :])):
                found.append(reduced("sum", one, dim - len(size), kept == shape))
    matrices = [one for node, one in leaves.items() if len(shape_of(node)) >= 2]
    for first, second in itertools.permutations(matrices, 2):
        for a, b in itertools.product((first, first.mT), (second, second.mT)):
            left, right = (x.run(floats, lambda node: node.meta["val"]).shape for x in (a, b))
            fits = len(left) == len(right) and left[-1] == right[-2]
            if fits and shape[-2:] == (left[-2], right[-1]):
                found += _matrix_products(a, b)
    return found


class _Forms:
    """The ways to write an expression and each of its parts."""

    def __init__(self) -> None:
        self.known: dict[Expr, list[Expr]] = {}

    def of(self, one: Any, most: int = MOST) -> list[Expr]:
        """Return the ways to write an argument."""
        if not isinstance(one, Expr):
            return [Expr("as", one, f"{one:.12g}")]
        if one not in self.known:
            self.known[one] = list({way.text: way for way in self._made(one)}.values())[:most]
        return self.known[one]

    def _made(self, one: Expr) -> list[Expr]:
        if one.op in ("*", "/", "neg", "reciprocal", "**"):
            return self._product(one)
        if one.op in ("+", "-"):
            return self._sum(one)
        if one.op in (".sum", ".mean"):
            return self._reduced(one)
        shown = one.args[0] if one.op == "leaf" else one  # a product in another shape
        if isinstance(shown, Expr) and shown.op == "@":
            return [shown.value, *_matrix_products(*(part.value for part in shown.args))]
        return [one.value]

    # -- products

    def _product(self, one: Expr) -> list[Expr]:
        top, bottom, sign = _factors(one)
        if not 1 <= len(top) + len(bottom) <= 5 or top == [one]:
            return [one.value]
        found: list[Expr] = []
        forms = [self.of(factor) for factor in top + bottom]
        for chosen in itertools.islice(itertools.product(*forms), MOST):
            above, below = list(chosen[: len(top)]), list(chosen[len(top) :])
            found += _groupings(above) if not below else _quotients(above, below)
        if not top and len(bottom) == 1:
            found += self._sigmoid(bottom[0])
        return [-way for way in found] if sign < 0 else found

    def _sigmoid(self, below: Any) -> list[Expr]:
        """Write 1 / (1 + exp(-z)) with the kernel."""
        if isinstance(below, Expr) and below.op == "+" and 1 in below.args:
            e = below.args[below.args[0] == 1]
            if isinstance(e, Expr) and e.op == "exp" and e.args[0].op == "neg":
                return [Expr("torch.sigmoid", self.of(e.args[0].args[0])[0])]
        return []

    # -- sums

    def _sum(self, one: Expr) -> list[Expr]:
        first, second = one.args
        scale = 1 if one.op == "+" else -1
        if isinstance(second, Expr) and second.op == "*" and second.node is None:  # alpha
            alpha, second = second.args
            if isinstance(alpha, Expr):
                return [one.value]
            scale *= alpha
        found: list[Expr] = []
        for a, b in itertools.islice(itertools.product(self.of(first), self.of(second)), MOST):
            found += _sums(a, b, scale)
            if scale == 1:
                found += _fused(b, self._terms(first), 1)
            found += _fused(a, self._terms(second), scale)
        return found

    def _terms(self, one: Any) -> list[Expr]:
        """Return the two factors of a product, to be fused with a sum; none if it is no product."""
        top, bottom, sign = _factors(one)
        if bottom or sign < 0 or len(top) != 2:
            return []
        return [self.of(factor)[0] for factor in top]

    def _reduced(self, one: Expr) -> list[Expr]:
        assert one.node is not None
        args: tuple[Any, ...] = one.node.args
        source, dims, keep = args + (None, None, False)[len(args) :]
        shape = shape_of(source)
        across: Any = [dims] if isinstance(dims, int) else dims or range(len(shape))
        across = sorted(d % len(shape) - len(shape) for d in across)
        found: list[Expr] = []
        for inner in self.of(one.args[0])[:6]:
            for order in itertools.permutations(across):
                found.append(reduced("sum", inner, order, keep))
                if len(order) > 1:
                    each = reduce(lambda part, d: reduced("sum", part, d, True), order, inner)
                    found.append(each if keep else Expr(".squeeze", each, order))
            if len(across) == 1:
                found.append(Expr("one by one", inner, across[0], keep))
        if one.op == ".sum":
            return found
        size = math.prod(shape[d] for d in across)
        means = ([way / size, way * (Expr("as", 1, "1") / size)] for way in found)
        return [one.value, *itertools.chain(*means)]


def _factors(one: Any) -> tuple[list[Any], list[Any], int]:
    """Return what is multiplied, what it is divided by, and the sign."""
    if not isinstance(one, Expr):
        return ([], [], int(one)) if abs(one) == 1 else ([one], [], 1)
    if one.op not in ("*", "/", "neg", "reciprocal", "**"):
        return [one], [], 1
    top, bottom, sign = _factors(one.args[0])
    if one.op == "neg":
        return top, bottom, -sign
    if one.op == "reciprocal":
        return bottom, top, sign
    if one.op == "**":
        power = one.args[1]
        if power not in (2, 3, -1, -2):
            return [one], [], 1
        top, bottom = (top, bottom) if power > 0 else (bottom, top)
        return top * abs(power), bottom * abs(power), sign ** abs(power)
    above, below, also = _factors(one.args[1])
    above, below = (above, below) if one.op == "*" else (below, above)
    return top + above, bottom + below, sign * also


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
    for one, other in ((p, q), (q, p)):
        if (times := _number(one)) is not None:
            return _sums(a, other, times * scale)[:1]
    if (term := _number(a)) is not None:  # the kernel takes tensors
        a = Expr("torch.ones_like", p) if term == 1 else Expr("torch.full_like", p, term)
    return [Expr("torch.addcmul", a, p, q, **{} if scale == 1 else {"value": -1})]


def _number(one: Expr) -> Any:
    """Return the number that an expression is, None if it is none."""
    while one.op == "leaf" and isinstance(one.args[0], Expr):
        one = one.args[0]
    return one.args[0] if one.op == "as" else None


def _matrix_products(a: Expr, b: Expr) -> list[Expr]:
    """Return ways to multiply two matrices: another kernel may sum in another order."""
    ways = (Expr(op, a, b) for op in ("@", "other kernel", "outer"))
    return [next(ways), (b.mT @ a.mT).mT, *ways]
