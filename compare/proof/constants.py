"""What a number written in the code stands for.

Whoever wrote 1/3, 0.044715 or math.sqrt(2 / math.pi) meant that number, and binary holds only one
close by. So a float is spelled as the simplest number that rounds to it: a fraction, a short
decimal, a root or a multiple of pi, e or a logarithm. 1e-5 and 1e-6 stay apart; two spellings of
one constant do not.
"""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import flint
import numpy as np
import torch

_FLOAT32, _FLOAT64 = 24, 53  # significant bits
_Function = Callable[[Any], Any]


def significant_bits(dtype: torch.dtype) -> int:
    """Return how many significant bits the floats of a dtype have."""
    return 1 - round(math.log2(torch.finfo(dtype).eps))


def rounded(number: float, dtype: torch.dtype) -> float:
    """Return what a dtype holds of a number."""
    return float(torch.tensor(number, dtype=torch.float64).to(dtype))


@dataclass(frozen=True)
class Spelling:
    """A number as a person writes it: a fraction, or the root, logarithm, ... of one."""

    fraction: Fraction
    function: str = ""  # of _IRRATIONAL; "": the fraction itself
    times: Fraction = Fraction(1)  # what that is multiplied by
    negative: bool = False

    def exact(self) -> Any:
        """Return the number as a ball, as narrow as the working precision has it."""
        value = flint.arb(self.fraction.numerator) / self.fraction.denominator
        value = _IRRATIONAL[self.function][0](value) if self.function else value
        value = value * self.times.numerator / self.times.denominator
        return -value if self.negative else value


# The irrational numbers that code has: how one is made of a fraction, and how the fraction is got
# back from it.
_IRRATIONAL: dict[str, tuple[_Function, _Function]] = {
    "root": (lambda q: q.sqrt(), lambda x: x * x),
    "fourth root": (lambda q: q.sqrt().sqrt(), lambda x: x**4),
    "times pi": (lambda q: q * flint.arb.pi(), lambda x: x / flint.arb.pi()),
    "over pi": (lambda q: q / flint.arb.pi(), lambda x: x * flint.arb.pi()),
    "root over pi": (lambda q: (q / flint.arb.pi()).sqrt(), lambda x: x * x * flint.arb.pi()),
    "root times pi": (lambda q: (q * flint.arb.pi()).sqrt(), lambda x: x * x / flint.arb.pi()),
    "times e": (lambda q: q * flint.arb.const_e(), lambda x: x / flint.arb.const_e()),
    "over e": (lambda q: q / flint.arb.const_e(), lambda x: x * flint.arb.const_e()),
    "logarithm": (lambda q: q.log(), lambda x: x.exp()),
    "over a logarithm": (lambda q: 1 / q.log(), lambda x: (1 / x).exp()),
    "logarithm to base 2": (lambda q: q.log() / _log2(), lambda x: (x * _log2()).exp()),
}
# Those of which code has decimal multiples, as 0.044715 * sqrt(2 / pi).
_SCALED = [
    Spelling(Fraction(whole), function)
    for whole, function in (
        (2, "root over pi"), (1, "times pi"), (1, "over pi"), (2, "root"), (2, "root times pi"),
        (2, "logarithm"), (2, "over a logarithm"),
    )
]  # fmt: skip
_SCALE = 7  # digits of such a decimal
# Those of which code has other rational multiples than the functions above give back by themselves.
_MULTIPLIED = [
    *_SCALED,
    *(
        Spelling(Fraction(whole), function)
        for function in ("root", "logarithm", "over a logarithm")
        for whole in (3, 5, 6, 7, 10)
    ),
    *(Spelling(Fraction(1), f) for f in ("root times pi", "root over pi", "times e", "over e")),
]
# Numerator and denominator at most: a random float is near one once in 10**8 times.
_MULTIPLE = 1000
_ULPS = 2  # that Python may be off by: math.sqrt(2) / math.sqrt(math.pi) takes three operations
_SHORT = 4  # digits of a decimal that Python may have come to
_SMALL = 100  # denominators that are simpler than a root


def _log2() -> Any:
    return flint.arb(2).log()


def written(number: float, bits: int = _FLOAT64) -> Any:
    """Return the ball of what `number`, held in floats of `bits` significant bits, stands for.

    That is the number itself where no simple one is near.
    """
    found = spelling(number, bits)
    return flint.arb(number) if found is None else found.exact()


def is_exact(number: float, bits: int = _FLOAT64) -> bool:
    """Whether the float is the very number that it stands for."""
    found = spelling(number, bits)
    return found is None or (not found.function and found.fraction == Fraction(number))


@functools.lru_cache(maxsize=10_000)
def misspelled(number: float) -> float:
    """Return an upper bound of how far a float lies from the number that Python worked it out from.

    One that was rounded to float32 lies further off, and no rounding of float64 code explains that.
    """
    with flint.ctx.workprec(4 * _FLOAT64):
        off = 0.0 if is_exact(number) else float(abs(written(number) - number).upper())
    return off if off <= abs(number) * 2.0**-30 else 0.0


@functools.lru_cache(maxsize=100_000)
def spelling(number: float, bits: int = _FLOAT64) -> Spelling | None:
    """Return how a number is written, None where no simple number is near enough."""
    if number == 0 or not math.isfinite(number):
        return None
    simple, kept = simplest(number, bits), _rounded_to(Fraction(number), bits)
    if simple is not None and bits >= _FLOAT32 and simple.denominator > _SMALL:
        known = _irrational(number, kept)  # not 355/113 for pi
        if known is not None and known.fraction.denominator < simple.denominator:
            return known
    if simple is None and bits == _FLOAT64 == kept:
        simple = _worked_out(number)
    return _irrational(number, kept) if simple is None else Spelling(simple)


def _worked_out(number: float) -> Fraction | None:
    """Return the short decimal that Python meant by 1 - 0.9 or 0.9**7, None if there is none.

    What is subtracted from 1 is off by half an ulp of 1.
    """
    exact = Fraction(number)
    half = _half_ulp(exact, _FLOAT64)
    for digits, off in ((_SHORT, max(Fraction(1, 2**_FLOAT64), 2 * half)), (_SCALE, 4 * half)):
        near = Fraction(f"{number:.{digits}g}")
        if abs(near - exact) <= min(off, abs(exact) / 2**30):
            return near
    return None


def _irrational(number: float, bits: int) -> Spelling | None:
    """Return the root, or multiple of pi, e or a logarithm, that a float is close to."""
    if bits < _FLOAT32 or not 1e-6 < abs(number) < 1e6:
        return None
    largest = 2 ** (bits // 5)  # a random float is near one of those fractions once in 2**25 times
    off = abs(number) * 2.0 ** (1 - bits) * _ULPS
    with flint.ctx.workprec(4 * _FLOAT64):
        value = flint.arb(abs(number))
        for function, (_, back) in _IRRATIONAL.items():
            whole = "logarithm" in function  # of a whole number, and no huge one
            if whole and not 1 / 30 < abs(number) < 30:
                continue
            near = Fraction(float(back(value).mid())).limit_denominator(1 if whole else largest)
            if not whole < near.numerator <= largest:  # of 1 the logarithm is 0
                continue
            found = Spelling(near, function, negative=number < 0)
            if float(abs(found.exact() - number).mid()) <= off:
                return found
        for base in _SCALED if bits == _FLOAT64 else ():
            unit = base.exact()
            times = Fraction(f"{float((value / unit).mid()):.{_SCALE}g}")
            if abs(float((unit * times.numerator / times.denominator - value).mid())) <= off:
                return replace(base, times=times, negative=number < 0)
        for base in _MULTIPLIED if bits == _FLOAT64 else ():
            unit = _near(base)
            share = abs(number) / unit
            times = Fraction(share).limit_denominator(_MULTIPLE)
            if times.numerator > _MULTIPLE or abs(float(times) - share) > 4 * off / unit:
                continue  # in floats at first: few come so far
            found = replace(base, times=times, negative=number < 0)
            if abs(float((found.exact() - number).mid())) <= off:
                return found
    return None


@functools.cache
def _near(base: Spelling) -> float:
    return float(base.exact().mid())


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


def _significant(exact: Fraction) -> int:
    """Return how many bits the float's significand needs."""
    top = abs(exact.numerator)
    return (top // (top & -top)).bit_length()


def _decimal(number: float, bits: int) -> Fraction | None:
    """Return the shortest decimal that rounds to the number, None if it is not short."""
    if bits < _FLOAT32:
        near = (Fraction(f"{number:.{digits}g}") for digits in (1, 2, 3))
        return next((x for x in near if abs(x - Fraction(number)) <= _half_ulp(x, bits)), None)
    text = str(np.float32(number)) if bits == _FLOAT32 else repr(float(number))
    digits = text.split("e")[0].replace(".", "").lstrip("-0")
    return Fraction(text) if len(digits) <= bits // 5 else None
