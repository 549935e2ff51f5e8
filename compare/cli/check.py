"""Judges the backward pass of a file."""

import argparse
from pathlib import Path

from compare.cli.judged import judged
from compare.console import PlainConsole
from compare.errors import BadInput
from compare.files import check_outputs, kept_going, save, save_json
from compare.guard.guard import check_limit


def check(args: argparse.Namespace) -> int:
    """Judge the backward pass of a file."""
    check_outputs(args.json, args.html)
    check_limit(args.timeout)
    console = PlainConsole(stderr=args.json == "-")
    words = {
        "file": str(args.file), "dtype": args.dtype, "device": args.device, "lift": args.lift,
        "inputs": None if args.inputs is None else str(args.inputs), "demand": args.demand,
        "quiet": args.quiet, "page": args.html is not None,
    }  # fmt: skip
    found = judged(
        "compare.checking.user_file:judged", args.file, words, console, seconds=args.timeout
    )
    found.show(console)
    failed: list[str] = []
    if args.json is not None:
        with kept_going(f"--json {args.json}", failed):
            save_json(found.to_json(), args.json)
    if args.html is not None:
        with kept_going(f"--html {args.html}", failed):
            save(Path(args.html), found.page)
            console.say(f"  page: {args.html}")
    if failed:
        raise BadInput("; ".join(failed))
    return found.code
