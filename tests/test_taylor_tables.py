"""Tables of Taylor polynomials keep their bounds all over their cells, and say where they end."""

import math

import flint
import pytest
import torch
from torch import Tensor

from compare.proof.balls import FUNCTIONS
from compare.proof.taylor_tables import TABLES, WIDTH, TaylorTable
from tests.wide import distance, exactly

CELLS = 12


def all_over_the_cells(table: TaylorTable) -> tuple[Tensor, Tensor]:
    """Return numbers at the centres, the edges and elsewhere in some cells, with their low parts.

    They are also as close to the centres as 2**-500, where a function may have its zero.
    """
    ends = torch.tensor([table.first, table.last, max(0, table.first), 1.0])
    between = torch.linspace(table.first, table.last, CELLS).round()
    centres = torch.cat([ends, between]).double() * WIDTH
    shares = torch.tensor([0.0, 0.5, -0.5, 0.37, -0.21, 2.0**-30, -(2.0**-60), 2.0**-500])
    high = (centres[:, None] + shares.double() * WIDTH).flatten()
    high = high.clamp(table.first * WIDTH, table.last * WIDTH)
    random = torch.rand(high.shape, generator=torch.Generator().manual_seed(1)).double()
    return high, high * (2 * random - 1) * 2.0**-53


@pytest.mark.parametrize("name", TABLES)
def test_a_table_keeps_its_bounds(name: str) -> None:
    """Of the value, which is close to 100 bits, and of the change within an argument's error."""
    table = TaylorTable(name, *TABLES[name])
    high, low = all_over_the_cells(table)
    error = torch.full_like(high, WIDTH / 4)
    of = table.evaluate(high, low, error)
    assert (of.error <= of.high.abs() * 2.0**-100 + 2.0**-1000).all()
    for share in (-1.0, 0.0, 1.0):
        exact = exactly(name, high, low, error, share)
        assert (distance(exact, of.high, of.low) <= of.error + abs(share) * error * of.slope).all()


@pytest.mark.parametrize("name", TABLES)
def test_a_bound_is_of_the_size_of_the_errors(name: str) -> None:
    """At most 30 times the largest that is met, so that no term of the analysis is far too large.

    2.9 (cosh) to 7 (erf) times were measured.
    """
    table = TaylorTable(name, *TABLES[name])
    high, low = all_over_the_cells(table)
    of = table.evaluate(high, low, torch.zeros_like(high))
    off = distance(exactly(name, high, low), of.high, of.low)
    assert (off / of.error).max() > 1 / 30


@pytest.mark.parametrize(("orders", "double"), [(4, 3), (7, 4), (16, 1), (16, 2)])
def test_a_short_table_is_less_accurate_and_knows_it(orders: int, double: int) -> None:
    """Where the remainder, or the roundings of float64, are by far the largest error."""
    table = TaylorTable("tanh", 0, 4, orders, double)
    high, low = all_over_the_cells(table)
    of = table.evaluate(high, low, torch.zeros_like(high))
    off = distance(exactly("tanh", high, low), of.high, of.low)
    assert (off <= of.error).all()
    assert off.max() > 2.0**-90


def test_a_number_outside_of_the_table_has_no_bound() -> None:
    table = TaylorTable("tanh", 0, 1, 16, 8)
    high = torch.tensor([0.5, -0.1, 1.1, 1e300, math.inf, -math.inf, math.nan]).double()
    zero = torch.zeros_like(high)
    assert table.evaluate(high, zero, zero).error.isfinite().tolist() == [True] + [False] * 6
    error = torch.tensor([2.0**-8, 2.0**-7, math.inf, math.nan]).double()
    half = torch.full_like(error, 0.5)
    bounds = table.evaluate(half, 0 * half, error).error
    assert bounds.isfinite().tolist() == [True, False, False, False]


def test_cells_are_computed_when_they_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each once, and only where the numbers are."""
    asked = []

    def counted(x: flint.arb) -> flint.arb:
        asked.append(float(x))
        return x.tanh()

    monkeypatch.setitem(FUNCTIONS, "tanh", counted)
    table = TaylorTable("tanh", 0, 8, 16, 8)
    x = torch.tensor([0.5, 0.501, 3.0, 0.25]).double()
    first = table.evaluate(x, 0 * x, 0 * x)
    assert asked == [0.25, 0.5, 3.0]
    again = table.evaluate(x, 0 * x, 0 * x)
    assert len(asked) == 3
    assert torch.equal(first.high, again.high)
