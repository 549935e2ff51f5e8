"""A verdict, a table and labelled lines, rendered for a terminal, a notebook, HTML or markdown.

Every command that reaches a verdict makes a Document; its appearance is decided here alone.
"""

import json
import re
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Column, Table
from rich.text import Text

from compare.errors import printable
from compare.proof.verdict import Verdict
from compare.report.html import STYLE, Curve, plot

LABEL = 14  # width of the column of labels, in characters
_PLAIN: Any = {"box": None, "pad_edge": False, "header_style": "bold"}


@dataclass(frozen=True)
class Document:
    """The contents of a report, in the order in which they are shown."""

    title: str
    word: str  # the verdict, or another word that sums the report up
    colour: Verdict | None  # the verdict whose colour `word` has
    claim: str = ""  # the finding that the word rests on, in one line
    table: Table | None = None
    droppable: tuple[str, ...] = ()  # columns to leave out, in this order, until the table fits
    lines: Sequence[tuple[str, str]] = ()  # (label, text); an empty label continues the one above
    plots: Sequence[tuple[str, list[Curve]]] = ()  # (title, curves)
    about: Sequence[tuple[str, str]] = ()  # (name, value) of the environment
    before: str = ""  # text before the word in the headline
    wraps: bool = True  # whether the headline wraps; no other line does, so that it can be copied

    def headline(self) -> Text:
        """Return the word and its claim, in one line."""
        line = Text(self.before)
        line.append(self.word, self.colour and self.colour.style)
        if not self.wraps:
            line.no_wrap, line.overflow = True, "ignore"
        claim = f"  {printable(self.claim)}" if self.claim else ""
        return line.append(claim, "bold default" if self.colour else "")

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if self.table:
            yield _narrowed(self.table, self.droppable, options.max_width)
        yield self.headline()
        for label, text in self.lines:
            yield Text(_labelled(label, text), no_wrap=True, overflow="ignore")

    def __str__(self) -> str:
        console = Console(width=100, no_color=True, highlight=False, markup=False)
        with console.capture() as capture:
            console.print(self, crop=False)
        return "\n".join(line.rstrip() for line in capture.get().splitlines())

    def html(self) -> str:
        """Return the document as HTML, with its style sheet."""
        parts = [f"<style>{STYLE}</style><div class='dc'>", f"<h1>{escape(self.title)}</h1>"]
        parts.append(f"<p>{_strong(self.word, self.colour)} {escape(self.claim)}</p>")
        parts += [_html_table(self.table)] if self.table else []
        if self.lines:
            titled = ((f"<dt>{escape(k)}</dt>" * bool(k), escape(v)) for k, v in self.lines)
            text = "".join(f"{label}<dd>{text}</dd>" for label, text in titled)
            parts.append(f"<h2>Evidence</h2><dl>{text}</dl>")
        parts += [f"<h2>{escape(name)}</h2>{plot(curves)}" for name, curves in self.plots]
        if self.about:
            pairs = ((escape(k), escape(v)) for k, v in self.about)
            rows = "".join(f"<tr><td>{k}</td><td>{v}</td></tr>" for k, v in pairs)
            parts.append(f"<h2>Environment</h2><div class='wide'><table>{rows}</table></div>")
        return "\n".join(parts) + "</div>"

    def markdown(self) -> str:
        """Return the document as markdown, without the plots."""
        parts = [f"**{self.word}** {_as_markdown(self.claim)}"]
        if self.table:
            titles, *rows = zip(*([c.header, *c.cells] for c in self.table.columns), strict=True)
            parts.append(_markdown_table([titles, ("---",) * len(titles), *rows]))
        # markdown shows a line indented by four columns as it is
        if evidence := [f"  {_labelled(label, text)}" for label, text in self.lines]:
            parts += ["### Evidence", "\n".join(evidence)]
        about = f"| | |\n|---|---|\n{_markdown_table(self.about)}"
        return "\n\n".join([*parts, "### Environment", about])


class Documented:
    """A base class of results that print themselves as a Document and have a JSON form."""

    def document(self) -> Document:
        """Return the document to show."""
        raise NotImplementedError

    def to_dict(self) -> dict[str, Any]:
        """Return the result as plain values for JSON."""
        raise NotImplementedError

    def to_json(self) -> str:
        """Return `to_dict` as indented JSON text."""
        return json.dumps(self.to_dict(), indent=1) + "\n"

    def headline(self) -> Text:
        """Return the verdict and the finding that it rests on, in one line."""
        return self.document().headline()

    def __rich__(self) -> Document:
        return self.document()

    def __str__(self) -> str:
        return str(self.document())

    def _repr_html_(self) -> str:
        """Return the HTML that a notebook shows."""
        return self.document().html()


def plain_table(
    *titles: str, right: Container[str] = (), wrap: Container[str] = (), **look: Any
) -> Table:
    """Return an empty table without rules.

    Args:
        *titles: The titles of its columns.
        right: Titles of columns that are aligned right.
        wrap: Titles of columns whose long cells wrap; others are cut with an ellipsis.
        **look: Further arguments of `rich.table.Table`.
    """
    columns = [Column(title, no_wrap=title not in wrap) for title in titles]
    for column in columns:
        column.justify = "right" if column.header in right else "left"
        column.overflow = "fold" if column.header in wrap else "ellipsis"
    return Table(*columns, **_PLAIN, **look)


def plural(count: int, noun: str) -> str:
    """Return a count with its noun: "1 step", "2 steps", "3 entries"."""
    plural = noun[:-1] + "ies" if noun.endswith("y") else noun + "s"
    return f"{count:,} {noun if count == 1 else plural}"


def _narrowed(table: Table, droppable: Iterable[str], width: int) -> Table:
    """Return the table without as many `droppable` columns as it takes to fit the width."""
    columns = table.columns
    for title in droppable:
        texts = ([column.header, *column.cells] for column in columns)
        if sum(max(len(str(text)) for text in each) + 2 for each in texts) - 2 <= width:
            break
        columns = [column for column in columns if column.header != title]
    narrowed = Table(*columns, **_PLAIN)
    narrowed.rows = table.rows
    return narrowed


def _labelled(label: str, text: str) -> str:
    return printable(f"  {label:<{LABEL}}{' ' if label else '  '}{text}")


def _markdown_table(rows: Iterable[Iterable[object]]) -> str:
    return "\n".join(f"| {' | '.join(_as_markdown(str(c)) for c in row)} |" for row in rows)


def _as_markdown(text: str) -> str:
    """Return a text escaped for markdown: a name may contain a bar or HTML."""
    return re.sub(r"[\\`*\[\]<>|#!&]", r"\\\g<0>", printable(text))


def _strong(word: str, colour: Verdict | None) -> str:
    style = f" style='color:{colour.web_colour}'" if colour else ""
    return f"<strong{style}>{escape(word)}</strong>"


def _html_table(table: Table) -> str:
    """Return the table with the verdicts in the second column, where a phone shows them."""
    first, *others = table.columns
    columns = [first, *sorted(others, key=lambda column: column.header != "verdict")]

    def row(tag: str, cells: Iterable[object]) -> str:
        parts = []
        for column, cell in zip(columns, map(str, cells), strict=True):
            verdict = Verdict.__members__.get(cell) if column.header == "verdict" else None
            style = " class='n'" if column.justify == "right" else ""
            text = _strong(cell, verdict) if verdict else escape(cell)
            parts.append(f"<{tag}{style}>{text}</{tag}>")
        return f"<tr>{''.join(parts)}</tr>"

    body = "".join(row("td", cells) for cells in zip(*(c.cells for c in columns), strict=True))
    head = row("th", (c.header for c in columns))
    return f"<div class='wide'><table>{head}{body}</table></div>"
