"""Share the rows of each step among ranks, compare their weights, and merge their reports."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from compare.cases.cases import Case, Network
from compare.errors import BadInput
from compare.proof.bits import WorstElement
from compare.proof.verdict import Proof, Verdict
from compare.ranks.ranks import Ranks, checksums, rank_names
from compare.report.chunk import Chunk, furthest, merged
from compare.report.quantity import Quantity
from compare.report.report import Report
from compare.training.adapters import Named
from manual.network import Network as ByHand


def check_shares(ranks: Ranks, case: Case, rows: int) -> None:
    """Check that the ranks can share the rows of a step.

    Args:
        ranks: the ranks that are to share them.
        case: the case of the run.
        rows: rows of a step.

    Raises:
        BadInput: for a fixed listing, for batch norm, or if the ranks do not divide the rows.
    """
    if ranks.count == 1:
        return
    if case.by_hand != "network":
        raise BadInput(
            f"case {case.name} on {ranks.count} ranks: a fixed listing cannot share rows; use "
            f"run network --sizes {','.join(map(str, case.network.sizes))}, or --population"
        )
    if case.network.batch_norm:
        raise BadInput(
            f"batch_norm on {ranks.count} ranks: each rank would have the statistics of its own "
            "rows only; use one process, or --population"
        )
    if rows % ranks.count:
        raise BadInput(
            f"{rows} rows per step on {ranks.count} ranks: give a --batch-size that is a multiple "
            f"of {ranks.count}"
        )


def rank_inputs(step: Named, ranks: Ranks) -> Named:
    """Return the inputs of a step with only this rank's rows, and masks of these."""
    if ranks.count == 1:
        return step
    return {name: v if name == "t" else ranks.own_rows(v) for name, v in step.items()}


def summed_updates(network: Network) -> dict[str, str]:
    """Return {update: part}: the names of the updates, and of the rank's parts that they sum."""
    weights = ByHand(**network.arguments()).weights
    return {f"{name}_update": f"{name}_part" for name in weights}


def agree(
    ranks: Ranks, report: Report, names: Sequence[str], after: Sequence[Named]
) -> tuple[int, bool]:
    """Compare the state of all ranks after each step of a chunk. Every rank has to call it.

    Where the bits of a rank differ from those of most ranks, the row of the weight says so.

    Args:
        ranks: the ranks that share the rows of each step.
        report: its `quantities` get the problem.
        names: names of the state.
        after: by-hand values of each step.

    Returns:
        The number of steps that all ranks can compare, and whether their states agree.
    """
    checksums_of = {name: checksums([step[name] for step in after]) for name in names}
    gathered = ranks.gather((len(after), checksums_of))
    count = min(steps for steps, _ in gathered)
    for k in range(count):
        agreed = True
        for name in names:
            sums = [by_name[name][k] for _, by_name in gathered]
            common = Counter(sums).most_common(1)[0][0]
            others = [rank for rank, checksum in enumerate(sums) if checksum != common]
            if others:
                agreed, step = False, report.steps + k
                row = report.quantities[name]
                row.problem = (
                    f"from step {step} on: by hand the bits of {rank_names(others)} differ from "
                    f"those of rank {sums.index(common)}"
                )
                row.first_unequal = step
        if not agreed:
            return k + 1, False
    return count, True


def merged_chunks(ranks: Ranks, chunk: Chunk | None, regular: bool) -> tuple[bool, Chunk | None]:
    """Merge the chunks of all ranks. Every rank has to call it.

    Args:
        ranks: all ranks of the run.
        chunk: this rank's chunk, None if it could not compare its steps.
        regular: whether this rank can take further steps.

    Returns:
        Whether all ranks can take further steps; and the merged chunk with this rank's values,
        None unless all ranks have a chunk of the same steps.
    """
    without_values = None if chunk is None else replace(chunk, values={})
    gathered = ranks.gather((without_values, regular))
    chunks = [one for one, _ in gathered if one is not None]
    all_regular = all(is_regular for _, is_regular in gathered)
    if chunk is None or len(chunks) < len(gathered) or len({one.steps for one in chunks}) > 1:
        return False, None
    return all_regular, replace(merged(chunks), values=chunk.values)


def merged_reports(reports: Sequence[Report], *, shared: bool) -> Report:
    """Return one report from the reports of all ranks.

    Args:
        reports: the report of each rank, in their order.
        shared: whether the ranks shared the rows of one network; otherwise each rank had some of
            the networks.
    """
    first = reports[0]
    names = list(dict.fromkeys(name for report in reports for name in report.quantities))
    rows = {
        name: {r: rep.quantities[name] for r, rep in enumerate(reports) if name in rep.quantities}
        for name in names
    }
    gaps: list[Any] = [report.free_gap for report in reports]
    evaluated = [report for report in reports if report.accuracy is not None]
    counts = [report.confusion for report in reports if report.confusion is not None]
    return replace(
        first,
        steps=min(report.steps for report in reports),
        quantities={name: _merged_row(by_rank, shared) for name, by_rank in rows.items()},
        follows=next((report.follows for report in reports if report.follows), {}),
        free_gap=None if None in gaps else furthest(gaps),
        accuracy=_mean_accuracy(evaluated),
        output=[row for report in reports for row in report.output] if shared else first.output,
        confusion=torch.tensor(counts).sum(0).tolist() if counts else None,
        seconds=max(report.seconds for report in reports),
        interrupted=any(report.interrupted for report in reports),
    )


def _merged_row(by_rank: dict[int, Quantity], shared: bool) -> Quantity:
    """Return one row from the rows of the ranks."""
    rows = list(by_rank.values())
    first_steps = [row.first_unequal for row in rows if row.first_unequal is not None]
    problems = {rank: row.problem for rank, row in by_rank.items() if row.problem}
    problem = next(iter(problems.values()), None)
    if problem and len(problems) < len(by_rank):
        problem = f"rank {next(iter(problems))}: {problem}"
    worst = {rank: row.worst for rank, row in by_rank.items() if row.worst}
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
        first_unequal=min(first_steps, default=None),
        problem=problem,
        proof=max((row.proof for row in rows if row.proof), key=gravest, default=None),
    )


def _mean_accuracy(reports: Sequence[Report]) -> float | None:
    """Return the mean accuracy over the networks of all ranks, on the same test rows."""
    if not reports:
        return None
    weights = [sum(map(sum, report.confusion)) if report.confusion else 1 for report in reports]
    right = sum(w * (r.accuracy or 0.0) for w, r in zip(weights, reports, strict=True))
    return right / sum(weights)
