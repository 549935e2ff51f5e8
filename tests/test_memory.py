"""A check or a run leaves no tensor and no graph node in memory after it ends.

Python's garbage collector does not see autograd's graph, so a cycle through it is never freed.
"""

import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import compare
from compare.cases.cases import CASES


class Saved:
    """A tensor that the graph saves for the backward pass; it lives as long as its node."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


class Watch:
    """Wraps forward functions and counts the tensors saved by their graphs that are still alive."""

    def __init__(self) -> None:
        self.saved: weakref.WeakSet[Saved] = weakref.WeakSet()
        self.seen = 0

    def on(self, forward: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        """Return a wrapper of the forward function that tracks the tensors its graph saves."""

        def watched(x: Tensor) -> Tensor:
            with torch.autograd.graph.saved_tensors_hooks(self.pack, lambda kept: kept.tensor):
                return forward(x)

        return watched

    def pack(self, tensor: Tensor) -> Saved:
        """Wrap a tensor that a node of the graph saves."""
        kept = Saved(tensor.detach())
        self.saved.add(kept)
        self.seen += 1
        return kept


def tensors() -> int:
    """Return the number of tensors that the garbage collector tracks, after a collection."""
    gc.collect()
    return sum(issubclass(type(one), Tensor) for one in gc.get_objects())


def plain(x: Tensor) -> Tensor:
    return torch.tanh(x).exp().sum()


def named(x: Tensor) -> Tensor:
    return compare.name(compare.name(torch.tanh(x), "z").exp(), "e").sum()


def through_a_fault(x: Tensor) -> Tensor:
    """Forward function whose autograd backward pass raises an exception of the user's code."""
    z = compare.name(torch.tanh(x), "z")
    return Faulty.apply(z).sum()


class Faulty(torch.autograd.Function):
    """exp, with a backward pass that raises."""

    @staticmethod
    def forward(ctx: Any, z: Tensor) -> Tensor:
        """Return exp(z)."""
        return z.exp()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        """Raise an exception."""
        raise ZeroDivisionError("theirs")


class Whole(torch.autograd.Function):
    """`plain` as one Function, with its backward pass by hand."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """Return the sum of exp(tanh(x))."""
        ctx.save_for_backward(x)
        return torch.tanh(x).exp().sum()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        """Return the gradient with respect to x."""
        (x,) = ctx.saved_tensors
        z = torch.tanh(x)
        return grads[0] * z.exp() * (1 - z * z)


def by_hand(x: Tensor) -> dict[str, Tensor]:
    z = torch.tanh(x)
    return {"x": z.exp() * (1 - z * z)}


def each(z: Tensor, e: Tensor) -> dict[str, Tensor]:
    return {"e": torch.ones_like(e), "z": z.exp(), "x": z.exp() * (1 - z * z)}


def rounded(z: Tensor, e: Tensor) -> dict[str, Tensor]:
    return {"e": torch.ones_like(e), "z": z.exp(), "x": z.exp() * (1 - z) * (1 + z)}


def wrong(z: Tensor, e: Tensor) -> dict[str, Tensor]:
    return {"e": torch.ones_like(e), "z": 2 * z.exp(), "x": z.exp() * (1 - z)}


def raising(z: Tensor) -> dict[str, Tensor]:
    raise ZeroDivisionError("mine")


@pytest.mark.parametrize(
    ("backward", "forward", "verdict"),
    [
        (by_hand, plain, "ROUNDING"),
        (by_hand, named, "ROUNDING"),
        (each, named, "ROUNDING"),
        (rounded, named, "ROUNDING"),
        (wrong, named, "WRONG"),
        (Whole, plain, "ROUNDING"),
        (Whole, named, "ROUNDING"),
        (raising, named, None),
        (lambda z: {"z": z.exp(), "x": z}, through_a_fault, None),
    ],
    ids=["plain", "unnamed by hand", "named", "rounding", "wrong", "Function", "Function and names",
         "exception by hand", "exception in autograd"],
)  # fmt: skip
def test_checks_leave_nothing_behind(
    backward: Any, forward: Callable[[Tensor], Tensor], verdict: str | None
) -> None:
    """Later checks add no tensors to those of the first, and every graph is freed."""
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(5))
    watch = Watch()

    def check() -> None:
        try:
            found = compare.check(backward, watch.on(forward), {"x": x}).verdict
        except ZeroDivisionError:
            assert verdict is None
        else:
            assert found in (verdict, "EXACT" if verdict == "ROUNDING" else verdict)

    check()  # caches that are filled once, such as tables
    before = tensors()
    for _ in range(4):
        check()
    assert tensors() <= before
    assert watch.seen > 0
    assert not watch.saved


def test_runs_leave_nothing_behind() -> None:
    """A run leaves no tensors behind, although its reference has hooks on every layer."""

    def run() -> None:
        compare.run(CASES["dropout"], steps=6)

    run()
    before = tensors()
    for _ in range(2):
        run()
    assert tensors() <= before
