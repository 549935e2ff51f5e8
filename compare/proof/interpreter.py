"""Runs a traced program in floats and, at the same time, in balls or bounds.

Comparisons and index selections (relu's mask, max's index) are those of the float run. The
exception is a comparison with 0 in autograd's own formulas, such as the one that makes the
derivative of a norm 0 where the norm is 0: a norm that is 0 only because its squares underflowed is
compared exactly, see `_exact_mask`.
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import flint
import numpy as np
import torch
from torch import Tensor, fx

from compare.progress import counted
from compare.proof import bits
from compare.proof.arithmetic_interface import Arithmetic
from compare.proof.balls import PRECISION
from compare.proof.bounds import Bounds
from compare.proof.complex_numbers import Complex, ComplexArithmetic, as_view, of_view
from compare.proof.complex_operations import COMPLEX_ROWS
from compare.proof.exact_arithmetic import ExactArithmetic
from compare.proof.exact_values import contains_zero, finite
from compare.proof.operations import FACTORIES, INDEXED, JOINS, MOVES, ROWS, join, move
from compare.proof.program import Key, Program, random_draw

MAX_LITERALS = 1_000  # a larger tensor was not typed in as literals, unless all numbers are equal
# Operations that take integer or boolean tensors as indices or masks, not as numbers.
_TAKES_INDICES = MOVES | JOINS | INDEXED.keys() | {
    "adaptive_max_pool2d_backward", "adaptive_max_pool3d_backward",
    "fractional_max_pool2d_backward", "fractional_max_pool3d_backward", "index_add", "index_put",
    "masked_scatter", "max_pool2d_with_indices_backward", "max_pool3d_with_indices_backward",
    "scatter_add", "where",
}  # fmt: skip
# The position of the argument with the fill value, which is not yet rounded to the dtype.
_FILL_VALUE_AT = {"scalar_tensor": 0, "full": 1, "full_like": 1}
# Views whose numbers may lie in memory in another order than the floats.
_RESHAPING = dict.fromkeys(("view", "view_copy"), torch.reshape)
# Keyword arguments that do not affect the numbers.
_NON_NUMERIC = {
    "dtype", "layout", "device", "pin_memory", "memory_format", "non_blocking", "implicit",
}  # fmt: skip


@dataclass(frozen=True)
class Unsupported:
    """Takes the place of numbers that could not be lifted, and names the operation at fault."""

    operation: str
    why: str | None = None  # None: the operation has no row

    def __str__(self) -> str:
        if self.why:
            return f"this form of {self.operation} is not supported yet: {self.why}"
        return (
            f"{self.operation} is not in the table of operations; "
            "to support it, add a row to compare/proof/operations.py"
        )


@dataclass(frozen=True)
class Lifted:
    """A value of a program: its floats, and its numbers in the arithmetic."""

    floats: Tensor
    numbers: Any  # an array of the arithmetic, an integer or boolean tensor, or an Unsupported


Cache = dict[fx.Node, Lifted]


class Floats:
    """The arithmetic of the float run itself; `dtype` maps each dtype to the one to compute in."""

    def __init__(self, dtype: Callable[[torch.dtype], torch.dtype] = lambda dtype: dtype) -> None:
        self.dtype = dtype

    def exact(self, values: Tensor) -> Tensor:
        """Return the tensor itself."""
        return values

    def run(self, node: fx.Node, args: Any, kwargs: Any) -> Any:
        """Return the tensor that a node holds, or the output of its operation."""
        if node.op == "get_attr":
            tensor = node.meta["val"]
            return tensor.to(self.dtype(tensor.dtype)) if tensor.is_floating_point() else tensor
        args, kwargs = fx.node.map_aggregate((args, kwargs), self._cast)
        assert callable(node.target)
        return node.target(*args, **kwargs)

    def _cast(self, value: Any) -> Any:
        return self.dtype(value) if isinstance(value, torch.dtype) else value


class _Call:
    """The arithmetic for one call of an operation, see `arithmetic.Call`."""

    def __init__(
        self,
        n: Arithmetic[Any],
        name: str,
        overload: str,
        floats: list[Tensor],
        arguments: Sequence[Any],
        out: Any,
    ) -> None:
        self.arithmetic = n
        self.name, self.overload, self.floats, self.out = name, overload, floats, out
        self.arguments = tuple(arguments)
        self.dtype = _first_float(out).dtype.to_real()
        self.numbers: dict[int, float] = {}
        if isinstance(n, Bounds):
            n.operation, n.dtype = name, self.dtype

    def __getattr__(self, name: str) -> Any:
        return getattr(self.arithmetic, name)

    def number(self, value: float) -> Any:
        """Return a number in the code as a constant, and remember it for `scalar`."""
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
    lifted_inputs: Mapping[str, Any] | None = None,
    overrides: Mapping[Any, Lifted] | None = None,
    **options: Any,
) -> dict[Any, Lifted]:
    """Run a program in an arithmetic; return its named outputs, floats and numbers.

    The same as `run`, with real numbers alone: complex inputs, overrides and outputs are real
    views, with one more dimension of size 2 for the two parts. (Inputs may also be complex.)

    Args:
        program: The program.
        n: The arithmetic.
        inputs: The floats of each input of the program.
        lifted_inputs: The numbers of inputs whose exact values differ from their floats.
        overrides: Values that replace named outputs wherever later nodes read them.
        options: Further arguments of `run`.
    """
    like = {name: node.meta["val"] for node, name in program.placeholders().items()}
    whole = {
        name: of_real_view(Lifted(inputs[name], (lifted_inputs or {}).get(name)), value, n)
        for name, value in like.items()
        if name in inputs
    }
    nodes = {name: node for name, node in program.outputs.items() if name in (overrides or {})}
    outputs = run(
        program,
        n,
        {name: value.floats for name, value in whole.items()},
        {name: whole[name].numbers for name in lifted_inputs or {} if name in whole},
        {k: of_real_view((overrides or {})[k], v.meta["val"], n) for k, v in nodes.items()},
        **options,
    )
    return {name: as_real_view(value) for name, value in outputs.items()}


def as_real_view(value: Lifted) -> Lifted:
    """Return a complex value as a real one, with one more dimension for the two parts."""
    if not value.floats.is_complex():
        return value
    floats, numbers = bits.real_view(value.floats), value.numbers
    if isinstance(numbers, Tensor):  # of the arithmetic of floats
        return Lifted(floats, floats)
    return Lifted(floats, as_view(numbers) if isinstance(numbers, Complex) else numbers)


def of_real_view(value: Lifted, like: Tensor, n: Arithmetic[Any] | Floats) -> Lifted:
    """Return the complex value that a real one stands for, if `like` is complex."""
    if not like.is_complex() or value.floats.is_complex():
        return value
    floats, numbers = bits.of_real_view(value.floats, like), value.numbers
    if isinstance(n, Floats) or isinstance(numbers, Unsupported | None):
        return Lifted(floats, numbers)
    return Lifted(floats, of_view(n, numbers))


def run(
    program: Program,
    n: Arithmetic[Any] | Floats,
    inputs: Mapping[str, Tensor],
    lifted_inputs: Mapping[str, Any] | None = None,
    overrides: Mapping[Any, Lifted] | None = None,
    only: Collection[Key] | None = None,
    cache: Cache | None = None,
    replacements: Mapping[fx.Node, Any] | None = None,
) -> dict[Any, Lifted]:
    """Run a program in an arithmetic; return its named outputs, floats and numbers.

    An output is returned as computed, even if it has an override. A value that depends on an
    unsupported operation is an `Unsupported`.

    Args:
        program: The program.
        n: The arithmetic.
        inputs: The floats of each input of the program.
        lifted_inputs: The numbers of inputs whose exact values differ from their floats.
        overrides: Values that replace named outputs wherever later nodes read them.
        only: The outputs to compute, starting from the nearest overrides; None for all.
        cache: Values of nodes that need not be computed; filled with the value of each other node.
        replacements: Numbers that replace those computed for a node.
    """
    overrides, replacements = overrides or {}, replacements or {}
    lifted_inputs = lifted_inputs or {}
    known = {} if cache is None else cache
    names, input_names = program.names_by_node(), program.placeholders()
    overridden = {node: overrides[k] for node, ks in names.items() for k in ks if k in overrides}
    nodes = list(program.graph.nodes)
    needed = set(nodes) if only is None else program.nodes_leading_to(only, overrides, known)
    # the last node that reads each value, after which the value is freed
    last = {source: node for node in nodes if node in needed for source in node.all_input_nodes}
    precision = max(PRECISION, n.precision) if isinstance(n, ExactArithmetic) else PRECISION
    values: Cache = {}
    outputs: dict[Any, Lifted] = {}
    with torch.no_grad(), flint.ctx.workprec(precision):
        exact = isinstance(n, ExactArithmetic)
        for node in counted("computing exactly", nodes) if exact else nodes:
            if node.op == "output":
                break
            if node in known:
                value = known[node]
            elif node not in needed:
                if node in overridden and node in last:
                    values[node] = _with_layout(overridden[node], node.meta["val"])
                    if cache is not None:
                        cache[node] = values[node]
                continue
            elif node.op == "placeholder":
                name, floats = input_names[node], inputs[input_names[node]]
                numbers = lifted_inputs[name] if name in lifted_inputs else _exact(n, floats)
                value = Lifted(floats, numbers)
            else:
                value = compute(n, node, values)
            if node in replacements:
                value = Lifted(value.floats, replacements[node])
            for name in names.get(node, ()):  # a later name of the node has the earlier's value
                outputs[name] = value
                if name in overrides:
                    value = _with_layout(overrides[name], value.floats)
            values[node] = value
            if cache is not None:
                cache[node] = value
            for source in node.all_input_nodes:
                if last.get(source) is node:
                    del values[source]
    return outputs


def evaluate(
    program: Program, inputs: Mapping[str, Tensor], n: Floats | None = None, **options: Any
) -> dict[Any, Tensor]:
    """Run a program in floats and return its named outputs; `options` are those of `lift`."""
    return {k: v.floats for k, v in lift(program, n or Floats(), inputs, **options).items()}


def _with_layout(value: Lifted, like: Tensor) -> Lifted:
    """Return a value with the shape and strides of `like`, which a later view may rely on."""
    floats = value.floats.reshape(like.shape)
    if 0 in like.stride():
        return Lifted(floats, value.numbers)
    empty = torch.empty_strided(like.shape, like.stride(), dtype=floats.dtype, device=floats.device)
    if like.is_conj():  # a later operation may undo a conjugate that is not computed yet
        return Lifted(empty.copy_(floats.conj()).conj(), value.numbers)
    return Lifted(empty.copy_(floats), value.numbers)


def _exact_mask(
    n: Arithmetic[Any], name: str, node: fx.Node, values: Mapping[fx.Node, Lifted], out: Any
) -> Any:
    """Return an integer or boolean output: the float run's, or autograd's exact comparison with 0.

    Torch defines the derivative of a norm or a standard deviation as 0 where these are 0. A square
    that underflows to 0 in floats is not 0 exactly, so autograd's comparison is decided on the
    balls. A comparison in the user's code is decided by the float run.
    """
    mask = isinstance(n, ExactArithmetic) and node.meta.get("autograd") and name in ("eq", "ne")
    if not mask or node.args[1] != 0:
        return out
    numbers = values[node.args[0]].numbers  # type: ignore[index]
    if isinstance(numbers, Unsupported | Tensor):
        return out
    parts = (numbers.re, numbers.im) if isinstance(numbers, Complex) else (numbers,)
    far = [np.asarray(finite(part) & ~contains_zero(part)) for part in parts]
    nonzero = (
        torch.from_numpy(np.asarray(np.logical_or.reduce(far))).to(out.device).reshape(out.shape)
    )
    return out & ~nonzero if name == "eq" else out | nonzero


def _exact(n: Any, values: Tensor) -> Any:
    if not _has_numbers(values):
        return values
    return n.exact(values) if isinstance(n, Floats) else _arithmetic(n, values).exact(values)


def _created(n: Any, values: Tensor) -> Any:
    """Return a tensor that the code created: as literals, or exact if those would be too many."""
    if not _has_numbers(values):
        return values
    few = values.numel() <= MAX_LITERALS or bool((values == values.flatten()[0]).all())
    n = _arithmetic(n, values)
    return n.tensor_constant(values) if few else n.exact(values)


def _has_numbers(values: Any) -> bool:
    """Whether a tensor holds real or complex numbers, not indices or masks."""
    return isinstance(values, Tensor) and (values.is_floating_point() or values.is_complex())


def _arithmetic(n: Any, values: Tensor) -> Any:
    """Return the arithmetic for the numbers of a tensor."""
    return ComplexArithmetic(n) if values.is_complex() else n


def compute(n: Arithmetic[Any] | Floats, node: fx.Node, values: Mapping[fx.Node, Lifted]) -> Lifted:
    """Return the value of a node: a tensor that it holds, or the output of its operation.

    Args:
        n: The arithmetic.
        node: The node; neither an input nor the output node of its program.
        values: The values of the nodes that it reads.
    """
    args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda source: values[source].floats)
    if isinstance(n, Floats):
        out = n.run(node, args, kwargs)
        return Lifted(out, out)
    if node.op == "get_attr":  # exact if the tensor existed before the code ran
        tensor = node.meta["val"]
        return Lifted(tensor, (_created if node.meta["made"] else _exact)(n, tensor))
    assert callable(node.target)
    out = node.target(*args, **kwargs)
    return Lifted(out, _numbers(n, node, args, out, values))


def _numbers(
    n: Arithmetic[Any], node: fx.Node, args: Any, out: Any, values: Mapping[fx.Node, Lifted]
) -> Any:
    """Return the numbers of an operation's output; args and out are those of the float run."""
    name, _, overload = getattr(node.target, "__name__", "").partition(".")
    tensors_of = [v for v in (*_flattened([out]), *_flattened(args)) if isinstance(v, Tensor)]
    is_complex = any(v.is_complex() for v in tensors_of)
    if any(v.dtype == torch.complex32 for v in tensors_of):
        return Unsupported(f"{node.target}", "it has complex numbers in half precision")
    if name == "getitem":
        source, index = node.args
        whole = values[source].numbers  # type: ignore[index]
        return whole if isinstance(whole, Unsupported) else whole[index]
    first = _first_float(out)
    if first is None:
        return _exact_mask(n, name, node, values, out)
    operands = [values[source].numbers for source in node.all_input_nodes]
    if missing := next((value for value in operands if isinstance(value, Unsupported)), None):
        return missing
    if name in FACTORIES:
        if "empty" in name:
            out.fill_(math.nan)  # uninitialised memory has no exact value
        at = _FILL_VALUE_AT.get(name, len(node.args))
        fill = node.args[at] if at < len(node.args) else None
        if isinstance(n, ExactArithmetic) and isinstance(fill, float | complex):
            filled = _arithmetic(n, out)
            return filled.broadcast_to(filled.constant(fill, out.dtype), out.shape)
        return _created(n, out)
    if name == "_to_copy" and all(isinstance(value, Tensor) for value in operands):
        return _exact(n, out)  # integers converted to floats
    table = COMPLEX_ROWS if is_complex else ROWS
    if name not in table and name not in MOVES and name not in JOINS:
        if name in ROWS:
            return Unsupported(f"{node.target}", "it has complex operands or results")
        return Unsupported(f"{node.target}", random_draw(node))

    tensors = [values[source].floats for source in node.all_input_nodes]
    call = _Call(n, name, overload, tensors, args, out)
    row: Any = ComplexArithmetic(call) if is_complex else call

    def number(value: Any) -> Any:
        is_number = isinstance(value, float | complex) and name not in MOVES
        return row.number(value) if is_number else value

    def operand(source: fx.Node) -> Any:
        value = values[source].numbers
        if isinstance(value, Tensor):
            return value.cpu() if name in _TAKES_INDICES else row.exact(value)
        return row.lifted(value) if is_complex else value

    keywords = {k: v for k, v in node.kwargs.items() if k not in _NON_NUMERIC}
    lifted_args, lifted_kwargs = fx.node.map_aggregate((node.args, keywords), number)
    lifted_args, lifted_kwargs = fx.node.map_arg((lifted_args, lifted_kwargs), operand)
    try:
        numbers = _apply_row(table, row, node.target, name, lifted_args, lifted_kwargs)
        numbers = _in_shape(n, row, numbers, out)
    except Exception as error:  # the row does not support this form of the operation
        return Unsupported(f"{node.target}", f"{error}")
    return numbers


def _in_shape(n: Arithmetic[Any], row: Any, numbers: Any, out: Any) -> Any:
    """Return an operation's numbers in the shape of each output, which rows may broadcast to."""
    if isinstance(out, Tensor):
        if out.is_complex():
            return row.broadcast_to(numbers, out.shape)
        return n.broadcast_to(numbers, out.shape) if out.is_floating_point() else numbers
    if isinstance(out, tuple | list):
        return [_in_shape(n, row, *pair) for pair in zip(numbers, out, strict=True)]
    return numbers


def _apply_row(
    table: Mapping[str, Callable[..., Any]], n: Any, target: Any, name: str, args: Any, kwargs: Any
) -> Any:
    """Return the output of an operation by its row in the table; `n` is that of the call."""
    if name in table:
        return table[name](n, *args, **kwargs)
    if name in MOVES:
        if isinstance(args[0], Tensor) or any(isinstance(a, torch.dtype) for a in args):
            raise TypeError("it reinterprets the bits of a tensor as another dtype")
        return move(n, _RESHAPING.get(name, target), *args, **kwargs)
    if isinstance(args[0], list | tuple):  # cat
        return join(n, args[0], lambda indices: target(indices, *args[1:], **kwargs))
    # the *_scatter family
    return join(n, args[:2], lambda indices: target(*indices, *args[2:], **kwargs))


def _flattened(values: Any) -> list[Any]:
    """Return arguments with lists and tuples among them expanded."""
    return [v for value in values for v in (value if isinstance(value, list | tuple) else [value])]


def _first_float(out: Any) -> Any:
    """Return the first real or complex tensor among an operation's outputs, None without one."""
    return next((value for value in _flattened([out]) if _has_numbers(value)), None)
