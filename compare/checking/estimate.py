"""Numbers beside an estimate of the reference's rounding error, where its operations have no bound.

The reference is run in float64, and again at inputs moved by about one rounding of their dtype: a
backward stable kernel errs by about as much as such moves change the result (Higham, Accuracy and
Stability of Numerical Algorithms, section 1.6).
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from compare.passes.inputs import Values, numbered, tensors
from compare.passes.passes import Passes
from compare.proof.bits import of_real_view, real_view
from compare.proof.limits import Numbers
from compare.proof.other_inputs import seeded_generator
from compare.proof.pair import Pair

MOVES = 4  # times that the inputs are moved
# The estimate is this many times the largest change, which is a sample of what roundings can do.
CHANGE_SLACK = 8.0


def estimated_numbers(passes: Passes, pair: Pair) -> dict[str, Numbers]:
    """Return the numbers of each quantity, beside values that the reference computes in float64.

    Args:
        passes: Both passes at the inputs.
        pair: Both sides' values there.
    """
    wide = passes.in_dtype(torch.float64)
    by_hand = passes.manual
    manual = {name: of_real_view(v.double(), by_hand[name]) for name, v in pair.manual.items()}
    exact = {name: real_view(value) for name, value in wide.autograd(manual).items()}
    unit = {name: torch.finfo(value.dtype).eps / 2 for name, value in pair.manual.items()}
    changes = {name: torch.zeros_like(exact[name]) for name in manual}
    for number in range(MOVES):
        moved = _moved(wide, passes, number).autograd(_all_moved(manual, unit, number))
        for name in manual:
            change = (real_view(moved[name]) - exact[name]).abs()
            changes[name] = torch.maximum(changes[name], change)
    result = {}
    for name, change in changes.items():
        value = exact[name].detach().double().cpu()
        autograd = pair.autograd[name].double().cpu()
        # a change that happens to be small in one element is taken to be as in the others
        change = change.detach().cpu()
        sizes = value.abs()
        relative = change.square().mean().sqrt() / sizes.square().mean().sqrt().clamp_min(1e-300)
        bound = CHANGE_SLACK * (change.maximum(relative * sizes) + unit[name] * sizes)
        bound = bound + 2 * (autograd - value).abs()
        result[name] = Numbers(
            pair.manual[name].double().cpu(), autograd, value, bound, pair.manual[name].dtype
        )
    return result


def _moved(wide: Passes, passes: Passes, number: int) -> Passes:
    """Return the passes in float64 with inputs and cotangents moved by one rounding."""
    inputs: Mapping[str, Any] = passes.forward.inputs
    units = {
        name: torch.finfo(value.dtype).eps / 2
        for name, value in tensors(inputs).items()
        if value.is_floating_point() or value.is_complex()
    }
    floats = {name: wide.forward.inputs[name].detach() for name in units}
    named = numbered("grad_output", wide.forward.cotangents)
    narrow = numbered("grad_output", passes.forward.cotangents)
    roundings = {name: torch.finfo(value.dtype).eps / 2 for name, value in narrow.items()}
    cotangents = _all_moved(named, roundings, number)
    return wide.at(_all_moved(floats, units, number), [*cotangents.values()])


def _all_moved(values: Values, units: Mapping[str, float], number: int) -> dict[str, Tensor]:
    """Return each value times 1 + a random number of at most its unit."""
    moved = {}
    for name, value in values.items():
        real = real_view(value)
        rng = seeded_generator("rounding", name, tuple(real.shape), number)
        noise = 2 * torch.rand(real.shape, generator=rng, dtype=torch.float64) - 1
        moved[name] = of_real_view(real * (1 + units[name] * noise.to(real)), value)
    return moved
