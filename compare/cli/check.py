"""The command `check`: check the backward pass that a file defines."""

import argparse
from pathlib import Path

from compare.cli.guarded_file import judge_file
from compare.cli.outputs import prepared
from compare.cli.parser import NewCommand


def add(new: NewCommand) -> None:
    """Add the command and its options."""
    parser = new(
        help="check your own backward pass",
        description="Check a file that defines forward, backward and inputs (a dict, a tuple, or "
        "a function that returns one). The parameter names of backward say what it receives: "
        "grad_output, output, any input, or any intermediate that forward names with "
        "compare.name(tensor, 'z1').",
    )
    parser.option("file", "FILE", "the Python file", type=Path)
    parser.shared("--dtype")
    parser.option("--device", "D", "cpu (default), cuda or cuda:N", default="cpu")
    text = "worst verdict that gives exit code 0 (default: rounding)"
    parser.option(
        "--demand", None, text, choices=("exact", "rounding", "within"), default="rounding"
    )
    parser.shared("--inputs", "--timeout", "--budget", "--lift", "--quiet", "--json", "--html")


def check(args: argparse.Namespace) -> int:
    """Check the backward pass of a file and return the exit code."""
    console = prepared(args)
    arguments = {
        "file": str(args.file), "device": args.device, "lift": args.lift, "demand": args.demand,
        "page": args.html is not None, "budget": args.budget,
    }  # fmt: skip
    result = judge_file(
        "compare.checking.user_file:check_file", args.file, args, arguments, console
    )
    return result.show(args, console)
