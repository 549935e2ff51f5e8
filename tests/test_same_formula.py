"""Two lifted tensors are the same formula, different formulas, or too wide to decide."""

import re
from typing import Any

import flint
import numpy as np
import pytest
import torch
from torch import Tensor

from compare.proof.same_formula import Formula, same_formula

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]


def balls(*numbers: Any) -> Any:
    """Return an array of balls; a pair is a midpoint and a radius."""
    array = np.empty(len(numbers), dtype=object)
    array[:] = [flint.arb(*n) if isinstance(n, tuple) else flint.arb(n) for n in numbers]
    return array


def compared(
    manual: Any, autograd: Any, dtype: torch.dtype = torch.float64, **options: Any
) -> Formula:
    with flint.ctx.workprec(200):
        return same_formula(manual, autograd, dtype, **options)


@pytest.mark.parametrize("dtype", DTYPES)
def test_balls_decide_if_their_radii_sum_to_at_most_2_to_the_minus_20_ulps(
    dtype: torch.dtype,
) -> None:
    """Checked at 1, whose ulp is eps; an overlap of wider balls decides nothing."""
    limit = torch.finfo(dtype).eps * 2.0**-20
    for share, same in ((0.49, True), (0.51, None)):
        formula = compared(balls(1, (1, share * limit)), balls(1, (1, share * limit)), dtype)
        assert formula.same is same
    assert formula.text == "the interval around its exact value is too wide to decide, at [1]"
    assert formula.at == (1,)
    # wide balls that do not overlap are different formulas all the same
    assert compared(balls((1, 0.5)), balls((3, 0.5)), dtype).same is False


def test_unbounded_and_nan_balls_are_undecided() -> None:
    for wide in ((0, 2.0), "nan"):
        one = balls(wide)
        assert compared(one, one).same is None


def test_where_terms_cancel_the_width_of_a_ball_is_relative_to_the_terms() -> None:
    """A ball of radius 1e-30 around 0 decides in a sum of ones; without terms it does not."""
    zero = balls((0, 1e-30))
    assert compared(zero, zero, terms=lambda: torch.ones(1, dtype=torch.float64)).same
    small = 1e-20 * torch.ones(1, dtype=torch.float64)
    assert compared(zero, zero, terms=lambda: small).same is None
    assert compared(zero, zero, terms=lambda: None).same is None
    assert compared(zero, zero).same is None


def test_terms_are_taken_from_the_lifted_elements() -> None:
    zeros = balls("nan", (0, 1e-30), "nan")
    terms = torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64)
    formula = compared(zeros, zeros, terms=lambda: terms, sampled=True)
    assert formula.same
    assert formula.text.endswith(" (1 of 3 elements computed exactly)")
    assert compared(zeros, zeros, terms=lambda: 1 - terms, sampled=True).same is None


def test_terms_are_not_computed_where_they_cannot_decide() -> None:
    """They take another run of the program."""

    def refused() -> Tensor:
        raise AssertionError

    assert compared(balls(1, 2), balls(1, 2), terms=refused).same
    assert compared(balls(1, 2), balls(1, 3), terms=refused).same is False


LEAST = flint.arb(2) ** -1074  # the least subnormal of float64


@pytest.mark.parametrize(
    ("gap", "same"), [(LEAST / 2**60, True), (LEAST / 2, True), (LEAST, False), (1e-300, False)]
)
def test_a_gap_that_no_dtype_can_hold_is_reported_and_accepted(gap: Any, same: bool) -> None:
    """Such a gap is at most half the least subnormal of float64, in every dtype."""
    for dtype in DTYPES:
        for one, other in ((balls(0, gap), balls(0, 0)), (balls(0, 0), balls(0, gap))):
            formula = compared(one, other, dtype)
            assert formula.same is same
            assert ("less than any dtype can hold" in formula.text) is same
    if same:
        assert f"; they differ by {gap.str(1, radius=False)}, less than any dtype" in formula.text
    else:
        assert formula.at == (1,)
        assert "1 of 2 elements differ" in formula.text


@pytest.mark.parametrize("digits", [3, 9, 12, 20, 40])
def test_two_different_numbers_are_printed_with_enough_digits_to_differ(digits: int) -> None:
    with flint.ctx.workprec(200):
        one = flint.arb(1) / 3
        other = one + flint.arb(10) ** -digits
    text = compared(balls(one), balls(other)).text
    numbers = re.search(r"computed exactly, (\S+) by hand and (\S+) by autograd", text)
    assert numbers is not None
    assert numbers[1] != numbers[2]


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_difference_is_given_in_ulps_of_the_dtype_and_may_be_accepted(dtype: torch.dtype) -> None:
    one, other = balls(1, 2), balls(1 + 3 * torch.finfo(dtype).eps, 2)
    text = compared(one, other, dtype).text
    assert text.endswith("1 of 2 elements differ, by at most 3 ulp of the larger value")
    for accept, same in ((0.0, False), (2.9, False), (3.0, True), (100.0, True)):
        formula = compared(one, other, dtype, accept=accept)
        assert (formula.same, bool(formula.accepted)) == (same, same)
    assert "the formulas differ by 3 ulp, which formula_ulps=100 accepts" in formula.text
    assert not compared(balls(1), balls(1), dtype, accept=9.0).accepted


def test_equal_numbers_are_not_said_to_differ() -> None:
    assert "differ" not in compared(balls(1, 0), balls(1, 0)).text


def test_an_index_is_given_without_the_population_dimension() -> None:
    one, other = balls(1, 2).reshape(1, 2), balls(1, 3).reshape(1, 2)
    assert "by autograd at [1]; 1 of 2" in compared(one, other, skip=1).text
    assert "by autograd at [0, 1]; 1 of 2" in compared(one, other).text
