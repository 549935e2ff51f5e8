"""The argument parser. Each command's module adds its own options, mostly one line each."""

import argparse
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

from compare.errors import BadInput
from compare.standard_streams import streams

#: The commands, in the order of --help. Each is a module of this folder with a function `add`,
#: which adds its options, and a function named like the command, which runs it. The modules must
#: not import torch or numpy at the top: --help has to be fast.
COMMANDS = "run", "check", "mutants", "practice", "board", "runs", "diff", "bench"

EXAMPLES = """\
examples:
  python -m compare                                 the blog's 3-layer network, all 60,000 steps
  python -m compare run two_layer --dtype float32   Part 1 of the blog in single precision
  python -m compare run deep --population 8         eight networks at once, seeds 1 to 8
  python -m compare run three_layer --json -        the result as JSON on standard output
  python -m compare run network --sizes 3,8,8,1 --activation tanh --bias --momentum 0.9
  python -m compare run network --data my.csv --target species --dropout 0.2
  torchrun --nproc-per-node 2 -m compare run digits   2 processes share the rows of each step
  python -m compare --list                          all cases with their expected verdicts
  python -m compare run --resume three_layer        resume a run that was stopped
  python -m compare check my_layer.py               check your own forward, backward and inputs
  python -m compare practice new my_network.py      rebuild the blog's network from memory
  python -m compare mutants my_layer.py             would a check catch a bug in it?
  python -m compare board                           show the curves of all runs
  python -m compare runs                            list all runs; diff RUN RUN compares two

exit codes:
  0  passed: the verdict meets the demand    1  failed: it does not    2  bad usage or input
  3  internal error               130  stopped by Ctrl-C (143 SIGTERM, 129 SIGHUP)
"""

#: Options that several commands share: metavar, help text, further arguments of add_argument.
_SHARED: dict[str, tuple[str | None, str, dict[str, Any]]] = {
    "--dtype": ("T", "convert floating-point inputs to this dtype", {}),
    "--inputs": (
        "INPUTS", "inputs saved by mutants --save, in place of those in FILE", {"type": Path}
    ),
    "--timeout": (
        "SECONDS", "stop the file's process after so many seconds (default: no limit)",
        {"type": float},
    ),
    "--budget": (
        "SECONDS", "end after about so many seconds with what was done until then, and name the "
        "rest (default: no limit)", {"type": float},
    ),
    "--lift": (
        "HOW", "how much of the matrix products to compute in exact arithmetic: all, none, N "
        "entries of each large one, or auto: what takes seconds at most (default: auto)",
        {"default": "auto"},
    ),
    "--quiet": (None, "print only the verdict", {}),
    "--json": ("FILE", "write the result as JSON; - means standard output", {}),
    "--html": ("FILE", "write the report as one HTML page with plots; FILE ends in .html", {}),
    "--log-dir": ("DIR", "folder that holds the run folders (default: runs)", {"default": "runs"}),
}  # fmt: skip


class Parser(argparse.ArgumentParser):
    """An ArgumentParser with one-line option definitions and one-line errors."""

    def error(self, message: str) -> NoReturn:
        """Raise BadInput; argparse would print its usage and exit."""
        raise BadInput(f"{message} (python -m compare --help shows examples)")

    def print_help(self, _file: object = None) -> None:
        """Print the help text; argparse itself would ignore a failed write."""
        streams().output.write(self.format_help())

    def option(self, name: str, metavar: str | None, text: str, **more: Any) -> None:
        """Add an option with its help text; without a metavar it is a flag, unless it has choices.

        Args:
            name: the option with its dashes, or the name of a positional argument.
            metavar: the placeholder for the value in --help.
            text: the help text.
            more: further arguments of `add_argument`.
        """
        if metavar is not None:
            more["metavar"] = metavar
        elif "choices" not in more:
            more["action"] = "store_true"
        self.add_argument(name, help=text, **more)

    def shared(self, *names: str) -> None:
        """Add options that several commands share."""
        for name in names:
            metavar, text, more = _SHARED[name]
            self.option(name, metavar, text, **more)


NewCommand = Callable[..., Parser]  # subparsers.add_parser with the command's name filled in


def whole(text: str) -> int:
    """Return `text` as a whole number; raise ArgumentTypeError if it is none."""
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None


def parser() -> argparse.ArgumentParser:
    """Return the parser with the options of every command."""
    top = Parser(
        prog="python -m compare",
        allow_abbrev=False,
        description="Train by hand and with autograd side by side, and compare every bit.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--list", action="store_true", help="list the cases and exit")
    commands = top.add_subparsers(dest="command", metavar="COMMAND", parser_class=Parser)
    for name in COMMANDS:
        module_of(name).add(partial(commands.add_parser, name, allow_abbrev=False))
    return top


def module_of(command: str) -> ModuleType:
    """Return the module of compare/cli that implements a command."""
    return import_module(f"compare.cli.{command}")
