"""Rounding bounds: no float run leaves its bound, for random programs and inputs.

Nor is a bound wider than the textbook bound: a wide one would let any bug pass.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from unittest import mock

import flint
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from compare.proof import interpreter
from compare.proof.balls import FUNCTIONS, Balls
from compare.proof.bounds import _KERNELS, Bounds
from compare.proof.interpreter import Lifted, lift
from compare.proof.trace import trace
from tests.lifted import DTYPES, ThreeRuns, named, run_three_ways

ROWS, COLUMNS = 3, 4


@dataclass(frozen=True)
class Piece:
    """An operation of one or two tensors; `defined` is the mask of its domain, None for all."""

    name: str
    run: Callable[..., Tensor]
    defined: Callable[[Tensor], Tensor] | None = None


_TOTAL = (
    "neg", "abs", "expm1", "exp", "sigmoid", "tanh", "erf", "erfc", "relu", "sin", "cos", "atan",
    "square", "exp2",
)  # fmt: skip
UNARY = [Piece(name, getattr(torch, name)) for name in _TOTAL] + [
    *(Piece(n, getattr(torch, n), lambda x: x > 0) for n in ("log", "sqrt", "rsqrt", "log2")),
    Piece("log1p", torch.log1p, lambda x: x > -0.999),
    Piece("reciprocal", torch.reciprocal, lambda x: x != 0),
    Piece("pow3", lambda x: x**3),
    Piece("pow-1.5", lambda x: x**-1.5, lambda x: x > 0),
    Piece("scale", lambda x: 0.3 * x + 1.7),
    Piece("clamp", lambda x: x.clamp(-0.3, 1.7)),
    Piece("gelu", torch.nn.functional.gelu),
    Piece("silu", torch.nn.functional.silu),
    Piece("softplus", torch.nn.functional.softplus),
    Piece("elu", torch.nn.functional.elu),
    Piece("softmax", lambda x: x.softmax(-1)),
    Piece("log_softmax", lambda x: x.log_softmax(-1)),
    Piece("center", lambda x: x - x.mean(-1, keepdim=True)),
    Piece("sum", lambda x: x.sum(0, keepdim=True).expand(x.shape)),
    Piece("prod", lambda x: x.prod(1, keepdim=True).expand(x.shape)),
    Piece("cumsum", lambda x: x.cumsum(1)),
    Piece("cumprod", lambda x: x.cumprod(1)),
    Piece("amax", lambda x: x - x.amax(1, keepdim=True)),
    Piece("sort", lambda x: x.sort(1).values),
    Piece("var", lambda x: x.var(1, keepdim=True).expand(x.shape)),
    Piece("norm", lambda x: x.norm(dim=1, keepdim=True).expand(x.shape)),
    Piece("gram", lambda x: x @ x.mT @ x),
    Piece("layer_norm", lambda x: torch.nn.functional.layer_norm(x, x.shape[1:])),
    Piece("flip", lambda x: x.flip(0)),
]
BINARY = [
    Piece("add", torch.add),
    Piece("sub", torch.sub),
    Piece("mul", torch.mul),
    Piece("div", torch.div, lambda y: y != 0),
    Piece("maximum", torch.maximum),
    Piece("where", lambda x, y: torch.where(x > y, x, y * 2)),
    Piece("product", lambda x, y: x @ y.mT @ y),
    Piece("index_add", lambda x, y: x.index_add(0, torch.tensor([0, 0, 2]), y)),
]


def any_size(dtype: torch.dtype) -> st.SearchStrategy[float]:
    """Draw numbers of every size in `dtype`: zeros, subnormal, small, ordinary and large ones."""
    info = torch.finfo(dtype)
    usual = st.floats(-8, 8)
    return st.one_of(
        usual,
        usual,
        st.sampled_from([0.0, -0.0, 1.0, -1.0, 0.5]),
        usual.map(lambda x: x * info.smallest_normal * info.eps * 16),
        usual.map(lambda x: x * math.sqrt(info.smallest_normal)),
        usual.map(lambda x: x * math.sqrt(info.max) / 16),
    )


@st.composite
def programs(draw: st.DrawFn) -> tuple[list[tuple[Piece, int, int]], torch.dtype, dict[str, Tensor]]:  # fmt: skip  # noqa: E501
    """Draw 2 to 5 operations, each on earlier values, a dtype, and inputs."""
    count = draw(st.integers(2, 5))
    steps = []
    for i in range(count):
        piece = draw(st.sampled_from(UNARY + BINARY))
        steps.append((piece, draw(st.integers(0, i + 1)), draw(st.integers(0, i + 1))))
    dtype = draw(st.sampled_from(DTYPES))
    numbers = st.lists(any_size(dtype), min_size=ROWS * COLUMNS, max_size=ROWS * COLUMNS)
    inputs = {
        name: torch.tensor(draw(numbers), dtype=torch.float64).to(dtype).reshape(ROWS, COLUMNS)
        for name in ("x", "y")
    }
    return steps, dtype, inputs


def composed(steps: list[tuple[Piece, int, int]]) -> Callable[..., dict[str, Tensor]]:
    """Return the function that applies the steps; outside a step's domain its operand is 2."""

    def run(x: Tensor, y: Tensor) -> dict[str, Tensor]:
        values = [x, y]
        for piece, one, other in steps:
            operands = [values[one], values[other]] if piece in BINARY else [values[one]]
            if piece.defined is not None:
                inside = piece.defined(operands[-1])
                operands[-1] = torch.where(inside, operands[-1], torch.full_like(operands[-1], 2))
            values.append(piece.run(*operands))
        return {f"v{i}": value for i, value in enumerate(values[2:])}

    return run


SUPPRESSED = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]


@settings(deadline=None, max_examples=120, suppress_health_check=SUPPRESSED)
@given(programs())
def test_no_float_run_leaves_its_bound(program: tuple) -> None:  # type: ignore[type-arg]
    """At every step, for numbers of every size; programs that overflow are left out."""
    steps, _, inputs = program
    function = composed(steps)
    assume(all(v.isfinite().all() for v in function(**inputs).values()))
    _, outputs = run_three_ways(function, inputs)
    for name, runs in outputs.items():
        assert isinstance(runs, ThreeRuns), runs
        known = runs.radius.isfinite() & runs.exact.isfinite()
        assert not (runs.outside & known).any(), f"{name}: {runs.share} of the bound"


FILLS = ("-inf", "lowest", "-1e9", "-1e4")


def _fill(name: str, dtype: torch.dtype) -> float:
    """Return the fill value of a mask; -inf where it is below the dtype's lowest number."""
    lowest = torch.finfo(dtype).min
    number = {"-inf": -math.inf, "lowest": lowest, "-1e9": -1e9, "-1e4": -1e4}[name]
    return number if number >= lowest else -math.inf


def _masked(x: Tensor, fill: str) -> Tensor:
    """Return x with the elements above its diagonal filled."""
    return x.masked_fill(torch.ones(x.shape, dtype=torch.bool).triu(1), _fill(fill, x.dtype))


def _added(x: Tensor, fill: str) -> Tensor:
    """Return x with the fill value added above its diagonal."""
    return x + torch.full(x.shape, _fill(fill, x.dtype), dtype=x.dtype).triu(1)


def _by_logsumexp(x: Tensor) -> Tensor:
    return torch.exp(x - x.logsumexp(-1, keepdim=True))


def _online(x: Tensor, start: float) -> Tensor:
    """Return the online softmax of x: maximum and sum are updated column by column."""
    most, total = torch.full_like(x[:, :1], start), torch.zeros_like(x[:, :1])
    for column in x.split(1, 1):
        new = torch.maximum(most, column)
        total, most = total * torch.exp(most - new) + torch.exp(column - new), new
    return torch.exp(x - most) / total


def _attention(p: Tensor) -> Tensor:
    """Return the input gradient of softmax, for its output p and a fixed cotangent."""
    # Not by linspace: its decomposition in a traced program gives other bits, with which a float
    # run could take the other branch of a mask.
    g = (torch.arange(p.numel(), dtype=p.dtype) * (2 / (p.numel() - 1)) - 1).reshape(p.shape)
    return p * (g - (p * g).sum(-1, keepdim=True))


_SOFT: dict[str, Callable[[Tensor], Tensor]] = {
    "softmax": lambda x: x.softmax(-1),
    "log_softmax": lambda x: x.log_softmax(-1),
    "logsumexp": lambda x: x.logsumexp(-1, keepdim=True).expand(x.shape),
    "by logsumexp": _by_logsumexp,
    "online": lambda x: _online(x, -math.inf),
    "online from the lowest": lambda x: _online(x, torch.finfo(x.dtype).min),
    "backward": lambda x: _attention(x.softmax(-1)),
    "exp": torch.exp,
    "log of exp": lambda x: x.exp().log(),
    "least": lambda x: -(-x).amax(-1, keepdim=True).expand(x.shape),
    "rms": lambda x: x * torch.rsqrt((x * x).mean(-1, keepdim=True) + 1e-5),
    "variance": lambda x: (x.var(-1, keepdim=True, correction=0) + 1e-5).rsqrt().expand(x.shape),
}
MASKED = [
    Piece(f"{how.__name__} {fill} {name}", lambda x, how=how, fill=fill, run=run: run(how(x, fill)))
    for how in (_masked, _added)
    for fill in FILLS
    for name, run in _SOFT.items()
] + [Piece(name, run) for name, run in _SOFT.items()]


def extremes(dtype: torch.dtype) -> st.SearchStrategy[float]:
    """Draw numbers at the ends of a dtype and their logarithms, and infinities."""
    info = torch.finfo(dtype)
    ends = [math.log(x) for x in (info.smallest_normal * info.eps, info.smallest_normal, info.max)]
    near = st.floats(0.99, 1.01)
    return st.one_of(
        any_size(dtype),
        st.sampled_from([-math.inf, math.inf, info.max, info.min, -1e4, info.min / 2, 0.0]),
        st.builds(lambda end, x: end * x, st.sampled_from(ends), near),
        near.map(lambda x: x * info.smallest_normal),
        near.map(lambda x: -x * info.max * 0.99),
        st.floats(-8, 8).map(lambda x: 1e4 + x),
    )


@st.composite
def extreme_programs(draw: st.DrawFn) -> tuple[list[tuple[Piece, int, int]], torch.dtype, dict[str, Tensor]]:  # fmt: skip  # noqa: E501
    """Draw 1 to 4 operations, the first of them masked, and inputs at the ends of a dtype."""
    dtype = draw(st.sampled_from(DTYPES))
    steps = [(draw(st.sampled_from(MASKED)), draw(st.integers(0, 1)), 0)]
    for i in range(draw(st.integers(0, 3))):
        piece = draw(st.sampled_from(UNARY + BINARY + MASKED))
        steps.append((piece, draw(st.integers(0, i + 2)), draw(st.integers(0, i + 2))))
    numbers = st.lists(extremes(dtype), min_size=ROWS * COLUMNS, max_size=ROWS * COLUMNS)
    inputs = {
        name: torch.tensor(draw(numbers), dtype=torch.float64).to(dtype).reshape(ROWS, COLUMNS)
        for name in ("x", "y")
    }
    return steps, dtype, inputs


def _no_float_leaves(steps: list[tuple[Piece, int, int]], inputs: dict[str, Tensor]) -> None:
    _, outputs = run_three_ways(composed(steps), inputs)
    for name, runs in outputs.items():
        assert isinstance(runs, ThreeRuns), runs
        assert not (runs.outside & runs.comparable).any(), f"{name}: {runs.share} of the bound"
        outside = runs.outside_range & runs.comparable
        assert not outside.any(), f"{name}: outside {runs.low, runs.high}"


@settings(deadline=None, max_examples=60, suppress_health_check=SUPPRESSED)
@given(extreme_programs())
def test_no_float_run_leaves_its_bound_at_infinities(program: tuple) -> None:  # type: ignore[type-arg]
    """Nor its range, also with overflow and masks, for every element that is not NaN."""
    steps, _, inputs = program
    _no_float_leaves(steps, inputs)


@pytest.mark.long
@settings(deadline=None, max_examples=5000, suppress_health_check=SUPPRESSED)
@given(extreme_programs())
def test_no_float_run_leaves_its_bound_at_infinities_at_length(program: tuple) -> None:  # type: ignore[type-arg]
    """The same for many more programs."""
    steps, _, inputs = program
    _no_float_leaves(steps, inputs)


def _has_kernel(name: str, dtype: torch.dtype) -> bool:
    """Whether torch has the kernel in a dtype: some lack half precision."""
    try:
        _KERNELS[name](torch.ones(1, dtype=dtype))
    except NotImplementedError:
        return False
    return True


@pytest.mark.parametrize(
    ("name", "dtype"), [(k, d) for k in sorted(_KERNELS) for d in DTYPES if _has_kernel(k, d)]
)
def test_every_kernel_at_its_ends(name: str, dtype: torch.dtype) -> None:
    """At infinities, overflow, underflow and subnormals, in long and in short tensors."""
    info = torch.finfo(dtype)
    ends = [0.0, info.smallest_normal * info.eps, info.smallest_normal, 1.0, info.max, math.inf]
    around = [math.log(x) * k for x in [*ends[1:3], info.max] for k in (0.99, 1.0, 1.01)]
    points = torch.tensor([s * x for x in ends + around for s in (1, -1)], dtype=torch.float64)
    for x in (points.to(dtype), points.to(dtype)[:3].flip(0), points.to(dtype).repeat(4)):
        _, outputs = run_three_ways(named(lambda x: _KERNELS[name](x)), {"x": x})
        runs = outputs["out0"]
        assert isinstance(runs, ThreeRuns)
        assert not ((runs.outside | runs.outside_range) & runs.comparable).any()
        infinite = x.isinf() & runs.comparable & (runs.radius == 0)
        assert not runs.bound[infinite].any(), "an infinite operand has no error"


def test_balls_at_infinities() -> None:
    """As in floats, also where arb returns NaN."""
    ends = Balls().exact(torch.tensor([0.0, -1.0, math.inf, -math.inf], dtype=torch.float64))
    zero, minus_one, most, least = ends
    for name, x, y in (
        ("exp", least, 0), ("sigmoid", least, 0), ("log", zero, least), ("log1p", minus_one, least),
        ("log", most, most), ("erf", most, 1), ("erf", least, -1), ("erfc", most, 0),
        ("erfc", least, 2), ("tanh", least, -1), ("rsqrt", most, 0),
    ):  # fmt: skip
        assert FUNCTIONS[name](x) == y, name
    assert not FUNCTIONS["log"](flint.arb(0, 1)).is_finite()
    assert not FUNCTIONS["erf"](flint.arb("nan")).is_finite()


def _holds(run: Callable[..., Tensor], **inputs: Tensor) -> ThreeRuns:
    """Run a function three ways, assert that its floats lie in their bounds and ranges."""
    _, outputs = run_three_ways(named(lambda **kwargs: run(*kwargs.values())), inputs)
    runs = outputs["out0"]
    assert isinstance(runs, ThreeRuns)
    assert not ((runs.outside | runs.outside_range) & runs.comparable).any()
    return runs


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("piece", BINARY[:5], ids=lambda piece: piece.name)
def test_every_pair_of_ends(piece: Piece, dtype: torch.dtype) -> None:
    """As they are, after an operation that rounds, and followed by another operation."""
    info = torch.finfo(dtype)
    sizes = [0.0, info.smallest_normal * info.eps, info.smallest_normal, 0.7, info.max, math.inf]
    ends = torch.tensor([s * x for x in sizes for s in (1, -1)], dtype=torch.float64).to(dtype)
    x, y = (part.reshape(-1).clone() for part in torch.meshgrid(ends, ends, indexing="ij"))
    for run in (
        piece.run,
        lambda x, y: piece.run(0.3 * x, y * 1.7),
        lambda x, y: 1 / piece.run(x, y),
    ):
        runs = _holds(run, x=x, y=y)
        # an infinity with error 0 is an infinity in the exact result too
        certain = runs.comparable & (runs.bound == 0) & runs.floats.isinf()
        assert (runs.exact[certain].isinf()).all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_maximum_of_numbers_that_rounding_may_reorder(dtype: torch.dtype) -> None:
    """The bound does not rely on the order of its float64 values."""
    x = torch.linspace(0.1, 9, 400, dtype=torch.float64).to(dtype)

    def there_and_back(x: Tensor) -> Tensor:
        return x * 0.3 / 0.3 * 0.7 / 0.7

    def less_the_larger(back: Tensor, x: Tensor) -> Tensor:
        return back - torch.maximum(back, x)

    def less_the_shifted(x: Tensor) -> Tensor:
        back = there_and_back(x)
        return back - torch.maximum(back, torch.cat([x[200:], x[:200]]) - 0.01)

    runs = _holds(less_the_shifted, x=x)
    assert not runs.bound[300:].any(), "x - max(x, z) is 0 where x is certainly the larger"
    assert runs.bound[:100].all()
    for sign in (1, -1):
        _holds(lambda x, s=sign: torch.maximum(s * there_and_back(x), s * x), x=x)
        _holds(lambda x, s=sign: torch.minimum(s * there_and_back(x), s * x), x=x)
        _holds(lambda x, s=sign: torch.stack([s * there_and_back(x), s * x]).amax(0), x=x)
        _holds(lambda x, s=sign: less_the_larger(s * there_and_back(x), s * x), x=x)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_sum_whose_partial_sums_may_overflow_has_no_bound(dtype: torch.dtype) -> None:
    """If it is accumulated in its own dtype, whatever the result."""
    most = torch.finfo(dtype).max
    x = torch.tensor([[most, most, -most, -most], [1, 2, 3, 4]], dtype=dtype)
    overflows = dtype.itemsize >= 4 or dtype == torch.bfloat16
    for run in (
        lambda x: x.sum(1),
        lambda x: (x @ torch.ones(4, 1, dtype=x.dtype)).squeeze(1),
        lambda x: x.cumsum(1)[:, -1],
    ):
        runs = _holds(run, x=x)
        assert runs.bound[0].isinf() or not overflows
        assert runs.bound[1].isfinite()
    product = _holds(lambda x: x.prod(1), x=torch.tensor([[most, 2, 0.5, 1 / most]], dtype=dtype))
    assert product.bound.isinf().all()


@pytest.mark.parametrize("far", [1e7, 3e7, 3e9])
@pytest.mark.parametrize("name", ["exp", "expm1", "sigmoid", "tanh", "erfc", "atan"])
def test_a_function_of_a_number_with_a_large_error(name: str, far: float) -> None:
    """The bound takes the steepest derivative within the error, or the function's whole range."""
    x = torch.linspace(-3, 3, 61, dtype=torch.float32)
    _holds(lambda x: _KERNELS[name]((x + far) - far), x=x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("exponent", [0.3, 1.7, 2.2, -0.7, 1 / 3])
def test_a_kernel_rounds_the_exponent_too(exponent: float, dtype: torch.dtype) -> None:
    """The effect on the power grows with the base's distance from 1."""
    tiny, most = (math.log2(torch.finfo(dtype).tiny), math.log2(torch.finfo(dtype).max))
    low, high = (end / max(1, abs(exponent)) for end in (tiny, most))
    x = (2 ** torch.linspace(low, high, 200, dtype=torch.float64)).to(dtype)
    _holds(lambda x: x**exponent, x=x)
    _holds(lambda x: (x * x) ** (exponent / 2), x=x.sqrt())


def test_a_range_bounds_a_result_where_the_error_is_infinite() -> None:
    """A sum of squares and exp are not negative, and 1 + exp(...) is not below 1."""
    x = torch.linspace(-1, 1, 6, dtype=torch.float32)
    large = _holds(lambda x: 1 / (1 + torch.exp(x * 1e6)), x=x)
    assert (large.bound <= 1.001).all()
    assert (_holds(lambda x: torch.sqrt((x - x) ** 2 + 1e-5), x=x).bound < 1e-4).all()
    far = _holds(lambda x: torch.rsqrt((x + 1e8 - 1e8).var() + 1e-5), x=x)
    assert far.bound <= 317  # 1 / sqrt(1e-5)


NARROW = [
    p
    for p in MASKED
    if p.name.endswith((" softmax", " backward", "online", "lowest", "by logsumexp"))
]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("piece", NARROW, ids=lambda piece: piece.name)
def test_a_masked_softmax_has_a_narrow_bound(piece: Piece, dtype: torch.dtype) -> None:
    """At ordinary scores every element has one, whatever the fill value."""
    x = torch.linspace(-2, 3, ROWS * COLUMNS, dtype=torch.float64).reshape(ROWS, COLUMNS)
    _, outputs = run_three_ways(composed([(piece, 0, 0)]), {"x": x.to(dtype), "y": x.to(dtype)})
    runs = outputs["v0"]
    assert isinstance(runs, ThreeRuns)
    assert runs.comparable.all()
    assert (runs.bound < 100 * torch.finfo(dtype).eps).all()


def _at(bits: int, function: Callable[..., dict[str, Tensor]], inputs: dict[str, Tensor]) -> dict[str, Lifted]:  # fmt: skip  # noqa: E501
    with mock.patch.object(interpreter, "PRECISION", bits):
        return lift(trace(function, inputs), Balls(), inputs)


@settings(deadline=None, max_examples=40, suppress_health_check=SUPPRESSED)
@given(programs())
def test_balls_hold_what_more_digits_show(program: tuple) -> None:  # type: ignore[type-arg]
    """A ball computed with 400 bits overlaps the ball computed with 200 bits."""
    steps, _, inputs = program
    assume(not any(piece.name == "gelu" for piece, _, _ in steps))
    function = composed(steps)
    assume(all(v.isfinite().all() for v in function(**inputs).values()))
    coarse, fine = _at(200, function, inputs), _at(400, function, inputs)
    for name, lifted in coarse.items():
        for ball, better in zip(lifted.numbers.ravel(), fine[name].numbers.ravel(), strict=True):
            with flint.ctx.workprec(500):
                assert ball.overlaps(better)
                # and it is narrower, except for the radius of constants, which stays
                assert not better.is_finite() or better.rad() <= ball.rad() * 2 + flint.arb("1e-90")


# The widest bound allowed, in rounding units times the operation's result at the magnitudes of its
# inputs; sums have 4 terms.
WIDEST: list[tuple[str, Callable[..., Tensor], float]] = [
    ("add", torch.add, 1),
    ("subtract", torch.sub, 1),
    ("multiply", torch.mul, 1),
    ("divide", torch.div, 1),
    ("exp", lambda x, y: x.exp(), 8),
    ("sigmoid", lambda x, y: x.sigmoid(), 8),
    ("sqrt", lambda x, y: x.abs().sqrt(), 8.5),
    ("cube", lambda x, y: x**3, 8),
    ("sum", lambda x, y: x.sum(1), 4 + 2),
    ("running sum", lambda x, y: x.cumsum(1), 4 + 1),
    ("product", lambda x, y: x.prod(1), 4 * 4 + 1),
    ("running product", lambda x, y: x.cumprod(1), 4 * 4 + 1),
    ("matrices", lambda x, y: x @ y.mT, 4 + 2),
    ("index_add", lambda x, y: x.index_add(0, torch.tensor([0, 0, 2]), y), 2 * (2 + 1) + 1),
]  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("function", "units"), [row[1:] for row in WIDEST], ids=[row[0] for row in WIDEST]
)
def test_a_bound_is_no_wider_than_the_textbook_bound(
    function: Callable[..., Tensor], units: float, dtype: torch.dtype
) -> None:
    """For one operation at ordinary inputs, with sums accumulated in the dtype."""
    chance = torch.Generator().manual_seed(5)
    inputs = {
        name: (torch.rand(ROWS, COLUMNS, generator=chance) + 0.5).to(dtype) * sign
        for name, sign in (("x", 1), ("y", -1))
    }
    program = trace(lambda x, y: {"out": function(x, y)}, inputs)
    bound = lift(program, Bounds(), inputs)["out"].numbers
    sizes = {name: value.double().abs() for name, value in inputs.items()}
    if function is torch.sub:
        sizes["y"] *= -1
    size = function(*sizes.values())
    # 0.1 units for second-order terms, and the smallest normal number for underflow
    widest = (units + 0.1) * torch.finfo(dtype).eps / 2 * size + torch.finfo(dtype).smallest_normal
    assert (bound.error <= widest).all(), float((bound.error / widest).max())
    assert (bound.error > 0).all()
