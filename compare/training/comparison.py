"""Compare each chunk of by-hand steps with autograd: bits, then rounding bounds, then proofs."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from compare.cases.cases import Case
from compare.proof.bits import Difference, compare_bits, differences_by_step
from compare.proof.rounding import share_of_rounding
from compare.proof.verdict import EXACT, ROUNDING, WRONG, Proof
from compare.ranks.ranks import Ranks
from compare.report.chunk import Chunk
from compare.stateful import Count, Stateful, Types
from compare.training.accumulate import Tally
from compare.training.adapters import Named
from compare.training.chunking import Shard, Steps, at_steps, one_network, stacked, unequal_steps
from compare.training.downsample import SIDES
from compare.training.evaluation import accuracy, mean_absolute_error
from compare.training.merge import summed_updates
from compare.training.prover import Prover, whole_numbers
from compare.training.sides import Reference
from manual.losses import LOSSES

_SUM = "the sum of the ranks' parts, each of which has its own verdict"


class Comparison(Stateful):
    """Compares chunks of steps and records the differences, bounds and proofs in the tally.

    Args:
        case: the case of the run.
        reference: takes the steps by autograd.
        prover: computes proofs and rounding bounds.
        tally: collects the results.
        row_ranks: the ranks that share the rows of each step.
        stop: number of steps of the run.
        has_first_network: whether network 0 of the population is in this process. The first and
            the last step of the run are then lifted for it.
    """

    STATE = Types(unequal_chunks=Count)

    def __init__(
        self, case: Case, reference: Reference, prover: Prover, tally: Tally, row_ranks: Ranks, *,
        stop: int, has_first_network: bool,
    ) -> None:  # fmt: skip
        self.case, self.reference, self.prover, self.tally = case, reference, prover, tally
        self.row_ranks, self.stop = row_ranks, stop
        self.has_first_network = has_first_network
        self.sums = summed_updates(case.network) if row_ranks.count > 1 else {}
        self.unequal_chunks = 0

    def judge(self, shard: Shard, before: Sequence[Named], after: Steps) -> Chunk:
        """Compare a chunk of by-hand steps with autograd, and record the results.

        Args:
            shard: the networks.
            before: the inputs of each step.
            after: the values that each step computed by hand, (networks, ...) each.

        Returns:
            The losses, differences and values of the chunk, for the watchers.
        """
        report, count, P = self.tally.report, len(before), shard.networks
        manual, autograd = after.values, self.reference.values(shard, before, after)
        sides = {name: (manual[name][:, :P], autograd[name][:, :P]) for name in manual}
        differences = {name: compare_bits(*both) for name, both in sides.items()}
        for name, difference in differences.items():
            self.tally.add(name, report.steps, difference, shard.first)
        if self.row_ranks.any(any(differences[name].worst for name in self.sums)):
            self._judge_sums(manual, autograd, differences)
        shares = self._prove(shard, before, manual, autograd, differences)
        if self.row_ranks.any(self.tally.unequal > 0):
            report.free_gap = self.reference.train_alone(shard, before, after, report.free_gap)

        network, loss = self.case.network, self.case.network.loss
        y = stacked(before, ["y"])["y"][:, :P]
        output = dict(zip(SIDES, sides[network.prediction], strict=True))
        # The losses of all ranks are averaged later. A mean over this rank's rows is ready for
        # that. A sum is scaled up, and so is autograd's loss, this rank's share of the whole.
        ranks = self.row_ranks.count
        times = ranks if loss == "half_squared_error" else 1
        by_hand = LOSSES[loss].value(output["manual"], y)
        by_autograd = self.reference.autograd.loss(output["autograd"], y)
        return Chunk(
            start=report.steps,
            steps=count,
            networks=P,
            loss={"manual": by_hand.mean(-1) * times, "autograd": by_autograd.mean(-1) * ranks},
            error={side: mean_absolute_error(l, y, loss) for side, l in output.items()},
            accuracy={side: accuracy(l, y, loss) for side, l in output.items() if network.classes},
            compared={name: difference.total // count for name, difference in differences.items()},
            differences={
                n: differences_by_step(*sides[n], d) for n, d in differences.items() if d.worst
            },
            shares=shares,
            values={"manual": manual, "autograd": autograd},
            free_gap=report.free_gap,
        )

    def _prove(
        self, shard: Shard, before: Sequence[Named], manual: Named, autograd: Named,
        differences: dict[str, Difference],
    ) -> dict[str, np.ndarray]:  # fmt: skip
        """Lift sampled steps, and bound the rounding of the steps that differ.

        Return by quantity the largest share of the rounding bound at each step.
        """
        start, count = self.tally.report.steps, len(before)
        shares: dict[str, np.ndarray] = {}
        unequal = {name: d for name, d in differences.items() if d.worst and name not in self.sums}
        if self.sums:  # a traced program cannot wait for other ranks: their sums are its inputs
            before = [{**b, **{n: manual[n][k] for n in self.sums}} for k, b in enumerate(before)]
        sampled = set()  # (step of the chunk, network)
        if self.has_first_network and shard.first == 0:
            sampled |= {(0, 0)} if start == 0 else set()
            sampled |= {(count - 1, 0)} if start + count == self.stop else set()
        if unequal:
            self.unequal_chunks += 1
            if self.unequal_chunks.bit_count() == 1:  # the 1st, 2nd, 4th, 8th, ...
                first = min(unequal.values(), key=lambda d: d.first)
                assert first.worst
                sampled.add((first.worst.index[0], first.worst.index[1]))
            sampled |= self._bound(shard, before, manual, autograd, list(unequal), shares)
        for step, network in sorted(sampled):
            at_step = before[step], at_steps(manual, step), at_steps(autograd, step)
            proofs = self.prover.proof(*(one_network(values, network) for values in at_step))
            proofs |= {name: Proof(EXACT, _SUM, lifted=True) for name in self.sums}
            self.tally.prove(start + step, proofs)
        return shares

    def _bound(
        self, shard: Shard, before: Sequence[Named], manual: Named, autograd: Named,
        unequal: list[str], shares: dict[str, np.ndarray],
    ) -> set[tuple[int, int]]:  # fmt: skip
        """Bound the rounding of unequal quantities; return steps and networks out of bounds."""
        start, P = self.tally.report.steps, shard.networks
        outside = set()
        for steps, inputs in self._same_program(shard, before, manual, autograd, unequal):
            sides = (shard.batched(at_steps(side, steps)) for side in (manual, autograd))
            batch = [inputs, *sides]
            for name, share in self.prover.shares(unequal, *batch).items():
                if share is None:
                    self.tally.bound(name, None, start + steps[0])
                    continue
                each = share[: len(steps) * P].flatten(1).amax(1)
                worst = int(each.argmax())
                largest = float(each[worst])
                step = steps[worst // P]
                self.tally.bound(name, largest, start + step)
                if not largest <= 1:  # lift the earliest such step too: it is WRONG from there on
                    worst_and_first = worst, int((~(each <= 1)).nonzero()[0])
                    outside |= {(steps[k // P], k % P) for k in worst_and_first}
                by_step = shares.setdefault(name, np.zeros(len(before)))
                by_step[steps] = each.view(len(steps), P).amax(1).numpy()
        return outside

    def _same_program(
        self,
        shard: Shard,
        before: Sequence[Named],
        manual: Named,
        autograd: Named,
        unequal: list[str],
    ) -> Iterator[tuple[list[int], Named]]:
        """Yield groups of steps that have the same program, with the inputs of each group.

        Each unequal step is its own group where the unequal quantities depend on the step number,
        or where a side may branch on its inputs.
        """
        batch = shard.batched(stacked(before))
        has_whole_numbers = bool(whole_numbers(before[0]))  # most networks have no step number
        has_step_count = has_whole_numbers and len(set(map(whole_numbers, before))) > 1
        inputs = self.prover.without_step_count(batch, unequal, manual) if has_step_count else batch
        if inputs is not None and not self.prover.may_branch(inputs):
            yield list(range(len(before))), inputs
            return
        for k in unequal_steps(manual, autograd, shard.networks):
            yield [k], shard.batched(stacked([before[k]]))

    def _judge_sums(
        self, manual: Named, autograd: Named, differences: dict[str, Difference]
    ) -> None:
        """Bound the rounding of each side's sum over the ranks of the same parts.

        Every rank has to call it.
        """
        for name, part in self.sums.items():
            size = self.row_ranks.sum(manual[part].double().abs())
            if not differences[name].worst:
                continue
            # each side adds count - 1 times, in any order (Higham, section 4.2)
            unit_roundoff = torch.finfo(manual[name].dtype).eps / 2
            allowed = 2.02 * (self.row_ranks.count - 1) * unit_roundoff * size
            share = share_of_rounding(manual[name], autograd[name], allowed.cpu())
            share = share.flatten(1).amax(1)
            step = self.tally.report.steps + int(share.argmax())
            self.tally.bound(name, largest := float(share.max()), step)
            apart = f"but the difference is {largest:.3g} times the rounding bound of the additions"
            text = _SUM if largest <= 1 else f"{_SUM}, {apart}"
            proof = Proof(ROUNDING if largest <= 1 else WRONG, text, lifted=True, share=largest)
            self.tally.prove(step, {name: proof})
