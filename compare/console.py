"""Plain text on the terminal."""

from typing import IO, cast

from rich.console import Console

from compare.errors import printable
from compare.standard_streams import streams


class PlainConsole(Console):
    """A console of plain text; text that cannot be written, as under `| head`, is dropped."""

    def __init__(self, *, stderr: bool = False, quiet: bool = False) -> None:
        file = cast(IO[str], streams().error if stderr else streams().output)
        super().__init__(file=file, quiet=quiet, highlight=False, markup=False, emoji=False)

    def say(self, text: str) -> None:
        """Print a line without wrapping it, so that it can be copied."""
        self.print(printable(text), soft_wrap=True)
