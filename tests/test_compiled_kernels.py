"""Kernels in C, as people compile them: right ones are WITHIN, planted bugs are WRONG."""

import ctypes
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import compare

pytestmark = pytest.mark.skipif(not shutil.which("cc"), reason="needs a C compiler named cc")

_SOURCE = r"""
#include <math.h>
void layer_norm(float *dx, float *dw, float *db, const float *x, const float *w, const float *g,
                int rows, int n) {
    for (int j = 0; j < n; j++) dw[j] = db[j] = 0;
    for (int i = 0; i < rows; i++) {
        const float *xi = x + i * n, *gi = g + i * n;
        float m = 0, v = 0, a = 0, b = 0;
        for (int j = 0; j < n; j++) m += xi[j];
        m /= n;
        for (int j = 0; j < n; j++) v += (xi[j] - m) * (xi[j] - m);
        float r = 1.0f / sqrtf(v / n + 1e-5f);
        for (int j = 0; j < n; j++) {
            float h = (xi[j] - m) * r;
            a += gi[j] * w[j];
            b += gi[j] * w[j] * h;
            dw[j] DW gi[j] * h;
            db[j] += gi[j];
        }
        for (int j = 0; j < n; j++) {
            float h = (xi[j] - m) * r;
            dx[i * n + j] = r * (gi[j] * w[j] - a / n - h * b / N);
        }
    }
}
void gelu(float *dx, const float *x, const float *g, int n) {
    for (int i = 0; i < n; i++) {
        float k = 0.7978845608028654f, c = C;
        float t = tanhf(k * (x[i] + c * x[i] * x[i] * x[i]));
        float slope = 0.5f * (1 + t) + 0.5f * x[i] * (1 - t * t) * k * (1 + 3 * c * x[i] * x[i]);
        dx[i] = g[i] * slope;
    }
}
"""
_RIGHT = {"DW": "+=", "N": "n", "C": "0.044715f"}
Compile = Callable[..., ctypes.CDLL]


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Compile:
    """Return a function that compiles the kernels with some texts in place of the right ones."""
    folder = tmp_path_factory.mktemp("kernels")

    def compile_with(**texts: str) -> ctypes.CDLL:
        source: Path = folder / f"{len([*folder.iterdir()])}.c"
        source.write_text(_SOURCE)
        library = source.with_suffix(".so")
        defined = [f"-D{name}={text}" for name, text in (_RIGHT | texts).items()]
        command = [
            "cc",
            "-O2",
            "-shared",
            "-fPIC",
            *defined,
            str(source),
            "-o",
            str(library),
            "-lm",
        ]
        subprocess.run(command, check=True)
        return ctypes.CDLL(str(library))

    return compile_with


def _memory(values: Tensor) -> int:
    if values.dtype != torch.float32 or not values.is_contiguous():
        raise TypeError("the kernel takes dense float32")
    return values.data_ptr()


def _call(function: Callable[..., object], *arguments: Tensor | int) -> None:
    function(*(ctypes.c_void_p(_memory(a)) if isinstance(a, Tensor) else a for a in arguments))


def _layer_norm(library: ctypes.CDLL) -> Callable[..., dict[str, Tensor]]:
    def backward(x: Tensor, w: Tensor, b: Tensor, grad_output: Tensor) -> dict[str, Tensor]:
        result = {"x": torch.empty_like(x), "w": torch.empty_like(w), "b": torch.empty_like(b)}
        g = grad_output.contiguous()
        _call(library.layer_norm, *result.values(), x.contiguous(), w, g, *x.shape)
        return result

    return backward


def _gelu(library: ctypes.CDLL) -> Callable[..., dict[str, Tensor]]:
    def backward(x: Tensor, grad_output: Tensor) -> dict[str, Tensor]:
        result = torch.empty_like(x)
        _call(library.gelu, result, x.contiguous(), grad_output.contiguous(), x.numel())
        return {"x": result}

    return backward


def _normal(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def _report(library: ctypes.CDLL, kernel: str) -> compare.Report:
    if kernel == "gelu":
        return compare.check(
            _gelu(library), lambda x: F.gelu(x, approximate="tanh"), (_normal(6, 32),)
        )
    inputs = _normal(16, 64), _normal(64), _normal(64)
    return compare.check(
        _layer_norm(library), lambda x, w, b: F.layer_norm(x, x.shape[-1:], w, b), inputs
    )


@pytest.mark.parametrize("kernel", ["layer norm", "gelu"])
def test_a_right_kernel_is_within(compiled: Compile, kernel: str) -> None:
    report = _report(compiled(), kernel)
    assert report.verdict == "WITHIN", report
    assert "in float32; a relative error" in str(report)  # float64 is refused


@pytest.mark.parametrize(
    ("kernel", "texts", "wrong"),
    [
        ("layer norm", {"DW": "="}, {"w"}),
        ("layer norm", {"N": "1"}, {"x"}),
        ("layer norm", {"N": "(n-1)"}, {"x"}),
        ("gelu", {"C": "0.0447f"}, {"x"}),
    ],
    ids=str,
)
def test_a_planted_bug_is_wrong(
    compiled: Compile, kernel: str, texts: dict[str, str], wrong: set[str]
) -> None:
    report = _report(compiled(**texts), kernel)
    assert {q.name for q in report.quantities.values() if q.verdict == "WRONG"} == wrong, report
