"""The mutation operators: each yields the mutations of one kind that an operation can have.

A mutation is a description and a change to a copy of the graph. Whether the changed program still
runs is tested in `mutate`.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx

from compare.proof.other_inputs import seeded_generator
from compare.proof.program import (
    PICKS,
    RESHAPES,
    SAME_SHAPE,
    Program,
    downstream,
    float_meta_tensor,
    meta_tensor,
    operation,
    upstream,
)
from compare.torch_private import arguments

aten = torch.ops.aten
Floats = Mapping[fx.Node, Any]


class GraphEdit:
    """A copy of a program's graph, to be edited at one operation, `node`."""

    def __init__(self, program: Program, node: fx.Node) -> None:
        self.graph = fx.Graph()
        self.copies: dict[fx.Node, fx.Node] = {}
        self.graph.output(self.graph.graph_copy(program.graph, self.copies))
        self.node = self.copies[node]

    def unchanged(self) -> dict[fx.Node, fx.Node]:
        """Return the copies whose values the edit does not change, with their originals."""
        originals = {copy: node for node, copy in self.copies.items()}
        unchanged: dict[fx.Node, fx.Node] = {}
        for copy in self.graph.nodes:
            node = originals.get(copy)
            if node is None or node.target != copy.target:
                continue
            sources = fx.node.map_arg((copy.args, copy.kwargs), unchanged.get)
            if sources == (node.args, node.kwargs):
                unchanged[copy] = node
        return unchanged

    def insert(self, target: Any, *args: Any, after: fx.Node, **kwargs: Any) -> fx.Node:
        """Insert an operation right after another, and return it."""
        with self.graph.inserting_after(after):
            return self.graph.call_function(target, args, kwargs)

    def append(self, target: Any, *args: Any) -> None:
        """Apply one more operation to the result of the node."""
        self.replace(self.insert(target, self.node, *args, after=self.node))

    def constant(self, value: Tensor) -> fx.Node:
        """Insert a constant, and return its node."""
        with self.graph.inserting_before(next(iter(self.graph.nodes))):
            node = self.graph.get_attr("mutant")
        node.meta |= {"val": value, "made": False}
        return node

    def replace(self, new: fx.Node, *, of: fx.Node | None = None) -> None:
        """Make all readers of the node, or of `of`, read `new` instead; except `new` itself."""
        (of or self.node).replace_all_uses_with(new, delete_user_cb=lambda user: user is not new)


Substitution = Callable[[GraphEdit], None]
Mutations = Iterator[tuple[str, Substitution]]  # each with its description

# -- which operations

#: Operations that are not mutated, since they return the numbers that they get, at most rounded by
#: a cast: mutants of the operation before them cover them.
PASS_THROUGH = SAME_SHAPE | RESHAPES | PICKS | {"_to_copy"}
_SIBLINGS = {
    "add": ["sub"], "sub": ["add"], "mul": ["div"], "div": ["mul"],
    "maximum": ["minimum"], "minimum": ["maximum"], "amax": ["amin"], "amin": ["amax"],
    "max": ["min"], "min": ["max"], "clamp_min": ["clamp_max"], "clamp_max": ["clamp_min"],
    "gt": ["lt", "ge"], "lt": ["gt", "le"], "ge": ["le", "gt"], "le": ["ge", "lt"],
    "eq": ["ne"], "ne": ["eq"], "sin": ["cos"], "cos": ["sin"], "sqrt": ["rsqrt"],
    "rsqrt": ["sqrt"], "exp": ["expm1"], "log": ["log1p"], "log1p": ["log"],
    "sigmoid": ["tanh"], "tanh": ["sigmoid"], "sum": ["mean"], "mean": ["sum"],
}  # fmt: skip
#: (sibling, overload of the operation) -> overload of the sibling, where the two differ.
_OVERLOADS = {("mean", "dim_IntList"): "dim", ("sum", "dim"): "dim_IntList"}
_NON_COMMUTATIVE = {"sub", "div", "mm", "bmm", "pow", "where", "gt", "lt", "ge", "le"}
_ALONG_DIMS = {"sum", "mean", "amax", "amin", "var", "cumsum", "_softmax", "_log_softmax", "prod"}


def same_shape_and_dtype(first: Any, second: Any) -> bool:
    """Whether two nodes are tensors of floats with the same shape and dtype."""
    a, b = float_meta_tensor(first), float_meta_tensor(second)
    return a is not None and b is not None and a.shape == b.shape and a.dtype == b.dtype


def is_operation(node: fx.Node) -> bool:
    """Whether a node computes something that a mutation could make wrong."""
    return node.op == "call_function" and operation(node) not in PASS_THROUGH


# -- the operators


def _dropped(node: fx.Node, _floats: Floats) -> Mutations:
    """Replace the operation by one of its operands; leave out a reduction or a transpose."""
    along_dims = operation(node) in _ALONG_DIMS
    for source in dict.fromkeys(
        node.all_input_nodes if float_meta_tensor(node) is not None else ()
    ):
        leaves_out = along_dims and float_meta_tensor(source) is not None
        if same_shape_and_dtype(source, node) or leaves_out:
            description = f"replaced by its operand {_name_of(source)}"
            yield "left out" if along_dims else description, partial(_use_operand, source)
    if operation(node) == "permute":
        yield "left out: not transposed", partial(_use_operand, node.all_input_nodes[0])


def _use_operand(source: fx.Node, edit: GraphEdit) -> None:
    edit.replace(edit.copies[source])


def _sibling(node: fx.Node, _floats: Floats) -> Mutations:
    """Replace the operation by a related one."""
    overload = getattr(node.target, "__name__", "").partition(".")[2]
    for sibling in _SIBLINGS.get(operation(node), []):
        packet = getattr(aten, sibling)
        name = _OVERLOADS.get((sibling, overload), overload)
        if name in packet.overloads():
            yield f"replaced by {sibling}", partial(_set_target, getattr(packet, name))


def _set_target(target: Any, edit: GraphEdit) -> None:
    edit.node.target = target


def _exchanged(node: fx.Node, _floats: Floats) -> Mutations:
    """Exchange the two operands."""
    if operation(node) in _NON_COMMUTATIVE:
        yield "operands exchanged", _exchange


def _exchange(edit: GraphEdit) -> None:
    *others, first, second = edit.node.args
    edit.node.args = (*others, second, first)


def _transposed(node: fx.Node, _floats: Floats) -> Mutations:
    """Transpose an operand in its last two dimensions."""
    product = operation(node) in ("mm", "bmm")
    for at, source in enumerate(node.args):
        value = meta_tensor(source)
        if value is None or value.ndim < 2 or operation(source) == "permute":  # type: ignore[arg-type]
            continue
        rows, columns = value.shape[-2:]
        fits = product or (rows == columns and float_meta_tensor(node) is not None)
        if fits and max(rows, columns) > 1:
            yield f"{_name_of(source)} transposed", partial(_transpose, at, value.ndim)


def _transpose(at: int, ndim: int, edit: GraphEdit) -> None:
    order = [*range(ndim - 2), ndim - 1, ndim - 2]
    source = edit.node.args[at]
    assert isinstance(source, fx.Node)
    transposed = edit.insert(aten.permute.default, source, order, after=source)
    edit.node.update_arg(at, transposed)


def _constant(node: fx.Node, _floats: Floats) -> Mutations:
    """Change a constant by a factor of 1 + 1e-4, by 1, to 0, and from n to n - 1."""
    for where, number in numeric_arguments(node):
        slightly = "multiplied by 1 + 1e-4" if number else "set to 1e-4"
        changed: dict[str, float] = {
            f"constant {number:g} {slightly}": number * (1 + 1e-4) if number else 1e-4,
            f"constant {number:g} increased by 1": number + 1,
            f"constant {number:g} set to zero": 0,
        }
        n = _integer_in(number)
        if n is not None:
            one_less = number - 1 if number == n else 1 / (n - 1)
            changed[f"constant {number:.6g} computed with n = {n - 1} in place of {n}"] = one_less
        elif (n := _integer_in(number - 1)) is not None:  # (n + 1) / n
            changed[f"constant {number:.6g} set to 1: a variance divided by the other count"] = 1
        for description, value in changed.items():
            if value != number:
                whole = isinstance(number, int) and value == int(value)
                new = int(value) if whole else value
                yield description, partial(_set_argument, where, new)


_NUMERIC_TYPES = ("NumberType", "FloatType", "TensorType")


def numeric_arguments(node: fx.Node) -> Iterator[tuple[int | str, float]]:
    """Yield the position or keyword, and the value, of each numeric argument of an operation.

    Sizes and dimensions are not numeric arguments.
    """
    for at, argument in enumerate(arguments(node.target)):
        where: int | str = at if at < len(node.args) else argument.name
        value = node.args[at] if at < len(node.args) else node.kwargs.get(argument.name)
        kind = argument.type
        if kind.kind() == "OptionalType":
            kind = kind.getElementType()
        if not isinstance(value, int | float) or isinstance(value, bool):
            continue
        if kind.kind() in _NUMERIC_TYPES and math.isfinite(value):
            yield where, value


def _integer_in(number: float) -> int | None:
    """Return the integer n >= 2 of which a number is n or 1 / n, None if there is none."""
    for candidate in (number, 1 / number if number else 0):
        if candidate >= 2 and abs(candidate - round(candidate)) < 1e-9 * candidate:
            return round(candidate)
    return None


def _set_argument(where: int | str, value: Any, edit: GraphEdit) -> None:
    if isinstance(where, int):
        edit.node.update_arg(where, value)
    else:
        edit.node.update_kwarg(where, value)


def _dimension(node: fx.Node, _floats: Floats) -> Mutations:
    """Reduce, or take a softmax, over another dimension."""
    source = meta_tensor(node.args[0]) if node.args else None
    if operation(node) not in _ALONG_DIMS or source is None or len(node.args) < 2:
        return
    dims = node.args[1]
    if isinstance(dims, int):
        others: list[Any] = [d for d in range(source.ndim) if d != dims % source.ndim]
    elif isinstance(dims, list | tuple):
        current = {int(d) % source.ndim for d in dims}  # type: ignore[arg-type]
        others = [[d] for d in range(source.ndim) if {d} != current]
    else:
        return
    for other in others:
        yield f"over dimension {other} in place of {dims}", partial(_set_argument, 1, other)


def _count(node: fx.Node, _floats: Floats) -> Mutations:
    """Divide a mean by n - 1."""
    source, out = (meta_tensor(n) for n in (node.args[0] if node.args else None, node))
    if operation(node) == "mean" and source is not None and out is not None and out.numel():
        n = source.numel() // out.numel()
        if n > 1:
            ratio = n / (n - 1)
            yield (
                f"divided by {n - 1} in place of {n}",
                lambda edit: edit.append(aten.mul.Tensor, ratio),
            )


def _sign(node: fx.Node, _floats: Floats) -> Mutations:
    """Negate the result."""
    if float_meta_tensor(node) is not None and operation(node) not in ("neg", "permute"):
        yield "negated", lambda edit: edit.append(aten.neg.default)


def _stale(node: fx.Node, _floats: Floats) -> Mutations:
    """Replace an operand by the value before or after it, or an input by another input."""
    later = downstream(node)
    for source in dict.fromkeys(node.all_input_nodes):
        if float_meta_tensor(source) is None:
            continue
        for before in dict.fromkeys(source.all_input_nodes if is_operation(source) else ()):
            if same_shape_and_dtype(before, source) and before not in node.all_input_nodes:
                names = f"{_name_of(source)} replaced by {_name_of(before)}"
                yield f"{names}, from which it is computed", partial(_swap, source, before)
        for after in source.users:
            fits = (
                is_operation(after)
                and operation(after) != "permute"
                and same_shape_and_dtype(after, source)
            )
            if fits and after not in {*later, *node.all_input_nodes}:
                names = f"{_name_of(source)} replaced by {_name_of(after)}"
                yield f"{names}, which is computed from it", partial(_swap, source, after)
        if source.op == "placeholder":
            inputs = [
                n
                for n in node.graph.nodes
                if n.op == "placeholder" and same_shape_and_dtype(n, source)
            ]
            other = inputs[(inputs.index(source) + 1) % len(inputs)]
            if other not in node.all_input_nodes:
                description = f"{_name_of(source)} replaced by the input {_name_of(other)}"
                yield description, partial(_swap, source, other)


def _swap(old: fx.Node, new: fx.Node, edit: GraphEdit) -> None:
    """Replace an operand; move `new` before the operation if it comes later."""
    needed = upstream([edit.copies[new]])
    order = list(edit.graph.nodes)
    for late in order[order.index(edit.node) :]:
        if late in needed:
            edit.node.prepend(late)
    edit.node.replace_input_with(edit.copies[old], edit.copies[new])


def _element(node: fx.Node, floats: Floats) -> Mutations:
    """Change or negate one element of the result; flip one element of a mask."""
    values = floats.get(node)
    if not isinstance(values, Tensor) or not values.numel() or operation(node) == "permute":
        return
    rng = seeded_generator("element", values.numel())
    at = int(torch.randint(values.numel(), (), generator=rng))
    if values.dtype == torch.bool:
        yield (
            "one element of the mask flipped",
            _change_one_element(aten.logical_xor.default, values, at, 0, 1),
        )
    if not values.is_floating_point():
        return
    largest = float(values.abs().max())
    change = 1e-3 * largest if 0 < largest < math.inf else 1e-3
    yield "one element changed", _change_one_element(aten.add.Tensor, values, at, 0, change)
    if largest > 0 and values.numel() > 1:
        nonzero = values.flatten().nonzero().flatten()
        at = int(nonzero[at % len(nonzero)])
        yield "one element negated", _change_one_element(aten.mul.Tensor, values, at, 1, -1)


def _change_one_element(
    target: Any, like: Tensor, at: int, elsewhere: float, here: float
) -> Substitution:
    """Apply `target` to the result and a constant: `here` at one element, else `elsewhere`."""
    constant = torch.full(like.shape, elsewhere, dtype=like.dtype, device=like.device)
    constant.view(-1)[at] = here
    return lambda edit: edit.append(target, edit.constant(constant))


KINDS: dict[str, Callable[[fx.Node, Floats], Mutations]] = {
    "dropped": _dropped,
    "sibling": _sibling,
    "exchanged": _exchanged,
    "transposed": _transposed,
    "constant": _constant,
    "dimension": _dimension,
    "count": _count,
    "sign": _sign,
    "stale": _stale,
    "element": _element,
}


def _name_of(node: Any) -> str:
    """Return a node's name for a description: its label, or the name in the graph."""
    return str(node.meta.get("label", node.name)) if isinstance(node, fx.Node) else str(node)
