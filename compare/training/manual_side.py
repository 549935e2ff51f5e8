"""The by-hand side of a run: it goes ahead, and nothing that it does reaches the other side."""

import torch

from compare.errors import BadInput
from compare.training.adapters import Named, Step, copies


class Ahead:
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
        versions = [value._version for value in lent.values()]
        found = self.step(**lent)
        ours = {value.untyped_storage().data_ptr() for value in found.values()}
        theirs = {lent[name].untyped_storage().data_ptr() for name in state}
        apart = not ours & theirs and versions == [value._version for value in lent.values()]
        if self.apart and not apart:
            raise BadInput(
                "the by-hand step writes into what it is given, or returns it, and at first did "
                "not: have it do the same at every step"
            )
        self.apart = apart
        return found
