"""The command line: reads the arguments and dispatches. Exit codes are in `main`."""

import argparse
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from compare.cases.cases import CASES
from compare.cli.parser import module_of, parser
from compare.console import PlainConsole
from compare.errors import BadInput, UserError, printable
from compare.files import check_apart
from compare.interrupts import exit_code, interrupts
from compare.ranks.ranks import current_ranks
from compare.ranks.watchdog import await_rank0_then_prefix
from compare.streams import keep_streams, streams

_WORDS = "file", "target", "one", "other"  # what has no option's name before it


def main(argv: Sequence[str] | None = None) -> int:
    """Do what `argv` asks for and return the exit code.

    0 the demand is met, 1 it is not, 2 bad usage or input, 3 a fault of the program; 130 Ctrl-C,
    of a run also 143 SIGTERM and 129 SIGHUP.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if "--list" in words:
        words = ["--list"]
    elif not words or (words[0].startswith("-") and words[0] not in ("-h", "--help")):
        words.insert(0, "run")
    with keep_streams() as given:
        try:
            code = _code(words)
        except SystemExit:  # --help
            if not given.output.failed:
                raise
            code = 0
        given.output.flush()
        given.error.flush()
        if given.output.failed and code < 2:
            return _say(f"cannot write the output: {given.output.failed}", 2)
        return code


def _code(words: list[str]) -> int:
    args = argparse.Namespace()
    try:
        if words[0] in CASES:
            raise BadInput(f"{words[0]!r} is a case: say run {words[0]}")
        args = parser().parse_args(words)
        return _dispatch(args)
    except UserError as error:  # lines of their own
        return _say("\n".join(map(printable, str(error).splitlines())), 2)
    except BadInput as error:
        return _say(printable(str(error)), 2)
    except OSError as error:
        why = printable(f"{_named(vars(args), error)}{error.strerror or error}")
        return _say(f"{why}; choose another path", 2)
    except KeyboardInterrupt:
        return _say("stopped before anything was judged", exit_code())
    except Exception:
        streams().error.write(traceback.format_exc())
        return _say("this is a fault of the program, not of your input", 3)


def _named(asked: dict[str, Any], error: OSError) -> str:
    """Return the option whose value the system cannot use, or the file's name, for a message."""
    name = "" if error.filename is None else os.fsdecode(error.filename)
    for option, value in asked.items():
        if isinstance(value, str | Path) and str(value) and name.startswith(str(value)):
            flag = asked["command"] if option in _WORDS else f"--{option.replace('_', '-')}"
            return f"{flag} {value}: "
    return name and f"{name}: "


def _say(message: str, code: int) -> int:
    """Print a message to standard error, if there is one to print to."""
    streams().error.write(f"compare: {await_rank0_then_prefix()}{message}\n")
    return code


def _dispatch(args: argparse.Namespace) -> int:
    if args.list:
        return _list()
    check_apart(vars(args))
    count = current_ranks().count
    if args.command != "run" and count > 1:
        raise BadInput(f"{args.command} on {count} ranks: torchrun is for run, leave it out")
    with interrupts(f"{args.command} on ranks" if count > 1 else args.command):
        return int(getattr(module_of(args.command), args.command)(args))


def _list() -> int:
    from compare.report.document import plain_table  # --help has no table

    console = PlainConsole()
    table = plain_table("case", "promises", "steps", "shows", right=("steps",), wrap=("shows",))
    for case in CASES.values():
        table.add_row(case.name, case.promises, f"{case.steps:,}", case.shows)
    console.print(table)
    return 0
