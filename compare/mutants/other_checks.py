"""The usual checks, side by side with this one: which of them see that a mutant is wrong?

Each is used as it comes, with its own defaults. `allclose`, `assert_close` and the rule of
flash-attention's tests are shown every quantity that the pass returns; gradcheck sees gradients of
the inputs alone (of a case: of the weights), in float64.
"""

import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from compare.mutants.subjects import DOUBLE, Named, Subject
from compare.proof.program import Program
from compare.torch_private import no_slow_gradcheck

TOO_MANY = 2000  # elements: gradcheck would take seconds a mutant, and its points over 64 MB


class OtherChecks:
    """What each usual check says of a mutant at a subject's inputs, and the time that it takes."""

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self.autograd = subject.autograd()
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.cannot: dict[str, str] = {}  # a check that does not run on the pass itself, and why
        with self._timed("twice_low_precision"):
            self.low = self._low()
        with self._timed("gradcheck"):
            self.leaves, run, back = subject.to(DOUBLE).differentiable()
        count = sum(value.numel() for value in [*self.leaves.values(), *self.autograd.values()])
        if count > TOO_MANY:
            self.cannot["gradcheck"] = (
                f"{count:,} elements of inputs and results, each of which it moves or asks for by "
                f"itself, of every mutant: more than {TOO_MANY:,}"
            )
        self.run = run if subject.gives_output or count > TOO_MANY else _remembered(run)
        self.back: Callable[..., list[Any]] = back

    def verdicts(self, mutant: Program) -> dict[str, bool]:
        """Return for each check whether it refuses the mutant."""
        values = self.subject.values(mutant)
        asked: dict[str, Callable[[], bool]] = {
            "allclose": lambda: self._all(values, torch.allclose),
            "assert_close": lambda: self._all(values, _close),
            "gradcheck": lambda: self._gradcheck(mutant, fast=False),
            "gradcheck_fast": lambda: self._gradcheck(mutant, fast=True),
            "twice_low_precision": lambda: self._twice(mutant),
        }
        found = {}
        for name, passes in asked.items():
            with self._timed(name):
                found[name] = name not in self.cannot and not passes()
        return found

    @contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] += time.perf_counter() - started

    def _all(self, values: Named, same: Callable[[Tensor, Tensor], bool]) -> bool:
        try:
            return all(same(value, self.autograd[name]) for name, value in values.items())
        except (RuntimeError, ValueError):  # shapes that do not fit
            return False

    def _gradcheck(self, mutant: Program, *, fast: bool) -> bool:
        mutated = _function(mutant, self.run, self.back)
        leaves = tuple(leaf.clone().requires_grad_() for leaf in self.leaves.values())
        ignored = warnings.catch_warnings(action="ignore")  # memory layouts: nothing of gradients
        try:
            with ignored, no_slow_gradcheck():
                return torch.autograd.gradcheck(
                    mutated, leaves, fast_mode=fast, raise_exception=False
                )
        except (RuntimeError, ValueError):
            return False

    def _low(self) -> tuple[Subject, Named, Named] | None:
        """Return the pass in low precision and the reference in high and low; None: it cannot run.

        The low precision is the inputs' own where it is a half one, else bfloat16.
        """
        own = self.subject.dtype
        dtype = own if own.itemsize == 2 else torch.bfloat16
        try:
            low = self.subject.to(dtype)
            return low, low.to(DOUBLE).autograd(), low.autograd()
        except (RuntimeError, ValueError, NotImplementedError) as error:
            self.cannot["twice_low_precision"] = f"{dtype}: {str(error).splitlines()[0]}"
            return None

    def _twice(self, mutant: Program) -> bool:
        assert self.low is not None
        low, high, plain = self.low
        try:
            found = low.values(mutant, was=self.subject.dtype)
            return all(_within_twice(v, high[name], plain[name]) for name, v in found.items())
        except (RuntimeError, ValueError):
            return False


def _within_twice(value: Tensor, high: Tensor, plain: Tensor) -> bool:
    """Apply the rule of flash-attention's tests (hopper/test_flash_attn.py): twice the error.

    A gradient's largest error against a reference in high precision is at most twice that of the
    plain reference in low precision, and twice what adding and taking off 0.3 rounds away.
    """
    if not value.numel():
        return True
    rounded = high.to(plain.dtype)
    bit = 2 * (rounded + 0.3 - 0.3 - rounded).abs().max().double()
    allowed = 2 * (plain.double() - high).abs().max() + bit
    return bool((value.double() - high).abs().max() <= allowed)


def _remembered(run: Callable[..., list[Tensor]]) -> Callable[..., list[Tensor]]:
    """Return the forward pass, run once at each point: gradcheck takes the same ones each time."""
    known: dict[tuple[bytes, ...], list[Tensor]] = {}

    def once(mutant: Program, *leaves: Tensor) -> list[Tensor]:
        point = tuple(leaf.detach().cpu().numpy().tobytes() for leaf in leaves)
        if point not in known:
            known[point] = run(mutant, *leaves)
        return known[point]

    return once


def _close(one: Tensor, other: Tensor) -> bool:
    try:
        torch.testing.assert_close(one, other)
    except AssertionError:
        return False
    return True


def _function(
    mutant: Program, run: Callable[..., list[Tensor]], back: Callable[..., list[Any]]
) -> Callable[..., Any]:
    """Return the forward pass, with the mutant as its backward pass."""

    class Mutated(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *leaves: Tensor) -> Any:
            ctx.save_for_backward(*leaves)
            outputs = [output.detach().clone() for output in run(mutant, *leaves)]
            return outputs[0] if len(outputs) == 1 else tuple(outputs)

        @staticmethod
        def backward(ctx: Any, *grads: Tensor) -> Any:
            return tuple(back(mutant, ctx.saved_tensors, grads))

    function: Callable[..., Any] = Mutated.apply
    return function
