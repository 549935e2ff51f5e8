"""Tracing: a function is recorded as an ATen program, which is then run in its place.

torch.func.functionalize turns in-place writes into values, and the core ATen decompositions keep
the list of operations short.
"""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import FrameType
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from compare.proof.bits import real_view, same_bits
from compare.proof.bounds import Bound
from compare.proof.completeness import NaNForUnwritten, check_complete, same_or_nan
from compare.proof.interpreter import Floats, Lifted, Unsupported, lift, run
from compare.proof.numpy_recording import recorded_arrays
from compare.proof.program import Key, Opaque, Program, node_text, operation, skip_copies
from compare.proof.recorder import Recorder
from compare.proof.rounding import bounds_for, largest_share, share_of_rounding
from compare.torch_private import decompositions

Values = dict[str, Any]
Function = Callable[..., Mapping[Any, Tensor | None]]


def trace(function: Function, inputs: Values) -> Program:
    """Return `function(**inputs)` as a program.

    Each operation knows the line of code behind it: `source_line`. If operations of torch are not
    all that the function does, it is recorded again with its NumPy code as operations of torch.

    Args:
        function: Returns named tensors. It runs several times, also at other inputs.
        inputs: Its arguments by name. Tensors are the inputs of the program; all other arguments
            are fixed.

    Raises:
        Opaque: The function does more than operations of torch and NumPy (`.item()`, a custom
            kernel). It shows when the recorded program, run at other inputs, does not give the
            function's own numbers.
    """
    try:
        return _Torch(function, inputs).program()
    except Opaque as why:
        numpy = _NumPy(function, inputs)
        try:
            return numpy.program()
        except Opaque as why_not_numpy:
            raise (why_not_numpy if numpy.calls else why) from None


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
            graph, _ = Recorder({}, line_outside).record(positional, values)
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
    outputs = run(program, n or NaNForUnwritten(), dict(zip(names, values, strict=True)))
    return [outputs[k].floats for k in program.outputs]


# Folders whose code is not the user's: torch, NumPy, the standard library, this package.
_NOT_USER_CODE = tuple(os.path.dirname(m.__file__ or "") + os.sep for m in (torch, np, os))
_NOT_USER_CODE += (os.path.dirname(os.path.dirname(__file__)) + os.sep,)


def line_outside() -> str | None:
    """Return the line being run of code outside torch, NumPy, Python and this package."""
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


class _Torch:
    """A function as operations of torch, accepted if they give its bits.

    Args:
        function: Returns named tensors.
        inputs: Its arguments by name.
    """

    own_kernels = False
    graph: fx.Graph

    def __init__(self, function: Function, inputs: Values) -> None:
        self.function, self.inputs, self.names = _positional(function, inputs)

    def program(self) -> Program:
        """Return the program; raises Opaque if the operations are not all of the function."""
        attention, values = _AttentionWatch(), list(self.inputs.values())
        with _traceable():
            try:
                with attention:  # every call of torch goes through it
                    self.graph, _ = self._recorded(values)
                self.traced = self._decomposed(values, attention)
                check_complete(self)
            except Opaque:
                raise
            except Exception as error:  # anything that cannot be followed
                raise Opaque(f"cannot be traced: {_first_line(error)}") from error
        return self.traced

    def _recorded(self, values: Sequence[Tensor]) -> tuple[fx.Graph, list[Tensor]]:
        return Recorder({}, line_outside).record(self.function, values)

    def _decomposed(self, values: list[Tensor], attention: _AttentionWatch) -> Program:
        """Return the recorded operations as a program of core ATen operations."""
        replay = _ReplayFloats()
        functional, _ = Recorder(
            decompositions(),
            lambda: replay.line,
            lambda: replay.origin,
            lambda: replay.autograd,
        ).record(
            torch.func.functionalize(lambda *values: _replay(self.graph, values, replay)), values
        )
        functional.eliminate_dead_code()
        results: Any = functional.output_node().args[0]
        outputs = dict(zip(self.names, map(skip_copies, results), strict=True))
        may_round_narrower = attention.called or _casts(functional) > _casts(self.graph)
        return Program(functional, tuple(self.inputs), outputs, may_round_narrower)

    # -- for check_complete

    def run(self, values: Sequence[Tensor]) -> list[Tensor]:
        """Run the function, without recording it."""
        return self.function(*(value.clone() for value in values))

    def record(self, values: Sequence[Tensor]) -> tuple[fx.Graph, list[Tensor]]:
        """Record the function at other inputs; return the operations and the results."""
        with torch.random.fork_rng(devices=[]):
            return self._recorded(values)

    def replay(self, graph: fx.Graph, values: Sequence[Tensor]) -> list[Tensor]:
        """Run recorded operations; memory that they leave unwritten holds NaN.

        It might hold the very numbers that a custom kernel wrote there a moment before.
        """
        return _replay(graph, [value.clone() for value in values])

    def agrees(self, expected: Sequence[Tensor], values: Sequence[Tensor]) -> bool:
        """Return whether a replay gives these bits at these inputs."""
        try:
            actual = self.replay(self.graph, values)
        except Exception:  # a mask that picks another number of elements, say
            return False
        return all(map(same_or_nan, expected, actual))


class _NumPy(_Torch):
    """A function with its NumPy code as operations of torch.

    NumPy's kernels are not torch's, so they are accepted if the function's numbers lie within the
    rounding bound that both have.
    """

    own_kernels = True

    def __init__(self, function: Function, inputs: Values) -> None:
        super().__init__(function, inputs)
        #: Functions that gave or took a recorded array.
        self.calls: list[str] = []

    def program(self) -> Program:
        """Return the program; what the code keeps between calls holds plain arrays afterwards."""
        try:
            return super().program()
        finally:
            with contextlib.suppress(Exception), torch.random.fork_rng(devices=[]):
                self.run(list(self.inputs.values()))

    def _recorded(self, values: Sequence[Tensor]) -> tuple[fx.Graph, list[Tensor]]:
        with recorded_arrays() as self.calls:
            return super()._recorded(values)

    def agrees(self, expected: Sequence[Tensor], values: Sequence[Tensor]) -> bool:
        """Return whether these numbers are within rounding of the program's at these inputs.

        Each run lies within the bound of the exact value, so two lie within twice the bound of each
        other. Numbers without a row in the table of operations have no bound: nothing will be said
        of their formula.
        """
        named = dict(zip(self.inputs, values, strict=True))
        lifted = lift(self.traced, bounds_for(self.traced, values), named)
        return all(map(_within_bound, expected, (lifted[name] for name in self.names)))


def _within_bound(expected: Tensor, computed: Lifted) -> bool:
    expected, floats, bound = real_view(expected), computed.floats, computed.numbers
    if expected.shape != floats.shape or expected.dtype != floats.dtype:
        return False
    if isinstance(bound, Unsupported):
        return True
    if not isinstance(bound, Bound):
        return same_or_nan(expected, floats)
    nan = expected.isnan() & floats.isnan()
    share = share_of_rounding(expected, floats, 2 * bound.error.cpu())
    return largest_share(share.masked_fill(nan.cpu(), 0.0)) <= 1


@contextlib.contextmanager
def _traceable() -> Iterator[None]:
    """Have attention run as separate operations, and restore the random state afterwards."""
    with sdpa_kernel(SDPBackend.MATH), torch.random.fork_rng(devices=[]):
        yield


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
