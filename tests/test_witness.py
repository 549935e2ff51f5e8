"""A third method that shares no code with either side: gradcheck and central differences."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from compare.cases.cases import Network
from manual import network, three_layer
from manual.losses import LOSSES
from manual.sigmoid import GROUPINGS

SIZES = (3, 5, 4, 2)
ROWS = 6
NETWORKS = {
    "plain": Network(SIZES),
    "everything": Network(
        SIZES, activation="tanh", bias=True, batch_norm=True, dropout=0.25, l1_penalty=0.01,
        l2_penalty=0.02, momentum=0.9,
    ),
    "classes": Network(
        SIZES, activation="softplus", output="identity", loss="cross_entropy", bias=True
    ),
}  # fmt: skip


class _ByHand(torch.autograd.Function):
    """The loss of a by-hand network; its backward pass returns the negated by-hand updates."""

    @staticmethod
    def forward(ctx: Any, asked: Network, data: dict[str, Tensor], *learned: Tensor) -> Tensor:
        weights = dict(zip(_learned(asked), learned, strict=True))
        values = _step(asked, data, weights)
        ctx.updates = [values[f"{name}_update"] for name in weights]
        output = values[f"l{len(SIZES) - 1}"]
        loss = LOSSES[asked.loss].value(output, data["y"])
        for name, syn in weights.items():
            if name.startswith("syn"):
                loss = loss + asked.l2_penalty / 2 * (syn**2).sum()
                loss = loss + asked.l1_penalty * syn.abs().sum()
        return loss

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        return (None, None, *(-update * grad for update in ctx.updates))


@pytest.mark.parametrize("name", NETWORKS)
def test_gradcheck(name: str) -> None:
    asked, data = NETWORKS[name], _data()
    learned = [w.requires_grad_() for w in _learned(asked).values()]
    assert torch.autograd.gradcheck(lambda *w: _ByHand.apply(asked, data, *w), learned)


@pytest.mark.parametrize("name", NETWORKS)
def test_central_differences_in_numpy(name: str) -> None:
    """The forward pass is written again in NumPy alone; step and tolerance suit float64."""
    asked, data = NETWORKS[name], _data()
    learned = _learned(asked)
    values = _step(asked, data, learned)
    arrays = {name: w.numpy().copy() for name, w in learned.items()}

    step = 6e-6  # about the cube root of 2**-53: the two errors of a central difference balance
    for name, w in arrays.items():
        update = values[f"{name}_update"].numpy()
        for index in np.ndindex(*w.shape):
            middle = w[index]
            w[index] = middle + step
            above = _loss_in_numpy(asked, data, arrays)
            w[index] = middle - step
            below = _loss_in_numpy(asked, data, arrays)
            w[index] = middle
            assert -(above - below) / (2 * step) == pytest.approx(update[index], abs=1e-9)


@pytest.mark.parametrize("grouping", GROUPINGS)
def test_central_differences_of_the_listing(grouping: str) -> None:
    """The listing of part 2 of the blog, in either grouping of its derivative."""
    chance = np.random.default_rng(3)
    X, y = chance.standard_normal((ROWS, 3)), chance.standard_normal((ROWS, 2))
    arrays = {"syn0": chance.standard_normal((3, 5)), "syn1": chance.standard_normal((5, 2))}
    values = three_layer.step(
        X=torch.from_numpy(X), y=torch.from_numpy(y), sizes=(3, 5, 2), alpha=1.0,
        grouping=grouping, **{name: torch.from_numpy(w.copy()) for name, w in arrays.items()},
    )  # fmt: skip

    def loss() -> float:
        l1 = 1 / (1 + np.exp(-(X @ arrays["syn0"])))
        l2 = 1 / (1 + np.exp(-(l1 @ arrays["syn1"])))
        return float(((y - l2) ** 2).sum() / 2)

    for name, w in arrays.items():
        for index in np.ndindex(*w.shape):
            middle, losses = w[index], []
            for w[index] in (middle + 6e-6, middle - 6e-6):
                losses.append(loss())
            w[index] = middle
            difference = -(losses[0] - losses[1]) / 1.2e-5
            assert difference == pytest.approx(float(values[f"{name}_update"][index]), abs=2e-10)


def _loss_in_numpy(asked: Network, data: dict[str, Tensor], w: dict[str, np.ndarray]) -> float:
    layer, y = data["X"].numpy(), data["y"].numpy()
    penalty = 0.0
    for n in range(1, len(SIZES)):
        hidden = n < len(SIZES) - 1
        syn = w[f"syn{n - 1}"]
        penalty += asked.l2_penalty / 2 * (syn**2).sum() + asked.l1_penalty * np.abs(syn).sum()
        z = layer @ syn + w.get(f"bias{n - 1}", 0.0)
        if asked.batch_norm and hidden:
            z = (z - z.mean(0)) / np.sqrt(z.var(0) + asked.batch_norm_eps)
            z = w[f"gamma{n}"] * z + w[f"beta{n}"]
        kind = asked.activation if hidden else asked.output
        functions: dict[str, Callable[[np.ndarray], np.ndarray]] = {
            "sigmoid": lambda z: 1 / (1 + np.exp(-z)), "tanh": np.tanh, "identity": lambda z: z,
            "softplus": lambda z: np.log1p(np.exp(z)),
        }  # fmt: skip
        layer = functions[kind](z)
        if asked.dropout and hidden:
            layer = layer * data[f"mask{n}"].numpy() / (1 - asked.dropout)
    if asked.loss == "cross_entropy":
        rngs = np.exp(layer) / np.exp(layer).sum(1, keepdims=True)
        return float(-np.log((rngs * y).sum(1)).mean() + penalty)
    return float(((y - layer) ** 2).sum() / 2 + penalty)


def _step(asked: Network, data: dict[str, Tensor], learned: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the values of one by-hand step, with moments and running statistics at their start."""
    weights = {name: w.detach() for name, w in learned.items()}
    given = {"X": data["X"], "y": data["y"], **weights}
    for n in asked.hidden:
        if asked.dropout:
            given[f"mask{n}"] = data[f"mask{n}"]
        if asked.batch_norm:
            given |= {f"mean{n}": torch.zeros(1, SIZES[n]).double()}
            given |= {f"var{n}": torch.ones(1, SIZES[n]).double()}
    if asked.momentum:
        given |= {f"{name}_momentum_buffer": torch.zeros_like(w) for name, w in weights.items()}
    return network.Network(**asked.arguments()).step(**given)


def _data() -> dict[str, Tensor]:
    chance = torch.Generator().manual_seed(11)
    X = torch.randn(ROWS, SIZES[0], generator=chance, dtype=torch.float64)
    y = torch.eye(SIZES[-1], dtype=torch.float64)[torch.arange(ROWS) % SIZES[-1]]
    masks = {
        f"mask{n}": (torch.rand(ROWS, SIZES[n], generator=chance) > 0.25).double() for n in (1, 2)
    }
    return {"X": X, "y": y, **masks}


def _learned(asked: Network) -> dict[str, Tensor]:
    """Return random values for the learned parameters."""
    chance = torch.Generator().manual_seed(12)
    shapes: dict[str, tuple[int, ...]] = {}
    for n in range(len(SIZES) - 1):
        shapes[f"syn{n}"] = SIZES[n : n + 2]
        normed = asked.batch_norm and n + 1 in asked.hidden
        if asked.bias and not normed:
            shapes[f"bias{n}"] = (1, SIZES[n + 1])
        if normed:
            shapes |= {f"gamma{n + 1}": (1, SIZES[n + 1]), f"beta{n + 1}": (1, SIZES[n + 1])}
    return {
        name: torch.randn(*shape, generator=chance, dtype=torch.float64)
        for name, shape in shapes.items()
    }
