"""Writes a file to fill in, or has one looked at."""

import argparse
import shlex
from contextlib import nullcontext
from pathlib import Path

from compare.cli.outputs import prepared, write
from compare.cli.parser import NewCommand
from compare.console import PlainConsole
from compare.errors import BadInput
from compare.practice.levels import LEVELS


def add(new: NewCommand) -> None:
    """Add the command and its options."""
    parser = new(
        usage="python -m compare practice new FILE [--level NAME]\n"
        "       python -m compare practice FILE [--hint] [--answer] [--timeout SECONDS]",
        help="rebuild the networks from memory, line by line",
        description="`new` writes a file with the blog's data and names and lines to fill in. "
        "Without it the file is checked line by line and trained: the first line that is not "
        f"right is shown, with a hint. Levels: {', '.join(LEVELS)}.",
    )
    parser.option("words", "[new] FILE", "the practice file", nargs="+")
    parser.option("--level", "NAME", "of `new`: the level (two_layer)")
    parser.option("--hint", None, "say more about the line")
    parser.option("--answer", None, "show the line as it should be")
    words = "stop a file that runs longer (default: 60)"
    parser.option("--timeout", "SECONDS", words, type=float, default=60.0)
    parser.option("--json", "FILE", "write the answer as JSON, - for standard output")


def practice(args: argparse.Namespace) -> int:
    """Write a practice file, or have one looked at."""
    from compare.practice import feedback, levels
    from compare.practice.practice import level_of, look

    making, words = args.words[0] == "new", args.words
    if len(words) != 1 + making:
        again = "python -m compare practice new FILE, or python -m compare practice FILE"
        raise BadInput(f"practice {' '.join(words)}: name one file ({again})")
    path = Path(words[-1])
    if making:
        if args.hint or args.answer or args.json is not None:
            raise BadInput("practice new writes a file: --hint, --answer and --json come after")
        levels.new(path, level := levels.find(args.level or "two_layer"))
        console = PlainConsole()
        console.say(f"{path}: level {level.name}, {len(level.blanks)} lines to fill in; then")
        console.say(f"  python -m compare practice {shlex.quote(str(path))}")
        return 0
    console = prepared(args)
    level = level_of(path, args.level)
    with console.status("looking at it ...") if console.is_terminal else nullcontext():
        found, printed = look(path, level, args.timeout)
    feedback.tell(console, path, level, found, printed, hint=args.hint, answer=args.answer)
    write(args, console, lambda: feedback.to_dict(path, level, found, printed))
    return found.code
