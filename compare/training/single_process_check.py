"""Check the ranks' summed updates against a single process that computes all rows itself.

Both use the same formula, with sums in another order. So an update may differ by the rounding of
both computations, from the step's data and weights on, and by the
rounding of the ranks' additions.
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
from compare.training.adapters import Named, copies, manual_step_of
from compare.training.merge import summed_updates


class SingleProcessCheck:
    """Compares updates at some steps of the run, and records the verdict in a result.

    Args:
        case: the case of the run.
        ranks: the ranks that share the rows of each step.
        stop: number of steps of the run.
        off: the reason for computing no rounding bound, None to compute them.
    """

    def __init__(self, case: Case, ranks: Ranks, *, stop: int, off: Opaque | None) -> None:
        self.case, self.ranks, self.stop, self.off = case, ranks, stop, off
        self.sums = summed_updates(case.network)

    def follow(
        self, result: SingleProcessResult, chunk: Chunk, data: list[Named], state: Named
    ) -> None:
        """Check some steps of a chunk on rank 0, the run's first and last step among them.

        Every rank has to call it.

        Args:
            result: gets the verdict.
            chunk: this rank's values.
            data: the inputs of each step with the rows of all ranks.
            state: weights and other state before the chunk.
        """
        ranks = self.ranks
        result.chunks += 1
        sampled = {0} if result.chunks.bit_count() == 1 else set()  # the 1st, 2nd, 4th, 8th, ...
        sampled |= {chunk.steps - 1} if chunk.start + chunk.steps == self.stop else set()
        manual = chunk.values["manual"]
        for k in sorted(sampled):
            parts = {name: manual[part][k] for name, part in self.sums.items()}
            sizes = {name: ranks.sum(v.double().abs()) for name, v in parts.items()}
            by_rank = ranks.gather(kink_sides(self.case, {n: v[k] for n, v in manual.items()}))
            sides = {name: torch.cat([each[name] for each in by_rank], -2) for name in by_rank[0]}
            if ranks.rank == 0:
                before = {name: manual[name][k - 1] for name in state} if k else state
                updates = {name: manual[name][k] for name in self.sums}
                result.steps.append(chunk.start + k)
                self.judge(result, {**data[k], **before}, updates, sizes, sides)

    def judge(
        self, result: SingleProcessResult, inputs: Named, updates: Named, sizes: Named,
        sides: Named,
    ) -> None:  # fmt: skip
        """Judge the updates of one step of one network.

        Args:
            result: gets the verdict.
            inputs: all rows and weights of the step.
            updates: the ranks' summed updates by name.
            sizes: the sum of |part| over the ranks for each update.
            sides: `kink_sides` of the rows of all ranks.
        """
        manual_step = manual_step_of(self.case)
        with torch.inference_mode():
            single = manual_step(**copies(inputs))
        unequal = [name for name, update in updates.items() if not same_bits(update, single[name])]
        if not unequal:
            return
        single_sides = kink_sides(self.case, single)
        if not all(torch.equal(side, single_sides[name]) for name, side in sides.items()):
            why = "a value so close to a kink that rounding picks the branch"
            result.decide(UNDECIDED, unequal[0], 0.0, why)
            return
        try:
            if self.off:
                raise self.off
            program = trace(manual_step, inputs)
        except Opaque as error:
            result.decide(UNDECIDED, unequal[0], 0.0, str(error))
            return
        lifted = lift(program, bounds_for(program, inputs.values()), inputs, only=unequal)
        for name in unequal:
            bound = lifted[name].numbers
            if isinstance(bound, Unsupported):
                result.decide(UNDECIDED, name, 0.0, str(bound))
                continue
            assert isinstance(bound, Bound)
            # each rank rounds its part and its share of a penalty, and each addition rounds its sum
            eps = torch.finfo(updates[name].dtype).eps
            additions = (self.ranks.count + 2) * eps * sizes[name].cpu()
            share = share_of_rounding(updates[name], single[name], 2 * bound.error + additions)
            largest = float(share.max())
            if not math.isfinite(largest):
                result.decide(UNDECIDED, name, 0.0, "the bound is not finite")
                continue
            result.decide(ROUNDING if largest <= 1 else WRONG, name, largest, "")


def kink_sides(case: Case, values: Named) -> Named:
    """Return the side of its kink on which each value lies, a bool for each element.

    The bound holds only for computations on the same sides: one more rounding of a value next to
    relu's 0 turns a whole derivative on or off.

    Args:
        case: the case of the run.
        values: by-hand values of a step, (networks, rows, size) each.
    """
    network = case.network
    layers = {f"l{n}": network.activation for n in network.hidden}
    layers[network.prediction] = network.output
    sides = {name: values[name] > 0 for name, act in layers.items() if ACTIVATIONS[act].kinked}
    if network.trim and network.trimming == "zero":
        deltas = [f"l{n}_delta" for n in range(1, len(network.sizes))]
        sides |= {name: values[name] == 0 for name in deltas}
    return sides
