"""Unusual calls of a backward pass: other layouts, twice on one graph, fewer gradients requested.

All tensors that are passed to the code under test are copies, so that the user's do not change.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from compare.passes.backward import BackwardPass
from compare.passes.gradients import gradients
from compare.passes.inputs import numbered, tensors
from compare.proof.bits import same_bits

Values = dict[str, Tensor]


class _CopyWithStrides(torch.autograd.Function):
    """A differentiable copy of a leaf, with its strides: a Function may write into a non-leaf."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:  # noqa: ARG004
        return copy_with_strides(value)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:  # noqa: ARG004
        return grads[0]


class Graph:
    """One call of a Function's forward pass: its arguments, its outputs and autograd's graph.

    Args:
        backward: The Function under test.
        inputs: Name -> tensor or other value.
        leaves: Names of the inputs that need a gradient.
        strided: Whether the arguments have the strides of `inputs`; else they are plain clones.
    """

    def __init__(
        self, backward: BackwardPass, inputs: Mapping[str, Any], *, leaves: Collection[str],
        strided: bool = False,
    ) -> None:  # fmt: skip
        copied: Callable[[Tensor], Tensor] = _CopyWithStrides.apply if strided else torch.clone
        self.leaves: Values = {}
        self.arguments: dict[str, Any] = dict(inputs)
        for label, value in tensors(inputs).items():  # the Function takes a copy of the leaf
            self.leaves[label] = value.detach().requires_grad_(label in leaves)
            with torch.enable_grad():
                self.arguments[label] = copied(self.leaves[label])
        with torch.enable_grad():
            result = backward.function.apply(*self.arguments.values())  # type: ignore[union-attr]
        self.outputs: list[Any] = [result] if isinstance(result, Tensor) else list(result)
        self.differentiated = [label for label in self.leaves if label in leaves]

    def differentiable_outputs(self) -> list[int]:
        """Return the positions of the outputs that need a gradient."""
        outputs = enumerate(self.outputs)
        return [k for k, out in outputs if isinstance(out, Tensor) and out.requires_grad]

    def other_outputs(self) -> Values:
        """Return the tensors among the outputs that need no gradient, named "output 2 of 3"."""
        return {
            f"output {k + 1} of {len(self.outputs)}": value.detach()
            for k, value in enumerate(self.outputs)
            if isinstance(value, Tensor) and not value.requires_grad
        }

    def modified(self, inputs: Mapping[str, Any]) -> list[str]:
        """Return the names of the arguments that were modified without being marked dirty.

        An argument that is marked dirty is an output, the same object.
        """
        before = tensors(inputs).items()
        changed = [k for k, value in before if not same_bits(self.arguments[k], value)]
        return [k for k in changed if not any(out is self.arguments[k] for out in self.outputs)]

    def gradients(
        self, cotangents: Mapping[int, Tensor | None], *, retain_graph: bool = False
    ) -> tuple[Values, list[str]]:
        """Return the gradients of the leaves, zeros for None, and the names of those that are None.

        Args:
            cotangents: Position of an output -> its cotangent, None for no cotangent.
            retain_graph: Whether the graph can be used once more.
        """
        differentiable = self.differentiable_outputs()
        present = {k: v for k, v in cotangents.items() if v is not None and k in differentiable}
        outputs = [self.outputs[k] for k in present]
        leaves = [self.leaves[label] for label in self.differentiated]
        found = gradients(outputs, leaves, [*present.values()], retain_graph=retain_graph)
        by_name = dict(zip(self.differentiated, found, strict=True))
        values = {
            label: torch.zeros_like(self.leaves[label]) if value is None else value.detach().clone()
            for label, value in by_name.items()
        }
        return values, [label for label, value in by_name.items() if value is None]


def call(
    backward: BackwardPass, cotangents: Sequence[Tensor | None], *,
    leaves: Collection[str] | None = None, strided: bool = False,
) -> tuple[Values, list[str]]:  # fmt: skip
    """Call the backward pass; return its values by name, and the names of gradients that are None.

    Args:
        backward: The pass under test; a Function's outputs are among the values.
        cotangents: One for each output, passed as it is; None for no cotangent.
        leaves: Names of the only inputs of a Function that need a gradient; None for all.
        strided: Whether the inputs are passed with their own strides; else as plain clones.
    """
    if not backward.is_function:
        return _call_function(backward, cotangents, strided=strided), []
    forward = backward.forward
    wanted = forward.leaves if leaves is None else leaves
    graph = Graph(backward, forward.inputs, leaves=wanted, strided=strided)
    positions = graph.differentiable_outputs()
    if len(positions) != len(forward.outputs):  # fewer outputs may depend on fewer leaves
        complete = Graph(backward, forward.inputs, leaves=forward.leaves)
        positions = complete.differentiable_outputs()
    gradients, none = graph.gradients(dict(zip(positions, cotangents, strict=True)))
    outputs = numbered("output", [graph.outputs[k].detach().clone() for k in positions])
    return outputs | gradients, none


def _call_function(
    backward: BackwardPass, cotangents: Sequence[Tensor | None], *, strided: bool
) -> Values:
    """Return the gradients of a plain function with these cotangents as its `grad_output`."""
    forward = backward.forward
    grad_outputs = numbered("grad_output", cotangents)

    def argument(key: str, value: Any) -> Any:
        if key in grad_outputs:
            return grad_outputs[key]
        if not isinstance(value, Tensor):
            return value
        return copy_with_strides(value) if strided and key in forward.inputs else value.clone()

    arguments = {key: argument(key, value) for key, value in backward.arguments.items()}
    return {label: value.detach().clone() for label, value in backward(**arguments).items()}


def stride_zero(value: Tensor, which: int = -1) -> Tensor:
    """Return the first slice along one dimension, repeated along it by stride 0.

    The storage has as many elements as a dense tensor: code that reads it as one gets other
    numbers, but does not read beyond it.

    Args:
        value: The tensor whose shape the result has.
        which: The dimension, counted among those with several elements: 0 the first, -1 the last.
    """
    wide = [k for k, size in enumerate(value.shape) if size > 1]
    if not wide or not value.numel():
        return value.clone()
    return value.contiguous().clone().narrow(wide[which], 0, 1).expand(value.shape)


def transposed(value: Tensor) -> Tensor:
    """Return the same numbers with the last two dimensions of size > 1 swapped in memory."""
    wide = [k for k, size in enumerate(value.shape) if size > 1]
    if len(wide) < 2 or not value.numel():
        return value.clone()
    return value.transpose(*wide[-2:]).contiguous().clone().transpose(*wide[-2:])


def cut_out(value: Tensor) -> Tensor:
    """Return the same numbers as a view into a larger tensor, with NaN all around it."""
    if not value.ndim or not value.numel():
        return value.clone()
    larger = value.new_full([size + 2 for size in value.shape], torch.nan)
    inner = larger[tuple(slice(1, -1) for _ in value.shape)]
    return inner.copy_(value)


def copy_with_strides(value: Tensor) -> Tensor:
    """Return a copy with the strides and the storage offset of `value`, gaps in memory included."""
    value = value.detach()
    if clone_keeps_layout(value) or not value.numel():
        return value.clone()
    pairs = zip(value.shape, value.stride(), strict=True)
    extent = 1 + sum((size - 1) * stride for size, stride in pairs)
    # An expanded tensor gets spare memory, so that code that reads it as dense stays within it.
    spare = value.reshape(-1)[: max(0, value.numel() - extent)]
    offset = value.storage_offset()
    memory = torch.cat([value.as_strided((offset + extent,), (1,), 0), spare])
    # set_, because as_strided returns a view, into which a Function may not write.
    return value.new_empty(0).set_(memory.untyped_storage(), offset, value.shape, value.stride())


def clone_keeps_layout(value: Tensor) -> bool:
    """Return whether a plain clone has the strides and the storage offset of `value`."""
    wide = [k for k, size in enumerate(value.shape) if size > 1]
    same_strides = all(value.stride(k) == value.clone().stride(k) for k in wide)
    return not value.numel() or (same_strides and not value.storage_offset())
