"""The formulas judged once more, at inputs beside the given ones: the code is run and read again.

A pass that forgets a weight of 1, keeps what it once computed for a shape, or takes y for x where
the two are equal, is right at the given inputs alone.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from torch import Tensor

from compare.errors import BadInput, first_line, is_ours
from compare.passes.inputs import numbered, tensors
from compare.passes.passes import Passes
from compare.proof.bits import same_bits
from compare.proof.bounds import Bounds
from compare.proof.derived_inputs import manual_only_inputs
from compare.proof.interpreter import Lifted, lift
from compare.proof.judge import judge
from compare.proof.other_inputs import all_zeros_or_ones, scaled, similar
from compare.proof.pair import Pair
from compare.proof.program import Opaque, Program, ValueOf
from compare.proof.recorder import storage_address
from compare.proof.rounding import bounds_for
from compare.proof.verdict import UNDECIDED, WRONG, OtherInputs, Proof

SHARES = 1.0, 1 / 4, 1 / 16  # of a move: less where more leads to no numbers
MOST = 8  # inputs that are held one by one, to find which of them a WRONG quantity hangs on


class NotTried(Exception):
    """Nothing can be judged at other inputs; the message says why."""


@dataclass(frozen=True)
class _Draw:
    """By how much the inputs are moved, in which draw, and which of them are not."""

    share: float
    number: int = 0
    held: frozenset[str] = frozenset()


class SecondInputs:
    """A check once more, at other inputs; `pair` is what was judged at the given ones."""

    def __init__(self, check: Passes, pair: Pair) -> None:
        self.check, self.pair = check, pair
        self.forward = check.forward

    def judged(self, proofs: Mapping[str, Proof]) -> tuple[dict[str, Proof], OtherInputs]:
        """Return the proofs, WRONG of what is right at the given inputs alone; and what is said.

        It takes two draws that agree. Numbers lost there are nobody's: another input may be harder
        than the given ones. The code runs as often as in the check itself; where something is WRONG
        as often again, and for each such quantity and each input that was moved, of 8 at most.
        """
        right = [name for name, proof in proofs.items() if proof.verdict.passes]
        if not right:
            return dict(proofs), OtherInputs()
        try:
            draw, there = self._first(right)
        except NotTried as why:
            return dict(proofs), OtherInputs(False, f"not checked at other inputs: {why}")
        odd = {name: proof for name, proof in there.items() if proof.verdict == WRONG}
        found, wrong = dict(proofs), self._again(draw, odd)
        for name, proof in wrong.items():
            text = f"right only at the given inputs{self._while(name, draw)}: {proof.text}"
            found[name] = replace(
                proof, text=text, share=None, diagnosis=None, lifted=proofs[name].lifted
            )
        return found, OtherInputs(True, self._said(right, there, draw, odd.keys() - wrong.keys()))

    def _again(self, draw: _Draw, odd: Mapping[str, Proof]) -> Mapping[str, Proof]:
        """Return those of the WRONG that are it in another draw too.

        All 1 may be a number, a scale, or a class, labels: the first draw scales it, the second one
        puts some elements into the other class.
        """
        for number in (1, 2) if odd else ():
            try:
                there = self._at(replace(draw, number=number), odd)
            except NotTried:
                continue
            return {k: v for k, v in odd.items() if k in there and there[k].verdict == WRONG}
        return {}

    def _said(
        self, right: Collection[str], there: Mapping[str, Proof], draw: _Draw, once: Collection[str]
    ) -> str:
        """Return what was not shown beside the given inputs."""
        said = []
        if left := [name for name in right if name not in there]:
            said.append(
                f"{', '.join(left)}: not checked at other inputs: {', '.join(self.unread)}, "
                "which only the by-hand side reads, may depend on other inputs (compute it in "
                "forward and name it with compare.name, or hold it)"
            )
        if self.outside:
            names = ", ".join(self.outside)
            said.append(
                f"{names}: kept fixed, because the by-hand side reads it from outside its arguments"
            )
        if same := self._same(draw):
            said.append(
                f"{', '.join(same)}: kept fixed, because no other value of its kind is known"
            )
        for name in once:
            classes = self._classes
            only = f" (right where {' and '.join(classes)} is 0 or 1)" if classes else ""
            said.append(f"{name}: different formula at one of two draws of other inputs{only}")
        for name, proof in there.items():
            if proof.verdict == UNDECIDED:
                said.append(f"{name}: undecided at other inputs: {proof.text}")
        return "; ".join(said)

    def _while(self, name: str, draw: _Draw) -> str:
        """Return in words beside which inputs a quantity is right."""
        moved = [*self._changed(self._inputs(draw)), *self.parameters]
        keeps = []
        for label in moved[:MOST] if len(moved) > 1 else ():
            try:
                there = self._at(replace(draw, held=draw.held | {label}), [name])
            except NotTried:
                continue
            if name in there and there[name].verdict != WRONG:
                keeps.append(label)
        if not keeps:
            return (
                f", not with other values of {' and '.join(moved)} (an input that depends on "
                "another: compute it in forward and name it with compare.name; one that never "
                "changes: hold it)"
            )
        one, rest = keeps[0], [label for label in moved if label != keeps[0]]
        return (
            f" or at others with the same {' or '.join(keeps)} (if {one} depends on "
            f"{' and '.join(rest)}, compute it in forward and name it with compare.name; if it "
            f"never changes, pass hold=({one!r},))"
        )

    def _first(self, right: Collection[str]) -> tuple[_Draw, dict[str, Proof]]:
        """Judge at the largest move that leads to numbers; then with whole numbers as they are."""
        if self.check.backward.by_identity:
            raise NotTried(
                "the by-hand side differentiates its own input tensors, so copies cannot replace "
                "them"
            )
        draws = [_Draw(share) for share in SHARES]
        whole = frozenset(k for k, v in tensors(self.forward.inputs).items() if _whole(v))
        reasons = []
        for draw in [*draws, *([_Draw(1.0, held=whole)] if whole else [])]:
            try:
                return draw, self._at(draw, right)
            except NotTried as why:
                reasons.append(why)
        raise reasons[0]

    @property
    def _classes(self) -> list[str]:
        """The inputs that may be all of one class."""
        values = tensors(self.forward.inputs).items()
        kept = {*self.forward.leaves, *self.check.hold}
        return [k for k, v in values if k not in kept and v.numel() > 1 and all_zeros_or_ones(v)]

    def _same(self, draw: _Draw) -> list[str]:
        """Return what has no other of its kind, or none that is known."""
        inputs, moved = tensors(self.forward.inputs), self._changed(self._inputs(draw))
        kept = {*self.check.hold, *self.outside, *self.unread, *moved}
        floats = [k for k, v in inputs.items() if v.is_floating_point() and k not in kept]
        return floats + [k for k in self.forward.parameters if k not in self.parameters]

    # -- one draw

    def _at(self, draw: _Draw, right: Collection[str]) -> dict[str, Proof]:
        """Judge what is `right` at other inputs; raises NotTried."""
        moved = self._inputs(draw)
        if not self._changed(moved) and not self.parameters:
            raise NotTried("every input is held, or of whole numbers")
        try:
            again = self.check.anew(moved)
            _, pair = again.compared(again.manual, again.manual_program)
        except BadInput as error:
            raise NotTried(str(error)) from None
        except Exception as error:
            if is_ours(error):
                raise
            raise NotTried(first_line(error)) from None
        here, there = (
            {**numbered("output", c.forward.outputs), **c.forward.values, **p.autograd}
            for c, p in ((self.check, self.pair), (again, pair))
        )
        for name, values in there.items():
            if name in here and _newly_infinite(here[name], values):
                raise NotTried(f"{name} is not finite there")
        pair = self._with_parameters(pair, draw)
        names = [name for name in pair.manual if name in right and name not in self.follows_unread]
        proofs = judge(pair, list(pair.manual), brief=True)
        return {name: proofs[name] for name in names}

    def _inputs(self, draw: _Draw) -> dict[str, Any]:
        """Return what forward is given then."""
        forward = self.forward
        kept = {*self.check.hold, *draw.held, *self.unread, *self.outside}
        moved = forward.fresh(forward.inputs)
        for name, value in tensors(moved).items():
            if name not in kept:
                leaf = name in forward.leaves
                new = similar(name, value.detach(), leaf=leaf, share=draw.share, draw=draw.number)
                moved[name] = new.requires_grad_(leaf)
        if self.followed:
            assert isinstance(self.pair.reference, Program)
            given = {**self.pair.inputs, **{k: v.detach() for k, v in tensors(moved).items()}}
            values = lift(self.pair.reference, Bounds(), given)
            for name in self.followed:
                like, found = forward.inputs[name], values[ValueOf(name)].floats
                found = found.reshape(like.shape).to(like.dtype)
                moved[name] = found.clone().requires_grad_(name in forward.leaves)
        return moved

    def _changed(self, moved: Mapping[str, Any]) -> list[str]:
        """Return the inputs that are others."""
        given = tensors(self.forward.inputs)
        return [k for k, v in tensors(moved).items() if not same_bits(v, given[k])]

    # -- what by hand is read and by forward is not: it may follow the other inputs

    @property
    def followed(self) -> list[str]:
        """Those of them that are a value on forward's way, and are not held."""
        given = self.pair.manual_inputs.items()
        return [n for n, (_, key) in given if key and n in {*self.pair.inputs} - self.check.hold]

    @cached_property
    def unread(self) -> list[str]:
        """Those of them that are nothing that forward computes, or are held."""
        return [name for name in manual_only_inputs(self.pair) if name not in self.followed]

    @cached_property
    def follows_unread(self) -> set[str]:
        """The quantities that are computed from those."""
        if not self.unread:
            return set()
        if isinstance(self.pair.manual_program, Opaque):
            return {*self.pair.manual}
        sources = self.pair.manual_program.inputs_by_output()
        return {name for name in self.pair.manual if not sources[name].isdisjoint(self.unread)}

    @cached_property
    def outside(self) -> list[str]:
        """The inputs that the by-hand side takes from a closure: the very tensors given."""
        if isinstance(self.pair.manual_program, Opaque):
            return []
        known = {at for _, at in self.pair.manual_program.captured() if at is not None}
        return [k for k, v in tensors(self.forward.inputs).items() if storage_address(v) in known]

    # -- parameters: moved in the programs, never in the module

    @cached_property
    def parameters(self) -> dict[str, Tensor]:
        """The tensors that forward reaches, that need a gradient and are no input.

        None where by hand there are tensors that forward has not: they may have been made of them.
        """
        manual_program, reference = self.pair.manual_program, self.pair.reference
        if isinstance(manual_program, Opaque) or isinstance(reference, Opaque):
            return {}
        found = {k: v for k, v in self.forward.parameters.items() if k not in self.check.hold}
        theirs = {at for _, at in reference.captured() if at is not None}
        every = [*self.forward.parameters.values()]
        for value, at in manual_program.captured():
            if value.is_floating_point() and at not in theirs and _which(value, at, every) is None:
                return {}
        return found

    def _with_parameters(self, pair: Pair, draw: _Draw) -> Pair:
        """Return the pair with other parameters in both programs, and what they give then."""
        manual_program, reference = pair.manual_program, pair.reference
        if (
            not self.parameters
            or isinstance(manual_program, Opaque)
            or isinstance(reference, Opaque)
        ):
            return pair
        every = [*self.forward.parameters.values()]
        new = {
            id(value): scaled(name, value, draw.share, draw.number)
            for name, value in self.parameters.items()
            if name not in draw.held
        }

        def change(held: Tensor, at: int | None) -> Tensor | None:
            which = _which(held, at, every)
            return None if id(which) not in new else _laid(held, which, new[id(which)])

        manual_program, reference = (
            manual_program.with_captured(change),
            reference.with_captured(change),
        )
        n = bounds_for(reference, pair.inputs.values())
        theirs = lift(reference, n, pair.inputs)
        given = {
            name: (value if key is None else theirs[key].floats, key)
            for name, (value, key) in pair.manual_inputs.items()
        }
        floats = {name: value for name, (value, _) in given.items()}
        mine = lift(manual_program, bounds_for(manual_program, floats.values()), floats)
        manual = {name: mine[name].floats for name in pair.manual}
        overrides = {k: Lifted(manual[k], n.exact(manual[k])) for k in pair.injected_among(manual)}
        going_on = lift(reference, n, pair.inputs, overrides=overrides)
        autograd = {name: going_on[name].floats for name in pair.autograd}
        return replace(
            pair, manual_program=manual_program, reference=reference, manual_inputs=given,
            manual=manual, autograd=autograd, reference_lifts={}, remake=None,
        )  # fmt: skip


def _whole(values: Tensor) -> bool:
    """Whether it is one whole number, an exponent perhaps."""
    return values.is_floating_point() and values.numel() == 1 and bool(values == values.round())


def _newly_infinite(here: Tensor, there: Tensor) -> bool:
    return here.shape == there.shape and bool((here.isfinite() & ~there.isfinite()).any())


def _which(held: Tensor, at: int | None, parameters: Sequence[Tensor]) -> Tensor | None:
    """Return the parameter that a tensor holds, as it was, flat or transposed.

    It lies where that lies; or it is a copy, with the bits of one parameter alone. What has two
    values, ones or zeros, is a copy of nothing for sure.
    """
    alike = [was for was in parameters if _laid(held, was, was) is not None]
    there = [was for was in alike if at is not None and storage_address(was) == at]
    if there or len(alike) != 1 or len(held.unique()) <= 2:
        return there[0] if there else None
    return alike[0]


def _laid(held: Tensor, was: Tensor | None, now: Tensor) -> Tensor | None:
    """Return what a tensor becomes that has the numbers of a parameter; None if it has not."""
    if was is None or held.dtype != was.dtype or held.numel() != was.numel():
        return None
    turned = was.detach().mT if was.ndim > 1 else was.detach()
    if held.shape == turned.shape and same_bits(held, turned):
        return now.detach().mT.clone() if was.ndim > 1 else now.detach().clone()
    if same_bits(held.reshape(-1), was.detach().reshape(-1)):
        return now.detach().reshape(held.shape).clone()
    return None
