"""Judges chunk after chunk of steps by hand: autograd's values -> bits -> bounds -> proof."""

from collections.abc import Iterator

import numpy as np
import torch

from compare.cases.cases import Case
from compare.proof.bits import Difference, compare_bits, differences_by_step
from compare.proof.rounding import share_of_rounding
from compare.proof.verdict import EXACT, ROUNDING, WRONG, Proof
from compare.ranks.ranks import Ranks
from compare.report.chunk import Chunk
from compare.state_dict import Count, Stateful, Types
from compare.training.accumulate import Tally
from compare.training.adapters import Named
from compare.training.chunking import Part, at, one_network, stacked, unequal_steps
from compare.training.downsample import SIDES
from compare.training.evaluation import error, right
from compare.training.merge import sums
from compare.training.prover import Prover, whole_numbers
from compare.training.sides import Reference
from manual.losses import LOSSES

_SUM = "the sum of the ranks' parts, each of which is judged by itself"


class Judging(Stateful):
    """What is found goes into the tally; `stop` is the step after the run's last one.

    `along` are the ranks that share each step's rows. The first and the last step of the first
    network of part 0 are lifted where it `leads`.
    """

    STATE = Types(unequal_chunks=Count)

    def __init__(
        self, case: Case, reference: Reference, prover: Prover, tally: Tally, along: Ranks, *,
        stop: int, leads: bool,
    ) -> None:  # fmt: skip
        self.case, self.reference, self.prover, self.tally = case, reference, prover, tally
        self.along, self.stop, self.leads = along, stop, leads
        self.sums = sums(case.network) if along.count > 1 else {}
        self.unequal_chunks = 0

    def judge(self, part: Part, before: list[Named], after: list[Named]) -> Chunk:
        """Compare a chunk of steps with autograd at what each step was given, `before`."""
        report, count, P = self.tally.report, len(before), part.networks
        ours = stacked(after)
        theirs = self.reference.values(part, before, ours)
        sides = {name: (ours[name][:, :P], theirs[name][:, :P]) for name in ours}
        found = {name: compare_bits(*both) for name, both in sides.items()}
        for name, difference in found.items():
            self.tally.add(name, report.steps, difference, part.first)
        if self.along.any(any(found[name].worst for name in self.sums)):
            self._judge_sums(ours, theirs, found)
        shares = self._prove(part, before, ours, theirs, found)
        if self.along.any(self.tally.unequal > 0):
            report.free_gap = self.reference.go_free(part, before, after, report.free_gap)

        network, loss = self.case.network, self.case.network.loss
        y = torch.stack([given["y"] for given in before])[:, :P]
        output = dict(zip(SIDES, sides[network.prediction], strict=True))
        # of all rows, when the mean over ranks is taken: a mean is one of a rank's rows already
        ranks = self.along.count
        times = ranks if loss == "half_squared_error" else 1
        by_hand = LOSSES[loss].value(output["manual"], y)
        by_autograd = self.reference.autograd.loss(output["autograd"], y)
        return Chunk(
            start=report.steps,
            steps=count,
            networks=P,
            loss={"manual": by_hand.mean(-1) * times, "autograd": by_autograd.mean(-1) * ranks},
            error={side: error(l, y, loss) for side, l in output.items()},
            accuracy={side: right(l, y, loss) for side, l in output.items() if network.classes},
            compared={name: difference.total // count for name, difference in found.items()},
            differences={n: differences_by_step(*sides[n], d) for n, d in found.items() if d.worst},
            shares=shares,
            values={"manual": ours, "autograd": theirs},
            free_gap=report.free_gap,
        )

    def _prove(
        self, part: Part, before: list[Named], ours: Named, theirs: Named,
        found: dict[str, Difference],
    ) -> dict[str, np.ndarray]:  # fmt: skip
        """Lift some steps, first and last among them; bound the rounding of unequal ones.

        Return the largest share of the bound at each step, by quantity.
        """
        start, count = self.tally.report.steps, len(before)
        shares: dict[str, np.ndarray] = {}
        unequal = {name: d for name, d in found.items() if d.worst and name not in self.sums}
        if self.sums:  # a program cannot wait for other ranks: it is given what they have added
            before = [{**b, **{n: ours[n][k] for n in self.sums}} for k, b in enumerate(before)]
        wanted = set()
        if self.leads and part.first == 0:
            wanted |= {(0, 0)} if start == 0 else set()
            wanted |= {(count - 1, 0)} if start + count == self.stop else set()
        if unequal:
            self.unequal_chunks += 1
            if self.unequal_chunks.bit_count() == 1:  # the 1st, 2nd, 4th, 8th, ...
                first = min(unequal.values(), key=lambda d: d.first)
                assert first.worst
                wanted.add((first.worst.index[0], first.worst.index[1]))
            wanted |= self._bound(part, before, ours, theirs, list(unequal), shares)
        for step, network in sorted(wanted):
            one = before[step], at(ours, step), at(theirs, step)
            proofs = self.prover.proof(*(one_network(values, network) for values in one))
            proofs |= {name: Proof(EXACT, _SUM, lifted=True) for name in self.sums}
            self.tally.prove(start + step, proofs)
        return shares

    def _bound(
        self, part: Part, before: list[Named], ours: Named, theirs: Named, unequal: list[str],
        shares: dict[str, np.ndarray],
    ) -> set[tuple[int, int]]:  # fmt: skip
        """Bound the rounding of unequal quantities; return steps and networks that lie outside."""
        start, P = self.tally.report.steps, part.networks
        outside = set()
        for steps, given in self._alike(part, before, ours, theirs, unequal):
            batch = [given, *(part.batched(at(side, steps)) for side in (ours, theirs))]
            for name, share in self.prover.shares(unequal, *batch).items():
                if share is None:
                    self.tally.bound(name, None, start + steps[0])
                    continue
                each = share[: len(steps) * P].flatten(1).amax(1)
                worst = int(each.argmax())
                largest = float(each[worst])
                step = steps[worst // P]
                self.tally.bound(name, largest, start + step)
                if not largest <= 1:  # the earliest such too: it is since then that it is WRONG
                    places = worst, int((~(each <= 1)).nonzero()[0])
                    outside |= {(steps[k // P], k % P) for k in places}
                known = shares.setdefault(name, np.zeros(len(before)))
                known[steps] = each.view(len(steps), P).amax(1).numpy()
        return outside

    def _alike(
        self, part: Part, before: list[Named], ours: Named, theirs: Named, unequal: list[str]
    ) -> Iterator[tuple[list[int], Named]]:
        """Yield the steps in groups that one program serves, and what each group is given.

        Each unequal step is one by itself where the number of the step matters to what is unequal,
        or where a side may go another way at other numbers.
        """
        batch = part.batched(stacked(before))
        timed = len({whole_numbers(given) for given in before}) > 1
        together = self.prover.without_step_count(batch, unequal, ours) if timed else batch
        if together is not None and not self.prover.branches(together):
            yield list(range(len(before))), together
            return
        for k in unequal_steps(ours, theirs, part.networks):
            yield [k], part.batched(stacked([before[k]]))

    def _judge_sums(self, ours: Named, theirs: Named, found: dict[str, Difference]) -> None:
        """Bound how far two sums over ranks of the same parts may be apart; all ranks do it."""
        for name, part in self.sums.items():
            size = self.along.added(ours[part].double().abs())
            if not found[name].worst:
                continue
            # each side adds count - 1 times, in whatever order (Higham, section 4.2)
            allowed = 2.02 * (self.along.count - 1) * torch.finfo(ours[name].dtype).eps / 2 * size
            share = share_of_rounding(ours[name], theirs[name], allowed.cpu()).flatten(1).amax(1)
            step = self.tally.report.steps + int(share.argmax())
            self.tally.bound(name, largest := float(share.max()), step)
            far = f"but {largest:.3g} times further apart than adding in another order can be"
            text = _SUM if largest <= 1 else f"{_SUM}, {far}"
            proof = Proof(ROUNDING if largest <= 1 else WRONG, text, lifted=True, share=largest)
            self.tally.prove(step, {name: proof})
