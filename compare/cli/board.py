"""The command `board`: serve the run folders with TensorBoard."""

import argparse
from pathlib import Path

from compare.cli.parser import NewCommand, whole
from compare.console import PlainConsole
from compare.errors import BadInput


def add(new: NewCommand) -> None:
    """Add the command and its options."""
    parser = new(
        help="show the runs in TensorBoard",
        description="Serve the run folders with TensorBoard until Ctrl-C. Every stored point of a "
        "curve is shown.",
    )
    text = "port to serve on; if it is in use, the next free one (default: 6006)"
    parser.option("--port", "N", text, type=whole, default=6006)
    parser.shared("--log-dir")


def board(args: argparse.Namespace) -> int:
    """Serve the run folders with TensorBoard until a signal arrives."""
    from compare.board.serve import serve

    if not 1 <= args.port <= 65535:
        raise BadInput(f"--port {args.port}: give 1 to 65535")
    serve(Path(args.log_dir), args.port, PlainConsole().say)
    return 0
