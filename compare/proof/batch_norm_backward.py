"""Row of the table for the backward pass of batch normalisation as one operation.

Source: Ioffe and Szegedy, Batch Normalization, 2015, section 3. Shapes: x and its gradient are
(B, C, ...), all other tensors (C,).
"""

from collections.abc import Sequence
from typing import Any

from compare.proof.arithmetic_interface import Call, N, flat_indices


def batch_norm_backward(
    n: Call[N], g: N, x: N, w: N | None, mean: N | None, var: N | None, saved_mean: N | None,
    saved_rstd: N | None, training: bool, eps: N, mask: Sequence[bool], _reserve: Any = None,
) -> tuple[N | None, ...]:  # fmt: skip
    """Return the gradients of x, weight and bias, None for those that the mask leaves out.

    Args:
        n: The arithmetic.
        g: The cotangent of the output.
        x: The input.
        w: The weight; None for 1.
        mean: The running mean, which evaluation subtracts.
        var: The running variance.
        saved_mean: The mean of the batch, which training subtracts.
        saved_rstd: 1 / sqrt(variance + eps) of the batch.
        training: Whether the statistics are those of the batch, and so depend on x.
        eps: What is added to the variance.
        mask: Which of the three gradients to return.

    Raises:
        ValueError: The statistics are missing.
    """
    dims = [d for d in range(x.ndim) if d != 1]
    along = [1, -1] + [1] * (x.ndim - 2)

    def per_channel(v: N) -> N:
        return n.take(v, flat_indices(v.shape).reshape(along))

    middle = saved_mean if training else mean
    rstd = saved_rstd if training or var is None else n.function("rsqrt", var + eps)
    if middle is None or rstd is None:
        raise ValueError("its statistics are missing")
    standard = (x - per_channel(middle)) * per_channel(rstd)
    to_weight, to_bias = n.sum(g * standard, dims, False), n.sum(g, dims, False)
    through = g
    if training:
        count = 1
        for d in dims:
            count *= x.shape[d]
        through = g - per_channel(to_bias / count) - standard * per_channel(to_weight / count)
    to_x = through * per_channel(rstd if w is None else rstd * w)
    gradients = to_x, to_weight, to_bias
    return tuple(v if wanted else None for v, wanted in zip(gradients, mask, strict=True))
