"""What ranks together have added, beside one process that does all rows by itself.

The two are the same formula with its sums in another order, so each update may be apart by what
both runs can round, from the step's data and weights on, and by what the ranks' additions round.
"""

import math

import torch

from compare.cases.cases import ACTIVATIONS, Case
from compare.proof.bits import same_bits
from compare.proof.bounds import Bound
from compare.proof.interpreter import Unsupported, lift
from compare.proof.program import Opaque
from compare.proof.rounding import bounds_for, share_of_rounding
from compare.proof.trace import trace
from compare.proof.verdict import ROUNDING, UNDECIDED, WRONG
from compare.ranks.ranks import Ranks
from compare.report.chunk import Chunk
from compare.report.single_process import SingleProcessResult
from compare.training.adapters import Named, by_hand, copies
from compare.training.merge import sums


class SingleProcessCheck:
    """Puts what it sees into a record, `found`; `off` says why there is to be no bound.

    `stop` is the step after the run's last one.
    """

    def __init__(self, case: Case, ranks: Ranks, *, stop: int, off: Opaque | None) -> None:
        self.case, self.ranks, self.stop, self.off = case, ranks, stop, off
        self.sums = sums(case.network)

    def follow(
        self, found: SingleProcessResult, chunk: Chunk, data: list[Named], state: Named
    ) -> None:
        """Have rank 0 do all rows of some steps, first and last among them; all ranks ask this.

        `data` has the rows of all ranks, and `state` is what the chunk set out from.
        """
        ranks = self.ranks
        found.chunks += 1
        wanted = {0} if found.chunks.bit_count() == 1 else set()  # the 1st, 2nd, 4th, 8th, ...
        wanted |= {chunk.steps - 1} if chunk.start + chunk.steps == self.stop else set()
        ours = chunk.values["manual"]
        for k in sorted(wanted):
            parts = {name: ours[part][k] for name, part in self.sums.items()}
            sizes = {name: ranks.added(v.double().abs()) for name, v in parts.items()}
            told = ranks.gather(sides_taken(self.case, {n: v[k] for n, v in ours.items()}))
            sides = {name: torch.cat([each[name] for each in told], -2) for name in told[0]}
            if ranks.rank == 0:
                before = {name: ours[name][k - 1] for name in state} if k else state
                updates = {name: ours[name][k] for name in self.sums}
                found.steps.append(chunk.start + k)
                self.judge(found, {**data[k], **before}, updates, sizes, sides)

    def judge(
        self, found: SingleProcessResult, given: Named, updates: Named, sizes: Named, sides: Named
    ) -> None:
        """Judge the `updates` of one step of one network, `given` all its rows and weights.

        `sizes` are the sums of |part| over the ranks; `sides` is `sides_taken` of all ranks' rows.
        """
        manual_step = by_hand(self.case)
        with torch.inference_mode():
            alone = manual_step(**copies(given))
        apart = [name for name, update in updates.items() if not same_bits(update, alone[name])]
        if not apart:
            return
        taken = sides_taken(self.case, alone)
        if not all(torch.equal(side, taken[name]) for name, side in sides.items()):
            why = "a value so near to a kink that it takes sides"
            found.decide(UNDECIDED, apart[0], 0.0, why)
            return
        try:
            if self.off:
                raise self.off
            program = trace(manual_step, given)
        except Opaque as error:
            found.decide(UNDECIDED, apart[0], 0.0, str(error))
            return
        lifted = lift(program, bounds_for(program, given.values()), given, only=apart)
        for name in apart:
            bound = lifted[name].numbers
            if isinstance(bound, Unsupported):
                found.decide(UNDECIDED, name, 0.0, str(bound))
                continue
            assert isinstance(bound, Bound)
            # each rank rounds its part, its share of a penalty too, and each addition its sum
            eps = torch.finfo(updates[name].dtype).eps
            added = (self.ranks.count + 2) * eps * sizes[name].cpu()
            share = share_of_rounding(updates[name], alone[name], 2 * bound.error + added)
            largest = float(share.max())
            if not math.isfinite(largest):
                found.decide(UNDECIDED, name, 0.0, "it is not finite")
                continue
            found.decide(ROUNDING if largest <= 1 else WRONG, name, largest, "")


def sides_taken(case: Case, values: Named) -> Named:
    """Return on which side of its kink each row's value lies, where a step has kinks.

    The bound holds for runs that take the same sides: one more rounding of a value beside relu's 0
    turns a whole slope on or off.
    """
    network = case.network
    layers = {f"l{n}": network.activation for n in network.hidden}
    layers[network.prediction] = network.output
    taken = {name: values[name] > 0 for name, act in layers.items() if ACTIVATIONS[act].kinked}
    if network.trim and network.trimming == "zero":
        deltas = [f"l{n}_delta" for n in range(1, len(network.sizes))]
        taken |= {name: values[name] == 0 for name in deltas}
    return taken
