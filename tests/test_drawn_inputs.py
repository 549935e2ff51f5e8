"""Sampled inputs and cotangents differ from the user's, and move only the floats they should."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import compare
from compare.proof.other_inputs import (
    cotangent,
    nearby,
    nearby_same_kind,
    seeded_generator,
    very_near,
)
from compare.proof.program import Opaque, Program
from compare.proof.trace import trace
from tests.opaque import memory

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
MIXED = torch.tensor([1.0, -2.0, 0.0, 0.25, -torch.inf, torch.inf])


def test_a_generator_is_seeded_by_the_whole_key_and_never_by_a_small_number() -> None:
    """A user's seed is 0, 1, 42 or 2026."""
    keys = [("a",), ("b",), ("a", 1), ("a", 2), ("a", (1,)), ()]
    seeds = [seeded_generator(*key).initial_seed() for key in keys]
    assert len(set(seeds)) == len(seeds)
    assert all(abs(seed) > 2**32 for seed in seeds)
    assert seeded_generator("a", 1).initial_seed() == seeded_generator("a", 1).initial_seed()


def test_another_name_shape_or_seed_gives_other_cotangents() -> None:
    like = torch.zeros(3, 4)
    cotangents = [
        cotangent("grad_output", like, 0), cotangent("grad_output[1]", like, 0),
        cotangent("grad_output", like, 1), cotangent("grad_output", like.T, 0),
    ]  # fmt: skip
    for one, other in itertools.combinations(cotangents, 2):
        assert not set(one.flatten().tolist()) & set(other.flatten().tolist())
    assert torch.equal(cotangents[0], cotangent("grad_output", like + 1, 0))


@pytest.mark.parametrize("dtype", DTYPES)
def test_no_cotangent_is_near_0_or_far_from_1(dtype: torch.dtype) -> None:
    """Absolute values lie between 0.5 and 1.5, and both signs are about as frequent."""
    cotangents = cotangent("grad_output", torch.zeros(40, 50, dtype=dtype), 0)
    assert cotangents.dtype == dtype
    assert float(cotangents.abs().min()) >= 0.5
    assert float(cotangents.abs().max()) <= 1.5
    assert 900 < int((cotangents > 0).sum()) < 1100
    assert cotangents.abs().double().std() > 0.25


@pytest.mark.parametrize("shape", [(), (1,), (2, 3)])
def test_the_first_cotangent_is_below_minus_1(shape: tuple[int, ...]) -> None:
    """A scalar has no other: abs, a square and a clamp to +-1 all change it."""
    for seed in range(20):
        first = cotangent("grad_output", torch.zeros(shape), seed).flatten()[0]
        assert -1.5 <= float(first) < -1.1


def test_no_cotangent_where_there_are_no_elements() -> None:
    assert cotangent("grad_output", torch.zeros(0, 3), 0).shape == (0, 3)


def test_equal_inputs_move_apart() -> None:
    """No number of one equals the number at the same place of the other."""
    x = torch.full((5,), 2.0)
    assert not bool((nearby("x", x) == nearby("y", x)).any())
    assert not bool((very_near("x", x) == very_near("y", x)).all())
    assert torch.equal(nearby("x", x), nearby("x", x.clone()))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("move", [nearby, very_near, nearby_same_kind])
def test_every_finite_number_moves_a_little_and_no_infinity_does(
    move: object, dtype: torch.dtype
) -> None:
    """A mask of minus infinities stays one, and no NaN appears."""
    assert callable(move)
    x = MIXED.to(dtype)
    moved: Tensor = move("x", x)
    finite = x.isfinite()
    assert moved.dtype == dtype
    assert bool((moved != x)[finite].all())
    assert float((moved - x)[finite].abs().max()) < 2 * 1.5 / 64
    assert torch.equal(moved[~finite], x[~finite])


def test_integers_and_booleans_stay() -> None:
    for values in (torch.arange(4), torch.tensor([True, False]), torch.zeros(0)):
        assert torch.equal(nearby("x", values), values)


def test_a_mask_stays_a_mask_of_the_same_numbers() -> None:
    mask = torch.eye(7)
    moved = nearby_same_kind("mask", mask)
    assert not torch.equal(moved, mask)
    assert torch.equal(moved.sum(0), mask.sum(0))
    assert torch.equal(moved.sum(1), mask.sum(1))


def _attention(x: Tensor, mask: Tensor) -> Tensor:
    return torch.softmax(x @ x.mT / math.sqrt(3) + mask, -1) @ x


def test_a_mask_of_infinities_hides_no_work_outside_torch() -> None:
    """Nearby inputs that turn everything into NaN would show nothing."""
    mask = torch.tensor([0, 0, 0, -torch.inf]).expand(4, 4)
    x = cotangent("x", torch.zeros(4, 3), 5)

    def outside_torch(x: Tensor, mask: Tensor) -> dict[str, Tensor]:
        return {"out": _attention(torch.from_numpy(memory(x) * 2), mask)}

    with pytest.raises(Opaque, match="are computed outside torch"):
        trace(outside_torch, {"x": x, "mask": mask})
    assert isinstance(trace(lambda x, mask: {"out": _attention(x, mask)},
                            {"x": x, "mask": mask}), Program)  # fmt: skip


def test_a_kink_is_reported_despite_a_mask_of_infinities() -> None:
    mask = torch.tensor([0.0, 0.0, -torch.inf], dtype=torch.float64)
    inputs = {"x": torch.tensor([-1.5, 0.0, 2.0], dtype=torch.float64).requires_grad_()}
    report = compare.check(
        lambda x, mask, grad_output: {"x": grad_output * (x >= 0) * torch.exp(mask)},
        lambda x, mask: F.relu(x) * torch.exp(mask), inputs | {"mask": mask},
    )  # fmt: skip
    assert report.verdict == "ROUNDING"
    assert "another subgradient than autograd's" in " ".join(str(report).split())
