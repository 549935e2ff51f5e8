"""Inverted dropout: some values of a layer are left out, the others scaled up in their place."""

from torch import Tensor


def drop(a: Tensor, mask: Tensor, dropout: float) -> Tensor:
    """Return a * mask / (1 - dropout): inverted dropout; mask is 0 or 1, shaped as a.

    Source: Srivastava et al., 2014. It is its own way back: the error before the mask is the error
    after it, times the same numbers.
    """
    return a * (mask / (1 - dropout))
