"""Rows of the table for resizing: interpolation, adaptive pooling, and padding by copies.

All of these are linear in their input, one dimension after the other. A dimension of size `in` is
resized to `out` by a matrix of weights (out, in), and the backward pass multiplies by its
transpose. Source of the coordinates and weights: PyTorch's documentation of
torch.nn.functional.interpolate, and Keys, Cubic Convolution Interpolation for Digital Image
Processing, 1981, with a = -0.75 as in PyTorch.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from compare.proof.arithmetic_interface import Call, N, flat_indices

aten = torch.ops.aten


def _transposed_copy(n: Call[N], g: N, shape: Sequence[int], copy: Callable[..., Any]) -> N:
    """Return the gradient at the input of an operation that copies elements, of this shape."""
    index = copy(flat_indices(shape).double()).long()  # resizing kernels take no integers
    return n.scatter_add(n.exact(torch.zeros(tuple(shape))), index, g)


def _copy_backward(forward: Any) -> Callable[..., Any]:
    """Return the row of a nearest interpolation's backward pass."""

    def row(n: Call[N], g: N, size: Any, shape: Sequence[int], *scales: Any) -> N:
        factors = [None if scale is None else n.scalar(scale) for scale in scales]
        return _transposed_copy(n, g, shape, lambda index: forward(index, size, *factors))

    return row


def _pad_backward(forward: Any) -> Callable[..., Any]:
    """Return the row of the backward pass of a padding that repeats elements."""
    return lambda n, g, x, pad: _transposed_copy(n, g, x.shape, lambda index: forward(index, pad))


def _resized(n: Call[N], x: N, weights: Sequence[N], *, transposed: bool = False) -> N:
    """Return x with its last dimensions multiplied by the weights, (out, in) each."""
    first = x.ndim - len(weights)
    for dim, matrix in enumerate(weights, start=first):
        right = matrix if transposed else n.take(matrix, flat_indices(matrix.shape).mT)
        order = [*range(dim), *range(dim + 1, x.ndim), dim]
        index = flat_indices(x.shape).permute(order)
        rows = n.take(x, index.reshape(-1, index.shape[-1]))
        product = n.matmul(rows, right)
        shape = (*index.shape[:-1], product.shape[1])
        back = flat_indices(shape).permute([*range(dim), x.ndim - 1, *range(dim, x.ndim - 1)])
        x = n.take(product, back)
    return x


def _positions(n: Call[N], count: int, size: int, align_corners: bool, scale: Any) -> N:
    """Return the coordinate in the input of each of `count` output elements, (count, 1)."""
    index = torch.arange(count, dtype=torch.float64).unsqueeze(1)
    if align_corners:
        return n.exact(index * (size - 1)) / max(count - 1, 1)
    if scale is None:
        ratio = n.exact(torch.tensor(float(size))) / count
    else:
        ratio = n.exact(torch.tensor(1.0)) / n.exact(torch.tensor(float(n.scalar(scale))).double())
    return n.exact(index + 0.5) * ratio - n.exact(torch.tensor(0.5))


def _linear_weights(n: Call[N], count: int, size: int, align_corners: bool, scale: Any) -> N:
    """Return the weights of linear interpolation: max(0, 1 - distance), continuous everywhere."""
    zero, last = n.exact(torch.zeros(())), n.exact(torch.tensor(size - 1.0))
    at = n.minimum(n.maximum(_positions(n, count, size, align_corners, scale), zero), last)
    distance = n.function("abs", at - n.exact(torch.arange(size, dtype=torch.float64)))
    return n.maximum(n.exact(torch.ones(())) - distance, zero)


def _cubic_weights(n: Call[N], count: int, size: int, align_corners: bool, scale: Any) -> N:
    """Return the weights of cubic convolution; neighbours beyond an edge are the edge's element."""
    at = _positions(n, count, size, align_corners, scale)
    neighbours = torch.arange(-2 - size, 2 * size + 2, dtype=torch.float64)
    d = n.function("abs", at - n.exact(neighbours))
    factor = None if scale is None else n.scalar(scale)
    index = torch.arange(count, dtype=torch.float64).unsqueeze(1)
    middle = (index + 0.5) * (size / count if factor is None else 1 / factor) - 0.5
    if align_corners:
        middle = index * (size - 1) / max(count - 1, 1)
    rough = (middle - neighbours).abs()
    square, a = d * d, n.exact(torch.tensor(-0.75))
    inner = (d * (a + 2) - (a + 3)) * square + n.exact(torch.ones(()))
    outer = (((d - 5) * d + 8) * d - 4) * a
    zero = n.broadcast_to(n.exact(torch.zeros(())), rough.shape)
    weights = n.where(rough <= 1, inner, n.where(rough < 2, outer, zero))
    target = neighbours.long().clamp(0, size - 1).expand(count, -1)
    flat = torch.arange(count).unsqueeze(1) * size + target
    matrix: N = n.scatter_add(n.exact(torch.zeros(count, size)), flat, weights)
    return matrix


def _antialiased(reach: int, kernel: Callable[..., Any]) -> Callable[..., Any]:
    """Return the weights of a resizing that averages as it shrinks: a wider kernel, normalised."""

    def weights(n: Call[N], count: int, size: int, align_corners: bool, scale: Any) -> N:
        factor = None if scale is None else 1 / n.scalar(scale)
        ratio = n.exact(torch.tensor(float(size if factor is None else factor)))
        if factor is None:
            ratio = ratio / count
        rough = size / count if factor is None else factor
        if align_corners:
            ratio = n.exact(torch.tensor(float(size - 1))) / max(count - 1, 1)
            rough = (size - 1) / max(count - 1, 1)
        middle = torch.arange(count, dtype=torch.float64).unsqueeze(1) + 0.5
        pixels = torch.arange(size, dtype=torch.float64) + 0.5
        d = n.function("abs", n.exact(middle) * ratio - n.exact(pixels))
        near = (middle * rough - pixels).abs()
        if rough > 1:
            d, near = d / ratio, near / rough
        zero = n.broadcast_to(n.exact(torch.zeros(())), near.shape)
        row = n.where(near < reach, kernel(n, d, near), zero)
        return row / n.sum(row, [1], True)

    return weights


def _triangle(n: Call[N], d: N, _rough: Any) -> N:
    return n.maximum(1 - d, n.exact(torch.zeros(())))


def _cubic_antialiased(n: Call[N], d: N, rough: Any) -> N:
    """Return the cubic convolution with a = -0.5, which antialiasing takes."""
    inner = (d * 1.5 - 2.5) * d * d + 1
    return n.where(rough <= 1, inner, (((d - 5) * d + 8) * d - 4) * -0.5)


def _interpolation(weights: Callable[..., Any]) -> Callable[..., Any]:
    """Return the row of an interpolation's forward pass."""

    def row(n: Call[N], x: N, size: Any, align_corners: bool, *scales: Any) -> N:
        scales = scales or (None,) * len(size)
        result: N = _resized(
            n,
            x,
            [
                weights(n, count, length, align_corners, scale)
                for count, length, scale in zip(size, x.shape[-len(size) :], scales, strict=True)
            ],
        )
        return result

    return row


def _interpolation_backward(weights: Callable[..., Any]) -> Callable[..., Any]:
    """Return the row of an interpolation's backward pass."""

    def row(
        n: Call[N], g: N, size: Any, shape: Sequence[int], align_corners: bool, *scales: Any
    ) -> N:
        scales = scales or (None,) * len(size)
        matrices = [
            weights(n, count, length, align_corners, scale)
            for count, length, scale in zip(size, shape[-len(size) :], scales, strict=True)
        ]
        result: N = _resized(n, g, matrices, transposed=True)
        return result

    return row


def _adaptive_weights(n: Call[N], count: int, size: int) -> N:
    """Return the weights of an adaptive mean: 1 / length of each output's window."""
    window = torch.zeros(count, size)
    for k in range(count):
        window[k, k * size // count : -(-(k + 1) * size // count)] = 1
    return n.exact(window) / n.exact(window.sum(1, keepdim=True))


def _adaptive_mean(n: Call[N], x: N, size: Sequence[int]) -> N:
    sizes = x.shape[-len(size) :]
    return _resized(n, x, [_adaptive_weights(n, c, s) for c, s in zip(size, sizes, strict=True)])


def _adaptive_mean_backward(dims: int) -> Callable[..., Any]:
    def row(n: Call[N], g: N, x: N) -> N:
        sizes = zip(g.shape[-dims:], x.shape[-dims:], strict=True)
        return _resized(n, g, [_adaptive_weights(n, c, s) for c, s in sizes], transposed=True)

    return row


RESAMPLING: dict[str, Callable[..., Any]] = {
    **{
        f"{name}{dims}d_backward": _copy_backward(getattr(aten, f"{name}{dims}d"))
        for name in ("upsample_nearest", "_upsample_nearest_exact")
        for dims in (1, 2, 3)
    },
    **{
        f"replication_pad{dims}d_backward": _pad_backward(getattr(aten, f"replication_pad{dims}d"))
        for dims in (1, 2, 3)
    },
    **{
        f"upsample_{name}_backward": _interpolation_backward(_linear_weights)
        for name in ("linear1d", "bilinear2d", "trilinear3d")
    },
    "_upsample_bilinear2d_aa": _interpolation(_antialiased(1, _triangle)),
    "_upsample_bicubic2d_aa": _interpolation(_antialiased(2, _cubic_antialiased)),
    "_upsample_bilinear2d_aa_backward": _interpolation_backward(_antialiased(1, _triangle)),
    "_upsample_bicubic2d_aa_backward": _interpolation_backward(_antialiased(2, _cubic_antialiased)),
    "upsample_bicubic2d_backward": _interpolation_backward(_cubic_weights),
    **dict.fromkeys(("_adaptive_avg_pool2d", "_adaptive_avg_pool3d"), _adaptive_mean),
    "_adaptive_avg_pool2d_backward": _adaptive_mean_backward(2),
    "_adaptive_avg_pool3d_backward": _adaptive_mean_backward(3),
}
