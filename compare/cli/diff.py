"""Shows two runs side by side."""

import argparse
from pathlib import Path

from rich.table import Table

from compare.console import PlainConsole
from compare.errors import printable


def diff(args: argparse.Namespace) -> int:
    """List in what two runs differ."""
    from compare.board.runs import differences, find

    one, other = (find(Path(args.log_dir), name) for name in (args.one, args.other))
    rows = list(differences(one, other))
    console = PlainConsole()
    if not rows:
        names = f"{printable(one.name)} and {printable(other.name)}"
        console.say(f"{names} differ in nothing but their time")
        return 0
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("what", printable(one.name), printable(other.name)):
        table.add_column(title, overflow="fold")
    for row in rows:
        table.add_row(*map(printable, row))
    console.print(table)
    return 1
