"""No false alarm over numbers: constants, exponents, masks, means far from 0, gradients that are 0.

Each form in four dtypes, like those of test_right_forms.py.
"""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from compare.checking.check import check
from compare.passes.forward import name
from compare.report.contract_line import LINES
from tests.tenth import unless_chosen
from tests.test_right_forms import DTYPES, Form, Forms, Gradients, Named, cases

FORMS = Forms()
right = FORMS.right

_CHANCE = torch.Generator().manual_seed(16)
POSITIVE = torch.rand(3, 5, generator=_CHANCE, dtype=torch.float64) + 0.2
NORMAL = torch.randn(3, 5, generator=_CHANCE, dtype=torch.float64)
CAUSAL = torch.ones(5, 5).tril().bool()
FOUR = torch.arange(4)


# -- exponents


@right(lambda x: x**2.2, x=POSITIVE)
def gamma_correction(x: Tensor, grad_output: Tensor) -> Gradients:
    return (grad_output * 2.2 * x**1.2,)


@right(lambda x: x ** (1 / 2.2), x=POSITIVE)
def gamma_undone(x: Tensor, grad_output: Tensor) -> Gradients:
    return (grad_output / 2.2 * x ** (1 / 2.2 - 1),)


@right(lambda x: x**-1.3, x=POSITIVE)
def a_negative_exponent(x: Tensor, grad_output: Tensor) -> Gradients:
    return (-1.3 * grad_output * x**-2.3,)


@right(lambda x: x**1.7, x=POSITIVE * 500)
def an_exponent_far_from_1(x: Tensor, grad_output: Tensor) -> Gradients:
    return (grad_output * x**0.7 * 1.7,)


@right(lambda x: x**0.3, x=POSITIVE / 5000)
def an_exponent_near_0(x: Tensor, grad_output: Tensor) -> Gradients:
    return (grad_output * x**-0.7 * 0.3,)


@right(lambda x: x**1.7, x=POSITIVE)
def a_power_from_its_output(x: Tensor, output: Tensor, grad_output: Tensor) -> Gradients:
    return (output * 1.7 / x * grad_output,)


@right(lambda x: 2.0**x, x=NORMAL)
def a_power_of_two(output: Tensor, grad_output: Tensor) -> Gradients:
    return (grad_output * output * math.log(2),)


@right(lambda x: x.pow(3.5).sum(-1).pow(1 / 3.5), x=POSITIVE)
def a_norm_of_order_3_5(x: Tensor, output: Tensor, grad_output: Tensor) -> Gradients:
    return ((grad_output / output**2.5)[:, None] * x**2.5,)


# -- constants


@right(lambda x: x * (1 - 0.9), x=NORMAL)
def one_less_0_9(grad_output: Tensor) -> Gradients:
    return (grad_output * 0.1,)


@right(lambda m, g: 0.999 * m + (1 - 0.999) * g * g, m=NORMAL, g=NORMAL + 1)
def a_moving_average(g: Tensor, grad_output: Tensor) -> Gradients:
    return grad_output * 0.999, grad_output * 0.002 * g


@right(lambda x: x * (0.1 + 0.2), x=NORMAL)
def a_sum_of_decimals(grad_output: Tensor) -> Gradients:
    return (grad_output * 0.3,)


@right(lambda x: x * 0.95**3, x=NORMAL)
def a_power_of_a_decimal(grad_output: Tensor) -> Gradients:
    return (grad_output * 0.857375,)


def _gelu(x: Tensor) -> Tensor:
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


@right(_gelu, x=NORMAL)
def gelu_by_its_decimals(x: Tensor, grad_output: Tensor) -> Gradients:
    t = torch.tanh(0.7978845608028654 * (x + 0.044715 * x * x * x))
    slope = 0.7978845608028654 * (1 + 3 * 0.044715 * x * x)
    return (grad_output * (0.5 * (1 + t) + 0.5 * x * (1 - t * t) * slope),)


@right(lambda x: F.gelu(x), x=NORMAL)
def gelu_by_the_normal_density(x: Tensor, grad_output: Tensor) -> Gradients:
    density = torch.exp(-x * x / 2) / math.sqrt(2 * math.pi)
    return (grad_output * (0.5 * (1 + torch.erf(x / math.sqrt(2))) + x * density),)


@right(lambda x: F.gelu(x), x=NORMAL)
def gelu_by_two_over_root_pi(x: Tensor, grad_output: Tensor) -> Gradients:
    inner = x * 0.7071067811865476
    slope = 1.1283791670955126 * torch.exp(-inner * inner) * 0.7071067811865476
    return (grad_output * 0.5 * (1 + torch.erf(inner) + x * slope),)


@right(lambda x: torch.log2(x) + torch.log10(x), x=POSITIVE)
def logarithms_to_other_bases(x: Tensor, grad_output: Tensor) -> Gradients:
    return (grad_output / x / math.log(2) + grad_output / x * 0.4342944819032518,)


@right(lambda x: torch.sin(x * math.pi / 180), x=NORMAL * 40)
def sine_of_degrees(x: Tensor, grad_output: Tensor) -> Gradients:
    return (grad_output * 0.017453292519943295 * torch.cos(x * 0.017453292519943295),)


@right(lambda x: x * (math.sqrt(3) / 2) - x * x * (math.e / 3), x=NORMAL)
def rational_multiples(x: Tensor, grad_output: Tensor) -> Gradients:
    return (grad_output * (0.8660254037844386 - 1.8121878856393634 * x),)


@right(lambda x: torch.stack([x[0] * math.pi, x[1] * math.e, x[2] * 2**0.5]), x=NORMAL)
def irrational_numbers_in_a_tensor(grad_output: Tensor) -> Gradients:
    numbers = torch.tensor([math.pi, math.e, 2**0.5], dtype=grad_output.dtype)
    return (grad_output * numbers[:, None],)


@right(lambda x: x * torch.hann_window(5, dtype=x.dtype), x=NORMAL)
def a_hann_window_from_a_list(grad_output: Tensor) -> Gradients:
    window = [0.5 - 0.5 * math.cos(2 * math.pi * k / 5) for k in range(5)]
    return (grad_output * torch.tensor(window, dtype=grad_output.dtype),)


@right(lambda x: x * torch.exp(-((torch.arange(5, dtype=x.dtype) - 2) ** 2) / 2), x=NORMAL)
def a_bell_from_a_list(grad_output: Tensor) -> Gradients:
    bell = [math.exp(-((k - 2) ** 2) / 2) for k in range(5)]
    return (grad_output * torch.tensor(bell, dtype=grad_output.dtype),)


TURN = [[0.5**0.5, 0.5**0.5], [-(0.5**0.5), 0.5**0.5]]


@right(lambda x: torch.tensor(TURN, dtype=x.dtype) @ x, x=NORMAL[:2])
def a_turn_by_the_root_of_2(grad_output: Tensor) -> Gradients:
    one, other = grad_output / math.sqrt(2)
    return (torch.stack([one - other, one + other]),)


def _none_below(x: Tensor) -> Tensor:
    e = torch.exp(x)
    return torch.where(e == 0, x, e * x)


@right(_none_below, x=torch.cat([-2000 * POSITIVE[:1], NORMAL[:1]]))
def a_mask_of_what_underflows(x: Tensor, grad_output: Tensor) -> Gradients:
    e = torch.exp(x)
    return (grad_output * torch.where(e == 0, 1.0, e + e * x),)


SELU = 1.0507009873554805, 1.6732632423543772


@right(lambda x: F.selu(x), x=NORMAL)
def selu_by_its_constants(x: Tensor, grad_output: Tensor) -> Gradients:
    scale, alpha = SELU
    return (grad_output * torch.where(x > 0, scale, scale * alpha * torch.exp(x)),)


@right(lambda x: F.hardswish(x), x=NORMAL * 3)
def hardswish_in_sixths(x: Tensor, grad_output: Tensor) -> Gradients:
    inside = (2 * x + 3) / 6
    return (grad_output * torch.where(x < -3, 0.0, torch.where(x <= 3, inside, 1.0)),)


@right(lambda x: F.softplus(x), x=NORMAL * 20)
def softplus_beyond_its_threshold(x: Tensor, grad_output: Tensor) -> Gradients:
    return (grad_output * torch.where(x > 20, 1.0, torch.sigmoid(x)),)


@right(lambda x: F.softplus(x, beta=2.5), x=NORMAL)
def softplus_with_a_beta(x: Tensor, grad_output: Tensor) -> Gradients:
    return (grad_output * torch.sigmoid(2.5 * x),)


@right(lambda x: F.silu(x * 1.702) / 1.702, x=NORMAL)
def quick_gelu(x: Tensor, grad_output: Tensor) -> Gradients:
    s = torch.sigmoid(1.702 * x)
    return (grad_output * (s + 1.702 * x * s * (1 - s)),)


@right(lambda x: F.mish(x), x=NORMAL)
def mish(x: Tensor, grad_output: Tensor) -> Gradients:
    t = torch.tanh(torch.log1p(torch.exp(x)))
    return (grad_output * (t + x * (1 - t * t) * torch.sigmoid(x)),)


@right(lambda x: F.elu(x, 0.7) + F.leaky_relu(x, 0.01), x=NORMAL)
def elu_and_a_leak(x: Tensor, grad_output: Tensor) -> Gradients:
    rising = torch.where(x > 0, 2.0, 0.7 * torch.exp(x) + 0.01)
    return (grad_output * rising,)


@right(lambda x, y: F.huber_loss(x, y, delta=0.3), x=NORMAL, y=NORMAL.flip(0))
def huber(x: Tensor, y: Tensor, grad_output: Tensor) -> Gradients:
    g = (x - y).clamp(-0.3, 0.3) / x.numel() * grad_output
    return g, -g


@right(lambda x: x / (x.norm(dim=-1, keepdim=True) + 1e-3), x=NORMAL)
def a_stabilised_norm(x: Tensor, grad_output: Tensor) -> Gradients:
    n = x.pow(2).sum(-1, keepdim=True).sqrt()
    along = (grad_output * x).sum(-1, keepdim=True)
    return (grad_output / (n + 1e-3) - x * along / (n * (n + 1e-3) ** 2),)


# -- memory layout


def _named_strides(x: Tensor) -> Tensor:
    return torch.as_strided(x, x.shape, x.stride()) ** 2


@right(_named_strides, x=NORMAL.T)
def strides_of_a_transposed_input(x: Tensor, grad_output: Tensor) -> Gradients:
    return (2 * x * grad_output,)


@right(lambda x: x.flatten().as_strided((13, 3), (1, 1)) ** 2, x=NORMAL)
def windows_that_overlap(x: Tensor, grad_output: Tensor) -> Gradients:
    flat = torch.zeros_like(x).flatten()
    each = 2 * grad_output * x.flatten().unfold(0, 3, 1)
    for k in range(3):
        flat[k : k + 13] += each[:, k]
    return (flat.reshape(x.shape),)


@right(lambda x: (x @ x.mT).as_strided((3,), (4,)).exp(), x=NORMAL)
def a_diagonal_by_its_stride(x: Tensor, output: Tensor, grad_output: Tensor) -> Gradients:
    return (2 * (grad_output * output)[:, None] * x,)


# -- masks


def _softmax_slope(p: Tensor, g: Tensor) -> Tensor:
    return p * (g - (p * g).sum(-1, keepdim=True))


for _name, _fill in (("1e4", -1e4), ("1e9", -1e9), ("infinity", -math.inf), ("lowest", None)):

    def _masked(s: Tensor, fill: float | None = _fill) -> Tensor:
        low = torch.finfo(s.dtype).min if fill is None else max(fill, torch.finfo(s.dtype).min)
        fill = fill if fill == -math.inf else low
        return torch.softmax(s.masked_fill(~CAUSAL, fill), -1)

    def _by_hand(output: Tensor, grad_output: Tensor) -> Gradients:
        return (_softmax_slope(output, grad_output),)

    def _by_hand_masked(output: Tensor, grad_output: Tensor) -> Gradients:
        return (_softmax_slope(output, grad_output) * CAUSAL,)

    FORMS[f"softmax_masked_by_{_name}"] = Form(_by_hand, _masked, {"s": (5, 5)})
    FORMS[f"softmax_masked_by_{_name}_and_once_more"] = Form(
        _by_hand_masked, _masked, {"s": (5, 5)}
    )


@right(
    lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True),
    q=(5, 4), k=(5, 4), v=(5, 4),
)  # fmt: skip
def causal_attention(q: Tensor, k: Tensor, v: Tensor, grad_output: Tensor) -> Gradients:
    p = torch.softmax((q @ k.mT / 2).masked_fill(~CAUSAL, -math.inf), -1)
    ds = _softmax_slope(p, grad_output @ v.mT) / 2
    return ds @ k, ds.mT @ q, p.mT @ grad_output


# -- means far from 0, and gradients that are 0


def _norm_slope(x: Tensor, g: Tensor, eps: float = 1e-5) -> Tensor:
    d = x - x.mean(-1, keepdim=True)
    r = torch.rsqrt((d * d).mean(-1, keepdim=True) + eps)
    h = d * r
    return r * (g - g.mean(-1, keepdim=True) - h * (g * h).mean(-1, keepdim=True))


for _mean in (5, 100, 1e4):

    def _norm_by_hand(x: Tensor, grad_output: Tensor) -> Gradients:
        return (_norm_slope(x, grad_output),)

    FORMS[f"layer_norm_at_mean_{_mean:g}"] = Form(
        _norm_by_hand, lambda x: F.layer_norm(x, (5,)), {"x": NORMAL + _mean}
    )


@right(lambda x: F.layer_norm(x, (5,)).sum(), x=NORMAL)
def layer_norm_summed_is_0(x: Tensor, grad_output: Tensor) -> Gradients:
    return (_norm_slope(x, grad_output * torch.ones_like(x)),)


@right(lambda x: F.group_norm(x, 2), x=(2, 4, 6))
def group_norm(x: Tensor, grad_output: Tensor) -> Gradients:
    return (_norm_slope(x.reshape(2, 2, 12), grad_output.reshape(2, 2, 12)).reshape(x.shape),)


@right(lambda x: torch.softmax(x, -1).sum(), x=NORMAL)
def softmax_under_a_constant_is_0(x: Tensor, grad_output: Tensor) -> Gradients:
    p = torch.softmax(x, -1)
    return (_softmax_slope(p, grad_output * torch.ones_like(p)),)


@right(lambda x: torch.softmax(x, -1), x=NORMAL * 5)
def softmax(output: Tensor, grad_output: Tensor) -> Gradients:
    return (_softmax_slope(output, grad_output),)


@right(lambda x: (x - x.mean(-1, keepdim=True)).sum(), x=NORMAL + 50)
def a_centred_sum_is_0(x: Tensor, grad_output: Tensor) -> Gradients:
    return (grad_output * (torch.ones_like(x) - torch.ones_like(x).mean(-1, keepdim=True)),)


@right(lambda x: x.var(-1), x=NORMAL + 100)
def variance_far_from_0(x: Tensor, grad_output: Tensor) -> Gradients:
    return (grad_output[:, None] * 2 * (x - x.mean(-1, keepdim=True)) / 4,)


@right(lambda x: torch.logsumexp(x, -1), x=NORMAL * 8)
def logsumexp(x: Tensor, output: Tensor, grad_output: Tensor) -> Gradients:
    return (grad_output[:, None] * torch.exp(x - output[:, None]),)


@right(lambda x: F.cross_entropy(x, FOUR[:3], label_smoothing=0.1), x=NORMAL)
def smoothed_labels(x: Tensor, grad_output: Tensor) -> Gradients:
    target = 0.9 * F.one_hot(FOUR[:3], 5).to(x.dtype) + 0.1 / 5
    return ((torch.softmax(x, -1) - target) / 3 * grad_output,)


@right(lambda x: F.cross_entropy(x, torch.tensor([1, -100, 3])), x=NORMAL)
def an_ignored_row(x: Tensor, grad_output: Tensor) -> Gradients:
    g = torch.softmax(x, -1)
    g[0, 1] -= 1
    g[2, 3] -= 1
    return (g * torch.tensor([[1.0], [0.0], [1.0]], dtype=x.dtype) / 2 * grad_output,)


# -- values computed twice, and names


def _two_layers(x: Tensor, w: Tensor) -> Tensor:
    return torch.tanh(name(x @ w, "z"))


@right(_two_layers, x=(4, 3), w=(3, 2))
def a_gradient_worked_out_twice(x: Tensor, w: Tensor, z: Tensor, grad_output: Tensor) -> Named:
    t = torch.tanh(z)
    return {
        "z": (1 - t * t) * grad_output,
        "w": x.mT @ (grad_output * (1 - t**2)),
        "x": (grad_output - grad_output * t * t) @ w.mT,
    }


@right(lambda x, w: torch.tanh(name(x @ w, "w[0]")), x=(4, 3), w=(3, 2))
def a_name_with_a_number(**given: Tensor) -> Named:
    dz = given["grad_output"] * (1 - torch.tanh(given["w[0]"]) ** 2)
    return {"w[0]": dz, "w": given["x"].mT @ dz, "x": dz @ given["w"].mT}


def _blocks() -> list[Any]:
    """Return all exponents of two decimals, in hundredths, in blocks; nine of ten are long."""
    found = []
    for marks in ((), (pytest.mark.long,)):
        some = [k for k in range(101, 1000) if tuple(unless_chosen(f"exponent {k}")) == marks]
        found += [
            pytest.param(some[n : n + 30], marks=marks, id=f"{some[n] / 100:g} and on")
            for n in range(0, len(some), 30)
        ]
    return found


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("block", _blocks())
def test_every_exponent_of_two_decimals(block: list[int], dtype: torch.dtype) -> None:
    """Python rounds p - 1 when it computes it, while a user writes the short decimal."""

    def powers(**x: Tensor) -> Tensor:
        return torch.stack([x[f"x{k}"] ** (k / 100) for k in block])

    def by_hand(grad_output: Tensor, **x: Tensor) -> Named:
        return {
            f"x{k}": g * (k / 100) * x[f"x{k}"] ** ((k - 100) / 100)
            for k, g in zip(block, grad_output, strict=True)
        }

    inputs = {f"x{k}": POSITIVE[0].to(dtype) for k in block}
    report = check(by_hand, powers, inputs, contract=dict.fromkeys(LINES, False))
    assert report.ok, str(report)
    assert len(report.quantities) == len(block)


def test_the_exponents_are_all_of_two_decimals() -> None:
    assert sorted(k for block in _blocks() for k in block.values[0]) == [*range(101, 1000)]


@pytest.mark.parametrize(("form", "dtype"), cases(FORMS))
def test_right_numbers(form: Form, dtype: torch.dtype) -> None:
    """A right backward pass is EXACT or ROUNDING."""
    report = check(form.backward, form.forward, form.at(dtype))
    assert report.ok, str(report)
    assert "the search failed" not in report.to_json()
