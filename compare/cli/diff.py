"""The command `diff`: list the differences between two runs."""

import argparse
from pathlib import Path

from compare.cli.parser import NewCommand
from compare.console import PlainConsole
from compare.errors import printable


def add(new: NewCommand) -> None:
    """Add the command and its options."""
    parser = new(
        help="list the differences between two runs",
        description="List the differences between two runs: settings, environment, verdicts, "
        "first step.",
    )
    parser.option("one", "RUN", "name of a run folder, or the last part of the name")
    parser.option("other", "RUN", "the run to compare it with")
    parser.shared("--log-dir")


def diff(args: argparse.Namespace) -> int:
    """List the differences between two runs; return 1 if there are any."""
    from compare.board.runs import differences, find
    from compare.report.rendering import plain_table

    one, other = (find(Path(args.log_dir), name) for name in (args.one, args.other))
    names = [printable(run.name) for run in (one, other)]
    rows, console = list(differences(one, other)), PlainConsole()
    if not rows:
        console.say(f"{' and '.join(names)} differ only in their times")
        return 0
    table = plain_table("difference", *names, wrap=("difference", *names))
    for row in rows:
        table.add_row(*map(printable, row))
    console.print(table)
    return 1
