"""Each reason for the judge not to pass a quantity, at a pass that only this reason stops.

A dispatch mode plants a kernel whose error is too large: the traced program is unchanged, and the
floats are those of a bad kernel. Both sides then have the same formula.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import compare
from compare.proof.balls import _sample
from compare.proof.verdict import Proof
from compare.report.report import Report
from tests.opaque import memory


class Off(TorchDispatchMode):
    """Replaces the result of one kernel by `change(result, *arguments)`."""

    def __init__(self, kernel: str, change: Callable[..., Tensor]) -> None:
        super().__init__()
        self.kernel, self.change = kernel, change

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **kwargs or {})
        return self.change(result, *args) if func.__name__ == self.kernel else result


def units(count: float, dtype: torch.dtype) -> float:
    """Return `count` half ulps of 1."""
    return count * torch.finfo(dtype).eps / 2


def drawn(*shape: int, seed: int = 5, dtype: torch.dtype = torch.float64) -> Tensor:
    """Return random numbers from 0.5 to 1.5."""
    chance = torch.Generator().manual_seed(seed)
    return (torch.rand(*shape, generator=chance, dtype=torch.float64) + 0.5).to(dtype)


def proof_of(report: Report, name: str = "x") -> Proof:
    """Return the proof of one quantity."""
    proof = report.quantities[name].proof
    assert proof is not None
    return proof


def by_exp(x: Tensor, grad_output: Tensor) -> tuple[Tensor]:
    return (grad_output * torch.exp(x),)


def expm1(x: Tensor) -> Tensor:
    """Return expm1: its backward pass uses its result plus 1, so exp is called by hand alone."""
    return torch.expm1(x)


def _exp_check(kernel: str, off: float, dtype: torch.dtype) -> Report:
    with Off(kernel, lambda result, *_: result * (1 + units(off, dtype))):
        return compare.check(by_exp, expm1, (drawn(40, dtype=dtype),))


DTYPES = [torch.float64, torch.float32, torch.bfloat16]


@pytest.mark.parametrize("dtype", DTYPES)
def test_an_error_by_hand_outside_the_bound_of_its_operations_is_wrong(dtype: torch.dtype) -> None:
    """The kernel may be off by 8 half ulps and the product by 1; twice that is WRONG."""
    assert _exp_check("exp.default", 4, dtype).ok
    report = _exp_check("exp.default", 18, dtype)
    assert report.verdict == "WRONG", str(report)
    proof = proof_of(report)
    assert proof.text.startswith("same formula: both sides agree to")
    assert "but the error by hand is" in proof.text
    assert "times the rounding bound of its own operations" in proof.text
    assert proof.share is not None
    assert 1 < proof.share < 3


@pytest.mark.parametrize("dtype", DTYPES)
def test_an_error_of_autograd_outside_its_bound_is_undecided(
    dtype: torch.dtype,
) -> None:
    """Either the kernel or the bound is at fault: the by-hand side is not judged by it."""
    assert _exp_check("expm1.default", 4, dtype).ok
    report = _exp_check("expm1.default", 24, dtype)
    assert report.verdict == "UNDECIDED", str(report)
    proof = proof_of(report)
    assert "times the rounding bound of its own operations" in proof.text
    assert "the error of autograd's kernel is" in proof.text
    assert proof.share is not None
    assert 1 < proof.share < 3


def _loose(x: Tensor, grad_output: Tensor) -> tuple[Tensor]:
    far = 2.0**1020  # more digits than the exact values have
    return (grad_output * torch.cos((x + far) - far),)


@pytest.mark.parametrize(("size", "verdict"), [(1.0, "WRONG"), (1e-30, "EXACT")])
def test_too_wide_an_interval_verifies_no_formula(size: float, verdict: str) -> None:
    """Wide balls overlap whatever the formulas are, and this holds where the bits agree too."""
    report = compare.check(_loose, lambda x: torch.sin(x), (drawn(3, 4) * size,))
    assert report.verdict == verdict, str(report)
    proof = proof_of(report)
    assert not proof.lifted
    assert "too wide to decide" in str(report)  # so the numbers decide


def test_where_a_bound_is_not_finite_the_correct_bits_decide() -> None:
    """By its rounding bound the divisor may be 0, though it is not."""
    whole = torch.arange(1.0, 30)

    def divided(x: Tensor, grad_output: Tensor) -> tuple[Tensor]:
        for _ in range(8):  # each pass may lose half of 1
            x = (x + 2.0**23) - 2.0**23
        return (grad_output * (1 / x),)

    report = compare.check(divided, lambda x: torch.log(x), (whole,))
    assert report.quantities["x"].equal < 29
    assert report.verdict == "ROUNDING", str(report)
    assert "; its rounding bound is not finite at [" in proof_of(report).text
    assert "so there only the number of correct bits was checked" in proof_of(report).text


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_sum_in_half_precision_off_by_50_units_of_its_terms_is_wrong(
    dtype: torch.dtype,
) -> None:
    """Up to 1.5 units were measured with partial sums in half precision, and 4 are allowed."""

    def summed(w: Tensor, grad_output: Tensor) -> tuple[Tensor]:
        return ((grad_output[:, None] * w).sum(0),)

    def check(off: float) -> Report:
        def change(result: Tensor, terms: Tensor, dims: list[int], *_: Any) -> Tensor:
            if dims != [0]:  # the decomposed product of autograd sums the last dimension
                return result
            sizes = terms.double().abs().sum(0)
            return (result.double() + units(off, dtype) * sizes).to(dtype)

        w = drawn(12, 5, dtype=dtype)
        inputs = {"w": w, "x": torch.ones(5, dtype=dtype, requires_grad=True)}
        with Off("sum.dim_IntList", change):
            return compare.check(summed, lambda w, x: w @ x, inputs)

    assert check(2).verdict in ("ROUNDING", "INACCURATE"), str(check(2))
    report = check(50)
    assert report.verdict == "WRONG", str(report)
    assert "times the rounding bound of its own operations" in proof_of(report).text


def test_elements_that_were_not_lifted_are_judged_by_both_bounds() -> None:
    """An element outside the sample of a product is off by four times both bounds."""
    inputs = {"a": drawn(20, 30), "b": drawn(30, 10, seed=6)}
    rows, columns = (set(range(n)) - set(_sample(n, 16).tolist()) for n in (20, 30))
    factor = torch.ones(20, 30, dtype=torch.float64)

    def by_hand(a: Tensor, b: Tensor, grad_output: Tensor) -> dict[str, Tensor]:
        grad = grad_output.abs()  # positive as in forward, so that no terms cancel
        return {"a": (b @ grad.mT).mT * factor, "b": (grad.mT @ a).mT}

    def product(a: Tensor, b: Tensor) -> Tensor:
        return _Abs.apply(a @ b)

    def check(off: float) -> Report:
        factor[min(rows), min(columns)] = 1 + units(off, torch.float64)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("compare.proof.balls.LARGE", 100)
            return compare.check(by_hand, product, inputs, lift=16)

    assert check(4).quantities["a"].verdict == "ROUNDING"
    row = check(100).quantities["a"]
    assert row.verdict == "UNDECIDED"
    assert row.proof is not None
    assert "in elements that were not computed exactly the difference is" in row.proof.text
    assert "times the sum of both rounding bounds: use lift all" in row.proof.text
    assert row.proof.share is not None
    assert 2 < row.proof.share < 10


class _Abs(torch.autograd.Function):
    """The identity forward, the absolute value of the gradient backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """Return x."""
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        """Return the absolute value of the gradient."""
        return grads[0].abs()


@pytest.mark.parametrize(("times", "verdict"), [(4, "WITHIN"), (32, "UNDECIDED"), (128, "WRONG")])
def test_scattered_errors_of_opaque_code_have_8_times_the_bound(times: int, verdict: str) -> None:
    """The kernel of cos may be off by 8 half ulps, and the product by 1."""
    signs = np.where(np.arange(40) % 2, 1, -1)

    def opaque(x: Tensor, grad_output: Tensor) -> tuple[Tensor]:
        off = 1 + signs * units(9 * times, torch.float64)
        return (grad_output * torch.from_numpy(np.cos(memory(x)) * off),)

    report = compare.check(opaque, lambda x: torch.sin(x), (drawn(40) / 2,))
    assert report.verdict == verdict, str(report)
    text = "times autograd's rounding bound at ["
    assert (text in proof_of(report).text) == (verdict != "WITHIN")
