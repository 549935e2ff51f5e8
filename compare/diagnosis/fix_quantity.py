"""Candidate fixes for a quantity as a whole: scaled, turned, summed, with a slope or term.

A slope may be another activation's, or taken at the wrong place.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from compare.diagnosis.evaluation_points import Value, alike, broadcasts, near, near_rows, ratio
from compare.diagnosis.expressions import ATOM, Expr, floats
from compare.diagnosis.fix_tables import Slope, factor
from compare.diagnosis.known_values import Known
from compare.diagnosis.search import Search
from compare.diagnosis.slice import Substitution, elsewhere


def times(t: Search) -> None:
    """Try one number times all of it."""
    mine, theirs = t.mine, t.theirs
    if not mine[0].near.numel():
        return
    if all(not value.near.any() for value in theirs):
        t.formula(1, "as 0: autograd's is 0 everywhere", 0 * t.quantity)
        return
    both = zip(mine, theirs, strict=True)
    ratios = [t.quotient(one.numbers, other.numbers, one.near) for one, other in both]
    if any(r is None or r.contains(0) for r in ratios) or not ratios[0].overlaps(ratios[1]):
        return
    named = next((one for one in t.factors if ratios[0].overlaps(one.ball)), None)
    text = named.told if named else f"{float(ratios[0].mid()):.15g}"
    if (named is None and mine[0].near.numel() == 1) or text == "1":
        return  # a difference that no factor tells
    times = named.expr if named else Expr("as", ratios[0], text)
    t.whole = t.formula(1 if named else 2, f"times {text}", t.quantity * times)


def rows(t: Search) -> None:
    """Try its elements in other places."""
    for text, put in elsewhere(tuple(t.mine[0].near.shape)):
        told = "transposed" if text == ".mT" else f"with its elements moved, as {t.called}{text}"
        _put(t, 1, told, t.mine, put)
    if not t.found:
        _other_rows(t)


def _put(
    t: Search, cost: float, told: str, values: Sequence[Value], put: Callable[[Any], Any]
) -> None:
    """Try a value in another shape or order; `put` takes numbers and balls, arrays of numpy."""
    t.attempt(
        cost, told, lambda k: torch.tensor(put(values[k].near.numpy()).copy()),
        lambda k: put(values[k].numbers),
    )  # fmt: skip


def _other_rows(t: Search) -> None:
    """Look whether each row is right but stands elsewhere."""
    mine, theirs = t.mine[0].near, t.theirs[0].near
    for dim in range(mine.ndim):
        own, wanted = (x.movedim(dim, 0).reshape(x.shape[dim], -1) for x in (mine, theirs))
        if not 2 < len(own) <= 64 or not own.shape[1]:
            continue
        order = [next((j for j, r in enumerate(own) if alike(r, w)), None) for w in wanted]
        if None in order or order == list(range(len(own))):
            continue
        told = f"with the values of other rows: {order} of dimension {dim - mine.ndim}"
        _put(t, 1, told, t.mine, partial(np.take, indices=order, axis=dim))


def shapes(t: Search) -> None:
    """Try shapes: the quantity turned round, or summed over what was broadcast."""
    mine, theirs = t.mine[0].near, t.theirs[0].near
    if mine.ndim >= 2 and mine.mT.shape == theirs.shape:
        _put(t, 1, "transposed", t.mine, lambda x: np.swapaxes(x, -1, -2))
    _sums(t, t.called, t.mine, 1)
    if mine.numel() == theirs.numel():
        shape = tuple(theirs.shape)
        _put(t, 1, f"in the shape {shape}", t.mine, lambda x: np.reshape(x, shape))
    if not t.found:
        sums_of_others(t)


def sums_of_others(t: Search) -> None:
    """Try sums of larger values: one that was left at a row, or over another dimension."""
    if t.theirs[0].near.numel() > 1:
        for known in t.known:
            _sums(t, known.text, known.at, 2 + known.rank)


def _sums(t: Search, text: str, values: Sequence[Value], cost: float) -> None:
    """Try one value's sums over some of its dimensions."""
    have, want = values[0].near, t.theirs[0].near
    if have.numel() <= want.numel() or have.ndim > 4:
        return
    shape = tuple(want.shape)
    for chosen in range(1, 2**have.ndim):
        dims = [d for d in range(have.ndim) if chosen >> d & 1 and have.shape[d] > 1]
        left = [s for d, s in enumerate(have.shape) if d not in dims and s > 1]
        if not dims or left != [s for s in shape if s > 1]:
            continue
        over = ", ".join(str(d - have.ndim if have.ndim > 2 else d) for d in dims)
        over = f"({over})" if len(dims) > 1 else over
        whole = text if text.replace("_", "").isalnum() else f"({text})"
        told = f"as {whole}.sum({over}): a sum over what was broadcast"
        _put(t, cost, told, values, partial(_sum, dims=tuple(dims), shape=shape))


def _sum(x: Any, dims: tuple[int, ...], shape: tuple[int, ...]) -> Any:
    return np.asarray(x.sum(dims)).reshape(shape)


def products(t: Search) -> None:
    """Try a factor that is missing, or too much: a slope, a mask, any value."""
    for known, slope, at in t.slopes:
        told = f"{slope.told(known.expr)}, the slope of {slope.of} at {known.full}"
        _multiplied(t, 2 + known.rank + (not slope.activation), told, slope.at(known.expr), at)
    for known in t.known:
        at = [value.near for value in known.at]
        if broadcasts(at[0], t.mine[0].near):
            _multiplied(t, 2.2 + known.rank, known.expr.within(ATOM), known.expr, at)


def _multiplied(t: Search, cost: float, text: str, by: Expr, at: list[Tensor]) -> None:
    t.formula(cost, f"times {text}", t.quantity * by)
    if all(bool(x.all()) for x in at):
        t.formula(cost, f"divided by {text}", t.quantity / by)


def terms(t: Search) -> None:
    """Try a term that is missing, or too much."""
    gap = t.theirs[0].near - t.mine[0].near
    for known in t.known:
        at = known.at[0].near
        if not broadcasts(at, gap) or ratio(at, t.mine[0].near):
            continue
        if ratio(at.expand_as(gap), gap) is None:
            continue
        _added(t, 3 + known.rank, known)


def _added(t: Search, cost: float, known: Known) -> None:
    """Try the quantity plus a factor of the table times a term."""
    part = t.n.broadcast_to(known.at[0].numbers, t.mine[0].numbers.shape)
    times = t.quotient(part, t.theirs[0].numbers - t.mine[0].numbers, near(part))
    plus, minus = factor(1), factor(-1)
    table = (plus, minus, *t.factors) if times is not None else ()
    named = next((one for one in table if times.overlaps(one.ball)), None)
    if named is None:
        return
    told, term = f"plus {named.told} * {known.expr.within(ATOM)}", named.expr * known.expr
    if named in (plus, minus):
        told = f"plus {known.text}" if named is plus else f"minus {known.expr.within(ATOM)}"
    t.formula(cost + 1.5 * (named not in (plus, minus)), told, t.quantity + term)


# -- slopes

At = tuple[Known, Slope, list[Tensor]]  # a value, a slope there, and its numbers at each sample


def other_slopes(t: Search) -> None:
    """Try one slope in place of another, or at another value, or times an error."""
    slopes = [slope for slope in t.slopes if slope[1].activation]
    if not slopes:
        return
    slopes = _distinct(slopes)
    read = [t.both[0].manual_program.get(node) for node, _ in t.way.operands()]
    shown = [v.near for v in read if v is not None and v.near.is_floating_point()]
    stacked = torch.stack([at[0].flatten() for _, _, at in slopes])
    mine, theirs = t.mine[0].near.flatten(), t.theirs[0].near.flatten()
    for error in t.fitting():
        if error.rank == 0 and error.node is not None:  # the by-hand side has it
            for at in near_rows(error.at[0].near.flatten() * stacked, theirs):
                value, slope, _ = slopes[at]
                told = f"{slope.told(value.expr)}, the slope of {slope.of}"
                told = f"as {error.expr.within(ATOM)} * {told}"
                t.formula(3.2, told, error.expr * slope.at(value.expr))
    for old in slopes:
        t.in_time()
        if not any(alike(old[0].at[0].near, value) for value in shown):
            continue
        wanted = theirs * old[2][0].flatten()
        for at in near_rows(mine * stacked, wanted):
            if slopes[at] is not old:
                _swap_slopes(t, old, slopes[at])


def _swap_slopes(t: Search, old: At, new: At) -> None:
    """Try one slope for another."""
    was, now = old[1], new[1]
    if was is now:
        remark = t.before(old[0].at[0].near, new[0].at[0].near)
        text = f"with the slope of {now.of} at {new[0].full}{remark} in place of at {old[0].full}"
    else:
        value = floats(now.forward, new[0].at[0].near) if now.forward else new[0].at[0].near
        remark = t.before(old[0].at[0].near, value) if was.of == now.of else ""
        text = f"with {now.told(new[0].expr)}, the slope of {now.of}{remark}, "
        text += f"in place of {was.told(old[0].expr)}"
    if not all(bool(x.all()) for x in old[2]):  # 0 / 0 would hide what the new slope does there
        _swap_read(t, old, new, text)
    else:
        swapped = t.quantity * now.at(new[0].expr) / was.at(old[0].expr)
        t.formula(3 + new[0].rank / 2, text, swapped)


def _swap_read(t: Search, old: At, new: At, text: str) -> None:
    """Try the same activation's slope elsewhere by changing what the operations read."""
    forward = new[1].forward
    if old[1].of != new[1].of or old[1].forward or forward not in (None, "sigmoid", "tanh"):
        return
    values = t.values(Expr(forward, new[0].expr)) if forward else new[0].at
    for node, readers in t.way.operands():
        held = t.both[0].manual_program.get(node)
        if held is not None and alike(old[0].at[0].near, held.near):
            t.edit(3 + new[0].rank / 2, text, Substitution(node, values, readers))


def _distinct(slopes: list[At]) -> list[At]:
    """Return the slopes of which none is another's number: l * (1 - l) is that of 1 - l too."""
    rows = torch.stack([at[0].flatten() for _, _, at in slopes])
    return [slope for k, slope in enumerate(slopes) if near_rows(rows, rows[k])[:1] in ([], [k])]
