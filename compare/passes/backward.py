"""The backward pass that `check` is given: a function, or an autograd.Function."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from compare.errors import BadInput, first_line, unknown
from compare.passes.forward import ForwardPass
from compare.passes.inputs import (
    asked,
    form_of,
    gathered,
    kind_of,
    numbered,
    takes_everything,
    tensors,
)
from compare.proof.bits import mismatch, same_bits
from compare.proof.program import Opaque, base_name
from compare.proof.trace import trace

Backward = Callable[..., Any] | type[Function]


class BackwardPass:
    """Gradients by hand, from whatever of the forward pass the function asks for.

    Raises BadInput for what cannot be judged; exceptions of the user's own code pass through.
    """

    def __init__(self, function: Backward, forward: ForwardPass) -> None:
        self.function, self.forward = function, forward
        self.is_function = isinstance(function, type) and issubclass(function, Function)
        if getattr(function, "forward", None) is Function.forward:
            raise BadInput(f"backward is {function!r}, without a forward: write one")
        self.asked = [*forward.inputs] if self.is_function else asked(function, forward.offer)
        #: Whether it asks for its own inputs by identity, as torch.autograd.grad(f(x), params)
        #: does, so that it has to be run on the very tensors that were given.
        self.by_identity = False
        #: The scalar outputs above which 1 stands, where it does not ask what stands there.
        self.ones = () if self._reads_grad_output() else forward.take_scalars_as_one()

    @property
    def given(self) -> dict[str, Any]:
        """What it asks for, by the names of the offer."""
        wanted = [*self.asked, "grad_output"] if self.is_function else self.asked
        offer = self.forward.offer
        return {key: value for key, value in offer.items() if base_name(key) in wanted}

    def _reads_grad_output(self) -> bool:
        """Whether what it gives depends on grad_output; one that takes everything may not."""
        if self.is_function:
            return True
        if not takes_everything(self.function):
            return "grad_output" in self.asked
        try:
            program = trace(self, self.given)
        except Opaque:  # then it is seen by giving it another one
            other = {k: -v for k, v in self.given.items() if base_name(k) == "grad_output"}
            one, two = (self(**_copies(self.given | change)) for change in ({}, other))
            return not all(map(same_bits, one.values(), two.values()))
        return any(base_name(key) == "grad_output" for key in program.used_inputs())

    def run(self) -> dict[str, Tensor]:
        """Return what it gives, having seen that it left its inputs alone."""
        given = _copies(self.given)
        found = self._first(given)
        for key, value in tensors(self.given).items():
            if mismatch(value, given[key]) or not same_bits(value, given[key]):
                raise BadInput(f"backward changes its input {key!r} in place: work on a copy of it")
        return {label: value.detach().clone() for label, value in found.items()}

    def _first(self, given: dict[str, Any]) -> dict[str, Tensor]:
        """Run it for the first time: then it shows whether copies will do."""
        if not self.is_function:
            return self(**given)
        name = self.function.__name__
        try:
            raw = self._apply(given)
        except BadInput:
            raise
        except Exception as error:
            if self.own_leaves() and "not have been used in the graph" in str(error):
                self.by_identity = True
                return self(**given)
            if self._takes_ones(given):
                raise BadInput(
                    f"{name} takes a grad_output of ones and refuses other numbers "
                    f"({first_line(error)}): autograd may hand it any"
                ) from None
            raise
        leaves = self.forward.leaves
        if all(raw[label] is None for label in leaves):
            raise BadInput(
                f"{name} returns None for each of {', '.join(leaves)}: return their gradients"
            )
        if self.own_leaves() and any(raw[label] is None for label in leaves):
            self.by_identity = True
            again = self._apply(given)
            self.by_identity = any(raw[k] is None and again[k] is not None for k in leaves)
        return self(**given)

    def own_leaves(self) -> dict[str, Tensor]:
        """Return the inputs that were given as leaves of autograd's graph, like parameters."""
        inputs = tensors(self.forward.inputs)
        return {k: v for k, v in inputs.items() if v.is_leaf and v.requires_grad}

    def _takes_ones(self, given: Mapping[str, Any]) -> bool:
        """Whether it runs with ones above its outputs."""
        ones = numbered("grad_output", [torch.ones_like(grad) for grad in self.forward.grads])
        try:
            self._apply({**given, **ones})
        except Exception:
            return False
        return True

    def __call__(self, /, **given: Any) -> dict[str, Tensor]:
        """Run it on exactly what it asks for; return its gradients by name."""
        found = self._apply(given) if self.is_function else self._call(given)
        forward = self.forward
        like = {**forward.parameters, **tensors(forward.inputs), **forward.values}
        return {k: torch.zeros_like(like[k]) if v is None else v for k, v in found.items()}

    def _call(self, given: Mapping[str, Any]) -> Mapping[str, Tensor | None]:
        forward = self.forward
        found = self.function(**gathered(given, self.asked))
        if isinstance(found, Tensor):
            found = (found,)
        if isinstance(found, tuple | list):
            if len(found) != len(forward.leaves):
                raise BadInput(
                    f"backward returns {len(found)} gradients for {len(forward.leaves)} inputs "
                    f"({', '.join(forward.leaves)}): return one for each, None where there is none"
                )
            found = dict(zip(forward.leaves, found, strict=True))
        if not isinstance(found, Mapping):
            raise BadInput(
                f"backward returns {kind_of(found)}: return a dict or a tuple of gradients"
            )
        for label, value in found.items():
            if label in forward.inputs and label not in forward.leaves:
                raise BadInput(
                    f"backward returns a gradient for {label!r}, which needs none: mark it with "
                    "requires_grad=True, or leave it out"
                )
            if label in forward.values and label not in forward.through:
                raise BadInput(
                    f"backward returns a gradient for {label!r}, and none flows through it "
                    "(detached, or integers): leave it out"
                )
            known = [*forward.leaves, *forward.values, *forward.parameters]
            if label not in known:
                raise unknown("gradient", str(label), known)
            if value is not None and not isinstance(value, Tensor):
                raise BadInput(f"backward returns {kind_of(value)} for {label!r}: return a tensor")
            if value is not None and (form := form_of(value)):
                raise BadInput(
                    f"backward returns a {form} gradient for {label!r}: return a dense one"
                )
        return found

    def _apply(self, given: Mapping[str, Any]) -> dict[str, Tensor | None]:
        """Run the autograd.Function's own forward and backward."""
        fresh = self.forward.fresh({label: given[label] for label in self.forward.inputs})
        # not the leaves themselves: the Function may write into what it is given
        with torch.enable_grad():
            own = _copies(fresh)
            if self.by_identity:
                fresh |= self.own_leaves()
                own |= self.own_leaves()
            found = self.function.apply(*own.values())  # type: ignore[union-attr]
        if not isinstance(found, Tensor | tuple | list):
            raise BadInput(
                f"{self.function.__name__}'s forward returns {kind_of(found)}: return a tensor or "
                "a tuple of tensors"
            )
        outputs = [found] if isinstance(found, Tensor) else list(found)
        outputs = [out for out in outputs if isinstance(out, Tensor) and out.requires_grad]
        if len(outputs) != len(self.forward.outputs):
            raise BadInput(
                f"{self.function.__name__} has {len(outputs)} differentiable outputs and forward "
                f"{len(self.forward.outputs)}: return the same ones"
            )
        leaves = [fresh[label] for label in self.forward.leaves]
        grads = [given[key] for key in numbered("grad_output", outputs)]
        try:
            gradients = torch.autograd.grad(outputs, leaves, grads, allow_unused=True)
        except RuntimeError as error:
            if "incorrect number of gradients" not in str(error):
                raise
            raise BadInput(str(error).splitlines()[0]) from None
        return {
            **numbered("output", [output.detach() for output in outputs]),
            **dict(zip(self.forward.leaves, gradients, strict=True)),
        }


def _copies(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return what it is given, each tensor a copy that it may write into."""
    return {**given, **{key: value.clone() for key, value in tensors(given).items()}}
