"""The command `bench`: time this project's training steps next to other implementations."""

import argparse

from compare.bench.claims import CHOICES
from compare.cli.outputs import prepared
from compare.cli.parser import NewCommand, whole
from compare.errors import BadInput, unknown


def add(new: NewCommand) -> None:
    """Add the command and its options."""
    parser = new(
        help="time by-hand and checked steps against autograd and other libraries",
        description="Time by-hand and checked steps against autograd with SGD, torch.compile, "
        "torch.func, numpy, JAX and gradcheck. List each speed claim with its limit, whether it "
        "holds on this machine, and every competitor that is faster. Groups: "
        + ", ".join(CHOICES) + ".",
    )  # fmt: skip
    text = "run one group; repeat the option for several (default: all, takes minutes)"
    parser.option("--only", "GROUP", text, action="append", default=[])
    parser.option("--json", "FILE", "write all measurements as JSON; - means standard output")
    text = "plot how the time grows with the problem size; FILE ends in .png (needs matplotlib)"
    parser.option("--plot", "FILE", text)
    text = "number of torch threads (default: torch's choice); 1 gives the steadiest times"
    parser.option("--threads", "N", text, type=whole)


def bench(args: argparse.Namespace) -> int:
    """Run the requested benchmarks; raise BadInput for invalid options before timing starts."""
    for group in args.only:
        if group not in CHOICES:
            raise unknown("group", group, CHOICES)
    console = prepared(args)
    if args.threads is not None and not 1 <= args.threads <= 1024:
        raise BadInput(f"--threads {args.threads}: give 1 to 1024")
    from compare.bench import bench as benchmarks
    from compare.bench.growth import check_plot

    if args.plot is not None:
        check_plot(args.plot)
    return benchmarks.bench(
        console, only=args.only, json_to=args.json, plot_to=args.plot, threads=args.threads
    )
