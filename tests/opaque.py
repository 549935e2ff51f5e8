"""NumPy code that cannot be read as a program, like a compiled kernel: it works on raw memory."""

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor


def memory(tensor: Tensor) -> np.ndarray:
    """Return the memory of a contiguous tensor as an array, which no recording sees.

    The tensor has to outlive the array.
    """
    assert tensor.is_contiguous()
    kind = np.ctypeslib.as_ctypes_type(np.dtype(str(tensor.dtype).removeprefix("torch.")))
    count = max(tensor.numel(), 1)
    array = np.ctypeslib.as_array((kind * count).from_address(tensor.data_ptr()))
    return array[: tensor.numel()].reshape(tuple(tensor.shape))


def unseen(tensor: Tensor) -> Tensor:
    """Return a copy of a tensor that a custom kernel makes."""
    return torch.from_numpy(array(tensor))


def array(values: Tensor) -> np.ndarray:
    """Return a copy of a tensor's memory as an array."""
    source = values.detach().contiguous()
    return memory(source).copy()


def tensor(values: np.ndarray) -> Tensor:
    """Return a copy of an array's memory as a tensor."""
    result = torch.empty(values.shape, dtype=getattr(torch, str(values.dtype)))
    memory(result)[...] = values
    return result


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
