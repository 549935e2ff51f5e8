"""One named quantity: how many of its bits are equal, where they are not, and what was shown."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from compare.proof.bits import Difference, Place, compare_bits, mismatch
from compare.proof.verdict import EXACT, UNDECIDED, WRONG, Diagnosis, Proof, Verdict
from compare.state_dict import plain


@dataclass
class Quantity:
    """One named quantity over all compared steps and networks."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    compared: int = 0
    equal: int = 0
    nans: int = 0
    max_ulp: int = 0
    first_unequal: int | None = None  # the step
    worst: Place | None = None
    problem: str | None = None  # why it could not be compared at all
    proof: Proof | None = None

    @classmethod
    def of(cls, name: str, manual: Tensor | None, autograd: Tensor) -> "Quantity":
        """Return one quantity with its bits compared; `manual` is None where it is missing."""
        row = cls(name, tuple(autograd.shape), str(autograd.dtype).removeprefix("torch."))
        if manual is None:
            row.problem = (
                "missing by hand: return its gradient (None for zero), or say which inputs need "
                "one with requires_grad=True"
            )
            return row
        row.problem = mismatch(manual, autograd)
        if row.problem:
            return row
        found = compare_bits(manual, autograd)
        row.add(found, found.worst)
        return row

    def add(self, found: Difference, worst: Place | None) -> None:
        """Add what was found for some of its elements, at `worst` the furthest apart."""
        self.compared += found.total
        self.equal += found.equal
        if worst and worst.outranks(self.max_ulp, nan=self.nans > 0):
            self.worst = worst
        self.nans += found.nans
        self.max_ulp = max(self.max_ulp, found.max_ulp)

    @property
    def verdict(self) -> Verdict:
        """The proof's; without one EXACT for equal bits, WRONG for a NaN, else UNDECIDED."""
        if self.problem or self.nans:
            return WRONG
        if self.proof:
            return self.proof.verdict
        if self.compared and self.equal == self.compared:
            return EXACT
        return UNDECIDED

    @property
    def diagnosis(self) -> Diagnosis | None:
        """What a search found that would make it right, or exact; None where there was none."""
        return self.proof.diagnosis if self.proof else None

    @property
    def total(self) -> int:
        """How many elements were compared."""
        return self.compared

    @property
    def worst_index(self) -> tuple[int, ...] | None:
        """Where the two are furthest apart, None where they are nowhere."""
        return self.worst.index if self.worst else None

    @property
    def manual(self) -> float | None:
        """The by-hand value there."""
        return self.worst.manual if self.worst else None

    @property
    def autograd(self) -> float | None:
        """Autograd's value there."""
        return self.worst.autograd if self.worst else None

    def to_dict(self) -> dict[str, Any]:
        """Return the contract's fields of result.json."""
        return {
            **plain(self),
            "worst": self.worst and self.worst.to_dict(),
            "proof": self.proof and self.proof.to_dict(),
            "diagnosis": plain(self.diagnosis),
            "verdict": self.verdict,
        }
