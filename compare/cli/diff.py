"""Shows two runs side by side."""

import argparse
from pathlib import Path

from compare.cli.parser import NewCommand
from compare.console import PlainConsole
from compare.errors import printable


def add(new: NewCommand) -> None:
    """Add the command and its options."""
    parser = new(
        help="say in what two runs differ",
        description="Say in what two runs differ: settings, environment, verdicts, first step.",
    )
    parser.option("one", "RUN", "a folder's name, or its end")
    parser.option("other", "RUN", "another")
    parser.shared("--log-dir")


def diff(args: argparse.Namespace) -> int:
    """List in what two runs differ."""
    from compare.board.runs import differences, find
    from compare.report.document import plain_table

    one, other = (find(Path(args.log_dir), name) for name in (args.one, args.other))
    names = [printable(run.name) for run in (one, other)]
    rows, console = list(differences(one, other)), PlainConsole()
    if not rows:
        console.say(f"{' and '.join(names)} differ in nothing but their time")
        return 0
    table = plain_table("what", *names, wrap=("what", *names))
    for row in rows:
        table.add_row(*map(printable, row))
    console.print(table)
    return 1
