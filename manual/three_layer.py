"""Part 2 of the blog: three layers, two matrices of weights.

Example: one step with all weights 0, so that every sigmoid is 0.5.
    >>> import torch
    >>> from manual.three_layer import step
    >>> values = step(
    ...     X=torch.tensor([[0.0, 0.0, 1.0], [1.0, 1.0, 1.0]]), y=torch.tensor([[0.0], [1.0]]),
    ...     syn0=torch.zeros(3, 4), syn1=torch.zeros(4, 1),
    ...     sizes=(3, 4, 1), alpha=1.0, grouping="left_to_right",
    ... )
    >>> list(values)[:7]
    ['l0', 'l1', 'l2', 'l2_error', 'l2_delta', 'l1_error', 'l1_delta']
    >>> values["l2_delta"]  # (y - 0.5) * 0.5 * 0.5
    tensor([[-0.1250],
            [ 0.1250]])
"""

import torch
from torch import Tensor

from manual.sigmoid import GROUPINGS, sigmoid


# B rows, I inputs, H hidden, O outputs; any leading dimensions are networks side by side
def step(
    *, X: Tensor, y: Tensor, syn0: Tensor, syn1: Tensor,
    sizes: tuple[int, ...], alpha: float, grouping: str,
) -> dict[str, Tensor]:  # fmt: skip
    """Take one training step of Part 2, and return every named value of it.

    Args:
        X: the inputs, (B, I).
        y: the targets, (B, O).
        syn0: the weights from the inputs to the hidden layer, (I, H).
        syn1: the weights from the hidden layer to the outputs, (H, O).
        sizes: (I, H, O).
        alpha: the step size.
        grouping: a key of `manual.sigmoid.GROUPINGS`.

    Raises:
        ValueError: if `sizes` does not have three numbers.
        KeyError: for an unknown grouping.
    """
    _I, _H, _O = sizes
    delta = GROUPINGS[grouping]

    # feed forward through layers 0, 1 and 2
    l0 = X                                                  # (B, I)
    l1 = sigmoid(l0 @ syn0)                                 # (B, I) @ (I, H) -> (B, H)
    l2 = sigmoid(l1 @ syn1)                                 # (B, H) @ (H, O) -> (B, O)

    # how much did we miss the target value?
    l2_error = y - l2                                       # (B, O)

    # in what direction is the target value? were we really sure? then don't change much
    l2_delta = delta(l2_error, l2)                          # (B, O)

    # how much did each l1 value contribute to the l2 error, according to the weights?
    l1_error = l2_delta @ syn1.mT                           # (B, O) @ (O, H) -> (B, H)
    l1_delta = delta(l1_error, l1)                          # (B, H)

    # every delta is known before any weight moves
    syn1_update = l1.mT @ l2_delta                          # (H, B) @ (B, O) -> (H, O)
    syn0_update = l0.mT @ l1_delta                          # (I, B) @ (B, H) -> (I, H)
    syn0 = torch.add(syn0, syn0_update, alpha=alpha)        # (I, H)  rounds once, like SGD
    syn1 = torch.add(syn1, syn1_update, alpha=alpha)        # (H, O)

    return {"l0": l0, "l1": l1, "l2": l2, "l2_error": l2_error, "l2_delta": l2_delta,
            "l1_error": l1_error, "l1_delta": l1_delta, "syn1_update": syn1_update,
            "syn0_update": syn0_update, "syn0": syn0, "syn1": syn1}  # fmt: skip
