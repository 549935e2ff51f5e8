"""The command `practice`: write a practice file, or check one."""

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
        description="With `new`: write a file with the blog's data and names, and with lines to "
        "fill in. Without `new`: check the file line by line, show the first line that is not "
        "right with a hint, and train the network when all lines are right. Levels: "
        f"{', '.join(LEVELS)}.",
    )
    parser.option("words", "[new] FILE", "the practice file", nargs="+")
    parser.option("--level", "NAME", "level of the new file (default: two_layer)")
    parser.option("--hint", None, "show a longer hint for the line")
    parser.option("--answer", None, "show the correct line")
    text = "stop the file's process after so many seconds (default: 60)"
    parser.option("--timeout", "SECONDS", text, type=float, default=60.0)
    parser.option("--json", "FILE", "write the result as JSON; - means standard output")


def practice(args: argparse.Namespace) -> int:
    """Write a practice file, or check one; return the exit code."""
    from compare.practice import feedback, levels
    from compare.practice.practice import check_file, level_of

    new_file, words = args.words[0] == "new", args.words
    if len(words) != 1 + new_file:
        usage = "python -m compare practice new FILE, or python -m compare practice FILE"
        raise BadInput(f"practice {' '.join(words)}: name one file ({usage})")
    path = Path(words[-1])
    if new_file:
        if args.hint or args.answer or args.json is not None:
            raise BadInput(
                "practice new only writes the file: use --hint, --answer and --json with "
                "practice FILE"
            )
        levels.new(path, level := levels.find(args.level or "two_layer"))
        console = PlainConsole()
        console.say(f"{path}: level {level.name}, {len(level.blanks)} lines to fill in, then run")
        console.say(f"  python -m compare practice {shlex.quote(str(path))}")
        return 0
    console = prepared(args)
    level = level_of(path, args.level)
    with console.status("checking ...") if console.is_terminal else nullcontext():
        outcome, printed = check_file(path, level, args.timeout)
    feedback.show(console, path, level, outcome, printed, hint=args.hint, answer=args.answer)
    write(args, console, lambda: feedback.to_dict(path, level, outcome, printed))
    return outcome.code
