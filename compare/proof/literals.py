"""The ways in which the numbers in the code can be read, tried one after the other.

0.1 in float32 code is 1/10 for whoever wrote it and 0.1 rounded to float32 for the machine; two
passes are the same formula if they are in one of these readings, and another one only if they are
in none. Each reading gives exact numbers: one that was as wide as all of them together would hide
the errors in between.
"""

import itertools
import math
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property, reduce
from typing import Any

import flint
import torch

from compare.proof.constants import is_exact, rounded, significant_bits, spelling, written

# As it was written; as the dtype holds it; as what Python came to, if nobody can have written it;
# and as a ball around all of those, which shows that two formulas are the same in none of them.
WRITTEN, HELD, WORKED_OUT, ANY = "written", "held", "worked out", "any"
_OTHER = {WRITTEN: HELD, HELD: WRITTEN}
MOST = 64  # readings of some literals by themselves that are tried
_FLOAT64 = significant_bits(torch.float64)


@dataclass(frozen=True)
class Literal:
    """A number in the code, or the numbers of a tensor that it makes, which are read alike.

    `dtype` is that of the tensor, or the one in which an operation reckons with a number.
    """

    numbers: tuple[float, ...]
    dtype: torch.dtype
    tensor: bool = False

    def read(self, way: str) -> list[Any]:
        """Return the ball of each of the numbers."""
        return [self._read(number, way) for number in self.numbers]

    def _read(self, number: float, way: str) -> Any:
        if way == HELD:
            return flint.arb(self._held(number))
        if way == ANY:
            return reduce(lambda a, b: a.union(b), (self._read(number, w) for w in _EACH))
        if way == WORKED_OUT and self._is_worked_out(number):
            return flint.arb(number, abs(number) * 2.0 ** (2 - _FLOAT64))  # some roundings
        return written(number, self._bits)

    @property
    def _bits(self) -> int:
        return significant_bits(self.dtype) if self.tensor else _FLOAT64

    def _held(self, number: float) -> float:
        """Return what the dtype holds of a number; 1 is not what it holds of 1.0000000001.

        Two numbers that were written differently stay two, whatever rounds them to one.
        """
        if self.tensor:
            return number
        held = rounded(number, self.dtype)
        return held if spelling(held) in (None, spelling(number)) else number

    def _is_worked_out(self, number: float) -> bool:
        known = number == 0 or not math.isfinite(number) or spelling(number) is not None
        return not (self.tensor or known)

    @cached_property
    def plain(self) -> bool:
        """Whether it is the same numbers in every reading."""
        return all(
            is_exact(x, self._bits) and self._held(x) == x and not self._is_worked_out(x)
            for x in self.numbers
        )


_EACH = (WRITTEN, HELD, WORKED_OUT)


def number(value: float, dtype: torch.dtype) -> Literal:
    """Return a number in the code, at an operation that gives `dtype`.

    Torch's kernels reckon in float32 where the tensors have half precision.
    """
    return Literal((float(value),), torch.float32 if dtype.itemsize < 4 else dtype)


@dataclass(frozen=True)
class Reading:
    """All literals read in one `way`, `but` for some in the other; ANY is for all that there are.

    With `tables` a tensor that one side holds, and the other works out, is what that works out;
    with `exactly` an input that sums to 1 but for rounding does so without.
    """

    way: str = WRITTEN
    but: frozenset[Literal] = frozenset()
    tables: bool = False
    exactly: bool = False

    def of(self, literal: Literal) -> list[Any]:
        """Return the ball of each of a literal's numbers."""
        return literal.read(_OTHER[self.way] if literal in self.but else self.way)

    @property
    def text(self) -> str:
        """The remark that a report has on it, empty where all is read as it was written."""
        found = ", a tensor that one side holds as what the other has for it" * self.tables
        found += ", inputs without the rounding of their sums, lengths or symmetry" * self.exactly
        if self.but:
            found += ", some numbers of the code as written and some as their dtype holds them"
        elif self.way == HELD:
            found += ", the numbers of the code as their dtype holds them"
        elif self.way == WORKED_OUT:
            found += ", the numbers that Python worked out to within 2 ulps"
        return found


AS_WRITTEN, IN_ANY_WAY = Reading(), Reading(ANY, tables=True, exactly=True)


def readings(
    literals: Collection[Literal], *, tables: bool, exactly: bool = False
) -> tuple[list[Reading], bool]:
    """Return the readings, the likeliest first, and whether those are all that there are.

    Of those that read some literals by themselves no more than MOST are given.
    """
    unsure = sorted((one for one in set(literals) if not one.plain), key=repr)
    ways = _EACH if unsure or tables else (WRITTEN,)
    also = [*itertools.product((False, True)[: 1 + exactly], (False, True)[: 1 + tables])]
    found = [Reading(way, tables=t, exactly=e) for e, t in also for way in ways]
    for count in range(1, len(unsure)):
        for but in itertools.combinations(unsure, count):
            if len(found) >= len(ways) + MOST:
                return found, False
            found += [Reading(WRITTEN, frozenset(but), t, e) for e, t in also]
    return found, True
