"""No false alarm: right backward passes of whole layers, written in many styles."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from compare.checking.check import check
from compare.passes.forward import name
from tests.test_right_forms import Form, Forms, Gradients, Named, cases

FORMS = Forms()
right = FORMS.right
INDEX = torch.tensor([[3, 0], [1, 3], [3, 4]])


# -- indexing


@right(lambda w, i: F.embedding(i, w), w=(6, 5), i=INDEX)
def embedding_by_index_add(w: Tensor, i: Tensor, grad_output: Tensor) -> Gradients:
    return (torch.zeros_like(w).index_add(0, i.flatten(), grad_output.flatten(0, 1)),)


@right(lambda w, i: w[i], w=(6, 5), i=INDEX)
def embedding_by_one_hot(w: Tensor, i: Tensor, grad_output: Tensor) -> Gradients:
    return (F.one_hot(i.flatten(), 6).to(w.dtype).T @ grad_output.flatten(0, 1),)


@right(lambda w, i: w[i], w=(6, 5), i=INDEX)
def embedding_by_a_loop(w: Tensor, i: Tensor, grad_output: Tensor) -> Gradients:
    dw = torch.zeros_like(w)
    for k in range(3):
        for j in range(2):
            dw[i[k, j]] += grad_output[k, j]
    return (dw,)


@right(lambda x, i: x.gather(1, i), x=(3, 5), i=INDEX)
def gather_by_scatter_add(x: Tensor, i: Tensor, grad_output: Tensor) -> Gradients:
    return (torch.zeros_like(x).scatter_add(1, i, grad_output),)


@right(lambda x, y, i: x.scatter_add(1, i, y), x=(3, 5), y=(3, 2), i=INDEX)
def scatter_add_by_gather(i: Tensor, grad_output: Tensor) -> Gradients:
    return grad_output, grad_output.gather(1, i)


@right(lambda x: F.max_pool2d(x, 2), x=(2, 3, 4, 6))
def max_pool_by_comparing(x: Tensor, output: Tensor, grad_output: Tensor) -> Gradients:
    def wide(t: Tensor) -> Tensor:
        return t.repeat_interleave(2, -1).repeat_interleave(2, -2)

    return ((x == wide(output)) * wide(grad_output),)


@right(lambda x: F.avg_pool2d(x, 2), x=(2, 3, 4, 6))
def average_pool_by_repeating(grad_output: Tensor) -> Gradients:
    return (grad_output.repeat_interleave(2, -1).repeat_interleave(2, -2) / 4,)


@right(lambda x, y: torch.cat([x, y.T], 1).roll(1, 1)[:, 1:], x=(3, 5), y=(2, 3))
def cat_roll_and_slice(grad_output: Tensor) -> Gradients:
    g = F.pad(grad_output, (1, 0)).roll(-1, 1)
    return g[:, :5], g[:, 5:].T


@right(lambda x: torch.topk(x, 2, dim=1).values, x=(3, 5))
def topk_by_sort(x: Tensor, grad_output: Tensor) -> Gradients:
    order = x.sort(dim=1, descending=True).indices[:, :2]
    return (torch.zeros_like(x).scatter(1, order, grad_output),)


@right(lambda x: x.triu().sum(0) + x.diagonal(), x=(5, 5))
def triangle_and_diagonal(grad_output: Tensor) -> Gradients:
    return ((grad_output.expand(5, 5)).triu() + torch.diag(grad_output),)


# -- layers


def _lstm(x: Tensor, h: Tensor, c: Tensor, w: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    i, f, o, g = (torch.cat([x, h], 1) @ w + b).chunk(4, 1)
    new = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(new), new


@right(_lstm, x=(3, 5), h=(3, 2), c=(3, 2), w=(7, 8), b=(8,))
def lstm_cell(
    x: Tensor, h: Tensor, c: Tensor, w: Tensor, b: Tensor, grad_output: tuple[Tensor, ...]
) -> Gradients:
    z = torch.cat([x, h], 1) @ w + b
    i, f, o = z[:, :6].sigmoid().split(2, 1)
    g, (dh, dc) = z[:, 6:].tanh(), grad_output
    t = torch.tanh(f * c + i * g)
    dc = dc + dh * o * (1 - t**2)
    dz = torch.empty_like(z)
    dz[:, :2] = dc * g * i * (1 - i)
    dz[:, 2:4] = dc * c * f * (1 - f)
    dz[:, 4:6] = dh * t * o * (1 - o)
    dz[:, 6:] = dc * i * (1 - g**2)
    dx, dhidden = (dz @ w.T).split([5, 2], 1)
    return dx, dhidden, dc * f, torch.cat([x, h], 1).T @ dz, dz.sum(0)


def _gru(x: Tensor, h: Tensor, w: Tensor, u: Tensor) -> Tensor:
    a, b = (x @ w).chunk(3, 1), (h @ u).chunk(3, 1)
    r, z = torch.sigmoid(a[0] + b[0]), torch.sigmoid(a[1] + b[1])
    return torch.lerp(torch.tanh(a[2] + r * b[2]), h, z)


@right(_gru, x=(3, 5), h=(3, 2), w=(5, 6), u=(2, 6))
def gru_cell(x: Tensor, h: Tensor, w: Tensor, u: Tensor, grad_output: Tensor) -> Gradients:
    a, b = (x @ w).chunk(3, 1), (h @ u).chunk(3, 1)
    r, z = torch.sigmoid(a[0] + b[0]), torch.sigmoid(a[1] + b[1])
    n = torch.tanh(a[2] + r * b[2])
    dn = grad_output * (1 - z) * (1 - n * n)
    dr, dz = dn * b[2] * r * (1 - r), grad_output * (h - n) * z * (1 - z)
    da, db = torch.cat([dr, dz, dn], 1), torch.cat([dr, dz, dn * r], 1)
    return da @ w.T, grad_output * z + db @ u.T, x.T @ da, h.T @ db


def _ninja(c: Tensor, i: Tensor, y: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> Tensor:  # fmt: skip  # noqa: E501
    emb = name(c[i], "emb")
    h = name(torch.tanh(name(emb.view(3, -1) @ w1 + b1, "hpre")), "h")
    logits = name(h @ w2 + b2, "logits")
    norm = name(logits - logits.max(1, keepdim=True).values, "norm_logits")
    counts = name(norm.exp(), "counts")
    inv = name(counts.sum(1, keepdim=True) ** -1, "counts_sum_inv")
    logprobs = name(name(counts * inv, "probs").log(), "logprobs")
    return -logprobs[range(3), y].mean()


@right(
    _ninja, c=(6, 5), i=INDEX, y=torch.tensor([2, 0, 3]),
    w1=(10, 7), b1=(7,), w2=(7, 4), b2=(4,),
)  # fmt: skip
def becoming_a_backprop_ninja(**v: Tensor) -> Named:
    d = {"logprobs": torch.zeros_like(v["logprobs"])}
    d["logprobs"][range(3), v["y"]] = -1.0 / 3
    d["probs"] = (1.0 / v["probs"]) * d["logprobs"]
    d["counts_sum_inv"] = (v["counts"] * d["probs"]).sum(1, keepdim=True)
    dsum = -(v["counts"].sum(1, keepdim=True) ** -2) * d["counts_sum_inv"]
    d["counts"] = v["counts_sum_inv"] * d["probs"] + torch.ones_like(v["counts"]) * dsum
    d["norm_logits"] = v["counts"] * d["counts"]
    dmax = (-d["norm_logits"]).sum(1, keepdim=True)
    d["logits"] = d["norm_logits"].clone()
    d["logits"] += F.one_hot(v["logits"].max(1).indices, num_classes=4) * dmax
    d["h"], d["w2"] = d["logits"] @ v["w2"].T, v["h"].T @ d["logits"]
    d["b2"] = d["logits"].sum(0)
    d["hpre"] = (1.0 - v["h"] ** 2) * d["h"]
    d["w1"], d["b1"] = v["emb"].view(3, -1).T @ d["hpre"], d["hpre"].sum(0)
    d["emb"] = (d["hpre"] @ v["w1"].T).view(v["emb"].shape)
    d["c"] = torch.zeros_like(v["c"])
    for k in range(3):
        for j in range(2):
            d["c"][v["i"][k, j]] += d["emb"][k, j]
    return d


@right(
    lambda q, k: (q @ k.mT).masked_fill(torch.ones(3, 3).triu(1) > 0, -torch.inf).softmax(-1),
    q=(2, 3, 5), k=(2, 3, 5),
)  # fmt: skip
def causal_attention(q: Tensor, k: Tensor, output: Tensor, grad_output: Tensor) -> Gradients:
    ds = output * (grad_output - (output * grad_output).sum(-1, keepdim=True))
    return ds @ k, ds.mT @ q


@right(lambda x, y: F.cosine_similarity(x, y, dim=1), x=(3, 5), y=(3, 5))
def cosine_similarity(x: Tensor, y: Tensor, grad_output: Tensor) -> Gradients:
    a, b = x.norm(dim=1, keepdim=True), y.norm(dim=1, keepdim=True)
    cos, g = (x * y).sum(1, keepdim=True) / (a * b), grad_output[:, None]
    return g * (y / (a * b) - cos * x / a**2), g * (x / (a * b) - cos * y / b**2)


@right(lambda x, y: F.smooth_l1_loss(x, y, beta=0.7), x=(3, 5), y=(3, 5))
def smooth_l1(x: Tensor, y: Tensor) -> Gradients:
    d = ((x - y) / 0.7).clamp(-1, 1) / 15
    return d, -d


@right(lambda x, t: torch.cat([x * t.cos(), x * t.sin()], 1), x=(3, 5), t=(3, 1))
def rotation(x: Tensor, t: Tensor, grad_output: Tensor) -> Gradients:
    a, b = grad_output.chunk(2, 1)
    dt = (b * x * torch.cos(t) - a * x * torch.sin(t)).sum(1, keepdim=True)
    return a * t.cos() + b * t.sin(), dt


# -- coding styles


class _Swish(torch.autograd.Function):
    """An autograd.Function with both passes and an argument that is not a tensor."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, beta: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.beta = beta
        return x / (1 + torch.exp(-beta * x))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        s = torch.sigmoid(ctx.beta * x)
        return grads[0] * (s + ctx.beta * x * s * (1 - s)), None


FORMS["autograd_function"] = Form(
    _Swish, lambda x, beta: x * torch.sigmoid(beta * x), {"x": (3, 5), "beta": 1.7}
)


class _SinCos(torch.autograd.Function):
    """An autograd.Function with two outputs."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(x)
        return x.sin(), x.cos()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return grads[0] * x.cos() - grads[1] * x.sin()


FORMS["autograd_function_of_two_outputs"] = Form(
    _SinCos, lambda x: (x.sin(), x.cos()), {"x": (3, 5)}
)


@right(lambda x, y: (x * y, (x + y).sum(), x.argmax(1)), x=(3, 5), y=(3, 5))
def several_outputs(x: Tensor, y: Tensor, grad_output: tuple[Tensor, ...]) -> Gradients:
    a, b = grad_output[:2]
    return a * y + b, a * x + b


@right(lambda x, y, z: x * 2 + y.detach() + z.size(0), x=(3, 5), y=(5,), z=(2,))
def gradients_of_none_and_of_zero(y: Tensor, grad_output: Tensor) -> Gradients:
    return 2 * grad_output, torch.zeros_like(y), None


@right(lambda x, n, k: x * n / k, x=(3, 5), n=torch.arange(1, 6), k=3)
def integer_inputs(n: Tensor, k: int, grad_output: Tensor) -> Gradients:
    return (grad_output * n / k,)


@right(lambda x, y: x * y.detach() + x.T.T, x=(3, 5), y=(3, 5))
def detached_input(y: Tensor, grad_output: Tensor) -> Named:
    return {"x": grad_output * y + grad_output, "y": torch.zeros_like(y)}


@right(lambda x: x[:, 1:4].exp(), x=(3, 5))
def views_and_writes_in_place(x: Tensor, grad_output: Tensor) -> Gradients:
    dx = torch.zeros_like(x)
    part = dx.view(-1).view(3, 5)[:, 1:4]
    part.add_(grad_output).mul_(x[:, 1:4].exp())
    dx[:, 0].fill_(7.0)
    dx[:, 0].zero_()
    return (dx,)


@right(
    lambda x, w: (x.mT @ w).relu(), x=torch.randn(3, 5, 2).permute(2, 0, 1), w=torch.randn(4, 3).T
)
def tensors_that_are_not_contiguous(x: Tensor, w: Tensor, output: Tensor, grad_output: Tensor) -> Gradients:  # fmt: skip  # noqa: E501
    g = (grad_output * (output > 0)).mT
    return (w @ g).contiguous(), (x @ g.mT).sum(0)


@right(lambda x, y: x * y + y.exp(), x=(), y=())
def tensors_of_no_dimension(x: Tensor, y: Tensor) -> Gradients:
    return y, x + y.exp()


@right(lambda x, w: (x @ w).tanh(), x=(0, 5), w=(5, 4))
def tensors_without_elements(x: Tensor, w: Tensor, grad_output: Tensor) -> Gradients:
    g = grad_output * (1 - (x @ w).tanh() ** 2)
    return g @ w.T, x.T @ g


@right(lambda x: (x * 1e-7).sum() + (x * 3e-5 * x).sum(), x=(3, 5))
def gradients_below_the_smallest_normal(x: Tensor) -> Gradients:
    return (x * 6e-5 + 1e-7,)


@right(lambda x: x.sum().expand(4).prod() + x.mean(), x=torch.randn(3, 5) / 3)
def a_scalar_expanded(x: Tensor) -> Gradients:
    return ((4 * x.sum() ** 3 + 1 / 15).expand(3, 5),)


def _blog(x: Tensor, y: Tensor, s0: Tensor, s1: Tensor) -> Tensor:
    l1 = torch.sigmoid(name(x @ s0, "z1"))
    l2 = torch.sigmoid(name(l1 @ s1, "z2"))
    return ((y - l2) ** 2).sum() / 2


@right(_blog, x=(4, 3), y=torch.rand(4, 1), s0=(3, 5), s1=(5, 1))
def eleven_lines(x: Tensor, y: Tensor, s0: Tensor, s1: Tensor) -> Named:
    l1 = 1 / (1 + torch.exp(-(x @ s0)))
    l2 = 1 / (1 + torch.exp(-(l1 @ s1)))
    z2 = -(y - l2) * (l2 * (1 - l2))
    z1 = z2.mm(s1.T) * (l1 * (1 - l1))
    return {"z2": z2, "z1": z1, "s1": l1.T.mm(z2), "s0": x.T.mm(z1), "x": z1 @ s0.T, "y": y - l2}


@pytest.mark.parametrize(("form", "dtype"), cases(FORMS))
def test_right_code(form: Form, dtype: torch.dtype) -> None:
    """A right backward pass is EXACT or ROUNDING."""
    report = check(form.backward, form.forward, form.at(dtype))
    assert report.ok, str(report)
