"""Tensors that one side holds and the other works out from no input: a cosine table, a window.

The held one is the other's rounding, so as numbers the two are apart; as what they stand for they
are one.
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

LARGEST = 100_000  # elements of a table that is looked for
FEW = 1_000  # elements that may each stand for a number in the code
_HANDS_ON = MOVES | {"_to_copy"}


@dataclass(frozen=True)
class _Table:
    node: fx.Node
    floats: Tensor
    numbers: Any
    held: bool  # or worked out
    made: bool  # of nothing that was there before the code ran


def tables(
    one: Program | Opaque, other: Program | Opaque, n: Balls, *, leads: bool = True
) -> dict[fx.Node, Any]:
    """Return, for tensors that one side holds, the numbers that the other has for them.

    Those are what it makes of nothing, or writes as numbers in its code: they have the held
    tensor's bits, or round to it. What it makes of a tensor that was there before, a weight times
    1.001, is never what that stands for. Of tensors that both sides make only those of the one that
    does not `lead` are taken for the other's.
    """
    if isinstance(one, Opaque) or isinstance(other, Opaque):
        return {}
    held = [table for table in _constants(one, n) if table.held]
    if not held:
        return {}
    worked_out = {table.node: table for table in _constants(other, n) if table.made}
    looked_at = [*worked_out.values()]
    if n.reading.mode == ANY:  # too wide to tell what rounds to what
        plain = Balls(None, AS_WRITTEN, n.precision)
        looked_at = [table for table in _constants(other, plain) if table.made]
    numbers = [(x, n.constant(x, torch.float64).item()) for x in _numbers(other)]
    found: dict[fx.Node, Any] = {}
    for table in held:
        like = (w for w in looked_at if not (leads and table.made and w.held))
        same = next((w for w in like if _stands_for(table, w)), None)
        match = _written_there(table, numbers) if same is None else worked_out[same.node].numbers
        if match is not None:
            found[table.node] = _spread(match, table).reshape(table.numbers.shape)
    return found


def _numbers(program: Program) -> set[float]:
    """Return the numbers in the code."""
    found: set[float] = set()

    def note(value: Any) -> Any:
        if isinstance(value, float) and value and math.isfinite(value):
            found.add(value)
        return value

    for node in program.graph.nodes:
        if operation(node) not in MOVES:
            fx.node.map_aggregate((node.args, node.kwargs), note)
    return found


def _written_there(held: _Table, numbers: list[tuple[float, Any]]) -> list[Any] | None:
    """Return the numbers of a held tensor, those that are a rounding of the other side's as these.

    None if there are none, or so many elements that nobody wrote them.
    """
    elements = held.floats.double().flatten().tolist()
    if len(elements) > FEW:
        return None
    known: dict[float, Any] = {}
    for x, ball in numbers:
        for value, meant in ((x, ball), (1 / x, 1 / ball)):  # x / 3 for x * 0.3333
            for sign in (1, -1):
                at, signed = round_to(sign * value, held.floats.dtype), sign * meant
                known[at] = signed.union(known[at]) if at in known else signed
    found = [known.get(x, flint.arb(x)) for x in elements]
    return None if all(map(_is, found, elements)) else found


def _is(ball: Any, x: float) -> bool:
    return bool(ball.is_exact() and ball == x)


def _constants(program: Program, n: Balls) -> Iterator[_Table]:
    """Yield every tensor of floats in a program that depends on none of its inputs."""
    values: Cache = {}
    held: dict[fx.Node, bool] = {}
    made: dict[fx.Node, bool] = {}
    for node in program.graph.nodes:
        sources = node.all_input_nodes
        if node.op in ("placeholder", "output") or any(source not in held for source in sources):
            continue
        size = node.meta.get("val")
        if isinstance(size, Tensor) and size.numel() > LARGEST:
            continue
        value = values[node] = compute(n, node, values)
        hands_on = node.op == "get_attr" or operation(node) in _HANDS_ON
        held[node] = hands_on and all(held[source] for source in sources)
        made[node] = all(made[source] for source in sources) and node.meta.get("made", True)
        known = isinstance(value.floats, Tensor) and value.floats.is_floating_point()
        if known and value.floats.numel() and not isinstance(value.numbers, Unsupported):
            yield _Table(node, value.floats, value.numbers, held[node], made[node])


def _stands_for(held: _Table, worked: _Table) -> bool:
    """Whether a held tensor is what the other side works out, rounded, and not just that."""
    one = worked.floats.flatten()[:1]
    if bool((worked.floats == one).all()):  # a number is one however often it stands there
        theirs_floats = one.expand(held.floats.numel())
    elif held.floats.numel() == worked.floats.numel():
        theirs_floats = worked.floats.flatten()
    else:
        return False
    mine, theirs = held.floats.flatten(), _spread(worked.numbers, held)
    if all(_is(ball, x) for x, ball in zip(mine.double().tolist(), theirs, strict=True)):
        return False
    same = mine.dtype == theirs_floats.dtype and same_bits(mine, theirs_floats.contiguous())
    return same or _rounds_to(mine, theirs)


def _spread(numbers: Any, like: _Table) -> Any:
    """Return as many numbers as a table has, the first of all again where there are others."""
    flat = np.asarray(numbers, dtype=object).ravel()
    count = like.floats.numel()
    return flat if flat.size == count else np.repeat(flat[:1], count)


def _rounds_to(floats: Tensor, balls: Any) -> bool:
    """Whether each float is nearest to its ball's number."""
    if not all(ball.is_finite() for ball in balls) or not bool(floats.isfinite().all()):
        return False
    eps = torch.finfo(floats.dtype).eps
    return all(
        bool(abs(ball - x) <= abs(x) * eps / 2)
        for x, ball in zip(floats.double().tolist(), balls, strict=True)
    )
