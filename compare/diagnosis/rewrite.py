"""Other ways to write the operations of a quantity: the same number, with other roundings.

Groupings of products, fused products and sums, reciprocals, the order of a sum, the kernel of an
activation, and half precision computed in float32. Each is run in floats; none is judged here.
"""

import itertools
from collections.abc import Iterator, Mapping
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor, fx

from compare.diagnosis.edits import Way
from compare.diagnosis.wording import SAME, words
from compare.diagnosis.writing import (
    ATOM,
    LOOSE,
    Writing,
    fused,
    groupings,
    negative,
    number,
    over,
    products,
    quotients,
    row_by_row,
    sum_of,
    summed,
    times,
    turned,
    widened,
)
from compare.proof.program import operation

MOST = 60  # ways for any one part of an expression


def writings(way: Way, names: Mapping[fx.Node, str]) -> Iterator[Writing]:
    """Yield ways to write the quantity at the end of `way`."""
    found = _Forms(way, names).of(way.end, top=True) + _wholes(way, names)
    yield from found
    for one in found:
        yield Writing(f"({one.text}) in float32, rounded once", ATOM, widened(one.run))


def _wholes(way: Way, names: Mapping[fx.Node, str]) -> list[Writing]:
    """Return the sums, and the products of matrices, that have the shape of the quantity."""
    shape = _shape(way.end)
    leaves = [node for node, _ in way.operands() if names.get(node, "").replace("_", "").isalnum()]
    read = [Writing(names[node], ATOM, itemgetter(node)) for node in leaves]
    sizes = [_shape(node) for node in leaves]
    found: list[Writing] = []
    for one, size in zip(read, sizes, strict=True):
        for dim in range(len(size)):
            kept = (*size[:dim], 1, *size[dim + 1 :])
            if kept == shape or (*size[:dim], *size[dim + 1 :]) == shape:
                found.append(summed(one, ((dim,),), kept == shape, len(size)))
    for (a, left), (b, right) in itertools.product(zip(read, sizes, strict=True), repeat=2):
        if len(left) != len(right) or len(left) < 2 or len(shape) < 2 or a is b:
            continue
        for first, second in itertools.product((False, True), repeat=2):
            rows, inner = left[-2:][::-1] if first else left[-2:]
            again, columns = right[-2:][::-1] if second else right[-2:]
            if inner == again and (rows, columns) == tuple(shape[-2:]):
                found += products(turned(a) if first else a, turned(b) if second else b)
    return found


class _Forms:
    """The ways to write each node between named values and the end."""

    def __init__(self, way: Way, names: Mapping[fx.Node, str]) -> None:
        self.inside, self.end = set(way.nodes), way.end
        self.names = {node: name for node, name in names.items() if node is not way.end}
        self.known: dict[fx.Node, list[Writing]] = {}

    def of(self, node: Any, *, top: bool = False) -> list[Writing]:
        """Return the ways to write an argument."""
        if not isinstance(node, fx.Node):
            return [number(node)]
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

    def _atom(self, node: fx.Node) -> Writing:
        text = words(node, self.names)
        plain = text.replace("_", "").replace(".mT", "").isalnum()
        return Writing(text, ATOM if plain or text.endswith(")") else LOOSE, lambda v: v[node])

    def _made(self, node: fx.Node) -> list[Writing]:
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
            return [self._atom(node), *products(*factors)]
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

    def _product(self, node: fx.Node) -> list[Writing]:
        top, bottom, sign = self._factors(node)
        if not 1 <= len(top) + len(bottom) <= 5 or top == [node]:
            return [self._atom(node)]
        found: list[Writing] = []
        forms = [self.of(factor) for factor in top]
        under = [self.of(factor) for factor in bottom]
        for chosen in itertools.islice(itertools.product(*forms, *under), MOST):
            above, below = list(chosen[: len(top)]), list(chosen[len(top) :])
            found += groupings(above) if not below else quotients(above, below)
        found += self._sigmoids(top, bottom)
        return [negative(one) for one in found] if sign < 0 else found

    def _sigmoids(self, top: list[Any], bottom: list[Any]) -> list[Writing]:
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
        z = self.of(inner.args[0])[0]
        return [Writing(f"torch.sigmoid({z.text})", ATOM, lambda v: torch.sigmoid(z.run(v)))]

    # -- sums

    def _sum(self, node: fx.Node) -> list[Writing]:
        first, second = node.args[:2]
        alpha = node.kwargs.get("alpha", 1)
        minus = operation(node) == "sub"
        if not isinstance(alpha, int | float):
            return [self._atom(node)]
        scale = -alpha if minus else alpha
        found: list[Writing] = []
        for a, b in itertools.islice(itertools.product(self.of(first), self.of(second)), MOST):
            found += sum_of(a, b, scale)
            if not minus and alpha == 1:
                found += fused(b, self._terms(first), 1)
            found += fused(a, self._terms(second), scale)
        return found

    def _terms(self, node: Any) -> list[Writing]:
        """Return the two factors of a product, to be fused with a sum; none if it is no product."""
        top, bottom, sign = self._factors(node)
        if bottom or sign < 0 or len(top) != 2:
            return []
        return [self.of(factor)[0] for factor in top]

    def _reduced(self, node: fx.Node) -> list[Writing]:
        source, dims = node.args[0], node.args[1] if len(node.args) > 1 else None
        assert isinstance(source, fx.Node)
        keep = bool(node.args[2]) if len(node.args) > 2 else False
        count = len(_shape(source))
        across: Any = dims
        across = [across] if isinstance(across, int) else list(across or range(count))
        across = sorted(d % count for d in across)
        found: list[Writing] = []
        for inner in self.of(source)[:6]:
            for order in itertools.permutations(across):
                found.append(summed(inner, (tuple(order),), keep, count))
                if len(order) > 1:
                    found.append(summed(inner, tuple((d,) for d in order), keep, count))
            if len(across) == 1:
                found.append(row_by_row(inner, across[0], keep, count))
        size = 1
        for d in across:
            size *= _shape(source)[d]
        if operation(node) == "mean":
            means = [self._atom(node)]
            for one in found:
                means += [over(one, number(size)), times(one, over(number(1), number(size)))]
            return means
        return found


def _shape(node: fx.Node) -> tuple[int, ...]:
    value = node.meta.get("val")
    return tuple(value.shape) if isinstance(value, Tensor) else ()
