"""Rows of the table for grid_sample: values of an image between its pixels, and their gradients.

The weights of the pixels around a sampling point are products of one weight for each dimension.
Source: PyTorch's documentation of torch.nn.functional.grid_sample; Keys, Cubic Convolution
Interpolation for Digital Image Processing, 1981, with a = -0.75. Which pixels these are, and
whether a point is clipped or reflected, is decided by the float run. Shapes: the image is
(B, C, *sizes), the grid (B, *points, dims), its last dimension in the reversed order of `sizes`; P
is the number of points.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic

import torch
from torch import Tensor

from compare.proof.arithmetic_interface import Call, N, flat_indices

_BILINEAR, _NEAREST, _BICUBIC = range(3)
_ZEROS, _BORDER, _REFLECTION = range(3)


@dataclass(frozen=True)
class _Branch:
    """How the float run maps the coordinates of one dimension, (B, P), to pixels."""

    sign: Tensor  # the derivative of the reflection: 1 or -1
    shift: Tensor  # reflected = sign * coordinate + shift, in float64
    clipped: Tensor  # whether a clip makes it constant
    at: Tensor  # the coordinate after reflection and clipping, in float64
    pixel: Tensor  # the pixel at or below it, or the nearest one

    def agrees(self, other: "_Branch") -> Tensor:
        """Return a mask of the points that another coordinate maps in the same way."""
        same = (self.pixel == other.pixel) & (self.clipped == other.clipped)
        return same & (self.sign == other.sign)


def _coordinates(grid: Tensor, size: int, align: bool) -> list[Tensor]:
    """Return the coordinates in pixels by each formula that a kernel may use, in float64.

    Kernels differ in the order of operations, and a compiler may fuse two of them.
    """
    span = size - 1 if align else size
    shift = 0.0 if align else 0.5
    wide, half = grid.double(), span / 2
    forms = [
        ((grid + 1) / 2) * span if align else ((grid + 1) * size - 1) / 2,
        (grid + 1) * half - shift,
        ((wide + 1).to(grid.dtype).double() * half - shift).to(grid.dtype),
    ]
    return [form.double() for form in forms]


def _branch(at: Tensor, size: int, padding: int, mode: int, align: bool) -> _Branch:
    sign, shift = torch.ones_like(at), torch.zeros_like(at)
    clipped = torch.zeros_like(at, dtype=torch.bool)
    if mode != _BICUBIC and padding == _REFLECTION:
        at, sign, shift = _reflected(at, size, align)
    if mode != _BICUBIC and padding != _ZEROS:
        clipped = (at <= 0) | (at >= size - 1)
        at = at.clamp(0, size - 1)
    return _Branch(sign, shift, clipped, at, at.round() if mode == _NEAREST else at.floor())


def _reflected(at: Tensor, size: int, align: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Return reflected coordinates, and the sign and the shift that give them."""
    low = 0.0 if align else -0.5
    span = float(size - 1 if align else size)
    if span == 0:
        return torch.zeros_like(at), torch.zeros_like(at), torch.zeros_like(at)
    first = torch.where(at < low, -1.0, 1.0).double()
    distance = (at - low).abs()
    flips = (distance / span).floor()
    odd = flips % 2 == 1
    # even: distance - span * flips + low; odd: span - (distance - span * flips) + low
    sign = torch.where(odd, -first, first)
    shift = torch.where(odd, span * (flips + 1), -span * flips) + low - sign * low
    return sign * at + shift, sign, shift


def _cubic(t: N) -> list[tuple[N, N]]:
    """Return the weight and its derivative for each of the four pixels around, t = 0 to 1."""
    a = -0.75

    def near(d: N) -> tuple[N, N]:
        return ((d * (a + 2) - (a + 3)) * d * d + 1, (d * (3 * (a + 2)) - 2 * (a + 3)) * d)

    def far(d: N) -> tuple[N, N]:
        return (((d - 5) * d + 8) * d - 4) * a, ((d * 3 - 10) * d + 8) * a

    weights = [far(t + 1), near(t), near(1 - t), far(2 - t)]
    return [(w, slope if k < 2 else -slope) for k, (w, slope) in enumerate(weights)]


@dataclass(frozen=True)
class _Axis:
    """One dimension of the sampled points: the pixels around each, (B, P), and their weights."""

    taps: list[tuple[Tensor, Any, Any]]  # index (-1 outside), weight, its derivative
    slope: Any  # the derivative of the coordinate in pixels by the grid
    uncertain: Tensor  # whether the branch depends on the rounding of the coordinate


def _axis(n: Call[N], grid: N, floats: Tensor, size: int, mode: int, padding: int, align: bool) -> _Axis:  # fmt: skip  # noqa: E501
    branch, *others = (
        _branch(at, size, padding, mode, align) for at in _coordinates(floats, size, align)
    )
    uncertain = ~torch.stack([branch.agrees(other) for other in others]).all(0)
    span = size - 1 if align else size
    at = (grid + 1) * (span / 2) - n.exact(torch.tensor(0.0 if align else 0.5))
    at = at * n.exact(branch.sign) + n.exact(branch.shift)
    at = n.where(branch.clipped, n.exact(branch.at), at)
    zero, one = (n.broadcast_to(n.exact(torch.tensor(v)), floats.shape) for v in (0.0, 1.0))
    slope = n.where(branch.clipped, zero, n.exact(branch.sign)) * (span / 2)
    pixel = branch.pixel
    t = at - n.exact(pixel)
    if mode == _NEAREST:
        weights = [(one, zero)]
    elif mode == _BILINEAR:
        weights = [(1 - t, -one), (t, one)]
    else:
        pixel = pixel - 1
        weights = _cubic(t)
    taps = []
    for k, pair in enumerate(weights):
        index = pixel + k
        if mode == _BICUBIC:
            index = _padded(index, size, padding, align)
        inside = (index >= 0) & (index < size)
        taps.append((torch.where(inside, index, -1.0).long(), *pair))
    return _Axis(taps, slope, uncertain)


def _padded(index: Tensor, size: int, padding: int, align: bool) -> Tensor:
    """Return the pixel that stands for one outside the image."""
    if padding == _REFLECTION:
        index = _reflected(index, size, align)[0]
    return index if padding == _ZEROS else index.clamp(0, size - 1)


class _Sampling(Generic[N]):
    """The sampled points of one call: the weights of the pixels around them."""

    def __init__(
        self, n: Call[N], shape: Sequence[int], grid: N, floats: Tensor, *how: Any
    ) -> None:
        self.n, self.shape = n, shape
        batch, self.channels, *self.sizes = shape
        dims = len(self.sizes)
        parts = flat_indices(grid.shape).reshape(batch, -1, dims)
        flat = floats.cpu().reshape(batch, -1, dims)
        self.axes = [
            _axis(n, n.take(grid, parts[..., k]), flat[..., k], size, *how)
            for k, size in zip(reversed(range(dims)), self.sizes, strict=True)
        ]
        self.batch, self.points = batch, parts.shape[1]

    def taps(self) -> Any:
        """Yield the flat indices of each pixel, (B, C, P), and its (weight, slope) by dimension."""
        image = math.prod(self.sizes)
        planes = flat_indices((self.batch, self.channels, 1)) * image
        for taps in itertools.product(*(axis.taps for axis in self.axes)):
            inside, place = torch.ones(self.batch, self.points, dtype=torch.bool), torch.zeros(())
            for (index, _, _), size in zip(taps, self.sizes, strict=True):
                inside, place = inside & (index >= 0), place * size + index
            flat = planes + place.long().unsqueeze(1)
            yield torch.where(inside.unsqueeze(1), flat, -1), [(w, d) for _, w, d in taps]

    def per_channel(self, x: N) -> N:
        """Return numbers of the points, (B, P), as (B, 1, P)."""
        return self.n.take(x, flat_indices(x.shape).unsqueeze(1))


def _product(factors: Sequence[N]) -> N:
    first, *rest = factors
    for factor in rest:
        first = first * factor
    return first


def _grid_sample(n: Call[N], x: N, grid: N, *how: Any) -> N:
    sampling = _Sampling(n, x.shape, grid, n.arguments[1], *_ordered(how))
    values = [
        n.take(x, index) * sampling.per_channel(_product([w for w, _ in pairs]))
        for index, pairs in sampling.taps()
    ]
    result = n.take(_total(n, values), flat_indices(n.out.shape))
    if how[0] != _NEAREST:
        return result
    return _unless_uncertain(n, sampling, result, n.out.shape)


def _ordered(how: Sequence[Any]) -> tuple[Any, ...]:
    mode, padding, align = how[:3]
    return mode, padding, align


def _total(n: Call[N], parts: Sequence[N]) -> N:
    """Return the sum of arrays of one shape."""
    shape = tuple(parts[0].shape)
    stacked = n.take(n.join(parts), flat_indices((len(parts), *shape)))
    return n.sum(stacked, [0], False)


def _unless_uncertain(n: Call[N], sampling: _Sampling[N], x: N, shape: Sequence[int]) -> N:
    """Return x (B, C, *points), with NaN where rounding decides which pixel is the nearest."""
    uncertain = torch.stack([axis.uncertain for axis in sampling.axes]).any(0)
    mask = uncertain.reshape(shape[0], 1, *shape[2:]).expand(tuple(shape))
    return n.where(mask, n.broadcast_to(n.exact(torch.tensor(math.nan)), shape), x)


def _grid_sample_backward(
    n: Call[N], g: N, x: N, grid: N, mode: int, padding: int, align: bool, mask: Sequence[bool]
) -> tuple[N | None, N | None]:
    """Return the gradients of image and grid.

    An element of the grid's is NaN where rounding decides the branch: there the gradient jumps.
    """
    sampling = _Sampling(n, x.shape, grid, n.arguments[2], mode, padding, align)
    batch, channels, points = sampling.batch, sampling.channels, sampling.points
    g = n.take(g, flat_indices((batch, channels, points)))
    taps = list(sampling.taps())
    to_image = to_grid = None
    if mask[0]:
        shares = [g * sampling.per_channel(_product([w for w, _ in pairs])) for _, pairs in taps]
        target = torch.cat([index.flatten() for index, _ in taps])
        to_image = n.scatter_add(n.exact(torch.zeros(tuple(x.shape))), target, n.join(shares))
        if mode == _NEAREST and any(bool(axis.uncertain.any()) for axis in sampling.axes):
            to_image = n.broadcast_to(n.exact(torch.tensor(math.nan)), x.shape)
    if mask[1]:
        to_grid = n.take(n.join(_slopes(n, sampling, g, x, taps)), _interleaved(grid.shape))
    return to_image, to_grid


def _slopes(n: Call[N], sampling: _Sampling[N], g: N, x: N, taps: Sequence[Any]) -> list[N]:
    """Return the gradient of each coordinate of the grid, (B, P), in the grid's order."""
    gradients = []
    for k, axis in enumerate(sampling.axes):
        parts = [
            n.take(x, index) * g * sampling.per_channel(
                _product([d if j == k else w for j, (w, d) in enumerate(pairs)])
            )
            for index, pairs in taps
        ]  # fmt: skip
        slope = n.sum(_total(n, parts), [1], False) * axis.slope
        unknown = n.broadcast_to(n.exact(torch.tensor(math.nan)), axis.uncertain.shape)
        gradients.append(n.where(axis.uncertain, unknown, slope))
    return gradients[::-1]


def _interleaved(shape: Sequence[int]) -> Tensor:
    """Return the indices that put the coordinates, one array after the other, into the grid."""
    dims = shape[-1]
    return flat_indices((dims, math.prod(shape[:-1]))).mT.reshape(tuple(shape))


GRID_SAMPLING: dict[str, Callable[..., Any]] = {
    **dict.fromkeys(("grid_sampler_2d", "grid_sampler_3d"), _grid_sample),
    **dict.fromkeys(
        ("grid_sampler_2d_backward", "grid_sampler_3d_backward"), _grid_sample_backward
    ),
}
