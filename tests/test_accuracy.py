"""The same formula with many fewer correct bits than autograd's is INACCURATE."""

import math
import re
from collections.abc import Callable

import flint
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import compare
from compare.passes.forward import ForwardPass
from compare.proof.balls import Balls
from compare.proof.bounds import Bound, Bounds
from compare.proof.interpreter import lift
from compare.proof.rounding import LOSS_FACTOR, Accuracy, LiftedQuantity
from compare.proof.trace import trace
from compare.proof.verdict import EXACT, INACCURATE, ROUNDING, UNDECIDED, WRONG, Proof
from compare.report.quantity import Quantity
from compare.report.report import Report
from compare.training.accumulate import Tally

HALF = torch.float16, torch.bfloat16
ALL = *HALF, torch.float32, torch.float64


def _drawn(dtype: torch.dtype, *shape: int, mean: float = 0.0) -> Tensor:
    chance = torch.Generator().manual_seed(sum(shape))
    return (torch.randn(shape, generator=chance, dtype=torch.float64) + mean).to(dtype)


def _quantity(values: list[float], terms: list[float] | None = None) -> LiftedQuantity:
    exact = np.array([flint.arb(x) for x in values], dtype=object)
    sizes = None if terms is None else torch.tensor(terms, dtype=torch.float64)
    value = torch.tensor(values, dtype=torch.float64)
    return LiftedQuantity(exact, Bound(Bounds(), value, torch.zeros_like(value), None, sizes))


def _accuracy(
    exact: list[float], manual: list[float], autograd: list[float],
    terms: list[float] | None = None, dtype: torch.dtype = torch.float32,
) -> Accuracy:  # fmt: skip
    quantity = _quantity(exact, terms)
    floats = torch.tensor(manual, dtype=dtype), torch.tensor(autograd, dtype=dtype)
    accuracy = Accuracy.of(quantity, floats[0], quantity, floats[1])
    assert accuracy is not None
    return accuracy


# -- the rule


def test_bits_count_all_elements_together_and_are_at_most_those_of_the_dtype() -> None:
    accuracy = _accuracy([3.0, 4.0], [3.0, 4.0 + 5 / 16], [3.0, 4.0])
    assert accuracy.manual == 4
    one_rounding = math.hypot(2**-23, 2**-22)  # half an ulp of 3 and of 4
    assert accuracy.autograd == pytest.approx(math.log2(5 / one_rounding))


@pytest.mark.parametrize(
    ("error", "autograds", "lost"),
    [
        (2.0**-9, 2.0**-20, True),  # 9 of 20 bits
        (2.0**-11, 2.0**-20, False),  # 11 of 20: more than half
        (2.0**-1, 2.0**-4, False),  # 1 of 4, and 8 times autograd's error
        (2.0**-1, 2.0**-6, True),  # 1 of 6, and 32 times
    ],
)
def test_half_the_bits_and_sixteen_times_the_error(
    error: float, autograds: float, lost: bool
) -> None:
    assert _accuracy([1.0], [1 + error], [1 + autograds]).lost == lost


@pytest.mark.parametrize("size", [1e-323, 1e-320, 1e-200, 1.0, 1e300])
def test_bits_are_the_same_at_any_size(size: float) -> None:
    """Squares of tiny numbers underflow to 0; the number of bits must not."""
    side = _quantity([size, size / 2])
    exact = torch.tensor([size, size / 2], dtype=torch.float64)
    accuracy = Accuracy.of(side, 3 * exact, side, exact)
    assert accuracy is not None
    assert accuracy.manual == 0
    assert accuracy.autograd >= 1


def test_the_error_of_an_exact_zero_is_relative_to_the_terms_of_its_sum() -> None:
    assert not _accuracy([0.0], [1e-7], [0.0], [1.0]).lost
    assert _accuracy([0.0], [1e-3], [0.0], [1.0]).lost
    zero = _quantity([0.0])
    assert Accuracy.of(zero, torch.tensor([1e-3]), zero, torch.tensor([0.0])) is None


@pytest.mark.parametrize("extreme", [0.0, math.inf])
def test_zeros_and_infinities_count_where_autograd_has_a_nonzero_finite_number(
    extreme: float,
) -> None:
    assert _accuracy([1.0, 2.0], [1.0, extreme], [1.0, 2.0]).lost
    assert not _accuracy([1.0, 2.0], [1.0, extreme], [1.0, extreme]).lost
    assert not _accuracy([1.0, 2.0], [1.0, 2.0], [1.0, extreme]).lost


def test_a_subnormal_number_may_underflow() -> None:
    side = _quantity([1e-40])
    assert Accuracy.of(side, torch.tensor([0.0]), side, torch.tensor([1e-40])) is None


# -- the verdict


def _norm(one_pass: bool) -> Callable[..., tuple[Tensor, Tensor]]:
    def backward(grad_output: Tensor, x: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
        mean = x.mean(-1, keepdim=True)
        if one_pass:
            variance = (x * x).mean(-1, keepdim=True) - mean * mean
        else:
            variance = ((x - mean) ** 2).mean(-1, keepdim=True)
        rstd = (variance + 1e-5).rsqrt()
        out, g = (x - mean) * rstd, grad_output * w
        slope = g - g.mean(-1, keepdim=True) - out * (g * out).mean(-1, keepdim=True)
        return slope * rstd, (grad_output * out).sum(0)

    return backward


def _layer_norm(x: Tensor, w: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], w)


def _of_norm(dtype: torch.dtype, mean: float, *, one_pass: bool) -> Report:
    x, w = _drawn(dtype, 4, 16, mean=mean), _drawn(dtype, 16)
    return compare.check(_norm(one_pass), _layer_norm, (x, w))


@pytest.mark.parametrize("mean", [0.0, 5.0, 30.0, 300.0, 1000.0, 1e4])
@pytest.mark.parametrize("dtype", ALL, ids=str)
def test_a_norm_in_two_passes_passes_at_any_mean(dtype: torch.dtype, mean: float) -> None:
    report = _of_norm(dtype, mean, one_pass=False)
    assert report.ok, str(report)


@pytest.mark.parametrize(
    ("dtype", "mean", "verdict"),
    [
        (torch.float32, 5.0, ROUNDING),
        (torch.float32, 1000.0, INACCURATE),
        (torch.bfloat16, 30.0, INACCURATE),
        (torch.float16, 30.0, INACCURATE),
        (torch.float64, 300.0, ROUNDING),
    ],
    ids=str,
)
def test_a_variance_in_one_pass_loses_bits_far_from_0(
    dtype: torch.dtype, mean: float, verdict: str
) -> None:
    report = _of_norm(dtype, mean, one_pass=True)
    assert report.verdict == verdict, str(report)
    proof = report.quantities["x"].proof
    assert proof is not None
    assert proof.manual_bits is not None
    assert proof.autograd_bits is not None
    assert proof.manual_bits < proof.autograd_bits
    assert f"{proof.manual_bits:.1f} correct bits by hand, {proof.autograd_bits:.1f}" in str(report)
    kept = f"{proof.manual_bits:.1f} of autograd's {proof.autograd_bits:.1f} correct bits"
    lost = proof.autograd_bits - proof.manual_bits > math.log2(LOSS_FACTOR)
    assert (kept in report.headline().plain) == lost


@pytest.mark.parametrize(
    ("mean", "verdict"), [(5.0, ROUNDING), (30.0, INACCURATE), (100.0, INACCURATE)]
)
def test_a_narrow_spread_loses_bits_sooner(mean: float, verdict: str) -> None:
    """With a standard deviation of 0.1 more than half of the bits are lost from mean 30 on."""
    x, w = _drawn(torch.float32, 4, 16) / 10 + mean, _drawn(torch.float32, 16)
    report = compare.check(_norm(one_pass=True), _layer_norm, (x, w))
    assert report.verdict == verdict, str(report)
    x_row = report.quantities["x"].proof
    assert x_row is not None
    assert x_row.shortfall in " ".join(report.headline().plain.split())


def test_an_exact_quantity_reports_its_correct_bits() -> None:
    x = _drawn(torch.float32, 3, 5)
    report = compare.check(lambda x, grad_output: (2 * x * grad_output,), lambda x: x * x, (x,))
    proof = report.quantities["x"].proof
    assert proof is not None
    assert proof.manual_bits == proof.autograd_bits
    assert f"x {proof.manual_bits:.1f} correct bits, the same on both sides" in str(report)
    assert "have lost" not in str(report)


def test_bits_lost_on_both_sides_are_reported_for_exact_quantities_too() -> None:
    """A half-precision sum of 0.01s stops growing at 32; autograd's kernel stops there too."""
    index = torch.zeros(6000, dtype=torch.int64)

    def backward(W: Tensor, grad_output: Tensor) -> tuple[Tensor]:
        cotangent = grad_output.expand(6000, 2) * 0.01
        return (torch.ops.aten.embedding_dense_backward(cotangent, index, 3, -1, False),)

    report = compare.check(
        backward, lambda W: F.embedding(index, W).mul(0.01).sum(), (torch.zeros(3, 2).half(),)
    )
    assert report.verdict == EXACT, str(report)
    assert "W: both have lost more than half of float16's 11 bits" in str(report)
    far = _of_norm(torch.float32, 1e5, one_pass=False)
    assert far.ok
    assert "both have lost more than half of float32's 24 bits" in str(far)


@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_a_cast_by_accident_is_named_with_its_line(dtype: torch.dtype) -> None:
    def cast(grad_output: Tensor, x: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
        with torch.autocast("cpu", dtype):
            dx = grad_output @ w.mT
        return dx.float(), x.mT @ grad_output

    x, w = _drawn(torch.float32, 64, 32), _drawn(torch.float32, 32, 16)
    report = compare.check(cast, lambda x, w: x @ w, (x, w))
    name = str(dtype).removeprefix("torch.")
    assert f"it rounds to {name} at test_accuracy.py:" in str(report)
    assert "dx = grad_output @ w.mT" in str(report)
    assert str(report).count("it rounds to") == 1  # the gradient of w is not cast
    assert report.quantities["x"].verdict == (INACCURATE if dtype == torch.bfloat16 else ROUNDING)


def test_a_loss_without_a_narrowing_cast_names_no_cast() -> None:
    """A cast of another quantity is not named, nor one to the quantity's own dtype."""

    def lossy(grad_output: Tensor, x: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
        dx = (grad_output.bfloat16() @ w.mT.bfloat16()).float()
        return dx, ((x.mT @ grad_output).double() + 1e13 - 1e13).float()

    x, w = _drawn(torch.float32, 8, 6), _drawn(torch.float32, 6, 4)
    report = compare.check(lossy, lambda x, w: x @ w, (x, w))
    texts = {name: q.proof.text for name, q in report.quantities.items() if q.proof}
    assert "it rounds to bfloat16" in texts["x"]
    assert "correct bits" in texts["w"]
    assert "it rounds to" not in texts["w"]


def test_a_cast_that_changes_no_number_is_not_named() -> None:
    """0 and 1 survive any cast: the variance in one pass loses the bits."""

    def backward(grad_output: Tensor, x: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
        kept = (x > -1e9).to(torch.bfloat16).to(x.dtype)
        dx, dw = _norm(True)(grad_output, x * kept, w)
        return dx, dw

    x, w = _drawn(torch.float32, 4, 16, mean=1000.0), _drawn(torch.float32, 16)
    report = compare.check(backward, _layer_norm, (x, w))
    assert report.verdict == INACCURATE
    assert "it rounds to" not in str(report)


def _into_a_buffer(d: Tensor, dtype: torch.dtype) -> Tensor:
    buffer = torch.empty_like(d, dtype=dtype)
    buffer[:1] = d[:1]
    for k in range(1, len(d)):
        buffer[k].copy_(d[k])
    return buffer


@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_a_buffer_of_a_narrower_dtype_is_a_cast(dtype: torch.dtype) -> None:
    """A buffer in the quantity's own dtype is correct."""

    def wide(x: Tensor, grad_output: Tensor) -> tuple[Tensor]:
        e = torch.exp(-x.float())
        return (_into_a_buffer(grad_output.float() * e / (1 + e) ** 2, dtype),)

    report = compare.check(wide, lambda x: torch.sigmoid(x), (_drawn(dtype, 3, 4),))
    assert report.ok, str(report)

    def narrow(x: Tensor, grad_output: Tensor) -> tuple[Tensor]:
        return (_into_a_buffer(2 * x * grad_output, dtype).float(),)

    report = compare.check(narrow, lambda x: x * x, (_drawn(torch.float32, 30, 4),))
    assert report.verdict in (INACCURATE, ROUNDING), str(report)
    assert f"it rounds to {str(dtype).removeprefix('torch.')} at test_accuracy.py:" in str(report)


def test_a_small_element_that_lost_its_digits_is_reported_beside_large_ones() -> None:
    sizes = torch.tensor([1e6, 1.0])

    def backward(x: Tensor, grad_output: Tensor) -> tuple[Tensor]:
        return (2 * x * ((grad_output * sizes + 1e6) - 1e6)[:, None],)

    report = compare.check(
        backward, lambda x: (x * x).sum(-1) * sizes, (_drawn(torch.float32, 2, 5),)
    )
    assert report.verdict == ROUNDING, str(report)
    headline = " ".join(report.headline().plain.split())
    assert re.search(r"x has a rounding error of up to \S+ ulp, autograd 0\.\d+ ulp", headline)


def test_a_cast_that_the_reference_makes_too_is_not_named() -> None:
    def narrow(x: Tensor) -> Tensor:
        return (x.bfloat16() * 3).float()

    def backward(grad_output: Tensor) -> tuple[Tensor]:
        return ((grad_output.bfloat16() * 1.5 + grad_output.bfloat16() * 1.5).float(),)

    def lossy(grad_output: Tensor) -> tuple[Tensor]:
        return ((grad_output.bfloat16() * 3 + 512 - 512).float(),)

    report = compare.check(backward, narrow, (_drawn(torch.float32, 50),))
    assert "it rounds to" not in str(report)
    report = compare.check(lossy, narrow, (_drawn(torch.float32, 50),))
    assert report.verdict == INACCURATE, str(report)
    assert "it rounds to" not in str(report)


@pytest.mark.parametrize("size", [1e-37, 1e-30])
def test_an_underflow_in_autograd_does_not_make_correct_code_wrong(size: float) -> None:
    """The gradient of a norm is 0 where the norm is 0.

    The norm of 1e-30 is not 0, but its square is 0 in float32. Either autograd's value is the lost
    one, or its kernel is accurate. The by-hand value is not WRONG.
    """

    def norm(x: Tensor, grad_output: Tensor) -> tuple[Tensor]:
        x, g = x.double(), grad_output.double()
        return ((g * x / x.norm(dim=0)).float(),)

    def deviation(x: Tensor, grad_output: Tensor) -> tuple[Tensor]:
        return (grad_output * (x - x.mean(0)) / (3 * x.std(0)),)

    x = _drawn(torch.float32, 4, 3) * size
    for backward, forward in ((norm, lambda x: x.norm(dim=0)), (deviation, lambda x: x.std(0))):
        report = compare.check(backward, forward, (x,))
        assert report.verdict in (UNDECIDED, ROUNDING), str(report)
    zero = compare.check(
        lambda x, grad_output: (torch.where(x == 0, 0.0, grad_output * x.sign()),),
        lambda x: x.norm(dim=0), (torch.tensor([[0.0, 3.0]]),),
    )  # fmt: skip
    assert zero.ok, str(zero)
    assert zero.quantities["x"].proof
    assert zero.quantities["x"].proof.lifted


def test_where_a_norm_is_0_its_exact_gradient_is_0() -> None:
    passed = ForwardPass(lambda x: x.norm(dim=0), (torch.tensor([[0.0, 3.0]]),), 0)
    program = trace(passed.reference, passed.arguments)
    slope = lift(program, Balls(), passed.arguments)["x"].numbers
    assert slope[0, 0] == 0
    assert slope[0, 1].is_finite()


def test_a_mask_that_the_code_computes_is_that_of_its_floats() -> None:
    def forward(s: Tensor) -> Tensor:
        e = torch.exp(s)
        return torch.where(e == 0, -s, e)

    def right(s: Tensor, grad_output: Tensor) -> tuple[Tensor]:
        e = torch.exp(s)
        return (grad_output * torch.where(e > 0, e, -1.0),)

    s = torch.tensor([-2000.0, 1.0, -3.0])
    assert compare.check(right, forward, (s,)).ok
    missing = compare.check(lambda s, grad_output: (grad_output * torch.exp(s),), forward, (s,))
    assert missing.verdict == WRONG, str(missing)


def test_an_overflow_that_comes_from_an_overflowed_output_is_inaccurate() -> None:
    x = torch.tensor([1e20, 3.0])
    report = compare.check(
        lambda x, output, grad_output: (output * 2.7 / x * grad_output,), lambda x: x**2.7, (x,),
        contract=dict.fromkeys(compare.report.contract_line.LINES, False),
    )  # fmt: skip
    assert report.verdict == INACCURATE, str(report)
    assert "by hand it overflows at [0] (1 of 2 elements)" in str(report)


def test_inaccurate_is_no_pass_and_is_reported() -> None:
    report = _of_norm(torch.float32, 1000.0, one_pass=True)
    assert (report.ok, report.first_wrong) == (False, None)
    assert "x is the first inaccurate quantity" in str(report)
    assert report.to_dict()["quantities"][0]["proof"]["manual_bits"] < 10
    assert "INACCURATE" in report._repr_html_()
    assert "INACCURATE" in report.markdown()
    x, w = _drawn(torch.float32, 4, 16, mean=1000.0), _drawn(torch.float32, 16)
    with pytest.raises(AssertionError, match="INACCURATE"):
        compare.assert_same(_norm(True), _layer_norm, (x, w))


def test_wrong_outweighs_inaccurate() -> None:
    def backward(grad_output: Tensor, x: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
        dx, dw = _norm(True)(grad_output, x, w)
        return dx, dw * 1.01

    x, w = _drawn(torch.float32, 4, 16, mean=1000.0), _drawn(torch.float32, 16)
    report = compare.check(backward, _layer_norm, (x, w))
    assert report.quantities["x"].verdict == INACCURATE
    assert (report.verdict, report.first_wrong) == (WRONG, "w")


# -- without a finite rounding bound


def _six_layers(x: Tensor, w: Tensor) -> Tensor:
    for k in range(6):
        x = F.gelu(F.layer_norm(x, x.shape[-1:]) @ w[k])
    return x


def _six_layers_by_hand(
    times: float = 1.0, *, narrow: torch.dtype | None = None
) -> Callable[..., dict[str, Tensor]]:
    def backward(grad_output: Tensor, x: Tensor, w: Tensor) -> dict[str, Tensor]:
        kept = []
        for k in range(6):
            middle = x - x.mean(-1, keepdim=True)
            rstd = ((middle * middle).mean(-1, keepdim=True) + 1e-5).rsqrt()
            n = middle * rstd
            z = n @ w[k]
            kept.append((n, rstd, z))
            x = 0.5 * z * (1 + torch.erf(z / math.sqrt(2)))
        g, dw = grad_output, []
        for k, (n, rstd, z) in reversed(list(enumerate(kept))):
            slope = 0.5 * (1 + torch.erf(z / math.sqrt(2)))
            slope = slope + z * torch.exp(-z * z / 2) / math.sqrt(2 * math.pi)
            g = g * slope
            if narrow:
                g = g.to(narrow).to(slope.dtype)
            dw.append(n.mT @ g)
            g = g @ w[k].mT
            g = g - g.mean(-1, keepdim=True) - n * (g * n).mean(-1, keepdim=True)
            g = g * rstd
        return {"x": g * times, "w": torch.stack(dw[::-1])}

    return backward


@pytest.mark.parametrize("dtype", ALL, ids=str)
@pytest.mark.parametrize("times", [1.0, 1 + 2.0**-6, -1.0, 0.0])
def test_six_layers_without_named_intermediates(dtype: torch.dtype, times: float) -> None:
    """In half precision six layers have no finite rounding bound: the correct bits decide."""
    x, w = _drawn(dtype, 3, 8), _drawn(dtype, 6, 8, 8)
    report = compare.check(_six_layers_by_hand(times), _six_layers, {"x": x, "w": w})
    assert report.quantities["w"].verdict in (EXACT, ROUNDING), str(report)
    assert report.quantities["x"].verdict == (ROUNDING if times == 1 else WRONG), str(report)


# -- infinities on both sides


@pytest.mark.parametrize("dtype", ALL, ids=str)
def test_a_pole_does_not_hide_the_other_elements(dtype: torch.dtype) -> None:
    """The derivative of sqrt at 0 is infinite on both sides; the other elements are judged."""
    x = torch.tensor([0.0, 1.0, 2.0, 3.0], dtype=dtype)

    def backward(times: float) -> Callable[..., dict[str, Tensor]]:
        return lambda grad_output, x: {"x": times * grad_output * x.rsqrt()}

    right = compare.check(backward(0.5), lambda x: x.sqrt(), {"x": x})
    assert right.ok, str(right)
    proof = right.quantities["x"].proof
    assert proof is not None
    assert "1 of 4 elements are infinite on both sides" in proof.text
    assert compare.check(backward(0.5 + 2**-7), lambda x: x.sqrt(), {"x": x}).verdict == WRONG


def test_a_finite_number_at_a_pole_does_not_pass() -> None:
    x = torch.tensor([0.0, 1.0])
    report = compare.check(
        lambda grad_output, x: {"x": torch.where(x > 0, 0.5 * grad_output / x.sqrt(), 7.0)},
        lambda x: x.sqrt(), {"x": x},
    )  # fmt: skip
    assert report.verdict in (WRONG, UNDECIDED)


def test_an_infinity_on_one_side_alone_does_not_pass() -> None:
    x = torch.tensor([0.0, 1.0, 2.0], dtype=torch.float64)
    report = compare.check(
        lambda grad_output, x: {"x": 2 * x * grad_output + torch.where(x == 0, 1 / x, 0 * x)},
        lambda x: x * x,
        {"x": x},
    )
    assert report.verdict in (WRONG, UNDECIDED), str(report)


def test_where_all_elements_are_infinite_only_the_bits_are_compared() -> None:
    report = compare.check(
        lambda grad_output, x: {"x": 0.5 * grad_output * x.rsqrt()},
        lambda x: x.sqrt(),
        {"x": torch.zeros(3, dtype=torch.float64)},
    )
    proof = report.quantities["x"].proof
    assert proof is not None
    assert (proof.verdict, proof.lifted) == (EXACT, False)


def test_an_element_that_overflows_in_autograd_is_not_counted() -> None:
    assert _accuracy([1.0, 2.0, 3.0], [1.1, 2.0, 3.0], [1.0, 2.0, math.inf]).lost


def test_an_inaccurate_step_of_a_run_is_reported() -> None:
    report = Report("three_layer", {}, steps=5)
    report.quantities["a"] = Quantity("a", (2,), "float32", compared=10, equal=4)
    tally = Tally(report, seed=1)
    tally.prove(0, {"a": Proof(ROUNDING, "the same", True, manual_bits=20.0, autograd_bits=20.5)})
    tally.prove(3, {"a": Proof(INACCURATE, "lost", True, manual_bits=3.0, autograd_bits=19.0)})
    tally.bound("a", 0.5, 0)
    tally.conclude()
    proof = report.quantities["a"].proof
    assert proof is not None
    assert (report.verdict, proof.text) == (INACCURATE, "at step 3: lost")
    assert (proof.manual_bits, proof.autograd_bits) == (3.0, 19.0)


def test_errors_are_those_of_all_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Large quantities are measured block by block, and each block counts."""
    x = torch.linspace(-2, 2, 12).view(3, 4)

    def measured() -> list[float | None]:
        report = compare.check(
            lambda x, grad_output: {"x": grad_output / torch.cosh(x) ** 2},
            lambda x: torch.tanh(x),
            {"x": x},
        )
        proof = report.quantities["x"].proof
        assert proof is not None
        return [proof.manual_error, proof.autograd_error, proof.manual_bits, proof.autograd_bits]

    whole = measured()
    monkeypatch.setattr("compare.proof.rounding.LARGE_BLOCK", 3)
    assert measured() == pytest.approx(whole, rel=1e-12)
