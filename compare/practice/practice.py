"""Checks a practice file in a separate process.

This module does not import torch; the separate process does.
"""

from pathlib import Path

from compare.errors import BadInput
from compare.guard.guard import Ended, Printed, guarded
from compare.practice.levels import LEVELS, Level, find, level_name
from compare.practice.parser import read, text_of
from compare.practice.result import STOPS, Problem, Result

_MEMORY = 2 * 2**30  # bytes that the file's process may use: more is a runaway allocation
_LINES, _COLUMNS = 8, 76  # at most so much of the file's own output is shown


def level_of(path: Path, requested: str | None) -> Level:
    """Return the level to check a file against: the requested one, else the one in its comment.

    Raises:
        BadInput: if there is neither, or no such level.
    """
    name = requested or level_name(text_of(path))
    if name is None:
        raise BadInput(
            f"{path} has no comment that names its level: "
            f"add --level NAME, one of {', '.join(LEVELS)}"
        )
    return find(name)


def check_file(path: Path, level: Level, seconds: float) -> tuple[Result, Printed]:
    """Return the result of checking a practice file, and the lines that it printed.

    Args:
        path: the practice file.
        level: the level to check it against.
        seconds: the time limit of the file's process.

    Raises:
        BadInput: if the file cannot be read, or has no loop to check.
    """
    text, printed = text_of(path), Printed(_LINES, _COLUMNS)
    try:
        read(text, str(path), frozenset(level.blanks))
    except Problem as problem:
        return problem.result, printed
    arguments = {"file": str(path), "level": level.name}
    ended = guarded(
        "compare.practice.grader:grade_file", arguments, printed, seconds=seconds, memory=_MEMORY
    )
    return _result(ended, text, path, seconds), printed


def _result(ended: Ended, text: str, path: Path, seconds: float) -> Result:
    """Return the result from the separate process, or the reason why there is none."""
    if ended.answer is not None:
        result = ended.answer_as(Result)
        return result or Result(STOPS, "the file wrote to the pipe that carries the result")
    line = ended.line(path) if ended.code is None else 0
    lines = text.splitlines()
    return Result(STOPS, ended.why(seconds), line, lines[line - 1].strip() if line else "")
