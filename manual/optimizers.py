"""How updates move the weights: SGD with momentum, Adam and AdamW as torch.optim defines them.

An update is -dLoss/dweight, the blog's sign; torch's moments are those of the gradient, -update,
and so are these, down to the sign of a zero. Each line rounds where torch's own does: alpha times
an update is added with one rounding, by torch.add.
"""

import torch
from torch import Tensor

Named = dict[str, Tensor]

#: What each optimizer keeps of a weight, shaped as it is; sgd only if it has momentum.
MOMENTS = {
    "sgd": ("momentum_buffer",),
    "adam": ("exp_avg", "exp_avg_sq"),
    "adamw": ("exp_avg", "exp_avg_sq"),
}


def sgd(
    given: Named, updates: Named, weights: tuple[str, ...], *, alpha: float, momentum: float,
    nesterov: bool,
) -> Named:  # fmt: skip
    """Return each weight, moved by its update, and its buffer if there is momentum.

    Source: torch.optim.SGD: buffer = momentum * buffer + gradient, and Nesterov's step looks one
    ahead, gradient + momentum * buffer.
    """
    moved: Named = {}
    for name in weights:
        update = updates[name]
        if not momentum:
            moved[name] = torch.add(given[name], update, alpha=alpha)
            continue
        buffer = momentum * given[f"{name}_momentum_buffer"]
        buffer -= update
        step = torch.add(-update, buffer, alpha=momentum) if nesterov else buffer
        moved[f"{name}_momentum_buffer"] = buffer
        moved[name] = torch.add(given[name], step, alpha=-alpha)
    return moved


def adam(
    given: Named, updates: Named, weights: tuple[str, ...], *, alpha: float,
    betas: tuple[float, float], adam_eps: float, weight_decay: float, t: int,
) -> Named:  # fmt: skip
    """Return each weight, moved by its update, and its two moments; t counts from 1.

    Source: Kingma and Ba, 2014, as torch.optim.Adam computes it: the corrections for the moments'
    start at 0 go into the step and into the denominator. The decay is AdamW's, apart from the
    gradient (Loshchilov and Hutter, 2017); Adam itself has none.
    """
    moved: Named = {}
    beta1, beta2 = betas
    step = alpha / (1 - beta1**t)
    for name in weights:
        gradient = -updates[name]
        exp_avg = torch.lerp(given[f"{name}_exp_avg"], gradient, 1 - beta1)
        exp_avg_sq = beta2 * given[f"{name}_exp_avg_sq"]
        exp_avg_sq = torch.addcmul(exp_avg_sq, gradient, gradient, value=1 - beta2)
        denominator = torch.sqrt(exp_avg_sq) / (1 - beta2**t) ** 0.5 + adam_eps
        weight = given[name] * (1 - alpha * weight_decay) if weight_decay else given[name]
        moved[f"{name}_exp_avg"], moved[f"{name}_exp_avg_sq"] = exp_avg, exp_avg_sq
        moved[name] = torch.addcdiv(weight, exp_avg, denominator, value=-step)
    return moved
