"""What a checked step costs beside autograd with SGD, and a verdict beside gradcheck."""

import itertools
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table as Lines
from torch import Tensor

from compare.cases import CASES, Case, Network
from compare.checking import check, name
from compare.data import Table
from compare.given import draw
from compare.harness import Run
from compare.sides import Named, by_hand
from torch_ref import Trainer

_STEPS = 6_000
_ROUNDS = 5


def bench(console: Console) -> int:
    """Time each group's works in turn, round by round; print ratios with median and spread."""
    case = CASES["three_layer"]
    groups = [_training(case, torch.float64, steps=_STEPS)]
    groups[0]["checked, a whole run with its proofs"] = (case.steps, _checked)
    groups.append(_training(CASES["digits"], torch.float64, steps=400))
    groups.append(_training(_wide(), torch.float32, steps=200))
    small, large = _inputs(64, 128, 10, rows=32), _inputs(784, 128, 10, rows=32)
    verdicts: Works = {
        "torch's slow gradcheck, 64-128-10": (
            1, lambda _: torch.autograd.gradcheck(_TwoLayers.apply, tuple(small.values()))
        ),
        "compare.check, 64-128-10": (1, lambda _: check(_backward, _forward, small)),
        "compare.check, 784-128-10": (1, lambda _: check(_backward, _forward, large)),
    }  # fmt: skip
    titles = ("three_layer", "digits, batch 64", "784-256-10, batch 128, float32")
    for title, works in zip(titles, groups, strict=True):
        console.print(_side_by_side(f"one step of {title}", "microseconds", 1e6, works))
        console.print()
    console.print(_side_by_side("one verdict, batch 32, float64", "milliseconds", 1e3, verdicts))
    machine = f"torch {torch.__version__}, {torch.get_num_threads()} threads"
    console.print(f"  ratio: to the first of the same round; {_ROUNDS} rounds, {machine}")
    return 0


def _wide() -> Case:
    """Return 784-256-10 on rows of chance: the blog's layers at the size of MNIST's images."""

    def data(seed: int) -> Table:
        chance = np.random.RandomState(seed)
        X, y = chance.standard_normal((128, 784)), np.eye(10)[chance.randint(10, size=128)]
        return Table(X, y, X[:1], y[:1], tuple("0123456789"))

    network = Network(sizes=(784, 256, 10), alpha=0.01)
    return Case("wide", "", network, data=data, init="glorot")


def _training(case: Case, dtype: torch.dtype, *, steps: int) -> "Works":
    given = draw(case, seed=1, population=1, dtype=dtype, device=torch.device("cpu"))
    batches = [{n: v[0] for n, v in batch.items()} for batch in given.steps(8)]
    state = {name: value[0] for name, value in given.state.items()}
    return {
        "autograd and torch.optim.SGD": (steps, partial(_autograd, case, batches, state)),
        "by hand": (steps, partial(_by_hand, case, batches, state)),
    }


Works = dict[str, tuple[int, Callable[[int], object]]]  # how many times it does its thing


def _side_by_side(title: str, unit: str, scale: float, works: Works) -> Lines:
    """Time the works in turn after a round of warming up."""
    times: dict[str, list[float]] = {label: [] for label in works}
    for round_ in range(_ROUNDS + 1):
        for label, (count, work) in works.items():
            started = time.perf_counter()
            work(count)
            if round_:
                times[label].append((time.perf_counter() - started) / count * scale)
    first = next(iter(times.values()))
    table = Lines(box=None, pad_edge=False, header_style="bold")
    table.add_column(title)
    for heading in (unit, "ratio", "least", "most"):
        table.add_column(heading, justify="right")
    for label, found in times.items():
        ratios = [each / base for each, base in zip(found, first, strict=True)]
        figures = (statistics.median(ratios), min(ratios), max(ratios))
        table.add_row(label, f"{statistics.median(found):.1f}", *(f"{f:.2f}" for f in figures))
    return table


def _inputs(I: int, H: int, O: int, *, rows: int) -> dict[str, Tensor]:  # sizes
    """Return data, and weights that need a gradient, for I-H-O."""
    chance = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=chance, dtype=torch.float64)

    weights = {"w1": normal(I, H) / I**0.5, "b1": normal(H), "w2": normal(H, O) / H**0.5}
    weights["b2"] = normal(O)
    data = {"X": normal(rows, I), "y": normal(rows, O)}
    return {**data, **{name: weight.requires_grad_() for name, weight in weights.items()}}


def _forward(X: Tensor, y: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> Tensor:
    h = name(torch.sigmoid(name(X @ w1 + b1, "z1")), "h")
    return ((y - torch.sigmoid(name(h @ w2 + b2, "z2"))) ** 2).sum() / 2


def _backward(X: Tensor, y: Tensor, w2: Tensor, h: Tensor, z2: Tensor) -> dict[str, Tensor]:
    output = torch.sigmoid(z2)
    dz2 = (output - y) * (1 - output) * output
    dh = dz2 @ w2.mT
    dz1 = dh * (1 - h) * h
    return {"z2": dz2, "h": dh, "z1": dz1, "w2": h.mT @ dz2, "b2": dz2.sum(0),
            "w1": X.mT @ dz1, "b1": dz1.sum(0)}  # fmt: skip


class _TwoLayers(torch.autograd.Function):
    """The same pass as gradcheck takes it."""

    @staticmethod
    def forward(ctx: Any, X: Tensor, y: Tensor, *weights: Tensor) -> Tensor:
        w1, b1, w2, b2 = weights
        h = torch.sigmoid(X @ w1 + b1)
        z2 = h @ w2 + b2
        ctx.save_for_backward(X, y, w2, h, z2)
        return ((y - torch.sigmoid(z2)) ** 2).sum() / 2

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        found = _backward(*ctx.saved_tensors)
        return None, None, *(grads[0] * found[key] for key in ("w1", "b1", "w2", "b2"))


def _autograd(case: Case, batches: list[Named], state: Named, steps: int) -> None:
    """Train as any PyTorch user would, one network without a population's dimension."""
    question = case.network.question()
    trainer = Trainer(like=batches[0]["X"], **question)
    network = trainer.network
    with torch.no_grad():
        for name, parameter in trainer.parameters.items():
            parameter.copy_(state[name])
    optimizer = torch.optim.SGD(
        network.parameters(), lr=question["alpha"], momentum=question["momentum"]
    )
    for _, batch in zip(range(steps), itertools.cycle(batches), strict=False):
        optimizer.zero_grad()
        trainer.loss(network(batch["X"]), batch["y"]).backward()
        optimizer.step()


def _by_hand(case: Case, batches: list[Named], state: Named, steps: int) -> None:
    step = by_hand(case)
    with torch.inference_mode():
        for _, batch in zip(range(steps), itertools.cycle(batches), strict=False):
            values = step(**batch, **state)
            state = {name: values[name] for name in state}


def _checked(steps: int) -> None:
    report = Run(CASES["three_layer"], steps=steps).train()
    assert report.verdict == "EXACT", str(report)
