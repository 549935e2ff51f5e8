"""Inverted dropout: some values of a layer are set to 0, and the others are scaled up.

Example:
    >>> import torch
    >>> from manual.dropout import drop
    >>> drop(torch.tensor([1.0, 2.0, 3.0]), mask=torch.tensor([1.0, 0.0, 1.0]), dropout=0.5)
    tensor([2., 0., 6.])
"""

from torch import Tensor


def drop(a: Tensor, mask: Tensor, dropout: float) -> Tensor:
    """Return a * mask / (1 - dropout), inverted dropout.

    Source: Srivastava et al., 2014. The same function is its own backward pass: the error before
    the mask is the error after it times mask / (1 - dropout).

    Args:
        a: the values of a layer, or the error at them, any shape.
        mask: 1 for values that are kept, 0 for values that are dropped, shaped as a.
        dropout: the share of values that is dropped, from 0 to below 1.
    """
    return a * (mask / (1 - dropout))
