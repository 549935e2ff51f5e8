"""Calls that exercise every row of the table of operations: a trace records them by that name.

An operation that is not in the table is decomposed by tracing into operations that are.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tests.linear_algebra_cases import LINEAR_ALGEBRA_CALLS

aten = torch.ops.aten


@dataclass(frozen=True)
class Call:
    """One call: the function, its inputs, and the rows of the table that it exercises."""

    rows: tuple[str, ...]
    run: Callable[..., Any]
    inputs: dict[str, Tensor]
    label: str


CALLS: list[Call] = []


def signed(*shape: int) -> Tensor:
    """Draw normal numbers; the seed is the number of calls listed so far."""
    chance = torch.Generator().manual_seed(len(CALLS))
    return torch.randn(shape, generator=chance, dtype=torch.float64)


def positive(*shape: int) -> Tensor:
    """Draw numbers between 1/8 and 4."""
    return signed(*shape).abs().clamp(0.125, 4)


def calls(rows: str, run: Callable[..., Any], label: str = "", **inputs: Tensor) -> None:
    """Add a call that exercises `rows` (names separated by spaces)."""
    first = rows.split()[0]
    CALLS.append(Call(tuple(rows.split()), run, inputs, f"{first}-{label}" if label else first))


def _elementwise() -> None:
    for name in ("neg", "abs", "exp", "expm1", "sigmoid", "tanh", "erf", "erfc", "exp2", "sin", "cos", "atan", "square", "relu", "silu", "elu", "leaky_relu", "gelu", "hardtanh", "softplus", "sign", "sgn", "floor", "ceil", "round", "trunc"):  # fmt: skip  # noqa: E501
        calls(name, getattr(aten, name), self=3 * signed(4, 6))
    for name in ("log", "log1p", "log2", "log10", "sqrt", "rsqrt", "reciprocal"):
        calls(name, getattr(aten, name), self=positive(4, 6))
    for name in ("sinh", "cosh", "tan", "i0", "special_i0e", "special_i1", "special_i1e"):
        calls(name, getattr(aten, name), self=signed(4, 6))
    for name in ("asin", "acos", "atanh", "erfinv"):
        calls(name, getattr(aten, name), self=signed(4, 6).tanh() * 0.98)
    for name in ("lgamma", "digamma"):
        calls(name, getattr(aten, name), self=positive(4, 6))
    calls("acosh", aten.acosh, self=1 + positive(4, 6))
    for order in range(6):
        calls("polygamma", lambda x, k=order: aten.polygamma(k, x), str(order), x=1 + positive(6))
    calls("round", lambda x: aten.round(x, decimals=1), "decimals", x=signed(5))
    calls("reciprocal", aten.reciprocal, "signed", self=signed(5).sign() * positive(5))
    calls("gelu", lambda x: aten.gelu(x, approximate="tanh"), "tanh", x=signed(4, 6))
    calls("elu", lambda x: aten.elu(x, 0.7, 1.1, 1.3), "scaled", x=signed(4, 6))
    calls("leaky_relu", lambda x: aten.leaky_relu(x, 0.2), "slope", x=signed(4, 6))
    calls("leaky_relu", lambda x: aten.leaky_relu(x, 1.5), "steep", x=signed(4, 6))
    calls("leaky_relu", lambda x: aten.leaky_relu(x, -0.5), "negative", x=signed(4, 6))
    calls("hardtanh", lambda x: aten.hardtanh(x, -0.3, 0.6), "bounds", x=signed(4, 6))
    calls("softplus", lambda x: aten.softplus(x, 2.5, 3), "beta", x=2 * signed(4, 6))
    for name in ("add", "sub", "mul", "div", "maximum", "minimum"):
        x, y = signed(4, 6), positive(6)
        calls(name, getattr(aten, name), self=x, other=y)
    for name in ("add", "sub", "rsub"):
        run = getattr(aten, name)
        calls(name, lambda x, y, run=run: run(x, y, alpha=0.3), "alpha", x=signed(4), y=signed(4))
        calls(name, lambda x, run=run: run(x, 0.3), "scalar", x=signed(4))
        calls(name, lambda x, run=run: run(x, 3, 2), "whole", x=signed(4))
    calls("mul", lambda x: aten.mul(x, 0.3), "scalar", x=signed(4))
    calls("div", lambda x: aten.div(x, 3), "scalar", x=signed(4))
    for exponent in (0, 1, 2, 3, 0.5, -0.5, -1, -2, 1.7, -2.5):
        x = positive(6)
        calls("pow", lambda x, e=exponent: aten.pow(x, e), str(exponent), x=x)
    calls("pow", lambda x: aten.pow(x, 3), "cube", x=signed(6))
    calls("pow", lambda x: aten.pow(2.5, x), "of-number", x=signed(6))
    calls("pow", aten.pow, "of-tensors", self=positive(6), exponent=signed(6))
    for name in ("addcmul", "addcdiv"):
        run = getattr(aten, name)
        three = {"x": signed(4), "y": signed(4, 4), "z": positive(4)}
        calls(name, run, self=three["x"], tensor1=three["y"], tensor2=three["z"])
        calls(name, lambda x, y, z, run=run: run(x, y, z, value=0.3), "value", **three)
    calls("lerp", lambda x, y: aten.lerp(x, y, 0.3), "number", x=signed(4), y=-signed(4) + 1)
    calls("lerp", aten.lerp, self=signed(4), end=signed(4) + 1, weight=positive(4))
    mask = torch.tensor([True, False, True, False])
    calls("where", lambda x, y: aten.where(mask, x, y), x=signed(3, 4), y=signed(4) + 5)
    places = torch.tensor([[True, False, True], [False, False, True]])
    calls(
        "masked_scatter",
        lambda x, y: aten.masked_scatter(x, places, y),
        x=signed(2, 3),
        y=signed(5),
    )
    calls("clamp", lambda x: aten.clamp(x, -0.3, 0.7), x=signed(4, 6))
    calls("clamp", lambda x: aten.clamp(x, max=0.7), "above", x=signed(4, 6))
    calls("clamp", aten.clamp, "tensors", self=signed(6), min=-positive(6), max=positive(6))
    calls("clamp_min", lambda x: aten.clamp_min(x, 0.1), x=signed(4, 6))
    calls("clamp_max", lambda x: aten.clamp_max(x, 0.1), x=signed(4, 6))
    calls("_to_copy", lambda x: aten._to_copy(x, dtype=torch.float32), x=signed(6))
    calls("_to_copy", lambda x: x.float().half().double(), "narrow", x=signed(6))
    calls("_to_copy", lambda x: x.float().bfloat16().half(), "across", x=signed(6))
    calls("_to_copy", lambda x: x * torch.arange(3).to(x.dtype), "integers", x=signed(3))
    calls("copy", lambda x, y: aten.copy(x, y), x=signed(4, 6), y=signed(6) + 1)
    calls("copy", lambda x, y: aten.copy(x, y.float()), "cast", x=signed(4, 6), y=signed(6) + 1)


def _sums() -> None:
    for name in ("sum", "mean", "prod", "amax", "amin"):
        run = getattr(aten, name)
        dims = (1,) if name == "prod" else ([1],)
        calls(name, run, "all", self=signed(4, 6))
        calls(name, run, "number", self=signed())
        calls(name, lambda x, run=run, d=dims: run(x, *d), "dim", x=signed(4, 6))
        calls(name, lambda x, run=run, d=dims: run(x, *d, True), "keep", x=signed(4, 6))
    for name in ("sum", "mean", "amax"):
        run = getattr(aten, name)
        calls(name, lambda x, run=run: run(x, [0, -1]), "dims", x=signed(4, 3, 5))
    calls("sum", lambda x: aten.sum(x, [0], dtype=torch.float64), "wide", x=signed(400))
    for correction in (0, 1, 2):
        calls("var", lambda x, c=correction: aten.var(x, [0], correction=c), str(correction), x=signed(5, 3))  # fmt: skip  # noqa: E501
    calls("var", lambda x: x.var(), "all", x=signed(5, 3))
    calls("cumsum", lambda x: aten.cumsum(x, 1), x=signed(3, 40))
    calls("cumprod", lambda x: aten.cumprod(x, 1), x=signed(3, 7))
    calls("logcumsumexp", lambda x: aten.logcumsumexp(x, 1), x=9 * signed(3, 7))
    for name in ("cummax", "cummin"):
        run = getattr(aten, name)
        calls(name, lambda x, run=run: run(x, 1), x=signed(3, 7))
    calls("var_mean", lambda x: torch.var_mean(x, dim=0), x=signed(5, 3))
    calls("dist", lambda x, y: aten.dist(x, y, 3), x=signed(4, 3), y=signed(3))
    for p in (2.0, 1.0):

        def distances(x: Tensor, y: Tensor, p: float = p) -> Tensor:
            return aten._cdist_forward(x, y, p, None)

        def backward(g: Tensor, x: Tensor, y: Tensor, p: float = p) -> Tensor:
            return aten._cdist_backward(g, x, y, p, aten._cdist_forward(x, y, p, None))

        calls("_cdist_forward", distances, f"{p:g}", x=signed(4, 3), y=signed(5, 3))
        calls("_cdist_backward", backward, f"{p:g}", g=signed(4, 5), x=signed(4, 3), y=signed(5, 3))
    for name in ("softshrink_backward", "hardshrink_backward"):
        run = getattr(aten, name)
        calls(name, lambda g, x, run=run: run(g, x, 0.5), g=signed(4, 6), x=signed(4, 6))
    for order in (2, 1, 3, 0.5, float("inf"), float("-inf"), 0):
        calls("linalg_vector_norm", lambda x, o=order: aten.linalg_vector_norm(x, o, [1]), str(order), x=signed(4, 6))  # fmt: skip  # noqa: E501
    calls("linalg_vector_norm", aten.linalg_vector_norm, "all", self=signed(4, 6))
    for name in ("_softmax", "_log_softmax"):
        run = getattr(aten, name)
        calls(name, lambda x, run=run: run(x, 1, False), x=4 * signed(4, 6))
        calls(name, lambda x, run=run: run(x, 0, False), "dim", x=4 * signed(4, 6))
    for name in ("max", "min"):
        run = getattr(aten, name)
        calls(name, run, "all", self=signed(4, 6))
        calls(name, lambda x, run=run: run(x, 1), "dim", x=signed(4, 6))
        calls(name, lambda x, run=run: run(x, -2, True), "keep", x=signed(4, 6))
        calls(name, lambda x, run=run: run(x[0, 0], 0), "number", x=signed(4, 6))
    calls("sort", lambda x: aten.sort(x, 0, True), x=signed(4, 6))
    calls("sort", lambda x: torch.sort(x, dim=0, stable=True), "stable", x=signed(4, 6))
    calls("sort", lambda x: aten.sort(x), "last", x=signed(4, 6))
    calls("topk", lambda x: aten.topk(x, 3), "last", x=signed(4, 6))
    calls("topk", lambda x: aten.topk(x, 2, 0, False), x=signed(4, 6))


def _products() -> None:
    a, b = signed(4, 6), signed(6, 5)
    calls("mm", aten.mm, self=a, mat2=b)
    calls("mm", aten.mm, "long", self=signed(2, 300), mat2=signed(300, 2))
    calls("mm", aten.mm, "empty", self=signed(4, 0), mat2=signed(0, 2))
    calls("bmm", aten.bmm, self=signed(2, 4, 6), mat2=signed(2, 6, 5))
    calls("addmm", aten.addmm, self=signed(5), mat1=a, mat2=b)
    calls("addmm", lambda c, a, b: aten.addmm(c, a, b, beta=0.3, alpha=0.7), "scaled", c=signed(5), a=a, b=b)  # fmt: skip  # noqa: E501
    calls("baddbmm", lambda c, a, b: aten.baddbmm(c, a, b, beta=0.3, alpha=0.7), c=signed(2, 4, 5), a=signed(2, 4, 6), b=signed(2, 6, 5))  # fmt: skip  # noqa: E501
    calls("mv", aten.mv, self=a, vec=signed(6))
    calls("dot", aten.dot, self=signed(6), tensor=signed(6) + 1)
    weights = {"x": signed(2, 4, 6, 6), "w": signed(6, 2, 3, 3), "b": signed(6)}
    geometry = ([2, 1], [1, 0], [1, 2], False, [0, 0], 2)
    calls("convolution", lambda x, w, b: aten.convolution(x, w, b, *geometry), **weights)
    calls("convolution", lambda x, w: aten.convolution(x, w, None, [1], [1], [1], False, [0], 1), "1d", x=signed(2, 3, 5), w=signed(4, 3, 3))  # fmt: skip  # noqa: E501
    across = ([2, 1], [1, 0], [1, 2], True, [1, 0], 2)
    spread = {"x": signed(2, 4, 4, 4), "w": signed(4, 3, 3, 2), "b": signed(6)}
    calls("convolution", lambda x, w, b: aten.convolution(x, w, b, *across), "transposed", **spread)
    for label, more, inputs in (("", geometry, weights), ("transposed", across, spread)):
        size = aten.convolution(*inputs.values(), *more).shape
        backward = lambda g, x, w, m=more: aten.convolution_backward(g, x, w, [6], *m, [True] * 3)  # noqa: E731  # fmt: skip  # noqa: E501
        x, w = inputs["x"], inputs["w"]
        calls("convolution_backward", backward, label, g=signed(*size), x=x, w=w)


def _normalised() -> None:
    affine = {"w": positive(6), "b": signed(6)}
    calls("native_layer_norm", lambda x, w, b: aten.native_layer_norm(x, [6], w, b, 1e-5), x=signed(4, 6), **affine)  # fmt: skip  # noqa: E501
    calls("native_layer_norm", lambda x: aten.native_layer_norm(x, [5, 6], None, None, 1e-5), "bare", x=signed(4, 5, 6))  # fmt: skip  # noqa: E501
    x = {"x": signed(4, 6, 3), **affine, "m": signed(6), "v": positive(6)}
    calls("_native_batch_norm_legit_no_training", lambda x, w, b, m, v: aten.native_batch_norm(x, w, b, m, v, False, 0.1, 1e-5)[0], "eval", **x)  # fmt: skip  # noqa: E501
    calls("_native_batch_norm_legit", lambda x, w, b: aten.native_batch_norm(x, w, b, None, None, True, 0.1, 1e-5), "train", x=x["x"], **affine)  # fmt: skip  # noqa: E501
    calls("_native_batch_norm_legit", lambda x, w, b: aten._native_batch_norm_legit.no_stats(x, w, b, True, 0.1, 1e-5), "no-stats", x=x["x"], **affine)  # fmt: skip  # noqa: E501
    calls("_native_batch_norm_legit_functional", lambda x, w, b, m, v: torch.nn.functional.batch_norm(x, m.clone(), v.clone(), w, b, True), "module", **x)  # fmt: skip  # noqa: E501
    calls("_native_batch_norm_legit_functional", lambda x, w, b, m, v: aten._native_batch_norm_legit_functional(x, w, b, m, v, True, 0.1, 1e-5), **x)  # fmt: skip  # noqa: E501
    update = lambda x, w, b, m, v: aten._batch_norm_with_update_functional(x, w, b, m, v, 0.1, 1e-5)  # noqa: E731
    calls("_batch_norm_with_update_functional", update, **x)
    for training in (True, False):

        def norm_backward(g: Tensor, x: Tensor, w: Tensor, b: Tensor, m: Tensor, v: Tensor, t: bool = training) -> Any:  # fmt: skip  # noqa: E501
            none = torch.zeros(0, dtype=torch.uint8)
            return aten.batch_norm_backward(g, x, w, m, v, m, v, t, 1e-5, [True] * 3, none)

        calls("batch_norm_backward", norm_backward, str(training), g=signed(4, 6, 3), **x)
    calls("native_group_norm", lambda x, w, b: aten.native_group_norm(x, w, b, 4, 6, 3, 2, 1e-5), x=x["x"], **affine)  # fmt: skip  # noqa: E501
    calls("native_group_norm", lambda x: aten.native_group_norm(x, None, None, 4, 6, 3, 3, 1e-5), "bare", x=x["x"])  # fmt: skip  # noqa: E501
    image = signed(2, 3, 7, 7)
    for label, more in (("", ([2, 2],)), ("uneven", ([3, 2], [2, 3], [1, 1], True, False)), ("ceil", ([3], [2], [1], True, True)), ("divisor", ([2, 2], [1, 1], [0, 0], False, True, 3))):  # fmt: skip  # noqa: E501
        calls("avg_pool2d", lambda x, m=more: aten.avg_pool2d(x, *m), label, x=image)
        full = (*more, *((), [0], False, True, None)[len(more) - 1 :])
        size = aten.avg_pool2d(image, *more).shape
        back = lambda g, x, m=full: aten.avg_pool2d_backward(g, x, *m)  # noqa: E731
        calls("avg_pool2d_backward", back, label, g=signed(*size), x=image)
    pooling = ([3, 2], [2, 2], [1, 1], [1, 1], True)
    calls("max_pool2d_with_indices", lambda x: aten.max_pool2d_with_indices(x, *pooling), x=image)
    values, index = aten.max_pool2d_with_indices(image, *pooling)
    calls("max_pool2d_with_indices_backward", lambda g, x: aten.max_pool2d_with_indices_backward(g, x, *pooling, index), g=values, x=image)  # fmt: skip  # noqa: E501


def _resized() -> None:
    """Pooling and interpolation in one to three dimensions, up and down, with both corner rules."""
    image, volume = signed(2, 2, 5, 7), signed(1, 2, 4, 5, 3)
    for x, more in ((volume, ([2, 3, 2],)), (volume, (2, 1, 1, True, False))):
        label = "3d" if len(more) == 1 else "3d-padded"
        calls("avg_pool3d", lambda x, m=more: aten.avg_pool3d(x, *m), label, x=x)
        full = (*more, *([], 0, False, True)[len(more) - 1 :], None)[:6]
        g = signed(*aten.avg_pool3d(x, *more).shape)
        back = lambda g, x, m=full: aten.avg_pool3d_backward(g, x, *m)  # noqa: E731
        calls("avg_pool3d_backward", back, label, g=g, x=x)
    pooling = (2, 1, 0, 1, False)
    calls("max_pool3d_with_indices", lambda x: aten.max_pool3d_with_indices(x, *pooling), x=volume)
    values, index = aten.max_pool3d_with_indices(volume, *pooling)
    calls("max_pool3d_with_indices_backward", lambda g, x: aten.max_pool3d_with_indices_backward(g, x, *pooling, index), g=values, x=volume)  # fmt: skip  # noqa: E501
    for dims, x in ((2, image), (3, volume)):
        size = [3, 4, 2][:dims]
        mean = getattr(aten, f"_adaptive_avg_pool{dims}d")
        calls(f"_adaptive_avg_pool{dims}d", lambda x, f=mean, s=size: f(x, s), x=x)
        back = getattr(aten, f"_adaptive_avg_pool{dims}d_backward")
        calls(f"_adaptive_avg_pool{dims}d_backward", back, grad_output=mean(x, size), self=x)
        largest = getattr(aten, f"adaptive_max_pool{dims}d")
        calls(f"adaptive_max_pool{dims}d", lambda x, f=largest, s=size: f(x, s), x=x)
        values, index = largest(x, size)
        back = getattr(aten, f"adaptive_max_pool{dims}d_backward")
        calls(f"adaptive_max_pool{dims}d_backward", lambda g, x, b=back, i=index: b(g, x, i), g=values, x=x)  # fmt: skip  # noqa: E501
    for dims, x in ((1, signed(2, 3, 7)), (2, image), (3, volume)):
        pad = [1, 2, 0, 1, 2, 1][: 2 * dims]
        g = getattr(aten, f"replication_pad{dims}d")(x, pad)
        back = getattr(aten, f"replication_pad{dims}d_backward")
        calls(f"replication_pad{dims}d_backward", lambda g, x, b=back, p=pad: b(g, x, p), g=g, x=x)
        for label, size in (("up", [9, 11, 7]), ("down", [3, 4, 2])):
            new = size[3 - dims :]
            g = signed(*x.shape[:2], *new)
            for name in ("upsample_nearest", "_upsample_nearest_exact"):
                back = getattr(aten, f"{name}{dims}d_backward")
                calls(f"{name}{dims}d_backward", lambda g, b=back, o=new, i=x.shape: b(g, o, list(i)), label, g=g)  # fmt: skip  # noqa: E501
            linear = {1: "linear1d", 2: "bilinear2d", 3: "trilinear3d"}[dims]
            for name in (linear, "bicubic2d") if dims == 2 else (linear,):
                for corners in (False, True):
                    back = getattr(aten, f"upsample_{name}_backward")
                    run = lambda g, b=back, o=new, i=x.shape, c=corners: b(g, o, list(i), c)  # noqa: E731  # fmt: skip  # noqa: E501
                    calls(f"upsample_{name}_backward", run, f"{label}-{corners}", g=g)
    scaled = lambda g: aten.upsample_bilinear2d_backward(g, [7, 10], [2, 2, 5, 7], False, 1.5, 1.5)  # noqa: E731  # fmt: skip  # noqa: E501
    calls("upsample_bilinear2d_backward", scaled, "factor", g=signed(2, 2, 7, 10))


def _placed() -> None:
    index = torch.tensor([[0, 2, 1], [2, 2, 0]])
    x, source = signed(3, 4), signed(2, 3)
    at = torch.tensor([2, 0, 2])
    calls("index_put", lambda x, y: aten.index_put(x, [at[:2]], y), x=x, y=signed(2, 4))
    calls("index_put", lambda x, y: aten.index_put(x, [None, at], y, True), "add", x=x, y=signed(3, 3))  # fmt: skip  # noqa: E501
    calls("index_put", lambda x, y: aten.index_put(x, [at, at], y, True), "one", x=x, y=signed(1))
    keep = torch.tensor([True, False, True])
    calls("index_put", lambda x, y: aten.index_put(x, [keep], y), "mask", x=x, y=signed(1))
    calls("scatter_add", lambda x, y: aten.scatter_add(x, 1, index, y), x=x, y=source)
    calls("index_add", lambda x, y: aten.index_add(x, 0, at, y, alpha=2), x=x, y=signed(3, 4) + 1)
    calls("scatter", lambda x, y: aten.scatter(x, 1, index[:1], y), x=x, y=signed(1, 3))
    calls("scatter", lambda x: aten.scatter(x, 1, index, 0.3), "value", x=x)
    calls("scatter", lambda x: aten.scatter(x, 1, index, 0), "whole", x=x)
    calls("constant_pad_nd", lambda x: aten.constant_pad_nd(x, [1, 2, 0, 1]), x=x)
    calls("constant_pad_nd", lambda x: aten.constant_pad_nd(x, [1, -1], 0.3), "value", x=x)
    calls("cat", lambda x, y: aten.cat([x, y, x], 1), x=x, y=signed(3, 2))
    calls("stack", lambda x, y: aten.stack([x, y], 1), x=x, y=x + 1)
    calls("diagonal_scatter", aten.diagonal_scatter, self=x, src=signed(3) + 1)
    calls("select_scatter", lambda x, y: aten.select_scatter(x, y, 1, 2), x=x, y=signed(3))
    calls("slice_scatter", lambda x, y: aten.slice_scatter(x, y, 1, 0, 4, 2), x=x, y=signed(3, 2))
    calls("as_strided_scatter", lambda x, y: aten.as_strided_scatter(x, y, [2, 2], [4, 1], 1), x=x, y=signed(2, 2))  # fmt: skip  # noqa: E501


def _moved() -> None:
    calls("lift_fresh_copy", lambda x: x * torch.tensor([0.5, 0.1, 3.0], dtype=x.dtype), x=signed(2, 3))  # fmt: skip  # noqa: E501
    at = torch.tensor([2, 0, 2])
    more: dict[str, tuple[Any, ...]] = {
        "_reshape_alias": ([4, 3], [3, 1]), "_unsafe_view": ([4, 3],), "alias": (), "clone": (),
        "as_strided": ([2, 2], [4, 1], 1), "contiguous": (), "detach": (), "diagonal": (1,),
        "expand": ([2, 3, 4],), "flip": ([0],), "gather": (0, at.reshape(1, 3)),
        "index": ([None, at],), "index_select": (1, at),
        "narrow": (1, 1, 2), "permute": ([1, 0],), "repeat": ([2, 1],), "reshape": ([2, 6],),
        "roll": ([1], [1]), "rot90": (1, [0, 1]), "select": (1, 2), "slice": (1, 0, 4, 2),
        "split": (2, 1), "split_with_sizes": ([1, 3], 1), "squeeze": (), "t": (), "take": (at,),
        "transpose": (0, 1), "unbind": (1,), "unfold": (1, 2, 1), "unsqueeze": (1,),
        "view": ([2, 6],),
    }  # fmt: skip
    for name, args in more.items():
        x = signed(3, 4)
        run = getattr(aten, name)
        calls(name, lambda x, run=run, a=args: run(x, *a), x=x)
        if name in ("as_strided", "detach", "narrow", "permute", "select", "slice", "split", "unbind", "view"):  # fmt: skip  # noqa: E501
            run = getattr(aten, name + "_copy")
            calls(name + "_copy", lambda x, run=run, a=args: run(x, *a), x=x)
    calls("squeeze", lambda x: aten.squeeze(x, [0, 2]), "dims", x=signed(1, 3, 1))
    calls("embedding", lambda w: aten.embedding(w, at), w=signed(3, 4))


def _made() -> None:
    f = torch.float64
    for name, run in {
        "arange": lambda x: x + aten.arange(4, dtype=x.dtype),
        "arange-integers": lambda x: x + aten.arange(4),
        "empty": lambda x: aten.copy(aten.empty([4], dtype=x.dtype), x),
        "empty_like": lambda x: aten.copy(aten.empty_like(x), x),
        "empty_permuted": lambda x: aten.copy(aten.empty_permuted([4], [0], dtype=x.dtype), x),
        "empty_strided": lambda x: aten.copy(aten.empty_strided([4], [1], dtype=x.dtype), x),
        "eye": lambda x: x + aten.eye(4, dtype=x.dtype),
        "full": lambda x: x + aten.full([4], 0.3, dtype=x.dtype),
        "full_like": lambda x: x + aten.full_like(x, 0.3),
        "linspace": lambda x: x + aten.linspace(0.1, 0.7, 4, dtype=x.dtype),
        "new_empty": lambda x: aten.copy(aten.new_empty(x, [4]), x),
        "new_empty_strided": lambda x: aten.copy(aten.new_empty_strided(x, [4], [1]), x),
        "new_full": lambda x: x + aten.new_full(x, [4], 0.3),
        "new_ones": lambda x: x + aten.new_ones(x, [4]),
        "new_zeros": lambda x: x + aten.new_zeros(x, [4]),
        "ones": lambda x: x + aten.ones([4], dtype=x.dtype),
        "ones_like": lambda x: x + aten.ones_like(x),
        "scalar_tensor": lambda x: x + aten.scalar_tensor(0.3, dtype=x.dtype),
        "zeros": lambda x: x + aten.zeros([4], dtype=x.dtype),
        "zeros_like": lambda x: x + aten.zeros_like(x),
    }.items():
        calls(name.partition("-")[0], run, name.partition("-")[2], x=signed(4).to(f))


def _two_numbers() -> None:
    """Elementwise operations of two numbers, and elementary functions beyond the common ones."""
    run: Any

    def sign_backward(x: Tensor) -> Tensor:
        leaf = x.detach().requires_grad_()
        with torch.enable_grad():
            return torch.autograd.grad(torch.sgn(leaf).sum(), leaf)[0]

    calls("_efficientzerotensor", sign_backward, x=signed(4))
    calls("asinh", aten.asinh, self=3 * signed(4, 6))
    calls("special_erfcx", aten.special_erfcx, self=2 * signed(4, 6))
    for name in ("hypot", "atan2", "fmax", "fmin", "copysign"):
        calls(name, getattr(aten, name), self=signed(4, 6), other=signed(6) + 1)
    calls("hypot", lambda x: aten.hypot(x, x), "itself", x=signed(6))
    calls("copysign", lambda x: aten.copysign(x, -0.0), "number", x=signed(6))
    calls("angle", aten.angle, self=signed(6))
    for name in ("fmod", "remainder"):
        run = getattr(aten, name)
        calls(name, run, self=5 * signed(4, 6), other=signed(6).sign() * positive(6))
        calls(name, lambda x, run=run: run(x, 0.7), "number", x=5 * signed(6))
        calls(name, lambda x, run=run: run(x, 2), "whole", x=5 * signed(6))
    calls("remainder", lambda x: aten.remainder(2.5, x), "of-number", x=positive(6))
    for mode in ("floor", "trunc"):
        run = lambda x, y, m=mode: aten.div(x, y, rounding_mode=m) * x  # noqa: E731
        calls("div", run, mode, x=5 * signed(6), y=positive(6))
    powers = torch.tensor([1, -2, 0])
    calls("ldexp", lambda x: aten.ldexp(x, powers), x=signed(2, 3))
    calls("ldexp", aten.ldexp, "fraction", self=signed(2, 3), other=signed(3))
    calls("frexp", lambda x: aten.frexp(x), x=signed(6))
    slopes = (0.125, 1 / 3)
    calls("rrelu_with_noise_functional", lambda x, s: aten.rrelu_with_noise_functional(x, s, *slopes)[0], x=signed(6), s=positive(6))  # fmt: skip  # noqa: E501
    for training in (False, True):
        calls("rrelu_with_noise_backward", lambda g, x, s, t=training: aten.rrelu_with_noise_backward(g, x, s, *slopes, t, False), str(training), g=signed(6), x=signed(6), s=positive(6))  # fmt: skip  # noqa: E501


def _groups() -> None:
    """Reductions at indices, of segments and of embedding bags."""
    run: Any
    index = torch.tensor([[0, 2, 2, 0], [2, 2, 0, 1]])
    rows = torch.tensor([2, 0, 2])
    for how in ("sum", "prod", "mean", "amax", "amin"):
        for own in (True, False):
            run = lambda x, y, h=how, s=own: aten.scatter_reduce(x, 0, index, y, h, include_self=s)  # noqa: E731  # fmt: skip  # noqa: E501
            calls("scatter_reduce", run, f"{how}-{own}", x=signed(4, 5), y=signed(2, 4))
            if how != "sum":
                run = lambda x, y, h=how, s=own: aten.index_reduce(x, 1, rows, y, h, include_self=s)  # noqa: E731  # fmt: skip  # noqa: E501
                calls("index_reduce", run, f"{how}-{own}", x=signed(2, 4), y=signed(2, 3))
    for how in ("sum", "prod", "mean", "max", "min"):
        segments: dict[str, dict[str, Any]] = {
            "lengths": {"lengths": torch.tensor([2, 3, 1])},
            "offsets": {"offsets": torch.tensor([[0, 1, 4], [0, 3, 4]]), "axis": 1},
            "initial": {"lengths": torch.tensor([2, 0, 4]), "initial": 0.5},
        }
        for label, keys in segments.items():
            if (how, label) == ("mean", "initial"):
                continue
            x = signed(6, 3) if "axis" not in keys else signed(2, 4, 3)
            run = lambda x, h=how, k=keys: aten.segment_reduce(x, h, **k)  # noqa: E731
            calls("segment_reduce", run, f"{how}-{label}", x=x)

            def back(g: Tensor, x: Tensor, h: str = how, k: Any = keys) -> Tensor:
                out = aten.segment_reduce(x, h, **k)
                return aten._segment_reduce_backward(g, out, x, h, **k)

            g = signed(*run(x).shape)
            calls("_segment_reduce_backward", back, f"{how}-{label}", g=g, x=x)
    calls("index_put", lambda x, y: aten.index_put(x, [None, rows[:2]], y), "none", x=signed(2, 3), y=signed(2, 2))  # fmt: skip  # noqa: E501
    calls("put", lambda x, y: aten.put(x, torch.tensor([3, -1, 0]), y), x=signed(2, 3), y=signed(3))
    calls("put", lambda x, y: aten.put(x, rows, y, True), "add", x=signed(2, 3), y=signed(3))
    mask = torch.tensor([True, False, True])
    calls("masked_scatter_backward", lambda g: aten.masked_scatter_backward(g, mask, [5]), g=signed(2, 3))  # fmt: skip  # noqa: E501
    calls("masked_select", lambda x: aten.masked_select(x, mask), x=signed(2, 3))
    which, offsets = torch.tensor([3, 1, 1, 0, 2, 1]), torch.tensor([0, 2, 2, 5])
    ends = torch.tensor([0, 2, 2, 6])
    for mode, how in enumerate(("sum", "mean", "max")):
        for label, more in {
            "": (False, False, -1),
            "padding": (False, True, 3),
            "weights": (True, False, -1),
        }.items():
            if mode and label == "weights":
                continue

            def bag(w: Tensor, s: Tensor, m: int = mode, o: Any = more) -> Any:
                return aten._embedding_bag(
                    w,
                    which,
                    ends if o[1] else offsets,
                    False,
                    m,
                    False,
                    s if o[0] else None,
                    *o[1:],
                )

            def bag_backward(
                g: Tensor, w: Tensor, s: Tensor, m: int = mode, o: Any = more, run: Any = bag
            ) -> Any:
                _, bags, sizes, largest = run(w, s)
                return aten._embedding_bag_backward(
                    g,
                    which,
                    ends if o[1] else offsets,
                    bags,
                    sizes,
                    largest,
                    4,
                    False,
                    m,
                    False,
                    s if o[0] else None,
                    o[2],
                )

            tensors = {"w": signed(4, 3), "s": signed(6)}
            g = signed(*bag(**tensors)[0].shape)
            calls("_embedding_bag", bag, f"{how}-{label}", **tensors)
            calls("_embedding_bag_backward", bag_backward, f"{how}-{label}", g=g, **tensors)
    calls("_embedding_bag_per_sample_weights_backward", lambda g, w: aten._embedding_bag_per_sample_weights_backward(g, w, which, offsets, aten._embedding_bag(w, which, offsets)[1], 0, 1), g=signed(4, 3), w=signed(4, 3))  # fmt: skip  # noqa: E501
    for name in ("median", "nanmedian", "mode"):
        run = getattr(aten, name)
        calls(name, lambda x, run=run: run(x, 1, True), "dim", x=signed(4, 5))
    calls("median", aten.median, "all", self=signed(4, 5))
    calls("kthvalue", lambda x: aten.kthvalue(x, 2, 0), x=signed(4, 5))


def _losses() -> None:
    """Losses of classes and of sequences, bilinear products, and distances."""
    target, labels = (
        torch.tensor([0, 2, 1]),
        torch.tensor([[1, 2, -1, 0], [0, -1, 1, 1], [2, 3, 1, 0]]),
    )
    for reduction, g in ((0, signed(3)), (1, signed()), (2, signed())):
        for p in (1, 2):
            calls("multi_margin_loss_backward", lambda g, x, w, p=p, r=reduction: aten.multi_margin_loss_backward(g, x, target, p, 0.7, w, r), f"{reduction}-{p}", g=g, x=signed(3, 4), w=positive(4))  # fmt: skip  # noqa: E501

        def listed_backward(g: Tensor, x: Tensor, r: int = reduction) -> Tensor:
            listed = aten.multilabel_margin_loss_forward(x, labels, r)[1]
            return aten.multilabel_margin_loss_backward(g, x, labels, r, listed)

        calls(
            "multilabel_margin_loss_backward", listed_backward, str(reduction), g=g, x=signed(3, 4)
        )
    probabilities = signed(7, 2, 4).log_softmax(-1)
    words = torch.tensor([[1, 1, 3], [2, 1, 0]])
    lengths = ([7, 6], [3, 2])
    calls("_ctc_loss", lambda x: aten._ctc_loss(x, words, *lengths)[0], x=probabilities)
    calls("_ctc_loss", lambda x: aten._ctc_loss(x, words[0, :2], [7, 5], [2, 0], 3)[0], "joined", x=probabilities)  # fmt: skip  # noqa: E501

    def ctc(g: Tensor, x: Tensor) -> Tensor:
        loss, alpha = aten._ctc_loss(x, words, *lengths)
        return aten._ctc_loss_backward(g, x, words, *lengths, loss, alpha, 0)

    calls("_ctc_loss_backward", ctc, g=signed(2), x=probabilities)
    x, y, w = signed(4, 3), signed(4, 2), signed(5, 3, 2)
    calls("_trilinear", lambda x, w, y: aten._trilinear(x, w, y, [1, 3], [0], [1, 2], [2, 3]), x=x, w=w, y=y)  # fmt: skip  # noqa: E501
    for order in (2.0, 1.0, 0.0, 3.0, 1.5, float("inf")):
        calls("_pdist_forward", lambda x, p=order: aten._pdist_forward(x, p), f"{order:g}", x=signed(5, 3))  # fmt: skip  # noqa: E501
        calls("_pdist_backward", lambda g, x, p=order: aten._pdist_backward(g, x, p, aten._pdist_forward(x, p)), f"{order:g}", g=signed(10), x=signed(5, 3))  # fmt: skip  # noqa: E501
        if order not in (1.0, 2.0):
            calls("_cdist_backward", lambda g, x, y, p=order: aten._cdist_backward(g, x, y, p, aten._cdist_forward(x, y, p, None)), f"{order:g}", g=signed(4, 5), x=signed(4, 3), y=signed(5, 3))  # fmt: skip  # noqa: E501


def _sampled() -> None:
    """Sampling between the pixels of an image or a volume, and resizing with antialiasing."""
    run: Any
    back: Any
    for dims in (2, 3):
        sizes, points = (4, 5, 3)[:dims], (3, 2, 2)[:dims]
        x, grid = signed(2, 3, *sizes), 0.8 * signed(2, *points, dims)
        g = signed(2, 3, *points)
        forward = getattr(aten, f"grid_sampler_{dims}d")
        backward = getattr(aten, f"grid_sampler_{dims}d_backward")
        for mode in (0, 1, 2)[: 5 - dims]:
            for padding in (0, 1, 2):
                for align in (False, True):
                    how, label = (mode, padding, align), f"{mode}{padding}{align}"
                    run = lambda x, grid, f=forward, h=how: f(x, grid, *h)  # noqa: E731
                    calls(f"grid_sampler_{dims}d", run, label, x=x, grid=grid)
                    back = lambda g, x, grid, f=backward, h=how: f(g, x, grid, *h, [True, True])  # noqa: E731  # fmt: skip  # noqa: E501
                    calls(f"grid_sampler_{dims}d_backward", back, label, g=g, x=x, grid=grid)
    image = signed(1, 2, 6, 7)
    for name in ("bilinear", "bicubic"):
        for label, size, more in (
            ("down", [3, 4], (False,)),
            ("up", [9, 8], (False,)),
            ("corners", [4, 3], (True,)),
            ("factor", [3, 3], (False, 0.5, 0.5)),
        ):
            run, back = (
                getattr(aten, f"_upsample_{name}2d_aa"),
                getattr(aten, f"_upsample_{name}2d_aa_backward"),
            )
            calls(f"_upsample_{name}2d_aa", lambda x, f=run, s=size, m=more: f(x, s, *m), label, x=image)  # fmt: skip  # noqa: E501
            calls(f"_upsample_{name}2d_aa_backward", lambda g, f=back, s=size, m=more: f(g, s, [1, 2, 6, 7], *m), label, g=signed(1, 2, *size))  # fmt: skip  # noqa: E501
    for dims, x in ((2, signed(2, 2, 5, 6)), (3, signed(1, 2, 5, 6, 4))):
        name, where = f"fractional_max_pool{dims}d", torch.full((*x.shape[:2], dims), 0.3).double()
        kernel, size = [2] * dims, [3, 4, 2][:dims]
        pool = getattr(aten, name)
        run = lambda x, f=pool, k=kernel, s=size, w=where: f(x, k, s, w.to(x.dtype))  # noqa: E731
        calls(name, run, x=x)
        values, index = run(x)
        back = getattr(aten, f"{name}_backward")
        calls(f"{name}_backward", lambda g, x, f=back, k=kernel, s=size, i=index: f(g, x, k, s, i), g=values, x=x)  # fmt: skip  # noqa: E501


for _part in (_elementwise, _sums, _products, _normalised, _resized, _placed, _moved, _made, _two_numbers, _groups, _losses, _sampled):  # fmt: skip  # noqa: E501
    _part()
for _rows, _label, _run, _inputs in LINEAR_ALGEBRA_CALLS:
    calls(_rows, _run, _label, **_inputs)
