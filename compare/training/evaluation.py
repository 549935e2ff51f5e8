"""Evaluate the network: its error and accuracy at each step, and on the test rows at the end."""

import numpy as np
import torch
from torch import Tensor

from compare.cases.cases import Case
from compare.proof.bits import compare_bits
from compare.proof.program import Opaque
from compare.training.accumulate import Tally
from compare.training.adapters import Autograd, Named, copies, manual_prediction_of
from compare.training.chunking import one_network
from compare.training.prover import Prover
from compare.training.sampling import Sampler

Surface = tuple[np.ndarray, list[tuple[str, float, float]], list[tuple[float, float, float]]]

PREFIX = "test_"  # of the names of quantities of the test rows
MAX_CLASSES = 256  # of a confusion matrix, whose size is their square


def evaluate(
    sampler: Sampler, state: Named, tally: Tally, reference: Autograd, off: Opaque | None,
    entries: int | None,
) -> None:  # fmt: skip
    """Evaluate the test rows on both sides, and compare the value of every layer.

    The report gets a row for each layer's value, the accuracy by hand and the confusion matrix. All
    networks are compared and bounded; the first one is lifted.

    Args:
        sampler: has the test rows.
        state: weights and running statistics after training, (P, ...) each.
        tally: collects the results.
        reference: the autograd side.
        off: the reason for lifting nothing, None to lift; see `Prover`.
        entries: number of entries of a large product to lift; see `Prover`.
    """
    X, y, case, report = sampler.X_test, sampler.y_test, sampler.case, tally.report
    assert X is not None
    assert y is not None
    predict = manual_prediction_of(case)
    inputs = {"X": X, **{name: state[name] for name in reference.learned(X)}}
    with torch.inference_mode():
        manual = predict(**copies(inputs))
    autograd = reference.predict_from(manual, **inputs)
    network, l = case.network, manual[case.network.prediction]
    report.classes = sampler.classes
    if network.loss == "cross_entropy":
        report.confusion = confusion(l, y)
    if network.classes:
        report.accuracy = float(accuracy(l[None], y[None], network.loss))
    names = {name: PREFIX + name for name in manual}
    if not tally.open(*({names.get(n, n): v for n, v in s.items()} for s in (manual, autograd))):
        return
    prover = Prover(predict, reference.traceable_prediction, off, entries)
    step, unequal = report.steps - 1, []
    first = [copies(one_network(values, 0)) for values in (inputs, manual, autograd)]
    for name, proof in prover.proof(*first).items():
        difference = compare_bits(manual[name][None], autograd[name][None])
        tally.add(names[name], step, difference)
        tally.prove(step, {names[name]: proof})
        unequal += [name] * bool(difference.worst)
    for name, share in prover.shares(unequal, inputs, manual, autograd).items():
        tally.bound(names[name], None if share is None else float(share.max()), step)


def mean_absolute_error(l: Tensor, y: Tensor, loss: str) -> Tensor:
    """Return the mean absolute error at each step, (steps,).

    Args:
        l: output of the network, (steps, networks, rows, outputs); for a loss that takes logits
            it is turned into probabilities first.
        y: targets, likewise.
        loss: name of the loss.
    """
    if loss == "cross_entropy":
        l = torch.softmax(l, -1)
    elif loss == "binary_cross_entropy_with_logits":
        l = torch.sigmoid(l)
    return (y - l).abs().mean((-3, -2, -1))


def accuracy(l: Tensor, y: Tensor, loss: str) -> Tensor:
    """Return the share of rows whose class is right at each step; see `mean_absolute_error`."""
    if loss == "cross_entropy":
        hits = l.argmax(-1) == y.argmax(-1)
    else:
        hits = ((l > 0) == (y > 0.5)).all(-1)
    return hits.to(torch.float64).mean((-2, -1))


def confusion(l: Tensor, y: Tensor) -> list[list[int]]:
    """Return the confusion matrix: entry [i, j] counts rows of class i that were classified as j.

    With more than MAX_CLASSES classes several neighbouring ones share a row and a column.

    Args:
        l: output of the network, (networks, rows, classes).
        y: targets, one-hot, likewise.
    """
    each = max(1, -(-y.shape[-1] // MAX_CLASSES))
    count = -(-y.shape[-1] // each)
    pairs = y.argmax(-1).flatten() // each * count + l.argmax(-1).flatten() // each
    counts: list[list[int]] = torch.bincount(pairs, minlength=count**2).view(count, count).tolist()
    return counts


_MARGIN, _CELLS = 0.5, 81  # of a surface beyond the rows, and its cells along each axis
_MAX_POINTS = 1000  # rows that a surface shows


def decision_surface(case: Case, sampler: Sampler, state: Named) -> Surface | None:
    """Return the first output of the first network, by hand, over two inputs.

    Args:
        case: the case of the run.
        sampler: has the training rows.
        state: weights of all networks, (P, ...) each.

    Returns:
        The grid of outputs, whose rows follow the second input; the axes as (name, least, most);
        some rows as (first input, second input, target). None unless exactly two inputs vary.
    """
    X, y = sampler.X[0], sampler.y[0]
    least, most = X.min(0).values, X.max(0).values
    varying = (least < most).nonzero().flatten().tolist()
    if len(varying) != 2:
        return None
    ends = [(float(least[n]) - _MARGIN, float(most[n]) + _MARGIN) for n in varying]
    scales = [torch.linspace(*each, _CELLS).to(X) for each in ends]
    grid = least.expand(_CELLS, _CELLS, -1).clone()
    grid[..., varying[0]], grid[..., varying[1]] = scales[0], scales[1][:, None]
    first_network = {name: v[0] for name, v in state.items()}
    predict = manual_prediction_of(case)
    # line by line: the values of a wide layer in all cells at once would take much memory
    lines = [predict(X=line, **first_network)[case.network.prediction][:, 0] for line in grid]
    shown = slice(None, None, -(-len(X) // _MAX_POINTS))
    columns = (X[shown, varying[0]], X[shown, varying[1]], y[shown, 0])
    points = list(zip(*(column.tolist() for column in columns), strict=True))
    axes = [(f"input {n}", *each) for n, each in zip(varying, ends, strict=True)]
    return torch.stack(lines).double().cpu().numpy(), axes, points
