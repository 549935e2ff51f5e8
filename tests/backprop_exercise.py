"""The exercise of back-propagating by hand through a small language model, operation by operation.

The model is that of Karpathy's lecture "Building makemore, part 4": an embedding of three
characters, a hidden layer with batch norm and tanh, and cross-entropy, written out so that 26
quantities have a gradient. The code is our own; the names are the lecture's.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from compare import name

Named = dict[str, Tensor]


def inputs(
    rows: int = 32, context: int = 3, size: int = 10, hidden: int = 64, characters: int = 27
) -> Named:
    """Return parameters and a batch, drawn from a seed."""
    rng = torch.Generator().manual_seed(2_147_483_647)

    def drawn(*shape: int, scale: float = 1.0) -> Tensor:
        return (torch.randn(*shape, generator=rng) * scale).requires_grad_()

    width = context * size
    return {
        "C": drawn(characters, size), "W1": drawn(width, hidden, scale=5 / 3 / width**0.5),
        "b1": drawn(hidden, scale=0.1), "W2": drawn(hidden, characters, scale=0.1),
        "b2": drawn(characters, scale=0.1),
        "bngain": (torch.randn(1, hidden, generator=rng) * 0.1 + 1).requires_grad_(),
        "bnbias": drawn(1, hidden, scale=0.1),
        "Xb": torch.randint(characters, (rows, context), generator=rng),
        "Yb": torch.randint(characters, (rows,), generator=rng),
    }  # fmt: skip


def forward(C: Tensor, W1: Tensor, b1: Tensor, W2: Tensor, b2: Tensor, bngain: Tensor, bnbias: Tensor, Xb: Tensor, Yb: Tensor) -> Tensor:  # fmt: skip  # noqa: E501
    n = len(Xb)
    emb = name(C[Xb], "emb")
    embcat = name(emb.reshape(n, -1), "embcat")
    hprebn = name(embcat @ W1 + b1, "hprebn")
    bnmeani = name(1 / n * hprebn.sum(0, keepdim=True), "bnmeani")
    bndiff = name(hprebn - bnmeani, "bndiff")
    bndiff2 = name(bndiff**2, "bndiff2")
    bnvar = name(1 / (n - 1) * bndiff2.sum(0, keepdim=True), "bnvar")
    bnvar_inv = name((bnvar + 1e-5) ** -0.5, "bnvar_inv")
    bnraw = name(bndiff * bnvar_inv, "bnraw")
    hpreact = name(bngain * bnraw + bnbias, "hpreact")
    h = name(torch.tanh(hpreact), "h")
    logits = name(h @ W2 + b2, "logits")
    logit_maxes = name(logits.max(1, keepdim=True).values, "logit_maxes")
    norm_logits = name(logits - logit_maxes, "norm_logits")
    counts = name(norm_logits.exp(), "counts")
    counts_sum = name(counts.sum(1, keepdim=True), "counts_sum")
    counts_sum_inv = name(counts_sum**-1, "counts_sum_inv")
    probs = name(counts * counts_sum_inv, "probs")
    logprobs = name(probs.log(), "logprobs")
    return -logprobs[torch.arange(n), Yb].mean()


def backward(C: Tensor, W1: Tensor, W2: Tensor, bngain: Tensor, Xb: Tensor, Yb: Tensor, embcat: Tensor, bndiff: Tensor, bnvar: Tensor, bnvar_inv: Tensor, bnraw: Tensor, h: Tensor, logits: Tensor, norm_logits: Tensor, counts: Tensor, counts_sum: Tensor, counts_sum_inv: Tensor, probs: Tensor) -> Named:  # fmt: skip  # noqa: E501
    n = len(Xb)
    dlogprobs = torch.zeros_like(probs)
    dlogprobs[torch.arange(n), Yb] = -1 / n
    dprobs = dlogprobs / probs
    dcounts_sum_inv = (counts * dprobs).sum(1, keepdim=True)
    dcounts_sum = -(counts_sum**-2) * dcounts_sum_inv
    dcounts = counts_sum_inv * dprobs + dcounts_sum
    dnorm_logits = counts * dcounts
    dlogit_maxes = -dnorm_logits.sum(1, keepdim=True)
    largest = F.one_hot(logits.max(1).indices, logits.shape[1])
    dlogits = dnorm_logits + largest * dlogit_maxes
    dh = dlogits @ W2.mT
    dhpreact = (1 - h**2) * dh
    dbnraw = bngain * dhpreact
    dbnvar_inv = (bndiff * dbnraw).sum(0, keepdim=True)
    dbnvar = -0.5 * (bnvar + 1e-5) ** -1.5 * dbnvar_inv
    dbndiff2 = 1 / (n - 1) * torch.ones_like(bndiff) * dbnvar
    dbndiff = bnvar_inv * dbnraw + 2 * bndiff * dbndiff2
    dbnmeani = -dbndiff.sum(0, keepdim=True)
    dhprebn = dbndiff + 1 / n * torch.ones_like(bndiff) * dbnmeani
    dembcat = dhprebn @ W1.mT
    demb = dembcat.reshape(*Xb.shape, C.shape[1])
    dC = torch.zeros_like(C).index_add(0, Xb.reshape(-1), demb.reshape(-1, C.shape[1]))
    return {
        "logprobs": dlogprobs, "probs": dprobs, "counts_sum_inv": dcounts_sum_inv,
        "counts_sum": dcounts_sum, "counts": dcounts, "norm_logits": dnorm_logits,
        "logit_maxes": dlogit_maxes, "logits": dlogits, "h": dh, "W2": h.mT @ dlogits,
        "b2": dlogits.sum(0), "hpreact": dhpreact,
        "bngain": (bnraw * dhpreact).sum(0, keepdim=True),
        "bnbias": dhpreact.sum(0, keepdim=True), "bnraw": dbnraw, "bnvar_inv": dbnvar_inv,
        "bnvar": dbnvar, "bndiff2": dbndiff2, "bndiff": dbndiff, "bnmeani": dbnmeani,
        "hprebn": dhprebn, "embcat": dembcat, "W1": embcat.mT @ dhprebn, "b1": dhprebn.sum(0),
        "emb": demb, "C": dC,
    }  # fmt: skip
