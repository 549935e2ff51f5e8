"""Finds the exact number that a floating-point constant in the code stands for.

The author of 1/3, 0.044715 or math.sqrt(2 / math.pi) meant that number, but binary floating point
holds only a number close to it. So a float is taken for the simplest number that rounds to it: a
fraction, a short decimal, a root, or a multiple of pi, e or a logarithm. 1e-5 and 1e-6 stay
different; two expressions for the same constant become equal.
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
    """Return the number of significant bits of a floating-point dtype."""
    return 1 - round(math.log2(torch.finfo(dtype).eps))


def round_to(number: float, dtype: torch.dtype) -> float:
    """Return a number rounded to a dtype."""
    return float(torch.tensor(number, dtype=torch.float64).to(dtype))


@dataclass(frozen=True)
class ClosedForm:
    """A number as a person writes it: a fraction, or a root, logarithm, ... of one."""

    fraction: Fraction
    function: str = ""  # a key of _IRRATIONAL; "" means the fraction itself
    times: Fraction = Fraction(1)  # a rational factor
    negative: bool = False

    def exact(self) -> Any:
        """Return the number as a ball, as narrow as FLINT's working precision allows."""
        value = flint.arb(self.fraction.numerator) / self.fraction.denominator
        value = _IRRATIONAL[self.function][0](value) if self.function else value
        value = value * self.times.numerator / self.times.denominator
        return -value if self.negative else value


# Irrational numbers that occur in code: the function of a fraction, and the inverse function, which
# recovers the fraction.
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
# Irrational numbers that code multiplies by a decimal, such as 0.044715 * sqrt(2 / pi).
_SCALED = [
    ClosedForm(Fraction(whole), function)
    for whole, function in (
        (2, "root over pi"), (1, "times pi"), (1, "over pi"), (2, "root"), (2, "root times pi"),
        (2, "logarithm"), (2, "over a logarithm"),
    )
]  # fmt: skip
_SCALE = 7  # significant digits of such a decimal
# Irrational numbers that code multiplies by a fraction which the inverse functions above do not
# recover.
_MULTIPLIED = [
    *_SCALED,
    *(
        ClosedForm(Fraction(whole), function)
        for function in ("root", "logarithm", "over a logarithm")
        for whole in (3, 5, 6, 7, 10)
    ),
    *(ClosedForm(Fraction(1), f) for f in ("root times pi", "root over pi", "times e", "over e")),
]
# Largest numerator and denominator of such a fraction: one random float in 10**8 is that close to a
# multiple of this kind.
_MULTIPLE = 1000
_ULPS = 2  # rounding error of Python code: math.sqrt(2) / math.sqrt(math.pi) rounds three times
_SHORT = 4  # significant digits of a decimal that may be the result of Python arithmetic
_SMALL = 100  # up to this denominator a fraction counts as simpler than a root


def _log2() -> Any:
    return flint.arb(2).log()


def intended_value(number: float, bits: int = _FLOAT64) -> Any:
    """Return, as a ball, the exact number that a float stands for.

    This is the float itself if no simple number is close enough.

    Args:
        number: The float.
        bits: Significant bits of the dtype that it is held in.
    """
    form = closed_form(number, bits)
    return flint.arb(number) if form is None else form.exact()


def is_exact(number: float, bits: int = _FLOAT64) -> bool:
    """Whether a float equals the number that it stands for."""
    form = closed_form(number, bits)
    return form is None or (not form.function and form.fraction == Fraction(number))


@functools.lru_cache(maxsize=10_000)
def distance_to_intended(number: float) -> float:
    """Return an upper bound on the distance between a float and the number that it stands for.

    Return 0 for a float that was rounded to float32: its distance is larger than any rounding in
    float64 code can explain.
    """
    with flint.ctx.workprec(4 * _FLOAT64):
        distance = 0.0 if is_exact(number) else float(abs(intended_value(number) - number).upper())
    return distance if distance <= abs(number) * 2.0**-30 else 0.0


@functools.lru_cache(maxsize=100_000)
def closed_form(number: float, bits: int = _FLOAT64) -> ClosedForm | None:
    """Return the closed form of the simplest number that rounds to a float, None without one.

    Args:
        number: The float.
        bits: Significant bits of the dtype that it is held in.
    """
    if number == 0 or not math.isfinite(number):
        return None
    simple, precision = simplest_fraction(number, bits), _rounding_precision(Fraction(number), bits)
    if simple is not None and bits >= _FLOAT32 and simple.denominator > _SMALL:
        irrational = _irrational(number, precision)  # pi, rather than 355/113
        if irrational is not None and irrational.fraction.denominator < simple.denominator:
            return irrational
    if simple is None and bits == _FLOAT64 == precision:
        simple = _computed_decimal(number)
    return _irrational(number, precision) if simple is None else ClosedForm(simple)


def _computed_decimal(number: float) -> Fraction | None:
    """Return the short decimal behind a Python result such as 1 - 0.9 or 0.9**7, None without one.

    The difference of 1 and another number may be off by half an ulp of 1.
    """
    exact = Fraction(number)
    half = _half_ulp(exact, _FLOAT64)
    for digits, limit in ((_SHORT, max(Fraction(1, 2**_FLOAT64), 2 * half)), (_SCALE, 4 * half)):
        decimal = Fraction(f"{number:.{digits}g}")
        if abs(decimal - exact) <= min(limit, abs(exact) / 2**30):
            return decimal
    return None


def _irrational(number: float, bits: int) -> ClosedForm | None:
    """Return the root, or multiple of pi, e or a logarithm, that a float is close to."""
    if bits < _FLOAT32 or not 1e-6 < abs(number) < 1e6:
        return None
    largest = 2 ** (bits // 5)  # one random float in 2**25 is that close to one of these fractions
    limit = abs(number) * 2.0 ** (1 - bits) * _ULPS
    with flint.ctx.workprec(4 * _FLOAT64):
        value = flint.arb(abs(number))
        for function, (_, inverse) in _IRRATIONAL.items():
            whole = "logarithm" in function  # only logarithms of whole numbers, and no huge ones
            if whole and not 1 / 30 < abs(number) < 30:
                continue
            denominator = 1 if whole else largest
            fraction = Fraction(float(inverse(value).mid())).limit_denominator(denominator)
            if not whole < fraction.numerator <= largest:  # log(1) is 0
                continue
            form = ClosedForm(fraction, function, negative=number < 0)
            if float(abs(form.exact() - number).mid()) <= limit:
                return form
        for base in _SCALED if bits == _FLOAT64 else ():
            unit = base.exact()
            times = Fraction(f"{float((value / unit).mid()):.{_SCALE}g}")
            if abs(float((unit * times.numerator / times.denominator - value).mid())) <= limit:
                return replace(base, times=times, negative=number < 0)
        for base in _MULTIPLIED if bits == _FLOAT64 else ():
            unit = _as_float(base)
            ratio = abs(number) / unit
            times = Fraction(ratio).limit_denominator(_MULTIPLE)
            if times.numerator > _MULTIPLE or abs(float(times) - ratio) > 4 * limit / unit:
                continue  # a fast test in floats, which few candidates pass
            form = replace(base, times=times, negative=number < 0)
            if abs(float((form.exact() - number).mid())) <= limit:
                return form
    return None


@functools.cache
def _as_float(base: ClosedForm) -> float:
    return float(base.exact().mid())


def simplest_fraction(number: float, bits: int = _FLOAT64) -> Fraction | None:
    """Return the simplest fraction that rounds to a finite float, None if none is simple."""
    exact = Fraction(number)
    if exact.denominator == 1 and abs(number) <= 2.0**bits:
        return exact
    bits = _rounding_precision(exact, bits)
    if _significant(exact) <= bits // 2:
        return exact  # 0.5, 0.375: too few bits to be the result of a rounding
    # One random float in 2**(bits / 4) lies within half an ulp of such a fraction.
    near = exact.limit_denominator(int(2 ** (0.38 * bits)))
    # Beyond 2**bits every float is a whole number, and the one for 1e23 is not 1e23: there the
    # decimal comes first.
    both = [near, _decimal(number, bits)]
    for simple in both if near != exact else both[::-1]:
        if simple is not None and abs(simple - exact) <= _half_ulp(exact, bits):
            return simple
    return None


def _rounding_precision(exact: Fraction, bits: int) -> int:
    """Return the bits that a number was rounded to: torch passes float32(1e-6) on as a float64."""
    narrow = bits > _FLOAT32 and _FLOAT32 // 2 < _significant(exact) <= _FLOAT32
    return _FLOAT32 if narrow else bits


def _half_ulp(exact: Fraction, bits: int) -> Fraction:
    return abs(exact) * Fraction(2) ** -_rounding_precision(exact, bits)


def _significant(exact: Fraction) -> int:
    """Return the number of bits that the float's significand needs."""
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
