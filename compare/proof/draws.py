"""Random numbers that nobody else draws: cotangents, and inputs beside someone's own.

A generator seeded by 0 or 1 gives the very numbers of a user's `torch.manual_seed(0)`, and a pass
that mistakes the one for the other would be right by accident. So ours are seeded by a digest of
what is drawn, and cotangents are no normals: uniform in +-[0.5, 1.5], never near 0.
"""

import hashlib

import torch
from torch import Tensor


def generator(*what: object) -> torch.Generator:
    """Return a generator seeded by a digest of what is to be drawn, its name among it."""
    digest = hashlib.sha256(repr(("deltacheck", *what)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big", signed=True))


def cotangent(label: str, like: Tensor, seed: int) -> Tensor:
    """Return what stands above an output: uniform in +-[0.5, 1.5], in its shape and dtype.

    The first, of a scalar the only one, is below -1: neither its size nor what a clamp leaves of it
    will do for it.
    """
    chance = generator("cotangent", label, tuple(like.shape), seed)
    size = torch.rand(like.shape, generator=chance, dtype=torch.float64) + 0.5
    sign = torch.randint(2, like.shape, generator=chance) * 2 - 1
    found = (size * sign).flatten()
    found[:1] = -(1 + found[:1].abs() / 3)
    return found.reshape(like.shape).to(like)


def beside(name: str, tensor: Tensor, share: float = 1 / 64) -> Tensor:
    """Return another input close by: each float moved by a `share` of it or so, zeros off zero too.

    Seeded by the name, so that equal inputs move apart. An infinity stays, as in a mask.
    """
    if not tensor.is_floating_point() or not tensor.numel():
        return tensor.clone()
    chance = generator("beside", name, tuple(tensor.shape))
    noise = torch.rand(tensor.shape, generator=chance, dtype=torch.float64).to(tensor.device)
    size = tensor.detach().double().abs()
    largest = size[size.isfinite()].max() if bool(size.isfinite().any()) else size.new_zeros(())
    scale = torch.where(size == 0, largest.clamp_min(2.0**-10), size)
    moved = (tensor.detach().double() + scale * (noise + 0.25) * share).to(tensor.dtype)
    return torch.where(tensor.isfinite(), moved, tensor.detach())


def hardly_beside(name: str, tensor: Tensor) -> Tensor:
    """Return another input so close that few branches go elsewhere: a float, or 2^-20 off."""
    far = beside(name, tensor)
    if not tensor.is_floating_point():
        return far
    near = tensor + (far - tensor) * 2.0**-14
    near = torch.where(near == tensor, torch.nextafter(tensor, far), near)
    return torch.where(tensor.isfinite(), near, tensor)


def elsewhere(name: str, tensor: Tensor) -> Tensor:
    """Return another input of the same kind: floats moved a little, rows of 0 and 1 shuffled.

    A mask stays a mask then, and a class a class.
    """
    codes = (tensor == 0) | (tensor == 1)
    if not tensor.is_floating_point() or not tensor.numel() or not bool(codes.all()):
        return beside(name, tensor)
    rows = max(tensor.ndim - 2, 0)
    if not tensor.ndim or tensor.shape[rows] < 2:
        return tensor.clone()
    order = torch.randperm(tensor.shape[rows], generator=generator("shuffled", name))
    return tensor.index_select(rows, order.to(tensor.device))
