"""Wrong arguments from Python are refused in one line that says what to pass instead."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

import compare
from compare import BadInput

X = torch.tensor([0.5, -1.0, 2.0])
CASE = compare.CASES["three_layer"]


def forward(x: Tensor) -> Tensor:
    return x * x


def backward(x: Tensor, grad_output: Tensor) -> dict[str, Tensor]:
    return {"x": 2 * x * grad_output}


def check(**change: Any) -> Any:
    return compare.check(**{"backward": backward, "forward": forward, "inputs": {"x": X}, **change})


def power(**change: Any) -> Any:
    return compare.power(**{"backward": backward, "forward": forward, "inputs": {"x": X}, **change})


def assert_same(**change: Any) -> Any:
    return compare.assert_same(backward, forward, {"x": X}, **change)


def run(**change: Any) -> Any:
    return compare.run(**{"case": CASE, "steps": 2, **change})


def named(label: Any, value: Any = X) -> Any:
    return lambda x: compare.name(value, label) * x


class Half(torch.autograd.Function):
    """A Function without a forward."""


NOT_WHOLE = ("1", 1.5, None, True, [1], torch.ones(()))
FLOAT8 = X.to(torch.float8_e4m3fn)
WRONG: list[tuple[Callable[..., Any], str, tuple[Any, ...], str]] = [
    (check, "seed", NOT_WHOLE, "seed is {!r}: give a whole number"),
    (power, "seed", NOT_WHOLE, "seed is {!r}: give a whole number"),
    (assert_same, "seed", NOT_WHOLE, "seed is {!r}: give a whole number"),
    (run, "seed", NOT_WHOLE, "seed is {!r}: give a whole number"),
    (run, "seed", (-1, 2**70), "seed {!r}: numpy takes 0 to"),
    (run, "steps", ("5", 5.0, True, []), "steps is {!r}: give a whole number"),
    (run, "steps", (0, -1), "steps {!r}: a run needs at least 1 step"),
    (run, "steps", (10**30, 2**63), "steps {!r}: give at most 1,000,000,000"),
    (run, "population", NOT_WHOLE, "population is {!r}: give a whole number"),
    (run, "population", (0, -1), "population {!r}: a run needs at least 1 network"),
    (run, "dtype", (None, 3, float, torch.int32, "torch.float32"), "unknown dtype"),
    (run, "device", (None, 0, 1.5, "x", torch.device("meta"), "cpu:0"), "unknown device"),
    (run, "case", (None, "three_layer", 1, compare.Case), "case {!r}: give one of compare.CASES"),
    (run, "step", (1, "x"), "step is {!r}: give a function of named tensors"),
    (run, "step", (lambda **_: None,), "step returns None: return a dict of named tensors"),
    (run, "step", (lambda **_: {"l1": 1},), "step returns an int as 'l1': return a tensor"),
    (run, "watchers", (1, None, [1], print), "watchers is {!r}: give a list of functions"),
    (power, "watch", (1, "x"), "watch is {!r}: pass a function that takes the number of mutants "
                               "judged"),
    (
        check, "lift", (None, object, float("inf"), float("nan"), 1.5, True, "x", "", 0, -1, [1]),
        "lift {!r}: choose all, none, auto or a number of entries",
    ),
    (run, "lift", (None, 1.5, True, "x"), "lift {!r}: choose all, none, auto or a number of"),
    (assert_same, "demand", (None, 1, "x", ["exact"]), "unknown demand {!r}: choose from exact"),
    (check, "hold", (None, 1, "x"), "hold is {!r}: give the names of inputs"),
    (check, "contract", (1, "x", [], True), "contract is {!r}: give a dict"),
    (check, "contract", ({"twice": 0},), "contract['twice'] is 0: give True or False"),
    (check, "formula_ulps", (None, "1", -1, float("nan"), True), "formula_ulps is {!r}: give a nu"),
    (check, "inputs", (None, 1, "x", {1, 2}), "give a dict or a tuple"),
    (check, "inputs", ({}, (), {"y": X}, {1: X}), "inputs do not fit forward(x)"),
    (check, "inputs", ((1,), {"x": [1.0]}, {"x": None}), "no differentiable input"),
    (check, "inputs", ({"x": X.to("meta")},), "input 'x' is on the meta device"),
    (check, "inputs", ({"x": X.to_sparse()}, (X.to_mkldnn(),)), "'x' is sparse: give a dense"),
    (check, "inputs", ({"x": FLOAT8},), "float8_e4m3fn, whose gradients cannot be checked"),
    (check, "forward", (None, 1, "x"), "give a function"),
    (check, "forward", (lambda x: x.to_sparse(),), "forward returns a sparse tensor"),
    (check, "forward", (lambda x: x.to("meta"),), "forward returns a meta tensor"),
    (check, "forward", (lambda x: x.to(FLOAT8.dtype),), "a tensor of float8_e4m3fn, which cannot"),
    (check, "forward", (lambda x: x.mul_(2) * x,), "forward writes into an input or a parameter"),
    (check, "backward", (None, 1, "x"), "give a function or an autograd.Function"),
    (check, "backward", (Half, torch.autograd.Function), "without a forward: write one"),
    (check, "backward", (lambda x: {"x": x.to_sparse()},), "a sparse gradient for 'x': return"),
    (check, "backward", (lambda x: {"x": x.to("meta")},), "a meta gradient for 'x': return"),
    (check, "forward", tuple(map(named, ("", " ", "a\nb", "\x1b[2J"))), "a printable word, such"),
    (check, "forward", (named(3), named(None)), "a name is a string"),
    (check, "forward", (named("z", 3),), "was given an int: name a tensor"),
    (check, "forward", (named("output"),), "check reserves that name, choose another"),
    (check, "forward", (named("x"),), "an input has that name, choose another"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("call", "argument", "value", "said"),
    [(call, a, value, said) for call, a, values, said in WRONG for value in values],
)
def test_a_wrong_argument_is_refused_in_one_line(
    call: Callable[..., Any], argument: str, value: Any, said: str
) -> None:
    with pytest.raises(BadInput) as caught:
        call(**{argument: value})
    assert said.format(value) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("path", [3, None, b"x.html", [], "", "x", ".html", "/nowhere/x.html"])
def test_a_report_says_where_it_cannot_be_saved(path: Any) -> None:
    with pytest.raises(BadInput, match=r"give the name of a file|name a file|choose another path"):
        check().save(path)


def test_a_report_meets_one_of_the_demands() -> None:
    with pytest.raises(BadInput, match="unknown demand 'right'"):
        check().meets("right")


@pytest.mark.parametrize(
    "settings",
    [
        {"dtype": torch.float32}, {"device": torch.device("cpu")},
        {"device": torch.device("cpu", 0)},
        {"seed": np.int64(1)}, {"steps": np.int32(2)}, {"population": np.uint8(1)},
    ],
    ids=str,
)  # fmt: skip
def test_dtypes_devices_and_numpy_integers_are_accepted(settings: dict[str, Any]) -> None:
    """The report has them as the command line names them."""
    usual = {"dtype": "float64", "device": "cpu", "seed": 1, "population": 1}
    report = run(**settings)
    assert report.verdict == "EXACT"
    wanted = usual | ({"dtype": "float32"} if "dtype" in settings else {})
    assert report.settings == wanted
    assert "verdict" in report.to_json()


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_run_works_under_no_grad(mode: Callable[[], Any]) -> None:
    usual = run().to_dict() | {"seconds": 0}
    with mode():
        assert run().to_dict() | {"seconds": 0} == usual
        assert not torch.is_grad_enabled()
    with torch.inference_mode(), pytest.raises(BadInput, match="inference_mode is on; leave it"):
        check()


@pytest.mark.parametrize("call", [check, power, run])
@pytest.mark.parametrize("mode", [lambda: torch.device("meta"), FakeTensorMode])
def test_a_mode_without_values_is_named(
    call: Callable[[], Any], mode: Callable[[], AbstractContextManager[Any]]
) -> None:
    with mode(), pytest.raises(BadInput, match=r"FakeTensorMode is on\): leave that mode first"):
        call()


@pytest.mark.parametrize("transform", [torch.func.vmap, torch.func.grad])
@pytest.mark.parametrize("call", [check, power])
def test_a_check_inside_a_transform_is_refused(
    call: Callable[..., Any], transform: Callable[..., Any]
) -> None:
    with pytest.raises(
        BadInput, match=r"inside torch\.vmap, torch\.func\.grad or a similar transform"
    ):
        transform(lambda x: call(inputs={"x": x}))(torch.ones(2, 3))
