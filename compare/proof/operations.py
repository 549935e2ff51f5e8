"""The table of operations: the formula of each ATen operation, for any arithmetic.

A row is a function that takes the arithmetic `n` (`Balls` or `Bounds`), then the arguments of the
operation: floating-point tensors as arrays of `n`, integer and boolean tensors as torch tensors. To
add an operation, write its formula with the methods of `n` and add it to `ROWS` under its ATen
name. For an operation that only moves numbers, add its name to `MOVES`.
"""

import math
from collections.abc import Callable, Sequence
from functools import reduce
from operator import add
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from compare.proof.arithmetic_interface import Arithmetic, Call, N, flat_indices
from compare.proof.balls import FUNCTIONS
from compare.proof.batch_norm_backward import batch_norm_backward
from compare.proof.bounds import Bound, Bounds
from compare.proof.ctc import CTC
from compare.proof.distances import distance_backward, pair_rows, pdist_backward
from compare.proof.elementwise import ELEMENTWISE
from compare.proof.embedding_bags import EMBEDDING_BAGS
from compare.proof.grid_sampling import GRID_SAMPLING
from compare.proof.group_reductions import GROUP_REDUCTIONS
from compare.proof.linear_algebra import LINEAR_ALGEBRA
from compare.proof.margin_losses import MARGIN_LOSSES
from compare.proof.program import PICKS, RESHAPES, SAME_SHAPE
from compare.proof.resampling import RESAMPLING
from compare.proof.trilinear import trilinear
from compare.proof.wide import Wide

aten = torch.ops.aten

#: A row whose arrays are larger than its operands makes at most so many numbers.
MAX_INTERMEDIATE = 1_000_000

#: Numbers in the windows of a convolution that are laid out at once.
NUMBERS_AT_ONCE = 4_000_000

_Outputs = tuple[Any, ...]  # of an operation with more than one output

#: Operations that only move numbers. They are applied to the tensors of which bounds and wide
#: numbers consist, and for balls to a tensor of flat indices.
MOVES = SAME_SHAPE | RESHAPES | PICKS | {
    "diagonal", "embedding", "flip", "gather", "index", "index_select", "masked_select",
    "permute", "permute_copy", "repeat", "unfold",
}  # fmt: skip

#: Operations that assemble the numbers of several tensors into one, without computing.
JOINS = {
    "cat", "diagonal_scatter", "slice_scatter", "scatter",
}  # fmt: skip


def move(n: Arithmetic[N], operation: Callable[..., Any], x: N, *args: Any, **kwargs: Any) -> N:
    """Return the result of an operation that only moves the numbers of x.

    Args:
        n: The arithmetic.
        operation: The torch operation; it is applied to the flat indices of x.
        x: The numbers.
        args: Further arguments of the operation.
        kwargs: Keyword arguments of the operation.
    """
    if isinstance(x, Bound | Wide):
        parts: N = x.moved(lambda part: operation(part, *args, **kwargs))
        return parts
    moved = operation(flat_indices(x.shape), *args, **kwargs)
    if isinstance(moved, Tensor):
        return n.take(x, moved)
    return [n.take(x, part) for part in moved]  # type: ignore[return-value]  # of a split


def join(n: Arithmetic[N], parts: Sequence[N], call: Callable[[list[Tensor]], Tensor]) -> N:
    """Return the result of an operation that assembles several tensors into one.

    Args:
        n: The arithmetic.
        parts: The numbers of each tensor.
        call: Runs the torch operation on the tensors of flat indices that stand for `parts`.
    """
    if isinstance(parts[0], Bound | Wide):
        whole: N = _joined(parts, call)
        return whole
    starts, indices = 0, []
    for part in parts:
        indices.append(flat_indices(part.shape, starts))
        starts += indices[-1].numel()
    return n.take(n.join(parts), call(indices))


def _joined(parts: Sequence[Any], call: Callable[[list[Tensor]], Tensor]) -> Any:
    return type(parts[0]).joined(parts, call)


def _addresses(size: Sequence[int], stride: Sequence[int], offset: Any) -> Tensor:
    """Return the storage index of each element of a tensor with this size, stride and offset."""
    addresses = torch.full(tuple(size), offset)
    for k, (count, step) in enumerate(zip(size, stride, strict=True), start=1):
        addresses += (torch.arange(count) * step).reshape(-1, *[1] * (len(size) - k))
    return addresses


def _strided_indices(
    n: Call[N], size: Sequence[int], stride: Sequence[int], offset: int | None
) -> Tensor:
    """Return the flat indices of the input's elements that as_strided selects.

    Raises:
        ValueError: `as_strided` reads memory outside its input.
    """
    base = n.floats[0]
    begin = base.storage_offset()
    available = _addresses(base.shape, base.stride(), begin).flatten()
    selected = _addresses(size, stride, begin if offset is None else offset)
    if not selected.numel():
        return selected
    flat_index = torch.full((int(torch.cat([available, selected.flatten()]).max()) + 1,), -1)
    flat_index[available] = torch.arange(len(available))
    indices = flat_index[selected]
    if bool((indices < 0).any()):
        raise ValueError("it reads memory outside its input tensor")
    return indices


def _as_strided(n: Call[N], x: N, size: Any, stride: Any, storage_offset: int | None = None) -> N:
    return n.take(x, _strided_indices(n, size, stride, storage_offset))


def _as_strided_scatter(
    n: Call[N], x: N, source: N, size: Any, stride: Any, storage_offset: int | None = None
) -> Any:
    target = _strided_indices(n, size, stride, storage_offset)
    indices = flat_indices(x.shape).flatten()
    indices[target.flatten()] = flat_indices(source.shape, len(indices)).flatten()
    return n.take(n.join([x, source]), indices.reshape(tuple(x.shape)))


def _times(x: N, alpha: float | N) -> N:
    return x if isinstance(alpha, int | float) and alpha == 1 else x * alpha


def _add(n: Call[N], x: N, y: N, alpha: N | int = 1) -> N:
    return x + _times(y, alpha)


def _sub(n: Call[N], x: N, y: N, alpha: N | int = 1) -> N:
    return x - _times(y, alpha)


def _addmm(n: Call[N], c: N, a: N, b: N, beta: N | int = 1, alpha: N | int = 1) -> N:
    product = _times(n.matmul(a, b), alpha)
    # with beta = 0 the kernel does not read c, which may be uninitialised memory
    return product if n.scalar(beta) == 0 else _times(c, beta) + product


def _zero(n: Call[N]) -> N:
    return n.exact(torch.zeros(()))


def _leaky_relu(n: Call[N], x: N, slope: N | None = None) -> N:
    slope = n.constant(0.01, n.dtype) if slope is None else slope
    return n.maximum(x, _zero(n)) + n.minimum(x, _zero(n)) * slope


def _elu(n: Call[N], x: N, alpha: N | int = 1, scale: N | int = 1, input_scale: N | int = 1) -> N:
    below = n.minimum(x, _zero(n))
    return (n.maximum(x, _zero(n)) + n.function("expm1", below * input_scale) * alpha) * scale


def _gelu(n: Call[N], x: N, approximate: str = "none") -> N:
    half = x * 0.5
    if approximate == "none":
        return half * (1 + n.function("erf", x * n.constant(0.7071067811865476, n.dtype)))
    inner = x + x * x * x * n.constant(0.044715, n.dtype)
    return half * (1 + n.function("tanh", inner * n.constant(0.7978845608028654, n.dtype)))


def _softmax(n: Call[N], x: N, dim: int, _half_to_float: bool = False) -> N:
    e = n.function("exp", x - n.amax(x, [dim], True))
    return e / n.sum(e, [dim], True)


def _log_softmax(n: Call[N], x: N, dim: int, _half_to_float: bool = False) -> N:
    shifted = x - n.amax(x, [dim], True)
    return shifted - n.function("log", n.sum(n.function("exp", shifted), [dim], True))


def _sum(n: Call[N], x: N, dim: Sequence[int] | int | None = None, keepdim: bool = False) -> N:
    return n.sum(x, _dims(dim), keepdim)


def _mean(n: Call[N], x: N, dim: Sequence[int] | int | None = None, keepdim: bool = False) -> N:
    return n.sum(x, _dims(dim), keepdim) / _count(x, _dims(dim))


def _dims(dim: Sequence[int] | int | None) -> list[int]:
    return [] if dim is None else [dim] if isinstance(dim, int) else list(dim)


def _count(x: N, dims: Sequence[int]) -> int:
    return math.prod(x.shape[d] for d in dims or range(x.ndim))


def _var(n: Call[N], x: N, dim: Any = None, correction: Any = 1, keepdim: bool = False) -> N:
    dims = _dims(dim)
    middle = x - _mean(n, x, dims or list(range(x.ndim)), True)
    freedom = _count(x, dims) - (1 if correction is None else n.scalar(correction))
    return n.sum(middle * middle, dims, keepdim) / freedom


def _var_mean(n: Call[N], x: N, dim: Any = None, correction: Any = 1, keepdim: bool = False) -> _Outputs:  # fmt: skip  # noqa: E501
    dims = _dims(dim) or list(range(x.ndim))
    return _var(n, x, dims, correction, keepdim), _mean(n, x, dims, keepdim)


def _distances(n: Call[N], difference: N, p: Any) -> N:
    """Return the p-norm of differences over the last dimension."""
    return _norm(n, difference, p, [difference.ndim - 1])


def check_count(count: int) -> None:
    """Raise ValueError for more intermediate numbers than can be lifted in seconds."""
    if count > MAX_INTERMEDIATE:
        limit = f"at most {MAX_INTERMEDIATE:,} are supported"
        raise ValueError(f"it needs {count:,} intermediate numbers, and {limit}")


def _cdist(n: Call[N], x: N, y: N, p: Any, _mode: Any) -> N:
    check_count(math.prod(x.shape) * y.shape[-2])
    rows, columns = move(n, torch.unsqueeze, x, -2), move(n, torch.unsqueeze, y, -3)
    return _distances(n, rows - columns, p)


def _cdist_backward(n: Call[N], g: N, x: N, y: N, p: Any, distance: N) -> N:
    check_count(math.prod(x.shape) * y.shape[-2])
    difference = move(n, torch.unsqueeze, x, -2) - move(n, torch.unsqueeze, y, -3)
    a, b, lengths = (n.arguments[k] for k in (1, 2, 4))
    floats = a.unsqueeze(-2) - b.unsqueeze(-3)
    size, weight = (move(n, torch.unsqueeze, v, -1) for v in (distance, g))
    order = float(n.scalar(p))
    share = distance_backward(n, weight, difference, floats, order, size, lengths.unsqueeze(-1))
    return n.sum(share, [floats.ndim - 2], False)


def _pdist(n: Call[N], x: N, p: Any = 2) -> N:
    first, second = pair_rows(n, x)
    return _distances(n, first - second, p)


def _shrink_backward(n: Call[N], g: N, x: N, threshold: Any) -> N:
    """Return the gradient where |x| lies beyond the threshold, as in the float run, else 0."""
    beyond = n.floats[1].abs() > float(n.scalar(threshold))
    return n.where(beyond, g, n.broadcast_to(_zero(n), beyond.shape))


def _amax(n: Call[N], x: N, dim: Sequence[int] = (), keepdim: bool = False) -> N:
    return n.amax(x, list(dim) or list(range(x.ndim)), keepdim)


def _amin(n: Call[N], x: N, dim: Sequence[int] = (), keepdim: bool = False) -> N:
    return -n.amax(-x, list(dim) or list(range(x.ndim)), keepdim)


def _with_index(n: Call[N], x: N, dim: int | None = None, keepdim: bool = False) -> N | _Outputs:
    """Return max or min with its indices: those of the float run, also at ties."""
    if dim is None:
        return n.take(x, (n.floats[0].flatten() == n.out).int().argmax().cpu())
    index = n.out[1]
    if not x.ndim:
        return x, index
    kept = index if keepdim else index.unsqueeze(dim)
    values = move(n, torch.gather, x, dim, kept)
    return values if keepdim else move(n, torch.squeeze, values, dim), index


def _cumulative_extreme(n: Call[N], x: N, dim: int) -> _Outputs:
    """Return cummax or cummin, at the indices of the float run."""
    return move(n, torch.gather, x, dim, n.out[1].cpu()), n.out[1]


def _logcumsumexp(n: Call[N], x: N, dim: int) -> N:
    if not x.ndim:
        return x
    floats = n.floats[0].transpose(dim, -1)
    check_count(floats.numel() * floats.shape[-1])
    rows = n.take(x, flat_indices(x.shape).transpose(dim, -1))
    # the largest of each prefix keeps exp from overflowing; any number gives the same result
    shift = n.exact(floats.cummax(-1).values.nan_to_num(0, 0, 0))
    terms = move(n, torch.unsqueeze, rows, -2) - move(n, torch.unsqueeze, shift, -1)
    prefix = torch.ones(floats.shape[-1], floats.shape[-1], dtype=torch.bool).tril()
    prefix = prefix.expand(tuple(terms.shape))
    zero = n.broadcast_to(_zero(n), tuple(terms.shape))
    sums = n.sum(n.where(prefix, n.function("exp", terms), zero), [terms.ndim - 1], False)
    out = n.function("log", sums) + shift
    return n.take(out, flat_indices(out.shape).transpose(dim, -1))


def _polygamma(n: Call[N], order: int, x: N) -> N:
    name = f"polygamma{order}" if order else "digamma"
    if name not in FUNCTIONS:
        raise ValueError(f"its order is {order}, and at most 5 is supported")
    return n.function(name, x)


def _sorted(n: Call[N], x: N, *args: Any, **kwargs: Any) -> _Outputs:
    """Return sort or topk, in the order of the float run."""
    numbers = [a for a in args if isinstance(a, int) and not isinstance(a, bool)]
    dim = kwargs.get("dim", numbers[-1] if numbers else -1) if n.name == "sort" else (
        args[1] if len(args) > 1 else kwargs.get("dim", -1)
    )  # fmt: skip
    return move(n, torch.gather, x, dim, n.out[1].cpu()), n.out[1]


def _prod(n: Call[N], x: N, dim: int | None = None, keepdim: bool = False) -> N:
    if dim is None:
        return move(n, torch.reshape, n.product(move(n, torch.flatten, x), 0), ())
    kept = n.product(x, dim)
    return kept if keepdim else move(n, torch.squeeze, kept, dim)


def _norm(n: Call[N], x: N, ord: Any = 2, dim: Any = None, keepdim: bool = False) -> N:
    order, dims = float(n.scalar(ord)), _dims(dim)
    size = n.function("abs", x)
    if order == float("inf"):
        return _amax(n, size, dims, keepdim)
    if order == float("-inf"):
        return _amin(n, size, dims, keepdim)
    if order == 0:  # the number of nonzero elements
        return n.exact(n.out)
    if order == 1:
        return n.sum(size, dims, keepdim)
    if order == 2:
        return n.function("sqrt", n.sum(x * x, dims, keepdim))
    return n.power(n.sum(n.power(size, order, n.dtype), dims, keepdim), 1 / order, n.dtype)


def _standardised(n: Call[N], x: N, dims: Sequence[int], eps: N) -> tuple[N, N, N]:
    """Return x standardised to mean 0 and variance 1, its mean, and 1 / sqrt(variance + eps)."""
    mean = _mean(n, x, dims, True)
    rstd = n.function("rsqrt", _var(n, x, dims, 0, True) + eps)
    return x * rstd - mean * rstd, mean, rstd  # as in the kernel, the mean is subtracted last


def _layer_norm(
    n: Call[N], x: N, shape: Sequence[int], w: N | None, b: N | None, eps: N
) -> _Outputs:
    dims = list(range(x.ndim - len(shape), x.ndim))
    out, mean, rstd = _standardised(n, x, dims, eps)
    out = out if w is None else out * w
    return out if b is None else out + b, mean, rstd


def _batch_norm(n: Call[N], x: N, w: N | None, b: N | None, mean: Any, var: Any, training: bool, momentum: N, eps: N) -> _Outputs:  # fmt: skip  # noqa: E501
    dims = [d for d in range(x.ndim) if d != 1]
    along = [1, -1] + [1] * (x.ndim - 2)

    def per_channel(v: N) -> N:
        return move(n, torch.reshape, v, along)

    saved, spread = (_mean(n, x, dims), _var(n, x, dims, 0)) if training else (mean, var)
    rstd = n.function("rsqrt", spread + eps)
    scale = rstd if w is None else rstd * w
    shift = -(saved * scale) if b is None else b - saved * scale  # the kernel's order
    out = x * per_channel(scale) + per_channel(shift)
    if not training:
        empty = n.exact(torch.zeros(0))
        return out, empty, empty
    if n.name in ("_native_batch_norm_legit_functional", "_batch_norm_with_update_functional"):
        count = _count(x, dims)
        new_mean = saved * momentum + mean * (1 - momentum)
        new_var = spread * count / (count - 1) * momentum + var * (1 - momentum)
        return out, saved, rstd, new_mean, new_var
    return out, saved, rstd


def _batch_norm_no_stats(n: Call[N], x: N, w: N | None, b: N | None, *args: Any) -> _Outputs:
    if n.overload == "no_stats":
        _training, momentum, eps = args
        return _batch_norm(n, x, w, b, None, None, True, momentum, eps)
    return _batch_norm(n, x, w, b, *args)


def _batch_norm_with_update(
    n: Call[N], x: N, w: N | None, b: N | None, mean: N, var: N, momentum: N, eps: N
) -> _Outputs:
    out, saved, rstd, *new = _batch_norm(n, x, w, b, mean, var, True, momentum, eps)
    return out, saved, rstd, n.out[3], *new


def _group_norm(
    n: Call[N], x: N, w: N | None, b: N | None, B: int, C: int, HxW: int, group: int, eps: N
) -> Any:
    rows = move(n, torch.reshape, x, (B, group, C // group * HxW))
    out, mean, rstd = _standardised(n, rows, [2], eps)
    out = move(n, torch.reshape, out, (B, C, HxW))
    along = (1, C, 1)
    out = out if w is None else out * move(n, torch.reshape, w, along)
    out = out if b is None else out + move(n, torch.reshape, b, along)
    out = move(n, torch.reshape, out, tuple(x.shape))
    return out, *(move(n, torch.reshape, v, (B, group)) for v in (mean, rstd))


def _index_put(n: Call[N], x: N, indices: Sequence[Tensor | None], values: N, accumulate: bool = False) -> N:  # fmt: skip  # noqa: E501
    full = [slice(None) if i is None else i for i in _on_cpu(indices)]
    target = flat_indices(x.shape)[tuple(full)]
    spread = move(n, torch.expand_copy, values, target.shape)
    if accumulate:
        return n.scatter_add(x, target, spread)
    return join(n, [x, spread], lambda p: aten.index_put(p[0], _on_cpu(indices), p[1]))


def _on_cpu(indices: Sequence[Tensor | None]) -> list[Any]:
    return [None if i is None else i.cpu() for i in indices]


def _scatter_add(n: Call[N], x: N, dim: int, index: Tensor, source: N) -> N:
    index = index.cpu()
    part = move(n, lambda p: p[tuple(slice(s) for s in index.shape)], source)
    return n.scatter_add(x, flat_indices(x.shape).gather(dim, index), part)


def _scatter(n: Call[N], x: N, dim: int, index: Tensor, source: N) -> N:
    index = index.cpu()
    if isinstance(source, int):
        source = n.number(float(source))
    if not source.ndim:
        source = n.broadcast_to(source, index.shape)
    return join(n, [x, source], lambda p: p[0].scatter(dim, index, p[1]))


def _masked_scatter(n: Call[N], x: N, mask: Tensor, source: N) -> N:
    return join(n, [x, source], lambda p: p[0].masked_scatter(mask.cpu(), p[1]))


def _pad(n: Call[N], x: N, pad: Sequence[int], value: Any = 0) -> N:
    inside = F.pad(flat_indices(x.shape), list(pad), value=-1)
    moved = n.take(x, inside)
    if float(n.scalar(value)) == 0:
        return moved
    return n.where(inside >= 0, moved, n.broadcast_to(value, inside.shape))


def _windows(shape: Sequence[int], kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int]) -> Tensor:  # fmt: skip  # noqa: E501
    """Return the flat indices in each window, (N, C, *outputs, *kernel); -1 for padding."""
    k = len(kernel)
    around = [p for size in reversed(padding) for p in (size, size)]
    indices = F.pad(flat_indices(shape), around, value=-1)
    for d in range(k):
        dim = len(shape) - k + d
        wide = indices.unfold(dim, dilation[d] * (kernel[d] - 1) + 1, stride[d])
        indices = wide[..., :: dilation[d]]
    return indices


def _convolution(n: Call[N], x: N, w: N, b: N | None, stride: Any, padding: Any, dilation: Any, transposed: bool, output_padding: Any, groups: int) -> N:  # fmt: skip  # noqa: E501
    shape = tuple(n.out.shape)
    if transposed:
        out = _transposed_convolve(n, x, w, shape, stride, padding, dilation, groups)
    else:
        out = _convolve(n, x, w, shape, stride, padding, dilation, groups)
    if b is None:
        return out
    return out + move(n, torch.reshape, b, [1, -1] + [1] * (len(shape) - 2))


def _columns(shape: Sequence[int], kernel: Any, stride: Any, padding: Any, dilation: Any, groups: int) -> Tensor:  # fmt: skip  # noqa: E501
    """Return the flat indices in each window as (groups, N * outputs, C / groups * kernel)."""
    indices, k = _windows(shape, kernel, stride, padding, dilation), len(kernel)
    N, C = indices.shape[:2]
    grouped = indices.reshape(N, groups, C // groups, *indices.shape[2:])
    rows = grouped.permute([1, 0, *range(3, 3 + k), 2, *range(3 + k, 3 + 2 * k)])
    return rows.reshape(groups, N * _count(rows, range(2, 2 + k)), -1)


def _rows_to_channels(rows: Tensor, shape: Sequence[int]) -> Tensor:
    """Rearrange (groups, N * outputs, O / groups) to (N, O, *outputs)."""
    groups, _, each = rows.shape
    grouped = rows.reshape(groups, shape[0], math.prod(shape[2:]), each)
    return grouped.permute(1, 0, 3, 2).reshape(tuple(shape))


def _channels_to_rows(p: Tensor, groups: int) -> Tensor:
    """Rearrange (N, O, *outputs) to (groups, N * outputs, O / groups)."""
    N, channels = p.shape[:2]
    grouped = p.reshape(N, groups, channels // groups, -1).permute(1, 0, 3, 2)
    return grouped.reshape(groups, -1, channels // groups)


def _image_blocks(n: Call[N], arrays: Sequence[N], numbers: int) -> list[list[N]]:
    """Return so few images of some arrays at once that numbers in windows take little memory.

    Args:
        n: The arithmetic.
        arrays: Images of each have the same place in the first dimension.
        numbers: In the windows of one image.
    """
    images, at_once = arrays[0].shape[0], max(1, NUMBERS_AT_ONCE // max(1, numbers))
    if at_once >= images or not isinstance(arrays[0], Bound | Wide):
        return [list(arrays)]
    return [
        [move(n, torch.narrow, x, 0, k, min(at_once, images - k)) for x in arrays]
        for k in range(0, images, at_once)
    ]


def _by_images(n: Call[N], x: N, numbers: int, compute: Callable[[N], N]) -> N:
    """Return what `compute` makes of the images of x."""
    parts = [compute(images) for (images,) in _image_blocks(n, [x], numbers)]
    return join(n, parts, torch.cat) if len(parts) > 1 else parts[0]


def _convolve(n: Call[N], x: N, w: N, shape: Sequence[int], stride: Any, padding: Any, dilation: Any, groups: int) -> N:  # fmt: skip  # noqa: E501
    """Return a convolution: the kernel times the numbers in each window."""
    kernels = move(n, lambda p: p.reshape(groups, w.shape[0] // groups, -1).mT, w)

    def convolved(images: N) -> N:
        at = _columns(images.shape, w.shape[2:], stride, padding, dilation, groups)
        rows = n.matmul(n.take(images, at), kernels)  # (groups, N * outputs, O / groups)
        return move(n, lambda p: _rows_to_channels(p, (images.shape[0], *shape[1:])), rows)

    numbers = math.prod(shape[2:]) * _count(w, range(1, w.ndim)) * groups
    return _by_images(n, x, numbers, convolved)


def _transposed_convolve(n: Call[N], g: N, w: N, shape: Sequence[int], stride: Any, padding: Any, dilation: Any, groups: int) -> N:  # fmt: skip  # noqa: E501
    """Return a transposed convolution: each number times the kernel, added up in its window."""
    kernels = move(n, lambda p: p.reshape(groups, w.shape[0] // groups, -1), w)

    def spread(images: N) -> N:
        rows = move(n, _channels_to_rows, images, groups)
        size = (images.shape[0], *shape[1:])
        target = _columns(size, w.shape[2:], stride, padding, dilation, groups)
        return n.scatter_add(n.exact(torch.zeros(size)), target, n.matmul(rows, kernels))

    numbers = math.prod(g.shape[2:]) * _count(w, range(1, w.ndim)) * groups
    return _by_images(n, g, numbers, spread)


def _convolution_backward(n: Call[N], g: N, x: N, w: N, bias_sizes: Any, stride: Any, padding: Any, dilation: Any, transposed: bool, output_padding: Any, groups: int, mask: Sequence[bool]) -> _Outputs:  # fmt: skip  # noqa: E501
    """Return the gradients of input, weight and bias, None for those that the mask leaves out."""
    big, small = (g, x) if transposed else (x, g)
    to_input = to_weight = to_bias = None
    if mask[0] and transposed:
        to_input = _convolve(n, g, w, x.shape, stride, padding, dilation, groups)
    elif mask[0]:
        to_input = _transposed_convolve(n, g, w, x.shape, stride, padding, dilation, groups)
    if mask[1] and isinstance(n.arithmetic, Bounds):  # one sum over all images, in any order
        how = stride, padding, dilation, transposed, output_padding, groups
        like = torch.empty(tuple(w.shape), dtype=torch.float64)
        to_weight = n.sum_of_products(  # type: ignore[attr-defined]
            g, x,
            lambda a, b: aten.convolution_backward(a, b, like, None, *how, [False, True, False])[1],
            math.prod(small.shape) // small.shape[1],
        )  # fmt: skip
    elif mask[1]:
        to_weight = _weight_gradient(n, small, big, w, stride, padding, dilation, groups)
    if mask[2]:
        to_bias = n.sum(g, [0, *range(2, len(w.shape))], False)
    return to_input, to_weight, to_bias


def _weight_gradient(n: Call[N], small: N, big: N, w: N, stride: Any, padding: Any, dilation: Any, groups: int) -> N:  # fmt: skip  # noqa: E501
    """Return the gradient of a convolution's weight, the sum of those of some images each."""
    numbers = math.prod(small.shape[2:]) * _count(w, range(1, w.ndim)) * groups
    products = []
    for part, around in _image_blocks(n, [small, big], numbers):
        columns = _columns(around.shape, w.shape[2:], stride, padding, dilation, groups)
        rows = move(n, lambda p: _channels_to_rows(p, groups).mT, part)
        products.append(n.matmul(rows, n.take(around, columns)))
    return move(n, torch.reshape, reduce(add, products), tuple(w.shape))


def _each_dim(value: Any, dims: int) -> list[int]:
    """Return a size for each of so many dimensions, from one for all or one for each."""
    values = [value] if isinstance(value, int) else list(value)
    return values * dims if len(values) == 1 else values


def _avg_windows(dims: int, shape: Sequence[int], kernel: Any, stride: Any, padding: Any, ceil: bool, pad_counts: bool, divisor: int | None) -> tuple[Tensor, Tensor]:  # fmt: skip  # noqa: E501
    """Return the flat indices in each window, and the divisor of each window's sum."""
    kernel, padding = _each_dim(kernel, dims), _each_dim(padding, dims)
    stride = _each_dim(stride, dims) if stride else kernel
    ones = torch.ones(1, 1, *shape[-dims:], dtype=torch.float64)
    mean = {2: F.avg_pool2d, 3: F.avg_pool3d}[dims]
    share = mean(ones, kernel, stride, padding, ceil, pad_counts, divisor)[0, 0]
    indices = flat_indices(shape)
    for d in range(dims):
        dim = d - dims
        reach = (share.shape[d] - 1) * stride[d] + kernel[d] - shape[dim]
        around = [0, 0] * (-dim - 1) + [padding[d], max(padding[d], reach - padding[d])]
        indices = F.pad(indices, around, value=-1)
    for d in range(dims):
        indices = indices.unfold(-dims, kernel[d], stride[d])  # appends the window's dimension
        indices = indices.narrow(-dims - 1, 0, share.shape[d])
    indices = indices.flatten(-dims)
    return indices, ((indices >= 0).sum(-1).double() / share).round()


def _dims_of(n: Call[N]) -> int:
    """Return the number of dimensions in the operation's name, as in avg_pool2d."""
    return int(n.name.partition("pool")[2][0])


def _avg_pool(n: Call[N], x: N, kernel: Any, stride: Any = (), padding: Any = 0, ceil: bool = False, pad_counts: bool = True, divisor: Any = None) -> N:  # fmt: skip  # noqa: E501
    window = kernel, stride, padding, ceil, pad_counts, divisor
    indices, divisors = _avg_windows(_dims_of(n), x.shape, *window)
    return n.sum(n.take(x, indices), [-1], False) / n.exact(divisors)


def _avg_pool_backward(n: Call[N], g: N, x: N, *window: Any) -> N:
    indices, divisors = _avg_windows(_dims_of(n), x.shape, *window)
    share = move(n, torch.unsqueeze, g / n.exact(divisors), -1)
    spread = move(n, torch.expand_copy, share, indices.shape)
    return n.scatter_add(n.exact(torch.zeros(tuple(x.shape))), indices, spread)


def _max_pool(n: Call[N], x: N, *_args: Any, **_kwargs: Any) -> _Outputs:
    """Return the elements at the float run's indices."""
    index, first = n.out[1], -_dims_of(n)
    flat = move(n, torch.flatten, x, first)
    values = move(n, torch.gather, flat, -1, index.cpu().flatten(first))
    return move(n, torch.reshape, values, tuple(index.shape)), index


def _max_pool_backward(n: Call[N], g: N, x: N, *args: Any) -> N:
    index, first = args[-1].cpu(), -_dims_of(n)
    plane = flat_indices(x.shape).flatten(first)
    target = plane.gather(-1, index.flatten(first))
    return n.scatter_add(
        n.exact(torch.zeros(tuple(x.shape))), target, move(n, torch.flatten, g, first)
    )


def _cast(n: Call[N], x: N, **_kwargs: Any) -> N:
    """Return x in another dtype, rounded only if that can lose bits."""
    source = n.floats[-1].dtype
    return n.round_to_dtype(x) if n.dtype.itemsize < source.itemsize or (
        n.dtype != source and n.dtype.itemsize == 2
    ) else x  # fmt: skip


def _copy(n: Call[N], x: N, y: N, *_: Any) -> N:
    """Return y in the shape and dtype of x, as x.copy_(y) does."""
    return n.broadcast_to(_cast(n, y), x.shape)


def _pow(n: Call[N], x: N, y: N) -> N:
    exponent = n.scalar(y)
    if exponent is not None:
        return n.power(x, exponent, n.dtype)
    x = n.number(float(x)) if isinstance(x, int) else x  # 2 ** x
    logarithm = n.function("log", x)  # NaN for negative bases, which are not supported
    return n.function("exp", y * logarithm)


def _clamp(n: Call[N], x: N, low: Any = None, high: Any = None) -> N:
    out = x if low is None else n.maximum(x, low)
    return out if high is None else n.minimum(out, high)


def _log_of(n: Call[N], number: int) -> N:
    return n.function("log", n.exact(torch.tensor(float(number))))


def _function(name: str) -> Callable[..., Any]:
    return lambda n, x: n.function(name, x)


#: Rows whose integer and boolean tensors are indices or masks, not numbers.
INDEXED: dict[str, Callable[..., Any]] = {
    **GROUP_REDUCTIONS,
    **EMBEDDING_BAGS,
    **MARGIN_LOSSES,
    **CTC,
}

ROWS: dict[str, Callable[..., Any]] = {
    # elementwise
    **{name: _function(name) for name in FUNCTIONS if hasattr(aten, name)},
    "add": _add,
    "sub": _sub,
    "mul": lambda _n, x, y: x * y,
    "div": lambda n, x, y, rounding_mode=None: n.exact(n.out) if rounding_mode else x / y,
    "neg": lambda _n, x: -x,
    "_neg_view": lambda _n, x: -x,  # of the imaginary part of a conjugate
    "pow": _pow,
    "polygamma": _polygamma,
    **{
        f"special_{name}": _function(name)
        for name in FUNCTIONS
        if hasattr(aten, f"special_{name}") and not hasattr(aten, name)
    },
    **ELEMENTWISE,
    "log2": lambda n, x: n.function("log", x) / _log_of(n, 2),
    "log10": lambda n, x: n.function("log", x) / _log_of(n, 10),
    "exp2": lambda n, x: n.function("exp", x * _log_of(n, 2)),
    # piecewise constant: the float run's value is exact
    **dict.fromkeys(
        ("sign", "floor", "ceil", "round", "trunc"), lambda n, *_, **__: n.exact(n.out)
    ),
    # activations
    "relu": lambda n, x: n.maximum(x, _zero(n)),
    "leaky_relu": _leaky_relu,
    "elu": _elu,
    "gelu": _gelu,
    "hardtanh": lambda n, x, low=-1, high=1: _clamp(n, x, low, high),
    # comparisons and selections
    "where": lambda n, mask, x, y: n.where(mask, x, y),
    "clamp": _clamp,
    "maximum": lambda n, x, y: n.maximum(x, y),
    "minimum": lambda n, x, y: n.minimum(x, y),
    **dict.fromkeys(("max", "min", "median", "nanmedian"), _with_index),
    "mode": lambda n, x, dim=-1, keepdim=False: _with_index(n, x, dim, keepdim),
    "kthvalue": lambda n, x, k, dim=-1, keepdim=False: _with_index(n, x, dim, keepdim),
    "amax": _amax,
    "amin": _amin,
    "cummax": _cumulative_extreme,
    "cummin": _cumulative_extreme,
    "sort": _sorted,
    "topk": _sorted,
    # products
    "mm": lambda n, x, y: n.matmul(x, y),
    "bmm": lambda n, x, y: n.matmul(x, y),
    "addmm": _addmm,
    "_trilinear": trilinear,
    "convolution": _convolution,
    "convolution_backward": _convolution_backward,
    # sums
    "sum": _sum,
    "mean": _mean,
    "var": _var,
    "var_mean": _var_mean,
    "dist": lambda n, x, y, p=2: _norm(n, move(n, torch.flatten, x - y), p),
    "_cdist_forward": _cdist,
    "_cdist_backward": _cdist_backward,
    "_pdist_forward": _pdist,
    "_pdist_backward": pdist_backward,
    "prod": _prod,
    "cumsum": lambda n, x, dim: n.cumulative(x, dim, product=False),
    "cumprod": lambda n, x, dim: n.cumulative(x, dim, product=True),
    "logcumsumexp": _logcumsumexp,
    "linalg_vector_norm": _norm,
    "_softmax": _softmax,
    "_log_softmax": _log_softmax,
    # normalisation
    "native_layer_norm": _layer_norm,
    "_native_batch_norm_legit": _batch_norm_no_stats,
    "_native_batch_norm_legit_no_training": lambda n, x, w, b, mean, var, *more: _batch_norm(
        n, x, w, b, mean, var, False, *more
    ),
    "_native_batch_norm_legit_functional": _batch_norm,
    "_batch_norm_with_update_functional": _batch_norm_with_update,
    "batch_norm_backward": batch_norm_backward,
    "native_group_norm": _group_norm,
    **dict.fromkeys(("softshrink_backward", "hardshrink_backward"), _shrink_backward),
    # pooling and resizing
    **dict.fromkeys(("avg_pool2d", "avg_pool3d"), _avg_pool),
    **dict.fromkeys(("avg_pool2d_backward", "avg_pool3d_backward"), _avg_pool_backward),
    **dict.fromkeys(
        (
            "max_pool2d_with_indices",
            "max_pool3d_with_indices",
            "adaptive_max_pool2d",
            "adaptive_max_pool3d",
            "fractional_max_pool2d",
            "fractional_max_pool3d",
        ),
        _max_pool,
    ),
    **dict.fromkeys(
        (
            "max_pool2d_with_indices_backward",
            "max_pool3d_with_indices_backward",
            "adaptive_max_pool2d_backward",
            "adaptive_max_pool3d_backward",
            "fractional_max_pool2d_backward",
            "fractional_max_pool3d_backward",
        ),
        _max_pool_backward,
    ),
    **RESAMPLING,
    **GRID_SAMPLING,
    "_efficientzerotensor": lambda n, *_, **__: n.exact(torch.zeros(tuple(n.out.shape))),
    **LINEAR_ALGEBRA,
    # writes at indices
    "index_put": _index_put,
    "scatter_add": _scatter_add,
    "scatter": _scatter,
    "masked_scatter": _masked_scatter,
    **INDEXED,
    "as_strided": _as_strided,
    "as_strided_copy": _as_strided,
    "as_strided_scatter": _as_strided_scatter,
    "constant_pad_nd": _pad,
    "copy": _copy,
    "_to_copy": _cast,
}


#: Operations that create a tensor; its numbers are those of the float run.
FACTORIES = {
    "arange", "empty", "empty_permuted", "empty_strided", "full", "full_like",
    "new_empty_strided", "scalar_tensor",
}  # fmt: skip
