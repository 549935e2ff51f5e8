"""Every row of the table of operations: its exact value, and its rounding bound."""

from collections.abc import Sequence
from functools import cache

import pytest
import torch
from torch import Tensor

from compare.proof.balls import Balls
from compare.proof.complex_operations import COMPLEX_ROWS
from compare.proof.interpreter import Unsupported, lift
from compare.proof.linear_algebra import LINEAR_ALGEBRA
from compare.proof.operations import FACTORIES, JOINS, MOVES, ROWS
from compare.proof.program import Opaque, Program, meta_tensor, operation
from compare.proof.trace import trace
from tests.complex_operation_cases import COMPLEX_CALLS
from tests.lifted import DTYPES, ThreeRuns, in_dtype, named, names_dtype, operations, run_three_ways
from tests.operation_cases import CALLS, Call
from tests.tenth import unless_chosen

TABLE = set(ROWS) | MOVES | JOINS | FACTORIES
# Calls that round to half precision, so that float64 results differ in the 3rd digit.
COARSE = {"_to_copy", "_to_copy-narrow", "_to_copy-across", "copy-cast"}
# torch's own trigamma is right to nine digits in float64.
COARSE |= {"polygamma-1"}
COARSE |= {"complex-_to_copy-real", "complex-_to_copy-narrow", "complex-_to_copy-wide"}


@cache
def _program(label: str) -> Program:
    call = next(call for call in CALLS if call.label == label)
    return trace(named(call.run), call.inputs)


def test_labels_are_unique() -> None:
    labels = [call.label for call in CALLS]
    assert len(set(labels)) == len(labels), sorted(x for x in set(labels) if labels.count(x) > 1)


def test_every_entry_of_the_table_is_exercised() -> None:
    """Judged by the traced programs' operations, not by the rows that the calls list."""
    seen = set().union(*(operations(_program(call.label)) for call in CALLS))
    assert not TABLE - seen, f"no call's program has {sorted(TABLE - seen)}"


def test_every_row_for_complex_numbers_is_exercised() -> None:
    seen = set()
    for call in COMPLEX_CALLS:
        for node in _program(call.label).graph.nodes:
            values = map(meta_tensor, (node, *node.all_input_nodes))
            if any(value is not None and value.is_complex() for value in values):
                seen.add(operation(node))
    assert not set(COMPLEX_ROWS) - seen, f"no call's program has {set(COMPLEX_ROWS) - seen}"


def _has_no_half_precision(call: Call) -> bool:
    """Whether torch has these kernels, of LAPACK and of complex numbers, in wide dtypes alone."""
    return call in COMPLEX_CALLS or bool(LINEAR_ALGEBRA.keys() & set(call.rows))


def _marks(call: Call) -> Sequence[pytest.MarkDecorator]:
    """Return the mark `long` for most of the calls that are many and slow."""
    return unless_chosen(call.label) if _has_no_half_precision(call) else ()


@pytest.mark.parametrize(
    "call", [pytest.param(call, id=call.label, marks=_marks(call)) for call in CALLS]
)
def test_row(call: Call) -> None:
    """The ball agrees with torch in float64; in every dtype the float run is within its bound."""
    program = _program(call.label)
    assert set(call.rows) & TABLE <= operations(program), "recorded under other names"
    for dtype in DTYPES[:2] if _has_no_half_precision(call) else DTYPES:
        inputs = in_dtype(call.inputs, dtype)
        same = program if dtype == torch.float64 or not names_dtype(program) else None
        try:
            _, outputs = run_three_ways(named(call.run), inputs, same)
        except (NotImplementedError, Opaque) as error:  # torch has no kernel for half precision
            if dtype.itemsize == 2 and "not implemented for" in str(error):
                continue
            raise
        assert outputs
        for name, runs in outputs.items():
            assert isinstance(runs, ThreeRuns), f"{dtype} {name}: {runs}"
            if dtype == torch.float64:
                rtol, atol = (2**-7, 1e-6) if call.label in COARSE else (1e-11, 1e-12)
                torch.testing.assert_close(runs.exact, runs.floats.double(), rtol=rtol, atol=atol)
            assert runs.radius.isfinite().all(), f"{dtype} {name}: an unbounded ball"
            assert runs.bound.isfinite().all(), f"{dtype} {name}: no bound"
            assert not runs.outside.any(), f"{dtype} {name}: {runs.share:.2f} of the bound"


# Only operations that round: a bound of 1e9 times the error would let any bug pass.
@pytest.mark.parametrize(
    "label",
    ["add", "mul", "div", "exp", "tanh", "sigmoid", "sum-all", "mean-dim", "var-1", "mm", "addmm",
     "convolution", "_softmax", "_log_softmax", "native_layer_norm", "gelu", "cumsum", "prod-all",
     "pow-1.7", "linalg_vector_norm-2", "avg_pool2d", "native_group_norm"],
)  # fmt: skip
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_bound_is_not_absurd(label: str, dtype: torch.dtype) -> None:
    """The largest error is at least a two thousandth of its bound."""
    call = next(call for call in CALLS if call.label == label)
    _, outputs = run_three_ways(named(call.run), in_dtype(call.inputs, dtype))
    runs = outputs["out0"]
    assert isinstance(runs, ThreeRuns)
    assert 5e-4 < runs.share <= 1


def test_an_operation_outside_the_table_is_named() -> None:
    def forward(x: Tensor) -> dict[str, Tensor]:
        unknown = torch.special.bessel_j0(x)
        return {"unknown": unknown, "after": unknown * 2, "independent": x * 2}

    x = torch.linspace(0.1, 2, 5, dtype=torch.float64)
    outputs = lift(trace(forward, {"x": x}), Balls(), {"x": x})
    for name in ("unknown", "after"):
        missing = outputs[name].numbers
        assert isinstance(missing, Unsupported)
        assert "special_bessel_j0" in str(missing)
        assert "compare/proof/operations.py" in str(missing)
    assert not isinstance(outputs["independent"].numbers, Unsupported)


def test_uninitialised_memory_has_no_exact_value() -> None:
    """The elements of `empty` are unbounded balls, whatever their bits, until they are written."""

    def backward(x: Tensor) -> dict[str, Tensor]:
        half_written = torch.empty_like(x)
        half_written[:2] = 3 * x[:2]
        return {"z": half_written, "full": torch.full_like(torch.empty_like(x), 3.0)}

    x = torch.randn(4, dtype=torch.float64)
    lifted = lift(trace(backward, {"x": x}), Balls(), {"x": x})
    assert [ball.is_finite() for ball in lifted["z"].numbers] == [True, True, False, False]
    assert all(ball == 3 for ball in lifted["full"].numbers)


def test_a_signalling_nan_is_lifted_without_a_warning() -> None:
    x = torch.tensor([0x7FF0000000000001, 0x7FF8000000000000]).view(torch.float64)
    assert not any(ball.is_finite() for ball in Balls().exact(x))


def _in_layout(name: str, x: Tensor) -> Tensor:
    """Return the input in a memory layout, which as_strided depends on."""
    return {
        "dense": x,
        "transposed": x.mT,
        "cut": x[1:, 1:],
        "every second": x[:, ::2],
        "expanded": x[:1].expand(3, -1),
    }[name]


@pytest.mark.parametrize("name", ["dense", "transposed", "cut", "every second", "expanded"])
def test_as_strided_selects_by_storage_index(name: str) -> None:
    def strided(x: Tensor) -> dict[str, Tensor]:
        x = _in_layout(name, x)
        picked = x.as_strided((2,), (x.stride(-1),))
        scattered = torch.zeros_like(x) + 1
        scattered.as_strided((2,), (scattered.stride(0),)).mul_(x[0, :2])
        return {"same": x.as_strided(x.shape, x.stride()), "picked": picked, "put": scattered}

    x = torch.randn(4, 5, dtype=torch.float64)
    lifted = lift(trace(strided, {"x": x}), Balls(), {"x": x})
    for key, value in strided(x).items():
        assert [float(ball.mid()) for ball in lifted[key].numbers.ravel()] == [*value.flatten()]


def test_as_strided_beyond_a_view_is_not_supported() -> None:
    x = torch.randn(4, 5, dtype=torch.float64)
    lifted = lift(trace(lambda x: {"y": x[1:].as_strided((5,), (1,), 0) * 1}, {"x": x}), Balls(),
                  {"x": x})  # fmt: skip
    assert "outside its input tensor" in str(lifted["y"].numbers)
