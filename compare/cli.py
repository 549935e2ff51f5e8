"""The command line: reads the arguments and dispatches. Exit codes are in `main`."""

import argparse
import os
import sys
import threading
import traceback
from collections.abc import Sequence
from pathlib import Path

from rich.table import Table
from rich.text import Text

from compare import commands
from compare.bench.claims import CHOICES
from compare.cases import CASES
from compare.errors import BadInput, unknown
from compare.files import check_can_hold
from compare.parser import parser
from compare.proof.verdict import STYLE
from compare.terminal import PlainConsole
from compare.training.interrupt import requests
from compare.training.ranks import started
from compare.training.watchman import unsaid


def main(argv: Sequence[str] | None = None) -> int:
    """Do what `argv` asks for and return the exit code.

    0 the demand is met, 1 it is not, 2 bad usage or input, 3 a fault of the program, 130 Ctrl-C.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if "--list" in words:
        words = ["--list"]
    elif not words or (words[0].startswith("-") and words[0] not in ("-h", "--help")):
        words.insert(0, "run")
    elif words[0] in CASES:
        print(f"compare: {words[0]!r} is a case: say run {words[0]}", file=sys.stderr)
        return 2
    try:
        with requests():
            code = _dispatch(parser().parse_args(words))
            sys.stdout.flush()
            return code
    except BadInput as error:
        return _say(f"compare: {error}", 2)
    except KeyboardInterrupt:
        return _say("compare: stopped before anything was judged", 130)
    except OSError as error:
        # standard output itself cannot be written to; nothing more is said there
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _say(f"compare: cannot write the output: {error.strerror}", 2)
    except Exception:
        traceback.print_exc()
        return _say("compare: this is a fault of the program, not of your input", 3)


def _say(message: str, code: int) -> int:
    """Print a message to standard error, if there is one to print to."""
    message = message.replace("compare: ", f"compare: {unsaid()}", 1)
    try:
        print(message, file=sys.stderr, flush=True)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
    return code


def _dispatch(args: argparse.Namespace) -> int:
    if args.list:
        return _list()
    if args.command != "run" and (count := started().count) > 1:
        raise BadInput(f"{args.command} on {count} ranks: torchrun is for run, leave it out")
    works = {
        "check": commands.check, "board": _board, "runs": _runs, "diff": _diff, "bench": _bench,
        "practice": commands.practice,
        "mutants": commands.mutants,
    }  # fmt: skip
    return works.get(args.command, commands.run)(args)


def _list() -> int:
    console = PlainConsole()
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("case", no_wrap=True)
    table.add_column("promises", no_wrap=True)
    table.add_column("steps", justify="right", no_wrap=True)
    table.add_column("shows")
    for case in CASES.values():
        table.add_row(case.name, case.promises, f"{case.steps:,}", case.shows)
    console.print(table)
    return 0


def _board(args: argparse.Namespace) -> int:
    from compare.board.serve import serve, stop_at_signals

    if not 1 <= args.port <= 65535:
        raise BadInput(f"--port {args.port}: give 1 to 65535")
    stop = threading.Event()
    stop_at_signals(stop)
    serve(Path(args.log_dir), args.port, PlainConsole().say, stop)
    return 0


def _runs(args: argparse.Namespace) -> int:
    from compare.board.history import runs

    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("run", "verdict"):  # a run's name ends in its case
        table.add_column(title, no_wrap=True)
    for title in ("steps", "seconds"):
        table.add_column(title, justify="right", no_wrap=True)
    for run in runs(Path(args.log_dir)):
        if (found := run.result) is None:
            table.add_row(run.name, "stopped before its end")
            continue
        verdict = Text(found["verdict"], style=STYLE[found["verdict"]])
        figures = f"{found['steps']:,}", f"{found['seconds']:.1f}"
        table.add_row(run.name, verdict, *figures)
    PlainConsole().print(table, crop=False, soft_wrap=True)
    return 0


def _diff(args: argparse.Namespace) -> int:
    from compare.board.history import differences, find

    one, other = (find(Path(args.log_dir), name) for name in (args.one, args.other))
    rows = list(differences(one, other))
    console = PlainConsole()
    if not rows:
        console.say(f"{one.name} and {other.name} differ in nothing but their time")
        return 0
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("what", one.name, other.name):
        table.add_column(title, overflow="fold")
    for row in rows:
        table.add_row(*row)
    console.print(table)
    return 1


def _bench(args: argparse.Namespace) -> int:
    for group in args.only:
        if group not in CHOICES:
            raise unknown("group", group, CHOICES)
    if args.json not in (None, "-"):
        check_can_hold("--json", args.json)
    if args.plot is not None:
        check_can_hold("--plot", args.plot)
    if args.threads is not None and not 1 <= args.threads <= 1024:
        raise BadInput(f"--threads {args.threads}: give 1 to 1024")
    from compare.bench.bench import bench
    from compare.bench.growth import check_plot

    if args.plot is not None:
        check_plot(args.plot)
    return bench(
        PlainConsole(stderr=args.json == "-"), only=args.only, json_to=args.json, plot_to=args.plot,
        threads=args.threads,
    )  # fmt: skip
