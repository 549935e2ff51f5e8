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
from typing import Any

import numpy as np
import torch
from torch import Tensor

from compare.arguments import how_much
from compare.batch import fill, plan
from compare.bits import Difference, as_integers, at_each_step, compare_bits
from compare.buckets import Buckets
from compare.cases import Case
from compare.chunk import Bucket, Chunk
from compare.environment import environment
from compare.errors import BadInput
from compare.evaluation import Evaluation
from compare.given import device_named, draw, dtype_named
from compare.interrupt import requests
from compare.options import command
from compare.prove import Prover, whole_numbers
from compare.report import Report
from compare.scores import confusion, error, right
from compare.sides import Autograd, Named, Step, by_hand
from compare.tally import Tally
from manual.losses import LOSSES

Watcher = Callable[[Chunk], None]


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
    ) -> None:
        if not isinstance(case, Case):
            raise BadInput(f"case {case!r}: give one of compare.CASES, or a compare.Case")
        self.steps = case.steps if steps is None else steps
        if not isinstance(self.steps, int) or self.steps < 1:
            raise BadInput(f"steps {self.steps}: a run needs at least 1 step")
        self.case = case
        place = device_named(device)
        kind = dtype_named(dtype)
        given = draw(case, seed=seed, population=population, dtype=kind, device=place)
        self.plan = plan(
            case.network, rows=given.rows, population=population, dtype=kind, device=place
        )
        self.together = self.plan.together and not plain
        self.population = population
        self.given = given
        self.state = self._filled(given.state)
        self.rows = self._filled({"X": given.X, "y": given.y}) if not case.batch_size else {}
        self.hand = step or by_hand(case)
        self.autograd = Autograd(case)
        one = [given.X[:1, : given.rows], given.y[:1, : given.rows]]
        self.lifts = how_much(lift, [*one, *(value[:1] for value in given.state.values())])
        self.prover = Prover(self.hand, self.autograd.traceable, *self.lifts)
        self.prover.numbers = case.network.numbers()
        self.prover.judged = self.autograd.step_from
        settings = {"dtype": dtype, "device": device, "seed": seed, "population": population}
        self.report = Report(case.name, settings, case.unnamed, environment=environment(place))
        if step is None:
            self.report.command = command(case, self.steps, settings | {"lift": lift})
        self.tally = Tally(self.report, seed)
        self.buckets = Buckets(self.steps)
        self.output = f"l{len(case.network.sizes) - 1}"
        self.free: Named | None = None  # autograd's state since it went on its own
        self.unequal_chunks = 0
        self.whole: dict[str, Any] = {}  # the report after the last whole chunk
        self.regular = True  # every step by hand has had the first one's names and shapes

    def train(self, watchers: Sequence[Watcher] = ()) -> Report:
        """Train all steps; Ctrl-C ends it after the chunk in hand, a second one at once."""
        report = self.report
        started = time.perf_counter()
        curves: list[Bucket] = []
        with requests() as asked:
            try:
                asked.working = True
                while report.steps < self.steps and self.regular:
                    self.whole = copy.deepcopy(vars(report))
                    if asked.stop.is_set():
                        raise KeyboardInterrupt
                    chunk = self._chunk()
                    self.whole = copy.deepcopy(vars(report))
                    if chunk:
                        chunk.buckets = list(self.buckets.add(chunk))
                        curves += chunk.buckets
                        for watcher in watchers:
                            watcher(chunk)
            except KeyboardInterrupt:
                vars(report).update(self.whole)  # without the chunk in hand
                report.interrupted = True
            finally:
                asked.working = False
        if not report.interrupted and self.regular:
            self._evaluate()
        report.curves = [*curves, *self.buckets.rest()]
        self.tally.conclude()
        report.follows = self.prover.follows()
        report.seconds = time.perf_counter() - started
        return report

    def _evaluate(self) -> None:
        """Ask both sides about the rows kept back, if there are any."""
        X, y = self.given.X_test, self.given.y_test
        if X is None or y is None:
            return
        state = {name: value[: self.population] for name, value in self.state.items()}
        evaluation = Evaluation(self.case, self.autograd, *self.lifts)
        l = evaluation.judge(X, state, self.tally)[self.output]
        self.report.classes = self.given.classes
        if self.case.network.loss == "cross_entropy":
            self.report.confusion = confusion(l, y)
        if self.case.network.classes:
            self.report.accuracy = float(right(l[None], y[None], self.case.network.loss))

    def _data(self, count: int) -> list[Named]:
        """Return what each of the next steps is given besides the state."""
        steps = self.given.steps(count)
        if self.rows:  # the same at every step
            return [
                self._filled({n: v for n, v in d.items() if n not in self.rows}) | self.rows
                for d in steps
            ]
        return [self._filled(data) for data in steps]

    def _filled(self, values: Named) -> Named:
        """Return (networks, ...) values with as many networks as fill whole vectors."""
        return {name: fill(value, self.plan.multiple) for name, value in values.items()}

    def _chunk(self) -> Chunk | None:
        """Go ahead by hand for a chunk of steps, then judge it."""
        report, state = self.report, self.state
        before: list[Named] = []
        after: list[Named] = []
        with torch.inference_mode():
            for data in self._data(min(self.plan.steps, self.steps - report.steps)):
                before.append({**data, **state})
                # copies: what the by-hand side does to what it is given stays its own affair
                after.append(self.hand(**{name: v.clone() for name, v in before[-1].items()}))
                state = {name: after[-1].get(name, state[name]) for name in state}
        self.state = state
        if not report.quantities and not self.tally.open(after[0], self.autograd.step(**before[0])):
            report.steps, self.regular = 1, False
            odd = [name for name, row in report.quantities.items() if row.problem is not None]
            for name, proof in self.prover.misshapen(before[0], odd).items():
                report.quantities[name].proof = proof
            return None
        same = self.tally.regular(after)
        self.regular = same == len(after)
        before, after = before[:same], after[:same]
        if not after:
            return None
        chunk = self._judge(before, after)
        report.steps += chunk.steps
        report.output = after[-1][self.output][0].tolist()
        return chunk

    def _judge(self, before: list[Named], after: list[Named]) -> Chunk:
        """Compare a chunk of steps with autograd at what each step was given, `before`."""
        start, count, P = self.report.steps, len(before), self.population
        ours = _stacked(after)
        theirs = self._autograd(before, None)
        found = self._compare(ours, theirs)
        if any(difference.worst for difference in found.values()):
            theirs = self._autograd(before, ours)
            found = self._compare(ours, theirs)
        for name, difference in found.items():
            self.tally.add(name, start, difference)
        shares = self._prove(before, ours, theirs, found)
        if self.tally.unequal:
            self._go_free(before, after)

        y = torch.stack([given["y"] for given in before])[:, :P]
        output = {"manual": ours[self.output][:, :P], "autograd": theirs[self.output][:, :P]}
        hand_loss = LOSSES[self.case.network.loss].value
        return Chunk(
            start=start,
            steps=count,
            loss={
                "manual": hand_loss(output["manual"], y).mean(-1),
                "autograd": self.autograd.loss(output["autograd"], y).mean(-1),
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

    def _autograd(self, before: list[Named], ours: Named | None) -> Named:
        """Return autograd's values at each step, (steps, P, ...), from one batch where it can be.

        With `ours` each quantity goes on from the by-hand values of those above it.
        """
        count, P = len(before), self.population
        if self.together:
            batch = self._batch(
                {name: torch.stack([b[name] for b in before]) for name in before[0]}
            )
            if ours is None:
                named = self.autograd.step(**batch)
            else:
                named = self.autograd.step_from(self._batch(ours), **batch)
            theirs = {n: v[: count * P].unflatten(0, (count, P)) for n, v in named.items()}
            if ours is None or self._same_alone(before, ours, theirs):
                return theirs
        alone = [
            self.autograd.step(**given)
            if ours is None
            else self.autograd.step_from({name: v[k] for name, v in ours.items()}, **given)
            for k, given in enumerate(before)
        ]
        return _stacked(alone)

    def _batch(self, values: Named) -> Named:
        """Return (steps, networks, ...) values side by side, filled up to whole vectors."""
        P = self.population
        return self._filled({name: v[:, :P].flatten(0, 1) for name, v in values.items()})

    def _same_alone(self, before: list[Named], ours: Named, theirs: Named) -> bool:
        """Whether autograd gives unequal steps alone the bits that it gave them in the batch.

        The first, the middle and the last of them are tried: another kernel shows everywhere.
        """
        P = self.population
        unequal = sorted({k for name in ours for k in _unequal_steps(ours[name], theirs[name], P)})
        tried = {unequal[0], unequal[len(unequal) // 2], unequal[-1]} if unequal else {0}
        for k in tried:
            mine = {name: value[k] for name, value in ours.items()}
            alone = self.autograd.step_from(mine, **before[k])
            if any(compare_bits(alone[n][:P], theirs[n][k][:P]).worst for n in ours):
                return False
        return True

    def _compare(self, ours: Named, theirs: Named) -> dict[str, Difference]:
        """Compare each quantity over (steps, P, ...), without the padding."""
        P = self.population
        return {name: compare_bits(ours[name][:, :P], theirs[name][:, :P]) for name in ours}

    def _prove(
        self, before: list[Named], ours: Named, theirs: Named, found: dict[str, Difference]
    ) -> dict[str, np.ndarray]:
        """Lift some steps, first and last among them; bound the rounding of unequal ones.

        Return the largest share of the bound at each step, by quantity.
        """
        start, count, P = self.report.steps, len(before), self.population
        shares: dict[str, np.ndarray] = {}
        unequal = {name: d for name, d in found.items() if d.worst}
        wanted = {(0, 0)} if start == 0 else set()
        if start + count == self.steps:
            wanted.add((count - 1, 0))
        if unequal:
            self.unequal_chunks += 1
            if self.unequal_chunks & (self.unequal_chunks - 1) == 0:  # the 1st, 2nd, 4th, 8th, ...
                first = min(unequal.values(), key=lambda d: d.first)
                assert first.worst
                wanted.add((first.worst.index[0], first.worst.index[1]))
            for steps, given in self._alike(before, ours, theirs, list(unequal)):
                batch = [given, *(self._batch(_at(side, steps)) for side in (ours, theirs))]
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
            given = {n: v[network : network + 1].clone() for n, v in before[step].items()}
            manual, autograd = (
                {name: value[step, network : network + 1].clone() for name, value in side.items()}
                for side in (ours, theirs)
            )
            proofs = self.prover.proof(given, manual, {n: autograd[n] for n in manual})
            self.tally.prove(start + step, proofs)
        return shares

    def _alike(
        self, before: list[Named], ours: Named, theirs: Named, unequal: list[str]
    ) -> Iterator[tuple[list[int], Named]]:
        """Yield the steps in groups that one program serves, and what each group is given.

        Where the number of the step matters to what is unequal, each such step is one by itself.
        """
        P, steps = self.population, list(range(len(before)))
        if len({whole_numbers(given) for given in before}) == 1:
            yield steps, self._batch(_stacked(before))
        elif given := self.prover.timeless(self._batch(_stacked(before)), unequal, ours):
            yield steps, given
        else:
            for k in sorted({k for n in ours for k in _unequal_steps(ours[n], theirs[n], P)}):
                yield [k], self._batch(_stacked([before[k]]))

    def _go_free(self, before: list[Named], after: list[Named]) -> None:
        """Let autograd train on its own, and note how far its weights come to lie from ours.

        Until the first difference its weights are ours, since each of its steps was; so it sets
        out from the first chunk in which any bit differs.
        """
        free = {n: before[0][n] for n in self.state} if self.free is None else self.free
        for given, ours in zip(before, after, strict=True):
            named = self.autograd.step(**{**given, **free})
            free = {name: named[name] for name in free}
            for name in free:
                gap = float((free[name] - ours[name])[: self.population].abs().max())
                if not gap <= self.report.free_gap:  # a NaN stays
                    self.report.free_gap = gap
        self.free = free


def _stacked(steps: list[Named]) -> Named:
    """Return each quantity over (steps, networks, ...)."""
    return {name: torch.stack([named[name] for named in steps]) for name in steps[0]}


def _at(values: Named, steps: list[int]) -> Named:
    """Return some of the steps of (steps, networks, ...) values."""
    return {name: value[steps] for name, value in values.items()}


def _unequal_steps(ours: Tensor, theirs: Tensor, population: int) -> list[int]:
    """Return the steps at which any element of (steps, networks, ...) has other bits."""
    differ = as_integers(ours[:, :population]) != as_integers(theirs[:, :population])
    return differ.flatten(1).any(1).nonzero().flatten().tolist()


def run(case: Case, watchers: Sequence[Watcher] = (), **settings: Any) -> Report:
    """Train `case` by hand, judge every step by autograd, return the report; see `Run`."""
    return Run(case, **settings).train(watchers)
