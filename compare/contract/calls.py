"""A backward pass called otherwise than `check` calls it: other layouts, one graph, fewer leaves.

Whatever it is handed is a copy, so that nobody's tensors change.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from compare.passes.backward import BackwardPass
from compare.passes.inputs import numbered, tensors
from compare.proof.bits import same_bits

Values = dict[str, Tensor]


class _Handed(torch.autograd.Function):
    """A leaf handed on in its own strides, no leaf any more: a Function may write into it."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:  # noqa: ARG004
        return as_it_lies(value)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:  # noqa: ARG004
        return grads[0]


class Graph:
    """One call of a Function's forward pass: what it took, what it gave, and what hangs on it."""

    def __init__(
        self, backward: BackwardPass, inputs: Mapping[str, Any], *, leaves: Collection[str],
        strided: bool = False,
    ) -> None:  # fmt: skip
        handed: Callable[[Tensor], Tensor] = _Handed.apply if strided else torch.clone
        self.leaves: Values = {}
        self.own: dict[str, Any] = dict(inputs)
        for label, value in tensors(inputs).items():  # what is handed over is a copy of the leaf
            self.leaves[label] = value.detach().requires_grad_(label in leaves)
            with torch.enable_grad():
                self.own[label] = handed(self.leaves[label])
        with torch.enable_grad():
            found = backward.function.apply(*self.own.values())  # type: ignore[union-attr]
        self.returned: list[Any] = [found] if isinstance(found, Tensor) else list(found)
        self.asked = [label for label in self.leaves if label in leaves]

    def differentiable(self) -> list[int]:
        """Return the places of the outputs that need a gradient."""
        outputs = enumerate(self.returned)
        return [k for k, out in outputs if isinstance(out, Tensor) and out.requires_grad]

    def others(self) -> Values:
        """Return the other tensors among the outputs, by their places in words."""
        return {
            f"output {k + 1} of {len(self.returned)}": value.detach()
            for k, value in enumerate(self.returned)
            if isinstance(value, Tensor) and not value.requires_grad
        }

    def written(self, inputs: Mapping[str, Any]) -> list[str]:
        """Return the inputs that no longer have their numbers and are not marked dirty.

        One that is marked is an output, the same object.
        """
        odd = [k for k, value in tensors(inputs).items() if not same_bits(self.own[k], value)]
        return [k for k in odd if not any(output is self.own[k] for output in self.returned)]

    def gradients(
        self, grads: Mapping[int, Tensor | None], *, again: bool = False
    ) -> tuple[Values, list[str]]:
        """Return the leaves' gradients for what stands above the outputs at these places.

        None as zeros, and which they are.
        """
        above = {k: v for k, v in grads.items() if v is not None and k in self.differentiable()}
        outputs = [self.returned[k] for k in above]
        leaves = [self.leaves[label] for label in self.asked]
        gradients = torch.autograd.grad(
            outputs, leaves, list(above.values()), allow_unused=True, retain_graph=again
        )
        found = dict(zip(self.asked, gradients, strict=True))
        values = {
            label: torch.zeros_like(self.leaves[label]) if value is None else value.detach().clone()
            for label, value in found.items()
        }
        return values, [label for label, value in found.items() if value is None]


def called(
    backward: BackwardPass, grads: Sequence[Tensor | None], *,
    leaves: Collection[str] | None = None, strided: bool = False,
) -> tuple[Values, list[str]]:  # fmt: skip
    """Return what a call gives, outputs too, and which gradients of it are None.

    `grads` stand above the outputs, handed over as they are; None is none at all. Of a Function
    `leaves` alone need a gradient. `strided` hands over the inputs in their own strides.
    """
    if not backward.is_function:
        return _plain(backward, grads, strided=strided), []
    forward = backward.forward
    wanted = forward.leaves if leaves is None else leaves
    graph = Graph(backward, forward.inputs, leaves=wanted, strided=strided)
    places = graph.differentiable()
    if len(places) != len(forward.outputs):  # with fewer leaves fewer outputs may depend on them
        places = Graph(backward, forward.inputs, leaves=forward.leaves).differentiable()
    found, none = graph.gradients(dict(zip(places, grads, strict=True)))
    outputs = numbered("output", [graph.returned[k].detach().clone() for k in places])
    return outputs | found, none


def _plain(backward: BackwardPass, grads: Sequence[Tensor | None], *, strided: bool) -> Values:
    """Return what a function gives that asks for `grad_output` among other things."""
    forward = backward.forward
    above = numbered("grad_output", grads)

    def handed(key: str, value: Any) -> Any:
        if key in above:
            return above[key]
        if not isinstance(value, Tensor):
            return value
        return as_it_lies(value) if strided and key in forward.inputs else value.clone()

    given = {key: handed(key, value) for key, value in backward.given.items()}
    return {label: value.detach().clone() for label, value in backward(**given).items()}


def spread(value: Tensor, which: int = -1) -> Tensor:
    """Return its first numbers along a dimension of several, repeated there by stride 0.

    That is the last one, or with 0 the first one.

    The memory behind it has as many elements as a dense tensor: code that takes it for one reads
    other numbers, and nothing beyond.
    """
    wide = [k for k, size in enumerate(value.shape) if size > 1]
    if not wide or not value.numel():
        return value.clone()
    return value.contiguous().clone().narrow(wide[which], 0, 1).expand(value.shape)


def transposed(value: Tensor) -> Tensor:
    """Return the same numbers with the last two dimensions of several the other way in memory."""
    wide = [k for k, size in enumerate(value.shape) if size > 1]
    if len(wide) < 2 or not value.numel():
        return value.clone()
    return value.transpose(*wide[-2:]).contiguous().clone().transpose(*wide[-2:])


def cut(value: Tensor) -> Tensor:
    """Return the same numbers cut out of a tensor that is larger on all sides, of NaN there."""
    if not value.ndim or not value.numel():
        return value.clone()
    larger = value.new_full([size + 2 for size in value.shape], torch.nan)
    inner = larger[tuple(slice(1, -1) for _ in value.shape)]
    return inner.copy_(value)


def as_it_lies(value: Tensor) -> Tensor:
    """Return a copy with the strides and the offset of `value`, all between its elements copied."""
    value = value.detach()
    if keeps_layout(value) or not value.numel():
        return value.clone()
    pairs = zip(value.shape, value.stride(), strict=True)
    extent = 1 + sum((size - 1) * stride for size, stride in pairs)
    # behind what is expanded: code that takes it for dense reads no other's memory
    spare = value.reshape(-1)[: max(0, value.numel() - extent)]
    offset = value.storage_offset()
    memory = torch.cat([value.as_strided((offset + extent,), (1,), 0), spare])
    # not as_strided, whose result is a view that a Function may not write into
    return value.new_empty(0).set_(memory.untyped_storage(), offset, value.shape, value.stride())


def keeps_layout(value: Tensor) -> bool:
    """Whether a clone has the strides of `value` and its offset: then no other call has them."""
    wide = [k for k, size in enumerate(value.shape) if size > 1]
    alike = all(value.stride(k) == value.clone().stride(k) for k in wide)
    return not value.numel() or (alike and not value.storage_offset())
