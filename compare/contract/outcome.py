"""The outcome of a contract call: equal values pass, others are judged like any gradient.

A contract call can only pass or be WRONG: lost digits (INACCURATE) are judged in the ordinary call.
Of the outputs of a Function that need no gradient, integers have to be equal; floats that differ
are judged too.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from compare.contract.calls import Graph
from compare.errors import first_line
from compare.passes.forward import ForwardPass
from compare.passes.inputs import Values, tensors
from compare.passes.passes import Passes
from compare.proof.bits import compare_bits, mismatch, place, real_view, same_bits
from compare.proof.bounds import Bound
from compare.proof.interpreter import evaluate
from compare.proof.judge import OPAQUE_SLACK, judge
from compare.proof.lifted_pair import LiftedPair
from compare.proof.pair import Pair
from compare.proof.program import Key, Opaque, Program, operation
from compare.proof.rounding import bounds_for, share_of_rounding
from compare.proof.trace import trace, try_trace
from compare.proof.verdict import UNDECIDED, WRONG, Verdict
from compare.report.contract_line import BROKEN, NOT_SHOWN

_FORWARD = "{} by hand, {} by forward"


class NotKept(Exception):
    """A line of the contract is not kept; the message is its text in the report."""

    outcome: str


class Broken(NotKept):
    """A call gave wrong values; the message says which."""

    outcome = BROKEN


class NotShown(NotKept):
    """A call gave different values, and it could not be decided whether by rounding."""

    outcome = NOT_SHOWN


@dataclass(frozen=True)
class CallComparison:
    """Comparison of other calls with the main call of a check, and with its two programs."""

    passes: Passes

    def compare_call(
        self, values: Values, equivalent: Values | None,
        cotangents: Sequence[Tensor] | None = None, none: Collection[str] = (),
        passed: Sequence[Tensor] | None = None,
    ) -> str:  # fmt: skip
        """Compare a call's values with an equivalent call, and where they differ with autograd.

        Args:
            values: The values of the call, by name.
            equivalent: Those of a call that has to give the same; None if there is none.
            cotangents: Those of the call, one for each output; None for the cotangents of the
                check.
            none: Names of the gradients that the call returned as None; `values` has zeros.
            passed: The cotangents of the check in the layout in which the call had them.

        Returns:
            A remark for the report, mostly "".

        Raises:
            Broken: A value is WRONG.
            NotShown: A value is UNDECIDED.
        """
        if equivalent is not None and all(
            same_numbers(value, equivalent[key]) for key, value in values.items()
        ):
            return ""
        if passed is not None and self._is_its_program(values, passed):
            return ""
        passes = self.passes if cotangents is None else self.passes.with_cotangents(cotangents)
        if equivalent is not None and self._within_rounding(passes, values, equivalent):
            return ""
        # An output with the numbers of the main call has been judged already.
        judged = [k for k in passes.outputs if same_numbers(values[k], self.passes.manual[k])]
        values = {key: value for key, value in values.items() if key not in judged}
        try:
            autograd = passes.autograd(values)
        except Exception as error:  # the reference may contain a Function of the user's
            raise NotShown(f"autograd raises {first_line(error)}") from error
        for key, value in values.items():
            if problem := mismatch(value, autograd[key]):
                raise Broken(f"{key}: {problem}")
        # 0/0 for a cotangent of 0 shows no fault if autograd has it too.
        nans = {key: value.isnan() & autograd[key].isnan() for key, value in values.items()}
        nans = {key: both for key, both in nans.items() if bool(both.any())}
        manual, reference = (
            {k: v.masked_fill(nans[k], 0) if k in nans else v for k, v in side.items()}
            for side in (values, {key: autograd[key] for key in values})
        )
        different = [k for k, value in manual.items() if not same_numbers(value, reference[k])]
        if different:
            pair = passes.pair(manual, reference)
            verdicts = call_verdicts(pair, different, passes.forward, traced=not nans)
            raise_for(verdicts, manual, reference, none=none)
        counts = (f"{int(both.sum())} of {both.numel()} of {k}" for k, both in nans.items())
        return f"NaN on both sides, not checked: {', '.join(counts)}" if nans else ""

    def _is_its_program(self, values: Values, cotangents: Sequence[Tensor]) -> bool:
        """Return whether the traced operations, on cotangents of the same numbers, give these bits.

        The main call has judged these operations on these numbers. A kernel may round them
        differently in another layout. Operations that read memory by strides are another matter.
        """
        passes = self.passes.with_cotangents(cotangents)
        program = passes.manual_program
        if isinstance(program, Opaque) or any(
            "as_strided" in operation(node) for node in program.graph.nodes
        ):
            return False
        try:
            with torch.no_grad():
                replayed = evaluate(program, tensors(passes.backward.arguments))
        except RuntimeError:  # a view that only the main call's layout allows
            return False
        return all(
            key in replayed and same_bits(real_view(value), replayed[key])
            for key, value in values.items()
        )

    def _within_rounding(self, passes: Passes, values: Values, equivalent: Values) -> bool:
        """Return whether two equivalent calls differ by no more than both can round.

        The rounding bound decides this before anything is computed exactly: the main call has shown
        the formula. Values that differ by more, or have no bound, are judged like any gradient.
        """
        program = passes.manual_program
        different = {
            key: (real_view(value), real_view(equivalent[key]))
            for key, value in values.items()
            if not same_numbers(value, equivalent[key])
        }
        if isinstance(program, Opaque) or any(mismatch(*both) for both in different.values()):
            return False
        pair = passes.pair(values, values)
        errors = _errors(pair, program, pair.manual_floats)
        return all(
            key in errors and bool((share_of_rounding(*both, 2 * errors[key]) <= 1).all())
            for key, both in different.items()
        )


def verdicts_on(pair: Pair, names: Sequence[str]) -> dict[str, Verdict]:
    """Return the verdicts on these quantities, up to the first WRONG one."""
    proofs = judge(pair, names, brief=True, stop_at_first_wrong=True)
    return {name: proof.verdict for name, proof in proofs.items()}


def call_verdicts(
    pair: Pair, names: Sequence[str], forward: ForwardPass, *, traced: bool
) -> dict[str, Verdict]:
    """Return the verdicts on the values of another call.

    They are judged first by the operations traced in the main call. Another call may take other
    operations; what fails is judged again as code that cannot be traced, and is then WRONG only
    beyond the wider bound for such code.

    Args:
        pair: The values of the call, and autograd's.
        names: The quantities that differ.
        forward: The reference, of which a program is traced if `pair` has none.
        traced: Whether the traced operations apply; not if values are NaN on both sides.
    """
    verdicts = verdicts_on(pair, names) if traced else {}
    open_names = [name for name in names if verdicts.get(name, WRONG) in (WRONG, UNDECIDED)]
    if isinstance(pair.reference, Opaque) or not traced:
        beyond = beyond_bound(pair, forward, open_names)
        return dict.fromkeys(open_names, UNDECIDED) | verdicts | beyond
    if open_names:
        opaque = replace(pair, manual_program=Opaque("it was traced in another call"))
        verdicts |= verdicts_on(opaque, open_names)
    return verdicts


def beyond_bound(pair: Pair, forward: ForwardPass, names: Sequence[str]) -> dict[str, Verdict]:
    """Return WRONG for the values that differ by over OPAQUE_SLACK times the rounding bound."""
    program = pair.reference
    if isinstance(program, Opaque) and names:
        try:
            program = trace(forward.reference, forward.arguments)
        except Opaque:
            return {}
    errors = _errors(pair, program, pair.inputs)
    verdicts = {}
    for name in names:
        if name in errors:
            bound = (OPAQUE_SLACK * errors[name]).nan_to_num(nan=torch.inf)
            shares = share_of_rounding(pair.manual[name], pair.autograd[name], bound)
            if bool((shares[bound.isfinite()] > 1).any()):
                verdicts[name] = WRONG
    return verdicts


def _errors(pair: Pair, program: Program | Opaque, inputs: Values) -> dict[Key, Tensor]:
    """Return a program's rounding bounds, each computed from the by-hand floats above it."""
    with torch.no_grad():
        lifted = LiftedPair(pair).lift_locally(program, bounds_for(program, inputs.values()))
    bounds = {key: output.numbers for key, output in lifted.items()}
    return {key: bound.error for key, bound in bounds.items() if isinstance(bound, Bound)}


def raise_for(
    verdicts: Mapping[str, Verdict], manual: Values, reference: Values,
    wording: str = "{} by hand, {} by autograd", none: Collection[str] = (),
) -> None:  # fmt: skip
    """Raise Broken if a verdict is WRONG, else NotShown if one is UNDECIDED.

    Args:
        verdicts: Name -> verdict.
        manual: Name -> value of the call.
        reference: Name -> value that it was compared with.
        wording: How the two values are named in the message.
        none: Names of the gradients that the call returned as None.
    """
    for name, verdict in verdicts.items():
        if verdict == WRONG:
            text = difference(name, manual[name], reference[name], wording)
            raise Broken(f"{name} is None, but autograd's is not 0" if name in none else text)
    for name, verdict in verdicts.items():
        if verdict == UNDECIDED:
            text = difference(name, manual[name], reference[name], wording)
            raise NotShown(f"{text}, and this could not be shown to be rounding")


def difference(name: str, manual: Tensor, reference: Tensor, wording: str) -> str:
    """Return a text on the element that differs most, with as many digits as show the difference.

    Args:
        name: Of the quantity.
        manual: Its value in the call.
        reference: The value that it was compared with, of the same shape.
        wording: How the two numbers are named, such as "{} by hand, {} by autograd".
    """
    if real_view(manual).is_floating_point() and manual.dtype == reference.dtype:
        worst = compare_bits(manual, reference).worst
        assert worst is not None
        one, other, index = worst.manual, worst.autograd, worst.index
    else:
        index = tuple((manual != reference).nonzero()[0].tolist())
        one, other = manual[index].item(), reference[index].item()
    digits = f"{one:.6g}", f"{other:.6g}"
    if digits[0] == digits[1]:
        digits = repr(one), repr(other)
    at = f" at {place(index, of_complex=len(index) > manual.ndim)}" if index else ""
    return f"{name} differs{at} ({wording.format(*digits)})"


def same_numbers(one: Tensor, other: Tensor) -> bool:
    """Return whether shape, dtype and numbers are the same; NaN equals NaN, and 0.0 equals -0.0."""
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    return same_bits(one, other) or equal(one, other)


def equal(one: Tensor, other: Tensor) -> bool:
    """Return whether two tensors of one shape hold the same numbers; NaN equals NaN."""
    if one.is_complex() and other.is_complex():
        one, other = real_view(one), real_view(other)
    same = one == other
    if one.is_floating_point() and other.is_floating_point():
        same |= one.isnan() & other.isnan()
    return bool(same.all())


def compare_other_outputs(passes: Passes, graph: Graph) -> str | None:
    """Compare the outputs of a call that need no gradient, in order; return None if it has none.

    Raises:
        Broken: An output is WRONG, or has another shape than that of forward.
        NotShown: An output cannot be compared, or is UNDECIDED.
    """
    forward, manual = passes.forward, graph.other_outputs()
    if not manual:
        return None
    expected = _other_outputs_of(forward.function, forward.copies(forward.inputs))
    if len(expected) != len(manual):
        how = f"returns {len(expected)} such" if expected else "does not return it"
        raise NotShown(f"{', '.join(manual)} not checked: forward {how}")
    reference = dict(zip(manual, expected, strict=True))
    floats: list[str] = []
    for name, value in manual.items():
        other = reference[name]
        if value.shape != other.shape:
            raise Broken(f"{name}: shape {tuple(value.shape)}, forward's {tuple(other.shape)}")
        if not equal(value, other):
            if not all(real_view(one).is_floating_point() for one in (value, other)):
                raise Broken(difference(name, value, other, _FORWARD))
            floats.append(name)
    for name in floats:
        if problem := mismatch(manual[name], reference[name], "for forward"):
            raise NotShown(f"{name}: {problem}, and different numbers")
    if floats:
        pair = _pair(
            passes,
            list(manual),
            {name: manual[name] for name in floats},
            {name: reference[name] for name in floats},
        )
        raise_for(verdicts_on(pair, floats), manual, reference, _FORWARD)
    return ""


def _pair(passes: Passes, names: list[str], manual: Values, reference: Values) -> Pair:
    """Return both forward passes, traced for their outputs that need no gradient."""
    forward = passes.forward

    def by_hand(**inputs: Any) -> dict[str, Tensor]:
        return Graph(passes.backward, inputs, leaves=forward.leaves).other_outputs()

    def by_forward(**inputs: Any) -> dict[str, Tensor]:
        outputs = _other_outputs_of(forward.function, forward.copies(inputs))
        return dict(zip(names, outputs, strict=True))

    inputs = {k: v.detach() if isinstance(v, Tensor) else v for k, v in forward.inputs.items()}
    traced = isinstance(passes.manual_program, Program)  # inputs that are too large are not traced
    return Pair(
        manual_program=try_trace(by_hand, inputs) if traced else passes.manual_program,
        reference=try_trace(by_forward, inputs) if traced else passes.reference,
        entries=passes.entries,
        inputs={key: real_view(value) for key, value in tensors(inputs).items()},
        manual_inputs={key: (real_view(value), None) for key, value in tensors(inputs).items()},
        manual={key: real_view(value) for key, value in manual.items()},
        autograd={key: real_view(value) for key, value in reference.items()},
        injected=(),
    )


def _other_outputs_of(function: Callable[..., Any], arguments: Mapping[str, Any]) -> list[Tensor]:
    """Return the outputs of forward that need no gradient."""
    with torch.enable_grad():
        result = function(**arguments)
    outputs = result if isinstance(result, tuple | list) else [result]
    return [v.detach() for v in outputs if isinstance(v, Tensor) and not v.requires_grad]
