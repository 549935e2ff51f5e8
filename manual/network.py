"""The blog's step for any number of layers: the lines of `three_layer` in loops."""

import torch
from torch import Tensor

from manual.sigmoid import GROUPINGS, sigmoid


# B rows, sizes[n] values in layer n; any leading dimensions are networks side by side
def step(
    *, X: Tensor, y: Tensor, sizes: tuple[int, ...], alpha: float, grouping: str, **syn: Tensor
) -> dict[str, Tensor]:
    """Take one step: X (B, sizes[0]), y (B, sizes[-1]), syn<n> (sizes[n], sizes[n+1]).

    Raises KeyError for a missing syn<n> or an unknown grouping, TypeError for one too many.
    """
    delta = GROUPINGS[grouping]
    N = len(sizes) - 1                                      # the last layer
    if unknown := syn.keys() - {f"syn{n}" for n in range(N)}:
        raise TypeError(f"a network of {N + 1} layers has no {', '.join(sorted(unknown))}")

    # feed forward
    q = {"l0": X}
    for n in range(N):
        q[f"l{n + 1}"] = sigmoid(q[f"l{n}"] @ syn[f"syn{n}"])

    # the error goes back layer by layer; every delta is known before any weight moves
    q[f"l{N}_error"] = y - q[f"l{N}"]
    for n in range(N, 0, -1):
        q[f"l{n}_delta"] = delta(q[f"l{n}_error"], q[f"l{n}"])
        if n > 1:
            q[f"l{n - 1}_error"] = q[f"l{n}_delta"] @ syn[f"syn{n - 1}"].mT

    # update weights
    for n in range(N - 1, -1, -1):
        q[f"syn{n}_update"] = q[f"l{n}"].mT @ q[f"l{n + 1}_delta"]
    for n in range(N):
        q[f"syn{n}"] = torch.add(syn[f"syn{n}"], q[f"syn{n}_update"], alpha=alpha)
    return q
