"""What would make a WRONG quantity right: each kind is named, and nothing that does not hold."""

import dataclasses
import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from compare import harness
from compare.cases import CASES, Case, Network
from compare.checking import check, name
from compare.report import Report
from manual import dropout_as_published

Named = dict[str, Tensor]
ROWS = ((0, 0, 1), (0, 1, 1), (1, 0, 1), (1, 1, 1), (0.5, -1, 1), (2, 0.3, -1))
TARGETS = ((0, 1), (1, 0.3), (1, 0), (0, 0.2), (1, 1), (0.4, 0))
CASE = Case("planted", "", Network(sizes=(3, 5, 2), alpha=0.25), ROWS, TARGETS)


def _step(*, X: Tensor, y: Tensor, syn0: Tensor, syn1: Tensor, planted: Any) -> Named:
    """Take a step by hand, with lines in `planted` in the place of the right ones."""
    v: Named = {"l0": X, "y": y, "before0": syn0, "before1": syn1}
    right: dict[str, Callable[[Named], Tensor]] = {
        "l1": lambda v: torch.sigmoid(v["l0"] @ v["before0"]),
        "l2": lambda v: torch.sigmoid(v["l1"] @ v["before1"]),
        "l2_error": lambda v: v["y"] - v["l2"],
        "l2_delta": lambda v: v["l2_error"] * (1 - v["l2"]) * v["l2"],
        "syn1_update": lambda v: v["l1"].mT @ v["l2_delta"],
        "syn1": lambda v: v["before1"] + 0.25 * v["syn1_update"],
        "l1_error": lambda v: v["l2_delta"] @ v["before1"].mT,
        "l1_delta": lambda v: v["l1_error"] * (1 - v["l1"]) * v["l1"],
        "syn0_update": lambda v: v["l0"].mT @ v["l1_delta"],
        "syn0": lambda v: v["before0"] + 0.25 * v["syn0_update"],
    }
    for label, line in right.items():
        v[label] = planted.get(label, line)(v)
    return {key: value for key, value in v.items() if key not in ("y", "before0", "before1")}


#: A bug in a line of a training step: the quantity, the line, and what must be told.
BUGS: list[tuple[str, str, Callable[[Named], Tensor], str]] = [
    ("sign", "l2_error", lambda v: v["l2"] - v["y"], "times -1, the other sign"),
    ("a factor of 2", "l2_delta", lambda v: 2 * (v["y"] - v["l2"]) * v["l2"] * (1 - v["l2"]),
     "times 1/2"),
    ("half", "l1_error", lambda v: v["l2_delta"] @ v["before1"].mT / 2, "times 2"),
    ("the mean over the batch", "syn0_update", lambda v: v["l0"].mT @ v["l1_delta"] / 6,
     "times 6 (n = 6)"),
    ("n/(n-1)", "syn1_update", lambda v: v["l1"].mT @ v["l2_delta"] * 5 / 6,
     "times 6/5 (n/(n-1), n = 6)"),
    ("alpha twice", "syn0_update", lambda v: v["l0"].mT @ v["l1_delta"] * 0.25,
     "times 1 / alpha (alpha = 0.25)"),
    ("alpha forgotten", "syn1", lambda v: v["before1"] + v["syn1_update"],
     "with alpha (0.25) * syn1_update in place of syn1_update"),
    ("a slope missing", "l2_delta", lambda v: v["l2_error"] * 1,
     "times l2 * (1 - l2), the slope of sigmoid at l2"),
    ("tanh's slope", "l1_delta", lambda v: v["l1_error"] * (1 - v["l1"] * v["l1"]),
     "with l1 * (1 - l1), the slope of sigmoid, in place of (1 - l1 * l1)"),
    ("relu's slope", "l1_delta", lambda v: torch.where(v["l1"] > 0.5, v["l1_error"], 0),
     "as l1_error * l1 * (1 - l1), the slope of sigmoid"),
    ("half of a slope", "l1_delta", lambda v: v["l1_error"] * v["l1"], "as l1_error * l1 * (1 - l1), the slope of sigmoid"),
    ("the slope at another layer's value", "l2_delta",
     lambda v: v["l2_error"] * v["y"] * (1 - v["y"]),
     "with l2 in place of y"),
    ("weights after their update", "l1_error", lambda v: v["l2_delta"] @ v["syn1"].mT,
     "with syn1 before its update in place of syn1 after its update"),
    ("error for delta", "l1_error", lambda v: v["l2_error"] @ v["before1"].mT,
     "with l2_delta in place of l2_error"),
    ("another row's values", "syn0_update", lambda v: v["l0"].roll(1, -2).mT @ v["l1_delta"],
     "with X in place of "),
    ("rows turned round", "l1_error", lambda v: (v["l2_delta"] @ v["before1"].mT).flip(-2),
     "with its elements moved, as l1_error.flip(-2)"),
    ("another row's slope", "l1_delta", lambda v: v["l1_error"] * v["l1"] * (1 - v["l1"].roll(1, -2)),
     "with l1 in place of "),
    ("a term missing", "l2_error", lambda v: v["y"] * 1, "minus l2"),
    ("a term doubled", "syn1", lambda v: v["before1"] + 0.25 * v["syn1_update"] + v["before1"],
     "minus syn1"),
]  # fmt: skip


def _planted(label: str, line: Callable[[Named], Tensor]) -> Report:
    def step(**given: Any) -> Named:
        return _step(**given, planted={label: line})

    return harness.run(CASE, steps=1, step=step)


@pytest.mark.parametrize(("label", "line", "told"), [b[1:] for b in BUGS], ids=[b[0] for b in BUGS])
def test_a_bug_in_a_training_step_is_named(
    label: str, line: Callable[[Named], Tensor], told: str
) -> None:
    report = _planted(label, line)
    assert report.first_wrong == label, str(report)
    found = report.quantities[label].diagnosis
    assert found is not None
    assert any(text.startswith(told) for text in found.found), found
    assert f"would be right {found.found[0]}" in str(report)
    others = [q for q in report.quantities.values() if q.name != label]
    assert all(q.diagnosis is None for q in others), str(report)
