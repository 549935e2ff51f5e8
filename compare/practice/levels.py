"""The levels of practice: the blog's networks with lines to fill in, from two layers to batch norm.

A level is a row of `LEVELS`, and a text in `solutions`. The file with the blanks, the hints and the
answers are all made from that text. This module does not import torch.
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
    """A line to fill in: the name that it assigns, its two hints, and the correct line."""

    name: str
    hint: str
    more: str
    answer: str


@dataclass(frozen=True)
class Level:
    """A network to rebuild from memory.

    Attributes:
        name: its name on the command line.
        title: its description in the first line of a practice file.
        case: the same network on the autograd side.
        names: name in the file -> name on the autograd side, where they differ; a "-" in front
            means that the sign differs too.
    """

    name: str
    title: str
    case: Case
    names: dict[str, str]

    @cached_property
    def solution(self) -> str:
        """The text of the file with every line correct."""
        return "".join(line for line, _ in self._lines)

    @cached_property
    def template(self) -> str:
        """The text of the file with `...` in every line to fill in."""
        return "".join(_BLANK.sub(r"\1...\3", t) if hints else t for t, hints in self._lines)

    @cached_property
    def blanks(self) -> dict[str, Blank]:
        """The lines to fill in: name -> blank, in the order of the file."""
        blanks: dict[str, Blank] = {}
        for line, hints in self._lines:
            if hints:
                answer = _BLANK.sub(r"\1\2", line).strip()
                name = answer.split()[0]
                blanks[name] = Blank(name, hints[0], " ".join(hints[1:]), answer)
        return blanks

    @cached_property
    def _lines(self) -> list[tuple[str, list[str]]]:
        """The lines of the file, each with its hints."""
        lines: list[tuple[str, list[str]]] = []
        hints: list[str] = []
        for line in TEXTS[self.name].splitlines(keepends=True):
            if line.lstrip().startswith("#? "):
                hints.append(line.partition("#? ")[2].rstrip())
            else:
                lines.append((line, hints))
                hints = []
        return lines

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
        _level("two_layer", "the blog's Part 1, inputs and outputs without a hidden layer"),
        _level("three_layer", "the blog's Part 2, with a hidden layer of four"),
        _level("bias", "three layers, and a bias in each"),
        _level("momentum", "three layers, trained with momentum",
               Network((3, 4, 1), alpha=0.1, momentum=0.9),
               v0="-syn0_momentum_buffer", v1="-syn1_momentum_buffer"),
        _level("dropout", "three layers, a fifth of the hidden values dropped at random"),
        _level("batch_norm", "three layers, with batch norm on the hidden one"),
    )
}  # fmt: skip


def find(name: str) -> Level:
    """Return the level called `name`; raise BadInput with similar names if there is none."""
    if name not in LEVELS:
        raise unknown("level", name, LEVELS)
    return LEVELS[name]


def level_name(text: str) -> str | None:
    """Return the level that the comment in a practice file names, or None."""
    match = _MARK.search(text)
    return match and match[1]


def new(path: Path, level: Level) -> None:
    """Write the practice file of a level; raise BadInput if `path` exists or cannot be written."""
    command = f"python -m compare practice {shlex.quote(str(path))}"
    head = f"""\
# deltacheck practice, level {level.name}: {level.title}.
# Replace every `...` from memory. Do not change the names or the data.
# The comment at the end of a line is the shape of its value. To check the file:
#     {command if command.isprintable() else "python -m compare practice FILE"}

"""
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(head + level.template)
    except FileExistsError:
        raise BadInput(
            f"{path} exists, and practice new never overwrites a file: name another one"
        ) from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise BadInput(f"cannot write {path}: {reason}; name another file") from error
