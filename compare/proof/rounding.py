"""The second and third question of a verdict: how far do floats lie from the exact values?

It computes which fraction of the rounding bound a difference uses, errors in ulps, and counts of
correct bits.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from compare.proof.blocks import LARGE_BLOCK, blocks
from compare.proof.bounds import Bound, Bounds
from compare.proof.constants import significant_bits
from compare.proof.exact_values import Exact, distance_from_floats, finite, magnitudes
from compare.proof.interpreter import Lifted, Unsupported, lift
from compare.proof.program import Opaque, Program
from compare.proof.same_formula import ulp

# An error counts as a loss only if it is more than this many times autograd's and fewer than half
# of autograd's bits are left. Correct formulas in other algebra stay within 4 times.
LOSS_FACTOR = 16.0
# Sums of errors beyond so many times what independent roundings add up to are looked into.
SUSPICIOUS = 4.0


@dataclass(frozen=True)
class LiftedQuantity:
    """A quantity of one side, computed from the by-hand floats of the quantities before it.

    Attributes:
        exact: The exact value: an array of balls, wide numbers, or Unsupported.
        bound: The rounding bound of the float run: a Bound, or Unsupported.
    """

    exact: Any
    bound: Any

    @property
    def known(self) -> bool:
        """Whether both the exact value and the bound could be computed."""
        return not isinstance(self.exact, Unsupported) and isinstance(self.bound, Bound)

    @property
    def terms(self) -> Tensor | None:
        """The largest term added up to each element; 0 where it is not finite, None if unknown."""
        terms = self.bound.terms if isinstance(self.bound, Bound) else None
        return None if terms is None else terms.nan_to_num(0.0, 0.0, 0.0)

    def bound_together(self, other: "LiftedQuantity") -> Tensor | None:
        """Return how far the floats of both sides may lie apart, None if a bound is unknown."""
        if not (isinstance(self.bound, Bound) and isinstance(other.bound, Bound)):
            return None
        return self.bound.error.cpu() + other.bound.error.cpu()

    def distance_in_float64(self, other: "LiftedQuantity") -> float | None:
        """Return the norm of the difference of both float64 values, relative to the other's."""
        if not (isinstance(self.bound, Bound) and isinstance(other.bound, Bound)):
            return None
        one, size = self.bound.value.cpu(), other.bound.value.cpu()
        known = one.isfinite() & size.isfinite()
        one, size = one[known], size[known]
        largest = size.abs().amax() if size.numel() else size.new_zeros(())
        if not bool(largest > 0):
            return None
        return float(((one - size) / largest).norm() / (size / largest).norm())

    def error_in_ulps(
        self, values: Tensor, reference: "LiftedQuantity | None" = None
    ) -> float | None:
        """Return the largest |values - exact| in ulps, None if it is unknown.

        The ulp is that of the largest of the value, the exact value, and the largest term that the
        reference adds up to it: where terms cancel to 0, no float is within a few ulps of itself.

        Args:
            values: The floats of the quantity.
            reference: The quantity of the reference; if given, its terms count.
        """
        if isinstance(self.exact, Unsupported) or not values.numel():
            return None
        terms = None if reference is None else reference.terms
        largest = [
            _error_in_ulps(values[at], self.exact[at], None if terms is None else terms[at])
            for at in blocks(values.shape, LARGE_BLOCK)
        ]
        return max((error for error in largest if error is not None), default=None)

    def shares_of_bound(self, values: Tensor) -> Tensor:
        """Return |values - exact| / bound for each element, NaN where the bound is not finite.

        Elements of a sampled product that were not lifted are 0 here: they are judged by the bound
        alone, elsewhere.
        """
        bound, distance = self.bound.error.cpu(), distance_from_floats(values, self.exact)
        share = torch.where(bound.isfinite(), distance / bound, torch.nan)
        share = torch.where(distance == 0, 0.0, share)
        unlifted = distance.isnan()
        return share if bool(unlifted.all()) else share.masked_fill(unlifted, 0.0)


def _error_in_ulps(values: Tensor, exact: Exact, terms: Tensor | None) -> float | None:
    floats = values.detach().double().cpu()
    size = torch.from_numpy(np.asarray(magnitudes(exact)))
    scale = torch.maximum(floats.abs(), size)
    if terms is not None:
        scale = scale.maximum(terms)
    spacing = torch.from_numpy(np.asarray(ulp(scale.numpy(), values.dtype)))
    errors = distance_from_floats(values, exact) / spacing
    # an overflow counts as the float that would follow the largest one
    info = torch.finfo(values.dtype)
    errors = torch.where(errors.isinf(), (2 - size / info.max) / info.eps, errors)
    errors = errors[errors.isfinite()]
    return float(errors.max()) if errors.numel() else None


@dataclass(frozen=True)
class Accuracy:
    """The number of correct bits on both sides, and whether the by-hand side lost many more.

    Bits are log2(size / error) over all elements together. The error is the norm of the distances
    from the exact values; the size is the norm of the exact values, or of the terms that the
    reference adds up to them where those are larger. The error is at least that of rounding the
    exact values once.

    Attributes:
        manual: Correct bits by hand.
        autograd: Correct bits of autograd.
        worse: Whether the error by hand is more than LOSS_FACTOR times autograd's.
    """

    manual: float
    autograd: float
    worse: bool

    @property
    def lost(self) -> bool:
        """Whether the by-hand side has lost more than half of the bits that autograd keeps."""
        return self.worse and self.manual < self.autograd / 2

    def element_loss(
        self, dtype: torch.dtype, manual_error: float | None, autograd_error: float | None
    ) -> str:
        """Return a text if some element has lost half of its digits by hand and not by autograd.

        The norm over all elements hides such a loss where the element is small. Errors are in ulps,
        of the worst element.
        """
        by_hand, autograd = manual_error or 0.0, autograd_error or 0.0
        half = 2.0 ** (significant_bits(dtype) / 2)
        if by_hand <= max(half, LOSS_FACTOR * max(autograd, 1.0)):
            return ""
        return f"has a rounding error of up to {by_hand:.2g} ulp, autograd {autograd:.2g} ulp"

    def proof_fields(self, dtype: torch.dtype) -> dict[str, Any]:
        """Return the fields of a Proof that report the accuracy."""
        bits = significant_bits(dtype)
        fields = {"manual_bits": self.manual, "autograd_bits": self.autograd}
        if 2 * max(self.manual, self.autograd) >= bits:
            return fields
        name = str(dtype).removeprefix("torch.")
        return fields | {"both_lost": f"both have lost more than half of {name}'s {bits} bits"}

    def __str__(self) -> str:
        return f"{self.manual:.1f} of autograd's {self.autograd:.1f} correct bits"

    @classmethod
    def of(
        cls,
        by_hand: LiftedQuantity,
        manual: Tensor,
        reference: LiftedQuantity,
        autograd: Tensor,
    ) -> "Accuracy | None":
        """Measure both sides; return None without exact values, or if all of them are 0.

        Args:
            by_hand: The exact value and bound by hand.
            manual: The floats by hand.
            reference: The exact value and bound of the reference.
            autograd: The floats of autograd.
        """
        terms = reference.terms
        parts = [
            _sizes_and_errors(
                by_hand.exact[at], manual[at], reference.exact[at], autograd[at],
                None if terms is None else terms[at],
            )
            for at in blocks(manual.shape, LARGE_BLOCK)
        ]  # fmt: skip
        largest = max(float(part.largest) for part in parts)
        if not largest > 0:
            return None
        size, one_rounding, *errors = (
            math.hypot(*(float(part.norms[k] * (part.largest / largest)) for part in parts))
            for k in range(4)
        )
        manual_error, autograd_error = (max(error, one_rounding) for error in errors)
        return cls(
            manual=math.log2(max(1.0, size / manual_error)),
            autograd=math.log2(max(1.0, size / autograd_error)),
            worse=manual_error > LOSS_FACTOR * autograd_error,
        )


@dataclass(frozen=True)
class _SizesAndErrors:
    """Norms over the elements of a block that count, as multiples of the largest size there.

    Scaled by it, squares do not underflow to 0.

    Attributes:
        largest: The largest size; 0 if no element counts.
        norms: Of the sizes, of one rounding, of the errors by hand and of those of autograd.
    """

    largest: float
    norms: tuple[float, float, float, float]


def _sizes_and_errors(
    by_hand: Exact, manual: Tensor, reference: Exact, autograd: Tensor, terms: Tensor | None
) -> _SizesAndErrors:
    exact = torch.from_numpy(np.asarray(magnitudes(reference)))
    sizes = exact if terms is None else exact.maximum(terms)
    errors = [distance_from_floats(manual, by_hand), distance_from_floats(autograd, reference)]
    counted = _is_comparable(manual, autograd, exact) & exact.isfinite()
    counted &= ~(errors[0].isnan() | errors[1].isnan())
    sizes = sizes[counted]
    largest = sizes.max() if sizes.numel() else exact.new_zeros(())
    if not bool(largest > 0):
        return _SizesAndErrors(0.0, (0.0, 0.0, 0.0, 0.0))
    spacing = torch.from_numpy(np.asarray(ulp(sizes.numpy(), manual.dtype)))
    sized, rounding, by_hand_error, error = (
        float((part / largest).norm())
        for part in (sizes, spacing, errors[0][counted], errors[1][counted])
    )
    return _SizesAndErrors(float(largest), (sized, rounding / 2, by_hand_error, error))


def _is_comparable(manual: Tensor, autograd: Tensor, exact: Tensor) -> Tensor:
    """Return a mask of the elements whose floats show how accurate a side is.

    An infinity, or a zero whose exact value is not 0, counts against the by-hand side only if the
    exact value is a normal number of the dtype and autograd has a finite nonzero value.
    """
    info = torch.finfo(manual.dtype)
    normal = (exact >= info.smallest_normal) & (exact <= info.max)
    extreme = [((v == 0) & (exact > 0) | v.isinf()).cpu() for v in (manual, autograd)]
    return ~extreme[1] & (~extreme[0] | normal)


def largest_share(shares: Tensor) -> float:
    """Return the largest share, ignoring NaN."""
    return float(shares.nan_to_num(nan=0.0, posinf=math.inf).max()) if shares.numel() else 0.0


def overflowed(manual: Tensor, autograd: Tensor, exact: Exact) -> Tensor:
    """Return a mask of the elements that overflow by hand alone, though the dtype can hold them."""
    if not bool(manual.isinf().any()):
        return torch.zeros(manual.shape, dtype=torch.bool)
    info = torch.finfo(manual.dtype)

    size = torch.from_numpy(magnitudes(exact))
    normal = (size > info.smallest_normal) & (size < info.max / 2) & torch.from_numpy(finite(exact))
    return manual.isinf().cpu() & autograd.isfinite().cpu() & normal


def share_of_rounding(manual: Tensor, autograd: Tensor, allowed: Tensor | int) -> Tensor:
    """Return |manual - autograd| / allowed for each element, 0 where both sides are equal.

    Where they differ and `allowed` is not finite the share is infinite: without a bound nothing
    passes.

    Args:
        manual: The floats by hand.
        autograd: The floats of autograd, of the same shape.
        allowed: The rounding bound of both sides together, as an absolute error.
    """
    one, other = manual.double().cpu(), autograd.double().cpu()
    share = torch.where(
        torch.as_tensor(allowed).isfinite(), (one - other).abs() / allowed, torch.inf
    )
    return torch.where(one == other, 0.0, share.nan_to_num(nan=torch.inf, posinf=torch.inf))


def looks_systematic(error: Tensor, exact: Tensor, bound: Tensor) -> bool:
    """Return whether some row, or column, is off by more than independent roundings make it.

    No proof of a fault: the elements of a row may share a rounded number.

    Args:
        error: The distance of each float from its exact value, with its sign.
        exact: The exact values, or values near them.
        bound: The bound on each distance.
    """
    largest = exact.abs().nan_to_num(0.0, 0.0, 0.0).amax() if exact.numel() else 0
    if not largest:
        return False
    size = exact / largest
    along, scatter = (error / largest * size).nan_to_num(0.0), (bound / largest * size) ** 2
    for dim in range(exact.ndim):
        others = [d for d in range(exact.ndim) if d != dim]
        off, square = (x.sum(others) if others else x for x in (along, scatter))
        if bool((off.abs() > SUSPICIOUS * square.sqrt()).any()):
            return True
    return False


def bounds_for(program: Program | Opaque, inputs: Iterable[Any], **options: bool) -> Bounds:
    """Return the arithmetic of rounding bounds for a program, at its precision.

    Args:
        program: The program to run.
        inputs: Its inputs. Their dtypes and devices decide, with torch's flags for CUDA and with
            fused kernels, in which precision kernels may compute.
        options: `terms` and `independent` of `Bounds`.
    """
    if isinstance(program, Opaque):
        return Bounds()
    inputs = [*inputs]
    dtypes = [t.dtype for t in inputs if isinstance(t, Tensor) and t.is_floating_point()]
    inner = dtypes if program.may_round_narrower else []
    narrowest = max(inner, key=lambda d: torch.finfo(d).eps, default=None)
    cuda = any(isinstance(t, Tensor) and t.is_cuda for t in inputs)
    flags = torch.backends.cuda.matmul
    tf32 = cuda and (flags.allow_tf32 or torch.backends.cudnn.allow_tf32)
    narrow_sums = cuda and (
        flags.allow_fp16_reduced_precision_reduction or flags.allow_bf16_reduced_precision_reduction
    )
    return Bounds(narrowest, tf32_products=tf32, narrow_sums=narrow_sums, **options)


def largest_terms(
    program: Program | Opaque,
    inputs: Mapping[str, Tensor],
    outputs: Mapping[Any, Lifted] | None = None,
) -> dict[Any, Tensor | None]:
    """Return the largest term added up to each element of each output, None if unknown.

    Args:
        program: The program.
        inputs: The floats of each of its inputs.
        outputs: Its rounding bounds with terms, if they are known.
    """
    if isinstance(program, Opaque):
        return {}
    if outputs is None:
        outputs = lift(program, bounds_for(program, inputs.values(), terms=True), inputs)
    bounds = {name: value.numbers for name, value in outputs.items()}
    return {name: b.largest_term if isinstance(b, Bound) else None for name, b in bounds.items()}
