"""How an update moves a weight: SGD with momentum, Adam and AdamW as torch.optim defines them.

`update` is -dLoss/dweight, the blog's sign; torch's moments are those of the gradient, -update, and
so are these, down to the sign of a zero. Each line rounds where torch's own does: alpha * update is
added with one rounding, by torch.add.
"""

import torch
from torch import Tensor

#: What each optimizer keeps beside a weight; sgd only if it has momentum.
MOMENTS = {
    "sgd": ("momentum_buffer",),
    "adam": ("exp_avg", "exp_avg_sq"),
    "adamw": ("exp_avg", "exp_avg_sq"),
}


def sgd(
    weight: Tensor, update: Tensor, buffer: Tensor | None, *, alpha: float, momentum: float,
    nesterov: bool,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    """Return the weight moved, and its momentum's buffer if it has one; all of one shape.

    Source: torch.optim.SGD: buffer = momentum * buffer + gradient, and Nesterov's step looks one
    ahead, gradient + momentum * buffer.
    """
    if buffer is None:
        return torch.add(weight, update, alpha=alpha), None
    buffer = momentum * buffer - update
    step = torch.add(-update, buffer, alpha=momentum) if nesterov else buffer
    return torch.add(weight, step, alpha=-alpha), buffer


def adam(
    weight: Tensor, update: Tensor, exp_avg: Tensor, exp_avg_sq: Tensor, *, alpha: float,
    betas: tuple[float, float], adam_eps: float, weight_decay: float, t: int,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Return the weight moved, and its two moments; all of one shape. t counts steps from 1.

    Source: Kingma and Ba, 2014, as torch.optim.Adam computes it: the corrections for the moments'
    start at 0 go into the step and into the denominator. The decay is AdamW's, apart from the
    gradient (Loshchilov and Hutter, 2017); Adam itself has none.
    """
    gradient = -update
    beta1, beta2 = betas
    exp_avg = torch.lerp(exp_avg, gradient, 1 - beta1)
    exp_avg_sq = torch.addcmul(beta2 * exp_avg_sq, gradient, gradient, value=1 - beta2)
    step = alpha / (1 - beta1**t)
    denominator = torch.sqrt(exp_avg_sq) / (1 - beta2**t) ** 0.5 + adam_eps
    if weight_decay:
        weight = weight * (1 - alpha * weight_decay)
    weight = torch.addcdiv(weight, exp_avg, denominator, value=-step)
    return weight, exp_avg, exp_avg_sq
