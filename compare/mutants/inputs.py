"""Other inputs for mutants that survive, and the property of the inputs that hides a mutant.

A mutant that survives at the user's inputs may be equivalent to the pass, or these inputs may be
too weak to show the difference. Newly drawn inputs, of the same shapes or others, decide.
"""

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx

from compare.mutants.mutate import Mutant
from compare.mutants.operators import numeric_arguments
from compare.proof.other_inputs import nearby_same_kind, normals, random_inputs, sampled_from, ties
from compare.proof.program import Program, operation, skip_copies

Named = dict[str, Tensor]
_MAX_SHAPES = 12  # tried; the code rejects most of them


def other_inputs(inputs: Named, program: Program, seed: int) -> Iterator[tuple[str, Named]]:
    """Yield other inputs of the same shapes, each with a description."""
    yield "moved by about 1 %", {name: nearby_same_kind(name, v) for name, v in inputs.items()}
    sizes = (("normal", 1), ("tiny normal", 1e-5), ("large normal", 30))
    for k, (words, size) in enumerate(sizes):
        yield (
            f"{words} random numbers",
            random_inputs(inputs, partial(normals, size=size), seed + k),
        )
    for k, draw in enumerate(("", ", second draw")):
        yield (
            f"multiples of 1/2, with zeros and ties{draw}",
            random_inputs(inputs, ties, seed + 3 + k),
        )
    thresholds = _thresholds(program)
    for k, draw in enumerate(("", ", second draw") if len(thresholds) else ()):
        words = f"numbers at and near the thresholds in the code{draw}"
        yield words, random_inputs(inputs, partial(sampled_from, thresholds), seed + 5 + k)


def reshaped_inputs(inputs: Named, seed: int) -> Iterator[tuple[str, Named]]:
    """Yield inputs of other shapes, in which no size is 1 and no two are equal by accident."""
    shapes = {name: tuple(v.shape) for name, v in inputs.items()}
    sizes = [size for shape in shapes.values() for size in shape]
    dims = [(name, d) for name, shape in shapes.items() for d in range(len(shape))]

    def dims_to_enlarge(size: int) -> Iterator[set[tuple[str, int]]]:
        same = [(name, d) for name, d in dims if shapes[name][d] == size]
        if size > 1 and len(same) < 2:
            return
        yield from ({(name, d)} for name, d in same if size > 1 or d == 0)
        yield {(name, d) for name, d in same if d == 0}
        yield {(name, d) for name, d in same if d == len(shapes[name]) - 1}
        yield set(same)

    tried: list[set[tuple[str, int]]] = []
    for size in sorted(set(sizes)):
        for chosen in dims_to_enlarge(size):
            if not chosen or chosen in tried or len(tried) == _MAX_SHAPES:
                continue
            tried.append(chosen)
            resized = {
                name: _resized(
                    v, [s + 2 * ((name, d) in chosen) for d, s in enumerate(shapes[name])]
                )
                for name, v in inputs.items()
            }
            changed = [name for name, v in resized.items() if v.shape != shapes[name]]
            text = ", ".join(f"{name} {tuple(resized[name].shape)}" for name in changed)
            words = f"normal random numbers in other shapes, {text}"
            yield words, random_inputs(resized, normals, seed + 3)


def _resized(values: Tensor, shape: list[int]) -> Tensor:
    """Return values in another shape, repeated from the start along enlarged dimensions."""
    for dim, size in enumerate(shape):
        if values.shape[dim]:
            index = torch.arange(size, device=values.device) % values.shape[dim]
            values = values.index_select(dim, index)
    return values


def _thresholds(program: Program) -> Tensor:
    """Return the numbers that the code compares with, and some near them, of both signs."""
    thresholds = {
        float(number)
        for node in program.graph.nodes
        if operation(node) in _COMPARISONS
        for _where, number in numeric_arguments(node)
    }
    near = [t + offset for t in thresholds for offset in (0, 5e-5 * (abs(t) or 1), 0.5, -0.5)]
    return torch.tensor([sign * t for t in near for sign in (1, -1)], dtype=torch.float64)


_COMPARISONS = {"gt", "lt", "ge", "le", "eq", "ne", "clamp", "clamp_min", "clamp_max", "threshold"}


# -- why inputs hide a mutant


def reason_hidden(
    mutant: Mutant, hiding: Mapping[fx.Node, Any], detecting: Mapping[fx.Node, Any]
) -> str:
    """Return the property of the inputs that hides a mutant, empty if none is known.

    Args:
        mutant: one that survives at the inputs.
        hiding: the value of each node there.
        detecting: the value of each node at inputs that detect the mutant. A property that the
            values have there too hides nothing. Empty if those inputs have other shapes.
    """
    node = mutant.node
    operands = node.all_input_nodes
    first = hiding.get(operands[0]) if operands else None
    reduces = operation(node) in ("sum", "mean", "amax", "amin", "var")
    if reduces and isinstance(first, Tensor) and 1 in first.shape:
        return "a batch of one: the dimension that is summed over has one element"
    if operation(node) in ("gt", "lt", "ge", "le"):
        return "no element equals the threshold"
    users = [user for user in node.users if operation(user) not in ("add", "sub")]
    other_operands = [source for user in users for source in user.all_input_nodes]
    own_operands = [] if mutant.kind == "element" else operands
    for at in dict.fromkeys(map(skip_copies, (*own_operands, node, *other_operands))):
        hides = _special_property(at, hiding.get(at))
        if hides and hides != _special_property(at, detecting.get(at)):
            return f"{_display_name(at)} {hides}"
    return ""


def _display_name(node: fx.Node) -> str:
    """Return the name of a value in a message: its label, or the operation that computes it."""
    return str(node.meta.get("label") or f"the result of {operation(node) or node.name}")


_SATURATE = {"sigmoid", "tanh", "erf", "clamp"}


def _special_property(node: fx.Node, value: Any) -> str:
    """Return a special property of a value that can hide a mutant, empty if it has none."""
    if not isinstance(value, Tensor) or not value.is_floating_point() or not value.numel():
        return ""
    if not bool(value.any()):
        return "is all zeros here"
    if value.numel() == 1:
        return "has one element here" if value.ndim else ""
    if bool((value == value.flatten()[0]).all()):
        saturated = "saturated, " if operation(node) in _SATURATE else ""
        return f"is {saturated}{float(value.flatten()[0]):g} everywhere here"
    if value.ndim > 1 and value.shape[-1] == value.shape[-2] and torch.equal(value, value.mT):
        identity = torch.equal(value, torch.eye(value.shape[-1]).to(value).expand_as(value))
        return "is the identity matrix here" if identity else "is square and symmetric here"
    eps = torch.finfo(value.dtype).eps
    if bool(((value.abs() <= eps) | ((value.abs() - 1).abs() <= eps)).all()):
        return "is saturated here: every element is 0, 1 or -1"
    tiny = 8 * eps * float(value.abs().max())
    for dim, count in enumerate(value.shape):
        if count > 1:
            total = value.double().sum(dim)
            if bool((total.abs() <= tiny * count).all()):
                return f"is normalised here: it sums to 0 over dimension {dim}"
            if bool(((total - 1).abs() <= tiny * count).all()):
                return f"is normalised here: it sums to 1 over dimension {dim}"
    return "has zeros here" if bool((value == 0).any()) else ""
