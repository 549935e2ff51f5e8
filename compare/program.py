"""A function as an ATen program: what lifting and bounds run instead of the function itself.

Source of the method: torch.fx's make_fx records the operations, torch.func.functionalize turns
writes in place into values, and the core ATen decompositions keep the list of operations short.
"""

import contextlib
import functools
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.fx.traceback
from torch import Tensor, fx
from torch._decomp import core_aten_decompositions
from torch._decomp.decompositions import native_batch_norm_decomposition
from torch.fx.experimental.proxy_tensor import disable_proxy_modes_tracing, make_fx
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from compare.bits import same_bits

Values = dict[str, Any]
Function = Callable[..., Mapping[str, Tensor | None]]

# Operations that hand on their input's numbers in its shape: a name given to one of them is the
# name of what stands before it.
_SAME = {"alias", "clone", "detach", "detach_copy", "lift_fresh_copy", "alias_copy", "contiguous"}


class Opaque(Exception):
    """The function cannot be read as a program; the message says why."""


@dataclass(frozen=True)
class Program:
    """A traced function: its graph, the names of its inputs, the node behind each named output."""

    graph: fx.GraphModule
    inputs: tuple[str, ...]
    outputs: Mapping[str, fx.Node]
    # Whether a kernel may round to the inputs' dtype where the program shows a wider one: a fused
    # attention kernel, or an operation whose decomposition widens half precision of its own accord.
    narrower: bool

    def ancestors(self) -> dict[str, set[str]]:
        """Return, for each output, the other outputs that it is computed from."""
        names: dict[fx.Node, list[str]] = {}
        for name, node in self.outputs.items():
            names.setdefault(node, []).append(name)
        above: dict[fx.Node, set[str]] = {}
        for node in self.graph.graph.nodes:
            found: set[str] = set()
            for source in node.all_input_nodes:
                found |= above[source] | set(names.get(source, ()))
            above[node] = found
        own: dict[str, set[str]] = {}
        for name, node in self.outputs.items():
            earlier = names[node][: names[node].index(name)]  # handed on under another name
            own[name] = above[node] | set(earlier)
        return own

    def follows(self) -> dict[str, list[str]]:
        """Return, for each output, the other outputs that are computed from it."""
        above = self.ancestors()
        return {name: [other for other in above if name in above[other]] for name in above}


def trace(function: Function, inputs: Values, *, lines: bool = False) -> Program:
    """Read `function(**inputs)`, which returns named tensors, as a program.

    With `lines` each operation knows the line of code that asked for it: `line_of`.
    Raises Opaque when it leaves torch's operations (numpy, `.data`, `.item()`), which shows when
    the recorded program, run at other inputs, does not give the function's own bits.
    """
    tensors = {name: value for name, value in inputs.items() if isinstance(value, Tensor)}
    fixed = {name: value for name, value in inputs.items() if name not in tensors}
    names: list[str] = []

    def positional(*values: Tensor) -> list[Tensor]:
        own = [value.clone() for value in values]  # it may write into them
        found = function(**dict(zip(tensors, own, strict=True)), **fixed)
        kept = {name: value for name, value in found.items() if isinstance(value, Tensor)}
        names[:] = kept
        return list(kept.values())

    attention = _Attention()
    with _readable(), attention:
        try:
            with _keeping_lines() if lines else contextlib.nullcontext():
                recorded = _record(positional, list(tensors.values()), lines=lines)
            _check_complete(recorded, positional, list(tensors.values()))
            run = fx.Interpreter(recorded).run if lines else recorded
            with _keeping_lines() if lines else contextlib.nullcontext():
                functional = make_fx(
                    torch.func.functionalize(run), decomposition_table=_decompositions()
                )(*tensors.values())
        except Opaque:
            raise
        except Exception as error:  # whatever tracing cannot follow
            raise Opaque(f"cannot be read as a program: {_first_line(error)}") from error
    functional.graph.eliminate_dead_code()
    (output,) = (node for node in functional.graph.nodes if node.op == "output")
    roots = [root(node) for node in output.args[0]]
    outputs = dict(zip(names, roots, strict=True))
    narrower = attention.called or _casts(functional) > _casts(recorded)
    return Program(functional, tuple(tensors), outputs, narrower)


def _casts(graph: fx.GraphModule) -> int:
    """Return how many times the program changes a dtype."""
    return sum("_to_copy" in str(node.target) for node in graph.graph.nodes)


@functools.cache
def _decompositions() -> dict[Any, Callable[..., Any]]:
    """Return torch's core ATen decompositions; building the table takes half a second."""
    return dict(core_aten_decompositions().items())


def _record(
    function: Callable[..., list[Tensor]], at: list[Tensor], *, lines: bool = False
) -> fx.GraphModule:
    """Record the operations that `function` does at these inputs."""

    def recorded(*values: Tensor) -> list[Tensor]:
        with _IntegersRead(), _Lines() if lines else contextlib.nullcontext():  # type: ignore[no-untyped-call]
            return function(*values)

    # the schema of native_batch_norm does not say that it moves the running statistics
    saying_so = {torch.ops.aten.native_batch_norm.default: native_batch_norm_decomposition}
    return make_fx(recorded, decomposition_table=saying_so)(*at)


class _IntegersRead(TorchDispatchMode):
    """Lets the code read an integer or a boolean out of a tensor (`int(i)`, `if mask.any()`).

    What is decided so is decided, like any branch, by the float run. Reading a float out stays
    refused: a number would leave the program unseen.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        if func is torch.ops.aten._local_scalar_dense.default and not args[0].is_floating_point():
            with disable_proxy_modes_tracing():
                return func(*args)
        return func(*args, **(kwargs or {}))


class _Lines(TorchDispatchMode):
    """Notes with each operation the line of code outside torch and this package that asked for it.

    torch.fx's own record of stack traces keeps the frames of methods called `forward` alone.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        frame = sys._getframe(1)
        while frame.f_back and _not_theirs(frame.f_code.co_filename):
            frame = frame.f_back
        fx.traceback.current_meta["stack_trace"] = f"{frame.f_code.co_filename}:{frame.f_lineno}"
        return func(*args, **(kwargs or {}))


_HERE = os.path.dirname(__file__) + os.sep
_TORCH = os.path.dirname(torch.__file__) + os.sep


def _not_theirs(file: str) -> bool:
    return file.startswith((_HERE, _TORCH, os.path.dirname(os.__file__) + os.sep))


@contextlib.contextmanager
def _keeping_lines() -> Iterator[None]:
    """Within, what is recorded takes over what `_Lines` noted."""
    with fx.traceback.preserve_node_meta():
        fx.traceback.current_meta.pop("stack_trace", None)
        yield


def line_of(node: fx.Node) -> tuple[str, int] | None:
    """Return the file and the line of the code that asked for this operation, None if unknown."""
    file, _, line = node.meta.get("stack_trace", "").rpartition(":")
    return (file, int(line)) if file and line.isdigit() else None


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
    recorded: fx.GraphModule, function: Callable[..., list[Tensor]], at: list[Tensor]
) -> None:
    """Raise Opaque unless the recording is the whole of what the function does.

    It is if it gives the function's bits at other inputs. Where it does not (a backward pass of
    torch's own may choose another way while it is recorded), it is if a second recording, made at
    those other inputs, has the same operations and constants: then no number crept in unseen.
    """
    moved = [beside(tensor) for tensor in at]
    expected = function(*(tensor.clone() for tensor in moved))
    actual = recorded(*(tensor.clone() for tensor in moved))
    if all(same_bits(one, other) for one, other in zip(expected, actual, strict=True)):
        return
    again = _record(function, moved)
    same_code = again.code == recorded.code
    constants = dict(recorded.named_buffers()), dict(again.named_buffers())
    if not (
        same_code
        and constants[0].keys() == constants[1].keys()
        and all(same_bits(value, constants[1][name]) for name, value in constants[0].items())
    ):
        raise Opaque(
            "cannot be read as a program: its recorded operations do not give its own numbers at "
            "other inputs, so part of its work is not torch's (numpy, .data, a kernel of its own)"
        )


def beside(tensor: Tensor) -> Tensor:
    """Return other inputs close by: each float moved by a random 1 % or so, zeros off zero too."""
    if not tensor.is_floating_point() or not tensor.numel():
        return tensor.clone()
    chance = torch.Generator().manual_seed(tensor.numel())
    noise = torch.rand(tensor.shape, generator=chance, dtype=torch.float64).to(tensor.device)
    size = tensor.detach().double().abs()
    scale = torch.where(size == 0, size.max().clamp_min(2.0**-10), size)
    return (tensor.detach().double() + scale * (noise + 0.25) / 64).to(tensor.dtype)


def root(node: fx.Node) -> fx.Node:
    """Return the node whose numbers `node` only hands on."""
    while node.op == "call_function" and node.target.__name__.split(".")[0] in _SAME:  # type: ignore[union-attr]
        node = node.args[0]  # type: ignore[assignment]
    return node


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
