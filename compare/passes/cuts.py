"""What in a forward pass keeps autograd from its derivative: detach, no_grad, custom Functions."""

import contextlib
import inspect
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from compare.passes.forward import ForwardPass
from compare.passes.surrogate import Surrogate
from compare.proof.trace import line_outside

NOT_ON_PURPOSE = "torch.tensor of a tensor"  # a mistake, where detach is a decision
_DETACH = Tensor.detach, Tensor.detach_, torch.detach
_COPIES = torch.tensor, torch.as_tensor
_APPLY = os.path.join("torch", "autograd", "function.py")


def cuts(forward: ForwardPass) -> tuple[list[str], list[str]]:
    """Return what may cut autograd's graph, in the order of the run, and the surrogate gradients.

    "detach at net.py:14" is such a cut. A custom Function is among them: its backward pass is
    whatever its author wrote. A surrogate gradient is none: its author says what it is.
    """
    watch = _Watch()
    outputs: list[Tensor] = []
    # compiled code may refuse the watch; then no cut is named
    with contextlib.suppress(Exception), watch:
        outputs, _ = forward.at(forward.inputs)
    functions = _functions(outputs)
    surrogates = [node.words for node, kind in functions if kind is Surrogate]
    named = [
        f"the Function {kind.__name__}{_defined_at(kind)}"
        for _, kind in functions
        if kind is not Surrogate
    ]
    return [*dict.fromkeys([*watch.found, *named])], [*dict.fromkeys(surrogates)]


class _Watch(TorchFunctionMode):
    """Notes each call that takes a tensor out of autograd's graph."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        kwargs = kwargs or {}
        needing = any(value.requires_grad for value in _tensors([*args, *kwargs.values()]))
        result = func(*args, **kwargs)
        if needing and not _in_custom_function() and (word := _word(func, result)):
            file, _, line = (line_outside() or "").rpartition(":")
            self.found.append(f"{word} at {os.path.basename(file)}:{line}" if file else word)
        return result


def _tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    """Yield the tensors among arguments, those in lists too."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)


def _word(func: Any, result: Any) -> str:
    """Return by what the result of a call is cut off, "" if it is not."""
    if func in _DETACH:
        return "detach"
    if func == Tensor.data.__get__:  # type: ignore[attr-defined]
        return ".data"
    if func in _COPIES:
        return NOT_ON_PURPOSE
    of_floats = isinstance(result, Tensor) and (result.is_floating_point() or result.is_complex())
    return "no_grad" if of_floats and not torch.is_grad_enabled() else ""


def _in_custom_function() -> bool:
    """Whether the forward pass of a custom Function is running: autograd is off in all of it."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        code = frame.f_code
        if code.co_name == "apply" and code.co_filename.endswith(_APPLY):
            return True
        frame = frame.f_back
    return False


def _functions(outputs: Sequence[Tensor]) -> list[tuple[Any, type]]:
    """Return the custom Functions in the graphs of some outputs: their nodes and classes."""
    found: list[tuple[Any, type]] = []
    pending, seen = [output.grad_fn for output in outputs], set[Any]()
    while pending:
        node = pending.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        pending += [source for source, _ in node.next_functions]
        if kind := getattr(node, "_forward_cls", None):
            found.append((node, kind))
    return found[::-1]


def _defined_at(function: type) -> str:
    with contextlib.suppress(OSError, TypeError):
        file, (_, line) = inspect.getfile(function), inspect.getsourcelines(function)
        return f" at {os.path.basename(file)}:{line}"
    return ""
