"""What ranks share: the rows of each step, what they must agree on, and one report of all."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from compare.cases.cases import Case, Network
from compare.errors import BadInput
from compare.proof.bits import WorstElement
from compare.proof.verdict import Proof, Verdict
from compare.ranks.ranks import Ranks, fingerprint, named
from compare.report.chunk import Chunk, furthest, merged
from compare.report.quantity import Quantity
from compare.report.report import Report
from compare.training.adapters import Named
from manual.network import Network as ByHand


def check_shares(ranks: Ranks, case: Case, rows: int) -> None:
    """Raise BadInput where the rows of a step cannot be shared by the ranks."""
    if ranks.count == 1:
        return
    if case.by_hand != "network":
        raise BadInput(
            f"case {case.name} on {ranks.count} ranks: it is a listing that stands as it is; use "
            f"run network --sizes {','.join(map(str, case.network.sizes))}, or --population"
        )
    if case.network.batch_norm:
        raise BadInput(
            f"batch_norm on {ranks.count} ranks: each would have statistics of its own rows; "
            "run it on one, or with --population"
        )
    if rows % ranks.count:
        raise BadInput(
            f"{rows} rows a step on {ranks.count} ranks: give --batch-size a multiple of "
            f"{ranks.count}"
        )


def own_rows(step: Named, ranks: Ranks) -> Named:
    """Return what a step is given, of its rows and of their masks this rank's alone."""
    if ranks.count == 1:
        return step
    return {name: v if name == "t" else ranks.own(v) for name, v in step.items()}


def sums(network: Network) -> dict[str, str]:
    """Return the names of the updates, each a sum over the ranks, with that of what they add."""
    weights = ByHand(**network.arguments()).weights
    return {f"{name}_update": f"{name}_part" for name in weights}


def agree(
    ranks: Ranks, report: Report, names: Sequence[str], after: Sequence[Named]
) -> tuple[int, bool]:
    """Return how many of the steps all ranks have, and whether they leave all the same state.

    Where a rank's bits are others, its row says so, and no step after that one counts.
    """
    mine = {name: fingerprint([step[name] for step in after]) for name in names}
    told = ranks.gather((len(after), mine))
    count = min(steps for steps, _ in told)
    for k in range(count):
        odd = False
        for name in names:
            numbers = [found[name][k] for _, found in told]
            common = Counter(numbers).most_common(1)[0][0]
            others = [rank for rank, number in enumerate(numbers) if number != common]
            if others:
                odd, step = True, report.steps + k
                who = named(others)
                row = report.quantities[name]
                row.problem = f"from step {step} on {who} by hand has other bits than rank "
                row.problem += str(numbers.index(common))
                row.first_unequal = step
        if odd:
            return k + 1, False
    return count, True


def merged_chunks(ranks: Ranks, chunk: Chunk | None, regular: bool) -> tuple[bool, Chunk | None]:
    """Return whether all ranks can go on, and the chunk of all of them, if all have the same steps.

    Its values are this rank's own.
    """
    light = None if chunk is None else replace(chunk, values={})
    told = ranks.gather((light, regular))
    parts = [part for part, _ in told if part is not None]
    go_on = all(fine for _, fine in told)
    if chunk is None or len(parts) < len(told) or len({part.steps for part in parts}) > 1:
        return False, None
    return go_on, replace(merged(parts), values=chunk.values)


def merged_reports(reports: Sequence[Report], *, shared: bool) -> Report:
    """Return one report of all ranks', which `shared` the rows of one network or had some each."""
    first = reports[0]
    names = list(dict.fromkeys(name for report in reports for name in report.quantities))
    rows = {
        name: {r: rep.quantities[name] for r, rep in enumerate(reports) if name in rep.quantities}
        for name in names
    }
    gaps: list[Any] = [report.free_gap for report in reports]
    asked = [report for report in reports if report.accuracy is not None]
    counts = [report.confusion for report in reports if report.confusion is not None]
    return replace(
        first,
        steps=min(report.steps for report in reports),
        quantities={name: _row(of, shared) for name, of in rows.items()},
        follows=next((report.follows for report in reports if report.follows), {}),
        free_gap=None if None in gaps else furthest(gaps),
        accuracy=_mean(asked),
        output=[row for report in reports for row in report.output] if shared else first.output,
        confusion=torch.tensor(counts).sum(0).tolist() if counts else None,
        seconds=max(report.seconds for report in reports),
        interrupted=any(report.interrupted for report in reports),
    )


def _row(of: dict[int, Quantity], shared: bool) -> Quantity:
    """Return one row of what each rank found."""
    rows = list(of.values())
    seen = [row.first_unequal for row in rows if row.first_unequal is not None]
    problems = {rank: row.problem for rank, row in of.items() if row.problem}
    problem = next(iter(problems.values()), None)
    if problem and len(problems) < len(of):
        problem = f"rank {next(iter(problems))}: {problem}"
    worst = {rank: row.worst for rank, row in of.items() if row.worst}
    places = [replace(place, rank=rank if shared else None) for rank, place in worst.items()]

    def earliest(
        place: WorstElement,
    ) -> tuple[float, ...]:  # the first NaN, else the furthest apart
        return not place.nan, -place.ulp, place.step or 0, place.seed or 0

    def gravest(proof: Proof) -> tuple[Verdict, float, float]:  # the earliest, then by its bound
        return proof.verdict, -(proof.step or 0), proof.share or 0.0

    return replace(
        rows[0],
        compared=sum(row.compared for row in rows),
        equal=sum(row.equal for row in rows),
        nans=sum(row.nans for row in rows),
        max_ulp=max(row.max_ulp for row in rows),
        worst=min(places, key=earliest, default=None),
        first_unequal=min(seen, default=None),
        problem=problem,
        proof=max((row.proof for row in rows if row.proof), key=gravest, default=None),
    )


def _mean(reports: Sequence[Report]) -> float | None:
    """Return the accuracy over all ranks' networks, each of which is asked the same rows."""
    if not reports:
        return None
    weights = [sum(map(sum, report.confusion)) if report.confusion else 1 for report in reports]
    right = sum(w * (r.accuracy or 0.0) for w, r in zip(weights, reports, strict=True))
    return right / sum(weights)
