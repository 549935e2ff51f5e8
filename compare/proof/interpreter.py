"""Runs a program: in floats as it stands, and at once in balls or bounds.

Comparisons and choices of places (relu's mask, max's index) are those of the float run, but for
autograd's own of what underflows.
"""

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import flint
import torch
from torch import Tensor, fx

from compare.proof.arithmetic import Arithmetic
from compare.proof.balls import PRECISION, Balls
from compare.proof.bounds import Bounds
from compare.proof.operations import FACTORIES, JOINS, MOVES, ROWS, join, move
from compare.proof.program import Key, Program
from compare.proof.same_formula import elementwise

LITERALS = 1_000  # numbers in a tensor that someone may have written
# Operations that take tensors of integers or booleans as places and masks, not as numbers.
_TAKES_PLACES = MOVES | JOINS | {
    "index_add", "index_put", "max_pool2d_with_indices_backward", "scatter_add", "where",
}  # fmt: skip
# Which argument holds the number that a tensor is made of, before any rounding to its dtype.
_NUMBER_AT = {"scalar_tensor": 0, "full": 1, "full_like": 1}
# Keyword arguments that say nothing about the numbers.
_FORM = {"dtype", "layout", "device", "pin_memory", "memory_format", "non_blocking", "implicit"}


@dataclass(frozen=True)
class Unsupported:
    """Stands for numbers that could not be lifted: the operation, and why its row cannot do it."""

    operation: str
    why: str | None = None  # None: it has no row

    def __str__(self) -> str:
        if self.why:
            return f"{self.operation} is used as its row in proof/operations.py cannot: {self.why}"
        return (
            f"{self.operation} is not in the table of operations; "
            "to add it, give it a row in compare/proof/operations.py"
        )


@dataclass(frozen=True)
class Lifted:
    """A value: its float run, and its numbers in the arithmetic (or an `Unsupported`)."""

    floats: Tensor
    numbers: Any


Cache = dict[fx.Node, Lifted]


class Floats:
    """The arithmetic whose numbers are the float run's own; every dtype goes through `dtype`."""

    def __init__(self, dtype: Callable[[torch.dtype], torch.dtype] = lambda dtype: dtype) -> None:
        self.dtype = dtype

    def exact(self, values: Tensor) -> Tensor:
        """Return the values of a tensor: they are its numbers."""
        return values

    def run(self, node: fx.Node, args: Any, kwargs: Any) -> Any:
        """Return what a constant or an operation gives."""
        if node.op == "get_attr":
            held = node.meta["val"]
            return held.to(self.dtype(held.dtype)) if held.is_floating_point() else held
        args, kwargs = fx.node.map_aggregate((args, kwargs), self._cast)
        assert callable(node.target)
        return node.target(*args, **kwargs)

    def _cast(self, value: Any) -> Any:
        return self.dtype(value) if isinstance(value, torch.dtype) else value


class _Call:
    """The arithmetic as a row is given it, see `arithmetic.Call`."""

    def __init__(
        self, n: Arithmetic[Any], name: str, overload: str, floats: list[Tensor], out: Any
    ) -> None:
        self.arithmetic = n
        self.name, self.overload, self.floats, self.out = name, overload, floats, out
        self.dtype = _first_float(out).dtype
        self.numbers: dict[int, float] = {}
        if isinstance(n, Bounds):
            n.operation, n.dtype = name, self.dtype

    def __getattr__(self, name: str) -> Any:
        return getattr(self.arithmetic, name)

    def number(self, value: float) -> Any:
        """Return a number of the code as a constant that `scalar` still knows."""
        constant = self.arithmetic.constant(value, self.dtype)
        self.numbers[id(constant)] = value
        return constant

    def scalar(self, value: Any) -> Any:
        """Return the Python number behind an argument, None for a tensor's numbers."""
        return value if isinstance(value, int | float) else self.numbers.get(id(value))


def lift(
    program: Program,
    n: Arithmetic[Any] | Floats,
    inputs: Mapping[str, Tensor],
    lifted: Mapping[str, Any] | None = None,
    overrides: Mapping[Any, Lifted] | None = None,
    only: Collection[Key] | None = None,
    cache: Cache | None = None,
    replacements: Mapping[fx.Node, Any] | None = None,
) -> dict[Any, Lifted]:
    """Return each named output as computed, before any override takes its place.

    `inputs` are floats; `lifted` gives those inputs whose numbers are not just the floats. An
    override is what a named value is taken to be from there on, whatever was computed for it. With
    `only` just these outputs are computed, from the overrides nearest above them. What the `cache`
    holds is not computed again; it is filled with what each other node is taken to be.
    `replacements` has numbers that take the place of what a node has. A value that depends on an
    operation without a row is an `Unsupported`.
    """
    overrides, lifted, replacements = overrides or {}, lifted or {}, replacements or {}
    known = {} if cache is None else cache
    names, given = program.names_by_node(), program.placeholders()
    begun = {node: overrides[k] for node, keys in names.items() for k in keys if k in overrides}
    nodes = list(program.graph.nodes)
    needed = set(nodes) if only is None else program.nodes_leading_to(only, overrides, known)
    last = {source: node for node in nodes if node in needed for source in node.all_input_nodes}
    precision = n.precision if isinstance(n, Balls) else PRECISION
    values: Cache = {}
    outputs: dict[Any, Lifted] = {}
    with torch.no_grad(), flint.ctx.workprec(precision):
        for node in nodes:
            if node.op == "output":
                break
            if node in known:
                value = known[node]
            elif node not in needed:
                if node in begun and node in last:
                    values[node] = _laid_out(begun[node], node.meta["val"])
                    if cache is not None:
                        cache[node] = values[node]
                continue
            elif node.op == "placeholder":
                name, floats = given[node], inputs[given[node]]
                value = Lifted(floats, lifted[name] if name in lifted else _exact(n, floats))
            else:
                value = compute(n, node, values)
            if node in replacements:
                value = Lifted(value.floats, replacements[node])
            for name in names.get(node, ()):  # of one node the later is the earlier's, handed on
                outputs[name] = value
                if name in overrides:
                    value = _laid_out(overrides[name], value.floats)
            values[node] = value
            if cache is not None:
                cache[node] = value
            for source in node.all_input_nodes:
                if last.get(source) is node:
                    del values[source]
    return outputs


def evaluate(
    program: Program, inputs: Mapping[str, Tensor], n: Floats | None = None, **how: Any
) -> dict[Any, Tensor]:
    """Return the floats of each named output; `how` as `lift` has it."""
    return {k: v.floats for k, v in lift(program, n or Floats(), inputs, **how).items()}


def _laid_out(value: Lifted, like: Tensor) -> Lifted:
    """Return a value in the shape and strides of `like`: a later view may count on them."""
    floats = value.floats.reshape(like.shape)
    if 0 in like.stride():
        return Lifted(floats, value.numbers)
    laid = torch.empty_strided(like.shape, like.stride(), dtype=floats.dtype, device=floats.device)
    return Lifted(laid.copy_(floats), value.numbers)


def _decided(
    n: Arithmetic[Any], name: str, node: fx.Node, values: Mapping[fx.Node, Lifted], out: Any
) -> Any:
    """Return what the float run decided; but where autograd's own slope is 0, what is 0 exactly.

    torch has the slope of a norm and of a deviation so that it is 0 where they are. A square that
    underflows is not 0 for that. A mask of the code itself is as its float run has it.
    """
    mask = isinstance(n, Balls) and node.meta.get("autograd") and name in ("eq", "ne")
    if not mask or node.args[1] != 0:
        return out
    numbers = values[node.args[0]].numbers  # type: ignore[index]
    if isinstance(numbers, Unsupported | Tensor):
        return out
    other = torch.from_numpy(elementwise(lambda a: a.is_finite() and not a.contains(0), numbers))
    other = other.bool().to(out.device).reshape(out.shape)
    return out & ~other if name == "eq" else out | other


def _exact(n: Arithmetic[Any] | Floats, values: Tensor) -> Any:
    return n.exact(values) if values.is_floating_point() else values


def _made(n: Arithmetic[Any], values: Tensor) -> Any:
    """Return a tensor that the code made: of so many numbers nobody has written each."""
    if not values.is_floating_point():
        return values
    few = values.numel() <= LITERALS or bool((values == values.flatten()[0]).all())
    return n.tensor_constant(values) if few else n.exact(values)


def compute(n: Arithmetic[Any] | Floats, node: fx.Node, values: Mapping[fx.Node, Lifted]) -> Lifted:
    """Return a constant, or what an operation gives of the values that it takes."""
    args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda at: values[at].floats)
    if isinstance(n, Floats):
        out = n.run(node, args, kwargs)
        return Lifted(out, out)
    if node.op == "get_attr":  # what was there before the code ran is exact
        held = node.meta["val"]
        return Lifted(held, (_made if node.meta["made"] else _exact)(n, held))
    assert callable(node.target)
    out = node.target(*args, **kwargs)
    return Lifted(out, _numbers(n, node, args, kwargs, out, values))


def _numbers(
    n: Arithmetic[Any], node: fx.Node, args: Any, kwargs: Any, out: Any,
    values: Mapping[fx.Node, Lifted],
) -> Any:  # fmt: skip
    """Return the numbers of an operation whose float run took these arguments and gave `out`."""
    name, _, overload = getattr(node.target, "__name__", "").partition(".")
    if any(isinstance(v, Tensor) and v.is_complex() for v in (out, *_flat(args))):
        return Unsupported(f"{node.target}", "it takes or gives complex numbers")
    if name == "getitem":
        source, index = node.args
        whole = values[source].numbers  # type: ignore[index]
        return whole if isinstance(whole, Unsupported) else whole[index]
    first = _first_float(out)
    if first is None:
        return _decided(n, name, node, values, out)
    operands = [values[source].numbers for source in node.all_input_nodes]
    if missing := next((value for value in operands if isinstance(value, Unsupported)), None):
        return missing
    if name in FACTORIES:
        if "empty" in name:
            out.fill_(math.nan)  # what the memory happened to hold is nobody's number
        at = _NUMBER_AT.get(name, len(node.args))
        made_of = node.args[at] if at < len(node.args) else None
        if isinstance(n, Balls) and isinstance(made_of, float):
            return n.broadcast_to(n.constant(made_of, out.dtype), out.shape)
        return _made(n, out)
    if name == "_to_copy" and all(isinstance(value, Tensor) for value in operands):
        return n.exact(out)  # integers as floats
    if name not in ROWS and name not in MOVES and name not in JOINS:
        return Unsupported(f"{node.target}")
    if kwargs.get("rounding_mode"):
        return Unsupported(f"{node.target}", "with a rounding_mode")

    tensors = [values[source].floats for source in node.all_input_nodes]
    row = _Call(n, name, overload, tensors, out)

    def number(value: Any) -> Any:
        return row.number(value) if isinstance(value, float) and name not in MOVES else value

    def operand(source: fx.Node) -> Any:
        value = values[source].numbers
        if isinstance(value, Tensor):
            return value.cpu() if name in _TAKES_PLACES else n.exact(value)
        return value

    said = {key: value for key, value in node.kwargs.items() if key not in _FORM}
    lifted_args, lifted_kwargs = fx.node.map_aggregate((node.args, said), number)
    lifted_args, lifted_kwargs = fx.node.map_arg((lifted_args, lifted_kwargs), operand)
    try:
        found = _row(row, node.target, name, lifted_args, lifted_kwargs)
        if isinstance(out, Tensor):
            found = n.broadcast_to(found, out.shape)
    except Exception as error:  # a use of the operation that its row does not know
        return Unsupported(f"{node.target}", f"{error}")
    return found


def _row(row: _Call, target: Any, name: str, args: Any, kwargs: Any) -> Any:
    """Apply the operation's row in the table."""
    n = row.arithmetic
    if name in ROWS:
        return ROWS[name](row, *args, **kwargs)
    if name in MOVES:
        if isinstance(args[0], Tensor) or any(isinstance(a, torch.dtype) for a in args):
            raise TypeError("reads numbers as another type's bits")
        return move(n, target, *args, **kwargs)
    if isinstance(args[0], list | tuple):  # cat
        return join(n, args[0], lambda places: target(places, *args[1:], **kwargs))
    # the *_scatter family
    return join(n, args[:2], lambda places: target(*places, *args[2:], **kwargs))


def _flat(values: Any) -> list[Any]:
    """Return arguments without the lists around some of them."""
    return [v for value in values for v in (value if isinstance(value, list | tuple) else [value])]


def _first_float(out: Any) -> Any:
    """Return the first tensor of floats in an operation's result, None if there is none."""
    values = _flat([out])
    return next((v for v in values if isinstance(v, Tensor) and v.is_floating_point()), None)
