"""Lists the runs there are."""

import argparse
from pathlib import Path

from rich.text import Text

from compare.cli.parser import NewCommand
from compare.console import PlainConsole
from compare.errors import printable
from compare.proof.verdict import Verdict


def add(new: NewCommand) -> None:
    """Add the command and its options."""
    new(help="list the runs and their verdicts").shared("--log-dir")


def runs(args: argparse.Namespace) -> int:
    """List the runs and their verdicts."""
    from compare.board.runs import runs
    from compare.report.document import plain_table

    figures = "steps", "seconds"
    table = plain_table("run", "verdict", *figures, right=figures)  # a name ends in its case
    for run in runs(Path(args.log_dir)):
        if (found := run.result) is None:
            table.add_row(printable(run.name), printable(run.odd) or "stopped before its end")
            continue
        verdict = Text(found["verdict"], style=Verdict[found["verdict"]].style)
        steps, seconds = f"{found['steps']:,}", f"{found['seconds']:.1f}"
        table.add_row(printable(run.name), verdict, steps, seconds)
    PlainConsole().print(table, crop=False, soft_wrap=True)
    return 0
