"""Rewrites of a quantity's operations: the same real number, rounded in other places.

They cover the grouping of products, fused products and sums, reciprocals, the order of a sum, the
kernel of an activation or a matrix product, and half precision computed in float32. Whether a
rewrite has autograd's bits is tested in `bit_exact_search`.
"""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from functools import reduce
from operator import mul, truediv
from typing import Any

import torch
from torch import fx

from compare.diagnosis.expressions import Expr, expression, float_op, leaf, reduced, shape_of
from compare.diagnosis.slice import Slice

MAX_PER_PART = 60  # rewrites of one part of an expression


def rewrites(program_slice: Slice, names: Mapping[fx.Node, str]) -> Iterator[Expr]:
    """Yield rewrites of the quantity that a slice computes.

    Args:
        program_slice: the operations of the quantity; its nodes are the keys of the leaves.
        names: of nodes, as the by-hand code writes them.
    """
    end = program_slice.end
    inside = {node: name for node, name in names.items() if node is not end}
    exprs = _Rewriter().rewrites(expression(end, inside), 40 * MAX_PER_PART)
    exprs += _single_operations(program_slice, names)
    yield from exprs
    if (dtype := end.meta["val"].dtype) in (torch.float16, torch.bfloat16):
        yield from (Expr("in float32", expr, dtype) for expr in exprs)


def _single_operations(program_slice: Slice, names: Mapping[fx.Node, str]) -> list[Expr]:
    """Return the sums and matrix products of named values that have the quantity's shape."""
    shape = shape_of(program_slice.end)
    nodes = [node for node, _ in program_slice.operands()
             if names.get(node, "").replace("_", "").isalnum()]  # fmt: skip
    leaves = {node: leaf(names[node], node) for node in nodes}
    exprs: list[Expr] = []
    for node, value in leaves.items():
        size = shape_of(node)
        for dim in range(len(size)):
            kept = (*size[:dim], 1, *size[dim + 1 :])
            if shape in (kept, (*size[:dim], *size[dim + 1 :])):
                exprs.append(reduced("sum", value, dim - len(size), kept == shape))
    matrices = [value for node, value in leaves.items() if len(shape_of(node)) >= 2]
    for first, second in itertools.permutations(matrices, 2):
        for a, b in itertools.product((first, first.mT), (second, second.mT)):
            left, right = (x.run(float_op, lambda node: node.meta["val"]).shape for x in (a, b))
            fits = len(left) == len(right) and left[-1] == right[-2]
            if fits and shape[-2:] == (left[-2], right[-1]):
                exprs += _matrix_products(a, b)
    return exprs


class _Rewriter:
    """Rewrites an expression and, first, each of its parts."""

    def __init__(self) -> None:
        self.cache: dict[Expr, list[Expr]] = {}

    def rewrites(self, expr: Any, most: int = MAX_PER_PART) -> list[Expr]:
        """Return at most `most` rewrites of an expression or a number, itself among them."""
        if not isinstance(expr, Expr):
            return [Expr("printed as", expr, f"{expr:.12g}")]
        if expr not in self.cache:
            distinct = {form.text: form for form in self._by_operation(expr)}
            self.cache[expr] = list(distinct.values())[:most]
        return self.cache[expr]

    def _by_operation(self, expr: Expr) -> list[Expr]:
        if expr.op in ("*", "/", "neg", "reciprocal", "**"):
            return self._product(expr)
        if expr.op in ("+", "-"):
            return self._sum(expr)
        if expr.op in (".sum", ".mean"):
            return self._reduction(expr)
        shown = expr.args[0] if expr.op == "leaf" else expr  # a product in another shape
        if isinstance(shown, Expr) and shown.op == "@":
            return [shown.as_leaf, *_matrix_products(*(part.as_leaf for part in shown.args))]
        return [expr.as_leaf]

    # -- products

    def _product(self, expr: Expr) -> list[Expr]:
        above, below, sign = _factors(expr)
        if not 1 <= len(above) + len(below) <= 5 or above == [expr]:
            return [expr.as_leaf]
        forms: list[Expr] = []
        forms_of_factors = [self.rewrites(factor) for factor in above + below]
        for chosen in itertools.islice(itertools.product(*forms_of_factors), MAX_PER_PART):
            numerator, denominator = list(chosen[: len(above)]), list(chosen[len(above) :])
            forms += _quotients(numerator, denominator) if denominator else _groupings(numerator)
        if not above and len(below) == 1:
            forms += self._sigmoid(below[0])
        return [-form for form in forms] if sign < 0 else forms

    def _sigmoid(self, denominator: Any) -> list[Expr]:
        """Write 1 / (1 + exp(-z)) with torch's sigmoid."""
        if isinstance(denominator, Expr) and denominator.op == "+" and 1 in denominator.args:
            e = denominator.args[denominator.args[0] == 1]
            if isinstance(e, Expr) and e.op == "exp" and e.args[0].op == "neg":
                return [Expr("torch.sigmoid", self.rewrites(e.args[0].args[0])[0])]
        return []

    # -- sums

    def _sum(self, expr: Expr) -> list[Expr]:
        first, second = expr.args
        scale = 1 if expr.op == "+" else -1
        if isinstance(second, Expr) and second.op == "*" and second.node is None:  # alpha
            alpha, second = second.args
            if isinstance(alpha, Expr):
                return [expr.as_leaf]
            scale *= alpha
        forms: list[Expr] = []
        pairs = itertools.product(self.rewrites(first), self.rewrites(second))
        for a, b in itertools.islice(pairs, MAX_PER_PART):
            forms += _sums(a, b, scale)
            if scale == 1:
                forms += _fused(b, self._two_factors(first), 1)
            forms += _fused(a, self._two_factors(second), scale)
        return forms

    def _two_factors(self, expr: Any) -> list[Expr]:
        """Return the factors of a product of two, to be fused with a sum; else an empty list."""
        above, below, sign = _factors(expr)
        if below or sign < 0 or len(above) != 2:
            return []
        return [self.rewrites(factor)[0] for factor in above]

    def _reduction(self, expr: Expr) -> list[Expr]:
        assert expr.node is not None
        args: tuple[Any, ...] = expr.node.args
        source, dims, keep = args + (None, None, False)[len(args) :]
        shape = shape_of(source)
        across: Any = [dims] if isinstance(dims, int) else dims or range(len(shape))
        across = sorted(d % len(shape) - len(shape) for d in across)
        forms: list[Expr] = []
        for inner in self.rewrites(expr.args[0])[:6]:
            for order in itertools.permutations(across):
                forms.append(reduced("sum", inner, order, keep))
                if len(order) > 1:
                    each = reduce(lambda part, d: reduced("sum", part, d, True), order, inner)
                    forms.append(each if keep else Expr(".squeeze", each, order))
            if len(across) == 1:
                forms.append(Expr("one by one", inner, across[0], keep))
        if expr.op == ".sum":
            return forms
        size = math.prod(shape[d] for d in across)
        means = ([form / size, form * (Expr("printed as", 1, "1") / size)] for form in forms)
        return [expr.as_leaf, *itertools.chain(*means)]


def _factors(expr: Any) -> tuple[list[Any], list[Any], int]:
    """Return the factors of the numerator, those of the denominator, and the sign."""
    if not isinstance(expr, Expr):
        return ([], [], int(expr)) if abs(expr) == 1 else ([expr], [], 1)
    if expr.op not in ("*", "/", "neg", "reciprocal", "**"):
        return [expr], [], 1
    above, below, sign = _factors(expr.args[0])
    if expr.op == "neg":
        return above, below, -sign
    if expr.op == "reciprocal":
        return below, above, sign
    if expr.op == "**":
        power = expr.args[1]
        if power not in (2, 3, -1, -2):
            return [expr], [], 1
        above, below = (above, below) if power > 0 else (below, above)
        return above * abs(power), below * abs(power), sign ** abs(power)
    more_above, more_below, other_sign = _factors(expr.args[1])
    if expr.op == "/":
        more_above, more_below = more_below, more_above
    return above + more_above, below + more_below, sign * other_sign


# -- forms of one operation on expressions


def _groupings(factors: Sequence[Expr]) -> list[Expr]:
    """Return every grouping of a product, those from left to right first."""
    orders = list(itertools.permutations(factors))
    forms = [reduce(mul, order) for order in orders]
    if len(factors) == 3:
        forms += [a * (b * c) for a, b, c in orders]
    if len(factors) == 4:
        for a, b, c, d in orders:
            forms += [(a * b) * (c * d), a * ((b * c) * d), (a * (b * c)) * d]
    return forms


def _quotients(above: list[Expr], below: list[Expr]) -> list[Expr]:
    """Return forms of a quotient: one division, several in turn, or products of reciprocals."""
    one = Expr("printed as", 1, "1")
    numerators = _groupings(above) if above else [one]
    forms = [top / bottom for top, bottom in itertools.product(numerators, _groupings(below))]
    forms += [reduce(truediv, below, top) for top in numerators]
    if len(above) + len(below) <= 4:
        forms += _groupings([*above, *(one / bottom for bottom in below)])
    if len(above) > 1:  # divide one factor first
        for k, factor in enumerate(above):
            rest = _groupings([*above[:k], *above[k + 1 :]])
            forms += [others * (factor / low) for others in rest for low in _groupings(below)]
    return forms


def _sums(a: Expr, b: Expr, scale: float) -> list[Expr]:
    """Return forms of a + scale * b."""
    if scale in (1, -1):
        return [a + b if scale > 0 else a - b]
    return [Expr("torch.add", a, b, alpha=scale), a + scale * b]


def _fused(a: Expr, product: list[Expr], scale: float) -> list[Expr]:
    """Return a + scale * p * q as one kernel, which may round only once."""
    if not product or scale not in (1, -1):
        return []
    p, q = product
    for factor, other in ((p, q), (q, p)):
        if (number := _number(factor)) is not None:
            return _sums(a, other, number * scale)[:1]
    if (number := _number(a)) is not None:  # addcmul takes tensors only
        a = Expr("torch.ones_like", p) if number == 1 else Expr("torch.full_like", p, number)
    return [Expr("torch.addcmul", a, p, q, **{} if scale == 1 else {"value": -1})]


def _number(expr: Expr) -> Any:
    """Return the number that an expression is, None if it is not a number."""
    while expr.op == "leaf" and isinstance(expr.args[0], Expr):
        expr = expr.args[0]
    return expr.args[0] if expr.op == "printed as" else None


def _matrix_products(a: Expr, b: Expr) -> list[Expr]:
    """Return forms of a matrix product whose kernels may sum in different orders."""
    product, *others = (Expr(op, a, b) for op in ("@", "other kernel", "outer"))
    return [product, (b.mT @ a.mT).mT, *others]
