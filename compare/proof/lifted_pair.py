"""Both programs of a pair in exact arithmetic, cached for each reading of the code's literals.

They are lifted in two ways. From the inputs on: is it the same formula? From the by-hand floats,
one named quantity to the next: how far from the exact value may a float run lie?
"""

from collections.abc import Collection, Mapping
from typing import Any

import flint
import torch
from torch import Tensor, fx

from compare.proof.balls import PRECISION, UNION, Balls
from compare.proof.bounds import Bound, Bounds
from compare.proof.constant_tables import exact_table_values
from compare.proof.exact_arithmetic import ExactArithmetic
from compare.proof.exact_values import elementwise
from compare.proof.interpreter import Floats, Lifted, Unsupported, compute, lift
from compare.proof.literals import AS_WRITTEN, IN_ANY_READING, Literal, Reading
from compare.proof.pair import Lift, Pair
from compare.proof.program import Key, Opaque, Program
from compare.proof.rounding import LiftedQuantity, bounds_for, largest_terms
from compare.proof.wide import RESTARTED, WIDE_PRECISION, of_float64


class LiftedPair:
    """The two programs of a pair, lifted on demand and cached.

    Args:
        pair: Both sides.
        in_float64: Whether the exact values of float32 and narrower quantities are only needed to
            measure the errors of floats, so that those of the bounds will do.
    """

    def __init__(self, pair: Pair, *, in_float64: bool = False) -> None:
        self.pair = pair
        self._in_float64 = in_float64 or isinstance(pair.manual_program, Opaque)
        self._only_float64 = in_float64
        self._lifts: dict[tuple[Any, ...], Lift] = {}
        self._quantities: dict[tuple[Any, ...], dict[Key, LiftedQuantity]] = {}
        self._local_bounds: dict[tuple[Any, ...], Mapping[Key, Lifted]] = {}
        self._largest_terms: dict[bool, Mapping[Key, Tensor | None]] = {}

    # -- lifted from the inputs on

    def both_sides(
        self, name: str, reading: Reading, precision: int, divergent: frozenset[str]
    ) -> tuple[Any, Any]:
        """Return the exact values of a quantity by hand and of the reference.

        Args:
            name: The quantity.
            reading: How the numbers in the code are read.
            precision: The working precision in bits.
            divergent: The quantities whose by-hand values the reference continues from.
        """
        by_hand = self.manual_program(reading, precision).outputs[name].numbers
        return by_hand, self.reference(reading, precision, divergent).outputs[name].numbers

    def skipped(self, reading: Reading, precision: int, divergent: frozenset[str]) -> bool:
        """Whether some entries of a product were not computed, on either side."""
        manual = self.manual_program(reading, precision)
        return manual.n.skipped or self.reference(reading, precision, divergent).n.skipped

    def manual_program(self, reading: Reading = AS_WRITTEN, precision: int | None = None) -> Lift:
        """Return the lifted by-hand program; values of the forward pass come from the reference."""
        n = self.pair.exact_arithmetic(reading, precision)
        if isinstance(self.pair.manual_program, Opaque):
            return Lift(n, {})
        key = "by hand", reading, n.precision
        if key not in self._lifts:
            forward = self.reference(reading, n.precision).outputs
            replacements = self._replacements(self.pair.manual_program, n)
            inputs = self.pair.lifted_manual_inputs(forward, n=n)
            self._lifts[key] = Lift.of(
                self.pair.manual_program, n, *inputs, replacements=replacements
            )
        return self._lifts[key]

    def reference(
        self,
        reading: Reading = AS_WRITTEN,
        precision: int | None = None,
        divergent: frozenset[str] = frozenset(),
    ) -> Lift:
        """Return the lifted reference, continued from the by-hand values of `divergent`."""
        n = self.pair.exact_arithmetic(reading, precision)
        precision = n.precision
        key = "reference", reading, precision, divergent
        if key not in self._lifts:
            options: dict[str, Any] = {}
            if divergent:
                manual = self.manual_program(reading, precision).outputs
                options["overrides"] = {
                    n: Lifted(self.pair.manual[n], manual[n].numbers) for n in divergent
                }
            if reading.tables:
                options["replacements"] = self._replacements(self.pair.reference, n)
            self._lifts[key] = self.pair.lifted_reference(reading, precision, **options)
        return self._lifts[key]

    @property
    def literals(self) -> set[Literal]:
        """The numbers in the code of both sides."""
        return self.manual_program().n.literals | self.reference().n.literals

    @property
    def has_tables(self) -> bool:
        """Whether one side stores a tensor that the other side computes."""
        reading = Reading(tables=True)
        return any(self.tables(p, reading) for p in (self.pair.manual_program, self.pair.reference))

    def _replacements(self, program: Program | Opaque, n: ExactArithmetic) -> dict[fx.Node, Any]:
        """Return the numbers of `tables` in an arithmetic of exact values."""
        precision = max(n.precision, PRECISION)
        tables = self.tables(program, n.reading, precision)
        return {node: n.known(balls) for node, balls in tables.items()}

    def tables(
        self, program: Program | Opaque, reading: Reading, precision: int = PRECISION
    ) -> dict[fx.Node, Any]:
        """Return the exact values of the tensors that one side stores and the other computes.

        In the ANY reading the values that the tensors store are included.
        """
        if not reading.tables:
            return {}
        by_hand = program is self.pair.manual_program
        other = self.pair.reference if by_hand else self.pair.manual_program
        with flint.ctx.workprec(precision):
            n = Balls(None, reading, precision)
            exact = exact_table_values(program, other, n, leads=not by_hand)
            if reading != IN_ANY_READING:
                return exact
            return {
                node: UNION(numbers, Balls().exact(_floats(node)).reshape(numbers.shape))
                for node, numbers in exact.items()
            }

    # -- lifted from the by-hand floats on

    def quantity(
        self, program: Program | Opaque, reading: Reading, name: str, precision: int | None = None
    ) -> LiftedQuantity | None:
        """Return the exact value and the bound of a quantity of one side, None if it has none.

        Args:
            program: One of the pair's two programs.
            reading: How the numbers in the code are read.
            name: The quantity.
            precision: Of the exact values, bits; None for the first to try.
        """
        by_hand = program is self.pair.manual_program
        used = None if by_hand else self.pair.bypasses.get(name)
        if precision == RESTARTED:  # its values are exact only beside one another
            precision = WIDE_PRECISION
        n = self.pair.exact_arithmetic(reading, precision and min(precision, PRECISION))
        key = by_hand, reading, used, n.precision
        if key not in self._quantities:
            bound = self._bounds(program, reading, used)
            exact = self._float64_values(bound)
            if exact is None:
                exact = {k: v.numbers for k, v in self._local_values(program, n, used).items()}
            self._quantities[key] = {n: LiftedQuantity(exact[n], bound[n].numbers) for n in exact}
        return self._quantities[key].get(name)

    def _bounds(
        self, program: Program | Opaque, reading: Reading, used: Collection[str] | None
    ) -> Mapping[Key, Lifted]:
        """Return the rounding bounds of one side, each from the by-hand floats before it."""
        key = program is self.pair.manual_program, reading, used
        if key not in self._local_bounds:
            n = bounds_for(program, self._inputs(program).values(), terms=True)
            self._local_bounds[key] = self.lift_locally(program, n, reading, used)
        return self._local_bounds[key]

    def _starts_at_the_inputs(
        self, program: Program | Opaque, used: Collection[str] | None = None
    ) -> bool:
        """Whether no by-hand float lies between the inputs of one side and its quantities."""
        return isinstance(program, Program) and not self.local_floats(program, used)

    def _local_values(
        self, program: Program | Opaque, n: ExactArithmetic, used: Collection[str] | None
    ) -> Mapping[Key, Lifted]:
        """Return the exact values of one side, each from the by-hand floats before it."""
        keys = (key for _, key in self.pair.manual_inputs.values())
        from_floats = program is not self.pair.manual_program or not any(keys)
        if (
            from_floats
            and self._starts_at_the_inputs(program, used)
            and not n.reading.exact_structure
        ):
            # nothing is replaced, so these are the values from the inputs on
            sides = self.manual_program, self.reference
            return sides[program is self.pair.reference](n.reading, n.precision).outputs
        return self.lift_locally(program, n, n.reading, used)

    def _float64_values(self, bounds: Mapping[Key, Lifted]) -> dict[Key, Any] | None:
        """Return values computed in float64 as exact, if they are exact enough for all quantities.

        They are if no formula is compared and the quantities have a narrower dtype: then the
        distance of floats from them is all that is needed. None: they are not.
        """
        narrow = all(value.dtype.itemsize < 8 for value in self.pair.manual.values())
        if not self._in_float64 or not (narrow or self._only_float64):
            return None
        if not narrow:
            why = Unsupported("float64", "its exact values were not computed")
            return dict.fromkeys(bounds, why)
        return {
            key: of_float64(value.numbers.value)
            if isinstance(value.numbers, Bound)
            else value.numbers
            for key, value in bounds.items()
        }

    def terms(self, name: str) -> Tensor | None:
        """Return the largest term that either side adds up to each element, None if unknown.

        It is computed from the inputs on, as the balls are: digits lost in an earlier named value
        count too.
        """
        programs = self.pair.manual_program, self.pair.reference
        by_hand, reference = (self._terms(program).get(name) for program in programs)
        return None if by_hand is None or reference is None else torch.maximum(by_hand, reference)

    def _terms(self, program: Program | Opaque) -> Mapping[Key, Tensor | None]:
        key = program is self.pair.manual_program
        if key not in self._largest_terms:
            bounds = None
            if self._starts_at_the_inputs(program):
                bounds = self._bounds(program, AS_WRITTEN, None)
            self._largest_terms[key] = largest_terms(program, self._inputs(program), bounds)
        return self._largest_terms[key]

    def lift_locally(
        self,
        program: Program | Opaque,
        n: ExactArithmetic | Bounds,
        reading: Reading = AS_WRITTEN,
        used: Collection[str] | None = None,
    ) -> Mapping[Key, Lifted]:
        """Lift a program, each quantity from the by-hand floats of the quantities before it.

        Args:
            program: One of the pair's two programs.
            n: The arithmetic.
            reading: How the numbers in the code are read.
            used: The quantities to continue from; None for all.
        """
        if isinstance(program, Opaque):
            return {}
        floats = self.local_floats(program, used)
        overrides = {key: Lifted(value, n.exact(value)) for key, value in floats.items()}
        if isinstance(n, Bounds):  # the error of a table is that of its stored floats
            tables = self.tables(program, reading)
            replacements = {node: _table_bound(n, node, balls) for node, balls in tables.items()}
        else:
            replacements = self._replacements(program, n)
        inputs = self._inputs(program)
        return lift(program, n, inputs, overrides=overrides, replacements=replacements)

    def local_floats(
        self, program: Program, used: Collection[str] | None = None
    ) -> dict[Key, Tensor]:
        """Return the floats from which each quantity of one side is computed locally.

        Args:
            program: One of the pair's two programs.
            used: The quantities to continue from; None for all.
        """
        forward: dict[Key, Tensor] = {}
        if program is not self.pair.manual_program:
            # an input that is derived from the others is no value that the reference computed
            forward = {
                key: value
                for name, (value, key) in self.pair.manual_inputs.items()
                if key is not None and name not in self.pair.inputs
            }
        injected = self.pair.injected_among(self.pair.manual if used is None else used)
        return forward | {name: self.pair.manual[name] for name in injected}

    def _inputs(self, program: Program | Opaque) -> Mapping[str, Tensor]:
        by_hand = program is self.pair.manual_program
        return self.pair.manual_floats if by_hand else self.pair.inputs


def _table_bound(n: Bounds, node: fx.Node, numbers: Any) -> Bound:
    """Return the floats of a table, with their distances from the exact values."""
    stored = _floats(node).double().cpu()
    error = elementwise(lambda ball, x: abs(ball - x).upper(), numbers, stored.numpy())
    return Bound(n, stored, torch.from_numpy(error))


def _floats(node: fx.Node) -> Tensor:
    """Return the floats of a tensor that depends on no input."""
    sources = {source: Lifted(_floats(source), None) for source in node.all_input_nodes}
    return compute(Floats(), node, sources).floats
