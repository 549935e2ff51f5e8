"""Passes that are too large to compute exactly, or to bound at once: block by block of rows.

A pass over a batch gives each row its own gradient, and adds up the rows' parts of a weight's. So
the bounds of blocks of rows bound the whole: those of a row's gradient as they are; and those of a
sum added up, times the number of blocks, because the bound on rounding a sum grows with the number
of its terms (Higham, Accuracy and Stability of Numerical Algorithms, section 4.2).
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from torch import Tensor

from compare.checking.smaller_inputs import SmallerInputs, at_smaller_inputs
from compare.passes.inputs import Values, tensors
from compare.passes.passes import Passes
from compare.progress import counted
from compare.proof.bits import real_view, same_bits
from compare.proof.bounds import Bound
from compare.proof.judge import judge
from compare.proof.lifted_pair import LiftedPair
from compare.proof.literals import AS_WRITTEN
from compare.proof.pair import Pair
from compare.proof.rounding import largest_share, share_of_rounding
from compare.proof.verdict import EXACT, INACCURATE, ROUNDING, UNDECIDED, WRONG, Proof

T = TypeVar("T")

#: Elements of inputs and intermediates in a block.
IN_A_BLOCK = 2_000_000


@dataclass(frozen=True)
class Blocks:
    """The proofs of a whole pass, from blocks of its rows.

    Attributes:
        autograd: Autograd's values at the given inputs.
        proofs: The proof of each quantity.
        small: The formulas, compared at the first block or at smaller inputs.
        words: How many blocks of how many rows.
    """

    autograd: dict[str, Tensor]
    proofs: dict[str, Proof]
    small: SmallerInputs
    words: str


def in_blocks_of_rows(passes: Passes) -> Blocks | None:
    """Return the proofs of a pass over many rows, None if its rows cannot be told apart.

    Args:
        passes: Both passes at the given inputs.
    """
    inputs = tensors(passes.forward.inputs)
    count = sum(v.numel() for v in [*inputs.values(), *passes.forward.intermediates.values()])
    batches = sorted(inputs.values(), key=Tensor.numel, reverse=True)
    for size in dict.fromkeys(value.shape[0] for value in batches if value.ndim):
        rows = max(1, size * IN_A_BLOCK // count)
        scales = {1.0, rows / size} if passes.forward.outputs[0].ndim == 0 else {1.0}
        for scale in sorted(scales, reverse=True) if rows < size else ():
            found = _attempt(lambda: _Blocks(passes, size, rows, scale).judged())  # noqa: B023
            if found is not None:
                return found
    return None


def _attempt(call: Callable[[], T]) -> T | None:
    """Call something that runs the user's code, which may raise anything with fewer rows."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return call()
        except Exception:
            return None


class _Blocks:
    """Blocks of `rows` of the `size` rows that some inputs have.

    Args:
        passes: Both passes.
        size: How many rows there are.
        rows: Those of a block.
        scale: Of the cotangent of a scalar, rows / size for a loss that is the mean over all rows.
    """

    def __init__(self, passes: Passes, size: int, rows: int, scale: float) -> None:
        self.passes, self.size, self.rows, self.scale = passes, size, rows, scale
        self.starts = range(0, size, rows)
        self.manual = {name: real_view(value) for name, value in passes.manual.items()}

    def judged(self) -> Blocks | None:
        """Return the proof of each quantity; None if some block is no part of the whole."""
        first = self._traced(0)
        _, pair = first.with_autograd(first.manual, first.manual_program)
        small = at_smaller_inputs(first, pair, even_if_small=True)
        if small is None or pair.manual.keys() != self.manual.keys():
            return None
        whole = self.passes.autograd(self.passes.manual)
        autograd = {name: real_view(value) for name, value in whole.items()}
        worst: dict[str, Proof] = {}
        sums: dict[str, list[tuple[Tensor, Tensor]]] = {}
        for start in counted("bounds of a block of rows", self.starts):
            block = self._block(first, start, autograd)
            by_row = [k for k in block.manual if self._is_by_row(k, pair)]
            proofs = judge(block, by_row, elsewhere=small.proofs) if by_row else {}
            for name, proof in proofs.items():
                if proof.verdict == UNDECIDED or not self._is_part(block, name, proof):
                    return None
                worst[name] = max(worst.get(name, proof), proof, key=_gravity)
            for name in block.manual.keys() - proofs.keys():
                sides = _bounds(block, name)
                if sides is None:
                    return None
                before = sums.get(name)
                sums[name] = (
                    sides
                    if before is None
                    else [
                        (value + more, error + further)
                        for (value, error), (more, further) in zip(before, sides, strict=True)
                    ]
                )
        for name, sides in sums.items():
            worst[name] = self._of_sum(name, autograd[name], sides, small.proofs[name])
        if worst.keys() != self.manual.keys() or any(
            proof.verdict in (UNDECIDED, INACCURATE) for proof in worst.values()
        ):
            return None
        words = f"{len(self.starts):,} blocks of {self.rows:,} rows"
        return Blocks(whole, {name: worst[name] for name in self.manual}, small, words)

    def _is_part(self, block: Pair, name: str, proof: Proof) -> bool:
        """Whether autograd's values of the whole are those of a block, to within rounding."""
        if proof.verdict != WRONG:
            return True
        sides = _bounds(block, name)
        return sides is not None and (
            largest_share(share_of_rounding(block.autograd[name], *sides[1])) <= 1
        )

    def _is_by_row(self, name: str, first: Pair) -> bool:
        return first.manual[name].shape != self.manual[name].shape

    def _traced(self, start: int) -> Passes:
        """Return the passes at a block of rows, traced there."""
        own = self.passes
        return Passes(
            own.backward.function, own.forward.function, self._inputs(start), own.seed,
            cotangents=self._cotangents(start), hold=own.hold, formula_ulps=own.formula_ulps,
        )  # fmt: skip

    def _inputs(self, start: int) -> dict[str, object]:
        return {k: self._part(v, start) for k, v in self.passes.forward.inputs.items()}

    def _cotangents(self, start: int) -> list[Tensor]:
        rows = min(self.rows, self.size - start)
        scale = 1.0 if self.scale == 1 else rows / self.size
        given = self.passes.forward.cotangents
        parts = [self._part(v * scale if v.ndim == 0 else v, start) for v in given]
        return [part for part in parts if isinstance(part, Tensor)]

    def _part(self, value: object, start: int) -> object:
        if not isinstance(value, Tensor) or not value.ndim or value.shape[0] != self.size:
            return value
        part = value.detach()[start : start + self.rows].clone()
        return part.requires_grad_(value.requires_grad)

    def _block(self, first: Passes, start: int, autograd: Values) -> Pair:
        """Return a block of rows as a pair, with the values of the whole passes."""
        if start + self.rows <= self.size:
            block = first.at(self._inputs(start), self._cotangents(start))
        else:  # fewer rows: another program
            block = self._traced(start)
        _, pair = block.with_autograd(block.manual, block.manual_program)
        manual, whole = (
            {k: self._rows_of(values[k], v, start) for k, v in pair.manual.items()}
            for values in (self.manual, autograd)
        )
        return replace(pair, manual=manual, autograd=whole)

    def _rows_of(self, value: Tensor, part: Tensor, start: int) -> Tensor:
        return value if value.shape == part.shape else value[start : start + self.rows]

    def _of_sum(
        self, name: str, autograd: Tensor, sides: Sequence[tuple[Tensor, Tensor]], formula: Proof
    ) -> Proof:
        """Return the proof of a quantity that is the sum of the blocks'."""
        manual = self.manual[name]
        shares = []
        for floats, (exact, error) in zip((manual, autograd), sides, strict=True):
            bound = len(self.starts) * (error + 2.0**-50 * exact.abs())
            shares.append(largest_share(share_of_rounding(floats, exact, bound)))
        if not shares[1] <= 1:  # the whole is no sum of the blocks
            return Proof(UNDECIDED, formula.text)
        if formula.verdict == WRONG:
            return formula if shares[0] > 1 else Proof(UNDECIDED, formula.text)
        if not shares[0] <= 1:
            text = (
                f"{formula.text}, but the error by hand is {shares[0]:.3g} times the rounding "
                "bound of its own operations"
            )
            return replace(formula, verdict=WRONG, text=text, share=shares[0])
        verdict = EXACT if same_bits(manual, autograd) else ROUNDING
        return replace(formula, verdict=verdict, lifted=True, share=max(shares))


def _gravity(proof: Proof) -> tuple[int, float]:
    return proof.verdict.severity, proof.share or 0.0


def _bounds(block: Pair, name: str) -> list[tuple[Tensor, Tensor]] | None:
    """Return a quantity's values in float64 and their bounds, by hand and of autograd."""
    lifted = LiftedPair(block, in_float64=True)
    sides = []
    for program in (block.manual_program, block.reference):
        quantity = lifted.quantity(program, AS_WRITTEN, name)
        if quantity is None or not isinstance(quantity.bound, Bound):
            return None
        sides.append((quantity.bound.value.cpu(), quantity.bound.error.cpu()))
    return sides
