"""Batch norm by hand: forward in training and evaluation, and how an error passes back.

Source: Ioffe and Szegedy, 2015. z is (..., B, H): B rows, each of the H values normalised over
them; gamma, beta, mean and var are (..., 1, H). Torch normalises with the biased variance (1/B)
and keeps the unbiased one (1/(B-1)) in its running statistics, and so does this. Autograd's kernel
sums in another order, so these are its formulas and not its bits. Half precision is computed in
float32, as there.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Normed:
    """What the forward pass keeps: zhat (..., B, H) and one over its deviation, (..., 1, H)."""

    zhat: Tensor
    rstd: Tensor


def _wide(z: Tensor) -> Tensor:
    return z.float() if z.dtype in (torch.float16, torch.bfloat16) else z


def normalise(
    z: Tensor, gamma: Tensor, beta: Tensor, eps: float
) -> tuple[Tensor, Normed, Tensor, Tensor]:
    """Return gamma * zhat + beta, what to keep, and the batch's mean and unbiased variance."""
    rows = z.shape[-2]
    wide = _wide(z)
    mean = wide.mean(-2, keepdim=True)                      # (..., 1, H)
    centred = wide - mean                                   # (..., B, H)
    var = (centred * centred).mean(-2, keepdim=True)        # (..., 1, H)  biased
    rstd = 1 / torch.sqrt(var + eps)                        # (..., 1, H)
    zhat = centred * rstd                                   # (..., B, H)
    out = (gamma * zhat + beta).to(z.dtype)                 # (..., B, H)
    return out, Normed(zhat, rstd), mean, var * (rows / (rows - 1))


def normalise_as_learned(
    z: Tensor, gamma: Tensor, beta: Tensor, mean: Tensor, var: Tensor, eps: float
) -> Tensor:
    """Return gamma * (z - mean) / sqrt(var + eps) + beta: evaluation, with running statistics."""
    zhat = (_wide(z) - mean) / torch.sqrt(_wide(var) + eps) # (..., B, H)
    return (gamma * zhat + beta).to(z.dtype)                # (..., B, H)


def normalise_back(delta: Tensor, gamma: Tensor, kept: Normed) -> tuple[Tensor, Tensor, Tensor]:
    """Return the error at z, and the updates of gamma and beta, from the error at the output.

    Both the mean and the variance depend on every row, so each row's error loses its mean over the
    rows, and its part along zhat.
    """
    zhat, rstd = kept.zhat, kept.rstd
    wide = _wide(delta)
    beta_update = wide.sum(-2, keepdim=True)                # (..., 1, H)
    gamma_update = (wide * zhat).sum(-2, keepdim=True)      # (..., 1, H)
    rows = delta.shape[-2]
    along = (beta_update + zhat * gamma_update) / rows      # (..., B, H)
    z_delta = gamma * rstd * (wide - along)                 # (..., B, H)
    return z_delta.to(delta.dtype), gamma_update.to(delta.dtype), beta_update.to(delta.dtype)


def running(before: Tensor, batch: Tensor, momentum: float) -> Tensor:
    """Return the running statistic moved by `momentum` towards the batch's, all (..., 1, H)."""
    return (momentum * batch + (1 - momentum) * before).to(before.dtype)
