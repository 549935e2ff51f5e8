"""`python -m compare bench`: our steps beside those of others, each claim beside its figure."""

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
from compare.bench.figures import growth_table, summary, table
from compare.bench.timing import Times, Work, side_by_side
from compare.console import PlainConsole
from compare.environment import environment
from compare.files import save_json
from compare.interrupts import cut_short


def bench(
    console: PlainConsole, *, only: Iterable[str] = (), json_to: str | None = None,
    plot_to: str | None = None, threads: int | None = None, small: bool = False,
) -> int:  # fmt: skip
    """Time the groups, print each as it is done, write what is asked for; return the exit code.

    Ctrl-C ends it: what was measured until then is printed and written, and the code is 130.
    """
    started = perf_counter()
    if threads is not None:
        torch.set_num_threads(threads)
        os.environ["OMP_NUM_THREADS"] = str(threads)  # of the processes that are started
    asked = set(only) or set(CHOICES)
    found: dict[str, Any] = {"machine": machine(), "groups": [], "growth": []}
    grown: list[growth.Growth] = []
    bar = Progress(
        SpinnerColumn(), TextColumn("{task.description}"), console=console, transient=True,
        auto_refresh=False, disable=not console.is_terminal,
    )  # fmt: skip
    task = bar.add_task("")

    def measure(title: str, works: list[Work], times: Times, seconds: float, rounds: int) -> None:
        side_by_side(
            works, times, seconds=0 if small else seconds, rounds=1 if small else rounds,
            tell=lambda words: bar.update(task, description=f"{title}: {words}", refresh=True),
        )  # fmt: skip

    interrupted = False
    try:
        with bar, cut_short():
            for name in (n for n in GROUPS if n in asked):
                group, times = GROUPS[name], Times()
                try:
                    works = workloads.works(name, small=small)
                    measure(name, works, times, group.seconds, group.rounds)
                finally:
                    found["groups"].append(summary(group, times))
                    console.print(table(found["groups"][-1]))
                    console.print()
            for name in GROWTHS if "growth" in asked else ():
                times = Times()
                measure(f"growth with {name}", growth.works(name, small=small), times, 4, 3)
                grown.append(growth.grown(name, times))
    except KeyboardInterrupt:
        interrupted = True
    if grown:
        console.print(growth_table(grown))
        console.print()
    console.say(_closing(found["machine"]))
    found["growth"] = [
        {**asdict(each), "slope": each.slope, "last": each.last, "what": GROWTHS[each.name]}
        for each in grown
    ]
    found |= {"interrupted": interrupted, "seconds": perf_counter() - started}
    if json_to is not None:
        save_json(found, json_to)
    if plot_to is not None and grown:
        growth.plot(grown, Path(plot_to))
    return 130 if interrupted else 0


def machine() -> dict[str, Any]:
    """Return what the figures depend on: processor, versions, threads."""
    named = ""
    if (info := Path("/proc/cpuinfo")).exists():
        lines = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        named = lines[0].partition(":")[2].strip() if lines else ""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    cpu = named or platform.processor() or platform.machine()
    return {**environment(torch.device("cpu")), "cpu": cpu, "cores": os.cpu_count(), "load": load}


def _closing(found: dict[str, Any]) -> str:
    load = "" if found["load"] is None else f", load {found['load']:.1f} at the start"
    return (
        f"{found['cpu']} ({found['cpu_capability']}), {found['cores']} cores, "
        f"{found['threads']} threads{load}; torch {found['torch']}, numpy {found['numpy']}, "
        f"python {found['python']}"
    )
