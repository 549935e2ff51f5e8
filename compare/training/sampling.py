"""What both sides are given: the data and the first weights, drawn once, as tensors.

Chance is data: the weights are drawn here, as the blog draws them, and nowhere else.
"""

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Any, Literal

import numpy as np
import torch
from msgspec import Meta
from torch import Tensor

from compare.cases.cases import Case, Network, Rows
from compare.environment import short
from compare.errors import BadInput, unknown, whole_number
from compare.state_dict import Count, Stateful, Types, require

SEEDS = 2**32  # numpy's range
#: The state of numpy's generator: its 624 words of 32 bits, in hex, where it is in them, and a
#: normal number in hand.
Stream = tuple[
    Literal["MT19937"], Annotated[str, Meta(pattern=r"\A([0-9a-f]{8}){624}\Z")],
    Annotated[int, Meta(ge=0, le=624)], Annotated[int, Meta(ge=0, le=1)], float,
]  # fmt: skip


@dataclass(kw_only=True)
class Sampler(Stateful):
    """X (P, rows, I), y (P, rows, O), and the first weights and whatever else a step hands on.

    `state` has syn<n> (P, sizes[n], sizes[n+1]) and, where the network has them, bias<n>, gamma<n>,
    beta<n>, mean<n>, var<n> (P, 1, size) and each weight's moments, shaped as it is.
    """

    STATE = Types(taken=Count, order=Tensor | None, streams=list[Stream])

    X: Tensor
    y: Tensor
    X_test: Tensor | None = None  # (P, rows, I): kept back, to be asked at the end
    y_test: Tensor | None = None
    state: dict[str, Tensor]
    case: Case
    classes: tuple[str, ...]  # the names of y's columns, where they are classes
    rngs: list[np.random.RandomState]  # each network's, after its weights
    taken: int = 0  # steps so far
    order: Tensor | None = None  # of the rows in this epoch, each network's, (P, rows)

    @property
    def rows(self) -> int:
        """How many rows a step takes."""
        return self.case.batch_size or self.X.shape[-2]

    @property
    def streams(self) -> list[Stream]:
        """The state of each network's random numbers."""
        states: list[Any] = [rng.get_state(legacy=True) for rng in self.rngs]
        return [(kind, words.tobytes().hex(), *rest) for kind, words, *rest in states]

    @streams.setter
    def streams(self, found: list[Stream]) -> None:
        for rng, (kind, words, at, has_normal, normal) in zip(self.rngs, found, strict=True):
            key = np.frombuffer(bytes.fromhex(words), np.uint32)
            rng.set_state((kind, key, at, has_normal, normal))

    def check_state(self, found: Any) -> None:
        """Raise ValueError for other streams than there are, or an order of other rows."""
        require(len(found.streams) == len(self.rngs), "streams", "another number of them")
        drawn = self.case.batch_size is not None and found.taken > 0
        require((found.order is None) != drawn, "order", "of rows that are not drawn")
        if found.order is not None:
            rows = torch.arange(self.X.shape[-2]).expand(len(self.rngs), -1)
            fits = found.order.shape == rows.shape and found.order.dtype == rows.dtype
            in_order = fits and torch.equal(found.order.sort(1).values, rows)
            require(in_order, "order", "no order of the rows")

    def steps(self, count: int) -> list[dict[str, Tensor]]:
        """Return what each of the next steps is given besides the state: X, y, masks, t."""
        return [self._next() for _ in range(count)]

    def _next(self) -> dict[str, Tensor]:
        data = self._batch() | self._masks()
        self.taken += 1
        if self.case.network.optimizer != "sgd":
            data["t"] = torch.full((len(self.rngs), 1, 1), self.taken)
        return data

    def _batch(self) -> dict[str, Tensor]:
        """Return the next rows; every epoch has an order of its own, what is left over is left."""
        if self.case.batch_size is None:
            return {"X": self.X, "y": self.y}
        rows = self.X.shape[-2]
        place = self.taken % (rows // self.rows)
        if place == 0:
            orders = [rng.permutation(rows) for rng in self.rngs]
            self.order = torch.from_numpy(np.stack(orders))
        assert self.order is not None
        chosen = self.order[:, place * self.rows : (place + 1) * self.rows]
        index = chosen[..., None].to(self.X.device)
        return {name: v.take_along_dim(index, -2) for name, v in (("X", self.X), ("y", self.y))}

    def _masks(self) -> dict[str, Tensor]:
        """Return a mask<n> (P, rows, sizes[n]) of 0 and 1 for each hidden layer with dropout."""
        network = self.case.network
        if not network.dropout:
            return {}
        masks: dict[str, Tensor] = {}
        for n in network.hidden:
            shape = self.rows, network.sizes[n]
            drawn = [rng.binomial(1, 1 - network.dropout, shape) for rng in self.rngs]
            masks[f"mask{n}"] = torch.from_numpy(np.stack(drawn)).to(self.X)
        return masks


def draw(
    case: Case, *, seed: int, population: int, dtype: torch.dtype, device: torch.device,
    mine: range | None = None,
) -> Sampler:  # fmt: skip
    """Draw what a population of networks with the seeds seed, seed + 1, ... is given.

    Of the population only `mine` are drawn, all where that is None.

    Raises BadInput for a seed, a population, sizes or values that cannot be used.
    """
    population, seed = whole_number("population", population), whole_number("seed", seed)
    if population < 1:
        raise BadInput(f"population {population}: a run needs at least 1 network")
    if not 0 <= seed <= SEEDS - population:
        last = "" if population == 1 else f" (the last network's is seed + {population - 1})"
        raise BadInput(f"seed {seed}: numpy takes 0 to {SEEDS - 1}{last}")
    network = case.network
    network.check()
    _check_numbers(network, dtype)
    arrays, classes = _arrays(case, seed)
    _check_rows(case, arrays)

    mine = range(population) if mine is None else mine
    _check_memory(network.sizes, case.batch_size or len(arrays["X"]), len(mine), dtype)
    rngs = [np.random.RandomState(seed + p) for p in mine]
    draws = [first_weights(network.sizes, case.init, rng) for rng in rngs]
    weights = {name: np.stack([draw[name] for draw in draws]) for name in draws[0]}
    tensors = {
        name: torch.tensor(array, dtype=dtype, device=device)
        for name, array in {**arrays, **weights}.items()
    }
    for name, tensor in tensors.items():
        _check_finite(name, tensor)
    rows: Any = {n: tensors[n].expand(len(mine), -1, -1).contiguous() for n in arrays}
    state = _first_state(network, {name: tensors[name] for name in weights})
    return Sampler(**rows, state=state, case=case, classes=classes, rngs=rngs)


def _check_numbers(network: Network, dtype: torch.dtype) -> None:
    """Raise BadInput for a number of the description that the dtype turns into 0 or infinity."""
    info = torch.finfo(dtype)
    for name, value in network.arguments().items():
        if not isinstance(value, float) or not value:
            continue
        held = float(torch.tensor(value, dtype=dtype))
        if math.isinf(held):
            raise BadInput(
                f"{name} {value}: {short(dtype)} holds numbers up to {info.max:.2g}, give less"
            )
        counts = network.optimizer != "sgd" if name == "adam_eps" else name in network.non_default()
        if not held and counts:
            least = info.smallest_normal
            raise BadInput(f"{name} {value} is 0 in {short(dtype)}: give {least:.2g} or more")


def first_weights(
    sizes: tuple[int, ...], init: str, rng: np.random.RandomState
) -> dict[str, np.ndarray]:
    """Draw syn0, syn1, ... from numpy's legacy stream.

    blog: uniform in [-1, 1), as the blog draws them. glorot: uniform with the variance
    2 / (inputs + outputs) (Glorot and Bengio, 2010). he: normal with the variance 2 / inputs (He et
    al., 2015). Raises BadInput for another name.
    """
    draws: dict[str, Callable[[tuple[int, ...]], np.ndarray]] = {
        "blog": lambda shape: np.asarray(2 * rng.random_sample(shape) - 1),
        "glorot": lambda shape: (2 * rng.random_sample(shape) - 1) * math.sqrt(6 / sum(shape)),
        "he": lambda shape: np.asarray(rng.standard_normal(shape) * math.sqrt(2 / shape[0])),
    }
    if init not in draws:
        raise unknown("init", init, draws)
    return {f"syn{n}": draws[init](shape) for n, shape in enumerate(pairwise(sizes))}


def _first_state(network: Network, syn: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights in the order of the layers, and everything else where it starts."""
    learned: dict[str, Tensor] = {}
    kept: dict[str, Tensor] = {}
    for n, weight in enumerate(syn.values()):
        normed = network.batch_norm and n + 1 in network.hidden
        learned[f"syn{n}"] = weight
        side = weight.new_zeros(len(weight), 1, weight.shape[-1])
        if network.bias and not normed:
            learned[f"bias{n}"] = side
        if normed:
            learned |= {f"gamma{n + 1}": side + 1, f"beta{n + 1}": side}
            kept |= {f"mean{n + 1}": side, f"var{n + 1}": side + 1}
    for name, weight in learned.items():
        kept |= {f"{name}_{moment}": torch.zeros_like(weight) for moment in network.moments}
    return learned | kept


def _arrays(case: Case, seed: int) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Return X and y, and with data of its own also X_test and y_test, and its classes."""
    if case.data is None:
        return {"X": _table("X", case.X), "y": _table("y", case.y)}, ()
    table = case.data(seed)
    arrays = {"X": table.X, "y": table.y, "X_test": table.X_test, "y_test": table.y_test}
    return arrays, table.classes


def _check_rows(case: Case, arrays: dict[str, np.ndarray]) -> None:
    """Raise BadInput for rows that do not suit the network."""
    network, X, y = case.network, arrays["X"], arrays["y"]
    for what, table, layer in (("X", X, network.sizes[0]), ("y", y, network.sizes[-1])):
        if table.shape[1] != layer:
            fitting = (X.shape[1], *network.sizes[1:-1], y.shape[1])
            raise BadInput(
                f"sizes {network.sizes}: {what} has {table.shape[1]} columns and its layer has "
                f"{layer}; {','.join(map(str, fitting))} would fit"
            )
    if len(X) != len(y):
        raise BadInput(f"X has {len(X)} rows and y has {len(y)}: give one y for each X")
    rows = len(X) if case.batch_size is None else case.batch_size
    if not 1 <= rows <= len(X):
        raise BadInput(f"batch_size {rows}: there are {len(X)} rows, give 1 to {len(X)}")
    if network.batch_norm and rows < 2:
        raise BadInput(f"batch_norm with {rows} row a step: it needs 2 rows or more")
    if network.loss == "cross_entropy" and not (np.sort(y, 1) == np.eye(y.shape[1])[-1]).all():
        raise BadInput("loss cross_entropy: each row of y must be one 1 and zeros")
    if network.loss == "binary_cross_entropy_with_logits" and not ((y >= 0) & (y <= 1)).all():
        raise BadInput("loss binary_cross_entropy_with_logits: give y from 0 to 1")


def _table(name: str, rows: Rows) -> np.ndarray:
    """Return `rows` as a (B, columns) array; raises BadInput if they are not all of one length."""
    lengths = sorted({len(row) for row in rows})
    if len(lengths) != 1 or lengths[0] == 0:
        raise BadInput(f"{name} has rows of {lengths} values: give rows of one length, at least 1")
    return np.array(rows, dtype=np.float64)


def _check_memory(sizes: tuple[int, ...], rows: int, population: int, dtype: torch.dtype) -> None:
    """Raise BadInput for a population that one step of would not fit into this machine's memory."""
    values = population * sum(rows * i + 3 * i * o for i, o in pairwise(sizes))
    needed = 12 * values * dtype.itemsize  # both sides, what each keeps, and a comparison
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > memory:
        raise BadInput(
            f"population {population}, sizes {sizes}: one step needs about "
            f"{needed / 2**30:,.0f} GiB and this machine has {memory / 2**30:,.0f}; give less"
        )


def _check_finite(name: str, tensor: Tensor) -> None:
    """Raise BadInput at the first NaN or infinity in `tensor`, with its place."""
    if (bad := (~tensor.isfinite()).nonzero()).numel():
        place = tuple(bad[0].tolist())
        value = tensor[place].item()
        raise BadInput(
            f"{name}{list(place)} is {value} in {short(tensor.dtype)}: "
            "give finite numbers that the dtype can hold"
        )
