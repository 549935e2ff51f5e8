"""A chunk of steps on both sides: by hand first, then by autograd from the same values.

The by-hand steps are isolated from autograd's tensors. Autograd takes the steps of a chunk in one
batch where this changes no bit.
"""

import math
from collections.abc import Sequence

import torch

from compare.errors import BadInput
from compare.proof.bits import same_bits
from compare.report.chunk import furthest
from compare.torch_private import version
from compare.training.adapters import Autograd, Named, Step, copies
from compare.training.chunking import Shard, Steps, stacked, unequal_steps


class ManualSide:
    """Takes the by-hand steps, each on copies of its inputs.

    A step may thus write into its inputs without an effect on autograd's. Copies of large weights
    would cost more than their comparison, so with `avoid_copies` a pure step receives the inputs
    themselves. A step is pure where it neither writes into its inputs nor returns a value in the
    storage of the weights.

    Args:
        step: the by-hand step, a function of named tensors.
        avoid_copies: copy the inputs only while the step is not known to be pure.
        has_into: whether the step takes memory for the new weights as `into`. With `avoid_copies`
            it gets that of earlier weights, since new memory would cost more than writing to it.
    """

    def __init__(self, step: Step, *, avoid_copies: bool, has_into: bool = False) -> None:
        self.step, self.avoid_copies, self.has_into = step, avoid_copies, has_into
        self.pure = False  # whether the last step was
        self.spare: Named = {}  # the state of an earlier chunk, which nobody reads again

    def take(self, data: list[Named], state: Named) -> tuple[list[Named], list[Named], Named]:
        """Take a chunk of steps.

        Args:
            data: the inputs of each step, but for the state.
            state: weights and other state before the first step, (P, ...) each.

        Returns:
            The inputs of each step, the values that it computed, and the state after the last one.

        Raises:
            BadInput: if a step is not pure after another one was, with `avoid_copies`.
        """
        before: list[Named] = []
        after: list[Named] = []
        # inference mode is faster, but autograd cannot use tensors that were made in it
        with torch.no_grad() if self.avoid_copies else torch.inference_mode():
            for step_data in data:
                before.append({**step_data, **state})
                after.append(self._step(before[-1], state))
                self.spare = {}
                state = {name: after[-1].get(name, value) for name, value in state.items()}
        if self.avoid_copies and self.has_into:
            self.spare = {name: before[0][name] for name in state}
        return before, after, state

    def _step(self, inputs: Named, state: Named) -> Named:
        if not self.avoid_copies:
            return self.step(**copies(inputs))
        passed = inputs if self.pure else copies(inputs)
        versions = list(map(version, passed.values()))
        values = self.step(**passed, **({"into": self.spare} if self.spare else {}))
        returned = {value.untyped_storage().data_ptr() for value in values.values()}
        weights = {passed[name].untyped_storage().data_ptr() for name in state}
        pure = not returned & weights and versions == list(map(version, passed.values()))
        if self.pure and not pure:
            raise BadInput(
                "the by-hand step writes into its inputs or returns them, and at first it did "
                "not: make it do the same at every step"
            )
        self.pure = pure
        return values


class Reference:
    """Takes the steps of a chunk by autograd, at the inputs of the by-hand steps.

    In one batch the weights before each by-hand step are a population, which autograd judges at
    once. Where any bit differs, some of those steps are taken again alone, with the shapes of the
    by-hand side. If they have other bits than in the batch, every step is taken alone, so the batch
    only saves time.

    Args:
        autograd: the reference side.
        one_batch: try one batch for all steps of a chunk.
        avoid_copies: let autograd update the weights of the inputs in place.
    """

    def __init__(self, autograd: Autograd, *, one_batch: bool, avoid_copies: bool) -> None:
        self.autograd, self.one_batch, self.avoid_copies = autograd, one_batch, avoid_copies

    def values(self, shard: Shard, before: Sequence[Named], after: Steps) -> Named:
        """Return autograd's values at each step with the by-hand values injected.

        Args:
            shard: the networks.
            before: the inputs of each step.
            after: the by-hand values of each step.

        Returns:
            Autograd's values, (steps, networks, ...) each; the by-hand values where no bit differs.
        """
        if self.one_batch:
            autograd = self._batch(shard, before, after.values)
            if self._same_alone(shard, before, after, autograd):
                return autograd
        manual, unequal = list(after), list[Named]()
        for inputs, values in zip(before, manual, strict=True):
            inputs = inputs if self.avoid_copies else copies(inputs)
            unequal.append(self.autograd.unequal(values, **inputs))
        return {
            name: torch.stack(
                [one.get(name, v[name]) for one, v in zip(unequal, manual, strict=True)]
            )
            if any(name in one for one in unequal)
            else value
            for name, value in after.values.items()
        }

    def _batch(self, shard: Shard, before: Sequence[Named], manual: Named) -> Named:
        inputs = copies(shard.batched(stacked(before)))  # autograd updates its weights in place
        unequal = self.autograd.unequal(shard.batched(manual), **inputs)
        shape = len(before), shard.networks
        return manual | {n: v[: math.prod(shape)].unflatten(0, shape) for n, v in unequal.items()}

    def _same_alone(
        self, shard: Shard, before: Sequence[Named], after: Steps, autograd: Named
    ) -> bool:
        """Whether unequal steps have the same bits when autograd takes them alone.

        The first, the middle and the last of them are tried: another kernel changes them all.
        """
        P = shard.networks
        unequal = unequal_steps(after.values, autograd, P)
        for k in {unequal[0], unequal[len(unequal) // 2], unequal[-1]} if unequal else ():
            alone = self.autograd.step_from(after[k], **before[k])
            if not all(
                same_bits(alone[name][:P], value[k][:P]) for name, value in autograd.items()
            ):
                return False
        return True

    def train_alone(
        self, shard: Shard, before: Sequence[Named], after: Sequence[Named], gap: float | None
    ) -> float | None:
        """Let autograd train without injection; return its largest distance from the weights.

        Until the first difference both sides have the same weights, since every step was the same.
        So autograd starts from the first chunk in which any bit differs.

        Args:
            shard: the networks, with autograd's state since then.
            before: the inputs of each by-hand step of the chunk.
            after: the values of each by-hand step.
            gap: the largest distance so far.

        Returns:
            The largest |autograd alone - by hand| of any weight; None with `avoid_copies`.
        """
        if self.avoid_copies:
            return None
        free = {n: before[0][n] for n in shard.state} if shard.free is None else shard.free
        for inputs, manual in zip(before, after, strict=True):
            values = self.autograd.step(**{**inputs, **free})
            free = {name: values[name] for name in free}
            gaps = [(free[name] - manual[name])[: shard.networks].abs().max() for name in free]
            gap = furthest([gap or 0.0, *map(float, gaps)])
        shard.free = free
        return gap
