"""`compare.check` and `compare.assert_same`: the verdict on a user's own backward pass."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor

from compare.budget import Pieces, in_any_case, seconds, within
from compare.checking.by_numbers import judged_by_numbers
from compare.checking.derivative import (
    DERIVATIVE,
    Derivative,
    check_reference,
    undecided_without,
    with_derivative,
)
from compare.checking.row_blocks import in_blocks_of_rows
from compare.checking.second_inputs import SecondInputs
from compare.checking.smaller_inputs import SmallerInputs, at_smaller_inputs
from compare.contract.contract import Contract
from compare.diagnosis.bit_exact_search import suggest_rewrites
from compare.diagnosis.diagnosis import diagnose
from compare.environment import environment
from compare.errors import unknown
from compare.passes.backward import Backward
from compare.passes.buffers import restored_buffers
from compare.passes.inputs import Forward, Inputs, check_modes
from compare.passes.passes import Passes
from compare.progress import stage
from compare.progress_bar import shown_on_terminal
from compare.proof.bits import same_bits
from compare.proof.judge import judge
from compare.proof.pair import Bypasses, Pair, bypassed_gradients
from compare.proof.program import Program
from compare.proof.verdict import EXACT, UNDECIDED, WRONG, OtherInputs, Proof
from compare.report.contract_line import LINES, NOT_ASKED, OUT_OF_TIME, Line, left_out
from compare.report.quantity import Quantity
from compare.report.report import DEMANDS, Report


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
    budget: float | None = None,
    reference: str | None = None,
) -> Report:
    """Check a hand-written `backward` against autograd through `forward`, at `inputs`.

    Every gradient that `backward` returns is a quantity of the report, with a verdict and its
    proof. What is not WRONG is checked again at other inputs (`report.beside`) and by other calls
    of `backward`, such as one with zero cotangents (`report.contract`).

    Args:
        backward: The pass under test, a function or a `torch.autograd.Function`. A function
            declares by parameter name which values it needs: `grad_output` (the cotangent, of the
            output's shape), `output`, any input, any intermediate named with `compare.name`; of
            several outputs `grad_output` and `output` are tuples. It returns a dict
            name -> gradient, or a tuple in the order of the differentiable inputs; each gradient
            has the shape and dtype of its tensor, and None stands for zero. A gradient may be an
            array of NumPy's. Of a Function, `apply` runs both passes, and its outputs are checked
            as well.
        forward: Differentiable torch code, a function or an `nn.Module`, that returns a tensor or
            a tuple of tensors. It has to give the same result each time it is called.
        inputs: The arguments of `forward`, tensors of any shape and other values: a dict by
            parameter name, a tuple in order, or one tensor. NumPy's arrays become tensors, and
            `backward` is then called with arrays. Differentiable inputs are those with
            `requires_grad=True`, or every floating-point or complex tensor if none has it.
        seed: Seed of the cotangents, one for each output and of its shape. The cotangent of a
            scalar output is 1 if `backward` does not take `grad_output`; the report then says
            `for grad_output = 1`.
        lift: How many entries of a large matrix product are computed exactly: "all", a number,
            "none" (compare bits only), or "auto": all in wide arithmetic, 10,000 entries of a
            product that would take FLINT seconds, and none if inputs and intermediates have more
            than 50,000,000 elements.
        hold: Names of inputs and parameters that keep their values in the check at other inputs.
        contract: `{"twice": False}` leaves out the line "twice" of the contract. The lines are
            stride 0, transposed, zero, missing, twice, strides, subsets, inputs untouched and
            other outputs.
        formula_ulps: By how many ulps of their dtype the exact values of two different formulas
            may differ and still be accepted, for a stabilising eps or a converged iteration. An
            accepted quantity is ROUNDING, and the report says so.
        budget: About how many seconds the check may take; None for as long as it takes. Your code
            is called, and bits are compared, in any case. A formula that is not compared in time
            leaves its quantity UNDECIDED, or EXACT by its bits alone; other inputs and calls of the
            contract that are left out are named in the first line and in `report.left_out`.
        reference: What is right where `forward` cuts autograd's graph by detach, no_grad, .data or
            a custom Function, so that autograd does not give the derivative of `forward`:
            "autograd" or "derivative". None: a gradient that is the derivative is UNDECIDED there.

    Returns:
        The report. `report.verdict` is that of the worst quantity, `report.first_wrong` the name
        of the first WRONG one, and `report.ok` tells whether all are EXACT or ROUNDING.

    Raises:
        BadInput: An argument cannot be used; one line names it and the cure. Exceptions of
            `forward` and `backward` pass through, except in the calls for the contract, whose
            lines report them.

    The code under test is called often. At other inputs: about five more calls of each pass; if a
    quantity is WRONG there, as many again, and as many for each such quantity and each input that
    was changed, for 8 inputs at most. For the contract: 10 calls of a Function's forward pass and
    11 of its backward pass; one more of both for each of several outputs and for each subset of up
    to 3 inputs (of more inputs, for each input); and one forward and two backward calls more if
    the second backward pass on one graph gives different bits. A plain function: 8 calls at most.
    A call of the contract whose numbers equal those of an equivalent call is not computed exactly
    again.

    Buffers of modules that the passes use, such as running statistics, are restored afterwards.

    Example:
        >>> import torch
        >>> import compare
        >>> def forward(x, w):
        ...     return torch.sigmoid(compare.name(x @ w, "z"))
        >>> def backward(grad_output, output, x, w):
        ...     dz = grad_output * output  # the derivative is output * (1 - output)
        ...     return {"z": dz, "x": dz @ w.mT, "w": x.mT @ dz}
        >>> x = torch.tensor([[0.5, -1.0], [2.0, 0.25], [-0.75, 1.5]])
        >>> w = torch.tensor([[1.0], [-0.5]])
        >>> report = compare.check(backward, forward, {"x": x, "w": w})
        >>> report.verdict, report.first_wrong
        ('WRONG', 'z')
        >>> report.quantities["w"].verdict  # it follows correctly from the wrong z
        'EXACT'
    """
    limit = seconds(budget)
    check_reference(reference)
    check_modes()
    with shown_on_terminal(), restored_buffers(backward, forward), within(limit):
        passes = Passes(
            backward, forward, inputs, seed, hold=hold, formula_ulps=formula_ulps, lift=lift
        )
        excluded = left_out(contract)
        pieces = Pieces()
        report, passes = _report(passes, pieces, reference)
        why = ""
        if passes.backward.differentiates_inputs:
            why = "the by-hand side differentiates its own input tensors"
        elif report.reference_fault and report.verdict != WRONG:
            why = "autograd is not the derivative of forward"
        elif any(row.proof and row.proof.kinks for row in report.quantities.values()):
            why = "autograd has another subgradient"
        if why:
            report.contract = tuple(Line(name, NOT_ASKED, why) for name in LINES)
        elif report.verdict != WRONG:
            report.contract = Contract(passes).lines(excluded)
            late = [line.name for line in report.contract if line.text == OUT_OF_TIME]
            pieces.left_out += [f"the contract ({', '.join(late)})"] if late else []
        report.budget, report.left_out = limit, tuple(pieces.left_out)
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
    budget: float | None = None,
    reference: str | None = None,
) -> None:
    """Raise AssertionError with the report unless `check` gives a verdict that meets `demand`.

    The message begins with the verdict and what it rests on; the report follows.

    Args:
        backward: The pass under test, as for `check`.
        forward: Differentiable torch code, as for `check`.
        inputs: The arguments of `forward`, tensors of any shape, as for `check`.
        demand: "rounding" accepts EXACT and ROUNDING; "exact" accepts EXACT alone, the bits of
            autograd; "within" also accepts WITHIN, a verdict by numbers.
        seed: Seed of the cotangents.
        lift: How many entries of a large matrix product are computed exactly, as for `check`.
        hold: Names of inputs and parameters that keep their values in the check at other inputs.
        contract: Lines of the contract to leave out, as for `check`.
        formula_ulps: Difference of two formulas that is accepted, in ulps, as for `check`.
        budget: About how many seconds the check may take, as for `check`.
        reference: "autograd" or "derivative", as for `check`.

    Returns:
        None: the demand is met.

    Raises:
        AssertionError: The verdict does not meet `demand`.
        BadInput: An argument cannot be used; one line names it and the cure.

    Example:
        >>> import torch
        >>> import compare
        >>> x = torch.tensor([0.5, -1.0, 2.0])
        >>> def square(x):
        ...     return x * x
        >>> compare.assert_same(lambda grad_output, x: (2 * x * grad_output,), square, (x,))
        >>> compare.assert_same(lambda grad_output, x: (x * grad_output,), square, (x,))
        Traceback (most recent call last):
        ...
        AssertionError: WRONG: x is the first wrong quantity (demand 'rounding')
        ...
    """
    __tracebackhide__ = True
    if demand not in tuple(DEMANDS):
        raise unknown("demand", demand, DEMANDS)
    report = check(
        backward, forward, inputs, seed=seed, lift=lift, hold=hold, contract=contract,
        formula_ulps=formula_ulps, budget=budget, reference=reference,
    )  # fmt: skip
    if not report.meets(demand):
        finding = report.document()
        message = f"{finding.word}: {finding.claim} (demand {demand!r})"
        raise AssertionError(f"{message}\n{report}") from None


@dataclass
class _Judged:
    """Both passes at the given inputs, judged.

    Attributes:
        autograd: Autograd's values.
        pair: Both sides' values; of smaller inputs, where no others are in memory.
        proofs: The proof of each quantity.
        small: The smaller inputs at which the formulas were compared, None for the given ones.
        blocks: The blocks of rows that were bounded, in words; "" if there are none.
        derivative: What the derivative of forward says of each gradient, if it was asked.
    """

    autograd: Mapping[str, Tensor]
    pair: Pair
    proofs: dict[str, Proof]
    small: SmallerInputs | None = None
    blocks: str = ""
    derivative: Derivative = field(default_factory=lambda: Derivative({}))


def _report(passes: Passes, pieces: Pieces, reference: str | None) -> tuple[Report, Passes]:
    """Return the report on both passes at their inputs, and at other inputs unless WRONG.

    The passes to ask for the contract are returned too: those at smaller inputs, if the formulas
    were compared there.
    """
    forward, manual = passes.forward, passes.manual
    judged = _in_blocks(passes, pieces) or _at_given_inputs(passes, pieces, reference)
    if reference == DERIVATIVE:
        judged.proofs = undecided_without(judged.derivative, judged.proofs)
    pair, small = judged.pair, judged.small
    report = Report("check", {}, environment=environment(forward.outputs[0].device), steps=1)
    for name, value in judged.autograd.items():
        row = report.quantities[name] = Quantity.of(name, manual.get(name), value)
        row.proof = judged.proofs.get(name)
        if witness := judged.derivative.found.get(name):
            row.derivative, row.derivative_digits = witness.derivative, witness.digits
            row.derivative_unknown = witness.why
    report.reference_fault = judged.derivative.fault
    report.conditions = tuple(f"{name} = 1" for name in passes.backward.unit_cotangents)
    report.conditions += (*autocast(), *judged.derivative.surrogates)
    report.not_judged = tuple(k for k in forward.parameters if k not in forward.checked_parameters)
    report.unnamed = tuple(name for name in forward.intermediates if name not in manual)
    report.follows = (
        pair.manual_program.descendants() if isinstance(pair.manual_program, Program) else {}
    )
    if small:
        report.smaller = "; ".join(filter(None, [small.words(passes), judged.blocks]))
    if report.verdict != WRONG and (small or not passes.not_lifted):
        with stage("at other inputs"):
            proofs, report.beside = pieces.do(
                "the check at other inputs", lambda: _at_other_inputs(passes, judged),
                (judged.proofs, OtherInputs()),
            )  # fmt: skip
        for name, proof in proofs.items():
            report.quantities[name].proof = proof
    return report, small.passes if small else passes


def _in_blocks(passes: Passes, pieces: Pieces) -> _Judged | None:
    """Judge passes that are too large to be judged at once; None if they are not, or no batch."""
    if not passes.is_too_large:
        return None
    blocks = pieces.do("bounds in blocks of rows", lambda: in_blocks_of_rows(passes), None)
    if blocks is None:
        return None
    small = blocks.small
    return _Judged(blocks.autograd, small.pair, blocks.proofs, small, blocks.words)


def _at_given_inputs(passes: Passes, pieces: Pieces, reference: str | None) -> _Judged:
    """Judge bits, formulas and bounds; the formulas at smaller inputs, where these are large."""
    with stage("running and recording both passes"):
        manual = passes.manual
        autograd, pair = passes.with_autograd(manual, passes.manual_program)
    names = list(pair.manual)
    small = pieces.do("", lambda: at_smaller_inputs(passes, pair), None)
    if small:
        there = small.proofs
        proofs = pieces.do("", lambda: judge(pair, names, elsewhere=there), dict[str, Proof]())
        if proofs and all(proof.verdict != UNDECIDED for proof in proofs.values()):
            wrong = any(proof.verdict == WRONG for proof in proofs.values())
            piece = "the search for a fix" * wrong
            proofs = pieces.do(piece, lambda: diagnose(pair, proofs, []), proofs)
            return _Judged(autograd, pair, proofs, small)
    known: dict[str, Proof] = {}
    pieces.do("formulas", lambda: judge(pair, names, proofs=known), known)
    proofs = {name: known.get(name) or _not_compared(pair, name) for name in names}
    nothing: Bypasses = {}
    bypasses = pieces.do("", lambda: _without_recomputations(pair, proofs), nothing)
    if bypasses:
        autograd, other = passes.with_autograd(manual, passes.manual_program, bypasses)
        pair, unchanged = other, proofs
        proofs = pieces.do("formulas", lambda: judge(other, names), unchanged)
    proofs, derivative = _beside_derivative(passes, pair, proofs, pieces, reference)
    explained = _explained(passes, pair, proofs, autograd, pieces)
    for name in derivative.decided:  # no way to autograd's value is wanted
        explained[name] = replace(explained[name], diagnosis=None)
    return _Judged(autograd, pair, explained, derivative=derivative)


def _beside_derivative(
    passes: Passes, pair: Pair, proofs: dict[str, Proof], pieces: Pieces, reference: str | None
) -> tuple[dict[str, Proof], Derivative]:
    """Return the proofs, changed where the derivative of forward has a say, and what it says."""

    def work() -> tuple[dict[str, Proof], Derivative]:
        return with_derivative(pair, passes.forward, proofs, reference)

    if any(proof.verdict == WRONG for proof in proofs.values()):
        with in_any_case():  # autograd may be at fault, or at a kink
            return work()
    return pieces.do("the derivative of forward", work, (proofs, Derivative({})))


def _explained(
    passes: Passes, pair: Pair, proofs: dict[str, Proof], autograd: Mapping[str, Tensor],
    pieces: Pieces,
) -> dict[str, Proof]:  # fmt: skip
    """Return the proofs with verdicts by numbers, remedies, and code for autograd's bits."""
    misshapen = [name for name in autograd if name in passes.manual and name not in pair.manual]
    by_numbers = any(proof.obstacle for proof in proofs.values())
    wrong = any(proof.verdict == WRONG for proof in proofs.values())
    for piece, work in (
        ("judging by numbers" * by_numbers, lambda known: judged_by_numbers(passes, pair, known)),
        ("the search for a fix" * wrong, lambda known: diagnose(pair, known, misshapen)),
        ("", lambda known: suggest_rewrites(pair, known)),
    ):
        proofs = pieces.do(piece, partial(work, proofs), proofs)
    if pair.is_large:
        pair.forget()
    return proofs


def _not_compared(pair: Pair, name: str) -> Proof:
    """Return the proof of a quantity whose formula the budget left no time for."""
    same = same_bits(pair.manual[name], pair.autograd[name])
    why = "the time was up"
    if same and not pair.manual[name].isnan().any():
        return Proof(EXACT, f"formula not checked: {why}")
    return Proof(UNDECIDED, f"the formula was not compared: {why}")


def _at_other_inputs(passes: Passes, judged: _Judged) -> tuple[dict[str, Proof], OtherInputs]:
    """Return the proofs, WRONG for what is right only at the given inputs, and the remarks.

    Few rows may lose what the inputs visibly are, such as sums of 0 along a column. So smaller
    inputs decide only if all is right there and nothing was left out.
    """
    proofs, small = judged.proofs, judged.small
    if small is not None:
        there, beside = SecondInputs(small.passes, small.pair).judged(small.proofs)
        if passes.is_too_large:
            wrong = {k: v for k, v in there.items() if v.verdict == WRONG}
            return {**proofs, **wrong}, beside
        if beside == OtherInputs(True) and there == small.proofs:
            return proofs, beside
    decided = judged.derivative.decided  # autograd is no reference for these
    beside_autograd = {name: proof for name, proof in proofs.items() if name not in decided}
    if not beside_autograd:
        return proofs, OtherInputs()
    found, beside = SecondInputs(passes, judged.pair).judged(beside_autograd)
    return {**proofs, **found}, beside


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
    """Return the conditions that torch.autocast adds to a report: the dtypes that it rounds to."""
    kinds = [kind for kind in ("cpu", "cuda") if torch.is_autocast_enabled(kind)]
    dtypes = [str(torch.get_autocast_dtype(kind)).removeprefix("torch.") for kind in kinds]
    return tuple(f"torch.autocast to {dtype}" for dtype in dict.fromkeys(dtypes))
