"""Restoring the buffers of modules, such as the running statistics of BatchNorm, after a check."""

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
    """Restore, at the end, the buffers of all modules that the functions refer to."""
    saved = [
        (module, name, buffer, buffer.detach().clone())
        for module in _modules(functions)
        for name, buffer in module.named_buffers(recurse=False, remove_duplicate=False)
        if not nn.parameter.is_lazy(buffer) and not buffer.is_meta
    ]
    try:
        yield
    finally:
        for module, name, buffer, first in saved:
            setattr(module, name, buffer)
            # a tensor made in inference mode cannot have been changed
            if not buffer.is_inference() and not same_bits(buffer, first):
                with torch.no_grad():
                    buffer.copy_(first)


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
