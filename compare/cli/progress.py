"""The progress of a run on the terminal: the blog's "Error:" lines and a progress bar."""

from typing import TYPE_CHECKING

from rich.progress import BarColumn, TextColumn, TimeRemainingColumn

from compare.console import PlainConsole
from compare.progress_bar import progress_bar

if TYPE_CHECKING:
    from compare.report.chunk import Chunk


class RunProgress:
    """Prints the blog's "Error:" lines, and on a terminal a progress bar, as chunks are done."""

    def __init__(
        self, console: PlainConsole, steps: int, *, done: int = 0, quiet: bool, lines: bool
    ) -> None:
        self.console = console
        self.lines = lines and not quiet
        self.error_steps = set(error_steps(steps))
        self.errors: list[float] = []
        self.bar = progress_bar(
            console,
            TextColumn("{task.completed:,.0f} of {task.total:,.0f} steps"),
            BarColumn(),
            TextColumn("{task.fields[speed]}"),
            TimeRemainingColumn(),
            quiet=quiet,
        )
        self.task = self.bar.add_task("", total=steps, completed=done, speed="")

    def __enter__(self) -> "RunProgress":
        self.bar.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self.bar.stop()

    def __call__(self, chunk: "Chunk") -> None:
        """Advance the bar; collect and print the errors of the steps that the blog prints."""
        for k in sorted(self.error_steps & set(range(chunk.start, chunk.start + chunk.steps))):
            error = float(chunk.error["manual"][k - chunk.start])
            self.errors.append(error)
            if self.lines:
                right = chunk.accuracy.get("manual")
                share = "" if right is None else f"   right: {float(right[k - chunk.start]):.1%}"
                self.console.say(f"Error:{error:.12g}{share}")
        speed = self.bar.tasks[0].speed
        rate = f"{speed:,.0f} steps/s" if speed else ""
        self.bar.update(self.task, advance=chunk.steps, speed=rate)


def error_steps(steps: int) -> range:
    """Return the steps whose error is printed: every 10,000th of 60,000, as in the blog."""
    return range(0, steps, max(1, -(-steps // 6)))
