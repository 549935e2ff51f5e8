"""After training: both sides asked, in evaluation, about the rows kept back."""

import torch
from torch import Tensor

from compare.bits import compare_bits
from compare.cases import Case
from compare.program import Opaque
from compare.prove import Prover
from compare.sides import Autograd, Named, by_hand_prediction
from compare.tally import Tally

PREFIX = "test_"  # of the quantities' names


class Evaluation:
    """Judges every layer's value of a prediction; `off` and `entries` are the lifting's."""

    def __init__(
        self, case: Case, autograd: Autograd, off: Opaque | None, entries: int | None
    ) -> None:
        self.hand, self.autograd = by_hand_prediction(case), autograd
        self.prover = Prover(self.hand, autograd.traceable_prediction, off, entries)

    def judge(self, X: Tensor, state: Named, tally: Tally) -> Named:
        """Add a row to the tally for each value at X (P, rows, I); return the by-hand values.

        All networks are compared and bounded, the first one is lifted.
        """
        given = {"X": X, **{name: state[name] for name in self.autograd.learned(X)}}
        with torch.inference_mode():
            ours = self.hand(**{name: value.clone() for name, value in given.items()})
        theirs = self.autograd.predict_from(ours, **given)
        step = tally.report.steps - 1
        names = {name: PREFIX + name for name in ours}
        if not tally.open(*({names.get(n, n): v for n, v in s.items()} for s in (ours, theirs))):
            return ours
        one = [
            {name: value[:1].clone() for name, value in s.items()} for s in (given, ours, theirs)
        ]
        unequal = []
        for name, proof in self.prover.proof(*one).items():
            found = compare_bits(ours[name][None], theirs[name][None])
            tally.add(names[name], step, found)
            tally.prove(step, {names[name]: proof})
            unequal += [name] * bool(found.worst)
        for name, share in self.prover.shares(unequal, given, ours, theirs).items():
            tally.bound(names[name], None if share is None else float(share.max()), step)
        return ours
