"""Shows the runs there are: in TensorBoard, as a list, two side by side."""

import argparse
import threading
from pathlib import Path

from rich.table import Table
from rich.text import Text

from compare.errors import BadInput
from compare.proof.verdict import STYLE
from compare.terminal import PlainConsole


def board(args: argparse.Namespace) -> int:
    """Serve TensorBoard on the runs until a signal."""
    from compare.board.serve import serve, stop_at_signals

    if not 1 <= args.port <= 65535:
        raise BadInput(f"--port {args.port}: give 1 to 65535")
    stop = threading.Event()
    stop_at_signals(stop)
    serve(Path(args.log_dir), args.port, PlainConsole().say, stop)
    return 0


def runs(args: argparse.Namespace) -> int:
    """List the runs and their verdicts."""
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


def diff(args: argparse.Namespace) -> int:
    """List in what two runs differ."""
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
