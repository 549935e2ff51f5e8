"""A function run three ways at the same inputs: in floats, in balls, in bounds."""

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
class Ways:
    """One output: the float result, its truth with the radius it is known to, its bound."""

    floats: Tensor
    truth: Tensor
    radius: Tensor
    error: Tensor
    bound: Tensor
    low: Tensor
    high: Tensor

    @property
    def outside(self) -> Tensor:
        """Where the float result lies further from the truth than the bound allows."""
        allowed = self.bound + self.radius
        return ~(self.error <= allowed * (1 + 2.0**-50))  # the three are rounded to float64

    @property
    def outside_range(self) -> Tensor:
        """Where the float result or the truth lies outside the range that is given of both."""
        off = self.radius + self.truth.abs().nan_to_num(posinf=0) * 2.0**-50
        floats = self.floats.double()
        return (
            (floats < self.low)
            | (floats > self.high)
            | (self.truth + off < self.low)
            | (self.truth - off > self.high)
        )

    @property
    def told(self) -> Tensor:
        """Where there is a truth to hold the float result against; a NaN is judged by itself."""
        return self.radius.isfinite() & ~self.truth.isnan() & ~self.floats.isnan()

    @property
    def share(self) -> float:
        """The largest share of its bound that an error takes up."""
        return float((self.error / self.bound).nan_to_num(0).max()) if self.error.numel() else 0.0


def in_dtype(inputs: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """Return the inputs with their floats rounded to `dtype`."""
    return {k: v.to(dtype) if v.is_floating_point() else v for k, v in inputs.items()}


def named(function: Callable[..., Any]) -> Callable[..., dict[str, Tensor]]:
    """Return the function with its tensors of floats named by their order."""

    def run(**inputs: Tensor) -> dict[str, Tensor]:
        out = function(**inputs)
        parts = [out] if isinstance(out, Tensor) else list(out)
        return {f"out{i}": part for i, part in enumerate(parts) if part.is_floating_point()}

    return run


def operations(program: Program) -> set[str]:
    """Return the names of the ATen operations in a program, without their overloads."""
    nodes = (node for node in program.graph.nodes if node.op == "call_function")
    return {getattr(node.target, "__name__", "").partition(".")[0] for node in nodes}


def says_dtype(program: Program) -> bool:
    """Whether a program names a dtype, and so holds for no other."""
    return ("dtype" in str(program.graph)) or any(
        node.op == "get_attr" for node in program.graph.nodes
    )


def three_ways(
    function: Callable[..., dict[str, Tensor]],
    inputs: dict[str, Tensor],
    program: Program | None = None,
) -> tuple[Program, dict[str, Ways | Unsupported]]:
    """Run a function that returns named tensors, and lift its program to balls and to bounds."""
    program = program or trace(function, inputs)
    balls = lift(program, Balls(), inputs)
    bounds = lift(program, bounds_for(program, inputs.values()), inputs)
    floats = function(**{name: value.clone() for name, value in inputs.items()})
    found: dict[str, Ways | Unsupported] = {}
    for name, value in floats.items():
        numbers = balls[name].numbers, bounds[name].numbers
        missing = next((one for one in numbers if isinstance(one, Unsupported)), None)
        if missing:
            found[name] = missing
            continue
        flat = balls[name].numbers.ravel()
        with flint.ctx.workprec(PRECISION):
            off = [
                _distance(flint.arb(number), ball.mid())
                for number, ball in zip(value.flatten().tolist(), flat, strict=True)
            ]
        truth, radius, error = (
            torch.tensor([float(x) for x in numbers], dtype=torch.float64).reshape(value.shape)
            for numbers in ([b.mid() for b in flat], [b.rad() for b in flat], off)
        )
        assert tuple(balls[name].numbers.shape) == tuple(value.shape), f"{name}: balls' shape"
        assert bounds[name].numbers.shape == value.shape, f"{name}: bounds' shape"
        bound = bounds[name].numbers
        found[name] = Ways(value, truth, radius, error, bound.error, *bound.range)
    return program, found


def _distance(one: Any, other: Any) -> Any:
    """Return how far apart two numbers are, 0 where they are the same infinity."""
    return flint.arb(0) if one == other else abs(one - other).mid()
