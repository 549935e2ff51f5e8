"""What another correct kernel may differ by: limits on its numbers, without its formula.

Code that cannot be traced is judged by its numbers alone. Two limits are derived from the
reference: for each element a multiple of the reference's own rounding bound, and for a systematic
error, such as a wrong constant factor, what independent roundings can add up to. Roundings average
out over many elements, a factor does not.
"""

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, fx

from compare.proof.bits import real_view
from compare.proof.bounds import Bound, Bounds
from compare.proof.complex_numbers import Complex, of_view
from compare.proof.interpreter import Floats, Lifted, as_real_view, compute, of_real_view
from compare.proof.lifted_pair import LiftedPair
from compare.proof.pair import Pair
from compare.proof.program import Key, Opaque, Program
from compare.proof.rounding import bounds_for

# Another kernel may be this many times the reference's bound from the exact value. Right kernels in
# other algebra stay within 0.64 of the bound itself (layer norm, softmax, gelu, products).
ELEMENT_SLACK = 8.0
# A systematic error counts beyond this many times the standard deviation that roundings have if
# each is as large as its bound.
SYSTEMATIC_SLACK = 2.0
# A kernel's elementary functions may all err to one side, by this many units of roundoff.
ONE_SIDED = 16.0

_FLOAT64 = Floats(
    lambda dtype: (
        torch.float64
        if dtype.is_floating_point
        else torch.complex128
        if dtype.is_complex
        else dtype
    )
)


@dataclass(frozen=True)
class Projection:
    """The systematic part of an error: <error, exact> / <exact, exact>.

    A result that is 1 + p times the exact value has the projection p.

    Attributes:
        value: The projection.
        deviation: Its standard deviation if each rounding is as large as its bound.
        unit: The unit roundoff of the dtype.
    """

    value: float
    deviation: float
    unit: float

    @property
    def limit(self) -> float:
        """The largest projection that roundings explain."""
        return SYSTEMATIC_SLACK * self.deviation + ONE_SIDED * self.unit

    @property
    def exceeds(self) -> bool:
        """Whether it is larger than roundings explain."""
        return abs(self.value) > self.limit

    def __str__(self) -> str:
        factor = f"{1 + self.value:.6g}"
        if abs(self.value) < 1e-3:
            factor = f"(1 {'-' if self.value < 0 else '+'} {abs(self.value):.2g})"
        return (
            f"the by-hand value is {factor} times the exact one, and roundings explain a relative "
            f"error of {self.limit:.2g}"
        )

    @classmethod
    def pooled(cls, projections: Collection["Projection"]) -> "Projection | None":
        """Return the mean over several inputs, weighted by accuracy; None if none is limited."""
        usable = [p for p in projections if math.isfinite(p.limit)]
        if not usable:
            return None
        weights = [max(p.deviation, p.unit) ** -2 for p in usable]
        value = sum(w * p.value for w, p in zip(weights, usable, strict=True)) / sum(weights)
        return cls(value, sum(weights) ** -0.5, usable[0].unit)


@dataclass(frozen=True)
class Numbers:
    """A quantity's numbers by hand and by autograd, beside its exact value.

    Attributes:
        manual: The by-hand floats, as float64.
        autograd: Autograd's floats, as float64.
        exact: The exact value, in float64 or to well within the bound.
        bound: The reference's rounding bound; infinite where it has none.
        dtype: The dtype of the floats.
        terms: The largest term that the reference adds up to each element, None if unknown.
        deviation: Returns the standard deviation of <rounding, direction> for a direction of the
            quantity's shape; None: unknown.
    """

    manual: Tensor
    autograd: Tensor
    exact: Tensor
    bound: Tensor
    dtype: torch.dtype
    terms: Tensor | None = None
    deviation: Callable[[Tensor], float] | None = None

    @property
    def unit(self) -> float:
        """The unit roundoff of the dtype."""
        return torch.finfo(self.dtype).eps / 2

    @cached_property
    def known(self) -> Tensor:
        """Mask of the elements whose exact value and bound are finite."""
        return self.exact.isfinite() & self.bound.isfinite()

    @cached_property
    def error(self) -> Tensor:
        """The by-hand error, 0 where nothing is known."""
        return torch.where(self.known, self.manual - self.exact, 0.0)

    @cached_property
    def lost(self) -> Tensor:
        """Mask of the elements that are not finite by hand, where autograd's are."""
        return self.known & ~self.manual.isfinite() & self.autograd.isfinite()

    def without_lost(self) -> "Numbers":
        """Return the numbers without the elements that overflow by hand, or become 0."""
        kept = self.manual.isfinite() & ((self.manual != 0) | (self.exact == 0))
        return replace(self, bound=torch.where(kept, self.bound, torch.inf))

    @property
    def described(self) -> bool:
        """Whether the program describes the reference here: autograd is within its own bound."""
        off = (self.autograd - self.exact).abs()
        return bool((off <= self.bound)[self.known].all()) and bool(self.known.any())

    @cached_property
    def scale(self) -> float:
        """The largest magnitude of the exact values."""
        sizes = self.exact.abs()[self.known]
        return float(sizes.max()) if sizes.numel() else 0.0

    @cached_property
    def shares(self) -> Tensor:
        """The by-hand error in shares of what one kernel may be off, 0 where nothing is known.

        That is the reference's bound, and one rounding of the largest element: in other algebra a
        small element may be a difference of large ones, as g - g * y is for g * (1 - y).
        """
        off = self.error.abs() / (self.bound + self.unit * self.scale)
        shares = torch.where(self.error == 0, 0.0, off)
        return torch.where(self.known & self.manual.isfinite(), shares, 0.0)

    def one_is_far(self) -> bool:
        """Whether some element is far off, by more than lost digits, and most are within bounds."""
        far = self.error.abs() > self.exact.abs() * MANY_DIGITS
        far &= self.shares > ELEMENT_SLACK**2
        return bool(far.any()) and float(self.shares.median()) <= 1

    @property
    def is_exact(self) -> bool:
        """Whether each element is the exact value, rounded at most once."""
        near = self.error.abs() <= 1.01 * self.unit * self.exact.abs()
        return bool(self.known.all()) and bool(near.all())

    @cached_property
    def norms(self) -> tuple[float, float]:
        """The norm of the error by hand and of autograd's, at least that of one rounding."""
        one_rounding = self.unit / 2 * float(self.exact[self.known].norm())
        autograd = (self.autograd - self.exact)[self.known]
        return tuple(  # type: ignore[return-value]
            max(float(e.nan_to_num(0.0).norm()), one_rounding) for e in (self.error, autograd)
        )

    def bits(self) -> tuple[float, float]:
        """Return the number of correct bits by hand and by autograd, over all elements."""
        sizes = self.exact.abs()[self.known]
        if self.terms is not None:
            sizes = sizes.maximum(self.terms[self.known].nan_to_num(0.0, 0.0, 0.0))
        size = float(sizes.norm())
        manual, autograd = (math.log2(max(1.0, size / e)) if e else math.inf for e in self.norms)
        return manual, autograd

    def projection(self, part: Tensor | None = None, *, brief: bool = False) -> Projection:
        """Return the systematic error.

        Args:
            part: A mask of the elements to look at; None for all.
            brief: Whether to leave out the limit if the error is below any.
        """
        direction = torch.where(self.known, self.exact, 0.0)
        if part is not None:
            direction = torch.where(part, direction, 0.0)
        largest = direction.abs().max() if direction.numel() else direction.new_zeros(())
        if not bool(largest > 0):
            return Projection(0.0, math.inf, self.unit)
        direction = direction / largest  # so that squares neither overflow nor underflow
        error, square = self.error.nan_to_num(0.0) / largest, float((direction**2).sum())
        value = float((error * direction).sum()) / square
        bound = torch.where(self.known, self.bound, 0.0) / largest
        if brief and abs(value) <= ONE_SIDED * self.unit:
            return Projection(value, math.inf, self.unit)
        deviation = math.inf if self.deviation is None else self.deviation(direction)
        # without sensitivities: as if all roundings had one sign
        certain = float((bound * direction.abs()).sum())
        return Projection(value, min(deviation / float(largest), certain) / square, self.unit)

    def is_noise(self, projection: Projection, part: Tensor | None = None) -> bool:
        """Whether an error of this projection is no larger than the scatter of the errors."""
        direction = torch.where(self.known if part is None else self.known & part, self.exact, 0.0)
        along = (self.error.nan_to_num(0.0) - projection.value * direction) * direction
        # elements of a row, or of a column, may share a rounded number
        groups = [along]
        if along.ndim > 1 and part is None:
            groups += [along.sum(-1), along.sum([*range(along.ndim - 1)])]
        spread = max(float(group.norm()) for group in groups)
        return abs(projection.value) * float((direction**2).sum()) <= ELEMENT_SLACK * spread

    def is_uniform(self, projection: Projection, part: Tensor | None = None) -> bool:
        """Whether the by-hand value is one multiple of the exact value: no digits were lost."""
        known = self.known if part is None else self.known & part
        direction = torch.where(known, self.exact, 0.0)
        error = torch.where(known, self.error, 0.0).nan_to_num(0.0)
        rest = error - projection.value * direction
        return float(rest.norm()) <= abs(projection.value) * float(direction.norm()) / UNIFORM

    def off_by_whole_numbers(self) -> tuple[int, ...] | None:
        """Return the index of an error of 1/2 or more among sums of whole numbers.

        None if there is none, or if the exact values are not whole or too large: the dtype adds
        whole numbers without any rounding while it can hold their sum of magnitudes.
        """
        largest = self.exact.abs() if self.terms is None else self.exact.abs().maximum(self.terms)
        in_sum = max(self.unit, 2.0**-24) if self.dtype.itemsize < 4 else self.unit
        whole = self.known & (self.exact == self.exact.round()) & (largest < 0.5 / in_sum)
        if not bool(whole.all()):
            return None
        off = self.error.abs() > 0.5 + self.unit * self.exact.abs()
        return tuple(off.nonzero()[0].tolist()) if bool(off.any()) else None

    def parts(self) -> list[Tensor]:
        """Return masks of the row and of the column that look most systematic, if there are many.

        They are chosen as if no two elements shared a rounding; `projection` knows better.
        """
        chosen: list[Tensor] = []
        if self.exact.ndim < 2:
            return chosen
        rows = torch.arange(self.exact[..., 0].numel()).reshape(*self.exact.shape[:-1], 1)
        columns = torch.arange(self.exact.shape[-1])
        for index in (rows, columns):
            count = int(index.numel())
            if count < MANY or self.exact.numel() // count < MANY:
                continue
            groups = index.expand(self.exact.shape)
            direction = torch.where(self.known, self.exact, 0.0)
            along, scatter = (
                values.new_zeros(count).index_add(0, groups.reshape(-1), values.reshape(-1))
                for values in (
                    self.error.nan_to_num(0.0) * direction,
                    (torch.where(self.known, self.bound, 0.0) * direction) ** 2,
                )
            )
            ratio = (along.abs() / scatter.sqrt()).nan_to_num(0.0, 0.0, 0.0)
            if float(ratio.max()) > SYSTEMATIC_SLACK:
                chosen.append(groups == ratio.argmax())
        return chosen


UNIFORM = 64.0  # a factor this many times larger than the rest of the error
MANY_DIGITS = 2.0**-10
MANY = 4  # rows or columns, and elements in each, from which on they are looked at one by one


def numbers_of(pair: Pair, *, terms: bool = True) -> dict[str, Numbers]:
    """Return the numbers of each quantity, beside values computed from the by-hand floats above it.

    A quantity that the reference's program cannot bound, because an operation has no row, is left
    out.

    Args:
        pair: Both sides. Only the reference has to be a program.
        terms: Whether to record the largest terms that are added up.
    """
    program = pair.reference
    if isinstance(program, Opaque):
        return {}
    # most kernels of half precision compute in float32 and round once
    once = _bounded(pair, replace(program, may_round_narrower=False), terms=terms)
    if not program.may_round_narrower or all(numbers.described for numbers in once.values()):
        return once
    often = _bounded(pair, program, terms=terms)
    return {name: once[name] if once[name].described else often[name] for name in once}


def _bounded(pair: Pair, program: Program, *, terms: bool) -> dict[str, Numbers]:
    result: dict[str, Numbers] = {}
    lifted = LiftedPair(pair)
    ways: dict[frozenset[str] | None, list[str]] = {}
    for name in pair.manual:
        ways.setdefault(pair.bypasses.get(name), []).append(name)
    for used, names in ways.items():
        n = bounds_for(program, pair.inputs.values(), terms=terms)
        outputs = lifted.lift_locally(program, n, used=used)
        sensitivities = _Sensitivities(program, pair.inputs, lifted.local_floats(program, used))
        for name in names:
            bound = outputs[name].numbers if name in outputs else None
            if isinstance(bound, Bound):
                shape = pair.manual[name].shape
                result[name] = Numbers(
                    pair.manual[name].double().cpu(),
                    pair.autograd[name].double().cpu(),
                    bound.value.expand(shape),
                    bound.error.expand(shape) + _flushed(pair.manual[name].dtype),
                    pair.manual[name].dtype,
                    None if bound.terms is None else bound.terms.expand(shape),
                    sensitivities.deviation_of(name),
                )
    return result


def _flushed(dtype: torch.dtype) -> float:
    """Return the smallest normal number of the dtype that kernels compute in: less may become 0."""
    return torch.finfo(torch.float32 if dtype == torch.float16 else dtype).smallest_normal


class _Sensitivities:
    """How far independent roundings of a program's operations can move a weighted sum of an output.

    The sum changes by the sum of its derivatives times the roundings. The derivatives with respect
    to the result of every operation come from one reverse pass over the program, in float64; the
    roundings are at most those that each operation adds by itself. So a rounded number that many
    elements share counts once, with its whole effect.
    """

    def __init__(
        self, program: Program, inputs: Mapping[str, Tensor], overrides: Mapping[Key, Tensor]
    ) -> None:
        self.program, self.inputs, self.overrides = program, inputs, overrides

    def deviation_of(self, name: str) -> Callable[[Tensor], float]:
        """Return the function of a direction for one output, see `Numbers.deviation`."""
        return lambda direction: self._deviation(name, direction)

    def _deviation(self, name: str, direction: Tensor) -> float:
        run = self._run
        if run is None or name not in run.outputs:
            return math.inf
        output = run.outputs[name]
        if not output.requires_grad:
            return math.inf
        nodes = [node for node in run.roundings if run.floats[node].requires_grad]
        total = (output * direction.to(output).reshape(output.shape)).sum()
        try:
            gradients = torch.autograd.grad(
                total, [run.floats[node] for node in nodes], retain_graph=True, allow_unused=True
            )
        except RuntimeError:  # an operation has no derivative
            return math.inf
        square = 0.0
        for node, gradient in zip(nodes, gradients, strict=True):
            if gradient is not None:
                parts = real_view(gradient.resolve_conj()).cpu()
                moved = parts * run.roundings[node].reshape(parts.shape)
                square += float((moved**2).nan_to_num(0.0, math.inf).sum())
        return math.sqrt(square)

    @cached_property
    def _run(self) -> "_Run | None":
        try:
            return _Run.of(self.program, self.inputs, self.overrides)
        except Exception:  # torch cannot differentiate it, or a row does not fit
            return None


@dataclass(frozen=True)
class _Run:
    """A program's values in float64 with autograd's graph, and the roundings of each operation."""

    floats: dict[fx.Node, Any]
    roundings: dict[fx.Node, Tensor]
    outputs: dict[Any, Tensor]

    @classmethod
    def of(
        cls, program: Program, inputs: Mapping[str, Tensor], overrides: Mapping[Key, Tensor]
    ) -> "_Run":
        n = bounds_for(program, inputs.values(), independent=True)
        names, input_names = program.names_by_node(), program.placeholders()
        values: dict[fx.Node, Lifted] = {}  # floats of the dtype, and bounds without an error
        floats: dict[fx.Node, Any] = {}
        roundings: dict[fx.Node, Tensor] = {}
        outputs: dict[Any, Tensor] = {}
        with torch.enable_grad():
            for node in program.graph.nodes:
                if node.op == "output":
                    break
                if node.op == "placeholder":
                    value = inputs[input_names[node]].detach()
                    lifted = _lifted(n, value, node.meta["val"])
                    double = _leaf(lifted.floats)
                else:
                    with torch.no_grad():
                        lifted = compute(n, node, values)
                    args, kwargs = fx.node.map_arg((node.args, node.kwargs), floats.__getitem__)
                    double = _FLOAT64.run(node, args, kwargs)
                    if isinstance(double, Tensor) and not _is_of_floats(double):
                        double = lifted.floats  # branches are those of the float run
                    if isinstance(lifted.numbers, Bound | Complex):
                        view = as_real_view(lifted).numbers
                        roundings[node] = view.error
                        numbers: Any = Bound(n, view.value, torch.zeros_like(view.error))
                        if isinstance(lifted.numbers, Complex):
                            numbers = of_view(n, numbers)
                        lifted = Lifted(lifted.floats, numbers)
                        if not double.requires_grad:  # it depends on no input
                            double = _leaf(double)
                for key in names.get(node, ()):
                    outputs[key] = real_view(double)
                    if key in overrides:
                        value = overrides[key].detach().reshape(outputs[key].shape)
                        lifted = _lifted(n, value, double)
                        double = _leaf(lifted.floats)
                values[node], floats[node] = lifted, double
        return cls(floats, roundings, outputs)


def _lifted(n: Bounds, value: Tensor, like: Tensor) -> Lifted:
    """Return a real view as the exact value that it stands for, complex if `like` is."""
    numbers = n.exact(value) if value.is_floating_point() else value
    return of_real_view(Lifted(value, numbers), like, n)


def _leaf(value: Tensor) -> Tensor:
    """Return a value in double precision as a leaf of autograd's graph."""
    if not _is_of_floats(value):
        return value
    wide = torch.complex128 if value.is_complex() else torch.float64
    return value.detach().to(wide).requires_grad_()


def _is_of_floats(value: Tensor) -> bool:
    return value.is_floating_point() or value.is_complex()
