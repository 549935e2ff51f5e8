"""`compare.check`: the verdict on anyone's own backward pass."""

from collections.abc import Callable, Collection, Mapping, Sequence
from copy import copy
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from compare.checking.second_inputs import SecondInputs
from compare.contract.ask import Contract
from compare.diagnosis.bitwise import rewritten
from compare.diagnosis.diagnosis import diagnose
from compare.environment import environment
from compare.errors import BadInput, unknown, whole
from compare.passes.backward import Backward, BackwardPass
from compare.passes.buffers import put_back
from compare.passes.forward import ForwardPass
from compare.passes.inputs import check_modes, how_much, numbered, tensors
from compare.proof.bits import compare_bits, mismatch
from compare.proof.following import following
from compare.proof.judge import judge
from compare.proof.pair import Lift, Pair
from compare.proof.program import Opaque, Program, read
from compare.proof.readings import Reading
from compare.proof.verdict import WRONG, Proof
from compare.proof.ways import Ways, own_ways, passed
from compare.report.contract_line import LINES, NOT_ASKED, Line, left_out
from compare.report.quantity import Place, Quantity
from compare.report.report import Report

Forward = Callable[..., Any]


def check(
    backward: Backward,
    forward: Forward,
    inputs: Mapping[str, Any] | Sequence[Any],
    *,
    seed: int = 0,
    lift: str | int = "auto",
    hold: Collection[str] = (),
    contract: Mapping[str, bool] | None = None,
    formula_ulps: float = 0.0,
) -> Report:
    """Judge `backward`, written by hand, by autograd through `forward` at `inputs`.

    `forward(...)` is differentiable torch code; `inputs` holds its arguments, by name or in order.
    `backward(...)` is given, by parameter name, whatever it asks for: `grad_output`, any input,
    any intermediate named with `compare.name`, `output`. It returns a dict name -> gradient, or a
    tuple in the order of the differentiable inputs: those with `requires_grad`, or every tensor of
    floats where none has it. It may be a `torch.autograd.Function`: its `apply` then runs both
    passes, and its output is judged as well. What stands above each output is drawn with `seed`;
    above a scalar it is 1 where `backward` does not ask for `grad_output`, and the report says so.

    `lift` says how much of a large matrix product is lifted: "all", a number of entries, "none" to
    lift nothing, or "auto": SAMPLE entries of those that would take seconds, and nothing of inputs
    with more than TOO_MANY elements.

    What is right is judged once more at inputs beside these, where the code is run and read again:
    some five more calls of each pass; where something is WRONG there as many again, and for each
    such quantity and each input that was moved, of 8 at most. Those in `hold` stay what they are.

    What is not WRONG is called in other ways, a line of the report each (`report.contract`):
    cotangents of stride 0, transposed, cut out of a larger tensor, zero and missing, twice on one
    graph, the inputs' own strides, some inputs alone, inputs and other outputs looked at.
    `contract={"twice": False}` names lines that are not asked. A Function's forward pass is called
    10 times for it and its backward pass 11 times, both once more for each of several outputs and
    each subset of up to 3 inputs (of more inputs for each), and once and twice more where backward
    gives other bits the second time; another function 8 times at most. Nothing is lifted where the
    numbers are those of an equal call.

    A formula of the user's own that is not autograd's, for a stabilising eps or an iteration that
    has converged, is accepted where the exact values are `formula_ulps` of their dtype apart at
    most; such a quantity is ROUNDING and the report says so.

    Buffers of modules that the passes hold, such as running statistics, are put back afterwards.

    Raises BadInput for what cannot be judged; exceptions of the user's own code pass through, but
    for those in the calls for the contract, which are told in its lines.
    """
    check_modes()
    with put_back(backward, forward):
        made = Check(backward, forward, inputs, seed, hold=hold, formula_ulps=formula_ulps)
        return made.report(lift, contract)


def assert_same(
    backward: Backward,
    forward: Forward,
    inputs: Mapping[str, Any] | Sequence[Any],
    *,
    demand: str = "rounding",
    seed: int = 0,
    lift: str | int = "auto",
    hold: Collection[str] = (),
    contract: Mapping[str, bool] | None = None,
    formula_ulps: float = 0.0,
) -> None:
    """Raise AssertionError with the report unless `check` finds EXACT or ROUNDING.

    `demand="exact"` insists on autograd's bits; the rest is as `check` has it.
    """
    __tracebackhide__ = True
    if demand not in ("exact", "rounding"):
        raise unknown("demand", demand, ("exact", "rounding"))
    report = check(
        backward, forward, inputs, seed=seed, lift=lift, hold=hold, contract=contract,
        formula_ulps=formula_ulps,
    )  # fmt: skip
    if not report.meets(demand):
        raise AssertionError(f"demand {demand!r} is not met\n{report}") from None


class Check:
    """One check: both passes, and the pair from them for the judge."""

    def __init__(
        self,
        backward: Backward,
        forward: Forward,
        inputs: Mapping[str, Any] | Sequence[Any],
        seed: int,
        grads: Sequence[Tensor] | None = None,
        hold: Collection[str] = (),
        formula_ulps: float = 0.0,
    ) -> None:
        self.seed = whole("seed", seed)
        if type(formula_ulps) not in (int, float) or not 0 <= formula_ulps <= 1e300:
            raise BadInput(f"formula_ulps is {formula_ulps!r}: give a number of ulps, 0 or more")
        self.formula_ulps = float(formula_ulps)
        self.forward = ForwardPass(forward, inputs, seed, grads)
        if isinstance(hold, str) or not isinstance(hold, Collection):
            raise BadInput(f"hold is {hold!r}: give the names of inputs, as in hold=('p',)")
        self.hold = frozenset(map(str, hold))
        known = [*self.forward.inputs, *self.forward.parameters]
        for label in self.hold - {*known}:
            raise unknown("input to hold", label, known)
        self.backward = BackwardPass(backward, self.forward)
        self.shared: dict[tuple[Reading, int], Lift] = {}  # by all that is judged at these inputs

    def report(self, lift: str | int, contract: Mapping[str, bool] | None = None) -> Report:
        """Run both sides, read both as programs, judge, and put it all together."""
        not_asked = left_out(contract)
        forward, backward = self.forward, self.backward
        off, entries = how_much(lift, [*forward.inputs.values(), *forward.values.values()])
        manual = self._by_hand()
        hand = off or self._hand()
        reference = off or read(forward.reference, forward.given)
        report = self.compared(manual, hand, reference, entries, beside=not off)
        if backward.by_identity:
            why = "by hand the inputs are asked for by identity"
            report.contract = tuple(Line(name, NOT_ASKED, why) for name in LINES)
        elif report.verdict != WRONG:
            kept = Contract(self, manual, hand, reference, entries)
            report.contract = kept.lines(not_asked)
        return report

    def under(self, grads: Sequence[Tensor]) -> "Check":
        """Return the same passes at the same inputs with other numbers above the outputs."""
        other = copy(self)
        other.forward, other.backward = copy(self.forward), copy(self.backward)
        other.forward.grads, other.backward.forward = [*grads], other.forward
        other.shared = {}
        return other

    def pair_read(self, entries: int | None) -> Pair:
        """Run both sides and read both as programs."""
        manual = self._by_hand()
        hand = self._hand()
        reference = read(self.forward.reference, self.forward.given)
        return self._both(manual, hand, reference, entries)[1]

    def _by_hand(self) -> dict[str, Tensor]:
        """Run the by-hand side, and note for which parameters it has gradients."""
        manual = self.backward.run()
        self.forward.judged = [label for label in self.forward.parameters if label in manual]
        return manual

    def _hand(self) -> Program | Opaque:
        """Read the by-hand side as a program."""
        if self.backward.by_identity:
            return Opaque(
                "it asks for the gradients of its own inputs by identity, so that no copies of "
                "them can be put in their place"
            )
        return read(self.backward, self.backward.given)

    def anew(self, inputs: Mapping[str, Any]) -> "Check":
        """Return the same check at other inputs."""
        return Check(
            self.backward.function, self.forward.function, inputs, self.seed, hold=self.hold,
            formula_ulps=self.formula_ulps,
        )  # fmt: skip

    def compared(
        self,
        manual: Mapping[str, Tensor],
        hand: Program | Opaque,
        reference: Program | Opaque,
        entries: int | None,
        *,
        brief: bool = False,
        beside: bool = False,
    ) -> Report:
        """Judge what the by-hand side gave, `manual`, with both programs; `brief` as judge has it.

        No remedy is looked for then, where nobody reads of it. What is right is judged `beside`
        the inputs too.
        """
        forward = self.forward
        autograd, pair = self._both(manual, hand, reference, entries)
        proofs = judge(pair, list(pair.manual), brief=brief, first=brief)
        if not brief and (ways := _ways_once_more(pair, proofs)):
            autograd, pair = self._both(manual, hand, reference, entries, ways)
            proofs = judge(pair, list(pair.manual))
        report = Report("check", {}, environment=environment(forward.outputs[0].device))
        for label, value in autograd.items():
            report.quantities[label] = quantity(label, manual.get(label), value)
        report.conditions = tuple(f"{label} = 1" for label in self.backward.ones) + autocast()
        report.not_judged = tuple(k for k in forward.parameters if k not in forward.judged)
        report.unnamed = tuple(label for label in forward.values if label not in manual)
        report.steps = 1
        report.follows = hand.follows() if isinstance(hand, Program) else {}
        if not brief:
            odd = [label for label in autograd if label in manual and label not in pair.manual]
            proofs = rewritten(pair, diagnose(pair, proofs, odd))
        for label, proof in proofs.items():
            report.quantities[label].proof = proof
        if beside and report.verdict != WRONG:
            proofs, report.beside = SecondInputs(self, pair).judged(proofs)
            for label, proof in proofs.items():
                report.quantities[label].proof = proof
        return report

    def pair(
        self,
        manual: Mapping[str, Tensor],
        autograd: Mapping[str, Tensor],
        hand: Program | Opaque,
        reference: Program | Opaque,
        entries: int | None,
        ways: Ways | None = None,
    ) -> Pair:
        """Return both passes at these inputs, of what each gave only what can be compared."""
        forward, given = self.forward, tensors(self.backward.given)
        judged = [
            label
            for label, value in autograd.items()
            if label in manual and mismatch(manual[label], value) is None
        ]
        pair = Pair(
            hand=hand,
            reference=reference,
            entries=entries,
            inputs=tensors(forward.given),
            given={key: (value, forward.counterpart(key)) for key, value in given.items()},
            manual={label: manual[label] for label in judged},
            autograd={label: autograd[label] for label in judged},
            gradients=True,
            replaced=[label for label in forward.values if label in judged],
            formula_ulps=self.formula_ulps,
            ways=ways or {},
            numbers={k: v for k, v in forward.inputs.items() if isinstance(v, float)},
            maker=partial(self._at, hand, reference, entries),
            shared=self.shared,
        )
        return following(pair)

    def _both(
        self,
        manual: Mapping[str, Tensor],
        hand: Program | Opaque,
        reference: Program | Opaque,
        entries: int | None,
        ways: Ways | None = None,
    ) -> tuple[dict[str, Tensor], Pair]:
        """Return autograd's values, each along the by-hand side's own way, and the pair."""
        if ways is None:
            ways = own_ways(hand, reference, [k for k in self.forward.values if k in manual])
        autograd = self._autograd(manual)
        for way in {*ways.values()}:
            along = self.forward.gradients(manual, way)
            autograd |= {name: along[name] for name, its in ways.items() if its == way}
        return autograd, self.pair(manual, autograd, hand, reference, entries, ways)

    def _autograd(self, manual: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return autograd's values in the order of computation, a Function's outputs first."""
        outputs = self.forward.outputs if self.backward.is_function else []
        found = dict(zip(numbered("output", outputs), outputs, strict=True)) if outputs else {}
        return {**found, **self.forward.gradients(manual)}

    def _at(
        self,
        hand: Program | Opaque,
        reference: Program | Opaque,
        entries: int | None,
        inputs: Mapping[str, Tensor],
    ) -> Pair:
        """Return both passes at other inputs, run there and not read again."""
        forward = self.forward
        moved = {key: inputs.get(key, value) for key, value in forward.inputs.items()}
        for key in forward.leaves:
            moved[key] = moved[key].detach().requires_grad_()
        other = Check(self.backward.function, forward.function, moved, self.seed + 1)
        manual = other._by_hand()
        return other.pair(manual, other._autograd(manual), hand, reference, entries)


def _ways_once_more(pair: Pair, proofs: Mapping[str, Proof]) -> Ways:
    """Return the ways with those that are right if the WRONG gradient above was worked out twice.

    A quantity may go on from the value that was given for z, and not from that tensor: then it
    follows z after all.
    """
    wrong = {name for name, proof in proofs.items() if proof.verdict == WRONG}
    twice = {
        name: pair.ways[name] | above
        for name in wrong & pair.ways.keys()
        if isinstance(pair.reference, Program)
        and (above := passed(pair.reference, name, pair.ways[name], pair.replaced or ())) & wrong
    }
    if not twice:
        return {}
    again = judge(replace(pair, ways={**pair.ways, **twice}), list(pair.manual), brief=True)
    right = {name: way for name, way in twice.items() if again[name].verdict != WRONG}
    return {**pair.ways, **right} if right else {}


def autocast() -> tuple[str, ...]:
    """Return the dtype that torch.autocast rounds to where it is on, for the report."""
    kinds = [kind for kind in ("cpu", "cuda") if torch.is_autocast_enabled(kind)]
    dtypes = [str(torch.get_autocast_dtype(kind)).removeprefix("torch.") for kind in kinds]
    return tuple(f"torch.autocast to {dtype}" for dtype in dict.fromkeys(dtypes))


def quantity(label: str, manual: Tensor | None, autograd: Tensor) -> Quantity:
    """Return one quantity with its bits compared; `manual` is None where it is missing."""
    row = Quantity(label, tuple(autograd.shape), str(autograd.dtype).removeprefix("torch."))
    if manual is None:
        row.problem = (
            "missing by hand: return its gradient (None for zero), or say which inputs need one "
            "with requires_grad=True"
        )
        return row
    row.problem = mismatch(manual, autograd)
    if row.problem:
        return row
    found = compare_bits(manual, autograd)
    row.compared, row.equal, row.nans, row.max_ulp = (
        found.total, found.equal, found.nans, found.max_ulp,
    )  # fmt: skip
    if found.worst:
        worst = found.worst
        row.worst = Place(None, None, worst.index, worst.manual, worst.autograd)
    return row
