"""Buffers of the user's modules that a check changes are restored."""

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import compare

GLOBAL = nn.BatchNorm1d(3)


class Layer:
    """A user's object that refers to a module."""

    def __init__(self, norm: nn.Module) -> None:
        self.parts = {"norm": [norm]}

    def forward(self, x: Tensor) -> Tensor:
        """Return x normed."""
        return self.parts["norm"][0](x)


class Counts(nn.Module):
    """A module that replaces one buffer and writes into another outside of autograd."""

    mean: Tensor
    calls: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(3))
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        """Return tanh(x), and count."""
        self.mean = self.mean * 0.9 + x.detach().mean(0)
        self.calls.data.add_(1)
        return x.tanh()


def _helper(x: Tensor) -> Tensor:
    return GLOBAL(x)


def _by_helper(x: Tensor) -> Tensor:
    return _helper(x)


def _forwards() -> list[tuple[str, nn.Module, Callable[..., Any]]]:
    norm = nn.BatchNorm1d(3)
    deep = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), norm)
    counts = Counts()
    return [
        ("a module", norm, norm),
        ("inside a module", deep, deep),
        ("a closure", norm, lambda x: norm(x)),
        ("a global", GLOBAL, _by_helper),
        ("a method", norm, Layer(norm).forward),
        ("a partial", norm, functools.partial(lambda layer, x: layer(x), norm)),
        ("replaced", counts, counts),
    ]


def state(module: nn.Module) -> dict[str, tuple[int, Tensor]]:
    return {k: (id(v), v.clone()) for k, v in module.named_buffers()}


def same(one: dict[str, tuple[int, Tensor]], other: dict[str, tuple[int, Tensor]]) -> bool:
    return all(
        one[k][0] == other[k][0] and torch.equal(one[k][1], other[k][1]) for k in one | other
    )


@pytest.mark.parametrize(
    ("module", "forward"), [row[1:] for row in _forwards()], ids=[row[0] for row in _forwards()]
)
@pytest.mark.parametrize("fails", [False, True])
def test_buffers_are_as_they_were(
    module: nn.Module, forward: Callable[..., Any], fails: bool
) -> None:
    """Also where the check fails."""
    x = torch.randn(5, 3)
    before = state(module)
    forward(x)
    assert not same(before, state(module))
    before = state(module)

    def backward(grad_output: Tensor) -> tuple[Tensor]:
        if fails:
            raise ZeroDivisionError
        return (grad_output,)

    if fails:
        with pytest.raises(ZeroDivisionError):
            compare.check(backward, forward, (x,), lift="none")
    else:
        assert compare.check(backward, forward, (x,), lift="none").quantities
    assert same(before, state(module))


def test_power_restores_them_too() -> None:
    norm = Counts()
    before = state(norm)

    def backward(x: Tensor, grad_output: Tensor) -> tuple[Tensor]:
        return (grad_output * (1 - x.tanh() ** 2),)

    assert compare.power(backward, norm, (torch.randn(2, 3),)).mutants
    assert same(before, state(norm))


def test_code_run_by_exec_has_no_module() -> None:
    """A function that exec defines in bare globals has None as its module's name."""
    names: dict[str, Any] = {}
    exec(  # as a grader or a notebook's cell may
        "def forward(x): return x * x\n"
        "def backward(x, grad_output): return {'x': 2 * x * grad_output}",
        names,
    )
    assert names["forward"].__module__ is None
    assert compare.check(names["backward"], names["forward"], {"x": torch.ones(3)}).ok
