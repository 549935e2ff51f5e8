"""Constant tensors that one side stores, and the other computes or writes as numbers."""

from collections.abc import Callable
from functools import partial
from typing import Any

import flint
import pytest
import torch
from torch import Tensor, fx

from compare.proof.balls import Balls
from compare.proof.constant_tables import MAX_LITERALS, exact_table_values
from compare.proof.literals import AS_WRITTEN, Reading
from compare.proof.program import Program
from compare.proof.trace import trace

F32 = torch.float32


def program(function: Callable[[Tensor], Tensor], size: int = 7) -> Program:
    return trace(lambda x: {"x": function(x)}, {"x": torch.linspace(1, 2, size)})


def table_values(
    one: Callable[[Tensor], Tensor], other: Callable[[Tensor], Tensor], size: int = 7,
    reading: Reading = AS_WRITTEN,
) -> dict[fx.Node, Any]:  # fmt: skip
    with flint.ctx.workprec(200):
        return exact_table_values(program(one, size), program(other, size), Balls(None, reading))


def cosines(x: Tensor) -> Tensor:
    return x * torch.cos(torch.arange(x.numel(), dtype=F32) / 4)


TABLE = torch.cos(torch.arange(7, dtype=torch.float64) / 4).to(F32)


def test_a_stored_table_has_the_exact_values_that_the_other_side_computes() -> None:
    """The digits of the cosine, not only those of the stored float."""
    numbers = [*table_values(lambda x: x * TABLE, cosines).values()]
    assert numbers
    with flint.ctx.workprec(200):
        for k, ball in enumerate(numbers[0]):
            assert abs(ball - (flint.arb(k) / 4).cos()) < 1e-55


def test_a_table_off_by_more_than_a_rounding_does_not_match() -> None:
    """With one element off by 2 ulps, not finite, or missing."""
    for k, other in ((3, TABLE[3] * (1 + 2.0**-22)), (2, torch.tensor(torch.inf))):
        off = TABLE.clone()
        off[k] = other
        assert not table_values(partial(torch.mul, off), cosines)
    short = TABLE[:6].clone()
    assert not table_values(lambda x: x[:6] * short, cosines)


def test_a_large_table_is_matched_and_a_huge_one_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    large = torch.cos(torch.arange(2000, dtype=torch.float64) / 4).to(F32)
    assert table_values(lambda x: x * large, cosines, 2000)
    monkeypatch.setattr("compare.proof.constant_tables.MAX_ELEMENTS", 6)
    assert not table_values(lambda x: x * TABLE, cosines)


def test_a_table_that_is_stored_exactly_keeps_its_values() -> None:
    stored = torch.arange(7, dtype=F32) + 1
    assert not table_values(lambda x: x * stored, lambda x: x * (torch.arange(7, dtype=F32) + 1))


THIRD = torch.tensor([1 / 3, 0.75, 1 / 3], dtype=F32)


@pytest.mark.parametrize("other", [lambda x: x * (1 / 3), lambda x: x / 3.0])
def test_a_stored_number_is_the_one_that_the_other_side_writes(other: Any) -> None:
    """Or divides by; the other numbers of the tensor keep their values."""
    tables = [*table_values(lambda x: x * THIRD, other, 3).values()]
    assert tables
    with flint.ctx.workprec(200):
        assert all(abs(3 * numbers[k] - 1) < 1e-55 for numbers in tables for k in (0, 2))
    assert all(numbers[1] == 0.75 for numbers in tables)


def test_numbers_written_on_the_same_side_do_not_match() -> None:
    assert not table_values(lambda x: x * THIRD * (1 / 3), lambda x: x * 0.7, 3)


@pytest.mark.parametrize(("size", "is_one"), [(MAX_LITERALS, True), (MAX_LITERALS + 1, False)])
def test_only_a_short_tensor_is_matched_with_numbers_in_the_code(size: int, is_one: bool) -> None:
    stored = torch.linspace(2, 3, size)
    stored[1] = 1 / 3
    assert bool(table_values(lambda x: x * stored, lambda x: x * (1 / 3), size)) is is_one
    assert MAX_LITERALS == 1_000


def test_of_a_tensor_that_both_sides_create_only_one_is_replaced() -> None:
    """Otherwise the two would swap values, and still differ."""
    sides = [
        program(lambda x: x * torch.tensor(0.1234).bfloat16()),
        program(lambda x: x * torch.tensor(0.1234, dtype=torch.bfloat16)),
    ]
    for one, other in (sides, sides[::-1]):
        assert exact_table_values(one, other, Balls(), leads=False)
        assert not exact_table_values(one, other, Balls(), leads=True)
