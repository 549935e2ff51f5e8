"""The usual checks, run on the same mutants for comparison with `check`.

Each is used with its own defaults. `torch.allclose`, `torch.testing.assert_close` and the rule of
flash-attention's tests (an error of at most twice that of the low-precision reference) see every
quantity that the pass returns. gradcheck sees only the gradients of the inputs (for a case: of the
weights), in float64.
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

# Elements for gradcheck. With more it would take seconds for each mutant, and the forward passes
# that are kept for its points would take more than 64 MB.
MAX_ELEMENTS = 2000


class OtherChecks:
    """The usual checks at a subject's inputs, and the time that each takes."""

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self.autograd = subject.autograd()
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.cannot_run: dict[str, str] = {}  # check -> why it does not run even on the pass itself
        with self._timed("twice_low_precision"):
            self.low_precision = self._low_precision()
        with self._timed("gradcheck"):
            self.leaves, run, back = subject.to(DOUBLE).differentiable()
        count = sum(value.numel() for value in [*self.leaves.values(), *self.autograd.values()])
        if count > MAX_ELEMENTS:
            self.cannot_run["gradcheck"] = (
                f"too slow: it would take {count:,} inputs and outputs one at a time for each "
                f"mutant; the limit is {MAX_ELEMENTS:,}"
            )
        self.run = run if subject.returns_output or count > MAX_ELEMENTS else _cached(run)
        self.back: Callable[..., list[Any]] = back

    def rejections(self, mutant: Program) -> dict[str, bool]:
        """Return for each check whether it rejects the mutant."""
        values = self.subject.values(mutant)
        checks: dict[str, Callable[[], bool]] = {
            "allclose": lambda: self._all(values, torch.allclose),
            "assert_close": lambda: self._all(values, _close),
            "gradcheck": lambda: self._gradcheck(mutant, fast=False),
            "gradcheck_fast": lambda: self._gradcheck(mutant, fast=True),
            "twice_low_precision": lambda: self._within_twice_low_precision(mutant),
        }
        rejected = {}
        for name, passes in checks.items():
            with self._timed(name):
                rejected[name] = name not in self.cannot_run and not passes()
        return rejected

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
        except (RuntimeError, ValueError):  # shapes that do not match
            return False

    def _gradcheck(self, mutant: Program, *, fast: bool) -> bool:
        function = _function(mutant, self.run, self.back)
        leaves = tuple(leaf.clone().requires_grad_() for leaf in self.leaves.values())
        ignored = warnings.catch_warnings(
            action="ignore"
        )  # it warns of memory layouts, not of gradients
        try:
            with ignored, no_slow_gradcheck():
                return torch.autograd.gradcheck(
                    function, leaves, fast_mode=fast, raise_exception=False
                )
        except (RuntimeError, ValueError):
            return False

    def _low_precision(self) -> tuple[Subject, Named, Named] | None:
        """Return the pass in low precision, and autograd's values in float64 and in low precision.

        None if it cannot run. The low precision is the dtype of the inputs if that is a half
        precision, else bfloat16.
        """
        dtype = self.subject.dtype
        dtype = dtype if dtype.itemsize == 2 else torch.bfloat16
        try:
            low = self.subject.to(dtype)
            return low, low.to(DOUBLE).autograd(), low.autograd()
        except (RuntimeError, ValueError, NotImplementedError) as error:
            self.cannot_run["twice_low_precision"] = f"{dtype}: {str(error).splitlines()[0]}"
            return None

    def _within_twice_low_precision(self, mutant: Program) -> bool:
        assert self.low_precision is not None
        low, exact, plain = self.low_precision
        try:
            values = low.values(mutant, read_in=self.subject.dtype)
            return all(_within_twice(v, exact[name], plain[name]) for name, v in values.items())
        except (RuntimeError, ValueError):
            return False


def _within_twice(value: Tensor, exact: Tensor, plain: Tensor) -> bool:
    """Apply the rule of flash-attention's tests (hopper/test_flash_attn.py): twice the error.

    A gradient's largest error against the float64 reference may be at most twice the largest error
    of the plain reference in low precision, plus twice the largest error that adding and
    subtracting 0.3 causes there.
    """
    if not value.numel():
        return True
    rounded = exact.to(plain.dtype)
    slack = 2 * (rounded + 0.3 - 0.3 - rounded).abs().max().double()
    allowed = 2 * (plain.double() - exact).abs().max() + slack
    return bool((value.double() - exact).abs().max() <= allowed)


def _cached(run: Callable[..., list[Tensor]]) -> Callable[..., list[Tensor]]:
    """Return the forward pass with a cache: gradcheck evaluates every mutant at the same points."""
    cache: dict[tuple[bytes, ...], list[Tensor]] = {}

    def cached(mutant: Program, *leaves: Tensor) -> list[Tensor]:
        point = tuple(leaf.detach().cpu().numpy().tobytes() for leaf in leaves)
        if point not in cache:
            cache[point] = run(mutant, *leaves)
        return cache[point]

    return cached


def _close(a: Tensor, b: Tensor) -> bool:
    try:
        torch.testing.assert_close(a, b)
    except AssertionError:
        return False
    return True


def _function(
    mutant: Program, run: Callable[..., list[Tensor]], back: Callable[..., list[Any]]
) -> Callable[..., Any]:
    """Return an autograd function: the forward pass, with the mutant as its backward pass."""

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
