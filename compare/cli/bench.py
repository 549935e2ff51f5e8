"""Times our steps beside those of others."""

import argparse

from compare.bench.claims import CHOICES
from compare.cli.outputs import prepared
from compare.cli.parser import NewCommand, whole
from compare.errors import BadInput, unknown


def add(new: NewCommand) -> None:
    """Add the command and its options."""
    parser = new(
        help="time our steps beside autograd with SGD and other peers",
        description="Time by-hand and checked steps beside autograd with SGD, torch.compile, "
        "torch.func, numpy, JAX and gradcheck: each claim with its limit, whether it holds here, "
        "and every peer that is faster. Groups: " + ", ".join(CHOICES) + ".",
    )
    words = "one group, may be given several times (default: all, some minutes)"
    parser.option("--only", "GROUP", words, action="append", default=[])
    parser.option("--json", "FILE", "write every figure as JSON, - for standard output")
    parser.option("--plot", "FILE", "draw the growth as a picture, FILE.png (needs matplotlib)")
    words = "of torch (default: its own choice); on a busy machine 1 is steadier"
    parser.option("--threads", "N", words, type=whole)


def bench(args: argparse.Namespace) -> int:
    """Time what is asked for; raise BadInput for what cannot be, before anything is."""
    for group in args.only:
        if group not in CHOICES:
            raise unknown("group", group, CHOICES)
    console = prepared(args)
    if args.threads is not None and not 1 <= args.threads <= 1024:
        raise BadInput(f"--threads {args.threads}: give 1 to 1024")
    from compare.bench import bench as timing
    from compare.bench.growth import check_plot

    if args.plot is not None:
        check_plot(args.plot)
    return timing.bench(
        console, only=args.only, json_to=args.json, plot_to=args.plot, threads=args.threads
    )
