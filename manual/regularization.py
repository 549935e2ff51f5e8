"""L1 and L2 penalties: terms of the loss that pull the weights towards 0."""

import torch
from torch import Tensor


def penalty_update(syn: Tensor, l1_penalty: float, l2_penalty: float) -> Tensor:
    """Return -l2_penalty * syn - l1_penalty * sign(syn), the penalties' part of the update.

    It is -d/dsyn of l2_penalty / 2 * sum(syn**2) + l1_penalty * sum(|syn|). At the kink of |x|,
    x = 0, the derivative is 0, as in torch.

    Args:
        syn: a matrix of weights, any shape.
        l1_penalty: the factor of sum(|syn|) in the loss.
        l2_penalty: the factor of sum(syn**2) / 2 in the loss.
    """
    one = syn.new_ones(())  # one * penalty rounds the penalty to the dtype first, as autograd does
    pull = torch.zeros_like(syn)
    if l2_penalty:
        pull = pull - one * l2_penalty * syn
    if l1_penalty:
        pull = pull - one * l1_penalty * torch.sign(syn)
    return pull
