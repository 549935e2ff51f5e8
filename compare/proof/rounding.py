"""No further apart than rounding? How far floats lie from exact values, beside what is allowed."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import flint
import torch
from torch import Tensor

from compare.proof.balls import Array
from compare.proof.bounds import Bound, Bounds
from compare.proof.constants import significant_bits
from compare.proof.interpreter import Unsupported, lift
from compare.proof.program import Opaque, Program
from compare.proof.same_formula import elementwise, magnitude, ulp

_INFINITY = flint.arb("inf")
# An error is a loss only if it is more than this many times autograd's, and fewer than half of
# autograd's bits are left. Right forms in other algebra stay within 4 times.
LOSS_FACTOR = 16.0


@dataclass(frozen=True)
class LiftedQuantity:
    """A quantity on one side, from the by-hand floats above it: exact, and its error's bound."""

    exact: Any  # Array or Unsupported
    bound: Any  # Bound or Unsupported

    @property
    def known(self) -> bool:
        """Whether it could be lifted both ways."""
        return not isinstance(self.exact, Unsupported) and isinstance(self.bound, Bound)

    @property
    def terms(self) -> Tensor | None:
        """How large what was added up to it is, 0 where that is no number, None if unknown."""
        terms = self.bound.terms if isinstance(self.bound, Bound) else None
        return None if terms is None else terms.nan_to_num(0.0, 0.0, 0.0)

    def error_in_ulps(self, values: Tensor, beside: "LiftedQuantity | None" = None) -> float | None:
        """Return the largest |values - exact|, in ulps of the largest of what stands there.

        That is the value, the exact one, or what was added up to it `beside`, by the reference:
        where terms cancel to 0, no float is close to it in ulps of itself.
        """
        if isinstance(self.exact, Unsupported) or not values.numel():
            return None
        floats = values.detach().double().cpu()
        exact = torch.from_numpy(elementwise(magnitude, self.exact))
        larger = torch.maximum(floats.abs(), exact)
        if beside is not None and (terms := beside.terms) is not None:
            larger = larger.maximum(terms)
        spacing = torch.from_numpy(ulp(larger.numpy(), values.dtype))
        errors = _distance(values, self.exact) / spacing
        # an overflow counts as the number that would be the next after the largest
        info = torch.finfo(values.dtype)
        errors = torch.where(errors.isinf(), (2 - exact / info.max) / info.eps, errors)
        errors = errors[errors.isfinite()]
        return float(errors.max()) if errors.numel() else None

    def shares_of_bound(self, values: Tensor) -> Tensor:
        """Return each |values - exact| / bound, NaN where nothing bounds it.

        Of a sampled product what was not lifted is 0 here: it is judged otherwise.
        """
        bound, distance = self.bound.error.cpu(), _distance(values, self.exact)
        share = torch.where(bound.isfinite(), distance / bound, torch.nan)
        share = torch.where(distance == 0, 0.0, share)
        unlifted = distance.isnan()
        return share if bool(unlifted.all()) else share.masked_fill(unlifted, 0.0)


@dataclass(frozen=True)
class Accuracy:
    """To how many bits two sides' numbers are right, and whether one has lost what the other kept.

    Bits are log2(size / error), of all elements together: the norm of the exact values, or of what
    the reference adds up to them where that is larger, over that of their errors. Nobody is
    credited with more than numbers that are rounded once.
    """

    manual: float
    autograd: float
    worse: bool  # by hand by more than WORSE times autograd's error

    @property
    def lost(self) -> bool:
        """Whether by hand has lost what autograd kept."""
        return self.worse and self.manual < self.autograd / 2

    def element_loss(
        self, dtype: torch.dtype, manual_error: float | None, autograd_error: float | None
    ) -> str:
        """Return in words that an element has lost half of its digits where others have none.

        The norms of all elements hide those that are small.
        """
        mine, theirs = manual_error or 0.0, autograd_error or 0.0
        if mine <= max(2.0 ** (significant_bits(dtype) / 2), LOSS_FACTOR * max(theirs, 1.0)):
            return ""
        return f"is up to {mine:.2g} ulp off the exact value, autograd {theirs:.2g}"

    def proof_fields(self, dtype: torch.dtype) -> dict[str, Any]:
        """Return what a Proof has of it."""
        have = significant_bits(dtype)
        found = {"manual_bits": self.manual, "autograd_bits": self.autograd}
        if 2 * max(self.manual, self.autograd) >= have:
            return found
        name = str(dtype).removeprefix("torch.")
        return found | {"both_lost": f"both have lost more than half of {name}'s {have} bits"}

    def __str__(self) -> str:
        return f"{self.manual:.1f} of autograd's {self.autograd:.1f} right bits"

    @classmethod
    def of(
        cls,
        manual_program: LiftedQuantity,
        manual: Tensor,
        reference: LiftedQuantity,
        autograd: Tensor,
    ) -> "Accuracy | None":
        """Measure both sides; None where there are no exact values, or nothing but zeros."""
        sizes = torch.from_numpy(elementwise(magnitude, reference.exact))
        terms = reference.terms
        whole = sizes if terms is None else sizes.maximum(terms)
        errors = [_distance(manual, manual_program.exact), _distance(autograd, reference.exact)]
        counts = _counted(manual, autograd, sizes) & sizes.isfinite()
        counts &= ~(errors[0].isnan() | errors[1].isnan())
        if not bool((whole[counts] > 0).any()):
            return None
        largest = whole[counts].max()  # squares of what is next to nothing would be 0
        total = float((whole[counts] / largest).norm())
        spacing = torch.from_numpy(ulp(whole.numpy(), manual.dtype))
        once = float((spacing[counts] / largest / 2).norm())
        mine, theirs = (max(float((e[counts] / largest).norm()), once) for e in errors)
        ours, autograds = (math.log2(max(1.0, total / error)) for error in (mine, theirs))
        return cls(ours, autograds, mine > LOSS_FACTOR * theirs)


def _counted(manual: Tensor, autograd: Tensor, exact: Tensor) -> Tensor:
    """Where the numbers say how accurate a side is.

    An infinity, or a zero for what is none, does where the exact value is a normal number of the
    dtype and autograd has neither.
    """
    info = torch.finfo(manual.dtype)
    normal = (exact >= info.smallest_normal) & (exact <= info.max)
    mine, theirs = (((v == 0) & (exact > 0) | v.isinf()).cpu() for v in (manual, autograd))
    return ~theirs & (~mine | normal)


def largest_share(shares: Tensor) -> float:
    """Return the largest share, of the elements that have one."""
    return float(shares.nan_to_num(nan=0.0, posinf=math.inf).max()) if shares.numel() else 0.0


def overflowed(manual: Tensor, autograd: Tensor, exact: Array) -> Tensor:
    """Return where by hand it is an infinity and autograd has the ordinary number that it is."""
    if not bool(manual.isinf().any()):
        return torch.zeros(manual.shape, dtype=torch.bool)
    info = torch.finfo(manual.dtype)
    ordinary = elementwise(
        lambda a: a.is_finite() and info.smallest_normal < abs(a) < info.max / 2, exact
    )
    return manual.isinf().cpu() & autograd.isfinite().cpu() & (torch.from_numpy(ordinary) == 1)


def share_of_rounding(manual: Tensor, autograd: Tensor, allowed: Tensor | int) -> Tensor:
    """Return |manual - autograd| / allowed, 0 where they are equal.

    Infinite where they are not and nothing finite is allowed: a bound that says nothing is no pass.
    """
    one, other = manual.double().cpu(), autograd.double().cpu()
    share = torch.where(
        torch.as_tensor(allowed).isfinite(), (one - other).abs() / allowed, torch.inf
    )
    return torch.where(one == other, 0.0, share.nan_to_num(nan=torch.inf, posinf=torch.inf))


def bounds_for(program: Program | Opaque, floats: Any, *, terms: bool = False) -> Bounds:
    """Return bounds for the precision that torch's flags and fused kernels allow."""
    if isinstance(program, Opaque):
        return Bounds()
    dtypes = [t.dtype for t in floats if isinstance(t, Tensor) and t.is_floating_point()]
    inner = dtypes if program.may_round_narrower else []
    narrowest = max(inner, key=lambda d: torch.finfo(d).eps, default=None)
    cuda = any(isinstance(t, Tensor) and t.is_cuda for t in floats)
    flags = torch.backends.cuda.matmul
    tf32 = cuda and (flags.allow_tf32 or torch.backends.cudnn.allow_tf32)
    narrow_sums = cuda and (
        flags.allow_fp16_reduced_precision_reduction or flags.allow_bf16_reduced_precision_reduction
    )
    return Bounds(narrowest, tf32_products=tf32, narrow_sums=narrow_sums, terms=terms)


def largest_terms(
    program: Program | Opaque, inputs: Mapping[str, Tensor]
) -> dict[Any, Tensor | None]:
    """Return the largest terms that a program adds up to each output, None where unknown."""
    if isinstance(program, Opaque):
        return {}
    found = lift(program, bounds_for(program, inputs.values(), terms=True), inputs)
    values = ((name, value.numbers) for name, value in found.items())
    return {name: n.largest_term if isinstance(n, Bound) else None for name, n in values}


def _distance(values: Tensor, exact: Array) -> Tensor:
    """Return an upper bound of |values - exact|; 0 for an infinity where exact overflows."""
    floats = values.detach().double().cpu().numpy()
    largest = torch.finfo(values.dtype).max

    def upper(value: float, ball: Any) -> float:
        if abs(ball) == _INFINITY:
            return 0.0 if bool(ball == value) else math.inf
        if not ball.is_finite():
            return math.nan  # not lifted
        if math.isinf(value):
            beyond = ball if value > 0 else -ball
            return 0.0 if bool(beyond > largest) else math.inf
        return float(abs(ball - value).upper())

    return torch.from_numpy(elementwise(upper, floats, exact))
