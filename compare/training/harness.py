"""Both sides at every step of a run: the given -> by hand and autograd -> bits -> proof -> report.

The by-hand side goes ahead for a chunk of steps. The weights that it passed through are then a
population, which autograd judges in one batch. Where any bit differs, autograd does so once more
going on from the by-hand values, so that each quantity is judged by itself; and one such step is
taken alone, with the shapes that the by-hand side has: if that gives other bits than the batch, the
whole chunk is judged step by step on that plain path. So the batch only saves time.
"""

import copy
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from compare.arguments import how_much
from compare.cases import Case
from compare.environment import environment
from compare.errors import BadInput
from compare.options import command
from compare.proof.bits import Difference, as_integers, at_each_step, compare_bits, same_bits
from compare.proof.judge import share_of_rounding
from compare.proof.verdict import EXACT, ROUNDING, WRONG, Proof
from compare.report import Report
from compare.training.batch import fill, plan
from compare.training.buckets import Buckets
from compare.training.chunk import Bucket, Chunk, merged
from compare.training.evaluation import Evaluation
from compare.training.given import Given, device_named, draw, dtype_named
from compare.training.interrupt import requests, stopping
from compare.training.one_process import OneProcess, sides_taken
from compare.training.prove import Prover, whole_numbers
from compare.training.ranks import ALONE, Ranks
from compare.training.scores import confusion, error, right
from compare.training.sharing import (
    agree,
    check_shares,
    merged_chunks,
    merged_reports,
    own_rows,
    sums,
)
from compare.training.sides import Autograd, Kind, Named, Step, Watch, by_hand, copies
from compare.training.tally import Tally
from manual.losses import LOSSES

Watcher = Callable[[Chunk], None]
MOST_OUTPUT = 10_000  # values of an output that a report shows
_SUM = "the sum of the ranks' parts, each of which is judged by itself"


class Run:
    """A case with its settings, checked and drawn, ready to train.

    `step` stands in for the case's own by-hand step: it returns new tensors, by name, each time.
    `plain` has autograd take every step alone, the short path that the batch is tested against.
    Raises BadInput for settings that cannot be used.
    """

    def __init__(
        self,
        case: Case,
        *,
        steps: int | None = None,
        dtype: str = "float64",
        device: str = "cpu",
        seed: int = 1,
        population: int = 1,
        step: Step | None = None,
        plain: bool = False,
        lift: str | int = "auto",
        ranks: Ranks = ALONE,
    ) -> None:
        if not isinstance(case, Case):
            raise BadInput(f"case {case!r}: give one of compare.CASES, or a compare.Case")
        self.steps = case.steps if steps is None else steps
        if not isinstance(self.steps, int) or self.steps < 1:
            raise BadInput(f"steps {self.steps}: a run needs at least 1 step")
        self.case = case
        place = device_named(device)
        kind = dtype_named(dtype)
        self.ranks = ranks
        self.along = ranks if population == 1 else ALONE  # with whom each step's rows are shared
        mine = range(1) if population == 1 else ranks.networks(population)
        self.first = mine.start
        given = draw(case, seed=seed, population=population, dtype=kind, device=place, mine=mine)
        check_shares(self.along, case, given.rows)
        # of a population the largest share: all ranks take the same steps at a time
        self.plan = plan(
            case.network, rows=given.rows // self.along.count,
            population=-(-population // ranks.count), dtype=kind, device=place,
        )  # fmt: skip
        self.together = self.plan.together and not plain and self.along is ALONE
        whole, population = population, len(mine)
        self.population = population
        self.given = given
        members = self.plan.members
        self.parts = [
            Part(first, min(members, population - first), given, self.plan.multiple, self.along)
            for first in range(0, population, members)
        ]
        self.hand = step or by_hand(case)
        if self.along.count > 1:
            self.hand = partial(self.hand, ranks=self.along.count)
        self.sums = sums(case.network) if self.along.count > 1 else ()
        self.autograd = Autograd(case, self.along.count)
        one = [given.X[:1, : given.rows], given.y[:1, : given.rows]]
        self.lifts = how_much(lift, [*one, *(value[:1] for value in given.state.values())])
        given.state = {}  # it is the parts' from now on
        # too large to lift: nothing goes back to a step's weights, and autograd takes them over
        large = self.plan.steps == 1 and lift == "auto" and self.lifts[0] is not None
        self.heavy = large and self.along.count == 1
        self.apart = False  # whether the last by-hand step left alone what it was given
        self.prover = Prover(self.hand, self.autograd.traceable, *self.lifts)
        self.prover.numbers = case.network.numbers()
        # of several ranks none can take a step by itself
        self.prover.judged = self.autograd.step_from if self.along.count == 1 else None
        settings = {"dtype": dtype, "device": device, "seed": seed, "population": whole}
        self.report = Report(case.name, settings, case.unnamed, environment=environment(place))
        if step is None:
            again = command(case, self.steps, settings | {"lift": lift})
            self.report.command = again and ranks.command(again)
        # all that it takes to make this run again, but for a step of one's own
        self.asked = settings | {"steps": self.steps, "plain": plain, "lift": lift}
        self.own_step = step is not None
        self.started = 0.0
        if self.along.count > 1:
            self.report.settings = settings | {"ranks": ranks.count}
            self.report.one_process = OneProcess()
        self.tally = Tally(self.report, seed + self.first)
        self.buckets = Buckets(self.steps)
        self.curves: list[Bucket] = []  # that have ended
        self.output = f"l{len(case.network.sizes) - 1}"
        self.unequal_chunks = self.chunks = 0
        self.last: Tensor | None = None  # the first network's last output
        self.kinds: dict[str, Kind] = {}
        self.whole: dict[str, Any] = {}  # the report after the last whole chunk
        self.stopping = False  # all ranks, after the chunk in hand
        self.regular = True  # every step by hand has had the first one's names and shapes

    def train(self, watchers: Sequence[Watcher] = ()) -> Report:
        """Train all steps; Ctrl-C ends it after the chunk in hand, a second one at once."""
        report = self.report
        self.started = time.perf_counter() - report.seconds  # there are some when it is resumed
        agreed = False
        with requests() as asked:
            try:
                asked.working = True
                self.stopping = self.ranks.any(stopping())
                while report.steps < self.steps and self.regular:
                    self.whole = copy.deepcopy(vars(report))
                    if agreed := self.stopping:
                        raise KeyboardInterrupt
                    self._advance(watchers)
            except KeyboardInterrupt:
                if not agreed and self.ranks.count > 1:
                    raise  # the other ranks may be anywhere
                vars(report).update(self.whole)  # without the chunk in hand
                report.interrupted = True
            finally:
                asked.working = False
        if not report.interrupted and self.regular:
            self._evaluate()
        if self.last is not None and self.last.numel() <= MOST_OUTPUT:
            report.output = self.last.tolist()
        self.tally.conclude()
        report.follows = self.prover.follows()
        report.seconds = time.perf_counter() - self.started
        if self.ranks.count > 1:
            report = merged_reports(self.ranks.gather(report), shared=self.along.count > 1)
        report.curves = [*self.curves, *self.buckets.rest()]
        return report

    @property
    def state(self) -> Named:
        """The weights, and whatever else a step hands on, of all networks."""
        return {
            n: torch.cat([p.state[n][: p.networks] for p in self.parts])
            for n in self.parts[0].state
        }

    def _advance(self, watchers: Sequence[Watcher]) -> None:
        """Take and judge a chunk of steps, and tell the watchers."""
        chunk = self._chunk()
        self.whole = copy.deepcopy(vars(self.report))
        if chunk is None:
            return
        chunk.buckets = list(self.buckets.add(chunk))
        self.curves += chunk.buckets
        self.stopping = self.ranks.any(stopping())
        for watcher in watchers:
            watcher(chunk)

    def _evaluate(self) -> None:
        """Ask both sides about the rows kept back, if there are any."""
        X, y = self.given.X_test, self.given.y_test
        if X is None or y is None or self.along.rank:  # of one network rank 0 asks
            return
        evaluation = Evaluation(self.case, self.autograd, *self.lifts)
        l = evaluation.judge(X, self.state, self.tally)[self.output]
        self.report.classes = self.given.classes
        if self.case.network.loss == "cross_entropy":
            self.report.confusion = confusion(l, y)
        if self.case.network.classes:
            self.report.accuracy = float(right(l[None], y[None], self.case.network.loss))

    def _chunk(self) -> Chunk | None:
        """Go ahead by hand for a chunk of steps, then judge it, part after part."""
        report = self.report
        data = self.given.steps(min(self.plan.steps, self.steps - report.steps))
        chunks: list[Chunk] = []
        state = self.parts[0].state
        for part in self.parts:
            own = [own_rows(step, self.along) for step in data]
            chunk = self._steps(part, [part.data(step) for step in own])
            if chunk is None:
                break
            chunks.append(chunk)
        chunk = merged(chunks) if len(chunks) == len(self.parts) else None
        report.steps += chunk.steps if chunk else 0
        if self.ranks.count > 1:
            self.regular, chunk = merged_chunks(self.ranks, chunk, self.regular)
        if self.along.count > 1 and chunk:
            self._beside_one_process(chunk, data, state)
        return chunk

    def _beside_one_process(self, chunk: Chunk, data: list[Named], state: Named) -> None:
        """Have rank 0 do all rows of some steps, first and last among them; all ranks do it."""
        self.chunks += 1
        wanted = {0} if self.chunks & (self.chunks - 1) == 0 else set()
        wanted |= {chunk.steps - 1} if chunk.start + chunk.steps == self.steps else set()
        ours, ranks = chunk.values["manual"], self.along.count
        for k in sorted(wanted):
            parts = {name: ours[name.replace("_update", "_part")][k] for name in self.sums}
            sizes = {name: self.along.added(v.double().abs()) for name, v in parts.items()}
            told = self.along.gather(sides_taken(self.case, {n: v[k] for n, v in ours.items()}))
            sides = {name: torch.cat([each[name] for each in told], -2) for name in told[0]}
            if self.along.rank == 0 and self.report.one_process:
                before = {name: ours[name][k - 1] for name in state} if k else state
                self.report.one_process.add(
                    self.case, chunk.start + k, {**data[k], **before},
                    {name: ours[name][k] for name in self.sums}, sizes, ranks, sides,
                    self.lifts[0],
                )  # fmt: skip

    def _steps(self, part: "Part", data: list[Named]) -> Chunk | None:
        """Take a chunk of steps of some networks by hand, and judge it."""
        state = part.state
        if not self.kinds:
            self.kinds = self.autograd.kinds(**data[0], **state)
        before: list[Named] = []
        after: list[Named] = []
        # autograd cannot take over what was made in inference mode, which is the faster one
        with torch.no_grad() if self.heavy else torch.inference_mode():
            for given in data:
                before.append({**given, **state})
                after.append(self._by_hand(before[-1], [*state]))
                state = {name: after[-1].get(name, state[name]) for name in state}
        part.state = state
        if not self.report.quantities and self.along.any(not self.tally.open(after[0], self.kinds)):
            self.report.steps, self.regular = 1, False
            rows = self.report.quantities
            odd = [name for name, row in rows.items() if row.problem is not None]
            for name, proof in self.prover.misshapen(before[0], odd).items():
                rows[name].proof = proof
            return None
        same = self.tally.regular(after, len(data[0]["X"]))
        self.regular = self.regular and same == len(after)
        if self.along.count > 1:
            same, alike = agree(self.along, self.report, [*state], after[:same])
            self.regular = self.regular and alike and same == len(after)
        if not same:
            return None
        return self._judge(part, before[:same], after[:same])

    def _by_hand(self, given: Named, weights: list[str]) -> Named:
        """Take a step by hand, from copies: what it does to them stays its own affair.

        Copies of large weights would cost more than their comparison. There a step that left alone
        what it was given, and made its weights anew, is lent the next ones themselves. Raises
        BadInput where such a step no longer does so.
        """
        lent = given if self.apart else copies(given)
        if not self.heavy:
            return self.hand(**lent)
        versions = [value._version for value in lent.values()]
        found = self.hand(**lent)
        ours = {value.untyped_storage().data_ptr() for value in found.values()}
        theirs = {lent[name].untyped_storage().data_ptr() for name in weights}
        apart = not ours & theirs and versions == [value._version for value in lent.values()]
        if self.apart and not apart:
            raise BadInput(
                "the by-hand step writes into what it is given, or returns it, and at first did "
                "not: have it do the same at every step"
            )
        self.apart = apart
        return found

    def _judge(self, part: "Part", before: list[Named], after: list[Named]) -> Chunk:
        """Compare a chunk of steps with autograd at what each step was given, `before`."""
        start, count, P = self.report.steps, len(before), part.networks
        ours = _stacked(after)
        theirs = self._autograd(part, before, ours)
        found = {name: compare_bits(ours[name][:, :P], theirs[name][:, :P]) for name in ours}
        for name, difference in found.items():
            self.tally.add(name, start, difference, part.first)
        if self.along.any(any(found[name].worst for name in self.sums)):
            self._judge_sums(ours, theirs, found)
        shares = self._prove(part, before, ours, theirs, found)
        if self.along.any(self.tally.unequal > 0):
            self._go_free(part, before, after)
        if part.first == 0:
            self.last = ours[self.output][-1, 0]

        y = torch.stack([given["y"] for given in before])[:, :P]
        output = {"manual": ours[self.output][:, :P], "autograd": theirs[self.output][:, :P]}
        hand_loss = LOSSES[self.case.network.loss].value
        # of all rows, when the mean over ranks is taken: a mean is one of a rank's rows already
        ranks = self.along.count
        times = ranks if self.case.network.loss == "half_squared_error" else 1
        return Chunk(
            start=start,
            steps=count,
            networks=P,
            loss={
                "manual": hand_loss(output["manual"], y).mean(-1) * times,
                "autograd": self.autograd.loss(output["autograd"], y).mean(-1) * ranks,
            },
            error={side: error(l, y, self.case.network.loss) for side, l in output.items()},
            accuracy={
                side: right(l, y, self.case.network.loss)
                for side, l in output.items()
                if self.case.network.classes
            },
            compared={name: difference.total // count for name, difference in found.items()},
            differences={
                name: at_each_step(ours[name][:, :P], theirs[name][:, :P])
                for name, difference in found.items()
                if difference.worst
            },
            shares=shares,
            values={"manual": ours, "autograd": theirs},
            free_gap=self.report.free_gap,
        )

    def _autograd(self, part: "Part", before: list[Named], ours: Named) -> Named:
        """Return autograd's values at each step, (steps, networks, ...), from one batch if allowed.

        Each goes on from the by-hand values of those above it. Where all its bits are those by
        hand, the by-hand tensor itself stands for it.
        """
        if self.together:
            mine = {name: part.batch(value) for name, value in ours.items()}
            batch = {n: part.batch(torch.stack([b[n] for b in before])) for n in before[0]}
            seen = Watch(mine)
            self.autograd.learn(seen.look, **batch)
            theirs = dict(ours)
            for name, value in seen.unequal.items():
                theirs[name] = part.unbatched(value, len(before))
            if self._same_alone(part, before, ours, theirs):
                return theirs
        steps: list[Named] = []
        for k, given in enumerate(before):
            seen = Watch(_at(ours, k))
            self.autograd.learn(seen.look, **(given if self.heavy else copies(given)))
            steps.append(seen.unequal)
        return {
            name: torch.stack([step.get(name, value[k]) for k, step in enumerate(steps)])
            if any(name in step for step in steps)
            else value
            for name, value in ours.items()
        }

    def _same_alone(self, part: "Part", before: list[Named], ours: Named, theirs: Named) -> bool:
        """Whether autograd gives unequal steps alone the bits that it gave them in the batch.

        The first, the middle and the last of them are tried: another kernel shows everywhere.
        """
        P = part.networks
        unequal = sorted({k for name in ours for k in _unequal_steps(ours[name], theirs[name], P)})
        for k in {unequal[0], unequal[len(unequal) // 2], unequal[-1]} if unequal else ():
            alone = self.autograd.step_from(_at(ours, k), **before[k])
            if not all(same_bits(alone[name][:P], theirs[name][k][:P]) for name in ours):
                return False
        return True

    def _prove(
        self, part: "Part", before: list[Named], ours: Named, theirs: Named,
        found: dict[str, Difference],
    ) -> dict[str, np.ndarray]:  # fmt: skip
        """Lift some steps, first and last among them; bound the rounding of unequal ones.

        Return the largest share of the bound at each step, by quantity.
        """
        start, count, P = self.report.steps, len(before), part.networks
        shares: dict[str, np.ndarray] = {}
        unequal = {name: d for name, d in found.items() if d.worst and name not in self.sums}
        if self.sums:  # a program cannot wait for other ranks: it is given what they have added
            before = [{**b, **{n: ours[n][k] for n in self.sums}} for k, b in enumerate(before)]
        wanted = set()
        if part.first == self.first == 0:
            wanted |= {(0, 0)} if start == 0 else set()
            wanted |= {(count - 1, 0)} if start + count == self.steps else set()
        if unequal:
            self.unequal_chunks += 1
            if self.unequal_chunks & (self.unequal_chunks - 1) == 0:  # the 1st, 2nd, 4th, 8th, ...
                first = min(unequal.values(), key=lambda d: d.first)
                assert first.worst
                wanted.add((first.worst.index[0], first.worst.index[1]))
            for steps, given in self._alike(part, before, ours, theirs, list(unequal)):
                batch = [given, *(part.batched(_at(side, steps)) for side in (ours, theirs))]
                for name, share in self.prover.shares(list(unequal), *batch).items():
                    if share is None:
                        self.tally.bound(name, None, start + steps[0])
                        continue
                    each = share[: len(steps) * P].flatten(1).amax(1)
                    worst = int(each.argmax())
                    largest = float(each[worst])
                    step = steps[worst // P]
                    self.tally.bound(name, largest, start + step)
                    if not largest <= 1:
                        wanted.add((step, worst % P))
                    known = shares.setdefault(name, np.zeros(count))
                    known[steps] = each.view(len(steps), P).amax(1).numpy()
        for step, network in sorted(wanted):
            one = before[step], _at(ours, step), _at(theirs, step)
            proofs = self.prover.proof(*(_network(values, network) for values in one))
            proofs |= {name: Proof(EXACT, _SUM, lifted=True) for name in self.sums}
            self.tally.prove(start + step, proofs)
        return shares

    def _judge_sums(self, ours: Named, theirs: Named, found: dict[str, Difference]) -> None:
        """Bound how far two sums over ranks of the same parts may be apart; all ranks do it."""
        for name in self.sums:
            size = self.along.added(ours[name.replace("_update", "_part")].double().abs())
            if not found[name].worst:
                continue
            # each side adds count - 1 times, in whatever order (Higham, section 4.2)
            allowed = 2.02 * (self.along.count - 1) * torch.finfo(ours[name].dtype).eps / 2 * size
            share = share_of_rounding(ours[name], theirs[name], allowed.cpu()).flatten(1).amax(1)
            step = self.report.steps + int(share.argmax())
            self.tally.bound(name, largest := float(share.max()), step)
            far = f"but {largest:.3g} times further apart than adding in another order can be"
            verdict, text = (ROUNDING, _SUM) if largest <= 1 else (WRONG, f"{_SUM}, {far}")
            self.tally.prove(step, {name: Proof(verdict, text, lifted=True, share=largest)})

    def _alike(
        self, part: "Part", before: list[Named], ours: Named, theirs: Named, unequal: list[str]
    ) -> Iterator[tuple[list[int], Named]]:
        """Yield the steps in groups that one program serves, and what each group is given.

        Where the number of the step matters to what is unequal, each such step is one by itself.
        """
        P, steps = part.networks, list(range(len(before)))
        if len({whole_numbers(given) for given in before}) == 1:
            yield steps, part.batched(_stacked(before))
        elif given := self.prover.timeless(part.batched(_stacked(before)), unequal, ours):
            yield steps, given
        else:
            for k in sorted({k for n in ours for k in _unequal_steps(ours[n], theirs[n], P)}):
                yield [k], part.batched(_stacked([before[k]]))

    def _go_free(self, part: "Part", before: list[Named], after: list[Named]) -> None:
        """Let autograd train on its own, and note how far its weights come to lie from ours.

        Until the first difference its weights are ours, since each of its steps was; so it sets
        out from the first chunk in which any bit differs.
        """
        if self.heavy:
            self.report.free_gap = None
            return
        free = {n: before[0][n] for n in part.state} if part.free is None else part.free
        for given, ours in zip(before, after, strict=True):
            named = self.autograd.step(**{**given, **free})
            free = {name: named[name] for name in free}
            for name in free:
                gap = float((free[name] - ours[name])[: part.networks].abs().max())
                if not gap <= (self.report.free_gap or 0.0):  # a NaN stays
                    self.report.free_gap = gap
        part.free = free


class Part:
    """Some networks of a population, as many as are in hand at a time."""

    def __init__(
        self, first: int, networks: int, given: Given, multiple: int, ranks: Ranks
    ) -> None:
        self.first, self.networks, self.multiple = first, networks, multiple
        self.state = self._cut(given.state)
        self.free: Named | None = None  # autograd's state since it went on its own
        # the same at every step, where there are no mini-batches
        rows = own_rows({"X": given.X, "y": given.y}, ranks)
        self.rows = {} if given.case.batch_size else self._cut(rows)

    def data(self, step: Named) -> Named:
        """Return these networks' of what a step is given besides the state."""
        own = self._cut({name: v for name, v in step.items() if name not in self.rows})
        return {**self.rows, **own}

    def _cut(self, values: Named) -> Named:
        """Return these networks' of (population, ...) values, as many as fill whole vectors."""
        mine = slice(self.first, self.first + self.networks)
        return {name: fill(value[mine], self.multiple) for name, value in values.items()}

    def batch(self, value: Tensor) -> Tensor:
        """Return (steps, networks, ...) values side by side, filled up to whole vectors."""
        return fill(value[:, : self.networks].flatten(0, 1).contiguous(), self.multiple)

    def batched(self, values: Named) -> Named:
        """Return each of the values as `batch` does."""
        return {name: self.batch(value) for name, value in values.items()}

    def unbatched(self, value: Tensor, steps: int) -> Tensor:
        """Return a batch's values as (steps, networks, ...)."""
        split: Tensor = value[: steps * self.networks].unflatten(0, (steps, self.networks))
        return split


def _stacked(steps: list[Named]) -> Named:
    """Return each quantity over (steps, networks, ...)."""
    if len(steps) == 1:
        return {name: value[None] for name, value in steps[0].items()}
    return {name: torch.stack([named[name] for named in steps]) for name in steps[0]}


def _at(values: Named, steps: int | list[int]) -> Named:
    """Return one or some of the steps of (steps, networks, ...) values."""
    return {name: value[steps] for name, value in values.items()}


def _network(values: Named, network: int) -> Named:
    """Return one network's of (networks, ...) values."""
    return {name: value[network : network + 1] for name, value in values.items()}


def _unequal_steps(ours: Tensor, theirs: Tensor, population: int) -> list[int]:
    """Return the steps at which any element of (steps, networks, ...) has other bits."""
    if ours is theirs:
        return []
    differ = as_integers(ours[:, :population]) != as_integers(theirs[:, :population])
    return differ.flatten(1).any(1).nonzero().flatten().tolist()


def run(case: Case, watchers: Sequence[Watcher] = (), **settings: Any) -> Report:
    """Train `case` by hand, judge every step by autograd, return the report; see `Run`."""
    return Run(case, **settings).train(watchers)
