"""The verdicts, and what stands behind one."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Self


class Verdict(StrEnum):
    """A word that orders by how bad it is, so that `max` of several is the verdict on them all.

    With it come its colours, for rich and for a page; they are legible on dark and on light.
    """

    EXACT = "EXACT", "green", "#1a7f37"
    ROUNDING = "ROUNDING", "cyan", "#0a6c8a"
    UNDECIDED = "UNDECIDED", "yellow", "#9a6700"
    INACCURATE = "INACCURATE", "magenta", "#8250df"
    WRONG = "WRONG", "red", "#cf222e"

    severity: int
    style: str
    web_colour: str

    def __new__(cls, word: str, colour: str, web_colour: str) -> Self:
        """Return the member for a word, graver than those above it."""
        self = str.__new__(cls, word)
        self._value_, self.severity = word, len(cls.__members__)
        self.style, self.web_colour = f"bold {colour}", web_colour
        return self

    @property
    def passes(self) -> bool:
        """Whether it is a pass by the usual demand."""
        return self <= Verdict.ROUNDING

    def __lt__(self, other: str) -> bool:
        return self.severity < Verdict[other].severity

    def __le__(self, other: str) -> bool:
        return self.severity <= Verdict[other].severity

    def __gt__(self, other: str) -> bool:
        return self.severity > Verdict[other].severity

    def __ge__(self, other: str) -> bool:
        return self.severity >= Verdict[other].severity

    __repr__ = str.__repr__  # a report shows it as the word that it is


EXACT, ROUNDING, UNDECIDED, INACCURATE, WRONG = Verdict


@dataclass(frozen=True)
class Diagnosis:
    """What a search found that would make a WRONG quantity right, or give one autograd's bits."""

    found: tuple[str, ...]  # in words, simplest first; each was tried and held
    note: str = ""  # what was tried and what was not

    @classmethod
    def of(cls, search: Callable[..., "Diagnosis | None"], *given: Any) -> "Diagnosis | None":
        """Return what a search found; where it broke off that is said, and the verdict stands."""
        try:
            return search(*given)
        except Exception as error:
            return cls((), f"the search failed: {type(error).__name__}: {error}")


@dataclass(frozen=True)
class OtherInputs:
    """Whether the formulas were judged beside the given inputs too, and what is said of that."""

    tried: bool = False
    text: str = ""


@dataclass(frozen=True)
class Proof:
    """What decided a verdict beyond the bits."""

    verdict: Verdict
    text: str  # what was shown, or what could not be
    lifted: bool = False  # whether both formulas were seen to be the same in exact arithmetic
    manual_error: float | None = None  # from the exact value, in ulps, the largest element's
    autograd_error: float | None = None
    manual_bits: float | None = None  # that are right, of all elements together
    autograd_bits: float | None = None
    both_lost: str = ""  # said where neither side has half of the bits that the dtype has
    accepted: str = ""  # by how much it is another formula, where its writer accepts that
    # "keeps 5 of autograd's 20 right bits", where by hand has lost notably more
    shortfall: str = ""
    share: float | None = None  # of the bound on rounding, the largest element's
    at: tuple[int, ...] | None = None  # where two formulas part
    step: int | None = None  # of a run, the first that showed it
    diagnosis: Diagnosis | None = None  # None: nothing was looked for
    line: str = ""  # of the code that gives a WRONG quantity by hand: `file.py:14  its text`

    def to_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {
            "text": self.text,
            "lifted": self.lifted,
            "manual_error_ulp": self.manual_error,
            "autograd_error_ulp": self.autograd_error,
            "manual_bits": self.manual_bits,
            "autograd_bits": self.autograd_bits,
            "share_of_bound": self.share,
            "at": None if self.at is None else list(self.at),
            "line": self.line or None,
        }
