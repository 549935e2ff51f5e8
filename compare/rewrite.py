"""Other ways to write the operations of a quantity: the same number, with other roundings.

Groupings of products, fused products and sums, reciprocals, the order of a sum, the kernel of an
activation, and half precision computed in float32. Each is run in floats; none is judged here.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from compare.edits import Way
from compare.wording import SAME, operation, words

Values = Mapping[fx.Node, Any]
MOST = 60  # ways for any one part of an expression
_LOOSE, _TIGHT, _ATOM = range(3)


@dataclass(frozen=True)
class Writing:
    """One way to write an expression: the words, how tightly they bind, and the expression."""

    text: str
    binds: int
    run: Callable[[Values], Any]
    grouped: bool = False  # a product of three or more, left to right

    def within(self, least: int) -> str:
        """Return the words, in brackets where they bind less tightly than asked."""
        return self.text if self.binds >= least else f"({self.text})"


def writings(way: Way, names: Mapping[fx.Node, str]) -> Iterator[Writing]:
    """Yield ways to write the quantity at the end of `way`."""
    found = _Forms(way, names).of(way.end, top=True) + _wholes(way, names)
    yield from found
    for one in found:
        yield Writing(f"({one.text}) in float32, rounded once", _ATOM, _wide(one.run))


def _wide(run: Callable[[Values], Any]) -> Callable[[Values], Any]:
    """Return an expression computed in float32 from half precision, rounded once at the end."""

    def widened(values: Values) -> Any:
        kinds = {v.dtype for v in values.values() if isinstance(v, Tensor)}
        half = next((k for k in (torch.float16, torch.bfloat16) if k in kinds), None)
        if half is None:
            return None
        found = run({n: v.float() if getattr(v, "dtype", None) == half else v
                     for n, v in values.items()})  # fmt: skip
        return found.to(half)

    return widened


def _wholes(way: Way, names: Mapping[fx.Node, str]) -> list[Writing]:
    """Return the sums, and the products of matrices, that have the shape of the quantity."""
    shape = _shape(way.end)
    leaves = [
        node for node, _ in way.operands() if names.get(node, "").replace("_", "").isalnum()
    ]
    read = [Writing(names[node], _ATOM, lambda v, n=node: v[n]) for node in leaves]
    sizes = [_shape(node) for node in leaves]
    found: list[Writing] = []
    for one, size in zip(read, sizes, strict=True):
        for dim in range(len(size)):
            kept = (*size[:dim], 1, *size[dim + 1 :])
            if kept == shape or (*size[:dim], *size[dim + 1 :]) == shape:
                found.append(_sums(one, ((dim,),), kept == shape, len(size)))
    for (a, left), (b, right) in itertools.product(zip(read, sizes, strict=True), repeat=2):
        if len(left) != len(right) or len(left) < 2 or len(shape) < 2 or a is b:
            continue
        for first, second in itertools.product((False, True), repeat=2):
            rows, inner = left[-2:][::-1] if first else left[-2:]
            again, columns = right[-2:][::-1] if second else right[-2:]
            if inner == again and (rows, columns) == tuple(shape[-2:]):
                found += _products(_turned(a, first), _turned(b, second))
    return found


def _turned(one: Writing, turned: bool) -> Writing:
    return Writing(f"{one.text}.mT", _ATOM, lambda v: one.run(v).mT) if turned else one


class _Forms:
    """The ways to write each node between named values and the end."""

    def __init__(self, way: Way, names: Mapping[fx.Node, str]) -> None:
        self.inside, self.end = set(way.nodes), way.end
        self.names = {node: name for node, name in names.items() if node is not way.end}
        self.known: dict[fx.Node, list[Writing]] = {}

    def of(self, node: Any, *, top: bool = False) -> list[Writing]:
        """Return the ways to write an argument."""
        if not isinstance(node, fx.Node):
            return [Writing(f"{node:.12g}", _ATOM, lambda _v: node)]
        node = self._behind(node)
        if node not in self.known:
            made = [self._atom(node)] if node in self.names and not top else self._made(node)
            self.known[node] = list({one.text: one for one in made}.values())[: 40 * MOST if top else MOST]  # noqa: E501
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
        return Writing(text, _ATOM if plain or text.endswith(")") else _LOOSE, lambda v: v[node])

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
            return [self._atom(node), *_products(*factors)]
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
        if node in self.names and node is not self.end or node not in self.inside:
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
        if not 1 <= len(top) + len(bottom) <= 5:
            return [self._atom(node)]
        found: list[Writing] = []
        forms = [self.of(factor) for factor in top]
        under = [self.of(factor) for factor in bottom]
        for chosen in itertools.islice(itertools.product(*forms, *under), MOST):
            above, below = list(chosen[: len(top)]), list(chosen[len(top) :])
            found += _trees(above) if not below else _quotients(above, below)
        found += self._sigmoids(top, bottom)
        return [_negative(one) for one in found] if sign < 0 else found

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
        return [
            Writing(f"torch.sigmoid({z.text})", _ATOM, lambda v, z=z: torch.sigmoid(z.run(v)))
            for z in self.of(inner.args[0])[:2]
        ]

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
            found += _added(a, b, scale)
            if not minus and alpha == 1:
                found += _scaled(b, self._terms(first), 1)
            found += _scaled(a, self._terms(second), scale)
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
        over = [dims] if isinstance(dims, int) else list(dims or range(count))  # type: ignore[call-overload]
        over = sorted(d % count for d in over)
        found: list[Writing] = []
        for inner in self.of(source)[:6]:
            for order in itertools.permutations(over):
                found.append(_sums(inner, (tuple(order),), keep, count))
                if len(order) > 1:
                    found.append(_sums(inner, tuple((d,) for d in order), keep, count))
            if len(over) == 1:
                found.append(_row_by_row(inner, over[0], keep, count))
        size = 1
        for d in over:
            size *= _shape(source)[d]
        if operation(node) == "mean":
            means = [self._atom(node)]
            for one in found:
                means += [
                    Writing(f"{one.within(_ATOM)} / {size}", _TIGHT, lambda v, o=one: o.run(v) / size),
                    Writing(f"{one.within(_ATOM)} * (1 / {size})", _TIGHT, lambda v, o=one: o.run(v) * (1 / size)),  # noqa: E501
                ]  # fmt: skip
            return means
        return found


def _shape(node: fx.Node) -> tuple[int, ...]:
    value = node.meta.get("val")
    return tuple(value.shape) if isinstance(value, Tensor) else ()


def _times(a: Writing, b: Writing) -> Writing:
    left = a.within(_TIGHT)
    straight = b.binds == _ATOM and (a.binds == _ATOM or a.grouped)
    return Writing(
        f"{left} * {b.within(_ATOM)}", _TIGHT, lambda v: a.run(v) * b.run(v),
        grouped=straight or b.binds == _LOOSE,
    )  # fmt: skip


def _trees(factors: Sequence[Writing]) -> list[Writing]:
    """Return every grouping of a product, those from left to right first."""
    if len(factors) == 1:
        return [factors[0]]
    found: list[Writing] = []
    for order in itertools.permutations(factors):
        one = order[0]
        for other in order[1:]:
            one = _times(one, other)
        found.append(one)
    if len(factors) == 3:
        found += [_times(a, _times(b, c)) for a, b, c in itertools.permutations(factors)]
    if len(factors) == 4:
        for a, b, c, d in itertools.permutations(factors):
            found += [_times(_times(a, b), _times(c, d)), _times(a, _times(_times(b, c), d)),
                      _times(_times(a, _times(b, c)), d)]  # fmt: skip
    return found


def _quotients(above: list[Writing], below: list[Writing]) -> list[Writing]:
    """Return ways to divide: at once, one after the other, by reciprocals."""
    one = Writing("1", _ATOM, lambda _v: 1)
    tops = _trees(above) if above else [one]
    found: list[Writing] = []
    for top, bottom in itertools.product(tops, _trees(below)):
        found.append(_over(top, bottom))
    for top in tops:
        for bottom in below:
            top = _over(top, bottom)
        found.append(top)
    if len(above) + len(below) <= 4:
        shared = {bottom.text: _over(one, bottom) for bottom in below}
        found += _trees([*above, *(shared[bottom.text] for bottom in below)])
    if len(above) > 1:  # divide one factor first
        for k, factor in enumerate(above):
            rest = [*above[:k], *above[k + 1 :]]
            found += [_times(tree, _over(factor, bottom)) for tree in _trees(rest)
                      for bottom in _trees(below)]  # fmt: skip
    return found


def _over(a: Writing, b: Writing) -> Writing:
    text = f"{a.within(_TIGHT)} / {b.within(_ATOM)}"
    return Writing(text, _TIGHT, lambda v: a.run(v) / b.run(v))


def _negative(one: Writing) -> Writing:
    return Writing(f"-({one.text})", _ATOM, lambda v: -one.run(v))


def _added(a: Writing, b: Writing, scale: float) -> list[Writing]:
    if scale in (1, -1):
        sign = "+" if scale > 0 else "-"
        text = f"{a.text} {sign} {b.within(_TIGHT)}"
        return [Writing(text, _LOOSE, lambda v: a.run(v) + b.run(v) if scale > 0 else a.run(v) - b.run(v))]
    return [
        Writing(f"torch.add({a.text}, {b.text}, alpha={scale:.12g})", _ATOM,
                lambda v: torch.add(a.run(v), b.run(v), alpha=scale)),
        Writing(f"{a.text} + {scale:.12g} * {b.within(_ATOM)}", _LOOSE,
                lambda v: a.run(v) + scale * b.run(v)),
    ]  # fmt: skip


def _scaled(a: Writing, product: list[Writing], scale: float) -> list[Writing]:
    """Return a + scale * p * q in one kernel, which may round only once."""
    if not product or scale not in (1, -1):
        return []
    p, q = product
    value = "" if scale == 1 else ", value=-1"
    left = "torch.ones_like({})".format(p.text) if a.text == "1" else a.text
    found = [
        Writing(
            f"torch.addcmul({left}, {p.text}, {q.text}{value})", _ATOM,
            lambda v: torch.addcmul(_like(a.run(v), p.run(v), q.run(v)), p.run(v), q.run(v), value=scale),  # noqa: E501
        )
    ]  # fmt: skip
    for number, tensor in ((p, q), (q, p)):
        if number.text.replace(".", "").replace("e-", "").isdigit():
            alpha = float(number.text) * scale
            found.append(
                Writing(f"torch.add({a.text}, {tensor.text}, alpha={alpha:.12g})", _ATOM,
                        lambda v, t=tensor, c=alpha: torch.add(a.run(v), t.run(v), alpha=c))
            )  # fmt: skip
    return found


def _like(value: Any, *others: Any) -> Tensor:
    """Return a number as a tensor beside others."""
    tensor = next(other for other in others if isinstance(other, Tensor))
    return value if isinstance(value, Tensor) else torch.full_like(tensor, value)


def _sums(inner: Writing, steps: tuple[tuple[int, ...], ...], keep: bool, count: int) -> Writing:
    """Return a sum over some dimensions, all at once or one after the other."""
    text = inner.within(_ATOM)
    kept = ", keepdim=True" * (keep or len(steps) > 1)
    for dims in steps:
        back = [d - count for d in dims]
        text += f".sum({back[0] if len(back) == 1 else tuple(back)}{kept})"
    if kept and not keep:
        text += f".squeeze({tuple(d - count for dims in steps for d in dims)})"

    def run(values: Values) -> Any:
        found = inner.run(values)
        for dims in steps:
            found = found.sum(dims, keepdim=True)
        over = sorted(d for dims in steps for d in dims)
        return found if keep else found.squeeze(over)

    return Writing(text, _ATOM, run)


def _row_by_row(inner: Writing, dim: int, keep: bool, count: int) -> Writing:
    def run(values: Values) -> Any:
        rows = inner.run(values).unbind(dim)
        total = rows[0]
        for row in rows[1:]:
            total = total + row
        return total.unsqueeze(dim) if keep else total

    text = f"sum({inner.within(_ATOM)}.unbind({dim - count})), one after the other"
    return Writing(text, _ATOM, run)


def _products(a: Writing, b: Writing) -> list[Writing]:
    """Return ways to multiply two matrices: another kernel may sum in another order."""
    left, right = a.within(_ATOM), b.within(_ATOM)

    def turned(values: Values) -> Any:
        return (b.run(values).mT @ a.run(values).mT).mT

    def flat(values: Values) -> Any:
        one, other = a.run(values), b.run(values)
        return (one[0] @ other[0])[None] if one.ndim == 3 and len(one) == 1 else one[None] @ other[None]  # noqa: E501

    def summed(values: Values) -> Any:
        return (a.run(values)[..., None] * b.run(values)[..., None, :, :]).sum(-2)

    return [
        Writing(f"{left} @ {right}", _LOOSE, lambda v: a.run(v) @ b.run(v)),
        Writing(f"({right}.mT @ {left}.mT).mT", _ATOM, turned),
        Writing(f"{left} @ {right}, by the other of mm and bmm", _LOOSE, flat),
        Writing(f"({left}[..., None] * {right}[..., None, :, :]).sum(-2)", _ATOM, summed),
    ]
