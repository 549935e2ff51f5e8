"""Candidate fixes of slopes: another activation's, or one taken at the wrong place."""

import torch
from torch import Tensor

from compare.diagnosis.edits import Edit
from compare.diagnosis.expressions import ATOM, Expr, floats
from compare.diagnosis.fix_tables import Slope
from compare.diagnosis.known_values import Known
from compare.diagnosis.samples import alike, near_rows
from compare.diagnosis.search import Trial

At = tuple[Known, Slope, list[Tensor]]  # a value, a slope there, and its numbers at each sample


def other_slopes(t: Trial) -> None:
    """Try one slope in place of another, or at another value, or times an error."""
    slopes = [slope for slope in t.slopes if slope[1].activation]
    if not slopes:
        return
    slopes = _distinct(slopes)
    read = [t.both[0].hand.get(node) for node, _ in t.way.operands()]
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


def _swap_slopes(t: Trial, old: At, new: At) -> None:
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


def _swap_read(t: Trial, old: At, new: At, text: str) -> None:
    """Try the same activation's slope elsewhere by changing what the operations read."""
    forward = new[1].forward
    if old[1].of != new[1].of or old[1].forward or forward not in (None, "sigmoid", "tanh"):
        return
    values = t.values(Expr(forward, new[0].expr)) if forward else new[0].at
    for node, readers in t.way.operands():
        held = t.both[0].hand.get(node)
        if held is not None and alike(old[0].at[0].near, held.near):
            t.edit(3 + new[0].rank / 2, text, Edit(node, values, readers))


def _distinct(slopes: list[At]) -> list[At]:
    """Return the slopes of which none is another's number: l * (1 - l) is that of 1 - l too."""
    rows = torch.stack([at[0].flatten() for _, _, at in slopes])
    return [slope for k, slope in enumerate(slopes) if near_rows(rows, rows[k])[:1] in ([], [k])]
