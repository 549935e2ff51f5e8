"""A backward pass that is written in NumPy: it gets arrays and returns arrays."""

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

from compare.passes.inputs import Inputs
from compare.proof.numpy_array import tensor_of


def as_tensor(value: Any) -> Any:
    """Return an array or a number of NumPy's as a tensor, and any other value unchanged.

    The tensor of an array shares its memory. An array of a dtype that torch lacks is unchanged.
    """
    if not isinstance(value, np.ndarray | np.generic):
        return value
    try:
        return tensor_of(value)
    except TypeError:
        return value


def on_tensors(backward: Any, inputs: Inputs) -> tuple[Any, Inputs]:
    """Return backward and inputs with tensors in place of NumPy's arrays.

    If an input is an array, each tensor that backward is called with becomes an array, so that it
    can be written in NumPy throughout. An autograd.Function is always called with tensors.

    Args:
        backward: The user's function or `torch.autograd.Function`.
        inputs: A dict, a tuple or list in order, or one tensor or array.
    """
    if isinstance(inputs, np.ndarray):
        inputs = (inputs,)
    if not isinstance(inputs, Mapping | tuple | list):
        return backward, inputs
    values = list(inputs.values() if isinstance(inputs, Mapping) else inputs)
    if not any(isinstance(value, np.ndarray) for value in values):
        return backward, inputs
    values = [as_tensor(v) if isinstance(v, np.ndarray) else v for v in values]
    if callable(backward) and not isinstance(backward, type):
        backward = _on_arrays(backward)
    named = dict(zip(inputs, values, strict=True)) if isinstance(inputs, Mapping) else values
    return backward, named


def _on_arrays(backward: Any) -> Any:
    """Return backward as a function of tensors; its signature stays."""

    @functools.wraps(backward)
    def called(**arguments: Any) -> Any:
        return backward(**{name: _arrays(value) for name, value in arguments.items()})

    return called


def _arrays(value: Any) -> Any:
    """Return a tensor, or each tensor of a tuple, as an array that shares its memory."""
    if isinstance(value, tuple):
        return tuple(map(_arrays, value))
    return value.detach().cpu().numpy() if isinstance(value, Tensor) else value
