"""Parses the command line, runs the command, and turns exceptions into messages and exit codes."""

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
from compare.standard_streams import keep_streams, streams

_POSITIONAL = "file", "target", "one", "other"  # arguments without an option name before them


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that `argv` describes and return the exit code.

    0 the demand is met, 1 it is not, 2 bad usage or input, 3 internal error, 130 Ctrl-C; `run`
    also ends with 143 on SIGTERM and 129 on SIGHUP.

    Args:
        argv: the words of the command line without the program's name (default: sys.argv).
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if "--list" in words:
        words = ["--list"]
    elif not words or (words[0].startswith("-") and words[0] not in ("-h", "--help")):
        words.insert(0, "run")
    with keep_streams() as standard:
        try:
            code = _exit_code(words)
        except SystemExit:  # argparse raises it after --help
            if not standard.output.failed:
                raise
            code = 0
        standard.output.flush()
        standard.error.flush()
        if standard.output.failed and code < 2:
            return _fail(f"cannot write the output: {standard.output.failed}", 2)
        return code


def _exit_code(words: list[str]) -> int:
    args = argparse.Namespace()
    try:
        if words[0] in CASES:
            raise BadInput(f"{words[0]!r} is a case: use run {words[0]}")
        args = parser().parse_args(words)
        return _dispatch(args)
    except UserError as error:  # the only message of several lines: part of the user's traceback
        return _fail("\n".join(map(printable, str(error).splitlines())), 2)
    except BadInput as error:
        return _fail(printable(str(error)), 2)
    except OSError as error:
        reason = printable(f"{_option_of(error, vars(args))}{error.strerror or error}")
        return _fail(f"{reason}; choose another path", 2)
    except KeyboardInterrupt:
        return _fail("stopped before anything was checked", exit_code())
    except Exception:
        streams().error.write(traceback.format_exc())
        return _fail("internal error: this is a bug in this program, not in your input", 3)


def _option_of(error: OSError, options: dict[str, Any]) -> str:
    """Return the option whose path caused the error, else the path, as a message prefix."""
    name = "" if error.filename is None else os.fsdecode(error.filename)
    for option, value in options.items():
        if isinstance(value, str | Path) and str(value) and name.startswith(str(value)):
            positional = option in _POSITIONAL
            flag = options["command"] if positional else f"--{option.replace('_', '-')}"
            return f"{flag} {value}: "
    return name and f"{name}: "


def _fail(message: str, code: int) -> int:
    """Print a message to standard error, if that is open, and return the exit code."""
    streams().error.write(f"compare: {await_rank0_then_prefix()}{message}\n")
    return code


def _dispatch(args: argparse.Namespace) -> int:
    if args.list:
        return _list()
    check_apart(vars(args))
    count = current_ranks().count
    if args.command != "run" and count > 1:
        raise BadInput(
            f"{args.command} on {count} ranks: only run works under torchrun; start it without"
        )
    with interrupts(f"{args.command} on ranks" if count > 1 else args.command):
        return int(getattr(module_of(args.command), args.command)(args))


def _list() -> int:
    from compare.report.rendering import plain_table  # imported late: --help needs no table

    console = PlainConsole()
    columns = "case", "expected", "steps", "description"
    table = plain_table(*columns, right=("steps",), wrap=("description",))
    for case in CASES.values():
        table.add_row(case.name, case.promises, f"{case.steps:,}", case.shows)
    console.print(table)
    return 0
