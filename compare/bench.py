"""What a checked step costs, in plain steps of autograd with SGD, side by side in one run."""

import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from rich.console import Console
from rich.table import Table

from compare.cases import CASES
from compare.given import Given, draw
from compare.harness import Run
from compare.sides import by_hand
from torch_ref.network import Network, half_squared_error

_STEPS = 6_000
_ROUNDS = 5


def bench(console: Console) -> int:
    """Time the three in turn, round by round, and print the ratios' median and spread."""
    case = CASES["three_layer"]
    given = draw(case, seed=1, population=1, dtype=torch.float64, device=torch.device("cpu"))
    works: dict[str, tuple[int, Callable[[int], None]]] = {
        "autograd and SGD, plain": (_STEPS, partial(_autograd, given)),
        "by hand, plain": (_STEPS, partial(_by_hand, given)),
        "checked, a whole run with its proofs": (case.steps, _checked),
    }
    micro: dict[str, list[float]] = {name: [] for name in works}
    for round_ in range(_ROUNDS + 1):
        for name, (steps, work) in works.items():
            started = time.perf_counter()
            work(steps)
            if round_:  # the first round warms up
                micro[name].append((time.perf_counter() - started) / steps * 1e6)
    plain = micro["autograd and SGD, plain"]
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("one step of three_layer", "microseconds", "ratio", "least", "most"):
        table.add_column(title, justify="left" if "step" in title else "right")
    for name, times in micro.items():
        ratios = [time / base for time, base in zip(times, plain, strict=True)]
        figures = (statistics.median(ratios), min(ratios), max(ratios))
        cells = (f"{figure:.2f}" for figure in figures)
        table.add_row(name, f"{statistics.median(times):.1f}", *cells)
    console.print(table)
    console.print(
        f"  ratio: to the plain autograd step of the same round; {_ROUNDS} rounds, "
        f"torch {torch.__version__}, {torch.get_num_threads()} threads"
    )
    return 0


def _autograd(given: Given, steps: int) -> None:
    """Train as any PyTorch user would, one network without a population's dimension."""
    network = Network(sizes=CASES["three_layer"].network.sizes, dropout=0.0, like=given.X[0])
    with torch.no_grad():
        for parameter, weights in zip(network.parameters(), given.weights.values(), strict=True):
            parameter.copy_(weights[0])
    optimizer = torch.optim.SGD(network.parameters(), lr=1.0)
    X, y = given.X[0], given.y[0]
    for _ in range(steps):
        optimizer.zero_grad()
        half_squared_error(network(X), y).backward()
        optimizer.step()


def _by_hand(given: Given, steps: int) -> None:
    step = by_hand(CASES["three_layer"])
    weights = {name: w[0] for name, w in given.weights.items()}
    for _ in range(steps):
        values = step(X=given.X[0], y=given.y[0], **weights)
        weights = {name: values[name] for name in weights}


def _checked(steps: int) -> None:
    report = Run(CASES["three_layer"], steps=steps).train()
    assert report.verdict == "EXACT", str(report)
