"""A kink is claimed where the gradient jumps, and nowhere else."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import compare

DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
AT_0 = torch.tensor([-1.5, 0.0, 2.0])
Slope = Callable[[Tensor], Tensor]

KINKS: dict[str, tuple[Slope, Slope]] = {
    "relu": (F.relu, lambda x: (x >= 0) * 1),
    "relu, halfway": (F.relu, lambda x: (x > 0) + 0.5 * (x == 0)),
    "abs": (torch.abs, lambda x: torch.where(x >= 0, 1, -1)),
    "clamp": (lambda x: x.clamp(0, 2), lambda x: ((x > 0) & (x <= 2)) * 1),
    "leaky relu": (lambda x: F.leaky_relu(x, 0.1), lambda x: torch.where(x >= 0, 1, 0.1)),
    "a relu of two": (lambda x: F.relu(x) + torch.sin(x), lambda x: (x >= 0) + torch.cos(x)),
}


def _said(forward: Slope, slope: Slope, x: Tensor) -> str:
    backward = lambda x, grad_output: (grad_output * slope(x).to(x.dtype),)  # noqa: E731
    report = compare.check(backward, lambda x: forward(x), {"x": x})
    assert report.verdict == "WRONG", str(report)
    return " ".join(str(report).split())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", KINKS)
def test_another_subgradient_at_a_kink(name: str, dtype: torch.dtype) -> None:
    assert "stands at a kink" in (said := _said(*KINKS[name], AT_0.to(dtype)))
    assert "takes another subgradient than autograd" in said


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_of_equal_maxima_each_may_have_it_all(dtype: torch.dtype) -> None:
    x = torch.tensor([3.0, 1.0, 3.0, 3.0], dtype=dtype)
    first = lambda x: F.one_hot(x.argmax(), 4).to(x.dtype)  # noqa: E731
    assert "takes another subgradient" in _said(lambda x: x.amax(), first, x)


def test_a_value_that_no_subgradient_has() -> None:
    said = _said(F.relu, lambda x: (x > 0) + 5.0 * (x == 0), AT_0)
    assert "stands at a kink" in said
    assert "it is none of the values from" in said
    assert "takes another subgradient" not in said


SMOOTH: dict[str, tuple[Slope, Slope]] = {
    "a product": (lambda x: x * 3, lambda x: torch.where(x == 0, 1.0, 3.0)),
    "a square": (lambda x: x * x, lambda x: torch.where(x == 0, 1.0, 2 * x)),
    "a sine": (torch.sin, lambda x: torch.where(x == 0, 0.5, torch.cos(x))),
    "a cube": (lambda x: x**3, lambda x: torch.where(x == 0, 1e-3, 3 * x * x)),
}


@pytest.mark.parametrize("dtype", DTYPES[:2], ids=str)
@pytest.mark.parametrize("name", SMOOTH)
def test_no_kink_where_forward_is_smooth(name: str, dtype: torch.dtype) -> None:
    said = _said(*SMOOTH[name], AT_0.to(dtype))
    assert "another subgradient" not in said
    assert "there is no kink here: by hand it is wrong at these elements alone" in said


@pytest.mark.parametrize("dtype", DTYPES[:2], ids=str)
def test_autograd_is_named_where_its_value_is_not_the_derivative(dtype: torch.dtype) -> None:
    """Softplus by relu and abs: autograd makes 0 at 0 of two kinks that cancel; it is 0.5."""
    said = _said(lambda x: F.relu(x) + torch.log1p(torch.exp(-x.abs())), torch.sigmoid,
                 AT_0.to(dtype))  # fmt: skip
    assert "autograd's own value here is not the derivative" in said
    assert "another subgradient" not in said


def test_only_the_element_that_was_looked_at_is_said_to_stand_there() -> None:
    said = _said(F.relu, lambda x: torch.where(x == 2, 3.0, (x >= 0) * 1.0), AT_0)
    assert "2 of 3 elements differ" in said
    assert "so [1] stands at a kink" in said


def test_beside_a_wrong_formula_nothing_is_said_of_kinks() -> None:
    said = _said(F.relu, lambda x: 2.0 * (x > 0), AT_0)
    assert "inputs close by" not in said
