"""Passes through operations beyond the common ones: right forms pass, a factor of 1.5 is WRONG."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import compare

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
Named = dict[str, Tensor]


def normal(*shape: int) -> Tensor:
    rng = torch.Generator().manual_seed(sum(shape))
    return torch.randn(*shape, generator=rng, dtype=torch.float64)


_INSIDE = normal(4, 5).tanh() * 0.9
#: Name, forward, backward by hand from (grad_output, x, output), and the input.
ELEMENTARY: list[tuple[str, Callable[..., Tensor], Callable[..., Tensor], Tensor]] = [
    ("sinh", torch.sinh, lambda g, x, y: g * torch.cosh(x), normal(4, 5)),
    ("sinh by exp", torch.sinh, lambda g, x, y: g * (x.exp() + (-x).exp()) / 2, normal(4, 5)),
    ("cosh", torch.cosh, lambda g, x, y: g * torch.sinh(x), normal(4, 5)),
    ("tan", torch.tan, lambda g, x, y: g / torch.cos(x) ** 2, normal(4, 5) / 2),
    ("tan by output", torch.tan, lambda g, x, y: g * (1 + y * y), normal(4, 5) / 2),
    ("asin", torch.asin, lambda g, x, y: g / (1 - x * x).sqrt(), _INSIDE),
    ("acos", torch.acos, lambda g, x, y: -g / (1 - x * x).sqrt(), _INSIDE),
    ("acosh", torch.acosh, lambda g, x, y: g / (x * x - 1).sqrt(), 1.5 + normal(4, 5).abs()),
    ("atanh", torch.atanh, lambda g, x, y: g / (1 - x * x), _INSIDE),
    ("lgamma", torch.lgamma, lambda g, x, y: g * torch.digamma(x), normal(4, 5).abs() + 0.5),
    ("digamma", torch.digamma, lambda g, x, y: g * torch.polygamma(1, x), normal(4, 5).abs() + 0.5),
    (
        "erfinv",
        torch.erfinv,
        lambda g, x, y: g * math.sqrt(math.pi) / 2 * (y * y).exp(),
        _INSIDE,
    ),
    ("i0", torch.special.i0, lambda g, x, y: g * torch.special.i1(x), normal(4, 5)),
]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", ELEMENTARY, ids=lambda case: case[0])
def test_an_elementary_function(case: Any, dtype: torch.dtype) -> None:
    _, function, by_hand, x = case
    x = x.to(dtype)

    def backward(x: Tensor, grad_output: Tensor, output: Tensor) -> Named:
        return {"x": by_hand(grad_output, x, output)}

    def wrong(x: Tensor, grad_output: Tensor, output: Tensor) -> Named:
        return {"x": 1.5 * by_hand(grad_output, x, output)}

    right = compare.check(backward, lambda x: function(x), {"x": x})
    # in half precision a by-hand form may have lost digits that the kernel keeps
    assert right.verdict in ("EXACT", "ROUNDING", *["INACCURATE"] * (dtype.itemsize == 2)), right
    assert compare.check(wrong, lambda x: function(x), {"x": x}).verdict == "WRONG"


IMAGE = normal(2, 3, 4, 6)
#: Maps whose weights are exact in binary: at twice the size, or the mean of two by two.
LINEAR: list[tuple[str, Callable[[Tensor], Tensor]]] = [
    ("nearest", lambda x: F.interpolate(x, scale_factor=2, mode="nearest")),
    ("bilinear", lambda x: F.interpolate(x, scale_factor=2, mode="bilinear")),
    ("bicubic", lambda x: F.interpolate(x, scale_factor=2, mode="bicubic")),
    ("adaptive mean", lambda x: F.adaptive_avg_pool2d(x, (2, 3))),
    ("padding", lambda x: F.pad(x, (2, 1, 0, 3), mode="replicate")),
]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("case", LINEAR, ids=lambda case: case[0])
def test_a_linear_map_of_an_image(case: Any, dtype: torch.dtype) -> None:
    """By hand the gradient is multiplied by the transposed matrix of the whole map."""
    _, function = case
    size = IMAGE.shape[-2] * IMAGE.shape[-1]
    basis = torch.eye(size, dtype=torch.float64).reshape(size, 1, *IMAGE.shape[-2:])
    matrix = function(basis).reshape(size, -1).to(dtype)

    def backward(x: Tensor, grad_output: Tensor) -> Named:
        return {"x": (grad_output.flatten(2) @ matrix.mT).reshape(x.shape)}

    def wrong(x: Tensor, grad_output: Tensor) -> Named:
        return {"x": backward(x, grad_output)["x"] * 1.5}

    inputs = {"x": IMAGE.to(dtype)}
    assert compare.check(wrong, lambda x: function(x), inputs).verdict == "WRONG"
    right = compare.check(backward, lambda x: function(x), inputs)
    assert right.verdict in ("EXACT", "ROUNDING"), right
    assert "bits only" not in str(right)


def test_addmm_with_beta_zero_reads_no_memory() -> None:
    """BLAS does not read the matrix that it overwrites, so NaN there is no fault."""

    def backward(x: Tensor, w: Tensor, grad_output: Tensor) -> tuple[Tensor, Tensor]:
        dw = torch.empty_like(w).fill_(math.nan)
        dw.addmm_(x.T, grad_output, beta=0, alpha=0.3)
        return grad_output @ w.T * 0.3, dw

    inputs = (normal(9, 3).float(), normal(3, 4).float())
    assert compare.check(backward, lambda x, w: 0.3 * (x @ w), inputs).verdict == "ROUNDING"


def test_a_row_that_would_need_too_many_numbers_is_not_supported() -> None:
    """Its arrays grow with the square of the input; lifting them would take minutes and memory."""
    x = {"x": normal(2000).float()}
    report = compare.check(lambda x: {"x": x}, lambda x: torch.logcumsumexp(x, 0), x)
    assert "intermediate numbers, and at most 1,000,000 are supported" in str(report)
    assert report.verdict == "WRONG", report  # by numbers
