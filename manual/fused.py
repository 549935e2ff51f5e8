"""Part 2 of the blog written for speed: fused operations that write into preallocated memory.

The formulas are those of `three_layer`. Each update is added to its weights by the same operation
that multiplies the matrices. So the update has no name, and the last bits of the weights differ.
One kernel computes a whole delta, (error * (1 - l)) * l: torch's `sigmoid_backward`.
"""

import torch
from torch import Tensor

Named = dict[str, Tensor]

_slope = torch.ops.aten.sigmoid_backward.grad_input  # (error, l, grad_input=delta)


class Fused:
    """A network of three layers that trains in place; leading dimensions are networks side by side.

    Args:
        X: the inputs, (B, I).
        y: the targets, (B, O).
        syn0: the weights from the inputs to the hidden layer, (I, H), modified by each step.
        syn1: the weights from the hidden layer to the outputs, (H, O), modified by each step.
        sizes: (I, H, O).
        alpha: the step size.

    Raises:
        ValueError: if `sizes` does not have three numbers, or the weights have other sizes.
    """

    def __init__(
        self, *, X: Tensor, y: Tensor, syn0: Tensor, syn1: Tensor,
        sizes: tuple[int, ...], alpha: float,
    ) -> None:  # fmt: skip
        _I, H, O = sizes
        if (weight_sizes := (*syn0.shape[-2:], syn1.shape[-1])) != tuple(sizes):
            raise ValueError(f"syn0 and syn1 have sizes {weight_sizes}, but sizes is {sizes}")
        self.l0, self.y, self.syn0, self.syn1, self.alpha = X, y, syn0, syn1, alpha
        self.l1, self.l1_error, self.l1_delta = (X.new_empty(*X.shape[:-1], H) for _ in range(3))
        self.l2, self.l2_error, self.l2_delta = (X.new_empty(*X.shape[:-1], O) for _ in range(3))
        # transposed views of the same memory, made once for all steps
        self.l0_T, self.l1_T, self.syn1_T = X.mT, self.l1.mT, syn1.mT
        one = X.ndim == 2
        self.product = torch.mm if one else torch.bmm
        self.add_product = torch.Tensor.addmm_ if one else torch.Tensor.baddbmm_
        self.graph: torch.cuda.CUDAGraph | None = None

    def step(self) -> None:
        """Take one training step; it overwrites the tensors of this object except l0 and y."""
        # feed forward
        torch.sigmoid_(self.product(self.l0, self.syn0, out=self.l1))           # (B, H)
        torch.sigmoid_(self.product(self.l1, self.syn1, out=self.l2))           # (B, O)

        # the error and the deltas; every delta is known before any weight moves
        torch.sub(self.y, self.l2, out=self.l2_error)                           # (B, O)
        _slope(self.l2_error, self.l2, grad_input=self.l2_delta)                # (B, O)
        self.product(self.l2_delta, self.syn1_T, out=self.l1_error)             # (B, H)
        _slope(self.l1_error, self.l1, grad_input=self.l1_delta)                # (B, H)

        # update weights: syn += alpha * l.T @ delta, as one operation
        self.add_product(self.syn0, self.l0_T, self.l1_delta, alpha=self.alpha)  # (I, H)
        self.add_product(self.syn1, self.l1_T, self.l2_delta, alpha=self.alpha)  # (H, O)

    def capture(self) -> None:
        """Record a step as a CUDA graph for `replay`; the warm-up step also trains the weights."""
        self.step()
        torch.cuda.synchronize()
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.step()

    def replay(self) -> None:
        """Take one training step by replaying the CUDA graph, without Python between kernels."""
        assert self.graph is not None, "call capture() before replay()"
        self.graph.replay()


def step(
    *, X: Tensor, y: Tensor, syn0: Tensor, syn1: Tensor, sizes: tuple[int, ...], alpha: float
) -> Named:
    """Take one fused training step, and return every named value of it.

    syn0 and syn1 are modified in place. The arguments and the exceptions are those of `Fused`.
    """
    fused = Fused(X=X, y=y, syn0=syn0, syn1=syn1, sizes=sizes, alpha=alpha)
    fused.step()
    return {"l0": X, "l1": fused.l1, "l2": fused.l2, "l2_error": fused.l2_error,
            "l2_delta": fused.l2_delta, "l1_error": fused.l1_error, "l1_delta": fused.l1_delta,
            "syn0": syn0, "syn1": syn1}  # fmt: skip
