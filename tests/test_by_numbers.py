"""Code that cannot be read as a program is judged by its numbers: WITHIN, or what it is."""

import inspect
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import compare
from tests.opaque import array, opaque, tensor

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


# -- kernels over arrays, each in an algebra other than torch's


def softmax(x: Any, grad_output: Any) -> Any:
    e = np.exp(x - x.max(-1, keepdims=True))
    p = e / e.sum(-1, keepdims=True)
    return p * (grad_output - (grad_output * p).sum(-1, keepdims=True))


def naive_softmax(x: Any, grad_output: Any) -> Any:
    p = np.exp(x) / np.exp(x).sum(-1, keepdims=True)
    return p * (grad_output - (grad_output * p).sum(-1, keepdims=True))


def gelu(x: Any, grad_output: Any, constant: float = 0.044715) -> Any:
    f = x.dtype.type
    k = f(math.sqrt(2 / math.pi))
    t = np.tanh(k * (x + f(constant) * x**3))
    slope = f(0.5) * (1 + t) + f(0.5) * x * (1 - t * t) * k * (1 + f(3 * constant) * x * x)
    return grad_output * slope


def layer_norm(x: Any, w: Any, b: Any, grad_output: Any) -> Any:
    f = x.dtype.type
    m = x.mean(-1, keepdims=True)
    r = 1 / np.sqrt(((x - m) ** 2).mean(-1, keepdims=True) + f(1e-5))
    h, d = (x - m) * r, grad_output * w
    dx = r * (d - d.mean(-1, keepdims=True) - h * (d * h).mean(-1, keepdims=True))
    return dx, (grad_output * h).sum(0), grad_output.sum(0)


def layer_norm_by_squares(x: Any, w: Any, b: Any, grad_output: Any) -> Any:
    f, n = x.dtype.type, x.dtype.type(x.shape[-1])

    def added(values: Any, axis: int) -> Any:  # one after the other
        return np.add.accumulate(values, axis=axis).take([-1], axis=axis)

    m = added(x, -1) / n
    r = 1 / np.sqrt(added(x * x, -1) / n - m * m + f(1e-5))
    h, d = (x - m) * r, grad_output * w
    dx = r / n * (n * d - added(d, -1) - h * added(d * h, -1))
    return dx, added(grad_output * h, 0)[0], added(grad_output, 0)[0]


def product(x: Any, w: Any, grad_output: Any) -> Any:
    return (grad_output[:, None, :] * w).sum(-1), (x[:, :, None] * grad_output[:, None, :]).sum(0)


def attention(q: Any, k: Any, v: Any, grad_output: Any) -> Any:
    scale = q.dtype.type(q.shape[-1] ** -0.5)
    s = q @ k.T * scale
    s[np.triu(np.ones(s.shape, bool), 1)] = -np.inf
    p = np.exp(s - s.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    dp = grad_output @ v.T
    ds = p * (dp - (p * dp).sum(-1, keepdims=True)) * scale
    return ds @ k, ds.T @ q, p.T @ grad_output


def cross_entropy(x: Any, t: Any, grad_output: Any) -> Any:
    e = np.exp(x - x.max(-1, keepdims=True))
    p = e / e.sum(-1, keepdims=True)
    p[np.arange(len(t)), t] -= 1
    return grad_output * p / x.dtype.type(len(t))


def rms_norm(x: Any, grad_output: Any, eps: float = 1e-6) -> Any:
    r = 1 / np.sqrt((x * x).mean(-1, keepdims=True) + x.dtype.type(eps))
    h = x * r
    return r * (grad_output - h * (grad_output * h).mean(-1, keepdims=True))


MASK = torch.triu(torch.ones(12, 12, dtype=torch.bool), 1)
Kernel = tuple[Callable[..., Any], Callable[..., Tensor], tuple[Tensor, ...]]
KERNELS: dict[str, Kernel] = {
    "softmax": (softmax, lambda x: x.softmax(-1), (normal(16, 64),)),
    "naive softmax": (naive_softmax, lambda x: x.softmax(-1), (normal(16, 32),)),
    "gelu": (gelu, lambda x: F.gelu(x, approximate="tanh"), (normal(16, 32),)),
    "layer norm": (
        layer_norm,
        lambda x, w, b: F.layer_norm(x, x.shape[-1:], w, b),
        (normal(16, 64), normal(64), normal(64)),
    ),
    "product": (product, lambda x, w: x @ w, (normal(24, 32), normal(32, 8))),
    "attention": (
        attention,
        lambda q, k, v: (
            (q @ k.T * q.shape[-1] ** -0.5).masked_fill(MASK, -math.inf).softmax(-1) @ v
        ),
        (normal(12, 8), normal(12, 8) + 0.1, normal(12, 8) - 0.1),
    ),
    "cross entropy": (
        cross_entropy,
        lambda x, t: F.cross_entropy(x, t),
        (normal(32, 10), torch.arange(32) % 10),
    ),
    "rms norm": (
        rms_norm,
        lambda x: x * torch.rsqrt((x * x).mean(-1, keepdim=True) + 1e-6),
        (normal(16, 64),),
    ),
}


def checked(
    function: Callable[..., Any], forward: Callable[..., Tensor], inputs: tuple[Tensor, ...],
    dtype: torch.dtype = torch.float32, **options: Any,
) -> compare.Report:  # fmt: skip
    inputs = tuple(x.to(dtype) if x.is_floating_point() else x for x in inputs)
    return compare.check(opaque(function, **options), forward, inputs)


def edited(name: str, edit: Callable[[list[Any], dict[str, Any]], None]) -> Callable[..., Any]:
    """Return a kernel whose gradients are changed in place."""
    kernel = KERNELS[name][0]

    def changed(**arguments: Any) -> tuple[Any, ...]:
        results = kernel(**arguments)
        gradients = list(results) if isinstance(results, tuple) else [results]
        edit(gradients, arguments)
        return tuple(gradients)

    parameters = [p for p in inspect.signature(kernel).parameters.values() if p.default is p.empty]
    changed.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return changed


def times(name: str, factor: float, which: int = 0) -> Callable[..., Any]:
    """Return a kernel with one gradient multiplied by a factor."""

    def edit(gradients: list[Any], _: dict[str, Any]) -> None:
        gradients[which] = gradients[which] * gradients[which].dtype.type(factor)

    return edited(name, edit)


# -- right kernels


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", KERNELS)
def test_a_right_kernel_is_within(name: str, dtype: torch.dtype) -> None:
    function, forward, inputs = KERNELS[name]
    report = checked(function, forward, inputs, dtype)
    assert report.verdict in ("WITHIN", "EXACT"), str(report)
    assert report.meets("within")
    assert not report.ok or report.verdict == "EXACT"


def test_variance_by_squares_is_within_while_the_mean_is_small() -> None:
    """Its roundings are shared by whole rows, so they look more systematic than independent."""
    _, forward, (x, w, b) = KERNELS["layer norm"]
    for inputs in ((x, w, b), (x + 10, w, b)):
        report = checked(layer_norm_by_squares, forward, inputs)
        assert report.verdict == "WITHIN", str(report)


def test_lost_digits_are_inaccurate_because_float64_shows_that_the_formula_is_right() -> None:
    _, forward, (x, w, b) = KERNELS["layer norm"]
    report = checked(layer_norm_by_squares, forward, (x + 1000, w, b))
    assert report.quantities["x"].verdict == "INACCURATE", str(report)
    assert report.quantities["x"].proof
    assert "the same code is right in float64" in report.quantities["x"].proof.text


def test_a_kernel_that_computes_float64_in_float32_is_within_in_float32() -> None:
    def inside(x: Any, grad_output: Any) -> Any:
        return softmax(x.astype(np.float32), grad_output.astype(np.float32)).astype(x.dtype)

    _, forward, inputs = KERNELS["softmax"]
    assert checked(inside, forward, inputs).verdict == "WITHIN"
    assert checked(inside, forward, inputs, torch.float64).verdict not in ("WITHIN", "EXACT")


def test_a_sum_of_equal_numbers_may_round_to_one_side() -> None:
    def backward(x: Any, grad_output: Any) -> Any:
        total = x.dtype.type(0)
        for value in x:
            total += value
        return grad_output * 2 * total * np.ones_like(x)

    report = checked(backward, lambda x: x.sum() ** 2, (torch.full((3000,), 0.1),))
    assert report.verdict == "WITHIN", str(report)


def test_the_exact_value_everywhere_is_said() -> None:
    """The gradient of relu has no rounding; the bits differ in the sign of zeros."""
    report = checked(
        lambda x, grad_output: grad_output * (x > 0), lambda x: F.relu(x), (normal(30),)
    )
    assert report.verdict == "WITHIN", str(report)
    assert "each element is the exact value, rounded once" in str(report)


class _Sine(torch.autograd.Function):
    """A part of the reference that cannot be traced, and so has no bound."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return tensor(np.sin(array(x)))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return tensor(np.cos(array(ctx.saved_tensors[0]))) * grads[0]


def test_a_reference_without_bounds_is_judged_by_an_estimate() -> None:
    def forward(x: Tensor) -> Tensor:
        sine: Tensor = _Sine.apply(x)
        return sine * sine

    def by_hand(factor: float) -> Callable[..., Tensor]:
        return lambda x, grad_output: torch.sin(2 * x) * factor * grad_output

    for dtype in (torch.float32, torch.float64):
        x = normal(40).to(dtype)
        right = compare.check(by_hand(1), forward, (x,))
        assert right.verdict == "WITHIN", right
        assert "estimated rounding error" in str(right)
        assert compare.check(by_hand(1.0001), forward, (x,)).verdict == "WRONG"


# -- right kernels in algebra that loses more digits than torch's


def _sigmoid_by_tanh(x: Any, grad_output: Any) -> Any:
    t = np.tanh(x / 2)
    return grad_output * (1 - t * t) / 4


def _prefix_by_total(x: Any, grad_output: Any) -> Any:
    return grad_output.sum() - np.cumsum(grad_output) + grad_output


def _from_log_sum_exp(x: Any, grad_output: Any) -> Any:
    largest = x.max(-1, keepdims=True)
    p = np.exp(x - (largest + np.log(np.exp(x - largest).sum(-1, keepdims=True))))
    return p * (grad_output - (grad_output * p).sum(-1, keepdims=True))


@pytest.mark.parametrize("float32_only", [False, True])
@pytest.mark.parametrize(
    ("function", "forward", "x"),
    [
        (lambda x, grad_output: grad_output - grad_output * x, lambda x: x - x * x / 2, "normal"),
        (_sigmoid_by_tanh, torch.sigmoid, "normal"),
        (_prefix_by_total, lambda x: x.cumsum(0), "row"),
        (_from_log_sum_exp, lambda x: x.softmax(-1), "large"),
    ],
    ids=["a small difference", "sigmoid by tanh", "prefix by total", "log-sum-exp"],
)
def test_algebra_that_cancels_is_within(
    function: Any, forward: Any, x: str, float32_only: bool
) -> None:
    inputs = {"normal": normal(32, 48), "row": normal(500), "large": normal(16, 64) + 10}
    report = checked(function, lambda x: forward(x), (inputs[x],), float32_only=float32_only)
    assert report.verdict == "WITHIN", str(report)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_branch_beyond_the_given_inputs_is_wrong(dtype: torch.dtype) -> None:
    """Between 0 and 6 it is relu; the scaled inputs go beyond."""
    report = checked(
        lambda x, grad_output: grad_output * (x > 0), lambda x: F.relu6(x), (normal(30),), dtype
    )
    assert report.verdict == "WRONG", str(report)


# -- wrong kernels


@pytest.mark.parametrize("factor", [1.001, 1.0001, 1.00001])
@pytest.mark.parametrize(
    ("name", "which"),
    [("softmax", 0), ("gelu", 0), ("product", 1), *(("layer norm", k) for k in range(3))],
)
def test_a_factor_in_float32_alone_is_wrong(name: str, which: int, factor: float) -> None:
    _, forward, inputs = KERNELS[name]
    report = checked(times(name, factor, which), forward, inputs, float32_only=True)
    verdicts = [str(q.verdict) for q in report.quantities.values()]
    assert verdicts.pop(which) == "WRONG", str(report)
    assert not verdicts or "WRONG" not in verdicts
    assert "times the exact one" in str(report)


@pytest.mark.parametrize("dtype", DTYPES[2:], ids=str)
@pytest.mark.parametrize("name", ["softmax", "gelu", "layer norm"])
def test_a_factor_of_one_and_a_fiftieth_in_half_precision_is_not_within(
    name: str, dtype: torch.dtype
) -> None:
    _, forward, inputs = KERNELS[name]
    report = checked(times(name, 1.02), forward, inputs, dtype)
    assert report.quantities["x"].verdict == "WRONG", str(report)


@pytest.mark.parametrize("float32_only", [False, True])
def test_a_constant_cut_short_is_wrong(float32_only: bool) -> None:
    def cut(x: Any, grad_output: Any) -> Any:
        return gelu(x, grad_output, 0.0447)

    _, forward, inputs = KERNELS["gelu"]
    assert checked(cut, forward, inputs, float32_only=float32_only).verdict == "WRONG"


@pytest.mark.parametrize("eps", [2e-6, 0.0])
@pytest.mark.parametrize("float32_only", [False, True])
def test_another_eps_shows_at_small_inputs(eps: float, float32_only: bool) -> None:
    def other(x: Any, grad_output: Any) -> Any:
        return rms_norm(x, grad_output, eps)

    _, forward, inputs = KERNELS["rms norm"]
    report = checked(other, forward, inputs, float32_only=float32_only)
    assert report.verdict == "WRONG", str(report)


@pytest.mark.parametrize(("row", "factor"), [(0, 0), (-1, 0), (47_110, 0), (47_110, 2)], ids=str)
def test_one_term_of_many_is_missed_or_doubled(row: int, factor: float) -> None:
    """With whole numbers a sum of 100,000 terms has no rounding at all."""

    def bias(x: Any, b: Any, grad_output: Any) -> Any:
        terms = grad_output.copy()
        terms[row] *= factor
        return grad_output, terms.sum(0)

    inputs = normal(100_000, 1), normal(1)
    report = checked(bias, lambda x, b: x + b, inputs, float32_only=True)
    assert report.quantities["b"].verdict == "WRONG", str(report)


def _one_element(gradients: list[Any], _: dict[str, Any]) -> None:
    gradients[0][-1, -1] *= 1.001


def _one_row(gradients: list[Any], _: dict[str, Any]) -> None:
    gradients[0][3] *= gradients[0].dtype.type(1.0001)


def _one_column(gradients: list[Any], _: dict[str, Any]) -> None:
    gradients[0][:, 5] *= gradients[0].dtype.type(1.0001)


def _offset(gradients: list[Any], _: dict[str, Any]) -> None:
    gradients[0][0] += gradients[0].dtype.type(1e-4)


def _at_large_inputs(gradients: list[Any], arguments: dict[str, Any]) -> None:
    gradients[0][arguments["x"] > 20] *= -1


def _in_float32(gradients: list[Any], _: dict[str, Any]) -> None:
    if gradients[0].dtype == np.float32:
        gradients[0] *= np.float32(1.0001)


@pytest.mark.parametrize(
    "edit",
    [_one_element, _one_row, _one_column, _offset, _at_large_inputs, _in_float32],
    ids=lambda edit: edit.__name__,
)
def test_an_error_in_a_part_is_wrong(edit: Any) -> None:
    _, forward, inputs = KERNELS["softmax"]
    only = edit is not _in_float32
    report = checked(edited("softmax", edit), forward, inputs, float32_only=only)
    assert report.verdict == "WRONG", str(report)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_gradient_of_zeros_is_wrong(dtype: torch.dtype) -> None:
    def zeros(gradients: list[Any], _: dict[str, Any]) -> None:
        gradients[0][:] = 0

    _, forward, inputs = KERNELS["softmax"]
    assert checked(edited("softmax", zeros), forward, inputs, dtype).verdict == "WRONG"


# -- what is asked for, and what is said


def test_the_demand_within_accepts_it() -> None:
    function, forward, inputs = KERNELS["softmax"]
    compare.assert_same(opaque(function), forward, inputs, demand="within")
    with pytest.raises(AssertionError, match="WITHIN"):
        compare.assert_same(opaque(function), forward, inputs)


def test_the_report_says_what_was_tried_and_what_would_have_shown() -> None:
    function, forward, inputs = KERNELS["softmax"]
    report = checked(function, forward, inputs)
    text = str(report)
    assert "x: by numbers within autograd's rounding, a relative error above" in text
    assert "within 8 times autograd's rounding bound in float32 and float64" in text
    assert "similar inputs scaled by 0.001 to 1000" in text
    proof = report.to_dict()["quantities"][0]["proof"]
    assert 0 < proof["resolution"] < 1e-5
    assert proof["tried"].startswith("17 inputs")


def test_bits_alone_are_not_judged_by_numbers() -> None:
    function, forward, inputs = KERNELS["softmax"]
    report = compare.check(opaque(function), forward, inputs, lift="none")
    assert report.verdict == "UNDECIDED"


def test_a_large_input_is_judged_by_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """More elements than are computed exactly: a factor of 1.5 is WRONG all the same."""
    monkeypatch.setattr("compare.passes.inputs.TOO_MANY", 1_000)
    x = normal(16, 128)

    def backward(output: Tensor, grad_output: Tensor) -> Tensor:
        return 1.5 * output * (grad_output - (output * grad_output).sum(-1, keepdim=True))

    report = compare.check(backward, lambda x: x.softmax(-1), (x,))
    assert report.verdict == "WRONG", str(report)
