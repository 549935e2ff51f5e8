"""The lecture's exercise by hand: 26 quantities, each right, and every mutant of them is caught."""

import pytest

import compare
from tests import backprop_exercise


def test_every_quantity_is_right() -> None:
    given = backprop_exercise.inputs()
    report = compare.check(backprop_exercise.backward, backprop_exercise.forward, given)
    assert report.ok, str(report)
    assert len(report.quantities) == 26


@pytest.mark.long
def test_every_mutant_is_caught_but_one_that_only_other_inputs_show() -> None:
    """The gradient of bnmeani is a sum of 0, whichever of two tensors it adds up."""
    given = backprop_exercise.inputs()
    report = compare.power(backprop_exercise.backward, backprop_exercise.forward, given)
    assert report.wrong > 300
    assert report.wrong - report.caught["check"] == len(report.survivors) <= 1
    assert all("bndiff" in survivor.what for survivor in report.survivors)
