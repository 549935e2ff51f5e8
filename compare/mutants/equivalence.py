"""A mutant's formulas, lifted only where they can differ from those of the pass it was made of.

What stands above the wrong operation gives what it gave, and the reference is the same for all
mutants: both are lifted once. `check` calls the first quantity that is another formula WRONG, and
those before it, which are the same formula still, not; so where there is one no more is asked.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import flint
import numpy as np
import torch
from torch import Tensor, fx

from compare.mutants.mutate import Mutant
from compare.mutants.subjects import Subject
from compare.proof.balls import PRECISION, Balls
from compare.proof.bits import mismatch
from compare.proof.interpreter import Cache, Lifted, Unsupported, lift
from compare.proof.literals import AS_WRITTEN, IN_ANY_READING, Reading
from compare.proof.program import Key, Program
from compare.proof.rounding import largest_terms
from compare.proof.same_formula import same_formula


class Formulas:
    """A pass with each of its operations lifted, to compare mutants of it with the reference."""

    def __init__(self, subject: Subject, order: Sequence[str]) -> None:
        self.subject, self.order = subject, order  # of the quantities, as `check` has them
        self.lifts: dict[Reading, tuple[Balls, Cache]] = {}

    @property
    def floats(self) -> dict[fx.Node, Any]:
        """What each operation of the pass gives."""
        _, every = self._pass(AS_WRITTEN)
        return {node: value.floats for node, value in every.items()}

    def same(self, mutant: Mutant) -> tuple[bool | None, str | None]:
        """Return whether a mutant is shown to be the same formula, and if not where it is not.

        None: a quantity could not be told before any was seen to be another formula.
        """
        for name in self.order:
            own, node = self.subject.manual_program.outputs[name], mutant.program.outputs[name]
            if mutant.unchanged.get(node) is own:
                continue
            same = self._same(name, mutant, AS_WRITTEN)
            if same is False and self._same(name, mutant, IN_ANY_READING) is not False:
                same = None  # it depends on how the numbers in the code are read
            if not same:
                return same, name
        return True, None

    def _pass(self, reading: Reading) -> tuple[Balls, Cache]:
        """Return the pass itself lifted, every operation of it."""
        if reading not in self.lifts:
            cache: Cache = {}
            n = Balls(self.subject.pair.entries, reading)
            self._lifted(self.subject.manual_program, n, cache)
            self.lifts[reading] = n, cache
        return self.lifts[reading]

    def _lifted(
        self, program: Program, n: Balls, cache: Cache, only: list[str] | None = None
    ) -> dict[Key, Lifted]:
        pair = self.subject.pair
        _, numbers = pair.lifted_manual_inputs(pair.lifted_reference(n.reading).outputs)
        return lift(program, n, self.subject.given, numbers, only=only, cache=cache)

    def _same(self, name: str, mutant: Mutant, reading: Reading) -> bool | None:
        """Compare one quantity as the judge does; None where it needs more than both formulas."""
        n, every = self._pass(reading)
        cache = {copy: every[node] for copy, node in mutant.unchanged.items()}
        mine = self._lifted(mutant.program, n, cache, [name])[name]
        before = every[self.subject.manual_program.outputs[name]].floats
        if mismatch(mine.floats, before) is not None or bool(mine.floats.isnan().any()):
            return False
        theirs = self.subject.pair.lifted_reference(reading).outputs[name]
        if isinstance(mine.numbers, Unsupported) or isinstance(theirs.numbers, Unsupported):
            return None
        finite = all(ball.is_finite() for ball in np.asarray(mine.numbers, dtype=object).ravel())
        if not finite and not n.skipped:
            return None
        with torch.no_grad(), flint.ctx.workprec(PRECISION):
            return same_formula(
                mine.numbers, theirs.numbers, mine.floats.dtype,
                terms=lambda: self._terms[name], sampled=self.subject.pair.entries is not None,
            ).same  # fmt: skip

    @cached_property
    def _terms(self) -> dict[Key, Tensor | None]:
        """The largest terms that the reference adds up."""
        return largest_terms(self.subject.reference, self.subject.pair.inputs)
