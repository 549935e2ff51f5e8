"""What `bench` says of what it timed: plain values for JSON, and tables."""

import statistics
from typing import Any

from rich.table import Table

from compare.bench.claims import GROWTHS, PRODUCTS, Claim, Group
from compare.bench.growth import Growth
from compare.bench.timing import Times, spread
from compare.report.document import plain_table
from compare.state_dict import plain

MARK = "<"  # of a peer that is faster than ours


def summary(group: Group, times: Times) -> dict[str, Any]:
    """Return a group's figures and claims as plain values."""
    rows: list[dict[str, Any]] = []
    for label, figures in times.figures.items():
        ratios = times.ratios(label, (group.base,))
        row = {"label": label, "ours": label in group.ours, **spread(figures)}
        row["ratio"] = spread(ratios) if ratios else None
        peer = not row["ours"] and label != PRODUCTS  # which are a part of ours
        row["faster_than"] = _beaten(group, times, label) if peer else []
        rows.append(row)
    return {
        **{key: getattr(group, key) for key in ("name", "title", "unit", "scale", "base")},
        "rounds": max(map(len, times.figures.values()), default=0),
        "rows": rows,
        "not_here": times.not_here,
        "claims": [_judged(claim, times) for claim in group.claims],
    }


def _beaten(group: Group, times: Times, label: str) -> list[str]:
    """Return which of ours a peer is faster than, by the median of the rounds' ratios."""
    ratios = {mine: times.ratios(label, (mine,)) for mine in group.ours}
    return [mine for mine, found in ratios.items() if found and statistics.median(found) < 1]


def _judged(claim: Claim, times: Times) -> dict[str, Any]:
    """Return a claim beside what was measured, None where nothing was."""
    figures = times.ratios(claim.what, claim.over)
    found = spread(figures) if figures else None
    return {
        **plain(claim),
        "measured": found,
        "holds": claim.holds(found["median"]) if found else None,
    }


def table(group: dict[str, Any]) -> Table:
    """Return a group as lines: a row for each work, and one for each claim on several of them."""
    figures = group["unit"], "ratio", "least", "most"
    lines = plain_table(
        "", *figures, "", right=figures, wrap=("",), title_justify="left", caption_justify="left",
        title=f"{group['name']}: {group['title']}",
        caption=f"rounds: {group['rounds']}; ratios are to {group['base']} in the same round",
    )  # fmt: skip
    alone = {claim["what"]: claim for claim in group["claims"] if claim["over"] == [group["base"]]}
    for row in group["rows"]:
        note = [_said(alone[row["label"]])] if row["label"] in alone else []
        note += [f"{MARK} faster than {', '.join(row['faster_than'])}"] * bool(row["faster_than"])
        figure = f"{row['median'] * group['scale']:.4g}"
        lines.add_row(row["label"], figure, *_spread(row["ratio"]), ", ".join(note))
    for label, why in group["not_here"].items():
        lines.add_row(label, "", "", "", "", f"not here: {why}")
    for claim in group["claims"]:
        if claim not in alone.values() or not claim["measured"]:
            over = f"\n  / ({' + '.join(claim['over'])})" if claim["over"] else ""
            lines.add_row(claim["what"] + over, "", *_spread(claim["measured"]), _said(claim))
    return lines


def _said(claim: dict[str, Any]) -> str:
    """Return whether a claim holds, and its limit."""
    limit = f"{'at least' if claim['at_least'] else 'at most'} {claim['limit']:g}"
    aim = f", aim {claim['aim']:g}" if claim["aim"] else ""
    said = {True: "holds", False: "DOES NOT HOLD", None: "not measured"}[claim["holds"]]
    return f"{said}: {limit}{aim}"


def _spread(found: dict[str, float] | None) -> list[str]:
    return [f"{value:.3g}" for value in found.values()] if found else ["", "", ""]


def growth_table(grown: list[Growth]) -> Table:
    """Return a line for each growth."""
    words, figures = ("growth", "milliseconds at each size"), ("slope", "at the end")
    lines = plain_table(*words, *figures, right=figures, wrap=words)
    for each in grown:
        pairs = zip(each.sizes, each.seconds, strict=True)
        sizes = "  ".join(f"{size}: {seconds * 1e3:.3g}" for size, seconds in pairs)
        lines.add_row(GROWTHS[each.name], sizes, f"{each.slope:.2f}", f"{each.last:.2f}")
    return lines
