"""The verdict WITHIN: code whose formula cannot be compared is judged by its numbers.

It is run at many inputs, and its numbers are compared with the limits of `compare.proof.limits`: at
the given inputs, at similar ones, at 1/1000 to 1000 times these, with whole numbers, with
cotangents that are 0 but for a block of terms, and in wider dtypes.
"""

import warnings
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import Any

import torch

from compare.budget import look
from compare.checking.estimate import estimated_numbers
from compare.checking.observation import Observation
from compare.checking.trials import GIVEN, SCALED, SIMILAR, Trial, Trials
from compare.passes.passes import Passes
from compare.progress import stage
from compare.proof.limits import ELEMENT_SLACK, UNIFORM, Numbers, Projection, numbers_of
from compare.proof.pair import Pair
from compare.proof.verdict import EXACT, INACCURATE, UNDECIDED, WITHIN, WRONG, Proof

SUSPICIOUS = 8.0  # times autograd's error, over all elements
ENOUGH = 3  # inputs at which numbers alone give a verdict
UNRELATED = 1 / 8  # a relative error that shows that the code does not take a dtype
COARSE = 1 / 8  # a relative error that has to show, or the numbers show nothing
# At scaled inputs an error counts beyond so many roundings of the largest result. It is then an
# error of the formula if it is this share of the result, or so many times what roundings explain.
SATURATED = 64.0
BY_FAR = 2.0**-5


def judged_by_numbers(passes: Passes, pair: Pair, proofs: Mapping[str, Proof]) -> dict[str, Proof]:
    """Return the proofs, with a verdict by numbers where the formulas were not compared.

    The code under test is called at some 20 other inputs, fewer if these are large.

    Args:
        passes: Both passes at the given inputs.
        pair: Both sides' values that were judged there.
        proofs: The proofs there.
    """
    open_names = [name for name, proof in proofs.items() if proof.obstacle]
    if not open_names or passes.lift == "none":
        return dict(proofs)
    trials = Trials(passes.traced_at_any_size(), pair)
    observed = _observed(trials.in_dtype(), open_names)
    wider = _observed(trials.in_wider_dtypes(), open_names)
    decided = {
        name: _Evidence(observed[name], wider[name]).decide(proofs[name])
        for name in open_names
        if observed[name] and observed[name][0].trial.kind == GIVEN
    }
    return {**proofs, **decided}


def _observed(trials: Iterable[Trial], names: Iterable[str]) -> dict[str, list[Observation]]:
    """Return what the trials show of each quantity, without the inputs that the code refuses."""
    observed: dict[str, list[Observation]] = {name: [] for name in names}
    with warnings.catch_warnings():  # of overflows at inputs that are not the user's
        warnings.simplefilter("ignore")
        for number, trial in enumerate(trials, 1):
            look()
            try:
                with stage(f"judging by numbers at input {number}"):
                    numbers = _numbers(trial.passes)
            except Exception:  # the user's code may raise anything at such inputs
                continue
            for name, seen in numbers.items():
                if name in observed and seen.described:
                    observed[name].append(Observation.of(trial, seen))
    return observed


def _numbers(passes: Passes) -> dict[str, Numbers]:
    """Return the numbers of each quantity, beside the reference's bound or an estimate of it."""
    _, pair = passes.with_autograd(passes.manual, passes.manual_program)
    numbers = numbers_of(pair)
    if numbers.keys() >= pair.manual.keys():
        return numbers
    return estimated_numbers(passes, pair) | numbers


@dataclass(frozen=True)
class _Evidence:
    """All observations of one quantity.

    Attributes:
        observed: In the dtype of the check, the given inputs first.
        wider: At the given inputs in wider dtypes.
    """

    observed: list[Observation]
    wider: list[Observation]

    @property
    def given(self) -> Observation:
        """The observation at the given inputs."""
        return self.observed[0]

    @cached_property
    def taken(self) -> list[Observation]:
        """Those in wider dtypes that the code takes: elsewhere its numbers mean nothing."""
        return [o for o in self.wider if o.relative < UNRELATED or o.within]

    @cached_property
    def right_in_wider(self) -> bool:
        """Whether a wider dtype shows that the formula is right: the error shrinks with the unit.

        An error in the dtype of the check is then made of roundings.
        """
        runs = [self.given, *self.taken]
        return any(wide.is_right_beside(narrow) for narrow, wide in pairwise(runs))

    @property
    def _half(self) -> bool:
        return self.given.dtype.itemsize < 4

    @cached_property
    def usable(self) -> list[Observation]:
        """The observations that count: a scale that the code does not cover is no fault of it."""
        return [
            o for o in self.observed
            if o.trial.kind != SCALED or (o.within and not (self._half and o.ratio > SUSPICIOUS))
        ]  # fmt: skip

    @cached_property
    def pooled(self) -> Projection | None:
        """The systematic error over the inputs that are not scaled, None if it has no limit."""
        return Projection.pooled([o.projection for o in self.usable if o.trial.kind != SCALED])

    def decide(self, proof: Proof) -> Proof:
        """Return the proof with the verdict that the numbers give."""
        given = self.given
        numbers: dict[str, Any] = {
            "manual_bits": given.bits[0], "autograd_bits": given.bits[1], "share": given.share,
            "tried": self._tried(),
        }  # fmt: skip
        if self.right_in_wider and given.has_lost_digits and not given.uniform:
            manual, autograd = given.bits
            shortfall = f"keeps {manual:.1f} of autograd's {autograd:.1f} correct bits"
            text = f"by hand it {shortfall}; the same code is right in {self.taken[-1].trial.wide}"
            return replace(proof, verdict=INACCURATE, text=text, shortfall=shortfall, **numbers)
        if wrong := self._wrong():
            return replace(proof, verdict=WRONG, text=wrong, **numbers)
        outside = [o for o in self.usable if o.lost or o.share > ELEMENT_SLACK]
        if proof.verdict == WRONG and given.lost:
            return proof
        if proof.verdict == EXACT:
            elsewhere = any(o.trial.kind == SIMILAR for o in self.usable)
            right = not outside and elsewhere
            return replace(proof, tried=numbers["tried"]) if right else proof
        proof = replace(proof, verdict=UNDECIDED)
        if outside:
            return replace(proof, text=outside[0].problem(), **numbers)
        pooled = self.pooled
        enough = pooled is not None and pooled.limit < COARSE and len(self.usable) >= ENOUGH
        if not enough or given.has_lost_digits or given.unknown:
            return proof
        worst = max(self.usable, key=lambda o: o.ratio)
        remark = ""
        if worst.ratio > SUSPICIOUS:
            remark = f"is suspicious: {worst.ratio:.2g} times autograd's error {worst.trial.words}"
            if self._half:
                return replace(proof, text=remark, **numbers)
        assert self.pooled is not None
        return replace(
            proof, verdict=WITHIN, text=self._finding(), shortfall=remark,
            resolution=self._resolution(), **numbers,
        )  # fmt: skip

    def _wrong(self) -> str:
        """Return why the numbers are WRONG, "" if they are not."""
        wrong = [o for o in self.observed if self._shows_error(o)]
        # code that computes in float32 inside has errors of that size in float64 too
        eps = torch.finfo(self.given.dtype).eps
        wrong += [o for o in self.taken if o.factor > (1 if o.uniform else 4) * eps or o.one_is_far]
        if wrong:
            return wrong[0].problem()
        plain = [o for o in self.usable if o.trial.kind != SCALED]
        clear = [o.projection for o in plain if not o.noise and o.uniform >= self.right_in_wider]
        pooled = Projection.pooled(clear) if 2 * len(clear) > len(plain) else None
        return f"over {len(clear)} inputs {pooled}" if pooled and pooled.exceeds else ""

    def _shows_error(self, o: Observation) -> bool:
        """Whether an observation in the dtype of the check shows that the formula is wrong."""
        if o.trial.kind == SCALED:
            # where a function saturates, other algebra loses the digits of small results
            scale, unit = max(o.scale, self.given.scale), o.projection.unit
            if o.largest <= min(SATURATED * unit, BY_FAR) * scale:
                return False
            by_far = o.gross and o.largest > BY_FAR * scale
            return by_far or o.excess > SATURATED or (o.excess > 1 and o.factor > BY_FAR)
        # roundings that many elements share look systematic, but not uniform: the wider dtype
        # shows which they are
        if self.right_in_wider:
            return o.excess > 1 and o.uniform
        return o.excess > 1 or o.gross

    def _resolution(self) -> float:
        """Return the relative error of all elements that would have shown."""
        assert self.pooled is not None
        # what the wider dtype shows to be rounding counts only if it is uniform
        return max(self.pooled.limit, UNIFORM * self.given.relative * self.right_in_wider)

    def _finding(self) -> str:
        """Return in words what numbers within the limits show."""
        assert self.pooled is not None
        widths = [str(self.given.dtype).removeprefix("torch.")]
        widths += [o.trial.wide for o in self.taken if o.within]
        limit = "estimated rounding error" if self.given.estimated else "rounding bound"
        text = (
            f"within {ELEMENT_SLACK:g} times autograd's {limit} in {' and '.join(widths)}; a "
            f"relative error above {self._resolution():.1g} would have shown"
        )
        if all(o.exact for o in self.usable):
            text += "; each element is the exact value, rounded once"
        beyond = sorted(o.trial.scale for o in self.observed if o not in self.usable)
        if beyond:
            text += f"; outside that at {', '.join(f'{s:g}' for s in beyond)} times similar inputs"
        return text

    def _tried(self) -> str:
        """Return in words the inputs that were tried, and their number."""
        counts = Counter(o.trial.kind for o in self.usable)
        described = [kind if n == 1 else f"{kind} ({n})" for kind, n in counts.items()]
        if scales := [o.trial.scale for o in self.usable if o.trial.kind == SCALED]:
            where = f"similar inputs scaled by {min(scales):g} to {max(scales):g}"
            described = [where if text.startswith(SCALED) else text for text in described]
        return f"{len(self.usable)} inputs ({', '.join(described)})"
