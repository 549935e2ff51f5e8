"""Backward passes by hand that serve at any size: a norm, an MLP, attention, a whole block."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from inspect import signature
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from compare.bench.timing import Take, timed
from compare.checking.check import check

Named = dict[str, Tensor]


@dataclass(frozen=True)
class Pass:
    """A forward pass, its backward pass by hand, and inputs.

    Attributes:
        forward: Returns the output.
        backward: Returns the gradients by name.
        inputs: Returns the inputs, drawn from a generator.
    """

    forward: Callable[..., Tensor]
    backward: Callable[..., Named]
    inputs: Callable[[torch.Generator], Named]


def _normal(rng: torch.Generator, *shape: int, scale: float = 1.0) -> Tensor:
    return (torch.randn(*shape, generator=rng) * scale).requires_grad_()


# -- timed


def _drawn(made: Pass) -> Named:
    return made.inputs(torch.Generator().manual_seed(0))


def both_passes(made: Pass) -> Take:
    """Return a function that runs autograd's forward and backward pass, and both by hand."""
    inputs, wanted = _drawn(made), signature(made.backward).parameters
    plain = {name: value.detach() for name, value in inputs.items()}
    cotangent = torch.ones_like(made.forward(**plain))
    given = {**plain, "grad_output": cotangent}

    def take(_: int) -> None:
        made.forward(**inputs).backward(cotangent)
        for value in inputs.values():
            value.grad = None
        made.forward(**plain)
        made.backward(**{name: given[name] for name in wanted})

    return take


def checked_pass(made: Pass) -> Take:
    """Return a function that runs compare.check once."""
    inputs = _drawn(made)

    def take(_: int) -> None:
        report = check(made.backward, made.forward, inputs)
        assert report.ok, str(report)

    return take


def share_of_limit(made: Pass) -> Take:
    """Return a function that gives a check's time as a share of 2 s + 100 times both passes."""
    passes, check_once = both_passes(made), checked_pass(made)

    def share(_: int) -> float:
        passes(1)  # warms up
        limit = 2 + 100 * min(timed(passes, 1) for _ in range(5))
        return timed(check_once, 1) / limit

    return share


def fast_gradcheck(made: Pass) -> Take:
    """Return a function that runs gradcheck's fast mode once, on the passes in float64."""
    inputs = {name: value.detach().double() for name, value in _drawn(made).items()}
    wanted = [name for name in signature(made.backward).parameters if name != "grad_output"]

    class Passes(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *given: Tensor) -> Tensor:
            ctx.save_for_backward(*given)
            return made.forward(*given)

        @staticmethod
        def backward(ctx: Any, *grads: Tensor) -> Any:
            given = dict(zip(inputs, ctx.saved_tensors, strict=True))
            gradients = made.backward(grads[0], **{name: given[name] for name in wanted})
            return tuple(gradients[name] for name in inputs)

    leaves = [value.requires_grad_() for value in inputs.values()]

    def take(_: int) -> None:
        torch.autograd.gradcheck(Passes.apply, leaves, fast_mode=True)

    return take


# -- layer norm


def _norm_backward(g: Tensor, x: Tensor, w: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of x (rows, width), of the weight and of the bias."""
    centred = x - x.mean(-1, keepdim=True)
    rstd = ((centred * centred).mean(-1, keepdim=True) + 1e-5) ** -0.5
    h, d = centred * rstd, g * w
    dx = rstd * (d - d.mean(-1, keepdim=True) - h * (d * h).mean(-1, keepdim=True))
    return dx, (g * h).sum(0), g.sum(0)


def layer_norm(rows: int, width: int) -> Pass:
    """Return a layer norm of (rows, width)."""

    def forward(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return F.layer_norm(x, (width,), w, b)

    def backward(grad_output: Tensor, x: Tensor, w: Tensor) -> Named:
        return dict(zip("xwb", _norm_backward(grad_output, x, w), strict=True))

    def inputs(rng: torch.Generator) -> Named:
        return {"x": _normal(rng, rows, width), "w": _normal(rng, width), "b": _normal(rng, width)}

    return Pass(forward, backward, inputs)


# -- MLP


def _gelu_derivative(z: Tensor) -> Tensor:
    density = torch.exp(-0.5 * z * z) / math.sqrt(2 * math.pi)
    return 0.5 * (1 + torch.erf(z / math.sqrt(2))) + z * density


def mlp(rows: int, width: int, hidden: int) -> Pass:
    """Return the MLP of a transformer: (rows, width) to hidden with gelu, and back."""

    def forward(x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> Tensor:
        return F.gelu(x @ w1 + b1) @ w2 + b2

    def backward(grad_output: Tensor, x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor) -> Named:
        z = x @ w1 + b1
        dz = (grad_output @ w2.mT) * _gelu_derivative(z)
        return {
            "w2": F.gelu(z).mT @ grad_output, "b2": grad_output.sum(0), "x": dz @ w1.mT,
            "w1": x.mT @ dz, "b1": dz.sum(0),
        }  # fmt: skip

    def inputs(rng: torch.Generator) -> Named:
        return {
            "x": _normal(rng, rows, width), "w1": _normal(rng, width, hidden, scale=width**-0.5),
            "b1": _normal(rng, hidden), "w2": _normal(rng, hidden, width, scale=hidden**-0.5),
            "b2": _normal(rng, width),
        }  # fmt: skip

    return Pass(forward, backward, inputs)


# -- attention


def _weights(q: Tensor, k: Tensor) -> Tensor:
    """Return the causal attention weights (..., time, time)."""
    time = q.shape[-2]
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    mask = torch.ones(time, time, dtype=torch.bool, device=q.device).triu(1)
    return torch.softmax(scores.masked_fill(mask, float("-inf")), -1)


def _attention_backward(g: Tensor, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, ...]:
    p = _weights(q, k)
    dp = g @ v.mT
    ds = p * (dp - (dp * p).sum(-1, keepdim=True)) / math.sqrt(q.shape[-1])
    return ds @ k, ds.mT @ q, p.mT @ g


def attention(heads: int, time: int, size: int) -> Pass:
    """Return causal attention of (heads, time, size)."""

    def forward(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return _weights(q, k) @ v

    def backward(grad_output: Tensor, q: Tensor, k: Tensor, v: Tensor) -> Named:
        return dict(zip("qkv", _attention_backward(grad_output, q, k, v), strict=True))

    def inputs(rng: torch.Generator) -> Named:
        return {name: _normal(rng, heads, time, size) for name in "qkv"}

    return Pass(forward, backward, inputs)


# -- convolution


def convolution(images: int, channels: int, side: int, kernel: int) -> Pass:
    """Return a convolution of square images by as many channels, padded to keep the size."""

    def forward(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return F.conv2d(x, w, b, padding=kernel // 2)

    def backward(grad_output: Tensor, x: Tensor, w: Tensor) -> Named:
        dx = F.conv_transpose2d(grad_output, w, padding=kernel // 2)
        dw = F.conv2d(x.transpose(0, 1), grad_output.transpose(0, 1), padding=kernel // 2)
        return {"x": dx, "w": dw.transpose(0, 1), "b": grad_output.sum((0, 2, 3))}

    def inputs(rng: torch.Generator) -> Named:
        weight = _normal(
            rng, channels, channels, kernel, kernel, scale=1 / (kernel * channels**0.5)
        )
        x = _normal(rng, images, channels, side, side)
        return {"x": x, "w": weight, "b": _normal(rng, channels)}

    return Pass(forward, backward, inputs)


# -- embedding and cross-entropy


def embedding(tokens: int, vocabulary: int, width: int) -> Pass:
    """Return an embedding tied to the output layer, with cross-entropy at so many tokens."""

    def forward(w: Tensor, token: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(F.embedding(token, w) @ w.mT, target)

    def backward(w: Tensor, token: Tensor, target: Tensor) -> Named:
        rows = w[token]
        d = torch.softmax(rows @ w.mT, -1)
        d[torch.arange(len(token)), target] -= 1
        d = d / len(token)
        return {"w": (d.mT @ rows).index_add(0, token, d @ w)}

    def inputs(rng: torch.Generator) -> Named:
        draws = {
            name: torch.randint(vocabulary, (tokens,), generator=rng)
            for name in ("token", "target")
        }
        return {"w": _normal(rng, vocabulary, width, scale=width**-0.5), **draws}

    return Pass(forward, backward, inputs)


# -- a block of GPT-2


def block(time: int, width: int, heads: int) -> Pass:
    """Return a whole transformer block: norm, attention, norm, MLP, each with a residual."""

    def split(x: Tensor) -> Tensor:
        return x.reshape(len(x), heads, width // heads).transpose(0, 1)

    def merge(x: Tensor) -> Tensor:
        return x.transpose(0, 1).reshape(-1, width)

    names = ["x", "g1", "c1", "wqkv", "bqkv", "wo", "bo", "g2", "c2", "w1", "b1", "w2", "b2"]

    def forward(x: Tensor, g1: Tensor, c1: Tensor, wqkv: Tensor, bqkv: Tensor, wo: Tensor, bo: Tensor, g2: Tensor, c2: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> Tensor:  # fmt: skip  # noqa: E501
        a = F.layer_norm(x, (width,), g1, c1)
        q, k, v = (split(part) for part in (a @ wqkv + bqkv).split(width, -1))
        y = x + merge(_weights(q, k) @ v) @ wo + bo
        m = F.layer_norm(y, (width,), g2, c2)
        return y + F.gelu(m @ w1 + b1) @ w2 + b2

    def backward(grad_output: Tensor, x: Tensor, g1: Tensor, c1: Tensor, wqkv: Tensor, bqkv: Tensor, wo: Tensor, bo: Tensor, g2: Tensor, c2: Tensor, w1: Tensor, b1: Tensor, w2: Tensor) -> Named:  # fmt: skip  # noqa: E501
        a = F.layer_norm(x, (width,), g1, c1)
        q, k, v = (split(part) for part in (a @ wqkv + bqkv).split(width, -1))
        attended = merge(_weights(q, k) @ v)
        y = x + attended @ wo + bo
        m = F.layer_norm(y, (width,), g2, c2)
        z = m @ w1 + b1

        g = grad_output
        dz = (g @ w2.mT) * _gelu_derivative(z)
        dy, dg2, dc2 = _norm_backward(dz @ w1.mT, y, g2)
        dy = g + dy
        parts = _attention_backward(split(dy @ wo.mT), q, k, v)
        dqkv = torch.cat([merge(part) for part in parts], -1)
        dx, dg1, dc1 = _norm_backward(dqkv @ wqkv.mT, x, g1)
        values = (
            dy + dx, dg1, dc1, a.mT @ dqkv, dqkv.sum(0), attended.mT @ dy, dy.sum(0), dg2, dc2,
            m.mT @ dz, dz.sum(0), F.gelu(z).mT @ g, g.sum(0),
        )  # fmt: skip
        return dict(zip(names, values, strict=True))

    def inputs(rng: torch.Generator) -> Named:
        shapes: dict[str, Any] = {
            "x": (time, width), "g1": (width,), "c1": (width,), "wqkv": (width, 3 * width),
            "bqkv": (3 * width,), "wo": (width, width), "bo": (width,), "g2": (width,),
            "c2": (width,), "w1": (width, 4 * width), "b1": (4 * width,), "w2": (4 * width, width),
            "b2": (width,),
        }  # fmt: skip
        return {
            name: _normal(rng, *shape, scale=shape[0] ** -0.5 if name[0] == "w" else 1.0)
            for name, shape in shapes.items()
        }

    return Pass(forward, backward, inputs)
