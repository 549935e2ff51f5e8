"""Judges the backward pass of a file."""

import argparse
from pathlib import Path

from compare.cli.guarded_file import judged
from compare.cli.outputs import prepared
from compare.cli.parser import NewCommand


def add(new: NewCommand) -> None:
    """Add the command and its options."""
    parser = new(
        help="check your own backward pass",
        description="Check a file that defines forward, backward and inputs (a dict, a tuple, or "
        "a function that returns one). backward asks by parameter name for grad_output, output, "
        "any input, any intermediate that forward names with compare.name(tensor, 'z1').",
    )
    parser.option("file", "FILE", "the Python file", type=Path)
    parser.shared("--dtype")
    parser.option("--device", "D", "cpu (default), cuda or cuda:N", default="cpu")
    words = "what exit code 0 asks for (default: rounding)"
    parser.option("--demand", None, words, choices=("exact", "rounding"), default="rounding")
    parser.shared("--inputs", "--timeout", "--lift", "--quiet", "--json", "--html")


def check(args: argparse.Namespace) -> int:
    """Judge the backward pass of a file."""
    console = prepared(args)
    words = {
        "file": str(args.file), "device": args.device, "lift": args.lift, "demand": args.demand,
        "page": args.html is not None,
    }  # fmt: skip
    found = judged("compare.checking.user_file:check_file", args.file, args, words, console)
    return found.told(args, console)
