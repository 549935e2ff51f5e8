"""Regression tests for wrong verdicts and wrong statements in reports, and similar passes.

Each row is either a wrong pass, which must be WRONG, or a right one: EXACT or ROUNDING.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import compare
from compare.diagnosis.bit_exact_search import suggest_rewrites
from compare.diagnosis.diagnosis import diagnose

RIGHT, WRONG = "right", "WRONG"
HALF = [torch.bfloat16, torch.float16]
DTYPES = [torch.float64, torch.float32, *HALF]


@dataclass(frozen=True)
class Row:
    """A backward pass, its inputs and the expected verdict."""

    name: str
    forward: Callable[..., Any]
    backward: Any
    inputs: Any
    wanted: str


def params(rows: Sequence[Row]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("row", [pytest.param(row, id=row.name) for row in rows])


def meets(row: Row, **how: Any) -> None:
    """Assert that the check of a pass reports the expected verdict."""
    report = compare.check(row.backward, row.forward, row.inputs, **how)
    wanted = ("EXACT", "ROUNDING") if row.wanted == RIGHT else (row.wanted,)
    assert report.verdict in wanted, str(report)


def drawn(*shape: int, seed: int = 31, dtype: torch.dtype = torch.float32) -> Tensor:
    chance = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=chance, dtype=torch.float64).to(dtype)


def short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def function(forward: Callable[..., Any], backward: Callable[..., Any]) -> Any:
    """Return an autograd.Function that saves its inputs and calls `backward(inputs, gradients)`."""

    class Made(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *given: Tensor) -> Any:
            ctx.save_for_backward(*given)
            return forward(*given)

        @staticmethod
        def backward(ctx: Any, *grads: Tensor) -> Any:
            return backward(ctx.saved_tensors, grads)

    return Made


# -- the cotangent of a scalar output


def squares(x: Tensor) -> Tensor:
    return (x * x).sum()


def cross_entropy(x: Tensor, y: Tensor) -> Tensor:
    return -(y * torch.log_softmax(x, -1)).sum() / len(x)


def both(x: Tensor) -> tuple[Tensor, Tensor]:
    return x.sum(), squares(x)


def whole_and_sum(x: Tensor) -> tuple[Tensor, Tensor]:
    return x * x, squares(x)


X = drawn(4, 3)
TARGETS = {"x": drawn(4, 3).requires_grad_(), "y": F.one_hot(torch.tensor([0, 2, 1, 1])).float()}
# functions that a by-hand pass may apply to its cotangent, and whether the result is right
ABOVE: list[tuple[str, Callable[[Tensor], Any], str]] = [
    ("times", lambda g: g, RIGHT),
    ("forgets", lambda g: 1, WRONG),
    ("squares", lambda g: g * g, WRONG),
    ("divides by", lambda g: 1 / g, WRONG),
    ("sign of", torch.sign, WRONG),
    ("abs of", torch.abs, WRONG),
    ("root of the square of", lambda g: (g * g).sqrt(), WRONG),
    ("cube of", lambda g: g**3, WRONG),
    ("zero to the power of", lambda g: g**0, WRONG),
    ("clamps", lambda g: g.clamp(-1, 1), WRONG),
    ("twice half of", lambda g: 2 * (g / 2), RIGHT),
]


def _above(how: Callable[[Tensor], Any], name: str, wanted: str) -> Iterator[Row]:
    def asks(x: Tensor, grad_output: Tensor) -> tuple[Tensor]:
        return (2 * x * how(grad_output),)

    def takes_all(**everything: Tensor) -> tuple[Tensor]:
        return (2 * everything["x"] * how(everything["grad_output"]),)

    def entropy(given: Sequence[Tensor], grads: Sequence[Tensor]) -> Any:
        x, y = given
        return (torch.softmax(x, -1) - y) / len(x) * how(grads[0]), None

    of_function = function(squares, lambda given, grads: 2 * given[0] * how(grads[0]))
    losses = function(cross_entropy, entropy)
    yield Row(f"asks, {name} it", squares, asks, {"x": X}, wanted)
    yield Row(f"Function, {name} it", squares, of_function, {"x": X}, wanted)
    yield Row(f"fused loss, {name} it", cross_entropy, losses, TARGETS, wanted)
    if name != "forgets":  # tested below, by test_a_pass_that_takes_all_...
        yield Row(f"takes all, {name} it", squares, takes_all, {"x": X}, wanted)
    yield Row(f"shape (1,), {name} it", lambda x: squares(x)[None], asks, {"x": X}, wanted)
    yield Row(
        f"of two outputs the scalar, {name} it", whole_and_sum,
        lambda x, grad_output: (2 * x * grad_output[0] + 2 * x * how(grad_output[1]),),
        {"x": X}, wanted,
    )  # fmt: skip


SCALARS = [row for name, how, wanted in ABOVE for row in _above(how, name, wanted)] + [
    Row("half a square", lambda x: squares(x) / 2,
        function(lambda x: squares(x) / 2, lambda given, grads: given[0]), {"x": X}, WRONG),
    Row("two scalars", both, lambda x, grad_output: (grad_output[0] + 2 * x * grad_output[1],),
        {"x": X}, RIGHT),
    Row("two scalars exchanged", both,
        lambda x, grad_output: (grad_output[1] + 2 * x * grad_output[0],), {"x": X}, WRONG),
    Row("two scalars, one forgotten", both,
        lambda x, grad_output: (1 + 2 * x * grad_output[1],), {"x": X}, WRONG),
    Row("two scalars of a Function exchanged", both,
        function(both, lambda given, grads: grads[1] + 2 * given[0] * grads[0]), {"x": X}, WRONG),
    Row("two scalars of a Function", both,
        function(both, lambda given, grads: grads[0] + 2 * given[0] * grads[1]), {"x": X}, RIGHT),
    Row("the other's gradient forgotten", whole_and_sum,
        function(whole_and_sum, lambda given, grads: 2 * given[0] * (grads[0] + 1)),
        {"x": X}, WRONG),
]  # fmt: skip


@params(SCALARS)
def test_what_stands_above_a_scalar_is_looked_at(row: Row) -> None:
    """The cotangent of a loss is not always 1: loss scaling and accumulation change it."""
    meets(row)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_whatever_the_seed(seed: int) -> None:
    for row in _above(ABOVE[1][1], "forgets", WRONG):
        meets(row, seed=seed)


def test_a_pass_that_does_not_ask_is_judged_for_1_and_told_so() -> None:
    """A pass without `grad_output` can only compute the gradient of the loss itself."""
    report = compare.check(lambda x: (2 * x,), squares, {"x": X})
    assert report.ok, str(report)
    assert "for grad_output = 1" in " ".join(str(report).split())
    asking = compare.check(lambda x, grad_output: (2 * x * grad_output,), squares, {"x": X})
    assert "for grad_output = 1" not in " ".join(str(asking).split())
    assert compare.check(lambda x: (3 * x,), squares, {"x": X}).verdict == "WRONG"


def test_a_pass_that_takes_all_and_reads_no_gradient_does_not_pass_in_silence() -> None:
    report = compare.check(lambda **everything: (2 * everything["x"],), squares, {"x": X})
    told = " ".join(str(report).split())
    assert report.verdict == "WRONG" or "for grad_output = 1" in told, told


@pytest.mark.parametrize(
    ("backward", "forward"),
    [
        (lambda x, grad_output: (2 * x * grad_output,), squares),
        (lambda x, grad_output: (x.exp() * grad_output,), lambda x: x.exp().sum()),
        (function(squares, lambda given, grads: 2 * given[0] * grads[0]), squares),
        (lambda x, grad_output: (grad_output[0] + 2 * x * grad_output[1],), both),
    ],
    ids=["squares", "exp", "Function", "two"],
)
def test_gradcheck_has_no_false_alarm_where_it_is_right(backward: Any, forward: Any) -> None:
    """A mutant that drops a scalar's cotangent, or divides by it, is not an equivalent mutant."""
    found = compare.power(backward, forward, {"x": X})
    assert found.false_alarms["gradcheck"] == 0, str(found)
    assert not found.rejects_unmutated
    assert found.ok, str(found)


def test_mutants_of_a_wrong_pass_are_refused_and_not_blamed_on_gradcheck() -> None:
    pass_by_hand = function(squares, lambda given, grads: 2 * given[0])
    with pytest.raises(compare.BadInput, match="WRONG"):
        compare.power(pass_by_hand, squares, {"x": X})


# -- the user's own random draws

Draw = Callable[[int, torch.dtype, Sequence[int]], Tensor]


def _seeded(draw: Callable[[torch.dtype, Sequence[int]], Tensor]) -> Draw:
    def seeded(k: int, dtype: torch.dtype, shape: Sequence[int]) -> Tensor:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(k)
            return draw(dtype, shape)

    return seeded


DRAWS: dict[str, Draw] = {
    "randn": _seeded(lambda dtype, shape: torch.randn(*shape, dtype=dtype)),
    "double": _seeded(lambda dtype, shape: torch.randn(*shape, dtype=torch.float64).to(dtype)),
    "rand": _seeded(lambda dtype, shape: torch.rand(*shape, dtype=dtype)),
    "from a half": _seeded(lambda dtype, shape: torch.rand(*shape, dtype=dtype) + 0.5),
    "normal_": _seeded(lambda dtype, shape: torch.empty(*shape, dtype=dtype).normal_()),
    "uniform_": _seeded(lambda dtype, shape: torch.empty(*shape, dtype=dtype).uniform_(-1.5, 1.5)),
    "Generator": lambda k, dtype, shape: torch.randn(
        *shape, dtype=dtype, generator=torch.Generator().manual_seed(k)
    ),
}


@pytest.mark.parametrize("dtype", DTYPES, ids=short)
@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
def test_no_cotangent_is_a_draw_of_the_users(draw: Draw, dtype: torch.dtype) -> None:
    """An input used in place of the cotangent is WRONG, whichever seeds were used for both."""
    for k in (0, 1, 2, 7):
        for shape in ((3, 4), (4, 5), (1,)):
            x = draw(k, dtype, shape)
            row = Row("x for g", lambda x: x**3, lambda x: (3 * x * x * x,), {"x": x}, WRONG)
            meets(row, seed=k)
            if k:
                meets(row)


def _pair(k: int, *shapes: tuple[int, ...]) -> list[Tensor]:
    """Draw several tensors one after another from one seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(k)
        return [torch.randn(*shape) for shape in shapes]


def _exchanged() -> list[Row]:
    x, w = _pair(0, (2, 3), (3, 2))
    a, b = _pair(0, (3, 4), (3, 4))
    (long,) = _pair(0, (2, 5))
    first = drawn(2, 5)
    twos = torch.full((4,), 2.0)
    equal = {"x": twos, "y": twos.clone()}
    return [
        Row("x for g in a product", lambda x, w: x * w.T,
            lambda x, w: {"x": x * w.T, "w": (x * x).T}, {"x": x, "w": w}, WRONG),
        Row("the first of x for g", lambda x: x[:, :3] * x[:, :3],
            lambda x: (F.pad(2 * x[:, :3] * x.flatten()[:6].view(2, 3), (0, 2)),),
            {"x": long}, WRONG),
        Row("the second draw for the second gradient", lambda a, b: (a * a, b * b),
            lambda a, b: (2 * a * a, 2 * b * b), {"a": a, "b": b}, WRONG),
        Row("the second draw for the only gradient", lambda a, b: a * b,
            lambda a, b: (b * b, a * b), {"a": a, "b": b}, WRONG),
        Row("a closure's draw for g", lambda x: x * x, lambda x: (2 * x * long,),
            {"x": first}, WRONG),
        Row("g", lambda x: x * x, lambda x, grad_output: (2 * x * grad_output,),
            {"x": long}, RIGHT),
        Row("equal inputs", lambda x, y: x * y,
            lambda x, y, grad_output: (y * grad_output, x * grad_output), equal, RIGHT),
    ]  # fmt: skip


@params(_exchanged())
def test_values_that_happen_to_be_equal_are_not_taken_for_one(row: Row) -> None:
    meets(row)


@pytest.fixture
def search_for_fixes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Turn on the search for fixes, which is off in the other tests of this file."""
    monkeypatch.setattr("compare.checking.check.diagnose", diagnose)
    monkeypatch.setattr("compare.checking.check.suggest_rewrites", suggest_rewrites)


MOVED_ALIKE: list[tuple[str, Callable[..., Tensor], Callable[..., Tensor], str]] = [
    ("a a 3/2 for a b", lambda a, b: a * b, lambda a, b: a * a * 1.5, "multiply by 2/3"),
    ("a - b for a a / b", lambda a, b: a * a / b, lambda a, b: a - b, "leave out b"),
    ("a / b 6 for a b", lambda a, b: a * b, lambda a, b: 6 * (a / b), "multiply by 2/3"),
    ("a for b, twice", lambda a, b: b + b, lambda a, b: 4 * a, "multiply by 1/2"),
    ("b b / a for b, thrice", lambda a, b: b, lambda a, b: 3 * b * b / a, "multiply by 1/3"),
]


@pytest.mark.usefixtures("search_for_fixes")
@pytest.mark.parametrize(
    ("scale", "manual_scale", "false_fix"),
    [row[1:] for row in MOVED_ALIKE],
    ids=[row[0] for row in MOVED_ALIKE],
)
def test_no_fix_is_reported_that_needs_two_inputs_to_stay_equal(
    scale: Callable[..., Tensor], manual_scale: Callable[..., Tensor], false_fix: str
) -> None:
    """Two inputs with equal values would stay equal if the same noise were added to both."""
    twos = torch.full((4,), 2.0)
    report = compare.check(
        lambda grad_output, a, b: {"x": grad_output * manual_scale(a, b)},
        lambda x, a, b: x * scale(a, b),
        {"x": drawn(3, 4).requires_grad_(), "a": twos, "b": twos.clone()},
    )
    assert report.verdict == "WRONG"
    text = " ".join(str(report).split())
    assert false_fix not in text, text


def test_equal_inputs_do_not_change_the_number_of_equivalent_mutants() -> None:
    def count(y: Tensor) -> int:
        return compare.power(
            lambda x, y, grad_output: (y * grad_output, x * grad_output), lambda x, y: x * y,
            {"x": X, "y": y},
        ).same_function  # fmt: skip

    assert count(X.clone()) == count(drawn(4, 3, seed=5))


# -- numbers written in the code, and numbers that come from data


def network(layers: int, width: int, seed: int = 3) -> list[Tensor]:
    return [drawn(width, width, seed=seed + k) / width**0.5 for k in range(layers)]


def _net(layers: int, width: int, dtype: torch.dtype, scale: float, decimals: int | None) -> Row:
    """Return a tanh network with weights in a closure; `scale` multiplies the by-hand gradient."""
    weights = [w.to(dtype) for w in network(layers, width)]
    if decimals is not None:
        weights = [w.round(decimals=decimals) for w in weights]

    def forward(x: Tensor) -> Tensor:
        for w in weights:
            x = torch.tanh(x @ w)
        return x

    def backward(x: Tensor, grad_output: Tensor) -> tuple[Tensor]:
        values = [x]
        for w in weights:
            values.append(torch.tanh(values[-1] @ w))
        d = grad_output
        for w, h in zip(reversed(weights), reversed(values[1:]), strict=True):
            d = (d * (1 - h * h)) @ w.mT
        return (d * scale,)

    wanted = RIGHT if scale == 1 else WRONG
    rounded = "" if decimals is None else f" of {decimals} decimals"
    name = f"{layers} layers of {width}{rounded}, {short(dtype)}, times {scale}"
    return Row(name, forward, backward, {"x": drawn(2, width, dtype=dtype)}, wanted)


def _module(dtype: torch.dtype, scale: float) -> Row:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        layers = [m for _ in range(4) for m in (nn.Linear(16, 16), nn.Tanh())]
        net = nn.Sequential(*layers).to(dtype).requires_grad_(False)

    def backward(grad_output: Tensor, input: Tensor) -> dict[str, Tensor]:
        values, linears = [input], [layer for layer in layers if isinstance(layer, nn.Linear)]
        for linear in linears:
            values.append(torch.tanh(linear(values[-1])))
        d = grad_output
        for linear, h in zip(reversed(linears), reversed(values[1:]), strict=True):
            d = (d * (1 - h * h)) @ linear.weight
        return {"input": d * scale}

    wanted = RIGHT if scale == 1 else WRONG
    name = f"module, {short(dtype)}, times {scale}"
    return Row(name, net, backward, {"input": drawn(4, 16, dtype=dtype)}, wanted)


def _coefficients(dtype: torch.dtype, scale: float) -> Row:
    c = torch.tensor([0.3, 0.7, 1.1, -0.2, 0.9, 0.45], dtype=dtype)
    return Row(
        f"coefficients, {short(dtype)}, times {scale}", lambda x: x * c,
        lambda grad_output: (grad_output * c * scale,), {"x": drawn(6, dtype=dtype)},
        RIGHT if scale == 1 else WRONG,
    )  # fmt: skip


def _eps(times: float, dtype: torch.dtype) -> Row:
    """Return RMSNorm with its weight in a closure; by hand, eps is 1e-8 times `times`."""
    w = drawn(16, 16, dtype=dtype)

    def scale(z: Tensor, eps: float) -> Tensor:
        return ((z * z).mean(-1, keepdim=True) + eps).rsqrt()

    def forward(x: Tensor) -> Tensor:
        z = x @ w
        return z * scale(z, 1e-8)

    def backward(x: Tensor, grad_output: Tensor) -> tuple[Tensor]:
        z = x @ w
        r = scale(z, 1e-8 * times)
        mean = (grad_output * z).mean(-1, keepdim=True)
        return ((r * grad_output - r * r * r * z * mean) @ w.mT,)

    name = f"eps times {times}, {short(dtype)}"
    wanted = RIGHT if times == 1 else WRONG
    return Row(name, forward, backward, {"x": drawn(2, 16, dtype=dtype)}, wanted)


LOW = (1, 1.01, 1.5, 2, -1, 0)
HELD = [
    *(_module(dtype, k) for dtype in HALF for k in LOW),
    *(_module(torch.float32, k) for k in (1, 1 + 1e-6)),
    *(_net(layers, 16, dtype, k, None) for layers in (1, 2, 4) for dtype in HALF for k in LOW),
    *(_net(4, 16, torch.float32, k, None) for k in (1, 1 + 1e-6, 1 - 1e-6)),
    *(_net(4, 16, torch.float32, k, d) for d in (1, 2, 3) for k in (1, 1 + 1e-6)),
    *(_coefficients(dtype, k) for dtype in HALF for k in (1, 1 + 5e-4, 1 + 2e-3, 1.01)),
    *(_coefficients(torch.float32, k) for k in (1, 1 + 1e-6)),
    *(_eps(times, dtype) for dtype in (torch.float32, torch.float64) for times in (1, 0, 2)),
]


@params(HELD)
def test_weights_that_are_no_input_hide_no_bug(row: Row) -> None:
    meets(row)


C = [math.pi, math.e, 2**0.5]
WAVE = [math.cos(2 * math.pi * k / 7) for k in range(7)]
BELL = [math.exp(-((k - 3) ** 2) / 4.5) / math.sqrt(4.5 * math.pi) for k in range(7)]
HANN = [0.5 - 0.5 * math.cos(2 * math.pi * k / 8) for k in range(8)]


def _by_number(x: Tensor, numbers: Sequence[float]) -> Tensor:
    return torch.stack([part * c for part, c in zip(x, numbers, strict=True)])


def _written(name: str, numbers: Sequence[float], dtype: torch.dtype) -> Iterator[Row]:
    """Yield passes that hold the numbers in a tensor on one side and in the code on the other."""
    table = torch.tensor(numbers, dtype=dtype)[:, None]
    off = [c * (1 + 1e-3 * (k == 1)) for k, c in enumerate(numbers)]
    wrong = torch.tensor(off, dtype=dtype)[:, None]
    given = {"x": drawn(len(numbers), 4, dtype=dtype)}
    at = f"{name}, {short(dtype)}"

    def inside(x: Tensor, numbers: Sequence[float]) -> Tensor:
        return x * torch.tensor(numbers, dtype=dtype)[:, None]

    def tensor_by_hand(grad_output: Tensor) -> tuple[Tensor]:
        return (grad_output * table,)

    def numbers_by_hand(grad_output: Tensor) -> tuple[Tensor]:
        return (_by_number(grad_output, numbers),)

    yield Row(f"{at}, by hand a tensor", lambda x: _by_number(x, numbers), tensor_by_hand,
              given, RIGHT)  # fmt: skip
    yield Row(f"{at}, by hand numbers", lambda x: x * table, numbers_by_hand, given, RIGHT)
    yield Row(f"{at}, a tensor made inside", lambda x: inside(x, numbers), numbers_by_hand,
              given, RIGHT)  # fmt: skip
    # bfloat16 may round both to the same float
    if not torch.equal(table, wrong):
        yield Row(f"{at}, by hand a tensor off", lambda x: _by_number(x, numbers),
                  lambda grad_output: (grad_output * wrong,), given, WRONG)  # fmt: skip
        yield Row(f"{at}, by hand numbers off", lambda x: x * table,
                  lambda grad_output: (_by_number(grad_output, off),), given,
                  WRONG)  # fmt: skip


def _computed(dtype: torch.dtype) -> Iterator[Row]:
    """Yield passes that hold the rounded result of a computation that the other side performs."""
    x, long = drawn(5, 7, dtype=dtype), drawn(5, 8, dtype=dtype)
    scale = 1 / math.sqrt(12)

    def turned(x: Tensor) -> Tensor:
        return x * torch.cos(torch.arange(7, dtype=dtype) * (2 * math.pi / 7))

    def windowed(x: Tensor) -> Tensor:
        return x * torch.hann_window(8, dtype=dtype)

    held: list[tuple[str, Callable[[Tensor], Tensor], list[float] | float, Tensor]] = [
        ("cosines", turned, WAVE, x),
        ("a window", windowed, HANN, long),
        ("a scale", lambda x: x * (1 / math.sqrt(12)), scale, x),
        ("a divisor", lambda x: x / math.sqrt(12), scale, x),
    ]
    for name, forward, numbers, given in held:
        for factor in (1, 1.01):
            table = torch.tensor(numbers, dtype=dtype) * factor

            def by_hand(grad_output: Tensor, table: Tensor = table) -> tuple[Tensor]:
                return (grad_output * table,)

            wanted = RIGHT if factor == 1 else WRONG
            at = f"{short(dtype)}, times {factor}"
            yield Row(f"{name} held, {at}", forward, by_hand, {"x": given}, wanted)

    def divided(grad_output: Tensor) -> tuple[Tensor]:
        return (grad_output / math.sqrt(12),)

    near = torch.tensor(scale, dtype=dtype)
    yield Row(f"a divisor worked out, {short(dtype)}", lambda x: x * near, divided, {"x": x}, RIGHT)


def _each_its_own(dtype: torch.dtype) -> Iterator[Row]:
    """Yield passes whose tensor holds one number written in the code and one that is data."""
    data = torch.tensor(0.7, dtype=dtype)
    mixed = torch.stack([torch.tensor(0.1, dtype=dtype), data])
    held = {"x": drawn(2, 4, dtype=dtype).requires_grad_(), "w": data.clone()}
    at = short(dtype)
    for k, off in enumerate(([1, 1], [1.01, 1], [1, 1.01])):
        factors = torch.tensor(off, dtype=dtype)
        if k and torch.equal(factors, torch.ones_like(factors)):
            continue
        yield Row(
            f"written and held, {at}, times {off}",
            lambda x, w: torch.stack([x[0] * 0.1, x[1] * w]),
            lambda grad_output, f=factors: {"x": grad_output * (mixed * f)[:, None]},
            held, WRONG if k else RIGHT,
        )  # fmt: skip
        yield Row(
            f"held and written, {at}, times {off}",
            lambda x, w: torch.stack([x[0] * w, x[1] * 0.1]),
            lambda grad_output, f=factors: {"x": grad_output * (mixed.flip(0) * f)[:, None]},
            held, WRONG if k else RIGHT,
        )  # fmt: skip


LITERALS = [
    row
    for dtype in DTYPES
    for rows in (
        _written("pi, e, root of 2", C, dtype),
        _written("cosines", WAVE, dtype),
        _written("a bell", BELL, dtype),
        _written("a Hann window", HANN, dtype),
        _computed(dtype),
        _each_its_own(dtype),
    )
    for row in rows
]


@params(LITERALS)
def test_numbers_written_in_a_tensor_and_in_code_are_one(row: Row) -> None:
    """Numbers that differ by a thousandth are still distinguished."""
    meets(row, hold=[name for name in ("w",) if name in row.inputs])  # by hand, w is in the code


def _data_of_the_same_bits(dtype: torch.dtype) -> Iterator[Row]:
    """Yield passes that write a number where the other side receives the same number as data."""
    w = torch.tensor([0.1, 0.3], dtype=dtype)
    given = {"x": drawn(2, dtype=dtype).requires_grad_(), "w": w}
    for off in (1, 1.01):
        tenths = [0.1 * off, 0.3 * off]
        yield Row(
            f"a tensor made inside, {short(dtype)}, times {off}", lambda x, w: x * w,
            lambda grad_output, t=tenths: {"x": grad_output * torch.tensor(t, dtype=dtype)},
            given, RIGHT if off == 1 else WRONG,
        )  # fmt: skip
        if dtype.itemsize >= 4:  # half precision computes with Python numbers in float32
            yield Row(
                f"a number, {short(dtype)}, times {off}", lambda x, w: x * w[0],
                lambda grad_output, t=tenths: {"x": grad_output * t[0]},
                given, RIGHT if off == 1 else WRONG,
            )  # fmt: skip


@params([row for dtype in DTYPES for row in _data_of_the_same_bits(dtype)])
def test_a_number_written_where_the_other_side_has_data_is_also_what_its_dtype_holds(
    row: Row,
) -> None:
    """The rule holds in float64 and for tensors, and not only for float32 numbers in the code."""
    meets(row, hold=("w",))


# -- the numbers that a held tensor may stand for

WEIGHT = drawn(4, 4, seed=9, dtype=torch.bfloat16)
TENTH = torch.full((2,), 0.1, dtype=torch.bfloat16)
SINGLE = float(torch.tensor(0.1))  # rounded to float32
TWO = {"x": drawn(2, 2, dtype=torch.bfloat16)}
DOUBLE = {"x": drawn(2, 3, dtype=torch.float64)}


@params(
    [
        Row("a weight off by less than its dtype shows", lambda x: x @ WEIGHT,
            lambda grad_output: (grad_output @ (WEIGHT * 1.001).mT,),
            {"x": drawn(3, 4, dtype=torch.bfloat16)}, WRONG),
        Row("a weight off in forward", lambda x: x @ (WEIGHT * 1.001),
            lambda grad_output: (grad_output @ WEIGHT.mT,),
            {"x": drawn(3, 4, dtype=torch.bfloat16)}, WRONG),
        Row("a number rounded to float32 in float64", lambda x: x * 0.1,
            lambda grad_output: (grad_output * SINGLE,), DOUBLE, WRONG),
        Row("a number made and cast", lambda x: x * TENTH,
            lambda grad_output: (grad_output * torch.tensor(0.1).bfloat16(),), TWO, RIGHT),
        Row("made in one dtype and in another", lambda x: x * torch.tensor(0.1234).bfloat16(),
            lambda grad_output: (grad_output * torch.tensor(0.1234, dtype=torch.bfloat16),),
            TWO, RIGHT),
        Row("another number made and cast", lambda x: x * torch.tensor(0.1234).bfloat16(),
            lambda grad_output: (grad_output * torch.tensor(0.125, dtype=torch.bfloat16),),
            TWO, WRONG),
        Row("a power that Python took", lambda x: x * 0.9**7,
            lambda grad_output: (grad_output * 0.4782969,), DOUBLE, RIGHT),
        Row("a whole number to a power", lambda x: 2**x,
            lambda grad_output, output: (grad_output * output * math.log(2),), DOUBLE, RIGHT),
        Row("a whole number to a power, off", lambda x: 2**x,
            lambda grad_output, output: (grad_output * output * math.log(2) * 1.001,), TWO, WRONG),
    ]
)  # fmt: skip
def test_a_held_tensor_stands_for_what_rounds_to_it_and_for_no_more(row: Row) -> None:
    meets(row)


# -- a formula that widens the interval of a value


def _gelu(x: Tensor) -> Tensor:
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)))


def _blocks(
    x: Tensor, wpe: Tensor, ws: Sequence[Tensor], gelu: Callable[[Tensor], Tensor]
) -> Tensor:
    h = x + wpe
    for one, other, last in zip(ws[::3], ws[1::3], ws[2::3], strict=True):
        n = F.layer_norm(h, h.shape[-1:])
        h = h + torch.softmax(n @ n.mT, -1) @ n @ last
        h = h + gelu(F.layer_norm(h, h.shape[-1:]) @ one) @ other
    return F.layer_norm(h, h.shape[-1:])


def _gpt(name: str, of_wpe: Callable[[Tensor], Tensor], dtype: torch.dtype, wanted: str) -> Row:
    """Return a transformer of three blocks; `of_wpe` computes the by-hand gradient of `wpe`."""
    weights = {f"w{k}": drawn(6, 6, seed=40 + k, dtype=dtype) for k in range(9)}
    given = {"x": drawn(2, 3, 6, dtype=dtype), "wpe": drawn(3, 6, seed=7, dtype=dtype)}
    given["wpe"].requires_grad_()

    def forward(x: Tensor, wpe: Tensor, **ws: Tensor) -> Tensor:
        return _blocks(x, wpe, [*ws.values()], lambda h: F.gelu(h, approximate="tanh"))

    def backward(**given: Tensor) -> dict[str, Tensor]:
        with torch.enable_grad():
            x = given["x"].detach().requires_grad_()
            out = _blocks(x, given["wpe"], [given[label] for label in weights], _gelu)
            (dx,) = torch.autograd.grad(out, x, given["grad_output"])
        return {"wpe": of_wpe(dx)}

    return Row(f"{name}, {short(dtype)}", forward, backward, given | weights, wanted)


@params(
    [
        _gpt("sum", lambda dx: dx.sum(0), torch.float64, RIGHT),
        *(
            _gpt(name, of_wpe, dtype, WRONG)
            for dtype in (torch.float64, torch.float32)
            for name, of_wpe in (
                ("mean for sum", lambda dx: dx.mean(0)),
                ("sum times 1.001", lambda dx: 1.001 * dx.sum(0)),
            )
        ),
    ]
)
def test_a_bug_at_the_end_of_a_transformer_is_found(row: Row) -> None:
    """The bug is WRONG even if a constant of gelu makes the intervals wide from the inputs on."""
    meets(row)


# -- names of intermediates


@pytest.mark.parametrize(
    "label",
    [
        "w",
        "the value of z",
        "the value of w",
        "manual",
        "arg0",
        "x of z",
        "z.1",
        "z[0]",
        "w[1]",
        "verdict",
        "constant",
        "self",
    ],
)
def test_any_name_of_an_intermediate_is_as_good_as_another(label: str) -> None:
    def forward(x: Tensor) -> Tensor:
        z = compare.name(torch.tanh(x), "z")
        return compare.name(z * z * z, label).sum()

    def backward(z: Tensor) -> dict[str, Tensor]:
        return {"z": 3 * z * z, "x": 3 * z * z * (1 - z * z)}

    meets(Row(label, forward, backward, {"x": drawn(4, 3, dtype=torch.float64)}, RIGHT))
