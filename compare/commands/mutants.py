"""Counts how many mutants of a pass each check catches."""

import argparse
import shlex
import signal
from pathlib import Path

from compare.cases import CASES
from compare.errors import unknown
from compare.files import check_can_hold, check_outputs, save_json
from compare.terminal import MutantsProgress, PlainConsole


def mutants(args: argparse.Namespace) -> int:
    """Count how many mutants of a file's or a case's pass each check catches."""
    check_outputs(args.json)
    if args.save is not None:
        check_can_hold("--save", args.save)
    path = Path(args.target)
    if args.target not in CASES and not path.is_file():
        files = [str(file) for file in path.parent.glob("*.py")] if path.parent.is_dir() else []
        raise unknown("file or case", args.target, [*CASES, *files])
    from compare.mutants.mutants import of_case, of_file

    signal.signal(signal.SIGINT, signal.default_int_handler)  # their code may never end
    console = PlainConsole(stderr=args.json == "-")
    with MutantsProgress(console, quiet=args.quiet) as watch:
        of = of_case if args.target in CASES else of_file
        found = of(args.target, dtype=args.dtype, seed=args.seed, inputs=args.inputs, watch=watch)
    if args.save is not None and found.better is not None:
        found.save_inputs(args.save)
        name = shlex.quote(args.save)
        found.again = f"python -m compare mutants {shlex.quote(args.target)} --inputs {name}"
    console.print(found.headline() if args.quiet else found, crop=False)
    if args.save is not None and found.better is None:
        console.say(
            f"  --save {args.save}: nothing to save, no mutant survives at these inputs alone"
        )
    if args.json is not None:
        save_json(found.to_json(), args.json)
    return 0 if found.ok else 1
