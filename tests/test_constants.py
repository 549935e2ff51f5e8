"""What a number in the code stands for."""

import math
import random
from fractions import Fraction
from typing import Any

import flint
import pytest
import torch

from compare.proof.constants import Spelling, is_exact, misspelled, spelling, written


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
        found = written(number)
    assert found.overlaps(stands_for)
    assert float(found.rad()) <= 1e-50 * abs(number)


@pytest.mark.parametrize("number", [1e23, 1e30])
def test_a_large_number_is_the_decimal_that_was_written(number: float) -> None:
    """Each of these is a whole number in binary, and another one."""
    with flint.ctx.workprec(200):
        assert (written(number) * written(1 / number)).overlaps(flint.arb(1))
        digits, power = f"{number:.8e}".split("e")
        whole = int(digits.replace(".", "")) * flint.arb(10) ** (int(power) - 8)
        assert written(number).overlaps(whole)
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
    """However many operations it took Python to come by it."""
    with flint.ctx.workprec(200):
        assert abs(written(number) - stands_for()) < 1e-55
    assert not is_exact(number)


@pytest.mark.parametrize(
    ("number", "decimal"),
    [(1 - 0.9, "0.1"), (1 - 0.99, "0.01"), (1 - 0.999, "0.001"), (0.1 + 0.2, "0.3"),
     (2.2 - 1, "1.2"), (1 - 0.95, "0.05")],
)  # fmt: skip
def test_what_python_worked_out_is_the_decimal_it_came_from(number: float, decimal: str) -> None:
    assert spelling(number) == Spelling(Fraction(decimal))


@pytest.mark.parametrize("number", [1.0000001234567891, 0.8414709848078965, 0.9189385332046727])
def test_any_other_number_is_what_it_is(number: float) -> None:
    assert spelling(number) is None
    assert is_exact(number)
    assert float(written(number).rad()) == 0


def test_hardly_any_random_number_is_taken_for_a_simple_one() -> None:
    chance = random.Random(0)
    assert sum(spelling(chance.random()) is not None for _ in range(10_000)) <= 3


@pytest.mark.parametrize(
    ("one", "other"),
    [(1e-5, 1e-6), (1.0, 1 + 1e-7), (1.0, 1 + 1e-12), (0.044715, 0.044714), (1 / 3, 0.3333333333)],
)
def test_different_constants_stay_apart(one: float, other: float) -> None:
    assert not written(one).overlaps(written(other))


def test_two_spellings_are_one_constant() -> None:
    assert written(0.7978845608028654).overlaps(written(math.sqrt(2 / math.pi)))
    assert written(9.999999974752427e-07).overlaps(written(1e-6))  # float32(1e-6), handed on wider


def test_only_what_binary_holds_is_exact() -> None:
    assert is_exact(0.5)
    assert is_exact(12345.0)
    assert not is_exact(0.1)
    assert not is_exact(1 / 3)


def test_pi_in_float32_is_not_355_over_113() -> None:
    """Which is as near, and not as simple."""
    assert spelling(float(torch.tensor(math.pi)), 24) == Spelling(Fraction(1), "times pi")


def test_what_python_worked_out_is_as_far_off_as_it_is() -> None:
    """And what was rounded to float32 is further off than any rounding in Python."""
    assert misspelled(0.1) <= 1e-17
    assert abs(1 - 0.999 - 0.001) <= misspelled(1 - 0.999) <= 1e-18
    assert misspelled(float(torch.tensor(0.1))) == 0


@pytest.mark.parametrize("times", ["3/2", "5/6", "2/9", "7/3", "1/180", "11/8", "4/3"])
def test_rational_multiples_of_roots_pi_e_and_logarithms(times: str) -> None:
    """As Python works them out, in one rounding or two."""
    share = Fraction(times)
    with flint.ctx.workprec(200):
        known = [(math.pi, flint.arb.pi()), (math.e, flint.arb.const_e())]
        known += [(math.sqrt(n), flint.arb(n).sqrt()) for n in (2, 3, 5, 7, 10)]
        known += [(math.log(n), flint.arb(n).log()) for n in (2, 3, 5, 7, 10)]
        known += [(math.sqrt(math.pi), flint.arb.pi().sqrt())]
        for value, exact in known:
            meant = exact * share.numerator / share.denominator
            for sign in (1, -1):
                read = written(sign * value * share.numerator / share.denominator)
                assert abs(read - sign * meant) < abs(meant) * 1e-40, (times, value)
