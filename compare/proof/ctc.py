"""Rows of the table for connectionist temporal classification: ctc_loss and its backward pass.

Source: Graves et al., Connectionist Temporal Classification, 2006; the forward and backward
variables alpha and beta are computed in log space, as in torch's kernels. The gradient is torch's:
it assumes that the log-probabilities come from log_softmax, and is exp(log p) - (the share of the
paths through p). Shapes: T steps, B sequences, C classes; L = 2 * (the longest target) + 1 labels
with a blank between any two.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, Generic

import torch
from torch import Tensor

from compare.proof.arithmetic_interface import Call, N, flat_indices


class _Paths(Generic[N]):
    """The paths of one call: the variables in log space for each step, (B, L).

    Args:
        n: The arithmetic.
        log_probs: The numbers, (T, B, C).
        floats: The floats of log_probs.
        targets: The labels, (B, S) or one after the other.
        input_lengths: The number of steps of each sequence.
        target_lengths: The number of labels of each sequence.
        blank: The class of the blank.
    """

    def __init__(
        self, n: Call[N], log_probs: N, floats: Tensor, targets: Tensor, input_lengths: Any,
        target_lengths: Any, blank: int,
    ) -> None:  # fmt: skip
        self.n, self.log_probs, self.floats = n, log_probs, floats.detach().double().cpu()
        if bool(self.floats.isinf().any()):
            raise ValueError("a log-probability is infinite")
        steps, batch, self.classes = self.floats.shape
        self.steps, self.batch = steps, batch
        self.lengths = torch.as_tensor(input_lengths).cpu().long()
        counts = torch.as_tensor(target_lengths).cpu().long()
        width = int(counts.max()) if batch else 0
        self.ends = 2 * counts + 1  # labels with blanks, of each sequence
        self.labels = torch.full((batch, 2 * width + 1), blank)
        starts = counts.cumsum(0) - counts
        for b, count in enumerate(counts.tolist()):
            row = targets.cpu()
            row = row[b] if row.ndim == 2 else row[int(starts[b]) :]
            self.labels[b, 1 : 2 * count + 1 : 2] = row[:count].long()
        place = torch.arange(2 * width + 1)
        self.used = place < self.ends.unsqueeze(1)
        # a label may follow the one before last if a blank lies between them and they differ
        before = self.labels.roll(2, 1)
        self.skips = (place % 2 == 1) & (place > 2) & (self.labels != before)

    def numbers_at(self, t: int) -> tuple[N, Tensor]:
        """Return the log-probabilities of the labels at a step, (B, L): numbers and float64."""
        rows = (t * self.batch + torch.arange(self.batch)).unsqueeze(1)
        index = rows * self.classes + self.labels
        return self.n.take(self.log_probs, index), self.floats.flatten()[index]

    def log_sum(self, parts: Sequence[tuple[N, Tensor]]) -> tuple[N, Tensor]:
        """Return log(sum(exp)) of several arrays, each with its float64 values; -inf for none."""
        n = self.n
        floats = torch.stack([float64 for _, float64 in parts])
        largest = floats.amax(0)
        reached = largest > -math.inf
        shift = n.exact(torch.where(reached, largest, 0.0))
        shape = tuple(reached.shape)
        zero, one = (n.broadcast_to(n.exact(torch.tensor(v)), shape) for v in (0.0, 1.0))
        minus_infinity = n.broadcast_to(n.exact(torch.tensor(-math.inf)), shape)
        terms = []
        for numbers, float64 in parts:
            possible = float64 > -math.inf
            term = n.function("exp", n.where(possible, numbers, zero) - shift)
            terms.append(n.where(possible, term, zero))
        total = terms[0]
        for term in terms[1:]:
            total = total + term
        total = n.function("log", n.where(reached, total, one)) + shift
        return n.where(reached, total, minus_infinity), floats.logsumexp(0)

    def _shifted(self, x: tuple[N, Tensor], by: int, allowed: Tensor) -> tuple[N, Tensor]:
        """Return the values `by` places before, where allowed; elsewhere -inf."""
        n, (numbers, floats) = self.n, x
        inside = torch.zeros_like(allowed)
        places = torch.arange(floats.shape[1]) - by
        inside[:, (places >= 0) & (places < floats.shape[1])] = True
        allowed = allowed & inside
        index = flat_indices(floats.shape).roll(by, 1)
        nothing = n.broadcast_to(n.exact(torch.tensor(-math.inf)), tuple(floats.shape))
        moved = n.where(allowed, n.take(numbers, index), nothing)
        return moved, torch.where(allowed, floats.roll(by, 1), -math.inf)

    def alphas(self) -> list[tuple[N, Tensor]]:
        """Return log alpha of each step: of the paths that begin before it."""
        first = torch.arange(self.labels.shape[1]).expand_as(self.labels) < 2
        return self._recursion(range(self.steps), 1, first & self.used)

    def betas(self) -> list[tuple[N, Tensor]]:
        """Return log beta of each step: of the paths that end after it."""
        places = torch.arange(self.labels.shape[1])
        last = (places >= self.ends.unsqueeze(1) - 2) & self.used
        return self._recursion(range(self.steps - 1, -1, -1), -1, last)[::-1]

    def _recursion(self, order: range, by: int, first: Tensor) -> list[tuple[N, Tensor]]:
        n = self.n
        skips = self.skips if by == 1 else self.skips.roll(-2, 1)
        variables: list[tuple[N, Tensor]] = []
        nothing = n.broadcast_to(n.exact(torch.tensor(-math.inf)), tuple(first.shape))
        for t in order:
            own, floats = self.numbers_at(t)
            begins = n.where(first, own, nothing), torch.where(first, floats, -math.inf)
            if not variables:
                start, previous = torch.ones_like(self.lengths, dtype=torch.bool), begins
            else:
                before = variables[-1]
                previous = self.log_sum(
                    [
                        self._shifted(before, 0, self.used),
                        self._shifted(before, by, self.used),
                        self._shifted(before, 2 * by, self.used & skips),
                    ]
                )
                reached = previous[1] > -math.inf
                zero = n.broadcast_to(n.exact(torch.zeros(())), tuple(first.shape))
                total = n.where(reached, previous[0], zero) + own
                previous = n.where(reached, total, nothing), previous[1] + floats
                # a backward recursion begins at the last step of each sequence
                start = self.lengths - 1 == t if by == -1 else torch.zeros_like(self.lengths).bool()
            begin = start.unsqueeze(1).expand_as(first)
            variables.append(
                (
                    n.where(begin, begins[0], previous[0]),
                    torch.where(begin, begins[1], previous[1]),
                )
            )
        return variables


def _ctc_loss(
    n: Call[N], log_probs: N, targets: Tensor, input_lengths: Any, target_lengths: Any,
    blank: int = 0, _zero_infinity: bool = False,
) -> tuple[N, N]:  # fmt: skip
    """Return the negative log-likelihood of each sequence, and log alpha, (B, T, L)."""
    paths = _Paths(n, log_probs, n.arguments[0], targets, input_lengths, target_lengths, blank)
    if bool((paths.lengths == 0).any()):
        raise ValueError("a sequence has no steps")
    alphas = paths.alphas()
    row, last = torch.arange(paths.batch), paths.lengths - 1
    stacked = n.join([numbers for numbers, _ in alphas])
    floats = torch.stack([float64 for _, float64 in alphas])
    indices = flat_indices(floats.shape)
    ends = [(paths.ends - 1, paths.ends > 0), ((paths.ends - 2).clamp_min(0), paths.ends > 1)]
    finals = []
    for place, exists in ends:
        value = floats[last, row, place]
        finals.append((n.take(stacked, indices[last, row, place]), value.where(exists, -math.inf)))
    likelihood, _ = paths.log_sum(finals)
    return -likelihood, n.take(stacked, indices.transpose(0, 1))


def _ctc_loss_backward(
    n: Call[N], g: N, log_probs: N, targets: Tensor, input_lengths: Any, target_lengths: Any,
    loss: N, _log_alpha: N, blank: int, zero_infinity: bool = False,
) -> N:  # fmt: skip
    """Return the gradient of the log-probabilities; alpha is computed again, from them."""
    paths = _Paths(n, log_probs, n.arguments[1], targets, input_lengths, target_lengths, blank)
    steps, batch, classes = paths.floats.shape
    impossible = n.arguments[5].detach().cpu().isinf()
    if bool(impossible.any()) and not zero_infinity:
        raise ValueError("a loss is infinite")
    keep = ~impossible
    cell = torch.arange(batch).unsqueeze(1)
    target = cell * classes + paths.labels
    zero = n.broadcast_to(n.exact(torch.zeros(())), tuple(paths.labels.shape))
    shares = []
    for t, (alpha, beta) in enumerate(zip(paths.alphas(), paths.betas(), strict=True)):
        own, _ = paths.numbers_at(t)
        on = (alpha[1] > -math.inf) & (beta[1] > -math.inf) & keep.unsqueeze(1)
        both = n.where(on, alpha[0], zero) + n.where(on, beta[0], zero)
        # alpha and beta both count the probability of this step
        likelihood = n.where(on, n.broadcast_to(n.take(loss, cell), on.shape), zero)
        share = n.function("exp", both + likelihood - n.where(on, own, zero))
        share = n.where(on, share, zero)
        empty = n.exact(torch.zeros(batch, classes))
        shares.append(n.scatter_add(empty, target, share))
    through = n.take(n.join(shares), flat_indices((steps, batch, classes)))
    gradient = (n.function("exp", log_probs) - through) * n.take(g, cell)
    within = torch.arange(steps).unsqueeze(1) < paths.lengths
    within = (within & keep).unsqueeze(2).expand(steps, batch, classes)
    return n.where(within, gradient, n.broadcast_to(n.exact(torch.zeros(())), within.shape))


CTC: dict[str, Callable[..., Any]] = {
    "_ctc_loss": _ctc_loss,
    "_ctc_loss_backward": _ctc_loss_backward,
}
