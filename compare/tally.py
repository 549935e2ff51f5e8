"""Adds up, chunk by chunk, what the comparison of each named quantity found."""

import torch
from torch import Tensor

from compare.bits import Difference
from compare.report import Place, Quantity, Report

Named = dict[str, Tensor]


class Tally:
    """The rows of a report while its run goes on."""

    def __init__(self, report: Report, seed: int) -> None:
        self.report = report
        self.seed = seed  # of the first network; the next ones have seed + 1, seed + 2, ...

    def open(self, manual: Named, autograd: Named) -> bool:
        """Make a row for every name of either side; return whether all can be compared.

        A name that one side lacks, another shape, dtype or device is the row's `problem`.
        Nothing is broadcast or converted.
        """
        for name in dict.fromkeys([*autograd, *manual]):
            one, other = manual.get(name), autograd.get(name)
            if one is None and name in self.report.unnamed:
                continue
            some = one if one is not None else autograd[name]
            row = Quantity(name, tuple(some.shape[1:]), str(some.dtype).removeprefix("torch."))
            if one is None or other is None:
                row.problem = f"missing {'by hand' if one is None else 'on the autograd side'}"
            else:
                row.problem = _mismatch(one, other)
            self.report.quantities[name] = row
        return all(row.problem is None for row in self.report.quantities.values())

    def add(self, name: str, start: int, found: Difference) -> None:
        """Add what was found for (steps, networks, ...) values from step `start` on."""
        row = self.report.quantities[name]
        row.compared += found.total
        row.equal += found.equal
        if found.worst is None:
            return
        if row.first_unequal is None:
            row.first_unequal = start + found.first
        if row.worst is None or found.worst.outranks(row.max_ulp, nan=row.nans > 0):
            step, network, *index = found.worst.index
            row.worst = Place(
                start + step, self.seed + network, tuple(index),
                found.worst.manual, found.worst.autograd,
            )  # fmt: skip
        row.nans += found.nans
        row.max_ulp = max(row.max_ulp, found.max_ulp)

    @property
    def unequal(self) -> int:
        """Elements so far that differ."""
        return sum(row.compared - row.equal for row in self.report.quantities.values())

    @property
    def max_ulp(self) -> int:
        """The largest distance so far."""
        return max((row.max_ulp for row in self.report.quantities.values()), default=0)


def _mismatch(manual: Tensor, autograd: Tensor) -> str | None:
    """Return how two tensors differ before any value is looked at."""
    for what in ("shape", "dtype", "device"):
        one, other = getattr(manual, what), getattr(autograd, what)
        if one != other:
            if isinstance(one, torch.Size):
                one, other = tuple(one), tuple(other)
            return f"{what} {one} by hand, {other} on the autograd side"
    return None
