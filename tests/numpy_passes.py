"""Passes as a course on neural networks has them: forward in torch, backward in NumPy.

Letters: N rows, D inputs, H hidden values, C classes or channels, F filters, T steps in time.
"""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

import compare

Array = Any
Arrays = dict[str, Array]


# -- affine, relu, dropout


def affine(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    return x.reshape(len(x), -1) @ w + b


def affine_back(x: Array, w: Array, b: Array, grad_output: Array) -> Arrays:
    rows = x.reshape(x.shape[0], -1)
    dx = grad_output.dot(w.T).reshape(x.shape)
    dw = rows.T.dot(grad_output)
    db = grad_output.sum(axis=0)
    return {"x": dx, "w": dw, "b": db}


def relu(x: Tensor) -> Tensor:
    return F.relu(x)


def relu_back(x: Array, grad_output: Array) -> Array:
    dx = np.array(grad_output, copy=True)
    dx[x <= 0] = 0
    return dx


def dropout(x: Tensor, mask: Tensor) -> Tensor:
    return x * mask / 0.75


def dropout_back(mask: Array, grad_output: Array) -> Array:
    return grad_output * mask / 0.75


# -- normalisation


def batch_norm(x: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
    mean, var = x.mean(0), x.var(0, correction=0)
    return gamma * (x - mean) / torch.sqrt(var + 1e-5) + beta


def batch_norm_back(x: Array, gamma: Array, beta: Array, grad_output: Array) -> Arrays:
    n = x.shape[0]
    mu = x.mean(axis=0)
    std = np.sqrt(np.var(x, axis=0) + 1e-5)
    xhat = (x - mu) / std
    dbeta = np.sum(grad_output, axis=0)
    dgamma = np.sum(grad_output * xhat, axis=0)
    dxhat = grad_output * gamma
    dx = (n * dxhat - dxhat.sum(axis=0) - xhat * np.sum(dxhat * xhat, axis=0)) / (n * std)
    return {"x": dx, "gamma": dgamma, "beta": dbeta}


def batch_norm_steps_back(x: Array, gamma: Array, beta: Array, grad_output: Array) -> Arrays:
    n = len(x)
    centred = x - np.mean(x, axis=0)
    inverse = 1.0 / np.sqrt(np.mean(centred**2, axis=0) + 1e-5)
    dxhat = grad_output * gamma
    dinverse = (dxhat * centred).sum(axis=0)
    dvar = -0.5 * dinverse * inverse**3
    dcentred = dxhat * inverse
    dcentred += 2.0 / n * centred * dvar
    dx = dcentred - dcentred.mean(axis=0)
    return {"x": dx, "gamma": (grad_output * centred * inverse).sum(0), "beta": grad_output.sum(0)}


def layer_norm(x: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], gamma, beta, 1e-5)


def layer_norm_back(x: Array, gamma: Array, beta: Array, grad_output: Array) -> Arrays:
    mu = x.mean(axis=1, keepdims=True)
    inverse = 1 / np.sqrt(x.var(axis=1, keepdims=True) + 1e-5)
    xhat = (x - mu) * inverse
    dxhat = grad_output * gamma
    dx = dxhat - dxhat.mean(axis=1, keepdims=True)
    dx -= xhat * np.mean(dxhat * xhat, axis=1, keepdims=True)
    dx *= inverse
    return {"x": dx, "gamma": (grad_output * xhat).sum(axis=0), "beta": grad_output.sum(axis=0)}


# -- loops over elements


def conv(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    return F.conv2d(x, w, b, stride=2, padding=1)


def conv_back(x: Array, w: Array, b: Array, grad_output: Array) -> Arrays:
    rows, columns = w.shape[2:]
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)), mode="constant")
    dpadded = np.zeros_like(padded)
    dw = np.zeros_like(w)
    for n in range(x.shape[0]):
        for f in range(w.shape[0]):
            for i in range(grad_output.shape[2]):
                for j in range(grad_output.shape[3]):
                    window = np.s_[n, :, 2 * i : 2 * i + rows, 2 * j : 2 * j + columns]
                    dw[f] += padded[window] * grad_output[n, f, i, j]
                    dpadded[window] += w[f] * grad_output[n, f, i, j]
    db = grad_output.sum(axis=(0, 2, 3))
    dx = dpadded[:, :, 1:-1, 1:-1]
    return {"x": dx, "w": dw, "b": db}


def max_pool(x: Tensor) -> Tensor:
    return F.max_pool2d(x, 2)


def max_pool_back(x: Array, grad_output: Array) -> Array:
    dx = np.zeros_like(x)
    for n in range(x.shape[0]):
        for c in range(x.shape[1]):
            for i in range(grad_output.shape[2]):
                for j in range(grad_output.shape[3]):
                    window = x[n, c, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2]
                    a, b = np.unravel_index(np.argmax(window), window.shape)
                    dx[n, c, 2 * i + a, 2 * j + b] += grad_output[n, c, i, j]
    return dx


def max_pool_mask_back(x: Array, output: Array, grad_output: Array) -> Array:
    n, c, height, width = x.shape
    blocks = x.reshape(n, c, height // 2, 2, width // 2, 2)
    mask = blocks == output[:, :, :, np.newaxis, :, np.newaxis]
    return (mask * grad_output[:, :, :, None, :, None]).reshape(x.shape)


def embedding(ids: Tensor, w: Tensor) -> Tensor:
    return F.embedding(ids, w)


def embedding_back(ids: Array, w: Array, grad_output: Array) -> Array:
    dw = np.zeros(w.shape, dtype=w.dtype)
    np.add.at(dw, ids, grad_output)
    return dw


# -- losses


def softmax_loss(x: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(x, y)


def softmax_loss_back(x: Array, y: Array, grad_output: Array) -> Array:
    shifted = x - np.max(x, axis=1, keepdims=True)
    probs = np.exp(shifted) / np.sum(np.exp(shifted), axis=1, keepdims=True)
    dx = probs.copy()
    dx[np.arange(x.shape[0]), y] -= 1
    dx /= x.shape[0]
    return dx * grad_output


def hinge_loss(x: Tensor, y: Tensor) -> Tensor:
    margins = (x - x[torch.arange(len(x)), y][:, None] + 1).clamp_min(0)
    return (margins.sum() - len(x)) / len(x)


def hinge_loss_back(x: Array, y: Array, grad_output: Array) -> Array:
    n = len(x)
    margins = np.maximum(0, x - x[np.arange(n), y][:, np.newaxis] + 1)
    margins[np.arange(n), y] = 0
    dx = (margins > 0).astype(x.dtype)
    dx[range(n), y] -= np.sum(margins > 0, axis=1)
    return grad_output * dx / n


# -- recurrent networks


def rnn_step(x: Tensor, h: Tensor, wx: Tensor, wh: Tensor, b: Tensor) -> Tensor:
    return torch.tanh(compare.name(x @ wx + h @ wh + b, "z"))


def rnn_step_back(
    x: Array, h: Array, wx: Array, wh: Array, output: Array, grad_output: Array
) -> Arrays:
    dz = grad_output * (1 - output * output)
    dx, dh = dz @ wx.T, dz @ wh.T
    dwx = x.T @ dz
    dwh = h.T @ dz
    return {"z": dz, "x": dx, "h": dh, "wx": dwx, "wh": dwh, "b": np.sum(dz, axis=0)}


def rnn(x: Tensor, h0: Tensor, wx: Tensor, wh: Tensor, b: Tensor) -> Tensor:
    h, hs = h0, []
    for t in range(x.shape[1]):
        h = torch.tanh(x[:, t] @ wx + h @ wh + b)
        hs.append(h)
    return torch.stack(hs, 1)


def rnn_back(
    x: Array, h0: Array, wx: Array, wh: Array, b: Array, output: Array, grad_output: Array
) -> Arrays:
    dx = np.zeros_like(x)
    dwx, dwh, db = np.zeros_like(wx), np.zeros_like(wh), np.zeros_like(b)
    dnext = np.zeros_like(h0)
    for t in reversed(range(x.shape[1])):
        before = output[:, t - 1] if t > 0 else h0
        dh = grad_output[:, t] + dnext
        dz = dh * (1 - output[:, t] ** 2)
        dx[:, t] = np.dot(dz, wx.T)
        dwx += np.dot(x[:, t].T, dz)
        dwh += np.dot(before.T, dz)
        db += dz.sum(axis=0)
        dnext = np.dot(dz, wh.T)
    return {"x": dx, "h0": dnext, "wx": dwx, "wh": dwh, "b": db}


def lstm_step(
    x: Tensor, h: Tensor, c: Tensor, wx: Tensor, wh: Tensor, b: Tensor
) -> tuple[Tensor, Tensor]:
    i, f, o, g = (x @ wx + h @ wh + b).chunk(4, 1)
    after = f.sigmoid() * c + i.sigmoid() * g.tanh()
    return o.sigmoid() * after.tanh(), after


def lstm_step_back(
    x: Array, h: Array, c: Array, wx: Array, wh: Array, b: Array, grad_output: tuple[Array, Array]
) -> Arrays:
    size = h.shape[1]
    z = x.dot(wx) + h.dot(wh) + b
    gates = 1 / (1 + np.exp(-z[:, : 3 * size]))
    i, f, o = gates[:, :size], gates[:, size : 2 * size], gates[:, 2 * size :]
    g = np.tanh(z[:, 3 * size :])
    after = f * c + i * g
    dh, dc = grad_output
    dafter = dc + dh * o * (1 - np.tanh(after) ** 2)
    di = dafter * g * i * (1 - i)
    df = dafter * c * f * (1 - f)
    do = dh * np.tanh(after) * o * (1 - o)
    dg = dafter * i * (1 - g**2)
    dz = np.hstack((di, df, do, dg))
    return {
        "x": dz.dot(wx.T),
        "h": dz.dot(wh.T),
        "c": dafter * f,
        "wx": x.T.dot(dz),
        "wh": h.T.dot(dz),
        "b": dz.sum(axis=0),
    }


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.softmax(q @ k.mT / q.shape[-1] ** 0.5, -1) @ v


def attention_back(q: Array, k: Array, v: Array, grad_output: Array) -> Arrays:
    scale = q.shape[-1] ** -0.5
    scores = np.einsum("btd,bsd->bts", q, k) * scale
    e = np.exp(scores - scores.max(axis=-1, keepdims=True))
    p = e / e.sum(axis=-1, keepdims=True)
    dv = np.matmul(p.transpose(0, 2, 1), grad_output)
    dp = np.einsum("btd,bsd->bts", grad_output, v)
    ds = p * (dp - (dp * p).sum(axis=-1, keepdims=True)) * scale
    return {"q": np.einsum("bts,bsd->btd", ds, k), "k": np.swapaxes(ds, 1, 2) @ q, "v": dv}


# -- the passes with their inputs, and bugs


def _normal(*shape: int) -> Array:
    rng = np.random.RandomState(sum(k * size for k, size in enumerate(shape, 3)))
    return rng.randn(*shape)


_IDS = np.array([0, 2, 2, 1, 0])
_ROWS = {"x": _normal(5, 4), "gamma": _normal(4), "beta": _normal(4)}
_RNN = {"h": _normal(5, 3), "wx": _normal(4, 3), "wh": _normal(3, 3), "b": _normal(3)}

#: Name -> forward, backward and inputs in float64.
PASSES: dict[str, tuple[Any, Any, Arrays]] = {
    "affine": (
        affine, affine_back, {"x": _normal(5, 2, 3), "w": _normal(6, 4), "b": _normal(4)},
    ),
    "relu": (relu, relu_back, {"x": _normal(5, 4)}),
    "dropout": (
        dropout, dropout_back, {"x": _normal(5, 4), "mask": _normal(5, 4) > -0.5},
    ),
    "batch norm": (batch_norm, batch_norm_back, _ROWS),
    "batch norm in steps": (batch_norm, batch_norm_steps_back, _ROWS),
    "layer norm": (layer_norm, layer_norm_back, _ROWS),
    "conv": (
        conv, conv_back, {"x": _normal(1, 2, 4, 4), "w": _normal(2, 2, 3, 3), "b": _normal(2)},
    ),
    "max pool": (max_pool, max_pool_back, {"x": _normal(2, 2, 4, 4)}),
    "max pool by mask": (max_pool, max_pool_mask_back, {"x": _normal(2, 2, 4, 4)}),
    "embedding": (embedding, embedding_back, {"ids": _IDS, "w": _normal(3, 4)}),
    "softmax loss": (softmax_loss, softmax_loss_back, {"x": _normal(5, 3), "y": _IDS}),
    "hinge loss": (hinge_loss, hinge_loss_back, {"x": _normal(5, 3), "y": _IDS}),
    "rnn step": (rnn_step, rnn_step_back, {"x": _normal(5, 4), **_RNN}),
    "rnn": (
        rnn, rnn_back, {"x": _normal(5, 3, 4), "h0": _RNN["h"], **{
            key: _RNN[key] for key in ("wx", "wh", "b")}},
    ),
    "lstm step": (
        lstm_step, lstm_step_back,
        {"x": _normal(4, 3), "h": _normal(4, 2), "c": _normal(4, 2) + 0.5, "wx": _normal(3, 8),
         "wh": _normal(2, 8), "b": _normal(8)},
    ),
    "attention": (
        attention, attention_back,
        {"q": _normal(2, 3, 4), "k": _normal(2, 5, 4), "v": _normal(2, 5, 2)},
    ),
}  # fmt: skip

#: Pass, its right text, a wrong one in its place, the first wrong quantity.
BUGS = [
    ("affine", "dot(w.T).reshape", "dot(w.T[:, ::-1]).reshape", "x"),
    ("affine", "rows.T.dot(grad_output)", "2 * rows.T.dot(grad_output)", "w"),
    ("affine", "grad_output.sum(axis=0)", "grad_output.mean(axis=0)", "b"),
    ("relu", "dx[x <= 0] = 0", "dx[x <= -1] = 0", "x"),
    ("relu", "dx[x <= 0] = 0", "dx[x <= 0] *= 0.01", "x"),
    ("dropout", "grad_output * mask / 0.75", "grad_output * mask", "x"),
    ("batch norm", "- xhat * np.sum(dxhat * xhat, axis=0)", "", "x"),
    ("batch norm", "(n * std)", "std", "x"),
    ("batch norm", "np.sum(grad_output * xhat", "np.sum(grad_output * x", "gamma"),
    ("batch norm in steps", "dcentred - dcentred.mean(axis=0)", "dcentred * 1", "x"),
    ("layer norm", "dx *= inverse", "dx *= inverse**2", "x"),
    ("conv", "dw[f] += padded[window]", "dw[f] = padded[window]", "w"),
    ("conv", "dx = dpadded[:, :, 1:-1, 1:-1]", "dx = dpadded[:, :, 2:, 2:]", "x"),
    ("conv", "grad_output.sum(axis=(0, 2, 3))", "grad_output.sum(axis=(0, 2, 3)) / 2", "b"),
    ("max pool", "2 * j + b] += grad_output[n, c, i, j]", "2 * j] += grad_output[n, c, i, j]", "x"),
    ("max pool by mask", "(mask * grad_output", "(mask * 0.5 * grad_output", "x"),
    ("embedding", "np.add.at(dw, ids, grad_output)", "dw[ids] += grad_output", "w"),
    ("softmax loss", "return dx * grad_output", "return dx - grad_output", "x"),
    ("hinge loss", "return grad_output * dx / n", "return grad_output * dx", "x"),
    ("rnn step", "1 - output * output", "1 - output", "z"),
    ("rnn step", "dwh = h.T @ dz", "dwh = output.T @ dz", "wh"),
    ("rnn step", "dz @ wh.T", "dz @ wh", "h"),
    ("rnn", "dwx += np.dot", "dwx = np.dot", "wx"),
    ("rnn", "db += dz.sum(axis=0)", "db += dh.sum(axis=0)", "b"),
    ("lstm step", '"c": dafter * f', '"c": dafter * i', "c"),
    ("attention", "np.matmul(p.transpose(0, 2, 1), grad_output)",
     "np.matmul(scores.transpose(0, 2, 1), grad_output)", "v"),
    ("attention", "np.swapaxes(ds, 1, 2) @ q", "np.swapaxes(ds, 1, 2) @ (q * scale)", "k"),
]  # fmt: skip
