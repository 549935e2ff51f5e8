"""Which by-hand gradients a quantity goes on from, where autograd's goes through more of them.

Autograd goes on from by-hand gradients, so that one bug makes one red line. A pass that does not
read the gradient it gave for z, though autograd's way leads through z, has gone its own way, and is
compared with autograd's value along that.
"""

from collections.abc import Collection, Mapping

from compare.proof.program import Opaque, Program, above

#: Of each quantity that goes its own way, the by-hand gradients that autograd goes on from for it.
Ways = Mapping[str, frozenset[str]]


def own_ways(
    hand: Program | Opaque, reference: Program | Opaque, replaced: Collection[str]
) -> dict[str, frozenset[str]]:
    """Return the quantities that go their own way by hand, and which gradients they do read.

    `replaced` gradients are the by-hand ones in autograd's place. Code that cannot be read counts
    as going autograd's way.
    """
    if isinstance(hand, Opaque) or isinstance(reference, Opaque):
        return {}
    read = {name: frozenset(above & {*replaced}) for name, above in hand.ancestors().items()}
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
    found = (label for label, node in nodes.items() if node in led_through)
    return frozenset(found)
