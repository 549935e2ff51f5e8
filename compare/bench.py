"""`python -m compare bench`: our steps beside those of others, each claim beside its figure."""

import json
import os
import platform
import threading
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn
from rich.table import Table as Lines

from compare import growth, works
from compare.claims import CHOICES, GROUPS, GROWTHS, PRODUCTS, Claim, Group
from compare.environment import environment
from compare.files import save
from compare.interrupt import requests
from compare.terminal import PlainConsole
from compare.timing import Times, side_by_side, spread

MARK = "<"  # of a peer that is faster than ours


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

    def tell(words: str) -> None:
        bar.update(task, description=words)
        bar.refresh()

    interrupted = False
    with requests() as signals, bar:
        try:
            signals.working = True  # a second Ctrl-C does not wait for the work in hand
            for name in (n for n in GROUPS if n in asked):
                group, times = GROUPS[name], Times()
                try:
                    _measure(group, times, tell, signals.stop, small=small)
                finally:
                    found["groups"].append(summary(group, times))
                    console.print(table(found["groups"][-1]))
                    console.print()
            for name in GROWTHS if "growth" in asked else ():
                grown.append(_grow(name, tell, signals.stop, small=small))
        except KeyboardInterrupt:
            interrupted = True
        finally:
            signals.working = False
    if grown:
        console.print(_growth_table(grown))
        console.print()
    console.say(_closing(found["machine"]))
    found["growth"] = [
        {**asdict(each), "slope": each.slope, "last": each.last, "what": growth.describe(each)}
        for each in grown
    ]
    found |= {"interrupted": interrupted, "seconds": perf_counter() - started}
    if json_to is not None:
        _write(json.dumps(found, indent=1) + "\n", json_to)
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


def summary(group: Group, times: Times) -> dict[str, Any]:
    """Return a group's figures and claims as plain values."""
    rows: list[dict[str, Any]] = []
    for label, figures in times.figures.items():
        ratios = times.ratios(label, (group.base,))
        row = {"label": label, "ours": label in group.ours, **asdict(spread(figures))}
        row["ratio"] = asdict(spread(ratios)) if ratios else None
        peer = not row["ours"] and label != PRODUCTS  # which are a part of ours
        row["faster_than"] = _beaten(group, times, label) if peer else []
        rows.append(row)
    return {
        "name": group.name,
        "title": group.title,
        "unit": group.unit,
        "scale": group.scale,
        "base": group.base,
        "rounds": max(map(len, times.figures.values()), default=0),
        "rows": rows,
        "not_here": times.not_here,
        "claims": [_judged(claim, times) for claim in group.claims],
    }


def _beaten(group: Group, times: Times, label: str) -> list[str]:
    """Return which of ours a peer is faster than, by the median of the rounds' ratios."""
    ratios = {mine: times.ratios(label, (mine,)) for mine in group.ours}
    return [mine for mine, found in ratios.items() if found and spread(found).median < 1]


def _judged(claim: Claim, times: Times) -> dict[str, Any]:
    """Return a claim beside what was measured, None where nothing was."""
    figures = times.ratios(claim.what, claim.over)
    found = spread(figures) if figures else None
    return {
        "what": claim.what,
        "over": list(claim.over),
        "at_least": claim.at_least,
        "limit": claim.limit,
        "aim": claim.aim,
        "measured": asdict(found) if found else None,
        "holds": claim.holds(found.median) if found else None,
    }


def table(group: dict[str, Any]) -> Lines:
    """Return a group as lines: a row for each work, and one for each claim on several of them."""
    lines = Lines(box=None, pad_edge=False, header_style="bold", title_justify="left")
    lines.title = f"{group['name']}: {group['title']}"
    for heading in ("", group["unit"], "ratio", "least", "most", ""):
        lines.add_column(heading, justify="right" if heading else "left", no_wrap=bool(heading))
    alone = {claim["what"]: claim for claim in group["claims"] if claim["over"] == [group["base"]]}
    for row in group["rows"]:
        note = [_said(alone[row["label"]])] if row["label"] in alone else []
        note += [f"{MARK} faster than {', '.join(row['faster_than'])}"] * bool(row["faster_than"])
        figure = f"{row['median'] * group['scale']:.4g}"
        lines.add_row(row["label"], figure, *_spread(row["ratio"]), ", ".join(note))
    for label, why in group["not_here"].items():
        lines.add_row(label, "", "", "", "", f"not here: {why}")
    for claim in group["claims"]:
        if claim not in alone.values() or not claim["measured"]:
            over = f"\n  / ({' + '.join(claim['over'])})" if claim["over"] else ""
            lines.add_row(claim["what"] + over, "", *_spread(claim["measured"]), _said(claim))
    lines.caption = f"rounds: {group['rounds']}; ratios are to {group['base']} in the same round"
    lines.caption_justify = "left"
    return lines


def _said(claim: dict[str, Any]) -> str:
    """Return whether a claim holds, and its limit."""
    limit = f"{'at least' if claim['at_least'] else 'at most'} {claim['limit']:g}"
    aim = f", aim {claim['aim']:g}" if claim["aim"] else ""
    said = {True: "holds", False: "DOES NOT HOLD", None: "not measured"}[claim["holds"]]
    return f"{said}: {limit}{aim}"


def _spread(found: dict[str, float] | None) -> list[str]:
    return [f"{value:.3g}" for value in found.values()] if found else ["", "", ""]


def _measure(group: Group, times: Times, tell: Any, stop: threading.Event, *, small: bool) -> None:
    side_by_side(
        works.works(group.name, small=small), times,
        seconds=0 if small else group.seconds, rounds=1 if small else group.rounds,
        tell=lambda words: tell(f"{group.name}: {words}"), stop=stop,
    )  # fmt: skip


def _grow(name: str, tell: Any, stop: threading.Event, *, small: bool) -> growth.Growth:
    times = Times()
    side_by_side(
        growth.works(name, small=small), times, seconds=0 if small else 4, rounds=1 if small else 3,
        tell=lambda words: tell(f"growth with {name}: {words}"), stop=stop,
    )  # fmt: skip
    return growth.grown(name, times)


def _growth_table(grown: list[growth.Growth]) -> Lines:
    lines = Lines(box=None, pad_edge=False, header_style="bold")
    lines.add_column("growth")
    lines.add_column("milliseconds at each size")
    for heading in ("slope", "at the end"):
        lines.add_column(heading, justify="right", no_wrap=True)
    for each in grown:
        pairs = zip(each.sizes, each.seconds, strict=True)
        sizes = "  ".join(f"{size}: {seconds * 1e3:.3g}" for size, seconds in pairs)
        lines.add_row(growth.describe(each), sizes, f"{each.slope:.2f}", f"{each.last:.2f}")
    return lines


def _closing(found: dict[str, Any]) -> str:
    load = "" if found["load"] is None else f", load {found['load']:.1f} at the start"
    return (
        f"{found['cpu']} ({found['cpu_capability']}), {found['cores']} cores, "
        f"{found['threads']} threads{load}; torch {found['torch']}, numpy {found['numpy']}, "
        f"python {found['python']}"
    )


def _write(text: str, name: str) -> None:
    if name == "-":
        Console(highlight=False).out(text, end="")
    else:
        save(Path(name), text)
