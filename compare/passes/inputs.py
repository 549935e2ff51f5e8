"""What `check` is given, brought into order: inputs by name, what backward asks for, cotangents.

Raises BadInput, in one line, for whatever cannot be used.
"""

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from compare.errors import BadInput, unknown
from compare.proof.other_inputs import cotangent
from compare.proof.program import RESERVED_NAMES, Opaque, base_name
from compare.torch_private import in_transform, is_fake

SAMPLE = 10_000  # entries
JUDGED = torch.float64, torch.float32, torch.float16, torch.bfloat16
TOO_MANY = 2_000_000  # elements

Forward = Callable[..., Any]
Inputs = Mapping[str, Any] | Sequence[Any]
Values = Mapping[str, Tensor]

_NAMELESS = inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.VAR_POSITIONAL
T = TypeVar("T")


def lift_limits(lift: str | int, values: Iterable[Any]) -> tuple[Opaque | None, int | None]:
    """Return why nothing is lifted, if nothing is, and how many entries of a large product.

    Raises BadInput for a `lift` that is neither all, none, auto nor a number of at least 1.
    """
    if lift == "none":
        return Opaque("lifting was switched off"), None
    if lift == "all":
        return None, None
    if lift == "auto":
        count = sum(v.numel() for v in values if isinstance(v, Tensor))
        if count > TOO_MANY:
            return Opaque(f"{count:,} elements take long to lift: ask for it with lift all"), None
        return None, SAMPLE
    entries = int(lift) if isinstance(lift, str) and lift.isdecimal() else lift
    if not isinstance(entries, int) or isinstance(entries, bool) or entries < 1:
        raise BadInput(f"lift {lift!r}: choose all, none, auto or a number of entries")
    return None, entries


def check_modes() -> None:
    """Raise BadInput where torch is in a mode in which tensors hold no numbers of their own."""
    made = torch.zeros(())
    if made.is_meta or is_fake(made):
        raise BadInput(
            "torch makes tensors without numbers here (torch.device('meta') or FakeTensorMode is "
            "on): leave that first"
        )
    if in_transform():
        raise BadInput(
            "this is called inside torch.vmap, torch.func.grad or their like, where tensors stand "
            "for others: call it outside"
        )


def form_of(value: Tensor) -> str | None:
    """Return in what way a tensor is none that can be judged, None where it is one."""
    if is_fake(value) or value.is_meta:
        return "meta"
    if value.is_nested:
        return "nested"
    return None if value.layout == torch.strided else "sparse"


def by_name(forward: Forward, inputs: Inputs) -> dict[str, Any]:
    """Return the inputs by the names of forward's parameters."""
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
    found: dict[str, Any] = {}
    for label, value in bound.arguments.items():
        kind = signature.parameters[label].kind
        if kind is inspect.Parameter.VAR_KEYWORD:
            found.update(value)
        elif kind in _NAMELESS:
            raise BadInput(f"forward takes {label!r} without a name: name each parameter")
        else:
            found[label] = value
    for label, value in tensors(found).items():
        if form := form_of(value):
            told = f"{form}: give a dense tensor"
            if form == "meta":
                told = "on the meta device and has no numbers: give some"
            raise BadInput(f"input {label!r} is {told}")
    for label in found:
        if base_name(label) in RESERVED_NAMES:
            raise BadInput(f"forward has a parameter {label!r}, a name that check needs: rename it")
    return found


def _signature(what: str, function: Callable[..., Any]) -> inspect.Signature:
    try:
        return inspect.signature(function)
    except (ValueError, TypeError):
        raise BadInput(f"{what} has no signature to read: wrap it, as in lambda x: ...") from None


def differentiable(inputs: Mapping[str, Any]) -> list[str]:
    """Return the names of the inputs whose gradients are judged."""
    floats = {k: v for k, v in tensors(inputs).items() if v.is_floating_point()}
    if not floats:
        kinds = ", ".join(f"{label} is {kind_of(value)}" for label, value in inputs.items())
        raise BadInput(
            f"no differentiable input ({kinds or 'none at all'}): give a tensor of floats"
        )
    asked = [label for label, value in floats.items() if value.requires_grad] or list(floats)
    for label in asked:
        if floats[label].dtype not in JUDGED:
            raise BadInput(
                f"input {label!r} is {kind_of(floats[label])}, whose gradients are not judged: "
                "give float64, float32, float16 or bfloat16, or mark those that need one with "
                "requires_grad=True"
            )
    return asked


def cotangents(outputs: Sequence[Tensor], seed: int) -> list[Tensor]:
    """Return what stands above each output, drawn with `seed`: of a scalar too."""
    if not outputs:
        why = "does it run under torch.no_grad or inference_mode, or detach?"
        if torch.is_inference_mode_enabled():
            why = "torch.inference_mode is on; leave it"
        raise BadInput(
            f"no output of forward depends on a differentiable input: nothing to judge ({why})"
        )
    named = numbered("grad_output", outputs)
    return [cotangent(label, output, seed) for label, output in named.items()]


def asked(backward: Callable[..., Any], offer: Mapping[str, Any]) -> list[str]:
    """Return the names that backward's parameters ask for."""
    if not callable(backward):
        raise BadInput(f"backward is {kind_of(backward)}: give a function or an autograd.Function")
    known = list(dict.fromkeys(base_name(key) for key in offer))
    asked = []
    for label, parameter in _signature("backward", backward).parameters.items():
        if parameter.kind in _NAMELESS:
            raise BadInput(
                f"backward takes {label!r} without a name: name each parameter, and give a "
                "torch.autograd.Function as the class itself"
            )
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            return known
        if label in known:
            asked.append(label)
        elif parameter.default is inspect.Parameter.empty:
            raise unknown("parameter of backward", label, known)
    return asked


def takes_everything(backward: Callable[..., Any]) -> bool:
    """Whether backward is written as `def backward(**everything)`."""
    kinds = [parameter.kind for parameter in _signature("backward", backward).parameters.values()]
    return inspect.Parameter.VAR_KEYWORD in kinds


def gathered(given: Mapping[str, Any], asked: Sequence[str]) -> dict[str, Any]:
    """Return what is asked for by name; several outputs as one tuple."""
    return {
        label: given[label]
        if label in given
        else tuple(value for key, value in given.items() if base_name(key) == label)
        for label in asked
    }


def numbered(label: str, values: Sequence[T]) -> dict[str, T]:
    """Return what belongs to each output by name: `output`, or `output[0]`, `output[1]`, ..."""
    if len(values) == 1:
        return {label: values[0]}
    return {f"{label}[{k}]": value for k, value in enumerate(values)}


def tensors(values: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return those of the values that are tensors."""
    return {label: value for label, value in values.items() if isinstance(value, Tensor)}


def kind_of(value: Any) -> str:
    """Return what a value is, in words for a message."""
    if isinstance(value, Tensor):
        return f"a tensor of {str(value.dtype).removeprefix('torch.')}"
    return "None" if value is None else f"a {type(value).__name__}"
