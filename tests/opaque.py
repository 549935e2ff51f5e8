"""NumPy code that cannot be read as a program, like a compiled kernel: it copies raw memory."""

import ctypes
import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

_DTYPES = {torch.float32: np.float32, torch.float64: np.float64, torch.int64: np.int64}


def array(values: Tensor) -> Any:
    """Return a copy of a tensor's memory as an array."""
    dense = values.detach().contiguous()
    memory = ctypes.string_at(dense.data_ptr(), dense.numel() * dense.element_size())
    return np.frombuffer(memory, dtype=_DTYPES[values.dtype]).reshape(tuple(values.shape)).copy()


def tensor(values: Any) -> Tensor:
    """Return a copy of an array's memory as a tensor."""
    dtype = next(k for k, v in _DTYPES.items() if v == values.dtype)
    memory = bytearray(np.ascontiguousarray(values).tobytes())
    return torch.frombuffer(memory, dtype=dtype).reshape(values.shape)


def opaque(function: Callable[..., Any], *, float32_only: bool = False) -> Callable[..., Any]:
    """Return a backward pass over tensors that hides a function over arrays.

    Args:
        function: Returns one array or a tuple of arrays. Half precision is given to it as float32,
            and its result is rounded, as most kernels do.
        float32_only: Whether it refuses float64, as most compiled kernels do.
    """

    def backward(**arguments: Any) -> tuple[Tensor, ...]:
        dtype = arguments["grad_output"].dtype
        if float32_only and dtype != torch.float32:
            raise TypeError("float32 only")
        half = dtype.itemsize < 4
        arrays = {
            name: array(value.float() if half and value.is_floating_point() else value)
            for name, value in arguments.items()
        }
        with np.errstate(all="ignore"):
            results = function(**arrays)
        results = results if isinstance(results, tuple) else (results,)
        return tuple(tensor(values).to(dtype) for values in results)

    backward.__signature__ = inspect.signature(function)  # type: ignore[attr-defined]
    return backward
