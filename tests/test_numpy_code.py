"""A backward pass in NumPy gets the verdicts, and the lines, that one in torch gets."""

import inspect
import itertools
from pathlib import Path
from typing import Any

import pytest

import compare
from compare.passes.passes import Passes
from compare.proof.program import Program, source_line
from compare.proof.verdict import EXACT, ROUNDING, WRONG
from compare.report.report import Report
from tests import numpy_passes
from tests.numpy_passes import BUGS, PASSES
from tests.tenth import unless_chosen

Arrays = dict[str, Any]


def _in(dtype: str, inputs: Arrays) -> Arrays:
    """Return the inputs with their floats in a dtype."""
    floats = {k: v.astype(dtype) for k, v in inputs.items() if v.dtype.kind == "f"}
    return {**inputs, **floats}


def _read(report: Report) -> bool:
    """Whether every quantity was read as a program: its formula is compared, not its bits alone."""
    return all(row.proof is not None and row.proof.lifted for row in report.quantities.values())


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        pytest.param(name, dtype, marks=unless_chosen(f"numpy {name} {dtype}"))
        for name, dtype in itertools.product(PASSES, ("float64", "float32"))
    ],
)
def test_a_right_pass_is_read_and_passes(name: str, dtype: str) -> None:
    forward, backward, inputs = PASSES[name]
    report = compare.check(backward, forward, _in(dtype, inputs))
    assert report.verdict in (EXACT, ROUNDING), str(report)
    assert _read(report), str(report)
    assert report.beside is not None
    assert report.beside.tried, str(report)


@pytest.mark.parametrize(
    ("name", "right", "wrong", "first", "dtype"),
    [
        pytest.param(*bug, dtype, marks=unless_chosen(f"numpy {bug} {dtype}"))
        for bug, dtype in itertools.product(BUGS, ("float64", "float32"))
    ],
)
def test_a_bug_is_wrong_and_has_its_line(
    name: str, right: str, wrong: str, first: str, dtype: str, tmp_path: Path
) -> None:
    forward, backward, inputs = PASSES[name]
    source = inspect.getsource(backward)
    assert source.count(right) == 1
    file = tmp_path / "planted.py"
    file.write_text(source.replace(right, wrong))
    names = dict(vars(numpy_passes))
    exec(compile(file.read_text(), str(file), "exec"), names)
    planted, given = names[backward.__name__], _in(dtype, inputs)
    report = compare.check(planted, forward, given)
    assert (report.verdict, report.first_wrong) == (WRONG, first), str(report)
    program = Passes(planted, forward, given).manual_program
    assert isinstance(program, Program)
    line = source[: source.index(right)].count("\n") + 1
    assert source_line(program.outputs[first]) == (str(file), line)
