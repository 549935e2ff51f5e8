"""No false alarm: a right backward pass is EXACT or ROUNDING in any algebraic form and dtype."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from compare.checking.check import check
from compare.passes.forward import name

DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
Gradients = tuple[Tensor | None, ...]
Named = dict[str, Tensor]


@dataclass(frozen=True)
class Form:
    """A backward pass, its forward pass and the inputs; a tuple is a shape to fill with normals."""

    backward: Any
    forward: Callable[..., Any]
    inputs: dict[str, Any]

    def at(self, dtype: torch.dtype) -> dict[str, Any]:
        """Return the inputs with floats in `dtype`; integer tensors and other values are kept."""
        chance = torch.Generator().manual_seed(20)

        def made(value: Any) -> Any:
            if isinstance(value, tuple):
                value = torch.randn(value, generator=chance, dtype=torch.float64)
            floats = isinstance(value, Tensor) and value.is_floating_point()
            return value.to(dtype) if floats else value

        return {label: made(value) for label, value in self.inputs.items()}


class Forms(dict[str, Form]):
    """Forms, each under the name of its backward pass."""

    def right(self, forward: Callable[..., Any], **inputs: Any) -> Callable[[Any], Any]:
        """Return a decorator that adds a backward pass to the table under its function's name."""

        def put(backward: Any) -> Any:
            self[backward.__name__] = Form(backward, forward, inputs)
            return backward

        return put


FORMS = Forms()
right = FORMS.right


# -- elementwise


@right(lambda x: torch.tanh(x), x=(3, 5))
def tanh_by_exponentials(x: Tensor, grad_output: Tensor) -> Gradients:
    e = torch.exp(2 * x)
    t = (e - 1) / (e + 1)
    return (grad_output * (1 - t * t),)


@right(lambda x: torch.tanh(x), x=(3, 5))
def tanh_by_cosh(x: Tensor, grad_output: Tensor) -> Gradients:
    return (grad_output * 4 / (x.exp() + (-x).exp()) ** 2,)


@right(lambda x: torch.sigmoid(x), x=(3, 5))
def sigmoid_slope_first(output: Tensor, grad_output: Tensor) -> Gradients:
    return (grad_output * (output * (1 - output)),)


@right(lambda x: torch.sigmoid(x), x=(3, 5))
def sigmoid_left_to_right(output: Tensor, grad_output: Tensor) -> Gradients:
    return (grad_output * output * (1 - output),)


@right(lambda x: torch.sigmoid(x), x=(3, 5))
def sigmoid_by_exponentials(x: Tensor, grad_output: Tensor) -> Gradients:
    e = torch.exp(-x)
    return (grad_output * e / (1 + e) ** 2,)


@right(lambda x: F.relu(x), x=(3, 5))
def relu_in_place(x: Tensor, grad_output: Tensor) -> Gradients:
    dx = grad_output.clone()
    dx[x <= 0] = 0
    return (dx,)


@right(lambda x: F.leaky_relu(x, 0.2), x=(3, 5))
def leaky_relu(x: Tensor, grad_output: Tensor) -> Gradients:
    slope = torch.full_like(x, 0.2)
    slope[x > 0] = 1.0
    return (grad_output * slope,)


@right(lambda x: F.elu(x, 1.3), x=(3, 5))
def elu(x: Tensor, grad_output: Tensor) -> Gradients:
    return (torch.where(x > 0, grad_output, grad_output * 1.3 * x.exp()),)


@right(lambda x: F.gelu(x), x=(3, 5))
def gelu(x: Tensor, grad_output: Tensor) -> Gradients:
    cdf = 0.5 * (1 + torch.erf(x / math.sqrt(2)))
    pdf = torch.exp(-x * x / 2) / math.sqrt(2 * math.pi)
    return (grad_output * (cdf + x * pdf),)


@right(lambda x: F.gelu(x, approximate="tanh"), x=(3, 5))
def gelu_by_tanh(x: Tensor, grad_output: Tensor) -> Gradients:
    c = math.sqrt(2 / math.pi)
    t = torch.tanh(c * (x + 0.044715 * x**3))
    slope = 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * c * (1 + 3 * 0.044715 * x * x)
    return (grad_output * slope,)


@right(lambda x: F.gelu(x, approximate="tanh"), x=(3, 5))
def gelu_by_sigmoid_with_other_constants(x: Tensor, grad_output: Tensor) -> Gradients:
    k = 1.5957691216057308  # 2 sqrt(2 / pi)
    s = torch.sigmoid(k * x + k * 0.044715 * x * x * x)
    return (grad_output * (s + x * s * (1 - s) * (k + 0.134145 * k * x * x)),)


@right(lambda x: F.silu(x), x=(3, 5))
def silu(x: Tensor, grad_output: Tensor) -> Gradients:
    s = torch.sigmoid(x)
    return (grad_output * (s + x * s - x * s * s),)


@right(lambda x: F.softplus(x), x=(3, 5))
def softplus(x: Tensor, grad_output: Tensor) -> Gradients:
    return (grad_output * torch.sigmoid(x),)


@right(lambda x: F.mish(x), x=(3, 5))
def mish(x: Tensor, grad_output: Tensor) -> Gradients:
    t, s = torch.tanh(torch.log1p(torch.exp(x))), torch.sigmoid(x)
    return (grad_output * (t + x * s * (1 - t**2)),)


@right(lambda x: x.clamp(-0.5, 0.75), x=(3, 5))
def clamp(x: Tensor, grad_output: Tensor) -> Gradients:
    return (grad_output * ((x >= -0.5) & (x <= 0.75)),)


@right(lambda x, y: torch.where(x > y, x * y, y), x=(3, 5), y=(3, 5))
def where(x: Tensor, y: Tensor, grad_output: Tensor) -> Gradients:
    on = (x > y).to(x.dtype)
    return grad_output * on * y, grad_output * (on * x + (1 - on))


@right(lambda x, mask: x * mask / 0.7, x=(3, 5), mask=torch.arange(15).reshape(3, 5) % 3 > 0)
def dropout_with_a_given_mask(mask: Tensor, grad_output: Tensor) -> Gradients:
    return (grad_output * mask * (1 / 0.7),)


@right(lambda x: x**3 + x.abs().sqrt() - 1 / x, x=(3, 5))
def powers_and_roots(x: Tensor, grad_output: Tensor) -> Gradients:
    return (grad_output * (3 * x * x + x.sign() / (2 * x.abs() ** 0.5) + x**-2),)


@right(lambda x: x / 3, x=(20, 30))
def division_as_a_factor(grad_output: Tensor) -> Gradients:
    return (grad_output * (1 / 3),)


# -- reductions


@right(lambda x: x.softmax(1), x=(3, 5))
def softmax(output: Tensor, grad_output: Tensor) -> Gradients:
    return (output * (grad_output - (grad_output * output).sum(1, keepdim=True)),)


@right(lambda x: x.softmax(1), x=(3, 5))
def softmax_without_the_maximum_by_its_jacobian(x: Tensor, grad_output: Tensor) -> Gradients:
    p = x.exp() / x.exp().sum(1, keepdim=True)
    jacobian = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    return ((jacobian @ grad_output[:, :, None])[:, :, 0],)


@right(lambda x: x.log_softmax(0), x=(3, 5))
def log_softmax(x: Tensor, grad_output: Tensor) -> Gradients:
    e = (x - x.amax(0)).exp()
    return (grad_output - e / e.sum(0) * grad_output.sum(0),)


@right(lambda x: torch.logsumexp(x, 1), x=(3, 5))
def logsumexp(x: Tensor, grad_output: Tensor) -> Gradients:
    return (grad_output[:, None] * x.softmax(1),)


@right(lambda x, y: F.cross_entropy(x, y), x=(3, 5), y=torch.tensor([4, 0, 2]))
def cross_entropy(x: Tensor, y: Tensor) -> Gradients:
    return ((x.softmax(1) - F.one_hot(y, 5)) / 3,)


@right(lambda x, y: F.cross_entropy(x, y), x=(3, 5), y=torch.tensor([4, 0, 2]))
def cross_entropy_in_place(x: Tensor, y: Tensor, grad_output: Tensor) -> Gradients:
    dx = (x - x.logsumexp(1, keepdim=True)).exp()
    dx[range(3), y] -= 1
    dx /= 3
    return (dx.mul_(grad_output),)


@right(lambda x, y: F.binary_cross_entropy_with_logits(x, y), x=(3, 5), y=torch.eye(3, 5))
def bce_with_logits(x: Tensor, y: Tensor) -> Named:
    return {"x": (torch.sigmoid(x) - y) / x.numel(), "y": -x / 15}


@right(lambda x, y: F.mse_loss(x, y), x=(3, 5), y=(3, 5))
def mse(x: Tensor, y: Tensor) -> Gradients:
    d = (2 / 15) * (x - y)
    return d, -d


@right(lambda x: x.norm(dim=1), x=(3, 5))
def norm(x: Tensor, grad_output: Tensor) -> Gradients:
    return (grad_output[:, None] * x * (x * x).sum(1, keepdim=True).rsqrt(),)


@right(lambda x: x.std(1) + x.var(1, correction=0), x=(3, 5))
def std_and_var(x: Tensor, grad_output: Tensor) -> Gradients:
    d = x - x.sum(1, keepdim=True) / 5
    s = ((d * d).sum(1, keepdim=True) / 4).sqrt()
    return (grad_output[:, None] * (d / (4 * s) + 2 * d / 5),)


@right(lambda x: x.cumsum(1), x=(3, 5))
def cumsum_by_a_triangle(grad_output: Tensor) -> Gradients:
    return (grad_output @ torch.ones(5, 5, dtype=grad_output.dtype).tril(),)


@right(lambda x: x.cumsum(1), x=(3, 5))
def cumsum_by_flips(grad_output: Tensor) -> Gradients:
    return (grad_output.flip(1).cumsum(1).flip(1),)


@right(lambda x: x.prod(1), x=(3, 5))
def prod(x: Tensor, grad_output: Tensor) -> Gradients:
    others = [x[:, [j for j in range(5) if j != i]].prod(1) for i in range(5)]
    return (torch.stack(others, 1) * grad_output[:, None],)


@right(lambda x: x.max(1).values, x=(3, 5))
def max_by_comparing(x: Tensor, grad_output: Tensor) -> Gradients:
    return (grad_output[:, None] * (x == x.amax(1, keepdim=True)),)


# -- normalisation


@right(lambda x, w, b: F.layer_norm(x, (5,), w, b, 1e-5), x=(2, 3, 5), w=(5,), b=(5,))
def layer_norm_three_terms(x: Tensor, w: Tensor, grad_output: Tensor) -> Named:
    rstd = (x.var(-1, correction=0, keepdim=True) + 1e-5) ** -0.5
    hat = (x - x.mean(-1, keepdim=True)) * rstd
    g = grad_output * w
    dx = rstd / 5 * (5 * g - g.sum(-1, keepdim=True) - hat * (g * hat).sum(-1, keepdim=True))
    return {"x": dx, "w": (grad_output * hat).sum((0, 1)), "b": grad_output.sum((0, 1))}


def _normed(x: Tensor, w: Tensor, b: Tensor, dim: int, n: int) -> Tensor:
    """Return a norm with each intermediate named; its variance divides by n."""
    mean = name(x.mean(dim, keepdim=True), "mean")
    diff = name(x - mean, "diff")
    diff2 = name(diff**2, "diff2")
    var = name(diff2.sum(dim, keepdim=True) / n, "var")
    inv = name((var + 1e-5) ** -0.5, "inv")
    return name(diff * inv, "raw") * w + b


def _normed_backward(given: dict[str, Tensor], dim: int, n: int) -> Named:
    g, size = given["grad_output"], given["x"].shape[dim]
    d = {"b": g.sum(0), "w": (g * given["raw"]).sum(0), "raw": g * given["w"]}
    d["inv"] = (d["raw"] * given["diff"]).sum(dim, keepdim=True)
    d["var"] = -0.5 * (given["var"] + 1e-5) ** -1.5 * d["inv"]
    d["diff2"] = (1.0 / n) * torch.ones_like(given["diff2"]) * d["var"]
    d["diff"] = given["inv"] * d["raw"] + 2 * given["diff"] * d["diff2"]
    d["mean"] = (-d["diff"]).sum(dim, keepdim=True)
    d["x"] = d["diff"].clone()
    d["x"] += 1.0 / size * torch.ones_like(given["x"]) * d["mean"]
    return d


@right(lambda x, w, b: _normed(x, w, b, 1, 5), x=(4, 5), w=(5,), b=(5,))
def layer_norm_by_named_steps(**given: Tensor) -> Named:
    return _normed_backward(given, 1, 5)


@right(lambda x, w, b: _normed(x, w, b, 0, 3), x=(4, 5), w=(5,), b=(5,))
def batch_norm_by_named_steps(**given: Tensor) -> Named:
    return _normed_backward(given, 0, 3)


@right(lambda x, w, b: F.batch_norm(x, None, None, w, b, True, 0.1, 1e-5), x=(7, 5), w=(5,), b=(5,))
def batch_norm_in_one_line(x: Tensor, w: Tensor, grad_output: Tensor) -> Gradients:
    g, inv = grad_output, (x.var(0, correction=0) + 1e-5) ** -0.5
    hat = (x - x.mean(0)) * inv
    dx = w * inv / 7 * (7 * g - g.sum(0) - hat * (g * hat).sum(0))
    return dx, (g * hat).sum(0), g.sum(0)


@right(
    lambda x, m, v, w, b: F.batch_norm(x, m, v, w, b, False),
    x=torch.randn(7, 5).requires_grad_(), m=torch.rand(5), v=torch.rand(5) + 1, w=(5,), b=(5,),
)  # fmt: skip
def batch_norm_in_evaluation(v: Tensor, w: Tensor, grad_output: Tensor) -> Gradients:
    return (grad_output * w / (v + 1e-5).sqrt(),)


@right(lambda x, w: F.rms_norm(x, (5,), w, 1e-6), x=(2, 3, 5), w=(5,))
def rms_norm(x: Tensor, w: Tensor, grad_output: Tensor) -> Gradients:
    r = torch.rsqrt((x * x).mean(-1, keepdim=True) + 1e-6)
    g = grad_output * w
    dx = g * r - x * r**3 * (g * x).mean(-1, keepdim=True)
    return dx, (grad_output * x * r).sum((0, 1))


@right(lambda x, w, b: F.group_norm(x, 2, w, b), x=(3, 4, 5), w=(4,), b=(4,))
def group_norm(x: Tensor, w: Tensor, grad_output: Tensor) -> Gradients:
    rows = x.reshape(3, 2, 10)
    rstd = 1 / (rows.var(2, correction=0, keepdim=True) + 1e-5).sqrt()
    hat = (rows - rows.mean(2, keepdim=True)) * rstd
    g = (grad_output * w[:, None]).reshape(3, 2, 10)
    dx = rstd * (g - g.mean(2, keepdim=True) - hat * (g * hat).mean(2, keepdim=True))
    dw = (grad_output * hat.reshape(3, 4, 5)).sum((0, 2))
    return dx.reshape(3, 4, 5), dw, grad_output.sum((0, 2))


# -- products


@right(lambda x, w, b: F.linear(x, w, b), x=(2, 3, 5), w=(4, 5), b=(4,))
def linear_by_einsum(x: Tensor, w: Tensor, grad_output: Tensor) -> Gradients:
    dw = torch.einsum("bto,bti->oi", grad_output, x)
    return grad_output @ w, dw, grad_output.flatten(0, 1).sum(0)


@right(lambda a, b: torch.einsum("bij,bkj->bik", a, b), a=(2, 3, 5), b=(2, 4, 5))
def einsum_by_loops(a: Tensor, b: Tensor, grad_output: Tensor) -> Gradients:
    da, db = torch.zeros_like(a), torch.zeros_like(b)
    for n in range(2):
        da[n] += grad_output[n] @ b[n]
        db[n].copy_(grad_output[n].T @ a[n])
    return da, db


@right(lambda x, b: x * x + b + x, x=(2, 3, 5), b=(3, 1))
def input_used_twice_and_a_broadcast_bias(x: Tensor, grad_output: Tensor) -> Gradients:
    return (2 * x + 1) * grad_output, grad_output.sum((0, 2)).unsqueeze(1)


def _attention(q: Tensor, k: Tensor, v: Tensor, grad_output: Tensor) -> Gradients:
    p = (q @ k.mT / math.sqrt(q.shape[-1])).softmax(-1)
    dp = grad_output @ v.mT
    ds = p * (dp - (p * dp).sum(-1, keepdim=True)) / math.sqrt(q.shape[-1])
    return ds @ k, ds.mT @ q, p.mT @ grad_output


@right(
    lambda q, k, v: F.scaled_dot_product_attention(q, k, v), q=(2, 3, 5), k=(2, 4, 5), v=(2, 4, 6)
)
def attention_written_out(q: Tensor, k: Tensor, v: Tensor, grad_output: Tensor) -> Gradients:
    return _attention(q, k, v, grad_output)


@right(lambda q, k, v: (q @ k.mT * 5**-0.5).softmax(-1) @ v, q=(2, 3, 5), k=(2, 4, 5), v=(2, 4, 6))
def attention_of_both_sides_written_out(
    q: Tensor, k: Tensor, v: Tensor, grad_output: Tensor
) -> Gradients:
    return _attention(q, k, v, grad_output)


@right(lambda x, w, b: F.conv2d(x, w, b, padding=1), x=(2, 3, 5, 6), w=(4, 3, 3, 2), b=(4,))
def conv2d_transposed(x: Tensor, w: Tensor, grad_output: Tensor) -> Gradients:
    dx = F.conv_transpose2d(grad_output, w, padding=1)
    dw = F.conv2d(x.transpose(0, 1), grad_output.transpose(0, 1), padding=1).transpose(0, 1)
    return dx, dw, grad_output.sum((0, 2, 3))


@right(lambda x, w: F.conv2d(x, w, stride=2), x=(2, 3, 5, 7), w=(4, 3, 3, 2))
def conv2d_unfolded(x: Tensor, w: Tensor, grad_output: Tensor) -> Gradients:
    rows, g = F.unfold(x, (3, 2), stride=2), grad_output.flatten(2)
    dx = F.fold(w.flatten(1).T @ g, (5, 7), (3, 2), stride=2)
    return dx, (g @ rows.mT).sum(0).reshape(w.shape)


F64, F32, F16, BF16 = DTYPES


def cases(forms: dict[str, Form]) -> list[Any]:
    """Return each form in each dtype as pytest parameters."""
    return [
        pytest.param(form, dtype, id=f"{label}-{str(dtype).removeprefix('torch.')}")
        for label, form in forms.items()
        for dtype in DTYPES
    ]


@pytest.mark.parametrize(("form", "dtype"), cases(FORMS))
def test_right_form(form: Form, dtype: torch.dtype) -> None:
    """A right backward pass is EXACT or ROUNDING."""
    report = check(form.backward, form.forward, form.at(dtype))
    assert report.ok, str(report)
    assert "the search failed" not in report.to_json()
