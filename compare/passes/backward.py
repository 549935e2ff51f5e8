"""The backward pass under test: a function, or an autograd.Function."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd import Function

from compare.errors import BadInput, first_line, unknown
from compare.passes.forward import ForwardPass
from compare.passes.gradients import gradients
from compare.passes.inputs import (
    argument_names,
    grouped_arguments,
    kind_of,
    numbered,
    takes_everything,
    tensors,
    unusable_kind,
)
from compare.passes.numpy_code import as_tensor
from compare.proof.bits import mismatch, same_bits
from compare.proof.program import Opaque, base_name
from compare.proof.trace import trace

Backward = Callable[..., Any] | type[Function]


class BackwardPass:
    """A hand-written backward pass, called with those values of the forward pass that it names.

    Args:
        function: The user's function or `torch.autograd.Function`.
        forward: The forward pass at some inputs.

    Raises:
        BadInput: The function cannot be called, or returns something other than gradients.
            Exceptions of the user's code pass through.
    """

    def __init__(self, function: Backward, forward: ForwardPass) -> None:
        self.function, self.forward = function, forward
        self.is_function = isinstance(function, type) and issubclass(function, Function)
        if getattr(function, "forward", None) is Function.forward:
            raise BadInput(f"backward is {function!r}, without a forward: write one")
        self.argument_names = (
            [*forward.inputs] if self.is_function else argument_names(function, forward.available)
        )
        #: Whether it differentiates its own input tensors, as torch.autograd.grad(f(x), params)
        #: does, so that it has to be called with the user's own tensors instead of copies.
        self.differentiates_inputs = False
        #: Names of the cotangents of scalar outputs that are 1 because it takes no grad_output.
        self.unit_cotangents = (
            () if self._reads_grad_output() else forward.set_scalar_cotangents_to_one()
        )

    @property
    def arguments(self) -> dict[str, Any]:
        """The values that it takes, by name; of several outputs under numbered names."""
        names = [*self.argument_names, "grad_output"] if self.is_function else self.argument_names
        available = self.forward.available
        return {key: value for key, value in available.items() if base_name(key) in names}

    def _reads_grad_output(self) -> bool:
        """Return whether its values depend on grad_output; with **kwargs it may ignore that."""
        if self.is_function:
            return True
        if not takes_everything(self.function):
            return "grad_output" in self.argument_names
        arguments = self.arguments
        try:
            program = trace(self, arguments)
        except Opaque:  # compare its values for two different cotangents
            negated = {k: -v for k, v in arguments.items() if base_name(k) == "grad_output"}
            one, two = (self(**_copies(arguments | change)) for change in ({}, negated))
            return not all(map(same_bits, one.values(), two.values()))
        return any(base_name(key) == "grad_output" for key in program.used_inputs())

    def run(self) -> dict[str, Tensor]:
        """Return its values by name; raises BadInput if it changes one of its inputs."""
        arguments = _copies(self.arguments)
        values = self._first_call(arguments)
        for key, value in tensors(self.arguments).items():
            if mismatch(value, arguments[key]) or not same_bits(value, arguments[key]):
                raise BadInput(f"backward changes its input {key!r} in place: work on a copy of it")
        return {label: value.detach().clone() for label, value in values.items()}

    def _first_call(self, arguments: dict[str, Any]) -> dict[str, Tensor]:
        """Call it for the first time, and set `differentiates_inputs`."""
        if not self.is_function:
            return self(**arguments)
        name = self.function.__name__
        try:
            values = self._apply(arguments)
        except BadInput:
            raise
        except Exception as error:
            if self.leaf_inputs() and "not have been used in the graph" in str(error):
                self.differentiates_inputs = True
                return self(**arguments)
            if self._accepts_ones(arguments):
                raise BadInput(
                    f"{name} accepts a grad_output of ones but not other values "
                    f"({first_line(error)}): autograd may pass any"
                ) from None
            raise
        leaves = self.forward.leaves
        if all(values[label] is None for label in leaves):
            raise BadInput(
                f"{name} returns None for each of {', '.join(leaves)}: return their gradients"
            )
        if self.leaf_inputs() and any(values[label] is None for label in leaves):
            self.differentiates_inputs = True
            second = self._apply(arguments)
            self.differentiates_inputs = any(
                values[k] is None and second[k] is not None for k in leaves
            )
        return self(**arguments)

    def leaf_inputs(self) -> dict[str, Tensor]:
        """Return the inputs that are leaves of autograd's graph already, as parameters are."""
        inputs = tensors(self.forward.inputs)
        return {k: v for k, v in inputs.items() if v.is_leaf and v.requires_grad}

    def _accepts_ones(self, arguments: Mapping[str, Any]) -> bool:
        """Return whether it runs with cotangents of ones."""
        ones = [torch.ones_like(value) for value in self.forward.cotangents]
        try:
            self._apply({**arguments, **numbered("grad_output", ones)})
        except Exception:
            return False
        return True

    def __call__(self, /, **arguments: Any) -> dict[str, Tensor]:
        """Call it with the arguments that it names; return its values, zeros for None."""
        values = self._apply(arguments) if self.is_function else self._call(arguments)
        forward = self.forward
        like = {**forward.parameters, **tensors(forward.inputs), **forward.intermediates}
        return {k: torch.zeros_like(like[k]) if v is None else v for k, v in values.items()}

    def _call(self, arguments: Mapping[str, Any]) -> Mapping[str, Tensor | None]:
        forward = self.forward
        returned = self.function(**grouped_arguments(arguments, self.argument_names))
        if isinstance(returned, Tensor | np.ndarray | np.generic):
            returned = (returned,)
        if isinstance(returned, tuple | list):
            if len(returned) != len(forward.leaves):
                raise BadInput(
                    f"backward returns {len(returned)} gradients for {len(forward.leaves)} inputs "
                    f"({', '.join(forward.leaves)}): return one for each, None for zero"
                )
            returned = dict(zip(forward.leaves, returned, strict=True))
        if not isinstance(returned, Mapping):
            raise BadInput(
                f"backward returns {kind_of(returned)}: return a dict or a tuple of gradients"
            )
        named = {label: as_tensor(value) for label, value in returned.items()}
        for label, value in named.items():
            if label in forward.inputs and label not in forward.leaves:
                raise BadInput(
                    f"backward returns a gradient for {label!r}, which needs none: mark it with "
                    "requires_grad=True, or leave it out"
                )
            if label in forward.intermediates and label not in forward.differentiable:
                raise BadInput(
                    f"backward returns a gradient for {label!r}, but no gradient flows through it "
                    "(it is detached, or of integers): leave it out"
                )
            known = [*forward.leaves, *forward.intermediates, *forward.parameters]
            if label not in known:
                raise unknown("gradient", str(label), known)
            if value is not None and not isinstance(value, Tensor):
                raise BadInput(f"backward returns {kind_of(value)} for {label!r}: return a tensor")
            if value is not None and (kind := unusable_kind(value)):
                raise BadInput(
                    f"backward returns a {kind} gradient for {label!r}: return a dense one"
                )
        return named

    def _apply(self, arguments: Mapping[str, Any]) -> dict[str, Tensor | None]:
        """Return the outputs and gradients of the autograd.Function."""
        fresh = self.forward.copies({label: arguments[label] for label in self.forward.inputs})
        # The Function gets clones of the leaves, because it may write into its inputs.
        with torch.enable_grad():
            passed = _copies(fresh)
            if self.differentiates_inputs:
                fresh |= self.leaf_inputs()
                passed |= self.leaf_inputs()
            result = self.function.apply(*passed.values())  # type: ignore[union-attr]
        if not isinstance(result, Tensor | tuple | list):
            raise BadInput(
                f"{self.function.__name__}'s forward returns {kind_of(result)}: return a tensor or "
                "a tuple of tensors"
            )
        outputs = [result] if isinstance(result, Tensor) else list(result)
        outputs = [out for out in outputs if isinstance(out, Tensor) and out.requires_grad]
        if len(outputs) != len(self.forward.outputs):
            raise BadInput(
                f"{self.function.__name__} has {len(outputs)} differentiable outputs and forward "
                f"{len(self.forward.outputs)}: return the same outputs"
            )
        leaves = [fresh[label] for label in self.forward.leaves]
        cotangents = [arguments[key] for key in numbered("grad_output", outputs)]
        try:
            found = gradients(outputs, leaves, cotangents)
        except RuntimeError as error:
            if "incorrect number of gradients" not in str(error):
                raise
            raise BadInput(str(error).splitlines()[0]) from None
        return {
            **numbered("output", [output.detach() for output in outputs]),
            **dict(zip(self.forward.leaves, found, strict=True)),
        }


def _copies(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments with each tensor cloned, so that a pass may write into it."""
    return {**arguments, **{key: value.clone() for key, value in tensors(arguments).items()}}
