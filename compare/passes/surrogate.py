"""A surrogate gradient: a function that is differentiated as if it were another one."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from compare.errors import BadInput


def surrogate(
    function: Callable[..., Tensor], stands_for: Callable[..., Tensor]
) -> Callable[..., Tensor]:
    """Return `function` with the gradient of another function, for use in a forward pass.

    A step or a rounding has the derivative 0, and a network that is trained through one takes the
    gradient of a smooth function in its place (a straight-through or surrogate gradient). `check`
    then judges a backward pass against that gradient, and its report says so.

    Args:
        function: Takes tensors, returns one.
        stands_for: Takes the same tensors, returns one of the same shape.

    Returns:
        A function of the same tensors.

    Raises:
        BadInput: When it is called, if the results have different shapes.

    Example:
        >>> import torch
        >>> import compare
        >>> rounded = compare.surrogate(torch.round, lambda x: x)
        >>> x = torch.tensor([0.3, 1.6])
        >>> report = compare.check(lambda grad_output: (grad_output,), lambda x: rounded(x), (x,))
        >>> print(report.headline())
        EXACT  x has autograd's bits, for round with the gradient of lambda
    """

    def with_its_gradient(*tensors: Tensor) -> Tensor:
        apply: Any = Surrogate.apply
        result: Tensor = apply(function, stands_for, *tensors)
        return result

    return with_its_gradient


class Surrogate(torch.autograd.Function):
    """The value of one function and the gradient of another."""

    @staticmethod
    def forward(
        ctx: Any, function: Callable[..., Tensor], stands_for: Callable[..., Tensor],
        *tensors: Tensor,
    ) -> Tensor:  # fmt: skip
        """Return the value of the first function."""
        ctx.save_for_backward(*tensors)
        ctx.stands_for = stands_for
        ctx.words = f"{_name(function)} with the gradient of {_name(stands_for)}"
        return function(*tensors)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        """Return the gradients of the second function."""
        needed = ctx.needs_input_grad[2:]
        with torch.enable_grad():
            leaves = [
                tensor.detach().requires_grad_(need)
                for tensor, need in zip(ctx.saved_tensors, needed, strict=True)
            ]
            result = ctx.stands_for(*leaves)
        if result.shape != grads[0].shape:
            raise BadInput(
                f"surrogate: {ctx.words}: their shapes are {tuple(grads[0].shape)} and "
                f"{tuple(result.shape)}; let both return the same shape"
            )
        wanted = [leaf for leaf in leaves if leaf.requires_grad]
        found = iter(torch.autograd.grad(result, wanted, grads[0], allow_unused=True))
        return None, None, *(next(found) if need else None for need in needed)


def _name(function: Callable[..., Any]) -> str:
    return getattr(function, "__name__", type(function).__name__).strip("<>")
