"""Every field of the network description has an effect on both sides, alone and combined."""

import dataclasses
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from compare.cases.cases import ACTIVATIONS, CASES, LOSSES, Case, Network, expected, quantity_kind
from compare.errors import BadInput
from compare.training.adapters import manual_step_of
from compare.training.harness import Run, run

X = ((0.0, 0.0, 1.0), (0.3, 1.0, -1.0), (1.0, 0.2, 1.0), (1.0, -1.0, 0.5), (0.1, 0.9, 0.4))
CLASSES = ((0.0, 1.0), (1.0, 0.0), (1.0, 0.0), (0.0, 1.0), (1.0, 0.0))

# field -> (a network in which the field has an effect, another value of the field)
ADAM = {"optimizer": "adam", "alpha": 0.1}
FIELDS: dict[str, tuple[dict[str, Any], Any]] = {
    "sizes": ({}, (3, 5, 2)),
    "alpha": ({}, 0.5),
    "activation": ({}, "tanh"),
    "output": ({}, "identity"),
    "loss": ({}, "mse"),
    "bias": ({}, True),
    "batch_norm": ({}, True),
    "batch_norm_eps": ({"batch_norm": True}, 2e-5),
    "batch_norm_momentum": ({"batch_norm": True}, 0.2),
    "dropout": ({"dropout": 0.2}, 0.3),
    "trim": ({"trim": 0.01}, 0.02),
    "trimming": ({"trim": 0.01}, "zero"),
    "l1_penalty": ({}, 1e-3),
    "l2_penalty": ({}, 1e-3),
    "optimizer": (ADAM | {"momentum": 0.0}, "sgd"),
    "momentum": ({"momentum": 0.9}, 0.8),
    "nesterov": ({"momentum": 0.9}, True),
    "betas": (ADAM, (0.9, 0.99)),
    "adam_eps": (ADAM, 1e-3),
    "weight_decay": (ADAM | {"optimizer": "adamw"}, 0.1),
}


def _case(**asked: Any) -> Case:
    return Case("fields", "", Network(**({"sizes": (3, 4, 2)} | asked)), X, CLASSES)


def test_the_table_has_every_field() -> None:
    assert list(FIELDS) == [field.name for field in dataclasses.fields(Network)]


@pytest.mark.parametrize("name", FIELDS)
def test_a_field_changed_on_one_side_alone_is_caught(name: str) -> None:
    """Both sides agree on either value, and disagree when each side uses another value.

    So neither side ignores the field: one that did would agree with the other on both values.
    """
    asked, other = FIELDS[name]
    one, two = _case(**asked), _case(**(asked | {name: other}))
    for case in (one, two):
        assert run(case, steps=3, lift=_lift(case)).verdict == case.promises
    assert _caught(one, two)
    assert _caught(two, one)


def _caught(manual: Case, autograd: Case) -> bool:
    try:
        report = Run(autograd, steps=3, step=manual_step_of(manual), lift=_lift(autograd)).train()
    except (KeyError, TypeError, ValueError):  # one side has no weight of that name or shape
        return True
    return report.verdict != "EXACT" if _lift(autograd) == "none" else report.verdict == "WRONG"


def _lift(case: Case) -> str:
    """Return "none" if all bits must be equal, so that a differing bit is enough; else "auto"."""
    return "none" if case.promises == "EXACT" else "auto"


@st.composite
def networks(draw: st.DrawFn) -> Network:
    """Draw a network with any combination of options, including combinations that are refused."""
    flag, small = st.booleans(), st.sampled_from([0.0, 1e-3, 0.1])
    return Network(
        sizes=(3, *draw(st.lists(st.integers(1, 6), max_size=3)), 2),
        alpha=draw(st.sampled_from([0.01, 0.3])),
        activation=draw(st.sampled_from([*ACTIVATIONS])),
        output=draw(st.sampled_from([*ACTIVATIONS])),
        loss=draw(st.sampled_from([*LOSSES])),
        bias=draw(flag),
        batch_norm=draw(flag),
        dropout=draw(st.sampled_from([0.0, 0.3])),
        trim=draw(small),
        trimming=draw(st.sampled_from(["clip", "zero"])),
        l1_penalty=draw(small),
        l2_penalty=draw(small),
        optimizer=draw(st.sampled_from(["sgd", "sgd", "adam", "adamw"])),
        momentum=draw(st.sampled_from([0.0, 0.9])),
        nesterov=draw(flag),
        weight_decay=draw(small),
    )


@pytest.mark.slow  # derandomized, so that a new failure means a change of the code
@settings(deadline=None, max_examples=8, suppress_health_check=list(HealthCheck), derandomize=True)
@given(
    network=networks(),
    dtype=st.sampled_from(["float64", "float32"]),
    rows=st.sampled_from([None, 2, 3]),
    init=st.sampled_from(["blog", "glorot", "he"]),
)
def test_any_combination_runs_as_promised_or_is_refused(
    network: Network, dtype: str, rows: int | None, init: str
) -> None:
    """The verdict of each of the first steps is the one that the pieces promise, or better."""
    case = Case("any", "", network, X, CLASSES, batch_size=rows, init=init)
    try:
        report = run(case, steps=4, dtype=dtype)
    except BadInput:  # each reason for a refusal has a test of its own
        return
    allowed = {"EXACT"} if expected(network) == "EXACT" else {"EXACT", "ROUNDING"}
    assert report.verdict in allowed, f"{network}\n{report}"


def test_batch_norm_beside_relu_is_bounded_in_a_batch_of_steps() -> None:
    """Later operations rely on the strides of the autograd value that an injected one replaces."""
    network = Network((3, 2, 2), alpha=0.01, activation="relu", batch_norm=True)
    for init in ("blog", "glorot", "he"):
        case = Case("any", "", network, X, CLASSES, init=init)
        assert run(case, steps=4).verdict == "ROUNDING"


def test_a_row_at_a_time_keeps_the_sign_of_a_zero() -> None:
    """Autograd does not sum over a single row, so dropout times a negative error stays -0."""
    network = Network((3, 5, 4, 2), bias=True, dropout=0.2)
    case = Case("any", "", network, X, CLASSES, batch_size=1)
    assert run(case, steps=20, lift="none").verdict == "EXACT"


@pytest.mark.parametrize("name", [name for name in CASES if CASES[name].by_hand == "network"])
def test_a_case_promises_what_its_pieces_do(name: str) -> None:
    assert CASES[name].promises == expected(CASES[name].network)


@pytest.mark.parametrize(
    ("name", "kind"),
    [("syn1", "syn"), ("syn10", "syn"), ("l1_delta", "delta"), ("syn0_update", "update"),
     ("syn0_momentum", "momentum"), ("mask2", "mask"), ("var1", "var"), ("l0", "l"), ("X", "")],
)  # fmt: skip
def test_the_kind_of_a_name_is_without_its_layer(name: str, kind: str) -> None:
    assert quantity_kind(name) == kind
