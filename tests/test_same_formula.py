"""Two lifted tensors: the same, another formula, or known too loosely to tell."""

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
    """Return an array of balls; a pair is a middle and a radius."""
    found = np.empty(len(numbers), dtype=object)
    found[:] = [flint.arb(*n) if isinstance(n, tuple) else flint.arb(n) for n in numbers]
    return found


def compared(mine: Any, theirs: Any, dtype: torch.dtype = torch.float64, **how: Any) -> Formula:
    with flint.ctx.workprec(200):
        return same_formula(mine, theirs, dtype, **how)


@pytest.mark.parametrize("dtype", DTYPES)
def test_balls_mean_something_up_to_2_to_the_minus_20_ulps_together(dtype: torch.dtype) -> None:
    """Those of 1, whose ulp is eps; beyond, that they overlap says nothing."""
    limit = torch.finfo(dtype).eps * 2.0**-20
    for share, same in ((0.49, True), (0.51, None)):
        found = compared(balls(1, (1, share * limit)), balls(1, (1, share * limit)), dtype)
        assert found.same is same
    assert found.text == "its exact value is known too loosely to compare, at [1]"
    assert found.at == (1,)
    # a wide ball that meets no other is another formula all the same
    assert compared(balls((1, 0.5)), balls((3, 0.5)), dtype).same is False


def test_balls_that_know_nothing_show_nothing() -> None:
    for wide in ((0, 2.0), "nan"):
        one = balls(wide)
        assert compared(one, one).same is None


def test_where_terms_cancel_a_ball_is_narrow_beside_the_terms() -> None:
    """0 to within 1e-30 is as good as 0 in a sum of ones; of nothing but itself it is not."""
    zero = balls((0, 1e-30))
    assert compared(zero, zero, terms=lambda: torch.ones(1, dtype=torch.float64)).same
    small = 1e-20 * torch.ones(1, dtype=torch.float64)
    assert compared(zero, zero, terms=lambda: small).same is None
    assert compared(zero, zero, terms=lambda: None).same is None
    assert compared(zero, zero).same is None


def test_terms_are_those_of_the_elements_that_were_lifted() -> None:
    zeros = balls("nan", (0, 1e-30), "nan")
    terms = torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64)
    found = compared(zeros, zeros, terms=lambda: terms, sampled=True)
    assert found.same
    assert found.text.endswith(" (1 of 3 elements lifted)")
    assert compared(zeros, zeros, terms=lambda: 1 - terms, sampled=True).same is None


def test_terms_are_not_asked_for_where_they_cannot_matter() -> None:
    """They take a run of their own."""

    def refused() -> Tensor:
        raise AssertionError

    assert compared(balls(1, 2), balls(1, 2), terms=refused).same
    assert compared(balls(1, 2), balls(1, 3), terms=refused).same is False


LEAST = flint.arb(2) ** -1074  # the least subnormal of float64


@pytest.mark.parametrize(
    ("gap", "same"), [(LEAST / 2**60, True), (LEAST / 2, True), (LEAST, False), (1e-300, False)]
)
def test_a_gap_that_no_dtype_holds_is_told_and_is_none(gap: Any, same: bool) -> None:
    """Up to half the least subnormal of float64; whatever the quantity's own dtype."""
    for dtype in DTYPES:
        for one, other in ((balls(0, gap), balls(0, 0)), (balls(0, 0), balls(0, gap))):
            found = compared(one, other, dtype)
            assert found.same is same
            assert ("less than any dtype holds" in found.text) is same
    if same:
        assert f", apart by {gap.str(1, radius=False)}, less than any dtype holds" in found.text
    else:
        assert found.at == (1,)
        assert "1 of 2 elements apart" in found.text


@pytest.mark.parametrize("digits", [3, 9, 12, 20, 40])
def test_two_numbers_that_are_apart_are_told_until_they_part(digits: int) -> None:
    with flint.ctx.workprec(200):
        one = flint.arb(1) / 3
        other = one + flint.arb(10) ** -digits
    told = compared(balls(one), balls(other)).text
    shown = re.search(r"in exact arithmetic (\S+) by hand and (\S+) for autograd", told)
    assert shown is not None
    assert shown[1] != shown[2]


@pytest.mark.parametrize("dtype", DTYPES)
def test_how_far_apart_is_told_in_ulps_of_the_dtype_and_may_be_accepted(dtype: torch.dtype) -> None:
    one, other = balls(1, 2), balls(1 + 3 * torch.finfo(dtype).eps, 2)
    assert compared(one, other, dtype).text.endswith("1 of 2 elements apart, by at most 3 ulp")
    for accept, same in ((0.0, False), (2.9, False), (3.0, True), (100.0, True)):
        found = compared(one, other, dtype, accept=accept)
        assert (found.same, bool(found.accepted)) == (same, same)
    assert "the same formula but for 3 ulp, as formula_ulps=100 allows" in found.text
    assert not compared(balls(1), balls(1), dtype, accept=9.0).accepted


def test_equal_numbers_are_not_said_to_be_apart() -> None:
    assert "apart" not in compared(balls(1, 0), balls(1, 0)).text


def test_the_place_is_told_without_the_dimension_of_networks() -> None:
    one, other = balls(1, 2).reshape(1, 2), balls(1, 3).reshape(1, 2)
    assert "for autograd at [1], 1 of 2" in compared(one, other, skip=1).text
    assert "for autograd at [0, 1], 1 of 2" in compared(one, other).text
