"""A replay of recorded operations gives the function's values, at other inputs too."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing._internal.two_tensor import TwoTensor

from compare.proof.balls import Balls
from compare.proof.interpreter import lift
from compare.proof.program import Opaque, source_line
from compare.proof.recorder import FloatRead, Recorder
from compare.proof.trace import _replay, trace
from tests.opaque import memory

X = torch.tensor([[1.5, -2.0, 0.25], [3.0, 0.5, -1.0]], dtype=torch.float64)


def recorded(function: Callable[[Tensor], Tensor], at: Tensor = X) -> torch.fx.Graph:
    """Record a function of one tensor."""
    return Recorder({}, lambda: None).record(lambda x: [function(x)], [at])[0]


def replayed(graph: torch.fx.Graph, at: Tensor) -> Tensor:
    """Run the recorded operations at other inputs."""
    (result,) = _replay(graph, [at])
    return result


def _in_place(x: Tensor) -> Tensor:
    out = torch.empty_like(x)
    out.copy_(x).mul_(2)[0].add_(1)
    return out


def _gradient(x: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad((torch.sigmoid(x) ** 2).sum(), x)
    return gradient


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x @ x.mT + 1,
        lambda x: torch.cat([part * k for k, part in enumerate(x.unbind(-1), start=1)]),
        lambda x: x * torch.tensor(2.0).add_(1),
        lambda x: x * torch.from_numpy(np.arange(3.0)),
        lambda x: x * torch.from_numpy(np.arange(3.0)).add_(x[0]),
        lambda x: x * torch.from_numpy(np.arange(3.0)).flatten().mul_(x[0]),
        lambda x: x / torch.tensor(0.3).sqrt().item(),
        lambda x: x[:, torch.tensor([2, 0])],
        lambda x: torch.nn.functional.linear(x, x),
        _in_place,
        _gradient,
    ],
)
def test_other_inputs_give_the_functions_own_values(function: Callable[[Tensor], Tensor]) -> None:
    graph = recorded(function)
    for other in (X + 1, X * 3, X):  # X comes again: a run must not change the recording
        assert torch.equal(replayed(graph, other.clone()), function(other.clone()))


def test_a_tensor_subclass_is_recorded_as_the_tensors_it_stands_for() -> None:
    def second(x: Tensor) -> Tensor:
        both = TwoTensor(x, x * 2) * 3
        assert isinstance(both, TwoTensor)
        return both.b

    graph = recorded(second)
    calls = [str(node.target) for node in graph.nodes if node.op == "call_function"]
    assert set(calls) == {"aten.mul.Tensor"}
    assert torch.equal(replayed(graph, X + 1), (X + 1) * 2 * 3)


def test_integers_and_booleans_that_are_read_out_are_those_of_the_float_run() -> None:
    graph = recorded(lambda x: x * int(x.argmax()) if (x > 0).any() else x)
    assert torch.equal(replayed(graph, -X), -X * 3)


def test_a_float_that_is_read_out_is_refused() -> None:
    with pytest.raises(FloatRead, match="a float is read out of a tensor"):
        recorded(lambda x: x * float(x.sum()))
    with pytest.raises(Opaque, match=r"cannot be traced: a float is read out"):
        trace(lambda x: {"out": x * x.sum().item()}, {"x": X})


def test_recording_does_not_make_autograd_copy_a_gradient() -> None:
    def accumulated(x: Tensor) -> Tensor:
        leaf = x.clone().requires_grad_()
        (leaf * 2).sum(0).sum().backward()
        assert leaf.grad is not None
        return leaf.grad

    targets = [str(node.target) for node in recorded(accumulated).nodes]
    assert not any("empty" in target for target in targets)


def test_each_operation_knows_its_line() -> None:
    def function(x: Tensor) -> dict[str, Tensor]:
        y = x.sin()
        largest = y.max(1, keepdim=True).values
        return {"out": (y - largest).softmax(-1)}  # all parts of the decomposition have this line

    program = trace(function, {"x": X})
    first = function.__code__.co_firstlineno
    nodes = [n for n in program.graph.nodes if n.op == "call_function"]
    lines = {n.target.__name__: source_line(n) for n in nodes if "clone" not in n.target.__name__}
    assert lines.pop("sin.default") == (__file__, first + 1)
    assert lines.pop("max.dim") == lines.pop("getitem") == (__file__, first + 2)
    assert lines
    assert set(lines.values()) == {(__file__, first + 3)}


def _masked_outside_torch(x: Tensor) -> dict[str, Tensor]:
    g = x.clone()
    memory(g)[memory(x) <= 0] = 0
    return {"x": g}


def _constant_written_outside_torch(x: Tensor) -> dict[str, Tensor]:
    t = torch.tensor([1.0], dtype=torch.float64)
    y = x * t
    memory(t)[0] = 3
    return {"x": x * t + y}


@pytest.mark.parametrize("function", [_masked_outside_torch, _constant_written_outside_torch])
def test_a_write_outside_torch_is_refused(
    function: Callable[[Tensor], dict[str, Tensor]],
) -> None:
    """Both recordings have the same operations, and their replay gives other values."""
    with pytest.raises(Opaque, match="gave different results, so a custom kernel"):
        trace(function, {"x": X})


def test_one_tensor_under_two_names_is_two_inputs() -> None:
    """A recording tells tensors apart by identity, and here both names share one tensor."""
    program = trace(lambda x, y: {"out": x - 3 * y}, {"x": X, "y": X})
    out = lift(program, Balls(), {"x": X, "y": X + 1})["out"]
    assert torch.equal(out.floats, X - 3 * (X + 1))
