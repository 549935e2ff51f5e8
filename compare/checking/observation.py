"""What one run of code shows about its numbers: how far they are from the exact ones, and how."""

import math
from dataclasses import dataclass

import torch

from compare.checking.trials import SCALED, WHOLE, Trial
from compare.proof.bits import unravel
from compare.proof.limits import ELEMENT_SLACK, Numbers, Projection
from compare.proof.rounding import LOSS_FACTOR

# An error beyond ELEMENT_SLACK times the bound may be digits that the code loses. This many times
# further it is WRONG, unless the same code is right in a wider dtype.
GROSS = 8.0
# A relative error that is no loss of digits: the code does something else.
GARBAGE = 2.0**20
# A row or a column may share one rounding: its error counts beyond this many times the limit.
ONE_LINE = 4.0
# Lost digits shrink with the unit of the dtype, up to this factor; a wrong formula does not.
SHRINKS = 64.0


@dataclass(frozen=True)
class Observation:
    """What a trial showed of one quantity.

    Attributes:
        trial: The trial.
        dtype: The dtype of the quantity.
        share: The largest error, in shares of the reference's bound.
        at: The index of that element.
        projection: The systematic error of all elements.
        systematic: Why the error is systematic, "" if it is not.
        factor: The relative error in that, infinite for a missing or an extra term.
        excess: The same in shares of what roundings explain.
        lost: The number of elements that are not finite by hand.
        unknown: The number of elements that have no bound, and not autograd's value.
        bits: The number of correct bits by hand and by autograd.
        ratio: The norm of the error in that of autograd's.
        relative: The norm of the error in that of the exact value.
        noise: Whether the systematic part is no larger than the scatter of the errors.
        uniform: Whether the by-hand value is one multiple of the exact value.
        scale: The largest magnitude of the exact values.
        largest: The largest error.
        one_is_far: Whether most elements are right, and one is far off.
        estimated: Whether the reference's bound is an estimate.
        exact: Whether each element is the exact value, rounded once.
    """

    trial: Trial
    dtype: torch.dtype
    share: float
    at: tuple[int, ...]
    projection: Projection
    systematic: str
    factor: float
    excess: float
    lost: int
    unknown: int
    bits: tuple[float, float]
    ratio: float
    relative: float
    noise: bool
    uniform: bool
    scale: float
    largest: float
    one_is_far: bool
    estimated: bool
    exact: bool

    @classmethod
    def of(cls, trial: Trial, numbers: Numbers) -> "Observation":
        """Return what the numbers of one quantity show."""
        shares = numbers.shares
        worst = int(shares.argmax())
        if trial.kind == SCALED:  # a range that the code does not cover is told, and no fault
            lost, numbers = int(numbers.lost.sum()), numbers.without_lost()
        else:
            lost = int(numbers.lost.sum())
        brief = trial.kind in (SCALED, WHOLE)
        projection = numbers.projection(brief=brief)
        manual, autograd = numbers.norms
        size = float(numbers.exact[numbers.known].norm())
        systematic, factor, excess, uniform = _systematic(trial, numbers, projection)
        return cls(
            trial=trial, dtype=numbers.dtype, share=float(shares.flatten()[worst]),
            at=unravel(worst, tuple(shares.shape)), projection=projection,
            systematic=systematic, factor=factor, excess=excess, lost=lost,
            unknown=int((~numbers.known & (numbers.manual != numbers.autograd)).sum()),
            bits=numbers.bits(), ratio=manual / autograd if autograd else 1.0,
            relative=manual / size if size else 0.0,
            noise=numbers.is_noise(projection),
            uniform=uniform or numbers.is_uniform(projection), scale=numbers.scale,
            largest=float(numbers.error.abs().nan_to_num(0.0, 0.0).max()),
            one_is_far=numbers.one_is_far(),
            estimated=numbers.deviation is None, exact=numbers.is_exact,
        )  # fmt: skip

    @property
    def within(self) -> bool:
        """Whether the numbers are within all limits."""
        return not self.systematic and not self.lost and self.share <= ELEMENT_SLACK

    @property
    def gross(self) -> bool:
        """Whether an element is further off than lost digits usually are."""
        return self.share > GROSS * ELEMENT_SLACK

    @property
    def has_lost_digits(self) -> bool:
        """Whether fewer than half of autograd's bits are left."""
        manual, autograd = self.bits
        is_rounding = self.relative < GARBAGE
        return self.ratio > LOSS_FACTOR and manual < autograd / 2 and is_rounding

    def is_right_beside(self, narrow: "Observation") -> bool:
        """Whether the formula is right: the error shrinks with the unit of the wider dtype.

        Args:
            narrow: The same run in a narrower dtype.
        """
        shrunk = self.projection.unit / narrow.projection.unit
        return self.within or self.relative <= SHRINKS * narrow.relative * shrunk

    def problem(self) -> str:
        """Return in words how the numbers leave the limits, "" if they do not."""
        if self.systematic:
            return f"{self.trial.words} {self.systematic}"
        if self.lost:
            return f"{self.trial.words} {self.lost:,} elements are not finite by hand"
        if self.share > ELEMENT_SLACK:
            bound = "times autograd's rounding bound"
            return (
                f"{self.trial.words} the error by hand is {self.share:.3g} {bound} at {[*self.at]}"
            )
        return ""


def _systematic(
    trial: Trial, numbers: Numbers, whole: Projection
) -> tuple[str, float, float, bool]:
    """Return why the error is systematic, its size, its excess, and whether it is uniform.

    "" and zeros if it may be rounding.
    """
    if trial.kind == WHOLE and (off := numbers.off_by_whole_numbers()) is not None:
        exact, manual = (float(v[off]) for v in (numbers.exact, numbers.manual))
        text = f"it is {manual:.9g} by hand and {exact:.9g} exactly at {[*off]}"
        return f"{text}: a term is missing or extra", math.inf, math.inf, True
    for part in (None, *numbers.parts()):
        projection = whole if part is None else numbers.projection(part)
        if abs(projection.value) > projection.limit * (
            1 if part is None else ONE_LINE
        ) and not numbers.is_noise(projection, part):
            where = ""
            if part is not None:
                where = f" in elements such as {part.nonzero()[0].tolist()}"
            size = abs(projection.value)
            uniform = numbers.is_uniform(projection, part)
            return f"{projection}{where}", size, size / projection.limit, uniform
    return "", 0.0, 0.0, False
