"""The results of `bench` as plain values for JSON, and as tables."""

import statistics
from typing import Any

from rich.table import Table

from compare.bench.claims import GROWTHS, NO_PEERS, Claim, Group
from compare.bench.growth import Growth
from compare.bench.timing import Times, spread
from compare.report.rendering import plain_table
from compare.stateful import plain

MARK = "<"  # marks a peer that is faster than one of our workloads


def summary(group: Group, times: Times) -> dict[str, Any]:
    """Return the measurements and claims of a group as plain values."""
    rows: list[dict[str, Any]] = []
    for label, figures in times.figures.items():
        ratios = times.ratios(label, (group.base,))
        row = {"label": label, "ours": label in group.project, **spread(figures)}
        row["ratio"] = spread(ratios) if ratios else None
        peer = not row["ours"] and label not in NO_PEERS
        row["faster_than"] = _slower(group, times, label) if peer else []
        rows.append(row)
    return {
        **{key: getattr(group, key) for key in ("name", "title", "unit", "scale", "base")},
        "rounds": max(map(len, times.figures.values()), default=0),
        "rows": rows,
        "not_here": times.not_here,
        "claims": [_result(claim, times) for claim in group.claims],
    }


def _slower(group: Group, times: Times, label: str) -> list[str]:
    """Return our workloads that are slower than a peer, by the median of the rounds' ratios."""
    ratios = {own_label: times.ratios(label, (own_label,)) for own_label in group.project}
    return [
        own_label
        for own_label, values in ratios.items()
        if values and statistics.median(values) < 1
    ]


def _result(claim: Claim, times: Times) -> dict[str, Any]:
    """Return a claim with the measured ratio and whether it holds; None if nothing was measured."""
    ratios = times.ratios(claim.what, claim.over)
    measured = spread(ratios) if ratios else None
    return {
        **plain(claim),
        "measured": measured,
        "holds": claim.holds(measured["median"]) if measured else None,
    }


def table(group: dict[str, Any]) -> Table:
    """Return a group's table: a row for each workload, and for each claim on several of them."""
    figures = group["unit"], "ratio", "least", "most"
    lines = plain_table(
        "", *figures, "", right=figures, wrap=("",), title_justify="left", caption_justify="left",
        title=f"{group['name']}: {group['title']}",
        caption=f"rounds: {group['rounds']}; ratios are to {group['base']} in the same round",
    )  # fmt: skip
    alone = {claim["what"]: claim for claim in group["claims"] if claim["over"] == [group["base"]]}
    for row in group["rows"]:
        note = [_claim_text(alone[row["label"]])] if row["label"] in alone else []
        note += [f"{MARK} faster than: {'; '.join(row['faster_than'])}"] * bool(row["faster_than"])
        figure = f"{row['median'] * group['scale']:.4g}"
        lines.add_row(row["label"], figure, *_spread(row["ratio"]), ", ".join(note))
    for label, why in group["not_here"].items():
        lines.add_row(label, "", "", "", "", f"not available: {why}")
    for claim in group["claims"]:
        if claim not in alone.values() or not claim["measured"]:
            over = f"\n  / ({' + '.join(claim['over'])})" if claim["over"] else ""
            lines.add_row(claim["what"] + over, "", *_spread(claim["measured"]), _claim_text(claim))
    return lines


def _claim_text(claim: dict[str, Any]) -> str:
    """Return a text that says whether a claim holds here, its limit, and where it has held."""
    aim = f", aim {claim['aim']:g}" if claim["aim"] else ""
    outcome = {True: "holds", False: "DOES NOT HOLD HERE", None: "not measured"}[claim["holds"]]
    held = f"held on {', '.join(claim['held'])}" if claim["held"] else "not seen to hold yet"
    return f"{outcome}: at most {claim['limit']:g}{aim}; {held}"


def _spread(ratio: dict[str, float] | None) -> list[str]:
    return [f"{value:.3g}" for value in ratio.values()] if ratio else ["", "", ""]


def growth_table(growths: list[Growth]) -> Table:
    """Return a table with a row for each growth measurement."""
    texts, figures = ("growth", "milliseconds at each size"), ("slope", "last slope")
    lines = plain_table(*texts, *figures, right=figures, wrap=texts)
    for each in growths:
        pairs = zip(each.sizes, each.seconds, strict=True)
        sizes = "  ".join(f"{size}: {seconds * 1e3:.3g}" for size, seconds in pairs)
        lines.add_row(GROWTHS[each.name], sizes, f"{each.slope:.2f}", f"{each.last:.2f}")
    return lines
