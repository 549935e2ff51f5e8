"""The feedback for a learner: the lines that are right, the first one that is not, and one hint.

It is about one line at a time and never shows a table of numbers. This module does not import
torch.
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
from compare.practice.result import BLANK, RIGHT, WRONG, Result
from compare.proof.verdict import EXACT, ROUNDING, UNDECIDED, Verdict
from compare.report.rendering import LABEL, Document, plural

_WIDEST = 88  # columns of prose, at most
_BAR = 40  # characters of the longest bar
_NOT_EXACT = (ROUNDING, UNDECIDED)
_CHECKED = "Each line was compared with autograd, using your own values above it, at steps"
_OTHER_BITS = (
    "the same formula as autograd's, computed in another order, so the last bits differ. "
    "It is just as right."
)
_NUMBERS = (
    "Your code cannot be traced as torch operations (it may use numpy or .item()), "
    "so only its numbers were compared."
)
_CLOSE = "equal to autograd's values up to rounding; a proof would need torch code (UNDECIDED)."
_NOT_PROVEN = "no error was found, but it could not be proven right."


def show(
    console: PlainConsole, path: Path, level: Level, result: Result, printed: Printed, *,
    hint: bool, answer: bool,
) -> None:  # fmt: skip
    """Print the feedback. Prose is wrapped at the window's width; code and commands are not.

    Args:
        console: where to print.
        path: the practice file.
        level: its level.
        result: the result of the check.
        printed: the lines that the file printed.
        hint: whether to show the longer hint.
        answer: whether to show the correct line.
    """
    for line in printed.lines:
        console.say(f"  | {line}")
    if printed.cut:
        console.say(f"  | ... {plural(printed.cut, 'more line')} that the file printed, not shown")
    width = max(30, min(console.width, _WIDEST) - LABEL - 4)
    lines = [
        (label.ljust(LABEL + 1) if label and not k else "", line)
        for label, text in _rows(path, level, result, console, hint=hint, answer=answer)
        for k, line in enumerate([text[1:]] if text[:1] == "`" else textwrap.wrap(text, width))
    ]
    summary, colour = _summary(result)
    title = f"{path}, level {level.name}"
    console.print(
        Document(title, summary, colour, lines=lines, before=f"{title}: ", wraps=False), crop=False
    )


def _summary(result: Result) -> tuple[str, Verdict]:
    """Return the headline, and the verdict whose colour it takes."""
    if result.state == BLANK:
        begun = any(name != result.name for name in result.verdicts)
        return ("right so far", EXACT) if begun else ("lines to fill in", UNDECIDED)
    if result.state == WRONG:
        return "a line to correct", Verdict.WRONG
    return ("every line is right", EXACT) if result.state == RIGHT else ("not yet", UNDECIDED)


def _rows(
    path: Path, level: Level, result: Result, console: PlainConsole, *, hint: bool, answer: bool
) -> Iterator[tuple[str, str]]:
    """Yield labels and texts; a text that begins with ` is code."""
    right = [n for n in result.verdicts if n != result.name or result.state == RIGHT]
    if right:
        yield "right" if result.state == RIGHT else "right so far", ", ".join(right)
    yield from _qualifications(result, right)
    if result.state == RIGHT:
        yield from _training(result, console)
        yield from _next(path, level)
        return
    if result.line:
        yield f"line {result.line}", f"`{result.text}"
    yield "" if result.line else "why", _problem(result)
    for remark in result.remarks:
        yield "", _sentence(remark)
    for k, line in enumerate(result.put_back):
        yield "" if k else "put back", f"`{line}"
    if (blank := level.blanks.get(result.name)) is None:
        return
    yield "hint", blank.hint
    if hint or answer:
        yield "more", blank.more
    if answer:
        yield "answer", f"`{blank.answer}"
    else:
        command = f"python -m compare practice {shlex.quote(str(path))}"
        yield (
            ("for the answer", f"`{command} --answer")
            if hint
            else ("for more", f"`{command} --hint")
        )


def _problem(result: Result) -> str:
    if result.state != BLANK:
        return _sentence(result.said)
    if list(result.verdicts) in ([], ["l0"]):
        return f"Start here ({result.left} lines to fill in)."
    more = f"{result.left - 1} more after it" if result.left > 1 else "the last one to fill in"
    return f"This line is next ({more})."


def _sentence(text: str) -> str:
    return text if text.endswith((".", "?")) else f"{text}."


def _qualifications(result: Result, right: list[str]) -> Iterator[tuple[str, str]]:
    """Yield remarks on lines that are right but do not have autograd's bits, or no proof."""
    names = {v: ", ".join(n for n in right if result.verdicts[n] == v) for v in _NOT_EXACT}
    if names[ROUNDING]:
        yield "rounding", f"{names[ROUNDING]}: {_OTHER_BITS}"
    if result.why_numbers:
        close = f"{names[UNDECIDED]}: {_CLOSE}" if names[UNDECIDED] else "The bits are autograd's."
        yield "numbers only", f"{_NUMBERS} {close}"
    elif names[UNDECIDED]:
        yield "undecided", f"{names[UNDECIDED]}: {_NOT_PROVEN}"


def _training(result: Result, console: PlainConsole) -> Iterator[tuple[str, str]]:
    """Yield how the network trained: its error at some steps as bars, its output and the target."""
    steps = ", ".join(f"{step:,}" for step in result.judged_at)
    yield "checked", f"{_CHECKED} {steps} and after the last."
    full = "\u2588" if (console.encoding or "").lower().startswith("utf") else "#"
    largest = max(error for _, error in result.errors) or 1.0
    for k, (step, error) in enumerate(result.errors):
        bar = full * round(_BAR * error / largest)
        yield "" if k else "error at step", f"`{step:>6,}  {error:<9.4g}{bar}".rstrip()
    yield "output", "`" + "".join(f"{value:<9.4f}" for value in result.output).rstrip()
    yield "target y", "`" + "".join(f"{value:<9g}" for value in result.wanted).rstrip()


def _next(path: Path, level: Level) -> Iterator[tuple[str, str]]:
    if level.next is None:
        yield (
            "next",
            "This was the last level. Everything in one network, by hand and with autograd:",
        )
        yield "", "`python -m compare run everything --steps 50"
        return
    file = shlex.quote(str(path.with_name(f"{level.next}.py")))
    yield "next level", f"`python -m compare practice new {file} --level {level.next}"


def to_dict(path: Path, level: Level, result: Result, printed: Printed) -> dict[str, Any]:
    """Return the result as plain values for JSON, with the hint and without the correct line."""
    blank = level.blanks.get(result.name)
    return {
        "file": str(path), "level": level.name, **asdict(result),
        "hint": blank.hint if blank and result.state != RIGHT else None,
        "printed": printed.lines, "printed_lines_cut": printed.cut, "next": level.next,
    }  # fmt: skip
