"""The one exception for input that a person can put right; the command line prints it, exit 2."""

import difflib
from collections.abc import Iterable


class BadInput(ValueError):
    """What was given cannot be used; the message names it, its value and what to change."""


def unknown(what: str, value: str, known: Iterable[str]) -> BadInput:
    """Return the error for a name that is none of `known`, with the nearest ones."""
    names = list(known)
    near = difflib.get_close_matches(value, names, n=3, cutoff=0.4)
    hint = f"did you mean {' or '.join(near)}?" if near else f"choose from {', '.join(names)}"
    return BadInput(f"unknown {what} {value!r}: {hint}")
