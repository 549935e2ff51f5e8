"""The time of one check of NumPy code: the blog's listing, and a kernel that hides its work."""

import ctypes
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from compare.bench.timing import Take
from compare.checking.check import check


def blog_listing() -> Take:
    """Return a function that checks the blog's backpropagation of 3-4-1, in NumPy, once."""
    rng = torch.Generator().manual_seed(1)
    X = torch.tensor([[0, 0, 1], [0, 1, 1], [1, 0, 1], [1, 1, 1]], dtype=torch.float64)
    y = torch.tensor([[0.0], [1], [1], [0]], dtype=torch.float64)
    syn0, syn1 = (
        (2 * torch.rand(*shape, generator=rng, dtype=torch.float64) - 1).requires_grad_()
        for shape in ((3, 4), (4, 1))
    )

    def forward(X: Tensor, y: Tensor, syn0: Tensor, syn1: Tensor) -> Tensor:
        return ((y - torch.sigmoid(torch.sigmoid(X @ syn0) @ syn1)) ** 2).sum() / 2

    def backward(X: Tensor, y: Tensor, syn0: Tensor, syn1: Tensor) -> dict[str, Any]:
        l0, rows, first, second = (t.numpy() for t in (X, y, syn0, syn1))
        l1 = 1 / (1 + np.exp(-(l0 @ first)))
        l2 = 1 / (1 + np.exp(-(l1 @ second)))
        l2_delta = (rows - l2) * (l2 * (1 - l2))
        l1_delta = l2_delta.dot(second.T) * (l1 * (1 - l1))
        return {"syn1": -l1.T.dot(l2_delta), "syn0": -l0.T.dot(l1_delta)}

    def take(_: int) -> None:
        report = check(backward, forward, {"X": X, "y": y, "syn0": syn0, "syn1": syn1})
        assert report.ok, str(report)

    return take


def hidden_kernel(rows: int, width: int) -> Take:
    """Return a function that checks a layer norm on raw memory once: its verdict is WITHIN."""
    rng = torch.Generator().manual_seed(0)
    inputs = [torch.randn(*shape, generator=rng) for shape in ((rows, width), (width,), (width,))]

    def forward(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return F.layer_norm(x, (width,), w, b)

    def backward(x: Tensor, w: Tensor, grad_output: Tensor) -> tuple[Tensor, ...]:
        values, weight, g = (_memory(t) for t in (x, w, grad_output))
        centred = values - values.mean(-1, keepdims=True)
        scale = 1 / np.sqrt((centred**2).mean(-1, keepdims=True) + np.float32(1e-5))
        h, d = centred * scale, g * weight
        dx = scale * (d - d.mean(-1, keepdims=True) - h * (d * h).mean(-1, keepdims=True))
        return _tensor(dx), _tensor((g * h).sum(0)), _tensor(g.sum(0))

    def take(_: int) -> None:
        report = check(backward, forward, inputs)
        assert report.verdict == "WITHIN", str(report)

    return take


def _memory(values: Tensor) -> Any:
    if values.dtype != torch.float32:
        raise TypeError("the kernel takes float32")
    dense = values.detach().contiguous()
    memory = ctypes.string_at(dense.data_ptr(), 4 * dense.numel())
    return np.frombuffer(memory, np.float32).reshape(dense.shape)


def _tensor(values: Any) -> Tensor:
    return torch.frombuffer(bytearray(values.tobytes()), dtype=torch.float32).view(values.shape)
