"""Has a person's file judged by a process of its own, and shows what that found."""

import argparse
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compare.cli.outputs import write
from compare.console import PlainConsole
from compare.errors import BadInput, printable
from compare.guard.guard import Ended, Printed, guarded
from compare.guard.terminal_text import shown
from compare.streams import streams

_LINES, _COLUMNS = 200, 500  # of what a file prints, at most


@dataclass
class Judged:
    """What there is to show of a file."""

    code: int  # 0 the demand is met, 1 it is not
    text: str  # with colours
    json: dict[str, Any]
    page: str

    def told(self, args: argparse.Namespace, console: PlainConsole) -> int:
        """Print it as that process would have, write the files asked for; return the exit code."""
        console.print(shown(self.text), soft_wrap=True)
        write(args, console, lambda: self.json, lambda: self.page)
        return self.code


def judged(
    work: str, file: Path, args: argparse.Namespace, words: dict[str, Any], console: PlainConsole,
    watch: Callable[[int], None] | None = None,
) -> Judged:  # fmt: skip
    """Judge a file in a process of its own, as `guarded` has it.

    What the file prints goes to standard error, each line with its name. Memory may be half of the
    machine's: passes of any size are judged, and what runs away is stopped. `args` gives the
    options that check and mutants share.
    """

    def say(line: str) -> None:
        streams().error.write(f"{printable(file.name)} | {line}\n")

    printed = Printed(_LINES, _COLUMNS, say)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    inputs = None if args.inputs is None else str(args.inputs)
    shared = {"dtype": args.dtype, "inputs": inputs, "quiet": args.quiet, "width": console.width}
    ended = guarded(work, words | shared, printed, seconds=args.timeout, memory=memory, watch=watch)
    if printed.cut:
        say(f"... {printed.cut:,} more lines, cut here")
    if ended.answer is None:
        raise BadInput(_why(ended, file, args.timeout))
    found = ended.answered(Judged)
    if found is None or found.code not in (0, 1):
        raise BadInput(f"{file} wrote an answer of its own: leave that to this program")
    return found


def _why(ended: Ended, file: Path, seconds: float | None) -> str:
    """Return why there is no answer, in one line."""
    if ended.code is not None:
        leave = ": leave os._exit out" if ended.code >= 0 else ""
        return f"{file}: {ended.why(seconds)}{leave}"
    if line := ended.line(file):
        with suppress(OSError, IndexError):
            text = file.read_text(errors="replace").splitlines()[line - 1].strip()
            return f"{file}, line {line} ({text}) {ended.why(seconds)}"
    return f"{file} {ended.why(seconds)}"
