"""The check of the formulas at other inputs near the given ones, where the code is traced again.

Some passes are right only at the given inputs: one that forgets a factor which is 1 there, one that
caches a value by shape, one that reads y in place of x while the two are equal.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from torch import Tensor

from compare.errors import BadInput, first_line, is_internal
from compare.passes.inputs import numbered, tensors
from compare.passes.passes import Passes
from compare.proof.bits import of_real_view, real_view, same_bits
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

SHARES = 1.0, 1 / 4, 1 / 16  # of a change of the inputs: smaller if a larger one cannot be used
MOST_HELD = 8  # inputs that are held one by one to find the one that a WRONG quantity depends on


class CannotCheck(Exception):
    """The passes cannot be checked at other inputs; the message is the reason."""


@dataclass(frozen=True)
class Draw:
    """A draw of other inputs: the size of the change, the draw's number, and inputs to hold."""

    share: float
    number: int = 0
    held: frozenset[str] = frozenset()


class SecondInputs:
    """A second check of the same passes, at other inputs.

    Args:
        check: Both passes at the given inputs.
        pair: Both sides' values that were judged there.
    """

    def __init__(self, check: Passes, pair: Pair) -> None:
        self.check, self.pair = check, pair
        self.forward = check.forward

    def judged(self, proofs: Mapping[str, Proof]) -> tuple[dict[str, Proof], OtherInputs]:
        """Return the proofs, WRONG for what is right only at the given inputs, and the remarks.

        A quantity is WRONG if two draws agree. Lost digits do not count, because other inputs may
        be harder than the given ones. The code is called as often as in the check itself; if a
        quantity is WRONG, as often again, and as often for each such quantity and each input that
        was changed, for 8 inputs at most.
        """
        # numbers that were judged alone were judged at other inputs too
        passing = {name: proof for name, proof in proofs.items() if proof.verdict.passes}
        right = [name for name, proof in passing.items() if not proof.tried]
        if not right:
            return dict(proofs), OtherInputs()
        try:
            draw, there = self._first_draw(right)
        except CannotCheck as reason:
            return dict(proofs), OtherInputs(False, f"not checked at other inputs: {reason}")
        suspects = {name: proof for name, proof in there.items() if proof.verdict == WRONG}
        wrong = self._confirmed(draw, suspects)
        result = dict(proofs)
        for name, proof in wrong.items():
            text = f"right only at the given inputs{self._dependence(name, draw)}: {proof.text}"
            result[name] = replace(
                proof, text=text, share=None, diagnosis=None, lifted=proofs[name].lifted
            )
        remarks = self._remarks(right, there, draw, suspects.keys() - wrong.keys())
        return result, OtherInputs(True, remarks)

    def _confirmed(self, draw: Draw, suspects: Mapping[str, Proof]) -> Mapping[str, Proof]:
        """Return the suspects that are WRONG in another draw too.

        An input of ones may be a scale, or the labels of one class: the first draw scales it, the
        second one moves some elements to the other class.
        """
        for number in (1, 2) if suspects else ():
            try:
                there = self._judged_at(replace(draw, number=number), suspects)
            except CannotCheck:
                continue
            return {k: v for k, v in suspects.items() if k in there and there[k].verdict == WRONG}
        return {}

    def _remarks(
        self, right: Collection[str], there: Mapping[str, Proof], draw: Draw, once: Collection[str]
    ) -> str:
        """Return a text on everything that was not shown at other inputs.

        Args:
            right: The quantities that are right at the given inputs.
            there: Quantity -> proof at the other inputs.
            draw: The draw of these inputs.
            once: The quantities that are WRONG in one of two draws only.
        """
        remarks = []
        if missing := [name for name in right if name not in there]:
            remarks.append(
                f"{', '.join(missing)}: not checked at other inputs: {', '.join(self.unread)}, "
                "which only the by-hand side reads, may depend on other inputs (compute it in "
                "forward and name it with compare.name, or hold it)"
            )
        if self.outside:
            names = ", ".join(self.outside)
            remarks.append(
                f"{names}: kept fixed, because the by-hand side reads it from outside its arguments"
            )
        if unchanged := self._unchanged(draw):
            remarks.append(
                f"{', '.join(unchanged)}: kept fixed, because no other value of its kind is known"
            )
        for name in once:
            classes = self._classes
            only = f" (right where {' and '.join(classes)} is 0 or 1)" if classes else ""
            remarks.append(f"{name}: different formula at one of two draws of other inputs{only}")
        for name, proof in there.items():
            if proof.verdict == UNDECIDED:
                remarks.append(f"{name}: undecided at other inputs: {proof.text}")
        return "; ".join(remarks)

    def _dependence(self, name: str, draw: Draw) -> str:
        """Return a text on the inputs that have to keep their values for a quantity to be right."""
        changed = [*self._changed(self.inputs(draw)), *self.parameters]
        sufficient = []
        for label in changed[:MOST_HELD] if len(changed) > 1 else ():
            try:
                there = self._judged_at(replace(draw, held=draw.held | {label}), [name])
            except CannotCheck:
                continue
            if name in there and there[name].verdict != WRONG:
                sufficient.append(label)
        if not sufficient:
            return (
                f", not with other values of {' and '.join(changed)} (an input that depends on "
                "another: compute it in forward and name it with compare.name; one that never "
                "changes: hold it)"
            )
        one = sufficient[0]
        rest = [label for label in changed if label != one]
        return (
            f" or at others with the same {' or '.join(sufficient)} (if {one} depends on "
            f"{' and '.join(rest)}, compute it in forward and name it with compare.name; if it "
            f"never changes, pass hold=({one!r},))"
        )

    def _first_draw(self, right: Collection[str]) -> tuple[Draw, dict[str, Proof]]:
        """Return the draw with the largest usable change, and the proofs there.

        The last draw to be tried holds the inputs that are one whole number.
        """
        if self.check.backward.differentiates_inputs:
            raise CannotCheck(
                "the by-hand side differentiates its own input tensors, so copies cannot replace "
                "them"
            )
        draws = [Draw(share) for share in SHARES]
        whole = frozenset(k for k, v in tensors(self.forward.inputs).items() if _whole(v))
        reasons = []
        for draw in [*draws, *([Draw(1.0, held=whole)] if whole else [])]:
            try:
                return draw, self._judged_at(draw, right)
            except CannotCheck as reason:
                reasons.append(reason)
        raise reasons[0]

    @property
    def _classes(self) -> list[str]:
        """The inputs that may be labels that all belong to one class."""
        values = tensors(self.forward.inputs).items()
        kept = {*self.forward.leaves, *self.check.hold}
        return [k for k, v in values if k not in kept and v.numel() > 1 and all_zeros_or_ones(v)]

    def _unchanged(self, draw: Draw) -> list[str]:
        """Return the inputs and parameters for which no other value of their kind is known."""
        inputs, changed = tensors(self.forward.inputs), self._changed(self.inputs(draw))
        kept = {*self.check.hold, *self.outside, *self.unread, *changed}
        real = {k: real_view(v) for k, v in inputs.items() if k not in kept}
        floats = [k for k, v in real.items() if v.is_floating_point()]
        return floats + [k for k in self.forward.parameters if k not in self.parameters]

    # -- one draw

    def _judged_at(self, draw: Draw, names: Collection[str]) -> dict[str, Proof]:
        """Return the proofs of these quantities at other inputs; raises CannotCheck."""
        inputs = self.inputs(draw)
        if not self._changed(inputs) and not self.parameters:
            raise CannotCheck("every input is held, or of whole numbers")
        try:
            other_check = self.check.retraced_at(inputs)
            _, pair = other_check.with_autograd(other_check.manual, other_check.manual_program)
        except BadInput as error:
            raise CannotCheck(str(error)) from None
        except Exception as error:
            if is_internal(error):
                raise
            raise CannotCheck(first_line(error)) from None
        here, there = (
            {**numbered("output", c.forward.outputs), **c.forward.intermediates, **p.autograd}
            for c, p in ((self.check, self.pair), (other_check, pair))
        )
        for name, values in there.items():
            if name in here and _newly_infinite(here[name], values):
                raise CannotCheck(f"{name} is not finite there")
        pair = self._with_parameters(pair, draw)
        proofs = judge(pair, list(pair.manual), formulas_only=True)
        return {k: v for k, v in proofs.items() if k in names and k not in self.depends_on_unread}

    def inputs(self, draw: Draw) -> dict[str, Any]:
        """Return the arguments of forward in this draw."""
        forward = self.forward
        kept = {*self.check.hold, *draw.held, *self.unread, *self.outside}
        inputs = forward.copies(forward.inputs)
        for name, value in tensors(inputs).items():
            if name not in kept:
                leaf = name in forward.leaves
                new = similar(name, value.detach(), leaf=leaf, share=draw.share, draw=draw.number)
                inputs[name] = new.requires_grad_(leaf)
        if self.derived:
            assert isinstance(self.pair.reference, Program)
            detached = {k: real_view(v.detach()) for k, v in tensors(inputs).items()}
            values = lift(self.pair.reference, Bounds(), {**self.pair.inputs, **detached})
            for name in self.derived:
                original = forward.inputs[name]
                value = of_real_view(values[ValueOf(name)].floats, original)
                value = value.reshape(original.shape).to(original.dtype)
                inputs[name] = value.clone().requires_grad_(name in forward.leaves)
        return inputs

    def _changed(self, inputs: Mapping[str, Any]) -> list[str]:
        """Return the names of the inputs that differ from the given ones."""
        originals = tensors(self.forward.inputs)
        return [k for k, v in tensors(inputs).items() if not same_bits(v, originals[k])]

    # -- inputs that the by-hand side reads and forward does not: they may depend on other inputs

    @property
    def derived(self) -> list[str]:
        """Those of them that forward computes itself, and that are not held."""
        inputs = self.pair.manual_inputs.items()
        return [n for n, (_, key) in inputs if key and n in {*self.pair.inputs} - self.check.hold]

    @cached_property
    def unread(self) -> list[str]:
        """Those of them that forward does not compute, or that are held."""
        return [name for name in manual_only_inputs(self.pair) if name not in self.derived]

    @cached_property
    def depends_on_unread(self) -> set[str]:
        """The quantities that are computed from `unread` inputs."""
        if not self.unread:
            return set()
        if isinstance(self.pair.manual_program, Opaque):
            return {*self.pair.manual}
        sources = self.pair.manual_program.inputs_by_output()
        return {name for name in self.pair.manual if not sources[name].isdisjoint(self.unread)}

    @cached_property
    def outside(self) -> list[str]:
        """The inputs whose own tensors the by-hand side reads from a closure."""
        if isinstance(self.pair.manual_program, Opaque):
            return []
        addresses = {at for _, at in self.pair.manual_program.captured() if at is not None}
        return [
            k for k, v in tensors(self.forward.inputs).items() if storage_address(v) in addresses
        ]

    # -- parameters: changed in the programs, never in the module

    @cached_property
    def parameters(self) -> dict[str, Tensor]:
        """Name -> parameter of forward to change; inputs are not parameters.

        Empty if the by-hand side reads tensors that forward does not: these may have been computed
        from parameters.
        """
        manual_program, reference = self.pair.manual_program, self.pair.reference
        if isinstance(manual_program, Opaque) or isinstance(reference, Opaque):
            return {}
        in_reference = {at for _, at in reference.captured() if at is not None}
        every = [*self.forward.parameters.values()]
        for value, at in manual_program.captured():
            alone = real_view(value).is_floating_point() and at not in in_reference
            if alone and _parameter_of(value, at, every) is None:
                return {}
        return {k: v for k, v in self.forward.parameters.items() if k not in self.check.hold}

    def _with_parameters(self, pair: Pair, draw: Draw) -> Pair:
        """Return the pair with other parameters in both programs, and with their values."""
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

        def changed(tensor: Tensor, at: int | None) -> Tensor | None:
            old = _parameter_of(tensor, at, every)
            return None if id(old) not in new else _in_layout(tensor, old, new[id(old)])

        manual_program, reference = (
            manual_program.with_captured(changed),
            reference.with_captured(changed),
        )
        n = bounds_for(reference, pair.inputs.values())
        lifted_reference = lift(reference, n, pair.inputs)
        manual_inputs = {
            name: (value if key is None else lifted_reference[key].floats, key)
            for name, (value, key) in pair.manual_inputs.items()
        }
        floats = {name: value for name, (value, _) in manual_inputs.items()}
        lifted_manual = lift(manual_program, bounds_for(manual_program, floats.values()), floats)
        manual = {name: lifted_manual[name].floats for name in pair.manual}
        overrides = {k: Lifted(manual[k], n.exact(manual[k])) for k in pair.injected_among(manual)}
        continued = lift(reference, n, pair.inputs, overrides=overrides)
        autograd = {name: continued[name].floats for name in pair.autograd}
        return replace(
            pair, manual_program=manual_program, reference=reference, manual_inputs=manual_inputs,
            manual=manual, autograd=autograd, reference_lifts={}, remake=None,
        )  # fmt: skip


def _whole(values: Tensor) -> bool:
    """Return whether a tensor is a single whole number, perhaps an exponent."""
    return values.is_floating_point() and values.numel() == 1 and bool(values == values.round())


def _newly_infinite(here: Tensor, there: Tensor) -> bool:
    return here.shape == there.shape and bool((here.isfinite() & ~there.isfinite()).any())


def _parameter_of(tensor: Tensor, at: int | None, parameters: Sequence[Tensor]) -> Tensor | None:
    """Return the parameter that a tensor is, or is a copy of; flat and transposed copies count.

    A copy has the bits of that parameter alone. A tensor of at most two values, such as ones and
    zeros, is not certain to be a copy.

    Args:
        tensor: A constant of a program.
        at: Its address in storage_address, None if that is unknown.
        parameters: The parameters of forward.
    """
    equal = [one for one in parameters if _in_layout(tensor, one, one) is not None]
    shared = [one for one in equal if at is not None and storage_address(one) == at]
    if shared or len(equal) != 1 or len(tensor.unique()) <= 2:
        return shared[0] if shared else None
    return equal[0]


def _in_layout(tensor: Tensor, old: Tensor | None, new: Tensor) -> Tensor | None:
    """Return `new` in the shape of a tensor that has the numbers of `old`; None if it has not."""
    if old is None or tensor.dtype != old.dtype or tensor.numel() != old.numel():
        return None
    transposed = old.detach().mT if old.ndim > 1 else old.detach()
    if tensor.shape == transposed.shape and same_bits(tensor, transposed):
        return new.detach().mT.clone() if old.ndim > 1 else new.detach().clone()
    if same_bits(tensor.reshape(-1), old.detach().reshape(-1)):
        return new.detach().reshape(tensor.shape).clone()
    return None
