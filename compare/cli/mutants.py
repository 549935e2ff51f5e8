"""The command `mutants`: count the mutants of a backward pass that each check catches."""

import argparse
from pathlib import Path

from compare.cases.cases import CASES
from compare.cli.guarded_file import judge_file
from compare.cli.outputs import prepared
from compare.cli.parser import NewCommand, whole
from compare.errors import unknown


def add(new: NewCommand) -> None:
    """Add the command and its options."""
    parser = new(
        help="count how many bugs a check of your backward pass would catch",
        description="Make mutants of a backward pass, each with one operation made wrong. Count "
        "how many of them check catches, and how many are caught by allclose, assert_close, "
        "gradcheck and flash-attention's rule (twice the error of a low-precision reference). "
        "List the lines that the inputs do not exercise. Exit code 0: check caught every mutant "
        "that is not equivalent to the original.",
    )
    text = "a file with forward, backward and inputs, or a case of --list"
    parser.option("target", "FILE|CASE", text)
    parser.shared("--dtype")
    parser.option("--seed", "S", "seed for the random inputs (default: 0)", type=whole, default=0)
    parser.option("--quiet", None, "print only how many mutants survived")
    parser.shared("--json")
    text = "save inputs at which the surviving mutants are caught, for --inputs"
    parser.option("--save", "FILE", text)
    parser.shared("--inputs", "--timeout", "--budget")


def mutants(args: argparse.Namespace) -> int:
    """Count the mutants that each check catches, for the backward pass of a file or a case."""
    console = prepared(args)
    path = Path(args.target)
    if args.target not in CASES and not path.is_file():
        files = [str(file) for file in path.parent.glob("*.py")] if path.parent.is_dir() else []
        raise unknown("file or case", args.target, [*CASES, *files])
    arguments = {"target": args.target, "seed": args.seed, "save": args.save}
    arguments |= {"budget": args.budget}
    result = judge_file("compare.mutants.mutants:judged", path, args, arguments, console)
    return result.show(args, console)
