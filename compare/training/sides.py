"""A chunk of steps on both sides: by hand first, then by autograd from the same values.

Nothing that the by-hand side does reaches the other one, which takes the steps in one batch where
that changes no bit.
"""

import math

import torch

from compare.errors import BadInput
from compare.proof.bits import same_bits
from compare.report.chunk import furthest
from compare.torch_private import version
from compare.training.adapters import Autograd, Named, Step, copies
from compare.training.chunking import Part, at, unequal_steps


class ManualSide:
    """Takes steps by hand, each from copies: what it does to them stays its own affair.

    Copies of large weights would cost more than their comparison. So where they are `heavy`, a step
    that left alone what it was given, and made its weights anew, is lent the next ones themselves.
    """

    def __init__(self, step: Step, *, heavy: bool) -> None:
        self.step, self.heavy = step, heavy
        self.apart = False  # whether the last step left alone what it was given

    def take(self, data: list[Named], state: Named) -> tuple[list[Named], list[Named], Named]:
        """Return what each step was given, what it gave, and the state that they lead to.

        Raises BadInput where a step is no longer apart that was at first.
        """
        before: list[Named] = []
        after: list[Named] = []
        # autograd cannot take over what was made in inference mode, which is the faster one
        with torch.no_grad() if self.heavy else torch.inference_mode():
            for given in data:
                before.append({**given, **state})
                after.append(self._step(before[-1], state))
                state = {name: after[-1].get(name, value) for name, value in state.items()}
        return before, after, state

    def _step(self, given: Named, state: Named) -> Named:
        if not self.heavy:
            return self.step(**copies(given))
        lent = given if self.apart else copies(given)
        versions = list(map(version, lent.values()))
        found = self.step(**lent)
        ours = {value.untyped_storage().data_ptr() for value in found.values()}
        theirs = {lent[name].untyped_storage().data_ptr() for name in state}
        apart = not ours & theirs and versions == list(map(version, lent.values()))
        if self.apart and not apart:
            raise BadInput(
                "the by-hand step writes into what it is given, or returns it, and at first did "
                "not: have it do the same at every step"
            )
        self.apart = apart
        return found


class Reference:
    """Autograd at what each step by hand was given; `together` allows it to take one batch.

    The weights that the by-hand side passed through are then a population, which autograd judges at
    once. Where any bit differs some of those steps are taken alone, with the shapes that the
    by-hand side has: if that gives other bits than the batch, every step is taken alone. So the
    batch only saves time. `heavy` weights are taken over and not copied.
    """

    def __init__(self, autograd: Autograd, *, together: bool, heavy: bool) -> None:
        self.autograd, self.together, self.heavy = autograd, together, heavy

    def values(self, part: Part, before: list[Named], ours: Named) -> Named:
        """Return autograd's values at each step, (steps, networks, ...).

        Each goes on from the by-hand values of those above it. Where all its bits are those by
        hand, the by-hand tensor itself stands for it.
        """
        if self.together:
            theirs = self._batch(part, before, ours)
            if self._same_alone(part, before, ours, theirs):
                return theirs
        steps: list[Named] = []
        for k, given in enumerate(before):
            given = given if self.heavy else copies(given)
            steps.append(self.autograd.unequal(at(ours, k), **given))
        return {
            name: torch.stack([step.get(name, value[k]) for k, step in enumerate(steps)])
            if any(name in step for step in steps)
            else value
            for name, value in ours.items()
        }

    def _batch(self, part: Part, before: list[Named], ours: Named) -> Named:
        given = {n: torch.stack([b[n] for b in before]) for n in before[0]}  # not their storage
        unequal = self.autograd.unequal(part.batched(ours), **part.batched(given))
        shape = len(before), part.networks
        return ours | {n: v[: math.prod(shape)].unflatten(0, shape) for n, v in unequal.items()}

    def _same_alone(self, part: Part, before: list[Named], ours: Named, theirs: Named) -> bool:
        """Whether autograd gives unequal steps alone the bits that it gave them in the batch.

        The first, the middle and the last of them are tried: another kernel shows everywhere.
        """
        P = part.networks
        unequal = unequal_steps(ours, theirs, P)
        for k in {unequal[0], unequal[len(unequal) // 2], unequal[-1]} if unequal else ():
            alone = self.autograd.step_from(at(ours, k), **before[k])
            if not all(same_bits(alone[name][:P], theirs[name][k][:P]) for name in ours):
                return False
        return True

    def go_free(
        self, part: Part, before: list[Named], after: list[Named], gap: float | None
    ) -> float | None:
        """Let autograd train on its own; return how far its weights come to lie from ours.

        Until the first difference its weights are ours, since each of its steps was; so it sets
        out from the first chunk in which any bit differs. `gap` is what was seen before, and None
        is returned where it is not let go.
        """
        if self.heavy:
            return None
        free = {n: before[0][n] for n in part.state} if part.free is None else part.free
        for given, ours in zip(before, after, strict=True):
            named = self.autograd.step(**{**given, **free})
            free = {name: named[name] for name in free}
            each = [(free[name] - ours[name])[: part.networks].abs().max() for name in free]
            gap = furthest([gap or 0.0, *map(float, each)])
        part.free = free
        return gap
