"""The check at other inputs: right passes that must pass there, and wrong ones that must not.

RIGHT holds right passes whose inputs have a structure that a careless change would destroy: labels,
masks, sorted grids, unit rows, matrices with a symmetry. WRONG_BESIDE holds passes that are right
only at the given inputs: a weight of 1 left out, a stale cache. The tables themselves are tested
too, without second inputs: by other draws of the same structure.
"""

import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import compare
from compare.errors import BadInput
from compare.report.report import Report
from tests.opaque import unseen
from tests.tenth import unless_chosen
from tests.test_false_words import function, short

PASSES = ("EXACT", "ROUNDING")
DOUBLE, SINGLE, HALF = torch.float64, torch.float32, torch.bfloat16
INF = torch.inf


@dataclass(frozen=True)
class Case:
    """Two passes and their inputs."""

    forward: Callable[..., Any]
    backward: Any
    inputs: dict[str, Any]
    hold: tuple[str, ...] = ()


class Draw:
    """Random tensors of a dtype, each with its structure; with less of it if `elsewhere`."""

    def __init__(self, dtype: torch.dtype, seed: int = 0, *, elsewhere: bool = False) -> None:
        self.dtype, self.elsewhere = dtype, elsewhere
        self.chance = torch.Generator().manual_seed(7700 + seed)

    def put(self, values: Any) -> Tensor:
        """Return the values in the dtype."""
        return torch.as_tensor(values, dtype=DOUBLE).to(self.dtype)

    def _normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.chance, dtype=DOUBLE)

    def normal(self, *shape: int) -> Tensor:
        """Return normal numbers, by default 6 x 5."""
        return self.put(self._normal(*(shape or (6, 5))))

    def x(self, *shape: int) -> Tensor:
        """Return an input that needs a gradient."""
        return self.normal(*shape).requires_grad_()

    def within(self, low: float, high: float, *shape: int) -> Tensor:
        """Return numbers between two others."""
        share = torch.rand(*(shape or (6, 5)), generator=self.chance, dtype=DOUBLE)
        return self.put(low + (high - low) * share)

    def whole(self, low: int, high: int, *shape: int) -> Tensor:
        """Return integers."""
        return torch.randint(low, high, shape, generator=self.chance)

    def order(self, count: int) -> Tensor:
        """Return a shuffle."""
        return torch.randperm(count, generator=self.chance)

    def constant(self, value: float, *shape: int) -> Tensor:
        """Return `value` everywhere; elsewhere any positive numbers."""
        drawn = self.within(0.4, 1.7, *shape) if shape else self.within(0.4, 1.7, 1)[0]
        return drawn if self.elsewhere else self.put(torch.full(shape, value))

    def labels(self, rows: int = 6, classes: int = 5) -> Tensor:
        """Return a class for each row."""
        return self.whole(0, classes, rows)

    def one_hot(self, rows: int = 6, classes: int = 5) -> Tensor:
        """Return a 1 in each row among zeros."""
        return self.put(F.one_hot(self.labels(rows, classes), classes))

    def soft(self, *shape: int) -> Tensor:
        """Return rows that sum to 1 to rounding."""
        return self.put(torch.softmax(self._normal(*(shape or (6, 5))), -1))

    def shares(self, *shape: int) -> Tensor:
        """Return rows of multiples of 1/64 that sum to exactly 1."""
        *rows, count = shape or (6, 5)
        parts = self.whole(1, 13, *rows, count)
        parts[..., -1] = 64 - parts[..., :-1].sum(-1)
        return self.put(parts / 64)

    def mask(self, off: float = 0.0, on: float = 1.0, *shape: int) -> Tensor:
        """Return a mask of two values, both in each row."""
        rows = torch.rand(*(shape or (6, 5)), generator=self.chance) > 0.4
        rows[..., 0], rows[..., 1] = True, False
        rows = rows[..., self.order(rows.shape[-1])]
        return self.put(torch.where(rows, on, off))

    def symmetric(self, count: int = 5) -> Tensor:
        """Return a square matrix that is its transpose."""
        found = self.normal(count, count).triu()
        return found + found.triu(1).mT

    def nearly_symmetric(self, count: int = 5) -> Tensor:
        """Return a product that is symmetric up to rounding."""
        root, scale = self.normal(count, count), self.within(0.5, 1.5, count)
        found = (root * scale) @ root.mT
        found[0, 1] = found[1, 0].clone()
        step = torch.finfo(self.dtype).eps * found[0, 1].abs()
        found[0, 1] += step
        return found

    def definite(self, count: int = 5) -> Tensor:
        """Return a symmetric matrix that its diagonal dominates."""
        found = self.within(-0.15, 0.15, count, count).triu(1)
        return found + found.mT + torch.diag(self.within(1, 2, count))

    def correlation(self, count: int = 5) -> Tensor:
        """Return a symmetric matrix with a diagonal of ones."""
        found = self.within(-0.2, 0.2, count, count).triu(1)
        return found + found.mT + torch.eye(count, dtype=self.dtype)

    def unit(self, *shape: int) -> Tensor:
        """Return rows of length 1 to rounding."""
        return self.put(F.normalize(self._normal(*(shape or (6, 5))), dim=-1))

    def exact_unit(self, rows: int = 6) -> Tensor:
        """Return rows of 4 and of length exactly 1, no two alike."""
        signs = self.whole(0, 2, rows, 4) * 2 - 1
        found = signs / 2
        found[rows // 2 :] = F.one_hot(self.order(4).repeat(rows)[: rows - rows // 2], 4) * signs[0]
        return self.put(found)

    def rising(self, *shape: int, dim: int = -1) -> Tensor:
        """Return numbers that rise along a dimension."""
        return self.normal(*shape).sort(dim).values

    def sparse(self, *shape: int) -> Tensor:
        """Return numbers with zeros among them."""
        return self.normal(*shape) * self.mask(0.0, 1.0, *shape)


Make = Callable[[Draw], Case]
Table = dict[str, Make]
RIGHT: Table = {}
WRONG_BESIDE: Table = {}
# Right by what holds at the inputs given and may be hard to keep beside them; or wrong, but only
# where such a thing is not kept.
HARD_TO_KEEP: Table = {}
HARD_TO_MOVE: Table = {}
SAVED: Table = {}  # what follows from x is an input beside it, and forward does not read it
LIFTED: set[str] = set()  # sums to 1, or has length 1, or is symmetric, but only to rounding
HALVES: set[str] = set()  # in bfloat16 too


def _into(table: Table, *, half: bool = False, lifted: bool = False) -> Callable[[Make], Make]:
    def put(make: Make) -> Make:
        name = make.__name__.strip("_")
        tables = (RIGHT, WRONG_BESIDE, HARD_TO_KEEP, HARD_TO_MOVE, SAVED)
        assert not any(name in known for known in tables), name
        table[name] = make
        if half:
            HALVES.add(name)
        if lifted:
            LIFTED.add(name)
        return make

    return put


def right(**how: bool) -> Callable[[Make], Make]:
    return _into(RIGHT, **how)


def wrong(**how: bool) -> Callable[[Make], Make]:
    return _into(WRONG_BESIDE, **how)


def saved(**how: bool) -> Callable[[Make], Make]:
    return _into(SAVED, **how)


def hard_to_keep(**how: bool) -> Callable[[Make], Make]:
    return _into(HARD_TO_KEEP, **how)


def hard_to_move(**how: bool) -> Callable[[Make], Make]:
    return _into(HARD_TO_MOVE, **how)


# -- labels and probabilities


def entropy_with(x: Tensor, y: Tensor) -> Tensor:
    return -(y * torch.log_softmax(x, -1)).sum() / len(x)


def p_minus_y(x: Tensor, y: Tensor, grad_output: Tensor) -> dict[str, Tensor]:
    return {"x": (torch.softmax(x, -1) - y) / len(x) * grad_output}


@right(half=True)
def one_hot_labels(d: Draw) -> Case:
    return Case(entropy_with, p_minus_y, {"x": d.x(), "y": d.one_hot()})


@right(lifted=True)
def soft_labels(d: Draw) -> Case:
    return Case(entropy_with, p_minus_y, {"x": d.x(), "y": d.soft()})


@right()
def soft_labels_that_sum_to_1(d: Draw) -> Case:
    return Case(entropy_with, p_minus_y, {"x": d.x(), "y": d.shares()})


@right(lifted=True)
def smoothed_labels(d: Draw) -> Case:
    return Case(entropy_with, p_minus_y, {"x": d.x(), "y": d.one_hot() * 0.9 + 0.1 / 5})


@right()
def smoothed_labels_that_sum_to_1(d: Draw) -> Case:
    return Case(entropy_with, p_minus_y, {"x": d.x(6, 4), "y": d.one_hot(6, 4) * 0.75 + 0.0625})


@right(lifted=True)
def soft_labels_of_one_row(d: Draw) -> Case:
    return Case(entropy_with, p_minus_y, {"x": d.x(1, 5), "y": d.soft(1, 5)})


@right(lifted=True)
def soft_labels_for_all_rows(d: Draw) -> Case:
    """One vector of probabilities, such as a prior."""
    return Case(
        entropy_with,
        lambda x, y, grad_output: {"x": (torch.softmax(x, -1) - y) / len(x) * grad_output},
        {"x": d.x(), "y": d.soft(5)},
    )


@right()
def shares_for_all_rows(d: Draw) -> Case:
    return Case(entropy_with, p_minus_y, {"x": d.x(), "y": d.shares(5)})


@right(lifted=True)
def mixed_up_labels(d: Draw) -> Case:
    """Mixup: a share of one label and the rest of another."""
    share = d.within(0.1, 0.9, 6, 1)
    y = share * d.one_hot() + (1 - share) * d.one_hot()
    return Case(entropy_with, p_minus_y, {"x": d.x(), "y": y})


@right()
def labels_of_padding_are_zero(d: Draw) -> Case:
    """Rows of `y` are one-hot, or zero where there is padding."""
    y = d.one_hot()
    y[4:] = 0
    return Case(
        entropy_with,
        lambda x, y, grad_output: {
            "x": (torch.softmax(x, -1) - y) * y.any(-1, keepdim=True) / len(x) * grad_output
        },
        {"x": d.x(), "y": y},
    )


@right(half=True)
def labels_of_whole_numbers(d: Draw) -> Case:
    return Case(
        F.cross_entropy,
        lambda input, target, grad_output: {
            "input": (torch.softmax(input, -1) - F.one_hot(target, 5)) / 6 * grad_output
        },
        {"input": d.x(), "target": d.labels()},
    )


@right()
def labels_some_ignored(d: Draw) -> Case:
    t = d.labels()
    t[1::3] = -100

    def backward(x: Tensor, t: Tensor, grad_output: Tensor) -> dict[str, Tensor]:
        kept = t != -100
        d = torch.softmax(x, -1) - F.one_hot(t.clamp(min=0), 5)
        return {"x": d * kept[:, None] / kept.sum() * grad_output}

    return Case(lambda x, t: F.cross_entropy(x, t), backward, {"x": d.x(), "t": t})


@right()
def class_weights(d: Draw) -> Case:
    def backward(x: Tensor, t: Tensor, w: Tensor, grad_output: Tensor) -> dict[str, Tensor]:
        each = w[t]
        d = torch.softmax(x, -1) - F.one_hot(t, 5)
        return {"x": d * (each / each.sum())[:, None] * grad_output}

    def forward(x: Tensor, t: Tensor, w: Tensor) -> Tensor:
        each = w[t]
        picked = torch.log_softmax(x, -1).gather(1, t[:, None])[:, 0]
        return -(each * picked).sum() / each.sum()

    return Case(forward, backward, {"x": d.x(), "t": d.labels(), "w": d.within(0.5, 2, 5)})


@right(half=True)
def several_labels(d: Draw) -> Case:
    return Case(
        lambda x, y: F.binary_cross_entropy_with_logits(x, y, reduction="sum"),
        lambda x, y, grad_output: {"x": (torch.sigmoid(x) - y) * grad_output},
        {"x": d.x(), "y": d.mask()},
    )


@right()
def targets_between_0_and_1(d: Draw) -> Case:
    return Case(
        lambda x, y: (F.softplus(x) - x * y).sum(),
        lambda x, y, grad_output: {"x": (torch.sigmoid(x) - y) * grad_output},
        {"x": d.x(), "y": d.within(0, 1)},
    )


@right()
def two_codes_for_labels(d: Draw) -> Case:
    """The forward pass compares the labels, the backward pass computes with them."""
    return Case(
        lambda x, y: torch.where(y == 1, F.softplus(-x), F.softplus(x)).sum(),
        lambda x, y, grad_output: {"x": (torch.sigmoid(x) - y) * grad_output},
        {"x": d.x(), "y": d.mask()},
    )


@right()
def signs_for_labels(d: Draw) -> Case:
    return Case(
        lambda x, y: F.softplus(-y * x).sum(),
        lambda x, y, grad_output: {"x": (torch.sigmoid(x) - (y + 1) / 2) * grad_output},
        {"x": d.x(), "y": d.mask(-1, 1)},
    )


@right(half=True)
def the_square_of_a_sign_is_1(d: Draw) -> Case:
    return Case(
        lambda x, y: ((1 - y * x) ** 2).sum(),
        lambda x, y, grad_output: {"x": 2 * (x - y) * grad_output},
        {"x": d.x(), "y": d.mask(-1, 1)},
    )


@right()
def hinge(d: Draw) -> Case:
    return Case(
        lambda x, y: torch.relu(1 - y * x).sum(),
        lambda x, y, grad_output: {"x": -y * (y * x < 1) * grad_output},
        {"x": d.x(6, 1), "y": d.put([[1], [-1], [1], [1], [-1], [-1]])},
    )


def divergence(x: Tensor, p: Tensor) -> Tensor:
    return (p * (p.log() - torch.log_softmax(x, -1))).sum()


def q_minus_p(x: Tensor, p: Tensor, grad_output: Tensor) -> dict[str, Tensor]:
    return {"x": (torch.softmax(x, -1) - p) * grad_output}


@right(lifted=True)
def divergence_from_probabilities(d: Draw) -> Case:
    return Case(divergence, q_minus_p, {"x": d.x(), "p": d.soft()})


@right()
def divergence_from_shares(d: Draw) -> Case:
    return Case(divergence, q_minus_p, {"x": d.x(), "p": d.shares()})


@right()
def entropy_of_probabilities(d: Draw) -> Case:
    return Case(
        lambda p: -(p * p.log()).sum(-1),
        lambda p, grad_output: {"p": -(p.log() + 1) * grad_output[:, None]},
        {"p": d.soft().requires_grad_()},
    )


@right()
def cross_entropy_of_two_distributions(d: Draw) -> Case:
    return Case(
        lambda p, q: -(p * q.log()).sum(-1),
        lambda p, q, grad_output: {
            "p": -q.log() * grad_output[:, None], "q": -p / q * grad_output[:, None]
        },
        {"p": d.soft().requires_grad_(), "q": d.soft().requires_grad_()},
    )  # fmt: skip


@right(half=True)
def picked_from_log_probabilities(d: Draw) -> Case:
    return Case(
        lambda x, y: -(y * x).sum(-1),
        lambda y, grad_output: {"x": -y * grad_output[:, None]},
        {"x": torch.log_softmax(d.normal(), -1).requires_grad_(), "y": d.one_hot()},
    )


@right()
def focal_loss(d: Draw) -> Case:
    def forward(x: Tensor, t: Tensor) -> Tensor:
        p = torch.softmax(x, -1).gather(1, t[:, None])
        return -((1 - p) ** 2 * p.log()).sum()

    def backward(x: Tensor, t: Tensor, grad_output: Tensor) -> dict[str, Tensor]:
        q = torch.softmax(x, -1)
        p = q.gather(1, t[:, None])
        slope = 2 * (1 - p) * p.log() - (1 - p) ** 2 / p
        return {"x": slope * p * (F.one_hot(t, 5) - q) * grad_output}

    return Case(forward, backward, {"x": d.x(), "t": d.labels()})


def distilled(x: Tensor, y: Tensor, T: Tensor) -> Tensor:
    return -(T * T * y * torch.log_softmax(x / T, -1)).sum()


@right()
def distillation_at_temperature_1(d: Draw) -> Case:
    return Case(
        distilled,
        lambda x, y, T, grad_output: {"x": T * (torch.softmax(x / T, -1) - y) * grad_output},
        {"x": d.x(), "y": d.shares(), "T": d.put(1)},
    )


@right(lifted=True)
def distillation_from_a_teacher(d: Draw) -> Case:
    return Case(
        distilled,
        lambda x, y, T, grad_output: {"x": T * (torch.softmax(x / T, -1) - y) * grad_output},
        {"x": d.x(), "y": d.soft(), "T": d.put(2)},
    )


def spread(x: Tensor, w: Tensor) -> Tensor:
    return (w * (x - (w * x).sum(-1, keepdim=True)) ** 2).sum()


def spread_back(x: Tensor, w: Tensor, grad_output: Tensor) -> dict[str, Tensor]:
    """The gradient through the mean is 0 because the weights sum to 1."""
    return {"x": 2 * w * (x - (w * x).sum(-1, keepdim=True)) * grad_output}


@right(lifted=True)
def weighted_variance(d: Draw) -> Case:
    return Case(spread, spread_back, {"x": d.x(), "w": d.soft()})


@right()
def weighted_variance_with_shares(d: Draw) -> Case:
    return Case(spread, spread_back, {"x": d.x(), "w": d.shares()})


@right()
def weighted_variance_with_one_vector(d: Draw) -> Case:
    return Case(spread, spread_back, {"x": d.x(5), "w": d.shares(5)})


def shifted(v: Tensor, c: Tensor, p: Tensor) -> Tensor:
    return p @ (v - c) + c


def unshifted(v: Tensor, p: Tensor, c: Tensor, grad_output: Tensor) -> dict[str, Tensor]:
    return {"v": p.mT @ grad_output, "c": torch.zeros_like(c)}


@right(lifted=True)
def a_shift_under_attention_weights(d: Draw) -> Case:
    return Case(shifted, unshifted, {"v": d.x(5, 4), "c": d.x(1, 4), "p": d.soft()})


@right()
def a_shift_under_shares(d: Draw) -> Case:
    return Case(shifted, unshifted, {"v": d.x(5, 4), "c": d.x(1, 4), "p": d.shares()})


@right()
def a_shift_under_a_choice(d: Draw) -> Case:
    return Case(shifted, unshifted, {"v": d.x(5, 4), "c": d.x(1, 4), "p": d.one_hot()})


@right(lifted=True)
def a_shift_under_means_of_neighbours(d: Draw) -> Case:
    """Rows that sum to 1 to rounding, with zeros at other places in each."""
    p = d.put([[0, 1, 1, 0, 1], [1, 0, 0, 1, 1], [1, 0, 0, 1, 0], [0, 1, 1, 0, 1], [1, 1, 1, 1, 1]])
    p = p / p.sum(-1, keepdim=True)
    return Case(shifted, unshifted, {"v": d.x(5, 4), "c": d.x(1, 4), "p": p})


@right(lifted=True)
def probabilities_of_the_best_two(d: Draw) -> Case:
    """A teacher's distribution that is 0 except for its two largest values."""
    p = d._normal(6, 5)
    p = torch.softmax(p.masked_fill(p < p.topk(2, -1).values[:, -1:], -INF), -1)
    return Case(entropy_with, p_minus_y, {"x": d.x(), "y": d.put(p)})


@right()
def a_shift_under_transitions(d: Draw) -> Case:
    """A square matrix with rows that sum to 1, and not symmetric."""
    return Case(shifted, unshifted, {"v": d.x(5, 4), "c": d.x(1, 4), "p": d.shares(5, 5)})


@right()
def policy_gradient(d: Draw) -> Case:
    return Case(
        lambda x, a, r: -(torch.log_softmax(x, -1).gather(1, a[:, None])[:, 0] * r).mean(),
        lambda x, a, r, grad_output: {
            "x": (torch.softmax(x, -1) - F.one_hot(a, 5)) * r[:, None] / 6 * grad_output
        },
        {"x": d.x(), "a": d.labels(), "r": d.normal(6)},
    )


@hard_to_keep(lifted=True)
def log_probabilities_given_as_logits(d: Draw) -> Case:
    """Log probabilities are their own log softmax."""
    return Case(
        entropy_with,
        lambda x, y, grad_output: {"x": (x.exp() - y) / 6 * grad_output},
        {"x": torch.log_softmax(d.normal(), -1).requires_grad_(), "y": d.one_hot()},
    )


@hard_to_keep()
def doubly_stochastic(d: Draw) -> Case:
    parts = [torch.eye(5)[d.order(5)] for _ in range(4)]
    return Case(
        lambda v, c, p: p.mT @ (p @ (v - c)) + c,
        lambda v, c, p, grad_output: {
            "v": p.mT @ (p @ grad_output), "c": torch.zeros_like(c)
        },
        {"v": d.x(5, 4), "c": d.x(1, 4), "p": d.put(sum(parts)) / 4},
    )  # fmt: skip


# -- matrices


def quadratic(x: Tensor, a: Tensor) -> Tensor:
    return (x * (x @ a)).sum(-1)


def twice(x: Tensor, a: Tensor, grad_output: Tensor) -> dict[str, Tensor]:
    return {"x": 2 * (x @ a) * grad_output[:, None]}


@right(half=True)
def quadratic_form(d: Draw) -> Case:
    return Case(quadratic, twice, {"x": d.x(), "a": d.symmetric()})


@right(lifted=True)
def quadratic_form_symmetric_to_rounding(d: Draw) -> Case:
    return Case(quadratic, twice, {"x": d.x(), "a": d.nearly_symmetric()})


@right()
def quadratic_form_definite(d: Draw) -> Case:
    return Case(quadratic, twice, {"x": d.x(), "a": d.definite()})


@right()
def quadratic_form_of_a_correlation(d: Draw) -> Case:
    return Case(quadratic, twice, {"x": d.x(), "a": d.correlation()})


@right()
def quadratic_form_not_symmetric(d: Draw) -> Case:
    return Case(
        quadratic,
        lambda x, a, grad_output: {"x": (x @ a + x @ a.mT) * grad_output[:, None]},
        {"x": d.x(), "a": d.normal(5, 5)},
    )


@right()
def quadratic_form_all_judged(d: Draw) -> Case:
    """The matrix itself has a gradient, which is not symmetric."""
    return Case(
        quadratic,
        lambda x, a, grad_output: {
            "x": 2 * (x @ a) * grad_output[:, None], "a": x.mT @ (x * grad_output[:, None])
        },
        {"x": d.x(), "a": d.symmetric().requires_grad_()},
    )  # fmt: skip


@right()
def distance_by_a_precision(d: Draw) -> Case:
    return Case(
        lambda x, m, a: ((x - m) * ((x - m) @ a)).sum(-1) / 2,
        lambda x, m, a, grad_output: {
            "x": (x - m) @ a * grad_output[:, None],
            "m": -((x - m) @ a * grad_output[:, None]).sum(0),
        },
        {"x": d.x(), "m": d.x(5), "a": d.definite()},
    )


@right(half=True)
def the_diagonal_of_a_correlation_is_1(d: Draw) -> Case:
    return Case(
        lambda x, a: (x * x * a.diagonal()).sum(-1),
        lambda x, grad_output: {"x": 2 * x * grad_output[:, None]},
        {"x": d.x(), "a": d.correlation()},
    )


@right()
def trace_of_a_product(d: Draw) -> Case:
    return Case(
        lambda x, a: (a @ x).diagonal().sum(),
        lambda a, grad_output: {"x": a * grad_output},
        {"x": d.x(5, 5), "a": d.symmetric()},
    )


@right()
def rayleigh_quotient(d: Draw) -> Case:
    return Case(
        lambda x, a: (x * (x @ a)).sum(-1) / (x * x).sum(-1),
        lambda x, a, output, grad_output: {
            "x": 2 * (x @ a - output[:, None] * x)
            / (x * x).sum(-1, keepdim=True) * grad_output[:, None]
        },
        {"x": d.x(), "a": d.symmetric()},
    )  # fmt: skip


@right()
def a_covariance_carried_on(d: Draw) -> Case:
    return Case(
        lambda w, s: w @ s @ w.mT,
        lambda w, s, grad_output: {"w": (grad_output + grad_output.mT) @ w @ s},
        {"w": d.x(4, 5), "s": d.definite()},
    )


@right()
def log_determinant_of_two(d: Draw) -> Case:
    def backward(a: Tensor, grad_output: Tensor) -> dict[str, Tensor]:
        (p, q), (_, r) = a
        det = p * r - q * q
        return {"a": torch.stack([torch.stack([r, -q]), torch.stack([-q, p])]) / det * grad_output}

    return Case(
        lambda a: (a[0, 0] * a[1, 1] - a[0, 1] * a[1, 0]).log(),
        backward, {"a": d.definite(2).requires_grad_()},
    )  # fmt: skip


def laplacian(d: Draw) -> Tensor:
    edges = d.put(d.whole(0, 2, 6, 6)).triu(1)
    edges[0, 1] = 1
    edges = edges + edges.mT
    return torch.diag(edges.sum(-1)) - edges


@right()
def laplacian_of_a_graph(d: Draw) -> Case:
    return Case(
        lambda x, l: (x * (l @ x)).sum(),
        lambda x, l, grad_output: {"x": 2 * (l @ x) * grad_output},
        {"x": d.x(6, 3), "l": laplacian(d)},
    )


@right()
def rows_of_a_laplacian_sum_to_0(d: Draw) -> Case:
    return Case(
        lambda x, c, l: l @ (x + c),
        lambda l, c, grad_output: {"x": l @ grad_output, "c": torch.zeros_like(c)},
        {"x": d.x(6, 3), "c": d.x(1, 3), "l": laplacian(d)},
    )


@right(half=True)
def adjacency(d: Draw) -> Case:
    """Two values and symmetric, which shuffled rows would not be."""
    a = d.put(d.whole(0, 2, 6, 6)).triu(1)
    a[0, 1] = 1
    return Case(
        lambda x, a: a @ x,
        lambda a, grad_output: {"x": a @ grad_output},
        {"x": d.x(), "a": a + a.mT},
    )


@right()
def adjacency_normalised(d: Draw) -> Case:
    """Divided by the roots of both degrees: symmetric, with zeros that stay."""
    a = d.put(d.whole(0, 2, 6, 6)).triu(1)
    a = a + a.mT + torch.eye(6, dtype=d.dtype)
    root = a.sum(-1).rsqrt()
    a = (a * (root[:, None] * root)).triu()
    return Case(
        lambda x, a: torch.tanh(a @ x),
        lambda a, output, grad_output: {"x": a @ (grad_output * (1 - output * output))},
        {"x": d.x(), "a": a + a.triu(1).mT},
    )


@right()
def adjacency_directed(d: Draw) -> Case:
    return Case(
        lambda x, a: a @ x,
        lambda a, grad_output: {"x": a.mT @ grad_output},
        {"x": d.x(), "a": d.mask(0, 1, 6, 6)},
    )


@right(half=True)
def permutation(d: Draw) -> Case:
    """Its transpose is its inverse."""
    return Case(
        lambda x, p: (p @ x).square().sum(),
        lambda x, grad_output: {"x": 2 * x * grad_output},
        {"x": d.x(), "p": d.put(torch.eye(6)[[1, 2, 0, 4, 5, 3]][:, d.order(6)])},
    )


@right()
def permutation_by_indices(d: Draw) -> Case:
    return Case(
        lambda x, i: x[i] * 3,
        lambda i, grad_output: {"x": 3 * grad_output[i.argsort()]},
        {"x": d.x(), "i": d.order(6)},
    )


@right()
def signed_permutation(d: Draw) -> Case:
    return Case(
        lambda x, q: ((x @ q) ** 2).sum(),
        lambda x, grad_output: {"x": 2 * x * grad_output},
        {"x": d.x(6, 4), "q": d.put(torch.eye(4)[[1, 2, 3, 0]] * (d.whole(0, 2, 4) * 2 - 1))},
    )


@right()
def hadamard_matrix(d: Draw) -> Case:
    """Two values; orthogonal for any order of its rows."""
    q = torch.tensor([[1, 1], [1, -1]])
    q = torch.kron(q, q)[[1, 2, 3, 0]] * torch.tensor([[1], [1], [-1], [1]])
    return Case(
        lambda x, q: ((x @ q) ** 2).sum(),
        lambda x, grad_output: {"x": 8 * x * grad_output},
        {"x": d.x(6, 4), "q": d.put(q)},
    )


@right()
def rotation_as_any_matrix(d: Draw) -> Case:
    angle = d.within(0.3, 1.2, 1)
    c, s = angle.cos().item(), angle.sin().item()
    return Case(
        lambda x, r: x @ r.mT,
        lambda r, grad_output: {"x": grad_output @ r},
        {"x": d.x(6, 2), "r": d.put([[c, -s], [s, c]])},
    )


@right()
def rotation_by_an_angle(d: Draw) -> Case:
    return Case(
        lambda x, a: torch.stack([x[:, 0] * a.cos() - x[:, 1] * a.sin(),
                                  x[:, 0] * a.sin() + x[:, 1] * a.cos()], 1),
        lambda a, grad_output: {
            "x": torch.stack([grad_output[:, 0] * a.cos() + grad_output[:, 1] * a.sin(),
                              grad_output[:, 1] * a.cos() - grad_output[:, 0] * a.sin()], 1)
        },
        {"x": d.x(6, 2), "a": d.within(-1, 1, 6)},
    )  # fmt: skip


@right()
def triangular(d: Draw) -> Case:
    """The zeros above the diagonal stay."""
    return Case(
        lambda x, l: x @ l.tril().mT,
        lambda l, grad_output: {"x": grad_output @ l},
        {"x": d.x(), "l": d.normal(5, 5).tril()},
    )


@right()
def diagonal(d: Draw) -> Case:
    return Case(
        lambda x, a: x @ a,
        lambda a, grad_output: {"x": grad_output * a.diagonal()},
        {"x": d.x(), "a": torch.diag(d.within(0.5, 2, 5))},
    )


@right()
def banded(d: Draw) -> Case:
    a = d.normal(5, 5)
    return Case(
        lambda x, a: x @ (a.triu(-1) - a.triu(2)),
        lambda a, grad_output: {"x": grad_output @ a.mT},
        {"x": d.x(), "a": a.triu(-1) - a.triu(2)},
    )


@right()
def batch_of_symmetric_matrices(d: Draw) -> Case:
    a = torch.stack([d.symmetric(3) for _ in range(4)])
    return Case(
        lambda x, a: (x * (a @ x[:, :, None])[:, :, 0]).sum(-1),
        lambda x, a, grad_output: {"x": 2 * (a @ x[:, :, None])[:, :, 0] * grad_output[:, None]},
        {"x": d.x(4, 3), "a": a},
    )


@right()
def identity(d: Draw) -> Case:
    return Case(
        lambda x, w: x @ w,
        lambda x, w, grad_output: {"x": grad_output @ w.mT, "w": x.mT @ grad_output},
        {"x": d.x(), "w": torch.eye(5, dtype=d.dtype).requires_grad_()},
    )


@right()
def a_kernel_of_distances(d: Draw) -> Case:
    k = d.within(0, 2, 5, 5).triu(1)
    return Case(
        lambda a, k: (a * (torch.exp(-k) @ a)).sum(),
        lambda a, k, grad_output: {"a": 2 * (torch.exp(-k) @ a) * grad_output},
        {"a": d.x(5, 2), "k": k + k.mT},
    )


@hard_to_keep(lifted=True)
def rotation_keeps_lengths(d: Draw) -> Case:
    angle = d.within(0.3, 1.2, 1)
    c, s = angle.cos().item(), angle.sin().item()
    return Case(
        lambda x, r: ((x @ r) ** 2).sum(),
        lambda x, grad_output: {"x": 2 * x * grad_output},
        {"x": d.x(6, 2), "r": d.put([[c, -s], [s, c]])},
    )


@hard_to_keep()
def symmetric_and_orthogonal(d: Draw) -> Case:
    q = torch.tensor([[1, 1], [1, -1]])
    return Case(
        lambda x, q: ((x @ q) ** 2).sum(),
        lambda x, grad_output: {"x": 2 * x * grad_output},
        {"x": d.x(6, 4), "q": d.put(torch.kron(q, q)) / 2},
    )


@hard_to_keep()
def skew_symmetric(d: Draw) -> Case:
    a = d.normal(5, 5).triu(1)
    return Case(
        lambda x, a: x @ a,
        lambda a, grad_output: {"x": -grad_output @ a},
        {"x": d.x(), "a": a - a.mT},
    )


@hard_to_keep()
def toeplitz(d: Draw) -> Case:
    """A convolution as a matrix, which its first row determines."""
    row = d.normal(5)
    places = (torch.arange(5)[None, :] - torch.arange(5)[:, None]) % 5
    return Case(
        lambda x, a: x @ a,
        lambda a, grad_output: {"x": grad_output @ a[0][places].mT},
        {"x": d.x(), "a": row[places]},
    )


# -- unit rows


def project_twice(x: Tensor, u: Tensor) -> Tensor:
    y = x - u * (u * x).sum(-1, keepdim=True)
    return y - u * (u * y).sum(-1, keepdim=True)


def project_back(u: Tensor, grad_output: Tensor) -> dict[str, Tensor]:
    return {"x": grad_output - u * (u * grad_output).sum(-1, keepdim=True)}


@right(lifted=True)
def projection_is_idempotent(d: Draw) -> Case:
    return Case(project_twice, project_back, {"x": d.x(), "u": d.unit()})


@right()
def projection_is_idempotent_exactly(d: Draw) -> Case:
    return Case(project_twice, project_back, {"x": d.x(6, 4), "u": d.exact_unit()})


@right()
def projection_on_any_rows(d: Draw) -> Case:
    return Case(
        lambda x, u: x - u * (u * x).sum(-1, keepdim=True),
        project_back, {"x": d.x(), "u": d.unit()},
    )  # fmt: skip


def cosine(x: Tensor, u: Tensor) -> Tensor:
    return (x * u).sum(-1) / (x.square().sum(-1).sqrt() * u.square().sum(-1).sqrt())


def cosine_back(x: Tensor, u: Tensor, output: Tensor, grad_output: Tensor) -> dict[str, Tensor]:
    length = x.square().sum(-1, keepdim=True).sqrt()
    return {"x": (u - output[:, None] * x / length) / length * grad_output[:, None]}


@right(lifted=True)
def cosine_with_unit_rows(d: Draw) -> Case:
    return Case(cosine, cosine_back, {"x": d.x(), "u": d.unit()})


@right()
def cosine_with_exact_unit_rows(d: Draw) -> Case:
    return Case(cosine, cosine_back, {"x": d.x(6, 4), "u": d.exact_unit()})


@right()
def cosine_of_any(d: Draw) -> Case:
    def backward(x: Tensor, u: Tensor, grad_output: Tensor) -> dict[str, Tensor]:
        a, b = x.norm(dim=-1, keepdim=True), u.norm(dim=-1, keepdim=True)
        c, g = (x * u).sum(-1, keepdim=True) / (a * b), grad_output[:, None]
        return {"x": g * (u / (a * b) - c * x / a**2), "u": g * (x / (a * b) - c * u / b**2)}

    return Case(cosine, backward, {"x": d.x(), "u": d.unit().requires_grad_()})


def reflected(x: Tensor, u: Tensor) -> Tensor:
    return (x - 2 * u * (u * x).sum(-1, keepdim=True)).square().sum()


@right(lifted=True)
def reflection_keeps_lengths(d: Draw) -> Case:
    return Case(reflected, lambda x, grad_output: {"x": 2 * x * grad_output},
                {"x": d.x(), "u": d.unit()})  # fmt: skip


@right()
def reflection_keeps_lengths_exactly(d: Draw) -> Case:
    return Case(reflected, lambda x, grad_output: {"x": 2 * x * grad_output},
                {"x": d.x(6, 4), "u": d.exact_unit()})  # fmt: skip


@right(lifted=True)
def reflection_at_one_vector(d: Draw) -> Case:
    return Case(reflected, lambda x, grad_output: {"x": 2 * x * grad_output},
                {"x": d.x(), "u": d.unit(5)})  # fmt: skip


def turned(v: Tensor, q: Tensor) -> Tensor:
    w, u = q[:, :1], q[:, 1:]
    long = (w * w - (u * u).sum(-1, keepdim=True)) * v
    return long + 2 * (u * v).sum(-1, keepdim=True) * u + 2 * w * torch.linalg.cross(u, v)


def turned_back(q: Tensor, grad_output: Tensor) -> dict[str, Tensor]:
    w, u, g = q[:, :1], q[:, 1:], grad_output
    long = (2 * w * w - 1) * g + 2 * (u * g).sum(-1, keepdim=True) * u
    return {"v": long - 2 * w * torch.linalg.cross(u, g)}


@right(lifted=True)
def quaternions(d: Draw) -> Case:
    return Case(turned, turned_back, {"v": d.x(6, 3), "q": d.unit(6, 4)})


@right()
def quaternions_exactly(d: Draw) -> Case:
    return Case(turned, turned_back, {"v": d.x(6, 3), "q": d.exact_unit()})


@right(lifted=True)
def normalised_once_more(d: Draw) -> Case:
    """The input itself has rows of length 1."""
    return Case(
        lambda x: x / x.square().sum(-1, keepdim=True).sqrt(),
        lambda x, grad_output: {"x": grad_output - x * (x * grad_output).sum(-1, keepdim=True)},
        {"x": d.unit().requires_grad_()},
    )


@right()
def normalised_once_more_exactly(d: Draw) -> Case:
    return Case(
        lambda x: x / x.square().sum(-1, keepdim=True).sqrt(),
        lambda x, grad_output: {"x": grad_output - x * (x * grad_output).sum(-1, keepdim=True)},
        {"x": d.exact_unit().requires_grad_()},
    )


@right()
def contrast_of_unit_rows(d: Draw) -> Case:
    return Case(
        lambda z: torch.logsumexp(z @ z.mT, -1).sum(),
        lambda z, grad_output: {
            "z": (torch.softmax(z @ z.mT, -1) + torch.softmax(z @ z.mT, -1).mT) @ z * grad_output
        },
        {"z": d.unit(4, 3).requires_grad_()},
    )


@right()
def rotary_tables(d: Draw) -> Case:
    angle = d.within(0, 3, 6, 2)

    def forward(x: Tensor, c: Tensor, s: Tensor) -> Tensor:
        a, b = x.chunk(2, -1)
        return torch.cat([a * c - b * s, a * s + b * c], -1)

    def backward(c: Tensor, s: Tensor, grad_output: Tensor) -> dict[str, Tensor]:
        a, b = grad_output.chunk(2, -1)
        return {"x": torch.cat([a * c + b * s, b * c - a * s], -1)}

    return Case(forward, backward, {"x": d.x(6, 4), "c": angle.cos(), "s": angle.sin()})


@hard_to_keep(lifted=True)
def unit_columns(d: Draw) -> Case:
    return Case(
        lambda x, w: x @ (w / w.square().sum(0).sqrt()),
        lambda w, grad_output: {"x": grad_output @ w.mT},
        {"x": d.x(), "w": d.unit(4, 5).mT.contiguous()},
    )


# -- sorted


@right(half=True)
def sorted_rows(d: Draw) -> Case:
    return Case(
        lambda x: x.sort(-1).values * 2,
        lambda grad_output: {"x": 2 * grad_output},
        {"x": d.rising().requires_grad_()},
    )


@right()
def sorted_vector(d: Draw) -> Case:
    return Case(
        lambda x: x.sort().values * 2,
        lambda grad_output: {"x": 2 * grad_output},
        {"x": d.rising(12).requires_grad_()},
    )


@right()
def sorted_columns(d: Draw) -> Case:
    return Case(
        lambda x: x.sort(0).values * 2,
        lambda grad_output: {"x": 2 * grad_output},
        {"x": d.rising(6, 5, dim=0).requires_grad_()},
    )


@right()
def falling_rows(d: Draw) -> Case:
    return Case(
        lambda x: x.sort(-1, descending=True).values[:, :2],
        lambda x, grad_output: {
            "x": torch.cat([grad_output, torch.zeros_like(x[:, 2:])], 1)
        },
        {"x": d.rising().flip(-1).requires_grad_()},
    )  # fmt: skip


@right()
def weights_of_order_statistics(d: Draw) -> Case:
    return Case(
        lambda x, w: (x.sort(-1).values * w).sum(-1),
        lambda w, grad_output: {"x": w * grad_output[:, None]},
        {"x": d.rising().requires_grad_(), "w": d.rising(5)},
    )


@right()
def the_largest_is_the_last(d: Draw) -> Case:
    return Case(
        lambda x: x.max(-1).values,
        lambda x, grad_output: {
            "x": torch.cat([torch.zeros_like(x[:, 1:]), grad_output[:, None]], 1)
        },
        {"x": d.rising().requires_grad_()},
    )


@right()
def gaps_of_a_sorted_vector(d: Draw) -> Case:
    return Case(
        lambda x: (x[1:] - x[:-1]).log(),
        lambda x, grad_output: {
            "x": F.pad(grad_output / (x[1:] - x[:-1]), (1, 0))
            - F.pad(grad_output / (x[1:] - x[:-1]), (0, 1))
        },
        {"x": (d.within(0.2, 1, 12).cumsum(0)).requires_grad_()},
    )


@right()
def interpolation_on_a_grid(d: Draw) -> Case:
    def place(x: Tensor, grid: Tensor) -> Tensor:
        return (torch.searchsorted(grid, x.detach()) - 1).clamp(0, 4)

    def forward(x: Tensor, grid: Tensor, v: Tensor) -> Tensor:
        i = place(x, grid)
        share = (x - grid[i]) / (grid[i + 1] - grid[i])
        return v[i] + share * (v[i + 1] - v[i])

    def backward(x: Tensor, grid: Tensor, v: Tensor, grad_output: Tensor) -> dict[str, Tensor]:
        i = place(x, grid)
        share = (x - grid[i]) / (grid[i + 1] - grid[i])
        dv = torch.zeros_like(v).index_add(0, i, grad_output * (1 - share))
        return {
            "x": grad_output * (v[i + 1] - v[i]) / (grid[i + 1] - grid[i]),
            "v": dv.index_add(0, i + 1, grad_output * share),
        }

    grid = d.put([0, 1.25, 2, 3.5, 4, 5.5])
    return Case(forward, backward, {"x": d.within(0.1, 5.4, 7).requires_grad_(), "grid": grid,
                                    "v": d.x(6)})  # fmt: skip


@right()
def buckets(d: Draw) -> Case:
    return Case(
        lambda x, edges, s: x * s[torch.bucketize(x.detach(), edges)],
        lambda x, edges, s, grad_output: {
            "x": grad_output * s[torch.bucketize(x, edges)],
            "s": torch.zeros_like(s).index_add(
                0, torch.bucketize(x, edges), grad_output * x
            ),
        },
        {"x": d.x(9), "edges": d.put([-1, -0.25, 0.5]), "s": d.x(4)},
    )  # fmt: skip


@right()
def running_largest_of_rising_rows(d: Draw) -> Case:
    return Case(
        lambda x: x.cummax(-1).values.exp(),
        lambda x, grad_output: {"x": grad_output * x.exp()},
        {"x": d.rising().requires_grad_()},
    )


@right()
def running_sum(d: Draw) -> Case:
    return Case(
        lambda x: x.cumsum(-1),
        lambda grad_output: {"x": grad_output.flip(-1).cumsum(-1).flip(-1)},
        {"x": d.rising().requires_grad_()},
    )


@right()
def trapezoids_of_times(d: Draw) -> Case:
    def backward(t: Tensor, grad_output: Tensor) -> dict[str, Tensor]:
        half = (t[1:] - t[:-1]) / 2
        return {"y": grad_output * (F.pad(half, (1, 0)) + F.pad(half, (0, 1)))}

    return Case(
        lambda y, t: ((y[1:] + y[:-1]) / 2 * (t[1:] - t[:-1])).sum(),
        backward, {"y": d.x(7), "t": d.within(0.1, 1, 7).cumsum(0)},
    )  # fmt: skip


# -- masks


@right(half=True)
def dropout_with_a_saved_mask(d: Draw) -> Case:
    return Case(
        lambda x, m: x * m, lambda m, grad_output: {"x": grad_output * m},
        {"x": d.x(), "m": d.mask(0, 1.25)},
    )  # fmt: skip


@right()
def dropout_by_asking_the_mask(d: Draw) -> Case:
    """The mask holds only 0 and 2."""
    return Case(
        lambda x, m: x * m,
        lambda m, grad_output: {"x": torch.where(m > 0, 2 * grad_output, 0)},
        {"x": d.x(), "m": d.mask(0, 2)},
    )


@right()
def dropout_as_a_function(d: Draw) -> Case:
    made = function(lambda x, m: x * m, lambda given, grads: (grads[0] * given[1], None))
    return Case(lambda x, m: x * m, made, {"x": d.x(), "m": d.mask(0, 4 / 3)})


@right()
def dropout_of_one_row_with_codes(d: Draw) -> Case:
    return Case(
        lambda x, m: x * m,
        lambda m, grad_output: {"x": torch.where(m > 0, 1.25 * grad_output, 0)},
        {"x": d.x(), "m": d.mask(0, 1.25, 1, 5)},
    )


@right()
def dropout_of_nothing(d: Draw) -> Case:
    return Case(
        lambda x, m: x * m, lambda m, grad_output: {"x": grad_output * m},
        {"x": d.x(), "m": d.put(torch.ones(6, 5))},
    )  # fmt: skip


@right(half=True)
def a_mask_is_its_square(d: Draw) -> Case:
    return Case(
        lambda x, m: (x * m) ** 2,
        lambda x, m, grad_output: {"x": 2 * x * m * grad_output},
        {"x": d.x(), "m": d.mask()},
    )


@right()
def a_mask_of_a_vector(d: Draw) -> Case:
    return Case(
        lambda x, m: (x * m[:, None]) ** 2,
        lambda x, m, grad_output: {"x": 2 * x * m[:, None] * grad_output},
        {"x": d.x(), "m": d.put([1, 0, 1, 1, 0, 1])},
    )


def masked_softmax(x: Tensor, m: Tensor) -> Tensor:
    return torch.softmax(x + m, -1)


def softmax_back(output: Tensor, grad_output: Tensor) -> dict[str, Tensor]:
    return {"x": output * (grad_output - (output * grad_output).sum(-1, keepdim=True))}


@right()
def softmax_with_a_mask_of_inf(d: Draw) -> Case:
    return Case(masked_softmax, softmax_back, {"x": d.x(), "m": d.mask(-INF, 0)})


@right()
def softmax_with_a_mask_of_1e9(d: Draw) -> Case:
    return Case(masked_softmax, softmax_back, {"x": d.x(), "m": d.mask(-1e9, 0)})


@right()
def softmax_zero_where_the_mask_is_inf(d: Draw) -> Case:
    """The backward pass compares the mask with -inf."""
    return Case(
        masked_softmax,
        lambda x, m, output, grad_output: {
            "x": torch.where(m == 0, output * (
                grad_output - (output * grad_output).sum(-1, keepdim=True)), 0)
        },
        {"x": d.x(), "m": d.mask(-INF, 0)},
    )  # fmt: skip


@right()
def softmax_with_a_mask_of_zeros(d: Draw) -> Case:
    return Case(masked_softmax, softmax_back, {"x": d.x(), "m": d.put(torch.zeros(6, 5))})


@right(half=True)
def filled_where_true(d: Draw) -> Case:
    return Case(
        lambda x, m: x.masked_fill(m, 3.0).tanh(),
        lambda m, output, grad_output: {
            "x": (grad_output * (1 - output * output)).masked_fill(m, 0)
        },
        {"x": d.x(), "m": d.mask().bool()},
    )


@right()
def chosen_by_a_bool(d: Draw) -> Case:
    return Case(
        lambda x, y, m: torch.where(m, x, y),
        lambda m, grad_output: {"x": grad_output * m, "y": grad_output * ~m},
        {"x": d.x(), "y": d.x(), "m": d.mask().bool()},
    )


def attention(q: Tensor, k: Tensor, v: Tensor, m: Tensor) -> Tensor:
    return torch.softmax(q @ k.mT / 2 + m, -1) @ v


def attention_back(
    q: Tensor, k: Tensor, v: Tensor, m: Tensor, grad_output: Tensor
) -> dict[str, Tensor]:
    p = torch.softmax(q @ k.mT / 2 + m, -1)
    dp = grad_output @ v.mT
    ds = p * (dp - (p * dp).sum(-1, keepdim=True)) / 2
    return {"q": ds @ k, "k": ds.mT @ q, "v": p.mT @ grad_output}


def queries(d: Draw) -> dict[str, Tensor]:
    return {"q": d.x(4, 4), "k": d.x(4, 4), "v": d.x(4, 3)}


@right()
def causal_attention(d: Draw) -> Case:
    m = d.put(torch.full((4, 4), -INF).triu(1))
    return Case(attention, attention_back, {**queries(d), "m": m})


@right()
def causal_attention_by_1e9(d: Draw) -> Case:
    m = d.put(torch.full((4, 4), -1e9).triu(1))
    return Case(attention, attention_back, {**queries(d), "m": m})


@right()
def causal_attention_by_a_bool(d: Draw) -> Case:
    hidden = torch.ones(4, 4).triu(1) > 0

    def forward(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return torch.softmax((q @ k.mT / 2).masked_fill(hidden, -INF), -1) @ v

    def backward(q: Tensor, k: Tensor, v: Tensor, grad_output: Tensor) -> dict[str, Tensor]:
        p = torch.softmax((q @ k.mT / 2).masked_fill(hidden, -INF), -1)
        dp = grad_output @ v.mT
        ds = p * (dp - (p * dp).sum(-1, keepdim=True)) / 2
        return {"q": ds @ k, "k": ds.mT @ q, "v": p.mT @ grad_output}

    return Case(forward, backward, queries(d))


@right()
def attention_to_itself(d: Draw) -> Case:
    """Queries, keys and values are equal at first."""
    x = d.normal(4, 4)
    given = {name: x.clone().requires_grad_() for name in "qkv"}
    return Case(attention, attention_back, {**given, "m": d.put(torch.zeros(4, 4))})


@right(half=True)
def lengths(d: Draw) -> Case:
    def kept(n: Tensor) -> Tensor:
        return torch.arange(5) < n[:, None]

    return Case(
        lambda x, n: (x * kept(n)).sum(-1) / n,
        lambda x, n, grad_output: {"x": kept(n) * (grad_output / n)[:, None]},
        {"x": d.x(), "n": d.whole(1, 6, 6)},
    )


@right()
def lengths_as_floats(d: Draw) -> Case:
    def kept(n: Tensor) -> Tensor:
        return torch.arange(5) < n[:, None]

    return Case(
        lambda x, n: (x * kept(n)).sum(-1) / n,
        lambda x, n, grad_output: {"x": kept(n) * (grad_output / n)[:, None]},
        {"x": d.x(), "n": d.put(d.whole(1, 6, 6))},
    )


# -- zeros, whole numbers and infinities among others


@right(half=True)
def padding_rows(d: Draw) -> Case:
    """The rows that are not zero are counted."""
    x = d.normal()
    x[4:] = 0
    return Case(
        lambda x: x.sum(0) / (x != 0).any(-1).sum(),
        lambda x, grad_output: {"x": (grad_output / (x != 0).any(-1).sum()).expand(6, 5)},
        {"x": x.requires_grad_()},
    )


@right()
def padding_rows_are_4_and_5(d: Draw) -> Case:
    """The padding is known, and contributes nothing to the weights."""
    x = d.normal()
    x[4:] = 0
    return Case(
        lambda x, w: x @ w,
        lambda x, grad_output: {"w": x[:4].mT @ grad_output[:4]},
        {"x": x, "w": d.x(5, 3)},
    )


@right(half=True)
def pruned_weights(d: Draw) -> Case:
    return Case(
        lambda x, w: x @ (w * (w != 0)),
        lambda x, w, grad_output: {"w": (x.mT @ grad_output) * (w != 0)},
        {"x": d.normal(), "w": d.sparse(5, 4).requires_grad_()},
    )


@right()
def pruned_weights_and_their_mask(d: Draw) -> Case:
    m = d.mask(0, 1, 5, 4)
    return Case(
        lambda x, w, m: x @ (w * m),
        lambda x, w, m, grad_output: {"x": grad_output @ (w * m).mT, "w": x.mT @ grad_output * m},
        {"x": d.x(), "w": (d.normal(5, 4) * m).requires_grad_(), "m": m},
    )


@right()
def absolute_values_of_sparse_rows(d: Draw) -> Case:
    return Case(
        lambda x: x.abs(),
        lambda x, grad_output: {"x": grad_output * x.sign()},
        {"x": d.sparse().requires_grad_()},
    )


@right()
def sparse_weights_by_place(d: Draw) -> Case:
    w = d.put(torch.zeros(5, 4))
    w[1, 2], w[3, 0] = d.normal(1)[0], d.normal(1)[0]

    def backward(w: Tensor, grad_output: Tensor) -> dict[str, Tensor]:
        dx = torch.zeros(6, 5, dtype=w.dtype)
        dx[:, 1], dx[:, 3] = grad_output[:, 2] * w[1, 2], grad_output[:, 0] * w[3, 0]
        return {"x": dx}

    return Case(lambda x, w: x @ w, backward, {"x": d.x(), "w": w})


@right()
def a_column_of_zeros(d: Draw) -> Case:
    """Standardised, except for the column that has no spread."""
    x = d.normal()
    x[:, 2] = 0

    def scale(x: Tensor) -> Tensor:
        s = x.square().sum(0)
        return torch.where(s > 0, s, 1)

    return Case(
        lambda x, w: (x / scale(x)) @ w,
        lambda x, grad_output: {"w": (x / scale(x)).mT @ grad_output},
        {"x": x, "w": d.x(5, 3)},
    )


@right()
def a_column_of_zeros_by_place(d: Draw) -> Case:
    x = d.normal()
    x[:, 2] = 0

    def backward(x: Tensor, grad_output: Tensor) -> dict[str, Tensor]:
        dw = x.mT @ grad_output
        dw[2] = 0
        return {"w": dw}

    return Case(lambda x, w: x @ w, backward, {"x": x, "w": d.x(5, 3)})


@right(half=True)
def a_column_of_ones(d: Draw) -> Case:
    """The bias as a column of the data: its gradient is a sum over the rows."""
    x = d.normal()
    x[:, -1] = 1

    def backward(x: Tensor, grad_output: Tensor) -> dict[str, Tensor]:
        return {"w": torch.cat([x[:, :-1].mT @ grad_output, grad_output.sum(0, keepdim=True)])}

    return Case(lambda x, w: x @ w, backward, {"x": x, "w": d.x(5, 3)})


@right()
def signs_by_whole_powers(d: Draw) -> Case:
    return Case(
        lambda x, n: x * (-1.0) ** n,
        lambda n, grad_output: {"x": grad_output * (1 - 2 * (n % 2))},
        {"x": d.x(), "n": d.put(d.whole(0, 7, 6, 5))},
    )


@right(half=True)
def whole_numbers_are_their_round(d: Draw) -> Case:
    return Case(
        lambda x, n: x * n.round(),
        lambda n, grad_output: {"x": grad_output * n},
        {"x": d.x(), "n": d.put(d.whole(-3, 4, 6, 5))},
    )


@right()
def parities(d: Draw) -> Case:
    return Case(
        lambda x, n: x * torch.where(n % 2 == 0, 1, -1),
        lambda n, grad_output: {"x": grad_output * (1 - 2 * (n % 2))},
        {"x": d.x(), "n": d.put(d.whole(0, 7, 6, 5))},
    )


@right()
def infinities_among_distances(d: Draw) -> Case:
    x = d.within(0.1, 3)
    x[1, 2] = x[4, 0] = INF
    return Case(
        lambda w, x: w * torch.exp(-x),
        lambda x, grad_output: {"w": grad_output * torch.exp(-x)},
        {"w": d.x(), "x": x},
    )


@right()
def infinities_asked_for(d: Draw) -> Case:
    x = d.within(0.1, 3)
    x[1, 2] = x[4, 0] = INF
    return Case(
        lambda w, x: w * torch.where(x.isinf(), 0, x),
        lambda x, grad_output: {"w": torch.where(x < 1e30, grad_output * x, 0)},
        {"w": d.x(), "x": x},
    )


@right()
def log_weights_with_minus_inf(d: Draw) -> Case:
    m = d.normal()
    m[0, 1] = m[2, 2] = m[2, 3] = -INF
    return Case(masked_softmax, softmax_back, {"x": d.x(), "m": m})


@right()
def counts(d: Draw) -> Case:
    """A mean over groups; the counts are a separate input."""
    i = torch.tensor([0, 2, 1, 2, 0, 2])
    return Case(
        lambda x, i, n: torch.zeros(3, 5, dtype=d.dtype).index_add(0, i, x) / n[:, None],
        lambda i, n, grad_output: {"x": (grad_output / n[:, None])[i]},
        {"x": d.x(), "i": i, "n": d.put([2, 1, 3])},
    )


@right()
def counts_from_indices(d: Draw) -> Case:
    i = torch.tensor([0, 2, 1, 2, 0, 2])
    return Case(
        lambda x, i: (
            torch.zeros(3, 5, dtype=d.dtype).index_add(0, i, x) / torch.bincount(i)[:, None]
        ),
        lambda i, grad_output: {"x": (grad_output / torch.bincount(i)[:, None])[i]},
        {"x": d.x(), "i": i},
    )


@right(half=True)
def embedding_with_padding(d: Draw) -> Case:
    w = d.normal(6, 4)
    w[0] = 0

    def backward(w: Tensor, i: Tensor, grad_output: Tensor) -> dict[str, Tensor]:
        dw = torch.zeros_like(w).index_add(0, i, grad_output)
        dw[0] = 0
        return {"w": dw}

    i = torch.tensor([0, 3, 5, 0, 3])
    return Case(lambda w, i: F.embedding(i, w, padding_idx=0), backward,
                {"w": w.requires_grad_(), "i": i})  # fmt: skip


@right()
def whole_rows_that_sum_to_0(d: Draw) -> Case:
    x = d.put(d.whole(-4, 5, 6, 5))
    x[:, -1] = -x[:, :-1].sum(-1)
    return Case(
        lambda x: (x - x.mean(-1, keepdim=True)).square().sum(),
        lambda x, grad_output: {"x": 2 * x * grad_output},
        {"x": x.requires_grad_()},
    )


def contrast(x: Tensor, w: Tensor, c: Tensor) -> Tensor:
    return (x * (w + c)).sum(-1)


def contrast_back(x: Tensor, c: Tensor, grad_output: Tensor) -> dict[str, Tensor]:
    """A constant that is added to all elements cancels, because the rows sum to 0."""
    return {"w": x * grad_output[:, None], "c": torch.zeros_like(c)}


@right()
def rows_that_sum_to_0(d: Draw) -> Case:
    x = d.put(2 * d.whole(-20, 20, 6, 4) + 1) / 16  # none of them whole
    x[:, -1] = -x[:, :-1].sum(-1)
    return Case(contrast, contrast_back, {"x": x, "w": d.x(6, 4), "c": d.x(6, 1)})


@right()
def whole_contrasts(d: Draw) -> Case:
    x = d.put([[1, -1, 0, 0], [0, 1, -1, 0], [3, -1, -1, -1], [0, 0, 1, -1]])
    return Case(contrast, contrast_back, {"x": x, "w": d.x(4, 4), "c": d.x(4, 1)})


@hard_to_keep()
def rows_with_zeros_that_sum_to_0(d: Draw) -> Case:
    """Only a mixture of rows with zeros at the same places keeps both zeros and sums."""
    x = d.put(2 * d.whole(-20, 20, 4, 4) + 1) / 16
    x[0, 1] = x[1, 2] = x[2, 0] = x[3, 0] = 0
    x[:, -1] = -x[:, :-1].sum(-1)
    return Case(contrast, contrast_back, {"x": x, "w": d.x(4, 4), "c": d.x(4, 1)})


@hard_to_keep()
def columns_that_sum_to_0(d: Draw) -> Case:
    x = d.put(d.whole(-40, 41, 6, 5)) / 16
    x[-1] = -x[:-1].sum(0)
    return Case(
        lambda x, w, b: (x @ w + b).sum(0),
        lambda x, w, grad_output: {"w": torch.zeros_like(w), "b": 6 * grad_output},
        {"x": x, "w": d.x(5, 3), "b": d.x(3)},
    )


# -- ranges and signs


@right()
def roots(d: Draw) -> Case:
    return Case(
        lambda x: x.sqrt(), lambda output, grad_output: {"x": grad_output / (2 * output)},
        {"x": d.within(0.05, 3).requires_grad_()},
    )  # fmt: skip


@right(half=True)
def logarithms(d: Draw) -> Case:
    return Case(
        lambda x: x.log(), lambda x, grad_output: {"x": grad_output / x},
        {"x": d.within(0.01, 3).requires_grad_()},
    )  # fmt: skip


@right()
def logit(d: Draw) -> Case:
    return Case(
        lambda x: (x / (1 - x)).log(), lambda x, grad_output: {"x": grad_output / (x * (1 - x))},
        {"x": d.within(0.02, 0.98).requires_grad_()},
    )  # fmt: skip


@right()
def inverse_tanh(d: Draw) -> Case:
    return Case(
        lambda x: ((1 + x) / (1 - x)).log() / 2,
        lambda x, grad_output: {"x": grad_output / (1 - x * x)},
        {"x": d.within(-0.95, 0.95).requires_grad_()},
    )


@right()
def root_of_1_less_the_square(d: Draw) -> Case:
    return Case(
        lambda x: (1 - x * x).sqrt(),
        lambda x, output, grad_output: {"x": -grad_output * x / output},
        {"x": d.within(-0.95, 0.95).requires_grad_()},
    )


@right()
def arc_cosine(d: Draw) -> Case:
    return Case(
        lambda x: torch.acos(x),
        lambda x, grad_output: {"x": -grad_output / (1 - x * x).sqrt()},
        {"x": d.within(-0.95, 0.95).requires_grad_()},
    )


@right()
def root_of_the_square_less_1(d: Draw) -> Case:
    return Case(
        lambda x: (x * x - 1).sqrt(),
        lambda x, output, grad_output: {"x": grad_output * x / output},
        {"x": d.within(1.01, 3).requires_grad_()},
    )


@right(half=True)
def absolute_values_of_positive_numbers(d: Draw) -> Case:
    return Case(
        lambda x: x.abs() * 3, lambda grad_output: {"x": 3 * grad_output},
        {"x": d.within(0.01, 3).requires_grad_()},
    )  # fmt: skip


@right()
def absolute_values_of_negative_numbers(d: Draw) -> Case:
    return Case(
        lambda x: x.abs() * 3, lambda grad_output: {"x": -3 * grad_output},
        {"x": d.within(-3, -0.01).requires_grad_()},
    )  # fmt: skip


@right()
def signs_by_column(d: Draw) -> Case:
    signs = torch.tensor([1, -1, 1, 1, -1])
    return Case(
        lambda x: torch.relu(x),
        lambda grad_output: {"x": grad_output * (signs > 0)},
        {"x": (d.within(0.1, 2) * signs).requires_grad_()},
    )


@right()
def clamped_within(d: Draw) -> Case:
    return Case(
        lambda x: x.clamp(0, 1) * 3, lambda grad_output: {"x": 3 * grad_output},
        {"x": d.within(0.01, 0.99).requires_grad_()},
    )  # fmt: skip


@right()
def pixels(d: Draw) -> Case:
    """An image of whole numbers between 0 and 255, stored as floats."""
    x = d.put(d.whole(0, 256, 1, 2, 4, 4))
    return Case(
        lambda x, w: ((x / 255 - 0.5) * w).sum((2, 3)),
        lambda x, grad_output: {"w": (x / 255 - 0.5) * grad_output[:, :, None, None]},
        {"x": x, "w": d.x(1, 2, 4, 4)},
    )


@right()
def images(d: Draw) -> Case:
    def wide(t: Tensor) -> Tensor:
        return t.repeat_interleave(2, -1).repeat_interleave(2, -2)

    return Case(
        lambda x: F.max_pool2d(x, 2),
        lambda x, output, grad_output: {"x": (x == wide(output)) * wide(grad_output)},
        {"x": d.x(2, 3, 4, 6)},
    )


@right()
def fractions(d: Draw) -> Case:
    return Case(
        lambda x: (x - x.floor()) ** 2, lambda x, grad_output: {"x": 2 * x * grad_output},
        {"x": d.within(0.01, 0.99).requires_grad_()},
    )  # fmt: skip


@right()
def powers_of_positive_numbers(d: Draw) -> Case:
    return Case(
        lambda x: x**1.5, lambda x, grad_output: {"x": grad_output * 1.5 * x**0.5},
        {"x": d.within(0.1, 3).requires_grad_()},
    )  # fmt: skip


@right()
def sizes_of_a_power_law(d: Draw) -> Case:
    x = d.normal() * d.put(10.0 ** torch.arange(-6, 9, 3))
    return Case(
        lambda x, w: (x * w) ** 2,
        lambda x, w, grad_output: {"w": 2 * x * x * w * grad_output},
        {"x": x, "w": d.x()},
    )


@right()
def sizes_by_row(d: Draw) -> Case:
    x = d.within(0.5, 1.5) * d.put(10.0 ** torch.arange(-4, 8, 2))[:, None]
    return Case(
        lambda x: x.log(), lambda x, grad_output: {"x": grad_output / x},
        {"x": x.requires_grad_()},
    )  # fmt: skip


@right()
def zeros_and_ones_among_probabilities(d: Draw) -> Case:
    p = d.within(0.1, 0.9)
    p[0, 1], p[3, 2] = 0, 1
    return Case(
        lambda x, p: (F.softplus(x) - p * x).sum(),
        lambda x, p, grad_output: {"x": (torch.sigmoid(x) - p) * grad_output},
        {"x": d.x(), "p": p},
    )


@right()
def poisson_rates(d: Draw) -> Case:
    return Case(
        lambda x, n: (x.exp() - n * x).sum(),
        lambda x, n, grad_output: {"x": (x.exp() - n) * grad_output},
        {"x": d.x(), "n": d.put(d.whole(0, 9, 6, 5))},
    )


@right()
def angles(d: Draw) -> Case:
    return Case(
        lambda a: torch.sin(a) ** 2,
        lambda a, grad_output: {"a": torch.sin(2 * a) * grad_output},
        {"a": d.within(-math.pi, math.pi).requires_grad_()},
    )


# -- constants, right


def layer_norm(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    return F.layer_norm(x, (5,), w, b, 1e-5)


def normed(x: Tensor) -> tuple[Tensor, Tensor]:
    c = x - x.mean(-1, keepdim=True)
    r = (c.square().mean(-1, keepdim=True) + 1e-5).rsqrt()
    return c * r, r


def layer_norm_back(x: Tensor, w: Tensor, grad_output: Tensor) -> dict[str, Tensor]:
    n, r = normed(x)
    g = grad_output * w
    dx = r * (g - g.mean(-1, keepdim=True) - n * (g * n).mean(-1, keepdim=True))
    return {"x": dx, "w": (grad_output * n).sum(0), "b": grad_output.sum(0)}


def norm_inputs(d: Draw) -> dict[str, Tensor]:
    return {
        "x": d.x(), "w": d.constant(1, 5).requires_grad_(), "b": d.constant(0, 5).requires_grad_()
    }  # fmt: skip


@right()
def layer_norm_at_1_and_0(d: Draw) -> Case:
    return Case(layer_norm, layer_norm_back, norm_inputs(d))


def rms_norm(x: Tensor, w: Tensor) -> Tensor:
    return x * (x.square().mean(-1, keepdim=True) + 1e-6).rsqrt() * w


@right()
def rms_norm_at_1(d: Draw) -> Case:
    def backward(x: Tensor, w: Tensor, grad_output: Tensor) -> dict[str, Tensor]:
        r = (x.square().mean(-1, keepdim=True) + 1e-6).rsqrt()
        g = grad_output * w
        dx = r * (g - x * r * r * (g * x).mean(-1, keepdim=True))
        return {"x": dx, "w": (grad_output * x * r).sum(0)}

    return Case(rms_norm, backward, {"x": d.x(), "w": d.constant(1, 5).requires_grad_()})


def batch_norm(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    c = x - x.mean(0)
    return c * (c.square().mean(0) + 1e-5).rsqrt() * w + b


@right()
def batch_norm_in_training(d: Draw) -> Case:
    def backward(x: Tensor, w: Tensor, grad_output: Tensor) -> dict[str, Tensor]:
        c = x - x.mean(0)
        r = (c.square().mean(0) + 1e-5).rsqrt()
        n, g = c * r, grad_output * w
        dx = r * (g - g.mean(0) - n * (g * n).mean(0))
        return {"x": dx, "w": (grad_output * n).sum(0), "b": grad_output.sum(0)}

    return Case(batch_norm, backward, norm_inputs(d))


def batch_norm_by_running(x: Tensor, m: Tensor, v: Tensor, w: Tensor, b: Tensor) -> Tensor:
    return (x - m) * (v + 1e-5).rsqrt() * w + b


def running_inputs(d: Draw) -> dict[str, Tensor]:
    return {"m": d.constant(0, 5), "v": d.constant(1, 5)}


@right()
def batch_norm_in_evaluation(d: Draw) -> Case:
    """The statistics of a fresh module: running mean 0, running variance 1."""

    def backward(
        x: Tensor, m: Tensor, v: Tensor, w: Tensor, grad_output: Tensor
    ) -> dict[str, Tensor]:
        r = (v + 1e-5).rsqrt()
        return {
            "x": grad_output * w * r, "w": (grad_output * (x - m) * r).sum(0),
            "b": grad_output.sum(0),
        }  # fmt: skip

    return Case(batch_norm_by_running, backward, {**norm_inputs(d), **running_inputs(d)})


def recurrent(x: Tensor, h: Tensor, w: Tensor, u: Tensor) -> Tensor:
    return torch.tanh(x @ w + h @ u)


@right(half=True)
def first_step_from_zeros(d: Draw) -> Case:
    def backward(
        x: Tensor, h: Tensor, w: Tensor, u: Tensor, output: Tensor, grad_output: Tensor
    ) -> dict[str, Tensor]:
        dz = grad_output * (1 - output * output)
        return {"x": dz @ w.mT, "h": dz @ u.mT, "w": x.mT @ dz, "u": h.mT @ dz}

    return Case(recurrent, backward, {"x": d.x(), "h": d.put(torch.zeros(6, 3)).requires_grad_(),
                                      "w": d.x(5, 3), "u": d.x(3, 3)})  # fmt: skip


@right()
def two_steps_from_zeros(d: Draw) -> Case:
    def forward(x: Tensor, h: Tensor, u: Tensor) -> Tensor:
        for k in range(2):
            h = torch.tanh(x[k] + h @ u)
        return h

    def backward(x: Tensor, h: Tensor, u: Tensor, grad_output: Tensor) -> dict[str, Tensor]:
        h1 = torch.tanh(x[0] + h @ u)
        h2 = torch.tanh(x[1] + h1 @ u)
        d2 = grad_output * (1 - h2 * h2)
        d1 = (d2 @ u.mT) * (1 - h1 * h1)
        return {"x": torch.stack([d1, d2]), "u": h1.mT @ d2 + h.mT @ d1}

    return Case(forward, backward, {"x": d.x(2, 4, 3), "h": d.put(torch.zeros(4, 3)),
                                    "u": d.x(3, 3)})  # fmt: skip


@right(half=True)
def a_number_times_rows(d: Draw) -> Case:
    return Case(
        lambda x, s: x * s,
        lambda x, s, grad_output: {"x": grad_output * s, "s": (grad_output * x).sum()},
        {"x": d.x(), "s": d.put(1).requires_grad_()},
    )


@right()
def a_number_alone(d: Draw) -> Case:
    return Case(
        lambda s: s.exp() * s,
        lambda s, grad_output: {"s": grad_output * (s + 1) * s.exp()},
        {"s": d.put(0.75).requires_grad_()},
    )


@right()
def a_number_that_is_0(d: Draw) -> Case:
    return Case(
        lambda s, x: torch.sigmoid(s) * x,
        lambda s, x, grad_output: {
            "s": (grad_output * x).sum() * torch.sigmoid(s) * (1 - torch.sigmoid(s)),
            "x": grad_output * torch.sigmoid(s),
        },
        {"s": d.put(0).requires_grad_(), "x": d.x()},
    )


@right()
def one_row(d: Draw) -> Case:
    return Case(
        lambda x, b: torch.tanh(x + b),
        lambda output, grad_output: {
            "x": grad_output * (1 - output * output), "b": (grad_output * (1 - output * output))[0]
        },
        {"x": d.x(1, 5), "b": d.put(torch.zeros(5)).requires_grad_()},
    )  # fmt: skip


@right()
def one_element(d: Draw) -> Case:
    return Case(
        lambda x: x**3, lambda x, grad_output: {"x": 3 * x * x * grad_output}, {"x": d.x(1, 1)}
    )


@right()
def weights_that_all_are_equal(d: Draw) -> Case:
    return Case(
        lambda x, w: (x * w).sum(-1) / w.sum(),
        lambda w, grad_output: {"x": grad_output[:, None] * w / w.sum()},
        {"x": d.x(), "w": d.put(torch.full((5,), 0.5))},
    )


@right()
def equal_inputs(d: Draw) -> Case:
    x = d.normal()
    return Case(
        lambda x, y: x * y,
        lambda x, y, grad_output: {"x": grad_output * y, "y": grad_output * x},
        {"x": x.clone().requires_grad_(), "y": x.clone().requires_grad_()},
    )


@right()
def a_tensor_twice(d: Draw) -> Case:
    x = d.x()
    return Case(
        lambda x, y: x / (1 + y * y),
        lambda x, y, grad_output: {
            "x": grad_output / (1 + y * y), "y": -grad_output * 2 * x * y / (1 + y * y) ** 2
        },
        {"x": x, "y": x},
    )  # fmt: skip


@right()
def quotient_of_equals(d: Draw) -> Case:
    x = d.within(0.5, 2)
    return Case(
        lambda x, y: x / y,
        lambda x, y, grad_output: {"x": grad_output / y, "y": -grad_output * x / (y * y)},
        {"x": x.clone().requires_grad_(), "y": x.clone().requires_grad_()},
    )


@right(half=True)
def the_larger_of_equals(d: Draw) -> Case:
    """Equal values get half of the gradient each."""
    x = d.normal()
    return Case(
        lambda x, y: torch.maximum(x, y),
        lambda x, y, grad_output: {
            "x": torch.where(x > y, grad_output, torch.where(x == y, grad_output / 2, 0)),
            "y": torch.where(y > x, grad_output, torch.where(x == y, grad_output / 2, 0)),
        },
        {"x": x.clone().requires_grad_(), "y": x.clone().requires_grad_()},
    )


@right()
def rows_twice(d: Draw) -> Case:
    x = d.normal(3, 5)
    return Case(
        lambda x: x @ x.mT,
        lambda x, grad_output: {"x": (grad_output + grad_output.mT) @ x},
        {"x": torch.cat([x, x]).requires_grad_()},
    )


@right()
def largest_of_rows_twice(d: Draw) -> Case:
    def backward(x: Tensor, output: Tensor, grad_output: Tensor) -> dict[str, Tensor]:
        best = x == output
        return {"x": best * grad_output / best.sum(0)}

    x = d.normal(3, 5)
    return Case(lambda x: x.amax(0), backward, {"x": torch.cat([x, x]).requires_grad_()})


@right()
def momentum_of_0(d: Draw) -> Case:
    return Case(
        lambda x, v, m: (m * v + x) ** 2,
        lambda x, v, m, grad_output: {
            "x": 2 * (m * v + x) * grad_output, "v": 2 * m * (m * v + x) * grad_output
        },
        {"x": d.x(), "v": d.x(), "m": d.put(0)},
    )  # fmt: skip


@right()
def eps_as_a_tensor(d: Draw) -> Case:
    return Case(
        lambda x, eps: x / (x.square().sum(-1, keepdim=True) + eps).sqrt(),
        lambda x, eps, grad_output: {
            "x": (grad_output - x * (x * grad_output).sum(-1, keepdim=True)
                  / (x.square().sum(-1, keepdim=True) + eps))
            / (x.square().sum(-1, keepdim=True) + eps).sqrt()
        },
        {"x": d.x(), "eps": d.put(1e-6)},
    )  # fmt: skip


@right()
def low_rank_update_from_zeros(d: Draw) -> Case:
    return Case(
        lambda x, w, a, b: x @ w + x @ a @ b,
        lambda x, w, a, b, grad_output: {
            "x": grad_output @ w.mT + grad_output @ b.mT @ a.mT,
            "a": x.mT @ (grad_output @ b.mT), "b": (x @ a).mT @ grad_output,
        },
        {"x": d.x(), "w": d.normal(5, 4), "a": d.x(5, 2),
         "b": d.put(torch.zeros(2, 4)).requires_grad_()},
    )  # fmt: skip


@right()
def gaussian_of_unit_variance(d: Draw) -> Case:
    return Case(
        lambda x, m, s: ((x - m) ** 2 / (2 * s * s) + s.log()).sum(-1),
        lambda x, m, s, grad_output: {
            "m": -((x - m) / (s * s) * grad_output[:, None]).sum(0),
            "s": ((1 / s - (x - m) ** 2 / s**3) * grad_output[:, None]).sum(0),
        },
        {"x": d.normal(), "m": d.put(torch.zeros(5)).requires_grad_(),
         "s": d.put(torch.ones(5)).requires_grad_()},
    )  # fmt: skip


@right()
def target_met(d: Draw) -> Case:
    y = d.normal()
    return Case(
        lambda x, y: ((x - y) ** 2).mean(),
        lambda x, y, grad_output: {"x": 2 * (x - y) / 30 * grad_output},
        {"x": y.clone().requires_grad_(), "y": y},
    )


# -- parameters of a module, read by both passes


@right()
def weights_of_a_module(d: Draw) -> Case:
    module = nn.Linear(5, 3, dtype=d.dtype)
    with torch.no_grad():
        module.weight.copy_(d.normal(3, 5))
        module.bias.copy_(d.normal(3))
    return Case(
        lambda x: module(x).tanh(),
        lambda output, grad_output: {
            "x": (grad_output * (1 - output * output)) @ module.weight.detach()
        },
        {"x": d.x()},
    )


@right()
def weights_of_a_fresh_norm(d: Draw) -> Case:
    module = nn.LayerNorm(5, dtype=d.dtype)

    def backward(x: Tensor, grad_output: Tensor) -> dict[str, Tensor]:
        with torch.no_grad():
            return {"x": layer_norm_back(x, module.weight, grad_output)["x"]}

    return Case(lambda x: module(x), backward, {"x": d.x()})


@right()
def weights_of_a_module_by_data(d: Draw) -> Case:
    module = nn.PReLU(dtype=d.dtype)
    return Case(
        lambda x: module(x),
        lambda x, grad_output: {"x": grad_output * torch.where(x > 0, 1, module.weight.data)},
        {"x": d.x()},
    )


@right()
def a_weight_of_a_closure(d: Draw) -> Case:
    w = d.put(torch.ones(5)).requires_grad_()
    return Case(
        lambda x: x * x * w,
        lambda x, grad_output: {"x": 2 * x * w.detach() * grad_output},
        {"x": d.x()},
    )


@right()
def weights_used_twice(d: Draw) -> Case:
    w = d.normal(5, 5).requires_grad_()

    def backward(x: Tensor, grad_output: Tensor) -> dict[str, Tensor]:
        with torch.no_grad():
            h = torch.tanh(x @ w)
            return {"x": ((grad_output @ w.mT) * (1 - h * h)) @ w.mT}

    return Case(lambda x: torch.tanh(x @ w) @ w, backward, {"x": d.x()})


@right()
def a_function_beside_a_module(d: Draw) -> Case:
    module = nn.Linear(5, 3, dtype=d.dtype)
    with torch.no_grad():
        module.weight.copy_(d.normal(3, 5))
        module.bias.zero_()

    class Applied(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            out = torch.tanh(F.linear(x, module.weight, module.bias))
            ctx.save_for_backward(out)
            return out

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> Tensor:
            (out,) = ctx.saved_tensors
            return (grad * (1 - out * out)) @ module.weight.detach()

    return Case(lambda x: torch.tanh(module(x)), Applied, {"x": d.x()})


@hard_to_keep()
def weights_taken_beforehand(d: Draw) -> Case:
    """The same memory under another tensor."""
    module = nn.LayerNorm(5, dtype=d.dtype)
    w = module.weight.detach()
    return Case(
        lambda x: module(x),
        lambda x, grad_output: {"x": layer_norm_back(x, w, grad_output)["x"]},
        {"x": d.x()},
    )


# -- named values


@right(half=True)
def named_values(d: Draw) -> Case:
    def forward(x: Tensor, w: Tensor, y: Tensor) -> Tensor:
        z = compare.name(x @ w, "z")
        h = compare.name(torch.tanh(z), "h")
        return ((h - y) ** 2).sum() / 2

    def backward(x: Tensor, w: Tensor, y: Tensor, h: Tensor) -> dict[str, Tensor]:
        dh = h - y
        dz = dh * (1 - h * h)
        return {"h": dh, "z": dz, "x": dz @ w.mT, "w": x.mT @ dz}

    return Case(forward, backward, {"x": d.x(), "w": d.x(5, 3), "y": d.one_hot(6, 3)})


@right()
def probabilities_passed_on_by_name(d: Draw) -> Case:
    """The saved value comes from forward, and changes with x."""

    def forward(x: Tensor, y: Tensor) -> Tensor:
        p = compare.name(torch.softmax(x, -1), "p")
        return -(y * p.log()).sum()

    def backward(y: Tensor, p: Tensor, grad_output: Tensor) -> dict[str, Tensor]:
        return {"p": -y / p * grad_output, "x": (p * y.sum(-1, keepdim=True) - y) * grad_output}

    return Case(forward, backward, {"x": d.x(), "y": d.mask()})


@right(lifted=True)
def probabilities_passed_on_and_soft_labels(d: Draw) -> Case:
    def forward(x: Tensor, y: Tensor) -> Tensor:
        p = compare.name(torch.softmax(x, -1), "p")
        return -(y * p.log()).sum()

    def backward(y: Tensor, p: Tensor, grad_output: Tensor) -> dict[str, Tensor]:
        return {"p": -y / p * grad_output, "x": (p - y) * grad_output}

    return Case(forward, backward, {"x": d.x(), "y": d.soft()})


# -- what is not moved alone


@right()
def a_plain_number(d: Draw) -> Case:
    return Case(
        lambda x, k: x * k, lambda k, grad_output: {"x": grad_output * k}, {"x": d.x(), "k": 3}
    )


@right()
def softmax_given_and_not_read(d: Draw) -> Case:
    """The saved value is an input next to x, and forward does not read it."""
    x = d.normal()
    return Case(
        lambda x, p: torch.logsumexp(x, -1),
        lambda x, p, grad_output: {"x": torch.softmax(x, -1) * grad_output[:, None]},
        {"x": x.requires_grad_(), "p": torch.softmax(x.detach(), -1)},
    )


@saved(lifted=True)
def softmax_given(d: Draw) -> Case:
    x = d.normal()
    return Case(
        lambda x, p: torch.logsumexp(x, -1),
        lambda p, grad_output: {"x": p * grad_output[:, None]},
        {"x": x.requires_grad_(), "p": torch.softmax(x.detach(), -1)},
    )


@saved(lifted=True)
def exponential_given(d: Draw) -> Case:
    x = d.normal()
    return Case(
        lambda x, e: x.exp(),
        lambda e, grad_output: {"x": e * grad_output},
        {"x": x.requires_grad_(), "e": x.detach().exp()},
    )


@saved(lifted=True)
def softmax_given_as_what_forward_works_out(d: Draw) -> Case:
    x = d.normal()
    return Case(
        lambda x, p: torch.softmax(x, -1),
        lambda p, grad_output: {"x": p * (grad_output - (p * grad_output).sum(-1, keepdim=True))},
        {"x": x.requires_grad_(), "p": torch.softmax(x.detach(), -1)},
    )


@saved(lifted=True)
def statistics_of_a_norm_given(d: Draw) -> Case:
    """As saved by a kernel: the mean and the reciprocal deviation of each row."""
    x = d.normal()
    mean = x.mean(-1, keepdim=True)
    rstd = ((x - mean).square().mean(-1, keepdim=True) + 1e-5).rsqrt()

    def forward(x: Tensor, mean: Tensor, rstd: Tensor) -> Tensor:
        c = x - x.mean(-1, keepdim=True)
        return c * (c.square().mean(-1, keepdim=True) + 1e-5).rsqrt()

    def backward(x: Tensor, mean: Tensor, rstd: Tensor, grad_output: Tensor) -> dict[str, Tensor]:
        n, g = (x - mean) * rstd, grad_output
        return {"x": rstd * (g - g.mean(-1, keepdim=True) - n * (g * n).mean(-1, keepdim=True))}

    return Case(forward, backward, {"x": x.requires_grad_(), "mean": mean, "rstd": rstd})


@saved()
def square_given(d: Draw) -> Case:
    x = d.put(d.whole(-40, 41, 6, 5)) / 16
    return Case(
        lambda x, s: x * x * x,
        lambda s, grad_output: {"x": 3 * s * grad_output},
        {"x": x.requires_grad_(), "s": x.detach() * x.detach()},
    )


@saved()
def mean_given(d: Draw) -> Case:
    x = d.put(d.whole(-40, 41, 6, 4)) / 16
    return Case(
        lambda x, m: (x - x.mean(-1, keepdim=True)).square().sum(-1),
        lambda x, m, grad_output: {"x": 2 * (x - m) * grad_output[:, None]},
        {"x": x.requires_grad_(), "m": x.detach().mean(-1, keepdim=True)},
    )


@right()
def square_held(d: Draw) -> Case:
    return replace(square_given(d), hold=("x", "s"))


@right()
def mean_held(d: Draw) -> Case:
    return replace(mean_given(d), hold=("x", "m"))


@right()
def gamma_held(d: Draw) -> Case:
    """A pass for a norm without a weight, which is 1 by contract."""
    return Case(
        lambda x, w: x * x * w, lambda x, grad_output: {"x": 2 * x * grad_output},
        {"x": d.x(), "w": d.put(torch.ones(5))}, ("w",),
    )  # fmt: skip


@right()
def rotation_held(d: Draw) -> Case:
    r = d.put([[0, -1], [1, 0]])
    return Case(
        lambda x, r: ((x @ r) ** 2).sum(), lambda x, grad_output: {"x": 2 * x * grad_output},
        {"x": d.x(6, 2), "r": r}, ("r",),
    )  # fmt: skip


@right()
def skew_symmetric_held(d: Draw) -> Case:
    return replace(skew_symmetric(d), hold=("a",))


@right()
def doubly_stochastic_held(d: Draw) -> Case:
    return replace(doubly_stochastic(d), hold=("p",))


# -- wrong beside: a constant left out


@wrong(half=True)
def layer_norm_without_gamma(d: Draw) -> Case:
    def backward(x: Tensor, w: Tensor, grad_output: Tensor) -> dict[str, Tensor]:
        return layer_norm_back(x, torch.ones_like(w), grad_output)

    return Case(layer_norm, backward, norm_inputs(d))


@wrong()
def layer_norm_without_gamma_as_a_function(d: Draw) -> Case:
    def backward(given: Any, grads: Any) -> Any:
        x, w, _ = given
        found = layer_norm_back(x, torch.ones_like(w), grads[0])
        return found["x"], found["w"], found["b"]

    return Case(layer_norm, function(layer_norm, backward), norm_inputs(d))


@wrong()
def rms_norm_without_gamma(d: Draw) -> Case:
    def backward(x: Tensor, grad_output: Tensor) -> dict[str, Tensor]:
        r = (x.square().mean(-1, keepdim=True) + 1e-6).rsqrt()
        return {"x": r * (grad_output - x * r * r * (grad_output * x).mean(-1, keepdim=True))}

    return Case(rms_norm, backward, {"x": d.x(), "w": d.constant(1, 5)})


@wrong()
def batch_norm_without_gamma(d: Draw) -> Case:
    def backward(x: Tensor, grad_output: Tensor) -> dict[str, Tensor]:
        c = x - x.mean(0)
        r = (c.square().mean(0) + 1e-5).rsqrt()
        n, g = c * r, grad_output
        dx = r * (g - g.mean(0) - n * (g * n).mean(0))
        return {"x": dx, "w": (g * n).sum(0), "b": g.sum(0)}

    return Case(batch_norm, backward, norm_inputs(d))


@wrong()
def running_mean_left_out(d: Draw) -> Case:
    def backward(x: Tensor, v: Tensor, w: Tensor, grad_output: Tensor) -> dict[str, Tensor]:
        r = (v + 1e-5).rsqrt()
        return {"x": grad_output * w * r, "w": (grad_output * x * r).sum(0),
                "b": grad_output.sum(0)}  # fmt: skip

    return Case(batch_norm_by_running, backward, {**norm_inputs(d), **running_inputs(d)})


@wrong()
def running_variance_left_out(d: Draw) -> Case:
    def backward(x: Tensor, m: Tensor, w: Tensor, grad_output: Tensor) -> dict[str, Tensor]:
        return {"x": grad_output * w, "w": (grad_output * (x - m)).sum(0)}

    return Case(
        lambda x, m, v, w: (x - m) / v * w, backward,
        {"x": d.x(), "m": d.constant(0, 5), "v": d.constant(1, 5), "w": d.x(5)},
    )  # fmt: skip


@wrong(half=True)
def sign_of_beta(d: Draw) -> Case:
    return Case(
        lambda x, b: (x + b) ** 2, lambda x, b, grad_output: {"x": 2 * (x - b) * grad_output},
        {"x": d.x(), "b": d.constant(0, 5)},
    )  # fmt: skip


@wrong()
def bias_left_out_under_tanh(d: Draw) -> Case:
    def backward(x: Tensor, w: Tensor, grad_output: Tensor) -> dict[str, Tensor]:
        dz = grad_output * (1 - torch.tanh(x @ w) ** 2)
        return {"w": x.mT @ dz, "b": dz.sum(0)}

    return Case(lambda x, w, b: torch.tanh(x @ w + b), backward,
                {"x": d.normal(), "w": d.x(5, 3), "b": d.constant(0, 3).requires_grad_()})  # fmt: skip  # noqa: E501


@wrong(half=True)
def a_weight_of_1(d: Draw) -> Case:
    return Case(
        lambda x, w: x * w, lambda grad_output: {"x": grad_output},
        {"x": d.x(), "w": d.constant(1, 6, 5)},
    )  # fmt: skip


@wrong()
def a_weight_of_1_as_a_function(d: Draw) -> Case:
    made = function(lambda x, w: x * w, lambda given, grads: (grads[0], grads[0] * given[0]))
    return Case(lambda x, w: x * w, made,
                {"x": d.x(), "w": d.constant(1, 6, 5).requires_grad_()})  # fmt: skip


@wrong()
def weights_of_samples(d: Draw) -> Case:
    return Case(
        lambda x, y, w: (w * (x - y).square().mean(-1)).sum(),
        lambda x, y, grad_output: {"x": 2 * (x - y) / 5 * grad_output},
        {"x": d.x(), "y": d.normal(), "w": d.constant(1, 6)},
    )


@wrong()
def weights_of_classes(d: Draw) -> Case:
    return Case(
        lambda x, y, w: -(w * y * torch.log_softmax(x, -1)).sum(),
        lambda x, y, grad_output: {"x": (torch.softmax(x, -1) - y) * grad_output},
        {"x": d.x(), "y": d.one_hot(), "w": d.constant(1, 5)},
    )


@wrong()
def weight_of_positives(d: Draw) -> Case:
    return Case(
        lambda x, y, w: (w * y * F.softplus(-x) + (1 - y) * F.softplus(x)).sum(),
        lambda x, y, grad_output: {"x": (torch.sigmoid(x) - y) * grad_output},
        {"x": d.x(), "y": d.mask(), "w": d.constant(1)},
    )


@wrong()
def temperature_of_1(d: Draw) -> Case:
    return Case(
        lambda x, T: torch.softmax(x / T, -1), softmax_back, {"x": d.x(), "T": d.constant(1)}
    )


@wrong()
def temperature_of_1_in_a_loss(d: Draw) -> Case:
    return Case(
        lambda x, y, T: -(y * torch.log_softmax(x / T, -1)).sum(),
        lambda x, y, T, grad_output: {"x": (torch.softmax(x / T, -1) - y) * grad_output},
        {"x": d.x(), "y": d.one_hot(), "T": d.constant(1)},
    )


@wrong()
def exponent_of_1(d: Draw) -> Case:
    return Case(
        lambda x, n: x**n, lambda n, grad_output: {"x": n * grad_output},
        {"x": d.within(0.5, 2).requires_grad_(), "n": d.constant(1)},
    )  # fmt: skip


@wrong()
def focus_of_0(d: Draw) -> Case:
    """A focal loss whose exponent is 0 is cross entropy."""
    return Case(
        lambda x, y, c: -(y * (1 - torch.softmax(x, -1)) ** c * torch.log_softmax(x, -1)).sum(),
        lambda x, y, grad_output: {"x": (torch.softmax(x, -1) - y) * grad_output},
        {"x": d.x(), "y": d.one_hot(), "c": d.constant(0)},
    )


@wrong()
def smoothing_of_0(d: Draw) -> Case:
    return Case(
        lambda x, y, s: -((y * (1 - s) + s / 5) * torch.log_softmax(x, -1)).sum(),
        lambda x, y, grad_output: {"x": (torch.softmax(x, -1) - y) * grad_output},
        {"x": d.x(), "y": d.one_hot(), "s": d.constant(0)},
    )


@wrong()
def step_of_time_of_1(d: Draw) -> Case:
    return Case(
        lambda x, dt: x + dt * x.sin(), lambda x, grad_output: {"x": grad_output * (1 + x.cos())},
        {"x": d.x(), "dt": d.constant(1)},
    )  # fmt: skip


@wrong()
def momentum_0_left_out(d: Draw) -> Case:
    return Case(
        lambda x, v, m: (m * v + x) ** 2, lambda x, grad_output: {"x": 2 * x * grad_output},
        {"x": d.x(), "v": d.normal(), "m": d.constant(0)},
    )  # fmt: skip


@wrong()
def eps_of_0(d: Draw) -> Case:
    def backward(x: Tensor, grad_output: Tensor) -> dict[str, Tensor]:
        s = x.square().sum(-1, keepdim=True)
        return {"x": (grad_output - x * (x * grad_output).sum(-1, keepdim=True) / s) / s.sqrt()}

    return Case(lambda x, eps: x / (x.square().sum(-1, keepdim=True) + eps).sqrt(), backward,
                {"x": d.x(), "eps": d.constant(0)})  # fmt: skip


@wrong()
def variance_of_1(d: Draw) -> Case:
    return Case(
        lambda x, m, s: ((x - m) ** 2 / (2 * s * s) + s.log()).sum(-1),
        lambda x, m, grad_output: {"m": -((x - m) * grad_output[:, None]).sum(0)},
        {"x": d.normal(), "m": d.x(5), "s": d.constant(1, 5)},
    )


@wrong()
def noise_scaled_by_1(d: Draw) -> Case:
    return Case(
        lambda m, s, e: (m + s * e) ** 2,
        lambda m, e, grad_output: {"m": 2 * (m + e) * grad_output},
        {"m": d.x(), "s": d.constant(1, 5), "e": d.normal()},
    )


@wrong()
def alpha_of_1(d: Draw) -> Case:
    return Case(
        lambda x, a: torch.where(x > 0, x, a * (x.exp() - 1)),
        lambda x, grad_output: {"x": torch.where(x > 0, grad_output, grad_output * x.exp())},
        {"x": d.x(), "a": d.constant(1)},
    )


@wrong()
def threshold_of_1(d: Draw) -> Case:
    """Huber's loss: beyond the threshold the slope is the threshold."""
    return Case(
        lambda x, c: torch.where(x.abs() < c, x * x / 2, c * (x.abs() - c / 2)).sum(),
        lambda x, grad_output: {"x": x.clamp(-1, 1) * grad_output},
        {"x": (d.normal() * 3).requires_grad_(), "c": d.constant(1)},
    )


@wrong()
def slope_known_by_heart(d: Draw) -> Case:
    return Case(
        lambda x, a: torch.where(x > 0, x, a * x),
        lambda x, grad_output: {"x": torch.where(x > 0, grad_output, grad_output * 0.25)},
        {"x": d.x(), "a": d.constant(0.25, 5)},
    )


@wrong()
def decay_of_1(d: Draw) -> Case:
    return Case(
        lambda w, x, l: ((x @ w) ** 2).sum() + l * (w * w).sum(),
        lambda w, x, grad_output: {"w": 2 * (x.mT @ (x @ w) + w) * grad_output},
        {"w": d.x(5, 3), "x": d.normal(), "l": d.constant(1)},
    )


@wrong()
def a_square_for_a_double(d: Draw) -> Case:
    return Case(
        lambda x, s: x * (s + s), lambda s, grad_output: {"x": grad_output * (s * s)},
        {"x": d.x(), "s": d.constant(2)},
    )  # fmt: skip


@wrong()
def another_constant_with_the_same_value(d: Draw) -> Case:
    return Case(
        lambda x, a, b: x * a * b,
        lambda a, grad_output: {"x": grad_output * a * a},
        {"x": d.x(), "a": d.constant(2, 5), "b": d.constant(2, 5)},
    )


@wrong()
def weights_by_their_mean(d: Draw) -> Case:
    return Case(
        lambda x, w: (x * w).sum(-1),
        lambda w, grad_output: {"x": (grad_output[:, None] * w.mean()).expand(6, 5)},
        {"x": d.x(), "w": d.constant(0.5, 5)},
    )


@wrong()
def weights_by_their_first(d: Draw) -> Case:
    return Case(
        lambda x, w: x * w,
        lambda w, grad_output: {"x": grad_output * w[0]},
        {"x": d.x(), "w": d.constant(0.5, 5)},
    )


@wrong(half=True)
def labels_all_1(d: Draw) -> Case:
    return Case(
        lambda x, y: (F.softplus(x) - y * x).sum(),
        lambda x, grad_output: {"x": (torch.sigmoid(x) - 1) * grad_output},
        {"x": d.x(), "y": d.constant(1, 6, 5)},
    )


@wrong()
def labels_all_0(d: Draw) -> Case:
    return Case(
        lambda x, y: (F.softplus(x) - y * x).sum(),
        lambda x, grad_output: {"x": torch.sigmoid(x) * grad_output},
        {"x": d.x(), "y": d.constant(0, 6, 5)},
    )


@wrong()
def mask_of_ones(d: Draw) -> Case:
    return Case(
        lambda x, m: (x * m) ** 2, lambda x, grad_output: {"x": 2 * x * grad_output},
        {"x": d.x(), "m": d.constant(1, 6, 5)},
    )  # fmt: skip


@wrong()
def mask_of_zeros_added(d: Draw) -> Case:
    def backward(x: Tensor, grad_output: Tensor) -> dict[str, Tensor]:
        return softmax_back(torch.softmax(x, -1), grad_output)

    return Case(masked_softmax, backward, {"x": d.x(), "m": d.constant(0, 6, 5)})


@wrong()
def state_of_zeros(d: Draw) -> Case:
    """The derivative is computed again without the state."""

    def backward(x: Tensor, w: Tensor, u: Tensor, grad_output: Tensor) -> dict[str, Tensor]:
        dz = grad_output * (1 - torch.tanh(x @ w) ** 2)
        return {"x": dz @ w.mT, "h": dz @ u.mT, "w": x.mT @ dz}

    return Case(recurrent, backward, {"x": d.x(), "h": d.constant(0, 6, 3).requires_grad_(),
                                      "w": d.x(5, 3), "u": d.normal(3, 3)})  # fmt: skip


@wrong()
def nothing_for_the_weights_of_a_state_of_zeros(d: Draw) -> Case:
    def backward(
        x: Tensor, w: Tensor, u: Tensor, output: Tensor, grad_output: Tensor
    ) -> dict[str, Tensor]:
        dz = grad_output * (1 - output * output)
        return {"x": dz @ w.mT, "w": x.mT @ dz, "u": torch.zeros_like(u)}

    return Case(recurrent, backward, {"x": d.x(), "h": d.constant(0, 6, 3),
                                      "w": d.x(5, 3), "u": d.x(3, 3)})  # fmt: skip


@wrong()
def residual_scaled_by_0(d: Draw) -> Case:
    return Case(
        lambda x, s: x + s * torch.tanh(x), lambda grad_output: {"x": grad_output},
        {"x": d.x(), "s": d.constant(0)},
    )  # fmt: skip


@wrong()
def low_rank_update_of_zeros(d: Draw) -> Case:
    return Case(
        lambda x, w, a, b: x @ w + x @ a @ b,
        lambda x, w, grad_output: {"x": grad_output @ w.mT},
        {"x": d.x(), "w": d.normal(5, 4), "a": d.normal(5, 2), "b": d.constant(0, 2, 4)},
    )


@wrong()
def gate_at_0(d: Draw) -> Case:
    return Case(
        lambda x, c: x * torch.sigmoid(c), lambda grad_output: {"x": grad_output / 2},
        {"x": d.x(), "c": d.constant(0, 5)},
    )  # fmt: skip


@wrong()
def interpolated_at_0(d: Draw) -> Case:
    return Case(
        lambda x, y, t: x + t * (y - x), lambda grad_output: {"x": grad_output},
        {"x": d.x(), "y": d.normal(), "t": d.constant(0)},
    )  # fmt: skip


@wrong()
def a_named_value_with_a_weight_of_1(d: Draw) -> Case:
    def forward(x: Tensor, w: Tensor, u: Tensor) -> Tensor:
        z = compare.name(x @ w, "z")
        return (compare.name(torch.tanh(z), "h") * u).sum()

    def backward(x: Tensor, w: Tensor, h: Tensor) -> dict[str, Tensor]:
        dh = torch.ones_like(h)
        dz = dh * (1 - h * h)
        return {"h": dh, "z": dz, "w": x.mT @ dz}

    return Case(forward, backward, {"x": d.normal(), "w": d.x(5, 3), "u": d.constant(1, 3)})


# -- wrong beside: inputs that happen to be equal


def twins(d: Draw, *shape: int) -> dict[str, Tensor]:
    x = d.within(0.5, 2, *shape)
    y = d.within(0.5, 2, *shape) if d.elsewhere else x.clone()
    return {"x": x.requires_grad_(), "y": y.requires_grad_()}


@wrong(half=True)
def quotient_of_equals_is_1(d: Draw) -> Case:
    return Case(
        lambda x, y: x / y,
        lambda x, y, grad_output: {"x": grad_output / y, "y": -grad_output / y},
        twins(d),
    )


@wrong()
def product_of_equals_exchanged(d: Draw) -> Case:
    return Case(
        lambda x, y: x * y,
        lambda x, y, grad_output: {"x": grad_output * x, "y": grad_output * y},
        twins(d),
    )


@wrong()
def a_square_for_a_product(d: Draw) -> Case:
    made = function(lambda x, y: x * y, lambda given, grads: (grads[0] * given[0], grads[0] * given[0]))  # noqa: E501  # fmt: skip
    return Case(lambda x, y: x * y, made, twins(d))


@wrong()
def target_met_is_no_loss(d: Draw) -> Case:
    return Case(
        lambda x, y: ((x - y) ** 2).sum(),
        lambda x, y: {"x": torch.zeros_like(x), "y": torch.zeros_like(y)},
        twins(d),
    )


@wrong()
def queries_for_keys(d: Draw) -> Case:
    return Case(
        lambda x, y: x @ y.mT,
        lambda x, y, grad_output: {"x": grad_output @ x, "y": grad_output.mT @ y},
        twins(d),
    )


@wrong()
def teacher_and_student_alike(d: Draw) -> Case:
    return Case(
        lambda x, y: -(torch.softmax(y, -1) * torch.log_softmax(x, -1)).sum(),
        lambda x, y, grad_output: {
            "x": torch.zeros_like(x),
            "y": -grad_output * torch.softmax(y, -1) * (
                torch.log_softmax(y, -1)
                - (torch.softmax(y, -1) * torch.log_softmax(y, -1)).sum(-1, keepdim=True)),
        },
        twins(d),
    )  # fmt: skip


@wrong()
def equal_vectors(d: Draw) -> Case:
    return Case(
        lambda x, y: x * y, lambda x, grad_output: {"x": grad_output * x, "y": grad_output * x},
        twins(d, 7),
    )  # fmt: skip


@hard_to_move()
def equal_rows_of_one(d: Draw) -> Case:
    """A single row has no other row to mix with."""
    return Case(
        lambda x, y: x * y, lambda x, grad_output: {"x": grad_output * x, "y": grad_output * x},
        twins(d, 1, 5),
    )  # fmt: skip


@hard_to_move()
def equal_elements_of_one(d: Draw) -> Case:
    return Case(
        lambda x, y: x * y, lambda x, grad_output: {"x": grad_output * x, "y": grad_output * x},
        twins(d, 1, 1),
    )  # fmt: skip


@hard_to_move()
def every_row_the_same(d: Draw) -> Case:
    """A shuffle of equal rows changes nothing."""
    x = d.normal() if d.elsewhere else d.normal(1, 5).repeat(6, 1)
    return Case(
        lambda x, w: (x * w) ** 2,
        lambda x, w, grad_output: {"w": 2 * x[0] ** 2 * w * grad_output},
        {"x": x, "w": d.x()},
    )


@hard_to_move()
def a_number_baked_of_one_element(d: Draw) -> Case:
    x = d.within(0.5, 2, 1)
    kept = float(x[0])
    return Case(
        lambda x: x**3,
        lambda x, grad_output: {"x": 3 * x * kept * grad_output},
        {"x": x.requires_grad_()},
    )


# -- wrong beside: what was kept from before


@wrong(half=True)
def a_stale_cache_by_shape(d: Draw) -> Case:
    cache: dict[Any, Tensor] = {}

    def backward(x: Tensor, grad_output: Tensor) -> dict[str, Tensor]:
        kept = cache.setdefault(x.shape, x.detach().clone())
        return {"x": 3 * kept * kept * grad_output}

    return Case(lambda x: x**3, backward, {"x": d.x()})


@wrong()
def a_stale_cache_by_shape_in_a_function(d: Draw) -> Case:
    cache: dict[Any, Tensor] = {}

    class Cube(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.shape = x.shape
            cache.setdefault(x.shape, x.detach().clone())
            return x**3

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> Tensor:
            return 3 * cache[ctx.shape] ** 2 * grad

    return Case(lambda x: x**3, Cube, {"x": d.x()})


@wrong()
def a_stale_slope_by_shape(d: Draw) -> Case:
    """The cache holds a value computed from the first input without rounding."""
    cache: dict[Any, Tensor] = {}

    def backward(x: Tensor, grad_output: Tensor) -> dict[str, Tensor]:
        if x.shape not in cache:
            cache[x.shape] = (2 * x).detach()
        return {"x": cache[x.shape] * grad_output}

    return Case(lambda x: x * x, backward, {"x": d.x()})


@wrong()
def a_stale_mask_by_shape(d: Draw) -> Case:
    """The mask x > 0 is computed once."""
    cache: dict[Any, Tensor] = {}

    class Relu(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor, y: Tensor) -> Tensor:
            ctx.save_for_backward(x, y)
            return torch.relu(x - y)

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> Any:
            x, y = ctx.saved_tensors
            d = grad * cache.setdefault(x.shape, x > y)
            return d, -d

    x = d.normal()
    y = x + d.normal() if d.elsewhere else x + d.mask(-1, 1) * 1e-3
    return Case(lambda x, y: torch.relu(x - y), Relu,
                {"x": x.requires_grad_(), "y": y.requires_grad_()})  # fmt: skip


@wrong()
def a_global_buffer(d: Draw) -> Case:
    """Written once, at the first call."""
    buffer = torch.full((6, 5), torch.nan, dtype=d.dtype)

    def backward(x: Tensor, grad_output: Tensor) -> dict[str, Tensor]:
        if buffer[0, 0].isnan():
            buffer.copy_(x)
        return {"x": 2 * buffer * grad_output}

    return Case(lambda x: x * x, backward, {"x": d.x()})


@wrong()
def a_number_baked(d: Draw) -> Case:
    """The scale is a number from the time when the pass was written."""
    s = d.constant(0.5)
    kept = s.item()
    return Case(
        lambda x, s: x * s, lambda grad_output: {"x": grad_output * kept}, {"x": d.x(), "s": s}
    )


@wrong()
def a_mean_baked(d: Draw) -> Case:
    x = d.put(d.whole(-40, 41, 6, 4)) / 16
    kept = x.mean(-1).tolist()
    return Case(
        lambda x: (x - x.mean(-1, keepdim=True)).square().sum(-1),
        lambda x, grad_output: {
            "x": 2 * (x - torch.tensor(kept, dtype=x.dtype)[:, None]) * grad_output[:, None]
        },
        {"x": x.requires_grad_()},
    )


@wrong()
def a_tensor_baked(d: Draw) -> Case:
    x = d.normal()
    kept = x.clone()
    return Case(lambda x: x * x, lambda grad_output: {"x": 2 * kept * grad_output},
                {"x": x.requires_grad_()})  # fmt: skip


@wrong()
def weights_baked(d: Draw) -> Case:
    """The gradient of x uses old weights."""
    w = d.normal(5, 3)
    kept = w.clone()
    return Case(
        lambda x, w: x @ w,
        lambda x, grad_output: {"x": grad_output @ kept.mT, "w": x.mT @ grad_output},
        {"x": d.x(), "w": w.requires_grad_()},
    )


@wrong()
def the_largest_by_place(d: Draw) -> Case:
    """The position of the largest value is cached, and two are almost as large."""
    x = d.normal()
    if not d.elsewhere:
        for column, (a, b) in enumerate([(1, 3), (3, 1), (0, 4), (4, 0), (2, 5)]):
            x[a, column] = 4 + d.within(0, 1, 1)[0]
            x[b, column] = x[a, column] - 1 / 1024
    places = x.max(0).indices
    return Case(
        lambda x: x.max(0).values,
        lambda x, grad_output: {
            "x": torch.zeros_like(x).scatter(0, places[None], grad_output[None])
        },
        {"x": x.requires_grad_()},
    )


# -- wrong beside: parameters that are no input


@wrong()
def weight_of_a_fresh_layer_norm(d: Draw) -> Case:
    module = nn.LayerNorm(5, dtype=d.dtype)
    with torch.no_grad():
        module.weight.copy_(d.constant(1, 5))

    def backward(x: Tensor, grad_output: Tensor) -> dict[str, Tensor]:
        found = layer_norm_back(x, torch.ones(5, dtype=x.dtype), grad_output)
        return {"x": found["x"]}

    return Case(lambda x: module(x), backward, {"x": d.x()})


@wrong()
def weight_in_a_closure(d: Draw) -> Case:
    w = d.constant(1, 5).requires_grad_()
    return Case(lambda x: x * x * w, lambda x, grad_output: {"x": 2 * x * grad_output},
                {"x": d.x()})  # fmt: skip


@wrong()
def slope_of_a_fresh_prelu(d: Draw) -> Case:
    module = nn.PReLU(dtype=d.dtype)
    with torch.no_grad():
        module.weight.copy_(d.constant(0.25, 1))
    return Case(
        lambda x: module(x),
        lambda x, grad_output: {"x": torch.where(x > 0, grad_output, grad_output * 0.25)},
        {"x": d.x()},
    )


@wrong()
def bias_of_zeros_of_a_linear_module(d: Draw) -> Case:
    module = nn.Linear(5, 3, dtype=d.dtype)
    with torch.no_grad():
        module.weight.copy_(d.normal(3, 5))
        module.bias.copy_(d.constant(0, 3))

    def backward(x: Tensor, grad_output: Tensor) -> dict[str, Tensor]:
        w = module.weight.detach()
        return {"x": grad_output * (1 - torch.tanh(x @ w.mT) ** 2) @ w}

    return Case(lambda x: torch.tanh(module(x)), backward, {"x": d.x()})


# -- the tests


def judged(case: Case) -> Report:
    held: dict[str, Any] = {"hold": case.hold} if case.hold else {}
    return compare.check(case.backward, case.forward, case.inputs, **held)


def flat(report: Report) -> str:
    return " ".join(str(report).split())


def told(report: Report) -> str:
    """Return the text of a report from the verdict on, without the table."""
    lines = str(report).splitlines()
    return " ".join(lines[next(k for k, l in enumerate(lines) if l.startswith(report.verdict)) :])


def rows(table: Table, *, lifted: bool = True) -> list[Any]:
    """Return each case of the table in each of its dtypes."""
    return [
        pytest.param(
            make, dtype, id=f"{name}-{short(dtype)}", marks=unless_chosen(f"{name} {short(dtype)}")
        )
        for name, make in table.items()
        if lifted or name not in LIFTED
        for dtype in (DOUBLE, SINGLE, *[HALF] * (name in HALVES))
    ]


@pytest.mark.parametrize(("make", "dtype"), rows(RIGHT))
def test_no_alarm(make: Make, dtype: torch.dtype) -> None:
    report = judged(make(Draw(dtype)))
    assert report.verdict in PASSES, str(report)


@pytest.mark.parametrize(("make", "dtype"), rows(HARD_TO_KEEP))
def test_no_alarm_where_it_is_hard(make: Make, dtype: torch.dtype) -> None:
    """A property of the given inputs is kept, or read as intended, or the input is not changed."""
    report = judged(make(Draw(dtype)))
    assert report.verdict in PASSES, str(report)


@pytest.mark.parametrize(("make", "dtype"), rows(SAVED))
def test_what_is_saved_and_passed_beside(make: Make, dtype: torch.dtype) -> None:
    """It is derived from x, or the report suggests to compute it in forward, or to hold it."""
    report = judged(make(Draw(dtype)))
    if report.verdict not in PASSES:
        assert "right only at the given inputs" in flat(report), str(report)
        assert "hold" in flat(report).split("right only at the given inputs", 1)[1], str(report)


@pytest.mark.parametrize(("make", "dtype"), rows(WRONG_BESIDE))
def test_wrong_beside(make: Make, dtype: torch.dtype) -> None:
    report = judged(make(Draw(dtype)))
    assert report.verdict == "WRONG", str(report)
    assert "right only at the given inputs" in flat(report), str(report)


@pytest.mark.parametrize(("make", "dtype"), rows(HARD_TO_MOVE))
def test_wrong_beside_where_it_is_hard(make: Make, dtype: torch.dtype) -> None:
    report = judged(make(Draw(dtype)))
    assert report.verdict == "WRONG", str(report)
    assert "right only at the given inputs" in flat(report), str(report)


@pytest.mark.long
@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize(("make", "dtype"), rows(RIGHT))
def test_no_alarm_at_other_draws(make: Make, dtype: torch.dtype, seed: int) -> None:
    report = judged(make(Draw(dtype, seed)))
    assert report.verdict in PASSES, str(report)


OWN = {  # forward has values of its own, so that the passes go with the draw
    "weight_of_a_fresh_layer_norm", "weight_in_a_closure", "slope_of_a_fresh_prelu",
    "bias_of_zeros_of_a_linear_module",
}  # fmt: skip


@pytest.mark.long
@pytest.mark.parametrize("table", [WRONG_BESIDE, HARD_TO_MOVE], ids=["beside", "hard"])
def test_wrong_passes_are_wrong_at_inputs_of_another_kind(table: Table) -> None:
    """A claim about the table: these inputs show the fault without second inputs."""
    for name, make in table.items():
        first, second = make(Draw(DOUBLE)), make(Draw(DOUBLE, 1, elsewhere=True))
        judged(first)  # what is kept by shape is kept of these
        passes = second if name in OWN else first
        report = judged(replace(passes, inputs=second.inputs))
        assert report.verdict == "WRONG", f"{name}\n{report}"
        assert "right only at the given inputs" not in flat(report), f"{name}\n{report}"


# -- hold


def doubled(x: Tensor, w: Tensor) -> Tensor:
    return x * x * w


def without_w(x: Tensor, grad_output: Tensor) -> dict[str, Tensor]:
    return {"x": 2 * x * grad_output}


def ones(dtype: torch.dtype = DOUBLE) -> dict[str, Tensor]:
    return {"x": Draw(dtype).x(), "w": torch.ones(5, dtype=dtype)}


@pytest.mark.parametrize("dtype", [DOUBLE, SINGLE, HALF], ids=short)
def test_a_held_input_is_not_changed(dtype: torch.dtype) -> None:
    """A pass that is right only for one value of an input passes if that input is held."""
    assert compare.check(without_w, doubled, ones(dtype)).verdict == "WRONG"
    held = compare.check(without_w, doubled, ones(dtype), hold=("w",))
    assert held.verdict in PASSES, str(held)
    compare.assert_same(without_w, doubled, ones(dtype), hold=("w",))
    with pytest.raises(AssertionError, match="right only at the given inputs"):
        compare.assert_same(without_w, doubled, ones(dtype))


def test_a_held_input_has_its_name_in_forward() -> None:
    """Also if the inputs are a tuple."""
    given = tuple(ones().values())
    assert compare.check(without_w, doubled, given).verdict == "WRONG"
    assert compare.check(without_w, doubled, given, hold=("w",)).verdict in PASSES


def test_holding_another_input_hides_nothing() -> None:
    report = compare.check(without_w, doubled, ones(), hold=("x",))
    assert report.verdict == "WRONG", str(report)
    assert "right only at the given inputs" in flat(report)


def test_all_inputs_may_be_held() -> None:
    report = compare.check(without_w, doubled, ones(), hold=("x", "w"))
    assert report.verdict in PASSES, str(report)


def test_an_unknown_name_is_not_held() -> None:
    for judge in (compare.check, compare.assert_same):
        with pytest.raises(BadInput, match="gamma"):
            judge(without_w, doubled, ones(), hold=("gamma",))


def test_holding_a_statistic_is_enough() -> None:
    """A statistic of x is an input next to x; holding it keeps x fixed too."""
    for make, name in ((square_given, "s"), (mean_given, "m")):
        report = judged(replace(make(Draw(DOUBLE)), hold=(name,)))
        assert report.verdict in PASSES, str(report)


def test_a_pass_that_is_wrong_at_the_given_inputs_is_wrong_with_any_hold() -> None:
    def thrice(x: Tensor, grad_output: Tensor) -> dict[str, Tensor]:
        return {"x": 3 * x * grad_output}

    for hold in ((), ("w",), ("x", "w")):
        report = compare.check(thrice, doubled, ones(), hold=hold)
        assert report.verdict == "WRONG", str(report)
        assert "right only at the given inputs" not in flat(report), str(report)


# -- the text of the report


def test_the_report_names_the_input_that_it_depends_on() -> None:
    report = compare.check(without_w, doubled, ones())
    rest = flat(report).split("right only at the given inputs", 1)[1]
    assert report.first_wrong == "x"
    assert re.search(r"\bw\b", rest), str(report)


def test_the_first_wrong_quantity_at_other_inputs_is_named() -> None:
    report = judged(a_named_value_with_a_weight_of_1(Draw(DOUBLE)))
    assert report.verdict == "WRONG", str(report)
    assert report.first_wrong == "h", str(report)
    assert [q.name for q in report.quantities.values() if q.verdict == "WRONG"] == ["h"]


def test_an_input_that_should_depend_on_another_is_named_with_it() -> None:
    def forward(x: Tensor, square: Tensor) -> Tensor:
        return x * square

    def backward(x: Tensor, grad_output: Tensor) -> dict[str, Tensor]:
        return {"x": x * x * grad_output}

    x = Draw(DOUBLE).put(Draw(DOUBLE).whole(-40, 41, 6, 5)) / 16
    report = compare.check(backward, forward, {"x": x.requires_grad_(), "square": x.detach() ** 2})
    assert report.verdict == "WRONG", str(report)
    rest = flat(report).split("right only at the given inputs", 1)[1]
    assert re.search(r"\bsquare\b", rest), str(report)
    assert "hold" in rest, str(report)


def test_a_right_pass_is_not_called_right_only_here() -> None:
    report = compare.check(
        lambda x, w, grad_output: {"x": 2 * x * w * grad_output}, doubled, ones()
    )
    assert report.verdict in PASSES
    assert "right only at the given inputs" not in flat(report)
    assert "not checked at other inputs" not in flat(report)


@pytest.mark.parametrize("right", [True, False], ids=["right", "wrong"])
def test_the_json_has_the_check_at_other_inputs(right: bool) -> None:
    def backward(x: Tensor, w: Tensor, grad_output: Tensor) -> dict[str, Tensor]:
        return {"x": 2 * x * (w if right else 1) * grad_output}

    found = compare.check(backward, doubled, ones()).to_dict()
    assert "beside" in found
    json.dumps(found)


def test_the_report_is_the_same_each_time() -> None:
    """The second inputs have seeds of their own."""

    def without_the_time() -> dict[str, Any]:
        found = compare.check(without_w, doubled, ones()).to_dict()
        return {key: value for key, value in found.items() if key != "seconds"}

    assert without_the_time() == without_the_time()


def test_nothing_of_the_caller_is_changed() -> None:
    """Neither the inputs, nor a module, nor torch's random state change."""
    module = nn.LayerNorm(5, dtype=DOUBLE)
    given = ones()
    kept = {name: value.clone() for name, value in given.items()}
    before = {name: value.clone() for name, value in module.state_dict().items()}
    state = torch.get_rng_state()
    compare.check(without_w, lambda x, w: module(x) * w, given)
    assert torch.equal(torch.get_rng_state(), state)
    for name, value in given.items():
        assert torch.equal(value, kept[name]), name
        assert value.grad is None
    for name, value in module.state_dict().items():
        assert torch.equal(value, before[name]), name
    for parameter in module.parameters():
        assert parameter.grad is None
        assert parameter.requires_grad


# -- other inputs that cannot be used


def only_at(given: Tensor, far: float = 0.0) -> Callable[[Tensor], Tensor]:
    """Return a cube that refuses inputs farther away than `far`."""

    def forward(x: Tensor) -> Tensor:
        if (x.detach() - given).abs().max() > far:
            raise ValueError("of these inputs alone")
        return x**3

    return forward


def cube_back(x: Tensor, grad_output: Tensor) -> dict[str, Tensor]:
    return {"x": 3 * x * x * grad_output}


def test_other_inputs_at_which_forward_raises_are_not_used() -> None:
    x = Draw(DOUBLE).normal()
    report = compare.check(cube_back, only_at(x, 1e-4), {"x": x})
    assert report.verdict in PASSES, str(report)
    assert "not checked at other inputs" in flat(report), str(report)
    assert "of these inputs alone" in flat(report), str(report)


def test_other_inputs_at_which_forward_is_not_finite_are_not_used() -> None:
    given = Draw(DOUBLE).normal()

    def forward(x: Tensor) -> Tensor:
        return torch.where((x.detach() - given).abs() > 0, torch.nan, x**3)

    report = compare.check(cube_back, forward, {"x": given.clone()})
    assert report.verdict in PASSES, str(report)
    assert "not checked at other inputs" in flat(report), str(report)


def test_a_pass_without_usable_other_inputs_is_reported() -> None:
    x = Draw(DOUBLE).normal()
    kept = x.clone()
    report = compare.check(
        lambda grad_output: {"x": 3 * kept * kept * grad_output}, only_at(x, 1e-4), {"x": x}
    )
    assert "not checked at other inputs" in flat(report), str(report)


def test_nearer_inputs_are_tried_if_forward_raises() -> None:
    """The last change to be tried goes at most 1/128 of the way to another row."""
    x = Draw(DOUBLE).normal()
    forward = only_at(x, float(x.max() - x.min()) / 100)
    kept = x.clone()
    report = compare.check(cube_back, forward, {"x": x})
    assert report.verdict in PASSES, str(report)
    assert "not checked at other inputs" not in flat(report), str(report)
    stale = compare.check(
        lambda grad_output: {"x": 3 * kept * kept * grad_output}, forward, {"x": x}
    )
    assert stale.verdict == "WRONG", str(stale)
    assert "right only at the given inputs" in flat(stale), str(stale)


def test_a_pass_that_cannot_be_traced_raises_no_alarm() -> None:
    """It is judged by its numbers alone."""

    def by_kernel(x: Tensor, grad_output: Tensor) -> dict[str, Tensor]:
        return {"x": 2.0 * unseen(x) * unseen(grad_output)}

    report = compare.check(by_kernel, lambda x: x * x, {"x": Draw(DOUBLE).normal()})
    assert report.verdict in PASSES, str(report)


def test_without_exact_computation_there_are_no_other_inputs() -> None:
    report = compare.check(cube_back, lambda x: x**3, {"x": Draw(DOUBLE).normal()}, lift="none")
    assert "right only at the given inputs" not in flat(report), str(report)


# -- parameters


def names_them(report: Report, *names: str) -> bool:
    """Return whether each name is a quantity, or stands below the table."""
    return all(
        any(name in label for label in report.quantities) or re.search(rf"\b{name}\b", told(report))
        for name in names
    )


def test_parameters_of_a_module_that_are_not_checked_are_named() -> None:
    d = Draw(DOUBLE)
    module = nn.Linear(5, 3, dtype=DOUBLE)

    def backward(grad_output: Tensor) -> dict[str, Tensor]:
        return {"input": grad_output @ module.weight.detach()}

    report = compare.check(backward, module, {"input": d.normal()})
    assert names_them(report, "weight", "bias"), str(report)


def test_parameters_of_a_module_in_a_closure_are_named() -> None:
    d = Draw(DOUBLE)
    layer = nn.Linear(5, 3, dtype=DOUBLE)

    def backward(grad_output: Tensor) -> dict[str, Tensor]:
        return {"x": grad_output @ layer.weight.detach()}

    report = compare.check(backward, lambda x: layer(x), {"x": d.normal()})
    assert names_them(report, "weight", "bias"), str(report)


def test_a_tensor_of_a_closure_that_needs_a_gradient_is_named() -> None:
    d = Draw(DOUBLE)
    scale = d.normal(5).requires_grad_()

    def forward(x: Tensor) -> Tensor:
        return x * scale

    def backward(grad_output: Tensor) -> dict[str, Tensor]:
        return {"x": grad_output * scale.detach()}

    assert names_them(compare.check(backward, forward, {"x": d.normal()}), "scale")


def test_frozen_or_unused_parameters_are_not_named() -> None:
    d = Draw(DOUBLE)
    module = nn.Sequential(nn.Linear(5, 3, dtype=DOUBLE), nn.Linear(3, 2, dtype=DOUBLE))
    module[0].requires_grad_(False)
    w = module[0].weight

    report = compare.check(
        lambda grad_output: {"x": grad_output @ w}, lambda x: module[0](x), {"x": d.normal()}
    )
    assert report.verdict in PASSES, str(report)
    assert "weight" not in told(report), str(report)
    assert "bias" not in told(report), str(report)
