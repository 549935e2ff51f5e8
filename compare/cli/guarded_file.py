"""Runs a user's file in a separate process with limits, and prints the result."""

import argparse
import os
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compare.cli.outputs import write
from compare.console import PlainConsole
from compare.errors import BadInput
from compare.guard.guard import Ended, Printed, guarded
from compare.guard.terminal_text import shown
from compare.progress import AFTER, Stages
from compare.progress_bar import WorkBar

_LINES, _COLUMNS = 200, 500  # at most so much of the file's own output is shown


@dataclass
class Judged:
    """The result that the separate process sends back, as JSON, for one file."""

    code: int  # exit code: 0 the demand is met, 1 it is not
    text: str  # the report for the terminal, with colours
    json: dict[str, Any]
    page: str

    def show(self, args: argparse.Namespace, console: PlainConsole) -> int:
        """Print the report, write the requested files, and return the exit code."""
        console.print(shown(self.text), soft_wrap=True)
        write(args, console, lambda: self.json, lambda: self.page)
        return self.code


def judge_file(
    work: str, file: Path, args: argparse.Namespace, arguments: dict[str, Any],
    console: PlainConsole,
) -> Judged:  # fmt: skip
    """Judge a user's file in a separate process (see `guarded`).

    Everything that the file prints goes to standard error, each line prefixed with the file's name.
    So does the progress of the work, if that is a terminal and the work takes two seconds. The
    process may use half of the machine's memory: enough for large passes, but a runaway allocation
    is stopped.

    Args:
        work: the function that does the work, as "module:function".
        file: the user's file, for messages.
        args: the parsed command line; the options that check and mutants share are read from it.
        arguments: further keyword arguments of `work`.
        console: the console that the report is meant for; its width is passed on.

    Raises:
        BadInput: if the work raises it, the process dies or runs out of time, or the file writes
            its own data into the channel for the result.
    """
    errors, started = PlainConsole(stderr=True), time.monotonic()

    def say(line: str) -> None:
        errors.say(f"{file.name} | {line}")

    def watch(stages: Stages) -> None:
        if time.monotonic() - started > AFTER:
            bar.show(stages)

    printed = Printed(_LINES, _COLUMNS, say)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    inputs = None if args.inputs is None else str(args.inputs)
    shared = {"dtype": args.dtype, "inputs": inputs, "quiet": args.quiet, "width": console.width}
    with WorkBar(errors, quiet=args.quiet) as bar:
        ended = guarded(
            work, arguments | shared, printed, seconds=args.timeout, memory=memory,
            watch=watch if bar.visible else None,
        )  # fmt: skip
    if printed.cut:
        say(f"... {printed.cut:,} more lines not shown")
    if ended.answer is None:
        raise BadInput(_why(ended, file, args.timeout))
    result = ended.answer_as(Judged)
    if result is None or result.code not in (0, 1):
        raise BadInput(f"{file} wrote to the pipe that carries the result; remove that code")
    return result


def _why(ended: Ended, file: Path, seconds: float | None) -> str:
    """Return the reason why there is no result, in one line."""
    if ended.code is not None:
        fix = "; remove the call of os._exit" if ended.code >= 0 else ""
        return f"{file}: {ended.why(seconds)}{fix}"
    if line := ended.line(file):
        with suppress(OSError, IndexError):
            text = file.read_text(errors="replace").splitlines()[line - 1].strip()
            return f"{file}, line {line} ({text}) {ended.why(seconds)}"
    return f"{file} {ended.why(seconds)}"
