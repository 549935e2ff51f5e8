"""How what a process shows crosses to the terminal: as text with colours, and nothing else."""

import io
import re
from typing import Any

from rich.console import Console
from rich.text import Text

# What moves the cursor, sets a title or rings a bell; colours stay.
_CONTROL = re.compile(r"\x1b(?!\[[\d;]*m)|[\x00-\x08\x0b-\x1a\x1c-\x1f\x7f-\x9f]")


def rendered(width: int, *parts: Any) -> str:
    """Return what a terminal of so many columns is to show; lines of text are never broken."""
    console = Console(
        file=io.StringIO(), width=width, force_terminal=True, color_system="truecolor",
        highlight=False, markup=False, emoji=False, _environ={},
    )  # fmt: skip
    with console.capture() as capture:
        for part in parts:
            console.print(part, crop=False, soft_wrap=isinstance(part, str))
    return capture.get().removesuffix("\n")


def shown(text: str) -> Text:
    """Return what `rendered` gave, to be printed with soft_wrap."""
    return Text.from_ansi(_CONTROL.sub("", text))
