"""What the command line takes: each command adds its own options, most of them in a line."""

import argparse
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

from compare.errors import BadInput
from compare.streams import streams

#: In the order of --help. Each is a module of this folder, which imports nothing slow, with `add`,
#: which adds its options, and a function of its own name, which does it.
COMMANDS = "run", "check", "mutants", "practice", "board", "runs", "diff", "bench"

EXAMPLES = """\
examples:
  python -m compare                                 the blog's 3-layer network, all 60,000 steps
  python -m compare run two_layer --dtype float32   Part 1 of the blog in single precision
  python -m compare run deep --population 8         eight networks at once, seeds 1 to 8
  python -m compare run three_layer --json -        the result as JSON on standard output
  python -m compare run network --sizes 3,8,8,1 --activation tanh --bias --momentum 0.9
  python -m compare run network --data my.csv --target species --dropout 0.2
  torchrun --nproc-per-node 2 -m compare run digits   each step's rows shared by 2 processes
  python -m compare --list                          every case and what it promises
  python -m compare run --resume three_layer        go on with a run that was stopped
  python -m compare check my_layer.py               your own forward, backward and inputs
  python -m compare practice new my_network.py      rebuild the blog's network from memory
  python -m compare mutants my_layer.py             would the checks see a bug in it?
  python -m compare board                           look at the curves of all runs
  python -m compare runs                            list them; diff RUN RUN compares two

exit codes:
  0  the demand is met    1  it is not    2  bad usage or bad input
  3  a fault of this program              130  stopped by Ctrl-C (143 SIGTERM, 129 SIGHUP)
"""

#: Options of several commands: metavar and help, and what else argparse is told.
_SHARED: dict[str, tuple[str | None, str, dict[str, Any]]] = {
    "--dtype": ("T", "move the inputs' floats to this dtype", {}),
    "--inputs": (
        "FILE", "inputs that mutants --save wrote, in place of the file's own", {"type": Path}
    ),
    "--timeout": (
        "SECONDS", "stop a file that runs longer (default: no limit)", {"type": float}
    ),
    "--lift": (
        "HOW", "lift all, none, or N entries of each large product (default: auto)",
        {"default": "auto"},
    ),
    "--quiet": (None, "print the verdict only", {}),
    "--json": ("FILE", "write the result as JSON, - for standard output", {}),
    "--html": ("FILE", "write the report as one page with plots, FILE.html", {}),
    "--log-dir": ("DIR", "where the run folders are (default: runs)", {"default": "runs"}),
}  # fmt: skip


class Parser(argparse.ArgumentParser):
    """Takes options in a line each, and says what is wrong in one."""

    def error(self, message: str) -> NoReturn:
        """Raise BadInput in place of argparse's usage lines and exit."""
        raise BadInput(f"{message} (python -m compare --help shows examples)")

    def print_help(self, _file: object = None) -> None:
        """Print the help; argparse itself hides what cannot be written."""
        streams().output.write(self.format_help())

    def option(self, name: str, metavar: str | None, words: str, **more: Any) -> None:
        """Add an option; without a metavar it is a flag, unless it has choices."""
        if metavar is not None:
            more["metavar"] = metavar
        elif "choices" not in more:
            more["action"] = "store_true"
        self.add_argument(name, help=words, **more)

    def shared(self, *names: str) -> None:
        """Add options that several commands have."""
        for name in names:
            metavar, words, more = _SHARED[name]
            self.option(name, metavar, words, **more)


NewCommand = Callable[..., Parser]  # takes what add_parser takes, but the command's name


def whole(text: str) -> int:
    """Return a whole number, for argparse."""
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None


def parser() -> argparse.ArgumentParser:
    """Return the parser of every command."""
    top = Parser(
        prog="python -m compare",
        allow_abbrev=False,
        description="Train by hand and by autograd side by side, and compare every bit.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--list", action="store_true", help="list the cases and stop")
    commands = top.add_subparsers(dest="command", metavar="COMMAND", parser_class=Parser)
    for name in COMMANDS:
        module_of(name).add(partial(commands.add_parser, name, allow_abbrev=False))
    return top


def module_of(command: str) -> ModuleType:
    """Return the module of a command."""
    return import_module(f"compare.cli.{command}")
