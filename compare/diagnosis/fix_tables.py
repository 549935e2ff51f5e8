"""The tables of candidate fixes: factors, derivatives and constants that a formula may lack.

A new row in a table adds a candidate to every search.
"""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from compare.diagnosis.expressions import ATOM, PRODUCT, Expr, ball_op, float_op, leaf


class Derivative(NamedTuple):
    """The derivative of a function, as a formula of its output l or of its argument z.

    `forward` computes l from z where the formula is of z; it is None where the formula is of l.
    `note` explains the abbreviations in the formula. Only the derivatives of activations are
    candidates in place of one another.
    """

    function: str
    formula: Expr  # of one leaf
    forward: str | None = None
    of_activation: bool = True
    note: str = ""

    def at(self, value: Expr) -> Expr:
        """Return the derivative at a value."""
        derivative: Expr = self.formula.run(Expr, lambda _: value)
        return derivative

    def in_floats(self, value: Tensor) -> Tensor:
        """Return the derivative at a value in floats."""
        derivative: Tensor = self.formula.run(float_op, lambda _: value)
        return derivative

    def text(self, value: Expr) -> str:
        """Return the derivative at a value as it is written in a product, and its note."""
        return self.at(value).within(PRODUCT) + self.note.format(l=value.within(ATOM))


_l = _z = leaf("l")
_s = Expr("printed as", Expr("sigmoid", _z), "s")
_P = Expr("printed as", (1 + Expr("erf", _z / Expr("sqrt", 2))) / 2, "P")
_p = Expr("printed as", Expr("exp", -(_z**2) / 2) / Expr("sqrt", 2 * math.pi), "p")

DERIVATIVES = (
    Derivative("sigmoid", _l * (1 - _l)),
    Derivative("tanh", 1 - _l * _l),
    Derivative("relu", _l > 0),
    Derivative("leaky_relu", Expr("where", _l > 0, 1, 0.01)),
    Derivative("softplus", 1 - Expr("exp", -_l)),
    Derivative("sigmoid", Expr("sigmoid", _z) * (1 - Expr("sigmoid", _z)), "sigmoid"),
    Derivative("tanh", 1 - Expr("tanh", _z) ** 2, "tanh"),
    Derivative("softplus", Expr("sigmoid", _z), "softplus"),
    Derivative("silu", _s * (1 + _z * (1 - _s)), "silu", note=" with s = sigmoid({l})"),
    Derivative("gelu", _P + _z * _p, "gelu",
          note=" with P and p the normal distribution function and density at {l}"),
    Derivative("sin", Expr("cos", _z), "sin"),
    Derivative("cos", -Expr("sin", _z), "cos"),
    Derivative("exp", Expr("exp", _z), "exp", of_activation=False),
    Derivative("a square", 2 * _z, of_activation=False),
    Derivative("a cube", 3 * _z**2, of_activation=False),
    Derivative("a reciprocal", -_l * _l, of_activation=False),
    Derivative("log", Expr("reciprocal", _z), of_activation=False),
    Derivative("sqrt", Expr("reciprocal", 2 * _l), of_activation=False),
)  # fmt: skip


class Factor(NamedTuple):
    """A number that a formula may have to be multiplied by, in three forms."""

    expr: Expr  # how it is written
    ball: Any
    remark: str = ""  # what it is, as in " (n = 6)"

    @property
    def text(self) -> str:
        """The number as it is written in a product, and the remark on it."""
        return self.expr.within(PRODUCT) + self.remark


def factor(number: Any, remark: str = "") -> Factor:
    """Return a row of the table of factors."""
    number = number if isinstance(number, Expr) else Expr("printed as", number, str(number))
    return Factor(number, number.run(ball_op, float), remark)


def factors(shapes: Sequence[Sequence[int]], known: Mapping[str, float]) -> Iterator[Factor]:
    """Yield the numbers that are often left out, doubled or inverted, simplest first.

    Args:
        shapes: of the tensors in the computation; their sizes and element counts serve as n.
        known: numbers among the inputs, by name.
    """
    yield factor(-1, " (sign error)")
    named: list[tuple[Any, str]] = []  # a factor and its remark
    for name, number in known.items():
        if number and math.isfinite(number) and number != 1:
            one, note = Expr("printed as", number, name), f" ({name} = {number:g})"
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
    """Return a product; of a quotient, one that needs no brackets: 2 * 1/n as (2 * 1)/n."""
    if isinstance(other, Expr) and other.op in ("/", "ratio"):
        return Expr(other.op, _times(number, other.args[0]), other.args[1])
    return Expr("*", number, other)


def _sizes(shapes: Sequence[Sequence[int]]) -> list[int]:
    """Return the sizes and the numbers of elements of the shapes, those above 2."""
    sizes = itertools.chain(*shapes, map(math.prod, shapes))
    return [n for n in dict.fromkeys(sizes) if n > 2]


#: The values that an eps usually has; 0 is one that was left out.
USUAL_EPS = (1e-3, 1e-5, 1e-6, 1e-7, 1e-8, 1e-10, 1e-12, 0.0)


def other_numbers(
    number: float, sizes: Sequence[int], reference_numbers: Sequence[float]
) -> Iterator[float]:
    """Yield numbers that may be intended where `number` is written."""
    small = abs(number) <= 1e-2
    others = [*reference_numbers, *(USUAL_EPS if small else ()), -number, 2 * number, number / 2]
    if number and not small:
        others += [1 / number, 0.0, 1.0, 2.0, 3.0, number**0.5 if number > 0 else 1.0]
    if not small:
        others += [float(n + k) for n in sizes for k in (0, -1)]
        others += [1 / (n + k) for n in sizes for k in (0, -1) if n + k > 0]
    for other in dict.fromkeys(others):
        if other != number and math.isfinite(other):
            yield other


#: Elementwise functions of one argument that are easily confused.
FUNCTIONS = ("sigmoid", "tanh", "relu", "exp", "sin", "cos", "log", "sqrt", "rsqrt", "reciprocal")
