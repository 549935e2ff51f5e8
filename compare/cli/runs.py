"""The command `runs`: list the run folders and their verdicts."""

import argparse
from pathlib import Path

from rich.text import Text

from compare.cli.parser import NewCommand
from compare.console import PlainConsole
from compare.errors import printable
from compare.proof.verdict import Verdict


def add(new: NewCommand) -> None:
    """Add the command and its options."""
    words = "list the runs and their verdicts"
    new(help=words, description=f"{words.capitalize()}, oldest first.").shared("--log-dir")


def runs(args: argparse.Namespace) -> int:
    """List the run folders and their verdicts."""
    from compare.board.runs import runs
    from compare.report.rendering import plain_table

    figures = "steps", "seconds"
    table = plain_table("run", "verdict", *figures, right=figures)
    for run in runs(Path(args.log_dir)):
        if (result := run.result) is None:
            table.add_row(printable(run.name), printable(run.problem) or "stopped early")
            continue
        verdict = Text(result["verdict"], style=Verdict[result["verdict"]].style)
        steps, seconds = f"{result['steps']:,}", f"{result['seconds']:.1f}"
        table.add_row(printable(run.name), verdict, steps, seconds)
    PlainConsole().print(table, crop=False, soft_wrap=True)
    return 0
