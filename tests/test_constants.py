"""What a number in the code stands for."""

import math

import flint
import pytest

from compare.proof.constants import is_exact, meant


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
        found = meant(number)
    assert found.overlaps(stands_for)
    assert float(found.rad()) <= 1e-50 * abs(number)


@pytest.mark.parametrize("number", [1e23, 1e30, 6.02214076e23])
def test_a_large_number_is_the_decimal_that_was_written(number: float) -> None:
    """Each of these is a whole number in binary, and another one."""
    with flint.ctx.workprec(200):
        assert (meant(number) * meant(1 / number)).overlaps(flint.arb(1))
        digits, power = f"{number:.8e}".split("e")
        whole = int(digits.replace(".", "")) * flint.arb(10) ** (int(power) - 8)
        assert meant(number).overlaps(whole)
    assert not is_exact(number)
    assert is_exact(2.0**80)
    assert is_exact(1e22)


@pytest.mark.parametrize("number", [math.sqrt(2 / math.pi), math.pi, 1.0000001234567891])
def test_any_other_number_is_half_an_ulp_wide(number: float) -> None:
    found = meant(number)
    assert 0.4 * 2.0**-53 < float(found.rad()) / number < 1.1 * 2.0**-53
    assert not is_exact(number)


@pytest.mark.parametrize(
    ("one", "other"),
    [(1e-5, 1e-6), (1.0, 1 + 1e-7), (1.0, 1 + 1e-12), (0.044715, 0.044714), (1 / 3, 0.3333333333)],
)
def test_different_constants_stay_apart(one: float, other: float) -> None:
    assert not meant(one).overlaps(meant(other))


def test_two_spellings_are_one_constant() -> None:
    assert meant(0.7978845608028654).overlaps(meant(math.sqrt(2 / math.pi)))
    assert meant(9.999999974752427e-07).overlaps(meant(1e-6))  # float32(1e-6), handed on wider


def test_only_what_binary_holds_is_exact() -> None:
    assert is_exact(0.5)
    assert is_exact(12345.0)
    assert not is_exact(0.1)
    assert not is_exact(1 / 3)
