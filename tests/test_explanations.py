"""The report says that an element is at a kink where the gradient jumps, and nowhere else."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import compare
from compare.report.report import Report

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


def _report(forward: Slope, slope: Slope, x: Tensor) -> Report:
    backward = lambda x, grad_output: (grad_output * slope(x).to(x.dtype),)  # noqa: E731
    return compare.check(backward, lambda x: forward(x), {"x": x})


def _report_text(forward: Slope, slope: Slope, x: Tensor) -> str:
    report = _report(forward, slope, x)
    assert report.verdict == "WRONG", str(report)
    return " ".join(str(report).split())


def _kinks(report: Report) -> int:
    """Return the number of other subgradients in a report that counts them as right."""
    assert report.verdict == "ROUNDING", str(report)
    assert not report.meets("exact")
    assert "at a kink: another subgradient than autograd's" in " ".join(str(report).split())
    proof = report.quantities["x"].proof
    assert proof is not None
    return proof.kinks


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", KINKS)
def test_another_subgradient_at_a_kink(name: str, dtype: torch.dtype) -> None:
    assert _kinks(_report(*KINKS[name], AT_0.to(dtype))) == 1


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_among_equal_maxima_each_may_get_the_whole_gradient(dtype: torch.dtype) -> None:
    x = torch.tensor([3.0, 1.0, 3.0, 3.0], dtype=dtype)
    first = lambda x: F.one_hot(x.argmax(), 4).to(x.dtype)  # noqa: E731
    assert _kinks(_report(lambda x: x.amax(), first, x)) == 3


def test_of_equal_maxima_not_each_gets_the_whole_gradient() -> None:
    """Moved together they move the maximum once."""
    x = torch.tensor([3.0, 1.0, 3.0])
    _report_text(lambda x: x.amax(), lambda x: x == x.amax(), x)


def test_of_a_norm_at_0_any_vector_of_the_ball_is_a_subgradient() -> None:
    def slope(length: float) -> Slope:
        at_0 = torch.tensor([length, 0.0, 0.0])
        return lambda x: torch.where(x.norm() == 0, at_0, x / x.norm().clamp_min(1e-30))

    norm = lambda x: x.norm()  # noqa: E731
    assert _kinks(_report(norm, slope(0.75), torch.zeros(3))) == 1
    _report_text(norm, slope(1.25), torch.zeros(3))


def test_kinks_of_other_elements_do_not_share() -> None:
    """Each relu has its own, with cotangents of both signs."""
    x = torch.tensor([0.0, 1.0, 0.0, -1.0, 0.0])
    assert _kinks(_report(F.relu, lambda x: (x > 0) + 0.3 * (x == 0), x)) == 3


def test_a_value_that_is_no_subgradient() -> None:
    text = _report_text(F.relu, lambda x: (x > 0) + 5.0 * (x == 0), AT_0)
    assert "is at a kink" in text
    assert "the by-hand value is no subgradient: those range from" in text
    assert "uses another subgradient" not in text


SMOOTH: dict[str, tuple[Slope, Slope]] = {
    "a product": (lambda x: x * 3, lambda x: torch.where(x == 0, 1.0, 3.0)),
    "a square": (lambda x: x * x, lambda x: torch.where(x == 0, 1.0, 2 * x)),
    "a sine": (torch.sin, lambda x: torch.where(x == 0, 0.5, torch.cos(x))),
    "a cube": (lambda x: x**3, lambda x: torch.where(x == 0, 1e-3, 3 * x * x)),
}


@pytest.mark.parametrize("dtype", DTYPES[:2], ids=str)
@pytest.mark.parametrize("name", SMOOTH)
def test_no_kink_where_forward_is_smooth(name: str, dtype: torch.dtype) -> None:
    text = _report_text(*SMOOTH[name], AT_0.to(dtype))
    assert "another subgradient" not in text
    assert "there is no kink here: the by-hand value is wrong only at these elements" in text


@pytest.mark.parametrize("dtype", DTYPES[:2], ids=str)
def test_autograd_is_named_where_its_value_is_not_the_derivative(dtype: torch.dtype) -> None:
    """Softplus from relu and abs: at 0 two kinks cancel. Autograd says 0, and it is 0.5."""
    softplus = lambda x: F.relu(x) + torch.log1p(torch.exp(-x.abs()))  # noqa: E731
    report = _report(softplus, torch.sigmoid, AT_0.to(dtype))
    assert report.verdict == "ROUNDING", str(report)
    assert "autograd is not the derivative of forward" in report.headline()
    assert "another subgradient" not in str(report)


def test_only_the_examined_element_is_reported_at_a_kink() -> None:
    text = _report_text(F.relu, lambda x: torch.where(x == 2, 3.0, (x >= 0) * 1.0), AT_0)
    assert "2 of 3 elements differ" in text
    assert "so element [1] is at a kink" in text


def test_a_wrong_formula_mentions_no_kink() -> None:
    text = _report_text(F.relu, lambda x: 2.0 * (x > 0), AT_0)
    assert "nearby inputs" not in text


def test_the_parameters_of_a_module_have_no_kinks_that_are_looked_for() -> None:
    """They cannot be moved: forward reads them from the module."""
    report = compare.check(
        lambda input, grad_output: {"weight": 2 * grad_output.mT @ input},
        torch.nn.Linear(3, 2), (torch.full((4, 3), 0.5),),
    )  # fmt: skip
    assert report.quantities["weight"].verdict == "WRONG"
