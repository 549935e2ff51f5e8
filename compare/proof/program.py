"""A function as an ATen program: a graph of operations, and what is asked of one.

`trace` makes it, `lift` runs it, in floats or in any other arithmetic.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from torch import Tensor, fx

T = TypeVar("T")


@dataclass(frozen=True)
class ValueOf:
    """Names an intermediate's value; its gradient goes by the name alone."""

    name: str


Key = str | ValueOf  # of a program's output
RESERVED_NAMES = (
    "grad_output",
    "output",
)  # names that are not the user's; of several outputs output[1]

# Operations that hand on the numbers that they take, under the names that a traced program has for
# them: detach, contiguous, _unsafe_view and others are decomposed while it is recorded.
#: In the same shape: a name given to one of them is the name of what stands before it.
SAME_SHAPE = {"alias", "clone", "detach_copy", "lift_fresh_copy"}
#: All of them, in another shape.
RESHAPES = {"expand", "squeeze", "unsqueeze", "view", "view_copy"}
#: Some of them, or each some.
PICKS = {
    "narrow_copy", "select", "select_copy", "slice", "slice_copy", "split_copy",
    "split_with_sizes", "unbind_copy",
}  # fmt: skip


class Opaque(Exception):
    """The function cannot be read as a program; the message says why."""


@dataclass(frozen=True)
class Program:
    """A traced function: its graph, the names of its inputs, the node behind each named output."""

    graph: fx.Graph
    inputs: tuple[str, ...]
    outputs: Mapping[Any, fx.Node]  # by Key; of a by-hand pass by names alone
    # Whether a kernel may round to the inputs' dtype where the program shows a wider one: a fused
    # attention kernel, or an operation whose decomposition widens half precision of its own accord.
    may_round_narrower: bool

    def placeholders(self) -> dict[fx.Node, str]:
        """Return the nodes of the inputs, with their names."""
        nodes = (node for node in self.graph.nodes if node.op == "placeholder")
        return dict(zip(nodes, self.inputs, strict=True))

    def used_inputs(self) -> list[str]:
        """Return the inputs that some operation reads."""
        return [name for node, name in self.placeholders().items() if node.users]

    def inputs_by_output(self) -> dict[Any, set[str]]:
        """Return, for each output, the inputs that it is computed from."""
        found = self._marks({node: [name] for node, name in self.placeholders().items()})
        return {name: found[node] for name, node in self.outputs.items()}

    def captured(self) -> list[tuple[Tensor, int | None]]:
        """Return the tensors that were there before the code ran, a weight or a table.

        With each where its memory begins, None where that is not known.
        """
        nodes = [node for node in self.graph.nodes if node.op == "get_attr"]
        return [(n.meta["val"], n.meta.get("address")) for n in nodes if not n.meta["made"]]

    def with_captured(self, change: Callable[[Tensor, int | None], Tensor | None]) -> "Program":
        """Return the program with other tensors in place of those, where `change` gives one."""
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
        found = self._marks(names)
        # of several names of one node the later is the earlier's value, handed on
        return {
            name: found[node] - {*names[node][names[node].index(name) :]}
            for name, node in self.outputs.items()
        }

    def names_by_node(self) -> dict[fx.Node, list[Any]]:
        """Return the nodes that have names, with these."""
        names: dict[fx.Node, list[Any]] = {}
        for name, node in self.outputs.items():
            names.setdefault(node, []).append(name)
        return names

    def _marks(self, marks: Mapping[fx.Node, Iterable[T]]) -> dict[fx.Node, set[T]]:
        """Return, for each node, the marks on it and on all that it is computed from.

        One walk for all of the nodes, where `upstream` would take one for each.
        """
        found: dict[fx.Node, set[T]] = {}
        for node in self.graph.nodes:
            found[node] = {*marks.get(node, ())}.union(*(found[n] for n in node.all_input_nodes))
        return found

    def nodes_leading_to(
        self, names: Collection[Key], starts: Collection[Key], known: Collection[fx.Node] = ()
    ) -> set[fx.Node]:
        """Return the nodes that these outputs come from, back to the starts and what is known."""
        begun = {self.outputs[name] for name in starts if name in self.outputs}
        ends = (self.outputs[name] for name in names)
        return upstream((node for node in ends if node not in known), begun.union(known))

    def descendants(self) -> dict[str, list[str]]:
        """Return, for each output, the other outputs that are computed from it."""
        above = self.ancestors()
        return {name: [other for other in above if name in above[other]] for name in above}


def upstream(ends: Iterable[fx.Node], stops: Collection[fx.Node] = ()) -> set[fx.Node]:
    """Return nodes and all that they are computed from, back to the `stops`, without those."""
    return _reached(ends, lambda node: (n for n in node.all_input_nodes if n not in stops))


def downstream(node: fx.Node) -> set[fx.Node]:
    """Return a node and all that is computed from it."""
    return _reached([node], lambda node: node.users)


def _reached(
    ends: Iterable[fx.Node], onward: Callable[[fx.Node], Iterable[fx.Node]]
) -> set[fx.Node]:
    found: set[fx.Node] = set()
    left = [*ends]
    while left:
        node = left.pop()
        if node not in found:
            found.add(node)
            left += onward(node)
    return found


def meta_tensor(node: Any) -> Tensor | None:
    """Return an empty tensor laid out as a node's value, None where that is no tensor."""
    found = node.meta.get("val") if isinstance(node, fx.Node) else None
    return found if isinstance(found, Tensor) else None


def float_meta_tensor(node: Any) -> Tensor | None:
    """Return the same for a node that gives floats, None for any other."""
    found = meta_tensor(node)
    return found if found is not None and found.is_floating_point() else None


def operation(node: fx.Node) -> str:
    """Return the name of a node's ATen operation, without its overload; "" for what is none."""
    if node.op != "call_function":
        return ""
    return str(getattr(node.target, "__name__", "")).partition(".")[0]


def skip_copies(node: fx.Node) -> fx.Node:
    """Return the node whose numbers `node` only hands on."""
    while operation(node) in SAME_SHAPE:
        node = node.args[0]  # type: ignore[assignment]
    return node


def source_line(node: fx.Node) -> tuple[str, int] | None:
    """Return the file and the line of the code that asked for this operation, None if unknown."""
    file, _, line = (node.meta.get("line") or "").rpartition(":")
    return (file, int(line)) if file and line.isdigit() else None


def constant_text(node: fx.Node) -> str:
    """Return a constant's dtype, shape and numbers."""
    value = node.meta["val"]
    return f"{value.dtype}{tuple(value.shape)}{value.flatten().tolist()}"


def node_text(node: fx.Node) -> str:
    """Return an operation as a text, a constant with its numbers."""
    return constant_text(node) if node.op == "get_attr" else node.format_node() or ""


def base_name(name: str) -> str:
    """Return `output` of output[1]; a name of the user's own is itself, w[1] too."""
    own = name.partition("[")[0]
    return own if own in RESERVED_NAMES else name
