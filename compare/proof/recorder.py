"""Recording: the ATen operations that a function runs, as a graph.

torch.fx's make_fx records them too, with a fake tensor and a proxy for every value. Only the list
of operations is needed here, and it has to be fast, since every check records. This module imports
torch and its private names alone.
"""

import math
import operator
import os
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils.weak import WeakTensorKeyDictionary

from compare.torch_private import DispatchMode, in_backward, keep_compiler_asleep

_ATEN = torch.ops.aten
_PLAIN = {Tensor, nn.Parameter}
_LIFTED = _ATEN.lift_fresh.default, _ATEN.lift_fresh_copy.default


class FloatRead(Exception):
    """The function reads a float out of a tensor: as a Python number it would escape the graph."""


@keep_compiler_asleep
class Recorder(DispatchMode):  # type: ignore[misc]
    """A mode in which each operation becomes a node of a graph.

    Operations in the table of decompositions are decomposed first. An integer or a boolean may be
    read out of a tensor (`int(i)`, `if mask.any()`): like any branch, it is then decided by the
    float run.

    The meta of each node has:
    - `val`, an empty tensor laid out as its value; for get_attr the constant itself;
    - `line`, the result of `line()` when the operation was called;
    - `autograd`, whether autograd called the operation, not the code;
    - `constant`, whether it depends on no input as far as can be seen: a view may have been
      written to.

    A constant also has:
    - `made`, whether the function created it, as torch.tensor does, from numbers in its code. A
      tensor that existed before, such as a weight, stands for exactly the values that it stores;
    - `address`, where its memory begins; None if the function created it.

    Args:
        table: Decompositions by operation.
        line: Returns the line of code that is being run.
        origin: Returns `made` and `address` for a constant created by the current operation.
        autograd: Returns whether autograd calls the current operation.
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
        # constants that no operation has used yet
        self.unused: MutableMapping[Tensor, tuple[bool, int | None]] = WeakTensorKeyDictionary()
        # weak, because autograd copies a gradient that somebody else holds
        self.nodes: MutableMapping[Tensor, fx.Node] = WeakTensorKeyDictionary()

    def record(
        self, function: Callable[..., Sequence[Tensor]], inputs: Sequence[Tensor]
    ) -> tuple[fx.Graph, list[Tensor]]:
        """Return the graph of `function(*inputs)` and its results.

        Raises:
            FloatRead: The function reads a float out of a tensor that depends on the inputs.
        """
        for number, tensor in enumerate(inputs):
            node = self.graph.placeholder(f"arg{number}")
            node.meta["constant"] = False
            self._assign(tensor, node)
        with self:
            results = function(*inputs)
        self.graph.output(tuple(map(self._node, results)))
        return self.graph, [tensor.detach().clone() for tensor in results]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not _PLAIN.issuperset(types):  # a tensor subclass must be unwrapped by itself first
            return NotImplemented
        kwargs = kwargs or {}
        if func is _ATEN._local_scalar_dense.default:
            is_float = args[0].is_floating_point() or args[0].is_complex()
            if is_float and not self._node(args[0]).meta["constant"]:
                raise FloatRead(f"a float is read out of a tensor (float(x), x.item()){self._at()}")
            return func(*args)
        if func.namespace == "profiler":  # torch.optim marks its steps for the profiler
            return func(*args, **kwargs)
        with self:  # the parts of a composite operation are recorded, not the operation
            result = self.table.get(func, func.decompose)(*args, **kwargs)
        if result is not NotImplemented:
            return result
        if func in _LIFTED:  # torch.tensor calls it: a constant, as soon as it is used
            lifted = func(*args)
            self.unused[lifted] = self.origin()
            return lifted
        node_args = fx.node.map_aggregate(
            (args, kwargs), lambda value: self._node(value) if isinstance(value, Tensor) else value
        )
        result = func(*args, **kwargs)
        if "empty" in func.__name__ and isinstance(result, Tensor) and result.is_floating_point():
            result.fill_(math.nan)  # whatever nobody writes shows in the results
        self._assign_result(result, self.graph.call_function(func, *node_args))
        return result

    def _at(self) -> str:
        """Return in words the line being run, "" if it is unknown."""
        file, _, line = (self.line() or "").rpartition(":")
        return f" at {os.path.basename(file)}:{line}" if file else ""

    def _assign_result(self, result: Any, node: fx.Node) -> None:
        """Assign the node to the result of its operation: a tensor, several, or something else."""
        node.meta |= {"line": self.line(), "autograd": self.autograd()}
        sources = node.all_input_nodes
        node.meta["constant"] = bool(sources) and all(n.meta["constant"] for n in sources)
        if isinstance(result, Tensor):
            self._assign(result, node)
        elif isinstance(result, tuple | list):
            for number, part in enumerate(result):
                item = self.graph.call_function(operator.getitem, (node, number))
                self._assign_result(part, item)

    def _assign(self, tensor: Tensor, node: fx.Node) -> None:
        self.nodes[tensor] = node
        value = torch.empty_strided(
            tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta"
        )
        node.meta["val"] = value.conj() if tensor.is_conj() else value

    def _node(self, tensor: Tensor) -> fx.Node:
        """Return the node of a tensor; a tensor from no operation becomes a copy of a constant."""
        if tensor not in self.nodes:
            constant = self.graph.get_attr("constant")
            made, address = self.unused.get(tensor) or (False, storage_address(tensor))
            constant.meta |= {"val": tensor.detach().clone(), "constant": True}
            constant.meta |= {"made": made, "address": address}
            # a new copy in each run: the code may write into it
            self._assign_result(tensor, self.graph.call_function(_LIFTED[1], (constant,)))
        return self.nodes[tensor]


def storage_address(tensor: Tensor) -> int | None:
    """Return the address where a tensor's memory begins, None if it has none."""
    try:
        return tensor.untyped_storage().data_ptr() or None
    except (RuntimeError, NotImplementedError):
        return None
