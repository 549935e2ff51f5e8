"""Wide arithmetic beside FLINT's balls: they overlap, and wide numbers are narrow."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import flint
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import compare
from compare.passes.passes import Passes
from compare.proof.balls import PRECISION, Balls
from compare.proof.blocks import BLOCK, blocks
from compare.proof.bounds import Bound, Bounds
from compare.proof.exact_products import product
from compare.proof.exact_values import (
    contains_zero,
    distance_from_floats,
    distances,
    distinct,
    finite,
    magnitudes,
    radii,
)
from compare.proof.interpreter import Unsupported, lift
from compare.proof.judge import judge
from compare.proof.trace import trace
from compare.proof.wide import RESTARTED, Shared, Wide, WideArithmetic, of_balls, of_float64
from tests.lifted import named
from tests.operation_cases import CALLS, Call
from tests.tenth import unless_chosen
from tests.test_operations import _program

# A row may lose some bits of its operands' 100.
_NARROW = 2.0**-80


@pytest.fixture(autouse=True)
def _precision() -> Iterator[None]:
    with flint.ctx.workprec(PRECISION):
        yield


def _agree(ball: Any, wide: Wide, *, narrow: float | None = _NARROW) -> None:
    """Compare arrays: wide numbers overlap the balls, and contain their middles."""
    balls, others = np.asarray(ball, dtype=object), wide.balls()
    assert balls.shape == others.shape
    for one, other in zip(balls.ravel(), others.ravel(), strict=True):
        if not one.is_finite():
            continue
        assert other.is_finite() or narrow is None, one
        if other.is_finite():
            assert one.overlaps(other), (one, other)
            assert abs(one.mid() - other.mid()) <= other.rad() + one.rad()
            assert narrow is None or other.rad() <= narrow * max(1e-3, abs(one.mid()))


@pytest.mark.parametrize(
    "call", [pytest.param(call, id=call.label, marks=unless_chosen(call.label)) for call in CALLS]
)
def test_every_row_of_the_table(call: Call) -> None:
    program = _program(call.label)
    with torch.no_grad():
        exact, wide = (lift(program, n, call.inputs) for n in (Balls(), WideArithmetic()))
    for name, value in exact.items():
        if isinstance(value.numbers, Unsupported):
            continue
        numbers = wide[name].numbers
        assert not isinstance(numbers, Unsupported), str(numbers)
        _agree(value.numbers, numbers)


_FLOATS = st.floats(allow_nan=False, allow_infinity=False, allow_subnormal=True)
_NEAR = st.floats(-4, 4)
_OPERATIONS = ["+", "-", "*", "/", "sum", "amax", "exp", "log", "tanh", "sqrt", "matmul", "square"]


def _step(n: Any, operation: str, x: Any, y: Any) -> Any:
    match operation:
        case "+":
            return x + y
        case "-":
            return x - y
        case "*":
            return x * y
        case "/":
            return x / y
        case "square":
            return x * x
        case "sum":
            return n.broadcast_to(n.sum(x, [1], True), x.shape)
        case "amax":
            return n.broadcast_to(n.amax(x, [0], True), x.shape)
        case "matmul":
            return n.matmul(x, y)
    return n.function(operation, n.function("abs", x) if operation in ("log", "sqrt") else x)


@settings(max_examples=300, deadline=None)
@given(
    numbers=st.lists(st.one_of(_NEAR, _FLOATS), min_size=18, max_size=18),
    program=st.lists(st.tuples(st.sampled_from(_OPERATIONS), st.booleans()), max_size=8),
)
def test_programs_at_all_numbers(numbers: list[float], program: list[tuple[str, bool]]) -> None:
    """A wide number may be unknown, but what it says is true."""
    inputs = torch.tensor(numbers, dtype=torch.float64).reshape(2, 3, 3)
    with flint.ctx.workprec(2_000):
        results = []
        for n in (Balls(precision=2_000), WideArithmetic()):
            x, y = (n.exact(part) for part in inputs)  # type: ignore[attr-defined]
            for operation, swapped in program:
                x, y = _step(n, operation, *((y, x) if swapped else (x, y))), x
            results.append(x)
        _agree(*results, narrow=None)


def test_exact_infinities_and_zeros() -> None:
    n = WideArithmetic()
    x = n.exact(torch.tensor([-torch.inf, torch.inf, 0.0, -3.0], dtype=torch.float64))
    assert (x + 1).hi.tolist() == [-torch.inf, torch.inf, 1.0, -2.0]
    assert n.function("exp", x).hi.tolist()[:3] == [0.0, torch.inf, 1.0]
    assert not (x + 1).error[:2].any()
    zeros = n.exact(torch.zeros(4, dtype=torch.float64)) * x
    assert zeros.error.tolist() == [torch.inf, torch.inf, 0.0, 0.0]  # 0 times infinity is unknown
    assert (1 / x).error[:2].tolist() == [0.0, 0.0]
    assert (1 / x).error[2] == torch.inf


def test_a_sum_at_repeated_indices() -> None:
    rng = torch.Generator().manual_seed(0)
    at = torch.randint(-1, 7, (500,), generator=rng)
    x, values = (torch.randn(size, generator=rng, dtype=torch.float64) for size in (7, 500))
    results = [n.scatter_add(n.exact(x), at, n.exact(values)) for n in (Balls(), WideArithmetic())]
    _agree(*results)


@pytest.mark.parametrize(
    "shape", [(), (3,), (5, BLOCK // 2), (3, 2 * BLOCK + 1), (2, 3, BLOCK), (0, 4)]
)
def test_blocks_cover_an_array_once(shape: tuple[int, ...]) -> None:
    counts = torch.zeros(shape)
    for at in blocks(shape):
        counts[at] += 1
        assert counts[at].numel() <= BLOCK
    assert bool((counts == 1).all())


def test_large_arrays_are_computed_as_small_ones() -> None:
    rng = torch.Generator().manual_seed(0)
    x, y = (torch.randn(3, BLOCK, generator=rng, dtype=torch.float64) for _ in range(2))
    whole = of_float64(x) * of_float64(y[:1]) / of_float64(y)
    for k in range(3):
        row = of_float64(x[k, :9]) * of_float64(y[0, :9]) / of_float64(y[k, :9])
        assert all(map(torch.equal, whole[k, :9].parts, row.parts))


def test_balls_and_back() -> None:
    balls = Balls().function("exp", Balls().exact(torch.linspace(-600, 600, 29)))
    wide = of_balls(balls)
    assert bool((wide.error <= 2.0**-104 * wide.hi).all())
    _agree(balls, wide)


def test_both_sides_share_a_product() -> None:
    rng = torch.Generator().manual_seed(0)
    n = WideArithmetic(shared=Shared())
    x, y = (n.exact(torch.randn(100, 110, generator=rng)) for _ in range(2))
    first = n.matmul(x, y.arranged(lambda part: part.mT.contiguous()))
    again = n.matmul(x, y.arranged(lambda part: part.mT.contiguous()))
    turned = n.matmul(y, x.arranged(lambda part: part.mT.contiguous()))
    assert again is first
    assert turned.hi.data_ptr() == first.hi.data_ptr()
    other = n.matmul(x, (y + 1).arranged(lambda part: part.mT.contiguous()))
    assert other is not first


_VALUES = torch.tensor([0.0, 1.0, -2.5, 1e-300, 1e10, torch.inf, 2.0**-100], dtype=torch.float64)


def test_questions_have_the_same_answers() -> None:
    both: list[Any] = [Balls(), WideArithmetic()]
    third = [n.exact(_VALUES) / n.exact(torch.full((7,), 3.0)) for n in both]
    moved = [x + n.exact(_VALUES.flip(0)) for x, n in zip(third, both, strict=True)]
    for ask in (finite, contains_zero):
        assert ask(third[0]).tolist() == ask(third[1]).tolist()
    certain = [distinct(*pair) for pair in zip(third, moved, strict=True)]
    assert certain[0].tolist() == certain[1].tolist()
    known = finite(third[0]) & finite(moved[0])
    for first, second in (
        (magnitudes(third[0]), magnitudes(third[1])),
        (distances(third[0], moved[0]), distances(third[1], moved[1])),
    ):
        np.testing.assert_allclose(first[known], second[known], rtol=1e-15)
    narrow = 2.0**-98 * magnitudes(third[1]) + 2.0**-999
    assert bool((radii(third[1]) <= narrow)[known].all())
    floats = _VALUES.float() / 3
    off = [distance_from_floats(floats, x) for x in third]
    torch.testing.assert_close(off[1], off[0], rtol=1e-12, atol=1e-300, equal_nan=True)


def _norm(x: Tensor, w: Tensor) -> Tensor:
    return torch.nn.functional.layer_norm(x, (x.shape[-1],), w)


def _norm_backward(
    grad_output: Tensor, x: Tensor, w: Tensor, factor: float = 1.0
) -> dict[str, Tensor]:
    centred = x - x.mean(-1, keepdim=True)
    rstd = ((centred * centred).mean(-1, keepdim=True) + 1e-5) ** -0.5
    h, d = centred * rstd, grad_output * w
    dx = rstd * (d - d.mean(-1, keepdim=True) - h * (d * h).mean(-1, keepdim=True))
    return {"x": dx * factor, "w": (grad_output * h).sum(0)}


@pytest.mark.parametrize("bug", ["none", "factor", "sign", "row"])
def test_a_large_pass_has_a_verdict(bug: str) -> None:
    """A factor 1.00001, one flipped sign and one wrong row among 100,000 numbers are WRONG."""
    rng = torch.Generator().manual_seed(0)
    x, w = torch.randn(256, 400, generator=rng), torch.randn(400, generator=rng)

    def backward(grad_output: Tensor, x: Tensor, w: Tensor) -> dict[str, Tensor]:
        values = _norm_backward(grad_output, x, w, 1.00001 if bug == "factor" else 1.0)
        signs = torch.ones_like(x)
        if bug == "sign":
            signs[200, 17] = -1
        if bug == "row":
            signs[:] = torch.where(torch.arange(256)[:, None] == 133, 1.5, 1.0)
        return values if bug in ("none", "factor") else {**values, "x": values["x"] * signs}

    report = compare.check(backward, _norm, {"x": x, "w": w})
    proof = report.quantities["x"].proof
    assert proof is not None
    verdicts = {name: q.verdict for name, q in report.quantities.items()}
    assert verdicts == {"x": "ROUNDING" if bug == "none" else "WRONG", "w": "ROUNDING"}
    if bug == "sign":
        assert "1 of 102,400 elements differ" in proof.text
        assert proof.at == (200, 17)


@pytest.mark.parametrize("factor", [1.0, 7.0])
def test_numbers_near_the_largest_float64_are_left_to_flint(
    factor: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Splitting them overflows, so wide arithmetic does not know them; they hide no bug."""
    monkeypatch.setattr("compare.proof.pair.MOST_FOR_BALLS_ALONE", 0)
    x, scale = torch.linspace(1, 2, 40, dtype=torch.float64), torch.ones(40, dtype=torch.float64)
    x[3], scale[3] = 1e305, 1e-300

    def backward(x: Tensor, grad_output: Tensor) -> tuple[Tensor]:
        gradient = grad_output * (2 * x) * scale
        gradient[3] *= factor
        return (gradient,)

    report = compare.check(backward, lambda x: x * scale * x, (x,))
    assert report.verdict == ("ROUNDING" if factor == 1 else "WRONG"), str(report)
    assert ("different formula" in str(report)) == (factor != 1)
    assert "elements computed exactly" not in str(report)


def test_a_divisor_that_may_be_0_has_no_quotient() -> None:
    one = of_float64(torch.ones(3, dtype=torch.float64))
    below = Wide(one.hi, one.lo, torch.tensor([0.5, 1.0, 3.0], dtype=torch.float64))
    error = (one / below).error
    assert error[0] >= 1  # between 2/3 and 2
    assert error[1:].isinf().all()


def _restarted(shared: Shared, x: Wide, *, leads: bool = False) -> bool:
    return shared.restart(x, leads=leads) is not x


def test_both_sides_go_on_from_equal_products_alone() -> None:
    rng = torch.Generator().manual_seed(0)
    x = of_float64(torch.randn(3, 4, generator=rng, dtype=torch.float64))
    near = Wide(x.hi, x.lo, 2.0**-70 * x.hi.abs())
    far = Wide(x.hi, x.lo, 2.0**-50 * x.hi.abs())  # too little is known of it
    other = Wide(x.hi * (1 + 2.0**-40), x.lo, near.error)
    shared = Shared()
    assert _restarted(shared, near, leads=True)
    assert _restarted(shared, near)
    assert not shared.restart(near, leads=False).error.any()
    for unlike in (far, other, near[:2], Wide(-x.hi, -x.lo, near.error)):
        assert not _restarted(shared, unlike)
    last = torch.ones(3, 4, dtype=torch.float64)
    last[2, 3] += 2.0**-40
    assert not _restarted(shared, Wide(x.hi * last, x.lo, near.error))


def test_values_from_product_to_product_show_no_difference(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A sum by hand may lie off the reference's product by the error that this goes on without."""

    def rough(a: Any, b: Any, bits: int) -> tuple[Tensor, ...]:
        hi, lo, error = product(a, b, bits)
        return hi, lo + 2.0**-66 * hi, error + 2.0**-65 * hi.abs()

    monkeypatch.setattr("compare.proof.wide.product", rough)
    monkeypatch.setattr("compare.proof.pair.Pair.precisions", (RESTARTED,))
    rng = torch.Generator().manual_seed(0)
    x, w = (torch.randn(60, 60, generator=rng, dtype=torch.float64) for _ in range(2))

    def backward(grad_output: Tensor, x: Tensor, w: Tensor) -> dict[str, Tensor]:
        return {"w": (x[:, :, None] * grad_output[:, None, :]).sum(0), "x": grad_output @ w.mT}

    pair = Passes(backward, lambda x, w: x @ w, {"x": x, "w": w})
    _, both = pair.with_autograd(pair.manual, pair.manual_program)
    verdicts = {name: proof.verdict for name, proof in judge(both, ["w", "x"]).items()}
    assert verdicts["w"] != "WRONG"
    assert verdicts["x"] == "EXACT"


def _rows_alone(operation: Callable[..., Bound], *operands: Bound) -> None:
    """Compare the bounds of a large array with those of each of its rows."""
    whole = operation(*operands)
    for k in range(whole.shape[0]):
        cut = {id(x): x.moved(lambda part: part[k]) for x in operands}  # noqa: B023
        row = operation(*(cut[id(x)] for x in operands))
        assert torch.equal(whole.value[k], row.value)
        assert torch.equal(whole.error[k], row.error)
        assert all(map(torch.equal, (end[k] for end in whole.range), row.range))


def test_bounds_of_large_arrays_are_those_of_their_rows() -> None:
    rng = torch.Generator().manual_seed(0)
    n = Bounds(terms=True)
    n.dtype = torch.float32
    value = torch.randn(3, BLOCK, generator=rng, dtype=torch.float64) * 1e-3
    x = Bound(n, value, torch.full_like(value, 1e-3))  # squares of both signs are not negative
    large = Bound(n, value * 1e5, value.abs())
    _rows_alone(n.multiply, x, x)
    _rows_alone(n.multiply, x, large)
    _rows_alone(n.add, x, large)
    _rows_alone(n.divide, x, large)
    for name in ("exp", "tanh", "sqrt"):
        _rows_alone(partial(n.function, name), large)
    assert bool((n.multiply(x, x).range[0] >= 0).all())


@pytest.mark.parametrize("label", ["convolution", "convolution-transposed", "convolution_backward"])
def test_a_few_images_of_a_convolution_at_once(label: str, monkeypatch: pytest.MonkeyPatch) -> None:
    call = next(call for call in CALLS if call.label == label)
    inputs = {
        name: torch.cat([x, x + 1, x - 2]) if len(x) == len(next(iter(call.inputs.values()))) else x
        for name, x in call.inputs.items()
    }
    program = trace(named(call.run), inputs)
    results = []
    for most in (4_000_000, 1):  # numbers; one image at least is laid out at once
        monkeypatch.setattr("compare.proof.operations.NUMBERS_AT_ONCE", most)
        results.append([lift(program, n, inputs) for n in (WideArithmetic(), Bounds())])
    for whole, parts in zip(*results, strict=True):
        for name, value in whole.items():
            one, other = value.numbers, parts[name].numbers
            if isinstance(one, Wide):
                assert not distinct(one, other).any()
                assert bool((other.error <= 2.0**-90 * one.hi.abs().max()).all())
            else:
                torch.testing.assert_close(one.value, other.value)
                torch.testing.assert_close(one.error, other.error)
