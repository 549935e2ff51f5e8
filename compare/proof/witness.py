"""The derivative of forward by no rule of differentiation: a difference quotient of 150 digits.

The reference records forward and autograd's backward pass in one program. Its forward part alone
is lifted at x + h v and at x - h v: what autograd is told about it (detach, no_grad, the backward
pass of a Function) leaves no trace there. The quotient is compared with <gradient, v> of both
sides. Branches and choices follow the float run, which h does not move; so before the two sides
are told apart, the float run is moved too, and where that gives another slope nothing is said.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import flint
import numpy as np
import torch
from torch import Tensor

from compare.proof.balls import Array, Balls
from compare.proof.interpreter import Floats, Lifted, Unsupported, lift
from compare.proof.lifted_pair import LiftedPair
from compare.proof.pair import Pair
from compare.proof.program import Key, Program, ValueOf, base_name, elements, operation
from compare.proof.verdict import AUTOGRAD, BOTH, BY_HAND, NEITHER

# Operations whose gradient in torch is that of a matrix which stays symmetric or triangular, or of
# a result of log_softmax, while the operation takes any numbers.
_WITHIN_A_SET = {
    "_linalg_eigh", "cholesky", "cholesky_inverse", "cholesky_solve", "linalg_cholesky_ex",
    "linalg_ldl_factor_ex", "linalg_ldl_solve", "linalg_pinv", "_ctc_loss",
}  # fmt: skip
BITS, STEP_BITS = 1_000, 250  # of the numbers, and h = 2**-STEP_BITS
#: Numbers of forward, times quantities, above which no quotient is computed: FLINT takes seconds.
MOST_NUMBERS = 20_000
# Relative to the terms of <gradient, v>: nearer than the first is equal, further than the second
# is different. Between them lie constants of float64 that the two sides write differently.
_EQUAL, _DIFFERENT = flint.arb(2) ** -80, flint.arb(2) ** -40
_FLOAT_STEP, _FLOAT_TOLERANCE = 2.0**-20, 1e-3  # of the moved float runs


@dataclass(frozen=True)
class Witness:
    """What the derivative of forward says of one gradient.

    Attributes:
        derivative: Which side is the derivative: "both", "by hand", "autograd", "neither"; None if
            that is not known.
        why: The reason if it is not known.
        digits: The correct digits of the quotient, None without one.
        movable: Whether the tensor can be moved in forward.
    """

    derivative: str | None
    why: str = ""
    digits: int | None = None
    movable: bool = True


class _OnePointEach(Balls):
    """Balls in which a constant is one point: a width of its own would be divided by h."""

    def __init__(self) -> None:
        super().__init__(precision=BITS)

    def known(self, balls: Array) -> Array:
        """Return the midpoints of known constants."""
        return np.asarray(np.frompyfunc(lambda ball: ball.mid(), 1, 1)(balls), dtype=object)


def witnesses(pair: Pair) -> dict[str, Witness]:
    """Return what the derivative of forward says of each gradient of a pair."""
    names = [name for name in pair.manual if base_name(name) != "output"]
    program = pair.reference
    if not isinstance(program, Program):
        return dict.fromkeys(names, Witness(None, f"forward {program}", movable=False))
    forward = _Forward(pair, program)
    if pair.is_large or len(names) * forward.size > MOST_NUMBERS:
        why = "forward is too large for a quotient"
        return dict.fromkeys(names, Witness(None, why, movable=False))
    lifted = LiftedPair(pair)
    by_hand, autograd = lifted.manual_program().outputs, lifted.reference().outputs
    found = {}
    for name in names:
        try:
            found[name] = forward.witness(name, by_hand.get(name), autograd.get(name))
        except Exception as error:  # a check must not fail for want of a witness
            why = f"no quotient: {type(error).__name__}: {error}"
            found[name] = Witness(None, why, movable=False)
    return found


class _Forward:
    """The forward part of the reference, moved along a direction."""

    def __init__(self, pair: Pair, program: Program) -> None:
        self.pair, self.program = pair, program
        self.outputs = [k for k in program.outputs if isinstance(k, str) and _is_output(k)]
        self.nodes = program.nodes_leading_to(self.outputs, ())
        self.size = elements(self.nodes)

    def witness(self, name: str, by_hand: Lifted | None, autograd: Lifted | None) -> Witness:
        """Return what the derivative says of one gradient."""
        if why := self._obstacle(name):
            return Witness(None, why, movable=False)
        v = _direction(name, self.pair.manual[name])
        with flint.ctx.workprec(BITS):
            quotient = self._quotient(name, v, STEP_BITS)
            if not quotient.is_finite():
                return Witness(None, "the quotient of forward is not finite or not known")
            wider = self._quotient(name, v, STEP_BITS - 1)
            # the error of the quotient goes with h**2, so that of the wider one is four times it
            error = abs(wider - quotient).upper() + quotient.rad()
            digits = _digits(quotient, error)
            right = {
                BY_HAND: _agrees(by_hand, self.pair.manual[name], v, quotient, error),
                AUTOGRAD: _agrees(autograd, self.pair.autograd[name], v, quotient, error),
            }
        if None in right.values():
            side = next(side for side, agrees in right.items() if agrees is None)
            return Witness(None, f"the exact gradient {side} is not known well enough", digits)
        if all(right.values()):
            return Witness(BOTH, digits=digits)
        if not self._is_smooth(name, v, float(quotient.mid())):
            return Witness(None, "forward is not smooth here, or not in floats", digits)
        side = next((side for side, agrees in right.items() if agrees), NEITHER)
        return Witness(side, digits=digits)

    def _obstacle(self, name: str) -> str:
        """Return why a gradient's tensor cannot be moved in forward, "" if it can."""
        within = sorted(_WITHIN_A_SET.intersection(map(operation, self.nodes)))
        if within:
            return f"torch's gradient of {within[0]} is meant for some of its arguments alone"
        if name in self.pair.inputs:
            return ""
        node = self.program.outputs.get(ValueOf(name))
        if node is None:
            return "it is a parameter, no input of forward"
        if node.op == "placeholder" or len(self.program.names_by_node()[node]) > 1:
            return "it is a copy of another value"
        users = [user for user in node.users if user in self.nodes]
        if len(users) > 1 and any(operation(user) == "clone" for user in users):
            return "a copy of it is used beside it"  # which of the two has the name is not known
        return ""

    def _quotient(self, name: str, v: Tensor, bits: int) -> Any:
        h = flint.arb(2) ** -bits
        return (self._value(name, v, h) - self._value(name, v, -h)) / (2 * h)

    def _value(self, name: str, v: Tensor, step: Any) -> Any:
        """Return <grad_output, output> with the tensor of a name moved by `step * v`, a ball."""
        n = _OnePointEach()
        moved: dict[str, Any] = {}
        overrides: dict[Key, Lifted] = {}
        if name in self.pair.inputs:
            moved[name] = np.asarray(n.exact(self.pair.inputs[name]) + step * n.exact(v))
        else:
            own = self._lift(n, [ValueOf(name)])[ValueOf(name)]
            if isinstance(own.numbers, Unsupported):
                return flint.arb("nan")
            overrides[ValueOf(name)] = Lifted(
                own.floats, np.asarray(own.numbers + step * n.exact(v))
            )
        lifted = self._lift(n, self.outputs, lifted_inputs=moved, overrides=overrides)
        total = flint.arb(0)
        for key in self.outputs:
            numbers = lifted[key].numbers
            if isinstance(numbers, Unsupported):
                return flint.arb("nan")
            terms = np.asarray(numbers) * n.exact(_cotangent(self.pair, key))
            total += sum(np.ravel(terms), flint.arb(0))
        return total

    def _lift(self, n: Any, only: list[Any], **options: Any) -> dict[Any, Lifted]:
        return lift(self.program, n, self.pair.inputs, only=only, **options)

    def _is_smooth(self, name: str, v: Tensor, slope: float) -> bool:
        """Return whether float64 runs on both sides have the slope, so no choice is at its edge."""
        here, *sides = (self._float_value(name, v, s * _FLOAT_STEP) for s in (0, 1, -1))
        slopes = [(side - here) / (s * _FLOAT_STEP) for side, s in zip(sides, (1, -1), strict=True)]
        room = _FLOAT_TOLERANCE * max(1e-3 * abs(here), abs(slope), *map(abs, slopes))
        return all(abs(one - slope) <= room for one in slopes)  # False for NaN

    def _float_value(self, name: str, v: Tensor, step: float) -> float:
        return ForwardRuns(self.pair).value(name, step * v)


class ForwardRuns:
    """Runs of the forward part of a pair's reference in float64, at moved inputs.

    Args:
        pair: Both sides; the reference is a program.
    """

    def __init__(self, pair: Pair) -> None:
        assert isinstance(pair.reference, Program)
        self.pair, self.program = pair, pair.reference
        self.outputs = [k for k in self.program.outputs if isinstance(k, str) and _is_output(k)]

    def value(self, name: str, change: Tensor) -> float:
        """Return <grad_output, output> with the tensor of a name changed by so much."""
        n = Floats(_widened)
        inputs = {
            k: x.double() if x.is_floating_point() else x for k, x in self.pair.inputs.items()
        }
        overrides: dict[Key, Lifted] = {}
        if name in inputs:
            inputs[name] = inputs[name] + change
        else:
            run = lift(self.program, n, inputs, only=[ValueOf(name)])
            value = run[ValueOf(name)].floats + change
            overrides[ValueOf(name)] = Lifted(value, value)
        lifted = lift(self.program, n, inputs, only=self.outputs, overrides=overrides)
        cotangents = ((k, _cotangent(self.pair, k).double()) for k in self.outputs)
        return float(sum((lifted[k].floats.double() * v).sum() for k, v in cotangents))


def _cotangent(pair: Pair, key: str) -> Tensor:
    return pair.inputs[key.replace("output", "grad_output", 1)]


def _is_output(key: str) -> bool:
    return base_name(key) == "output"


def _widened(dtype: torch.dtype) -> torch.dtype:
    if dtype.is_complex:
        return torch.complex128
    return torch.float64 if dtype.is_floating_point else dtype


def _direction(name: str, like: Tensor) -> Tensor:
    """Return a random direction with elements in +-[0.5, 1.5]."""
    seed = hashlib.sha256(f"direction {name} {tuple(like.shape)}".encode()).digest()[:7]
    generator = torch.Generator().manual_seed(int.from_bytes(seed, "big"))
    size = torch.rand(like.shape, generator=generator, dtype=torch.float64) + 0.5
    sign = torch.randint(0, 2, like.shape, generator=generator) * 2 - 1
    return size * sign


def _digits(quotient: Any, error: Any) -> int:
    if quotient == 0 or error == 0:
        return int(BITS * 0.3)
    share = (error / abs(quotient).upper()).mid()
    return max(0, int(float(-share.log() / flint.arb(10).log())))


def _agrees(
    lifted: Lifted | None, floats: Tensor, v: Tensor, quotient: Any, error: Any
) -> bool | None:
    """Return whether <gradient, v> is the quotient, None if that is not known."""
    if bool(floats.isnan().any()):
        return False  # whatever its formula says, these are not numbers
    if lifted is None or isinstance(lifted.numbers, Unsupported):
        return None
    numbers = np.asarray(lifted.numbers, dtype=object)
    terms = np.ravel(numbers * Balls().exact(v).reshape(numbers.shape))
    size = sum((abs(term) for term in terms), abs(quotient))
    gap = abs(sum(terms, flint.arb(0)) - quotient)
    if not gap.is_finite():
        return None
    if bool(gap.upper() + error <= _EQUAL * size.upper()):
        return True
    return False if bool(gap.lower() - error > _DIFFERENT * size.upper()) else None


def autograd_at_fault(found: Mapping[str, Witness]) -> list[str]:
    """Return the gradients of autograd that are not the derivative of forward."""
    return [name for name, one in found.items() if one.derivative in (BY_HAND, NEITHER)]


def remark(found: Mapping[str, Witness], cuts: Sequence[str]) -> str:
    """Return in words which gradients of autograd are not the derivative, "" if all are.

    Args:
        found: What the derivative says of each gradient.
        cuts: What may keep autograd from the derivative, in words.
    """
    sides = (BY_HAND, "by hand is"), (NEITHER, "neither side is")
    named = {text: [k for k in found if found[k].derivative == side] for side, text in sides}
    parts = [f"{', '.join(names)}: {text}" for text, names in named.items() if names]
    if not parts:
        return ""
    by = f", forward has {', '.join(cuts)}" if cuts else ""
    return f"autograd is not the derivative of forward ({'; '.join(parts)}{by})"
