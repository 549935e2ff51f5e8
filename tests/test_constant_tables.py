"""Which tensors that one side holds are what the other works out, or writes."""

from collections.abc import Callable
from functools import partial
from typing import Any

import flint
import pytest
import torch
from torch import Tensor, fx

from compare.proof.balls import Balls
from compare.proof.constant_tables import FEW, tables
from compare.proof.literals import AS_WRITTEN, Reading
from compare.proof.program import Program
from compare.proof.trace import trace

F32 = torch.float32


def program(function: Callable[[Tensor], Tensor], size: int = 7) -> Program:
    return trace(lambda x: {"x": function(x)}, {"x": torch.linspace(1, 2, size)})


def found(
    one: Callable[[Tensor], Tensor], other: Callable[[Tensor], Tensor], size: int = 7,
    reading: Reading = AS_WRITTEN,
) -> dict[fx.Node, Any]:  # fmt: skip
    with flint.ctx.workprec(200):
        return tables(program(one, size), program(other, size), Balls(None, reading))


def cosines(x: Tensor) -> Tensor:
    return x * torch.cos(torch.arange(x.numel(), dtype=F32) / 4)


TABLE = torch.cos(torch.arange(7, dtype=torch.float64) / 4).to(F32)


def test_a_held_tensor_is_what_the_other_side_works_out() -> None:
    """To the digits of the cosine, which the float has not."""
    numbers = [*found(lambda x: x * TABLE, cosines).values()]
    assert numbers
    with flint.ctx.workprec(200):
        for k, ball in enumerate(numbers[0]):
            assert abs(ball - (flint.arb(k) / 4).cos()) < 1e-55


def test_a_table_off_by_more_than_a_rounding_is_none() -> None:
    """One element, by 2 ulps; and one that is not finite."""
    for k, other in ((3, TABLE[3] * (1 + 2.0**-22)), (2, torch.tensor(torch.inf))):
        off = TABLE.clone()
        off[k] = other
        assert not found(partial(torch.mul, off), cosines)
    short = TABLE[:6].clone()
    assert not found(lambda x: x[:6] * short, cosines)


def test_a_large_table_is_found_and_a_huge_one_not_looked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    large = torch.cos(torch.arange(2000, dtype=torch.float64) / 4).to(F32)
    assert found(lambda x: x * large, cosines, 2000)
    monkeypatch.setattr("compare.proof.constant_tables.LARGEST", 6)
    assert not found(lambda x: x * TABLE, cosines)


def test_what_is_held_exactly_is_no_table() -> None:
    """Then there is nothing to read otherwise."""
    held = torch.arange(7, dtype=F32) + 1
    assert not found(lambda x: x * held, lambda x: x * (torch.arange(7, dtype=F32) + 1))


THIRD = torch.tensor([1 / 3, 0.75, 1 / 3], dtype=F32)


@pytest.mark.parametrize("other", [lambda x: x * (1 / 3), lambda x: x / 3.0])
def test_a_held_number_is_the_one_that_the_other_side_writes(other: Any) -> None:
    """Or divides by; the others of its tensor are what they are."""
    tables = [*found(lambda x: x * THIRD, other, 3).values()]
    assert tables
    with flint.ctx.workprec(200):
        assert all(abs(3 * numbers[k] - 1) < 1e-55 for numbers in tables for k in (0, 2))
    assert all(numbers[1] == 0.75 for numbers in tables)


def test_the_numbers_that_its_own_side_writes_say_nothing() -> None:
    assert not found(lambda x: x * THIRD * (1 / 3), lambda x: x * 0.7, 3)


@pytest.mark.parametrize(("size", "is_one"), [(FEW, True), (FEW + 1, False)])
def test_of_many_elements_none_is_taken_for_a_number_in_the_code(size: int, is_one: bool) -> None:
    held = torch.linspace(2, 3, size)
    held[1] = 1 / 3
    assert bool(found(lambda x: x * held, lambda x: x * (1 / 3), size)) is is_one
    assert FEW == 1_000


def test_of_what_both_sides_make_only_one_is_taken_for_the_others() -> None:
    """Else each would be what the other was, and they as far apart as before."""
    sides = [
        program(lambda x: x * torch.tensor(0.1234).bfloat16()),
        program(lambda x: x * torch.tensor(0.1234, dtype=torch.bfloat16)),
    ]
    for one, other in (sides, sides[::-1]):
        assert tables(one, other, Balls(), leads=False)
        assert not tables(one, other, Balls(), leads=True)
