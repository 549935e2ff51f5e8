"""Adding a row to the tables: a message names each table that lacks a row of another table.

To add an activation, add a row to manual/activations.py and run this file.
"""

import dataclasses
import re
from collections.abc import Collection
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import torch_ref.losses
import torch_ref.network
from compare.cases import cases
from compare.cli.main import main
from compare.diagnosis.fix_tables import DERIVATIVES, Derivative
from compare.proof import balls, bounds, operations
from compare.proof.verdict import Verdict
from compare.training.harness import run
from manual import activations, losses, network, optimizers
from tests import operation_cases, test_fields, test_optimizers, test_pieces, test_verdict
from tests.complex_operation_cases import COMPLEX_CALLS
from torch_ref import trainer

NETWORKS = Path(__file__).parent.parent / "docs" / "networks.md"
NUMBERS = ("eight", "nine", "ten", "eleven", "twelve")  # counts of activations, from 8 on


def tables() -> dict[str, dict[str, Collection[str]]]:
    """Return the names in each table: kind of row -> table -> names."""
    with_derivative = {row.function for row in DERIVATIVES if row.of_activation}
    tested = test_optimizers.ROWS.values()
    calls = {row for call in (*operation_cases.CALLS, *COMPLEX_CALLS) for row in call.rows}
    return {
        "activation": {
            "manual.activations.ACTIVATIONS": activations.ACTIVATIONS,
            "torch_ref.network.ACTIVATIONS": torch_ref.network.ACTIVATIONS,
            "compare.cases.cases.ACTIVATIONS": cases.ACTIVATIONS,
            # sin and cos: users' networks only; identity: its derivative is 1, which is no factor
            "compare.diagnosis.fix_tables.DERIVATIVES": (
                with_derivative - {"sin", "cos"} | {"identity"}
            ),
        },
        "rounding activation": {
            "compare.cases.cases.ACTIVATIONS": _rounding(cases.ACTIVATIONS),
            "tests.test_pieces.FEW_ULPS": {"gelu", *(name for name, _ in test_pieces.FEW_ULPS)},
        },
        "loss": {
            "manual.losses.LOSSES": losses.LOSSES,
            "torch_ref.losses.LOSSES": torch_ref.losses.LOSSES,
            "compare.cases.cases.LOSSES": cases.LOSSES,
        },
        "rounding loss": {
            "compare.cases.cases.LOSSES": _rounding(cases.LOSSES),
            "tests.test_pieces.OTHER_BITS": [n for n, w in test_pieces.OTHER_BITS if w == "error"],
        },
        "optimizer": {
            "manual.optimizers.MOMENTS": optimizers.MOMENTS,
            "torch_ref.trainer.OPTIMIZERS": trainer.OPTIMIZERS,
            "compare.cases.cases.OPTIMIZERS": cases.OPTIMIZERS,
            "tests.test_optimizers.ROWS": {kind.__name__.lower() for kind, _ in tested},
        },
        "field": {
            "compare.cases.cases.Network": _fields(cases.Network),
            "manual.network.Network": _fields(network.Network),
            "torch_ref.network.Settings": _fields(torch_ref.network.Settings),
            "tests.test_fields.FIELDS": test_fields.FIELDS,
        },
        "operation": {
            "compare.proof.operations.ROWS": calls.union(operations.ROWS),  # or a list next to it
            "tests/operation_cases.py": calls,
        },
        "elementary function": {
            "compare.proof.balls.FUNCTIONS": balls.FUNCTIONS,
            "compare.proof.bounds._MAX_DERIVATIVES": bounds._MAX_DERIVATIVES,
        },
        "verdict": {
            "compare.proof.verdict.Verdict": Verdict.__members__,
            "tests.test_verdict.ORDER": test_verdict.ORDER,
        },
    }  # fmt: skip


def _rounding(table: dict[str, cases.Traits]) -> list[str]:
    return [name for name, piece in table.items() if piece.rounds]


def _fields(kind: Any) -> list[str]:
    return [field.name for field in dataclasses.fields(kind)]


def lacking() -> list[str]:
    """Return a message for each row that a table lacks."""
    return [
        f"{kind} {name} lacks a row in {place}"
        for kind, places in tables().items()
        for name in dict.fromkeys(chain(*places.values()))
        for place, names in places.items()
        if name not in names
    ]


def test_every_table_has_every_row() -> None:
    assert not lacking(), "\n".join(lacking())


def _elu(z: Tensor) -> Tensor:
    return torch.where(z > 0, z, torch.expm1(z))


def _elu_delta(error: Tensor, z: Tensor, l: Tensor) -> Tensor:
    return error * torch.where(z > 0, 1.0, l + 1)


def _row(monkeypatch: pytest.MonkeyPatch, table: object, name: str, row: object) -> None:
    monkeypatch.setitem(table, name, row)  # type: ignore[call-overload]


@pytest.mark.parametrize(
    ("table", "name", "row", "kind", "places"),
    [
        (activations.ACTIVATIONS, "mine", activations.Activation(_elu, _elu_delta), "activation",
         ["torch_ref.network.ACTIVATIONS", "compare.cases.cases.ACTIVATIONS",
          "compare.diagnosis.fix_tables.DERIVATIVES"]),
        (torch_ref.network.ACTIVATIONS, "mine", torch.nn.Mish, "activation",
         ["manual.activations.ACTIVATIONS", "compare.cases.cases.ACTIVATIONS",
           "compare.diagnosis.fix_tables.DERIVATIVES"]),
        (losses.LOSSES, "mine", losses.LOSSES["mse"], "loss",
         ["torch_ref.losses.LOSSES", "compare.cases.cases.LOSSES"]),
        (optimizers.MOMENTS, "mine", ("exp_avg",), "optimizer",
         ["torch_ref.trainer.OPTIMIZERS", "compare.cases.cases.OPTIMIZERS",
          "tests.test_optimizers.ROWS"]),
        (operations.ROWS, "mine", None, "operation", ["tests/operation_cases.py"]),
        (balls.FUNCTIONS, "mine", None, "elementary function",
         ["compare.proof.bounds._MAX_DERIVATIVES"]),
    ],
)  # fmt: skip
def test_a_row_in_one_table_alone_is_reported_for_the_others(
    table: dict[str, object], name: str, row: object, kind: str, places: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    before = lacking()
    _row(monkeypatch, table, name, row)
    messages = [sentence for sentence in lacking() if sentence not in before]
    assert messages == [f"{kind} {name} lacks a row in {place}" for place in places]


def test_an_activation_that_rounds_needs_its_ulps(monkeypatch: pytest.MonkeyPatch) -> None:
    _row(monkeypatch, cases.ACTIVATIONS, "tanh", cases.Traits("its exp is its own"))
    assert "rounding activation tanh lacks a row in tests.test_pieces.FEW_ULPS" in lacking()


@pytest.mark.parametrize(
    "row",
    [row for row in DERIVATIVES if row.of_activation],
    ids=lambda row: f"{row.function}-{row.forward}",
)
def test_a_derivative_is_autograds(row: Derivative) -> None:
    """The formula of each row, at the output or at the argument, away from kinks."""
    z = torch.linspace(-3.1, 3.1, 24, dtype=torch.float64, requires_grad=True)
    function = getattr(torch.nn.functional, row.function, None) or getattr(torch, row.function)
    l = function(z)
    (expected,) = torch.autograd.grad(l.sum(), z)
    actual = row.in_floats((z if row.forward else l).detach())
    torch.testing.assert_close(actual.double(), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", cases.ACTIVATIONS)
def test_a_kink_is_declared(name: str) -> None:
    """The derivatives left and right of 0 differ exactly where the row says so."""
    row, sides = activations.ACTIVATIONS[name], torch.tensor([-1e-9, 1e-9], dtype=torch.float64)
    below, above = row.delta(torch.ones_like(sides), sides, row.value(sides)).tolist()
    jumps, declared = abs(above - below) > 1e-3, cases.ACTIVATIONS[name].kinked
    assert jumps == declared, f"{name} jumps at 0: {jumps}, but its row says kinked={declared}"


def test_an_activation_is_three_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three rows make an activation usable and checked; the one here differs by rounding."""
    _row(monkeypatch, activations.ACTIVATIONS, "mine", activations.Activation(_elu, _elu_delta))
    _row(monkeypatch, torch_ref.network.ACTIVATIONS, "mine", torch.nn.ELU)
    _row(monkeypatch, cases.ACTIVATIONS, "mine", cases.Traits("its kernel has an expm1 of its own"))
    asked = cases.Network((3, 4, 1), alpha=0.1, activation="mine")
    case = dataclasses.replace(cases.CASES["network"], network=asked, promises="")
    assert (case.promises, case.demand) == ("ROUNDING", "rounding")
    monkeypatch.setattr(cases.Network, "check", lambda _: None)  # its choices were read at import
    report = run(case, steps=3)
    assert report.verdict in ("EXACT", "ROUNDING"), str(report)


def test_a_case_is_one_row(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = dataclasses.replace(cases.CASES["two_layer"], name="mine", shows="a row of my own")
    _row(monkeypatch, cases.CASES, "mine", mine)
    assert main(["--list"]) == 0
    assert re.search(r"mine +EXACT +10,000 +a row of my own", capsys.readouterr().out)
    assert main(["run", "mine", "--steps", "3", "--no-board"]) == 0


def test_the_page_on_networks_counts_the_activations() -> None:
    match = re.search(r"any of (\w+) activations", NETWORKS.read_text())
    assert match, "docs/networks.md does not say how many activations there are"
    count = NUMBERS[len(activations.ACTIVATIONS) - 8]
    assert match[1] == count, f"docs/networks.md says any of {match[1]} activations, not {count}"
