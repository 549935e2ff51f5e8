"""Has a practice file looked at by a process of its own.

Imports no torch; that process does.
"""

from pathlib import Path

from compare.errors import BadInput
from compare.guard.guard import Ended, Printed, guarded
from compare.practice.levels import LEVELS, Level, find, said_by
from compare.practice.parser import read, text_of
from compare.practice.result import STOPS, Answer, Finding

_MEMORY = 2 * 2**30  # bytes: what asks for more runs away
_LINES, _COLUMNS = 8, 76  # of what it prints, at most


def level_of(path: Path, named: str | None) -> Level:
    """Return the level that was named, or that the file says; raises BadInput if neither."""
    said = named or said_by(text_of(path))
    if said is None:
        raise BadInput(
            f"{path} has no comment that says its level: "
            f"add --level NAME, one of {', '.join(LEVELS)}"
        )
    return find(said)


def check_file(path: Path, level: Level, seconds: float) -> tuple[Finding, Printed]:
    """Return what there is to say of a practice file, and what it printed.

    Raises BadInput for what cannot be read as one.
    """
    text, printed = text_of(path), Printed(_LINES, _COLUMNS)
    try:
        read(text, str(path), frozenset(level.blanks))
    except Answer as answer:
        return answer.finding, printed
    words = {"file": str(path), "level": level.name}
    ended = guarded(
        "compare.practice.worker:judged", words, printed, seconds=seconds, memory=_MEMORY
    )
    return _finding(ended, text, path, seconds), printed


def _finding(ended: Ended, text: str, path: Path, seconds: float) -> Finding:
    """Return what the trial found, or why it could not."""
    if ended.answer is not None:
        found = ended.answer_as(Finding)
        return found or Finding(STOPS, "the file wrote an answer of its own")
    line = ended.line(path) if ended.code is None else 0
    lines = text.splitlines()
    return Finding(STOPS, ended.why(seconds), line, lines[line - 1].strip() if line else "")
