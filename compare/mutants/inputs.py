"""Other inputs for a pass, of the same shapes or of others; and what of the old ones hid a mutant.

A mutant that survives at someone's inputs may be the same function, or the inputs may be too weak
to see it. Freshly drawn ones tell the two apart.
"""

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx

from compare.mutants.mutate import Mutant
from compare.mutants.operators import numbers_of
from compare.proof.other_inputs import nearby_same_kind, normals, random_inputs, sampled_from, ties
from compare.proof.program import Program, operation, skip_copies

Named = dict[str, Tensor]
_TRIES = 12  # at other shapes: most do not fit together


def draws(inputs: Named, program: Program, seed: int) -> Iterator[tuple[str, Named]]:
    """Yield other inputs of the same shapes for a pass, and what they are."""
    yield (
        "moved by a percent or so",
        {name: nearby_same_kind(name, v) for name, v in inputs.items()},
    )
    for k, (words, size) in enumerate(
        (("normals", 1), ("tiny normals", 1e-5), ("large normals", 30))
    ):
        yield words, random_inputs(inputs, partial(normals, size=size), seed + k)
    for k, half in enumerate(("", ", drawn again")):
        yield f"halves, with zeros and ties{half}", random_inputs(inputs, ties, seed + 3 + k)
    edges = _edges(program)
    for k, half in enumerate(("", ", drawn again") if len(edges) else ()):
        words = f"numbers at and beside the edges of the code{half}"
        yield words, random_inputs(inputs, partial(sampled_from, edges), seed + 5 + k)


def reshaped(inputs: Named, seed: int) -> Iterator[tuple[str, Named]]:
    """Yield normals in other shapes: no dimension of one, no two sizes the same by accident."""
    shapes = {name: tuple(v.shape) for name, v in inputs.items()}
    sizes = [size for shape in shapes.values() for size in shape]
    places = [(name, d) for name, shape in shapes.items() for d in range(len(shape))]

    def moves(size: int) -> Iterator[set[tuple[str, int]]]:
        here = [(name, d) for name, d in places if shapes[name][d] == size]
        if size > 1 and len(here) < 2:
            return
        yield from ({p} for p in here if size > 1 or p[1] == 0)
        yield {p for p in here if p[1] == 0}
        yield {p for p in here if p[1] == len(shapes[p[0]]) - 1}
        yield set(here)

    tried: list[set[tuple[str, int]]] = []
    for size in sorted(set(sizes)):
        for chosen in moves(size):
            if not chosen or chosen in tried or len(tried) == _TRIES:
                continue
            tried.append(chosen)
            made = {
                name: _sized(v, [s + 2 * ((name, d) in chosen) for d, s in enumerate(shapes[name])])
                for name, v in inputs.items()
            }
            changed = [name for name, v in made.items() if v.shape != shapes[name]]
            other = ", ".join(f"{name} {tuple(made[name].shape)}" for name in changed)
            yield f"normals of another shape, {other}", random_inputs(made, normals, seed + 3)


def _sized(values: Tensor, shape: list[int]) -> Tensor:
    """Return values in another shape, repeated from the start where it is larger."""
    for dim, size in enumerate(shape):
        if values.shape[dim]:
            index = torch.arange(size, device=values.device) % values.shape[dim]
            values = values.index_select(dim, index)
    return values


def _edges(program: Program) -> Tensor:
    """Return the numbers at which the code chooses, and some close to them, of both signs."""
    edges = {
        float(number)
        for node in program.graph.nodes
        if operation(node) in _CHOOSING
        for _where, number in numbers_of(node)
    }
    beside_them = [e + off for e in edges for off in (0, 5e-5 * (abs(e) or 1), 0.5, -0.5)]
    return torch.tensor([s * e for e in beside_them for s in (1, -1)], dtype=torch.float64)


_CHOOSING = {"gt", "lt", "ge", "le", "eq", "ne", "clamp", "clamp_min", "clamp_max", "threshold"}


# -- why they hid it


def why(mutant: Mutant, here: Mapping[fx.Node, Any], there: Mapping[fx.Node, Any]) -> str:
    """Return what of these inputs hides a mutant, empty where that cannot be told.

    `here` and `there` is what each operation gives, there at inputs that show the mutant; what is
    odd at both hides nothing. Of inputs of other shapes there is none of it.
    """
    node = mutant.node
    sources = node.all_input_nodes
    first = here.get(sources[0]) if sources else None
    along = operation(node) in ("sum", "mean", "amax", "amin", "var")
    if along and isinstance(first, Tensor) and 1 in first.shape:
        return "a batch of one: a dimension that is summed over has one element"
    if operation(node) in ("gt", "lt", "ge", "le"):
        return "no element lies at the edge itself"
    users = [user for user in node.users if operation(user) not in ("add", "sub")]
    beside_it = [source for user in users for source in user.all_input_nodes]
    own = [] if mutant.kind == "element" else sources
    for at in dict.fromkeys(map(skip_copies, (*own, node, *beside_it))):
        if (found := _odd(at, here.get(at))) and found != _odd(at, there.get(at)):
            return f"{_words(at)} {found}"
    return ""


def _words(node: fx.Node) -> str:
    """Return a value as a person knows it: by its name, or by the operation."""
    return str(node.meta.get("label") or f"the result of {operation(node) or node.name}")


_SATURATE = {"sigmoid", "tanh", "erf", "clamp"}


def _odd(node: fx.Node, value: Any) -> str:
    """Return what is odd about an operation's result, empty if nothing is."""
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
        one = torch.equal(value, torch.eye(value.shape[-1]).to(value).expand_as(value))
        return f"is of a square shape here, and {'the identity' if one else 'symmetric'}"
    eps = torch.finfo(value.dtype).eps
    if bool(((value.abs() <= eps) | ((value.abs() - 1).abs() <= eps)).all()):
        return "is saturated, 0, 1 or -1 everywhere here"
    tiny = 8 * eps * float(value.abs().max())
    for dim, count in enumerate(value.shape):
        if count > 1:
            total = value.double().sum(dim)
            if bool((total.abs() <= tiny * count).all()):
                return f"is normalised here: it sums to 0 over dimension {dim}"
            if bool(((total - 1).abs() <= tiny * count).all()):
                return f"is normalised here: it sums to 1 over dimension {dim}"
    return "has zeros here" if bool((value == 0).any()) else ""
