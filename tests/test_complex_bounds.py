"""Rounding bounds of complex numbers: no float run leaves its bound, at numbers of every size."""

from collections.abc import Callable
from functools import partial
from unittest import mock

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from compare.proof.bounds import Bounds
from tests.lifted import ThreeRuns, run_three_ways
from tests.test_bounds import SUPPRESSED, any_size

ROWS, COLUMNS = 2, 4
_FUNCTIONS = ("exp", "expm1", "log", "sqrt", "rsqrt", "reciprocal", "sigmoid", "sin", "cos", "sinh",
              "cosh", "tanh", "tan", "sgn", "square", "conj")  # fmt: skip
UNARY: dict[str, Callable[[Tensor], Tensor]] = {
    **{name: getattr(torch, name) for name in _FUNCTIONS},
    "abs": lambda z: z.abs() + 0j,
    "angle": lambda z: z.angle() + 0j,
    "polar": lambda z: torch.polar(z.real, z.imag),
    "scale": lambda z: (0.3 - 1.7j) * z + 0.1j,
    "cube": lambda z: z**3,
    "power": lambda z: z**1.7,
    "sum": lambda z: z.sum(0, keepdim=True).expand(z.shape),
    "mean": lambda z: z - z.mean(1, keepdim=True),
    "prod": lambda z: z.prod(1, keepdim=True).expand(z.shape),
    "cumprod": lambda z: z.cumprod(1),
    "norm": lambda z: torch.linalg.vector_norm(z, dim=1, keepdim=True).expand(z.shape) + 0j,
    "gram": lambda z: z @ z.mH @ z,
    "fft": torch.fft.fft,
    "ifft": partial(torch.fft.ifft, norm="ortho"),
    "fft2": torch.fft.fft2,
    "rfft": lambda z: torch.fft.fft(z.real),
    "irfft": lambda z: torch.fft.irfft(z, n=COLUMNS) + 0j,
}
BINARY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "add": torch.add,
    "sub": torch.sub,
    "mul": torch.mul,
    "div": torch.div,
    "mixed": lambda z, w: z * w.real,
    "matmul": lambda z, w: z @ w.mH @ z,
    "where": lambda z, w: torch.where(z.real > 0, z, w.conj()),
}
Step = tuple[str, int, int]


def composed(steps: list[Step]) -> Callable[..., dict[str, Tensor]]:
    """Return the function that applies the steps to two complex inputs; results are real views."""

    def run(x: Tensor, y: Tensor) -> dict[str, Tensor]:
        values = [torch.view_as_complex(x), torch.view_as_complex(y)]
        for name, one, other in steps:
            both = (values[one], values[other])
            values.append(UNARY[name](both[0]) if name in UNARY else BINARY[name](*both))
        return {f"v{i}": torch.view_as_real(v.resolve_conj()) for i, v in enumerate(values[2:])}

    return run


@st.composite
def programs(draw: st.DrawFn) -> tuple[list[Step], dict[str, Tensor]]:
    """Draw 1 to 3 operations, each on earlier values, and the inputs."""
    steps = [
        (
            draw(st.sampled_from([*UNARY, *BINARY])),
            draw(st.integers(0, k + 1)),
            draw(st.integers(0, k + 1)),
        )
        for k in range(draw(st.integers(1, 3)))
    ]
    dtype = draw(st.sampled_from([torch.float64, torch.float32]))
    count = ROWS * COLUMNS * 2
    numbers = st.lists(any_size(dtype), min_size=count, max_size=count)
    inputs = {
        name: torch.tensor(draw(numbers), dtype=dtype).reshape(ROWS, COLUMNS, 2)
        for name in ("x", "y")
    }
    return steps, inputs


@settings(deadline=None, max_examples=60, suppress_health_check=SUPPRESSED)
@given(programs())
def test_no_float_run_leaves_its_bound(program: tuple[list[Step], dict[str, Tensor]]) -> None:
    """At every step; programs that overflow are left out."""
    steps, inputs = program
    function = composed(steps)
    assume(all(v.isfinite().all() for v in function(**inputs).values()))
    _, outputs = run_three_ways(function, inputs)
    for name, runs in outputs.items():
        assert isinstance(runs, ThreeRuns), runs
        known = runs.radius.isfinite() & runs.exact.isfinite()
        assert not (runs.outside & known).any(), f"{steps} {name}: {runs.share} of the bound"


@pytest.mark.parametrize("name", ["mul", "div", "matmul", "fft"])
def test_a_bound_with_too_small_a_unit_is_left(name: str) -> None:
    """The same float runs leave a bound for a dtype with more bits."""
    rng = torch.Generator().manual_seed(1)
    inputs = {
        key: torch.randn(64, COLUMNS, 2, generator=rng, dtype=torch.float32) for key in ("x", "y")
    }
    steps: list[Step] = [(name, 0, 1)]
    _, outputs = run_three_ways(composed(steps), inputs)
    runs = outputs["v0"]
    assert isinstance(runs, ThreeRuns)
    assert not runs.outside.any()
    with (
        mock.patch.object(Bounds, "unit", 2.0**-40),
        mock.patch.object(Bounds, "_sum_unit", return_value=2.0**-40),
    ):
        _, outputs = run_three_ways(composed(steps), inputs)
    runs = outputs["v0"]
    assert isinstance(runs, ThreeRuns)
    assert runs.outside.any()


@pytest.mark.parametrize("size", [1, 2, 16, 30, 31, 53, 97, 128, 360])
def test_the_bound_of_a_transform_holds_for_spikes_and_for_noise(size: int) -> None:
    """A spike has the smallest sum of magnitudes for its norm, and large primes other kernels."""
    rng = torch.Generator().manual_seed(size)
    noise = torch.randn(3, size, 2, generator=rng)
    spike = torch.zeros(3, size, 2)
    spike[:, size // 3] = torch.randn(3, 2, generator=rng)
    for x in (noise, spike, noise * 1e-30):
        for transform in (torch.fft.fft, torch.fft.ifft):
            _, outputs = run_three_ways(
                lambda x, f=transform: {"out": torch.view_as_real(f(torch.view_as_complex(x)))},
                {"x": x},
            )
            runs = outputs["out"]
            assert isinstance(runs, ThreeRuns)
            assert not runs.outside.any(), runs.share
