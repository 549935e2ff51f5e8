"""A run: the given -> by hand, some steps ahead -> judged by autograd -> told, chunk by chunk."""

import copy
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from compare.cases.cases import Case, check_steps
from compare.cases.options import command
from compare.environment import device_named, dtype_named, environment, short
from compare.errors import BadInput, whole_number
from compare.interrupts import cut_short, interrupts, stop
from compare.passes.inputs import check_modes, kind_of, lift_limits
from compare.ranks.ranks import ALONE, Ranks
from compare.report.chunk import Chunk, merged
from compare.report.report import Report
from compare.report.single_process import SingleProcessResult
from compare.state_dict import Stateful, Types, require
from compare.training.accumulate import Tally
from compare.training.adapters import Autograd, Named, Step, by_hand
from compare.training.chunking import Part, plan
from compare.training.comparison import Judging
from compare.training.downsample import Buckets
from compare.training.evaluation import evaluate
from compare.training.merge import agree, check_shares, merged_chunks, merged_reports
from compare.training.prover import Prover
from compare.training.sampling import draw
from compare.training.sides import ManualSide, Reference
from compare.training.single_process_check import SingleProcessCheck

Watcher = Callable[[Chunk], None]
MOST_OUTPUT = 10_000  # values of an output that a report shows


class Run(Stateful):
    """A case with its settings, checked and drawn, ready to train.

    `step` stands in for the case's own by-hand step: it returns new tensors, by name, each time.
    `plain` has autograd take every step alone, the short path that the batch is tested against.
    Raises BadInput for settings that cannot be used.
    """

    STATE = Types(last_output=Tensor | None)  # besides that of its parts

    def __init__(
        self,
        case: Case,
        *,
        steps: int | None = None,
        dtype: str | torch.dtype = "float64",
        device: str | torch.device = "cpu",
        seed: int = 1,
        population: int = 1,
        step: Step | None = None,
        plain: bool = False,
        lift: str | int = "auto",
        ranks: Ranks = ALONE,
    ) -> None:
        if not isinstance(case, Case):
            raise BadInput(f"case {case!r}: give one of compare.CASES, or a compare.Case")
        self.case, self.ranks = case, ranks
        self.steps = check_steps(case.steps if steps is None else whole_number("steps", steps))
        if step is not None and not callable(step):
            raise BadInput(f"step is {step!r}: give a function of named tensors")
        seed, population = whole_number("seed", seed), whole_number("population", population)
        place, kind = device_named(device), dtype_named(dtype)

        # what it is given, and how it is cut
        self.along = ranks if population == 1 else ALONE  # with whom each step's rows are shared
        mine = range(1) if population == 1 else ranks.networks(population)
        given = draw(case, seed=seed, population=population, dtype=kind, device=place, mine=mine)
        check_shares(self.along, case, given.rows)
        # of a population the largest share: all ranks take the same steps at a time
        self.plan = plan(
            case.network, rows=given.rows // self.along.count,
            population=-(-population // ranks.count), dtype=kind, device=place,
        )  # fmt: skip
        members = self.plan.members
        self.parts = [
            Part(first, min(members, len(mine) - first), given, self.plan.multiple, self.along)
            for first in range(0, len(mine), members)
        ]
        one = [given.X[:1, : given.rows], given.y[:1, : given.rows]]
        self.lifts = lift_limits(lift, [*one, *(value[:1] for value in given.state.values())])
        given.state = {}  # it is the parts' from now on
        self.given = given

        # the two sides, and who judges them
        together = self.plan.together and not plain and self.along is ALONE
        # too large to lift: nothing goes back to a step's weights, and autograd takes them over
        large = self.plan.steps == 1 and lift == "auto" and self.lifts[0] is not None
        heavy = large and self.along.count == 1
        manual_step = by_hand(case) if step is None else _of_tensors(step)
        if self.along.count > 1:
            manual_step = partial(manual_step, ranks=self.along.count)
        self.manual_side = ManualSide(manual_step, heavy=heavy)
        self.autograd = Autograd(case, self.along.count)
        self.prover = Prover(
            manual_step, self.autograd.traceable, *self.lifts, numbers=case.network.numbers(),
            # of several ranks none can take a step by itself
            judged=self.autograd.step_from if self.along.count == 1 else None,
        )  # fmt: skip
        settings = {
            "dtype": short(kind), "device": str(place), "seed": seed, "population": population,
        }  # fmt: skip
        self.report = Report(case.name, settings, case.unnamed, environment=environment(place))
        self.tally = Tally(self.report, seed + mine.start)
        self.judging = Judging(
            case, Reference(self.autograd, together=together, heavy=heavy), self.prover,
            self.tally, self.along, stop=self.steps, leads=mine.start == 0,
        )  # fmt: skip

        # what is told of it
        if step is None:
            again = command(case, self.steps, settings | {"lift": lift})
            self.report.command = again and ranks.command(again)
        # all that it takes to make this run again, but for a step of one's own
        self.asked = settings | {"steps": self.steps, "plain": plain, "lift": lift}
        self.own_step = step is not None
        self.single_process: SingleProcessCheck | None = None
        if self.along.count > 1:
            self.report.settings = settings | {"ranks": ranks.count}
            self.report.one_process = SingleProcessResult()
            off = self.lifts[0]
            self.single_process = SingleProcessCheck(case, ranks, stop=self.steps, off=off)
        self.buckets = Buckets(self.steps)

        self.started = 0.0
        self.last_output: Tensor | None = None  # the first network's last output
        self.whole: tuple[Any, ...] = ()  # how far it had come after the last whole chunk
        self.stopping = False  # all ranks, after the chunk in hand
        self.regular = True  # every step by hand has had the first one's names and shapes

    def train(self, watchers: Sequence[Watcher] = ()) -> Report:
        """Train all steps; Ctrl-C ends it after the chunk in hand, a second one cuts that short."""
        report = self.report
        self.started = time.perf_counter() - report.seconds  # there are some when it is resumed
        with interrupts():
            try:
                self.stopping = self.ranks.any(stop.is_set())
                self._keep()
                while report.steps < self.steps and self.regular and not self.stopping:
                    self._advance(watchers)
                report.interrupted = report.steps < self.steps and self.regular
            except KeyboardInterrupt:
                if self.ranks.count > 1:
                    raise  # the other ranks may be anywhere
                self._go_back()  # without the chunk in hand
                report.interrupted = True
        kept_back = self.given.X_test is not None and not self.along.rank
        if not report.interrupted and self.regular and kept_back:
            evaluate(self.given, self.state, self.tally, self.autograd, *self.lifts)
        if self.last_output is not None and self.last_output.numel() <= MOST_OUTPUT:
            report.output = self.last_output.tolist()
        self.tally.conclude()
        report.follows = self.prover.follows()
        report.seconds = time.perf_counter() - self.started
        if self.ranks.count > 1:
            report = merged_reports(self.ranks.gather(report), shared=self.along.count > 1)
        report.curves = self.buckets.all
        return report

    def check_state(self, found: Any) -> None:
        """Raise ValueError for what is no output; put it on its device."""
        if (last := found.last_output) is not None:
            table = last.ndim == 2 and last.is_floating_point()
            require(table, "last_output", "no table of floats")
            found.last_output = last.to(self.given.X.device)

    @property
    def state(self) -> Named:
        """The weights, and whatever else a step hands on, of all networks."""
        parts = self.parts
        return {n: torch.cat([p.state[n][: p.networks] for p in parts]) for n in parts[0].state}

    def _advance(self, watchers: Sequence[Watcher]) -> None:
        """Take and judge a chunk of steps, and tell the watchers, whose writing nothing cuts."""
        with cut_short():
            chunk = self._chunk()
            self.stopping = self.ranks.any(stop.is_set())
        self._keep()
        if chunk is None:
            return
        chunk.buckets = self.buckets.add(chunk)
        for watcher in watchers:
            watcher(chunk)

    def _keep(self) -> None:
        """Note how far the run has come, after a whole chunk."""
        found = copy.deepcopy((vars(self.report), self.tally.proofs, self.tally.bounds))
        self.whole = *found, self.last_output, [(part.state, part.free) for part in self.parts]

    def _go_back(self) -> None:
        """Return to what was last noted."""
        found, self.tally.proofs, self.tally.bounds, self.last_output, states = self.whole
        vars(self.report).update(found)
        for part, (state, free) in zip(self.parts, states, strict=True):
            part.state, part.free = state, free

    def _chunk(self) -> Chunk | None:
        """Go ahead by hand for a chunk of steps, then judge it, part after part."""
        report = self.report
        data = self.given.steps(min(self.plan.steps, self.steps - report.steps))
        chunks: list[Chunk] = []
        state = self.parts[0].state
        for part in self.parts:
            chunk = self._steps(part, [part.data(step) for step in data])
            if chunk is None:
                break
            chunks.append(chunk)
        chunk = merged(chunks) if len(chunks) == len(self.parts) else None
        report.steps += chunk.steps if chunk else 0
        if self.ranks.count > 1:
            self.regular, chunk = merged_chunks(self.ranks, chunk, self.regular)
        if self.single_process and report.one_process and chunk:
            self.single_process.follow(report.one_process, chunk, data, state)
        return chunk

    def _steps(self, part: Part, data: list[Named]) -> Chunk | None:
        """Take a chunk of steps of some networks by hand, and judge it."""
        first = not self.report.quantities
        kinds = self.autograd.kinds(**data[0], **part.state) if first else {}
        before, after, part.state = self.manual_side.take(data, part.state)
        if first and self.along.any(not self.tally.open(after[0], kinds)):
            self.report.steps, self.regular = 1, False
            rows = self.report.quantities
            odd = [name for name, row in rows.items() if row.problem is not None]
            for name, proof in self.prover.misshapen(before[0], odd).items():
                rows[name].proof = proof
            return None
        same = self.tally.comparable(after, len(data[0]["X"]))
        self.regular = self.regular and same == len(after)
        if self.along.count > 1:
            same, alike = agree(self.along, self.report, [*part.state], after[:same])
            self.regular = self.regular and alike and same == len(after)
        if not same:
            return None
        chunk = self.judging.judge(part, before[:same], after[:same])
        if part.first == 0:
            self.last_output = chunk.values["manual"][self.case.network.prediction][-1, 0]
        return chunk


def run(case: Case, watchers: Sequence[Watcher] = (), **settings: Any) -> Report:
    """Train `case` by hand, judge every step by autograd, return the report; see `Run`."""
    if not isinstance(watchers, Sequence) or not all(map(callable, watchers)):
        raise BadInput(f"watchers is {watchers!r}: give a list of functions of a chunk")
    check_modes()
    with torch.inference_mode(False):  # which leaves no_grad too
        return Run(case, **settings).train(watchers)


def _of_tensors(step: Step) -> Step:
    """Return a step of the user's own that raises BadInput where it gives no named tensors."""

    def checked(**given: Tensor) -> Named:
        found = step(**given)
        if not isinstance(found, dict):
            raise BadInput(f"step returns {kind_of(found)}: return a dict of named tensors")
        for name, value in found.items():
            if not isinstance(value, Tensor):
                raise BadInput(f"step returns {kind_of(value)} as {name!r}: return a tensor")
        return found

    return checked
