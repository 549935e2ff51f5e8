"""Kernels in Triton, numba and SciPy, where these are installed: they cannot be traced."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import compare


def _normal(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def test_a_kernel_in_triton() -> None:
    pytest.importorskip("triton")
    script = Path(__file__).with_name("triton_softmax.py")
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == ["WITHIN", "WRONG"], done.stderr


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_kernel_in_numba(dtype: torch.dtype) -> None:
    numba = pytest.importorskip("numba")

    @numba.njit  # type: ignore[untyped-decorator]
    def kernel(x: Any, g: Any) -> Any:
        dx = np.empty_like(x)
        for i in range(x.shape[0]):
            largest, total, along = x[i].max(), 0.0, 0.0
            for j in range(x.shape[1]):
                total += np.exp(x[i, j] - largest)
            for j in range(x.shape[1]):
                along += g[i, j] * np.exp(x[i, j] - largest) / total
            for j in range(x.shape[1]):
                dx[i, j] = np.exp(x[i, j] - largest) / total * (g[i, j] - along)
        return dx

    def backward(x: Tensor, grad_output: Tensor) -> Tensor:
        return torch.from_numpy(kernel(x.numpy(), grad_output.numpy()))

    def cut_short(x: Tensor, grad_output: Tensor) -> Tensor:
        return backward(x, grad_output) * 1.00001

    x = _normal(8, 20).to(dtype)
    report = compare.check(backward, lambda x: x.softmax(-1), (x,))
    assert report.verdict in ("WITHIN", "EXACT"), str(report)
    assert compare.check(cut_short, lambda x: x.softmax(-1), (x,)).verdict == "WRONG"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_function_of_scipy(dtype: torch.dtype) -> None:
    special = pytest.importorskip("scipy.special")

    def backward(x: Tensor, grad_output: Tensor) -> Tensor:
        return torch.from_numpy(special.expit(x.numpy())) * grad_output

    report = compare.check(
        backward, lambda x: torch.nn.functional.softplus(x), (_normal(50).to(dtype),)
    )
    assert report.verdict in ("WITHIN", "EXACT"), str(report)
