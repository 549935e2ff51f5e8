"""Matches constant tensors that one side stores and the other computes: a cosine table, a window.

The stored tensor is the rounding of the other side's exact values. Taken as floats the two sides
differ; taken as the numbers that they stand for they agree.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import flint
import numpy as np
import torch
from torch import Tensor, fx

from compare.proof.balls import Balls
from compare.proof.bits import same_bits
from compare.proof.constants import round_to
from compare.proof.interpreter import Cache, Unsupported, compute
from compare.proof.literals import ANY, AS_WRITTEN
from compare.proof.operations import MOVES
from compare.proof.program import Opaque, Program, operation

MAX_ELEMENTS = 100_000  # in a table that is matched
MAX_LITERALS = 1_000  # elements of a tensor that may each be a number in the code
_PASSES_ON = MOVES | {"_to_copy"}


@dataclass(frozen=True)
class _Table:
    """A floating-point tensor in a program that depends on none of its inputs."""

    node: fx.Node
    floats: Tensor
    numbers: Any
    stored: bool  # not computed: a tensor that the program holds, moved or copied
    created: bool  # only from tensors that the code itself creates


def exact_table_values(
    one: Program | Opaque, other: Program | Opaque, n: Balls, *, leads: bool = True
) -> dict[fx.Node, Any]:
    """Return, for tensors that one side stores, the exact numbers that the other has for them.

    The other side creates these numbers from nothing, or writes them in its code; they have the
    stored tensor's bits, or round to them. A tensor that it computes from one that existed before,
    such as a weight times 1.001, is never a match.

    Args:
        one: The side that stores the tensors.
        other: The side that computes the numbers.
        n: The arithmetic, in the reading of the code's constants.
        leads: Whether `one` keeps its values of a tensor that both sides create.
    """
    if isinstance(one, Opaque) or isinstance(other, Opaque):
        return {}
    stored = [table for table in _constants(one, n) if table.stored]
    if not stored:
        return {}
    created = {table.node: table for table in _constants(other, n) if table.created}
    candidates = [*created.values()]
    if n.reading.mode == ANY:  # its balls are too wide to tell which float a number rounds to
        narrow = Balls(None, AS_WRITTEN, n.precision)
        candidates = [table for table in _constants(other, narrow) if table.created]
    literals = [(x, n.constant(x, torch.float64).item()) for x in _literals(other)]
    values: dict[fx.Node, Any] = {}
    for table in stored:
        eligible = (c for c in candidates if not (leads and table.created and c.stored))
        match = next((c for c in eligible if _stands_for(table, c)), None)
        numbers = _as_literals(table, literals) if match is None else created[match.node].numbers
        if numbers is not None:
            values[table.node] = _spread(numbers, table).reshape(table.numbers.shape)
    return values


def _literals(program: Program) -> set[float]:
    """Return the floating-point numbers in the code."""
    literals: set[float] = set()

    def note(value: Any) -> Any:
        if isinstance(value, float) and value and math.isfinite(value):
            literals.add(value)
        return value

    for node in program.graph.nodes:
        if operation(node) not in MOVES:
            fx.node.map_aggregate((node.args, node.kwargs), note)
    return literals


def _as_literals(stored: _Table, literals: list[tuple[float, Any]]) -> list[Any] | None:
    """Return a stored tensor's numbers, exact where the other side writes a number in its code.

    The stored number is then a rounding of the written one. None if no number is written there, or
    if there are more elements than somebody would write.
    """
    elements = stored.floats.double().flatten().tolist()
    if len(elements) > MAX_LITERALS:
        return None
    exact: dict[float, Any] = {}
    for x, ball in literals:
        for value, intended in ((x, ball), (1 / x, 1 / ball)):  # x / 3 matches x * 0.3333
            for sign in (1, -1):
                key, signed = round_to(sign * value, stored.floats.dtype), sign * intended
                exact[key] = signed.union(exact[key]) if key in exact else signed
    numbers = [exact.get(x, flint.arb(x)) for x in elements]
    return None if all(map(_equals, numbers, elements)) else numbers


def _equals(ball: Any, x: float) -> bool:
    return bool(ball.is_exact() and ball == x)


def _constants(program: Program, n: Balls) -> Iterator[_Table]:
    """Yield every floating-point tensor in a program that depends on none of its inputs."""
    values: Cache = {}
    stored: dict[fx.Node, bool] = {}
    created: dict[fx.Node, bool] = {}
    for node in program.graph.nodes:
        sources = node.all_input_nodes
        if node.op in ("placeholder", "output") or any(source not in stored for source in sources):
            continue
        size = node.meta.get("val")
        if isinstance(size, Tensor) and size.numel() > MAX_ELEMENTS:
            continue
        value = values[node] = compute(n, node, values)
        passes_on = node.op == "get_attr" or operation(node) in _PASSES_ON
        stored[node] = passes_on and all(stored[source] for source in sources)
        created[node] = all(created[source] for source in sources) and node.meta.get("made", True)
        lifted = isinstance(value.floats, Tensor) and value.floats.is_floating_point()
        if lifted and value.floats.numel() and not isinstance(value.numbers, Unsupported):
            yield _Table(node, value.floats, value.numbers, stored[node], created[node])


def _stands_for(stored: _Table, computed: _Table) -> bool:
    """Whether a stored tensor is the rounding of the computed numbers, but not equal to them."""
    one = computed.floats.flatten()[:1]
    if bool((computed.floats == one).all()):  # one number, however often it is repeated
        computed_floats = one.expand(stored.floats.numel())
    elif stored.floats.numel() == computed.floats.numel():
        computed_floats = computed.floats.flatten()
    else:
        return False
    stored_floats, numbers = stored.floats.flatten(), _spread(computed.numbers, stored)
    if all(map(_equals, numbers, stored_floats.double().tolist())):
        return False
    same_dtype = stored_floats.dtype == computed_floats.dtype
    same = same_dtype and same_bits(stored_floats, computed_floats.contiguous())
    return same or _rounds_to(stored_floats, numbers)


def _spread(numbers: Any, like: _Table) -> Any:
    """Return as many numbers as a table has: those given, or the first of them repeated."""
    flat = np.asarray(numbers, dtype=object).ravel()
    count = like.floats.numel()
    return flat if flat.size == count else np.repeat(flat[:1], count)


def _rounds_to(floats: Tensor, balls: Any) -> bool:
    """Whether each float is the nearest to its ball's number."""
    if not all(ball.is_finite() for ball in balls) or not bool(floats.isfinite().all()):
        return False
    eps = torch.finfo(floats.dtype).eps
    return all(
        bool(abs(ball - x) <= abs(x) * eps / 2)
        for x, ball in zip(floats.double().tolist(), balls, strict=True)
    )
