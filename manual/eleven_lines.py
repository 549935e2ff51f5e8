"""The blog's eleven lines, translated line by line to torch.

Source: iamtrask, "A Neural Network in 11 lines of Python (Part 1)".
The blog's lines that define X, y, syn0 and syn1 are arguments here; `np.dot` is `@`, and `.T` is
`.mT`, which transposes the last two dimensions only.
"""

import torch
from torch import Tensor


# B rows, I inputs, H hidden, O outputs; any leading dimensions are networks side by side
def eleven_lines(
    X: Tensor, y: Tensor, syn0: Tensor, syn1: Tensor, *, steps: int = 60_000
) -> dict[str, Tensor]:
    """Train for `steps` steps and return the values of the last step under their blog names.

    The arguments are not modified.

    Args:
        X: the inputs, (B, I).
        y: the targets, (B, O).
        syn0: the weights from the inputs to the hidden layer, (I, H).
        syn1: the weights from the hidden layer to the outputs, (H, O).
        steps: the number of training steps, at least 1.
    """
    syn0, syn1 = syn0.clone(), syn1.clone()
    for _j in range(steps):
        l1 = 1 / (1 + torch.exp(-(X @ syn0)))                     # (B, H)
        l2 = 1 / (1 + torch.exp(-(l1 @ syn1)))                    # (B, O)
        l2_delta = (y - l2) * (l2 * (1 - l2))                     # (B, O)
        l1_delta = l2_delta @ syn1.mT * (l1 * (1 - l1))           # (B, H)
        syn1 += l1.mT @ l2_delta                                  # (H, O)
        syn0 += X.mT @ l1_delta                                   # (I, H)
    return {"l1": l1, "l2": l2, "l2_delta": l2_delta, "l1_delta": l1_delta,
            "syn0": syn0, "syn1": syn1}  # fmt: skip


def step(
    *, X: Tensor, y: Tensor, syn0: Tensor, syn1: Tensor, sizes: tuple[int, ...], alpha: float
) -> dict[str, Tensor]:
    """Take one training step of `eleven_lines`, and return every named value of it.

    Args:
        X: the inputs, (B, I).
        y: the targets, (B, O).
        syn0: the weights from the inputs to the hidden layer, (I, H).
        syn1: the weights from the hidden layer to the outputs, (H, O).
        sizes: (I, H, O).
        alpha: the step size, which is 1 in the eleven lines.

    Raises:
        ValueError: if the network does not have three layers and alpha 1.
    """
    if len(sizes) != 3 or alpha != 1:
        raise ValueError(f"eleven_lines has three layers and alpha 1, not {sizes=}, {alpha=}")
    return eleven_lines(X, y, syn0, syn1, steps=1)
