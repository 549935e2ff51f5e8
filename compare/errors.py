"""The one exception for input that a person can put right; the command line prints it, exit 2."""

import difflib
import operator
import os
import traceback
from collections.abc import Iterable
from typing import Any


class BadInput(ValueError):
    """What was given cannot be used; the message names it, its value and what to change."""


class UserError(BadInput):
    """An exception in the user's own code: the message holds their part of the traceback."""


def unknown(what: str, value: Any, known: Iterable[str]) -> BadInput:
    """Return the error for a name that is none of `known`, with the nearest ones."""
    names = list(known)
    text = isinstance(value, str)
    near = difflib.get_close_matches(value, names, n=3, cutoff=0.4) if text else []
    hint = f"did you mean {' or '.join(near)}?" if near else f"choose from {', '.join(names)}"
    return BadInput(f"unknown {what} {value!r}: {hint}")


def whole(what: str, value: Any) -> int:
    """Return a whole number, numpy's too; raises BadInput for anything else."""
    try:
        if not isinstance(value, bool):
            return operator.index(value)
    except TypeError:
        pass
    raise BadInput(f"{what} is {value!r}: give a whole number")


def first_line(error: BaseException, most: int = 160) -> str:
    """Return an exception's name and the first line of what it says, of that so many characters."""
    first = (str(error).strip().splitlines() or [""])[0][:most]
    return f"{type(error).__name__}: {first}" if first else type(error).__name__


def printable(text: str) -> str:
    """Return a text with what no terminal should be sent written out: escapes, line ends, ..."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def is_ours(error: Exception) -> bool:
    """Whether an exception out of someone's code is a fault of this program: raised in it.

    Of kinds that wrong code raises; what torch refuses of theirs may be raised in a line of ours.
    """
    frames = traceback.extract_tb(error.__traceback__)
    inside = bool(frames) and frames[-1].filename.startswith(os.path.dirname(__file__) + os.sep)
    kinds = AttributeError | NameError | LookupError | TypeError | AssertionError
    return inside and isinstance(error, kinds)
