"""The interpreter of traced programs, in floats, balls and bounds."""

import weakref
from typing import Any

import torch
from torch import Tensor, fx

from compare.proof.balls import Balls
from compare.proof.bits import same_bits
from compare.proof.bounds import Bounds
from compare.proof.interpreter import Cache, Floats, Lifted, evaluate, lift
from compare.proof.program import PICKS, RESHAPES, SAME_SHAPE, downstream, operation, upstream
from compare.proof.trace import trace

X = torch.tensor([[0.3, -1.2, 2.0], [0.7, 0.1, -0.4]], dtype=torch.float64)


def _two(x: Tensor) -> dict[str, Tensor]:
    z = x * torch.full((), 0.1, dtype=x.dtype)
    return {"z": z, "y": torch.exp(z.mT) + torch.tensor(0.5, dtype=x.dtype)}


def test_a_program_has_its_function_s_bits_in_every_arithmetic() -> None:
    program = trace(_two, {"x": X})
    for n in (Floats(), Balls(), Bounds()):
        outputs = lift(program, n, {"x": X})
        assert list(outputs) == list(program.outputs)
        assert all(same_bits(outputs[name].floats, value) for name, value in _two(X).items())


def test_a_program_runs_in_another_dtype_with_its_constants() -> None:
    """A constant that stayed float32 would leave a float64 run with 7 digits."""
    x = X.float()
    program = trace(_two, {"x": x})
    cache: Cache = {}
    wide = evaluate(program, {"x": x.double()}, Floats(lambda _dtype: torch.float64), cache=cache)
    assert {value.floats.dtype for value in cache.values()} == {torch.float64}
    torch.testing.assert_close(wide["z"], x.double() * 0.1, rtol=1e-15, atol=0)


def test_an_override_replaces_a_value_for_later_nodes_and_in_the_cache() -> None:
    program = trace(_two, {"x": X})
    other = X * 3
    for only in (None, ["y"]):
        cache: Cache = {}
        outputs = evaluate(
            program, {"x": X}, overrides={"z": Lifted(other, None)}, only=only, cache=cache
        )
        assert same_bits(outputs["y"], torch.exp(other.mT) + 0.5)
        assert same_bits(cache[program.outputs["z"]].floats, other)
        assert only or same_bits(outputs["z"], _two(X)["z"])  # as computed
    again = evaluate(program, {"x": X}, cache=cache)  # cached values are not computed again
    assert same_bits(again["z"], other)


def test_a_long_program_holds_few_values_at_a_time() -> None:
    """A network of many layers needs the memory of a few of them."""
    alive: weakref.WeakSet[Tensor] = weakref.WeakSet()
    most = 0

    class Counted(Floats):
        def run(self, node: fx.Node, args: Any, kwargs: Any) -> Any:
            nonlocal most
            out = super().run(node, args, kwargs)
            alive.add(out)
            most = max(most, len(alive))
            return out

    def deep(x: Tensor) -> dict[str, Tensor]:
        for _ in range(50):
            x = torch.tanh(x)
        return {"x": x}

    evaluate(trace(deep, {"x": X}), {"x": X}, Counted())
    assert 1 <= most <= 3


def test_operations_that_pass_numbers_on_are_listed_under_their_traced_names() -> None:
    aten = torch.ops.aten

    def passes_on(x: Tensor) -> dict[str, Tensor]:
        x = aten.alias_copy(x.contiguous().detach().clone().mT.contiguous().mT)
        x = aten._unsafe_view(aten.unsqueeze_copy(aten.squeeze_copy(x[None]), 0), [1, 6])
        return {"y": aten.expand_copy(x, [2, 6])}

    names = {operation(node) for node in trace(passes_on, {"x": X}).graph.nodes} - {""}
    assert names - {"permute"} <= SAME_SHAPE | RESHAPES | PICKS


def test_a_graph_walk_ends_at_its_stops() -> None:
    program = trace(_two, {"x": X})
    z, y = program.outputs["z"], program.outputs["y"]
    assert {*program.placeholders()} < upstream([y])
    assert z in upstream([y])
    assert z not in upstream([y], [z])
    assert not {*program.placeholders()} & upstream([y], [z])
    assert upstream([z], [z]) >= {z, *program.placeholders()}  # a start is not a stop for itself
    assert {z, y} < downstream(z)
    assert z not in downstream(y)
    assert program.nodes_leading_to(["y"], ["z"]) == upstream([y], [z])
    assert program.nodes_leading_to(["y"], [], [y]) == set()
    assert (program.ancestors(), program.inputs_by_output()) == (
        {"z": set(), "y": {"z"}}, {"z": {"x"}, "y": {"x"}},
    )  # fmt: skip
