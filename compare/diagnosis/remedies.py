"""The tables of a diagnosis: factors, slopes and constants that a wrong formula may lack.

To have another remedy looked for, give it a row.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import flint
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from compare.proof.balls import Balls
from compare.proof.constants import written

Numbers = Any  # a float64 tensor, or an array of balls
Function = Callable[[str, Numbers], Numbers]


class Slope(NamedTuple):
    """What a function's slope is at its value l, or at what goes in, z: words and formula.

    The formula is given a function by name, and the numbers. `forward` turns z into l; None where
    the formula is in l. One that is no activation's is not looked for in the place of another.
    """

    of: str
    text: str
    formula: Callable[[Function, Numbers], Numbers]
    forward: str | None = None
    activation: bool = True


#: `step` is 1 above 0 and 0 elsewhere.
SLOPES = (
    Slope("sigmoid", "{l} * (1 - {l})", lambda f, l: l * (1 - l)),
    Slope("tanh", "(1 - {l} * {l})", lambda f, l: 1 - l * l),
    Slope("relu", "({l} > 0)", lambda f, l: f("step", l)),
    Slope("leaky_relu", "where({l} > 0, 1, 0.01)", lambda f, l: f("leaky", l)),
    Slope("softplus", "(1 - exp(-{l}))", lambda f, l: 1 - f("exp", -l)),
    Slope("sigmoid", "sigmoid({l}) * (1 - sigmoid({l}))",
          lambda f, z: _sigmoid(f("sigmoid", z)), "sigmoid"),
    Slope("tanh", "(1 - tanh({l})**2)", lambda f, z: 1 - f("tanh", z) * f("tanh", z), "tanh"),
    Slope("softplus", "sigmoid({l})", lambda f, z: f("sigmoid", z), "softplus"),
    Slope("silu", "s * (1 + {l} * (1 - s)), s = sigmoid({l})", lambda f, z: _silu(f, z), "silu"),
    Slope("gelu", "(P + {l} * p), P and p the normal distribution and density at {l}",
          lambda f, z: _gelu(f, z), "gelu"),
    Slope("sin", "cos({l})", lambda f, z: f("cos", z), "sin"),
    Slope("cos", "-sin({l})", lambda f, z: -f("sin", z), "cos"),
    Slope("exp", "exp({l})", lambda f, z: f("exp", z), "exp", activation=False),
    Slope("a square", "2 * {l}", lambda f, z: 2 * z, activation=False),
    Slope("a cube", "3 * {l}**2", lambda f, z: 3 * z * z, activation=False),
    Slope("a reciprocal", "-{l} * {l}", lambda f, l: -l * l, activation=False),
    Slope("log", "1 / {l}", lambda f, z: f("reciprocal", z), activation=False),
    Slope("sqrt", "1 / (2 * {l})", lambda f, l: f("reciprocal", 2 * l), activation=False),
)  # fmt: skip


def _sigmoid(l: Numbers) -> Numbers:
    return l * (1 - l)


def _silu(f: Function, z: Numbers) -> Numbers:
    s = f("sigmoid", z)
    return s + z * s * (1 - s)


def _gelu(f: Function, z: Numbers) -> Numbers:
    density = f("exp", -z * z / 2) * f("rsqrt", 2 * f("pi", z))
    return (1 + f("erf", z * f("rsqrt", 2 + 0 * z))) / 2 + z * density


def in_floats(name: str, x: Tensor) -> Tensor:
    """Return an elementary function in float64."""
    special: dict[str, Callable[[Tensor], Tensor]] = {
        "step": lambda x: (x > 0).double(),
        "leaky": lambda x: torch.where(x > 0, 1.0, 0.01).double(),
        "pi": lambda x: torch.full_like(x, math.pi),
        "softplus": F.softplus, "silu": F.silu, "gelu": F.gelu,
    }  # fmt: skip
    found: Tensor = special.get(name, getattr(torch, name, None))(x)  # type: ignore[misc]
    return found


def in_balls(name: str, x: Any) -> Any:
    """Return an elementary function in balls."""
    special: dict[str, Callable[[Any], Any]] = {
        "step": lambda b: flint.arb(1 if b > 0 else 0),
        "leaky": lambda b: flint.arb(1) if b > 0 else written(0.01),
        "pi": lambda _b: flint.arb.pi(),
    }
    if name in special:
        return np.asarray(np.frompyfunc(special[name], 1, 1)(x), dtype=object)
    return Balls().function(name, x)


def factors(shapes: Sequence[Sequence[int]], known: Mapping[str, float]) -> Iterator[tuple[str, Any]]:  # fmt: skip  # noqa: E501
    """Yield numbers that are forgotten, doubled or turned round, simplest first: words and ball.

    `shapes` are those of the tensors about, whose sizes are n; `known` numbers have names.
    """
    yield "-1, the other sign", flint.arb(-1)
    for top, bottom in ((2, 1), (1, 2)):
        for sign in ("", "-"):
            value = flint.arb(top) / bottom
            yield f"{sign}{_ratio(top, bottom)}", -value if sign else value
    named: list[tuple[str, str, Any]] = []  # the factor, what to say of it, its ball
    for name, number in known.items():
        if number and math.isfinite(number) and number != 1:
            ball, note = written(number), f" ({name} = {number:g})"
            named += [(name, f" ({number:g})", ball), (f"1 / {name}", note, 1 / ball)]
            if 0 < number < 1:
                rest = 1 - ball
                named += [(f"(1 - {name})", note, rest), (f"1 / (1 - {name})", note, 1 / rest)]
    for n in _sizes(shapes):
        ball = flint.arb(n)
        named += [
            (f"{n}", f" (n = {n})", ball),
            (f"1/{n}", f" (1/n, n = {n})", 1 / ball),
            (f"{n}/{n - 1}", f" (n/(n-1), n = {n})", ball / (n - 1)),
            (f"{n - 1}/{n}", f" ((n-1)/n, n = {n})", (ball - 1) / n),
            (f"sqrt({n})", "", ball.sqrt()),
            (f"1/sqrt({n})", "", 1 / ball.sqrt()),
        ]
    yield from ((text + note, ball) for text, note, ball in named)
    for text, note, ball in named:
        for twice in (-1, 2, -2):
            yield f"{twice} * {text}{note}", ball * twice
        yield f"1/2 * {text}{note}", ball / 2
    for top in range(1, 13):
        for bottom in range(1, 13):
            if math.gcd(top, bottom) == 1 and top != bottom:
                yield _ratio(top, bottom), flint.arb(top) / bottom
                yield f"-{_ratio(top, bottom)}", -flint.arb(top) / bottom


def _ratio(top: int, bottom: int) -> str:
    return str(top) if bottom == 1 else f"{top}/{bottom}"


def _sizes(shapes: Sequence[Sequence[int]]) -> list[int]:
    """Return every size above 2 of the shapes, and their numbers of elements."""
    found: dict[int, None] = {}
    for shape in shapes:
        found |= dict.fromkeys(shape)
    for shape in shapes:
        found[math.prod(shape)] = None
    return [n for n in found if n > 2]


#: Numbers that stand in places where another is meant: eps.
USUAL = (1e-3, 1e-5, 1e-6, 1e-7, 1e-8, 1e-10, 1e-12, 0.0)


def constants(number: float, sizes: Sequence[int], elsewhere: Sequence[float]) -> Iterator[float]:
    """Yield numbers that may be meant where `number` is written."""
    seen = {number}
    small = abs(number) <= 1e-2
    others = [*elsewhere, *(USUAL if small else ()), -number, 2 * number, number / 2]
    if number and not small:
        others += [1 / number, 0.0, 1.0, 2.0, 3.0, number**0.5 if number > 0 else 1.0]
    if not small:
        others += [float(n + k) for n in sizes for k in (0, -1)]
        others += [1 / (n + k) for n in sizes for k in (0, -1) if n + k > 0]
    for other in others:
        if other not in seen and math.isfinite(other):
            seen.add(other)
            yield other


#: Elementwise functions of one number that are taken for each other.
FUNCTIONS = ("sigmoid", "tanh", "relu", "exp", "sin", "cos", "log", "sqrt", "rsqrt", "reciprocal")
