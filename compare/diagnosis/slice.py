"""One by-hand quantity worked out again with one change in the operations that lead to it."""

import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from compare.diagnosis.evaluation_points import Nodes, Value
from compare.diagnosis.expressions import SAME
from compare.proof.balls import Balls
from compare.proof.interpreter import Floats, Lifted, Unsupported, compute
from compare.proof.program import Program, operation, upstream

# Every dtype of floats is float64 here, so that nothing is rounded on the way.
_NEAR = Floats(lambda dtype: torch.float64 if dtype.is_floating_point else dtype)


@dataclass(frozen=True)
class Substitution:
    """A change: what some nodes read in place of `old`, and other operations for some nodes."""

    old: fx.Node | None = None
    new: tuple[Value, ...] = ()  # at each sample, in place of `old`
    readers: Collection[fx.Node] = ()  # who reads it
    operations: Mapping[fx.Node, fx.Node] = field(default_factory=dict)


def another(node: fx.Node, target: Any = None, args: Any = None) -> fx.Node:
    """Return a node like `node` with another target, or other arguments, in no program."""
    target = node.target if target is None else target
    args = node.args if args is None else args
    return fx.Graph().create_node("call_function", target, args, dict(node.kwargs))


class Slice:
    """The operations from the named values to one quantity, to be run again with an edit."""

    def __init__(self, program: Program, name: str) -> None:
        self.end = program.outputs[name]
        named = {node for node in program.outputs.values() if node is not self.end}
        needed = upstream([self.end], named)
        self.nodes = [n for n in program.graph.nodes if n in needed and n.op == "call_function"]

    def operands(self) -> list[tuple[fx.Node, list[fx.Node]]]:
        """Return what is read on the way, each with its readers; the same numbers only once."""
        readers: dict[fx.Node, list[fx.Node]] = {}
        for node in self.nodes:
            for source in node.all_input_nodes:
                readers.setdefault(source, []).append(node)
        same = {node for node in self.nodes if operation(node) in SAME}
        return [(node, who) for node, who in readers.items() if node not in same]

    def near(self, values: Nodes, edit: Substitution, sample: int) -> Tensor | None:
        """Return the quantity with the edit in float64, None where it cannot be."""
        found = self._again(values, edit, sample, _NEAR)
        return found.floats if found and isinstance(found.floats, Tensor) else None

    def balls(self, values: Nodes, edit: Substitution, sample: int, n: Balls) -> Any:
        """Return the quantity with the edit in balls, None where it cannot be."""
        found = self._again(values, edit, sample, n)
        return found.numbers if found and not isinstance(found.numbers, Unsupported) else None

    def _again(
        self, values: Nodes, edit: Substitution, sample: int, n: Balls | Floats
    ) -> Lifted | None:
        """Work out what the edit changes, and leave everything else as it is."""
        changed: dict[fx.Node, Lifted] = {}

        def read(source: fx.Node, swaps: bool) -> Lifted:
            swapped = swaps and source is edit.old
            if source in changed and not swapped:
                return changed[source]
            value = edit.new[sample] if swapped else values[source]
            return Lifted(value.near, None) if n is _NEAR else value

        with torch.no_grad(), contextlib.suppress(Exception):  # shapes that do not fit
            for node in self.nodes:
                swaps = node in edit.readers
                operation = edit.operations.get(node, node)
                reads = swaps or any(source in changed for source in node.all_input_nodes)
                if reads or operation is not node:
                    sources = operation.all_input_nodes
                    changed[node] = compute(n, operation, {s: read(s, swaps) for s in sources})
            return changed.get(self.end)
        return None


def moved(value: Value, numbers: Callable[[Any], Any]) -> Value:
    """Return a value whose numbers are put elsewhere, by a function of numpy arrays."""
    floats = value.floats.detach().cpu()
    wide = numbers(floats.double().numpy())
    return Value(torch.tensor(wide.copy()).to(value.floats.dtype), numbers(value.numbers))


def elsewhere(shape: Sequence[int]) -> Iterator[tuple[str, Callable[[Any], Any]]]:
    """Yield ways to put the elements of a shape elsewhere in it, as one writes them in torch."""
    if len(shape) >= 2 and shape[-1] == shape[-2] > 1:
        yield ".mT", partial(np.swapaxes, axis1=-1, axis2=-2)
    for dim in range(len(shape)):
        back = dim - len(shape)
        if shape[dim] > 1:
            yield f".flip({back})", partial(np.flip, axis=dim)
        if shape[dim] > 2:
            yield f".roll(1, {back})", partial(np.roll, shift=1, axis=dim)
            yield f".roll(-1, {back})", partial(np.roll, shift=-1, axis=dim)
