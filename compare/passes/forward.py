"""The forward pass that `check` is given, and what autograd makes of it."""

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
    Forward,
    Inputs,
    Values,
    by_name,
    cotangents,
    differentiable,
    form_of,
    kind_of,
    numbered,
    tensors,
)
from compare.proof.bits import mismatch, same_bits
from compare.proof.program import RESERVED_NAMES, Key, ValueOf, base_name

_COMPLEX = torch.complex64, torch.complex128

_named: ContextVar[dict[str, Tensor] | None] = ContextVar("named", default=None)


def name(tensor: Tensor, label: str) -> Tensor:
    """Name an intermediate of the forward pass, so that its gradient can be judged too.

    Returns `tensor` itself, and outside of `check` does nothing else. Raises BadInput for a name
    given twice.
    """
    found = _named.get()
    if found is None:
        return tensor
    call = f"compare.name(..., {label!r})"
    if not isinstance(label, str):
        raise BadInput(f"{call}: a name is a string")
    if not label.strip() or not label.isprintable():
        raise BadInput(f"{call}: a name is a word that can be printed, as 'z1'")
    if not isinstance(tensor, Tensor):
        raise BadInput(f"{call} was given {kind_of(tensor)}: name a tensor")
    if label in found:
        raise BadInput(f"{call} is called twice: give each its own name")
    found[label] = tensor
    return tensor


class ForwardPass:
    """A differentiable function at its inputs, and what stands above each of its outputs.

    Raises BadInput for what cannot be judged; exceptions of the user's own code pass through.
    """

    def __init__(
        self, function: Forward, inputs: Inputs, seed: int, grads: Sequence[Tensor] | None = None
    ) -> None:
        self.function = function
        if isinstance(function, nn.Module):
            for label, value in function.named_parameters():
                if value.is_meta:
                    raise BadInput(f"forward's {label} is on the meta device: give it numbers")
        self.inputs = by_name(function, inputs)
        self.leaves = differentiable(self.inputs)
        leaves = self.fresh(self.inputs)
        first, values = self._run(leaves)
        #: Tensors that need a gradient and are no input: a module's weights, a closure's.
        self.parameters = parameters(function, first, leaves, values)
        #: Those whose gradients the by-hand side gives.
        self.judged: list[str] = []
        second, again = self.at(self.inputs)
        for one, other in zip([*first, *values.values()], [*second, *again.values()], strict=True):
            if mismatch(one, other) or not same_bits(one, other):
                raise BadInput(
                    "forward gives another result the second time: take random numbers and state "
                    "out of it, and pass them as inputs"
                )
        self.outputs = [output.detach() for output in first]
        self.values = {label: value.detach().clone() for label, value in values.items()}
        self.through = {label for label, value in values.items() if value.requires_grad}
        for label in self.values:
            if label in self.inputs or base_name(label) in RESERVED_NAMES:
                owner = "an input" if label in self.inputs else "what check offers"
                raise BadInput(
                    f"compare.name(..., {label!r}): {owner} has that name, choose another"
                )
        self.grads = cotangents(self.outputs, seed) if grads is None else list(grads)

    @property
    def given(self) -> dict[str, Any]:
        """What `reference` takes: the inputs, and what stands above each output."""
        return {
            **{k: v.detach() if isinstance(v, Tensor) else v for k, v in self.inputs.items()},
            **numbered("grad_output", self.grads),
        }

    @property
    def offer(self) -> dict[str, Any]:
        """Everything that backward may ask for; of several outputs each by its number."""
        return {**self.given, **self.values, **numbered("output", self.outputs)}

    def counterpart(self, offered: str) -> Key | None:
        """Return the output of `reference` with the same value, None for one of its inputs."""
        if offered in self.values:
            return ValueOf(offered)
        return offered if base_name(offered) == "output" else None

    def take_scalars_as_one(self) -> tuple[str, ...]:
        """Put 1 above each scalar output, as backward does that does not ask; return where."""
        pairs = zip(self.outputs, self.grads, strict=True)
        self.grads = [grad if out.ndim else torch.ones_like(out) for out, grad in pairs]
        named = numbered("grad_output", self.outputs)
        return tuple(label for label, output in named.items() if not output.ndim)

    def at(self, inputs: Mapping[str, Any]) -> tuple[list[Tensor], dict[str, Tensor]]:
        """Run with fresh leaves; return the differentiable outputs and the named values."""
        return self._run(self.fresh(inputs))

    def fresh(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Return copies of the inputs, those to be differentiated as leaves."""
        found = dict(inputs)
        for label, value in tensors(inputs).items():
            found[label] = value.detach().clone().requires_grad_(label in self.leaves)
        return found

    def _run(self, arguments: Mapping[str, Any]) -> tuple[list[Tensor], dict[str, Tensor]]:
        named: dict[str, Tensor] = {}
        token = _named.set(named)
        try:
            with torch.enable_grad():
                found = self.function(**arguments)
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
        outputs = list(found) if isinstance(found, tuple | list) else [found]
        for output in outputs:
            if not isinstance(output, Tensor):
                raise BadInput(
                    f"forward returns {kind_of(output)}: return a tensor or a tuple of tensors"
                )
            if not output.requires_grad:
                continue
            if form := form_of(output):
                raise BadInput(f"forward returns a {form} tensor: return a dense one with numbers")
            if output.dtype not in (*JUDGED, *_COMPLEX):
                raise BadInput(
                    f"forward returns {kind_of(output)}, which is not judged: return float64, "
                    "float32, float16 or bfloat16"
                )
        return [output for output in outputs if output.requires_grad], named

    def reference(self, /, **given: Any) -> dict[Key, Tensor]:
        """Return the outputs, the named values and every gradient, as one function to read."""
        fresh = self.fresh({label: given[label] for label in self.inputs})
        outputs, named = self._run(fresh)
        own: dict[str, Tensor] = {}

        def apart(label: str, gradient: Tensor) -> Tensor:
            """Give a name's gradient a node of its own: z = x + w hands one on to x and w."""
            own[label] = gradient.view(gradient.shape)
            return own[label]

        for label, tensor in _needing_gradients(named).items():
            tensor.register_hook(partial(apart, label))
        wanted = _needing_gradients({**named, **self._leaves(fresh)})
        grads = [given[key] for key in numbered("grad_output", outputs)]
        gradients = torch.autograd.grad(outputs, list(wanted.values()), grads, allow_unused=True)
        return {
            **{label: out.detach() for label, out in numbered("output", outputs).items()},
            **{ValueOf(label): value.detach() for label, value in named.items()},
            **{
                label: torch.zeros_like(tensor) if gradient is None else own.get(label, gradient)
                for (label, tensor), gradient in zip(wanted.items(), gradients, strict=True)
            },
        }

    def _leaves(self, fresh: Mapping[str, Any]) -> dict[str, Tensor]:
        """Return what gradients are asked of: the inputs' leaves, and parameters by hand too."""
        own = {label: fresh[label] for label in self.leaves}
        return own | {label: self.parameters[label] for label in self.judged}

    def gradients(
        self, manual: Values, going_on_from: Collection[str] | None = None
    ) -> dict[str, Tensor]:
        """Return autograd's gradients in the order of computation, going on from by-hand ones.

        Each named intermediate that the by-hand side has a gradient for gets a hook that notes
        autograd's gradient there and puts the by-hand value in its place, of these alone where
        they are given.
        """
        fresh = self.fresh(self.inputs)
        outputs, named = self._run(fresh)
        found: dict[str, Tensor] = {}
        replaced = {label: tensor for label, tensor in named.items() if label in manual}
        goes_on = replaced if going_on_from is None else replaced.keys() & going_on_from
        mine = {label: manual[label] for label in goes_on}

        # The graph holds its hooks, out of sight of Python's collector: a hook that held a tensor
        # of the graph would keep all of it for ever.
        def note(label: str, gradient: Tensor) -> Tensor | None:
            found[label] = gradient.detach().clone()
            fits = label in mine and mismatch(mine[label], gradient) is None
            return mine[label].clone() if fits else None

        leaves = self._leaves(fresh)
        wanted = _needing_gradients({**replaced, **leaves})
        hooks = [tensor.register_hook(partial(note, key)) for key, tensor in wanted.items()]
        try:
            # asked of named values too: one may lead to no leaf of ours
            torch.autograd.grad(outputs, [*wanted.values()], self.grads, allow_unused=True)
        finally:  # the user's own code may hold on to the graph, and run it again
            for hook in hooks:
                hook.remove()
        for label, tensor in {**leaves, **replaced}.items():  # what no gradient came to
            found.setdefault(label, torch.zeros_like(tensor))
        return found


def _needing_gradients(values: Values) -> dict[str, Tensor]:
    """Return those of the values that have a gradient."""
    return {label: value for label, value in values.items() if value.requires_grad}


def parameters(
    function: Forward, outputs: Sequence[Tensor], inputs: Mapping[str, Any], named: Collection[str]
) -> dict[str, Tensor]:
    """Return the leaves of autograd's graph that are no inputs, a module's by its own names.

    One that nobody has a name for is called by its shape; one that is called as an input or a
    `named` value is, by its name and a prime.
    """
    own = {id(tensor) for tensor in inputs.values()}
    found: dict[int, Tensor] = {}
    seen: set[Any] = set()
    left = [output.grad_fn for output in outputs]
    while left:
        node = left.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        variable = getattr(node, "variable", None)  # of what accumulates a leaf's gradient
        if isinstance(variable, Tensor) and id(variable) not in own:
            found[id(variable)] = variable
        left += [source for source, _ in node.next_functions]
    names = {id(value): label for label, value in _named_tensors(function)}
    labels: dict[str, Tensor] = {}
    for value in found.values():
        label = names.get(id(value), f"a tensor of shape {tuple(value.shape)}")
        while label in labels or label in inputs or label in named:
            label += "'"
        labels[label] = value
    return labels


def _named_tensors(function: Forward) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors that a function holds, under its names for them."""
    if isinstance(function, nn.Module):
        yield from function.named_parameters()
        return
    try:
        held = inspect.getclosurevars(function)
    except TypeError:
        return
    for label, value in {**held.globals, **held.nonlocals}.items():
        if isinstance(value, Tensor):
            yield label, value
        elif isinstance(value, nn.Module):
            for name, tensor in value.named_parameters():
                yield f"{label}.{name}", tensor
