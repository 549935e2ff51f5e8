"""The tables of a diagnosis: factors, slopes and constants that a wrong formula may lack.

To have another remedy looked for, give it a row.
"""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from compare.diagnosis.expressions import ATOM, PRODUCT, Expr, balls, floats, leaf


class Slope(NamedTuple):
    """What a function's slope is at its value l, or at what goes in, z: a formula of a leaf.

    `note` says what the names in it mean. `forward` turns z into l; None where the formula is in
    l. One that is no activation's is not looked for in the place of another.
    """

    of: str
    formula: Expr
    forward: str | None = None
    activation: bool = True
    note: str = ""

    def at(self, value: Expr) -> Expr:
        """Return the slope at a value."""
        found: Expr = self.formula.run(Expr, lambda _: value)
        return found

    def near(self, value: Tensor) -> Tensor:
        """Return the slope at a value in floats."""
        found: Tensor = self.formula.run(floats, lambda _: value)
        return found

    def told(self, value: Expr) -> str:
        """Return the slope at a value as one writes it in a product."""
        return self.at(value).within(PRODUCT) + self.note.format(l=value.within(ATOM))


_l = _z = leaf("l")
_s = Expr("as", Expr("sigmoid", _z), "s")
_P = Expr("as", (1 + Expr("erf", _z / Expr("sqrt", 2))) / 2, "P")
_p = Expr("as", Expr("exp", -(_z**2) / 2) / Expr("sqrt", 2 * math.pi), "p")

SLOPES = (
    Slope("sigmoid", _l * (1 - _l)),
    Slope("tanh", 1 - _l * _l),
    Slope("relu", _l > 0),
    Slope("leaky_relu", Expr("where", _l > 0, 1, 0.01)),
    Slope("softplus", 1 - Expr("exp", -_l)),
    Slope("sigmoid", Expr("sigmoid", _z) * (1 - Expr("sigmoid", _z)), "sigmoid"),
    Slope("tanh", 1 - Expr("tanh", _z) ** 2, "tanh"),
    Slope("softplus", Expr("sigmoid", _z), "softplus"),
    Slope("silu", _s * (1 + _z * (1 - _s)), "silu", note=", s = sigmoid({l})"),
    Slope("gelu", _P + _z * _p, "gelu",
          note=", P and p the normal distribution and density at {l}"),
    Slope("sin", Expr("cos", _z), "sin"),
    Slope("cos", -Expr("sin", _z), "cos"),
    Slope("exp", Expr("exp", _z), "exp", activation=False),
    Slope("a square", 2 * _z, activation=False),
    Slope("a cube", 3 * _z**2, activation=False),
    Slope("a reciprocal", -_l * _l, activation=False),
    Slope("log", Expr("reciprocal", _z), activation=False),
    Slope("sqrt", Expr("reciprocal", 2 * _l), activation=False),
)  # fmt: skip


class Factor(NamedTuple):
    """A number that a formula is to be multiplied by: as it is written, its ball, a remark."""

    expr: Expr
    ball: Any
    remark: str = ""

    @property
    def told(self) -> str:
        """The number as it is written in a product, and the remark on it."""
        return self.expr.within(PRODUCT) + self.remark


def factor(number: Any, remark: str = "") -> Factor:
    """Return a row of the table of factors."""
    number = number if isinstance(number, Expr) else Expr("as", number, str(number))
    return Factor(number, number.run(balls, float), remark)


def factors(shapes: Sequence[Sequence[int]], known: Mapping[str, float]) -> Iterator[Factor]:
    """Yield numbers that are forgotten, doubled or turned round, simplest first.

    `shapes` are those of the tensors about, whose sizes are n; `known` numbers have names.
    """
    yield factor(-1, ", the other sign")
    named: list[tuple[Any, str]] = []  # a factor, what to say of it
    for name, number in known.items():
        if number and math.isfinite(number) and number != 1:
            one, note = Expr("as", number, name), f" ({name} = {number:g})"
            named += [(one, f" ({number:g})"), (1 / one, note)]
            if 0 < number < 1:
                named += [(1 - one, note), (1 / (1 - one), note)]
    for n in _sizes(shapes):
        named += [
            (n, f" (n = {n})"), (_ratio(1, n), f" (1/n, n = {n})"),
            (_ratio(n, n - 1), f" (n/(n-1), n = {n})"),
            (_ratio(n - 1, n), f" ((n-1)/n, n = {n})"),
            (Expr("sqrt", n), ""), (_ratio(1, Expr("sqrt", n)), ""),
        ]  # fmt: skip
    halves = [2, -2, _ratio(1, 2), _ratio(-1, 2)]
    yield from itertools.starmap(factor, [*((half, "") for half in halves), *named])
    for (number, note), times in itertools.product(named, (-1, 2, -2, _ratio(1, 2))):
        yield factor(_times(times, number), note)
    for top, bottom in itertools.product(range(1, 13), repeat=2):
        if math.gcd(top, bottom) == 1 and top != bottom:
            yield factor(_ratio(top, bottom))
            yield factor(_ratio(-top, bottom))


def _ratio(top: int, bottom: Any) -> Any:
    return top if bottom == 1 else Expr("ratio", top, bottom)


def _times(number: Any, other: Any) -> Expr:
    """Return a product, of a quotient one that is read from left to right."""
    if isinstance(other, Expr) and other.op in ("/", "ratio"):
        return Expr(other.op, _times(number, other.args[0]), other.args[1])
    return Expr("*", number, other)


def _sizes(shapes: Sequence[Sequence[int]]) -> list[int]:
    """Return every size above 2 of the shapes, and their numbers of elements."""
    sizes = itertools.chain(*shapes, map(math.prod, shapes))
    return [n for n in dict.fromkeys(sizes) if n > 2]


#: Numbers that stand in places where another is meant: eps.
USUAL = (1e-3, 1e-5, 1e-6, 1e-7, 1e-8, 1e-10, 1e-12, 0.0)


def other_numbers(number: float, sizes: Sequence[int], there: Sequence[float]) -> Iterator[float]:
    """Yield numbers that may be meant where `number` is written."""
    small = abs(number) <= 1e-2
    others = [*there, *(USUAL if small else ()), -number, 2 * number, number / 2]
    if number and not small:
        others += [1 / number, 0.0, 1.0, 2.0, 3.0, number**0.5 if number > 0 else 1.0]
    if not small:
        others += [float(n + k) for n in sizes for k in (0, -1)]
        others += [1 / (n + k) for n in sizes for k in (0, -1) if n + k > 0]
    for other in dict.fromkeys(others):
        if other != number and math.isfinite(other):
            yield other


#: Elementwise functions of one number that are taken for each other.
FUNCTIONS = ("sigmoid", "tanh", "relu", "exp", "sin", "cos", "log", "sqrt", "rsqrt", "reciprocal")
