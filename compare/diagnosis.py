"""What would make a WRONG quantity right: a search, each find shown in ball arithmetic.

A change counts as found when with it the lifted by-hand value is the same real number as autograd's,
at every element that is lifted, at the inputs and at others beside them.
"""

import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any

import flint
import numpy as np
import torch
from torch import Tensor, fx

from compare.balls import PRECISION, Balls
from compare.edits import Edit, Way, another, elsewhere, moved
from compare.judge import Evidence, same_numbers
from compare.program import Program
from compare.remedies import (
    FUNCTIONS,
    SLOPES,
    USUAL,
    Slope,
    constants,
    factors,
    in_balls,
    in_floats,
)
from compare.samples import Sample, Value, samples
from compare.verdict import WRONG, Diagnosis, Proof
from compare.vocabulary import Known, called, names_by_hand, names_of_reference, vocabulary
from compare.wording import operation, words

SECONDS = 3.0  # a search goes no longer
ALTOGETHER = 6.0  # nor do those of all quantities
TOO_MANY = 200_000  # elements of both programs together
MOST = 4  # candidates that are told
TRIED = (
    "factor, transpose, other rows, sum, term, slope, other operand, constant or other function"
)
Numbers = Callable[[int], Any]  # of a sample


def diagnose(
    evidence: Evidence,
    proofs: Mapping[str, Proof],
    misshapen: Iterable[str] = (),
    known: Collection[str] = (),
) -> dict[str, Proof]:
    """Return the proofs, those of WRONG quantities with what was found to make them right.

    `misshapen` quantities have no proof of their own, and get one that says only this; of `known`
    ones nothing is looked for.
    """
    found = dict(proofs)
    if not isinstance(evidence.hand, Program) or not isinstance(evidence.reference, Program):
        return found
    above = evidence.hand.ancestors()
    wrong = {name for name, proof in proofs.items() if proof.verdict == WRONG}
    shapes = {name for name in misshapen if name in evidence.hand.outputs}
    odd = {name: Proof(WRONG, "") for name in shapes if not shapes & above[name]}
    asked = {name: proofs[name] for name in wrong if proofs[name].at is not None} | odd
    until = time.process_time() + ALTOGETHER
    with torch.no_grad(), flint.ctx.workprec(PRECISION):
        for name, proof in asked.items():
            if name in evidence.reference.outputs and name not in known:
                told = _search(evidence, name, wrong & above.get(name, set()), until)
                if told is not None:
                    found[name] = replace(proof, diagnosis=told)
    return found


def _search(
    evidence: Evidence, name: str, wrong: set[str], until: float
) -> Diagnosis | None:
    if time.process_time() > until:
        return Diagnosis((), f"not looked for: those above took {ALTOGETHER:g} s")
    assert isinstance(evidence.hand, Program)
    assert isinstance(evidence.reference, Program)
    count = sum(
        value.numel()
        for program in (evidence.hand, evidence.reference)
        for node in program.graph.graph.nodes
        if isinstance(value := node.meta.get("val"), Tensor)
    )
    if count > TOO_MANY:
        return Diagnosis((), f"not looked for: {count:,} elements to lift, more than {TOO_MANY:,}")
    both = samples(evidence, wrong)
    end = evidence.hand.outputs[name]
    if not all(end in s.hand and evidence.reference.outputs[name] in s.reference for s in both):
        return None
    search = Search(evidence, name, both)
    search.until = min(search.until, until)
    if search.at_a_kink():
        return None
    note = search.all()
    best = sorted(search.found, key=lambda f: (f[0], len(f[1])))
    kept = [text for cost, text in best if cost <= best[0][0] + 0.8]
    return Diagnosis(tuple(dict.fromkeys(kept))[:MOST], note)


class _Late(Exception):
    """The time is up."""


class Search:
    """The search for one quantity."""

    def __init__(self, evidence: Evidence, name: str, both: tuple[Sample, ...]) -> None:
        assert isinstance(evidence.hand, Program)
        assert isinstance(evidence.reference, Program)
        self.e, self.name, self.both = evidence, name, both
        self.until = time.process_time() + SECONDS
        self.n = Balls(evidence.entries)
        self.way = Way(evidence.hand, name)
        target = evidence.reference.outputs[name]
        self.mine = [s.hand[self.way.end] for s in both]
        self.theirs = [s.reference[target] for s in both]
        below = self.way.below(), Way(evidence.reference, name).below()
        self.known = [
            known
            for known in vocabulary(evidence, both, name, below)
            if self._ratio(known.at[0].near, self.theirs[0].near) is None
        ]
        self.names = names_by_hand(evidence)
        self.found: list[tuple[float, str]] = []
        self.factors = list(self._factors())
        self.whole = False  # whether a factor alone makes it right

    def all(self) -> str:
        """Try everything; return what is to be said about what was tried."""
        note = f"tried: {TRIED}"
        try:
            if self.mine[0].near.shape != self.theirs[0].near.shape:
                self._reduced()
                return note
            for one in (
                self._factor, self._elsewhere, self._reduced_others, self._times,
                self._other_slope, self._term, self._operands, self._constants, self._functions,
            ):  # fmt: skip
                one()
        except _Late:
            note += f"; stopped after {SECONDS:g} s, before everything was tried"
        return note

    def at_a_kink(self) -> bool:
        """Whether the two agree beside these inputs: then there is nothing to put right."""
        mine, theirs = self.mine[1], self.theirs[1]
        if mine.near.shape != theirs.near.shape:
            return False
        return bool(same_numbers(mine.balls, theirs.balls, None).same)

    # -- what counts as found

    def _try(self, cost: float, text: str, nearly: Numbers, balls: Numbers) -> bool:
        """Note a candidate if it holds; `nearly` gives it in float64 and sorts most out."""
        self._in_time()
        if not all(alike(nearly(k), self.theirs[k].near) for k in range(len(self.both))):
            return False
        if not all(self._same(balls(k), k) for k in range(len(self.both))):
            return False
        self.found.append((cost, text))
        return True

    def _same(self, numbers: Any, k: int) -> bool:
        theirs = self.theirs[k]
        if numbers is None or tuple(np.shape(numbers)) != tuple(theirs.near.shape):
            return False
        size = theirs.near.abs().nan_to_num(0).max()
        room = torch.full_like(theirs.near, float(size) * 2.0**-40)
        sampled = self.e.entries is not None
        return bool(same_numbers(numbers, theirs.balls, room, sampled=sampled).same)

    def _in_time(self) -> None:
        if time.process_time() > self.until:
            raise _Late

    # -- the quantity as a whole

    def _factors(self) -> Iterable[tuple[str, Any]]:
        known = dict(self.e.numbers)
        shapes = [self.mine[0].near.shape, *(value.shape for value in self.e.inputs.values())]
        return factors([tuple(shape) for shape in shapes], known)

    def _ratio(self, one: Tensor, other: Tensor) -> float | None:
        """Return the number that `other` is times `one` everywhere, None if it is none."""
        if one.shape != other.shape or not one.is_floating_point():
            return None
        at = int(one.abs().nan_to_num(0).argmax()) if one.numel() else -1
        if at < 0 or not float(one.flatten()[at]):
            return None
        ratio = float(other.flatten()[at] / one.flatten()[at])
        return ratio if one.numel() > 1 and ratio and alike(one * ratio, other) else None

    def _name_of(self, ratio: Any) -> tuple[str, Any] | None:
        """Return the first factor of the table that a ball can be."""
        return next(((text, ball) for text, ball in self.factors if ratio.overlaps(ball)), None)

    def _quotient(self, part: Any, whole: Any, like: Tensor) -> Any:
        """Return the ball of whole / part where part is largest, None where it is 0."""
        at = np.unravel_index(int(like.abs().nan_to_num(0).argmax()), like.shape)
        below = part[at] if like.ndim else np.asarray(part)[()]
        above = whole[at] if like.ndim else np.asarray(whole)[()]
        return above / below if below.is_finite() and not below.contains(0) else None

    def _factor(self) -> None:
        mine, theirs = self.mine, self.theirs
        if not mine[0].near.numel():
            return
        if all(not value.near.any() for value in theirs):
            self._try(1, "as 0: autograd's is 0 everywhere",
                      lambda k: 0 * mine[k].near, lambda k: mine[k].balls * 0)  # fmt: skip
            return
        ratios = [self._quotient(m.balls, t.balls, m.near) for m, t in zip(mine, theirs, strict=True)]
        if any(r is None or r.contains(0) for r in ratios) or not ratios[0].overlaps(ratios[1]):
            return
        named = self._name_of(ratios[0])
        if named is None and mine[0].near.numel() == 1:
            return
        text, ball = named or (f"{float(ratios[0].mid()):.15g}", ratios[0])
        self.whole = self._try(
            1 if named else 2, f"times {text}",
            lambda k: mine[k].near * float(ball.mid()), lambda k: mine[k].balls * ball,
        )  # fmt: skip

    def _elsewhere(self) -> None:
        for text, put in elsewhere(tuple(self.mine[0].near.shape)):
            name = "transposed" if text == ".mT" else f"with its elements moved, as {self._called}{text}"
            self._try(1, name, lambda k, put=put: torch.tensor(put(self.mine[k].near.numpy()).copy()),
                      lambda k, put=put: put(self.mine[k].balls))  # fmt: skip
        if not self.found:
            self._other_rows()

    @property
    def _called(self) -> str:
        return called(self.e, self.name)

    def _other_rows(self) -> None:
        """Look whether each row is right but stands elsewhere."""
        mine, theirs = self.mine[0].near, self.theirs[0].near
        for dim in range(mine.ndim):
            rows, wanted = (x.movedim(dim, 0).reshape(x.shape[dim], -1) for x in (mine, theirs))
            if not 2 < len(rows) <= 64 or not rows.shape[1]:
                continue
            order = [next((j for j, r in enumerate(rows) if alike(r, w)), None) for w in wanted]
            if None in order or order == list(range(len(rows))):
                continue
            self._try(2, f"with the values of other rows: {order} of dimension {dim - mine.ndim}",
                      lambda k, d=dim, o=order: self.mine[k].near.index_select(d, torch.tensor(o)),
                      lambda k, d=dim, o=order: np.take(self.mine[k].balls, o, d))  # fmt: skip

    def _reduced(self) -> None:
        """Try shapes: the quantity turned round, or summed over what was broadcast."""
        mine, theirs = self.mine[0].near, self.theirs[0].near
        if mine.ndim >= 2 and mine.mT.shape == theirs.shape:
            self._try(1, "transposed", lambda k: self.mine[k].near.mT,
                      lambda k: np.swapaxes(self.mine[k].balls, -1, -2))  # fmt: skip
        self._sums(self._called, tuple(self.mine), 1)
        if mine.numel() == theirs.numel():
            shape = tuple(theirs.shape)
            self._try(1, f"in the shape {shape}", lambda k: self.mine[k].near.reshape(shape),
                      lambda k: np.reshape(self.mine[k].balls, shape))  # fmt: skip
        if not self.found:
            self._reduced_others()

    def _reduced_others(self) -> None:
        if self.theirs[0].near.numel() > 1:
            for known in self.known:
                self._sums(known.text, known.at, 2 + known.rank)

    def _sums(self, text: str, values: tuple[Value, ...], cost: float) -> None:
        """Try one value's sums over some of its dimensions."""
        have, want = values[0].near, self.theirs[0].near
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
            self._try(
                cost, f"as {whole}.sum({over}): a sum over what was broadcast",
                lambda k, dims=dims: values[k].near.sum(dims).reshape(shape),
                lambda k, dims=dims: self.n.sum(values[k].balls, dims, False).reshape(shape),
            )  # fmt: skip

    # -- slopes, factors and terms beside it

    def _fitting(self) -> list[Known]:
        """Return what has the quantity's own shape."""
        shape = self.mine[0].near.shape
        return [known for known in self.known if known.at[0].near.shape == shape]

    @cached_property
    def _slopes(self) -> list[tuple[Known, Slope, list[Tensor]]]:
        """Return every slope at every value of the quantity's shape, at each sample."""
        found: list[tuple[Known, Slope, list[Tensor]]] = []
        for known in self._fitting():
            if _mask(known.at[0].near):
                continue
            for slope in SLOPES:
                self._in_time()
                at = [slope.formula(in_floats, value.near) for value in known.at]
                if all(bool(x.nan_to_num(1).isfinite().all()) for x in at):
                    found.append((known, slope, at))
        return found

    def _times(self) -> None:
        """Try a factor that is missing, or too much: a slope, a mask, any value."""
        for known, slope, at in self._slopes:

            def ball(k: int, known: Known = known, slope: Slope = slope) -> Any:
                return slope.formula(in_balls, known.at[k].balls)

            text = slope.text.format(l=_inner(known.text))
            told = f"{text}, the slope of {slope.of} at {_full(known)}"
            self._multiplied(2 + known.rank + (not slope.activation), told, at, ball)
        for known in self.known:
            at = [value.near for value in known.at]
            if _broadcasts(at[0], self.mine[0].near):
                self._multiplied(
                    2.2 + known.rank, f"{_inner(known.text)}", at, lambda k, a=known: a.at[k].balls
                )

    def _multiplied(self, cost: float, text: str, at: list[Tensor], ball: Numbers) -> None:
        self._try(cost, f"times {text}", lambda k: self.mine[k].near * at[k],
                  lambda k: self.mine[k].balls * ball(k))  # fmt: skip
        if all(bool(x.all()) for x in at):
            self._try(cost, f"divided by {text}", lambda k: self.mine[k].near / at[k],
                      lambda k: self.mine[k].balls / ball(k))  # fmt: skip

    def _other_slope(self) -> None:
        """Try one slope in place of another, or at another value."""
        slopes = _distinct([slope for slope in self._slopes if slope[1].activation])
        if not slopes:
            return
        read = [self.both[0].hand.get(node) for node, _ in self.way.operands()]
        shown = [v.near for v in read if v is not None and v.near.is_floating_point()]
        stacked = torch.stack([at[0].flatten() for _, _, at in slopes])
        mine, theirs = self.mine[0].near.flatten(), self.theirs[0].near.flatten()
        for known in self._fitting():
            if known.rank == 0:
                for at in _near_rows(known.at[0].near.flatten() * stacked, theirs):
                    self._slope_of(known, *slopes[at])
        for old in slopes:
            self._in_time()
            there = any(alike(old[0].at[0].near, value) for value in shown)
            below = old[2][0].flatten()
            if not there or bool(((below == 0) & (theirs != 0)).any()):
                continue
            wanted = theirs * below
            for at in _near_rows(mine * stacked, wanted):
                if slopes[at] is not old:
                    self._swap_slopes(old, slopes[at])

    def _slope_of(self, error: Known, known: Known, slope: Slope, at: list[Tensor]) -> None:
        """Try a whole quantity as the error that a slope is taken of, times that slope."""
        text = slope.text.format(l=_inner(known.text))
        self._try(
            3.2, f"as {_inner(error.text)} * {text}, the slope of {slope.of}",
            lambda k: error.at[k].near * at[k],
            lambda k: error.at[k].balls * slope.formula(in_balls, known.at[k].balls),
        )  # fmt: skip

    def _swap_slopes(
        self, old: tuple[Known, Slope, list[Tensor]], new: tuple[Known, Slope, list[Tensor]]
    ) -> None:
        was, now = old[1], new[1]
        instead = f"in place of {was.text.format(l=_inner(old[0].text))}"
        if was is now:
            remark = self._before(old[0].at[0].near, new[0].at[0].near)
            text = f"with the slope of {now.of} at {_full(new[0])}{remark} in place of at {_full(old[0])}"
        else:
            value = new[0].at[0].near
            value = value if now.forward is None else in_floats(now.forward, value)
            remark = self._before(old[0].at[0].near, value) if was.of == now.of else ""
            text = f"with {now.text.format(l=_inner(new[0].text))}, the slope of {now.of}{remark}, {instead}"
        divided = [
            _divided(self.mine[k].near * new[2][k], old[2][k], self.theirs[k].near)
            for k in range(2)
        ]

        def balls(k: int) -> Any:
            top = self.mine[k].balls * now.formula(in_balls, new[0].at[k].balls)
            return _quotients(top, was.formula(in_balls, old[0].at[k].balls))

        if all(d is not None for d in divided):
            self._try(3 + new[0].rank / 2, text, lambda k: divided[k], balls)

    def _before(self, old: Tensor, new: Tensor) -> str:
        """Return a remark where one value is the other before, or after, a mask."""
        for late, early, word in ((old, new, "before"), (new, old, "after")):
            for known in self.known:
                mask = known.at[0].near
                if _mask(mask) and _broadcasts(mask, early) and late.shape == early.shape:
                    factor = self._ratio(early * mask, late)
                    if factor is not None and not alike(early, late):
                        return f" ({word} the mask, {known.text})"
        return ""

    def _term(self) -> None:
        """Try a term that is missing, or too much."""
        gaps = [t.near - m.near for m, t in zip(self.mine, self.theirs, strict=True)]
        for known in self.known:
            at = [value.near for value in known.at]
            if not _broadcasts(at[0], gaps[0]) or self._ratio(at[0], self.mine[0].near):
                continue
            if self._ratio(at[0].expand_as(gaps[0]), gaps[0]) is None:
                continue
            gap = self.theirs[0].balls - self.mine[0].balls
            part = self.n.shaped(known.at[0].balls, gap.shape)
            self._added(3 + known.rank, known.text, gap, part, lambda k, a=known: self.n.shaped(
                a.at[k].balls, self.mine[k].balls.shape))  # fmt: skip

    def _added(self, cost: float, text: str, gap: Any, part: Any, term: Numbers) -> bool:
        """Try the quantity plus a factor of the table times a term."""
        ratio = self._quotient(part, gap, _nearly(part))
        named = None if ratio is None else _one(ratio) or self._name_of(ratio)
        if named is None:
            return False
        told = {"1": f"plus {text}", "-1, the other sign": f"minus {_inner(text)}"}.get(
            named[0], f"plus {named[0]} * {_inner(text)}"
        )
        number = named[1]
        return self._try(
            cost + 1.5 * (named[0] not in ("1", "-1, the other sign")), told,
            lambda k: self.mine[k].near + float(number.mid()) * _nearly(term(k)),
            lambda k: self.mine[k].balls + term(k) * number,
        )  # fmt: skip

    # -- inside the operations

    def _operands(self) -> None:
        """Try another value, or the same one changed, in the place of each that is read."""
        for node, readers in self.way.operands():
            if not all(node in sample.hand for sample in self.both):
                continue
            values = tuple(sample.hand[node] for sample in self.both)
            if not values[0].near.is_floating_point() or not values[0].near.numel():
                continue
            groups = [readers] + ([[reader] for reader in readers] if len(readers) > 1 else [])
            for group in groups:
                part = 0.5 * (group is not readers)
                where = "" if group is readers else f" in {_short(words(group[0], self.names, inside=True))}"
                self._operand(node, values, group, part, where)

    def _operand(
        self, node: fx.Node, values: tuple[Value, ...], group: list[fx.Node], part: float, where: str
    ) -> None:
        text = _short(words(node, self.names))
        for known in self.known:
            if known.at[0].near.shape != values[0].near.shape or alike(known.at[0].near, values[0].near):
                continue
            self._swap(node, text, known, group, part, where)
        for how, put in elsewhere(tuple(values[0].near.shape)):
            new = tuple(moved(value, put) for value in values)
            self._edit(3 + part, f"with {_inner(text)}{how} in place of {text}{where}", node, new, group)
        for dim in range(values[0].near.ndim):
            if values[0].near.shape[dim] > 1:
                back = dim - values[0].near.ndim
                new = tuple(self._summed(value, dim) for value in values)
                self._edit(
                    3 + part, f"with {_inner(text)}.sum({back}, keepdim=True) in place of {text}{where}",
                    node, new, group,
                )  # fmt: skip
        roots = {"sqrt", "rsqrt", "reciprocal", "div", "pow"}
        if any(operation(reader) in roots for reader in group):
            for eps in dict.fromkeys([*self._numbers_there(), *USUAL]):
                if 0 < eps <= 1e-2:
                    new = tuple(
                        Value(v.floats + eps, v.balls + self.n.constant(eps, v.floats.dtype))
                        for v in values
                    )
                    self._edit(3 + part, f"with {eps:g} added to {text}{where}", node, new, group)
        if not self.whole:
            self._inner_terms(node, text, values, group, part, where)

    def _summed(self, value: Value, dim: int) -> Value:
        floats = value.floats.sum(dim, keepdim=True).expand_as(value.floats)
        return Value(floats, self.n.shaped(self.n.sum(value.balls, [dim], True), floats.shape))

    def _edit(
        self, cost: float, text: str, node: fx.Node, new: tuple[Value, ...], group: list[fx.Node]
    ) -> bool:
        edit = Edit(node, new, group)
        return self._try(
            cost, text,
            lambda k: self.way.near(self.both[k].hand, edit, k),
            lambda k: self.way.balls(self.both[k].hand, edit, k, self.n),
        )  # fmt: skip

    def _swap(
        self, node: fx.Node, text: str, known: Known, group: list[fx.Node], part: float, where: str
    ) -> None:
        """Try another value in the place of one that is read, if need be times a third."""
        remark = self._before(self.both[0].hand[node].near, known.at[0].near)
        name = _full(known)
        if text == f"{known.text} after its update":
            name = f"{known.text} before its update"
        elif known.text == f"{text} after its update":
            text += " before its update"
        told = f"with {name}{remark} in place of {text}{where}"
        if self._edit(2 + known.rank + part, told, node, known.at, group):
            return
        edit = Edit(node, known.at, group)
        first = self.way.near(self.both[0].hand, edit, 0)
        theirs = self.theirs[0].near
        if known.rank > 1 or first is None or first.shape != theirs.shape or not first.any():
            return
        if any(cost <= 2.2 for cost, _ in self.found):
            return
        for third in self.known:
            at = third.at[0].near
            if third.rank > 1 or not _broadcasts(at, theirs) or not alike(first * at, theirs):
                continue
            slope = self._slope_told(node, known, first, remark)
            self._try(
                (2.3 if slope else 4) + (known.rank + third.rank + part) / 8,
                f"{slope or told}, and times {_inner(third.text)}",
                lambda k, t=third: (x := self.way.near(self.both[k].hand, edit, k)) is not None and x * t.at[k].near,
                lambda k, t=third: self.way.balls(self.both[k].hand, edit, k, self.n) * t.at[k].balls,
            )  # fmt: skip

    def _slope_told(self, node: fx.Node, known: Known, now: Tensor, remark: str) -> str:
        """Return the words for a swap that only takes an activation's slope elsewhere."""
        was, mine = self.both[0].hand[node].near, self.mine[0].near
        if was.shape != mine.shape:
            return ""
        for slope in SLOPES:
            old, new = (slope.formula(in_floats, x) for x in (was, known.at[0].near))
            if slope.activation and old.any() and alike(mine * new, now * old):
                return (
                    f"with the slope of {slope.of} at {_full(known)}{remark} in place of at "
                    f"{words(node, self.names)}"
                )
        return ""

    def _inner_terms(
        self, node: fx.Node, text: str, values: tuple[Value, ...], group: list[fx.Node],
        part: float, where: str,
    ) -> None:  # fmt: skip
        """Try a term beside a value that is read, and the value taken another number of times."""
        if node is self.way.end or not self.way.nodes:
            return
        twice = tuple(Value(2 * v.floats, 2 * v.balls) for v in values)
        self._scaled(node, text, values, twice, group, 3.5 + part, where, None)
        for known in self.known:
            if known.rank == 1 and len(self.known) > 40:
                continue
            if _broadcasts(known.at[0].near, values[0].near) and not alike(
                known.at[0].near.expand_as(values[0].near), values[0].near
            ):
                more = tuple(
                    Value(v.floats + t.floats, v.balls + t.balls)
                    for v, t in zip(values, known.at, strict=True)
                )
                self._scaled(node, text, values, more, group, 4 + known.rank + part, where, known)

    def _scaled(
        self, node: fx.Node, text: str, values: tuple[Value, ...], more: tuple[Value, ...],
        group: list[fx.Node], cost: float, where: str, known: Known | None,
    ) -> None:  # fmt: skip
        """Try how often a term is to be added, from what adding it once does."""
        self._in_time()
        once = self.way.near(self.both[0].hand, Edit(node, more, group), 0)
        if once is None or once.shape != self.mine[0].near.shape:
            return
        share = once - self.mine[0].near
        times = self._ratio(share, self.theirs[0].near - self.mine[0].near)
        if times is None:
            return
        wanted = times if known else times + 1
        named = ("0", flint.arb(0)) if abs(wanted) < 1e-9 else self._nearest(wanted)
        if named is None:
            return
        number = named[1]
        steps = (m for m in more)
        new = tuple(
            Value(v.floats + float(number.mid()) * (m.floats - v.floats), v.balls + (m.balls - v.balls) * number)
            if known else Value(v.floats * float(number.mid()), v.balls * number)
            for v, m in zip(values, steps, strict=True)
        )  # fmt: skip
        if known is None:
            told = f"without {text}" if named[0] == "0" else f"with {named[0]} * {_inner(text)} in place of {text}"
        else:
            told = f"with {text} {_plus(named[0], known.text)} in place of {text}"
        self._edit(cost, told + where, node, new, group)

    def _nearest(self, number: float) -> tuple[str, Any] | None:
        for text, ball in (("1", flint.arb(1)), *self.factors):
            if abs(float(ball.mid()) - number) <= 1e-8 * abs(number):
                return text.split(",")[0], ball
        return None

    def _numbers_there(self) -> list[float]:
        """Return the small numbers written in the reference."""
        assert isinstance(self.e.reference, Program)
        return sorted(
            {
                float(a)
                for node in self.e.reference.graph.graph.nodes
                if node.op == "call_function" and operation(node)
                for a in node.args
                if isinstance(a, float) and 0 < abs(a) < 100
            }
        )

    def _constants(self) -> None:
        """Try other numbers where one is written."""
        sizes = {s for value in self.e.inputs.values() for s in value.shape if s > 1}
        there = self._numbers_there()
        written: dict[float, list[fx.Node]] = {}
        for node in self.way.nodes:
            if any(operation(source) == "arange" for source in node.all_input_nodes):
                continue  # the places of a roll, not numbers
            if operation(node) in ("add", "sub", "mul", "div", "pow", "remainder", "rsub"):
                for number in {a for a in node.args if isinstance(a, int | float)}:
                    written.setdefault(float(number), []).append(node)
        for number, nodes in written.items():
            groups = [[node] for node in nodes] + ([nodes] if len(nodes) > 1 else [])
            for group in groups:
                if self.whole and all(operation(node) in ("mul", "div") for node in group):
                    continue
                where = _short(words(group[0], self.names, inside=True))
                where = f"in {where}" if len(group) == 1 else "everywhere on the way to it"
                for other in constants(number, sorted(sizes), there):
                    told = f"with {other:.10g} in place of {number:.10g} {where}"
                    self._operations(2.5, told, {n: _written(n, number, other) for n in group})

    def _functions(self) -> None:
        """Try other elementwise functions where one is taken."""
        for node in self.way.nodes:
            if operation(node) in FUNCTIONS:
                for name in FUNCTIONS:
                    if name != operation(node):
                        target = getattr(torch.ops.aten, name).default
                        text = _short(words(node, self.names, inside=True))
                        told = f"with {name} in place of {operation(node)} in {text}"
                        self._operations(3, told, {node: another(node, target)})

    def _operations(self, cost: float, text: str, nodes: Mapping[fx.Node, fx.Node]) -> None:
        edit = Edit(operations=nodes)
        self._try(
            cost, text,
            lambda k: self.way.near(self.both[k].hand, edit, k),
            lambda k: self.way.balls(self.both[k].hand, edit, k, self.n),
        )  # fmt: skip


def alike(one: Any, other: Tensor) -> bool:
    """Whether two float64 tensors are near each other wherever both are known: a first sieve."""
    if not isinstance(one, Tensor) or one.shape != other.shape or not one.is_floating_point():
        return False
    known = ~(one.isnan() | other.isnan())
    if not known.any():
        return False
    a, b = one[known], other[known]
    return bool(((a - b).abs() <= 1e-8 * b.abs() + 1e-11 * b.abs().max()).all())


def _written(node: fx.Node, number: float, other: float) -> fx.Node:
    """Return the node with another number written in it, a whole one where it was one."""

    def swapped(value: Any) -> Any:
        if isinstance(value, bool) or not isinstance(value, int | float) or value != number:
            return value
        return int(other) if isinstance(value, int) and other.is_integer() else other

    return another(node, args=tuple(swapped(value) for value in node.args))


def _short(text: str) -> str:
    """Return an expression, of a long one its end."""
    return text if len(text) <= 48 else f"...{text[-40:]}"


def _nearly(balls: Any) -> Tensor:
    from compare.samples import near

    return near(balls)


def _one(ratio: Any) -> tuple[str, Any] | None:
    return ("1", flint.arb(1)) if ratio.overlaps(flint.arb(1)) else None


def _plus(factor: str, text: str) -> str:
    if factor == "1":
        return f"+ {text}"
    return f"- {_inner(text)}" if factor == "-1" else f"+ {factor} * {_inner(text)}"


def _inner(text: str) -> str:
    """Return an expression as part of a larger one."""
    loose = any(sign in text for sign in (" + ", " - ", " * ", " / ", " @ ", "**"))
    return f"({text})" if loose or text.startswith("-") else text


def _full(known: Known) -> str:
    """Return a value's name, and what it is where the by-hand side has no such name."""
    return f"{known.text} = {known.behind}" if known.behind else known.text


def _distinct(
    slopes: list[tuple[Known, Slope, list[Tensor]]],
) -> list[tuple[Known, Slope, list[Tensor]]]:
    """Return the slopes of which none is another's number: l * (1 - l) is that of 1 - l too."""
    if not slopes:
        return []
    rows = torch.stack([at[0].flatten() for _, _, at in slopes])
    return [slope for k, slope in enumerate(slopes) if _near_rows(rows, rows[k])[:1] in ([], [k])]


def _near_rows(rows: Tensor, wanted: Tensor) -> list[int]:
    """Return the rows that are near `wanted`: the first sieve for many candidates at once."""
    room = 1e-8 * wanted.abs() + 1e-11 * wanted.abs().nan_to_num(0).max()
    far = (rows - wanted).abs() > room  # a NaN is unknown, not far
    return [int(at) for at in (~far.any(1)).nonzero().flatten()]


def _mask(values: Tensor) -> bool:
    """Whether the values are 0 and one other number."""
    found = values.unique()
    return len(found) == 2 and not bool(found.abs().min())


def _broadcasts(part: Tensor, whole: Tensor) -> bool:
    """Whether a tensor of floats fits into another's shape."""
    try:
        return part.is_floating_point() and torch.broadcast_shapes(part.shape, whole.shape) == whole.shape  # noqa: E501
    except RuntimeError:
        return False


def _divided(top: Tensor, bottom: Tensor, wanted: Tensor) -> Tensor | None:
    """Return top / bottom, 0 where both are 0; None where that hides what is wanted."""
    zero = bottom.expand_as(top) == 0
    if bool((zero & (wanted != 0)).any()):
        return None
    return torch.where(zero, 0.0, top / torch.where(zero, 1.0, bottom.expand_as(top)))


def _quotients(top: Any, bottom: Any) -> Any:
    divide = np.frompyfunc(lambda a, b: flint.arb(0) if a == 0 and b == 0 else a / b, 2, 1)
    return np.asarray(divide(top, bottom), dtype=object)
