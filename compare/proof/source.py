"""The line of code behind an operation, as a report shows it."""

import linecache
from pathlib import Path

from torch import fx

from compare.proof.program import line_of


def code_at(line: tuple[str, int] | None) -> str:
    """Return a line of code without the remark at its end, empty where it is not known."""
    return linecache.getline(*line).partition("  #")[0].strip() if line else ""


def shown(node: fx.Node) -> str:
    """Return `file.py:14  its text` of what asked for an operation, empty where it is not known."""
    line = line_of(node)
    text = code_at(line)
    return f"{Path(line[0]).name}:{line[1]}  {text}" if line and text else ""
