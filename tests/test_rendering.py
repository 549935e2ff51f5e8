"""One document as text, as HTML and as markdown."""

from rich.console import Console
from rich.text import Text

from compare.proof.verdict import ROUNDING, WRONG
from compare.report.rendering import Document, plain_table, plural
from compare.report.report import Report


def document(claim: str = "a <b> is not right", *, wraps: bool = True) -> Document:
    table = plain_table("name", "count", "verdict", right=("count",))
    table.add_row("a", "12", Text("WRONG", style=WRONG.style))
    table.add_row("b", "7", Text("ROUNDING", style=ROUNDING.style))
    lines = [("a", "12 of | them"), ("", "worst at [0]")]
    return Document("title", "WRONG", WRONG, claim, table, ("count",), lines, wraps=wraps)


def text(shown: Document, width: int) -> list[str]:
    console = Console(width=width, no_color=True)
    with console.capture() as capture:
        console.print(shown, crop=False)
    return [line.rstrip() for line in capture.get().splitlines()]


def test_a_text_has_the_table_the_verdict_and_labelled_lines() -> None:
    told = [
        "name  count  verdict",
        "a        12  WRONG",
        "b         7  ROUNDING",
        "WRONG  a <b> is not right",
        "  a              12 of | them",
        "                  worst at [0]",
    ]
    assert str(document()).splitlines() == told
    assert text(document(), 80) == told


def test_columns_that_do_not_fit_are_dropped_and_lines_are_not_wrapped() -> None:
    """Droppable columns are left out; lines below the verdict are never wrapped."""
    shown = document()
    narrow = text(shown, 16)
    assert narrow[:3] == ["name  verdict", "a     WRONG", "b     ROUNDING"]
    assert narrow[3:5] == ["WRONG  a <b> is", "not right"]
    assert narrow[5] == "  a              12 of | them"
    assert text(document(wraps=False), 16)[3] == "WRONG  a <b> is not right"
    assert text(shown, 80)[0] == "name  count  verdict"  # and is whole again where there is room


def test_html_colours_the_verdicts_and_escapes_the_rest() -> None:
    html = document().html()
    red = "<strong style='color:#cf222e'>WRONG</strong>"
    assert f"<p>{red} a &lt;b&gt; is not right</p>" in html
    assert f"<tr><td>a</td><td>{red}</td><td class='n'>12</td></tr>" in html
    assert "<dt>a</dt><dd>12 of | them</dd><dd>worst at [0]</dd>" in html
    assert "Environment" not in html


def test_markdown_escapes_a_bar() -> None:
    told = document("a | b").markdown()
    assert told.startswith("**WRONG** a \\| b\n\n| name | count | verdict |\n| --- | --- | --- |\n")
    assert "\n    a              12 of | them\n" in told


def test_every_format_says_that_a_run_was_interrupted() -> None:
    report = Report("two_layer", {}, interrupted=True)
    until = "no quantity was compared (interrupted: the steps run so far)"
    assert until in str(report)
    assert until in report.page()
    assert "(interrupted: the steps run so far)" in report.markdown()


def test_a_count_comes_with_its_noun() -> None:
    assert [plural(1, "step"), plural(2000, "step"), plural(2, "query")] == [
        "1 step", "2,000 steps", "2 queries"
    ]  # fmt: skip
