"""Other inputs keep the structure of the user's; structures that an input has up to rounding."""

import math
from collections.abc import Callable, Iterator

import flint
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from compare.proof.input_structure import (
    NormalisedLines,
    Symmetry,
    find_normalised_lines,
    find_structure,
    line_kind,
    symmetry_sign,
)
from compare.proof.other_inputs import MAX_SHARE, MIN_SHARE, scaled, similar

DTYPES = torch.float64, torch.float32, torch.float16, torch.bfloat16


def drawn(*shape: int, seed: int = 3) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def balls(values: Tensor) -> np.ndarray:
    return np.frompyfunc(flint.arb, 1, 1)(values.double().numpy())  # type: ignore[no-any-return]


@pytest.fixture(autouse=True)
def _precise() -> Iterator[None]:
    with flint.ctx.workprec(200):
        yield


# -- the structure that an input has up to rounding

KINDS: dict[str, Callable[[Tensor], Tensor]] = {
    "sums of 1": lambda x: torch.softmax(x, -1),
    "unit lengths": lambda x: F.normalize(x, dim=-1),
    "sums of 0": lambda x: x - x.mean(-1, keepdim=True),
    "log probabilities": lambda x: torch.log_softmax(x, -1),
}


def off(kind: str, values: np.ndarray) -> float:
    """Return the largest deviation of a row."""
    rows = values.reshape(-1, values.shape[-1])
    if kind == "sums of 1":
        sums = [sum(row, flint.arb(0)) - 1 for row in rows]
    elif kind == "unit lengths":
        sums = [sum((x * x for x in row), flint.arb(0)) - 1 for row in rows]
    elif kind == "sums of 0":
        sums = [sum(row, flint.arb(0)) for row in rows]
    else:
        sums = [sum((x.exp() for x in row), flint.arb(0)) - 1 for row in rows]
    return max(float(abs(s).upper()) for s in sums)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_rows_normalised_up_to_rounding(kind: str, dtype: torch.dtype) -> None:
    values = KINDS[kind](drawn(6, 5)).to(dtype)
    structure = find_normalised_lines(values)
    assert structure == NormalisedLines(kind, 1)
    assert find_structure(values) == structure
    exact = structure.made_exact(balls(values))
    assert off(kind, exact) < 1e-50
    gaps = [float(abs(a - b).upper()) for a, b in zip(exact.flat, balls(values).flat, strict=True)]
    assert max(gaps) < 16 * torch.finfo(dtype).eps  # only the rounding is removed
    # in float32 and wider a deviation of a thousandth is no rounding
    if dtype.itemsize >= 4:
        assert find_normalised_lines(values + 1e-3) is None


@pytest.mark.parametrize("kind", KINDS)
def test_normalised_columns_and_normalised_as_a_whole(kind: str) -> None:
    values = KINDS[kind](drawn(6, 5))
    assert find_normalised_lines(values.mT) == NormalisedLines(kind, 0)
    whole = KINDS[kind](drawn(30)).reshape(6, 5)
    structure = find_normalised_lines(whole)
    assert structure == NormalisedLines(kind, None)
    assert off(kind, structure.made_exact(balls(whole)).reshape(1, -1)) < 1e-50
    assert off(kind, find_normalised_lines(values.mT).made_exact(balls(values.mT)).T) < 1e-50  # type: ignore[union-attr]


def test_rows_of_zeros_may_be_among_them() -> None:
    values = torch.softmax(drawn(6, 5), -1)
    values[2] = 0
    structure = find_normalised_lines(values)
    assert structure == NormalisedLines("sums of 1", 1)
    exact = structure.made_exact(balls(values))
    assert all(x == 0 for x in exact[2])
    assert bool((structure.renormalise(values)[2] == 0).all())


@pytest.mark.parametrize(
    "values",
    [drawn(6, 5), torch.tensor([0.5]), torch.tensor(1.0), torch.tensor([1, 2]),
     torch.tensor([math.inf, 1.0]), torch.zeros(3), torch.tensor([[1.5, -0.5], [2.0, -1.0]])],
    ids=["normal", "one", "none", "whole", "infinite", "zeros", "negative shares"],
)  # fmt: skip
def test_inputs_without_structure(values: Tensor) -> None:
    assert find_structure(values) is None


@pytest.mark.parametrize("sign", [1, -1])
def test_symmetric_and_skew_matrices(sign: int) -> None:
    x = drawn(2, 4, 4)
    exact = x + sign * x.mT
    assert symmetry_sign(exact) == sign
    assert not isinstance(find_structure(exact), Symmetry)  # it is symmetric without rounding
    nearly = exact.clone()
    nearly[0, 0, 1] *= 1 + 2.0**-52
    assert find_structure(nearly) == Symmetry(sign)
    lifted = Symmetry(sign).made_exact(balls(nearly))
    assert all(
        a == sign * b for a, b in zip(lifted.flat, np.swapaxes(lifted, -1, -2).flat, strict=True)
    )
    nearly[0, 0, 1] *= 1 + 1e-9
    assert symmetry_sign(nearly) is None


def test_a_product_is_symmetric_to_the_rounding_of_its_terms() -> None:
    for seed in range(4):
        root = drawn(5, 5, seed=seed).float()
        product = (root * (drawn(5, seed=9).abs().float() + 0.5)) @ root.mT
        assert symmetry_sign(product) == 1
        product[0, 1] += product.abs().max() * 1e-5
        assert symmetry_sign(product) is None


# -- other inputs


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_the_structure_of_rows_is_kept(kind: str, dtype: torch.dtype) -> None:
    values = KINDS[kind](drawn(6, 5)).to(dtype)
    moved = similar("p", values, leaf=True)
    assert find_normalised_lines(moved) == NormalisedLines(kind, 1)
    assert not bool((moved == values).all(-1).any())


def test_a_mixture_of_rows_keeps_range_and_empty_columns() -> None:
    x = drawn(6, 5)
    x[:, 1] = 0
    x[3] = 0
    moved = similar("x", x, leaf=True)
    assert moved.max() <= x.max()
    assert moved.min() >= x.min()
    assert bool((moved[:, 1] == 0).all())
    assert bool((moved[3] == 0).all())  # padding
    shares = (moved - x).abs().amax(-1)[[0, 1, 2, 4, 5]]
    assert bool((shares > 0).all())


def test_the_share_of_another_row_in_a_mixture() -> None:
    x = torch.tensor([[0.5, -1.5], [8.5, 6.25], [2.25, 3.5]], dtype=torch.float64)
    for share in (1.0, 0.25):
        moved = similar("x", x, leaf=True, share=share)
        steps = (moved - x)[:, 0] / torch.stack([x[:, 0] - y for y in x[:, 0]]).abs().max()
        assert float(steps.abs().max()) <= MAX_SHARE * share
    assert not torch.equal(similar("x", x, leaf=True), similar("x", x, leaf=True, draw=1))
    assert torch.equal(similar("x", x, leaf=True), similar("x", x, leaf=True))
    assert not torch.equal(similar("x", x, leaf=True), similar("y", x, leaf=True))


@pytest.mark.parametrize(
    ("values", "leaf"),
    [
        (torch.tensor([1.0, 2.0, 5.0]), False),
        (torch.ones(4, 4).tril(), False),
        (torch.zeros(4, 4).masked_fill(torch.ones(4, 4).triu(1) > 0, -math.inf), False),
        (torch.tensor([3, 1, 2]), True),
        (torch.tensor([True, False]), True),
        (torch.eye(4), True),
        (torch.linalg.qr(drawn(4, 4)).Q, True),
        (drawn(1, 9)[0][torch.arange(5)[None] - torch.arange(5)[:, None]], True),
        (torch.tensor([math.inf, math.inf]), True),
        (torch.empty(0), True),
    ],
    ids=["counts", "causal", "causal added", "whole", "mask", "identity", "rotation", "toeplitz",
         "infinite", "empty"],
)  # fmt: skip
def test_inputs_that_are_not_moved(values: Tensor, leaf: bool) -> None:
    moved = similar("v", values, leaf=leaf)
    assert torch.equal(moved, values)
    assert moved.data_ptr() != values.data_ptr() or not values.numel()


def test_integers_that_need_a_gradient_are_moved() -> None:
    values = torch.tensor([[1.0, 2.0], [5.0, 3.0], [4.0, 9.0]])
    assert not torch.equal(similar("v", values, leaf=True), values)


def test_codes_are_shuffled_row_by_row() -> None:
    codes = F.one_hot(torch.tensor([0, 2, 1, 2, 0, 1]), 3).double()
    moved = similar("y", codes, leaf=False)
    assert sorted(map(tuple, moved.tolist())) == sorted(map(tuple, codes.tolist()))
    assert not torch.equal(moved, codes)
    graph = torch.tensor([[0, 1, 0, 0], [1, 0, 1, 0], [0, 1, 0, 1], [0, 0, 1, 0]]).double()
    again = similar("a", graph, leaf=False)
    assert symmetry_sign(again) == 1
    assert float(again.sum()) == 6


def test_a_mask_of_infinities_is_shuffled_and_keeps_its_rows() -> None:
    mask = torch.tensor([[0.0, -math.inf, -math.inf], [-math.inf, 0.0, 0.0]])
    moved = similar("m", mask, leaf=False)
    assert sorted(map(tuple, moved.tolist())) == sorted(map(tuple, mask.tolist()))
    assert not torch.equal(moved, mask)


def test_a_grid_that_is_even_up_to_rounding_is_not_moved() -> None:
    for grid in (torch.linspace(0, 1, 11), torch.arange(5.0) / 8):
        assert torch.equal(similar("t", grid, leaf=False), grid)
    assert not torch.equal(similar("t", torch.linspace(0, 1, 11) ** 2, leaf=False), grid)


def test_infinities_stay_where_they_are() -> None:
    x = drawn(4, 5)
    x[1, 2] = -math.inf
    moved = similar("x", x, leaf=True)
    assert torch.equal(moved.isinf(), x.isinf())
    assert not moved.isnan().any()


@pytest.mark.parametrize("number", [1.0, 0.0, 0.7, 2.0, -3.5])
def test_equal_numbers_are_scaled_element_by_element(number: float) -> None:
    values = torch.full((3, 4), number, dtype=torch.float64)
    for moved in (similar("w", values, leaf=False), scaled("w", values)):
        sizes = moved if number == 0 else moved / number - 1
        assert bool((sizes >= MIN_SHARE).all())
        assert bool((sizes <= MAX_SHARE).all())
        assert len(moved.unique()) == 12


def test_equal_probabilities_stay_probabilities() -> None:
    moved = similar("p", torch.full((3, 4), 0.25), leaf=False)
    assert find_normalised_lines(moved) == NormalisedLines("sums of 1", 1)
    assert len(moved.unique()) > 1


def test_symmetric_matrices_stay_symmetric_to_the_bit() -> None:
    x = drawn(5, 5)
    for sign in (1, -1):
        moved = similar("a", x + sign * x.mT, leaf=True)
        assert torch.equal(moved, sign * moved.mT)
        assert not torch.equal(moved, x + sign * x.mT)
    pair = torch.tensor([[2.0, 0.5], [0.5, 3.0]])
    moved = similar("a", pair, leaf=True)
    assert torch.equal(moved, moved.mT)
    assert not torch.equal(moved, pair)


@pytest.mark.parametrize("sign", [1, -1])
def test_sorted_numbers_stay_sorted(sign: int) -> None:
    x = sign * drawn(7).sort().values
    moved = similar("x", x, leaf=True)
    assert bool((sign * moved.diff() > 0).all())
    columns = sign * drawn(6, 5).sort(0).values
    assert bool((sign * similar("x", columns, leaf=True).diff(dim=0) >= 0).all())
    rows = sign * drawn(6, 5).sort(1).values
    assert bool((sign * similar("x", rows, leaf=True).diff(dim=1) >= 0).all())


def test_a_single_row_keeps_its_sum() -> None:
    p = torch.softmax(drawn(6), 0)
    for values in (p, p[None], p.reshape(1, 1, 6)):
        moved = similar("p", values, leaf=True)
        assert float(moved.sum()) == pytest.approx(1, abs=1e-15)
        assert not torch.equal(moved, values)


def test_sums_of_rows_and_of_columns_are_both_kept() -> None:
    orders = [torch.eye(5, dtype=torch.float64)[torch.randperm(5)] for _ in range(30)]
    p = sum(orders) / 30  # doubly stochastic
    moved = similar("p", torch.as_tensor(p), leaf=False)
    assert line_kind(moved, 0) == line_kind(moved, 1) == "sums of 1"
    centred = drawn(6, 5)
    centred = centred - centred.mean(0) - centred.mean(1, keepdim=True) + centred.mean()
    moved = similar("c", centred, leaf=True)
    assert line_kind(moved, 0) == line_kind(moved, 1) == "sums of 0"
    assert not torch.equal(moved, centred)


def test_unit_columns_stay_unit_columns() -> None:
    moved = similar("w", F.normalize(drawn(6, 5), dim=0), leaf=True)
    assert line_kind(moved, 0) == "unit lengths"


def test_pruned_weights_stay_pruned() -> None:
    w = drawn(6, 5)
    w[drawn(6, 5, seed=4) > 0.5] = 0
    for moved in (similar("w", w, leaf=True), scaled("w", w)):
        assert torch.equal(moved == 0, w == 0)
        assert not torch.equal(moved, w)


def test_equal_rows_become_different() -> None:
    x = drawn(1, 5).expand(6, 5).clone()
    moved = similar("x", x, leaf=True)
    assert len(moved.unique(dim=0)) == 6
    assert bool((moved.sign() == x.sign()).all())


def test_a_matrix_with_both_sums_and_with_zeros_is_not_moved() -> None:
    """A mixture could not keep both the zeros and the sums."""
    p = (torch.eye(4, dtype=torch.float64) * 3 + torch.eye(4)[[2, 0, 3, 1]]) / 4
    assert torch.equal(similar("p", p, leaf=False), p)


@pytest.mark.parametrize("shape", [(5, 5), (7, 3), (2, 5, 5)])
def test_a_causal_mask_stays_and_other_masks_are_shuffled(shape: tuple[int, ...]) -> None:
    mask = torch.ones(shape, dtype=torch.float64).tril()
    for draw in range(4):
        for values in (mask, 1 - mask, mask.mT.contiguous(), mask * 0.5 - 1):
            assert torch.equal(similar("m", values, leaf=False, draw=draw), values)
    mask[..., 2, 0] = 0
    assert any(not torch.equal(similar("m", mask, leaf=False, draw=k), mask) for k in range(4))


def test_columns_of_log_probabilities_stay_log_probabilities() -> None:
    moved = similar("w", torch.log_softmax(drawn(6, 5), 0), leaf=True)
    assert line_kind(moved, 0) == "log probabilities"


def test_a_single_row_keeps_its_zeros_and_mixes_the_rest() -> None:
    x = torch.tensor([0.0, 3.5, 0.0, -1.25, 8.0, 0.0], dtype=torch.float64)
    moved = similar("x", x, leaf=True)
    assert torch.equal(moved == 0, x == 0)
    assert float(moved.sum()) == pytest.approx(float(x.sum()), abs=1e-12)


def test_numbers_above_0_are_no_log_probabilities() -> None:
    x = torch.tensor([[1e-17, -40.0, -50.0], [-40.0, 1e-17, -60.0]], dtype=torch.float64)
    assert find_normalised_lines(x) is None
    assert find_normalised_lines(torch.log_softmax(x, -1)) == NormalisedLines(
        "log probabilities", 1
    )


def test_zeros_stay_where_sums_of_0_are_restored() -> None:
    x = torch.tensor([[0.0, 0.1, -0.3, 0.2], [0.3, 0.0, -0.1, -0.2]])
    lines = find_normalised_lines(x)
    assert lines == NormalisedLines("sums of 0", 1)
    exactly = lines.made_exact(balls(x))
    assert off("sums of 0", exactly) < 1e-50
    assert exactly[0, 0] == 0
    shifted = lines.renormalise(x + 0.01 * (x != 0))
    assert torch.equal(shifted == 0, x == 0)
    assert shifted.sum(1).abs().max() < 1e-6
