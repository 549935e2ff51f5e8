"""The blog's training step in other libraries: numpy, torch.func, torch.compile, JAX.

As in `torch_steps`, each peer is made from a `Problem` before the timing. It raises NotAvailable if
its library is not installed or cannot compile.
"""

import importlib
from functools import partial
from typing import Any

import numpy as np
import torch

from compare.bench.timing import NotAvailable
from compare.bench.torch_steps import Autograd, Problem
from compare.training.adapters import Named


class Numpy:
    """The blog's eleven lines in numpy, with the blog's grouping; alpha is 1."""

    def __init__(self, problem: Problem) -> None:
        tensors = problem.batches[0] | problem.state
        self.X, self.y = tensors["X"].numpy(), tensors["y"].numpy()
        self.syn0, self.syn1 = tensors["syn0"].numpy().copy(), tensors["syn1"].numpy().copy()

    def take(self, steps: int) -> None:
        """Run so many training steps; source: iamtrask, A Neural Network in 11 lines of Python."""
        X, y, syn0, syn1 = self.X, self.y, self.syn0, self.syn1
        for _ in range(steps):
            l1 = 1 / (1 + np.exp(-(np.dot(X, syn0))))
            l2 = 1 / (1 + np.exp(-(np.dot(l1, syn1))))
            l2_delta = (y - l2) * (l2 * (1 - l2))
            l1_delta = l2_delta.dot(syn1.T) * (l1 * (1 - l1))
            syn1 += l1.T.dot(l2_delta)
            syn0 += X.T.dot(l1_delta)

    def weights(self) -> Named:
        """Return the trained weights."""
        return {"syn0": torch.from_numpy(self.syn0), "syn1": torch.from_numpy(self.syn1)}


class Func:
    """torch.func.grad of the loss, and an explicit update; torch.func.vmap for a population."""

    def __init__(self, problem: Problem) -> None:
        self.state = problem.state
        self.X, self.y = problem.batches[0]["X"], problem.batches[0]["y"]
        self.alpha = problem.case.network.alpha
        gradient = torch.func.grad(partial(_loss, torch.sigmoid))
        self.gradient = torch.func.vmap(gradient) if self.X.ndim > 2 else gradient

    def take(self, steps: int) -> None:
        """Run so many training steps."""
        for _ in range(steps):
            gradients = self.gradient(self.state, self.X, self.y)
            self.state = {
                name: torch.sub(syn, gradients[name], alpha=self.alpha)
                for name, syn in self.state.items()
            }

    def weights(self) -> Named:
        """Return the trained weights."""
        return self.state


def _loss(sigmoid: Any, weights: dict[str, Any], X: Any, y: Any) -> Any:
    """Return the blog's loss, for torch tensors or JAX arrays."""
    l = X
    for n in range(len(weights)):
        l = sigmoid(l @ weights[f"syn{n}"])
    return ((y - l) ** 2).sum() / 2


class Compiled(Autograd):
    """`Autograd` with its forward and backward pass compiled by torch.compile."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        first = {name: v.clone() for name, v in self.network.state_dict().items()}
        self.loss = torch.compile(self.loss)  # type: ignore[method-assign]
        try:
            self.take(2)
        except Exception as error:  # the compiler can raise anything; then this peer is left out
            text = f"{type(error).__name__} {error}"
            missing = "InvalidCxxCompiler" in text or "No working C++ compiler" in text
            reason = "no C++ compiler" if missing else text.splitlines()[0]
            raise NotAvailable(reason) from error
        self.network.load_state_dict(first)


class Jax:
    """The step in JAX with gradient and update jitted; `whole` jits the loop over steps too."""

    def __init__(self, problem: Problem, *, whole: bool) -> None:
        try:
            jax = importlib.import_module("jax")
        except ImportError:
            raise NotAvailable("JAX is not installed (pip install jax)") from None
        jax.config.update("jax_enable_x64", True)
        alpha = problem.case.network.alpha
        gradient = jax.grad(partial(_loss, jax.nn.sigmoid))
        if problem.batches[0]["X"].ndim > 2:
            gradient = jax.vmap(gradient)

        def step(weights: Any, X: Any, y: Any) -> Any:
            return jax.tree.map(lambda w, g: w - alpha * g, weights, gradient(weights, X, y))

        def loop(steps: Any, weights: Any, X: Any, y: Any) -> Any:
            return jax.lax.fori_loop(0, steps, lambda _, weights: step(weights, X, y), weights)

        self.step, self.loop, self.whole = jax.jit(step), jax.jit(loop), whole
        arrays = {n: jax.numpy.asarray(v.numpy()) for n, v in problem.batches[0].items()}
        self.data = arrays["X"], arrays["y"]
        self.state = {n: jax.numpy.asarray(v.numpy()) for n, v in problem.state.items()}
        self.wait = jax.block_until_ready

    def take(self, steps: int) -> None:
        """Run so many training steps."""
        if self.whole:
            self.state = self.loop(steps, self.state, *self.data)
        else:
            for _ in range(steps):
                self.state = self.step(self.state, *self.data)
        self.wait(self.state)

    def weights(self) -> Named:
        """Return the trained weights."""
        return {name: torch.from_numpy(np.array(v)) for name, v in self.state.items()}
