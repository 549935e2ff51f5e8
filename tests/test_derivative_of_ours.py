"""The derivative of forward, against autograd through every row of the table and right passes."""

from typing import Any

import pytest
import torch
from torch import Tensor

import compare
from compare.passes.forward import ForwardPass
from compare.passes.inputs import tensors
from compare.proof.bits import real_view
from compare.proof.pair import Pair
from compare.proof.program import Program
from compare.proof.trace import try_trace
from compare.proof.witness import witnesses
from tests.operation_cases import CALLS, Call
from tests.tenth import unless_chosen
from tests.test_right_forms import FORMS

# Where autograd of torch 2.13 is not the derivative: ldexp with negative exponents, whose powers it
# rounds to whole numbers; the overwritten elements of the others.
FAULTS_OF_TORCH = {
    "ldexp", "as_strided_scatter", "index_reduce-amax-False", "index_reduce-amin-False"
}  # fmt: skip


def _forward_of(call: Call) -> Any:
    def forward(**inputs: Tensor) -> tuple[Tensor, ...]:
        results = call.run(**inputs)
        results = results if isinstance(results, tuple | list) else [results]
        return tuple(x for x in results if isinstance(x, Tensor) and x.requires_grad)

    return forward


def _autograd_twice(call: Call) -> Pair | None:
    """Return autograd as both sides of a pair, None if it cannot be: no gradient, no program."""
    leaves = {
        k: v.clone().requires_grad_(v.is_floating_point() or v.is_complex())
        for k, v in call.inputs.items()
    }
    try:
        forward = ForwardPass(_forward_of(call), leaves, 0)
        program = try_trace(forward.reference, forward.arguments)
        gradients = {k: real_view(v) for k, v in forward.gradients({}).items()}
    except (compare.BadInput, RuntimeError, AttributeError):
        return None
    inputs = {k: real_view(v) for k, v in tensors(forward.arguments).items()}
    return Pair(
        manual_program=program, reference=program, inputs=inputs,
        manual_inputs={k: (v, None) for k, v in inputs.items()}, manual=gradients,
        autograd=gradients, quantities_are_gradients=True, injected=[],
    )  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "call", [pytest.param(c, id=c.label, marks=unless_chosen(f"its {c.label}")) for c in CALLS]
)
def test_autograd_through_a_row_is_the_derivative(call: Call) -> None:
    pair = _autograd_twice(call)
    if pair is None or not isinstance(pair.reference, Program):
        return
    found = {name: witness.derivative for name, witness in witnesses(pair).items()}
    if call.label in FAULTS_OF_TORCH:
        assert "neither" in found.values(), found
    else:
        assert set(found.values()) <= {"both", None}, found


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=unless_chosen(f"derivative {name}")) for name in FORMS]
)
def test_a_right_form_is_the_derivative(name: str) -> None:
    form = FORMS[name]
    report = compare.check(form.backward, form.forward, form.at(torch.float64))
    assert {row.derivative for row in report.quantities.values()} <= {"both", None}, str(report)
    assert not report.reference_fault


def test_most_rows_are_decided() -> None:
    """Beside opaque calls and those without a gradient."""
    some = [call for call in CALLS if not unless_chosen(f"its {call.label}")]
    pairs = [pair for pair in map(_autograd_twice, some) if pair is not None]
    known = [w.derivative for p in pairs for w in witnesses(p).values()]
    assert len(known) > 40
    assert sum(one is not None for one in known) > 0.85 * len(known)
