"""Random numbers that nobody else draws, and cotangents of them.

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
