"""The operations that compute one by-hand quantity, recomputed with one change in them."""

import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from compare.diagnosis.evaluation_points import Nodes, Value
from compare.diagnosis.expressions import PASS_THROUGH
from compare.proof.balls import Balls
from compare.proof.interpreter import Floats, Lifted, Unsupported, compute
from compare.proof.program import Program, operation, upstream

# Runs every float dtype as float64, so that half precision does not hide a candidate.
_FLOAT64 = Floats(lambda dtype: torch.float64 if dtype.is_floating_point else dtype)


@dataclass(frozen=True)
class Substitution:
    """A change to a slice: readers of `old` read `new` instead, and some operations differ."""

    old: fx.Node | None = None
    new: tuple[Value, ...] = ()  # at each evaluation point
    readers: Collection[fx.Node] = ()
    operations: Mapping[fx.Node, fx.Node] = field(default_factory=dict)  # node -> its replacement


def changed_node(node: fx.Node, target: Any = None, args: Any = None) -> fx.Node:
    """Return a copy of `node` in no program, with another target or other arguments."""
    target = node.target if target is None else target
    args = node.args if args is None else args
    return fx.Graph().create_node("call_function", target, args, dict(node.kwargs))


class Slice:
    """The backward slice of a quantity: the operations between the named values and it."""

    def __init__(self, program: Program, name: str) -> None:
        self.end = program.outputs[name]
        named = {node for node in program.outputs.values() if node is not self.end}
        needed = upstream([self.end], named)
        self.nodes = [n for n in program.graph.nodes if n in needed and n.op == "call_function"]

    def operands(self) -> list[tuple[fx.Node, list[fx.Node]]]:
        """Return each node that the slice reads, with its readers; copies and views left out."""
        readers: dict[fx.Node, list[fx.Node]] = {}
        for node in self.nodes:
            for source in node.all_input_nodes:
                readers.setdefault(source, []).append(node)
        copies = {node for node in self.nodes if operation(node) in PASS_THROUGH}
        return [(node, by) for node, by in readers.items() if node not in copies]

    def midpoints(self, values: Nodes, edit: Substitution, point: int) -> Tensor | None:
        """Return the quantity after the substitution in float64, None where it cannot run."""
        value = self._recompute(values, edit, point, _FLOAT64)
        return value.floats if value and isinstance(value.floats, Tensor) else None

    def balls(self, values: Nodes, edit: Substitution, point: int, n: Balls) -> Any:
        """Return the quantity after the substitution in balls, None where it cannot run."""
        value = self._recompute(values, edit, point, n)
        return value.numbers if value and not isinstance(value.numbers, Unsupported) else None

    def _recompute(
        self, values: Nodes, edit: Substitution, point: int, n: Balls | Floats
    ) -> Lifted | None:
        """Recompute only the nodes that the substitution changes."""
        changed: dict[fx.Node, Lifted] = {}

        def read(source: fx.Node, substitutes: bool) -> Lifted:
            substituted = substitutes and source is edit.old
            if source in changed and not substituted:
                return changed[source]
            value = edit.new[point] if substituted else values[source]
            return Lifted(value.midpoints, None) if n is _FLOAT64 else value

        with torch.no_grad(), contextlib.suppress(Exception):  # shapes that do not match
            for node in self.nodes:
                substitutes = node in edit.readers
                operation = edit.operations.get(node, node)
                reads = substitutes or any(source in changed for source in node.all_input_nodes)
                if reads or operation is not node:
                    operands = {s: read(s, substitutes) for s in operation.all_input_nodes}
                    changed[node] = compute(n, operation, operands)
                    if _has_nan(changed[node].floats):  # kernels may take NaN for an index
                        return None
            return changed.get(self.end)
        return None


def _has_nan(floats: Any) -> bool:
    return isinstance(floats, Tensor) and floats.is_floating_point() and bool(floats.isnan().any())


def rearranged(value: Value, move: Callable[[Any], Any]) -> Value:
    """Return a value with its elements moved; `move` maps a numpy array to another."""
    floats = value.floats.detach().cpu()
    moved = move(floats.double().numpy())
    return Value(torch.tensor(moved.copy()).to(value.floats.dtype), move(value.numbers))


def rearrangements(shape: Sequence[int]) -> Iterator[tuple[str, Callable[[Any], Any]]]:
    """Yield torch calls that keep a shape but move its elements, each with its numpy function."""
    if len(shape) >= 2 and shape[-1] == shape[-2] > 1:
        yield ".mT", partial(np.swapaxes, axis1=-1, axis2=-2)
    for dim in range(len(shape)):
        back = dim - len(shape)
        if shape[dim] > 1:
            yield f".flip({back})", partial(np.flip, axis=dim)
        if shape[dim] > 2:
            yield f".roll(1, {back})", partial(np.roll, shift=1, axis=dim)
            yield f".roll(-1, {back})", partial(np.roll, shift=-1, axis=dim)
