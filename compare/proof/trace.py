"""Reads a function as an ATen program: what is run instead of the function itself.

The operations are recorded; torch.func.functionalize turns writes in place into values, and the
core ATen decompositions keep the list of operations short.
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
    """Read `function(**inputs)`, which returns named tensors, as a program.

    Each operation knows the line of code that asked for it: `line_of`.
    Raises Opaque when it leaves torch's operations (numpy, `.item()`), which shows when
    the recorded program, run at other inputs, does not give the function's own bits.
    """
    positional, tensors, names = _positional(function, inputs)
    attention = _Attention()
    with _readable():
        try:
            at = list(tensors.values())
            with attention:  # every call of torch's goes through it
                recorded, _ = Recorder({}, _line_outside).record(positional, at)
            _check_complete(recorded, positional, tensors)
            replay = _Replay()
            functional, _ = Recorder(
                decompositions(),
                lambda: replay.line,
                lambda: replay.origin,
                lambda: replay.autograd,
            ).record(torch.func.functionalize(lambda *at: _replay(recorded, at, replay)), at)
        except Opaque:
            raise
        except Exception as error:  # whatever cannot be followed
            raise Opaque(f"cannot be read as a program: {_first_line(error)}") from error
    functional.eliminate_dead_code()
    given: Any = functional.output_node().args[0]
    outputs = dict(zip(names, map(skip_copies, given), strict=True))
    narrower = attention.called or _casts(functional) > _casts(recorded)
    return Program(functional, tuple(tensors), outputs, narrower)


def try_trace(function: Function, inputs: Values) -> Program | Opaque:
    """Return a function as `trace` reads it, or why it cannot be."""
    try:
        return trace(function, inputs)
    except Opaque as why:
        return why


def recorded_texts(function: Function, inputs: Values) -> tuple[str, ...] | None:
    """Return the operations and constants of `function(**inputs)` as texts.

    Where these are the texts of a function that was traced, the program it gave is this one's too.
    None where nothing can be recorded, or what was, done once more, gives other bits than the
    function does: then part of its work is not in the texts.
    """
    positional, tensors, _ = _positional(function, inputs)
    at = list(tensors.values())
    with _readable():
        try:
            graph, _ = Recorder({}, _line_outside).record(positional, at)
            expected = positional(*at)
            actual = _replay(graph, [tensor.clone() for tensor in at])
        except Exception:  # trace says why
            return None
    if not all(map(same_bits, expected, actual)):
        return None
    return tuple(map(node_text, graph.nodes))


def _positional(
    function: Function, inputs: Values
) -> tuple[Callable[..., list[Tensor]], dict[str, Tensor], list[Key]]:
    """Return `function` of its tensors alone, in order; these; and, once it ran, its names."""
    # detached, so that one tensor given under two names is two: a recording tells them by identity
    tensors = {name: value.detach() for name, value in inputs.items() if isinstance(value, Tensor)}
    fixed = {name: value for name, value in inputs.items() if name not in tensors}
    names: list[Key] = []

    def positional(*values: Tensor) -> list[Tensor]:
        own = [value.clone() for value in values]  # it may write into them
        found = function(**dict(zip(tensors, own, strict=True)), **fixed)
        kept = {name: value for name, value in found.items() if isinstance(value, Tensor)}
        names[:] = kept
        return list(kept.values())

    return positional, tensors, names


def _casts(graph: fx.Graph) -> int:
    """Return how many times the program changes a dtype."""
    return sum("_to_copy" in str(node.target) for node in graph.nodes)


class _Replay(Floats):
    """Floats that know the line of the operation in hand, and whose it is.

    Of the copy of a constant they also know whether the code made that, and where it lies.
    """

    line: str | None = None
    autograd = False
    origin: tuple[bool, int | None] = True, None

    def run(self, node: fx.Node, args: Any, kwargs: Any) -> Any:
        self.line, self.autograd = node.meta.get("line"), node.meta.get("autograd", False)
        held = node.all_input_nodes[0].meta if operation(node) == "lift_fresh_copy" else {}
        self.origin = held.get("made", True), held.get("address")
        return super().run(node, args, kwargs)


def _replay(graph: fx.Graph, at: Sequence[Tensor], n: Floats | None = None) -> list[Tensor]:
    """Do recorded operations once more."""
    names = tuple(map(str, range(len(at))))
    given: Any = graph.output_node().args[0]
    program = Program(graph, names, dict(enumerate(given)), may_round_narrower=False)
    found = evaluate(program, dict(zip(names, at, strict=True)), n)
    return [found[k] for k in program.outputs]


_NOT_THEIRS = tuple(os.path.dirname(module.__file__ or "") + os.sep for module in (torch, os))
_NOT_THEIRS += (os.path.dirname(os.path.dirname(__file__)) + os.sep,)


def _line_outside() -> str | None:
    """Return the line of code outside torch, Python and this package that is being run."""
    frame: FrameType | None = sys._getframe(1)
    while frame and frame.f_code.co_filename.startswith(_NOT_THEIRS):
        frame = frame.f_back
    return frame and f"{frame.f_code.co_filename}:{frame.f_lineno}"


class _Attention(TorchFunctionMode):
    """Notes whether scaled_dot_product_attention was called."""

    called = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        self.called |= func is torch.nn.functional.scaled_dot_product_attention
        return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def _readable() -> Iterator[None]:
    """Have attention written out, not as one fused kernel; what is drawn is left undrawn."""
    with sdpa_kernel(SDPBackend.MATH), torch.random.fork_rng(devices=[]):
        yield


def _check_complete(
    recorded: fx.Graph, function: Callable[..., list[Tensor]], at: Mapping[str, Tensor]
) -> None:
    """Raise Opaque unless the recording is the whole of what the function does.

    It is if it gives the function's bits at other inputs. Where it does not (a backward pass of
    torch's own may choose another way while it is recorded), it is if a second recording, made at
    those other inputs, has the same operations and constants, and gives what the function gave
    while it was made: then no number crept in unseen. Where its operations are others, a branch
    went elsewhere, and the inputs are moved as little as they can be seen to move.
    """
    for move in (nearby, functools.partial(similar, leaf=True), very_near):
        moved = [move(name, tensor) for name, tensor in at.items()]
        try:
            expected = function(*(tensor.clone() for tensor in moved))
        except Exception:  # it takes inputs of a kind alone, or these alone
            if move is very_near:
                raise
            continue
        actual = _replay(recorded, [tensor.clone() for tensor in moved])
        if all(map(_alike, expected, actual)):
            return
        with torch.random.fork_rng(devices=[]):
            again, gave = Recorder({}, _line_outside).record(function, moved)
        if [*map(node_text, again.nodes)] == [*map(node_text, recorded.nodes)]:
            if all(map(_alike, gave, _replay(again, moved))):
                return
            break
        if str(again) == str(recorded):  # the constants alone differ: numbers that crept in
            break
    raise Opaque(
        "cannot be read as a program: its recorded operations do not give its own numbers at "
        "other inputs, so part of its work is not torch's (numpy, a kernel of its own), or it "
        "reads memory that nobody wrote (torch.empty)"
    )


def _alike(one: Tensor, other: Tensor) -> bool:
    """Whether two values have the same bits, or are NaN in the same places: code may overflow."""
    if not one.is_floating_point():
        return same_bits(one, other)
    nan = one.isnan()
    return bool((nan == other.isnan()).all()) and same_bits(
        one.masked_fill(nan, 0), other.masked_fill(nan, 0)
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
