"""Restoring the buffers of modules, such as the running statistics of BatchNorm, after a check.

The `.grad` of their parameters is put aside too: a Function that calls `.backward()` adds to it.
"""

import functools
import inspect
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from compare.proof.bits import same_bits

_MOST_OBJECTS = 10_000  # searched for modules


@contextmanager
def restored_buffers(*functions: Any) -> Iterator[None]:
    """Restore, at the end, buffers and gradients of all modules that the functions refer to."""
    modules = [*_modules(functions)]
    parameters = [p for module in modules for p in module.parameters(recurse=False)]
    grads = [(parameter, parameter.grad) for parameter in parameters]
    saved = [
        (module, name, buffer, buffer.detach().clone())
        for module in modules
        for name, buffer in module.named_buffers(recurse=False, remove_duplicate=False)
        if not nn.parameter.is_lazy(buffer) and not buffer.is_meta
    ]
    try:
        for parameter in parameters:
            parameter.grad = None
        yield
    finally:
        for module, name, buffer, first in saved:
            setattr(module, name, buffer)
            # a tensor made in inference mode cannot have been changed
            if not buffer.is_inference() and not same_bits(buffer, first):
                with torch.no_grad():
                    buffer.copy_(first)
        for parameter, grad in grads:
            parameter.grad = grad


def _modules(functions: Iterable[Any]) -> Iterator[nn.Module]:
    """Yield each module that the functions refer to, by closure, global, object or container."""
    pending, seen = list(functions), set[int]()
    while pending and len(seen) < _MOST_OBJECTS:
        item = pending.pop()
        if id(item) in seen or isinstance(item, ModuleType | Tensor | str | int | float):
            continue
        seen.add(id(item))
        if isinstance(item, nn.Module):
            yield item
        pending += _contents(item)


def _contents(item: Any) -> Iterable[Any]:
    """Return the objects that an object of the user's code refers to."""
    if isinstance(item, Mapping):
        return item.values()
    if isinstance(item, list | tuple | set | frozenset):
        return item
    if isinstance(item, functools.partial):
        return (item.func, *item.args, *item.keywords.values())
    if isinstance(item, staticmethod | classmethod):
        return (item.__func__,)
    if inspect.ismethod(item):
        return (item.__self__, item.__func__)
    if inspect.isfunction(item):
        if (item.__module__ or "").partition(".")[0] == "torch":  # None in code run by exec
            return ()
        closure = inspect.getclosurevars(item)
        wrapped = getattr(item, "__wrapped__", None)
        return (*closure.nonlocals.values(), *closure.globals.values(), wrapped)
    if isinstance(item, type):
        is_function = issubclass(item, torch.autograd.Function)
        return vars(item).values() if is_function else ()
    attributes = getattr(item, "__dict__", None)  # of a wrapper it may be anything
    return attributes.values() if isinstance(attributes, dict) else ()
