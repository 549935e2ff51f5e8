"""A training step by hand, by hand and fused, and as any PyTorch user would write it.

Each is made from a `Problem`, drawn once, before any timing, takes steps one after the other, and
can say what its weights have become.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compare.bench import claims
from compare.cases.cases import Case, Network
from compare.cases.data import Table
from compare.training.adapters import Named, manual_step_of
from compare.training.sampling import draw
from manual.fused import Fused as FusedStep

_ACTIVATIONS = {"sigmoid": nn.Sigmoid, "relu": nn.ReLU, "identity": nn.Identity}


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


class ByHand:
    """The case's own step in manual/; any network."""

    def __init__(self, problem: Problem) -> None:
        self.step = manual_step_of(problem.case)
        self.state = problem.state
        self.batches = itertools.cycle(problem.batches)

    def take(self, steps: int) -> None:
        """Take so many steps."""
        state = self.state
        with torch.inference_mode():
            for batch in itertools.islice(self.batches, steps):
                values = self.step(**batch, **state)
                state = {name: values[name] for name in state}
                del values  # no step needs memory for two
        self.state = state

    def weights(self) -> Named:
        """Return what has been learned."""
        return {name: v for name, v in self.state.items() if "momentum" not in name}


class Fused:
    """manual.fused, with memory of its own that is made once."""

    def __init__(self, problem: Problem) -> None:
        network = problem.case.network
        with torch.inference_mode():
            given = {n: v.clone() for n, v in (problem.batches[0] | problem.state).items()}
            self.fused = FusedStep(**given, sizes=network.sizes, alpha=network.alpha)

    def take(self, steps: int) -> None:
        """Take so many steps."""
        step = self.fused.step
        with torch.inference_mode():
            for _ in range(steps):
                step()

    def weights(self) -> Named:
        """Return what has been learned."""
        return {"syn0": self.fused.syn0, "syn1": self.fused.syn1}


class Products(Fused):
    """Nothing but the five matrix products of a fused step, in its memory; it learns nothing."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        super().take(1)  # numbers to multiply
        self.alpha = 1e-30  # the weights stay; with 0 a BLAS may leave the product out

    def take(self, steps: int) -> None:
        """Multiply for so many steps."""
        f = self.fused
        with torch.inference_mode():
            for _ in range(steps):
                f.product(f.l0, f.syn0, out=f.l1)
                f.product(f.l1, f.syn1, out=f.l2)
                f.product(f.l2_delta, f.syn1_T, out=f.l1_error)
                f.add_product(f.syn0, f.l0_T, f.l1_delta, alpha=self.alpha)
                f.add_product(f.syn1, f.l1_T, f.l2_delta, alpha=self.alpha)


class Autograd:
    """What any PyTorch user would write: nn.Sequential, a loss, backward(), torch.optim.SGD."""

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
        """Take so many steps."""
        for X, y in itertools.islice(self.batches, steps):
            self.optimizer.zero_grad()
            self.loss(X, y).backward()
            self.optimizer.step()

    def weights(self) -> Named:
        """Return what has been learned, as the blog lays it out."""
        found: Named = {}
        for n, linear in enumerate(m for m in self.network if isinstance(m, nn.Linear)):
            found[f"syn{n}"] = linear.weight.detach().mT
            if linear.bias is not None:
                found[f"bias{n}"] = linear.bias.detach()[None]
        return found


PEERS: dict[str, Callable[[Problem], Any]] = {
    claims.AUTOGRAD: Autograd, claims.HAND: ByHand, claims.FUSED: Fused, claims.PRODUCTS: Products
}  # fmt: skip
