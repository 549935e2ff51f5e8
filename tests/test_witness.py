"""A third witness, which shares nothing with either side: gradcheck and central differences."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from manual import network
from manual.sigmoid import GROUPINGS

SIZES = (3, 5, 4, 2)
ROWS = 6


class _ByHand(torch.autograd.Function):
    """The loss of the by-hand network, and its updates as the gradient of -loss."""

    @staticmethod
    def forward(ctx: Any, grouping: str, X: Tensor, y: Tensor, *syn: Tensor) -> Tensor:
        weights = {f"syn{n}": w for n, w in enumerate(syn)}
        values = network.step(X=X, y=y, sizes=SIZES, alpha=1.0, grouping=grouping, **weights)
        ctx.updates = [values[f"syn{n}_update"] for n in range(len(syn))]
        error = values[f"l{len(SIZES) - 1}_error"]
        return (error**2).sum() / 2

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        return (None, None, None, *(-update * grad for update in ctx.updates))


@pytest.mark.parametrize("grouping", GROUPINGS)
def test_gradcheck(grouping: str) -> None:
    X, y, *syn = _given()
    syn = [w.requires_grad_() for w in syn]
    assert torch.autograd.gradcheck(lambda *w: _ByHand.apply(grouping, X, y, *w), syn)


@pytest.mark.parametrize("grouping", GROUPINGS)
def test_central_differences_in_numpy(grouping: str) -> None:
    """The forward pass once more in numpy alone; the step and error bound are for float64."""
    X, y, *syn = _given()
    values = network.step(
        X=X, y=y, sizes=SIZES, alpha=1.0, grouping=grouping,
        **{f"syn{n}": w for n, w in enumerate(syn)},
    )  # fmt: skip
    arrays = [w.numpy().copy() for w in syn]

    def loss() -> float:
        layer = X.numpy()
        for w in arrays:
            layer = 1 / (1 + np.exp(-(layer @ w)))
        return float(((y.numpy() - layer) ** 2).sum() / 2)

    step = 6e-6  # about the cube root of 2**-53: the two errors of a central difference balance
    for n, w in enumerate(arrays):
        update = values[f"syn{n}_update"].numpy()
        for index in np.ndindex(*w.shape):
            middle = w[index]
            w[index] = middle + step
            above = loss()
            w[index] = middle - step
            below = loss()
            w[index] = middle
            assert -(above - below) / (2 * step) == pytest.approx(update[index], abs=2e-10)


def _given() -> list[Tensor]:
    chance = torch.Generator().manual_seed(11)
    shapes = [(ROWS, SIZES[0]), (ROWS, SIZES[-1])]
    shapes += [(SIZES[n], SIZES[n + 1]) for n in range(len(SIZES) - 1)]
    return [torch.randn(*s, generator=chance, dtype=torch.float64) for s in shapes]
