"""Adds up, chunk by chunk, what the comparison of each named quantity found."""

import math
from collections.abc import Mapping
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
from compare.state_dict import Count, Stateful, Types, require
from compare.training.adapters import Named

_OF_BITS = "manual_bits", "autograd_bits", "both_lost", "shortfall"


class Tally(Stateful):
    """The rows of a report while its run goes on."""

    STATE = Types(
        first=dict[str, TensorSpec], proofs=dict[str, list[tuple[Count, Proof]]],
        bounds=dict[str, tuple[float | None, Count]],
    )  # fmt: skip

    def __init__(self, report: Report, seed: int) -> None:
        self.report = report
        self.seed = seed  # of the first network; the next ones have seed + 1, seed + 2, ...
        self.first: dict[str, TensorSpec] = {}
        self.proofs: dict[str, list[tuple[int, Proof]]] = {}
        self.bounds: dict[str, tuple[float | None, int]] = {}

    def check_state(self, found: Any) -> None:
        """Raise ValueError where it does not go with the rows of the report."""
        rows = self.report.quantities
        known = {name for name, row in rows.items() if row.problem is None}
        require(known == {*found.first}, "first", "other names than the quantities")
        require({*found.proofs} <= {*rows}, "proofs", "of no quantity")
        require(all(found.proofs.values()), "proofs", "none of a quantity")

    def open(self, manual: Named, autograd: Mapping[str, Tensor | TensorSpec]) -> bool:
        """Make a row for every name of either side; return whether all can be compared.

        A name that one side lacks, another shape, dtype or device is the row's `problem`.
        Nothing is broadcast or converted.
        """
        for name in dict.fromkeys([*autograd, *manual]):
            one, other = manual.get(name), autograd.get(name)
            if one is None and name in self.report.unnamed:
                continue
            some = autograd[name] if one is None else one
            row = Quantity(name, tuple(some.shape[1:]), short(some.dtype))
            if one is None or other is None:
                row.problem = f"missing {'by hand' if one is None else 'on the autograd side'}"
            else:
                row.problem = mismatch(one, other)
            self.report.quantities[name] = row
        return all(row.problem is None for row in self.report.quantities.values())

    def comparable(self, steps: list[Named], networks: int) -> int:
        """Return how many steps, from the first on, have the names, shapes, dtypes and devices.

        Shapes but for the leading dimension, which is `networks`.

        The first that has not gets the row's `problem`: nothing later can be compared.
        """
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
            step, odd = self.report.steps + k, False
            for name in dict.fromkeys([*known, *named]):
                if name in known and name in named:
                    why = mismatch(named[name], known[name], "at first")
                else:
                    why = "missing" if name in known else "new, and unknown to autograd"
                    why += " by hand"
                if why:
                    odd = True
                    row = self.report.quantities.setdefault(name, Quantity(name, (), ""))
                    row.problem, row.first_unequal = f"from step {step} on {why}", step
            if odd:
                return k
        return len(steps)

    def add(self, name: str, start: int, found: Difference, network: int = 0) -> None:
        """Add what was found for (steps, networks, ...) values from `start` and `network` on."""
        row = self.report.quantities[name]
        worst = found.worst
        if worst:
            if row.first_unequal is None:
                row.first_unequal = start + found.first
            step, nth, *index = worst.index
            seed = self.seed + network + nth
            worst = replace(worst, index=tuple(index), step=start + step, seed=seed)
        row.add(found, worst)

    def prove(self, step: int, proofs: dict[str, Proof]) -> None:
        """Keep what was shown of one sampled step."""
        for name, proof in proofs.items():
            self.proofs.setdefault(name, []).append((step, proof))

    def bound(self, name: str, share: float | None, step: int) -> None:
        """Keep the largest share that a difference has of what both sides may round.

        None, where there is no bound, and NaN are kept before any number.
        """
        known, _ = self.bounds.get(name, (-1.0, step))
        if known is None or math.isnan(known):
            return
        if share is None or not share <= known:
            self.bounds[name] = (share, step)

    def conclude(self) -> None:
        """Turn bits, sampled proofs and bounds into each row's verdict."""
        for name, row in self.report.quantities.items():
            if row.problem is None and name in self.proofs:
                row.proof = self._conclude(row)

    def _conclude(self, row: Quantity) -> Proof:
        proofs = self.proofs[row.name]
        errors: dict[str, Any] = {
            side: max((e for _, p in proofs if (e := getattr(p, side)) is not None), default=None)
            for side in ("manual_error", "autograd_error")
        }
        known = [p for _, p in proofs if p.manual_bits is not None]
        if known:
            least = min(known, key=attrgetter("manual_bits"))
            errors |= {n: getattr(least, n) for n in _OF_BITS}
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
        told = next((p.diagnosis for _, p in proofs if p.verdict == ROUNDING), None)
        return Proof(ROUNDING, text, True, **errors, share=share, diagnosis=told)

    @property
    def unequal(self) -> int:
        """Elements so far that differ."""
        return sum(row.compared - row.equal for row in self.report.quantities.values())
