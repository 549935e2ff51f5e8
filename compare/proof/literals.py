"""The readings of the numbers in the code: as written, as the dtype holds them, as computed.

In float32 code, 0.1 is 1/10 for its author, and 0.1 rounded to float32 for the machine. Two passes
are the same formula if they agree in one of the readings, and different formulas only if they
agree in none. Each reading gives exact numbers. One interval around all readings would be so
wide that it hides errors.
"""

import itertools
import math
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property, reduce
from typing import Any

import flint
import torch

from compare.proof.constants import (
    closed_form,
    intended_value,
    is_exact,
    round_to,
    significant_bits,
)

# The modes in which a number is read: as its author wrote it; as its dtype holds it; as a result
# that Python computed, if no author can have written it; and as a ball around these three. That
# ball can only show that two formulas differ in every mode.
WRITTEN, HELD, COMPUTED, ANY = "written", "held", "computed", "any"
_EXACT_MODES = (WRITTEN, HELD, COMPUTED)
_OTHER_MODE = {WRITTEN: HELD, HELD: WRITTEN}
MAX_MIXED_READINGS = 64  # readings tried in which some literals are read differently from the rest
_FLOAT64_BITS = significant_bits(torch.float64)


@dataclass(frozen=True)
class Literal:
    """A number in the code, or all numbers of a tensor that the code creates.

    The numbers of one tensor are all read in the same mode.

    Attributes:
        numbers: The floats.
        dtype: The dtype of the tensor, or the one in which an operation computes with the number.
        tensor: Whether the numbers come from a tensor, and so are rounded to `dtype` already.
    """

    numbers: tuple[float, ...]
    dtype: torch.dtype
    tensor: bool = False

    def read(self, mode: str) -> list[Any]:
        """Return a ball for each of the numbers."""
        return [self._read(number, mode) for number in self.numbers]

    def _read(self, number: float, mode: str) -> Any:
        if mode == HELD:
            return flint.arb(self._held(number))
        if mode == ANY:
            return reduce(lambda a, b: a.union(b), (self._read(number, m) for m in _EXACT_MODES))
        if mode == COMPUTED and self._is_computed(number):
            # room for a few roundings
            return flint.arb(number, abs(number) * 2.0 ** (2 - _FLOAT64_BITS))
        return intended_value(number, self._bits)

    @property
    def _bits(self) -> int:
        return significant_bits(self.dtype) if self.tensor else _FLOAT64_BITS

    def _held(self, number: float) -> float:
        """Return the number rounded to the dtype, if that does not make it another plain number.

        float32 rounds 1.0000000001 to 1. Two numbers that were written differently must stay
        different, so such a number is returned unrounded.
        """
        if self.tensor:
            return number
        held = round_to(number, self.dtype)
        return held if closed_form(held) in (None, closed_form(number)) else number

    def _is_computed(self, number: float) -> bool:
        known = number == 0 or not math.isfinite(number) or closed_form(number) is not None
        return not (self.tensor or known)

    @cached_property
    def unambiguous(self) -> bool:
        """Whether all modes read the same numbers."""
        return all(
            is_exact(x, self._bits) and self._held(x) == x and not self._is_computed(x)
            for x in self.numbers
        )


def scalar_literal(value: float, dtype: torch.dtype) -> Literal:
    """Return the literal for a Python number used by an operation whose result has this dtype.

    Torch's kernels compute in float32 where the tensors have half precision.
    """
    return Literal((float(value),), torch.float32 if dtype.itemsize < 4 else dtype)


@dataclass(frozen=True)
class Reading:
    """One choice of how to read every number in the code.

    Attributes:
        mode: The mode in which literals are read.
        exceptions: Literals read in the other mode of WRITTEN and HELD.
        tables: Whether a tensor that one side stores and the other side computes has the values
            that the other side computes.
        exact_structure: Whether the structure that an input has up to rounding is taken as exact,
            for instance rows that sum to 1.
    """

    mode: str = WRITTEN
    exceptions: frozenset[Literal] = frozenset()
    tables: bool = False
    exact_structure: bool = False

    def of(self, literal: Literal) -> list[Any]:
        """Return a ball for each number of a literal."""
        return literal.read(_OTHER_MODE[self.mode] if literal in self.exceptions else self.mode)

    @property
    def text(self) -> str:
        """The remark for a report; empty if all numbers are read as written."""
        parts = []
        if self.tables:
            parts.append("with a tensor that one side stores replaced by what the other computes")
        if self.exact_structure:
            parts.append("with the sums, lengths or symmetry of the inputs taken as exact")
        if self.exceptions:
            parts.append("with some numbers in the code as written and some rounded to their dtype")
        elif self.mode == HELD:
            parts.append("with the numbers in the code rounded to their dtype")
        elif self.mode == COMPUTED:
            parts.append("with an error of up to 2 ulps in the numbers that Python computed")
        return "".join(f", {part}" for part in parts)


AS_WRITTEN = Reading()
IN_ANY_READING = Reading(ANY, tables=True, exact_structure=True)


def readings(
    literals: Collection[Literal], *, tables: bool, exact_structure: bool = False
) -> tuple[list[Reading], bool]:
    """Return the readings to try, likeliest first, and whether the list is complete.

    At most MAX_MIXED_READINGS readings have exceptions.

    Args:
        literals: The numbers in the code of both sides.
        tables: Whether one side stores a tensor that the other side computes.
        exact_structure: Whether an input has a structure that is exact up to rounding.
    """
    ambiguous = sorted((one for one in set(literals) if not one.unambiguous), key=repr)
    modes = _EXACT_MODES if ambiguous or tables else (WRITTEN,)
    flags = [*itertools.product((False, True)[: 1 + exact_structure], (False, True)[: 1 + tables])]
    result = [Reading(mode, tables=t, exact_structure=e) for e, t in flags for mode in modes]
    for count in range(1, len(ambiguous)):
        for exceptions in itertools.combinations(ambiguous, count):
            if len(result) >= len(modes) + MAX_MIXED_READINGS:
                return result, False
            result += [Reading(WRITTEN, frozenset(exceptions), t, e) for e, t in flags]
    return result, True
