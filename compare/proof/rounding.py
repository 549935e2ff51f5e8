"""No further apart than rounding? How far floats lie from exact values, beside what is allowed."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from compare.proof.balls import Array
from compare.proof.bounds import Bound, Bounds
from compare.proof.formula import pairs, size
from compare.proof.lift import Missing
from compare.proof.program import Opaque, Program


@dataclass(frozen=True)
class Side:
    """A quantity on one side, from the by-hand floats above it: exact, and its error's bound."""

    exact: Any  # Array or Missing
    bound: Any  # Bound or Missing

    @property
    def known(self) -> bool:
        """Whether it could be lifted both ways."""
        return not isinstance(self.exact, Missing) and isinstance(self.bound, Bound)

    def error_in_ulps(self, values: Tensor) -> float | None:
        """Return the largest |values - exact|, in ulps of the larger of the two."""
        if isinstance(self.exact, Missing) or not values.numel():
            return None
        exact = torch.from_numpy(pairs(lambda a, _b: size(a), self.exact, self.exact))
        larger = torch.maximum(values.detach().double().cpu().abs(), exact)
        errors = _distance(values, self.exact) / _ulp(larger, values.dtype)
        errors = errors[errors.isfinite()]
        return float(errors.max()) if errors.numel() else None

    def share_of_bound(self, values: Tensor) -> float:
        """Return the largest |values - exact| / bound, NaN where a bound says nothing."""
        if not values.numel():
            return 0.0
        bound = self.bound.error.cpu()
        distance = _distance(values, self.exact)
        lifted = ~distance.isnan()  # the others of a sampled product are not judged
        bound, distance = bound[lifted], distance[lifted]
        if not distance.numel():
            return math.nan
        if not bound.isfinite().all() and not bool((distance == 0)[~bound.isfinite()].all()):
            return math.nan
        share = torch.where(distance == 0, 0.0, distance / bound)
        return float(share.max())


def sum_of_bounds(*sides: Side | None) -> Tensor | None:
    """Return the rounding that both sides together are allowed, None where one has no bound."""
    total: Tensor | None = None
    for side in sides:
        if side is None or not isinstance(side.bound, Bound):
            return None
        total = side.bound.error.cpu() if total is None else total + side.bound.error.cpu()
    return total


def share_of_rounding(manual: Tensor, autograd: Tensor, allowed: Tensor | int) -> Tensor:
    """Return |manual - autograd| / allowed, 0 where they are equal.

    Infinite where they are not and nothing finite is allowed: a bound that says nothing is no pass.
    """
    one, other = manual.double().cpu(), autograd.double().cpu()
    share = torch.where(
        torch.as_tensor(allowed).isfinite(), (one - other).abs() / allowed, torch.inf
    )
    return torch.where(one == other, 0.0, share.nan_to_num(nan=torch.inf, posinf=torch.inf))


def bounds_for(program: Program | Opaque, floats: Any) -> Bounds:
    """Return bounds for the precision that torch's flags and fused kernels allow."""
    if isinstance(program, Opaque):
        return Bounds()
    dtypes = [t.dtype for t in floats if isinstance(t, Tensor) and t.is_floating_point()]
    narrowest = (
        max(dtypes, key=lambda d: torch.finfo(d).eps) if program.narrower and dtypes else None
    )
    cuda = any(isinstance(t, Tensor) and t.is_cuda for t in floats)
    flags = torch.backends.cuda.matmul
    tf32 = cuda and (flags.allow_tf32 or torch.backends.cudnn.allow_tf32)
    narrow_sums = cuda and (
        flags.allow_fp16_reduced_precision_reduction or flags.allow_bf16_reduced_precision_reduction
    )
    return Bounds(narrowest, tf32_products=tf32, narrow_sums=narrow_sums)


def _distance(values: Tensor, exact: Array) -> Tensor:
    """Return an upper bound of |values - exact|; 0 for an infinity where exact overflows."""
    floats = values.detach().double().cpu().numpy()
    largest = torch.finfo(values.dtype).max

    def upper(value: float, ball: Any) -> float:
        if not ball.is_finite():
            return math.nan  # not lifted
        if math.isinf(value):
            beyond = ball if value > 0 else -ball
            return 0.0 if bool(beyond > largest) else math.inf
        return float(abs(ball - value).upper())

    return torch.from_numpy(pairs(upper, floats, exact))


def _ulp(sizes: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the spacing of a dtype's floats at each size, in float64."""
    info = torch.finfo(dtype)
    size = sizes.clamp_min(info.smallest_normal)
    _, exponent = torch.frexp(size)
    return torch.ldexp(torch.full_like(size, info.eps), exponent - 1)
