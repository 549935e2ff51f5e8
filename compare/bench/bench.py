"""`python -m compare bench`: time our training steps and those of other implementations."""

import os
import platform
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from rich.progress import Progress, SpinnerColumn, TextColumn

from compare.bench import growth, workloads
from compare.bench.claims import CHOICES, GROUPS, GROWTHS
from compare.bench.results import growth_table, summary, table
from compare.bench.timing import Times, Work, side_by_side
from compare.console import PlainConsole
from compare.environment import environment
from compare.files import save_json
from compare.interrupts import cut_short


def bench(
    console: PlainConsole, *, only: Iterable[str] = (), json_to: str | None = None,
    plot_to: str | None = None, threads: int | None = None, small: bool = False,
) -> int:  # fmt: skip
    """Time the groups, print a table for each, write the requested files; return the exit code.

    Ctrl-C ends the benchmark: the measurements so far are printed and written, and the exit code is
    130.

    Args:
        console: where to print.
        only: the groups to run (default: all).
        json_to: a file for all measurements as JSON, "-" for standard output.
        plot_to: a PNG file for the growth plots.
        threads: the number of torch threads (default: torch's choice).
        small: whether to use tiny sizes and a single round, for tests.
    """
    started = perf_counter()
    if threads is not None:
        torch.set_num_threads(threads)
        os.environ["OMP_NUM_THREADS"] = str(threads)  # for child processes
    requested = set(only) or set(CHOICES)
    results: dict[str, Any] = {"machine": machine(), "groups": [], "growth": []}
    growths: list[growth.Growth] = []
    bar = Progress(
        SpinnerColumn(), TextColumn("{task.description}"), console=console, transient=True,
        auto_refresh=False, disable=not console.is_terminal,
    )  # fmt: skip
    task = bar.add_task("")

    def measure(title: str, works: list[Work], times: Times, seconds: float, rounds: int) -> None:
        side_by_side(
            works, times, seconds=0 if small else seconds, rounds=1 if small else rounds,
            report=lambda text: bar.update(task, description=f"{title}: {text}", refresh=True),
        )  # fmt: skip

    interrupted = False
    try:
        with bar, cut_short():
            for name in (n for n in GROUPS if n in requested):
                group, times = GROUPS[name], Times()
                try:
                    works = workloads.works(name, small=small)
                    measure(name, works, times, group.seconds, group.rounds)
                finally:
                    results["groups"].append(summary(group, times))
                    console.print(table(results["groups"][-1]))
                    console.print()
            for name in GROWTHS if "growth" in requested else ():
                times = Times()
                measure(f"growth with {name}", growth.works(name, small=small), times, 4, 3)
                growths.append(growth.measured(name, times))
    except KeyboardInterrupt:
        interrupted = True
    if growths:
        console.print(growth_table(growths))
        console.print()
    console.say(_machine_line(results["machine"]))
    results["growth"] = [
        {**asdict(each), "slope": each.slope, "last": each.last, "what": GROWTHS[each.name]}
        for each in growths
    ]
    results |= {"interrupted": interrupted, "seconds": perf_counter() - started}
    if json_to is not None:
        save_json(results, json_to)
    if plot_to is not None and growths:
        growth.plot(growths, Path(plot_to))
    return 130 if interrupted else 0


def machine() -> dict[str, Any]:
    """Return the facts that the timings depend on: processor, versions, threads, load."""
    model = ""
    if (info := Path("/proc/cpuinfo")).exists():
        lines = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        model = lines[0].partition(":")[2].strip() if lines else ""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    cpu = model or platform.processor() or platform.machine()
    return {**environment(torch.device("cpu")), "cpu": cpu, "cores": os.cpu_count(), "load": load}


def _machine_line(facts: dict[str, Any]) -> str:
    load = "" if facts["load"] is None else f", load {facts['load']:.1f} at the start"
    return (
        f"{facts['cpu']} ({facts['cpu_capability']}), {facts['cores']} cores, "
        f"{facts['threads']} threads{load}; torch {facts['torch']}, numpy {facts['numpy']}, "
        f"python {facts['python']}"
    )
