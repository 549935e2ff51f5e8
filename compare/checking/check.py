"""`compare.check`: the verdict on anyone's own backward pass."""

from collections.abc import Collection, Mapping
from dataclasses import replace

import torch

from compare.checking.second_inputs import SecondInputs
from compare.contract.contract import Contract
from compare.diagnosis.bit_exact_search import suggest_rewrites
from compare.diagnosis.diagnosis import diagnose
from compare.environment import environment
from compare.errors import unknown
from compare.passes.backward import Backward
from compare.passes.buffers import put_back
from compare.passes.inputs import Forward, Inputs, check_modes
from compare.passes.passes import Passes
from compare.proof.judge import judge
from compare.proof.pair import Bypasses, Pair, bypassed_gradients
from compare.proof.program import Program
from compare.proof.verdict import WRONG, Proof
from compare.report.contract_line import LINES, NOT_ASKED, Line, left_out
from compare.report.quantity import Quantity
from compare.report.report import Report


def check(
    backward: Backward,
    forward: Forward,
    inputs: Inputs,
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
        passes = Passes(
            backward, forward, inputs, seed, hold=hold, formula_ulps=formula_ulps, lift=lift
        )
        not_asked = left_out(contract)
        report = _judged(passes)
        if passes.backward.by_identity:
            why = "by hand the inputs are asked for by identity"
            report.contract = tuple(Line(name, NOT_ASKED, why) for name in LINES)
        elif report.verdict != WRONG:
            report.contract = Contract(passes).lines(not_asked)
        return report


def assert_same(
    backward: Backward,
    forward: Forward,
    inputs: Inputs,
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


def _judged(passes: Passes) -> Report:
    """Judge both passes at their inputs, and what is right beside them too."""
    forward, off = passes.forward, passes.off
    manual = passes.manual
    autograd, pair = passes.compared(manual, passes.manual_program)
    proofs = judge(pair, list(pair.manual))
    if bypasses := _without_recomputations(pair, proofs):
        autograd, pair = passes.compared(manual, passes.manual_program, bypasses)
        proofs = judge(pair, list(pair.manual))
    odd = [label for label in autograd if label in manual and label not in pair.manual]
    proofs = suggest_rewrites(pair, diagnose(pair, proofs, odd))
    report = Report("check", {}, environment=environment(forward.outputs[0].device), steps=1)
    for label, value in autograd.items():
        row = report.quantities[label] = Quantity.of(label, manual.get(label), value)
        row.proof = proofs.get(label)
    report.conditions = tuple(f"{label} = 1" for label in passes.backward.ones) + autocast()
    report.not_judged = tuple(k for k in forward.parameters if k not in forward.judged)
    report.unnamed = tuple(label for label in forward.values if label not in manual)
    report.follows = (
        passes.manual_program.descendants() if isinstance(passes.manual_program, Program) else {}
    )
    if not off and report.verdict != WRONG:
        proofs, report.beside = SecondInputs(passes, pair).judged(proofs)
        for label, proof in proofs.items():
            report.quantities[label].proof = proof
    return report


def _without_recomputations(pair: Pair, proofs: Mapping[str, Proof]) -> Bypasses:
    """Return the bypasses after removing those that only recompute a WRONG gradient.

    A backward pass may compute the gradient of z twice, return one of the tensors and continue from
    the other. Its program bypasses z, but its values follow z. If nothing is removed, return {}.
    """
    assert pair.injected is not None
    wrong = {name for name, proof in proofs.items() if proof.verdict == WRONG}
    widened = {}
    for name in wrong & pair.bypasses.keys():
        used = pair.bypasses[name]
        if isinstance(pair.reference, Program):
            bypassed = bypassed_gradients(pair.reference, name, used, pair.injected)
            if bypassed & wrong:
                widened[name] = used | bypassed
    if not widened:
        return {}
    proofs = judge(
        replace(pair, bypasses={**pair.bypasses, **widened}), list(pair.manual), brief=True
    )
    right = {name: used for name, used in widened.items() if proofs[name].verdict != WRONG}
    return {**pair.bypasses, **right} if right else {}


def autocast() -> tuple[str, ...]:
    """Return the dtype that torch.autocast rounds to where it is on, for the report."""
    kinds = [kind for kind in ("cpu", "cuda") if torch.is_autocast_enabled(kind)]
    dtypes = [str(torch.get_autocast_dtype(kind)).removeprefix("torch.") for kind in kinds]
    return tuple(f"torch.autocast to {dtype}" for dtype in dict.fromkeys(dtypes))
