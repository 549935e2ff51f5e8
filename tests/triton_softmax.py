"""Checks a softmax in Triton's interpreter, right and times 1.0001, and prints both verdicts."""

import os
import sys

os.environ["TRITON_INTERPRET"] = "1"  # read when triton is imported

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

import compare


@triton.jit  # type: ignore[untyped-decorator]
def _forward(y: Any, x: Any, n: Any, size: tl.constexpr) -> None:
    row, column = tl.program_id(0), tl.arange(0, size)
    inside = column < n
    values = tl.load(x + row * n + column, mask=inside, other=-float("inf"))
    e = tl.exp(values - tl.max(values, 0))
    tl.store(y + row * n + column, e / tl.sum(e, 0), mask=inside)


@triton.jit  # type: ignore[untyped-decorator]
def _backward(dx: Any, y: Any, g: Any, n: Any, factor: Any, size: tl.constexpr) -> None:
    row, column = tl.program_id(0), tl.arange(0, size)
    inside = column < n
    output = tl.load(y + row * n + column, mask=inside, other=0.0)
    grad = tl.load(g + row * n + column, mask=inside, other=0.0)
    change = output * (grad - tl.sum(output * grad, 0))
    tl.store(dx + row * n + column, change * factor, mask=inside)


class Softmax(torch.autograd.Function):
    """The softmax of the rows."""

    factor = 1.0

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """Return the shares of each row."""
        y = torch.empty_like(x)
        size = triton.next_power_of_2(x.shape[1])
        _forward[(x.shape[0],)](y, x.contiguous(), x.shape[1], size=size)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        """Return the gradient at x."""
        (y,) = ctx.saved_tensors
        dx, size = torch.empty_like(y), triton.next_power_of_2(y.shape[1])
        _backward[(y.shape[0],)](
            dx, y, grads[0].contiguous(), y.shape[1], Softmax.factor, size=size
        )
        return dx


if __name__ == "__main__":
    x = torch.randn(8, 20, generator=torch.Generator().manual_seed(0))
    for Softmax.factor in (1.0, 1.0001):
        sys.stdout.write(f"{compare.check(Softmax, lambda x: x.softmax(-1), (x,)).verdict}\n")
