"""The forward pass of the user, and autograd through it."""

import inspect
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextvars import ContextVar
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from compare.errors import BadInput
from compare.passes.inputs import (
    JUDGED,
    JUDGED_NAMES,
    Forward,
    Inputs,
    Values,
    by_name,
    differentiable,
    draw_cotangents,
    kind_of,
    numbered,
    tensors,
    unusable_kind,
)
from compare.proof.bits import mismatch, same_bits
from compare.proof.program import RESERVED_NAMES, Key, ValueOf, base_name

_named: ContextVar[dict[str, Tensor] | None] = ContextVar("named", default=None)


def name(tensor: Tensor, label: str) -> Tensor:
    """Name an intermediate of the forward pass, so that its gradient can be checked too.

    The backward pass then gets its value as the argument `label`, and may return its gradient under
    that name. Outside of `compare.check` and the like this has no effect.

    Args:
        tensor: The intermediate, of any shape.
        label: Its name, a printable string that no other intermediate and no input has.

    Returns:
        `tensor` itself.

    Raises:
        BadInput: `label` is not a printable string or is used twice, or `tensor` is not a tensor.

    Example:
        >>> import torch
        >>> import compare
        >>> def forward(x):
        ...     h = compare.name(torch.tanh(x), "h")
        ...     return h * h
        >>> def backward(grad_output, h):
        ...     dh = 2 * h * grad_output
        ...     return {"h": dh, "x": dh * (1 - h * h)}
        >>> report = compare.check(backward, forward, {"x": torch.tensor([0.5, -1.0])})
        >>> list(report.quantities), report.ok
        (['h', 'x'], True)
    """
    named = _named.get()
    if named is None:
        return tensor
    call = f"compare.name(..., {label!r})"
    if not isinstance(label, str):
        raise BadInput(f"{call}: a name is a string")
    if not label.strip() or not label.isprintable():
        raise BadInput(f"{call}: a name is a printable word, such as 'z1'")
    if not isinstance(tensor, Tensor):
        raise BadInput(f"{call} was given {kind_of(tensor)}: name a tensor")
    if label in named:
        raise BadInput(f"{call} is called twice: choose another name for one of the tensors")
    named[label] = tensor
    return tensor


class ForwardPass:
    """A differentiable function at its inputs, with a cotangent for each of its outputs.

    Args:
        function: The user's function or module.
        inputs: Its arguments, as for `compare.check`.
        seed: Seed of the cotangents.
        cotangents: One for each differentiable output; None: they are drawn.

    Raises:
        BadInput: The function cannot be called, or its result cannot be checked. Exceptions of the
            user's code pass through.
    """

    def __init__(
        self,
        function: Forward,
        inputs: Inputs,
        seed: int,
        cotangents: Sequence[Tensor] | None = None,
    ) -> None:
        self.function = function
        if isinstance(function, nn.Module):
            for label, value in function.named_parameters():
                if value.is_meta:
                    raise BadInput(f"forward's {label} is on the meta device: give it values")
        self.inputs = by_name(function, inputs)
        self.leaves = differentiable(self.inputs)
        leaves = self.copies(self.inputs)
        outputs, named = self._run(leaves)
        #: Tensors outside the inputs that need a gradient: weights of a module, or of a closure.
        self.parameters = parameters(function, outputs, leaves, named)
        #: Names of the parameters whose gradients the by-hand side returns.
        self.checked_parameters: list[str] = []
        first = [*outputs, *named.values()]
        second_outputs, second_named = self.at(self.inputs)
        for one, other in zip(first, [*second_outputs, *second_named.values()], strict=True):
            if mismatch(one, other) or not same_bits(one, other):
                raise BadInput(
                    "forward returns different values the second time it is called: pass random "
                    "numbers and state as inputs"
                )
        self.outputs = [output.detach() for output in outputs]
        self.intermediates = {label: value.detach().clone() for label, value in named.items()}
        #: Names of the intermediates through which a gradient flows.
        self.differentiable = {label for label, value in named.items() if value.requires_grad}
        for label in self.intermediates:
            if label in self.inputs or base_name(label) in RESERVED_NAMES:
                taken = "an input has" if label in self.inputs else "check reserves"
                raise BadInput(f"compare.name(..., {label!r}): {taken} that name, choose another")
        self.cotangents = (
            draw_cotangents(self.outputs, seed) if cotangents is None else list(cotangents)
        )

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments of `reference`: the inputs, and the cotangent of each output."""
        return {
            **{k: v.detach() if isinstance(v, Tensor) else v for k, v in self.inputs.items()},
            **numbered("grad_output", self.cotangents),
        }

    @property
    def available(self) -> dict[str, Any]:
        """All values that backward can take, by name; of several outputs under numbered names."""
        return {**self.arguments, **self.intermediates, **numbered("output", self.outputs)}

    def reference_key(self, label: str) -> Key | None:
        """Return the key of an available value among the outputs of `reference`.

        None for an input of `reference`.
        """
        if label in self.intermediates:
            return ValueOf(label)
        return label if base_name(label) == "output" else None

    def set_scalar_cotangents_to_one(self) -> tuple[str, ...]:
        """Set the cotangent of each scalar output to 1, and return the names of these cotangents.

        A backward pass that takes no grad_output computes the gradient of the scalar itself.
        """
        pairs = zip(self.outputs, self.cotangents, strict=True)
        self.cotangents = [value if out.ndim else torch.ones_like(out) for out, value in pairs]
        named = numbered("grad_output", self.outputs)
        return tuple(label for label, output in named.items() if not output.ndim)

    def at(self, inputs: Mapping[str, Any]) -> tuple[list[Tensor], dict[str, Tensor]]:
        """Call it with copies; return its differentiable outputs and the named intermediates."""
        return self._run(self.copies(inputs))

    def copies(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Return copies of the inputs, the differentiable ones as leaves of a new graph."""
        copies = dict(inputs)
        for label, value in tensors(inputs).items():
            copies[label] = value.detach().clone().requires_grad_(label in self.leaves)
        return copies

    def _run(self, arguments: Mapping[str, Any]) -> tuple[list[Tensor], dict[str, Tensor]]:
        named: dict[str, Tensor] = {}
        token = _named.set(named)
        try:
            with torch.enable_grad():
                result = self.function(**arguments)
        except RuntimeError as error:
            if "a leaf Variable that requires grad is being used in an in-place" in str(error):
                raise BadInput(
                    "forward writes into an input or a parameter that needs a gradient: work on a "
                    "copy of it, as x.clone()"
                ) from None
            if "Inference tensors cannot" not in str(error):
                raise
            raise BadInput(
                "forward uses a tensor that was made under torch.inference_mode: make it outside"
            ) from None
        finally:
            _named.reset(token)
        outputs = list(result) if isinstance(result, tuple | list) else [result]
        for output in outputs:
            if not isinstance(output, Tensor):
                raise BadInput(
                    f"forward returns {kind_of(output)}: return a tensor or a tuple of tensors"
                )
            if not output.requires_grad:
                continue
            if kind := unusable_kind(output):
                raise BadInput(f"forward returns a {kind} tensor: return a dense one with values")
            if output.dtype not in JUDGED:
                raise BadInput(
                    f"forward returns {kind_of(output)}, which cannot be checked: return "
                    f"{JUDGED_NAMES}"
                )
        return [output for output in outputs if output.requires_grad], named

    def reference(self, /, **arguments: Any) -> dict[Key, Tensor]:
        """Return the outputs, the intermediates and all gradients: the function that is traced."""
        fresh = self.copies({label: arguments[label] for label in self.inputs})
        outputs, named = self._run(fresh)
        separate: dict[str, Tensor] = {}

        def separated(label: str, gradient: Tensor) -> Tensor:
            """Give this gradient a node of its own: z = x + w passes the same tensor to x and w.

            Of a clone, because the backward pass of irfft writes into its gradient in place: a view
            of such a tensor is recorded once more wherever it is read.
            """
            separate[label] = gradient.clone().view(gradient.shape)
            return separate[label]

        for label, tensor in _requiring_grad(named).items():
            tensor.register_hook(partial(separated, label))
        targets = _requiring_grad({**named, **self._leaves(fresh)})
        cotangents = [arguments[key] for key in numbered("grad_output", outputs)]
        gradients = torch.autograd.grad(
            outputs, list(targets.values()), cotangents, allow_unused=True
        )
        return {
            **{label: out.detach() for label, out in numbered("output", outputs).items()},
            **{ValueOf(label): value.detach() for label, value in named.items()},
            **{
                label: torch.zeros_like(tensor)
                if gradient is None
                else separate.get(label, gradient)
                for (label, tensor), gradient in zip(targets.items(), gradients, strict=True)
            },
        }

    def _leaves(self, fresh: Mapping[str, Any]) -> dict[str, Tensor]:
        """Return the leaves whose gradients are compared: of inputs, and checked parameters."""
        of_inputs = {label: fresh[label] for label in self.leaves}
        return of_inputs | {label: self.parameters[label] for label in self.checked_parameters}

    def gradients(
        self, manual: Values, injected: Collection[str] | None = None
    ) -> dict[str, Tensor]:
        """Return autograd's gradients in the order of computation, continued from by-hand ones.

        A hook on each named intermediate with a by-hand gradient records autograd's gradient there,
        and puts the by-hand one in its place.

        Args:
            manual: Name -> by-hand gradient.
            injected: Names of the only intermediates that get their by-hand gradient; None for all.
        """
        fresh = self.copies(self.inputs)
        outputs, named = self._run(fresh)
        gradients: dict[str, Tensor] = {}
        compared = {label: tensor for label, tensor in named.items() if label in manual}
        labels = compared if injected is None else compared.keys() & injected
        replacements = {label: manual[label] for label in labels}

        # The graph holds its hooks, out of sight of Python's garbage collector: a hook that held a
        # tensor of the graph would keep all of it alive for ever.
        def record(label: str, gradient: Tensor) -> Tensor | None:
            gradients[label] = gradient.detach().clone()
            fits = label in replacements and mismatch(replacements[label], gradient) is None
            return replacements[label].clone() if fits else None

        leaves = self._leaves(fresh)
        targets = _requiring_grad({**compared, **leaves})
        hooks = [tensor.register_hook(partial(record, key)) for key, tensor in targets.items()]
        try:
            # The targets include intermediates, because one may lead to no leaf.
            torch.autograd.grad(outputs, [*targets.values()], self.cotangents, allow_unused=True)
        finally:  # the user's code may keep the graph and run it again
            for hook in hooks:
                hook.remove()
        for label, tensor in {**leaves, **compared}.items():  # no gradient reached these
            gradients.setdefault(label, torch.zeros_like(tensor))
        return gradients


def _requiring_grad(values: Values) -> dict[str, Tensor]:
    """Return the values that require a gradient."""
    return {label: value for label, value in values.items() if value.requires_grad}


def parameters(
    function: Forward, outputs: Sequence[Tensor], inputs: Mapping[str, Any], named: Collection[str]
) -> dict[str, Tensor]:
    """Return name -> leaf for the leaves of autograd's graph that are not inputs.

    Parameters have the names that their module or closure has for them; a leaf without a name is
    called by its shape. A name that an input or an intermediate has already gets a prime.

    Args:
        function: The forward function or module.
        outputs: Its outputs, with autograd's graph.
        inputs: Name -> input, the leaves that are left out.
        named: Names of the intermediates.
    """
    input_ids = {id(tensor) for tensor in inputs.values()}
    leaves: dict[int, Tensor] = {}
    seen: set[Any] = set()
    pending = [output.grad_fn for output in outputs]
    while pending:
        node = pending.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        variable = getattr(node, "variable", None)  # of an AccumulateGrad node: its leaf
        if isinstance(variable, Tensor) and id(variable) not in input_ids:
            leaves[id(variable)] = variable
        pending += [source for source, _ in node.next_functions]
    names = {id(value): label for label, value in _named_tensors(function)}
    labels: dict[str, Tensor] = {}
    for value in leaves.values():
        label = names.get(id(value), f"a tensor of shape {tuple(value.shape)}")
        while label in labels or label in inputs or label in named:
            label += "'"
        labels[label] = value
    return labels


def _named_tensors(function: Forward) -> Iterator[tuple[str, Tensor]]:
    """Yield (name, tensor) for the tensors of a module, or of a function's closure and globals."""
    if isinstance(function, nn.Module):
        yield from function.named_parameters()
        return
    try:
        closure = inspect.getclosurevars(function)
    except TypeError:
        return
    for label, value in {**closure.globals, **closure.nonlocals}.items():
        if isinstance(value, Tensor):
            yield label, value
        elif isinstance(value, nn.Module):
            for name, tensor in value.named_parameters():
                yield f"{label}.{name}", tensor
