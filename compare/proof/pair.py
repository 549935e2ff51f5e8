"""A by-hand pass and its reference at some inputs: a pair is what every check examines.

A check of a user's function, a step of a training run, a practice step and the subject of mutants
each build one. A pair can rebuild itself at other inputs.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from torch import Tensor

from compare.proof.balls import PRECISION, UNION, Balls
from compare.proof.exact_arithmetic import ExactArithmetic
from compare.proof.input_structure import NormalisedLines, Symmetry, find_structure
from compare.proof.interpreter import Lifted, Unsupported, lift
from compare.proof.literals import ANY, AS_WRITTEN, Reading
from compare.proof.program import Key, Opaque, Program, elements, upstream
from compare.proof.wide import RESTARTED, WIDE_PRECISION, Shared, WideArithmetic

#: Where the balls are too wide to decide, lifting is repeated at the higher precision: each layer
#: of a deep network loses some bits.
BALL_PRECISIONS = PRECISION, 5 * PRECISION
#: Programs with more numbers than this are computed in wide arithmetic first ...
MOST_FOR_BALLS_ALONE = 50_000
#: ... and with more than this in wide arithmetic alone: FLINT takes minutes.
MOST_FOR_BALLS = 3_000_000
#: Bits of large products whose quantities are float32 or narrower: 36 may cancel.
ENOUGH_FOR_FLOAT32 = 80

Remake = Callable[[Mapping[str, Tensor]], "Pair"]
#: For each quantity that bypasses an injected gradient: the injected gradients that it does use.
Bypasses = Mapping[str, frozenset[str]]


@dataclass
class Pair:
    """The programs, inputs and results of a by-hand pass and of its reference.

    All tensors are real: a complex one is its real view, with a last dimension for the two parts.
    So bits, ulps, bounds and formulas are those of the parts. Only programs have complex values.

    A quantity has the same name on both sides. A plain name is a gradient (in a training run:
    whatever the step calls by that name); a `ValueOf` is the value of an intermediate.

    Attributes:
        manual_program: The by-hand pass, or why it cannot be traced.
        reference: The autograd side as a program, or why it cannot be traced.
        inputs: The reference's inputs.
        manual_inputs: For each input of the by-hand program its floats, and the output of the
            reference that holds the same value; None where it is an input of the reference too.
        manual: The by-hand value of each quantity.
        autograd: Autograd's value of each quantity.
        entries: The number of entries of a large matrix product to lift; None for all.
        injected: The quantities whose by-hand value was injected into autograd; None for all.
            The gradient of an input is never injected.
        formula_ulps: The gap between two formulas that the user accepts, in ulps.
        bypasses: Quantities computed from fewer injected gradients than autograd's path has.
        has_population_dim: Whether the first dimension counts networks; its size is then 1.
        quantities_are_gradients: Whether a quantity is the gradient of the input of its name.
        constants: Numbers of the problem by name, such as alpha.
        remake: Builds the pair at other inputs of the reference.
        reference_lifts: A cache of the lifted reference, by reading and precision. All by-hand
            programs at the same inputs, such as a pass and its mutants, share it.
        shared: The inputs and the large products in wide arithmetic, computed so far.
    """

    manual_program: Program | Opaque
    reference: Program | Opaque
    inputs: Mapping[str, Tensor]
    manual_inputs: Mapping[str, tuple[Tensor, Key | None]]
    manual: Mapping[str, Tensor]
    autograd: Mapping[str, Tensor]
    entries: int | None = None
    injected: Collection[str] | None = None
    formula_ulps: float = 0.0
    bypasses: Bypasses = field(default_factory=dict)
    has_population_dim: bool = False
    quantities_are_gradients: bool = False
    constants: Mapping[str, float] = field(default_factory=dict)
    remake: Remake | None = None
    reference_lifts: dict[tuple[Reading, int], "Lift"] = field(default_factory=dict, repr=False)
    shared: Shared = field(default_factory=Shared, repr=False)

    def at(self, inputs: Mapping[str, Tensor]) -> "Pair":
        """Return the same two passes, run at other inputs of the reference."""
        assert self.remake is not None, "this pair was built without `remake`"
        return self.remake(inputs)

    def injected_among(self, names: Collection[str]) -> frozenset[str]:
        """Return those of the names whose by-hand value was injected into autograd."""
        return frozenset(names if self.injected is None else {*names} & {*self.injected})

    def is_complex(self, name: str) -> bool:
        """Return whether a quantity is the real view of a complex tensor."""
        programs = (p for p in (self.manual_program, self.reference) if isinstance(p, Program))
        nodes = (program.outputs[name] for program in programs if name in program.outputs)
        return any(node.meta["val"].is_complex() for node in nodes)

    @cached_property
    def precisions(self) -> tuple[int, ...]:
        """The working precisions to try, bits; see `exact_arithmetic`."""
        programs = [p for p in (self.manual_program, self.reference) if isinstance(p, Program)]
        count = sum(elements(program.graph.nodes) for program in programs)
        if count <= MOST_FOR_BALLS_ALONE:
            return BALL_PRECISIONS
        balls = BALL_PRECISIONS if count <= MOST_FOR_BALLS else ()
        return (WIDE_PRECISION, RESTARTED, *balls)

    @property
    def is_large(self) -> bool:
        """Whether exact values are computed in wide arithmetic first."""
        return self.precisions[0] == WIDE_PRECISION

    def forget(self) -> None:
        """Free the memory of the large arrays that were computed so far."""
        self.reference_lifts.clear()
        self.shared = Shared()

    def exact_arithmetic(
        self,
        reading: Reading = AS_WRITTEN,
        precision: int | None = None,
        *,
        reference: bool = False,
    ) -> ExactArithmetic:
        """Return the arithmetic of exact values.

        Args:
            reading: How numbers in the code are read.
            precision: Bits, or RESTARTED; None for the first to try.
            reference: Whether it is for the reference.
        """
        precision = precision or self.precisions[0]
        if precision in (WIDE_PRECISION, RESTARTED):
            float64 = any(value.dtype.itemsize == 8 for value in self.manual.values())
            bits = WIDE_PRECISION if float64 else ENOUGH_FOR_FLOAT32
            restart = None if precision == WIDE_PRECISION else reference
            return WideArithmetic(reading, self.shared, bits, restart)
        return Balls(self.entries, reading, precision)

    @cached_property
    def _ancestors(self) -> Mapping[str, Collection[str]]:
        return self.manual_program.ancestors() if isinstance(self.manual_program, Program) else {}

    def injected_ancestors(self, name: str) -> frozenset[str]:
        """Return the injected by-hand gradients from which both sides compute a quantity."""
        if name in self.bypasses:
            return self.bypasses[name]
        ancestors = self.injected_among(self._ancestors.get(name, ()))
        return ancestors.union(*(self.bypasses[n] for n in ancestors if n in self.bypasses))

    @property
    def manual_floats(self) -> dict[str, Tensor]:
        """The by-hand program's inputs, as floats."""
        return {name: value for name, (value, _) in self.manual_inputs.items()}

    def lifted_manual_inputs(
        self,
        reference: Mapping[Key, Lifted],
        inputs: Mapping[str, Tensor] | None = None,
        n: ExactArithmetic | None = None,
    ) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return the by-hand program's inputs: all as floats, and exactly those with exact values.

        Args:
            reference: The lifted reference. It supplies the values of the forward pass.
            inputs: Other inputs than the pair's own, at which `reference` was lifted. The floats
                of the forward pass then come from `reference` too.
            n: The arithmetic. Its reading says how inputs that sum to 1 up to rounding are read.
        """
        keys = {name: key for name, (_, key) in self.manual_inputs.items() if key is not None}
        available = {name: reference[key] for name, key in keys.items() if key in reference}
        # an input that is derived from the others may have fewer dimensions of 1
        shapes = {name: tuple(self.manual_inputs[name][0].shape) for name in available}
        lifted = {name: _reshaped(v.numbers, shapes[name]) for name, v in available.items()}
        if inputs is None:
            if n is not None and n.reading.exact_structure:
                own = [k for k in self.exact_structure if k in self.manual_inputs and k not in keys]
                lifted |= {k: self._without_rounding(k, n) for k in own}
            return self.manual_floats, lifted
        floats = {
            n: _reshaped(reference[keys[n]].floats, shapes[n]) if n in keys else inputs[n]
            for n in self.manual_inputs
        }
        return floats, lifted

    @cached_property
    def exact_structure(self) -> dict[str, NormalisedLines | Symmetry]:
        """The structure (sums of 1, symmetry ...) that each input has up to rounding, if any."""
        structures = {name: find_structure(value) for name, value in self.inputs.items()}
        return {name: kind for name, kind in structures.items() if kind is not None}

    def _without_rounding(self, name: str, n: ExactArithmetic) -> Any:
        """Return a structured input lifted, with its structure exact."""
        as_held = Balls().exact(self.inputs[name])
        exact = self.exact_structure[name].made_exact(as_held)
        return n.known(UNION(as_held, exact) if n.reading.mode == ANY else exact)

    def lifted_reference(
        self, reading: Reading = AS_WRITTEN, precision: int | None = None, **options: Any
    ) -> "Lift":
        """Return the reference lifted from its inputs.

        The result is cached, unless there are `options` of `lift`: those belong to one by-hand
        program.
        """
        key = reading, precision or self.precisions[0]
        if key not in self.reference_lifts or options:
            structured = self.exact_structure if reading.exact_structure else ()
            n = self.exact_arithmetic(*key, reference=True)
            exact_inputs = {k: self._without_rounding(k, n) for k in structured}
            lifted = Lift.of(self.reference, n, self.inputs, exact_inputs, **options)
            if options:
                return lifted
            self.reference_lifts[key] = lifted
        return self.reference_lifts[key]


def _reshaped(numbers: Any, shape: tuple[int, ...]) -> Any:
    return numbers if isinstance(numbers, Unsupported) else numbers.reshape(shape)


@dataclass(frozen=True)
class Lift:
    """The lifted outputs of a program, none if it cannot be traced, and the arithmetic used."""

    n: ExactArithmetic
    outputs: Mapping[Key, Lifted]

    @classmethod
    def of(cls, program: Program | Opaque, n: Any, *inputs: Any, **options: Any) -> "Lift":
        """Lift a program; `inputs` and `options` are those of `lift`."""
        outputs = {} if isinstance(program, Opaque) else lift(program, n, *inputs, **options)
        return cls(n, outputs)


def find_bypasses(
    manual_program: Program | Opaque, reference: Program | Opaque, injected: Collection[str]
) -> dict[str, frozenset[str]]:
    """Return the quantities that bypass an injected gradient, each with those that it does use.

    Autograd continues from the injected by-hand gradients, so that one bug makes one red line. But
    suppose that autograd's path to a quantity leads through z, and by hand the quantity is computed
    without the gradient of z. Then a wrong gradient of z must not be injected for it: the quantity
    is compared with autograd's value along the by-hand pass's own path. Code that cannot be traced
    counts as following autograd's path.

    Args:
        manual_program: The by-hand pass.
        reference: The autograd side.
        injected: The quantities whose by-hand value is injected.
    """
    if isinstance(manual_program, Opaque) or isinstance(reference, Opaque):
        return {}
    used = {
        name: frozenset(ancestors & {*injected})
        for name, ancestors in manual_program.ancestors().items()
    }
    return {
        name: used[name]
        for name in reference.outputs
        if name in used and bypassed_gradients(reference, name, used[name], injected)
    }


def bypassed_gradients(
    reference: Program, name: str, used: Collection[str], injected: Collection[str]
) -> frozenset[str]:
    """Return the injected gradients on autograd's path from a quantity back to those it uses."""
    nodes = {label: reference.outputs[label] for label in injected if label in reference.outputs}
    nodes.pop(name, None)
    end, stops = reference.outputs[name], {nodes[label] for label in used if label in nodes}
    path = set() if end in stops else upstream([end], stops)
    return frozenset(label for label, node in nodes.items() if node in path)
