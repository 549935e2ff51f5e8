"""State in torch's habit: `state_dict` gives plain values, `load_state_dict` takes them back.

Whoever has state names its attributes and their types once, in `STATE`. What is taken may be of
anybody's file: it has to be of those types, and in order as the owner's `check_state` says.
"""

from dataclasses import fields, is_dataclass, make_dataclass
from enum import Enum
from typing import Annotated, Any, ClassVar

import torch
from msgspec import Meta
from torch import Tensor

from compare.untrusted import fitted

Count = Annotated[int, Meta(ge=0)]
Types = dict[str, Any]  # the type of each attribute that a state is made of


class Stateful:
    """Has a state: the attributes that `STATE` names."""

    STATE: ClassVar[Types]

    def state_dict(self) -> dict[str, Any]:
        """Return the state as plain values, and tensors of its own on the CPU."""
        return {name: plain(getattr(self, name)) for name in self.STATE}

    def load_state_dict(self, state: object) -> None:
        """Take over a state; raises ValueError for one that this cannot come to."""
        found = typed(state, self.STATE)
        self.check_state(found)
        for name, value in vars(found).items():
            setattr(self, name, value)

    def check_state(self, found: Any) -> None:
        """Raise ValueError where values of the right types are no state of this."""


def typed(state: object, types: Types) -> Any:
    """Return plain values as what they were, as attributes; raises ValueError for other types."""
    return fitted(state, make_dataclass("State", types.items()))


def plain(value: Any) -> Any:
    """Return a value with dataclasses as dictionaries, sets sorted, tensors copied to the CPU."""
    if isinstance(value, Tensor):
        return value.to("cpu", copy=True)  # a view would bring all that it is a view of
    if isinstance(value, Enum):
        return value.value
    if is_dataclass(value):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, dict):
        return {plain(name): plain(one) for name, one in value.items()}
    if isinstance(value, set):
        return sorted(value)
    if isinstance(value, list | tuple) and not isinstance(value, torch.Size):
        return [plain(one) for one in value]
    return value


def require(so: bool, what: str, odd: str) -> None:
    """Raise ValueError for a state whose item `what` is `odd`, where it is not `so`."""
    if not so:
        raise ValueError(f"{odd} - at `$.{what}`")
