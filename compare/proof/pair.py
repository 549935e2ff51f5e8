"""A by-hand pass and its reference at some inputs: what everything else asks about.

A check of someone's own function, a step of a run, a line of practice and what mutants are made of
are ways to make one. It can make itself again at other inputs.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from torch import Tensor

from compare.proof.balls import PRECISION, UNION, Balls
from compare.proof.input_structure import Lines, Turned, but_for_rounding
from compare.proof.interpreter import Lifted, Unsupported, lift
from compare.proof.literals import ANY, AS_WRITTEN, Reading
from compare.proof.program import Key, Opaque, Program, above

Maker = Callable[[Mapping[str, Tensor]], "Pair"]
#: Of each quantity that goes its own way, the by-hand gradients that autograd goes on from for it.
Ways = Mapping[str, frozenset[str]]


@dataclass
class Pair:
    """Both sides' programs, what each of them takes, and what each gave.

    A quantity has one name on both sides: a plain one is a gradient (or, of a run, whatever the
    step calls so), an intermediate's value is a `ValueOf`. `given` names, for each input of the
    by-hand program, its floats and the reference's output of the same value, None where it is an
    input of the reference too.
    """

    manual_program: Program | Opaque
    reference: Program | Opaque
    inputs: Mapping[str, Tensor]
    given: Mapping[str, tuple[Tensor, Key | None]]
    manual: Mapping[str, Tensor]
    autograd: Mapping[str, Tensor]
    entries: int | None = None  # how many of a large product to lift, None for all
    # The quantities that autograd went on from by hand, None for all: no gradient of an input is.
    replaced: Collection[str] | None = None
    formula_ulps: float = 0.0  # how far apart its writer accepts two formulas, in ulps
    ways: Ways = field(default_factory=dict)  # of quantities that go on from fewer of those
    networks: bool = False  # whether the first dimension counts networks, of which there is one
    gradients: bool = False  # whether the quantities are the gradients at the inputs they name
    numbers: Mapping[str, float] = field(default_factory=dict)  # of the question, by name: alpha
    maker: Maker | None = None  # makes it again at other inputs
    # The reference lifted from its inputs on, by reading and precision: of many by-hand sides at
    # the same inputs, a pass and its mutants, it is the same one.
    shared: dict[tuple[Reading, int], "Lift"] = field(default_factory=dict, repr=False)

    def at(self, inputs: Mapping[str, Tensor]) -> "Pair":
        """Return the same pass and reference at other inputs of the reference, both run there."""
        assert self.maker is not None, "nobody said how to make it again"
        return self.maker(inputs)

    def injected(self, names: Collection[str]) -> frozenset[str]:
        """Return those of the quantities in whose place autograd had the by-hand values."""
        return frozenset(names if self.replaced is None else {*names} & {*self.replaced})

    @cached_property
    def _read(self) -> Mapping[str, Collection[str]]:
        return self.manual_program.ancestors() if isinstance(self.manual_program, Program) else {}

    def above(self, name: str) -> frozenset[str]:
        """Return the by-hand gradients that a quantity goes on from, on both sides."""
        if name in self.ways:
            return self.ways[name]
        read = self.injected(self._read.get(name, ()))
        return read.union(*(self.ways[one] for one in read if one in self.ways))

    @property
    def floats(self) -> dict[str, Tensor]:
        """What the by-hand program is given, in floats."""
        return {name: value for name, (value, _) in self.given.items()}

    def lifted_inputs(
        self,
        reference: Mapping[Key, Lifted],
        inputs: Mapping[str, Tensor] | None = None,
        reading: Reading = AS_WRITTEN,
    ) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return what the by-hand program is given, in floats and what of it is lifted.

        What comes from the forward pass is the `reference`'s, with `inputs` in floats too: those
        are other ones.
        """
        keys = {name: key for name, (_, key) in self.given.items() if key is not None}
        found = {name: reference[key] for name, key in keys.items() if key in reference}
        # an input that follows the others may have fewer dimensions of 1
        shapes = {name: tuple(self.given[name][0].shape) for name in found}
        lifted = {name: _shaped(one.numbers, shapes[name]) for name, one in found.items()}
        if inputs is None:
            if reading.exactly:
                own = [n for n in self.kinds if n in self.given and n not in keys]
                lifted |= {n: self._exactly(n, reading) for n in own}
            return self.floats, lifted
        floats = {
            n: _shaped(reference[keys[n]].floats, shapes[n]) if n in keys else inputs[n]
            for n in self.given
        }
        return floats, lifted

    @cached_property
    def kinds(self) -> dict[str, Lines | Turned]:
        """What the inputs are but for rounding, those that are something."""
        found = {name: but_for_rounding(value) for name, value in self.inputs.items()}
        return {name: kind for name, kind in found.items() if kind is not None}

    def _exactly(self, name: str, reading: Reading) -> Any:
        """Return one of those inputs lifted, in a reading as what it is without rounding."""
        held = Balls().exact(self.inputs[name])
        found = self.kinds[name].exactly(held)
        return UNION(held, found) if reading.way == ANY else found

    def lifted_reference(
        self, reading: Reading = AS_WRITTEN, precision: int = PRECISION, **how: Any
    ) -> "Lift":
        """Return the reference lifted from its inputs; `how` as `lift` has it is for one pass."""
        key = reading, precision
        if key not in self.shared or how:
            lifted = {n: self._exactly(n, reading) for n in self.kinds} if reading.exactly else {}
            found = Lift.of(self.reference, Balls(self.entries, *key), self.inputs, lifted, **how)
            if how:
                return found
            self.shared[key] = found
        return self.shared[key]


def _shaped(numbers: Any, shape: tuple[int, ...]) -> Any:
    """Return numbers in a shape, an Unsupported as it is."""
    return numbers if isinstance(numbers, Unsupported) else numbers.reshape(shape)


@dataclass(frozen=True)
class Lift:
    """A program lifted: its outputs, nothing where it cannot be read, and the arithmetic."""

    n: Balls
    outputs: Mapping[Key, Lifted]

    @classmethod
    def of(cls, program: Program | Opaque, n: Balls, *given: Any, **how: Any) -> "Lift":
        """Lift a program."""
        return cls(n, {} if isinstance(program, Opaque) else lift(program, n, *given, **how))


def own_ways(
    manual_program: Program | Opaque, reference: Program | Opaque, replaced: Collection[str]
) -> dict[str, frozenset[str]]:
    """Return the quantities that go their own way by hand, and which gradients they do read.

    Autograd goes on from by-hand gradients, the `replaced` ones, so that one bug makes one red
    line. A pass that does not read the gradient it gave for z, though autograd's way leads through
    z, has gone its own way, and is compared with autograd's value along that. Code that cannot be
    read counts as going autograd's way.
    """
    if isinstance(manual_program, Opaque) or isinstance(reference, Opaque):
        return {}
    read = {
        name: frozenset(above & {*replaced}) for name, above in manual_program.ancestors().items()
    }
    return {
        name: read[name]
        for name in reference.outputs
        if name in read and passed(reference, name, read[name], replaced)
    }


def passed(
    reference: Program, name: str, stops: Collection[str], replaced: Collection[str]
) -> frozenset[str]:
    """Return the replaced gradients that autograd's way from a quantity to the `stops` passes."""
    nodes = {label: reference.outputs[label] for label in replaced if label in reference.outputs}
    nodes.pop(name, None)
    end, ends_at = reference.outputs[name], {nodes[stop] for stop in stops if stop in nodes}
    led_through = set() if end in ends_at else above([end], ends_at)
    return frozenset(label for label, node in nodes.items() if node in led_through)
