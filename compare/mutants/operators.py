"""What can go wrong in one operation of a program: the table of the mutants' kinds.

A kind lists the ways in which an operation can have it: in words, and as a change to a copy of the
graph. Whether the changed program still runs is for others to see.
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
    """A copy of a program's graph, to be changed at one operation."""

    def __init__(self, program: Program, node: fx.Node) -> None:
        self.graph = fx.Graph()
        self.copies: dict[fx.Node, fx.Node] = {}
        self.graph.output(self.graph.graph_copy(program.graph, self.copies))
        self.node = self.copies[node]

    def unchanged(self) -> dict[fx.Node, fx.Node]:
        """Return the copies that give what the operations that they are copies of give."""
        own = {copy: node for node, copy in self.copies.items()}
        same: dict[fx.Node, fx.Node] = {}
        for copy in self.graph.nodes:
            node = own.get(copy)
            if node is None or node.target != copy.target:
                continue
            sources = fx.node.map_arg((copy.args, copy.kwargs), same.get)
            if sources == (node.args, node.kwargs):
                same[copy] = node
        return same

    def call(self, target: Any, *args: Any, after: fx.Node, **kwargs: Any) -> fx.Node:
        """Return a new operation right after another."""
        with self.graph.inserting_after(after):
            return self.graph.call_function(target, args, kwargs)

    def then(self, target: Any, *args: Any) -> None:
        """Do one more operation, to what the operation gives."""
        self.replace(self.call(target, self.node, *args, after=self.node))

    def constant(self, value: Tensor) -> fx.Node:
        """Return a new constant."""
        with self.graph.inserting_before(next(iter(self.graph.nodes))):
            made = self.graph.get_attr("mutant")
        made.meta |= {"val": value, "made": False}
        return made

    def replace(self, new: fx.Node, *, of: fx.Node | None = None) -> None:
        """Let everything that takes the operation's result take `new`, but for `new` itself."""
        (of or self.node).replace_all_uses_with(new, delete_user_cb=lambda user: user is not new)


Substitution = Callable[[GraphEdit], None]
Ways = Iterator[tuple[str, Substitution]]

# -- which operations

#: Hand numbers on as they are: what is done to one is done to what stands before it. A cast is no
#: operation of its own either.
HAND_ON = SAME_SHAPE | RESHAPES | PICKS | {"_to_copy"}
_SIBLINGS = {
    "add": ["sub"], "sub": ["add"], "mul": ["div"], "div": ["mul"],
    "maximum": ["minimum"], "minimum": ["maximum"], "amax": ["amin"], "amin": ["amax"],
    "max": ["min"], "min": ["max"], "clamp_min": ["clamp_max"], "clamp_max": ["clamp_min"],
    "gt": ["lt", "ge"], "lt": ["gt", "le"], "ge": ["le", "gt"], "le": ["ge", "lt"],
    "eq": ["ne"], "ne": ["eq"], "sin": ["cos"], "cos": ["sin"], "sqrt": ["rsqrt"],
    "rsqrt": ["sqrt"], "exp": ["expm1"], "log": ["log1p"], "log1p": ["log"],
    "sigmoid": ["tanh"], "tanh": ["sigmoid"], "sum": ["mean"], "mean": ["sum"],
}  # fmt: skip
#: The overload of a sibling where it goes by another name than the operation's own.
_OVERLOADS = {("mean", "dim_IntList"): "dim", ("sum", "dim"): "dim_IntList"}
_IN_ORDER = {"sub", "div", "mm", "bmm", "pow", "where", "gt", "lt", "ge", "le"}
_ALONG = {"sum", "mean", "amax", "amin", "var", "cumsum", "_softmax", "_log_softmax", "prod"}


def alike(one: Any, other: Any) -> bool:
    """Whether two nodes are tensors of floats of one shape and dtype."""
    a, b = float_meta_tensor(one), float_meta_tensor(other)
    return a is not None and b is not None and a.shape == b.shape and a.dtype == b.dtype


def is_operation(node: fx.Node) -> bool:
    """Whether a node computes something, so that it can be wrong."""
    return node.op == "call_function" and operation(node) not in HAND_ON


# -- what can go wrong


def _dropped(node: fx.Node, _floats: Floats) -> Ways:
    """Let one of what it takes stand in its place; leave a sum over a dimension out."""
    along = operation(node) in _ALONG
    for source in dict.fromkeys(
        node.all_input_nodes if float_meta_tensor(node) is not None else ()
    ):
        if alike(source, node) or (along and float_meta_tensor(source) is not None):
            taken = "left out" if along else f"dropped, {_called(source)} in its place"
            yield taken, partial(_take, source)
    if operation(node) == "permute":
        yield "dropped: not transposed", partial(_take, node.all_input_nodes[0])


def _take(source: fx.Node, draft: GraphEdit) -> None:
    draft.replace(draft.copies[source])


def _sibling(node: fx.Node, _floats: Floats) -> Ways:
    """Another operation of its family."""
    overload = getattr(node.target, "__name__", "").partition(".")[2]
    for sibling in _SIBLINGS.get(operation(node), []):
        packet = getattr(aten, sibling)
        there = _OVERLOADS.get((sibling, overload), overload)
        if there in packet.overloads():
            yield f"{sibling} in its place", partial(_becomes, getattr(packet, there))


def _becomes(target: Any, draft: GraphEdit) -> None:
    draft.node.target = target


def _exchanged(node: fx.Node, _floats: Floats) -> Ways:
    """Its two operands the other way round."""
    if operation(node) in _IN_ORDER:
        yield "its operands exchanged", _exchange


def _exchange(draft: GraphEdit) -> None:
    *others, one, other = draft.node.args
    draft.node.args = (*others, other, one)


def _transposed(node: fx.Node, _floats: Floats) -> Ways:
    """Transpose an operand in its last two dimensions."""
    product = operation(node) in ("mm", "bmm")
    for at, source in enumerate(node.args):
        value = meta_tensor(source)
        if value is None or value.ndim < 2 or operation(source) == "permute":  # type: ignore[arg-type]
            continue
        rows, columns = value.shape[-2:]
        fits = product or (rows == columns and float_meta_tensor(node) is not None)
        if fits and max(rows, columns) > 1:
            yield f"{_called(source)} transposed", partial(_turn, at, value.ndim)


def _turn(at: int, ndim: int, draft: GraphEdit) -> None:
    order = [*range(ndim - 2), ndim - 1, ndim - 2]
    source = draft.node.args[at]
    assert isinstance(source, fx.Node)
    turned = draft.call(aten.permute.default, source, order, after=source)
    draft.node.update_arg(at, turned)


def _constant(node: fx.Node, _floats: Floats) -> Ways:
    """Change a number of the code by 1e-4 of itself, by one, to zero; take n for n - 1."""
    for where, number in numbers_of(node):
        changed: dict[str, float] = {
            f"{number:g} by 1e-4": number * (1 + 1e-4) if number else 1e-4,
            f"{number:g} by one": number + 1,
            f"{number:g} to zero": 0,
        }
        n = _count_in(number)
        if n is not None:
            one_less = number - 1 if number == n else 1 / (n - 1)
            changed[f"{number:.6g} by a count of {n - 1} for {n}"] = one_less
        elif (n := _count_in(number - 1)) is not None:  # (n + 1) / n
            changed[f"{number:.6g} as 1: a variance with the other count"] = 1
        for words, value in changed.items():
            if value != number:
                kept = int(value) if isinstance(number, int) and value == int(value) else value
                yield f"the constant {words}", partial(_set, where, kept)


_TYPES = ("NumberType", "FloatType", "TensorType")  # of arguments that are numbers


def numbers_of(node: fx.Node) -> Iterator[tuple[int | str, float]]:
    """Yield the numbers that an operation takes as such, not as sizes or dimensions, and where."""
    for at, argument in enumerate(arguments(node.target)):
        where: int | str = at if at < len(node.args) else argument.name
        value = node.args[at] if at < len(node.args) else node.kwargs.get(argument.name)
        kind = argument.type
        if kind.kind() == "OptionalType":
            kind = kind.getElementType()
        if not isinstance(value, int | float) or isinstance(value, bool):
            continue
        if kind.kind() in _TYPES and math.isfinite(value):
            yield where, value


def _count_in(number: float) -> int | None:
    """Return n where a number is n or 1 / n, n a whole number of at least 2."""
    for candidate in (number, 1 / number if number else 0):
        if candidate >= 2 and abs(candidate - round(candidate)) < 1e-9 * candidate:
            return round(candidate)
    return None


def _set(where: int | str, value: Any, draft: GraphEdit) -> None:
    if isinstance(where, int):
        draft.node.update_arg(where, value)
    else:
        draft.node.update_kwarg(where, value)


def _along(node: fx.Node, _floats: Floats) -> Ways:
    """Take a sum, mean, maximum or softmax over another dimension."""
    source = meta_tensor(node.args[0]) if node.args else None
    if operation(node) not in _ALONG or source is None or len(node.args) < 2:
        return
    dims = node.args[1]
    if isinstance(dims, int):
        others: list[Any] = [d for d in range(source.ndim) if d != dims % source.ndim]
    elif isinstance(dims, list | tuple):
        own = {int(d) % source.ndim for d in dims}  # type: ignore[arg-type]
        others = [[d] for d in range(source.ndim) if {d} != own]
    else:
        return
    for other in others:
        yield f"over dimension {other} for {dims}", partial(_set, 1, other)


def _count(node: fx.Node, _floats: Floats) -> Ways:
    """Divide a mean by n - 1."""
    source, out = (meta_tensor(n) for n in (node.args[0] if node.args else None, node))
    if operation(node) == "mean" and source is not None and out is not None and out.numel():
        n = source.numel() // out.numel()
        if n > 1:
            more = n / (n - 1)
            yield f"divided by {n - 1} for {n}", lambda draft: draft.then(aten.mul.Tensor, more)


def _sign(node: fx.Node, _floats: Floats) -> Ways:
    """Its result of the other sign."""
    if float_meta_tensor(node) is not None and operation(node) not in ("neg", "permute"):
        yield "its sign turned", lambda draft: draft.then(aten.neg.default)


def _stale(node: fx.Node, _floats: Floats) -> Ways:
    """For an operand what it was before its last operation, or what it is after another one."""
    later = downstream(node)
    for source in dict.fromkeys(node.all_input_nodes):
        if float_meta_tensor(source) is None:
            continue
        for before in dict.fromkeys(source.all_input_nodes if is_operation(source) else ()):
            if alike(before, source) and before not in node.all_input_nodes:
                yield f"{_called(source)} stale: {_called(before)}", partial(_swap, source, before)
        for after in source.users:
            fits = is_operation(after) and operation(after) != "permute" and alike(after, source)
            if fits and after not in {*later, *node.all_input_nodes}:
                yield f"{_called(source)} updated: {_called(after)}", partial(_swap, source, after)
        if source.op == "placeholder":
            inputs = [n for n in node.graph.nodes if n.op == "placeholder" and alike(n, source)]
            other = inputs[(inputs.index(source) + 1) % len(inputs)]
            if other not in node.all_input_nodes:
                yield f"{_called(source)} for {_called(other)}", partial(_swap, source, other)


def _swap(old: fx.Node, new: fx.Node, draft: GraphEdit) -> None:
    """Have the operation take `new` for `old`, moved up if it comes later."""
    wanted = upstream([draft.copies[new]])
    order = list(draft.graph.nodes)
    for late in order[order.index(draft.node) :]:
        if late in wanted:
            draft.node.prepend(late)
    draft.node.replace_input_with(draft.copies[old], draft.copies[new])


def _element(node: fx.Node, floats: Floats) -> Ways:
    """One element off, or of the other sign; of a mask, turned."""
    values = floats.get(node)
    if not isinstance(values, Tensor) or not values.numel() or operation(node) == "permute":
        return
    chance = seeded_generator("element", values.numel())
    at = int(torch.randint(values.numel(), (), generator=chance))
    if values.dtype == torch.bool:
        yield "one element turned", _at_one(aten.logical_xor.default, values, at, 0, 1)
    if not values.is_floating_point():
        return
    largest = float(values.abs().max())
    off = 1e-3 * largest if 0 < largest < math.inf else 1e-3
    yield "one element off", _at_one(aten.add.Tensor, values, at, 0, off)
    if largest > 0 and values.numel() > 1:
        nonzero = values.flatten().nonzero().flatten()
        at = int(nonzero[at % len(nonzero)])
        yield "one element of the other sign", _at_one(aten.mul.Tensor, values, at, 1, -1)


def _at_one(target: Any, like: Tensor, at: int, rest: float, there: float) -> Substitution:
    """Combine the result with a constant of one number, and another at one place."""
    constant = torch.full(like.shape, rest, dtype=like.dtype, device=like.device)
    constant.view(-1)[at] = there
    return lambda draft: draft.then(target, draft.constant(constant))


KINDS: dict[str, Callable[[fx.Node, Floats], Ways]] = {
    "dropped": _dropped,
    "sibling": _sibling,
    "exchanged": _exchanged,
    "transposed": _transposed,
    "constant": _constant,
    "dimension": _along,
    "count": _count,
    "sign": _sign,
    "stale": _stale,
    "element": _element,
}


def _called(node: Any) -> str:
    """Return a node's name as a message has it: the input's, or the operation's."""
    return str(node.meta.get("label", node.name)) if isinstance(node, fx.Node) else str(node)
