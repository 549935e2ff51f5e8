"""Exceptions for input that the user can correct; the command line prints them, exit code 2."""

import difflib
import operator
import os
import traceback
from collections.abc import Iterable
from typing import Any


class BadInput(ValueError):
    """Input that cannot be used; the message names it, its value and the correction.

    The command line prints the message, which is one line, and ends with exit code 2.

    Example:
        >>> import compare
        >>> compare.check(lambda x: (x,), lambda x: x * x, 3)
        Traceback (most recent call last):
        ...
        compare.errors.BadInput: inputs is an int: give a dict or a tuple
    """


class UserError(BadInput):
    """An exception in the user's own code; the message holds its part of the traceback."""


def unknown(kind: str, value: Any, known: Iterable[str]) -> BadInput:
    """Return the error for a name that is not known; it suggests similar ones.

    Args:
        kind: The kind of name, for the message: "case", "dtype".
        value: The unknown name.
        known: The names to choose from.
    """
    names = list(known)
    is_text = isinstance(value, str)
    similar = difflib.get_close_matches(value, names, n=3, cutoff=0.4) if is_text else []
    hint = f"did you mean {' or '.join(similar)}?" if similar else f"choose from {', '.join(names)}"
    return BadInput(f"unknown {kind} {value!r}: {hint}")


def whole_number(name: str, value: Any) -> int:
    """Return an int or a numpy integer as an int; raise BadInput, which has `name`, for others."""
    try:
        if not isinstance(value, bool):
            return operator.index(value)
    except TypeError:
        pass
    raise BadInput(f"{name} is {value!r}: give a whole number")


def first_line(error: BaseException, width: int = 160) -> str:
    """Return an exception's type and the first line of its message, cut to `width` characters."""
    first = (str(error).strip().splitlines() or [""])[0][:width]
    return f"{type(error).__name__}: {first}" if first else type(error).__name__


def printable(text: str) -> str:
    """Return a text with control characters, such as escapes and line ends, as backslash codes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def is_internal(error: Exception) -> bool:
    """Return whether an exception from a call of user code is a fault of this program.

    It is if a line of this program raised it, and its type is one that faulty code raises. Other
    types do not count: torch may refuse a tensor of the user's in a line of this program.
    """
    frames = traceback.extract_tb(error.__traceback__)
    inside = bool(frames) and frames[-1].filename.startswith(os.path.dirname(__file__) + os.sep)
    kinds = AttributeError | NameError | LookupError | TypeError | AssertionError
    return inside and isinstance(error, kinds)
