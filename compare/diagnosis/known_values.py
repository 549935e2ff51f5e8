"""The values that the text of a fix may mention, by name or by their expression."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor, fx

from compare.diagnosis.evaluation_points import EvaluationPoint, Nodes, Value
from compare.diagnosis.expressions import PASS_THROUGH, Expr, expression, leaf
from compare.proof.balls import Balls
from compare.proof.pair import Pair
from compare.proof.program import Key, Program, ValueOf, base_name, downstream, operation, upstream

MAX_VALUES = 80
MAX_CHARACTERS = 72  # of an expression
_UNREADABLE = re.compile(r"getitem|arg\d|native_|a constant")  # no one writes these in code


@dataclass(frozen=True)
class KnownValue:
    """A value at each evaluation point, its expression, its node, and its rank (simplest first)."""

    expr: Expr  # a leaf whose key is `values`
    values: tuple[Value, ...]
    node: fx.Node | None  # of the by-hand program
    rank: int  # 0: has a name; 1: a by-hand expression; 2: only autograd's pass computes it
    definition: str = ""  # the by-hand expression behind a name that only autograd's pass uses

    @property
    def text(self) -> str:
        """The value as written in code."""
        return self.expr.text

    @property
    def text_with_definition(self) -> str:
        """The text, followed by `= definition` where the by-hand pass has no such name."""
        return f"{self.text} = {self.definition}" if self.definition else self.text

    @cached_property
    def is_mask(self) -> bool:
        """Whether the elements are 0 and one other number."""
        numbers = self.values[0].midpoints.unique()
        return len(numbers) == 2 and not bool(numbers.abs().min())


def display_names(pair: Pair, program: Program) -> dict[fx.Node, str]:
    """Return the name of each named node of either program, as the by-hand code would write it."""
    values = {source: key for key, (_, source) in pair.manual_inputs.items() if source is not None}
    names: dict[fx.Node, str] = {}
    for name, node in program.outputs.items():
        names.setdefault(node, values.get(name) or display_name(pair, name))
    nodes = (node for node in program.graph.nodes if node.op == "placeholder")
    return names | dict(zip(nodes, program.inputs, strict=True))


def display_name(pair: Pair, name: Key) -> str:
    """Return a quantity's name in texts, distinct from that of an input of the same name."""
    if isinstance(name, ValueOf):
        return name.name
    if pair.quantities_are_gradients:
        return name if base_name(name) == "output" else f"d{name}"
    return f"{name} after its update" if name in pair.inputs else name


def known_values(pair: Pair, points: tuple[EvaluationPoint, ...], name: str) -> list[KnownValue]:
    """Return every distinct value that is not computed from the quantity, simplest first.

    Of the reference, only values that lead to the quantity or have a name are included.
    """
    assert isinstance(pair.manual_program, Program)
    assert isinstance(pair.reference, Program)
    manual_names = display_names(pair, pair.manual_program)
    reference_names = display_names(pair, pair.reference)
    manual_end, reference_end = pair.manual_program.outputs[name], pair.reference.outputs[name]
    unrelated = {*pair.reference.graph.nodes} - upstream([reference_end]) - reference_names.keys()
    nodes = [point.manual for point in points]
    every = [*_values_in(pair.manual_program, nodes, manual_names, downstream(manual_end))]
    nodes, excluded = [point.reference for point in points], downstream(reference_end) | unrelated
    for value in _values_in(pair.reference, nodes, reference_names, excluded):
        every.append(replace(value, node=None, rank=2 * value.rank))
    distinct: dict[bytes, KnownValue] = {}
    for value in sorted(every, key=lambda value: (value.rank, len(value.text))):
        key = b"".join(_ten_digits(at_point.midpoints) for at_point in value.values)
        first = distinct.setdefault(key, value)
        if first.node is None and value.node is not None:  # only autograd's pass names it
            distinct[key] = replace(first, node=value.node, definition=value.text)
    return list(distinct.values())[:MAX_VALUES]


def _values_in(
    program: Program, points: list[Nodes], names: Mapping[fx.Node, str], excluded: set[fx.Node]
) -> Iterator[KnownValue]:
    """Yield the values of a program, except those of `excluded` nodes and of constants."""
    for node in program.graph.nodes:
        same_numbers = operation(node) in PASS_THROUGH and node not in names
        if node in excluded or same_numbers or not all(node in nodes for nodes in points):
            continue
        values = tuple(_as_floats(nodes[node]) for nodes in points)
        if not all(_varies(value.midpoints) for value in values) or _is_constant(values):
            continue
        expr = expression(node, names)
        if node in names:
            yield KnownValue(leaf(expr, values), values, node, 0)
        elif len(expr.text) <= MAX_CHARACTERS and not _UNREADABLE.search(expr.text):
            yield KnownValue(leaf(expr, values), values, node, 1)


def _as_floats(value: Value) -> Value:
    """Return a boolean mask, or integers, as floats to calculate with."""
    if value.floats.is_floating_point():
        return value
    floats = value.floats.double()
    return Value(floats, Balls().exact(floats))


def _varies(values: Tensor) -> bool:
    """Whether these are known floats, not all the same unless there is only one."""
    if not values.is_floating_point() or not values.numel() or values.isnan().all():
        return False
    return values.numel() == 1 or bool((values != values.flatten()[0]).any())


def _is_constant(values: tuple[Value, ...]) -> bool:
    """Whether it is a single number, equal at every point: a constant of the code."""
    if values[0].midpoints.numel() != 1:
        return False
    return len({float(value.midpoints) for value in values}) == 1


def _ten_digits(values: Tensor) -> bytes:
    """Return a key that values share when they agree to ten digits."""
    flat = values.flatten()
    fraction, exponent = torch.frexp(flat)
    kept = torch.round(fraction * 2**34) + 0.0
    return repr(tuple(values.shape)).encode() + kept.numpy().tobytes() + exponent.numpy().tobytes()
