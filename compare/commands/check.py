"""Judges the backward pass of a file."""

import argparse
import signal

from compare.files import check_outputs, save_json
from compare.terminal import PlainConsole


def check(args: argparse.Namespace) -> int:
    """Judge the backward pass of a file."""
    check_outputs(args.json, args.html)
    from compare.training.given import device_named, dtype_named
    from compare.userfile import check_file

    signal.signal(signal.SIGINT, signal.default_int_handler)  # their code may never end
    dtype = None if args.dtype is None else dtype_named(args.dtype)
    report = check_file(args.file, dtype=dtype, device=device_named(args.device), lift=args.lift,
                        inputs=args.inputs)  # fmt: skip
    console = PlainConsole(stderr=args.json == "-")
    console.print(report.headline() if args.quiet else report, crop=False)
    if args.json is not None:
        save_json(report.to_json(), args.json)
    if args.html is not None:
        report.save(args.html)
        console.say(f"  page: {args.html}")
    return 0 if report.meets(args.demand) else 1
