"""Detect data-dependent control flow: does a step read a number out of a tensor?

Imports only torch, with its private names.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, fx
from torch.overrides import TorchFunctionMode

from compare.torch_private import CAN_RECORD, DispatchMode, keep_compiler_asleep

# torch's tags for operations whose result, or its shape, depends on the values of their inputs
_READS = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}
_TO_PYTHON = {"numpy", "tolist", "__array__"}  # reads that are no ATen operations


def may_branch(function: Callable[..., object], inputs: Mapping[str, Tensor]) -> bool:
    """Whether `function(**inputs)` reads a Python number that depends on its float inputs.

    At other inputs such a function may execute other operations. Values that depend only on
    integer inputs, such as the step number, do not count. False where nothing can be recorded.
    """
    if not CAN_RECORD:
        return False
    copies = {name: value.clone() for name, value in inputs.items()}  # it may write into them
    to_python, reads = _ToPython(), _Reads(copies.values())
    with torch.random.fork_rng(devices=[]), to_python, reads:
        function(**copies)
    return to_python.seen or reads.seen


@keep_compiler_asleep
class _Reads(DispatchMode):  # type: ignore[misc]
    """Detects a read of a value that is computed from float inputs.

    Tensors are tracked by storage, since views share it.
    """

    def __init__(self, inputs: Iterable[Tensor]) -> None:
        super().__init__()
        self.seen = False
        # by address; the reference keeps the address from being reused
        self.storages: dict[int, Any] = {}
        self._track(value for value in inputs if value.is_floating_point())

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        kwargs = kwargs or {}
        results = func(*args, **kwargs)
        tensors = _tensors((args, kwargs))
        if any(tensor.untyped_storage().data_ptr() in self.storages for tensor in tensors):
            self.seen |= not _READS.isdisjoint(func.tags)
            self._track(_tensors(results))
        return results

    def _track(self, tensors: Iterable[Tensor]) -> None:
        storages = (tensor.untyped_storage() for tensor in tensors)
        self.storages |= {
            s.data_ptr(): s for s in storages if s.nbytes()
        }  # empty ones share address 0


def _tensors(values: Any) -> list[Tensor]:
    """Return the tensors among an operation's arguments or results."""
    leaves: list[Any] = []
    fx.node.map_aggregate(values, leaves.append)
    return [leaf for leaf in leaves if isinstance(leaf, Tensor)]


class _ToPython(TorchFunctionMode):
    """Detects a conversion of a tensor to a NumPy array or a list."""

    seen = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        self.seen |= getattr(func, "__name__", "") in _TO_PYTHON
        return func(*args, **(kwargs or {}))
