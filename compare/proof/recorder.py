"""Writes down the ATen operations that a function does, as a graph.

torch.fx's make_fx does that too, with a fake tensor and a proxy for every value; here only the list
of operations is needed, and every check waits for it. Imports torch and its private names alone.
"""

import operator
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils.weak import WeakTensorKeyDictionary

from compare.torch_private import DispatchMode, in_backward

_ATEN = torch.ops.aten
_PLAIN = {Tensor, nn.Parameter}
_LIFTED = _ATEN.lift_fresh.default, _ATEN.lift_fresh_copy.default


class FloatRead(Exception):
    """A float was read out of a tensor: as a number it would leave the graph unseen."""


class Recorder(DispatchMode):  # type: ignore[misc]
    """Within it each operation becomes a node; what the table knows is decomposed first.

    An integer or a boolean may be read out of a tensor (`int(i)`, `if mask.any()`): what is decided
    so is decided, like any branch, by the float run. Each node's meta has `val`, an empty tensor
    laid out as its value, or with get_attr the constant itself; `line`, what `line()` said when the
    operation was asked for; whether `autograd` asked for it, not the code; and whether it is
    `constant`, nothing of the inputs being in it as far as can be seen: a view may have been
    written to. Of a constant itself it also says whether the function `made` it, as torch.tensor
    does, of numbers in its code: what was there before, a weight, is just what it holds; and its
    memory, `at`, None of what is made. `origin()` tells both of what is made in the operation at
    hand.
    """

    def __init__(
        self,
        table: Mapping[Any, Callable[..., Any]],
        line: Callable[[], str | None],
        origin: Callable[[], tuple[bool, int | None]] = lambda: (True, None),
        autograd: Callable[[], bool] = in_backward,
    ) -> None:
        super().__init__()
        self.graph = fx.Graph()
        self.table, self.line, self.origin, self.autograd = table, line, origin, autograd
        # constants, until used
        self.fresh: MutableMapping[Tensor, tuple[bool, int | None]] = WeakTensorKeyDictionary()
        # weak: autograd copies a gradient that somebody else holds
        self.nodes: MutableMapping[Tensor, fx.Node] = WeakTensorKeyDictionary()

    def record(
        self, function: Callable[..., Sequence[Tensor]], at: Sequence[Tensor]
    ) -> tuple[fx.Graph, list[Tensor]]:
        """Write down what `function` does at these inputs, and what it gave; raises FloatRead."""
        for number, tensor in enumerate(at):
            node = self.graph.placeholder(f"arg{number}")
            node.meta["constant"] = False
            self._is(tensor, node)
        with self:
            found = function(*at)
        self.graph.output(tuple(map(self._node, found)))
        return self.graph, [tensor.detach().clone() for tensor in found]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not _PLAIN.issuperset(types):  # such a tensor first says what it stands for
            return NotImplemented
        kwargs = kwargs or {}
        if func is _ATEN._local_scalar_dense.default:
            if args[0].is_floating_point() and not self._node(args[0]).meta["constant"]:
                raise FloatRead("a float is read out of a tensor (float(x), x.item())")
            return func(*args)
        if func.namespace == "profiler":  # torch.optim marks its step for it
            return func(*args, **kwargs)
        with self:  # a composite operation is done by its parts, another says NotImplemented
            made = self.table.get(func, func.decompose)(*args, **kwargs)
        if made is not NotImplemented:
            return made
        if func in _LIFTED:  # what torch.tensor makes: a constant, once it is used
            lifted = func(*args)
            self.fresh[lifted] = self.origin()
            return lifted
        parts = fx.node.map_aggregate(
            (args, kwargs), lambda value: self._node(value) if isinstance(value, Tensor) else value
        )
        made = func(*args, **kwargs)
        self._are(made, self.graph.call_function(func, *parts))
        return made

    def _are(self, made: Any, node: fx.Node) -> None:
        """Note what an operation gave: a tensor, several, or something else."""
        node.meta |= {"line": self.line(), "autograd": self.autograd()}
        sources = node.all_input_nodes
        node.meta["constant"] = bool(sources) and all(n.meta["constant"] for n in sources)
        if isinstance(made, Tensor):
            self._is(made, node)
        elif isinstance(made, tuple | list):
            for number, part in enumerate(made):
                self._are(part, self.graph.call_function(operator.getitem, (node, number)))

    def _is(self, tensor: Tensor, node: fx.Node) -> None:
        self.nodes[tensor] = node
        node.meta["val"] = torch.empty_strided(
            tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta"
        )

    def _node(self, tensor: Tensor) -> fx.Node:
        """Return the node of a tensor; one that no operation gave is a copy of a constant."""
        if tensor not in self.nodes:
            constant = self.graph.get_attr("constant")
            made, at = self.fresh.get(tensor) or (False, storage_address(tensor))
            constant.meta |= {"val": tensor.detach().clone(), "constant": True}
            constant.meta |= {"made": made, "address": at}
            # a fresh one each time: the code may write into it
            self._are(tensor, self.graph.call_function(_LIFTED[1], (constant,)))
        return self.nodes[tensor]


def storage_address(tensor: Tensor) -> int | None:
    """Return where a tensor's memory begins, None where it has none."""
    try:
        return tensor.untyped_storage().data_ptr() or None
    except (RuntimeError, NotImplementedError):
        return None
