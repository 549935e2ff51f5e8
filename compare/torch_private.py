"""The private names of torch that the project uses, here alone, each with what goes on without it.

A newer torch may rename or drop any of them. Where it does, a public way is taken, or something is
left out, and `missing` says in words what: a report's environment holds that. Imports torch,
nothing of the project.
"""

import contextlib
import functools
import pkgutil
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

#: By name, what is so without it.
WITHOUT = {
    _DISPATCH: "no code can be read as a program, and only equal bits are shown to be right",
    _DECOMPOSITIONS: "the first program takes longer to read",
    _SCHEMA: "no mutant has another constant",
    _TASK: "what autograd does at the 0 of a norm is taken for a choice of the code's own",
    _FUNCTORCH: "a check inside torch.vmap or torch.func.grad is not refused, and may fail",
    _VERSION: "large weights are copied at every step",
    _SLOW: "mutants waits longer for gradcheck",
}


@functools.cache
def found(name: str) -> Any:
    """Return what stands in torch under a name of `WITHOUT`, None where nothing does."""
    with contextlib.suppress(ImportError, AttributeError):
        return pkgutil.resolve_name(name)
    return None


def missing() -> list[str]:
    """Return a line for each private name that this torch lacks."""
    lacking = (name for name in WITHOUT if found(name) is None)
    return [f"it lacks {name.replace(':', '.')}, so {WITHOUT[name]}" for name in lacking]


class _NoDispatchMode:
    """Stands in for TorchDispatchMode: nothing can be recorded with it, and `read` says so."""

    def __enter__(self) -> None:
        raise RuntimeError(f"torch {torch.__version__} has no TorchDispatchMode to record with")

    def __exit__(self, *_exception: object) -> None:
        pass


CAN_RECORD = found(_DISPATCH) is not None
DispatchMode: Any = found(_DISPATCH) if CAN_RECORD else _NoDispatchMode


@functools.cache
def decompositions() -> dict[Any, Callable[..., Any]]:
    """Return torch's core ATen decompositions.

    Without those of composite operations, which a Recorder takes apart in any case. torch's public
    table has both, the latter as the operations do, and takes a quarter of a second to build.
    """
    table = found(_DECOMPOSITIONS) or torch.export.default_decompositions
    return dict(table().items())


def arguments(operation: Any) -> Any:
    """Return the declared arguments of an operation, none of what has no declaration."""
    schema = None if found(_SCHEMA) is None else getattr(operation, "_schema", None)
    return schema.arguments if schema else ()


def in_backward() -> bool:
    """Whether autograd's backward pass is what runs."""
    task = found(_TASK)
    return task is not None and task() >= 0


def in_transform() -> bool:
    """Whether this is called inside torch.vmap, torch.func.grad or their like."""
    stack = found(_FUNCTORCH)
    return stack is not None and stack() is not None


def is_fake(tensor: Tensor) -> bool:
    """Whether it is a FakeTensor: by its name, for the class is torch's own affair."""
    return any(kind.__name__ == "FakeTensor" for kind in type(tensor).__mro__)


def version(tensor: Tensor) -> Any:
    """Return what is another one once the tensor was written into; one of its own if unknown."""
    return object() if found(_VERSION) is None else tensor._version


def no_slow_gradcheck() -> AbstractContextManager[Any]:
    """Return what keeps gradcheck's fast mode, once it refused, from a slow run for its words."""
    home, _, name = _SLOW.partition(":")
    return mock.patch.object(pkgutil.resolve_name(home), name, return_value="", create=True)
