"""Autograd's side of a run: the same steps, in one batch where that changes no bit."""

import torch

from compare.proof.bits import same_bits
from compare.report.chunk import furthest
from compare.training.adapters import Autograd, Named, Watch, copies
from compare.training.shard import Part, at, unequal_steps


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
            seen = Watch(at(ours, k))
            self.autograd.learn(seen.look, **(given if self.heavy else copies(given)))
            steps.append(seen.unequal)
        return {
            name: torch.stack([step.get(name, value[k]) for k, step in enumerate(steps)])
            if any(name in step for step in steps)
            else value
            for name, value in ours.items()
        }

    def _batch(self, part: Part, before: list[Named], ours: Named) -> Named:
        batch = {n: part.batch(torch.stack([b[n] for b in before])) for n in before[0]}
        seen = Watch(part.batched(ours))
        self.autograd.learn(seen.look, **batch)
        return ours | {n: part.unbatched(v, len(before)) for n, v in seen.unequal.items()}

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
