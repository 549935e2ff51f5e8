"""Batch norm by hand: forward in training and in evaluation, and backward.

Source: Ioffe and Szegedy, 2015. z is (..., B, H), and each of the H values is normalised over the B
rows; gamma, beta, mean and var are (..., 1, H). As in torch, the biased variance (1/B) normalises,
and the unbiased one (1/(B-1)) goes into the running statistics. Autograd's kernel sums in another
order, so the formulas are the same and the last bits are not. Half precision is computed in
float32, as in torch.

Example: two rows become -1 and 1, up to eps.
    >>> import torch
    >>> from manual.batch_norm import normalise
    >>> z = torch.tensor([[1.0, 10.0], [3.0, 30.0]])  # (2, 2)
    >>> one, zero = torch.ones(1, 2), torch.zeros(1, 2)
    >>> out, _, mean, var = normalise(z, gamma=one, beta=zero, eps=0.0)
    >>> out
    tensor([[-1., -1.],
            [ 1.,  1.]])
    >>> mean, var
    (tensor([[ 2., 20.]]), tensor([[  2., 200.]]))
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Normed:
    """Values that the backward pass needs: zhat (..., B, H), rstd = 1 / deviation (..., 1, H)."""

    zhat: Tensor
    rstd: Tensor


def _wide(z: Tensor) -> Tensor:
    return z.float() if z.dtype in (torch.float16, torch.bfloat16) else z


def normalise(
    z: Tensor, gamma: Tensor, beta: Tensor, eps: float
) -> tuple[Tensor, Normed, Tensor, Tensor]:
    """Normalise in training: gamma * (z - mean) / sqrt(var + eps) + beta, over the rows of z.

    Args:
        z: the values to normalise, (..., B, H).
        gamma: the learned scale, (..., 1, H).
        beta: the learned shift, (..., 1, H).
        eps: added to the variance.

    Returns:
        the normalised values (..., B, H), the values that `normalise_back` needs, the batch's mean
        and its unbiased variance, both (..., 1, H).
    """
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
    """Normalise in evaluation: gamma * (z - mean) / sqrt(var + eps) + beta.

    Args:
        z: the values to normalise, (..., B, H).
        gamma: the learned scale, (..., 1, H).
        beta: the learned shift, (..., 1, H).
        mean: the running mean, (..., 1, H).
        var: the running variance, (..., 1, H).
        eps: added to the variance.
    """
    zhat = (_wide(z) - mean) / torch.sqrt(_wide(var) + eps) # (..., B, H)
    return (gamma * zhat + beta).to(z.dtype)                # (..., B, H)


def normalise_back(delta: Tensor, gamma: Tensor, kept: Normed) -> tuple[Tensor, Tensor, Tensor]:
    """Return the error at z, and the updates of gamma and beta.

    The mean and the variance both depend on every row. Therefore each row's error loses two parts:
    the mean of the errors over the rows, and its component along zhat.

    Args:
        delta: the error at the output of batch norm, (..., B, H).
        gamma: the learned scale, (..., 1, H).
        kept: the values that `normalise` returned.

    Returns:
        z_delta (..., B, H), gamma_update (..., 1, H), beta_update (..., 1, H).
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
    """Return the running statistic, moved by the share `momentum` towards that of the batch.

    Args:
        before: the running statistic so far, (..., 1, H).
        batch: the statistic of this batch, (..., 1, H).
        momentum: the share of the batch, from 0 to 1.
    """
    return (momentum * batch + (1 - momentum) * before).to(before.dtype)
