"""L1 and L2 penalties on the weights, as part of the loss."""

import torch
from torch import Tensor


def penalty_update(syn: Tensor, l1_penalty: float, l2_penalty: float) -> Tensor:
    """Return -d/dsyn of l2_penalty / 2 * sum(syn**2) + l1_penalty * sum(|syn|).

    The slope of |x| at 0 is taken as 0, torch's choice at the kink.
    """
    one = syn.new_ones(())  # times a penalty: rounded to the dtype first, as autograd does
    pull = torch.zeros_like(syn)
    if l2_penalty:
        pull = pull - one * l2_penalty * syn
    if l1_penalty:
        pull = pull - one * l1_penalty * torch.sign(syn)
    return pull
