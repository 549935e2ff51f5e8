"""Mutants of a case's by-hand step."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor

from compare.cases.cases import Case
from compare.environment import dtype_named
from compare.mutants.mutate import evaluate
from compare.mutants.subjects import Named, Subject, double, readable, too_large
from compare.passes.inputs import how_much
from compare.proof.bits import mismatch
from compare.proof.pair import Pair
from compare.proof.program import Program, read
from compare.training.adapters import Autograd, by_hand
from compare.training.sampling import draw


class OfCase(Subject):
    """A case's by-hand step, some steps into its training, when moments are no longer 0."""

    STEPS = 3  # by hand before the step that is judged

    def __init__(
        self, case: Case, *, dtype: str = "float64",
        given: Named | None = None, programs: tuple[Program, Program] | None = None,
    ) -> None:  # fmt: skip
        self.case, self.name = case, f"case {case.name}"
        self.side = Autograd(case)
        hand = by_hand(case)
        if given is None:
            drawn = draw(case, seed=1, population=1, dtype=dtype_named(dtype),
                         device=torch.device("cpu"))  # fmt: skip
            state = drawn.state
            for data in drawn.steps(self.STEPS + 1):
                given = {**data, **state}
                after = hand(**{name: value.clone() for name, value in given.items()})
                state = {name: after.get(name, state[name]) for name in state}
        assert given is not None
        self.given = self.inputs = given
        off, self.entries = how_much("auto", given.values())
        if off:
            raise too_large(self.name, off)
        if programs is None:
            programs = (
                readable("backward", read(hand, given)),
                readable("autograd's step", read(self.side.traceable, given)),
            )
        self.hand, self.reference = programs
        self.plain = self.side.step(**given)

    def compared(self, program: Program, values: Named) -> tuple[Named, Pair]:
        """Return autograd's step going on from a mutant's values, and both as a pair."""
        fitting = {k: v for k, v in values.items() if mismatch(v, self.plain[k]) is None}
        theirs = self.side.step_from(fitting, **self.given)
        autograd = {name: theirs[name] for name in values}
        both = {name: theirs[name] for name in fitting}
        return autograd, replace(self.pair, hand=program, manual=fitting, autograd=both)

    @cached_property
    def pair(self) -> Pair:
        """The step as it stands beside autograd's."""
        values = self.values(self.hand)
        return Pair(
            hand=self.hand, reference=self.reference, inputs=self.given,
            given={name: (value, None) for name, value in self.given.items()},
            manual=values, autograd=values, entries=self.entries,
        )  # fmt: skip

    def autograd(self) -> Named:
        """Return autograd's step, from the weights on."""
        return {name: self.plain[name] for name in self.hand.outputs}

    def at(self, inputs: Named) -> "OfCase":
        """Return the step at other weights and rows."""
        return OfCase(self.case, given=inputs, programs=(self.hand, self.reference))

    def differentiable(self) -> tuple[Named, Callable[..., Any], Callable[..., Any]]:
        """Return the weights, the loss as a function of them, and minus the mutant's updates."""
        names = [name for name in self.side.trainer(self.given["X"]).parameters
                 if f"{name}_update" in self.hand.outputs]  # fmt: skip

        def back(program: Program, leaves: Sequence[Tensor], grads: Sequence[Tensor]) -> list[Any]:
            given = {**self.given, **dict(zip(names, leaves, strict=True))}
            found = evaluate(program, given, double)
            return [-grads[0] * found[f"{name}_update"] for name in names]

        return {k: self.given[k] for k in names}, partial(self._loss, names), back

    def _loss(self, names: Sequence[str], _program: Program, *leaves: Tensor) -> list[Tensor]:
        """Return the loss at these weights, the penalties too."""
        trainer = self.side.trainer(self.given["X"])
        for name, mask in trainer.masks.items():
            mask.mask = self.given[name]
        own = {id(weight): name for name, weight in trainer.network.named_parameters()}
        weights = {
            **{k: self.given[k] for k in trainer.parameters},
            **dict(zip(names, leaves, strict=True)),
        }
        there = {own[id(trainer.parameters[name])]: value for name, value in weights.items()}
        trainer.network.train()
        layer = torch.func.functional_call(trainer.network, there, (self.given["X"],))
        loss = trainer.loss(layer, self.given["y"]).sum()
        l1, l2 = trainer.penalties
        syns = [weight for name, weight in weights.items() if name.startswith("syn") and (l1 or l2)]
        return [loss + sum(l2 / 2 * (w**2).sum() + l1 * w.abs().sum() for w in syns)]
