"""The reading of the code's numbers in which two passes are the same formula, if any."""

from collections.abc import Callable
from functools import reduce
from typing import Any

import pytest
import torch
from torch import Tensor

import compare
from compare.mutants.equivalence import EquivalenceTest
from compare.mutants.mutate import mutants
from compare.mutants.subjects import CheckSubject
from compare.passes.passes import Passes
from compare.proof.verdict import Proof

NUMBERS = (0.1, 0.2, 0.7, 0.9, 1.1, 1.3, 0.6)
TENTH, THREE_TENTHS = torch.tensor(0.1), torch.tensor(0.3)  # rounded to float32
RIGHT = ("EXACT", "ROUNDING")


def drawn(*shape: int, seed: int = 3, dtype: torch.dtype = torch.float32) -> Tensor:
    chance = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=chance, dtype=torch.float64).to(dtype)


def proof(report: compare.Report, name: str = "x") -> Proof:
    result = report.quantities[name].proof
    assert result is not None
    return result


def scaled(x: Tensor) -> Tensor:
    """Multiply by so many numbers that not all combinations of readings can be tried."""
    return reduce(torch.mul, NUMBERS, x)  # type: ignore[arg-type]


def judged(backward: Callable[..., Any], forward: Callable[..., Any], **inputs: Tensor) -> Any:
    inputs["x"] = inputs.get("x", drawn(3, 4)).requires_grad_()
    return compare.check(backward, forward, inputs)


def test_one_number_is_read_rounded_and_another_as_written() -> None:
    """The data hold 0.1 rounded to float32; the third is exactly 1/3."""
    report = judged(
        lambda grad_output, w: {"x": grad_output * w * (1 / 3)}, lambda x, w: x * 0.1 / 3, w=TENTH
    )
    assert report.verdict in RIGHT, str(report)
    assert "some numbers in the code as written and some rounded" in proof(report).text


@pytest.mark.parametrize(("off", "verdict"), [(1.001, "WRONG"), (1 + 2e-8, "UNDECIDED")])
def test_with_many_numbers_the_change_that_each_causes_is_counted(off: float, verdict: str) -> None:
    """No single ball decides: terms cancel in every reading (30,000 x - 30,000 x)."""

    def forward(x: Tensor) -> Tensor:
        return x * 0.3 * 1e5 - x * 0.3 * 1e5 + scaled(x)

    report = judged(lambda grad_output: {"x": scaled(grad_output) * off}, forward)
    assert report.verdict == verdict, str(report)
    undecided = "it depends on how the numbers in the code are read" in proof(report).text
    assert undecided == (verdict == "UNDECIDED")
    right = judged(lambda grad_output: {"x": scaled(grad_output)}, forward)
    assert right.verdict in RIGHT, str(right)


def test_a_table_may_stand_for_its_stored_values() -> None:
    """One side writes 0.3, and the other side stores 0.3 rounded to float32."""
    x, y = drawn(3, 4).requires_grad_(), drawn(3, 4, seed=5).requires_grad_()
    report = compare.check(
        lambda grad_output, v, w: {
            "x": grad_output[0] * THREE_TENTHS * w, "y": grad_output[1] * v,
        },
        lambda x, y, v, w: (x * THREE_TENTHS * 0.1, y * 0.3),
        {"x": x, "y": y, "v": THREE_TENTHS.clone(), "w": TENTH.clone()},
    )  # fmt: skip
    assert report.verdict in RIGHT, str(report)


def test_a_deep_program_is_lifted_with_more_digits() -> None:
    """Each step of the logistic map doubles the width of a ball: 200 steps lose 200 bits."""

    def values(x: Tensor) -> list[Tensor]:
        orbit = [x]
        for _ in range(220):
            orbit.append(3.75 * orbit[-1] * (1 - orbit[-1]))
        return orbit

    def backward(x: Tensor, grad_output: Tensor) -> tuple[Tensor]:
        for value in reversed(values(x)[:-1]):
            grad_output = grad_output * (3.75 - 7.5 * value)
        return (grad_output,)

    x = torch.tensor([0.3, 0.7], dtype=torch.float64)
    report = compare.check(backward, lambda x: values(x)[-1], (x,))
    assert proof(report).text.startswith("same formula: both sides agree to"), str(report)


def test_a_mutant_that_is_equivalent_in_another_reading_is_not_wrong() -> None:
    """By hand 0.1 is an input, and the mutant turns a product with 1 into a quotient."""
    inputs = {"x": drawn(3, 4).requires_grad_(), "w": TENTH, "one": torch.ones(())}
    passes = Passes(
        lambda grad_output, w, one: {"x": grad_output * w * one},
        lambda x, w, one: x * 0.1 * one, inputs,
    )  # fmt: skip
    subject = CheckSubject(passes)
    every = mutants(subject.manual_program, subject.program_inputs)
    quotient = [m for m in every if "div" in m.description][-1]
    same, _ = EquivalenceTest(subject, ["x"]).test(quotient)
    assert same is not False
