"""Whether a step may go another way at other numbers: does it read a number out of a tensor?

Imports torch and its private names alone.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, fx
from torch.overrides import TorchFunctionMode

from compare.torch_private import CAN_RECORD, DispatchMode

# what operations say of themselves: a number, or a shape, hangs on the numbers that they are given
_READS = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}
_TO_PYTHON = {"numpy", "tolist", "__array__"}  # what torch's operations never see


def branches(function: Callable[..., object], given: Mapping[str, Tensor]) -> bool:
    """Whether `function(**given)` reads what depends on the floats it is given.

    What depends on whole numbers alone, such as the number of the step, does not count.
    """
    if not CAN_RECORD:  # of what cannot be read nothing is said
        return False
    own = {name: value.clone() for name, value in given.items()}  # it may write into them
    away, reads = _ToPython(), _Reads(own.values())
    with torch.random.fork_rng(devices=[]), away, reads:
        function(**own)
    return away.seen or reads.seen


class _Reads(DispatchMode):  # type: ignore[misc]
    """Notes whether a number is read that comes from some floats; views share their storage."""

    def __init__(self, given: Iterable[Tensor]) -> None:
        super().__init__()
        self.seen = False
        # by their address: held, so that no other storage comes to have it
        self.storages: dict[int, Any] = {}
        self._hold(value for value in given if value.is_floating_point())

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        kwargs = kwargs or {}
        made = func(*args, **kwargs)
        tensors = _tensors((args, kwargs))
        if any(tensor.untyped_storage().data_ptr() in self.storages for tensor in tensors):
            self.seen |= not _READS.isdisjoint(func.tags)
            self._hold(_tensors(made))
        return made

    def _hold(self, tensors: Iterable[Tensor]) -> None:
        storages = (tensor.untyped_storage() for tensor in tensors)
        self.storages |= {s.data_ptr(): s for s in storages if s.nbytes()}  # others share 0


def _tensors(values: Any) -> list[Tensor]:
    """Return the tensors among an operation's arguments or results."""
    leaves: list[Any] = []
    fx.node.map_aggregate(values, leaves.append)
    return [leaf for leaf in leaves if isinstance(leaf, Tensor)]


class _ToPython(TorchFunctionMode):
    """Notes whether a tensor is handed to numpy, or made a list."""

    seen = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        self.seen |= getattr(func, "__name__", "") in _TO_PYTHON
        return func(*args, **(kwargs or {}))
