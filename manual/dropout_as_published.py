"""The blog author's dropout listing as he published it. Its gradient is wrong.

Source: iamtrask, the follow-up on dropout. The dropout is inverted: kept values are scaled by
1 / (1 - dropout), and `l1` is the value after the mask. The correct gradient takes the slope of the
sigmoid at the value before the mask. The listing takes it at `l1`, after the mask, and leaves out
the mask's own factor.
"""

import torch
from torch import Tensor

from manual.sigmoid import sigmoid


# B rows, I inputs, H hidden, O outputs; any leading dimensions are networks side by side
def step(
    *, X: Tensor, y: Tensor, syn0: Tensor, syn1: Tensor, mask1: Tensor,
    sizes: tuple[int, ...], alpha: float, dropout: float,
) -> dict[str, Tensor]:  # fmt: skip
    """Take one training step as published, and return every named value of it.

    Args:
        X: the inputs, (B, I).
        y: the targets, (B, O).
        syn0: the weights from the inputs to the hidden layer, (I, H).
        syn1: the weights from the hidden layer to the outputs, (H, O).
        mask1: 1 for hidden values that are kept, 0 for those that are dropped, (B, H).
        sizes: (I, H, O).
        alpha: the step size.
        dropout: the share of hidden values that is dropped.

    Raises:
        ValueError: if `sizes` does not have three numbers.
    """
    _I, _H, _O = sizes

    l0 = X                                                  # (B, I)
    l1 = sigmoid(l0 @ syn0)                                 # (B, H)
    l1 = l1 * (mask1 * (1.0 / (1 - dropout)))               # (B, H)  only the chosen values go on
    l2 = sigmoid(l1 @ syn1)                                 # (B, O)

    l2_error = y - l2                                       # (B, O)
    l2_delta = l2_error * (1 - l2) * l2                     # (B, O)
    l1_error = l2_delta @ syn1.mT                           # (B, H)
    l1_delta = l1_error * (l1 * (1 - l1))                   # (B, H)  as published: not the gradient

    syn1_update = l1.mT @ l2_delta                          # (H, O)
    syn0_update = l0.mT @ l1_delta                          # (I, H)
    syn0 = torch.add(syn0, syn0_update, alpha=alpha)        # (I, H)
    syn1 = torch.add(syn1, syn1_update, alpha=alpha)        # (H, O)

    return {"l0": l0, "l1": l1, "l2": l2, "l2_error": l2_error, "l2_delta": l2_delta,
            "l1_error": l1_error, "l1_delta": l1_delta, "syn1_update": syn1_update,
            "syn0_update": syn0_update, "syn0": syn0, "syn1": syn1}  # fmt: skip
