"""Ways to write one operation on expressions written already: the words, and what runs them."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

Values = Mapping[fx.Node, Any]
LOOSE, TIGHT, ATOM = range(3)  # how tightly the words bind: a sum, a product, anything else


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


def widened(run: Callable[[Values], Any]) -> Callable[[Values], Any]:
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


def number(value: float) -> Writing:
    """Write a number."""
    return Writing(f"{value:.12g}", ATOM, lambda _v: value)


def turned(one: Writing) -> Writing:
    """Write a transpose."""
    return Writing(f"{one.text}.mT", ATOM, lambda v: one.run(v).mT)


def times(a: Writing, b: Writing) -> Writing:
    """Write a * b."""
    left = a.within(TIGHT)
    straight = b.binds == ATOM and (a.binds == ATOM or a.grouped)
    return Writing(
        f"{left} * {b.within(ATOM)}", TIGHT, lambda v: a.run(v) * b.run(v),
        grouped=straight or b.binds == LOOSE,
    )  # fmt: skip


def groupings(factors: Sequence[Writing]) -> list[Writing]:
    """Return every grouping of a product, those from left to right first."""
    if len(factors) == 1:
        return [factors[0]]
    found: list[Writing] = []
    for order in itertools.permutations(factors):
        one = order[0]
        for other in order[1:]:
            one = times(one, other)
        found.append(one)
    if len(factors) == 3:
        found += [times(a, times(b, c)) for a, b, c in itertools.permutations(factors)]
    if len(factors) == 4:
        for a, b, c, d in itertools.permutations(factors):
            found += [times(times(a, b), times(c, d)), times(a, times(times(b, c), d)),
                      times(times(a, times(b, c)), d)]  # fmt: skip
    return found


def over(a: Writing, b: Writing) -> Writing:
    """Write a / b."""
    text = f"{a.within(TIGHT)} / {b.within(ATOM)}"
    return Writing(text, TIGHT, lambda v: a.run(v) / b.run(v))


def quotients(above: list[Writing], below: list[Writing]) -> list[Writing]:
    """Return ways to divide: at once, one after the other, by reciprocals."""
    one = number(1)
    tops = groupings(above) if above else [one]
    found: list[Writing] = []
    for top, bottom in itertools.product(tops, groupings(below)):
        found.append(over(top, bottom))
    for top in tops:
        for bottom in below:
            top = over(top, bottom)
        found.append(top)
    if len(above) + len(below) <= 4:
        shared = {bottom.text: over(one, bottom) for bottom in below}
        found += groupings([*above, *(shared[bottom.text] for bottom in below)])
    if len(above) > 1:  # divide one factor first
        for k, factor in enumerate(above):
            rest = [*above[:k], *above[k + 1 :]]
            found += [times(tree, over(factor, bottom)) for tree in groupings(rest)
                      for bottom in groupings(below)]  # fmt: skip
    return found


def negative(one: Writing) -> Writing:
    """Write the other sign, which no rounding sees."""
    return Writing(f"-({one.text})", ATOM, lambda v: -one.run(v))


def sum_of(a: Writing, b: Writing, scale: float) -> list[Writing]:
    """Return ways to write a + scale * b."""
    if scale in (1, -1):
        sign = "+" if scale > 0 else "-"
        text = f"{a.text} {sign} {b.within(TIGHT)}"
        return [
            Writing(
                text, LOOSE, lambda v: a.run(v) + b.run(v) if scale > 0 else a.run(v) - b.run(v)
            )
        ]
    return [
        Writing(f"torch.add({a.text}, {b.text}, alpha={scale:.12g})", ATOM,
                lambda v: torch.add(a.run(v), b.run(v), alpha=scale)),
        Writing(f"{a.text} + {scale:.12g} * {b.within(ATOM)}", LOOSE,
                lambda v: a.run(v) + scale * b.run(v)),
    ]  # fmt: skip


def fused(a: Writing, product: list[Writing], scale: float) -> list[Writing]:
    """Return a + scale * p * q in one kernel, which may round only once."""
    if not product or scale not in (1, -1):
        return []
    p, q = product
    value = "" if scale == 1 else ", value=-1"
    left = f"torch.ones_like({p.text})" if a.text == "1" else a.text
    found = [
        Writing(
            f"torch.addcmul({left}, {p.text}, {q.text}{value})", ATOM,
            lambda v: torch.addcmul(_like(a.run(v), p.run(v), q.run(v)), p.run(v), q.run(v), value=scale),  # noqa: E501
        )
    ]  # fmt: skip
    for number, tensor in ((p, q), (q, p)):
        if number.text.replace(".", "").replace("e-", "").isdigit():
            alpha = float(number.text) * scale
            found.append(sum_of(a, tensor, alpha)[0])
    return found


def _like(value: Any, *others: Any) -> Tensor:
    """Return a number as a tensor beside others."""
    tensor = next(other for other in others if isinstance(other, Tensor))
    return value if isinstance(value, Tensor) else torch.full_like(tensor, value)


def summed(inner: Writing, steps: tuple[tuple[int, ...], ...], keep: bool, count: int) -> Writing:
    """Return a sum over some dimensions, all at once or one after the other."""
    text = inner.within(ATOM)
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

    return Writing(text, ATOM, run)


def row_by_row(inner: Writing, dim: int, keep: bool, count: int) -> Writing:
    """Write a sum as a loop does it."""

    def run(values: Values) -> Any:
        rows = inner.run(values).unbind(dim)
        total = rows[0]
        for row in rows[1:]:
            total = total + row
        return total.unsqueeze(dim) if keep else total

    text = f"sum({inner.within(ATOM)}.unbind({dim - count})), one after the other"
    return Writing(text, ATOM, run)


def products(a: Writing, b: Writing) -> list[Writing]:
    """Return ways to multiply two matrices: another kernel may sum in another order."""
    left, right = a.within(ATOM), b.within(ATOM)

    def turned(values: Values) -> Any:
        return (b.run(values).mT @ a.run(values).mT).mT

    def flat(values: Values) -> Any:
        one, other = a.run(values), b.run(values)
        return (
            (one[0] @ other[0])[None]
            if one.ndim == 3 and len(one) == 1
            else one[None] @ other[None]
        )

    def summed(values: Values) -> Any:
        return (a.run(values)[..., None] * b.run(values)[..., None, :, :]).sum(-2)

    return [
        Writing(f"{left} @ {right}", LOOSE, lambda v: a.run(v) @ b.run(v)),
        Writing(f"({right}.mT @ {left}.mT).mT", ATOM, turned),
        Writing(f"{left} @ {right}, by the other of mm and bmm", LOOSE, flat),
        Writing(f"({left}[..., None] * {right}[..., None, :, :]).sum(-2)", ATOM, summed),
    ]
