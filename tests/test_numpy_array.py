"""A recorded array gives NumPy's numbers, dtypes, shapes and shared memory."""

import sys
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from compare.proof.numpy_array import RecordedArray, tensor_of
from compare.proof.numpy_recording import recorded_arrays

_RNG = np.random.RandomState(3)
ARRAYS = {
    "x": _RNG.randn(4, 3), "w": _RNG.randn(3, 2), "t3": _RNG.randn(2, 3, 4),
    "idx": np.array([0, 2, 1, 1]),
}  # fmt: skip

EXPRESSIONS = """
    x + 1
    1 - x
    2 / x
    x ** 2
    x ** -1.0
    2.0 ** x
    x // 0.3
    x % 0.7
    -x
    abs(x)
    x @ x.T
    x.T @ x
    np.dot(x, w)
    x.dot(w)
    np.dot(x[0], x[1])
    np.dot(x, 2.0)
    np.inner(x, x)
    np.outer(x[0], x[1])
    np.tensordot(x, w, axes=([1],[0]))
    np.einsum('ij,jk->ik', x, w)
    np.einsum('ij,ij->', x, x)
    np.matmul(x, w)
    np.sum(x)
    np.sum(x, axis=0)
    np.sum(x, axis=(0,1))
    x.sum(axis=1, keepdims=True)
    x.sum(0)
    np.mean(x, axis=0, keepdims=True)
    x.mean()
    np.var(x, axis=0)
    x.var(axis=0, ddof=1)
    np.std(x, axis=1)
    np.max(x, axis=1, keepdims=True)
    np.amax(x, axis=1)
    x.max()
    np.min(x)
    np.argmax(x, axis=1)
    x.argmax()
    np.argmin(x, axis=0)
    np.exp(x)
    np.log(np.abs(x))
    np.sqrt(np.abs(x))
    np.tanh(x)
    np.sinh(x)
    np.cosh(x)
    np.arctan(x)
    np.arctan2(x, x[::-1])
    np.log1p(np.abs(x))
    np.expm1(x)
    np.square(x)
    np.reciprocal(x)
    np.sign(x)
    np.floor(x)
    np.maximum(x, 0)
    np.maximum(0, x)
    np.maximum(0.0, x)
    np.minimum(x, x[::-1])
    np.clip(x, -0.5, 0.5)
    x.clip(-0.5, 0.5)
    np.clip(x, None, 0.5)
    np.where(x > 0, x, 0)
    np.where(x > 0, 1, 0)
    np.where(x > 0, 1.0, 0.0)
    np.where(x > 0, x, 0.01 * x)
    np.where(x > 0)[0]
    (x > 0) * x
    (x > 0).astype(x.dtype) * x
    (x > 0).astype(float)
    (x > 0) & (x < 1)
    ~(x > 0)
    (x > 0).any()
    (x > 0).all(axis=0)
    np.logical_and(x > 0, x < 1)
    x[0]
    x[:, 1]
    x[1:, ::2]
    x[::-1]
    x[:, ::-1]
    x[..., ::-1]
    x[::-1, ::-1]
    x[3:0:-2]
    x[None]
    x[:, np.newaxis]
    x[..., 0]
    x[x > 0]
    x[[0, 2]]
    x[np.array([0, 2])]
    x[np.arange(len(x)), idx]
    x[range(len(x)), idx]
    x[idx]
    x[idx, :]
    x[:, [0, 1]]
    x[-1]
    x[1, 2]
    t3[0, :, [0, 1]]
    t3[:, 0, ::-1]
    t3.transpose(2, 0, 1)
    t3.transpose((2, 0, 1))
    np.transpose(t3, (0, 2, 1))
    np.swapaxes(t3, 0, 1)
    np.moveaxis(t3, 0, -1)
    t3.reshape(len(t3), -1)
    t3.reshape((2, -1))
    np.reshape(t3, (-1,))
    t3.ravel()
    t3.flatten()
    np.ravel(t3)
    np.squeeze(x[None])
    np.expand_dims(x, 0)
    np.expand_dims(x, -1)
    np.pad(t3, ((0,0),(1,1),(2,2)), mode='constant')
    np.pad(t3, ((0,0),(1,1),(2,2)), 'constant')
    np.pad(x, 1)
    np.pad(t3, ((0,),(1,),(1,)), mode='constant', constant_values=0)
    np.stack([x, x])
    np.stack([x[0], x[1]], axis=1)
    np.concatenate([x, x], axis=1)
    np.concatenate((x, x))
    np.hstack((x, x))
    np.vstack((x, x))
    np.column_stack((x[:, 0], x[:, 1]))
    np.split(x, 3, axis=1)[1]
    np.split(t3, 2)[0]
    np.array_split(x, 2, axis=1)[0]
    np.hsplit(x, 3)[0]
    np.tile(x, (2, 1))
    np.repeat(x, 2, axis=0)
    x.repeat(2, axis=1)
    np.broadcast_to(x[0], (4, 3))
    np.cumsum(x, axis=0)
    x.cumsum()
    np.flip(x, 0)
    np.fliplr(x)
    np.roll(x, 1, axis=0)
    np.rot90(x)
    np.diag(x[0])
    np.diag(np.dot(x.T, x))
    np.trace(x[:3])
    np.eye(3)
    np.eye(len(x))[idx]
    np.tril(x)
    np.triu(x, 1)
    np.zeros((2, 3))
    np.zeros(3)
    np.zeros_like(x)
    np.ones(x.shape, dtype=x.dtype)
    np.ones_like(x)
    np.full((2, 2), 0.5)
    np.full_like(x, 3)
    np.zeros(x.shape, x.dtype)
    np.array([1.0, 2.0, 3.0]) * x
    np.array([x[0, 0], x[0, 1]])
    np.array([[x[0, 0], 1.0], [2.0, x[0, 1]]])
    np.array(x)
    np.asarray(x)
    np.arange(3) * x
    np.linspace(0, 1, 3) * x
    np.linalg.norm(x)
    np.linalg.norm(x, axis=1)
    np.linalg.norm(x, axis=1, keepdims=True)
    np.linalg.inv(x[:3] + 3 * np.eye(3))
    np.linalg.solve(x[:3] + 3 * np.eye(3), x[:3])
    np.take(x, [0, 1], axis=1)
    np.take_along_axis(x, idx[:, None], axis=1)
    np.sort(x, axis=0)
    np.argsort(x, axis=1)
    np.prod(x, axis=0)
    np.prod(x)
    np.ptp(x)
    np.average(x, axis=0)
    np.nan_to_num(x)
    np.isnan(x).any()
    np.add.reduce(x)
    np.add.reduce(x, axis=1)
    np.maximum.reduce(x)
    np.multiply.outer(x[0], x[1])
    np.add.outer(x[0], x[1])
    np.add.accumulate(x)
    np.float32(0.5) * x
    x * np.float64(0.5)
    np.sqrt(2.0) * x
    x / x.sum()
    x / np.sum(np.exp(x), axis=1, keepdims=True)
    x * 1.0 / 3
    x.astype(np.float64)
    x.astype('float32')
    x.astype(int)
    x.copy()
    x.size * x
    x.shape[0] * x
    x.ndim * x
    np.shape(x)[0] * x
    np.size(x) * x
    len(x) * x
    np.prod(x.shape) * x
    float(len(x)) * x
    sum(x)
    sum(row.sum() for row in x)
    max(x.shape) * x
    x.mean(axis=(0, 1))
    np.mean(t3, axis=(0, 2))
    np.sum(t3, axis=(0, 2), keepdims=True)
    np.var(t3, axis=(0, 2), keepdims=True)
    np.maximum(x, 0, out=np.zeros_like(x))
    np.add(x, 1, dtype=np.float64)
    np.divide(x, 0.3, out=x.copy())
    np.sum(x, dtype=np.float64)
    np.unravel_index(np.argmax(x), x.shape)[0]
    np.count_nonzero(x > 0)
    np.sum(x > 0)
    (x > 0).sum()
    (x > 0).mean()
    (idx == 1).astype(x.dtype)
    idx + 1
    idx / 2
    idx * 0.5
    np.exp(idx)
    np.bincount(idx)
    np.sign(x) * np.abs(x)
    np.power(x, 3)
    np.hypot(x, x)
    np.logaddexp(x, x)
    np.copy(x)
    np.ascontiguousarray(x.T)
    x.T.copy()
    x.flat[3]
    x.squeeze()
    x.round(2)
    np.round(x)
    np.diff(x, axis=0)
    np.convolve(x[0], x[1])
    np.kron(x, x)
    np.cross(x, x)
    np.isclose(x, x)
    np.append(x, x)
    x[np.ix_([0, 1], [0, 2])]
    np.meshgrid(x[0], x[1])[0]
    np.vdot(x, x)
    np.float_power(x, 2)
    np.degrees(x)
    np.unique(idx)
    np.nonzero(x > 0)[0]
    np.argwhere(x > 0)
    np.flatnonzero(x > 0)
    np.searchsorted(x[0], 0.1)
    np.heaviside(x, 0)
    np.rint(x)
    np.fabs(x)
"""

STATEMENTS = """
    x += 1
    x -= w[0, 0]; x *= 2; x /= 3
    y = x; y += 1
    y = x.copy(); y += 1; x *= 2
    y = x[0]; y += 1
    y = x[0]; y = y + 1; x[1] = y
    y = x.T; y[0] = 5
    y = x.reshape(-1); y[2:4] = 0
    y = x.ravel(); y += 1
    y = x.flatten(); y += 1; x[0] = y[:3]
    y = x.astype(x.dtype); y += 1
    y = np.asarray(x); y += 1
    y = np.array(x); y += 1
    y = np.ascontiguousarray(x); y += 1
    x[0] = 0
    x[:, 1] = x[:, 0]
    x[1:] = x[:-1].copy()
    x[0, 0] += 5
    x[idx[0], idx[1]] += 5
    x[x < 0] = 0
    x[x < 0] *= 0.1
    x[range(4), idx] -= 1
    x[np.arange(4), idx] -= 1
    x[[0, 2]] += 1
    x[idx] = 7
    x[::2] *= 2
    x[..., 0] = 3
    np.add.at(x, idx, 1)
    np.add.at(x, idx, np.ones((4, 3), dtype=x.dtype))
    np.add.at(x, (idx, idx % 3), 2.0)
    np.subtract.at(x, (np.arange(4), idx), 1)
    np.maximum(x, 0, out=x)
    np.exp(x, out=x, where=x > 0)
    np.multiply(x, 2, x)
    y = np.zeros_like(x); y[1] = x[1]; x = y
    y = np.zeros((4, 3)); y[:, 0] = x[:, 0]; x = y
    y = np.empty_like(x); y[...] = x * 2; x = y
    y = np.ones(4); y *= x[:, 0]; x = y
    for i in range(4): x[i] = x[i] * i
    for i, row in enumerate(x): row *= i
    for i in range(4): x[i, idx[i]] = 0
    total = 0.0; count = total
    total = 0.0; total += x.sum(); x[0, 0] = total
    a = x.sum(); b = a; a += 1; x[0, 0] = b
    t = x[0, 0]; x[0, 0] = x[1, 1]; x[1, 1] = t
    x[0], x[1] = x[1].copy(), x[0].copy()
    x.fill(2.0)
    x = x if isinstance(x, np.ndarray) else x * 0
    x = x * 2 if isinstance(x.sum(), np.floating) else x
    x = x * 3 if np.ndim(x) == 2 and x.shape == (4, 3) else x
    x = x * 3 if (x > 100).any() else x * 2
    k = int(np.argmax(x[0])); x[0, k] = 9
    k = x[0].argmax(); x[0, k] = 9
    i, j = np.unravel_index(np.argmax(x), x.shape); x[i, j] = 9
    p = list(range(10)); x = x * p[idx[1]]
    x = x[: idx[1]]
    s = f"{x} {x.sum():.3f}"
    x = np.array([row.sum() for row in x])
    x = [x, x + 1][idx[0]]
    x, y = [x, x + 1]
    x = (x, 1)[0]
    x[1:3, :2] = np.array([[1, 2], [3, 4]])
    c = t3.copy(); c[:, 0:2, 1:3] += t3[:, 1:3, 2:4]; x = c
"""


def _is_recorded(value: Any) -> bool:
    return type(value) is RecordedArray


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.strip().splitlines()]


def both(code: str, dtype: str, run: Callable[[str, dict[str, Any]], Any]) -> tuple[Any, Any]:
    """Return what a text of code gives in NumPy, and as recorded arrays."""
    given = {k: v.astype(dtype) if k != "idx" else v.copy() for k, v in ARRAYS.items()}
    recorded = {k: RecordedArray(torch.from_numpy(v.copy())) for k, v in given.items()}
    expected = run(code, {"np": np, **given})
    with recorded_arrays():
        actual = run(code, {"np": np, **recorded})
    return expected, actual


def assert_equal(expected: Any, actual: Any) -> None:
    if isinstance(expected, tuple | list):
        assert len(expected) == len(actual)
        for one, other in zip(expected, actual, strict=True):
            assert_equal(one, other)
        return
    numbers = tensor_of(actual).numpy()
    expected = np.asarray(expected)
    assert (numbers.dtype, numbers.shape) == (expected.dtype, expected.shape)
    epsilon = float(np.finfo(np.float32 if expected.dtype == np.float32 else np.float64).eps)
    np.testing.assert_allclose(numbers, expected, rtol=64 * epsilon, atol=64 * epsilon)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("code", _lines(EXPRESSIONS))
def test_an_expression_gives_numpys_numbers_and_dtype(code: str, dtype: str) -> None:
    assert_equal(*both(code, dtype, lambda code, names: eval(code, names)))


@pytest.mark.parametrize("code", _lines(STATEMENTS))
def test_statements_change_the_arrays_that_numpy_changes(code: str) -> None:
    """Views share memory, copies do not, and a scalar never changes."""

    def run(code: str, names: dict[str, Any]) -> Any:
        names = dict(names)
        exec(code, names)
        return [names[name] for name in ("x", "w", "t3", "idx")]

    assert_equal(*both(code, "float64", run))


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("np.delete(x, 0, axis=0)", "np.delete cannot be recorded"),
        ("np.cbrt(x)", "np.cbrt cannot be recorded"),
        ("np.maximum.at(x, idx, 0)", "np.maximum.at cannot be recorded"),
        ("x.tolist()", "ndarray.tolist cannot be recorded"),
        ("x.ctypes", "ndarray.ctypes cannot be recorded"),
        ("x.tobytes()", "ndarray.tobytes cannot be recorded"),
        ("memoryview(x)", "a bytes-like object is required"),
        ("np.frombuffer(x)", "a bytes-like object is required"),
        ("np.lib.stride_tricks.as_strided(x, (2, 2))", "cannot be recorded"),
        ("np.random.permutation(x)", "NumPy asks for the memory of an array"),
        ("np.sum([x, x])", "NumPy asks for the memory of an array"),
        ("np.add(x, 1, out=elsewhere)", "written into one that was made elsewhere"),
        ("elsewhere.__setitem__(0, x[0])", "NumPy asks for the memory of an array"),
        ("x.__setitem__(slice(None, None, -1), x)", "reversed order cannot be recorded"),
        ("x[[0, 1], ::-1]", "an index with arrays and a reversed slice cannot be recorded"),
    ],
)
def test_what_cannot_be_followed_raises(code: str, message: str) -> None:
    """No number leaves a recording unseen."""
    names = {k: RecordedArray(torch.from_numpy(v.copy())) for k, v in ARRAYS.items()}
    elsewhere = np.zeros((4, 3))
    with recorded_arrays(), pytest.raises((TypeError, AttributeError), match=message):
        eval(code, {"np": np, "elsewhere": elsewhere, **names})


def _zeros() -> Any:
    return np.zeros(2)


def _given() -> Any:
    return torch.ones(2).numpy()


def test_everything_is_put_back() -> None:
    before = np, torch.from_numpy, torch.tensor, torch.Tensor.numpy, torch.Tensor.__array__
    with recorded_arrays():
        assert _is_recorded(_zeros())
        assert _is_recorded(_given())
    with pytest.raises(ZeroDivisionError), recorded_arrays():
        _ = 1 / len(_zeros()[:0])
    after = np, torch.from_numpy, torch.tensor, torch.Tensor.numpy, torch.Tensor.__array__
    assert after == before
    assert not hasattr(torch.Tensor, "__array_ufunc__")
    assert sys.getprofile() is None
    assert not _is_recorded(_zeros())
    assert not _is_recorded(_given())


def test_another_thread_and_libraries_get_numpys_arrays() -> None:
    """Compiled code of a library, such as np.random, would crash on anything else."""
    made: list[Any] = []
    with recorded_arrays():
        assert _is_recorded(_zeros())  # this module has another np from here on
        thread = threading.Thread(target=lambda: made.extend([_zeros(), _given()]))
        thread.start()
        thread.join()
        made += [np.polynomial.Polynomial([1.0, 2.0]).coef, np.random.RandomState(1).randn(3)]
    assert [type(array) for array in made] == [np.ndarray] * 4


def test_tensors_and_arrays_meet_as_they_do_in_torch() -> None:
    def tensors(t: torch.Tensor) -> list[Any]:
        a = t.numpy()
        return [
            t * a, np.exp(t), np.maximum(t, 0), torch.from_numpy(a), torch.tensor(a),
            torch.as_tensor(a), torch.tensor([a[0], a[1]]),
        ]  # fmt: skip

    def arrays(t: torch.Tensor) -> list[Any]:
        return [np.asarray(t), np.array(t), np.dot(t, t), np.where(t > 0, t, 0)]

    t = torch.tensor([1.0, -2.0])
    with recorded_arrays():
        assert {type(value) for value in tensors(t)} == {torch.Tensor}
        assert all(map(_is_recorded, arrays(t)))
