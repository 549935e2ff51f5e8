"""Writes a file to fill in, or has one looked at."""

import argparse
import json
import shlex
from contextlib import nullcontext
from pathlib import Path

from compare.console import PlainConsole
from compare.errors import BadInput
from compare.files import check_outputs, save_json
from compare.guard.guard import check_limit


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
    check_limit(args.timeout)
    check_outputs(args.json)
    level = level_of(path, args.level)
    console = PlainConsole(stderr=args.json == "-")
    with console.status("looking at it ...") if console.is_terminal else nullcontext():
        found, printed = look(path, level, args.timeout)
    feedback.tell(console, path, level, found, printed, hint=args.hint, answer=args.answer)
    if args.json is not None:
        answer = feedback.to_dict(path, level, found, printed)
        save_json(json.dumps(answer, indent=1) + "\n", args.json)
    return found.code
