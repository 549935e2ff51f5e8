"""What both sides are given: the data and the first weights, drawn once, as tensors.

Chance is data: the weights are drawn here, as the blog draws them, and nowhere else.
"""

import os
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from compare.cases import Case, Network, Rows
from compare.errors import BadInput, unknown

DTYPES = {
    "float64": torch.float64,
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}
SEEDS = 2**32  # numpy's range


@dataclass
class Given:
    """X (P, B, I), y (P, B, O) and the first weights syn<n> (P, sizes[n], sizes[n+1]).

    Where the case has dropout, also a mask<n> (P, B, sizes[n]) of 0 and 1 for each step.
    """

    X: Tensor
    y: Tensor
    weights: dict[str, Tensor]
    network: Network
    chances: list[np.random.RandomState]  # each network's, after its weights

    def steps(self, count: int) -> list[dict[str, Tensor]]:
        """Return what each of the next steps is given besides X, y and the weights."""
        if not self.network.dropout:
            return [{}] * count
        return [self._masks() for _ in range(count)]

    def _masks(self) -> dict[str, Tensor]:
        rows, hidden = self.X.shape[-2], self.network.sizes[1:-1]
        keep = 1 - self.network.dropout
        masks = {
            f"mask{n}": np.stack([c.binomial(1, keep, (rows, size)) for c in self.chances])
            for n, size in enumerate(hidden, start=1)
        }
        return {name: torch.from_numpy(mask).to(self.X) for name, mask in masks.items()}


def dtype_named(name: str) -> torch.dtype:
    """Return the dtype called `name`; raises BadInput with the nearest names."""
    if name not in DTYPES:
        raise unknown("dtype", name, DTYPES)
    return DTYPES[name]


def device_named(name: str) -> torch.device:
    """Return the device called `name` (cpu, cuda, cuda:N); raises BadInput if it is not here."""
    kind, _, index = name.partition(":")
    if kind not in ("cpu", "cuda") or (":" in name and not (kind == "cuda" and index.isdecimal())):
        raise BadInput(f"unknown device {name!r}: choose cpu, cuda or cuda:N")
    if kind == "cuda":
        found = torch.cuda.device_count()
        if not torch.cuda.is_available() or found == 0:
            raise BadInput(f"device {name!r}: torch sees no CUDA device here, use --device cpu")
        if int(index or 0) >= found:
            raise BadInput(
                f"device {name!r}: there are {found} here, use cuda:0 to cuda:{found - 1}"
            )
    return torch.device(name)


def draw(
    case: Case, *, seed: int, population: int, dtype: torch.dtype, device: torch.device
) -> Given:
    """Draw what a population of networks with the seeds seed, seed + 1, ... is given.

    Raises BadInput for a seed, a population, sizes or values that cannot be used.
    """
    if population < 1:
        raise BadInput(f"population {population}: a run needs at least 1 network")
    if not 0 <= seed <= SEEDS - population:
        last = "" if population == 1 else f" (the last network's is seed + {population - 1})"
        raise BadInput(f"seed {seed}: numpy takes 0 to {SEEDS - 1}{last}")
    sizes, alpha = case.network.sizes, case.network.alpha
    if not 0 < alpha <= torch.finfo(dtype).max:
        raise BadInput(f"alpha {alpha}: give a positive number that {_short(dtype)} can hold")
    if not 0 <= case.network.dropout < 1:
        raise BadInput(f"dropout {case.network.dropout}: give a share from 0 to below 1")
    if len(sizes) < 2 or min(sizes) < 1:
        raise BadInput(f"sizes {sizes}: give at least two layers, each of at least 1")
    X, y = _table("X", case.X), _table("y", case.y)
    for what, table, layer in (("X", X, sizes[0]), ("y", y, sizes[-1])):
        if table.shape[1] != layer:
            raise BadInput(
                f"sizes {sizes}: {what} has {table.shape[1]} columns and its layer has {layer}"
            )
    if len(X) != len(y):
        raise BadInput(f"X has {len(X)} rows and y has {len(y)}: give one y for each X")

    _check_memory(sizes, len(X), population, dtype)
    chances = [np.random.RandomState(seed + p) for p in range(population)]
    draws = [_blog_weights(sizes, chance) for chance in chances]
    weights = {name: np.stack([draw[name] for draw in draws]) for name in draws[0]}
    tensors = {
        name: torch.tensor(array, dtype=dtype, device=device)
        for name, array in {"X": X, "y": y, **weights}.items()
    }
    for name, tensor in tensors.items():
        _check_finite(name, tensor)
    return Given(
        X=tensors.pop("X").expand(population, -1, -1).contiguous(),
        y=tensors.pop("y").expand(population, -1, -1).contiguous(),
        weights=tensors,
        network=case.network,
        chances=chances,
    )


def _blog_weights(sizes: tuple[int, ...], chance: np.random.RandomState) -> dict[str, np.ndarray]:
    """Draw uniform weights in [-1, 1), syn0 first, from numpy's legacy stream as the blog does."""
    shapes = enumerate(pairwise(sizes))
    return {f"syn{n}": 2 * chance.random_sample(shape) - 1 for n, shape in shapes}


def _table(name: str, rows: Rows) -> np.ndarray:
    """Return `rows` as a (B, columns) array; raises BadInput if they are not all of one length."""
    lengths = sorted({len(row) for row in rows})
    if len(lengths) != 1 or lengths[0] == 0:
        raise BadInput(f"{name} has rows of {lengths} values: give rows of one length, at least 1")
    return np.array(rows, dtype=np.float64)


def _check_memory(sizes: tuple[int, ...], rows: int, population: int, dtype: torch.dtype) -> None:
    """Raise BadInput for a population that one step of would not fit into this machine's memory."""
    values = population * sum(rows * i + 3 * i * o for i, o in pairwise(sizes))
    needed = 8 * values * dtype.itemsize  # both sides, what each keeps, and a comparison
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > memory:
        raise BadInput(
            f"population {population}: one step needs about {needed / 2**30:,.0f} GiB and this "
            f"machine has {memory / 2**30:,.0f}; give a smaller one"
        )


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _check_finite(name: str, tensor: Tensor) -> None:
    """Raise BadInput at the first NaN or infinity in `tensor`, with its place."""
    if (bad := (~tensor.isfinite()).nonzero()).numel():
        place = tuple(bad[0].tolist())
        value = tensor[place].item()
        raise BadInput(
            f"{name}{list(place)} is {value} in {_short(tensor.dtype)}: "
            "give finite numbers that the dtype can hold"
        )
