"""Tracing: a function is recorded as an ATen program, which is then run in its place.

torch.func.functionalize turns in-place writes into values, and the core ATen decompositions keep
the list of operations short.
"""

import contextlib
import functools
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import FrameType
from typing import Any

import torch
from torch import Tensor, fx
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from compare.proof.bits import same_bits
from compare.proof.interpreter import Floats, evaluate
from compare.proof.other_inputs import nearby, similar, very_near
from compare.proof.program import Key, Opaque, Program, node_text, operation, skip_copies
from compare.proof.recorder import Recorder
from compare.torch_private import decompositions

Values = dict[str, Any]
Function = Callable[..., Mapping[Any, Tensor | None]]


def trace(function: Function, inputs: Values) -> Program:
    """Return `function(**inputs)` as a program.

    Each operation knows the line of code behind it: `source_line`.

    Args:
        function: Returns named tensors. It runs several times, also at other inputs.
        inputs: Its arguments by name. Tensors are the inputs of the program; all other arguments
            are fixed.

    Raises:
        Opaque: The function does more than torch operations (NumPy, `.item()`). It shows when the
            recorded program, run at other inputs, does not give the function's own bits.
    """
    positional, tensors, names = _positional(function, inputs)
    attention = _AttentionWatch()
    with _traceable():
        try:
            values = list(tensors.values())
            with attention:  # every call of torch goes through it
                recorded, _ = Recorder({}, _line_outside).record(positional, values)
            _check_complete(recorded, positional, tensors)
            replay = _ReplayFloats()
            functional, _ = Recorder(
                decompositions(),
                lambda: replay.line,
                lambda: replay.origin,
                lambda: replay.autograd,
            ).record(
                torch.func.functionalize(lambda *values: _replay(recorded, values, replay)), values
            )
        except Opaque:
            raise
        except Exception as error:  # anything that cannot be followed
            raise Opaque(f"cannot be traced: {_first_line(error)}") from error
    functional.eliminate_dead_code()
    results: Any = functional.output_node().args[0]
    outputs = dict(zip(names, map(skip_copies, results), strict=True))
    may_round_narrower = attention.called or _casts(functional) > _casts(recorded)
    return Program(functional, tuple(tensors), outputs, may_round_narrower)


def try_trace(function: Function, inputs: Values) -> Program | Opaque:
    """Return the program that `trace` returns, or the reason why there is none."""
    try:
        return trace(function, inputs)
    except Opaque as why:
        return why


def recorded_texts(function: Function, inputs: Values) -> tuple[str, ...] | None:
    """Return the operations and constants of `function(**inputs)` as texts.

    If they equal the texts of a function that was traced before, the earlier program is this
    function's program too. None if nothing can be recorded, or if a replay of the recording does
    not give the function's bits: part of the work is then missing from the texts.

    Args:
        function: Returns named tensors.
        inputs: Its arguments by name.
    """
    positional, tensors, _ = _positional(function, inputs)
    values = list(tensors.values())
    with _traceable():
        try:
            graph, _ = Recorder({}, _line_outside).record(positional, values)
            expected = positional(*values)
            actual = _replay(graph, [tensor.clone() for tensor in values])
        except Exception:  # trace reports the reason
            return None
    if not all(map(same_bits, expected, actual)):
        return None
    return tuple(map(node_text, graph.nodes))


def _positional(
    function: Function, inputs: Values
) -> tuple[Callable[..., list[Tensor]], dict[str, Tensor], list[Key]]:
    """Return `function` as one of its tensors alone, these tensors, and the names of its results.

    The list of names is filled when the returned function runs.
    """
    # detached, so that one tensor passed under two names is two: a recording tells tensors apart
    # by identity
    tensors = {name: value.detach() for name, value in inputs.items() if isinstance(value, Tensor)}
    fixed = {name: value for name, value in inputs.items() if name not in tensors}
    names: list[Key] = []

    def positional(*values: Tensor) -> list[Tensor]:
        copies = [value.clone() for value in values]  # the function may write into them
        results = function(**dict(zip(tensors, copies, strict=True)), **fixed)
        kept = {name: value for name, value in results.items() if isinstance(value, Tensor)}
        names[:] = kept
        return list(kept.values())

    return positional, tensors, names


def _casts(graph: fx.Graph) -> int:
    return sum("_to_copy" in str(node.target) for node in graph.nodes)


class _ReplayFloats(Floats):
    """Floats that expose the line and the caller of the operation that is being replayed.

    For the copy of a constant they also expose its origin, as `Recorder` defines it.
    """

    line: str | None = None
    autograd = False
    origin: tuple[bool, int | None] = True, None

    def run(self, node: fx.Node, args: Any, kwargs: Any) -> Any:
        self.line, self.autograd = node.meta.get("line"), node.meta.get("autograd", False)
        copied = node.all_input_nodes[0].meta if operation(node) == "lift_fresh_copy" else {}
        self.origin = copied.get("made", True), copied.get("address")
        return super().run(node, args, kwargs)


def _replay(graph: fx.Graph, values: Sequence[Tensor], n: Floats | None = None) -> list[Tensor]:
    """Run recorded operations again."""
    names = tuple(map(str, range(len(values))))
    results: Any = graph.output_node().args[0]
    program = Program(graph, names, dict(enumerate(results)), may_round_narrower=False)
    outputs = evaluate(program, dict(zip(names, values, strict=True)), n)
    return [outputs[k] for k in program.outputs]


# Folders whose code is not the user's: torch, the standard library, this package.
_NOT_USER_CODE = tuple(os.path.dirname(module.__file__ or "") + os.sep for module in (torch, os))
_NOT_USER_CODE += (os.path.dirname(os.path.dirname(__file__)) + os.sep,)


def _line_outside() -> str | None:
    """Return the line being run of code outside torch, Python and this package."""
    frame: FrameType | None = sys._getframe(1)
    while frame and frame.f_code.co_filename.startswith(_NOT_USER_CODE):
        frame = frame.f_back
    return frame and f"{frame.f_code.co_filename}:{frame.f_lineno}"


class _AttentionWatch(TorchFunctionMode):
    """Notes whether scaled_dot_product_attention was called."""

    called = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        self.called |= func is torch.nn.functional.scaled_dot_product_attention
        return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def _traceable() -> Iterator[None]:
    """Have attention run as separate operations, and restore the random state afterwards."""
    with sdpa_kernel(SDPBackend.MATH), torch.random.fork_rng(devices=[]):
        yield


def _check_complete(
    recorded: fx.Graph, function: Callable[..., list[Tensor]], inputs: Mapping[str, Tensor]
) -> None:
    """Raise Opaque unless the recording holds all that the function does.

    It does if a replay gives the function's bits at other inputs. A backward pass of torch may run
    differently while it is recorded, and the bits then differ. So the function is also recorded at
    the other inputs: if that recording has the same operations and constants, and its replay gives
    the results returned while recording, no number was computed outside the recording. If its
    operations differ, a branch was taken differently; then inputs that are moved less are tried.
    """
    for move in (nearby, functools.partial(similar, leaf=True), very_near):
        moved = [move(name, tensor) for name, tensor in inputs.items()]
        try:
            expected = function(*(tensor.clone() for tensor in moved))
        except Exception:  # it accepts only inputs of some kind, or only these
            if move is very_near:
                raise
            continue
        actual = _replay(recorded, [tensor.clone() for tensor in moved])
        if all(map(_same_or_nan, expected, actual)):
            return
        with torch.random.fork_rng(devices=[]):
            again, results = Recorder({}, _line_outside).record(function, moved)
        if [*map(node_text, again.nodes)] == [*map(node_text, recorded.nodes)]:
            if all(map(_same_or_nan, results, _replay(again, moved))):
                return
            break
        if str(again) == str(recorded):  # only constants differ: they were computed elsewhere
            break
    raise Opaque(
        "cannot be traced: replaying the recorded operations at other inputs gave different "
        "results; it probably calls NumPy or a custom kernel, or uses uninitialised memory "
        "(torch.empty)"
    )


def _same_or_nan(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors have the same bits, apart from the bits of NaN: code may overflow."""
    if not one.is_floating_point():
        return same_bits(one, other)
    nan = one.isnan()
    return bool((nan == other.isnan()).all()) and same_bits(
        one.masked_fill(nan, 0), other.masked_fill(nan, 0)
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
