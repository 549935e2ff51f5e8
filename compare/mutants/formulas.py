"""A mutant's formulas, lifted only where they can differ from those of the pass it was made of.

What stands above the wrong operation gives what it gave, and the reference is the same for all
mutants: both are lifted once. `check` calls the first quantity that is another formula WRONG, and
those before it, which are the same formula still, not; so where there is one no more is asked.
"""

from collections.abc import Sequence
from typing import Any

import flint
import numpy as np
import torch
from torch import fx

from compare.mutants.mutate import Mutant
from compare.mutants.subjects import Subject
from compare.proof.balls import PRECISION, Balls
from compare.proof.bits import mismatch
from compare.proof.formula import same_formula
from compare.proof.lift import Lifted, Missing, Seen, lift
from compare.proof.program import Program


class Formulas:
    """A pass with each of its operations lifted, to compare mutants of it with the reference."""

    def __init__(self, subject: Subject, order: Sequence[str]) -> None:
        self.subject, self.order = subject, order  # of the quantities, as `check` has them
        self.balls = Balls(subject.entries)
        self.seen: Seen = {}
        self._lifted(subject.hand, self.seen)

    @property
    def floats(self) -> dict[fx.Node, Any]:
        """What each operation of the pass gives."""
        return {node: floats for node, (floats, _) in self.seen.items()}

    def same(self, mutant: Mutant) -> tuple[bool | None, str | None]:
        """Return whether a mutant is shown to be the same formula, and if not where it is not.

        None: a quantity could not be told before any was seen to be another formula.
        """
        seen = {copy: self.seen[node] for copy, node in mutant.unchanged.items()}
        for name in self.order:
            own, node = self.subject.hand.outputs[name], mutant.program.outputs[name]
            if mutant.unchanged.get(node) is own:
                continue
            same = self._same(name, self._lifted(mutant.program, seen, [name])[name])
            if not same:
                return same, name
        return True, None

    def _lifted(
        self, program: Program, seen: Seen, only: list[str] | None = None
    ) -> dict[str, Lifted]:
        given, numbers = self.subject.given, self.subject.given_numbers
        return lift(program, self.balls, given, numbers, only=only, seen=seen)

    def _same(self, name: str, mine: Lifted) -> bool | None:
        """Compare one quantity as the judge does; None where it needs more than both formulas."""
        before, _ = self.seen[self.subject.hand.outputs[name]]
        if mismatch(mine.floats, before) is not None or bool(mine.floats.isnan().any()):
            return False
        theirs = self.subject.lifted[name]
        if isinstance(mine.numbers, Missing) or isinstance(theirs.numbers, Missing):
            return None
        finite = all(ball.is_finite() for ball in np.asarray(mine.numbers, dtype=object).ravel())
        if not finite and not self.balls.skipped:
            return None
        with torch.no_grad(), flint.ctx.workprec(PRECISION):
            return same_formula(
                mine.numbers, theirs.numbers, noise=lambda: self.subject.noise[name],
                sampled=self.subject.entries is not None,
            ).same  # fmt: skip
