"""After training: both sides asked, in evaluation, about the rows kept back."""

import numpy as np
import torch
from torch import Tensor

from compare.cases.cases import Case
from compare.proof.bits import compare_bits
from compare.proof.program import Opaque
from compare.training.accumulate import Tally
from compare.training.adapters import Autograd, Named, by_hand_prediction
from compare.training.prover import Prover
from compare.training.sampling import Given

Surface = tuple[np.ndarray, list[tuple[str, float, float]], list[tuple[float, float, float]]]

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


_AROUND, _CELLS = 0.5, 81  # how far a surface reaches beyond the rows, and how fine it is
_POINTS = 1000  # of the rows are shown on it at most


def decision_surface(case: Case, given: Given, state: Named) -> Surface | None:
    """Return the first network's first output by hand over its two inputs that vary.

    None where another number of inputs vary. The grid's rows follow the second input.
    """
    X, y = given.X[0], given.y[0]
    least, most = X.min(0).values, X.max(0).values
    varying = (least < most).nonzero().flatten().tolist()
    if len(varying) != 2:
        return None
    ends = [(float(least[n]) - _AROUND, float(most[n]) + _AROUND) for n in varying]
    scales = [torch.linspace(*each, _CELLS).to(X) for each in ends]
    grid = least.expand(_CELLS, _CELLS, -1).clone()
    grid[..., varying[0]], grid[..., varying[1]] = scales[0], scales[1][:, None]
    learned = {name: v[0] for name, v in state.items() if not name.endswith(case.network.moments)}
    predict = by_hand_prediction(case)
    # line by line: a wide layer's values at all cells at once would be large
    lines = [predict(X=line, **learned)[case.network.prediction][:, 0] for line in grid]
    one, two = varying
    some = slice(None, None, -(-len(X) // _POINTS))
    points = [
        (float(x[one]), float(x[two]), float(t[0])) for x, t in zip(X[some], y[some], strict=True)
    ]
    axes = [(f"input {n}", *each) for n, each in zip(varying, ends, strict=True)]
    return torch.stack(lines).double().cpu().numpy(), axes, points
