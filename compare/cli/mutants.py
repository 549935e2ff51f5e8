"""Counts how many mutants of a pass each check catches."""

import argparse
from contextlib import nullcontext
from pathlib import Path

from compare.cases.cases import CASES
from compare.cli.guarded_file import judged
from compare.cli.outputs import prepared
from compare.cli.parser import NewCommand, whole
from compare.errors import unknown


def add(new: NewCommand) -> None:
    """Add the command and its options."""
    parser = new(
        help="see how many bugs a check of your backward pass would catch",
        description="Make mutants of a backward pass, each with one operation wrong, and count how "
        "many check catches, and how many allclose, assert_close, gradcheck and twice the error of "
        "low precision do. Says which lines the inputs do not exercise. Exit code 0: check caught "
        "all that are not the same function.",
    )
    parser.option("target", "FILE|CASE", "a file as check takes it, or one of --list")
    parser.shared("--dtype")
    parser.option("--seed", "S", "of what is drawn anew (default: 0)", type=whole, default=0)
    parser.option("--quiet", None, "print how many survived only")
    parser.shared("--json")
    parser.option("--save", "FILE", "save inputs that show what survived, for --inputs")
    parser.shared("--inputs", "--timeout")


def mutants(args: argparse.Namespace) -> int:
    """Count how many mutants of a file's or a case's pass each check catches."""
    console = prepared(args)
    path = Path(args.target)
    if args.target not in CASES and not path.is_file():
        files = [str(file) for file in path.parent.glob("*.py")] if path.parent.is_dir() else []
        raise unknown("file or case", args.target, [*CASES, *files])
    words = {"target": args.target, "seed": args.seed, "save": args.save}
    work, status = "compare.mutants.mutants:judged", console.status("reading the pass")
    with status if console.is_terminal and not args.quiet else nullcontext():
        found = judged(
            work, path, args, words, console,
            watch=lambda count: status.update(f"{count:,} mutants judged"),
        )  # fmt: skip
    return found.told(args, console)
