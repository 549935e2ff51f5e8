"""A module's buffers, such as BatchNorm's running statistics: put back after a check moved them."""

import functools
import inspect
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from compare.proof.bits import same_bits

_ENOUGH = 10_000  # objects looked at


@contextmanager
def put_back(*functions: Any) -> Iterator[None]:
    """Give the modules that the functions reach their buffers' first values at the end."""
    kept = [
        (module, name, buffer, buffer.detach().clone())
        for module in _modules(functions)
        for name, buffer in module.named_buffers(recurse=False, remove_duplicate=False)
        if not nn.parameter.is_lazy(buffer) and not buffer.is_meta
    ]
    try:
        yield
    finally:
        for module, name, buffer, first in kept:
            setattr(module, name, buffer)
            # one that was made in inference mode cannot have moved
            if not buffer.is_inference() and not same_bits(buffer, first):
                with torch.no_grad():
                    buffer.copy_(first)


def _modules(functions: Iterable[Any]) -> Iterator[nn.Module]:
    """Yield each module that the functions hold: in a closure, a global, an object, a container."""
    left, seen = list(functions), set[int]()
    while left and len(seen) < _ENOUGH:
        found = left.pop()
        if id(found) in seen or isinstance(found, ModuleType | Tensor | str | int | float):
            continue
        seen.add(id(found))
        if isinstance(found, nn.Module):
            yield found
        left += _held(found)


def _held(found: Any) -> Iterable[Any]:
    """Return what an object of the user's own holds."""
    if isinstance(found, Mapping):
        return found.values()
    if isinstance(found, list | tuple | set | frozenset):
        return found
    if isinstance(found, functools.partial):
        return (found.func, *found.args, *found.keywords.values())
    if isinstance(found, staticmethod | classmethod):
        return (found.__func__,)
    if inspect.ismethod(found):
        return (found.__self__, found.__func__)
    if inspect.isfunction(found):
        if found.__module__.partition(".")[0] == "torch":
            return ()
        held = inspect.getclosurevars(found)
        wrapped = getattr(found, "__wrapped__", None)
        return (*held.nonlocals.values(), *held.globals.values(), wrapped)
    if isinstance(found, type):
        ours = issubclass(found, torch.autograd.Function)
        return vars(found).values() if ours else ()
    return getattr(found, "__dict__", {}).values()
