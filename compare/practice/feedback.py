"""The words of an answer to a learner: what is right, the first line that is not, one hint.

Never more than one line is talked about, and never a table of numbers. Imports no torch.
"""

import shlex
import textwrap
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from compare.console import PlainConsole
from compare.guard.guard import Printed
from compare.practice.levels import Level
from compare.practice.result import BLANK, RIGHT, WRONG, Finding
from compare.proof.verdict import EXACT, ROUNDING, UNDECIDED, Verdict
from compare.report.document import LABEL, Document, plural

_WIDEST = 88
_BAR = 40
_CHECKED = "Each line by autograd, on your own values above it, at steps"
_OTHER_BITS = (
    "the same formula as autograd's, in another order, so the last bits differ. "
    "That is every bit as right."
)
_NUMBERS = (
    "These lines cannot be read as torch operations (numpy, or .item()?), "
    "so they were judged by their numbers alone."
)
_CLOSE = (
    "the last bits differ: close enough for rounding, though that it is no more cannot be proven "
    "(UNDECIDED)."
)
_NOT_PROVEN = "nothing wrong was found, but that it is right was not proven either."


def show(
    console: PlainConsole, path: Path, level: Level, found: Finding, printed: Printed, *,
    hint: bool, answer: bool,
) -> None:  # fmt: skip
    """Print the answer: prose in lines of the window's width, code and commands never broken."""
    for line in printed.lines:
        console.say(f"  | {line}")
    if printed.cut:
        console.say(f"  | ... {plural(printed.cut, 'more line')} that the file printed, cut here")
    width = max(30, min(console.width, _WIDEST) - LABEL - 4)
    lines = [
        (label.ljust(LABEL + 1) if label and not k else "", line)
        for label, text in _rows(path, level, found, console, hint=hint, answer=answer)
        for k, line in enumerate([text[1:]] if text[:1] == "`" else textwrap.wrap(text, width))
    ]
    word, colour = _word(found)
    title = f"{path}, level {level.name}"
    console.print(
        Document(title, word, colour, lines=lines, before=f"{title}: ", wraps=False), crop=False
    )


def _word(found: Finding) -> tuple[str, Verdict]:
    """Return what sums it up, and the verdict whose colour that has."""
    if found.state == BLANK:
        begun = any(name != found.name for name in found.verdicts)
        return ("right so far", EXACT) if begun else ("lines to fill in", UNDECIDED)
    if found.state == WRONG:
        return "a line to look at again", Verdict.WRONG
    return ("every line is right", EXACT) if found.state == RIGHT else ("not yet", UNDECIDED)


def _rows(
    path: Path, level: Level, found: Finding, console: PlainConsole, *, hint: bool, answer: bool
) -> Iterator[tuple[str, str]]:
    """Yield labels and texts; a text that begins with ` is code."""
    right = [n for n, verdict in found.verdicts.items() if n != found.name or found.state == RIGHT]
    if right:
        yield "right" if found.state == RIGHT else "right so far", ", ".join(right)
    yield from _how_right(found, right)
    if found.state == RIGHT:
        yield from _trained(found, console)
        yield from _next(path, level)
        return
    if found.line:
        yield f"line {found.line}", f"`{found.text}"
    yield "" if found.line else "why", _said(found)
    for remark in found.remarks:
        yield "", _sentence(remark)
    for k, line in enumerate(found.put_back):
        yield "" if k else "put back", f"`{line}"
    if (blank := level.blanks.get(found.name)) is None:
        return
    yield "hint", blank.hint
    if hint or answer:
        yield "more", blank.more
    if answer:
        yield "answer", f"`{blank.answer}"
    else:
        again = f"python -m compare practice {shlex.quote(str(path))}"
        yield ("for the line", f"`{again} --answer") if hint else ("for more", f"`{again} --hint")


def _said(found: Finding) -> str:
    if found.state != BLANK:
        return _sentence(found.said)
    if list(found.verdicts) in ([], ["l0"]):
        return f"is the line to begin with; {found.left} are to be filled in."
    more = f"; {found.left - 1} more after it" if found.left > 1 else ", the last one to fill in"
    return f"comes next{more}."


def _sentence(text: str) -> str:
    return text if text.endswith((".", "?")) else f"{text}."


def _how_right(found: Finding, right: list[str]) -> Iterator[tuple[str, str]]:
    """Yield what is to be said of lines that are right and have not autograd's bits."""
    of = {v: ", ".join(n for n in right if found.verdicts[n] == v) for v in (ROUNDING, UNDECIDED)}
    if of[ROUNDING]:
        yield "rounding", f"{of[ROUNDING]}: {_OTHER_BITS}"
    if found.why_numbers:
        numbers = f"Of {of[UNDECIDED]} {_CLOSE}" if of[UNDECIDED] else "They have autograd's bits."
        yield "by numbers", f"{_NUMBERS} {numbers}"
    elif of[UNDECIDED]:
        yield "undecided", f"{of[UNDECIDED]}: {_NOT_PROVEN}"


def _trained(found: Finding, console: PlainConsole) -> Iterator[tuple[str, str]]:
    """Yield how the network trained: its error over the steps as bars, its output beside y."""
    steps = ", ".join(f"{step:,}" for step in found.judged_at)
    yield "checked", f"{_CHECKED} {steps} and after the last."
    full = "\u2588" if (console.encoding or "").lower().startswith("utf") else "#"
    largest = max(error for _, error in found.errors) or 1.0
    for k, (step, error) in enumerate(found.errors):
        bar = full * round(_BAR * error / largest)
        yield "" if k else "error at step", f"`{step:>6,}  {error:<9.4g}{bar}".rstrip()
    yield "output", "`" + "".join(f"{value:<9.4f}" for value in found.output).rstrip()
    yield "beside y", "`" + "".join(f"{value:<9g}" for value in found.wanted).rstrip()


def _next(path: Path, level: Level) -> Iterator[tuple[str, str]]:
    if level.next is None:
        yield "next", "That was the last level. All of it in one network, by hand and by autograd:"
        yield "", "`python -m compare run everything --steps 50"
        return
    file = shlex.quote(str(path.with_name(f"{level.next}.py")))
    yield "next level", f"`python -m compare practice new {file} --level {level.next}"


def to_dict(path: Path, level: Level, found: Finding, printed: Printed) -> dict[str, Any]:
    """Return the answer for JSON; the hint is there, the line itself is not."""
    blank = level.blanks.get(found.name)
    return {
        "file": str(path), "level": level.name, **asdict(found),
        "hint": blank.hint if blank and found.state != RIGHT else None,
        "printed": printed.lines, "printed_lines_cut": printed.cut, "next": level.next,
    }  # fmt: skip
