"""The command line: reads the arguments and dispatches. Exit codes are in `main`."""

import argparse
import importlib
import os
import sys
import traceback
from collections.abc import Sequence

from rich.table import Table

from compare.cases import CASES
from compare.errors import BadInput
from compare.parser import parser
from compare.terminal import PlainConsole
from compare.training.interrupt import requests
from compare.training.ranks import started
from compare.training.watchman import unsaid


def main(argv: Sequence[str] | None = None) -> int:
    """Do what `argv` asks for and return the exit code.

    0 the demand is met, 1 it is not, 2 bad usage or input, 3 a fault of the program, 130 Ctrl-C.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if "--list" in words:
        words = ["--list"]
    elif not words or (words[0].startswith("-") and words[0] not in ("-h", "--help")):
        words.insert(0, "run")
    elif words[0] in CASES:
        print(f"compare: {words[0]!r} is a case: say run {words[0]}", file=sys.stderr)
        return 2
    try:
        with requests():
            code = _dispatch(parser().parse_args(words))
            sys.stdout.flush()
            return code
    except BadInput as error:
        return _say(f"compare: {error}", 2)
    except KeyboardInterrupt:
        return _say("compare: stopped before anything was judged", 130)
    except OSError as error:
        # standard output itself cannot be written to; nothing more is said there
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _say(f"compare: cannot write the output: {error.strerror}", 2)
    except Exception:
        traceback.print_exc()
        return _say("compare: this is a fault of the program, not of your input", 3)


def _say(message: str, code: int) -> int:
    """Print a message to standard error, if there is one to print to."""
    message = message.replace("compare: ", f"compare: {unsaid()}", 1)
    try:
        print(message, file=sys.stderr, flush=True)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
    return code


def _dispatch(args: argparse.Namespace) -> int:
    if args.list:
        return _list()
    if args.command != "run" and (count := started().count) > 1:
        raise BadInput(f"{args.command} on {count} ranks: torchrun is for run, leave it out")
    module = importlib.import_module(f"compare.commands.{args.command}")
    return int(getattr(module, args.command)(args))


def _list() -> int:
    console = PlainConsole()
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("case", no_wrap=True)
    table.add_column("promises", no_wrap=True)
    table.add_column("steps", justify="right", no_wrap=True)
    table.add_column("shows")
    for case in CASES.values():
        table.add_row(case.name, case.promises, f"{case.steps:,}", case.shows)
    console.print(table)
    return 0
