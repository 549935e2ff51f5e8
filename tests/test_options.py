"""The command-line options of a network: each one works, or is refused with a reason."""

import dataclasses
import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from compare.cases.cases import CASES, Network
from compare.cli.main import main
from compare.training.harness import Run
from tests.tenth import unless_chosen

ROWS = "a,b,kind\n" + "".join(
    f"{k},{k * k % 7},{'high' if (k * 7 + 3) % 10 > 4 else 'low'}\n" for k in range(30)
)


OPTIONS = [
    ("--sizes 3,5,2,1", "sizes", (3, 5, 2, 1)),
    ("--alpha 0.5", "alpha", 0.5),
    ("--activation tanh", "activation", "tanh"),
    ("--output identity", "output", "identity"),
    ("--loss mse", "loss", "mse"),
    ("--bias", "bias", True),
    ("--batch-norm", "batch_norm", True),
    ("--batch-norm --batch-norm-eps 0.01", "batch_norm_eps", 0.01),
    ("--batch-norm --batch-norm-momentum 0.5", "batch_norm_momentum", 0.5),
    ("--dropout 0.5", "dropout", 0.5),
    ("--trim 0.1", "trim", 0.1),
    ("--trim 0.1 --trimming zero", "trimming", "zero"),
    ("--l1-penalty 0.1", "l1_penalty", 0.1),
    ("--l2-penalty 0.1", "l2_penalty", 0.1),
    ("--optimizer adam", "optimizer", "adam"),
    ("--momentum 0.5", "momentum", 0.5),
    ("--momentum 0.5 --nesterov", "nesterov", True),
    ("--optimizer adam --betas 0.5,0.6", "betas", (0.5, 0.6)),
    ("--optimizer adam --adam-eps 0.1", "adam_eps", 0.1),
    ("--optimizer adamw --weight-decay 0.1", "weight_decay", 0.1),
]


@pytest.mark.parametrize(
    ("options", "field", "value"),
    [pytest.param(*option, marks=unless_chosen(f"the option {option}")) for option in OPTIONS],
)
def test_every_field_has_an_option(
    options: str, field: str, value: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run has the field's value, and the command in its report repeats the run."""
    run = _run(options, monkeypatch)
    assert getattr(run.case.network, field) == value
    assert run.report.command is not None
    again = _run(run.report.command.removeprefix("python -m compare run network"), monkeypatch)
    assert again.case == run.case
    assert again.steps == run.steps == 2


def _run(options: str, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Return the Run that a command line builds."""
    runs: list[Run] = []
    train = Run.train

    def keep(self: Run, *args: Any) -> Any:
        runs.append(self)
        return train(self, *args)

    monkeypatch.setattr(Run, "train", keep)
    words = shlex.split(options)
    steps = [] if "--steps" in words else ["--steps", "2"]
    assert main(["run", "network", *words, *steps, "--no-board", "--quiet"]) == 0
    monkeypatch.undo()
    return runs[0]


def test_the_options_are_the_fields() -> None:
    """Every field of Network has a row in OPTIONS."""
    assert [field for _, field, _ in OPTIONS] == [
        field.name for field in dataclasses.fields(Network)
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--sizes 3,x", "'3,x': give whole numbers as 3,8,8,1"),
        ("--sizes 3", "sizes (3,): give at least two layers"),
        ("--sizes 3,0,1", "sizes (3, 0, 1): give at least two layers, each of at least 1"),
        ("--sizes 4,2", "3,1 would fit"),
        ("--activation sigmod", "unknown activation 'sigmod': did you mean sigmoid or silu?"),
        ("--loss huber", "unknown loss 'huber'"),
        ("--optimizer sdg", "unknown optimizer 'sdg': did you mean sgd?"),
        ("--trim 1 --trimming chop", "unknown trimming 'chop'"),
        ("--init xavier", "unknown init 'xavier'"),
        ("--alpha 0", "alpha 0.0: give a positive number"),
        ("--alpha nan", "alpha nan: give a finite number"),
        ("--dropout 1", "dropout 1.0: give 0 to below 1"),
        ("--dropout -0.1", "dropout -0.1: give 0 to below 1"),
        ("--momentum 1", "momentum 1.0: give 0 to below 1"),
        ("--l1-penalty -1", "l1_penalty -1.0: give 0 or more"),
        ("--trim inf", "trim inf: give a finite number"),
        ("--betas 0.9", "betas (0.9,): give two numbers from 0 to below 1"),
        ("--optimizer adam --betas 0.9,1", "betas (0.9, 1.0): give two numbers"),
        ("--betas 0.8,0.9", "betas (0.8, 0.9): it needs optimizer adam or adamw"),
        ("--adam-eps 0.1", "adam_eps 0.1: it needs optimizer adam or adamw"),
        ("--nesterov", "nesterov True: it needs momentum"),
        ("--optimizer adam --momentum 0.9", "momentum 0.9: it needs optimizer sgd"),
        ("--weight-decay 0.1", "weight_decay 0.1: it needs optimizer adamw; see l2_penalty"),
        ("--trimming zero", "trimming zero: it needs trim"),
        ("--batch-norm-eps 0.1", "batch_norm_eps 0.1: it needs batch_norm"),
        ("--batch-norm --batch-norm-eps 0", "batch_norm_eps 0.0: give a positive number"),
        ("--sizes 3,1 --batch-norm", "batch_norm True: it needs a hidden layer"),
        ("--sizes 3,1 --dropout 0.5", "dropout 0.5: it needs a hidden layer"),
        ("--sizes 3,1 --activation tanh", "activation tanh: it needs a hidden layer; see output"),
        ("--batch-size 9", "batch_size 9: there are 4 rows, give 1 to 4"),
        ("--batch-size 0", "batch_size 0: there are 4 rows"),
        ("--batch-size 1 --batch-norm", "batch_norm with 1 row per step: it needs 2 rows or more"),
        ("--loss cross_entropy", "it needs 2 outputs or more"),
        ("--target kind", "--target kind: it names a column of a table; give --data FILE too"),
        ("--data nowhere.csv", "nowhere.csv: No such file or directory"),
        ("--l1-penalty 1e-9 --dtype float16", "l1_penalty 1e-09 is 0 in float16: give 6.1e-05"),
        ("--l2-penalty 1e300 --dtype float32", "l2_penalty 1e+300: float32 holds numbers up to"),
        ("--optimizer adam --dtype float16", "adam_eps 1e-08 is 0 in float16: give 6.1e-05"),
        ("--alpha 1e6 --dtype float16", "alpha 1000000.0: float16 holds numbers up to 6.6e+04"),
    ],
)
def test_bad_options_are_refused_in_one_line(
    options: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "network", *options.split(), "--steps", "2", "--no-board"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert err.startswith("compare: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("case", "fixed"),
    [("three_layer", "a fixed listing"), ("alpha", "a fixed table of networks")],
)
def test_a_fixed_case_takes_no_options(
    case: str, fixed: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", case, "--bias"]) == 2
    assert f"--bias: case {case} is {fixed} and takes no such option" in capsys.readouterr().err


def test_options_change_a_case_that_is_not_a_listing(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["run", "dropout", "--dropout", "0.5", "--steps", "3", "--no-board", "--json", "-"]
    assert main(words) == 0
    assert json.loads(capsys.readouterr().out)["verdict"] == "EXACT"


def test_a_table_of_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Columns and classes give the sizes; a fifth of the rows is kept for the test at the end."""
    path = tmp_path / "my table.csv"
    path.write_text(ROWS)
    run = _run(f"--data '{path}'", monkeypatch)
    assert run.case.network.sizes == (2, 16, 2)
    assert (run.case.network.loss, run.case.network.output) == ("cross_entropy", "identity")
    assert run.report.accuracy is not None
    assert {"test_l0", "test_l1", "test_l2"} <= run.report.quantities.keys()
    assert run.report.command is not None
    assert f"--data '{path}'" in run.report.command
    again = _run(run.report.command.removeprefix("python -m compare run network"), monkeypatch)
    assert again.report.accuracy == run.report.accuracy

    own = f"--data '{path}' --target kind --sizes 2,3,2 --loss half_squared_error --output sigmoid"
    run = _run(own, monkeypatch)
    assert (run.case.network.sizes, run.case.network.output) == ((2, 3, 2), "sigmoid")


def test_the_authors_table_of_alphas(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Each network prints a line when it is done, and the JSON has all of them."""
    result = tmp_path / "alpha.json"
    words = ["run", "alpha", "--steps", "12", "--no-board", "--json", str(result)]
    assert main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:8] == ["sizes", "alpha", "error", "at", "0", "error", "at", "2"]
    assert [line.split()[:2] for line in lines[1:3]] == [["3-4-1", "0.001"], ["3-4-1", "0.01"]]
    assert lines[-1] == "EXACT  14 networks, each compared at every step"
    saved = json.loads(result.read_text())
    assert (saved["verdict"], len(saved["runs"])) == ("EXACT", len(CASES["alpha"].sweep))
