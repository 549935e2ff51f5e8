"""The values that a remedy may speak of, by name or by the expression behind them."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor, fx

from compare.diagnosis.evaluation_points import Nodes, Sample, Value
from compare.diagnosis.expressions import SAME, Expr, expression, leaf
from compare.proof.balls import Balls
from compare.proof.pair import Pair
from compare.proof.program import Key, Program, ValueOf, base_name, downstream, operation, upstream

MOST = 80  # values
_NAMELESS = re.compile(r"getitem|arg\d|native_|a constant")  # what nobody would write
LONGEST = 72  # characters of an expression


@dataclass(frozen=True)
class Known:
    """A value at each sample: its expression, where it stands, and how far-fetched it is."""

    expr: Expr  # a leaf whose key are its values
    at: tuple[Value, ...]
    node: fx.Node | None  # of the by-hand program
    rank: int  # 0 has a name, 1 is an expression by hand, 2 only on the autograd side
    behind: str = ""  # the expression behind a name that the by-hand side does not have

    @property
    def text(self) -> str:
        """The value as one writes it."""
        return self.expr.text

    @cached_property
    def is_mask(self) -> bool:
        """Whether it is 0 and one other number."""
        found = self.at[0].near.unique()
        return len(found) == 2 and not bool(found.abs().min())

    @property
    def full(self) -> str:
        """The text, and what it is where the by-hand side has no such name."""
        return f"{self.text} = {self.behind}" if self.behind else self.text


def names_in(pair: Pair, program: Program) -> dict[fx.Node, str]:
    """Return what the values of either side are called, as the by-hand side would call them."""
    values = {source: key for key, (_, source) in pair.manual_inputs.items() if source is not None}
    found: dict[fx.Node, str] = {}
    for name, node in program.outputs.items():
        found.setdefault(node, values.get(name) or called(pair, name))
    nodes = (node for node in program.graph.nodes if node.op == "placeholder")
    return found | dict(zip(nodes, program.inputs, strict=True))


def called(pair: Pair, name: Key) -> str:
    """Return what a quantity is called where its name may be an input's too."""
    if isinstance(name, ValueOf):
        return name.name
    if pair.quantities_are_gradients:
        return name if base_name(name) == "output" else f"d{name}"
    return f"{name} after its update" if name in pair.inputs else name


def known_values(pair: Pair, both: tuple[Sample, ...], name: str) -> list[Known]:
    """Return every value that does not come from the quantity, each only once, simplest first.

    Of the reference only what leads to the quantity, or has a name, is of use.
    """
    assert isinstance(pair.manual_program, Program)
    assert isinstance(pair.reference, Program)
    own = names_in(pair, pair.manual_program)
    theirs = names_in(pair, pair.reference)
    end = pair.reference.outputs[name]
    away = downstream(end) | ({*pair.reference.graph.nodes} - upstream([end]) - theirs.keys())
    found = [
        *_side(
            pair.manual_program,
            [s.manual_program for s in both],
            own,
            downstream(pair.manual_program.outputs[name]),
        )
    ]
    for one in _side(pair.reference, [s.reference for s in both], theirs, away):
        found.append(replace(one, node=None, rank=2 * one.rank))
    kept: dict[bytes, Known] = {}
    for one in sorted(found, key=lambda k: (k.rank, len(k.text))):
        key = b"".join(_digits(value.near) for value in one.at)
        first = kept.setdefault(key, one)
        if first.node is None and one.node is not None:  # a name only autograd's side has
            kept[key] = replace(first, node=one.node, behind=one.text)
    return list(kept.values())[:MOST]


def _side(
    program: Program, values: list[Nodes], names: Mapping[fx.Node, str], away: set[fx.Node]
) -> Iterator[Known]:
    """Yield the values of a program but for those `away`."""
    for node in program.graph.nodes:
        passes = operation(node) in SAME and node not in names
        if node in away or passes or not all(node in each for each in values):
            continue
        at = tuple(_as_floats(each[node]) for each in values)
        if not all(_tells(value.near) for value in at) or _fixed(at):
            continue
        expr = expression(node, names)
        if node in names:
            yield Known(leaf(expr, at), at, node, 0)
        elif len(expr.text) <= LONGEST and not _NAMELESS.search(expr.text):
            yield Known(leaf(expr, at), at, node, 1)


def _as_floats(value: Value) -> Value:
    """Return a mask of booleans, or whole numbers, as numbers to reckon with."""
    if value.floats.is_floating_point():
        return value
    floats = value.floats.double()
    return Value(floats, Balls().exact(floats))


def _tells(values: Tensor) -> bool:
    """Whether these are numbers, of which not all are the same."""
    if not values.is_floating_point() or not values.numel() or values.isnan().all():
        return False
    return values.numel() == 1 or bool((values != values.flatten()[0]).any())


def _fixed(at: tuple[Value, ...]) -> bool:
    """Whether it is one number, the same at each sample: a constant of the code."""
    return at[0].near.numel() == 1 and len({float(value.near) for value in at}) == 1


def _digits(values: Tensor) -> bytes:
    """Return a key of the values to ten digits."""
    flat = values.flatten()
    fraction, exponent = torch.frexp(flat)
    kept = torch.round(fraction * 2**34) + 0.0
    return repr(tuple(values.shape)).encode() + kept.numpy().tobytes() + exponent.numpy().tobytes()
