"""Tests whether a mutant computes the same formula as the pass it was made from.

Operations that a mutation does not affect keep their exact values, and all mutants share one
reference, so both are computed once. One differing quantity is enough: the first of them is the one
that `check` calls WRONG, and those before it agree.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import flint
import torch
from torch import Tensor, fx

from compare.mutants.mutate import Mutant
from compare.mutants.subjects import Subject
from compare.proof.balls import PRECISION
from compare.proof.bits import mismatch
from compare.proof.exact_arithmetic import ExactArithmetic
from compare.proof.exact_values import finite
from compare.proof.interpreter import Cache, Lifted, Unsupported, lift
from compare.proof.literals import AS_WRITTEN, IN_ANY_READING, Reading
from compare.proof.program import Key, Program
from compare.proof.rounding import largest_terms
from compare.proof.same_formula import same_formula


class EquivalenceTest:
    """A pass with every operation lifted, against which its mutants are tested."""

    def __init__(self, subject: Subject, order: Sequence[str]) -> None:
        self.subject, self.order = subject, order  # order of the quantities, as in `check`
        self._lifts: dict[Reading, tuple[ExactArithmetic, Cache]] = {}

    @property
    def floats(self) -> dict[fx.Node, Any]:
        """The float value of each operation of the pass."""
        _, values = self._lifted_pass(AS_WRITTEN)
        return {node: value.floats for node, value in values.items()}

    def test(self, mutant: Mutant) -> tuple[bool | None, str | None]:
        """Return whether a mutant is equivalent to the pass, and where the decision fell.

        The first item is True if every quantity has the same formula, False if one has another,
        and None if one could not be decided before any other was seen to differ. The second is
        the quantity that differs or could not be decided, None if there is none.
        """
        for name in self.order:
            node = self.subject.manual_program.outputs[name]
            mutated_node = mutant.program.outputs[name]
            if mutant.unchanged.get(mutated_node) is node:
                continue
            same = self._same_formula(name, mutant, AS_WRITTEN)
            if same is False and self._same_formula(name, mutant, IN_ANY_READING) is not False:
                same = None  # it depends on how literals in the code are read
            if not same:
                return same, name
        return True, None

    def _lifted_pass(self, reading: Reading) -> tuple[ExactArithmetic, Cache]:
        """Return the unmutated pass with every operation lifted."""
        if reading not in self._lifts:
            cache: Cache = {}
            n = self.subject.pair.exact_arithmetic(reading)
            self._lift(self.subject.manual_program, n, cache)
            self._lifts[reading] = n, cache
        return self._lifts[reading]

    def _lift(
        self,
        program: Program,
        n: ExactArithmetic,
        cache: Cache,
        only: list[str] | None = None,
    ) -> dict[Key, Lifted]:
        pair = self.subject.pair
        _, numbers = pair.lifted_manual_inputs(pair.lifted_reference(n.reading).outputs)
        return lift(program, n, self.subject.program_inputs, numbers, only=only, cache=cache)

    def _same_formula(self, name: str, mutant: Mutant, reading: Reading) -> bool | None:
        """Compare one quantity as the judge does; None if the formulas alone do not decide."""
        n, values = self._lifted_pass(reading)
        cache = {copy: values[node] for copy, node in mutant.unchanged.items()}
        mutated = self._lift(mutant.program, n, cache, [name])[name]
        original = values[self.subject.manual_program.outputs[name]].floats
        if mismatch(mutated.floats, original) is not None or bool(mutated.floats.isnan().any()):
            return False
        reference = self.subject.pair.lifted_reference(reading).outputs[name]
        if isinstance(mutated.numbers, Unsupported) or isinstance(reference.numbers, Unsupported):
            return None
        if not finite(mutated.numbers).all() and not n.skipped:
            return None
        with torch.no_grad(), flint.ctx.workprec(PRECISION):
            return same_formula(
                mutated.numbers, reference.numbers, mutated.floats.dtype,
                terms=lambda: self._terms[name], sampled=self.subject.pair.entries is not None,
            ).same  # fmt: skip

    @cached_property
    def _terms(self) -> dict[Key, Tensor | None]:
        """The largest terms that the reference adds up."""
        return largest_terms(self.subject.reference, self.subject.pair.inputs)
