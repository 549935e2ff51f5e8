"""Both passes at some inputs, as what judges them further takes them: `checking.Check` is one."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from torch import Tensor

from compare.passes.backward import BackwardPass
from compare.passes.forward import ForwardPass
from compare.proof.pair import Pair
from compare.proof.program import Opaque, Program


class Passes(Protocol):
    """A by-hand pass and the forward pass that it is for, and how to have them otherwise."""

    forward: ForwardPass
    backward: BackwardPass
    hold: frozenset[str]

    def under(self, grads: Sequence[Tensor]) -> "Passes":
        """Return them with other numbers above the outputs."""

    def anew(self, inputs: Mapping[str, Any]) -> "Passes":
        """Return them at other inputs."""

    def pair(
        self, manual: Mapping[str, Tensor], autograd: Mapping[str, Tensor],
        hand: Program | Opaque, reference: Program | Opaque, entries: int | None,
    ) -> Pair:  # fmt: skip
        """Return them with what each gave, read as these programs."""

    def pair_read(self, entries: int | None) -> Pair:
        """Run both and read both as programs."""
