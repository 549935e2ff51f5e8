"""The inputs of both sides: the data, first weights, mini-batches and masks, sampled once.

All random numbers of a run are drawn here, and both sides receive the same ones.
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
from compare.stateful import Count, Stateful, Types, require

SEEDS = 2**32  # the number of seeds that numpy takes
#: The state of numpy's generator: its 624 words of 32 bits in hex, the position in them, and
#: whether a second normal number is stored, with its value.
Stream = tuple[
    Literal["MT19937"], Annotated[str, Meta(pattern=r"\A([0-9a-f]{8}){624}\Z")],
    Annotated[int, Meta(ge=0, le=624)], Annotated[int, Meta(ge=0, le=1)], float,
]  # fmt: skip


@dataclass(kw_only=True)
class Sampler(Stateful):
    """The data and first state of P networks, and the source of each step's rows and masks.

    Args:
        X: inputs of the training rows, (P, rows, I).
        y: their targets, (P, rows, O).
        X_test: inputs of the test rows, (P, rows, I); None where the case has none.
        y_test: their targets, (P, rows, O).
        state: the state before the first step: syn<n> (P, sizes[n], sizes[n+1]) and, where the
            network has them, bias<n>, gamma<n>, beta<n>, mean<n>, var<n> (P, 1, size), and the
            moments of each weight with its shape.
        case: the case of the run.
        classes: names of the columns of y; empty where they are no classes.
        rngs: random generator of each network, after its weights were drawn.
        taken: number of steps so far.
        order: order of the rows in this epoch for each network, (P, rows).
    """

    STATE = Types(taken=Count, order=Tensor | None, streams=list[Stream])

    X: Tensor
    y: Tensor
    X_test: Tensor | None = None
    y_test: Tensor | None = None
    state: dict[str, Tensor]
    case: Case
    classes: tuple[str, ...]
    rngs: list[np.random.RandomState]
    taken: int = 0
    order: Tensor | None = None

    @property
    def rows(self) -> int:
        """The number of rows of a step."""
        return self.case.batch_size or self.X.shape[-2]

    @property
    def streams(self) -> list[Stream]:
        """The state of each network's random generator."""
        states: list[Any] = [rng.get_state(legacy=True) for rng in self.rngs]
        return [(kind, words.tobytes().hex(), *rest) for kind, words, *rest in states]

    @streams.setter
    def streams(self, streams: list[Stream]) -> None:
        for rng, (kind, words, position, has_normal, normal) in zip(
            self.rngs, streams, strict=True
        ):
            key = np.frombuffer(bytes.fromhex(words), np.uint32)
            rng.set_state((kind, key, position, has_normal, normal))

    def check_state(self, state: Any) -> None:
        """Raise ValueError for a wrong number of streams, or an order of other rows."""
        require(len(state.streams) == len(self.rngs), "streams", "a wrong number of streams")
        has_order = self.case.batch_size is not None and state.taken > 0
        require((state.order is None) != has_order, "order", "an order without mini-batches")
        if state.order is not None:
            rows = torch.arange(self.X.shape[-2]).expand(len(self.rngs), -1)
            fits = state.order.shape == rows.shape and state.order.dtype == rows.dtype
            is_permutation = fits and torch.equal(state.order.sort(1).values, rows)
            require(is_permutation, "order", "not a permutation of the rows")

    def steps(self, count: int) -> list[dict[str, Tensor]]:
        """Return the inputs of the next steps, but for the state.

        Returns:
            For each step X (P, rows, I), y (P, rows, O); with dropout mask<n> (P, rows, sizes[n]);
            with adam or adamw the step number t (P, 1, 1), from 1.
        """
        return [self._next() for _ in range(count)]

    def _next(self) -> dict[str, Tensor]:
        data = self._batch() | self._masks()
        self.taken += 1
        if self.case.network.optimizer != "sgd":
            data["t"] = torch.full((len(self.rngs), 1, 1), self.taken)
        return data

    def _batch(self) -> dict[str, Tensor]:
        """Return the next mini-batch. Each epoch has a new order, and drops an incomplete batch."""
        if self.case.batch_size is None:
            return {"X": self.X, "y": self.y}
        rows = self.X.shape[-2]
        batch = self.taken % (rows // self.rows)
        if batch == 0:
            orders = [rng.permutation(rows) for rng in self.rngs]
            self.order = torch.from_numpy(np.stack(orders))
        assert self.order is not None
        chosen = self.order[:, batch * self.rows : (batch + 1) * self.rows]
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
            samples = [rng.binomial(1, 1 - network.dropout, shape) for rng in self.rngs]
            masks[f"mask{n}"] = torch.from_numpy(np.stack(samples)).to(self.X)
        return masks


def draw(
    case: Case, *, seed: int, population: int, dtype: torch.dtype, device: torch.device,
    networks: range | None = None,
) -> Sampler:  # fmt: skip
    """Draw the data and first weights of a population of networks.

    Args:
        case: the case of the run.
        seed: seed of the first network; the next ones have seed + 1, seed + 2, ...
        population: number of networks.
        dtype: dtype of all tensors.
        device: device of all tensors.
        networks: the networks of the population to draw; None draws all.

    Raises:
        BadInput: for a seed, a population, sizes or values that cannot be used.
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

    networks = range(population) if networks is None else networks
    _check_memory(network.sizes, case.batch_size or len(arrays["X"]), len(networks), dtype)
    rngs = [np.random.RandomState(seed + p) for p in networks]
    samples = [first_weights(network.sizes, case.init, rng) for rng in rngs]
    weights = {name: np.stack([sample[name] for sample in samples]) for name in samples[0]}
    tensors = {
        name: torch.tensor(array, dtype=dtype, device=device)
        for name, array in {**arrays, **weights}.items()
    }
    for name, tensor in tensors.items():
        _check_finite(name, tensor)
    rows: Any = {n: tensors[n].expand(len(networks), -1, -1).contiguous() for n in arrays}
    state = _first_state(network, {name: tensors[name] for name in weights})
    return Sampler(**rows, state=state, case=case, classes=classes, rngs=rngs)


def _check_numbers(network: Network, dtype: torch.dtype) -> None:
    """Raise BadInput for a field of the network that the dtype rounds to 0 or infinity."""
    info = torch.finfo(dtype)
    for name, value in network.arguments().items():
        if not isinstance(value, float) or not value:
            continue
        rounded = float(torch.tensor(value, dtype=dtype))
        if math.isinf(rounded):
            raise BadInput(
                f"{name} {value}: {short(dtype)} holds numbers up to {info.max:.2g}; give a "
                "smaller one"
            )
        used = network.optimizer != "sgd" if name == "adam_eps" else name in network.non_default()
        if not rounded and used:
            least = info.smallest_normal
            raise BadInput(f"{name} {value} is 0 in {short(dtype)}: give {least:.2g} or more")


def first_weights(
    sizes: tuple[int, ...], init: str, rng: np.random.RandomState
) -> dict[str, np.ndarray]:
    """Draw syn0, syn1, ... from numpy's legacy stream, as float64 arrays (inputs, outputs).

    Args:
        sizes: number of values in each layer.
        init: "blog", uniform in [-1, 1), as in the blog; "glorot", uniform with variance
            2 / (inputs + outputs) (Glorot and Bengio, 2010); or "he", normal with variance
            2 / inputs (He et al., 2015).
        rng: the generator to draw from.

    Raises:
        BadInput: for another `init`.
    """
    samplers: dict[str, Callable[[tuple[int, ...]], np.ndarray]] = {
        "blog": lambda shape: np.asarray(2 * rng.random_sample(shape) - 1),
        "glorot": lambda shape: (2 * rng.random_sample(shape) - 1) * math.sqrt(6 / sum(shape)),
        "he": lambda shape: np.asarray(rng.standard_normal(shape) * math.sqrt(2 / shape[0])),
    }
    if init not in samplers:
        raise unknown("init", init, samplers)
    return {f"syn{n}": samplers[init](shape) for n, shape in enumerate(pairwise(sizes))}


def _first_state(network: Network, syn: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights in the order of the layers, then the initial statistics and moments."""
    learned: dict[str, Tensor] = {}
    other: dict[str, Tensor] = {}
    for n, weight in enumerate(syn.values()):
        normed = network.batch_norm and n + 1 in network.hidden
        learned[f"syn{n}"] = weight
        zeros = weight.new_zeros(len(weight), 1, weight.shape[-1])
        if network.bias and not normed:
            learned[f"bias{n}"] = zeros
        if normed:
            learned |= {f"gamma{n + 1}": zeros + 1, f"beta{n + 1}": zeros}
            other |= {f"mean{n + 1}": zeros, f"var{n + 1}": zeros + 1}
    for name, weight in learned.items():
        other |= {f"{name}_{moment}": torch.zeros_like(weight) for moment in network.moments}
    return learned | other


def _arrays(case: Case, seed: int) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Return X and y, for a case with a table also X_test and y_test; and the classes."""
    if case.data is None:
        return {"X": _table("X", case.X), "y": _table("y", case.y)}, ()
    table = case.data(seed)
    arrays = {"X": table.X, "y": table.y, "X_test": table.X_test, "y_test": table.y_test}
    return arrays, table.classes


def _check_rows(case: Case, arrays: dict[str, np.ndarray]) -> None:
    """Raise BadInput for rows that do not fit the network."""
    network, X, y = case.network, arrays["X"], arrays["y"]
    for name, table, size in (("X", X, network.sizes[0]), ("y", y, network.sizes[-1])):
        if table.shape[1] != size:
            fitting = (X.shape[1], *network.sizes[1:-1], y.shape[1])
            raise BadInput(
                f"sizes {network.sizes}: {name} has {table.shape[1]} columns and its layer has "
                f"{size}; {','.join(map(str, fitting))} would fit"
            )
    if len(X) != len(y):
        raise BadInput(f"X has {len(X)} rows and y has {len(y)}: give one y for each X")
    rows = len(X) if case.batch_size is None else case.batch_size
    if not 1 <= rows <= len(X):
        raise BadInput(f"batch_size {rows}: there are {len(X)} rows, give 1 to {len(X)}")
    if network.batch_norm and rows < 2:
        raise BadInput(f"batch_norm with {rows} row per step: it needs 2 rows or more")
    if network.loss == "cross_entropy" and not (np.sort(y, 1) == np.eye(y.shape[1])[-1]).all():
        raise BadInput("loss cross_entropy: y must be one-hot, a single 1 in each row and zeros")
    if network.loss == "binary_cross_entropy_with_logits" and not ((y >= 0) & (y <= 1)).all():
        raise BadInput("loss binary_cross_entropy_with_logits: y must be from 0 to 1")


def _table(name: str, rows: Rows) -> np.ndarray:
    """Return rows as a float64 array (B, columns); raise BadInput if their lengths differ."""
    lengths = sorted({len(row) for row in rows})
    if len(lengths) != 1 or lengths[0] == 0:
        raise BadInput(f"{name} has rows of {lengths} values: give rows of one length, 1 or more")
    return np.array(rows, dtype=np.float64)


def _check_memory(sizes: tuple[int, ...], rows: int, population: int, dtype: torch.dtype) -> None:
    """Raise BadInput if one step of the population would not fit into this machine's memory."""
    values = population * sum(rows * i + 3 * i * o for i, o in pairwise(sizes))
    needed = 12 * values * dtype.itemsize  # both sides with their saved tensors, and the comparison
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > memory:
        raise BadInput(
            f"population {population}, sizes {sizes}: one step needs about "
            f"{needed / 2**30:,.0f} GiB and this machine has {memory / 2**30:,.0f}; reduce them"
        )


def _check_finite(name: str, tensor: Tensor) -> None:
    """Raise BadInput for a NaN or infinity in a tensor; the message names its index."""
    if (bad := (~tensor.isfinite()).nonzero()).numel():
        index = tuple(bad[0].tolist())
        value = tensor[index].item()
        raise BadInput(
            f"{name}{list(index)} is {value} in {short(tensor.dtype)}: "
            "give finite numbers that the dtype can hold"
        )
