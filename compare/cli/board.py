"""Serves TensorBoard on the run folders."""

import argparse
from pathlib import Path

from compare.console import PlainConsole
from compare.errors import BadInput


def board(args: argparse.Namespace) -> int:
    """Serve TensorBoard on the runs until a signal."""
    from compare.board.serve import serve

    if not 1 <= args.port <= 65535:
        raise BadInput(f"--port {args.port}: give 1 to 65535")
    serve(Path(args.log_dir), args.port, PlainConsole().say)
    return 0
