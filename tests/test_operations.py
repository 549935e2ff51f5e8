"""Every row of the table: what it computes, and that no float run leaves its bound."""

from functools import cache

import pytest
import torch
from torch import Tensor

from compare.proof.balls import Balls
from compare.proof.interpreter import Unsupported, lift
from compare.proof.operations import JOINS, MADE, MOVES, ROWS
from compare.proof.program import Program
from compare.proof.trace import trace
from tests.lifted import DTYPES, Ways, in_dtype, named, operations, says_dtype, three_ways
from tests.operation_cases import CALLS, Call

TABLE = set(ROWS) | MOVES | JOINS | MADE
# A call whose own rounding makes float64 results differ in the 3rd digit: to half precision.
COARSE = {"_to_copy", "_to_copy-narrow", "_to_copy-across", "copy-cast"}


@cache
def _program(label: str) -> Program:
    call = next(call for call in CALLS if call.label == label)
    return trace(named(call.run), call.inputs)


def test_every_label_is_its_own() -> None:
    labels = [call.label for call in CALLS]
    assert len(set(labels)) == len(labels), sorted(x for x in set(labels) if labels.count(x) > 1)


def test_every_entry_of_the_table_is_exercised() -> None:
    """By what the traced programs hold, not by what the calls say they are for."""
    seen = set().union(*(operations(_program(call.label)) for call in CALLS))
    assert not TABLE - seen, f"no call's program has {sorted(TABLE - seen)}"


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.label)
def test_row(call: Call) -> None:
    """The ball is what torch computes in float64; the float run lies in the bound, in any dtype."""
    program = _program(call.label)
    assert set(call.rows) & TABLE <= operations(program), "recorded under other names"
    for dtype in DTYPES:
        inputs = in_dtype(call.inputs, dtype)
        same = program if dtype == torch.float64 or not says_dtype(program) else None
        _, found = three_ways(named(call.run), inputs, same)
        assert found
        for name, ways in found.items():
            assert isinstance(ways, Ways), f"{dtype} {name}: {ways}"
            if dtype == torch.float64:
                rtol, atol = (2**-7, 1e-6) if call.label in COARSE else (1e-11, 1e-12)
                torch.testing.assert_close(ways.truth, ways.floats.double(), rtol=rtol, atol=atol)
            assert ways.radius.isfinite().all(), f"{dtype} {name}: a ball that knows nothing"
            assert ways.bound.isfinite().all(), f"{dtype} {name}: no bound"
            assert not ways.outside.any(), f"{dtype} {name}: {ways.share:.2f} of the bound"


# What is rounded at all shows it: a bound of 1e9 times the error would let any bug pass.
@pytest.mark.parametrize(
    "label",
    ["add", "mul", "div", "exp", "tanh", "sigmoid", "sum-all", "mean-dim", "var-1", "mm", "addmm",
     "convolution", "_softmax", "_log_softmax", "native_layer_norm", "gelu", "cumsum", "prod-all",
     "pow-1.7", "linalg_vector_norm-2", "avg_pool2d", "native_group_norm"],
)  # fmt: skip
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_bound_is_not_absurd(label: str, dtype: torch.dtype) -> None:
    """The largest error is at least a thousandth of its bound."""
    call = next(call for call in CALLS if call.label == label)
    _, found = three_ways(named(call.run), in_dtype(call.inputs, dtype))
    ways = found["out0"]
    assert isinstance(ways, Ways)
    assert 1e-3 < ways.share <= 1


def test_an_operation_outside_the_table_is_named() -> None:
    def forward(x: Tensor) -> dict[str, Tensor]:
        strange = torch.special.bessel_j0(x)
        return {"strange": strange, "after": strange * 2, "beside": x * 2}

    x = torch.linspace(0.1, 2, 5, dtype=torch.float64)
    outputs = lift(trace(forward, {"x": x}), Balls(), {"x": x})
    for name in ("strange", "after"):
        missing = outputs[name].numbers
        assert isinstance(missing, Unsupported)
        assert "special_bessel_j0" in str(missing)
        assert "compare/proof/operations.py" in str(missing)
    assert not isinstance(outputs["beside"].numbers, Unsupported)


@pytest.mark.parametrize("mode", ["floor", "trunc"])
def test_a_division_that_rounds_its_quotient_is_missing(mode: str) -> None:
    """It is a step function, not the quotient."""
    x = torch.tensor([1.5, -2.5], dtype=torch.float64)
    program = trace(lambda x: {"out": torch.div(x, 0.7, rounding_mode=mode)}, {"x": x})
    assert "rounding_mode" in str(lift(program, Balls(), {"x": x})["out"].numbers)


def test_memory_that_nobody_wrote_is_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """However its bits look, `empty` gives nothing to prove with; what is written there counts."""
    monkeypatch.setattr("compare.proof.trace._check_complete", lambda *_: None)  # it may differ

    def backward(x: Tensor) -> dict[str, Tensor]:
        half_written = torch.empty_like(x)
        half_written[:2] = 3 * x[:2]
        return {"z": half_written, "slope": torch.full_like(torch.empty_like(x), 3.0)}

    x = torch.randn(4, dtype=torch.float64)
    lifted = lift(trace(backward, {"x": x}), Balls(), {"x": x})
    assert [ball.is_finite() for ball in lifted["z"].numbers] == [True, True, False, False]
    assert all(ball == 3 for ball in lifted["slope"].numbers)


def test_a_signalling_nan_is_lifted_without_a_warning() -> None:
    x = torch.tensor([0x7FF0000000000001, 0x7FF8000000000000]).view(torch.float64)
    assert not any(ball.is_finite() for ball in Balls().exact(x))


def _as_it_lies(name: str, x: Tensor) -> Tensor:
    """Return the input at its place: as_strided asks where in memory that is."""
    return {
        "dense": x,
        "transposed": x.mT,
        "cut": x[1:, 1:],
        "every second": x[:, ::2],
        "expanded": x[:1].expand(3, -1),
    }[name]


@pytest.mark.parametrize("name", ["dense", "transposed", "cut", "every second", "expanded"])
def test_as_strided_names_places_in_memory(name: str) -> None:
    def strided(x: Tensor) -> dict[str, Tensor]:
        x = _as_it_lies(name, x)
        picked = x.as_strided((2,), (x.stride(-1),))
        scattered = torch.zeros_like(x) + 1
        scattered.as_strided((2,), (scattered.stride(0),)).mul_(x[0, :2])
        return {"same": x.as_strided(x.shape, x.stride()), "picked": picked, "put": scattered}

    x = torch.randn(4, 5, dtype=torch.float64)
    lifted = lift(trace(strided, {"x": x}), Balls(), {"x": x})
    for key, value in strided(x).items():
        assert [float(ball.mid()) for ball in lifted[key].numbers.ravel()] == [*value.flatten()]


def test_as_strided_beyond_a_view_is_not_lifted() -> None:
    x = torch.randn(4, 5, dtype=torch.float64)
    lifted = lift(trace(lambda x: {"y": x[1:].as_strided((5,), (1,), 0) * 1}, {"x": x}), Balls(),
                  {"x": x})  # fmt: skip
    assert "outside of the tensor" in str(lifted["y"].numbers)
