"""The by-hand steps of a chunk in one batch, where this changes no bit.

A draft guesses the weights before each step. As a population of networks they let the step's own
code compute all steps at once. If the weights after each step have the bits that the draft has
before the next one, then these are the steps one after the other, since the first one starts from
the true weights. So the draft only saves time: nothing in the report comes from it.
"""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from compare.proof.bits import same_bits, tensor_spec
from compare.training.adapters import Named, Step, copies
from compare.training.chunking import Shard, Steps, stacked
from compare.training.draft import Draft, draft_of


class ManualBatch:
    """Takes the by-hand steps of a chunk in one batch.

    A step must have the bits in a batch that it has alone. All steps of a first chunk are taken
    both ways, and the batch is used only if no bit differs. Of each chunk after that, one step is
    taken alone too.

    Args:
        step: the by-hand step, a function of named tensors that only computes.
        steps: the most steps of a chunk.
    """

    def __init__(self, step: Step, steps: int) -> None:
        self.step, self.steps = step, steps
        self.drafts: dict[int, Draft | None] = {}  # by the number of networks; None: no batch
        self.chunks = 0  # taken in one batch so far

    def learn(self, shard: Shard, before: Sequence[Named], after: Steps) -> None:
        """Decide from a chunk of steps taken alone whether later ones can share a batch.

        Args:
            shard: the networks.
            before: the inputs of each step.
            after: the values of each step.
        """
        networks = _networks(shard.state)
        if networks in self.drafts:
            return
        inputs = stacked(before)
        alone = {name: value[:, : shard.networks] for name, value in after.values.items()}
        draft = None
        if _same(alone, self._values(shard, inputs)):
            data = {name: value for name, value in before[0].items() if name not in shard.state}
            draft = draft_of(self.step, data, shard.state, self.steps)
        self.drafts[networks] = draft

    def take(self, shard: Shard, data: Sequence[Named]) -> tuple[Steps, Steps, Named] | None:
        """Take a chunk of steps in one batch.

        Args:
            shard: the networks, with their state before the first step.
            data: the inputs of each step, but for the state.

        Returns:
            The inputs of each step, the values that it computed, and the state after the last one.
            None if the steps have to be taken one after the other.

        Raises:
            RuntimeError: if a step has other bits in the batch than alone.
        """
        networks = _networks(shard.state)
        if (draft := self.drafts.get(networks)) is None:
            return None
        inputs = stacked(data)
        states = draft.run(inputs, shard.state)
        before = Steps(inputs | {n: v[:-1].clone() for n, v in states.items()}, shard.multiple)
        after = Steps(self._values(shard, before.values), shard.multiple)
        guessed = {name: value[1:, : shard.networks] for name, value in states.items()}
        if not _same(guessed, {name: after.values.get(name) for name in guessed}):
            self.drafts[networks] = None  # at these weights the step does not do what was recorded
            return None
        # a prime, so that the chunks try other places one after the other
        sample = 197 * self.chunks % len(data)
        with torch.inference_mode():
            alone = self.step(**copies(before[sample]))
        if not _same(alone, after[sample]):
            raise RuntimeError(
                f"a by-hand step has other bits in a batch of {len(data)} steps than alone"
            )
        self.chunks += 1
        return before, after, {name: value[-1].clone() for name, value in states.items()}

    def _values(self, shard: Shard, inputs: Named) -> Named:
        """Return the values (steps, networks, ...) of steps with inputs (steps, P, ...)."""
        with torch.inference_mode():
            values = self.step(**copies(shard.batched(inputs)))
        shape = len(next(iter(inputs.values()))), shard.networks
        return {n: v[: math.prod(shape)].unflatten(0, shape) for n, v in values.items()}


def _networks(state: Named) -> int:
    """Return the number of networks, with those that only fill whole vectors."""
    return len(next(iter(state.values())))


def _same(one: Named, other: Mapping[str, Tensor | None]) -> bool:
    """Whether both have the same names, shapes, dtypes and bits."""
    return one.keys() == other.keys() and all(
        value is not None and tensor_spec(value) == tensor_spec(one[name])
        and same_bits(value, one[name])
        for name, value in other.items()
    )  # fmt: skip
