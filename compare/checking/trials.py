"""The inputs at which code is run that is judged by its numbers alone."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from compare.checking.second_inputs import Draw, SecondInputs
from compare.passes.inputs import draw_cotangents, tensors
from compare.passes.passes import Passes
from compare.proof.other_inputs import block, is_scalable, whole_numbers
from compare.proof.pair import Pair

SCALES = 1e-3, 0.03, 30.0, 1e3
MOST = 20_000  # elements up to which all inputs are tried; beyond, fewer of each kind
# Kinds of inputs.
GIVEN, SIMILAR, COTANGENTS, SCALED, BLOCKS, WHOLE = (
    "the given inputs", "similar inputs", "other cotangents", "scaled inputs",
    "cotangents that are 0 but for one block of terms", "whole numbers",
)  # fmt: skip


@dataclass(frozen=True)
class Trial:
    """Both passes at some inputs.

    Attributes:
        kind: One of the kinds above.
        passes: The passes there.
        scale: The factor of the inputs.
        wide: The dtype, if it is wider than that of the check.
    """

    kind: str
    passes: Passes
    scale: float = 1.0
    wide: str = ""

    @property
    def words(self) -> str:
        """The inputs, with their preposition."""
        if self.kind == SCALED:
            return f"at {self.scale:g} times similar inputs"
        inside = f" in {self.wide}" if self.wide else ""
        return f"{'with' if self.kind in (COTANGENTS, BLOCKS, WHOLE) else 'at'} {self.kind}{inside}"


@dataclass(frozen=True)
class Trials:
    """All trials of a check: the given inputs first.

    Inputs that the code refuses are left out. Other inputs than the given ones keep what a pass may
    rely on, see `compare.proof.other_inputs.similar`; only inputs without such a property are
    scaled. A backward pass is linear in its cotangents, so that they may be anything.

    Attributes:
        passes: Both passes at the given inputs.
        pair: Both sides' values that were judged there.
    """

    passes: Passes
    pair: Pair

    def in_dtype(self) -> Iterator[Trial]:
        """Yield the trials in the dtype of the check."""
        passes, forward = self.passes, self.passes.forward
        yield Trial(GIVEN, passes)
        few = sum(value.numel() for value in tensors(forward.inputs).values()) > MOST
        free_cotangents = not passes.backward.unit_cotangents
        if free_cotangents:
            drawn = draw_cotangents(forward.outputs, passes.seed + 1)
            yield Trial(COTANGENTS, passes.with_cotangents(drawn))
            for cotangents in self._blocks(2 if few else 4):
                yield Trial(BLOCKS, passes.with_cotangents(cotangents))
        second = SecondInputs(passes, self.pair)
        if passes.backward.differentiates_inputs or second.unread:
            return
        similar = [second.inputs(Draw(1.0, number)) for number in range(1 if few else 2)]
        for inputs in similar:
            yield from self._at(SIMILAR, inputs)
        kept = {*passes.hold, *second.derived}
        free = [k for k in forward.leaves if k not in kept and is_scalable(forward.inputs[k])]
        for scale in ((SCALES[0], SCALES[-1]) if few else SCALES) if free else ():
            scaled = {k: similar[0][k].detach() * scale for k in free}
            yield from self._at(SCALED, {**similar[0], **scaled}, scale)
        if free and free_cotangents:
            whole = {k: whole_numbers(k, forward.inputs[k]) for k in free}
            drawn = [whole_numbers(f"grad_output {k}", v) for k, v in enumerate(forward.cotangents)]
            yield from self._at(WHOLE, whole, cotangents=drawn)

    def in_wider_dtypes(self) -> Iterator[Trial]:
        """Yield trials at the given numbers in wider dtypes, if the code takes them.

        Narrower dtypes are not tried: a compiled kernel might read beyond the end of its memory.
        """
        values = tensors(self.passes.forward.inputs).values()
        floats = [v for v in values if v.is_floating_point() or v.is_complex()]
        eps = [torch.finfo(v.dtype).eps for v in floats]
        own = self.passes.backward.differentiates_inputs  # which copies cannot replace
        for dtype in () if own else (torch.float32, torch.float64):
            if torch.finfo(dtype).eps < max(eps, default=0.0):
                try:
                    passes = self.passes.in_dtype(dtype)
                except Exception:  # the user's code does not take it
                    continue
                yield Trial(GIVEN, passes, wide=str(dtype).removeprefix("torch."))

    def _at(
        self, kind: str, inputs: Mapping[str, Any], scale: float = 1.0,
        cotangents: Sequence[Tensor] | None = None,
    ) -> Iterator[Trial]:  # fmt: skip
        try:
            passes = self.passes.at(inputs, cotangents)
        except Exception:  # the user's code refuses these inputs
            return
        yield Trial(kind, passes, scale)

    def _blocks(self, count: int) -> Iterator[list[Tensor]]:
        """Yield cotangents that are 0 but for one block of some output's rows or columns."""
        cotangents = self.passes.forward.cotangents
        for k, value in enumerate(cotangents):
            for number in range(count):
                for rows in (True, False):
                    part = block(f"block {k}", value, number, rows=rows)
                    if part is not None:
                        zeros = [torch.zeros_like(other) for other in cotangents]
                        zeros[k] = part
                        yield zeros
