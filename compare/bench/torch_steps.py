"""Training steps to time: by hand, by hand and fused, and ordinary PyTorch.

Each peer is made from a `Problem` before the timing. `take(steps)` runs steps, and `weights()`
returns the trained weights.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compare.bench import claims
from compare.cases.cases import Case, Network
from compare.cases.data import Table
from compare.training.adapters import Named, copies, manual_step_of
from compare.training.sampling import draw
from manual.fused import Fused as FusedStep

_ACTIVATIONS = {"sigmoid": nn.Sigmoid, "relu": nn.ReLU, "identity": nn.Identity}


@dataclass(frozen=True)
class Problem:
    """A case with its batches and first weights; a single network has no leading dimension."""

    case: Case
    batches: list[Named]
    state: Named


def draw_problem(case: Case, dtype: torch.dtype, *, population: int | None = None) -> Problem:
    """Draw the data and the first weights of a case.

    Args:
        case: the case.
        dtype: the dtype of all tensors.
        population: the number of networks, the leading dimension; None for one network without it.
    """
    sample = draw(case, seed=1, population=population or 1, dtype=dtype, device=torch.device("cpu"))
    batches = sample.steps(8 if case.batch_size else 1)
    if population is None:
        batches = [{n: v[0] for n, v in batch.items()} for batch in batches]
        return Problem(case, batches, {n: v[0] for n, v in sample.state.items()})
    return Problem(case, batches, sample.state)


def random_case(sizes: tuple[int, ...], rows: int) -> Case:
    """Return a case with a network of the blog's kind and random data, a random class per row."""

    def data(seed: int) -> Table:
        rng = np.random.RandomState(seed)
        X = rng.standard_normal((rows, sizes[0]))
        y = np.eye(sizes[-1])[rng.randint(sizes[-1], size=rows)]
        return Table(X, y, X[:1], y[:1], tuple(map(str, range(sizes[-1]))))

    # a learning rate so small that no unit saturates: subnormal numbers would be slow
    network = Network(sizes=sizes, alpha=1e-4)
    name = "-".join(map(str, sizes))
    return Case(name, "", network, data=data, init="glorot")


class ByHand:
    """The step of the case in manual/; for any network. The listings of the blog allocate weights.

    `Network.step` gets the memory of the weights for the new ones, as torch.optim writes in place.
    """

    def __init__(self, problem: Problem) -> None:
        self.step = manual_step_of(problem.case)
        self.state = copies(problem.state)
        if problem.case.by_hand == "network":
            self.step = partial(self.step, into=self.state)
        self.batches = itertools.cycle(problem.batches)

    def take(self, steps: int) -> None:
        """Run so many training steps."""
        state = self.state
        with torch.inference_mode():
            for batch in itertools.islice(self.batches, steps):
                values = self.step(**batch, **state)
                state = {name: values[name] for name in state}
                del values  # so that two steps are never in memory at once
        self.state = state

    def weights(self) -> Named:
        """Return the trained weights."""
        return {name: v for name, v in self.state.items() if "momentum" not in name}


class Fused:
    """The step of manual.fused, which allocates its memory once."""

    def __init__(self, problem: Problem) -> None:
        network = problem.case.network
        with torch.inference_mode():
            tensors = {n: v.clone() for n, v in (problem.batches[0] | problem.state).items()}
            self.fused = FusedStep(**tensors, sizes=network.sizes, alpha=network.alpha)

    def take(self, steps: int) -> None:
        """Run so many training steps."""
        step = self.fused.step
        with torch.inference_mode():
            for _ in range(steps):
                step()

    def weights(self) -> Named:
        """Return the trained weights."""
        return {"syn0": self.fused.syn0, "syn1": self.fused.syn1}


class Products(Fused):
    """Only the five matrix products of a fused step, in the same memory; the weights stay."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        super().take(1)  # fills the memory with numbers to multiply
        self.alpha = 1e-30  # too small to change the weights; with 0 a BLAS may skip the product

    def take(self, steps: int) -> None:
        """Compute the products of so many steps."""
        f = self.fused
        with torch.inference_mode():
            for _ in range(steps):
                f.product(f.l0, f.syn0, out=f.l1)
                f.product(f.l1, f.syn1, out=f.l2)
                f.product(f.l2_delta, f.syn1_T, out=f.l1_error)
                f.add_product(f.syn0, f.l0_T, f.l1_delta, alpha=self.alpha)
                f.add_product(f.syn1, f.l1_T, f.l2_delta, alpha=self.alpha)


class Autograd:
    """Ordinary PyTorch: nn.Sequential, a loss, backward(), torch.optim.SGD."""

    def __init__(self, problem: Problem) -> None:
        network, state = problem.case.network, problem.state
        layers: list[nn.Module] = []
        for n in range(len(network.sizes) - 1):
            I, O = network.sizes[n : n + 2]
            linear = nn.Linear(I, O, bias=network.bias, dtype=state["syn0"].dtype)
            with torch.no_grad():
                linear.weight.copy_(state[f"syn{n}"].mT)
                if network.bias:
                    linear.bias.copy_(state[f"bias{n}"].flatten())
            last = n == len(network.sizes) - 2
            layers += [linear, _ACTIVATIONS[network.output if last else network.activation]()]
        self.network = nn.Sequential(*layers)
        self.classes = network.loss == "cross_entropy"
        self.batches = itertools.cycle(
            [(b["X"], b["y"].argmax(-1) if self.classes else b["y"]) for b in problem.batches]
        )
        self.optimizer = torch.optim.SGD(
            self.network.parameters(), lr=network.alpha, momentum=network.momentum
        )

    def loss(self, X: Tensor, y: Tensor) -> Tensor:
        """Return the loss of a batch."""
        output = self.network(X)
        return F.cross_entropy(output, y) if self.classes else ((y - output) ** 2).sum() / 2

    def take(self, steps: int) -> None:
        """Run so many training steps."""
        for X, y in itertools.islice(self.batches, steps):
            self.optimizer.zero_grad()
            self.loss(X, y).backward()
            self.optimizer.step()

    def weights(self) -> Named:
        """Return the trained weights in the blog's layout, (I, O)."""
        weights: Named = {}
        for n, linear in enumerate(m for m in self.network if isinstance(m, nn.Linear)):
            weights[f"syn{n}"] = linear.weight.detach().mT
            if linear.bias is not None:
                weights[f"bias{n}"] = linear.bias.detach()[None]
        return weights


PEERS: dict[str, Callable[[Problem], Any]] = {
    claims.AUTOGRAD: Autograd, claims.HAND: ByHand, claims.FUSED: Fused, claims.PRODUCTS: Products
}  # fmt: skip
