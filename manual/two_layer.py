"""Part 1 of the blog: two layers, one matrix of weights.

Example: the first step with all weights 0, so that every output is 0.5.
    >>> import torch
    >>> from manual.two_layer import step
    >>> values = step(
    ...     X=torch.tensor([[0.0, 0.0, 1.0], [1.0, 1.0, 1.0]]), y=torch.tensor([[0.0], [1.0]]),
    ...     syn0=torch.zeros(3, 1), sizes=(3, 1), alpha=1.0, grouping="left_to_right",
    ... )
    >>> values["l1_delta"]  # (y - 0.5) * 0.5 * 0.5
    tensor([[-0.1250],
            [ 0.1250]])
    >>> values["syn0"].mT
    tensor([[0.1250, 0.1250, 0.0000]])
"""

import torch
from torch import Tensor

from manual.sigmoid import GROUPINGS, sigmoid


# B rows, I inputs, O outputs; any leading dimensions are networks side by side
def step(
    *, X: Tensor, y: Tensor, syn0: Tensor,
    sizes: tuple[int, ...], alpha: float, grouping: str,
) -> dict[str, Tensor]:  # fmt: skip
    """Take one training step of Part 1, and return every named value of it.

    Args:
        X: the inputs, (B, I).
        y: the targets, (B, O).
        syn0: the weights, (I, O).
        sizes: (I, O).
        alpha: the step size.
        grouping: a key of `manual.sigmoid.GROUPINGS`.

    Raises:
        ValueError: if `sizes` does not have two numbers.
        KeyError: for an unknown grouping.
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
