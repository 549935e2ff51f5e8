"""A training step as each of several hands would write it: ours, and those that ours is beside.

Each is made from a `Problem` before any timing, takes steps one after the other, and can say what
its weights have become. The networks are the blog's unless a class says otherwise.
"""

import importlib
import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compare.cases import Case
from compare.given import draw
from compare.sides import Named, by_hand
from compare.timing import NotHere
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


class ByHand:
    """The case's own step in manual/; any network."""

    def __init__(self, problem: Problem) -> None:
        self.step = by_hand(problem.case)
        self.state = problem.state
        self.batches = itertools.cycle(problem.batches)

    def take(self, steps: int) -> None:
        """Take so many steps."""
        state = self.state
        with torch.inference_mode():
            for batch in itertools.islice(self.batches, steps):
                values = self.step(**batch, **state)
                state = {name: values[name] for name in state}
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


class Numpy:
    """The blog's own eleven lines, in numpy, in its own grouping; alpha is 1."""

    def __init__(self, problem: Problem) -> None:
        given = problem.batches[0] | problem.state
        self.X, self.y = given["X"].numpy(), given["y"].numpy()
        self.syn0, self.syn1 = given["syn0"].numpy().copy(), given["syn1"].numpy().copy()

    def take(self, steps: int) -> None:
        """Take so many steps; source: iamtrask, A Neural Network in 11 lines of Python."""
        X, y, syn0, syn1 = self.X, self.y, self.syn0, self.syn1
        for _ in range(steps):
            l1 = 1 / (1 + np.exp(-(np.dot(X, syn0))))
            l2 = 1 / (1 + np.exp(-(np.dot(l1, syn1))))
            l2_delta = (y - l2) * (l2 * (1 - l2))
            l1_delta = l2_delta.dot(syn1.T) * (l1 * (1 - l1))
            syn1 += l1.T.dot(l2_delta)
            syn0 += X.T.dot(l1_delta)

    def weights(self) -> Named:
        """Return what has been learned."""
        return {"syn0": torch.from_numpy(self.syn0), "syn1": torch.from_numpy(self.syn1)}


class Func:
    """torch.func.grad of a loss of the weights, and the update written out.

    A population goes through torch.func.vmap.
    """

    def __init__(self, problem: Problem) -> None:
        self.state = problem.state
        self.X, self.y = problem.batches[0]["X"], problem.batches[0]["y"]
        self.alpha = problem.case.network.alpha
        gradient = torch.func.grad(_loss)
        self.gradient = torch.func.vmap(gradient) if self.X.ndim > 2 else gradient

    def take(self, steps: int) -> None:
        """Take so many steps."""
        for _ in range(steps):
            found = self.gradient(self.state, self.X, self.y)
            self.state = {
                name: torch.sub(syn, found[name], alpha=self.alpha)
                for name, syn in self.state.items()
            }

    def weights(self) -> Named:
        """Return what has been learned."""
        return self.state


def _loss(weights: Named, X: Tensor, y: Tensor) -> Tensor:
    l = X
    for n in range(len(weights)):
        l = torch.sigmoid(l @ weights[f"syn{n}"])
    return ((y - l) ** 2).sum() / 2


class Compiled(Autograd):
    """The same as `Autograd` with its forward and backward pass through torch.compile."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        first = {name: v.clone() for name, v in self.network.state_dict().items()}
        self.loss = torch.compile(self.loss)  # type: ignore[method-assign]
        try:
            self.take(2)
        except Exception as error:  # whatever the compiler's many parts raise: a peer less
            words = f"{type(error).__name__} {error}"
            missing = "InvalidCxxCompiler" in words or "No working C++ compiler" in words
            why = "no C++ compiler" if missing else words.splitlines()[0]
            raise NotHere(why) from error
        self.network.load_state_dict(first)


class Jax:
    """The step in JAX, its gradient and update in one jit; `whole` has the loop in it too."""

    def __init__(self, problem: Problem, *, whole: bool) -> None:
        try:
            jax = importlib.import_module("jax")
        except ImportError:
            raise NotHere("JAX is not installed (pip install jax)") from None
        jax.config.update("jax_enable_x64", True)
        alpha = problem.case.network.alpha

        def loss(weights: dict[str, Any], X: Any, y: Any) -> Any:
            l = X
            for n in range(len(weights)):
                l = jax.nn.sigmoid(l @ weights[f"syn{n}"])
            return ((y - l) ** 2).sum() / 2

        gradient = jax.grad(loss)
        if problem.batches[0]["X"].ndim > 2:
            gradient = jax.vmap(gradient)

        def step(weights: Any, X: Any, y: Any) -> Any:
            return jax.tree.map(lambda w, g: w - alpha * g, weights, gradient(weights, X, y))

        def loop(steps: Any, weights: Any, X: Any, y: Any) -> Any:
            return jax.lax.fori_loop(0, steps, lambda _, now: step(now, X, y), weights)

        self.step, self.loop, self.whole = jax.jit(step), jax.jit(loop), whole
        given = {n: jax.numpy.asarray(v.numpy()) for n, v in problem.batches[0].items()}
        self.data = given["X"], given["y"]
        self.state = {n: jax.numpy.asarray(v.numpy()) for n, v in problem.state.items()}
        self.wait = jax.block_until_ready

    def take(self, steps: int) -> None:
        """Take so many steps."""
        if self.whole:
            self.state = self.loop(steps, self.state, *self.data)
        else:
            for _ in range(steps):
                self.state = self.step(self.state, *self.data)
        self.wait(self.state)

    def weights(self) -> Named:
        """Return what has been learned."""
        return {name: torch.from_numpy(np.array(v)) for name, v in self.state.items()}
