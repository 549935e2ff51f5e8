"""What ranks together have added, beside one process that does all rows by itself.

The two are the same formula with its sums in another order, so each update may be apart by what
both runs can round, from the step's data and weights on, and by what the ranks' additions round.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from compare.cases import Case
from compare.proof.bits import same_bits
from compare.proof.bounds import Bound
from compare.proof.lift import Missing, lift
from compare.proof.program import Opaque, trace
from compare.proof.rounding import bounds_for, share_of_rounding
from compare.proof.verdict import EXACT, ROUNDING, UNDECIDED, WEIGHT, WRONG
from compare.training.chunk import Chunk
from compare.training.ranks import Ranks
from compare.training.sides import Named, by_hand, copies


@dataclass
class OneProcess:
    """What was found so far."""

    steps: list[int] = field(default_factory=list)
    share: float = 0.0  # of the bound, the largest
    verdict: str = EXACT
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

    def follow(
        self, case: Case, ranks: Ranks, chunk: Chunk, data: list[Named], state: Named, *,
        sums: Sequence[str], last: int, off: Opaque | None,
    ) -> None:  # fmt: skip
        """Have rank 0 do all rows of some steps, first and last among them; all ranks ask this.

        `data` has the rows of all ranks, `state` is what the chunk set out from, `sums` names the
        updates that ranks add up, and `last` is the step after the run's last one.
        """
        self.chunks += 1
        wanted = {0} if self.chunks & (self.chunks - 1) == 0 else set()
        wanted |= {chunk.steps - 1} if chunk.start + chunk.steps == last else set()
        ours = chunk.values["manual"]
        for k in sorted(wanted):
            parts = {name: ours[name.replace("_update", "_part")][k] for name in sums}
            sizes = {name: ranks.added(v.double().abs()) for name, v in parts.items()}
            told = ranks.gather(sides_taken(case, {n: v[k] for n, v in ours.items()}))
            sides = {name: torch.cat([each[name] for each in told], -2) for name in told[0]}
            if ranks.rank == 0:
                before = {name: ours[name][k - 1] for name in state} if k else state
                updates = {name: ours[name][k] for name in sums}
                step = chunk.start + k
                self.add(case, step, {**data[k], **before}, updates, sizes, ranks.count, sides, off)

    def add(
        self, case: Case, step: int, given: Named, updates: Named, sizes: Named, ranks: int,
        sides: Named, off: Opaque | None,
    ) -> None:  # fmt: skip
        """Judge the `updates` of one step of one network, `given` all its rows and weights.

        `sizes` are the sums of |part| over the ranks; `sides` is `sides_taken` of all ranks' rows;
        `off` says why there is to be no bound.
        """
        self.steps.append(step)
        hand = by_hand(case)
        with torch.inference_mode():
            alone = hand(**copies(given))
        apart = [name for name, update in updates.items() if not same_bits(update, alone[name])]
        if not apart:
            return
        taken = sides_taken(case, alone)
        if not all(torch.equal(side, taken[name]) for name, side in sides.items()):
            self._decide(UNDECIDED, apart[0], 0.0, "a value so near to a kink that it takes sides")
            return
        try:
            if off:
                raise off
            program = trace(hand, given)
        except Opaque as why:
            self._decide(UNDECIDED, apart[0], 0.0, str(why))
            return
        found = lift(program, bounds_for(program, given.values()), given, only=apart)
        for name in apart:
            bound = found[name].numbers
            if isinstance(bound, Missing):
                self._decide(UNDECIDED, name, 0.0, str(bound))
                continue
            assert isinstance(bound, Bound)
            # each rank rounds its part, its share of a penalty too, and each addition its sum
            added = (ranks + 2) * torch.finfo(updates[name].dtype).eps * sizes[name].cpu()
            share = share_of_rounding(updates[name], alone[name], 2 * bound.error + added)
            largest = float(share.max())
            if not math.isfinite(largest):
                self._decide(UNDECIDED, name, 0.0, "it is not finite")
                continue
            self._decide(ROUNDING if largest <= 1 else WRONG, name, largest, "")

    def _decide(self, verdict: str, name: str, share: float, why: str) -> None:
        known = WEIGHT.index(self.verdict), -self.share
        if (WEIGHT.index(verdict), -share) < known:
            self.verdict, self.share, self.name, self.why = verdict, share, name, why


def sides_taken(case: Case, values: Named) -> Named:
    """Return on which side of its kink each row's value lies, where a step has kinks.

    The bound holds for runs that take the same sides: one more rounding of a value beside relu's 0
    turns a whole slope on or off.
    """
    network = case.network
    taken: Named = {}
    if network.activation in ("relu", "leaky_relu"):
        taken |= {f"l{n}": values[f"l{n}"] > 0 for n in network.hidden}
    if network.output in ("relu", "leaky_relu"):
        last = f"l{len(network.sizes) - 1}"
        taken[last] = values[last] > 0
    if network.trim and network.trimming == "zero":
        deltas = [f"l{n}_delta" for n in range(1, len(network.sizes))]
        taken |= {name: values[name] == 0 for name in deltas}
    return taken
