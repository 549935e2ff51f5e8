"""State as in torch: `state_dict` returns plain values, `load_state_dict` takes them back.

A class with state lists its attributes and their types once, in `STATE`. A state that is loaded may
come from an untrusted file: its types are checked, and `check_state` checks its values.
"""

from dataclasses import fields, is_dataclass, make_dataclass
from enum import Enum
from typing import Annotated, Any, ClassVar

import torch
from msgspec import Meta
from torch import Tensor

from compare.untrusted import converted

Count = Annotated[int, Meta(ge=0)]
Types = dict[str, Any]  # attribute -> type


class Stateful:
    """A base class of objects whose state is the attributes that `STATE` lists."""

    STATE: ClassVar[Types]

    def state_dict(self) -> dict[str, Any]:
        """Return the state as plain values, tensors as copies on the CPU."""
        return {name: plain(getattr(self, name)) for name in self.STATE}

    def load_state_dict(self, state: object) -> None:
        """Set the attributes from a state; raises ValueError for one that is not valid here."""
        checked = typed(state, self.STATE)
        self.check_state(checked)
        for name, value in vars(checked).items():
            setattr(self, name, value)

    def check_state(self, state: Any) -> None:
        """Raise ValueError for values of the right types that are not a state of this object."""


def typed(state: object, types: Types) -> Any:
    """Return an object with the state's values as attributes; raises ValueError for other types."""
    return converted(state, make_dataclass("State", types.items()))


def plain(value: Any) -> Any:
    """Return a value with dataclasses as dicts, sets as sorted lists, tensors copied to the CPU."""
    if isinstance(value, Tensor):
        return value.to("cpu", copy=True)  # a copy: a view would save its whole storage
    if isinstance(value, Enum):
        return value.value
    if is_dataclass(value):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, dict):
        return {plain(key): plain(item) for key, item in value.items()}
    if isinstance(value, set):
        return sorted(value)
    if isinstance(value, list | tuple) and not isinstance(value, torch.Size):
        return [plain(item) for item in value]
    return value


def require(condition: bool, item: str, problem: str) -> None:
    """Raise ValueError, naming the problem and the item of the state, if the condition is False."""
    if not condition:
        raise ValueError(f"{problem} - at `$.{item}`")
