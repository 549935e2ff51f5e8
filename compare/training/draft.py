"""A draft of a chunk of steps: the weights before each of them, quickly and without a guarantee.

A draft replays the operations that one step ran when it was recorded, without the step's Python and
in memory that is allocated once. Nothing is concluded from it: see `manual_batch`.
"""

import operator
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import fx

from compare.proof.program import RESHAPES, SAME_SHAPE, Program, operation, upstream
from compare.proof.trace import try_trace
from compare.training.adapters import Named, Step

Call = Callable[[], object]


def draft_of(step: Step, inputs: Named, state: Named, steps: int) -> "Draft | None":
    """Return a draft of up to so many steps; None for a step that cannot be replayed.

    Args:
        step: the by-hand step, a function of named tensors.
        inputs: inputs of a step but for the state, (P, ...) each, on the CPU.
        state: weights and other state before it, likewise.
        steps: the most steps of a chunk.
    """
    program = try_trace(step, {**inputs, **state})
    if not isinstance(program, Program) or not program.outputs.keys() >= state.keys():
        return None
    try:
        return Draft(program, inputs, state, steps)
    except (AttributeError, TypeError):  # an operation that cannot write to given memory
        return None


class Draft:
    """Replays a recorded step for all steps of a chunk.

    Every input has a slot for each step. The state that a step computes goes to the slot of the
    next one; any other value goes to the same memory in all steps. So most calls are the same in
    all steps, and only those that touch a slot are made for each.

    Args:
        program: the recorded step.
        inputs: inputs of a step but for the state, (P, ...) each.
        state: weights and other state before it, (P, ...) each.
        steps: the most steps of a chunk.

    Raises:
        AttributeError, TypeError: for an operation that torch has under another name, or that
            cannot write its result to given memory.
    """

    def __init__(self, program: Program, inputs: Named, state: Named, steps: int) -> None:
        self.state = list(state)
        results = {program.outputs[name]: name for name in state}
        needed = upstream(results)
        nodes = [n for n in program.graph.nodes if n in needed and n.op != "placeholder"]
        values: dict[fx.Node, Any] = {}
        made: dict[fx.Node, tuple[list[Any], list[Call]]] = {}  # the operands, and what to call
        calls: list[Call] = []
        with torch.inference_mode():
            self.slots = {
                name: value.expand(steps + 1, *value.shape).clone()
                for name, value in {**inputs, **state}.items()
            }
            for k in range(steps):
                for node, name in program.placeholders().items():
                    values[node] = self.slots[name][k]
                for node in nodes:
                    operands = [values[n] for n in node.all_input_nodes]
                    changed = node not in made or any(map(operator.is_not, operands, made[node][0]))
                    if node in results:
                        values[node] = self.slots[results[node]][k + 1]
                    if changed or node in results:
                        made[node] = operands, _calls(node, values)
                    calls += made[node][1]
            self.calls, self.calls_each = calls, len(calls) // steps
            for call in calls[: self.calls_each]:  # raises what the replay would raise
                call()

    def run(self, inputs: Named, state: Named) -> Named:
        """Return the state before each step and after the last one, (steps + 1, P, ...) each.

        The memory is that of the draft: the next call overwrites it.

        Args:
            inputs: the inputs of the steps but for the state, (steps, P, ...) each.
            state: weights and other state before the first step, (P, ...) each.
        """
        steps = len(next(iter(inputs.values())))
        with torch.inference_mode():
            for name, value in inputs.items():
                self.slots[name][:steps] = value
            for name, value in state.items():
                self.slots[name][0] = value
            for call in self.calls[: steps * self.calls_each]:
                call()
            return {name: self.slots[name][: steps + 1] for name in self.state}


def _calls(node: Any, values: dict[fx.Node, Any]) -> list[Call]:
    """Return the call that computes a node, an empty list if it needs none at each step.

    Args:
        node: a node of a program.
        values: the values of the nodes before it, and of the node itself if it has memory already.
            The node's own value is added.
    """
    if node.op == "get_attr":
        values[node] = node.meta["val"]
        return []
    args, kwargs = (fx.map_arg(words, values.__getitem__) for words in (node.args, node.kwargs))
    name, like = operation(node), node.meta["val"]
    if name in SAME_SHAPE | RESHAPES and args[0].shape == like.shape:
        values[node] = args[0]
        return []
    if node.target.is_view:
        values[node] = node.target(*args, **kwargs)
        return []
    if isinstance(args[0], int | float):  # 1 - l: torch.sub requires a tensor as first operand
        args = torch.tensor(args[0], dtype=like.dtype), *args[1:]
    out = values.setdefault(node, torch.empty_like(like, device="cpu"))
    return [partial(getattr(torch, name), *args, **kwargs, out=out)]
