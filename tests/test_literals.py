"""The readings of a number in the code, and the list of readings to try."""

from collections.abc import Sequence
from fractions import Fraction

import flint
import pytest
import torch

from compare.proof.balls import Balls
from compare.proof.literals import (
    ANY,
    AS_WRITTEN,
    COMPUTED,
    HELD,
    MAX_MIXED_READINGS,
    WRITTEN,
    Literal,
    Reading,
    readings,
    scalar_literal,
)

F64, F32 = torch.float64, torch.float32
ODD = 0.8414709848078965  # sin(1): no author writes this decimal
PARTS = [0.1, 0.2, 0.3, 0.6, 0.7, 0.9, 1.1, 1.2]  # not representable in binary


def is_fraction(ball: flint.arb, numerator: int, denominator: int) -> bool:
    return bool(abs(ball * denominator - numerator) < 1e-55)


@pytest.fixture(autouse=True)
def _precise() -> object:
    with flint.ctx.workprec(200):
        yield


def held(value: float) -> float:
    return float(torch.tensor(value, dtype=F32))


def test_a_number_is_read_as_written_or_rounded_to_the_dtype() -> None:
    tenth = scalar_literal(0.1, F32)
    (written,), (as_held,), (computed,) = map(tenth.read, (WRITTEN, HELD, COMPUTED))
    assert is_fraction(written, 1, 10)
    assert is_fraction(computed, 1, 10)
    assert as_held == held(0.1)
    assert Fraction(held(0.1)) != Fraction(0.1)
    (any_mode,) = tenth.read(ANY)
    assert all(any_mode.contains(one) for one in (written, as_held, computed))
    assert any_mode.rad() < 1e-8


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_computes_with_numbers_in_float32(dtype: torch.dtype) -> None:
    """A kernel widens its tensor to float32 and keeps the number in float32."""
    assert scalar_literal(0.1, dtype) == scalar_literal(0.1, F32)
    assert scalar_literal(0.1, dtype).read(HELD) == [held(0.1)]
    assert scalar_literal(0.1, F64).read(HELD) == [0.1]


def test_the_numbers_of_a_tensor_are_rounded_to_its_dtype() -> None:
    half = float(torch.tensor(0.1, dtype=torch.bfloat16))
    literal = Literal((half,), torch.bfloat16, tensor=True)
    assert literal.read(HELD) == [half]
    assert is_fraction(literal.read(WRITTEN)[0], 1, 10)


def test_a_number_that_python_computed_may_be_off_by_2_ulps() -> None:
    (ball,) = scalar_literal(ODD, F64).read(COMPUTED)
    ulp = 2.0**-53
    assert ball.mid() == ODD
    assert 2 * ulp <= ball.rad() <= 4 * ulp
    assert scalar_literal(ODD, F64).read(WRITTEN) == [ODD]
    # the number of a tensor is read as it is
    assert Literal((ODD,), F64, tensor=True).read(COMPUTED) == [ODD]


@pytest.mark.parametrize("off", [1e-10, -1e-9, 1e-12])
def test_two_numbers_written_differently_stay_two(off: float) -> None:
    """float32 rounds both to 1."""
    assert held(1 + off) == 1
    for mode in (WRITTEN, HELD, COMPUTED, ANY):
        (ball,) = scalar_literal(1 + off, F32).read(mode)
        assert not ball.contains(1)


@pytest.mark.parametrize(
    ("literal", "unambiguous"),
    [
        (scalar_literal(0.5, F32), True), (scalar_literal(3.0, F64), True),
        (scalar_literal(0.1, F32), False), (scalar_literal(0.1, F64), False),
        (scalar_literal(ODD, F64), False), (scalar_literal(0.0, F32), True),
        (Literal((0.5, 0.25), F32, tensor=True), True),
        (Literal((0.5, held(0.1)), F32, tensor=True), False),
        (Literal((ODD,), F64, tensor=True), True),
    ],
)  # fmt: skip
def test_an_unambiguous_number_is_the_same_in_every_mode(
    literal: Literal, unambiguous: bool
) -> None:
    assert literal.unambiguous is unambiguous
    written, as_held, computed = (literal.read(mode) for mode in (WRITTEN, HELD, COMPUTED))
    assert (written == as_held == computed) is unambiguous


def test_the_numbers_of_one_tensor_are_one_literal() -> None:
    """Code that rounded one of them rounded them all."""
    n = Balls()
    n.tensor_constant(torch.tensor([0.1, 0.2, 0.3]))
    n.tensor_constant(torch.full((5,), 0.7))
    tens, sevens = (held(0.1), held(0.2), held(0.3)), (held(0.7),)
    literals = {Literal(numbers, F32, tensor=True) for numbers in (tens, sevens)}
    assert n.literals == literals
    (literal,) = (one for one in literals if len(one.numbers) == 3)
    assert Reading(WRITTEN, frozenset({literal})).of(literal) == [*tens]
    assert Balls(None, Reading(HELD)).tensor_constant(torch.tensor([0.1, 0.2, 0.3])).tolist() == [
        *tens
    ]


def test_some_numbers_may_be_read_differently_from_the_rest() -> None:
    tenth, fifth = scalar_literal(0.1, F32), scalar_literal(0.2, F32)
    reading = Reading(WRITTEN, frozenset({fifth}))
    assert is_fraction(reading.of(tenth)[0], 1, 10)
    assert reading.of(fifth) == [held(0.2)]


def _literals(count: int) -> Sequence[Literal]:
    return [scalar_literal(part, F32) for part in PARTS[:count]]


def test_unambiguous_numbers_have_one_reading() -> None:
    plain = [scalar_literal(0.5, F32), scalar_literal(2.0, F64)]
    assert readings(plain, tables=False) == ([AS_WRITTEN], True)
    assert readings([], tables=True)[0] == [Reading(tables=False), *(
        Reading(mode, tables=also) for also in (False, True) for mode in (WRITTEN, HELD, COMPUTED)
    )][1:]  # fmt: skip


def test_every_combination_of_readings_is_tried() -> None:
    """First all numbers alike, then each selection of some of them once."""
    for count in (1, 2, 3, 5):
        literals = _literals(count)
        found, complete = readings([*literals, scalar_literal(0.5, F32)], tables=False)
        assert complete
        assert [one.mode for one in found[:3]] == [WRITTEN, HELD, COMPUTED]
        assert not any(one.exceptions for one in found[:3])
        choices = {one.exceptions for one in found[3:]}
        assert len(choices) == len(found) - 3 == 2**count - 2
        assert all(choice <= {*literals} for choice in choices)
        assert all(one.mode == WRITTEN for one in found[3:])


def test_a_table_doubles_the_number_of_readings() -> None:
    plain, _ = readings(_literals(3), tables=False)
    both, complete = readings(_literals(3), tables=True)
    assert complete
    assert {one for one in both if not one.tables} == {*plain}
    assert len(both) == 2 * len(plain)


def test_for_many_numbers_the_list_of_readings_is_incomplete_and_says_so() -> None:
    found, complete = readings(_literals(8), tables=False)
    assert len(found) == 3 + MAX_MIXED_READINGS  # three readings without exceptions
    assert not complete


def test_the_remark_of_a_reading() -> None:
    assert AS_WRITTEN.text == ""
    assert "a tensor that one side stores replaced by" in Reading(tables=True).text
    assert Reading(HELD).text == ", with the numbers in the code rounded to their dtype"
    assert "up to 2 ulps in the numbers that Python computed" in Reading(COMPUTED).text
    some = Reading(WRITTEN, frozenset(_literals(1)))
    assert some.text.endswith("as written and some rounded to their dtype")


def test_an_exponent_is_read_as_any_other_number() -> None:
    """In float32, pow rounds its exponent to float32."""
    held = float(torch.tensor(2.2))
    for reading, exponent in ((AS_WRITTEN, flint.arb(22) / 10), (Reading(HELD), flint.arb(held))):
        n = Balls(reading=reading)
        (found,) = n.power(n.exact(torch.tensor([2.0])), 2.2, torch.float32)
        assert found.overlaps(flint.arb(2) ** exponent)
        assert not found.overlaps(flint.arb(2) ** (exponent + 1e-9))
