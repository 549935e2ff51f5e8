"""The optimizers: SGD with momentum, Adam and AdamW, as torch.optim defines them.

An update is -dLoss/dweight, the blog's sign. The moments are those of torch: they belong to the
gradient, which is -update, including the sign of a zero. Every line rounds where torch's line
rounds; for example torch.add adds alpha times an update with a single rounding.

Example: two steps of SGD with momentum.
    >>> import torch
    >>> from manual.optimizers import sgd
    >>> state = {"w": torch.tensor([1.0]), "w_momentum_buffer": torch.zeros(1)}
    >>> for _ in range(2):
    ...     state = sgd(
    ...         state, {"w": torch.tensor([2.0])}, ("w",), alpha=0.5, momentum=0.5, nesterov=False
    ...     )
    >>> state  # 1 + 0.5 * 2 + 0.5 * (2 + 0.5 * 2)
    {'w_momentum_buffer': tensor([-3.]), 'w': tensor([3.5000])}
"""

import torch
from torch import Tensor

Named = dict[str, Tensor]

#: The moments that each optimizer keeps for a weight, shaped as the weight; sgd has one only with
#: momentum.
MOMENTS = {
    "sgd": ("momentum_buffer",),
    "adam": ("exp_avg", "exp_avg_sq"),
    "adamw": ("exp_avg", "exp_avg_sq"),
}


def sgd(
    state: Named, updates: Named, weights: tuple[str, ...], *, alpha: float, momentum: float,
    nesterov: bool, into: Named | None = None,
) -> Named:  # fmt: skip
    """Return every weight after the step, and with momentum also its buffer.

    Without momentum: weight += alpha * update. With momentum, as in torch.optim.SGD:
    buffer = momentum * buffer + gradient; weight -= alpha * buffer. Nesterov's variant replaces
    buffer in the second formula by gradient + momentum * buffer.

    Args:
        state: every weight, and with momentum <weight>_momentum_buffer, shaped as the weight.
        updates: weight -> its update, shaped as the weight.
        weights: the names of the weights to move.
        alpha: the step size.
        momentum: the share of the buffer that is kept, 0 for plain SGD.
        nesterov: whether to use Nesterov's variant.
        into: memory for the new weights, by name; by default it is allocated. A weight may be given
            as its own memory: that has the same bits.

    Returns:
        the new weights and buffers, under the names of `state`.
    """
    moved, into = Named(), into or {}
    for name in weights:
        update, out = updates[name], into.get(name)
        if not momentum:
            moved[name] = torch.add(state[name], update, alpha=alpha, out=out)
            continue
        buffer = momentum * state[f"{name}_momentum_buffer"]
        buffer -= update
        step = torch.add(-update, buffer, alpha=momentum) if nesterov else buffer
        moved[f"{name}_momentum_buffer"] = buffer
        moved[name] = torch.add(state[name], step, alpha=-alpha, out=out)
    return moved


def adam(
    state: Named, updates: Named, weights: tuple[str, ...], *, alpha: float,
    betas: tuple[float, float], adam_eps: float, weight_decay: float, t: int,
    into: Named | None = None,
) -> Named:  # fmt: skip
    """Return every weight after the step, and its two moments.

    weight -= alpha * m / (sqrt(v) + adam_eps), where m and v are the running means of the gradient
    and its square, divided by 1 - beta**t because they start at 0. Source: Kingma and Ba, 2014, in
    the form of torch.optim.Adam: the two corrections go into the step size and the denominator.
    Weight decay is that of AdamW, separate from the gradient (Loshchilov and Hutter, 2017); Adam
    has none.

    Args:
        state: every weight, and <weight>_exp_avg and <weight>_exp_avg_sq, shaped as the weight.
        updates: weight -> its update, shaped as the weight.
        weights: the names of the weights to move.
        alpha: the step size.
        betas: the shares of the two moments that are kept.
        adam_eps: added to the denominator.
        weight_decay: the decay of AdamW, 0 for Adam.
        t: the number of the step, counted from 1.
        into: memory for the new weights, as in `sgd`.

    Returns:
        the new weights and moments, under the names of `state`.
    """
    moved, into = Named(), into or {}
    beta1, beta2 = betas
    step = alpha / (1 - beta1**t)
    for name in weights:
        gradient = -updates[name]
        exp_avg = torch.lerp(state[f"{name}_exp_avg"], gradient, 1 - beta1)
        exp_avg_sq = beta2 * state[f"{name}_exp_avg_sq"]
        exp_avg_sq = torch.addcmul(exp_avg_sq, gradient, gradient, value=1 - beta2)
        denominator = torch.sqrt(exp_avg_sq) / (1 - beta2**t) ** 0.5 + adam_eps
        weight = state[name] * (1 - alpha * weight_decay) if weight_decay else state[name]
        moved[f"{name}_exp_avg"], moved[f"{name}_exp_avg_sq"] = exp_avg, exp_avg_sq
        out = into.get(name)
        moved[name] = torch.addcdiv(weight, exp_avg, denominator, value=-step, out=out)
    return moved
