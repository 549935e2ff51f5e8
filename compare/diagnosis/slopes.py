"""Remedies of slopes: another activation's, or one taken at the wrong place."""

from typing import Any

import torch
from torch import Tensor

from compare.diagnosis.remake import Trial
from compare.diagnosis.remedies import Slope, in_balls, in_floats
from compare.diagnosis.samples import Value
from compare.diagnosis.sieve import alike, near_rows
from compare.diagnosis.vocabulary import Known
from compare.diagnosis.wording import inner

At = tuple[Known, Slope, list[Tensor]]  # a value, a slope there, and its numbers at each sample


def other_slopes(t: Trial) -> None:
    """Try one slope in place of another, or at another value."""
    slopes = _distinct([slope for slope in t.slopes if slope[1].activation])
    if not slopes:
        return
    read = [t.both[0].hand.get(node) for node, _ in t.way.operands()]
    shown = [v.near for v in read if v is not None and v.near.is_floating_point()]
    stacked = torch.stack([at[0].flatten() for _, _, at in slopes])
    mine, theirs = t.mine[0].near.flatten(), t.theirs[0].near.flatten()
    for known in t.fitting():
        if known.rank == 0 and known.node is not None:  # the by-hand side has it
            for at in near_rows(known.at[0].near.flatten() * stacked, theirs):
                _slope_of(t, known, *slopes[at])
    for old in slopes:
        t.in_time()
        there = any(alike(old[0].at[0].near, value) for value in shown)
        if not there:
            continue
        wanted = theirs * old[2][0].flatten()
        for at in near_rows(mine * stacked, wanted):
            if slopes[at] is not old:
                _swap_slopes(t, old, slopes[at])


def _slope_of(t: Trial, error: Known, known: Known, slope: Slope, at: list[Tensor]) -> None:
    """Try a whole quantity as the error that a slope is taken of, times that slope."""
    text = slope.text.format(l=inner(known.text))
    t.attempt(
        3.2, f"as {inner(error.text)} * {text}, the slope of {slope.of}",
        lambda k: error.at[k].near * at[k],
        lambda k: error.at[k].balls * slope.formula(in_balls, known.at[k].balls),
    )  # fmt: skip


def _swap_slopes(t: Trial, old: At, new: At) -> None:
    """Try one slope for another."""
    was, now = old[1], new[1]
    instead = f"in place of {was.text.format(l=inner(old[0].text))}"
    if was is now:
        remark = t.before(old[0].at[0].near, new[0].at[0].near)
        text = f"with the slope of {now.of} at {new[0].full}{remark} in place of at {old[0].full}"
    else:
        value = new[0].at[0].near
        value = value if now.forward is None else in_floats(now.forward, value)
        remark = t.before(old[0].at[0].near, value) if was.of == now.of else ""
        slope = now.text.format(l=inner(new[0].text))
        text = f"with {slope}, the slope of {now.of}{remark}, {instead}"
    if not all(bool(x.all()) for x in old[2]):  # 0 / 0 would hide what the new slope does there
        _swap_read(t, old, new, text)
        return

    def balls(k: int) -> Any:
        top = t.mine[k].balls * now.formula(in_balls, new[0].at[k].balls)
        return top / was.formula(in_balls, old[0].at[k].balls)

    t.attempt(3 + new[0].rank / 2, text, lambda k: t.mine[k].near * new[2][k] / old[2][k], balls)


def _swap_read(t: Trial, old: At, new: At, text: str) -> None:
    """Try the same activation's slope elsewhere by changing what the operations read."""
    if old[1].of != new[1].of or old[1].forward is not None:
        return
    values = []
    for value in new[0].at:
        floats, balls = value.floats, value.balls
        if new[1].forward in ("sigmoid", "tanh"):
            floats, balls = getattr(torch, new[1].forward)(floats), in_balls(new[1].forward, balls)
        elif new[1].forward is not None:
            return
        values.append(Value(floats, balls))
    for node, readers in t.way.operands():
        held = t.both[0].hand.get(node)
        if held is not None and alike(old[0].at[0].near, held.near):
            t.edit(3 + new[0].rank / 2, text, node, tuple(values), readers)


def _distinct(slopes: list[At]) -> list[At]:
    """Return the slopes of which none is another's number: l * (1 - l) is that of 1 - l too."""
    if not slopes:
        return []
    rows = torch.stack([at[0].flatten() for _, _, at in slopes])
    return [slope for k, slope in enumerate(slopes) if near_rows(rows, rows[k])[:1] in ([], [k])]
