"""Runs a function three ways at the same inputs: in floats, in balls and in bounds."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import flint
import torch
from torch import Tensor

from compare.proof.balls import PRECISION, Balls
from compare.proof.interpreter import Unsupported, lift
from compare.proof.program import Program
from compare.proof.rounding import bounds_for
from compare.proof.trace import trace

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]


@dataclass(frozen=True)
class ThreeRuns:
    """One output of the three runs: the float result, its exact value and its rounding bound."""

    floats: Tensor
    exact: Tensor  # the ball's midpoint
    radius: Tensor  # the ball's radius
    error: Tensor  # |floats - exact|
    bound: Tensor
    low: Tensor  # the range of the bound
    high: Tensor

    @property
    def outside(self) -> Tensor:
        """Mask of the float results whose error is larger than the bound."""
        allowed = self.bound + self.radius
        return ~(self.error <= allowed * (1 + 2.0**-50))  # error, bound and radius are rounded

    @property
    def outside_range(self) -> Tensor:
        """Mask of the elements whose float result or exact value lies outside the range."""
        off = self.radius + self.exact.abs().nan_to_num(posinf=0) * 2.0**-50
        floats = self.floats.double()
        return (
            (floats < self.low)
            | (floats > self.high)
            | (self.exact + off < self.low)
            | (self.exact - off > self.high)
        )

    @property
    def comparable(self) -> Tensor:
        """Mask of the elements with an exact value and no NaN, which is judged separately."""
        return self.radius.isfinite() & ~self.exact.isnan() & ~self.floats.isnan()

    @property
    def share(self) -> float:
        """The largest ratio of an error to its bound."""
        return float((self.error / self.bound).nan_to_num(0).max()) if self.error.numel() else 0.0


def in_dtype(inputs: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """Return the inputs with floating-point tensors rounded to `dtype`."""
    return {k: v.to(dtype) if v.is_floating_point() else v for k, v in inputs.items()}


def named(function: Callable[..., Any]) -> Callable[..., dict[str, Tensor]]:
    """Return the function with its floating-point outputs named out0, out1, ..."""

    def run(**inputs: Tensor) -> dict[str, Tensor]:
        out = function(**inputs)
        parts = [out] if isinstance(out, Tensor) else list(out)
        return {f"out{i}": part for i, part in enumerate(parts) if part.is_floating_point()}

    return run


def operations(program: Program) -> set[str]:
    """Return the names of the ATen operations in a program, without their overloads."""
    nodes = (node for node in program.graph.nodes if node.op == "call_function")
    return {getattr(node.target, "__name__", "").partition(".")[0] for node in nodes}


def names_dtype(program: Program) -> bool:
    """Whether a program names a dtype or holds a tensor, and so is not valid for other dtypes."""
    return ("dtype" in str(program.graph)) or any(
        node.op == "get_attr" for node in program.graph.nodes
    )


def run_three_ways(
    function: Callable[..., dict[str, Tensor]],
    inputs: dict[str, Tensor],
    program: Program | None = None,
) -> tuple[Program, dict[str, ThreeRuns | Unsupported]]:
    """Run a function that returns named tensors, and lift its program in balls and in bounds."""
    program = program or trace(function, inputs)
    balls = lift(program, Balls(), inputs)
    bounds = lift(program, bounds_for(program, inputs.values()), inputs)
    floats = function(**{name: value.clone() for name, value in inputs.items()})
    outputs: dict[str, ThreeRuns | Unsupported] = {}
    for name, value in floats.items():
        numbers = balls[name].numbers, bounds[name].numbers
        missing = next((one for one in numbers if isinstance(one, Unsupported)), None)
        if missing:
            outputs[name] = missing
            continue
        flat = balls[name].numbers.ravel()
        with flint.ctx.workprec(PRECISION):
            errors = [
                _distance(flint.arb(number), ball.mid())
                for number, ball in zip(_stored(value).flatten().tolist(), flat, strict=True)
            ]
        exact, radius, error = (
            torch.tensor([float(x) for x in numbers], dtype=torch.float64).reshape(value.shape)
            for numbers in ([b.mid() for b in flat], [b.rad() for b in flat], errors)
        )
        assert tuple(balls[name].numbers.shape) == tuple(value.shape), f"{name}: balls' shape"
        assert bounds[name].numbers.shape == value.shape, f"{name}: bounds' shape"
        bound = bounds[name].numbers
        outputs[name] = ThreeRuns(value, exact, radius, error, bound.error, *bound.range)
    return program, outputs


def _stored(value: Tensor) -> Tensor:
    """Return a tensor with memory of its own: autograd's zeros may have none."""
    return torch.zeros(value.shape, dtype=value.dtype) + value


def _distance(one: Any, other: Any) -> Any:
    """Return the distance of two numbers, 0 for the same infinity."""
    return flint.arb(0) if one == other else abs(one - other).mid()
