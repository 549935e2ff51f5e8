"""What every peer is given: a case with its batches and first weights, drawn once."""

from dataclasses import dataclass

import numpy as np
import torch

from compare.cases.cases import Case, Network
from compare.cases.data import Table
from compare.training.adapters import Named
from compare.training.sampling import draw


@dataclass(frozen=True)
class Problem:
    """A case with its batches and first weights; no leading dimension for a single network."""

    case: Case
    batches: list[Named]
    state: Named


def problem(case: Case, dtype: torch.dtype, *, population: int | None = None) -> Problem:
    """Draw a problem; a population has a leading dimension."""
    given = draw(case, seed=1, population=population or 1, dtype=dtype, device=torch.device("cpu"))
    batches = given.steps(8 if case.batch_size else 1)
    if population is None:
        batches = [{n: v[0] for n, v in batch.items()} for batch in batches]
        return Problem(case, batches, {n: v[0] for n, v in given.state.items()})
    return Problem(case, batches, given.state)


def random_case(sizes: tuple[int, ...], rows: int) -> Case:
    """Return a network of the blog's kind on rows of chance, one class for each."""

    def data(seed: int) -> Table:
        chance = np.random.RandomState(seed)
        X = chance.standard_normal((rows, sizes[0]))
        y = np.eye(sizes[-1])[chance.randint(sizes[-1], size=rows)]
        return Table(X, y, X[:1], y[:1], tuple(map(str, range(sizes[-1]))))

    # steps so short that no unit comes to its end: numbers below the normal ones would be slow
    network = Network(sizes=sizes, alpha=1e-4)
    name = "-".join(map(str, sizes))
    return Case(name, "", network, data=data, init="glorot")
