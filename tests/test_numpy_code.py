"""A backward pass in NumPy gets the verdicts, and the lines, that one in torch gets."""

import cProfile
import ctypes
import inspect
import itertools
import math
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy import zeros
from torch import Tensor

import compare
from compare.errors import BadInput
from compare.passes.passes import Passes
from compare.proof import numpy_array
from compare.proof.program import Opaque, Program, source_line
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


# -- where arrays meet tensors

X = np.linspace(-1.5, 1.4, 12).reshape(4, 3)
T = torch.from_numpy(X)


def _exp(x: Tensor) -> Tensor:
    return torch.exp(x)


def _numpy_method(x: Tensor, grad_output: Tensor) -> Tensor:
    g, z = grad_output.numpy(), x.detach().cpu().numpy()
    return torch.from_numpy(g * np.exp(z))


def _asarray(x: Tensor, grad_output: Tensor) -> dict[str, Any]:
    return {"x": np.exp(np.asarray(x)) * np.array(grad_output)}


def _ufunc_of_tensors(x: Tensor, grad_output: Tensor) -> Any:
    return np.multiply(np.exp(x), grad_output)


def _tensor_of_array(x: Tensor, grad_output: Tensor) -> tuple[Tensor]:
    return (torch.as_tensor(np.exp(x.numpy())) * torch.tensor(grad_output.numpy()),)


def _with_names_of_functions(x: Any, grad_output: Any) -> Any:
    from_nothing = zeros(x.shape)
    from_nothing[...] = np.exp(x) * grad_output
    return from_nothing


class _Exp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.y = np.exp(x.detach().numpy())
        return torch.from_numpy(ctx.y)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return torch.from_numpy(grads[0].numpy() * ctx.y)


@pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")
@pytest.mark.parametrize(
    ("backward", "x"),
    [
        (_numpy_method, T),
        (_asarray, T),
        (_ufunc_of_tensors, T),
        (_tensor_of_array, T),
        (_with_names_of_functions, X),
        (_Exp, T),
        (_Exp, X),
        (lambda x, grad_output: [np.exp(x) * grad_output], X),
        (lambda output, grad_output: grad_output * output, X[::-1]),  # negative strides
        (lambda x, grad_output: np.exp(x) * grad_output, np.broadcast_to(X[:1], (4, 3))),
        (lambda x, grad_output: np.exp(x) * grad_output, np.array(0.3)),
        (lambda x, grad_output: np.exp(x) * grad_output, X.astype(np.float16)),
    ],
)
def test_arrays_and_tensors_are_both_read(backward: Any, x: Any) -> None:
    report = compare.check(backward, _exp, (x,))
    assert report.ok, str(report)
    assert _read(report), str(report)


def test_inputs_that_are_arrays_stay_as_they_are() -> None:
    inputs = {"x": X.copy(), "k": 3, "mask": X > 0}
    report = compare.check(
        lambda x, k, mask, grad_output: {"x": k * mask * grad_output},
        lambda x, k, mask: k * x * mask,
        inputs,
    )
    assert report.verdict == EXACT, str(report)
    assert np.array_equal(inputs["x"], X)
    with pytest.raises(BadInput, match="backward changes its input 'x' in place"):
        compare.check(lambda x, grad_output: np.multiply(x, grad_output, out=x), _exp, (X,))
    with pytest.raises(BadInput, match="backward returns an array of object for 'x'"):
        compare.check(lambda x: x.astype(object), _exp, (X,))


BLOG = """
def nonlin(x,deriv=False):
    if(deriv==True):
        return x*(1-x)
    return 1/(1+np.exp(-x))

def backward(X, y, syn0, syn1):
    l0 = X
    l1 = nonlin(np.dot(l0,syn0))
    l2 = nonlin(np.dot(l1,syn1))
    l2_error = y - l2
    l2_delta = l2_error*nonlin(l2,deriv=True)
    l1_error = l2_delta.dot(syn1.T)
    l1_delta = l1_error * nonlin(l1,deriv=True)
    return {"syn1": -l1.T.dot(l2_delta), "syn0": -l0.T.dot(l1_delta)}
"""


def _blog(X: Tensor, y: Tensor, syn0: Tensor, syn1: Tensor) -> Tensor:
    return ((y - torch.sigmoid(torch.sigmoid(X @ syn0) @ syn1)) ** 2).sum() / 2


@pytest.mark.parametrize("planted", [False, True])
def test_the_listing_of_the_blog_is_read_within_a_second(planted: bool) -> None:
    """The weights need gradients; X and y hold the blog's integers, y still as an array."""
    names: dict[str, Any] = {"np": np}
    exec(BLOG.replace("x*(1-x)", "x*(1+x)") if planted else BLOG, names)
    rng = np.random.RandomState(1)
    syn0, syn1 = (
        torch.from_numpy(2 * rng.random_sample(shape) - 1).requires_grad_()
        for shape in ((3, 4), (4, 1))
    )
    inputs = {
        "X": np.array([[0, 0, 1], [0, 1, 1], [1, 0, 1], [1, 1, 1]]) * 1.0,
        "y": np.array([[0, 1, 1, 0]]).T,
        "syn0": syn0,
        "syn1": syn1,
    }
    compare.check(names["backward"], _blog, inputs)
    start = time.process_time()
    report = compare.check(names["backward"], _blog, inputs)
    assert time.process_time() - start < 1, "it takes 0.2 s"
    assert _read(report) != planted
    assert report.verdict == (WRONG if planted else ROUNDING), str(report)


def test_a_profiler_is_left_alone() -> None:
    def backward(x: Any, grad_output: Any) -> Any:
        return np.exp(x) * grad_output

    with cProfile.Profile():
        before = sys.getprofile()
        report = compare.check(backward, _exp, (X,))
        assert sys.getprofile() is before is not None
    assert _read(report), str(report)


# -- what cannot be followed stays opaque


def _random(x: Any, grad_output: Any) -> Any:
    return np.exp(x) * grad_output + 0 * np.random.randn(*x.shape)


def _python(x: Any, grad_output: Any) -> Any:
    return np.array([[math.exp(v) for v in row] for row in x]) * grad_output


def _pointer(x: Any, grad_output: Any) -> Any:
    y = np.empty_like(x)
    ctypes.memmove(y.ctypes.data, np.exp(x).ctypes.data, y.nbytes)
    return y * grad_output


def _dlpack(x: Tensor, grad_output: Tensor) -> Any:
    return torch.from_numpy(np.exp(np.from_dlpack(x))) * grad_output


def _exact_type(x: Any, grad_output: Any) -> Any:
    return np.exp(x) * grad_output * (1 if type(x) is np.ndarray else 1.001)


@pytest.mark.parametrize(
    ("backward", "x", "seen"),
    [
        (_random, X, "numbers are computed outside torch at test_numpy_code.py:{}, by NumPy (np."),
        (_python, X, "a float is read out of a tensor (float(x), x.item()) at test_numpy_code.py:"),
        (_pointer, X, "ndarray.ctypes cannot be recorded"),
        (_dlpack, T, "numbers are computed outside torch at test_numpy_code.py:{}, by NumPy (np."),
        (_exact_type, X, "its NumPy code does not give NumPy's own numbers to within rounding"),
    ],
)
def test_what_cannot_be_followed_is_opaque_and_the_reason_is_what_was_seen(
    backward: Any, x: Any, seen: str
) -> None:
    program = Passes(backward, _exp, (x,)).manual_program
    assert isinstance(program, Opaque)
    assert seen.format(backward.__code__.co_firstlineno + 1) in str(program)
    report = compare.check(backward, _exp, (x,))
    assert not _read(report)
    assert report.verdict != WRONG


def test_numpy_code_that_torch_would_misread_is_not_judged_as_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A wrong stand-in for a function of NumPy's is found by NumPy's own numbers."""
    backward = lambda x, grad_output: grad_output * np.where(x > 0, 1.0, 0.0)  # noqa: E731
    assert _read(compare.check(backward, lambda x: torch.relu(x), (X,)))
    wrong = lambda condition, one, other: _OWN_WHERE(condition, one, 1e-9)  # noqa: E731
    monkeypatch.setitem(numpy_array._OWN, "where", wrong)
    report = compare.check(backward, lambda x: torch.relu(x), (X,))
    assert not _read(report)
    assert report.verdict != WRONG


_OWN_WHERE = numpy_array._OWN["where"]
