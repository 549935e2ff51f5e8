"""Train a case chunk by chunk: steps by hand, compared with autograd, then passed to the watchers.

Watchers are the progress bar and the run folder.
"""

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
from compare.stateful import Stateful, Types, require
from compare.training.accumulate import Tally
from compare.training.adapters import Autograd, Named, Step, manual_step_of
from compare.training.chunking import Shard, Steps, plan, stacked
from compare.training.comparison import Comparison
from compare.training.downsample import Buckets
from compare.training.evaluation import evaluate
from compare.training.manual_batch import ManualBatch
from compare.training.merge import agree, check_shares, merged_chunks, merged_reports
from compare.training.prover import Prover
from compare.training.sampling import draw
from compare.training.sides import ManualSide, Reference
from compare.training.single_process_check import SingleProcessCheck

Watcher = Callable[[Chunk], None]
MAX_OUTPUT = 10_000  # the values of an output that a report has at most


class Run(Stateful):
    """A case with its settings and its data, ready to train.

    The arguments are those of `run`.

    Args:
        ranks: the processes that share the run, and this process's place among them.

    Raises:
        BadInput: for settings that cannot be used.
    """

    STATE = Types(last_output=Tensor | None)  # its components have their own state

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
        torch_device, torch_dtype = device_named(device), dtype_named(dtype)

        # the data, and how it is divided
        self.row_ranks = ranks if population == 1 else ALONE  # that share the rows of each step
        networks = range(1) if population == 1 else ranks.networks(population)
        sampler = draw(
            case, seed=seed, population=population, dtype=torch_dtype, device=torch_device,
            networks=networks,
        )  # fmt: skip
        check_shares(self.row_ranks, case, sampler.rows)
        # planned for the rank with the most networks, so that all ranks take chunks of one length
        self.plan = plan(
            case.network, rows=sampler.rows // self.row_ranks.count,
            population=-(-population // ranks.count), dtype=torch_dtype, device=torch_device,
        )  # fmt: skip
        size = self.plan.networks
        self.shards = [
            Shard(
                first, min(size, len(networks) - first), sampler, self.plan.multiple,
                self.row_ranks,
            )
            for first in range(0, len(networks), size)
        ]  # fmt: skip
        first_rows = [sampler.X[:1, : sampler.rows], sampler.y[:1, : sampler.rows]]
        first_state = [value[:1] for value in sampler.state.values()]
        self.lift_limits = lift_limits(lift, [*first_rows, *first_state])
        sampler.state = {}  # the shards have it from now on
        self.sampler = sampler

        # the two sides and their comparison
        one_batch = self.plan.one_batch and not plain and self.row_ranks is ALONE
        # a step that is too large to lift is not read again, so autograd may update its weights
        large = self.plan.steps == 1 and lift == "auto" and self.lift_limits[0] is not None
        avoid_copies = large and self.row_ranks.count == 1
        manual_step = manual_step_of(case) if step is None else _checked_step(step)
        if self.row_ranks.count > 1:
            manual_step = partial(manual_step, ranks=self.row_ranks.count)
        self.manual_side = ManualSide(
            manual_step, avoid_copies=avoid_copies,
            has_into=step is None and case.by_hand == "network",
        )  # fmt: skip
        # a step of the user's may do more than compute: it is taken step by step
        can_batch = one_batch and step is None
        self.manual_batch = ManualBatch(manual_step, self.plan.steps) if can_batch else None
        self.autograd = Autograd(case, self.row_ranks.count)
        self.prover = Prover(
            manual_step, self.autograd.traceable, *self.lift_limits,
            numbers=case.network.numbers(),
            # a step whose rows are shared needs all ranks, and only one of them proves
            injected_step=self.autograd.step_from if self.row_ranks.count == 1 else None,
        )  # fmt: skip
        settings = {
            "dtype": short(torch_dtype), "device": str(torch_device), "seed": seed,
            "population": population,
        }  # fmt: skip
        self.report = Report(
            case.name, settings, case.unnamed, environment=environment(torch_device)
        )
        self.tally = Tally(self.report, seed + networks.start)
        reference = Reference(self.autograd, one_batch=one_batch, avoid_copies=avoid_copies)
        self.comparison = Comparison(
            case, reference, self.prover, self.tally, self.row_ranks, stop=self.steps,
            has_first_network=networks.start == 0,
        )  # fmt: skip

        # the report, and the arguments for a checkpoint
        if step is None:
            single_command = command(case, self.steps, settings | {"lift": lift})
            self.report.command = single_command and ranks.command(single_command)
        # the keyword arguments that build this run again, unless it has a custom step
        self.arguments = settings | {"steps": self.steps, "plain": plain, "lift": lift}
        self.has_custom_step = step is not None
        self.single_process: SingleProcessCheck | None = None
        if self.row_ranks.count > 1:
            self.report.settings = settings | {"ranks": ranks.count}
            self.report.one_process = SingleProcessResult()
            off = self.lift_limits[0]
            self.single_process = SingleProcessCheck(case, ranks, stop=self.steps, off=off)
        self.buckets = Buckets(self.steps)

        self.started = 0.0
        self.last_output: Tensor | None = None  # of the first network
        self.snapshot: tuple[Any, ...] = ()  # the results and state after the last whole chunk
        self.stopping = False  # whether all ranks stop after this chunk
        self.regular = True  # whether all by-hand steps had the names and shapes of the first

    def train(self, watchers: Sequence[Watcher] = ()) -> Report:
        """Train all steps and return the report.

        Ctrl-C stops the run after the current chunk; a second one discards that chunk.

        Args:
            watchers: functions that receive each chunk when it is judged.
        """
        report = self.report
        self.started = time.perf_counter() - report.seconds  # a resumed run counts from there
        with interrupts():
            try:
                self.stopping = self.ranks.any(stop.is_set())
                self._take_snapshot()
                while report.steps < self.steps and self.regular and not self.stopping:
                    self._advance(watchers)
                report.interrupted = report.steps < self.steps and self.regular
            except KeyboardInterrupt:
                if self.ranks.count > 1:
                    raise  # the other ranks may be at any step
                self._restore_snapshot()
                report.interrupted = True
        has_test_rows = self.sampler.X_test is not None and not self.row_ranks.rank
        if not report.interrupted and self.regular and has_test_rows:
            evaluate(self.sampler, self.state, self.tally, self.autograd, *self.lift_limits)
        if self.last_output is not None and self.last_output.numel() <= MAX_OUTPUT:
            report.output = self.last_output.tolist()
        self.tally.conclude()
        report.follows = self.prover.follows()
        report.seconds = time.perf_counter() - self.started
        if self.ranks.count > 1:
            report = merged_reports(self.ranks.gather(report), shared=self.row_ranks.count > 1)
        report.curves = self.buckets.all
        return report

    def check_state(self, state: Any) -> None:
        """Raise ValueError for an output that is no matrix of floats; move it to the device."""
        if (last := state.last_output) is not None:
            is_matrix = last.ndim == 2 and last.is_floating_point()
            require(is_matrix, "last_output", "not a matrix of floats")
            state.last_output = last.to(self.sampler.X.device)

    @property
    def state(self) -> Named:
        """The weights and other state of all networks of this process, (P, ...) each."""
        shards = self.shards
        return {n: torch.cat([s.state[n][: s.networks] for s in shards]) for n in shards[0].state}

    def _advance(self, watchers: Sequence[Watcher]) -> None:
        """Take and judge a chunk of steps, and call the watchers; Ctrl-C never cuts those short."""
        with cut_short():
            chunk = self._chunk()
            self.stopping = self.ranks.any(stop.is_set())
        self._take_snapshot()
        if chunk is None:
            return
        chunk.buckets = self.buckets.add(chunk)
        for watcher in watchers:
            watcher(chunk)

    def _take_snapshot(self) -> None:
        """Keep the results and the state after a whole chunk."""
        results = copy.deepcopy((vars(self.report), self.tally.proofs, self.tally.bounds))
        states = [(shard.state, shard.free) for shard in self.shards]
        self.snapshot = *results, self.last_output, states

    def _restore_snapshot(self) -> None:
        """Return to the last snapshot."""
        report, self.tally.proofs, self.tally.bounds, self.last_output, states = self.snapshot
        vars(self.report).update(report)
        for shard, (state, free) in zip(self.shards, states, strict=True):
            shard.state, shard.free = state, free

    def _chunk(self) -> Chunk | None:
        """Take and judge the next chunk, shard after shard; None if steps cannot be compared."""
        report = self.report
        data = self.sampler.steps(min(self.plan.steps, self.steps - report.steps))
        chunks: list[Chunk] = []
        state = self.shards[0].state
        for shard in self.shards:
            chunk = self._steps(shard, [shard.data(step) for step in data])
            if chunk is None:
                break
            chunks.append(chunk)
        chunk = merged(chunks) if len(chunks) == len(self.shards) else None
        report.steps += chunk.steps if chunk else 0
        if self.ranks.count > 1:
            self.regular, chunk = merged_chunks(self.ranks, chunk, self.regular)
        if self.single_process and report.one_process and chunk:
            self.single_process.follow(report.one_process, chunk, data, state)
        return chunk

    def _steps(self, shard: Shard, data: list[Named]) -> Chunk | None:
        """Take a chunk of steps of a shard by hand, and judge it."""
        first = not self.report.quantities
        kinds = self.autograd.kinds(**data[0], **shard.state) if first else {}
        taken = self.manual_batch.take(shard, data) if self.manual_batch else None
        before, after, shard.state = taken or self.manual_side.take(data, shard.state)
        if first and self.row_ranks.any(not self.tally.open(after[0], kinds)):
            self.report.steps, self.regular = 1, False
            rows = self.report.quantities
            misshapen = [name for name, row in rows.items() if row.problem is not None]
            for name, proof in self.prover.misshapen(before[0], misshapen).items():
                rows[name].proof = proof
            return None
        same = self.tally.comparable(after, len(data[0]["X"]))
        self.regular = self.regular and same == len(after)
        if self.row_ranks.count > 1:
            same, agreed = agree(self.row_ranks, self.report, [*shard.state], after[:same])
            self.regular = self.regular and agreed and same == len(after)
        if not same:
            return None
        if not isinstance(after, Steps):
            before, after = before[:same], Steps(stacked(after[:same]), shard.multiple)
            if self.manual_batch and self.regular and self.report.steps + same < self.steps:
                self.manual_batch.learn(shard, before, after)
        chunk = self.comparison.judge(shard, before, after)
        if shard.first == 0:
            self.last_output = chunk.values["manual"][self.case.network.prediction][-1, 0]
        return chunk


def run(case: Case, watchers: Sequence[Watcher] = (), **settings: Any) -> Report:
    """Train a network by hand, compare every step with autograd, and return the report.

    At each step the bits of every named quantity are compared, and the rounding of those that
    differ is bounded. At sampled steps (the first, the last, and more where bits differ) both
    formulas are also compared in exact arithmetic.

    Args:
        case: a value of `compare.CASES`, or a `compare.Case`.
        watchers: functions that are called after each chunk of steps with a `Chunk`: the losses,
            differences and values of these steps.
        **settings: keyword arguments, all optional:
            steps: number of training steps, at least 1; the case's if None.
            dtype: "float64" (default), "float32", "float16" or "bfloat16", or the torch.dtype.
            device: "cpu" (default), "cuda" or "cuda:N", or the torch.device.
            seed: seed of the data and the first weights, from 0 to 2**32 - 1; 1 by default.
            population: number of networks P to train side by side, with the seeds seed, seed + 1,
                ...; 1 by default.
            step: by-hand step in place of the case's. It takes by name the tensors X (P, rows, I),
                y (P, rows, O), each weight (P, inputs, outputs) and, where the network has them,
                the masks and the step number t. It returns a dict of all named quantities, with
                the weights after the step, as new tensors.
            plain: take every autograd step alone instead of in batches: slower, same report.
            lift: the entries of large matrix products to compute exactly: "auto" (default), "all",
                "none", or their number.
            ranks: the processes that share the run; the command line sets it under torchrun.

    Returns:
        The report; `report.verdict` is the gravest verdict of all quantities.

    Raises:
        BadInput: for a case, a setting or a value that cannot be used.

    Example:
        >>> import compare
        >>> report = compare.run(compare.CASES["three_layer"], steps=50)
        >>> print(report.verdict, report.steps, report.quantities["l1_delta"].max_ulp)
        EXACT 50 0
    """
    if not isinstance(watchers, Sequence) or not all(map(callable, watchers)):
        raise BadInput(f"watchers is {watchers!r}: give a list of functions that take a chunk")
    check_modes()
    with torch.inference_mode(False):  # this also ends a no_grad of the caller
        return Run(case, **settings).train(watchers)


def _checked_step(step: Step) -> Step:
    """Return the user's step, checked to return named tensors; BadInput otherwise."""

    def checked(**inputs: Tensor) -> Named:
        values = step(**inputs)
        if not isinstance(values, dict):
            raise BadInput(f"step returns {kind_of(values)}: return a dict of named tensors")
        for name, value in values.items():
            if not isinstance(value, Tensor):
                raise BadInput(f"step returns {kind_of(value)} as {name!r}: return a tensor")
        return values

    return checked
