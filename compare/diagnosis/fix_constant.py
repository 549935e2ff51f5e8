"""Candidate fixes inside the operations: another number where one is written, another function."""

from typing import Any

import torch
from torch import fx

from compare.diagnosis import fix_tables
from compare.diagnosis.edits import Edit, another
from compare.diagnosis.expressions import expression, short
from compare.diagnosis.fix_tables import FUNCTIONS
from compare.diagnosis.search import Trial
from compare.proof.program import operation


def constants(t: Trial) -> None:
    """Try other numbers where one is written."""
    sizes = {s for value in t.e.inputs.values() for s in value.shape if s > 1}
    there = t.numbers_there()
    written: dict[float, list[fx.Node]] = {}
    for node in t.way.nodes:
        if any(operation(source) == "arange" for source in node.all_input_nodes):
            continue  # the places of a roll, not numbers
        if operation(node) in ("add", "sub", "mul", "div", "pow", "remainder", "rsub"):
            for number in {a for a in node.args if isinstance(a, int | float)}:
                written.setdefault(float(number), []).append(node)
    for number, nodes in written.items():
        groups = [[node] for node in nodes] + ([nodes] if len(nodes) > 1 else [])
        for group in groups:
            if t.whole and all(operation(node) in ("mul", "div") for node in group):
                continue
            where = short(expression(group[0], t.names, inside=True)).text
            where = f"in {where}" if len(group) == 1 else "everywhere on the way to it"
            for other in fix_tables.constants(number, sorted(sizes), there):
                told = f"with {other:.10g} in place of {number:.10g} {where}"
                t.edit(2.5, told, Edit(operations={n: _written(n, number, other) for n in group}))


def signs(t: Trial) -> None:
    """Try a difference where there is a sum, and a sum where there is a difference."""
    for node in t.way.nodes:
        sign = {"add": "-", "sub": "+"}.get(operation(node))
        if sign and all(isinstance(value, fx.Node) for value in node.args[:2]):
            target = torch.ops.aten.sub.Tensor if sign == "-" else torch.ops.aten.add.Tensor
            one, other = (short(expression(value, t.names)).text for value in node.args[:2])
            told = f"with {sign} in place of {'+' if sign == '-' else '-'}: {one} {sign} {other}"
            t.edit(2, told, Edit(operations={node: another(node, target)}))


def functions(t: Trial) -> None:
    """Try other elementwise functions where one is taken."""
    for node in t.way.nodes:
        if operation(node) in FUNCTIONS:
            for name in FUNCTIONS:
                if name != operation(node):
                    target = getattr(torch.ops.aten, name).default
                    text = short(expression(node, t.names, inside=True)).text
                    told = f"with {name} in place of {operation(node)} in {text}"
                    t.edit(3, told, Edit(operations={node: another(node, target)}))


def _written(node: fx.Node, number: float, other: float) -> fx.Node:
    """Return the node with another number written in it, a whole one where it was one."""

    def swapped(value: Any) -> Any:
        if isinstance(value, bool) or not isinstance(value, int | float) or value != number:
            return value
        return int(other) if isinstance(value, int) and other.is_integer() else other

    return another(node, args=tuple(swapped(value) for value in node.args))
