"""The arguments of `check`, validated: inputs by name, arguments of backward, cotangents.

Every function here raises BadInput, with a message of one line, for an argument that cannot be
used.
"""

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from compare.errors import BadInput, unknown
from compare.proof.other_inputs import cotangent
from compare.proof.program import RESERVED_NAMES, Opaque, base_name
from compare.torch_private import in_transform, is_fake

SAMPLE = 10_000  # entries of a large matrix product that "auto" computes exactly
JUDGED = (
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex128, torch.complex64
)  # fmt: skip
JUDGED_NAMES = "float64, float32, float16, bfloat16, complex128 or complex64"
TOO_MANY = 50_000_000  # elements of inputs and intermediates beyond which "auto" computes none

Forward = Callable[..., Any]
Inputs = Mapping[str, Any] | Sequence[Any]
Values = Mapping[str, Tensor]

_NAMELESS = inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.VAR_POSITIONAL
T = TypeVar("T")


def lift_limits(lift: str | int, values: Iterable[Any]) -> tuple[Opaque | None, int | None]:
    """Return the reason for which nothing is computed exactly, or None; and the number of entries.

    The entries are those of a large matrix product that are computed exactly, None for all.

    Args:
        lift: "all", "none", "auto", or a number of entries.
        values: The inputs and intermediates, which decide under "auto".

    Raises:
        BadInput: `lift` is neither "all", "none", "auto" nor a number of at least 1.
    """
    if lift == "none":
        return Opaque("exact computation was switched off by lift none"), None
    if lift == "all":
        return None, None
    if lift == "auto":
        count = sum(v.numel() for v in values if isinstance(v, Tensor))
        if count > TOO_MANY:
            return Opaque(
                f"{count:,} elements take long to compute exactly: request it with lift all"
            ), None
        return None, SAMPLE
    entries = int(lift) if isinstance(lift, str) and lift.isdecimal() else lift
    if not isinstance(entries, int) or isinstance(entries, bool) or entries < 1:
        raise BadInput(f"lift {lift!r}: choose all, none, auto or a number of entries")
    return None, entries


def check_modes() -> None:
    """Raise BadInput if torch is in a mode or transform in which tensors have no values."""
    made = torch.zeros(())
    if made.is_meta or is_fake(made):
        raise BadInput(
            "torch makes tensors without values here (torch.device('meta') or FakeTensorMode is "
            "on): leave that mode first"
        )
    if in_transform():
        raise BadInput(
            "called inside torch.vmap, torch.func.grad or a similar transform, where tensors are "
            "placeholders: call it outside"
        )


def unusable_kind(value: Tensor) -> str | None:
    """Return "meta", "nested" or "sparse" for a tensor that cannot be checked, else None."""
    if is_fake(value) or value.is_meta:
        return "meta"
    if value.is_nested:
        return "nested"
    return None if value.layout == torch.strided else "sparse"


def by_name(forward: Forward, inputs: Inputs) -> dict[str, Any]:
    """Return name -> value for the inputs, by the names of forward's parameters.

    Args:
        forward: The forward function or module.
        inputs: A dict, a tuple or list in order, or one tensor.

    Raises:
        BadInput: `forward` cannot be called with these inputs, or an input cannot be checked.
    """
    if not callable(forward):
        raise BadInput(f"forward is {kind_of(forward)}: give a function")
    if isinstance(inputs, Tensor):
        inputs = (inputs,)
    called = forward.forward if isinstance(forward, torch.nn.Module) else forward
    signature = _signature("forward", called)
    try:
        if isinstance(inputs, Mapping):
            bound = signature.bind(**inputs)
        elif isinstance(inputs, tuple | list):
            bound = signature.bind(*inputs)
        else:
            raise BadInput(f"inputs is {kind_of(inputs)}: give a dict or a tuple")
    except TypeError as error:
        names = ", ".join(signature.parameters)
        raise BadInput(f"inputs do not fit forward({names}): {error}") from None
    named: dict[str, Any] = {}
    for label, value in bound.arguments.items():
        kind = signature.parameters[label].kind
        if kind is inspect.Parameter.VAR_KEYWORD:
            named.update(value)
        elif kind in _NAMELESS:
            raise BadInput(
                f"forward takes {label!r} by position only: declare it without * or /, so that it "
                "has a name"
            )
        else:
            named[label] = value
    for label, value in tensors(named).items():
        if unusable := unusable_kind(value):
            problem = f"{unusable}: give a dense tensor"
            if unusable == "meta":
                problem = "on the meta device and has no values: give a tensor with values"
            raise BadInput(f"input {label!r} is {problem}")
    for label in named:
        if base_name(label) in RESERVED_NAMES:
            raise BadInput(f"forward has a parameter {label!r}, which check reserves: rename it")
    return named


def _signature(argument: str, function: Callable[..., Any]) -> inspect.Signature:
    try:
        return inspect.signature(function)
    except (ValueError, TypeError):
        raise BadInput(
            f"{argument} has no signature to read: wrap it, as in lambda x: ..."
        ) from None


def differentiable(inputs: Mapping[str, Any]) -> list[str]:
    """Return the names of the inputs whose gradients are checked.

    Raises:
        BadInput: There is none, or one has a dtype that cannot be checked.
    """
    inputs_by_name = tensors(inputs).items()
    floats = {k: v for k, v in inputs_by_name if v.is_floating_point() or v.is_complex()}
    if not floats:
        kinds = ", ".join(f"{label} is {kind_of(value)}" for label, value in inputs.items())
        raise BadInput(
            f"no differentiable input ({kinds or 'none at all'}): give a floating-point tensor"
        )
    labels = [label for label, value in floats.items() if value.requires_grad] or list(floats)
    for label in labels:
        if floats[label].dtype not in JUDGED:
            raise BadInput(
                f"input {label!r} is {kind_of(floats[label])}, whose gradients cannot be checked: "
                f"give {JUDGED_NAMES}, or mark only the inputs that need one with "
                "requires_grad=True"
            )
    return labels


def draw_cotangents(outputs: Sequence[Tensor], seed: int) -> list[Tensor]:
    """Return a random cotangent for each output, scalars included; BadInput if there is none."""
    if not outputs:
        hint = "does it use torch.no_grad, inference_mode or detach?"
        if torch.is_inference_mode_enabled():
            hint = "torch.inference_mode is on; leave it"
        raise BadInput(
            f"no output of forward depends on a differentiable input: nothing to check ({hint})"
        )
    named = numbered("grad_output", outputs)
    return [cotangent(label, output, seed) for label, output in named.items()]


def argument_names(backward: Callable[..., Any], available: Mapping[str, Any]) -> list[str]:
    """Return the names of the available values that backward takes as parameters.

    Args:
        backward: The user's function.
        available: Name -> value; several outputs have numbered names.

    Raises:
        BadInput: `backward` is not a function, or has a parameter that cannot be filled.
    """
    if not callable(backward):
        raise BadInput(f"backward is {kind_of(backward)}: give a function or an autograd.Function")
    known = list(dict.fromkeys(base_name(key) for key in available))
    names = []
    for label, parameter in _signature("backward", backward).parameters.items():
        if parameter.kind in _NAMELESS:
            raise BadInput(
                f"backward takes {label!r} by position only: declare it without * or /, so that it "
                "has a name, and pass a torch.autograd.Function as the class itself"
            )
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            return known
        if label in known:
            names.append(label)
        elif parameter.default is inspect.Parameter.empty:
            raise unknown("parameter of backward", label, known)
    return names


def takes_everything(backward: Callable[..., Any]) -> bool:
    """Return whether backward takes all values, as in `def backward(**values)`."""
    kinds = [parameter.kind for parameter in _signature("backward", backward).parameters.values()]
    return inspect.Parameter.VAR_KEYWORD in kinds


def grouped_arguments(arguments: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Return the arguments under these names, with numbered ones as one tuple."""
    return {
        name: arguments[name]
        if name in arguments
        else tuple(value for key, value in arguments.items() if base_name(key) == name)
        for name in names
    }


def numbered(label: str, values: Sequence[T]) -> dict[str, T]:
    """Return name -> value: `output` for one value, `output[0]`, `output[1]`, ... for several."""
    if len(values) == 1:
        return {label: values[0]}
    return {f"{label}[{k}]": value for k, value in enumerate(values)}


def tensors(values: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the values that are tensors."""
    return {label: value for label, value in values.items() if isinstance(value, Tensor)}


def kind_of(value: Any) -> str:
    """Return the type of a value, with its article, for a message."""
    if isinstance(value, Tensor):
        return f"a tensor of {str(value.dtype).removeprefix('torch.')}"
    if isinstance(value, np.ndarray):
        return f"an array of {value.dtype}"
    if value is None:
        return "None"
    name = type(value).__name__
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"
