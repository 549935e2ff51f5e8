"""Accumulate the differences, bounds and proofs of each quantity, chunk by chunk."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from operator import attrgetter, itemgetter
from typing import Any

import torch
from torch import Tensor

from compare.environment import short
from compare.proof.bits import Difference, TensorSpec, mismatch, tensor_spec
from compare.proof.verdict import EXACT, INACCURATE, ROUNDING, UNDECIDED, WRONG, Proof
from compare.report.quantity import Quantity
from compare.report.report import Report
from compare.stateful import Count, Stateful, Types, require
from compare.training.adapters import Named
from compare.training.chunking import Steps

_BIT_FIELDS = "manual_bits", "autograd_bits", "both_lost", "shortfall"


class Tally(Stateful):
    """Collects results for the rows of a report while a run goes on.

    Args:
        report: its `quantities` are filled.
        seed: seed of the first network of this process; the next ones have seed + 1, seed + 2, ...
    """

    STATE = Types(
        first=dict[str, TensorSpec], proofs=dict[str, list[tuple[Count, Proof]]],
        bounds=dict[str, tuple[float | None, Count]],
    )  # fmt: skip

    def __init__(self, report: Report, seed: int) -> None:
        self.report = report
        self.seed = seed
        self.first: dict[str, TensorSpec] = {}
        self.proofs: dict[str, list[tuple[int, Proof]]] = {}
        self.bounds: dict[str, tuple[float | None, int]] = {}

    def check_state(self, state: Any) -> None:
        """Raise ValueError for a state that does not fit the rows of the report."""
        rows = self.report.quantities
        compared = {name for name, row in rows.items() if row.problem is None}
        require(compared == {*state.first}, "first", "names other than the quantities")
        require({*state.proofs} <= {*rows}, "proofs", "proofs of an unknown quantity")
        require(all(state.proofs.values()), "proofs", "a quantity without proofs")

    def open(self, manual: Named, autograd: Mapping[str, Tensor | TensorSpec]) -> bool:
        """Make a row for every name of either side; return whether all can be compared.

        A name that one side lacks, or has with another shape, dtype or device, is the row's
        `problem`. Nothing is broadcast or converted.
        """
        for name in dict.fromkeys([*autograd, *manual]):
            by_hand, reference = manual.get(name), autograd.get(name)
            if by_hand is None and name in self.report.unnamed:
                continue
            present = autograd[name] if by_hand is None else by_hand
            row = Quantity(name, tuple(present.shape[1:]), short(present.dtype))
            if by_hand is None or reference is None:
                row.problem = f"missing {'by hand' if by_hand is None else 'on the autograd side'}"
            else:
                row.problem = mismatch(by_hand, reference)
            self.report.quantities[name] = row
        return all(row.problem is None for row in self.report.quantities.values())

    def comparable(self, steps: Sequence[Named], networks: int) -> int:
        """Return the number of leading steps with the names, shapes, dtypes and devices of step 0.

        The first step that differs becomes the row's `problem`, and no later one is compared.

        Args:
            steps: the by-hand values of each step.
            networks: leading dimension of each value.
        """
        if isinstance(steps, Steps):  # all of them have the names and shapes of the first
            return len(steps) * self.comparable([steps[0]], networks)
        rows = [name for name, row in self.report.quantities.items() if row.problem is None]
        if not self.first:
            self.first = {name: tensor_spec(steps[0][name][0]) for name in rows}
        known = {
            name: one._replace(shape=torch.Size((networks, *one.shape)))
            for name, one in self.first.items()
        }
        if all(named.keys() == known.keys() for named in steps) and all(
            set(map(attrgetter(*TensorSpec._fields), map(itemgetter(name), steps))) == {first}
            for name, first in known.items()
        ):
            return len(steps)
        for k, named in enumerate(steps):
            step, differs = self.report.steps + k, False
            for name in dict.fromkeys([*known, *named]):
                if name in known and name in named:
                    problem = mismatch(named[name], known[name], "at first")
                elif name in known:
                    problem = "missing by hand"
                else:
                    problem = "a new name by hand that autograd does not have"
                if problem:
                    differs = True
                    row = self.report.quantities.setdefault(name, Quantity(name, (), ""))
                    row.problem, row.first_unequal = f"from step {step} on: {problem}", step
            if differs:
                return k
        return len(steps)

    def add(self, name: str, start: int, difference: Difference, network: int = 0) -> None:
        """Add the difference of (steps, networks, ...) values.

        Args:
            name: name of the quantity.
            start: number of the first of these steps in the run.
            difference: the difference of both sides' bits.
            network: number of the first of these networks in this process.
        """
        row = self.report.quantities[name]
        worst = difference.worst
        if worst:
            if row.first_unequal is None:
                row.first_unequal = start + difference.first
            step, nth, *index = worst.index
            seed = self.seed + network + nth
            worst = replace(worst, index=tuple(index), step=start + step, seed=seed)
        row.add(difference, worst)

    def prove(self, step: int, proofs: dict[str, Proof]) -> None:
        """Record the proofs of a sampled step, by quantity."""
        for name, proof in proofs.items():
            self.proofs.setdefault(name, []).append((step, proof))

    def bound(self, name: str, share: float | None, step: int) -> None:
        """Record |by hand - autograd| / rounding bound of a step; the largest share is kept.

        A share of None (no bound could be computed) or NaN outranks every number.
        """
        known, _ = self.bounds.get(name, (-1.0, step))
        if known is None or math.isnan(known):
            return
        if share is None or not share <= known:
            self.bounds[name] = (share, step)

    def conclude(self) -> None:
        """Conclude each row's verdict from its bits, sampled proofs and bounds."""
        for name, row in self.report.quantities.items():
            if row.problem is None and name in self.proofs:
                row.proof = self._conclude(row)

    def _conclude(self, row: Quantity) -> Proof:
        proofs = self.proofs[row.name]
        errors: dict[str, Any] = {
            side: max((e for _, p in proofs if (e := getattr(p, side)) is not None), default=None)
            for side in ("manual_error", "autograd_error")
        }
        measured = [p for _, p in proofs if p.manual_bits is not None]
        if measured:
            least = min(measured, key=attrgetter("manual_bits"))
            errors |= {n: getattr(least, n) for n in _BIT_FIELDS}
        for verdict in (WRONG, INACCURATE):
            for step, proof in proofs:
                if proof.verdict == verdict:
                    return replace(proof, text=f"at step {step}: {proof.text}", step=step, **errors)
        sampled = ", ".join(str(step) for step, _ in proofs[:8]) + (", ..." if proofs[8:] else "")
        unread = next(((step, p) for step, p in proofs if not p.lifted), None)
        lifted = proofs[0][1].text.replace("at these inputs", f"at the sampled steps ({sampled})")
        if row.equal == row.compared:
            text = lifted if unread is None else unread[1].text
            return Proof(EXACT, text, unread is None, **errors)
        if unread is not None:
            return Proof(UNDECIDED, f"at step {unread[0]}: {unread[1].text}", **errors)
        share, step = self.bounds.get(row.name, (None, proofs[0][0]))
        if share is None or not math.isfinite(share):
            text = f"{lifted}; no rounding bound could be computed at step {step}"
            return Proof(UNDECIDED, text, True, **errors)
        if not share <= 1:
            text = (
                f"{lifted}; at step {step} the sides differ by {share:.3g} times the rounding bound"
            )
            return Proof(UNDECIDED, text, True, **errors, share=share)
        text = (
            f"{lifted}; at every step the sides differ by at most {share:.2g} of the rounding bound"
        )
        diagnosis = next((p.diagnosis for _, p in proofs if p.verdict == ROUNDING), None)
        return Proof(ROUNDING, text, True, **errors, share=share, diagnosis=diagnosis)

    @property
    def unequal(self) -> int:
        """Number of elements that differed so far."""
        return sum(row.compared - row.equal for row in self.report.quantities.values())
