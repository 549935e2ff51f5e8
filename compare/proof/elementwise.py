"""Rows of the table for elementwise operations of two numbers, and for steps and remainders.

The branch that an element takes is that of the float run: a sign, a quadrant, a whole quotient.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from compare.proof.arithmetic_interface import Call, N

# A quotient beyond this may not be a whole number of float64, so that its branch is unknown.
_LARGEST_QUOTIENT = 2.0**50


def _floats(n: Call[N]) -> list[Tensor]:
    """Return the float64 values of the two operands, tensors or numbers in the code."""
    return [torch.as_tensor(operand).double().cpu() for operand in n.arguments[:2]]


def _numbers(n: Call[N], value: float) -> N:
    return n.broadcast_to(n.exact(torch.tensor(value, dtype=torch.float64)), n.out.shape)


def _ratio(n: Call[N], numerator: N, denominator: N, nonzero: Tensor) -> N:
    """Return a quotient, with 1 in place of the denominators that are 0."""
    one = _numbers(n, 1)
    return numerator / n.where(nonzero, n.broadcast_to(denominator, n.out.shape), one)


def _hypot(n: Call[N], x: N, y: N) -> N:
    """Return sqrt(x * x + y * y) without squares that overflow or underflow.

    Source: Moler and Morrison, Replacing Square Roots by Pythagorean Sums, 1983.
    """
    a, b = _floats(n)
    x, y = n.function("abs", x), n.function("abs", y)
    large, small = n.maximum(x, y), n.minimum(x, y)
    ratio = _ratio(n, small, large, a.abs().maximum(b.abs()) != 0)
    return large * n.function("sqrt", ratio * ratio + 1)


def _pi(n: Call[N]) -> N:
    return n.function("acos", _numbers(n, -1))


def _atan2(n: Call[N], y: N, x: N) -> N:
    """Return the angle of the point (x, y), from the arctangent of a ratio of at most 1."""
    b, a = torch.broadcast_tensors(*_floats(n))
    steep = b.abs() > a.abs()
    y, x = n.broadcast_to(y, n.out.shape), n.broadcast_to(x, n.out.shape)
    below = n.where(steep, y, x)
    angle = n.function(
        "atan", _ratio(n, n.where(steep, x, y), below, torch.where(steep, b, a) != 0)
    )
    half_turn = _pi(n) * n.exact(torch.where(b.signbit(), -1.0, 1.0))
    flat = n.where(a.signbit(), angle + half_turn, angle)
    return n.where(steep, half_turn * 0.5 - angle, flat)


def _angle(n: Call[N], _x: N) -> N:
    return n.where(n.floats[0].cpu() < 0, _pi(n), _numbers(n, 0))


def _copysign(n: Call[N], x: N, _sign: Any) -> N:
    size = n.broadcast_to(n.function("abs", x), n.out.shape)
    return n.where(n.out.signbit(), -size, size)


def _remainder(n: Call[N], x: Any, y: Any) -> N:
    """Return x - q * y, q the whole number by which the float run's remainder differs from x."""
    a, b = _floats(n)
    quotient = ((a - n.out.double().cpu()) / b).round()
    if bool((quotient.abs() > _LARGEST_QUOTIENT).any()):
        raise ValueError("its quotient is larger than 2**50")
    whole = n.exact(quotient)
    dividend: N = n.number(float(x)) if isinstance(x, int) else x
    divisor: N = n.number(float(y)) if isinstance(y, int) else y
    return dividend - whole * divisor


def _ldexp(n: Call[N], x: N, exponent: N) -> N:
    powers = _floats(n)[1]
    if bool((powers == powers.round()).all()):
        return x * n.exact(_power_of_2(powers))
    return x * n.function("exp", exponent * n.function("log", n.exact(torch.tensor(2.0))))


def _frexp(n: Call[N], x: N) -> tuple[N, Tensor]:
    exponent = n.out[1]
    half = exponent // 2  # 2**-exponent alone may overflow
    first, second = (n.exact(_power_of_2(-part)) for part in (half, exponent - half))
    return x * first * second, exponent


def _power_of_2(exponents: Tensor) -> Tensor:
    """Return exact powers of 2: torch's own may be off by an ulp."""
    return torch.from_numpy(np.ldexp(1.0, exponents.clamp(-math.inf, 2**30).int().cpu().numpy()))


def _rrelu(
    n: Call[N], x: N, noise: N, lower: N | None = None, upper: N | None = None,
    training: bool = False, *_: Any,
) -> tuple[N, N]:  # fmt: skip
    """Return a leaky relu with the slopes that the float run drew, 1 above 0, and the slopes."""
    if training:
        drawn = n.exact(n.out[1])
        return x * drawn, drawn
    return _leaky(n, x, n.arguments[0], lower, upper), noise


def _rrelu_backward(
    n: Call[N], g: N, _x: N, noise: N, lower: N, upper: N, training: bool, _is_result: bool
) -> N:
    return g * noise if training else _leaky(n, g, n.arguments[1], lower, upper)


def _leaky(n: Call[N], x: N, floats: Tensor, lower: N | None, upper: N | None) -> N:
    """Return x above 0 and x times the mean slope elsewhere."""
    low = n.constant(1 / 8, n.dtype) if lower is None else lower
    high = n.constant(1 / 3, n.dtype) if upper is None else upper
    return n.where(floats.cpu() > 0, x, n.broadcast_to(x * ((low + high) * 0.5), floats.shape))


ELEMENTWISE: dict[str, Callable[..., Any]] = {
    "hypot": _hypot,
    "atan2": _atan2,
    "angle": _angle,
    "copysign": _copysign,
    "fmax": lambda n, x, y: n.maximum(x, y),
    "fmin": lambda n, x, y: n.minimum(x, y),
    "fmod": _remainder,
    "remainder": _remainder,
    "ldexp": _ldexp,
    "frexp": _frexp,
    "rrelu_with_noise_functional": _rrelu,
    "rrelu_with_noise_backward": _rrelu_backward,
}
