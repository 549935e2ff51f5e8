"""Bit-for-bit comparison, distances in ulps and the worst element."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from compare.proof.bits import compare_bits, place, same_bits, ulps

pytestmark = pytest.mark.bits

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
finite = st.floats(allow_nan=False, allow_infinity=False)


@pytest.mark.parametrize("dtype", DTYPES)
def test_neighbours_are_one_ulp_apart(dtype: torch.dtype) -> None:
    """Also at zero, at the smallest normal number and across powers of two."""
    tiny = torch.finfo(dtype).smallest_normal
    values = torch.tensor([0.0, tiny, 1.0, 2.0, -1.0, -tiny, 255.0], dtype=dtype)
    above = torch.nextafter(values, torch.full_like(values, math.inf))
    assert ulps(values, above).tolist() == [1] * len(values)


def test_zeros_of_other_sign_are_one_ulp_apart() -> None:
    assert ulps(torch.tensor([0.0]), torch.tensor([-0.0])).item() == 1


@given(finite, finite)
def test_distance_agrees_with_counting(a: float, b: float) -> None:
    """The ulp distance of any two float64 equals that of Python's unbounded integers."""

    def ordinal(x: float) -> int:
        bits = int(np.float64(x).view(np.int64))
        return bits if bits >= 0 else -(bits + 2**63) - 1

    expected = abs(ordinal(a) - ordinal(b))
    one, other = torch.tensor([a], dtype=torch.float64), torch.tensor([b], dtype=torch.float64)
    assert ulps(one, other).item() % 2**64 == expected
    difference = compare_bits(one, other)
    assert difference.max_ulp == expected
    assert (difference.equal == 1) == (expected == 0)


def test_a_distance_beyond_int64_is_the_largest() -> None:
    """A distance over 2**63 ranks above a smaller one, though as int64 it is negative."""
    big = torch.finfo(torch.float64).max
    manual = torch.tensor([1.0, big, 3.0], dtype=torch.float64)
    autograd = torch.tensor([2.0, -big, 3.0], dtype=torch.float64)
    difference = compare_bits(manual, autograd)
    assert difference.worst is not None
    assert difference.worst.index == (1,)
    assert difference.max_ulp > 2**63
    assert (difference.equal, difference.total, difference.first) == (1, 3, 0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_minus_zero_is_not_zero(dtype: torch.dtype) -> None:
    difference = compare_bits(torch.zeros(2, 3, dtype=dtype), -torch.zeros(2, 3, dtype=dtype))
    assert (difference.equal, difference.max_ulp) == (0, 1)


def test_nan_on_both_sides_is_unequal_and_comes_first() -> None:
    """The same NaN on both sides verifies nothing; it outranks any distance."""
    manual = torch.tensor([[1.0, 2.0], [math.nan, 4.0]])
    autograd = torch.tensor([[9.0, 2.0], [math.nan, 4.0]])
    difference = compare_bits(manual, autograd)
    assert (difference.equal, difference.nans) == (2, 1)
    assert difference.worst is not None
    assert difference.worst.index == (1, 0)
    assert difference.worst.nan
    assert difference.max_ulp == ulps(torch.tensor(1.0), torch.tensor(9.0)).item()


def test_infinities_are_values() -> None:
    inf = torch.tensor([math.inf, -math.inf])
    assert compare_bits(inf, inf.clone()).equal == 2
    assert compare_bits(inf, -inf).equal == 0


def test_a_transposed_view_is_compared_by_index() -> None:
    values = torch.arange(6.0).reshape(2, 3)
    assert compare_bits(values.mT, values.mT.contiguous()).equal == 6


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("offset", [0, 1, 4])
def test_same_bits_in_any_memory_layout(dtype: torch.dtype, offset: int) -> None:
    """Whether compared eight bytes at a time or not, every bit and the shape count."""
    values = torch.randn(16).to(dtype)
    one, other = (
        values[offset : offset + 8].view(2, 4),
        values[offset : offset + 8].view(2, 4).clone(),
    )
    assert same_bits(one, other)
    assert same_bits(one.mT, other.mT)
    assert same_bits(one.mT, other.mT.contiguous())
    assert not same_bits(one, other.view(4, 2))
    assert not same_bits(one[:0], other[:0].mT)
    assert not same_bits(torch.zeros(8, dtype=dtype), -torch.zeros(8, dtype=dtype))
    for index in range(8):
        changed = other.clone().flatten()
        changed[index] = torch.nextafter(changed[index], torch.tensor(torch.inf, dtype=dtype))
        assert not same_bits(one, changed.view(2, 4))
    empty = torch.zeros(1, dtype=dtype).expand(0, 3)
    assert same_bits(empty, empty.clone())


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
def test_the_bits_of_complex_numbers_are_those_of_both_parts(dtype: torch.dtype) -> None:
    values = torch.randn(4, dtype=dtype)
    assert same_bits(values, values.clone())
    assert same_bits(values.conj(), values.conj().resolve_conj())
    assert same_bits(values.conj().imag, -values.imag)
    assert not same_bits(values, values + 1)
    assert not same_bits(values, values + 1j)
    zeros = torch.zeros(3, dtype=dtype)
    assert not same_bits(zeros, zeros.conj())  # the sign of a zero
    difference = compare_bits(values, values + torch.tensor([0, 0, 3j, 0], dtype=dtype))
    assert difference.worst is not None
    assert (difference.total, difference.equal, difference.worst.index) == (8, 7, (2, 1))
    assert place((2, 1), of_complex=True) == "[2] (imaginary part)"
