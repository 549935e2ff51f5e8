"""The progress of long work on a terminal: a bar, what is being done, and for how long."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Column

from compare.errors import printable
from compare.progress import Stages, is_watched, watched


def progress_bar(console: Console, *columns: ProgressColumn, quiet: bool = False) -> Progress:
    """Return a bar that disappears when it ends, and is never shown where there is no terminal."""
    hidden = quiet or not console.is_interactive  # a terminal that can move its cursor
    return Progress(*columns, console=console, transient=True, disable=hidden)


class WorkBar:
    """Shows the stages of work on a terminal, from the first call of `show` until its end.

    The bar is that of the outermost stage that is one of several; the stages within it are named
    with their own counts.
    """

    def __init__(self, console: Console, *, quiet: bool = False) -> None:
        text = Column(no_wrap=True, overflow="ellipsis")
        self._bar = progress_bar(
            console,
            TextColumn("{task.description}", markup=False, table_column=text),
            BarColumn(),
            TimeElapsedColumn(),
            quiet=quiet or not console.file.isatty(),  # whatever FORCE_COLOR says
        )
        self._task = self._bar.add_task("", total=None)

    @property
    def visible(self) -> bool:
        """Whether the bar can be shown at all."""
        return not self._bar.disable

    def show(self, stages: Stages) -> None:
        """Show the stages that are at work."""
        counted = next((stage for stage in stages if stage.of), None)
        texts = [
            f"{text} ({number:,} of {of:,})" if of else text for text, number, of in stages if text
        ]
        self._bar.update(
            self._task,
            description=printable(": ".join(texts)),
            total=counted.of if counted else None,
            completed=counted.number - 1 if counted else 0,
        )
        self._bar.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self._bar.stop()


@contextmanager
def shown_on_terminal() -> Iterator[None]:
    """Show the progress of the work within on standard error, once it has taken two seconds.

    Nothing is shown if standard error is no terminal (a notebook's is none), in pytest, and if
    somebody watches the work already.
    """
    stream = getattr(sys, "stderr", None)  # the user's code may have removed it
    terminal = stream is not None and not stream.closed and stream.isatty()
    if is_watched() or "PYTEST_CURRENT_TEST" in os.environ or not terminal:
        yield
        return
    with WorkBar(Console(stderr=True)) as bar, watched(bar.show):
        yield
