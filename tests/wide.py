"""Exact values to compare double-doubles with."""

import math
from typing import Any

import flint
import torch
from torch import Tensor

from compare.proof.balls import FUNCTIONS
from compare.proof.taylor_tables import upper


def exactly(
    name: str, high: Tensor, low: Tensor, error: Tensor | None = None, share: float = 0.0
) -> list[Any]:
    """Return a function at high + low + share * error, to some 500 bits, as balls."""
    error = torch.zeros_like(high) if error is None else error
    values = []
    for h, l, e in zip(high.tolist(), low.tolist(), error.tolist(), strict=True):
        with flint.ctx.workprec(1_200 + max(0, math.frexp(h)[1])):
            values.append(FUNCTIONS[name](flint.arb(h) + flint.arb(l) + flint.arb(e) * share))
    return values


def distance(exact: list[Any], high: Tensor, low: Tensor) -> Tensor:
    """Return how far double-doubles are from balls at most."""
    with flint.ctx.workprec(1_200):
        return torch.tensor(
            [
                upper(ball - h - l)
                for ball, h, l in zip(exact, high.tolist(), low.tolist(), strict=True)
            ],
            dtype=torch.float64,
        )
