"""The measurement of torch's elementary kernels that the bounds' constants rest on."""

import math

import pytest
import torch

from compare.proof import kernels
from compare.proof.bounds import _KERNELS, ERF_FLOAT32

DTYPES = [torch.float64, torch.float32]  # of half precision only a few: it has its own points
EACH = [(name, dtype) for name in _KERNELS for dtype in DTYPES]
EACH += [(name, dtype) for name in ("tanh", "exp") for dtype in (torch.float16, torch.bfloat16)]


@pytest.mark.parametrize(("name", "dtype"), EACH)
def test_no_kernel_is_further_off_than_the_bounds_allow(name: str, dtype: torch.dtype) -> None:
    found = kernels.measure(name, dtype, count=200, seed=3)
    assert not found.exceeded, f"{found.ulps} ulps at {found.at!r}"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_erf_below_float64_is_good_in_absolute_terms(dtype: torch.dtype) -> None:
    """In half precision it is many ulps off near 0, and the bounds allow for that."""
    x = kernels.points("erf", dtype, 300, seed=3)
    truth = torch.erf(x.double())
    off = (torch.erf(x).double() - truth).abs()
    assert (off <= ERF_FLOAT32 + 0.5 * truth.abs() * torch.finfo(dtype).eps).all()


def test_a_kernel_that_is_off_is_measured_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cosine eight floats up is eight ulps off, and the script's exit status says so."""

    def off(x: torch.Tensor) -> torch.Tensor:
        y = torch.cos(x)
        for _ in range(8):
            y = torch.nextafter(y, torch.full_like(y, math.inf))
        return y

    monkeypatch.setattr(kernels, "_KERNELS", {"cos": off})
    found = kernels.measure("cos", torch.float64, count=100)
    assert found.exceeded
    assert 7.4 < found.ulps < 16.6  # below a power of two an ulp is half that of the truth above
    assert kernels.main(["--points", "20"]) == 1


def test_a_correct_rounding_is_within_half_an_ulp() -> None:
    """Held against Python's own square root, which IEEE 754 has round correctly."""
    x = kernels.points("sqrt", torch.float64, 200, seed=3)
    rooted = torch.tensor([math.sqrt(at) for at in x.tolist()], dtype=torch.float64)
    assert 0.4 < kernels.errors("sqrt", x, rooted).max() <= 0.5


def test_not_a_number_is_infinitely_far_off() -> None:
    x = torch.tensor([2.0])
    assert kernels.errors("sqrt", x, torch.tensor([math.nan])).tolist() == [math.inf]
