"""What the command line takes; each command adds its own options."""

import argparse
from functools import partial
from importlib import import_module
from types import ModuleType

from compare.cli.options import EXAMPLES, Parser

#: In the order of --help. Each is a module of this folder, which imports nothing slow, with `add`,
#: which adds its options, and a function of its own name, which does it.
COMMANDS = "run", "check", "mutants", "practice", "board", "runs", "diff", "bench"


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
