"""The measured errors of torch's elementary kernels, on which the constants of bounds rely."""

import math

import pytest
import torch

from compare.proof import kernels
from compare.proof.bounds import _KERNELS, ERF_FLOAT32

DTYPES = [torch.float64, torch.float32]  # half precision takes many points: two kernels only
EACH = [(name, dtype) for name in _KERNELS for dtype in DTYPES]
EACH += [(name, dtype) for name in ("tanh", "exp") for dtype in (torch.float16, torch.bfloat16)]


@pytest.mark.parametrize(("name", "dtype"), EACH)
def test_no_kernel_has_a_larger_error_than_the_bounds_allow(name: str, dtype: torch.dtype) -> None:
    measured = kernels.measure(name, dtype, count=200, seed=3)
    assert not measured.exceeded, f"{measured.ulps} ulps at {measured.at!r}"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_erf_below_float64_has_a_small_absolute_error(dtype: torch.dtype) -> None:
    """Near 0, erf in half precision is off by many ulps, which the bounds allow for."""
    x = kernels.points("erf", dtype, 300, seed=3)
    exact = torch.erf(x.double())
    error = (torch.erf(x).double() - exact).abs()
    assert (error <= ERF_FLOAT32 + 0.5 * exact.abs() * torch.finfo(dtype).eps).all()


def test_an_inaccurate_kernel_is_measured_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cosine that is eight floats too high measures as eight ulps, and the exit status is 1."""

    def inaccurate_cos(x: torch.Tensor) -> torch.Tensor:
        y = torch.cos(x)
        for _ in range(8):
            y = torch.nextafter(y, torch.full_like(y, math.inf))
        return y

    monkeypatch.setattr(kernels, "_KERNELS", {"cos": inaccurate_cos})
    measured = kernels.measure("cos", torch.float64, count=100)
    assert measured.exceeded
    assert 7.4 < measured.ulps < 16.6  # below a power of two an ulp is half as large as above it
    assert kernels.main(["--points", "20"]) == 1


def test_a_correct_rounding_is_within_half_an_ulp() -> None:
    """The kernel is Python's square root, which IEEE 754 requires to be correctly rounded."""
    x = kernels.points("sqrt", torch.float64, 200, seed=3)
    rooted = torch.tensor([math.sqrt(at) for at in x.tolist()], dtype=torch.float64)
    assert 0.4 < kernels.errors("sqrt", x, rooted).max() <= 0.5


def test_the_error_of_nan_is_infinite() -> None:
    x = torch.tensor([2.0])
    assert kernels.errors("sqrt", x, torch.tensor([math.nan])).tolist() == [math.inf]
