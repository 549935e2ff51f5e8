"""All private names of torch that the project uses, each with what is lost without it.

A newer torch may rename or drop any of them. The project then uses public names instead, or does
without; `missing` returns the effects, which a report shows in its environment. This module imports
torch, and nothing of the project.
"""

import contextlib
import functools
import pkgutil
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any
from unittest import mock

import torch
from torch import Tensor

_DISPATCH = "torch.utils._python_dispatch:TorchDispatchMode"
_DECOMPOSITIONS = "torch._decomp:_core_aten_decompositions_post_autograd"
_SCHEMA = "torch:ops.aten.add.Tensor._schema"
_TASK = "torch:_C._current_graph_task_id"
_FUNCTORCH = "torch:_C._functorch.peek_interpreter_stack"
_VERSION = "torch:Tensor._version"
_SLOW = "torch.autograd.gradcheck:_run_slow_mode_and_get_error"
_NUMPY = "torch._numpy"

#: Private name -> the effect of its absence.
WITHOUT = {
    _DISPATCH: "no code can be traced as a program, and only equal bits pass",
    _DECOMPOSITIONS: "the first program takes longer to trace",
    _SCHEMA: "no mutant changes a constant",
    _TASK: "autograd's value at the 0 of a norm is taken for a branch of the user's code",
    _FUNCTORCH: "a check inside torch.vmap or torch.func.grad is not refused, and may fail",
    _VERSION: "large weights are copied at every step",
    _SLOW: "mutants takes longer for gradcheck",
    _NUMPY: "NumPy code cannot be traced as a program, and only equal bits pass",
}


@functools.cache
def lookup(name: str) -> Any:
    """Return torch's object of a name in `WITHOUT`, None if this torch has none."""
    with contextlib.suppress(ImportError, AttributeError):
        return pkgutil.resolve_name(name)
    return None


def missing() -> list[str]:
    """Return a line for each private name that this torch lacks."""
    lacking = (name for name in WITHOUT if lookup(name) is None)
    return [f"it lacks {name.replace(':', '.')}, so {WITHOUT[name]}" for name in lacking]


class _NoDispatchMode:
    """A substitute for a missing TorchDispatchMode: it refuses to record, which `read` reports."""

    def __enter__(self) -> None:
        raise RuntimeError(f"torch {torch.__version__} has no TorchDispatchMode to record with")

    def __exit__(self, *_exception: object) -> None:
        pass


CAN_RECORD = lookup(_DISPATCH) is not None
DispatchMode: Any = lookup(_DISPATCH) if CAN_RECORD else _NoDispatchMode


def keep_compiler_asleep(mode: type[Any]) -> type[Any]:
    """Return a dispatch mode's class, whose use does not import torch's compiler.

    Torch wraps the mode's method so that its compiler leaves it alone, and imports the compiler for
    that at the first operation, which takes longer than most checks. A compiler that is not
    imported needs no such order.
    """
    dispatch = getattr(mode.__torch_dispatch__, "__wrapped__", None)
    if dispatch is not None and "torch._dynamo" not in sys.modules:
        dispatch.__dict__.setdefault("__dynamo_disable", dispatch)
    return mode


@functools.cache
def decompositions() -> dict[Any, Callable[..., Any]]:
    """Return torch's core ATen decompositions, without those of composite operations.

    A Recorder decomposes composite operations in any case. torch's public table has both kinds, and
    takes a quarter of a second to build.
    """
    table = lookup(_DECOMPOSITIONS) or torch.export.default_decompositions
    return dict(table().items())


def arguments(operation: Any) -> Any:
    """Return the declared arguments of an operation, () if it has no declaration."""
    schema = None if lookup(_SCHEMA) is None else getattr(operation, "_schema", None)
    return schema.arguments if schema else ()


def in_backward() -> bool:
    """Return whether autograd's backward pass is running."""
    task = lookup(_TASK)
    return task is not None and task() >= 0


def in_transform() -> bool:
    """Return whether this is called inside torch.vmap, torch.func.grad or a similar transform."""
    stack = lookup(_FUNCTORCH)
    return stack is not None and stack() is not None


def is_fake(tensor: Tensor) -> bool:
    """Return whether a tensor is a FakeTensor; compared by name, because the class is private."""
    return any(kind.__name__ == "FakeTensor" for kind in type(tensor).__mro__)


def version(tensor: Tensor) -> Any:
    """Return a value that changes when the tensor is written into; a new object if unknown."""
    return object() if lookup(_VERSION) is None else tensor._version


def numpy_in_torch() -> Any:
    """Return torch's functions with the names and arguments of NumPy's, as a module.

    Raises:
        TypeError: This torch has none.
    """
    if (functions := lookup(_NUMPY)) is None:
        raise TypeError(f"torch {torch.__version__} has no NumPy functions to record with")
    return functions


def no_slow_gradcheck() -> AbstractContextManager[Any]:
    """Return a patch that keeps a failed fast gradcheck from a slow run for its error message."""
    home, _, name = _SLOW.partition(":")
    return mock.patch.object(pkgutil.resolve_name(home), name, return_value="", create=True)
