"""The by-hand optimizers equal torch.optim over many steps."""

from typing import Any

import pytest
import torch
from torch import Tensor

from compare.proof.bits import compare_bits
from manual.optimizers import MOMENTS, adam, sgd

pytestmark = pytest.mark.bits

DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
SIZE = 23  # not a multiple of the vector width, so that the tail runs in scalar code

# name -> the optimizer of torch and its options
ROWS: dict[str, tuple[type[torch.optim.Optimizer], dict[str, Any]]] = {
    "sgd": (torch.optim.SGD, {"lr": 0.1}),
    "momentum": (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9}),
    "nesterov": (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True}),
    "adam": (torch.optim.Adam, {"lr": 0.01, "eps": 1e-4}),
    "adam with other betas": (torch.optim.Adam, {"lr": 0.3, "betas": (0.8, 0.99), "eps": 1e-3}),
    "adamw": (torch.optim.AdamW, {"lr": 0.01, "weight_decay": 1.0, "eps": 1e-4}),
    "adamw without decay": (torch.optim.AdamW, {"lr": 0.01, "weight_decay": 0.0, "eps": 1e-4}),
}


class Side:
    """An optimizer of torch on one copy of a weight, and the by-hand optimizer on another.

    `in_place` gives the by-hand optimizer the weight's own memory for the new weight.
    """

    def __init__(self, row: str, weight: Tensor, *, in_place: bool = False, **other: Any) -> None:
        self.in_place = in_place
        kind, options = ROWS[row]
        self.options = options | other
        self.parameter = torch.nn.Parameter(weight.clone())
        self.optimizer = kind([self.parameter], **self.options)
        self.weight = weight
        self.t = 0
        self.sgd = kind is torch.optim.SGD
        names = () if self.sgd and "momentum" not in options else MOMENTS[kind.__name__.lower()]
        self.moments = {name: torch.zeros_like(weight) for name in names}
        if self.sgd and names:  # torch's first step copies the gradient; by hand it starts from 0
            self.optimizer.state[self.parameter]["momentum_buffer"] = torch.zeros_like(weight)

    def step(self, gradient: Tensor) -> None:
        """Take one step of both optimizers."""
        self.t += 1
        self.parameter.grad = gradient.clone()
        self.optimizer.step()
        o = self.options
        state = {"w": self.weight, **{f"w_{name}": value for name, value in self.moments.items()}}
        updates = {"w": -gradient}
        into = {"w": self.weight} if self.in_place else None
        if self.sgd:
            moved = sgd(
                state, updates, ("w",), alpha=o["lr"], momentum=o.get("momentum", 0.0),
                nesterov=o.get("nesterov", False), into=into,
            )  # fmt: skip
        else:
            moved = adam(
                state, updates, ("w",), alpha=o["lr"], betas=o.get("betas", (0.9, 0.999)),
                adam_eps=o["eps"], weight_decay=o.get("weight_decay", 0.0), t=self.t,
                into=into,
            )  # fmt: skip
        assert moved.keys() == state.keys()
        self.weight = moved.pop("w")
        self.moments = {name.removeprefix("w_"): value for name, value in moved.items()}

    def differences(self) -> list[str]:
        """Return the names of the tensors whose bits differ."""
        state = self.optimizer.state[self.parameter]
        pairs = {"weight": (self.weight, self.parameter.detach())}
        pairs |= {name: (value, state[name]) for name, value in self.moments.items()}
        return [name for name, pair in pairs.items() if compare_bits(*pair).worst is not None]


def _start(dtype: torch.dtype, *shape: int) -> tuple[Tensor, torch.Generator]:
    rng = torch.Generator().manual_seed(1)
    return torch.randn(shape, generator=rng, dtype=torch.float64).to(dtype), rng


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("row", ROWS)
def test_a_thousand_steps_equal_torchs(row: str, dtype: torch.dtype) -> None:
    """Weight and moments have the same bits after each step, also for gradients of 0 or -0.0."""
    weight, rng = _start(dtype, SIZE)
    side = Side(row, weight)
    for t in range(1, 1001):
        drawn = torch.randn(SIZE, generator=rng, dtype=torch.float64)
        gradient = (drawn * 10.0 ** (t % 7 - 3)).to(dtype)
        gradient[t % SIZE], gradient[(t + 5) % SIZE] = 0.0, -0.0
        if t % 50 == 0:
            gradient = torch.zeros_like(gradient)
        side.step(gradient)
        assert not side.differences(), f"step {t}"
    assert bool((side.weight != weight).all())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("row", ROWS)
def test_a_weight_in_its_own_memory_has_the_same_bits(row: str, dtype: torch.dtype) -> None:
    weight, rng = _start(dtype, SIZE)
    first, side = weight.clone(), Side(row, weight, in_place=True)
    for t in range(50):
        side.step(torch.randn(SIZE, generator=rng, dtype=torch.float64).to(dtype))
        assert not side.differences(), f"step {t}"
    assert side.weight is weight
    assert not weight.equal(first)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("zero", [0.0, -0.0])
@pytest.mark.parametrize("row", ROWS)
def test_gradients_of_zero(row: str, zero: float, dtype: torch.dtype) -> None:
    """The bits are the same after each step; the weights change only with weight decay."""
    weight, _ = _start(dtype, 2, SIZE)
    weight[0, :2] = torch.tensor([0.0, -0.0])
    side = Side(row, weight)
    for t in range(1, 21):
        side.step(torch.full_like(weight, zero))
        assert not side.differences(), f"step {t}"
    assert side.weight.equal(weight) is (row != "adamw")


def test_an_eps_too_small_for_float16_is_0_over_0_on_both_sides() -> None:
    """1e-8 rounds to 0 in float16: after gradients of 0 only, the weight is NaN, as in torch."""
    weight, _ = _start(torch.float16, SIZE)
    side = Side("adam", weight, eps=1e-8)
    side.step(torch.zeros_like(weight))
    assert side.weight.isnan().all()
    assert side.parameter.isnan().all()
