"""The exact number that a constant in the code stands for."""

import math
import random
from fractions import Fraction
from typing import Any

import flint
import pytest
import torch

from compare.proof.constants import (
    ClosedForm,
    closed_form,
    distance_to_intended,
    intended_value,
    is_exact,
)


@pytest.mark.parametrize(
    ("number", "stands_for"),
    [
        (0.5, flint.arb(1) / 2), (3.0, flint.arb(3)), (-7.25, flint.arb(-29) / 4),
        (1 / 3, flint.arb(1) / 3), (0.1, flint.arb(1) / 10), (1e-5, flint.arb(10) ** -5),
        (0.044715, flint.arb(44715) / 10**6), (10 / 7, flint.arb(10) / 7), (0.0, flint.arb(0)),
    ],
)  # fmt: skip
def test_simple_numbers_are_themselves(number: float, stands_for: flint.arb) -> None:
    with flint.ctx.workprec(200):
        value = intended_value(number)
    assert value.overlaps(stands_for)
    assert float(value.rad()) <= 1e-50 * abs(number)


@pytest.mark.parametrize("number", [1e23, 1e30])
def test_a_large_number_is_the_decimal_that_was_written(number: float) -> None:
    """The float is a whole number too, but a different one."""
    with flint.ctx.workprec(200):
        assert (intended_value(number) * intended_value(1 / number)).overlaps(flint.arb(1))
        digits, power = f"{number:.8e}".split("e")
        whole = int(digits.replace(".", "")) * flint.arb(10) ** (int(power) - 8)
        assert intended_value(number).overlaps(whole)
    assert not is_exact(number)
    assert is_exact(2.0**80)
    assert is_exact(1e22)


@pytest.mark.parametrize(
    ("number", "stands_for"),
    [
        (math.sqrt(2 / math.pi), lambda: (2 / flint.arb.pi()).sqrt()),
        (math.sqrt(2) / math.sqrt(math.pi), lambda: (2 / flint.arb.pi()).sqrt()),
        (-1 / math.sqrt(768), lambda: -1 / flint.arb(768).sqrt()),
        (768**-0.5, lambda: 1 / flint.arb(768).sqrt()),
        (2 * math.pi, lambda: 2 * flint.arb.pi()), (1 / math.pi, lambda: 1 / flint.arb.pi()),
        (math.e, flint.arb.const_e), (math.log(10), lambda: flint.arb(10).log()),
        (1 / math.log(2), lambda: 1 / flint.arb(2).log()),
        (math.log2(3), lambda: flint.arb(3).log() / flint.arb(2).log()),
        (math.sqrt(1 / math.sqrt(5)), lambda: (1 / flint.arb(5)).sqrt().sqrt()),
        (math.sqrt(3 * math.pi), lambda: (3 * flint.arb.pi()).sqrt()),
        (2 / math.e, lambda: 2 / flint.arb.const_e()),
        (0.044715 * math.sqrt(2 / math.pi),
         lambda: (2 / flint.arb.pi()).sqrt() * 44715 / 1_000_000),
    ],
)  # fmt: skip
def test_a_known_irrational_number_is_that_number(number: float, stands_for: Any) -> None:
    """Also if Python computed it in several operations, each of which rounds."""
    with flint.ctx.workprec(200):
        assert abs(intended_value(number) - stands_for()) < 1e-55
    assert not is_exact(number)


@pytest.mark.parametrize(
    ("number", "decimal"),
    [(1 - 0.9, "0.1"), (1 - 0.99, "0.01"), (1 - 0.999, "0.001"), (0.1 + 0.2, "0.3"),
     (2.2 - 1, "1.2"), (1 - 0.95, "0.05")],
)  # fmt: skip
def test_a_result_of_python_arithmetic_is_the_decimal_behind_it(
    number: float, decimal: str
) -> None:
    assert closed_form(number) == ClosedForm(Fraction(decimal))


@pytest.mark.parametrize("number", [1.0000001234567891, 0.8414709848078965, 0.9189385332046727])
def test_any_other_number_stands_for_itself(number: float) -> None:
    assert closed_form(number) is None
    assert is_exact(number)
    assert float(intended_value(number).rad()) == 0


def test_hardly_any_random_number_is_taken_for_a_simple_one() -> None:
    chance = random.Random(0)
    assert sum(closed_form(chance.random()) is not None for _ in range(10_000)) <= 3


@pytest.mark.parametrize(
    ("one", "other"),
    [(1e-5, 1e-6), (1.0, 1 + 1e-7), (1.0, 1 + 1e-12), (0.044715, 0.044714), (1 / 3, 0.3333333333)],
)
def test_different_constants_stay_apart(one: float, other: float) -> None:
    assert not intended_value(one).overlaps(intended_value(other))


def test_two_expressions_for_one_constant_are_equal() -> None:
    assert intended_value(0.7978845608028654).overlaps(intended_value(math.sqrt(2 / math.pi)))
    assert intended_value(9.999999974752427e-07).overlaps(
        intended_value(1e-6)
    )  # float32(1e-6) as float64


def test_only_numbers_that_binary_can_hold_are_exact() -> None:
    assert is_exact(0.5)
    assert is_exact(12345.0)
    assert not is_exact(0.1)
    assert not is_exact(1 / 3)


def test_pi_in_float32_is_not_355_over_113() -> None:
    """Which is as close in float32, but less simple."""
    assert closed_form(float(torch.tensor(math.pi)), 24) == ClosedForm(Fraction(1), "times pi")


def test_the_distance_to_the_intended_number_covers_python_s_rounding() -> None:
    """It is 0 for a float32 number, which is further off than any rounding in Python."""
    assert distance_to_intended(0.1) <= 1e-17
    assert abs(1 - 0.999 - 0.001) <= distance_to_intended(1 - 0.999) <= 1e-18
    assert distance_to_intended(float(torch.tensor(0.1))) == 0


@pytest.mark.parametrize("times", ["3/2", "5/6", "2/9", "7/3", "1/180", "11/8", "4/3"])
def test_rational_multiples_of_roots_pi_e_and_logarithms(times: str) -> None:
    """As Python computes them, with one rounding or two."""
    share = Fraction(times)
    with flint.ctx.workprec(200):
        known = [(math.pi, flint.arb.pi()), (math.e, flint.arb.const_e())]
        known += [(math.sqrt(n), flint.arb(n).sqrt()) for n in (2, 3, 5, 7, 10)]
        known += [(math.log(n), flint.arb(n).log()) for n in (2, 3, 5, 7, 10)]
        known += [(math.sqrt(math.pi), flint.arb.pi().sqrt())]
        for value, exact in known:
            intended = exact * share.numerator / share.denominator
            for sign in (1, -1):
                number = sign * value * share.numerator / share.denominator
                gap = abs(intended_value(number) - sign * intended)
                assert gap < abs(intended) * 1e-40, (times, value)
