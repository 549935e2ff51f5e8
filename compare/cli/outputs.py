"""Writes the result of a command: to the terminal, and to the files that options name."""

import argparse
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from compare.console import PlainConsole
from compare.errors import BadInput, first_line
from compare.files import CannotWrite, check_outputs, save, save_json
from compare.guard.guard import check_limit


def prepared(args: argparse.Namespace, *, quiet: bool = False) -> PlainConsole:
    """Return the console to print to; raise BadInput if an output file cannot be written.

    This runs before the work, so that no result is computed in vain. With --json - the console
    prints to standard error, because standard output carries the JSON.
    """
    check_outputs(vars(args))
    check_limit(getattr(args, "timeout", None))
    return PlainConsole(stderr=args.json == "-", quiet=quiet)


def write(
    args: argparse.Namespace, console: PlainConsole, result: Callable[[], dict[str, Any]],
    page: Callable[[], str] = str, failed: Iterable[str] = (),
) -> None:  # fmt: skip
    """Write the files that --json and --html name.

    A file that cannot be written does not stop the others: all failures go into one error at the
    end.

    Args:
        args: the parsed command line.
        console: prints where the page was written.
        result: returns the result as plain values, for --json.
        page: returns the report as HTML, for --html.
        failed: messages about outputs that failed earlier.

    Raises:
        BadInput: if an output failed, here or earlier.
    """
    failed = list(failed)
    writers: dict[str, Callable[[str], None]] = {
        "json": lambda name: save_json(result(), name),
        "html": lambda name: save(Path(name), page()),
    }
    for option, write_to in writers.items():
        if (name := getattr(args, option, None)) is None:
            continue
        try:
            write_to(name)
            if option == "html":
                console.say(f"  page: {name}")
        except CannotWrite as error:
            failed.append(f"--{option} {name}: {error.why}; choose another path")
        except Exception as error:
            failed.append(f"--{option} {name}: {first_line(error)}; leave this option out")
    if failed:
        raise BadInput("; ".join(failed))
