"""A report as HTML: one page with no outside links, its plots drawn as SVG."""

from collections.abc import Iterable, Sequence
from html import escape

from rich.table import Table

from compare.proof.verdict import Verdict

_STYLE = """
.dc { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 0 auto; padding: 1rem;
      color: #1f2328; background: #fff; }
.dc h1 { font-size: 1.4rem; margin: 0 0 .5rem; }
.dc h2 { font-size: 1.05rem; margin: 1.5rem 0 .5rem; }
.dc .wide { overflow-x: auto; }
.dc table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
.dc th, .dc td { padding: .25rem .75rem .25rem 0; text-align: left; white-space: nowrap;
                 border-bottom: 1px solid #d0d7de; }
.dc td.n, .dc th.n { text-align: right; }
.dc dl { margin: 0; overflow-wrap: anywhere; }
.dc dt { font-weight: 600; margin-top: .5rem; }
.dc dd { margin: 0 0 0 1rem; }
.dc svg { width: 100%; height: auto; max-width: 44rem; display: block; }
"""
_WIDTH, _HEIGHT, _LEFT, _BOTTOM = 700, 260, 90, 40
_LINES = ("#0a6c8a", "#e36209")

Curve = tuple[str, Sequence[tuple[float, float]]]  # its label, its points


def page(title: str, body: str) -> str:
    """Return a whole document around a `fragment`."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title></head>\n<body>{body}</body></html>\n"
    )


def fragment(
    title: str, word: str, colour: Verdict | None, claim: str, table: Table | None,
    lines: Iterable[tuple[str, str]], plots: Iterable[tuple[str, Sequence[Curve]]],
    about: Iterable[tuple[str, str]],
) -> str:  # fmt: skip
    """Return a document as HTML with its own style."""
    parts = [f"<style>{_STYLE}</style><div class='dc'>", f"<h1>{escape(title)}</h1>"]
    parts.append(f"<p>{_strong(word, colour)} {escape(claim)}</p>")
    parts += [_table(table)] if table else []
    if text := "".join(
        f"<dt>{escape(k)}</dt>" * bool(k) + f"<dd>{escape(v)}</dd>" for k, v in lines
    ):
        parts.append(f"<h2>What stands behind it</h2><dl>{text}</dl>")
    parts += [f"<h2>{escape(name)}</h2>{_plot(curves)}" for name, curves in plots]
    if rows := "".join(f"<tr><td>{escape(k)}</td><td>{escape(v)}</td></tr>" for k, v in about):
        parts.append(f"<h2>Environment</h2><div class='wide'><table>{rows}</table></div>")
    return "\n".join(parts) + "</div>"


def _strong(word: str, colour: Verdict | None) -> str:
    style = f" style='color:{colour.web_colour}'" if colour else ""
    return f"<strong{style}>{escape(word)}</strong>"


def _table(table: Table) -> str:
    """Return the table with the verdicts moved to the second column, where a phone shows them."""
    first, *others = table.columns
    columns = [first, *sorted(others, key=lambda column: column.header != "verdict")]

    def row(tag: str, cells: Iterable[object]) -> str:
        found = []
        for column, cell in zip(columns, map(str, cells), strict=True):
            known = Verdict.__members__.get(cell) if column.header == "verdict" else None
            kind = " class='n'" if column.justify == "right" else ""
            found.append(f"<{tag}{kind}>{_strong(cell, known) if known else escape(cell)}</{tag}>")
        return f"<tr>{''.join(found)}</tr>"

    body = "".join(row("td", cells) for cells in zip(*(c.cells for c in columns), strict=True))
    head = row("th", (c.header for c in columns))
    return f"<div class='wide'><table>{head}{body}</table></div>"


def _plot(curves: Sequence[Curve]) -> str:
    """Return curves over one pair of axes; the first lies wide under the second."""
    xs = [x for _, points in curves for x, _ in points]
    ys = [y for _, points in curves for _, y in points if y == y and abs(y) < float("inf")]
    if not ys:
        return "<p>no finite values</p>"
    x0, x1, y0, y1 = min(xs), max(xs), min(0.0, *ys), max(ys)
    wide, high = (x1 - x0) or 1.0, (y1 - y0) or 1.0

    def place(x: float, y: float) -> str:
        across = _LEFT + (x - x0) / wide * (_WIDTH - _LEFT - 10)
        return f"{across:.1f},{10 + (1 - (y - y0) / high) * (_HEIGHT - _BOTTOM - 10):.1f}"

    bottom = _HEIGHT - _BOTTOM
    parts = [
        f"<svg viewBox='0 0 {_WIDTH} {_HEIGHT}' role='img' font-size='20'>",
        f"<path d='M{_LEFT},10V{bottom}H{_WIDTH - 10}' fill='none' stroke='#8c959f'/>",
        f"<text x='{_LEFT - 6}' y='26' text-anchor='end'>{y1:.3g}</text>",
        f"<text x='{_LEFT - 6}' y='{bottom}' text-anchor='end'>{y0:.3g}</text>",
        f"<text x='{_LEFT}' y='{_HEIGHT - 12}'>step {x0:,.0f}</text>",
        f"<text x='{_WIDTH - 10}' y='{_HEIGHT - 12}' text-anchor='end'>{x1:,.0f}</text>",
    ]
    for k, (label, points) in enumerate(curves):
        line = " ".join(place(x, y) for x, y in points if y == y and abs(y) < float("inf"))
        width = 5 - 3.5 * min(k, 1) if len(curves) > 1 else 1.5
        parts.append(
            f"<polyline points='{line}' fill='none' stroke='{_LINES[k]}' stroke-width='{width}'/>"
            f"<text x='{_WIDTH - 12}' y='{30 + 24 * k}' text-anchor='end' fill='{_LINES[k]}'>"
            f"{escape(label)}</text>"
        )
    return "".join(parts) + "</svg>"
