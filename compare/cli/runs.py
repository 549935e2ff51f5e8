"""Lists the runs there are."""

import argparse
from pathlib import Path

from rich.table import Table
from rich.text import Text

from compare.console import PlainConsole
from compare.errors import printable
from compare.proof.verdict import Verdict


def runs(args: argparse.Namespace) -> int:
    """List the runs and their verdicts."""
    from compare.board.runs import runs

    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("run", "verdict"):  # a run's name ends in its case
        table.add_column(title, no_wrap=True)
    for title in ("steps", "seconds"):
        table.add_column(title, justify="right", no_wrap=True)
    for run in runs(Path(args.log_dir)):
        if (found := run.result) is None:
            table.add_row(printable(run.name), printable(run.odd) or "stopped before its end")
            continue
        verdict = Text(found["verdict"], style=Verdict[found["verdict"]].style)
        figures = f"{found['steps']:,}", f"{found['seconds']:.1f}"
        table.add_row(printable(run.name), verdict, *figures)
    PlainConsole().print(table, crop=False, soft_wrap=True)
    return 0
