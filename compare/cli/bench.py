"""Times our steps beside those of others."""

import argparse

from compare.bench.claims import CHOICES
from compare.console import PlainConsole
from compare.errors import BadInput, unknown
from compare.files import check_can_hold, check_outputs


def bench(args: argparse.Namespace) -> int:
    """Time what is asked for; raise BadInput for what cannot be, before anything is."""
    for group in args.only:
        if group not in CHOICES:
            raise unknown("group", group, CHOICES)
    check_outputs(args.json)
    if args.plot is not None:
        check_can_hold("--plot", args.plot)
    if args.threads is not None and not 1 <= args.threads <= 1024:
        raise BadInput(f"--threads {args.threads}: give 1 to 1024")
    from compare.bench import bench as timing
    from compare.bench.growth import check_plot

    if args.plot is not None:
        check_plot(args.plot)
    return timing.bench(
        PlainConsole(stderr=args.json == "-"), only=args.only, json_to=args.json, plot_to=args.plot,
        threads=args.threads,
    )  # fmt: skip
