"""HTML of a report: a page without external links, its style sheet, and plots as SVG."""

from collections.abc import Sequence
from html import escape

STYLE = """
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

Curve = tuple[str, Sequence[tuple[float, float]]]  # label, points (x, y)


def page(title: str, body: str) -> str:
    """Return a complete HTML page with this body."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title></head>\n<body>{body}</body></html>\n"
    )


def plot(curves: Sequence[Curve]) -> str:
    """Return the curves as one SVG; the first is wide and lies under the others."""
    xs = [x for _, points in curves for x, _ in points]
    ys = [y for _, points in curves for _, y in points if y == y and abs(y) < float("inf")]
    if not ys:
        return "<p>no finite values</p>"
    x0, x1, y0, y1 = min(xs), max(xs), min(0.0, *ys), max(ys)
    width_of_data, height_of_data = (x1 - x0) or 1.0, (y1 - y0) or 1.0

    def place(x: float, y: float) -> str:
        across = _LEFT + (x - x0) / width_of_data * (_WIDTH - _LEFT - 10)
        down = 10 + (1 - (y - y0) / height_of_data) * (_HEIGHT - _BOTTOM - 10)
        return f"{across:.1f},{down:.1f}"

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
