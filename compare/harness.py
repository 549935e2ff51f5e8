"""Both sides at every step of a run: the given -> by hand and autograd -> bits -> report.

The by-hand side goes ahead for a chunk of steps. The weights that it passed through are then a
population, which autograd judges in one batch. Where any bit differs, one such step is taken once
more alone, with the shapes that the by-hand side has: if autograd alone has other bits than
autograd in the batch, the whole chunk is judged on that plain path. So the batch only saves time.
"""

import importlib
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from types import FrameType
from typing import Any

import torch
from torch import Tensor

from compare.batch import fill, plan
from compare.bits import Difference, compare_bits
from compare.cases import Case
from compare.environment import environment
from compare.errors import BadInput
from compare.given import device_named, draw, dtype_named
from compare.report import Report
from compare.tally import Named, Tally
from torch_ref import Trainer

Step = Callable[..., Named]


@dataclass
class Chunk:
    """What a watcher is told after each chunk of steps."""

    start: int
    steps: int
    loss: dict[str, Tensor]  # of each side, (steps,), the mean over the population
    error: dict[str, Tensor]  # mean absolute error of the output, likewise
    unequal: int  # elements so far
    max_ulp: int  # so far
    free_gap: float  # so far


Watcher = Callable[[Chunk], None]


@contextmanager
def _interrupt_between_chunks() -> Iterator[threading.Event]:
    """Let the first Ctrl-C set an event instead of raising, so that no chunk is half counted."""
    stopped = threading.Event()
    if threading.current_thread() is not threading.main_thread():  # signals are the main thread's
        yield stopped
        return
    usual = signal.getsignal(signal.SIGINT)

    def stop(_number: int, _frame: FrameType | None) -> None:
        stopped.set()
        signal.signal(signal.SIGINT, usual)

    signal.signal(signal.SIGINT, stop)
    try:
        yield stopped
    finally:
        signal.signal(signal.SIGINT, usual)


class _Autograd:
    """The reference side: a trainer for each number of networks, built when first needed."""

    def __init__(self, case: Case) -> None:
        self.question: dict[str, Any] = case.network.question()
        self.trainers: dict[int, Trainer] = {}

    def step(self, *, X: Tensor, y: Tensor, **weights: Tensor) -> Named:
        """Take one step, from copies: neither side ever holds storage of the other's."""
        if len(X) not in self.trainers:
            self.trainers[len(X)] = Trainer(like=X, **self.question)
        copies = {name: weight.clone() for name, weight in weights.items()}
        return self.trainers[len(X)].step(X=X.clone(), y=y.clone(), **copies)


def by_hand(case: Case) -> Step:
    """Return the step of the case's module in manual/, with the question put to it."""
    module = importlib.import_module(f"manual.{case.by_hand}")
    own = {} if case.grouping is None else {"grouping": case.grouping}
    return partial(module.step, **case.network.question(), **own)


class Run:
    """A case with its settings, checked and drawn, ready to train.

    `step` stands in for the case's own by-hand step; `chunk=1` is the plain path throughout.
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
        chunk: int | None = None,
    ) -> None:
        self.steps = case.steps if steps is None else steps
        if self.steps < 1:
            raise BadInput(f"steps {self.steps}: a run needs at least 1 step")
        place = device_named(device)
        kind = dtype_named(dtype)
        given = draw(case, seed=seed, population=population, dtype=kind, device=place)
        most, self.multiple = plan(
            case.network, rows=len(case.X), population=population, dtype=kind, device=place
        )
        self.chunk = min(most, chunk or most)
        self.population = population
        self.data = {"X": fill(given.X, self.multiple), "y": fill(given.y, self.multiple)}
        self.weights = {name: fill(w, self.multiple) for name, w in given.weights.items()}
        self.hand = step or by_hand(case)
        self.autograd = _Autograd(case)
        settings = {"dtype": dtype, "device": device, "seed": seed, "population": population}
        self.report = Report(case.name, settings, case.unnamed, environment=environment(place))
        self.tally = Tally(self.report, seed)
        self.output = f"l{len(self.weights)}"
        self.free: Named | None = None  # autograd's weights since it went on its own

    def train(self, watchers: Sequence[Watcher] = ()) -> Report:
        """Train all steps; Ctrl-C ends it after the chunk in hand, a second one at once."""
        started = time.perf_counter()
        with _interrupt_between_chunks() as stopped:
            self._train(watchers, stopped)
        self.report.seconds = time.perf_counter() - started
        return self.report

    def _train(self, watchers: Sequence[Watcher], stopped: threading.Event) -> None:
        report, weights = self.report, self.weights
        given = {**self.data, **weights}
        if not self.tally.open(self.hand(**given), self.autograd.step(**given)):
            report.steps = 1
            return
        while report.steps < self.steps:
            before, after = [], []
            with torch.inference_mode():
                for _ in range(min(self.chunk, self.steps - report.steps)):
                    before.append(weights)
                    after.append(self.hand(**self.data, **weights))
                    weights = {name: after[-1][name] for name in weights}
            chunk = self._judge(before, after)
            report.steps += chunk.steps
            report.output = after[-1][self.output][0].tolist()
            for watcher in watchers:
                watcher(chunk)
            if stopped.is_set() and report.steps < self.steps:
                report.interrupted = True
                return

    def _judge(self, before: list[Named], after: list[Named]) -> Chunk:
        """Compare a chunk of steps with autograd at the weights `before` each."""
        ours = {name: torch.stack([named[name] for named in after]) for name in after[0]}
        theirs = self._in_one_batch(before) if len(before) > 1 else None
        if theirs is not None:
            found = self._compare(ours, theirs)
            unequal = [d.worst.index[0] for d in found.values() if d.worst]
            if unequal and not self._same_alone(before, theirs, min(unequal)):
                theirs = None
        if theirs is None:
            alone = [self.autograd.step(**self.data, **weights) for weights in before]
            theirs = {name: torch.stack([named[name] for named in alone]) for name in alone[0]}
            found = self._compare(ours, theirs)
        for name, difference in found.items():
            self.tally.add(name, self.report.steps, difference)
        if self.tally.unequal:
            self._go_free(before, after)

        P = self.population
        errors = {
            "manual": self.data["y"][:P] - ours[self.output][:, :P],
            "autograd": self.data["y"][:P] - theirs[self.output][:, :P],
        }
        return Chunk(
            start=self.report.steps,
            steps=len(before),
            loss={side: (e**2).sum((-2, -1)).mean(-1) / 2 for side, e in errors.items()},
            error={side: e.abs().mean((-3, -2, -1)) for side, e in errors.items()},
            unequal=self.tally.unequal,
            max_ulp=self.tally.max_ulp,
            free_gap=self.report.free_gap,
        )

    def _in_one_batch(self, before: list[Named]) -> Named:
        """Return autograd's values at every step's weights, (steps, P, ...), from one batch."""
        given = {name: torch.stack([weights[name] for weights in before]) for name in before[0]}
        given |= {name: g.expand(len(before), *g.shape) for name, g in self.data.items()}
        size = (len(before), self.population)
        states = {
            name: fill(g[:, : self.population].flatten(0, 1), self.multiple)
            for name, g in given.items()
        }
        named = self.autograd.step(**states)
        return {n: v[: len(before) * self.population].unflatten(0, size) for n, v in named.items()}

    def _same_alone(self, before: list[Named], theirs: Named, k: int) -> bool:
        """Whether autograd gives step `k` alone the bits that it gave it in the batch."""
        alone = self.autograd.step(**self.data, **before[k])
        P = self.population
        return all(compare_bits(alone[n][:P], theirs[n][k]).worst is None for n in theirs)

    def _compare(self, ours: Named, theirs: Named) -> dict[str, Difference]:
        """Compare each quantity over (steps, P, ...), without the padding."""
        P = self.population
        return {name: compare_bits(ours[name][:, :P], theirs[name][:, :P]) for name in ours}

    def _go_free(self, before: list[Named], after: list[Named]) -> None:
        """Let autograd train on its own, and note how far its weights come to lie from ours.

        Until the first difference its weights are ours, since each of its steps was; so it sets
        out from the first chunk in which any bit differs.
        """
        free = before[0] if self.free is None else self.free
        for weights in after:
            named = self.autograd.step(**self.data, **free)
            free = {name: named[name] for name in free}
            for name in free:
                gap = (free[name] - weights[name])[: self.population].abs().max()
                self.report.free_gap = max(self.report.free_gap, float(gap))
        self.free = free


def run(case: Case, watchers: Sequence[Watcher] = (), **settings: Any) -> Report:
    """Train `case` by hand, judge every step by autograd, return the report; see `Run`."""
    return Run(case, **settings).train(watchers)
