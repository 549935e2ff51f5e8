"""A traced function as a program: a graph of ATen operations, and queries on the graph.

`trace` creates a program; `lift` computes it in floats and in exact arithmetic or bounds at once.
"""

import hashlib
import os
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor, fx

T = TypeVar("T")


@dataclass(frozen=True)
class ValueOf:
    """The name of an intermediate's value; the plain name is that of its gradient."""

    name: str


Key = str | ValueOf  # names an output of a program
#: Names that no input or intermediate of the user may have; with several outputs `output[1]` etc.
RESERVED_NAMES = "grad_output", "output"

# Operations whose results are elements of their operands, by the names that a traced program has
# for them: detach, contiguous, _unsafe_view and others are decomposed while they are recorded.
#: All elements, in the same shape: a name given to the result is a name of the operand.
SAME_SHAPE = {"alias", "clone", "detach_copy", "lift_fresh_copy"}
#: All elements, in another shape.
RESHAPES = {"expand", "squeeze", "unsqueeze", "view", "view_copy"}
#: Some of the elements; or several results, each with some of the elements.
PICKS = {
    "narrow_copy", "select", "select_copy", "slice", "slice_copy", "split_copy",
    "split_with_sizes", "unbind_copy",
}  # fmt: skip


class Opaque(Exception):
    """The function cannot be traced as a program; the message says why."""


@dataclass(frozen=True)
class Program:
    """A traced function.

    Attributes:
        graph: The operations.
        inputs: The names of the inputs, in the order of the graph's placeholders.
        outputs: The node of each named output, by `Key`; those of a by-hand pass have plain names.
        may_round_narrower: Whether a kernel may round to the dtype of the inputs where the program
            has a wider dtype: a fused attention kernel, or an operation whose decomposition widens
            half precision.
    """

    graph: fx.Graph
    inputs: tuple[str, ...]
    outputs: Mapping[Any, fx.Node]
    may_round_narrower: bool

    def placeholders(self) -> dict[fx.Node, str]:
        """Return the nodes of the inputs, with their names."""
        nodes = (node for node in self.graph.nodes if node.op == "placeholder")
        return dict(zip(nodes, self.inputs, strict=True))

    def used_inputs(self) -> list[str]:
        """Return the inputs that some operation uses."""
        return [name for node, name in self.placeholders().items() if node.users]

    def inputs_by_output(self) -> dict[Any, set[str]]:
        """Return, for each output, the inputs that it depends on."""
        marks = self._propagate({node: [name] for node, name in self.placeholders().items()})
        return {name: marks[node] for name, node in self.outputs.items()}

    def captured(self) -> list[tuple[Tensor, int | None]]:
        """Return the tensors that existed before the code ran, such as weights or tables.

        Each comes with the address where its memory begins, None if that is unknown.
        """
        nodes = [node for node in self.graph.nodes if node.op == "get_attr"]
        return [(n.meta["val"], n.meta.get("address")) for n in nodes if not n.meta["made"]]

    def with_captured(self, change: Callable[[Tensor, int | None], Tensor | None]) -> "Program":
        """Return the program with other tensors in place of the captured ones.

        Args:
            change: Called with each captured tensor and its address. Returns the tensor to put in
                its place, None to keep it.
        """
        graph, copies = fx.Graph(), dict[fx.Node, fx.Node]()
        for node in self.graph.nodes:
            copy = copies[node] = graph.node_copy(node, copies.__getitem__)
            if node.op == "get_attr" and not node.meta["made"]:
                new = change(node.meta["val"], node.meta.get("address"))
                copy.meta = copy.meta | ({} if new is None else {"val": new})
        return replace(
            self, graph=graph, outputs={name: copies[n] for name, n in self.outputs.items()}
        )

    def ancestors(self) -> dict[Any, set[Any]]:
        """Return, for each output, the other outputs that it is computed from."""
        names = self.names_by_node()
        marks = self._propagate(names)
        # if a node has several names, each later one is a copy of the earlier ones
        return {
            name: marks[node] - {*names[node][names[node].index(name) :]}
            for name, node in self.outputs.items()
        }

    def descendants(self) -> dict[str, list[str]]:
        """Return, for each output, the other outputs that are computed from it."""
        ancestors = self.ancestors()
        return {
            name: [other for other in ancestors if name in ancestors[other]] for name in ancestors
        }

    def names_by_node(self) -> dict[fx.Node, list[Any]]:
        """Return the names of each node that is an output."""
        names: dict[fx.Node, list[Any]] = {}
        for name, node in self.outputs.items():
            names.setdefault(node, []).append(name)
        return names

    def _propagate(self, marks: Mapping[fx.Node, Iterable[T]]) -> dict[fx.Node, set[T]]:
        """Return, for each node, the marks of the node and of all nodes that it is computed from.

        This takes one walk for all nodes; `upstream` takes one for each.
        """
        all_marks: dict[fx.Node, set[T]] = {}
        for node in self.graph.nodes:
            sources = (all_marks[n] for n in node.all_input_nodes)
            all_marks[node] = {*marks.get(node, ())}.union(*sources)
        return all_marks

    def nodes_leading_to(
        self, names: Collection[Key], starts: Collection[Key], known: Collection[fx.Node] = ()
    ) -> set[fx.Node]:
        """Return the nodes needed to compute some outputs.

        Args:
            names: The outputs to compute.
            starts: Outputs whose values are known where another output needs them.
            known: Nodes whose values are known.
        """
        stops = {self.outputs[name] for name in starts if name in self.outputs}
        ends = (self.outputs[name] for name in names)
        return upstream((node for node in ends if node not in known), stops.union(known))


def upstream(ends: Iterable[fx.Node], stops: Collection[fx.Node] = ()) -> set[fx.Node]:
    """Return nodes and all that they are computed from, back to the `stops` and without them.

    An end is included even if it is a stop.
    """
    return _reachable(ends, lambda node: (n for n in node.all_input_nodes if n not in stops))


def downstream(node: fx.Node) -> set[fx.Node]:
    """Return a node and all that is computed from it."""
    return _reachable([node], lambda node: node.users)


def _reachable(
    starts: Iterable[fx.Node], neighbours: Callable[[fx.Node], Iterable[fx.Node]]
) -> set[fx.Node]:
    visited: set[fx.Node] = set()
    stack = [*starts]
    while stack:
        node = stack.pop()
        if node not in visited:
            visited.add(node)
            stack += neighbours(node)
    return visited


def meta_tensor(node: Any) -> Tensor | None:
    """Return an empty tensor laid out as a node's value, None if the value is no tensor."""
    value = node.meta.get("val") if isinstance(node, fx.Node) else None
    return value if isinstance(value, Tensor) else None


def elements(nodes: Iterable[fx.Node]) -> int:
    """Return the total number of elements of the nodes' values."""
    return sum(value.numel() for value in map(meta_tensor, nodes) if value is not None)


def work(nodes: Iterable[fx.Node]) -> int:
    """Return the total number of elements, and of the windows that convolutions multiply."""
    return sum(_elements_of(node) for node in nodes)


def _elements_of(node: fx.Node) -> int:
    value = meta_tensor(node)
    if value is None:
        return 0
    if operation(node) == "convolution":
        weight = meta_tensor(node.args[1])
        assert weight is not None
        return value[:, 0].numel() * weight[0].numel()
    return value.numel()


def float_meta_tensor(node: Any) -> Tensor | None:
    """Return an empty tensor laid out as a node's value, None if the value is no float tensor."""
    value = meta_tensor(node)
    return value if value is not None and value.is_floating_point() else None


def operation(node: fx.Node) -> str:
    """Return the name of a node's ATen operation without its overload, "" if it calls none."""
    if node.op != "call_function":
        return ""
    return str(getattr(node.target, "__name__", "")).partition(".")[0]


def skip_copies(node: fx.Node) -> fx.Node:
    """Return the node whose value `node` copies, or the node itself if it is no copy."""
    while operation(node) in SAME_SHAPE:
        node = node.args[0]  # type: ignore[assignment]
    return node


def source_line(node: fx.Node) -> tuple[str, int] | None:
    """Return the file and the line number of the code behind an operation, None if unknown."""
    file, _, line = (node.meta.get("line") or "").rpartition(":")
    return (file, int(line)) if file and line.isdigit() else None


def line_text(node: fx.Node) -> str:
    """Return the line of code behind an operation as " at file.py:14", "" if it is unknown."""
    line = source_line(node)
    return f" at {os.path.basename(line[0])}:{line[1]}" if line else ""


def random_draw(node: fx.Node) -> str | None:
    """Return in words that an operation draws random numbers, None if it does not."""
    if torch.Tag.nondeterministic_seeded not in getattr(node.target, "tags", ()):
        return None
    return f"it draws random numbers ({operation(node)}{line_text(node)}); pass them as an input"


MOST_IN_TEXT = 1_000  # numbers of a constant


def constant_text(node: fx.Node) -> str:
    """Return the dtype, shape and numbers of a constant as a text; of many numbers a digest."""
    value = node.meta["val"]
    numbers: Any = value.flatten()
    if value.numel() > MOST_IN_TEXT:
        memory = numbers.detach().cpu().resolve_conj().resolve_neg().view(torch.uint8)
        numbers = hashlib.sha256(memory.numpy().tobytes()).hexdigest()
    else:
        numbers = numbers.tolist()
    return f"{value.dtype}{tuple(value.shape)}{numbers}"


def node_text(node: fx.Node) -> str:
    """Return an operation, or a constant with its numbers, as a text."""
    return constant_text(node) if node.op == "get_attr" else node.format_node() or ""


def base_name(name: str) -> str:
    """Return `output` for output[1]; a name of the user's, such as w[1], is returned unchanged."""
    base = name.partition("[")[0]
    return base if base in RESERVED_NAMES else name
