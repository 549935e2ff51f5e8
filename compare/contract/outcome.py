"""Is what another call gave right? Equal numbers are; others are judged like any gradient.

Only a WRONG one counts: how many digits are right is asked of the main call alone. Of a Function's
outputs that need no gradient, integers are equal or not; floats with other bits are judged too.
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
from compare.proof.bits import compare_bits, mismatch, same_bits
from compare.proof.bounds import Bound
from compare.proof.judge import OPAQUE_SLACK, judge
from compare.proof.lifted_pair import LiftedPair
from compare.proof.pair import Pair
from compare.proof.program import Key, Opaque, Program
from compare.proof.rounding import bounds_for, share_of_rounding
from compare.proof.trace import trace, try_trace
from compare.proof.verdict import UNDECIDED, WRONG, Verdict
from compare.report.contract_line import BROKEN, NOT_SHOWN

_FORWARD = "{} by hand, {} by forward"


class NotKept(Exception):
    """What came of a line that is not kept; the message says why."""

    outcome: str


class Broken(NotKept):
    """A call gave other values than it should; the message says which."""

    outcome = BROKEN


class NotShown(NotKept):
    """A call gave other numbers, and nothing says whether that is rounding."""

    outcome = NOT_SHOWN


@dataclass(frozen=True)
class Settled:
    """What the calls are compared with: the check's own call, and both programs as it read them."""

    passes: Passes

    def settle(
        self, found: Values, equal: Values | None, grads: Sequence[Tensor] | None = None,
        none: Collection[str] = (),
    ) -> str:  # fmt: skip
        """Compare what a call gave with an `equal` call, and where they differ with autograd.

        `grads` are what stood above the outputs where it is not the check's own, `none` the
        gradients that were None. Returns what is to be said though nothing is wrong.
        """
        if equal is not None and all(alike(value, equal[key]) for key, value in found.items()):
            return ""
        passes = self.passes if grads is None else self.passes.under(grads)
        if equal is not None and self._round_apart(passes, found, equal):
            return ""
        # an output that is the main call's has been judged
        known = [k for k in passes.outputs if alike(found[k], self.passes.manual[k])]
        found = {key: value for key, value in found.items() if key not in known}
        try:
            autograd = passes.autograd(found)
        except Exception as error:  # the reference may be someone's own Function too
            raise NotShown(f"autograd raises {first_line(error)}") from error
        for key, value in found.items():
            if why := mismatch(value, autograd[key]):
                raise Broken(f"{key}: {why}")
        # 0/0 below a gradient of 0 shows nothing where autograd has it too
        nans = {key: value.isnan() & autograd[key].isnan() for key, value in found.items()}
        nans = {key: both for key, both in nans.items() if bool(both.any())}
        mine, theirs = (
            {k: v.masked_fill(nans[k], 0) if k in nans else v for k, v in values.items()}
            for values in (found, {key: autograd[key] for key in found})
        )
        odd = [key for key, value in mine.items() if not alike(value, theirs[key])]
        if odd:
            pair = passes.pair(mine, theirs)
            verdicts = decided(pair, odd, passes.forward, as_read=not nans)
            decide(verdicts, mine, theirs, none=none)
        alike_ = (f"{int(both.sum())} of {both.numel()} of {k}" for k, both in nans.items())
        return f"NaN on both sides, not checked: {', '.join(alike_)}" if nans else ""

    def _round_apart(self, passes: Passes, found: Values, equal: Values) -> bool:
        """Whether two calls on equal numbers are no further apart than both can round.

        By the bound alone, before anything is lifted: the formula was shown of the check's own
        call, and what is further apart, or has no bound, is judged like any gradient.
        """
        manual_program = passes.manual_program
        odd = [key for key, value in found.items() if not alike(value, equal[key])]
        if isinstance(manual_program, Opaque) or any(
            mismatch(found[key], equal[key]) for key in odd
        ):
            return False
        pair = passes.pair(found, found)
        rooms = {
            key: 2 * error
            for key, error in _errors(pair, manual_program, pair.manual_floats).items()
        }
        return all(
            key in rooms
            and bool((share_of_rounding(found[key], equal[key], rooms[key]) <= 1).all())
            for key in odd
        )


def verdicts_on(pair: Pair, names: Sequence[str]) -> dict[str, Verdict]:
    """Return the verdicts on what is named, up to the first that is WRONG."""
    proofs = judge(pair, names, brief=True, stop_at_first_wrong=True)
    return {name: proof.verdict for name, proof in proofs.items()}


def decided(
    pair: Pair, names: Sequence[str], forward: ForwardPass, *, as_read: bool
) -> dict[str, Verdict]:
    """Return the verdicts on what another call gave.

    Other bits of the operations that were read are within their own rounding. Another call may do
    other operations, and is then WRONG only beyond the bound that code has which cannot be read.
    Where there are NaN on both sides nothing is taken `as_read`.
    """
    verdicts = verdicts_on(pair, names) if as_read else {}
    left = [name for name in names if verdicts.get(name, WRONG) in (WRONG, UNDECIDED)]
    if isinstance(pair.reference, Opaque) or not as_read:
        return dict.fromkeys(left, UNDECIDED) | verdicts | far(pair, forward, left)
    if left:
        unread = replace(pair, manual_program=Opaque("it was read in another call"))
        verdicts |= verdicts_on(unread, left)
    return verdicts


def far(pair: Pair, forward: ForwardPass, names: Sequence[str]) -> dict[str, Verdict]:
    """Return which values are WRONG by the bound alone, of what is not lifted."""
    program = pair.reference
    if isinstance(program, Opaque) and names:
        try:
            program = trace(forward.reference, forward.given)
        except Opaque:
            return {}
    errors = _errors(pair, program, pair.inputs)
    found = {}
    for name in names:
        if name in errors:
            room = (OPAQUE_SLACK * errors[name]).nan_to_num(nan=torch.inf)
            shares = share_of_rounding(pair.manual[name], pair.autograd[name], room)
            if bool((shares[room.isfinite()] > 1).any()):
                found[name] = WRONG
    return found


def _errors(pair: Pair, program: Program | Opaque, takes: Values) -> dict[Key, Tensor]:
    """Return by how much what a program gives may be off, each from the by-hand floats above it."""
    with torch.no_grad():
        lifted = LiftedPair(pair).lift_locally(program, bounds_for(program, takes.values()))
    bounds = {key: found.numbers for key, found in lifted.items()}
    return {key: bound.error for key, bound in bounds.items() if isinstance(bound, Bound)}


def decide(
    verdicts: Mapping[str, Verdict], mine: Values, theirs: Values,
    both: str = "{} by hand, {} by autograd", none: Collection[str] = (),
) -> None:  # fmt: skip
    """Raise Broken for what is WRONG, NotShown for what is UNDECIDED."""
    for name, verdict in verdicts.items():
        if verdict == WRONG:
            told = apart(name, mine[name], theirs[name], both)
            raise Broken(f"{name} is None, autograd's is not 0" if name in none else told)
    for name, verdict in verdicts.items():
        if verdict == UNDECIDED:
            told = apart(name, mine[name], theirs[name], both)
            raise NotShown(f"{told}, and this could not be shown to be rounding")


def apart(name: str, mine: Tensor, theirs: Tensor, both: str) -> str:
    """Return in words where two values are furthest apart, `both` to as many digits as show it."""
    if mine.is_floating_point() and mine.dtype == theirs.dtype:
        found = compare_bits(mine, theirs).worst
        assert found is not None
        one, other, index = found.manual, found.autograd, found.index
    else:
        index = tuple((mine != theirs).nonzero()[0].tolist())
        one, other = mine[index].item(), theirs[index].item()
    digits = f"{one:.6g}", f"{other:.6g}"
    if digits[0] == digits[1]:
        digits = repr(one), repr(other)
    place = f" at {list(index)}" if index else ""
    return f"{name} differs{place} ({both.format(*digits)})"


def alike(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors of one dtype hold the same numbers, or NaN in the same places."""
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    return same_bits(one, other) or equal(one, other)


def equal(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors of one shape hold the same numbers, or NaN in the same places."""
    same = one == other
    if one.is_floating_point() and other.is_floating_point():
        same |= one.isnan() & other.isnan()
    return bool(same.all())


def settle_others(passes: Passes, graph: Graph) -> str | None:
    """Compare the outputs of a call that need no gradient, in order; None where it has none.

    Raises Broken and NotShown.
    """
    forward, mine = passes.forward, graph.others()
    if not mine:
        return None
    theirs = _others_of(forward.function, forward.fresh(forward.inputs))
    if len(theirs) != len(mine):
        how = f"returns {len(theirs)} such" if theirs else "does not return it"
        raise NotShown(f"{', '.join(mine)} not checked: forward {how}")
    ones: dict[str, Tensor] = {}
    others: dict[str, Tensor] = {}
    for (name, one), other in zip(mine.items(), theirs, strict=True):
        if one.shape != other.shape:
            raise Broken(f"{name}: shape {tuple(one.shape)}, forward's {tuple(other.shape)}")
        if not equal(one, other):
            if not (one.is_floating_point() and other.is_floating_point()):
                raise Broken(apart(name, one, other, _FORWARD))
            ones[name], others[name] = one, other
    for name, one in ones.items():
        if why := mismatch(one, others[name], "for forward"):
            raise NotShown(f"{name}: {why}, and other numbers")
    if ones:
        pair = _pair(passes, list(mine), ones, others)
        decide(verdicts_on(pair, list(ones)), ones, others, _FORWARD)
    return ""


def _pair(passes: Passes, names: list[str], mine: Values, theirs: Values) -> Pair:
    """Return both forward passes, read for the outputs that need no gradient."""
    forward = passes.forward

    def by_hand(**given: Any) -> dict[str, Tensor]:
        return Graph(passes.backward, given, leaves=forward.leaves).others()

    def reference(**given: Any) -> dict[str, Tensor]:
        return dict(zip(names, _others_of(forward.function, forward.fresh(given)), strict=True))

    given = {k: v.detach() if isinstance(v, Tensor) else v for k, v in forward.inputs.items()}
    readable = isinstance(
        passes.manual_program, Program
    )  # what is too large is left unread here too
    return Pair(
        manual_program=try_trace(by_hand, given) if readable else passes.manual_program,
        reference=try_trace(reference, given) if readable else passes.reference,
        entries=passes.entries,
        inputs=tensors(given),
        manual_inputs={key: (value, None) for key, value in tensors(given).items()},
        manual=mine,
        autograd=theirs,
        injected=(),
    )


def _others_of(function: Callable[..., Any], arguments: Mapping[str, Any]) -> list[Tensor]:
    """Return the outputs of forward that need no gradient."""
    with torch.enable_grad():
        found = function(**arguments)
    outputs = found if isinstance(found, tuple | list) else [found]
    return [v.detach() for v in outputs if isinstance(v, Tensor) and not v.requires_grad]
