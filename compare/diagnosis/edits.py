"""One by-hand quantity worked out again with one change in the operations that lead to it."""

import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from compare.diagnosis.expressions import SAME
from compare.diagnosis.samples import Nodes, Value
from compare.proof.balls import Balls
from compare.proof.lift import Missing, call
from compare.proof.program import Program, above, operation

_CASTS = {"_to_copy"}  # float64 stays float64 here, so that nothing is rounded on the way


@dataclass(frozen=True)
class Edit:
    """A change: what some nodes read in place of `old`, and other operations for some nodes."""

    old: fx.Node | None = None
    new: tuple[Value, ...] = ()  # at each sample, in place of `old`
    readers: Collection[fx.Node] = ()  # who reads it
    operations: Mapping[fx.Node, fx.Node] = field(default_factory=dict)


def another(node: fx.Node, target: Any = None, args: Any = None) -> fx.Node:
    """Return a node like `node` with another target, or other arguments, in no program."""
    graph = fx.Graph()
    return graph.create_node(
        "call_function",
        node.target if target is None else target,
        node.args if args is None else args,
        dict(node.kwargs),
    )


class Way:
    """The operations from the named values to one quantity, to be run again with an edit."""

    def __init__(self, program: Program, name: str) -> None:
        self.end = program.outputs[name]
        named = {node for node in program.outputs.values() if node is not self.end}
        needed = above([self.end], named)
        self.nodes = [n for n in program.graph.nodes if n in needed and n.op == "call_function"]

    def operands(self) -> list[tuple[fx.Node, list[fx.Node]]]:
        """Return what is read on the way, each with its readers; the same numbers only once."""
        readers: dict[fx.Node, list[fx.Node]] = {}
        for node in self.nodes:
            for source in node.all_input_nodes:
                readers.setdefault(source, []).append(node)
        return [
            (node, who)
            for node, who in readers.items()
            if not (operation(node) in SAME and node in self.nodes)
        ]

    def near(self, values: Nodes, edit: Edit, sample: int) -> Tensor | None:
        """Return the quantity with the edit in float64, None where it cannot be."""

        def run(node: fx.Node, read: Callable[[fx.Node], Any]) -> Any:
            if operation(node) in _CASTS:
                return read(node.all_input_nodes[0])
            args, kwargs = fx.node.map_arg((node.args, dict(node.kwargs)), read)
            assert callable(node.target)
            return node.target(*args, **kwargs)

        with torch.no_grad(), contextlib.suppress(Exception):  # shapes that do not fit
            found = self._again(edit, lambda n: values[n].near, run, lambda v: v.near, sample)
            return found if isinstance(found, Tensor) else None
        return None

    def balls(self, values: Nodes, edit: Edit, sample: int, n: Balls) -> Any:
        """Return the quantity with the edit in balls, None where it cannot be."""

        def run(node: fx.Node, read: Callable[[fx.Node], Any]) -> Any:
            sources = {source: read(source) for source in node.all_input_nodes}
            floats = {source: value.floats for source, value in sources.items()}
            balls = {source: value.balls for source, value in sources.items()}
            out, found = call(n, node, floats, balls)
            if isinstance(found, Missing):
                raise TypeError(str(found))
            return Value(out, found)

        with torch.no_grad(), contextlib.suppress(Exception):
            found = self._again(edit, lambda n: values[n], run, lambda v: v, sample)
            return found.balls
        return None

    def _again(
        self,
        edit: Edit,
        held: Callable[[fx.Node], Any],
        run: Callable[[fx.Node, Callable[[fx.Node], Any]], Any],
        form: Callable[[Value], Any],
        sample: int,
    ) -> Any:
        """Work out what the edit changes, and leave everything else as it is."""
        changed: dict[fx.Node, Any] = {}
        for node in self.nodes:
            reads = edit.old is not None and node in edit.readers
            if not (
                reads or node in edit.operations or any(s in changed for s in node.all_input_nodes)
            ):
                continue

            def read(source: fx.Node, reads: bool = reads) -> Any:
                if reads and source is edit.old:
                    return form(edit.new[sample])
                return changed[source] if source in changed else held(source)

            changed[node] = run(edit.operations.get(node, node), read)
        return changed.get(self.end)


def moved(value: Value, numbers: Callable[[Any], Any]) -> Value:
    """Return a value whose numbers are put elsewhere, by a function of numpy arrays."""
    floats = value.floats.detach().cpu()
    wide = numbers(floats.double().numpy())
    return Value(torch.tensor(wide.copy()).to(value.floats.dtype), numbers(value.balls))


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
