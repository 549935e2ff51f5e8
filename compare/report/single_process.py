"""The ranks' summed updates, compared with the updates of a single process."""

from dataclasses import dataclass, field
from typing import Any

from compare.proof.verdict import EXACT, UNDECIDED, Verdict


@dataclass
class SingleProcessResult:
    """The result of the comparisons so far."""

    steps: list[int] = field(default_factory=list)  # at which the two were compared
    share: float = 0.0  # largest difference, as a fraction of the rounding bound
    verdict: Verdict = EXACT
    name: str = ""  # the update that decided the verdict
    why: str = ""  # reason for which there is no bound
    chunks: int = 0  # compared so far

    @property
    def text(self) -> str:
        """The verdict and the finding that it rests on, in one line."""
        at = ", ".join(map(str, self.steps[:8])) + (", ..." if self.steps[8:] else "")
        if self.verdict == EXACT:
            return f"EXACT: its updates have the same bits at steps {at}"
        if self.verdict == UNDECIDED:
            return f"UNDECIDED: no rounding bound for {self.name} ({self.why})"
        bound = "the rounding bound for another order of summation"
        largest = f"largest difference: {self.name}, {self.share:.2g} of {bound}"
        return f"{self.verdict}: {largest}; compared at steps {at}"

    def to_dict(self) -> dict[str, Any]:
        """Return the result as plain values for JSON."""
        return {
            "verdict": self.verdict,
            "steps": self.steps,
            "name": self.name,
            "share_of_bound": self.share,
            "why": self.why,
        }

    def decide(self, verdict: Verdict, name: str, share: float, why: str) -> None:
        """Keep the gravest verdict; among equal ones, that with the largest share of its bound."""
        if (verdict, share) > (self.verdict, self.share):
            self.verdict, self.share, self.name, self.why = verdict, share, name, why
