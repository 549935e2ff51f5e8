"""How well a network tells y: at a step, and after training, of the rows kept back."""

import numpy as np
import torch
from torch import Tensor

from compare.cases.cases import Case
from compare.proof.bits import compare_bits
from compare.proof.program import Opaque
from compare.training.accumulate import Tally
from compare.training.adapters import Autograd, Named, by_hand_prediction, copies
from compare.training.chunking import one_network
from compare.training.prover import Prover
from compare.training.sampling import Sampler

Surface = tuple[np.ndarray, list[tuple[str, float, float]], list[tuple[float, float, float]]]

PREFIX = "test_"  # of the quantities' names
MOST_CLASSES = 256  # that a confusion matrix tells apart: it grows with their square


def evaluate(
    given: Sampler, state: Named, tally: Tally, autograd: Autograd, off: Opaque | None,
    entries: int | None,
) -> None:  # fmt: skip
    """Judge every layer's value of a prediction of the rows kept back.

    The report gets a row for each, and how many rows are right by hand. All networks are compared
    and bounded, the first one is lifted; `off` and `entries` are the lifting's.
    """
    X, y, case, report = given.X_test, given.y_test, given.case, tally.report
    assert X is not None
    assert y is not None
    manual_step = by_hand_prediction(case)
    asked = {"X": X, **{name: state[name] for name in autograd.learned(X)}}
    with torch.inference_mode():
        ours = manual_step(**copies(asked))
    theirs = autograd.predict_from(ours, **asked)
    network, l = case.network, ours[case.network.prediction]
    report.classes = given.classes
    if network.loss == "cross_entropy":
        report.confusion = confusion(l, y)
    if network.classes:
        report.accuracy = float(right(l[None], y[None], network.loss))
    names = {name: PREFIX + name for name in ours}
    if not tally.open(*({names.get(n, n): v for n, v in s.items()} for s in (ours, theirs))):
        return
    prover = Prover(manual_step, autograd.traceable_prediction, off, entries)
    step, unequal = report.steps - 1, []
    one = [copies(one_network(values, 0)) for values in (asked, ours, theirs)]
    for name, proof in prover.proof(*one).items():
        found = compare_bits(ours[name][None], theirs[name][None])
        tally.add(names[name], step, found)
        tally.prove(step, {names[name]: proof})
        unequal += [name] * bool(found.worst)
    for name, share in prover.shares(unequal, asked, ours, theirs).items():
        tally.bound(names[name], None if share is None else float(share.max()), step)


def error(l: Tensor, y: Tensor, loss: str) -> Tensor:
    """Return the mean absolute error of (steps, networks, rows, outputs), at each step.

    Logits say of y what they are as chances.
    """
    if loss == "cross_entropy":
        l = torch.softmax(l, -1)
    elif loss == "binary_cross_entropy_with_logits":
        l = torch.sigmoid(l)
    return (y - l).abs().mean((-3, -2, -1))


def right(l: Tensor, y: Tensor, loss: str) -> Tensor:
    """Return the share of rows whose class is right, at each step likewise."""
    if loss == "cross_entropy":
        hits = l.argmax(-1) == y.argmax(-1)
    else:
        hits = ((l > 0) == (y > 0.5)).all(-1)
    return hits.to(torch.float64).mean((-2, -1))


def confusion(l: Tensor, y: Tensor) -> list[list[int]]:
    """Return how many rows of each class were taken for which, of (networks, rows, classes).

    Of more than MOST_CLASSES classes some neighbouring ones share a row and a column.
    """
    each = max(1, -(-y.shape[-1] // MOST_CLASSES))
    count = -(-y.shape[-1] // each)
    pairs = y.argmax(-1).flatten() // each * count + l.argmax(-1).flatten() // each
    found: list[list[int]] = torch.bincount(pairs, minlength=count**2).view(count, count).tolist()
    return found


_AROUND, _CELLS = 0.5, 81  # how far a surface reaches beyond the rows, and how fine it is
_POINTS = 1000  # of the rows are shown on it at most


def decision_surface(case: Case, given: Sampler, state: Named) -> Surface | None:
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
    learned = {name: v[0] for name, v in state.items()}
    predict = by_hand_prediction(case)
    # line by line: a wide layer's values at all cells at once would be large
    lines = [predict(X=line, **learned)[case.network.prediction][:, 0] for line in grid]
    some = slice(None, None, -(-len(X) // _POINTS))
    columns = (X[some, varying[0]], X[some, varying[1]], y[some, 0])
    points = list(zip(*(column.tolist() for column in columns), strict=True))
    axes = [(f"input {n}", *each) for n, each in zip(varying, ends, strict=True)]
    return torch.stack(lines).double().cpu().numpy(), axes, points
