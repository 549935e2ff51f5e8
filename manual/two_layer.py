"""Part 1 of the blog: two layers, one matrix of weights."""

import torch
from torch import Tensor

from manual.sigmoid import GROUPINGS, sigmoid


# B rows, I inputs, O outputs; any leading dimensions are networks side by side
def step(
    *, X: Tensor, y: Tensor, syn0: Tensor,
    sizes: tuple[int, ...], alpha: float, grouping: str,
) -> dict[str, Tensor]:  # fmt: skip
    """Take one step of Part 1: X (B, I), y (B, O), syn0 (I, O).

    Raises ValueError when `sizes` is not (I, O), KeyError for an unknown grouping.
    """
    _I, _O = sizes
    delta = GROUPINGS[grouping]

    # forward propagation
    l0 = X                                                  # (B, I)
    l1 = sigmoid(l0 @ syn0)                                 # (B, I) @ (I, O) -> (B, O)

    # how much did we miss?
    l1_error = y - l1                                       # (B, O)

    # multiply the miss by the slope of the sigmoid at the values in l1
    l1_delta = delta(l1_error, l1)                          # (B, O)

    # update weights
    syn0_update = l0.mT @ l1_delta                          # (I, B) @ (B, O) -> (I, O)
    syn0 = torch.add(syn0, syn0_update, alpha=alpha)        # (I, O)  rounds once, like SGD

    return {"l0": l0, "l1": l1, "l1_error": l1_error, "l1_delta": l1_delta,
            "syn0_update": syn0_update, "syn0": syn0}  # fmt: skip
