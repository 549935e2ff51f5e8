"""Passes text with colours from a process to the terminal, without other control codes."""

import io
import re
from typing import Any

from rich.console import Console
from rich.text import Text

# Control codes that move the cursor, set a title or ring the bell; colour codes do not match.
_CONTROL = re.compile(r"\x1b(?!\[[\d;]*m)|[\x00-\x08\x0b-\x1a\x1c-\x1f\x7f-\x9f]")


def rendered(width: int, *parts: Any) -> str:
    """Return `parts` as text with colour codes for a terminal of `width` columns.

    Strings are never wrapped; other renderables, such as tables, use the width.
    """
    console = Console(
        file=io.StringIO(), width=width, force_terminal=True, color_system="truecolor",
        highlight=False, markup=False, emoji=False, _environ={},
    )  # fmt: skip
    with console.capture() as capture:
        for part in parts:
            console.print(part, crop=False, soft_wrap=isinstance(part, str))
    return capture.get().removesuffix("\n")


def shown(text: str) -> Text:
    """Return the text of `rendered` without other control codes, to be printed with soft_wrap."""
    return Text.from_ansi(_CONTROL.sub("", text))
