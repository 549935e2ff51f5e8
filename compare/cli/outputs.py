"""Where what a command finds goes: the terminal, and the files asked for."""

import argparse
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from compare.console import PlainConsole
from compare.errors import BadInput, first_line
from compare.files import CannotWrite, check_outputs, save, save_json
from compare.guard.guard import check_limit


def prepared(args: argparse.Namespace, *, quiet: bool = False) -> PlainConsole:
    """Return where to print; raise BadInput, before anything runs, for an output that cannot be."""
    check_outputs(vars(args))
    check_limit(getattr(args, "timeout", None))
    return PlainConsole(stderr=args.json == "-", quiet=quiet)


def write(
    args: argparse.Namespace, console: PlainConsole, result: Callable[[], dict[str, Any]],
    page: Callable[[], str] = str, failed: Iterable[str] = (),
) -> None:  # fmt: skip
    """Write the result as JSON and as a page, where they are asked for.

    What cannot be written takes nothing else with it: all that `failed` is said in one line, last.
    """
    failed = list(failed)
    writers: dict[str, Callable[[str], None]] = {
        "json": lambda name: save_json(result(), name),
        "html": lambda name: save(Path(name), page()),
    }
    for option, to in writers.items():
        if (name := getattr(args, option, None)) is None:
            continue
        try:
            to(name)
            if option == "html":
                console.say(f"  page: {name}")
        except CannotWrite as error:
            failed.append(f"--{option} {name}: {error.why}; choose another path")
        except Exception as error:
            failed.append(f"--{option} {name}: {first_line(error)}; leave it out")
    if failed:
        raise BadInput("; ".join(failed))
