"""The time of one check of two layers with biases: by compare.check, and by gradcheck."""

from typing import Any

import torch
from torch import Tensor

from compare.bench.timing import Take
from compare.checking.check import check
from compare.passes.forward import name

Sizes = tuple[int, int, int]


def compare_check(sizes: Sizes, rows: int) -> Take:
    """Return a function that runs compare.check once. `sizes` are (I, H, O), `rows` is B."""
    inputs = _inputs(*sizes, rows=rows)

    def take(_: int) -> None:
        report = check(_backward, _forward, inputs)
        assert report.ok, str(report)

    return take


def torch_gradcheck(sizes: Sizes, rows: int, *, fast: bool) -> Take:
    """Return a function that runs gradcheck once; `fast` checks a single random direction."""
    inputs = tuple(_inputs(*sizes, rows=rows).values())

    def take(_: int) -> None:
        torch.autograd.gradcheck(_TwoLayers.apply, inputs, fast_mode=fast)

    return take


def _inputs(I: int, H: int, O: int, *, rows: int) -> dict[str, Tensor]:
    """Return data, and weights that need a gradient, for a network I-H-O."""
    rng = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=rng, dtype=torch.float64)

    weights = {"w1": normal(I, H) / I**0.5, "b1": normal(H), "w2": normal(H, O) / H**0.5}
    weights["b2"] = normal(O)
    data = {"X": normal(rows, I), "y": normal(rows, O)}
    return {**data, **{name: weight.requires_grad_() for name, weight in weights.items()}}


def _forward(X: Tensor, y: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> Tensor:
    h = name(torch.sigmoid(name(X @ w1 + b1, "z1")), "h")
    return ((y - torch.sigmoid(name(h @ w2 + b2, "z2"))) ** 2).sum() / 2


def _backward(X: Tensor, y: Tensor, w2: Tensor, h: Tensor, z2: Tensor) -> dict[str, Tensor]:
    output = torch.sigmoid(z2)
    dz2 = (output - y) * (1 - output) * output
    dh = dz2 @ w2.mT
    dz1 = dh * (1 - h) * h
    return {"z2": dz2, "h": dh, "z1": dz1, "w2": h.mT @ dz2, "b2": dz2.sum(0),
            "w1": X.mT @ dz1, "b1": dz1.sum(0)}  # fmt: skip


class _TwoLayers(torch.autograd.Function):
    """The same passes as an autograd.Function, as gradcheck requires."""

    @staticmethod
    def forward(ctx: Any, X: Tensor, y: Tensor, *weights: Tensor) -> Tensor:
        w1, b1, w2, b2 = weights
        h = torch.sigmoid(X @ w1 + b1)
        z2 = h @ w2 + b2
        ctx.save_for_backward(X, y, w2, h, z2)
        return ((y - torch.sigmoid(z2)) ** 2).sum() / 2

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        gradients = _backward(*ctx.saved_tensors)
        return None, None, *(grads[0] * gradients[key] for key in ("w1", "b1", "w2", "b2"))
