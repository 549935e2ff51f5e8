"""What the arithmetics of exact values have in common: they read literals and never round."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from compare.proof.arithmetic_interface import Arithmetic
from compare.proof.literals import AS_WRITTEN, Literal, Reading, scalar_literal


class ExactArithmetic(Arithmetic[Any]):
    """An arithmetic of exact values; a subclass has the other methods of `Arithmetic`.

    Args:
        reading: How constants in the code are read.
        precision: Working precision in bits, which also names the arithmetic among the others.
    """

    #: Whether some entries of a product were not computed.
    skipped = False

    def __init__(self, reading: Reading = AS_WRITTEN, precision: int = 0) -> None:
        self.reading, self.precision = reading, precision
        self.literals: set[Literal] = set()  # the constants read so far

    def constant(self, value: float, dtype: torch.dtype) -> Any:
        """Return a number written in the code, as the reading takes it."""
        return self._read(scalar_literal(value, dtype)).reshape(())

    def tensor_constant(self, values: Tensor) -> Any:
        """Return a tensor that the code creates, its numbers as the reading takes them."""
        numbers = values.detach().double().cpu().flatten()
        if one := numbers.numel() > 0 and bool((numbers == numbers[0]).all()):
            numbers = numbers[:1]
        read = self._read(Literal(tuple(numbers.tolist()), values.dtype, tensor=True))
        return self.broadcast_to(read.reshape(() if one else tuple(values.shape)), values.shape)

    def _read(self, literal: Literal) -> Any:
        self.literals.add(literal)
        balls: Any = np.empty(len(literal.numbers), dtype=object)
        balls[:] = self.reading.of(literal)
        return self.known(balls)

    def round_to_dtype(self, x: Any) -> Any:
        """Return x unchanged: exact values are not rounded."""
        return x

    def rounded(self, x: Any, size: Callable[[], Any], units: float) -> Any:  # noqa: ARG002
        """Return x unchanged: exact values are not rounded."""
        return x
