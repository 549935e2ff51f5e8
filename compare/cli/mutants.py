"""Counts how many mutants of a pass each check catches."""

import argparse
from pathlib import Path

from compare.cases.cases import CASES
from compare.cli.judged import judged
from compare.cli.progress import MutantsProgress
from compare.console import PlainConsole
from compare.errors import unknown
from compare.files import check_can_hold, check_outputs, save_json
from compare.guard.guard import check_limit


def mutants(args: argparse.Namespace) -> int:
    """Count how many mutants of a file's or a case's pass each check catches."""
    check_outputs(args.json)
    if args.save is not None:
        check_can_hold("--save", args.save)
    check_limit(args.timeout)
    path = Path(args.target)
    if args.target not in CASES and not path.is_file():
        files = [str(file) for file in path.parent.glob("*.py")] if path.parent.is_dir() else []
        raise unknown("file or case", args.target, [*CASES, *files])
    console = PlainConsole(stderr=args.json == "-")
    words = {
        "target": args.target, "dtype": args.dtype, "seed": args.seed,
        "inputs": None if args.inputs is None else str(args.inputs), "save": args.save,
        "quiet": args.quiet,
    }  # fmt: skip
    with MutantsProgress(console, quiet=args.quiet) as watch:
        found = judged(
            "compare.mutants.of_file:judged", path, words, console, seconds=args.timeout,
            watch=watch,
        )  # fmt: skip
    found.show(console)
    if args.json is not None:
        save_json(found.to_json(), args.json)
    return found.code
