"""What a number written in the code stands for.

Whoever wrote 1/3 or 0.044715 meant that number, and binary holds only one close by. So a float is
read as the simplest number that rounds to it, and as a ball of half an ulp where none is simple
(`math.sqrt(2 / math.pi)`). 1e-5 and 1e-6 stay apart; two spellings of one constant do not.
"""

import math
from fractions import Fraction
from typing import Any

import flint
import numpy as np

_FLOAT32, _FLOAT64 = 24, 53  # significant bits


def meant(number: float, bits: int = _FLOAT64) -> Any:
    """Return the ball that `number`, held in floats of `bits` significant bits, stands for."""
    if number == 0 or not math.isfinite(number):
        return flint.arb(number)
    exact = Fraction(number)
    held = _significant(exact)
    if exact.denominator == 1 and abs(number) <= 2.0**bits:
        return flint.arb(number)
    if bits > _FLOAT32 and _FLOAT32 // 2 < held <= _FLOAT32:
        bits = _FLOAT32  # torch hands float32(1e-6) on as a float64
    if held <= bits // 2:
        return flint.arb(number)  # 0.5, 0.375: nobody's rounding
    half_ulp = abs(exact) * Fraction(2) ** -bits
    # A random float lies within half an ulp of such a fraction once in 2**(bits / 4) times.
    near = exact.limit_denominator(int(2 ** (0.38 * bits)))
    # beyond 2**bits every float is a whole number, and 1e23 not the one that was written
    both = [near, _decimal(number, bits)]
    for simple in both if near != exact else both[::-1]:
        if simple is not None and abs(simple - exact) <= half_ulp:
            return flint.arb(simple.numerator) / simple.denominator
    return flint.arb(number, float(half_ulp))


def is_exact(number: float) -> bool:
    """Whether the float is the very number that it stands for."""
    return bool(meant(number) == flint.arb(number))


def _significant(exact: Fraction) -> int:
    """Return how many bits the float's significand needs."""
    top = abs(exact.numerator)
    return (top // (top & -top)).bit_length()


def _decimal(number: float, bits: int) -> Fraction | None:
    """Return the shortest decimal that rounds to the number, None if it is not short."""
    if bits < _FLOAT32:
        return None
    text = str(np.float32(number)) if bits == _FLOAT32 else repr(float(number))
    digits = text.split("e")[0].replace(".", "").lstrip("-0")
    return Fraction(text) if len(digits) <= bits // 5 else None
