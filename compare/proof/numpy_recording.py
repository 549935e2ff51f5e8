"""Having the code under test compute with recorded arrays in place of NumPy's.

Tensors give a `RecordedArray` where they would give an array, and torch takes it back. A function
that makes an array from nothing, such as np.zeros, is found by no protocol of NumPy's. It is
replaced in the code under test alone, by another `np` among its global names: libraries, and their
compiled code above all, may take only what NumPy itself makes.
"""

import contextlib
import functools
import sys
import sysconfig
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor

from compare.proof.numpy_array import CREATE, RecordedArray, call, tensor_of

# Where code lies that is not under test: libraries, Python, the import of a module, this package.
_LIBRARIES = ("<frozen", *{sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")})
_PACKAGE = str(Path(__file__).parents[1])
_ONE_AT_A_TIME = threading.RLock()


@contextlib.contextmanager
def recorded_arrays() -> Iterator[list[str]]:
    """Have this thread's code compute with recorded arrays; yield a list of what made or took them.

    Everything is put back at the end. Other threads use NumPy and torch as they are, but for a
    ufunc of a tensor; a second one that records waits.
    """
    calls: list[str] = []
    thread = threading.get_ident()

    def replaced(
        home: Any, name: str, ours: Callable[..., Any], takes_arrays: bool = False
    ) -> Callable[..., Any]:
        before = getattr(home, name)

        @functools.wraps(before)
        def function(*args: Any, **kwargs: Any) -> Any:
            elsewhere = threading.get_ident() != thread or _is_from(sys._getframe(1), _LIBRARIES)
            if elsewhere or (takes_arrays and not (args and _has_array(args[0]))):
                return before(*args, **kwargs)
            calls.append(f"{home.__name__}.{name}")
            return ours(*args, **kwargs)

        return function

    def protocol(name: str, ours: Callable[..., Any]) -> Any:
        def method(*args: Any, **kwargs: Any) -> Any:
            calls.append(name)
            return ours(*args, **kwargs)

        return mock.patch.object(Tensor, name, method, create=True)

    make = {name: replaced(np, name, ours) for name, ours in CREATE.items()}
    take: dict[str, Any] = {
        name: replaced(torch, name, ours, takes_arrays=True) for name, ours in _TAKE.items()
    }
    give: dict[str, Any] = {name: replaced(Tensor, name, ours) for name, ours in _GIVE.items()}
    globals_of_code = {
        id(np): _numpy_with(make),
        **{id(getattr(np, name)): ours for name, ours in make.items()},
        **{id(getattr(torch, name)): ours for name, ours in take.items()},
    }
    with (
        _ONE_AT_A_TIME,
        mock.patch.multiple(torch, **take),
        mock.patch.multiple(Tensor, **give),
        protocol("__array_ufunc__", _ufunc),
        protocol("__array_function__", _function),
        _in_code_under_test(globals_of_code),
    ):
        yield calls


def _is_from(frame: FrameType, folders: tuple[str, ...]) -> bool:
    return frame.f_code.co_filename.startswith(folders)


def _numpy_with(functions: Mapping[str, Any]) -> ModuleType:
    """Return a copy of the module NumPy with other functions in it."""
    other = ModuleType(np.__name__)
    vars(other).update(vars(np), **functions)
    return other


@contextlib.contextmanager
def _in_code_under_test(replacements: Mapping[int, Any]) -> Iterator[None]:
    """Replace objects among the global names of each function of the code, as it is called.

    Calls are watched as a profiler watches them. Under a profiler nothing is replaced: one that is
    written in C could not be put back.

    Args:
        replacements: The identity of an object -> what takes its place.
    """
    entered: dict[int, dict[str, Any]] = {}
    changed: list[tuple[dict[str, Any], str, Any]] = []

    def on_event(frame: FrameType, event: str, _: Any) -> None:
        names = frame.f_globals
        if event != "call" or id(names) in entered or _is_from(frame, (*_LIBRARIES, _PACKAGE)):
            return
        entered[id(names)] = names
        for name, value in [*names.items()]:
            if id(value) in replacements:
                changed.append((names, name, value))
                names[name] = replacements[id(value)]

    if sys.getprofile() is not None:
        yield
        return
    sys.setprofile(on_event)
    try:
        yield
    finally:
        sys.setprofile(None)
        for names, name, value in changed:
            names[name] = value


def _has_array(value: Any) -> bool:
    if type(value) in (list, tuple):
        return any(map(_has_array, value))
    return type(value) is RecordedArray


def _numpy(tensor: Tensor, **_: Any) -> RecordedArray:
    return RecordedArray(tensor.detach())


def _refuse_memory(*_args: Any, **_kwargs: Any) -> Any:
    raise TypeError("NumPy asks for the memory of a tensor, which cannot be recorded")


def _as_tensor(data: Any, dtype: Any = None, device: Any = None) -> Tensor:
    return tensor_of(data).to(device=device, dtype=dtype)


def _new_tensor(
    data: Any, dtype: Any = None, device: Any = None, requires_grad: bool = False, **_: Any
) -> Tensor:
    return _as_tensor(data, dtype, device).clone().requires_grad_(requires_grad)


def _ufunc(self: Tensor, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
    """Compute a ufunc of a tensor; the result is a tensor, as torch has it."""
    result = RecordedArray(self).__array_ufunc__(ufunc, method, *inputs, **options)
    return result.tensor if type(result) is RecordedArray else result


def _function(_self: Tensor, func: Any, _types: Any, args: Any, kwargs: Any) -> Any:
    return call(func, args, kwargs)


# Functions of torch that take an array, and methods of a tensor that give one.
_TAKE: dict[str, Callable[..., Any]] = {
    "from_numpy": tensor_of, "tensor": _new_tensor, "as_tensor": _as_tensor, "asarray": _as_tensor,
}  # fmt: skip
_GIVE: dict[str, Callable[..., Any]] = {"numpy": _numpy, "__array__": _refuse_memory}
