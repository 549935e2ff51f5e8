"""Both sides of a pair lifted, in whatever reading of the code's numbers, each only once.

From the inputs on, to ask whether the two are the same formula; and from the by-hand floats, one
named quantity to the next, to ask how far a float run may be off.
"""

from collections.abc import Collection, Mapping
from typing import Any

import flint
import torch
from torch import Tensor, fx

from compare.proof.balls import PRECISION, UNION, Balls
from compare.proof.bounds import Bound, Bounds
from compare.proof.constant_tables import tables
from compare.proof.interpreter import Floats, Lifted, compute, lift
from compare.proof.literals import AS_WRITTEN, IN_ANY_READING, Literal, Reading
from compare.proof.pair import Lift, Pair
from compare.proof.program import Key, Opaque
from compare.proof.rounding import LiftedQuantity, bounds_for, largest_terms
from compare.proof.same_formula import elementwise

_Program = Any  # Program or Opaque


class LiftedPair:
    """A pair's two programs lifted."""

    def __init__(self, pair: Pair) -> None:
        self.pair = pair
        self.lifts: dict[tuple[Any, ...], Lift] = {}
        self.sides: dict[tuple[Any, ...], dict[Key, LiftedQuantity]] = {}
        self.sizes: dict[bool, Mapping[Key, Tensor | None]] = {}

    # -- from the inputs on

    def both_sides(
        self, name: str, reading: Reading, precision: int, wrong: frozenset[str]
    ) -> tuple[Any, Any]:
        """Return a quantity by hand and of the reference, which goes on from what is `wrong`."""
        mine = self.manual_program(reading, precision).outputs[name].numbers
        return mine, self.reference(reading, precision, wrong).outputs[name].numbers

    def manual_program(self, reading: Reading = AS_WRITTEN, precision: int = PRECISION) -> Lift:
        """Return the by-hand side; what it is given of the forward pass is lifted too."""
        key = "by hand", reading, precision
        if key not in self.lifts:
            given = self.reference(reading, precision).outputs
            n = Balls(self.pair.entries, reading, precision)
            replacements = self.tables(self.pair.manual_program, reading, precision)
            manual_inputs = self.pair.lifted_manual_inputs(given, reading=reading)
            self.lifts[key] = Lift.of(
                self.pair.manual_program, n, *manual_inputs, replacements=replacements
            )
        return self.lifts[key]

    def reference(
        self,
        reading: Reading = AS_WRITTEN,
        precision: int = PRECISION,
        wrong: frozenset[str] = frozenset(),
    ) -> Lift:
        """Return the reference, going on from the by-hand values of what is `wrong`."""
        key = "reference", reading, precision, wrong
        if key not in self.lifts:
            how: dict[str, Any] = {}
            if wrong:
                own = self.manual_program(reading, precision).outputs
                how["overrides"] = {n: Lifted(self.pair.manual[n], own[n].numbers) for n in wrong}
            if reading.tables:
                how["replacements"] = self.tables(self.pair.reference, reading, precision)
            self.lifts[key] = self.pair.lifted_reference(reading, precision, **how)
        return self.lifts[key]

    @property
    def literals(self) -> set[Literal]:
        """The numbers in the code of both sides."""
        return self.manual_program().n.literals | self.reference().n.literals

    @property
    def has_tables(self) -> bool:
        """Whether a side holds a tensor that the other works out."""
        way = Reading(tables=True)
        return any(
            self.tables(s, way, PRECISION) for s in (self.pair.manual_program, self.pair.reference)
        )

    def tables(
        self, side: _Program, reading: Reading, precision: int = PRECISION
    ) -> dict[fx.Node, Any]:
        """Return what a side's tables stand for; in ANY reading also what they hold."""
        if not reading.tables:
            return {}
        other = (
            self.pair.reference if side is self.pair.manual_program else self.pair.manual_program
        )
        with flint.ctx.workprec(precision):
            leads = side is not self.pair.manual_program
            found = tables(side, other, Balls(None, reading, precision), leads=leads)
            if reading != IN_ANY_READING:
                return found
            return {
                node: UNION(numbers, Balls().exact(_floats(node)).reshape(numbers.shape))
                for node, numbers in found.items()
            }

    # -- from the by-hand floats on

    def quantity(self, side: _Program, reading: Reading, name: str) -> LiftedQuantity | None:
        """Return a quantity of a side, exact and with its bound; None where it has none."""
        way = None if side is self.pair.manual_program else self.pair.bypasses.get(name)
        key = side is self.pair.manual_program, reading, way
        if key not in self.sides:
            exact = self.lift_locally(side, Balls(self.pair.entries, reading), reading, way)
            bounds = bounds_for(side, self._takes(side).values(), terms=True)
            bound = self.lift_locally(side, bounds, reading, way)
            self.sides[key] = {n: LiftedQuantity(exact[n].numbers, bound[n].numbers) for n in exact}
        return self.sides[key].get(name)

    def terms(self, name: str) -> Tensor | None:
        """Return the largest terms that either side adds up to a quantity, None where unknown.

        From the inputs on, as the balls are lifted: what was lost above a named value counts too.
        """
        both = self.pair.manual_program, self.pair.reference
        mine, theirs = (self._terms(side).get(name) for side in both)
        return None if mine is None or theirs is None else torch.maximum(mine, theirs)

    def _terms(self, side: _Program) -> Mapping[Key, Tensor | None]:
        key = side is self.pair.manual_program
        if key not in self.sizes:
            self.sizes[key] = largest_terms(side, self._takes(side))
        return self.sizes[key]

    def lift_locally(
        self,
        side: _Program,
        n: Balls | Bounds,
        reading: Reading = AS_WRITTEN,
        way: Collection[str] | None = None,
    ) -> Mapping[Key, Lifted]:
        """Lift a side, each quantity going on from the by-hand floats of those above it.

        Of a quantity that goes its own `way` these are fewer.
        """
        if isinstance(side, Opaque):
            return {}
        forward: dict[Key, Tensor] = {}
        if side is not self.pair.manual_program:
            forward = {  # an input that follows the others is no value that the reference had
                key: value
                for name, (value, key) in self.pair.manual_inputs.items()
                if key is not None and name not in self.pair.inputs
            }
        went_on = self.pair.injected_among(self.pair.manual if way is None else way)
        replaced = {k: self.pair.manual[k] for k in went_on}
        overrides = {k: Lifted(v, n.exact(v)) for k, v in (forward | replaced).items()}
        replacements = self.tables(side, reading)
        if isinstance(n, Bounds):  # a table is as far off as it was rounded
            replacements = {node: _off(n, node, numbers) for node, numbers in replacements.items()}
        return lift(side, n, self._takes(side), overrides=overrides, replacements=replacements)

    def _takes(self, side: _Program) -> Mapping[str, Tensor]:
        return self.pair.manual_floats if side is self.pair.manual_program else self.pair.inputs


def _off(n: Bounds, node: fx.Node, numbers: Any) -> Bound:
    """Return the floats of a table, with their distance from the numbers they stand for."""
    held = _floats(node).double().cpu()
    off = elementwise(lambda ball, x: abs(ball - x).upper(), numbers, held.numpy())
    return Bound(n, held, torch.from_numpy(off))


def _floats(node: fx.Node) -> Tensor:
    """Return the floats of a tensor that depends on no input."""
    sources = {one: Lifted(_floats(one), None) for one in node.all_input_nodes}
    return compute(Floats(), node, sources).floats
