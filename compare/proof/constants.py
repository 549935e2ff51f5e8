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
import torch

_FLOAT32, _FLOAT64 = 24, 53  # significant bits


def significant_bits(dtype: torch.dtype) -> int:
    """Return how many significant bits the floats of a dtype have."""
    return 1 - round(math.log2(torch.finfo(dtype).eps))


def meant(number: float, bits: int = _FLOAT64) -> Any:
    """Return the ball that `number`, held in floats of `bits` significant bits, stands for."""
    if number == 0 or not math.isfinite(number):
        return flint.arb(number)
    simple = simplest(number, bits)
    if simple is None:
        return flint.arb(number, float(_half_ulp(Fraction(number), bits)))
    return flint.arb(simple.numerator) / simple.denominator


def simplest(number: float, bits: int = _FLOAT64) -> Fraction | None:
    """Return the simple number that rounds to a finite `number`, None if there is none."""
    exact = Fraction(number)
    if exact.denominator == 1 and abs(number) <= 2.0**bits:
        return exact
    bits = _rounded_to(exact, bits)
    if _significant(exact) <= bits // 2:
        return exact  # 0.5, 0.375: nobody's rounding
    # A random float lies within half an ulp of such a fraction once in 2**(bits / 4) times.
    near = exact.limit_denominator(int(2 ** (0.38 * bits)))
    # beyond 2**bits every float is a whole number, and 1e23 not the one that was written
    both = [near, _decimal(number, bits)]
    for simple in both if near != exact else both[::-1]:
        if simple is not None and abs(simple - exact) <= _half_ulp(exact, bits):
            return simple
    return None


def _rounded_to(exact: Fraction, bits: int) -> int:
    """Return the bits that a number was rounded to: torch hands float32(1e-6) on as a float64."""
    narrow = bits > _FLOAT32 and _FLOAT32 // 2 < _significant(exact) <= _FLOAT32
    return _FLOAT32 if narrow else bits


def _half_ulp(exact: Fraction, bits: int) -> Fraction:
    return abs(exact) * Fraction(2) ** -_rounded_to(exact, bits)


def literal(number: float, bits: int = _FLOAT64) -> Any:
    """Return the ball of a number in a tensor: what it is, and the simple one it may stand for.

    Someone may have written it, as in torch.tensor([0.1, 0.2]), or it has come to be.
    """
    held = flint.arb(number)
    # of the few numbers that half precision has any may be the one nearest to what was written
    if math.isfinite(number) and (bits < _FLOAT32 or simplest(number, bits) is not None):
        return held.union(meant(number, bits))
    return held


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
