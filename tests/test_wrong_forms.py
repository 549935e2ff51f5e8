"""A wrong backward pass is WRONG in any dtype, and each bug makes only one quantity WRONG."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from compare.checking.check import check
from compare.passes.forward import name
from tests.test_right_forms import DTYPES, Form, Gradients, Named, _normed, _normed_backward

FORMS: dict[str, tuple[Form, tuple[str, ...]]] = {}
INDEX = torch.tensor([[3, 0], [1, 3], [3, 4]])
MASK = torch.arange(15).reshape(3, 5) % 3 > 0
Y = torch.tensor([4, 0, 2])


def wrong(
    bug: str, red: str, forward: Callable[..., Any], backward: Callable[..., Any], **inputs: Any
) -> None:
    """Add a bug to the table; `red` names all the quantities that the bug makes WRONG."""
    assert bug not in FORMS
    FORMS[bug] = Form(backward, forward, inputs), tuple(red.split())


# -- constants


def _layer_norm_backward(eps: float, n: int, cross: float = 1) -> Callable[..., Named]:
    def backward(x: Tensor, w: Tensor, grad_output: Tensor) -> Named:
        d = x - x.mean(-1, keepdim=True)
        rstd = ((d * d).sum(-1, keepdim=True) / n + eps) ** -0.5
        hat, g = d * rstd, grad_output * w
        inner = g.mean(-1, keepdim=True) + cross * hat * (g * hat).mean(-1, keepdim=True)
        return {"x": rstd * (g - inner), "w": (grad_output * hat).sum(0), "b": grad_output.sum(0)}

    return backward


def _layer_norm(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    return F.layer_norm(x, (5,), w, b, 1e-5)


NORM = {"x": (3, 5), "w": (5,), "b": (5,)}
X, XY = {"x": (3, 5)}, {"x": (3, 5), "y": (3, 5)}
wrong("eps 1e-6 for 1e-5", "w x", _layer_norm, _layer_norm_backward(1e-6, 5), **NORM)
wrong("n-1 for n", "w x", _layer_norm, _layer_norm_backward(1e-5, 4), **NORM)
wrong("a cross term missing", "x", _layer_norm, _layer_norm_backward(1e-5, 5, 0), **NORM)
wrong(
    "n for n-1", "x", lambda x: x.std(1),
    lambda x, output, grad_output: (
        (grad_output / output / 5)[:, None] * (x - x.mean(1, keepdim=True)),
    ), **X,
)  # fmt: skip
wrong(
    "a factor of 1 + 1e-7", "x", lambda x, y: x * y,
    lambda x, y, grad_output: (grad_output * y * (1 + 1e-7), grad_output * x), **XY,
)  # fmt: skip
wrong(
    "a factor of 1 + 1e-12", "y", lambda x, y: x * y,
    lambda x, y, grad_output: (grad_output * y, grad_output * x * (1 + 1e-12)), **XY,
)  # fmt: skip


def _gelu_backward(cubic: float, scale: float, three: float = 3) -> Callable[..., Gradients]:
    def backward(x: Tensor, grad_output: Tensor) -> Gradients:
        t = torch.tanh(scale * (x + cubic * x**3))
        slope = x * (1 - t * t) * scale * (1 + three * cubic * x * x)
        return (grad_output * 0.5 * (1 + t + slope),)

    return backward


def _gelu(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


ROOT = math.sqrt(2 / math.pi)
wrong("0.044714 for 0.044715", "x", _gelu, _gelu_backward(0.044714, ROOT), **X)
wrong("0.7978 for sqrt(2 / pi)", "x", _gelu, _gelu_backward(0.044715, 0.7978), **X)
wrong("a power rule forgotten", "x", _gelu, _gelu_backward(0.044715, ROOT, 1), **X)
wrong(
    "the derivative of the other gelu",
    "x",
    lambda x: F.gelu(x),
    _gelu_backward(0.044715, ROOT),
    **X,
)

# -- one element or index of many is wrong


def _one_sign(x: Tensor, grad_output: Tensor) -> Gradients:
    sign = torch.ones_like(x)
    sign[123, 45] = -1
    return (2 * x * grad_output * sign,)


wrong("one sign in 100,000", "x", lambda x: x * x, _one_sign, x=(250, 400))
wrong(
    "the last row left out", "x", lambda x: x.exp(),
    lambda x, grad_output: (torch.cat([(grad_output * x.exp())[:-1], torch.zeros_like(x[:1])]),),
    **X,
)  # fmt: skip
wrong(
    "an index written, not added", "w", lambda w, i: w[i],
    lambda w, i, grad_output: (
        torch.zeros_like(w).index_put((i.flatten(),), grad_output.flatten(0, 1)),
    ), w=(6, 5), i=INDEX,
)  # fmt: skip
wrong(
    "an index shifted by one", "x", lambda x, i: x.gather(1, i),
    lambda x, i, grad_output: (torch.zeros_like(x).scatter_add(1, (i + 1) % 5, grad_output),),
    x=(3, 5), i=INDEX,
)  # fmt: skip

# -- sums and shapes


wrong(
    "a transpose missing", "w", lambda x, w: x @ w,
    lambda x, w, grad_output: (grad_output @ w.T, x @ grad_output), x=(4, 4), w=(4, 4),
)  # fmt: skip
wrong(
    "the wrong factor transposed", "x", lambda x, w: x @ w,
    lambda x, w, grad_output: (grad_output @ w, x.T @ grad_output), x=(4, 4), w=(4, 4),
)  # fmt: skip
wrong(
    "the sum over the wrong dimension", "b", lambda x, b: x + b,
    lambda grad_output: (grad_output, grad_output.sum(1)), x=(4, 4), b=(4,),
)  # fmt: skip
wrong(
    "the sum over a broadcast dimension missing", "b", lambda x, b: x * b,
    lambda x, b, grad_output: (grad_output * b, grad_output * x), x=(3, 5), b=(5,),
)  # fmt: skip
wrong(
    "the sum over the batch left at its first row", "b", lambda x, b: x + b,
    lambda grad_output: (grad_output, grad_output[0]), x=(3, 5), b=(5,),
)  # fmt: skip
wrong("sum for mean", "x", lambda x: (x * x).mean(), lambda x: (2 * x,), **X)
wrong("mean for sum", "x", lambda x: (x * x).sum(), lambda x: (2 * x / 15,), **X)
wrong(
    "mean over the rows alone", "x", lambda x, y: F.mse_loss(x, y),
    lambda x, y: {"x": 2 * (x - y) / 3, "y": -2 * (x - y) / 15}, **XY,
)  # fmt: skip
wrong("the factor of 2 missing", "x", lambda x: (x * x).sum(), lambda x: (x,), **X)
wrong(
    "softmax over the wrong dimension", "x", lambda x: x.softmax(1),
    lambda x, grad_output: (
        (p := x.softmax(0)) * (grad_output - (p * grad_output).sum(0)),
    ), **X,
)  # fmt: skip
wrong(
    "the cross term of softmax missing", "x", lambda x: x.softmax(1),
    lambda output, grad_output: (grad_output * output * (1 - output),), **X,
)  # fmt: skip
wrong(
    "cross entropy without the batch", "x", lambda x, y: F.cross_entropy(x, y),
    lambda x, y: (x.softmax(1).index_put((torch.arange(3), y), -torch.ones(3).to(x), True),),
    x=(3, 5), y=Y,
)  # fmt: skip
wrong(
    "logsumexp of values not shifted back", "x", lambda x: torch.logsumexp(x, 1),
    lambda x, grad_output: (grad_output[:, None] * (x - x.amax(1, keepdim=True)).exp(),), **X,
)  # fmt: skip
wrong(
    "the maximum's share left out", "x", lambda x: x.exp() / x.amax(1, keepdim=True),
    lambda x, grad_output: (grad_output * x.exp() / x.amax(1, keepdim=True),), **X,
)  # fmt: skip

# -- activations and masks


wrong(
    "the derivative of sigmoid for tanh", "x", lambda x: torch.tanh(x),
    lambda output, grad_output: (grad_output * output * (1 - output),), **X,
)  # fmt: skip
wrong(
    "the derivative at the output", "x", lambda x: torch.sigmoid(x),
    lambda output, grad_output: (grad_output * torch.sigmoid(output) * (1 - output),), **X,
)  # fmt: skip
wrong(
    "the derivative of leaky relu as 0.1", "x", lambda x: F.leaky_relu(x, 0.01),
    lambda x, grad_output: (torch.where(x > 0, grad_output, 0.1 * grad_output),), **X,
)  # fmt: skip
wrong(
    "the mask of relu by the gradient", "x", lambda x: F.relu(x),
    lambda grad_output: (grad_output * (grad_output > 0),), **X,
)  # fmt: skip
wrong(
    "the mask of dropout forgotten", "x", lambda x, m: torch.tanh(x) * m / 0.6,
    lambda x, grad_output: (grad_output * (1 - torch.tanh(x) ** 2) / 0.6,), x=(3, 5), m=MASK,
)  # fmt: skip
wrong(
    "the derivative after dropout", "x", lambda x, m: torch.sigmoid(x) * m / 0.6,
    lambda m, output, grad_output: (grad_output * m / 0.6 * output * (1 - output),),
    x=(3, 5), m=MASK,
)  # fmt: skip
wrong(
    "the clamp's bounds not seen", "x", lambda x: x.clamp(-0.5, 0.5) ** 2,
    lambda x, grad_output: (grad_output * 2 * x.clamp(-0.5, 0.5),), **X,
)  # fmt: skip
wrong(
    "a branch detached", "x", lambda x: x * torch.sigmoid(x),
    lambda x, grad_output: (grad_output * torch.sigmoid(x),), **X,
)  # fmt: skip
wrong(
    "an input counted once", "x", lambda x: x @ x,
    lambda x, grad_output: (grad_output @ x.T,), x=(4, 4),
)  # fmt: skip
wrong(
    "a running sum the other way", "x", lambda x: x.cumsum(1),
    lambda grad_output: (grad_output.cumsum(1),), **X,
)  # fmt: skip
wrong(
    "attention not scaled", "q k", lambda q, k: (q @ k.mT / 5**0.5).softmax(-1),
    lambda q, k, output, grad_output: (
        (d := output * (grad_output - (output * grad_output).sum(-1, keepdim=True))) @ k, d.mT @ q,
    ), q=(3, 5), k=(4, 5),
)  # fmt: skip
wrong(
    "a kernel not turned", "x", lambda x, w: F.conv2d(x, w, padding=1),
    lambda w, grad_output: (F.conv2d(grad_output, w.transpose(0, 1), padding=1),),
    x=torch.randn(2, 3, 4, 5).requires_grad_(), w=(2, 3, 3, 3),
)  # fmt: skip

# -- named intermediates: one bug, one WRONG quantity


def _bugs(*bugs: tuple[str, Callable[[Named], Tensor]]) -> Callable[..., Named]:
    """Return the three-layer backward pass in which each bug replaces the line of its quantity."""
    planted = dict(bugs)

    def backward(**v: Tensor) -> Named:
        d: Named = {}
        right: dict[str, Callable[[Named], Tensor]] = {
            "l2": lambda v: v["l2"] - v["y"],
            "z2": lambda v: d["l2"] * v["l2"] * (1 - v["l2"]),
            "w1": lambda v: v["l1"].T @ d["z2"],
            "l1": lambda v: d["z2"] @ v["w1"].T,
            "z1": lambda v: d["l1"] * (1 - v["l1"] ** 2),
            "w0": lambda v: v["x"].T @ d["z1"],
            "b": lambda _: d["z1"].sum(0),
        }
        for label, line in right.items():
            d[label] = planted.get(label, line)(v | {f"d{key}": value for key, value in d.items()})
        return d

    return backward


def _network(x: Tensor, y: Tensor, w0: Tensor, b: Tensor, w1: Tensor) -> Tensor:
    l1 = name(torch.tanh(name(x @ w0 + b, "z1")), "l1")
    l2 = name(torch.sigmoid(name(l1 @ w1, "z2")), "l2")
    return ((l2 - y) ** 2).sum() / 2


def network(bug: str, red: str, *bugs: tuple[str, Callable[[Named], Tensor]]) -> None:
    """Add one or more bugs of the three-layer network to the table."""
    wrong(
        bug, red, _network, _bugs(*bugs), x=torch.randn(4, 3), y=torch.rand(4, 2),
        w0=torch.randn(3, 5).requires_grad_(), b=torch.randn(5).requires_grad_(),
        w1=torch.randn(5, 2).requires_grad_(),
    )  # fmt: skip


network("the error's sign", "l2", ("l2", lambda v: v["y"] - v["l2"]))
network("a derivative missing", "z2", ("z2", lambda v: v["dl2"]))
network("a stale delta", "w1", ("w1", lambda v: v["l1"].T @ v["dl2"]))
network("a derivative at z in place of l", "z1", ("z1", lambda v: v["dl1"] * (1 - v["z1"] ** 2)))
network("a factor of 1 + 1e-7 in a deep layer", "z2",
        ("z2", lambda v: v["dl2"] * v["l2"] * (1 - v["l2"]) * (1 + 1e-7)))  # fmt: skip
network("a bias as a mean", "b", ("b", lambda v: v["dz1"].mean(0)))
network("two bugs, the second computed from the first", "z2 z1",
        ("z2", lambda v: v["dl2"] * v["l2"]),
        ("z1", lambda v: v["dl1"] * (1 - v["l1"])))  # fmt: skip
network("two bugs, neither computed from the other", "w1 w0",
        ("w1", lambda v: 2 * (v["l1"].T @ v["dz2"])),
        ("w0", lambda v: -(v["x"].T @ v["dz1"])))  # fmt: skip
network("a bug undone in later lines", "z2 w1 l1",
        ("z2", lambda v: 2 * v["dl2"] * v["l2"] * (1 - v["l2"])),
        ("w1", lambda v: v["l1"].T @ v["dz2"] / 2), ("l1", lambda v: v["dz2"] @ v["w1"].T / 2))  # fmt: skip  # noqa: E501


def _fourth_for_fifth(**inputs: Tensor) -> Named:
    return _normed_backward(inputs, 1, 4)


wrong("n-1 for n among named steps", "diff2", lambda x, w, b: _normed(x, w, b, 1, 5),
      _fourth_for_fifth, x=(4, 5), w=(5,), b=(5,))  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("bug", FORMS)
def test_wrong_form(bug: str, dtype: torch.dtype) -> None:
    """The quantity with the bug is WRONG; those computed from it are not."""
    case, red = FORMS[bug]
    report = check(case.backward, case.forward, case.at(dtype))
    wrong_names = [q.name for q in report.quantities.values() if q.verdict == "WRONG"]
    rest = {q.verdict for q in report.quantities.values() if q.name not in wrong_names}
    assert sorted(wrong_names) == sorted(red), str(report)
    assert report.first_wrong in red
    assert rest <= {"EXACT", "ROUNDING"}, str(report)
