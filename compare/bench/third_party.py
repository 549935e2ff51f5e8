"""The blog's training step as others have it: numpy, torch.func, torch.compile, JAX.

Each is made from a `Problem` before any timing, takes steps one after the other, and can say what
its weights have become. Raises NotHere for what is not installed or cannot be compiled.
"""

import importlib
from functools import partial
from typing import Any

import numpy as np
import torch

from compare.bench.peers import Autograd, Problem
from compare.bench.timing import NotHere
from compare.training.adapters import Named


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
        gradient = torch.func.grad(partial(_loss, torch.sigmoid))
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


def _loss(sigmoid: Any, weights: dict[str, Any], X: Any, y: Any) -> Any:
    """Return the blog's loss, of torch's tensors or JAX's arrays."""
    l = X
    for n in range(len(weights)):
        l = sigmoid(l @ weights[f"syn{n}"])
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
        gradient = jax.grad(partial(_loss, jax.nn.sigmoid))
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
