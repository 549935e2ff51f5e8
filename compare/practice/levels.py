"""The levels of practice: the blog's networks with lines to fill in, from two layers to batch norm.

A level is a row: its question, and its text in `solutions`, from which the file with the blanks,
the hints and the answers are all made. Imports no torch.
"""

import re
import shlex
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path

from compare.cases.cases import CASES, Case, Network
from compare.errors import BadInput, unknown
from compare.practice.solutions import TEXTS

_MARK = re.compile(r"#.*\bpractice, level (\w+)")
_BLANK = re.compile(r"( *\w+ \+?= )(.*?)(  #.*)?$")


@dataclass(frozen=True)
class Blank:
    """A line to fill in: the name that it assigns, its hints, and the line itself."""

    name: str
    hint: str
    more: str
    answer: str


@dataclass(frozen=True)
class Level:
    """A network to rebuild: what it is, and the question that autograd is asked.

    `names` gives what autograd calls a value by another name; "-" has the sign turned.
    """

    name: str
    title: str
    case: Case
    names: dict[str, str]

    @cached_property
    def solution(self) -> str:
        """The file's text with every line right."""
        return "".join(line for line, _ in self._lines)

    @cached_property
    def template(self) -> str:
        """The file's text with `...` for every line that is to be filled in."""
        return "".join(_BLANK.sub(r"\1...\3", t) if hints else t for t, hints in self._lines)

    @cached_property
    def blanks(self) -> dict[str, Blank]:
        """What is to be filled in, by name, in the order of the lines."""
        found: dict[str, Blank] = {}
        for line, hints in self._lines:
            if hints:
                answer = _BLANK.sub(r"\1\2", line).strip()
                name = answer.split()[0]
                found[name] = Blank(name, hints[0], " ".join(hints[1:]), answer)
        return found

    @cached_property
    def _lines(self) -> list[tuple[str, list[str]]]:
        """The file's lines, each with the hints above it."""
        found: list[tuple[str, list[str]]] = []
        hints: list[str] = []
        for line in TEXTS[self.name].splitlines(keepends=True):
            if line.lstrip().startswith("#? "):
                hints.append(line.partition("#? ")[2].rstrip())
            else:
                found.append((line, hints))
                hints = []
        return found

    @property
    def next(self) -> str | None:
        """The name of the level after this one."""
        return dict(pairwise(LEVELS)).get(self.name)


def _level(name: str, title: str, network: Network | None = None, **names: str) -> Level:
    case = CASES[name] if network is None else replace(CASES[name], network=network)
    return Level(name, title, case, names)


LEVELS = {
    level.name: level
    for level in (
        _level("two_layer", "the blog's Part 1, inputs and outputs and nothing between"),
        _level("three_layer", "the blog's Part 2, with a hidden layer of four"),
        _level("bias", "three layers, and a bias in each"),
        _level("momentum", "three layers whose weights keep some of their speed",
               Network((3, 4, 1), alpha=0.1, momentum=0.9),
               v0="-syn0_momentum_buffer", v1="-syn1_momentum_buffer"),
        _level("dropout", "three layers, a fifth of the hidden values dropped at random"),
        _level("batch_norm", "three layers, the hidden one normalised over the rows"),
    )
}  # fmt: skip


def find(name: str) -> Level:
    """Return the level called `name`; raises BadInput with the nearest names."""
    if name not in LEVELS:
        raise unknown("level", name, LEVELS)
    return LEVELS[name]


def said_by(text: str) -> str | None:
    """Return the level that a practice file says it is of, None if it says none."""
    found = _MARK.search(text)
    return found and found[1]


def new(path: Path, level: Level) -> None:
    """Write the level's file with its blanks; raises BadInput where a file is or none can be."""
    command = f"python -m compare practice {shlex.quote(str(path))}"
    head = f"""\
# deltacheck practice, level {level.name}: {level.title}.
# Fill in a right side for every `...` from memory; the names and the data stay as they are.
# The comment at the end of a line is the shape of its value. To have it looked at:
#     {command if command.isprintable() else "python -m compare practice FILE"}

"""
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(head + level.template)
    except FileExistsError:
        raise BadInput(
            f"{path} is there already and practice new never overwrites: name another file"
        ) from None
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise BadInput(f"cannot write {path}: {why}; name another file") from error
