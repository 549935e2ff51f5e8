"""Whether a recording holds all that a function does: it is run and recorded at other inputs too.

Numbers that the function computes outside the recording, in a custom kernel say, enter it as
constants. They show because they change with the inputs.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from torch import Tensor, fx

from compare.proof.bits import real_view, same_bits
from compare.proof.interpreter import Floats
from compare.proof.other_inputs import nearby, similar, very_near
from compare.proof.program import (
    Opaque,
    constant_text,
    line_text,
    node_text,
    operation,
    random_draw,
)

_MOVES: tuple[Callable[[str, Tensor], Tensor], ...] = (
    nearby, functools.partial(similar, leaf=True), very_near,
)  # fmt: skip


class Recording(Protocol):
    """A recorded function: what the check of completeness needs of it.

    Attributes:
        graph: The recorded operations.
        inputs: Name -> input at which they were recorded.
        own_kernels: Whether the function's own numbers come from other kernels than a replay's.
    """

    graph: fx.Graph
    inputs: dict[str, Tensor]
    own_kernels: bool

    def run(self, values: Sequence[Tensor]) -> list[Tensor]:
        """Run the function, without recording it."""

    def record(self, values: Sequence[Tensor]) -> tuple[fx.Graph, list[Tensor]]:
        """Record the function at other inputs; return the operations and the results."""

    def replay(self, graph: fx.Graph, values: Sequence[Tensor]) -> list[Tensor]:
        """Run recorded operations."""

    def agrees(self, expected: Sequence[Tensor], values: Sequence[Tensor]) -> bool:
        """Return whether the recorded operations give these numbers at these inputs."""


def check_complete(recording: Recording) -> None:
    """Raise Opaque unless the recording holds all that the function does.

    Operations of torch do if a replay gives the function's bits at other inputs. A backward pass of
    torch may run differently while it is recorded, and the bits then differ; and the bits of NumPy
    always may. So the function is also recorded at the other inputs: if that recording has the same
    operations and constants, and its replay gives the results returned while recording, no number
    was computed outside the recording. If its operations differ, a branch was taken differently;
    then inputs that are moved less are tried, and in the end the given inputs alone.
    """
    graph, own_kernels = recording.graph, recording.own_kernels
    given = list(recording.inputs.values())
    if own_kernels and not recording.agrees(recording.run(given), given):
        raise Opaque(_unwritten(recording) or _OTHER_NUMBERS)
    branches = []
    for move in _MOVES:
        moved = [move(name, tensor) for name, tensor in recording.inputs.items()]
        try:
            expected = recording.run(moved)
        except Exception:  # it accepts only inputs of some kind, or only these
            if move is very_near:
                raise
            continue
        agrees = recording.agrees(expected, moved)
        if agrees and not own_kernels:
            return
        again, results = recording.record(moved)
        if _texts(again) == _texts(graph):
            if own_kernels and not agrees:
                raise Opaque(_unwritten(recording) or _OTHER_NUMBERS)
            if all(map(same_or_nan, results, recording.replay(again, moved))):
                return
            raise Opaque(_outside(recording, graph))
        if str(again) == str(graph):  # only constants differ: they were computed elsewhere
            raise Opaque(_outside(recording, graph, again))
        branches.append(again)
    if not _holds_here(recording, given, branches):
        why = "takes another branch at other inputs, so that its operations cannot be confirmed"
        raise Opaque(_random(graph) or f"cannot be traced: it {why}")


def _holds_here(recording: Recording, given: list[Tensor], branches: list[fx.Graph]) -> bool:
    """Whether a recording holds all at its own inputs, though each other one takes other branches.

    A replay gives the numbers of the function, a second recording is the same, and each number in
    it is also in the recordings at other inputs: one that was computed elsewhere would change.
    """
    again, results = recording.record(given)
    if _texts(again) != _texts(recording.graph):
        return False
    if not recording.agrees(recording.run(given), given) and not all(
        map(same_or_nan, results, recording.replay(again, given))
    ):
        return False
    numbers = _numbers(again)
    return all(numbers <= _numbers(branch) for branch in branches)


def _texts(graph: fx.Graph) -> list[str]:
    return [*map(node_text, graph.nodes)]


def _numbers(graph: fx.Graph) -> set[str]:
    """Return all constants of a graph, and the floats among the arguments of its operations."""
    found = {constant_text(node) for node in graph.nodes if node.op == "get_attr"}
    for node in graph.nodes:
        fx.node.map_aggregate(
            (node.args, node.kwargs),
            lambda value: found.add(repr(value)) if isinstance(value, float) else None,
        )
    return found


def same_or_nan(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors have the same bits, apart from the bits of NaN: code may overflow."""
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    one, other = real_view(one), real_view(other)
    if not one.is_floating_point():
        return same_bits(one, other)
    nan = one.isnan()
    return bool((nan == other.isnan()).all()) and same_bits(
        one.masked_fill(nan, 0), other.masked_fill(nan, 0)
    )


# -- what was seen of the work outside

_OTHER_NUMBERS = (
    "cannot be traced: as torch operations its NumPy code does not give NumPy's own numbers to "
    "within rounding"
)


class NaNForUnwritten(Floats):
    """Floats in which memory that an operation leaves unwritten holds NaN."""

    def run(self, node: fx.Node, args: Any, kwargs: Any) -> Any:
        """Return the tensor that a node holds, or the output of its operation."""
        out = super().run(node, args, kwargs)
        if "empty" in operation(node) and isinstance(out, Tensor) and out.is_floating_point():
            out.fill_(math.nan)
        return out


def _outside(recording: Recording, graph: fx.Graph, again: fx.Graph | None = None) -> str:
    """Return in words what a function does outside a recording.

    Args:
        recording: The function.
        graph: Its recording.
        again: One at other inputs, in which only constants differ, if they do.
    """
    if drawn := _random(graph):
        return drawn
    if again is not None:
        pairs = zip(graph.nodes, again.nodes, strict=True)
        changed = next(one for one, other in pairs if node_text(one) != node_text(other))
        where = line_text(next(iter(changed.users), changed))
        return (
            f"cannot be traced: numbers are computed outside torch{where}, by NumPy (np.random, "
            "say), ctypes or a custom kernel"
        )
    return _unwritten(recording) or (
        "cannot be traced: replaying the recorded operations gave different results, so a custom "
        "kernel, or NumPy that writes into a tensor's memory, does part of the work"
    )


def _unwritten(recording: Recording) -> str | None:
    """Return in words where memory is read that no operation has written, None if none is."""
    made = [node for node in recording.graph.nodes if "empty" in operation(node)]
    if not made:
        return None
    values = recording.replay(recording.graph, list(recording.inputs.values()))
    if not any(bool(value.isnan().any()) for value in values):
        return None
    return (
        f"cannot be traced: memory of torch.{operation(made[0])}{line_text(made[0])} is read that "
        "no operation of torch has written: a custom kernel did, or nobody"
    )


def _random(graph: fx.Graph) -> str | None:
    """Return in words where a function draws random numbers, None if it does not."""
    drawn = next(filter(None, map(random_draw, graph.nodes)), None)
    return drawn and f"cannot be traced: {drawn}"
