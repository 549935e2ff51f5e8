"""`compare.check`: the verdict on anyone's own backward pass."""

from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from functools import partial
from typing import Any

import torch
from torch import Tensor

from compare.arguments import (
    asked,
    by_name,
    cotangents,
    differentiable,
    gathered,
    how_much,
    kind_of,
    numbered,
    tensors,
)
from compare.diagnosis.bitwise import rewritten
from compare.diagnosis.diagnosis import diagnose
from compare.environment import environment
from compare.errors import BadInput, unknown
from compare.proof.bits import compare_bits, same_bits
from compare.proof.judge import Evidence, Floats, judge
from compare.proof.program import Opaque, Program, trace
from compare.report import Place, Quantity, Report
from compare.training.tally import mismatch as _mismatch

Forward = Callable[..., Any]
Backward = Callable[..., Any] | type[torch.autograd.Function]


_VALUE = "the value of "  # sets an intermediate's value apart from its gradient, which has its name
_named: ContextVar[dict[str, Tensor] | None] = ContextVar("named", default=None)


def name(tensor: Tensor, label: str) -> Tensor:
    """Name an intermediate of the forward pass, so that its gradient can be judged too.

    Returns `tensor` itself, and outside of `check` does nothing else. Raises BadInput for a name
    given twice.
    """
    found = _named.get()
    if found is not None:
        if not isinstance(label, str):
            raise BadInput(f"compare.name(..., {label!r}): a name is a string")
        if not isinstance(tensor, Tensor):
            raise BadInput(
                f"compare.name(..., {label!r}) was given {kind_of(tensor)}: name a tensor"
            )
        if label in found:
            raise BadInput(f"compare.name(..., {label!r}) is called twice: give each its own name")
        found[label] = tensor
    return tensor


def check(
    backward: Backward,
    forward: Forward,
    inputs: Mapping[str, Any] | Sequence[Any],
    *,
    seed: int = 0,
    lift: str | int = "auto",
) -> Report:
    """Judge `backward`, written by hand, by autograd through `forward` at `inputs`.

    `forward(...)` is differentiable torch code; `inputs` holds its arguments, by name or in order.
    `backward(...)` is given, by parameter name, whatever it asks for: `grad_output`, any input,
    any intermediate named with `compare.name`, `output`. It returns a dict name -> gradient, or a
    tuple in the order of the differentiable inputs: those with `requires_grad`, or every tensor of
    floats where none has it. It may be a `torch.autograd.Function`: its `apply` then runs both
    passes, and its output is judged as well. A scalar output gets `grad_output` 1, another one a
    random cotangent drawn with `seed`.

    `lift` says how much of a large matrix product is lifted: "all", a number of entries, "none" to
    lift nothing, or "auto": SAMPLE entries of those that would take seconds, and nothing of inputs
    with more than TOO_MANY elements.

    Raises BadInput for what cannot be judged; exceptions of the user's own code pass through.
    """
    return Check(backward, forward, inputs, seed).report(lift)


def assert_same(
    backward: Backward,
    forward: Forward,
    inputs: Mapping[str, Any] | Sequence[Any],
    *,
    demand: str = "rounding",
    seed: int = 0,
    lift: str | int = "auto",
) -> None:
    """Raise AssertionError with the report unless `check` finds EXACT or ROUNDING.

    `demand="exact"` insists on autograd's bits.
    """
    __tracebackhide__ = True
    if demand not in ("exact", "rounding"):
        raise unknown("demand", demand, ("exact", "rounding"))
    report = check(backward, forward, inputs, seed=seed, lift=lift)
    if not report.meets(demand):
        raise AssertionError(f"demand {demand!r} is not met\n{report}") from None


class Check:
    """One check: what is given, what each side makes of it, and the evidence for the judge."""

    def __init__(
        self,
        backward: Backward,
        forward: Forward,
        inputs: Mapping[str, Any] | Sequence[Any],
        seed: int,
        grads: Sequence[Tensor] | None = None,
    ) -> None:
        self.backward, self.forward, self.seed = backward, forward, seed
        self.inputs = by_name(forward, inputs)
        self.leaves = differentiable(self.inputs)
        first, values = self.outputs_at(self.inputs)
        second, again = self.outputs_at(self.inputs)
        for one, other in zip([*first, *values.values()], [*second, *again.values()], strict=True):
            if not _same_bits(one, other):
                raise BadInput(
                    "forward gives another result the second time: take random numbers and state "
                    "out of it, and pass them as inputs"
                )
        self.outputs = [output.detach() for output in first]
        self.values = {label: value.detach().clone() for label, value in values.items()}
        self.through = {label for label, value in values.items() if value.requires_grad}
        for label in self.values:
            if label in self.inputs or label in ("grad_output", "output"):
                raise BadInput(
                    f"compare.name(..., {label!r}): an input has that name, choose another"
                )
        self.grads = cotangents(self.outputs, seed) if grads is None else list(grads)
        self.is_function = isinstance(backward, type) and issubclass(
            backward, torch.autograd.Function
        )
        offer = self._offer()
        self.asked = [*self.inputs] if self.is_function else asked(backward, offer)
        wanted = [*self.asked, "grad_output"] if self.is_function else self.asked
        self.given = {key: value for key, value in offer.items() if key.split("[")[0] in wanted}

    def report(self, lift: str | int) -> Report:
        """Run both sides, read both as programs, judge, and put it all together."""
        off, entries = how_much(lift, [*self.inputs.values(), *self.values.values()])
        manual = self.run_by_hand()
        hand = off or _read(self.by_hand, self.given)
        reference = off or _read(self.reference, self.reference_inputs())
        return self.compared(manual, hand, reference, entries)

    def compared(
        self,
        manual: Mapping[str, Tensor],
        hand: Program | Opaque,
        reference: Program | Opaque,
        entries: int | None,
        **how: Any,
    ) -> Report:
        """Judge what the by-hand side gave, `manual`, with both programs; `how` as judge has it."""
        autograd, order = self._run_autograd(manual)
        report = Report("check", {}, environment=environment(self.outputs[0].device))
        for label in order:
            report.quantities[label] = quantity(label, manual.get(label), autograd[label])
        report.unnamed = tuple(label for label in self.values if label not in manual)
        report.steps = 1
        report.follows = hand.follows() if isinstance(hand, Program) else {}
        judged = [label for label, q in report.quantities.items() if q.problem is None]
        evidence = Evidence(
            hand=hand,
            reference=reference,
            entries=entries,
            inputs=tensors(self.reference_inputs()),
            given={
                key: (value, self.counterpart(key)) for key, value in tensors(self.given).items()
            },
            manual={label: manual[label] for label in judged},
            autograd={label: autograd[label] for label in judged},
            gradients=True,
            numbers={k: v for k, v in self.inputs.items() if isinstance(v, float)},
            again=self._again,
        )
        proofs = judge(evidence, judged, **how)
        if not how.get("brief"):  # no remedy is looked for where nobody reads of it
            odd = [label for label in report.quantities if label in manual and label not in judged]
            proofs = rewritten(evidence, diagnose(evidence, proofs, odd))
        for label, proof in proofs.items():
            report.quantities[label].proof = proof
        return report

    def _again(self, inputs: Mapping[str, Tensor]) -> Floats:
        """Return both sides at other inputs."""
        moved = {key: inputs.get(key, value) for key, value in self.inputs.items()}
        for key in self.leaves:
            moved[key] = moved[key].detach().requires_grad_()
        other = Check(self.backward, self.forward, moved, self.seed + 1)
        manual = other.run_by_hand()
        return other.given, manual, other._run_autograd(manual)[0]

    # -- the forward pass

    def outputs_at(self, inputs: Mapping[str, Any]) -> tuple[list[Tensor], dict[str, Tensor]]:
        """Run forward with fresh leaves; return its differentiable outputs and named values."""
        return self.run_forward(self._fresh(inputs))

    def run_forward(self, arguments: Mapping[str, Any]) -> tuple[list[Tensor], dict[str, Tensor]]:
        """Run forward on its arguments as they are."""
        named: dict[str, Tensor] = {}
        token = _named.set(named)
        try:
            with torch.enable_grad():
                found = self.forward(**arguments)
        finally:
            _named.reset(token)
        outputs = list(found) if isinstance(found, tuple | list) else [found]
        for output in outputs:
            if not isinstance(output, Tensor):
                raise BadInput(
                    f"forward returns {kind_of(output)}: return a tensor or a tuple of tensors"
                )
        return [output for output in outputs if output.requires_grad], named

    def _fresh(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Return copies of the inputs, those to be differentiated as leaves."""
        return {
            label: value.detach().clone().requires_grad_(label in self.leaves)
            if isinstance(value, Tensor)
            else value
            for label, value in inputs.items()
        }

    # -- the by-hand side

    def _offer(self) -> dict[str, Any]:
        """Return everything that backward may ask for; of several outputs each by its number."""
        return {
            **{k: v.detach() if isinstance(v, Tensor) else v for k, v in self.inputs.items()},
            **self.values,
            **dict(zip(numbered("grad_output", self.outputs), self.grads, strict=True)),
            **dict(zip(numbered("output", self.outputs), self.outputs, strict=True)),
        }

    def counterpart(self, given: str) -> str | None:
        """Return the reference's output that holds the same value, None for its own inputs."""
        if given in self.values:
            return _VALUE + given
        return given if given.split("[")[0] == "output" else None

    def run_by_hand(self) -> dict[str, Tensor]:
        """Return what the by-hand side gives, having seen that it left its inputs alone."""
        given = {k: v.clone() if isinstance(v, Tensor) else v for k, v in self.given.items()}
        found = self.by_hand(**given)
        for key, value in tensors(self.given).items():
            if not _same_bits(value, given[key]):
                raise BadInput(f"backward changes its input {key!r} in place: work on a copy of it")
        return {label: value.detach().clone() for label, value in found.items()}

    def by_hand(self, **given: Any) -> dict[str, Tensor]:
        """Run backward on exactly what it asks for; return its gradients by name."""
        found = self._apply(given) if self.is_function else self._call(given)
        like = {**tensors(self.inputs), **self.values}
        return {
            label: torch.zeros_like(like[label]) if value is None else value
            for label, value in found.items()
        }

    def _call(self, given: Mapping[str, Any]) -> Mapping[str, Tensor | None]:
        found = self.backward(**gathered(given, self.asked))
        if isinstance(found, Tensor):
            found = (found,)
        if isinstance(found, tuple | list):
            if len(found) != len(self.leaves):
                raise BadInput(
                    f"backward returns {len(found)} gradients for {len(self.leaves)} inputs "
                    f"({', '.join(self.leaves)}): return one for each, None where there is none"
                )
            found = dict(zip(self.leaves, found, strict=True))
        if not isinstance(found, Mapping):
            raise BadInput(
                f"backward returns {kind_of(found)}: return a dict or a tuple of gradients"
            )
        for label, value in found.items():
            if label in self.inputs and label not in self.leaves:
                raise BadInput(
                    f"backward returns a gradient for {label!r}, which needs none: mark it with "
                    "requires_grad=True, or leave it out"
                )
            if label in self.values and label not in self.through:
                raise BadInput(
                    f"backward returns a gradient for {label!r}, and none flows through it "
                    "(detached, or integers): leave it out"
                )
            if label not in self.leaves and label not in self.values:
                raise unknown("gradient", str(label), [*self.leaves, *self.values])
            if value is not None and not isinstance(value, Tensor):
                raise BadInput(f"backward returns {kind_of(value)} for {label!r}: return a tensor")
        return found

    def _apply(self, given: Mapping[str, Any]) -> dict[str, Tensor | None]:
        """Run the autograd.Function's own forward and backward."""
        fresh = self._fresh({label: given[label] for label in self.inputs})
        # not the leaves themselves: the Function may write into what it is given
        with torch.enable_grad():
            own = {k: v.clone() if isinstance(v, Tensor) else v for k, v in fresh.items()}
            found = self.backward.apply(*own.values())  # type: ignore[union-attr]
        outputs = [found] if isinstance(found, Tensor) else list(found)
        outputs = [out for out in outputs if isinstance(out, Tensor) and out.requires_grad]
        if len(outputs) != len(self.outputs):
            raise BadInput(
                f"{self.backward.__name__} has {len(outputs)} differentiable outputs and forward "
                f"{len(self.outputs)}: return the same ones"
            )
        labels = numbered("output", outputs)
        leaves = [fresh[label] for label in self.leaves]
        grads = [given[key] for key in numbered("grad_output", outputs)]
        try:
            gradients = torch.autograd.grad(outputs, leaves, grads, allow_unused=True)
        except RuntimeError as error:
            if "incorrect number of gradients" not in str(error):
                raise
            raise BadInput(str(error).splitlines()[0]) from None
        return {
            **{label: output.detach() for label, output in zip(labels, outputs, strict=True)},
            **dict(zip(self.leaves, gradients, strict=True)),
        }

    # -- the autograd side

    def reference_inputs(self) -> dict[str, Any]:
        """Return what `reference` takes: the inputs, and what stands above each output."""
        grads = dict(zip(numbered("grad_output", self.outputs), self.grads, strict=True))
        return {
            **{k: v.detach() if isinstance(v, Tensor) else v for k, v in self.inputs.items()},
            **grads,
        }

    def reference(self, **given: Any) -> dict[str, Tensor]:
        """Return the outputs, the named values and every gradient, as one function to read."""
        fresh = self._fresh({label: given[label] for label in self.inputs})
        outputs, named = self.run_forward(fresh)
        wanted = {**named, **{label: fresh[label] for label in self.leaves}}
        wanted = {label: tensor for label, tensor in wanted.items() if tensor.requires_grad}
        grads = [given[key] for key in numbered("grad_output", outputs)]
        gradients = torch.autograd.grad(outputs, list(wanted.values()), grads, allow_unused=True)
        labels = numbered("output", outputs)
        return {
            **{label: output.detach() for label, output in zip(labels, outputs, strict=True)},
            **{_VALUE + label: value.detach() for label, value in named.items()},
            **{
                label: torch.zeros_like(tensor) if gradient is None else gradient
                for (label, tensor), gradient in zip(wanted.items(), gradients, strict=True)
            },
        }

    def _run_autograd(self, manual: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
        """Return autograd's values, going on from the by-hand ones, and their order.

        Each named intermediate that the by-hand side has a gradient for gets a hook that notes
        autograd's gradient there and puts the by-hand value in its place.
        """
        fresh = self._fresh(self.inputs)
        outputs, named = self.run_forward(fresh)
        found: dict[str, Tensor] = {}
        if self.is_function:
            found.update(zip(numbered("output", outputs), self.outputs, strict=True))

        def note(label: str, gradient: Tensor) -> Tensor | None:
            found[label] = gradient.detach().clone()
            mine = manual.get(label) if label in named else None
            fits = mine is not None and _mismatch(mine, gradient) is None
            return mine.clone() if fits and mine is not None else None

        judged = {label: tensor for label, tensor in named.items() if label in manual}
        judged |= {label: fresh[label] for label in self.leaves}
        for label, tensor in judged.items():
            if tensor.requires_grad:
                tensor.register_hook(partial(note, label))
        gradients = torch.autograd.grad(
            outputs, [fresh[label] for label in self.leaves], self.grads, allow_unused=True
        )
        for label, gradient in zip(self.leaves, gradients, strict=True):
            found.setdefault(
                label, torch.zeros_like(fresh[label]) if gradient is None else gradient
            )
        for label, tensor in judged.items():
            found.setdefault(label, torch.zeros_like(tensor))
        return {label: value.detach() for label, value in found.items()}, list(found)


def _read(
    function: Callable[..., Mapping[str, Tensor | None]], inputs: dict[str, Any]
) -> Program | Opaque:
    try:
        return trace(function, inputs)
    except Opaque as why:
        return why


def quantity(label: str, manual: Tensor | None, autograd: Tensor) -> Quantity:
    """Return one quantity with its bits compared; `manual` is None where it is missing."""
    row = Quantity(label, tuple(autograd.shape), str(autograd.dtype).removeprefix("torch."))
    if manual is None:
        row.problem = (
            "missing by hand: return its gradient (None for zero), or say which inputs need one "
            "with requires_grad=True"
        )
        return row
    row.problem = _mismatch(manual, autograd)
    if row.problem:
        return row
    found = compare_bits(manual, autograd)
    row.compared, row.equal, row.nans, row.max_ulp = (
        found.total, found.equal, found.nans, found.max_ulp,
    )  # fmt: skip
    if found.worst:
        worst = found.worst
        row.worst = Place(None, None, worst.index, worst.manual, worst.autograd)
    return row


def _same_bits(one: Tensor, other: Tensor) -> bool:
    return _mismatch(one, other) is None and same_bits(one, other)
