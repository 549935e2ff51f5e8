"""A Function that refuses torch.autograd.grad, as checkpointing does, is called by backward()."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import compare
from compare.errors import BadInput

LAYER = nn.Linear(3, 2, dtype=torch.float64)
X = torch.linspace(-1, 1, 12, dtype=torch.float64).reshape(4, 3)


class _Checkpoint(torch.autograd.Function):
    """tanh of a layer, which is computed again in the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        with torch.no_grad():
            return torch.tanh(LAYER(x))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        if not torch.autograd._is_checkpoint_valid():
            raise RuntimeError("it is not compatible with .grad(), please use .backward()")
        x = ctx.saved_tensors[0].detach().requires_grad_()
        with torch.enable_grad():
            y = torch.tanh(LAYER(x))
        torch.autograd.backward(y, grads)
        return x.grad * 1.0


class _TwiceAsLarge(_Checkpoint):
    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return 2 * _Checkpoint.backward(ctx, *grads)


def _forward(x: Tensor) -> Tensor:
    return torch.tanh(LAYER(x))


def test_a_function_that_refuses_grad_is_judged() -> None:
    """The contract's calls are made too, and the parameters keep their own gradients."""
    LAYER.weight.grad = kept = torch.ones_like(LAYER.weight)
    report = compare.check(_Checkpoint, _forward, (X,))
    assert report.ok, str(report)
    assert {line.name for line in report.contract if line.outcome == "kept"} >= {"twice", "zero"}
    assert LAYER.weight.grad is kept
    assert torch.equal(kept, torch.ones_like(kept))
    assert LAYER.bias.grad is None
    wrong = compare.check(_TwiceAsLarge, _forward, (X,))
    assert (wrong.verdict, wrong.first_wrong) == ("WRONG", "x")


def test_another_error_passes_through() -> None:
    class Broken(_Checkpoint):
        @staticmethod
        def backward(ctx: Any, *grads: Tensor) -> Any:
            raise RuntimeError("the kernel failed")

    with pytest.raises(RuntimeError, match="the kernel failed"):
        compare.check(Broken, _forward, (X,))


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (None, "Nothing's forward returns None: return a tensor or a tuple of tensors"),
        ([None], "Nothing has 0 differentiable outputs and forward 1: return the same outputs"),
    ],
)
def test_a_function_that_returns_nothing_is_bad_input(returned: Any, message: str) -> None:
    class Nothing(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Any:
            return returned

        @staticmethod
        def backward(ctx: Any, *grads: Tensor) -> Any:
            return grads[0]

    with pytest.raises(BadInput) as error:
        compare.check(Nothing, _forward, (X,))
    assert str(error.value) == message
