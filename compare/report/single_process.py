"""What the updates of several ranks are, beside those of one process."""

from dataclasses import dataclass, field
from typing import Any

from compare.proof.verdict import EXACT, UNDECIDED, Verdict


@dataclass
class SingleProcessResult:
    """What was found so far."""

    steps: list[int] = field(default_factory=list)
    share: float = 0.0  # of the bound, the largest
    verdict: Verdict = EXACT
    name: str = ""  # of the update that decided it
    why: str = ""  # there is no bound
    chunks: int = 0  # so far

    @property
    def text(self) -> str:
        """Return the verdict and what it rests on, in one line."""
        at = ", ".join(map(str, self.steps[:8])) + (", ..." if self.steps[8:] else "")
        if self.verdict == EXACT:
            return f"EXACT: its updates have the same bits, at steps {at}"
        if self.verdict == UNDECIDED:
            return f"UNDECIDED: no bound on {self.name} ({self.why})"
        far = f"{self.name} is apart by {self.share:.2g} of what another order of sums can round"
        return f"{self.verdict}: at most, {far}; at steps {at}"

    def to_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {
            "verdict": self.verdict,
            "steps": self.steps,
            "name": self.name,
            "share_of_bound": self.share,
            "why": self.why,
        }

    def decide(self, verdict: Verdict, name: str, share: float, why: str) -> None:
        """Keep the gravest verdict, of several the one that comes nearest to its bound."""
        if (verdict, share) > (self.verdict, self.share):
            self.verdict, self.share, self.name, self.why = verdict, share, name, why
