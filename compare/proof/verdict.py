"""The verdicts, and the proof behind each."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Self


class Verdict(StrEnum):
    """A verdict. Verdicts are ordered by severity, so that `max` of several is the overall one.

    Each has a colour for rich and one for HTML pages, both legible on dark and light backgrounds.
    """

    EXACT = "EXACT", "green", "#1a7f37"
    ROUNDING = "ROUNDING", "cyan", "#0a6c8a"
    WITHIN = "WITHIN", "blue", "#0550ae"
    UNDECIDED = "UNDECIDED", "yellow", "#9a6700"
    INACCURATE = "INACCURATE", "magenta", "#8250df"
    WRONG = "WRONG", "red", "#cf222e"

    severity: int
    style: str
    web_colour: str

    def __new__(cls, word: str, colour: str, web_colour: str) -> Self:
        """Return the member for a word, more severe than the members before it."""
        self = str.__new__(cls, word)
        self._value_, self.severity = word, len(cls.__members__)
        self.style, self.web_colour = f"bold {colour}", web_colour
        return self

    @property
    def passes(self) -> bool:
        """Whether it meets the default demand, "rounding"."""
        return self <= Verdict.ROUNDING

    def __lt__(self, other: str) -> bool:
        return self.severity < Verdict[other].severity

    def __le__(self, other: str) -> bool:
        return self.severity <= Verdict[other].severity

    def __gt__(self, other: str) -> bool:
        return self.severity > Verdict[other].severity

    def __ge__(self, other: str) -> bool:
        return self.severity >= Verdict[other].severity

    __repr__ = str.__repr__  # a report shows the plain word


EXACT, ROUNDING, WITHIN, UNDECIDED, INACCURATE, WRONG = Verdict

#: Which side's gradient is the derivative of forward.
BOTH, BY_HAND, AUTOGRAD, NEITHER = "both", "by hand", "autograd", "neither"


@dataclass(frozen=True)
class Diagnosis:
    """The result of a search for fixes of a WRONG quantity, or for code that matches all bits.

    Attributes:
        found: The fixes as texts, simplest first; each was tried and is correct.
        note: A remark on the extent of the search.
    """

    found: tuple[str, ...]
    note: str = ""

    @classmethod
    def of(cls, search: Callable[..., "Diagnosis | None"], *arguments: Any) -> "Diagnosis | None":
        """Return the result of a search; if it fails, a note says so and the verdict stands."""
        try:
            return search(*arguments)
        except Exception as error:
            return cls((), f"the search failed: {type(error).__name__}: {error}")


@dataclass(frozen=True)
class OtherInputs:
    """The result of repeating a check at other inputs.

    Attributes:
        tried: Whether the formulas were judged at other inputs.
        text: A remark for the report; empty if there is none.
    """

    tried: bool = False
    text: str = ""


@dataclass(frozen=True)
class Proof:
    """The evidence for a verdict, beyond the comparison of bits.

    Attributes:
        verdict: The verdict.
        text: What was shown, or why it could not be shown.
        lifted: Whether both formulas were shown to be the same in exact arithmetic.
        obstacle: Why nothing could be shown about the formulas, so that the numbers alone can
            decide; "" if they were compared.
        tried: The inputs at which the numbers were judged, if they alone were.
        resolution: The smallest relative error that would have shown there, of all elements.
        manual_error: The by-hand distance from the exact value in ulps, of the worst element.
        autograd_error: The same for autograd.
        manual_bits: The number of correct bits by hand, over all elements together.
        autograd_bits: The same for autograd.
        both_lost: A text if neither side has half of the bits of the dtype.
        accepted: The difference between the two formulas, if the user accepts it.
        shortfall: A text if the by-hand side has lost many more bits than autograd, such as "keeps
            5.0 of autograd's 20.0 correct bits".
        share: The share of the rounding bound that was used, of the worst element.
        kinks: The number of elements that are another subgradient than autograd's.
        at: The index of the element where the two formulas differ.
        step: In a training run the first step that showed the verdict.
        diagnosis: The result of a search for fixes; None if there was no search.
        line: The line of code that computes a WRONG quantity by hand: `file.py:14  its text`.
    """

    verdict: Verdict
    text: str
    lifted: bool = False
    obstacle: str = ""
    tried: str = ""
    resolution: float | None = None
    manual_error: float | None = None
    autograd_error: float | None = None
    manual_bits: float | None = None
    autograd_bits: float | None = None
    both_lost: str = ""
    accepted: str = ""
    shortfall: str = ""
    share: float | None = None
    kinks: int = 0
    at: tuple[int, ...] | None = None
    step: int | None = None
    diagnosis: Diagnosis | None = None
    line: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return the proof as a dict for JSON."""
        return {
            "text": self.text,
            "lifted": self.lifted,
            "manual_error_ulp": self.manual_error,
            "autograd_error_ulp": self.autograd_error,
            "manual_bits": self.manual_bits,
            "autograd_bits": self.autograd_bits,
            "share_of_bound": self.share,
            "tried": self.tried or None,
            "resolution": self.resolution,
            "kinks": self.kinks,
            "at": None if self.at is None else list(self.at),
            "line": self.line or None,
        }
