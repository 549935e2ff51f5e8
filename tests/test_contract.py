"""The contract of a Function: passes that break it, refuse it and keep it."""

import itertools
import json
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

import compare
from compare.contract import outcome
from compare.contract.calls import (
    clone_keeps_layout,
    copy_with_strides,
    stride_zero,
    transposed,
)
from compare.errors import BadInput
from compare.proof.pair import Pair
from compare.proof.verdict import Verdict
from compare.report.contract_line import LINES
from tests.opaque import unseen

Forward = Callable[..., Any]


def drawn(*shape: int, seed: int = 3, dtype: torch.dtype = torch.float32) -> Tensor:
    chance = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=chance, dtype=torch.float64).to(dtype)


X, W = drawn(3, 4), drawn(4, 5, seed=4)


def function(forward: Forward, backward: Forward) -> type[torch.autograd.Function]:
    both = {"forward": staticmethod(forward), "backward": staticmethod(backward)}
    return type("Made", (torch.autograd.Function,), both)


def outcomes(report: compare.Report) -> dict[str, str]:
    return {line.name: line.outcome for line in report.contract}


def text(report: compare.Report, name: str) -> str:
    (line,) = (line for line in report.contract if line.name == name)
    return line.text


def told(report: compare.Report) -> str:
    return " ".join(str(report).split())


def squared(ctx: Any, x: Tensor) -> Tensor:
    ctx.save_for_backward(x)
    return x * x


def doubled(ctx: Any, g: Tensor) -> Tensor:
    (x,) = ctx.saved_tensors
    return 2 * x * g


def square(x: Tensor) -> Tensor:
    return x * x


def product(ctx: Any, x: Tensor, w: Tensor) -> Tensor:
    ctx.save_for_backward(x, w)
    return x @ w


def two(x: Tensor) -> tuple[Tensor, Tensor]:
    return x * x, 3 * x


def both(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(x)
    return two(x)


# -- broken, each by its own line alone


def as_dense(ctx: Any, g: Tensor) -> Tensor:
    (x,) = ctx.saved_tensors
    return 2 * g.as_strided(x.shape, x.stride()) * x


def by_memory(ctx: Any, g: Tensor) -> Tensor:
    """Opaque code that reads its gradient as dense, as a kernel with a bare pointer does."""
    (x,) = ctx.saved_tensors
    dense = np.lib.stride_tricks.as_strided(g.numpy(), g.shape, (4 * g.shape[1], 4))
    return torch.from_numpy(2 * x.numpy() * dense)


def one_value(ctx: Any, g: Tensor) -> Tensor:
    """Read a gradient of stride 0 as one number, which it is below a sum."""
    return 2 * ctx.saved_tensors[0] * (g.flatten()[0] if 0 in g.stride() else g)


def wrong_way(ctx: Any, g: Tensor) -> Tensor:
    """Read columns as rows."""
    (x,) = ctx.saved_tensors
    return 2 * x * (g.mT.reshape(g.shape) if g.stride(-1) > 1 else g)


def normalized(ctx: Any, g: Tensor) -> Tensor:
    return 2 * ctx.saved_tensors[0] * g / g.abs().max() * g.abs().max()


def unless_zero(ctx: Any, g: Tensor) -> Tensor:
    return 2 * ctx.saved_tensors[0] * torch.where(g == 0, 1, g)


def needs_both(ctx: Any, a: Tensor | None, b: Tensor | None) -> Tensor | None:
    if a is None or b is None:
        return None
    return 2 * ctx.saved_tensors[0] * a + 3 * b


def kept_slope(ctx: Any, x: Tensor) -> Tensor:
    ctx.slope = 2 * x
    return x * x


def dense_slope(ctx: Any, g: Tensor) -> Tensor:
    (x,) = ctx.saved_tensors
    return 3 * torch.as_strided(x, x.shape, (x.shape[1], 1)) ** 2 * g


def cubed(ctx: Any, x: Tensor) -> Tensor:
    ctx.save_for_backward(x)
    return x.contiguous() ** 3


def first_decides(ctx: Any, g: Tensor) -> Any:
    x, w = ctx.saved_tensors
    gx = gw = None
    if ctx.needs_input_grad[0]:
        gx, gw = g @ w.T, x.T @ g
    return gx, gw


def swapped(ctx: Any, g: Tensor) -> Any:
    """Scale the gradient of one input if the other needs none."""
    x, w = ctx.saved_tensors
    alone = 1 if all(ctx.needs_input_grad) else 2
    return alone * (g @ w.T), x.T @ g


def overwrites(ctx: Any, x: Tensor) -> Tensor:
    y = x.exp_()
    ctx.save_for_backward(y)
    return y.clone()


def through_data(ctx: Any, x: Tensor) -> Tensor:
    y = x.data.exp_()
    ctx.save_for_backward(y)
    return y.clone()


def scales_what_it_saved(ctx: Any, g: Tensor) -> Tensor:
    (x,) = ctx.saved_tensors
    return x.data.mul_(2) * g


def times_saved(ctx: Any, g: Tensor) -> Tensor:
    return g * ctx.saved_tensors[0]


BROKEN: list[tuple[str, Any, Forward, Any, set[str], str]] = [
    ("stride 0 as dense", function(squared, as_dense), square, (X,), {"stride 0", "transposed"},
     "x differs at ["),
    ("read by memory", function(squared, by_memory), square, (X,), {"stride 0", "transposed"},
     "x differs at ["),
    ("stride 0 alone", function(squared, one_value), square, (X,), {"stride 0"}, "by autograd)"),
    ("transposed alone", function(squared, wrong_way), square, (X,), {"transposed"}, " by hand, "),
    ("0/0", function(squared, normalized), square, (X,), {"zero"}, "(nan by hand, 0 by autograd)"),
    ("not 0", function(squared, unless_zero), square, (X,), {"zero"}, "0 by autograd)"),
    ("missing", function(both, needs_both), two, (X,), {"missing"},
     "without a cotangent for output[0]: x is None, but autograd's is not 0"),
    ("twice", function(kept_slope, lambda ctx, g: ctx.slope.mul_(g)), square, (X,), {"twice"},
     ", then "),
    ("strides", function(cubed, dense_slope), lambda x: x**3, (drawn(3, 8)[:, ::2],), {"strides"},
     "x differs"),
    ("expanded", function(cubed, dense_slope), lambda x: x**3, (drawn(3, 1).expand(3, 4),),
     {"strides"}, "x differs"),
    ("a subset", function(product, first_decides), torch.Tensor.__matmul__, None, {"subsets"},
     "for w alone: w is None, but autograd's is not 0"),
    ("another subset", function(product, swapped), torch.Tensor.__matmul__, None, {"subsets"},
     "for x alone: x differs"),
    ("not marked", function(overwrites, times_saved), torch.exp, (X,), {"inputs untouched"},
     "forward writes into x without ctx.mark_dirty"),
    ("by data", function(through_data, times_saved), torch.exp, (X,), {"inputs untouched"},
     "forward writes into x without ctx.mark_dirty"),
    ("in backward", function(squared, scales_what_it_saved), square, (X,),
     {"inputs untouched", "twice"}, "backward writes into x"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("broken", "forward", "given", "names", "words"), [b[1:] for b in BROKEN],
    ids=[b[0] for b in BROKEN],
)  # fmt: skip
def test_what_breaks_the_contract_is_wrong_by_its_line_alone(
    broken: Any, forward: Forward, given: Any, names: set[str], words: str
) -> None:
    """No other line breaks: the main call, with dense cotangents, is EXACT or ROUNDING."""
    if forward is torch.exp:
        report = compare.check(broken, lambda x: torch.exp(x), given)
    elif given is None:
        report = compare.check(broken, lambda x, w: x @ w, (X, W))
    else:
        report = compare.check(broken, forward, given)
    assert {name for name, outcome in outcomes(report).items() if outcome == "broken"} == names
    assert "WRONG" not in {q.verdict for q in report.quantities.values()}
    assert (report.verdict, report.ok, report.first_wrong) == ("WRONG", False, None)
    assert any(words in line.text for line in report.contract if line.outcome == "broken")
    first = next(line for line in report.contract if line.outcome == "broken")
    said = f"WRONG the contract is broken: {LINES[first.name]}: {first.text}"
    assert said in told(report), str(report)
    for name in names:
        assert f"broken {name}: {text(report, name)}" in told(report)


def test_assert_same_fails_by_a_broken_contract_unless_it_is_left_out() -> None:
    made = function(kept_slope, lambda ctx, g: ctx.slope.mul_(g))
    with pytest.raises(AssertionError, match="broken: a second backward on one graph: x differs"):
        compare.assert_same(made, square, (X,))
    compare.assert_same(made, square, (X,), contract={"twice": False})
    report = compare.check(made, square, (X,), contract={"twice": False, "zero": True})
    assert outcomes(report)["twice"] == "not asked"
    assert outcomes(report)["zero"] == "kept"
    assert "not asked twice" in told(report)


# -- refused: an exception, whatever it says


def asks_for_dense(ctx: Any, g: Tensor) -> Tensor:
    if not g.is_contiguous():
        raise RuntimeError("call .contiguous()\nsecond line")
    return doubled(ctx, g)


def by_view(ctx: Any, g: Tensor) -> Tensor:
    (x,) = ctx.saved_tensors
    return 2 * x * g.view(-1).view(x.shape)


def lets_go(ctx: Any, g: Tensor) -> Tensor:
    slope = ctx.slope
    del ctx.slope
    return slope * g


def takes_no_none(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
    return 2 * ctx.saved_tensors[0] * a + 3 * b


def all_or_nothing(ctx: Any, g: Tensor) -> Any:
    if not all(ctx.needs_input_grad):
        raise NotImplementedError
    x, w = ctx.saved_tensors
    return g @ w.T, x.T @ g


def doubles(ctx: Any, x: Tensor) -> Tensor:
    ctx.mark_dirty(x)
    return x.mul_(2)


REFUSED: list[tuple[str, Any, Forward, Any, set[str], str]] = [
    ("contiguous", function(squared, asks_for_dense), square, (X,), {"stride 0", "transposed"},
     "refuses cotangents of stride 0, transposed cotangents (RuntimeError: call .contiguous())"),
    ("view", function(squared, by_view), square, (X,), {"stride 0", "transposed"},
     "(RuntimeError: view size is not compatible with"),
    ("let go", function(kept_slope, lets_go), square, (X,), {"twice"},
     "refuses a second backward on one graph (AttributeError: "),
    ("no None", function(both, takes_no_none), two, (X,), {"missing"},
     "refuses missing cotangents (without a cotangent for output[0]: TypeError: unsupported "),
    ("all inputs", function(product, all_or_nothing), lambda x, w: x @ w, (X, W), {"subsets"},
     "(for x alone: NotImplementedError; for w alone: NotImplemented"),
    ("in place of what repeats", function(doubles, lambda ctx, g: 2 * g), lambda x: 2 * x,
     (drawn(3, 1).expand(3, 4),), {"strides"}, "the inputs' own strides (RuntimeError: uns"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("refusing", "forward", "given", "names", "words"), [r[1:] for r in REFUSED],
    ids=[r[0] for r in REFUSED],
)  # fmt: skip
def test_an_exception_is_a_refusal_and_leaves_the_verdict(
    refusing: Any, forward: Forward, given: Any, names: set[str], words: str
) -> None:
    report = compare.check(refusing, forward, given)
    found = outcomes(report)
    assert {name for name, outcome in found.items() if outcome == "refused"} == names
    assert {found[name] for name in found.keys() - names} == {"kept"}
    assert report.ok
    assert report.verdict == compare.check(
        refusing, forward, given, contract=dict.fromkeys(LINES, False)
    ).verdict  # fmt: skip
    verdict = told(report).split(" contract kept")[0]
    assert "; refuses " in verdict
    assert words in verdict, verdict
    assert "second line" not in told(report)


# -- kept


def masked(ctx: Any, x: Tensor, mask: Tensor, p: float) -> Tensor:
    ctx.save_for_backward(mask)
    ctx.p = p
    return x * mask / (1 - p)


def unmasked(ctx: Any, g: Tensor) -> Any:
    (mask,) = ctx.saved_tensors
    return g * mask / (1 - ctx.p), None, None


def best(ctx: Any, x: Tensor, k: int, how: str) -> Any:
    found, index = x.topk(k, -1)
    ctx.index, ctx.shape = index, x.shape
    ctx.mark_non_differentiable(index)
    return found, index


def best_int32(ctx: Any, x: Tensor, k: int, how: str) -> Any:
    found, index = best(ctx, x, k, how)
    return found, index.int()


def at_best(ctx: Any, g: Tensor, _: Tensor) -> Any:
    return torch.zeros(ctx.shape).scatter_(-1, ctx.index, g), None, None


def picked(ctx: Any, x: Tensor, index: Tensor) -> Tensor:
    ctx.save_for_backward(index)
    ctx.shape = x.shape
    return x[index]


def added_up(ctx: Any, g: Tensor) -> Any:
    return torch.zeros(ctx.shape).index_add_(0, ctx.saved_tensors[0], g), None


def takes_none(ctx: Any, a: Tensor | None, b: Tensor | None) -> Tensor:
    (x,) = ctx.saved_tensors
    found = torch.zeros_like(x)
    found = found if a is None else found + 2 * x * a
    return found if b is None else found + 3 * b


def checkpointed(ctx: Any, g: Tensor) -> Tensor:
    (x,) = ctx.saved_tensors
    with torch.enable_grad():
        leaf = x.detach().requires_grad_()
        y = checkpoint(square, leaf, use_reentrant=False)
    (found,) = torch.autograd.grad(y, leaf, g)
    return found


def as_needed(ctx: Any, g: Tensor) -> Any:
    x, w = ctx.saved_tensors
    return g @ w.T if ctx.needs_input_grad[0] else None, x.T @ g if ctx.needs_input_grad[
        1
    ] else None


def four(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    return a * b + c * d


def save_four(ctx: Any, *inputs: Tensor) -> Tensor:
    ctx.save_for_backward(*inputs)
    return four(*inputs)


def four_back(ctx: Any, g: Tensor) -> tuple[Tensor, ...]:
    a, b, c, d = ctx.saved_tensors
    return g * b, g * a, g * d, g * c


def running(x: Tensor, mean: Tensor) -> Tensor:
    mean.mul_(0.9).add_(0.1 * x.detach().mean(0))
    return x - x.mean(0)


def with_mean(x: Tensor, mean: Tensor, share: float = 0.1) -> tuple[Tensor, Tensor]:
    own = x.mean(0)
    return x - own, (mean * (1 - share) + share * own).detach()


def by_hand_with_mean(share: float) -> type[torch.autograd.Function]:
    def forward(ctx: Any, x: Tensor, mean: Tensor) -> Any:
        y, moved = with_mean(x, mean, share)
        ctx.mark_non_differentiable(moved)
        return y, moved

    return function(forward, lambda ctx, g, _: (g - g.mean(0), None))


def centred(ctx: Any, g: Tensor) -> Any:
    return g - g.mean(0), None


def soft(ctx: Any, x: Tensor) -> Tensor:
    y = x.softmax(-1)
    ctx.save_for_backward(y)
    return y


def soft_back(ctx: Any, g: Tensor) -> Tensor:
    (y,) = ctx.saved_tensors
    return y * (g - (y * g).sum(-1, keepdim=True))


MEAN = {"x": drawn(5, 3).requires_grad_(), "mean": drawn(3, seed=8)}
COTANGENTS = {"stride 0", "transposed", "zero"}
ALWAYS = {"twice", "inputs untouched"}
KEPT: list[tuple[str, Any, Forward, Any, set[str]]] = [
    ("square", function(squared, doubled), square, (X,), COTANGENTS),
    ("mark_dirty", function(doubles, lambda ctx, g: 2 * g), lambda x: 2 * x, (X,), COTANGENTS),
    ("mark_dirty, strided", function(doubles, lambda ctx, g: 2 * g), lambda x: 2 * x,
     (drawn(3, 8)[:, ::2],), COTANGENTS | {"strides"}),
    ("contiguous in backward", function(cubed, lambda ctx, g: 3 * ctx.saved_tensors[0] ** 2 * g),
     lambda x: x**3, (drawn(3, 8)[:, ::2],), COTANGENTS | {"strides"}),
    ("dropout", function(masked, unmasked), lambda x, mask, p: x * mask / (1 - p),
     (drawn(3, 4).requires_grad_(), (X > 0).float(), 0.5), COTANGENTS),
    ("integer output", function(best, at_best), lambda x, k, how: x.topk(k, -1), (X, 2, "a"),
     COTANGENTS | {"other outputs"}),
    ("int32 for int64", function(best_int32, at_best), lambda x, k, how: x.topk(k, -1),
     (X, 2, "a"), COTANGENTS | {"other outputs"}),
    ("integer input", function(picked, added_up), lambda x, index: x[index],
     (drawn(5, 4), torch.tensor([1, 1, 3])), COTANGENTS),
    ("None taken rightly", function(both, takes_none), two, (X,), COTANGENTS | {"missing"}),
    ("once_differentiable", function(squared, once_differentiable(doubled)), square, (X,),
     COTANGENTS),
    ("checkpoint", function(squared, checkpointed), square, (X,), COTANGENTS),
    ("needs_input_grad", function(product, as_needed), lambda x, w: x @ w, (X, W),
     COTANGENTS | {"subsets"}),
    ("four inputs", function(save_four, four_back), four,
     [drawn(3, 4, seed=k) for k in range(4)], COTANGENTS | {"subsets"}),
    ("no elements", function(squared, doubled), square, (torch.zeros(0, 4),), set()),
    ("no dimension", function(squared, doubled), square, (torch.tensor(0.7),), {"zero"}),
    ("one dimension", function(squared, doubled), square, (drawn(3),), {"stride 0", "zero"}),
    ("a sum", function(lambda ctx, x: squared(ctx, x).sum(), doubled), lambda x: (x * x).sum(),
     (X,), {"zero"}),
    ("one column", function(squared, doubled), square, (drawn(3, 1),), COTANGENTS),
    ("transposed input", function(squared, doubled), square, (drawn(4, 3).mT,), COTANGENTS),
    ("running mean, as forward", function(lambda ctx, x, mean: running(x, mean), centred), running,
     MEAN, COTANGENTS),
    ("running mean returned", by_hand_with_mean(0.1), with_mean, MEAN,
     COTANGENTS | {"other outputs"}),
    ("bfloat16", function(soft, soft_back), lambda x: x.softmax(-1),
     (drawn(5, 7, dtype=torch.bfloat16),), COTANGENTS),
    ("numpy", function(squared, lambda ctx, g: torch.from_numpy(
        2 * ctx.saved_tensors[0].numpy() * g.numpy())), square, (X,), COTANGENTS),
    ("opaque", function(squared, lambda ctx, g: 2 * unseen(ctx.saved_tensors[0]) * unseen(g)),
     square, (X,), COTANGENTS),
]  # fmt: skip


@pytest.mark.parametrize(
    ("right", "forward", "given", "names"), [k[1:] for k in KEPT], ids=[k[0] for k in KEPT]
)
def test_right_forms_keep_every_line_that_applies(
    right: Any, forward: Forward, given: Any, names: set[str]
) -> None:
    """The report has no lines that do not apply, so that "kept" means something."""
    report = compare.check(right, forward, given)
    assert report.ok, str(report)
    assert outcomes(report) == dict.fromkeys(names | ALWAYS, "kept"), str(report)
    assert f"kept: {', '.join(line.name for line in report.contract)}" in told(report)
    assert "refuse" not in told(report)


# -- other bits


@pytest.mark.parametrize("bound", [False, True])
@pytest.mark.parametrize("opaque", [False, True])
def test_different_bits_in_another_layout_are_judged_as_rounding(opaque: bool, bound: bool) -> None:
    """Another order of summation gives different bits than the dense call, and is not broken.

    The rounding bound alone decides; without a bound the values are judged like a gradient.
    """

    def backward(ctx: Any, g: Tensor) -> Tensor:
        (y,) = ctx.saved_tensors
        if g.is_contiguous():
            return y * (g - (y * g).sum(-1, keepdim=True))
        if opaque:
            g = unseen(g)
        return y * g - y * (y.double() * g.double()).flip(-1).sum(-1, keepdim=True).to(g.dtype)

    judged: list[set[str]] = []
    original = outcome.verdicts_on

    def verdicts_on(pair: Pair, names: Sequence[str]) -> dict[str, Verdict]:
        found = original(pair, names)
        judged.append({*found.values()})
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("compare.contract.outcome.verdicts_on", verdicts_on)
        if not bound:
            patch.setattr(outcome.CallComparison, "_within_rounding", lambda *_: False)
        report = compare.check(function(soft, backward), lambda x: x.softmax(-1), (drawn(6, 9),))
    assert ({"ROUNDING"} in judged) == (not bound)
    assert outcomes(report) == dict.fromkeys(COTANGENTS | ALWAYS, "kept"), str(report)


def test_undecided_values_are_not_shown() -> None:
    """The difference is below 64 times the rounding bound, by operations that were not traced."""

    def backward(ctx: Any, g: Tensor) -> Tensor:
        return doubled(ctx, g) * (1 if g.is_contiguous() else 1 + 2**-20)

    report = compare.check(function(squared, backward), square, (X,))
    assert report.verdict == "EXACT"
    assert (outcomes(report)["transposed"], outcomes(report)["zero"]) == ("not shown", "kept")
    assert "and this could not be shown to be rounding" in text(report, "transposed")
    assert "not shown transposed: x differs" in told(report)


def test_a_misread_layout_is_wrong_despite_an_unsupported_operation() -> None:
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return as_dense(ctx, g) + 0 * torch.special.bessel_j0(g)

    report = compare.check(function(squared, backward), square, (X,))
    assert "the formula was not checked" in told(report)
    assert (report.verdict, outcomes(report)["transposed"]) == ("WRONG", "broken")


@pytest.mark.parametrize("lift", ["none", "all"])
def test_a_nan_is_wrong_without_exact_computation(lift: str) -> None:
    report = compare.check(function(squared, normalized), square, (X,), lift=lift)
    assert outcomes(report)["zero"] == "broken"


def test_a_nan_is_wrong_if_the_reference_cannot_be_traced() -> None:
    reference = function(
        squared, lambda ctx, g: torch.tensor((2 * ctx.saved_tensors[0] * g).tolist())
    )
    report = compare.check(function(squared, normalized), lambda x: reference.apply(x), (X,))
    assert outcomes(report)["zero"] == "broken", str(report)


@pytest.mark.parametrize("lift", ["none", "all"])
def test_a_misread_layout_is_wrong_without_exact_computation(lift: str) -> None:
    report = compare.check(function(squared, as_dense), square, (X,), lift=lift)
    assert outcomes(report)["transposed"] == "broken"
    report = compare.check(function(squared, doubled), square, (X,), lift=lift)
    assert report.verdict == "EXACT"


OTHER = drawn(7)


def summed(ctx: Any, x: Tensor) -> Tensor:
    """Sum in another order than forward: the output has different bits, the same in every call."""
    return (x * 3).flip(0).cumsum(0)[-1] * 1


def test_nothing_is_judged_if_an_equal_call_has_the_same_numbers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def judge(*_: Any, **__: Any) -> Any:
        raise AssertionError("judged without need")

    monkeypatch.setattr("compare.contract.outcome.judge", judge)
    for made, forward, given in (
        (function(squared, doubled), square, (X,)),
        (function(both, takes_none), lambda x: two(x), (drawn(3),)),
        (function(summed, lambda ctx, g: g * 3 * torch.ones(7)), lambda x: x.sum() * 3, (OTHER,)),
        (function(save_four, four_back), four, [drawn(3, 4, seed=k) for k in range(4)]),
    ):
        assert set(outcomes(compare.check(made, forward, given)).values()) == {"kept"}


def test_user_code_is_called_as_often_as_documented() -> None:
    """10 and 11 times in addition to the check itself, and once for each output and subset."""
    calls = {"forward": 0, "backward": 0}

    def counted(name: str, of: Forward) -> Forward:
        def call(*args: Any) -> Any:
            calls[name] += 1
            return of(*args)

        return call

    def times(forward: Forward, backward: Forward, reference: Forward, given: Any) -> list[int]:
        found = []
        for contract in (dict.fromkeys(LINES, False), None):
            calls.update(forward=0, backward=0)
            made = function(counted("forward", forward), counted("backward", backward))
            compare.check(made, reference, given, contract=contract)
            found.append((calls["forward"], calls["backward"]))
        (f, b), (more_f, more_b) = found
        return [more_f - f, more_b - b]

    assert times(squared, doubled, square, (drawn(3, 8)[:, ::2],)) == [10, 11]
    assert times(product, as_needed, lambda x, w: x @ w, (X, W)) == [9 + 2, 10 + 2]
    assert times(both, takes_none, two, (X,)) == [9 + 2, 10 + 2]


# -- chance, NaN, other outputs


@pytest.mark.parametrize("last_but", [0, 1])
def test_code_that_is_not_deterministic_is_not_called_broken(last_but: int) -> None:
    """Neither if the first call on a graph has different bits by chance, nor if the second has."""
    contract = dict.fromkeys(LINES.keys() - {"twice"}, False)

    def moved(at: int) -> tuple[compare.Report, int]:
        calls = itertools.count()

        def backward(ctx: Any, g: Tensor) -> Tensor:
            found = doubled(ctx, g)
            return found.nextafter(found + 1) if next(calls) == at else found

        report = compare.check(function(squared, backward), square, (X,), contract=contract)
        return report, next(calls)

    report, count = moved(-1)
    assert outcomes(report)["twice"] == "kept"
    report, _ = moved(count - 1 - last_but)
    assert (
        text(report, "twice")
        == "two equal calls give different bits: the code is not deterministic"
    )
    assert outcomes(report)["twice"] == "not shown"
    assert report.ok


def test_a_random_forward_pass_is_reported_although_one_graph_keeps_its_bits() -> None:
    def moved(first: float, *asked: str) -> tuple[compare.Report, int]:
        calls = itertools.count()

        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.slope = 2 * x
            if next(calls) >= first:
                ctx.slope = ctx.slope.nextafter(ctx.slope + 1)
            return x * x

        made = function(forward, lambda ctx, g: ctx.slope * g)
        contract = dict.fromkeys(LINES.keys() - {*asked}, False)
        return compare.check(made, square, (X,), contract=contract), next(calls)

    _, count = moved(math.inf)
    report, _ = moved(count, "twice")
    assert (
        text(report, "twice")
        == "two equal calls give different bits: the code is not deterministic"
    )


@pytest.mark.parametrize(("count", "asked"), [(2, 2), (3, 6), (4, 4)])
@pytest.mark.parametrize("right", [True, False])
def test_every_subset_of_three_inputs_and_each_of_more_alone(
    count: int, asked: int, right: bool
) -> None:
    """A gradient that is wrong for two of three inputs is found, one for two of four is not."""
    needs: list[tuple[bool, ...]] = []

    def forward(ctx: Any, *inputs: Tensor) -> Tensor:
        ctx.save_for_backward(*inputs)
        return sum(inputs) ** 2  # type: ignore[operator,return-value]

    def backward(ctx: Any, g: Tensor) -> Any:
        needs.append(ctx.needs_input_grad)
        wrong = not right and sum(ctx.needs_input_grad) == 2 < count
        return (2 * g * sum(ctx.saved_tensors) * (3 if wrong else 1),) * count

    references: dict[int, Forward] = {
        2: lambda a, b: (a + b) ** 2,
        3: lambda a, b, c: (a + b + c) ** 2,
        4: lambda a, b, c, d: (a + b + c + d) ** 2,
    }
    given = [drawn(3, 4, seed=k) for k in range(count)]
    report = compare.check(function(forward, backward), references[count], given)
    if right:
        assert len({*needs}) == asked + 1
    if right or count != 3:
        assert outcomes(report)["subsets"] == "kept"
    else:
        assert text(report, "subsets").startswith("for a and b alone: a differs at [")


def test_a_nan_on_both_sides_is_reported_and_not_checked() -> None:
    """Both sides compute 0/0 for a zero cotangent; the other elements are judged."""

    def normed(ctx: Any, g: Tensor, last: float = 0.0) -> Tensor:
        found = 2 * ctx.saved_tensors[0] * (g / g.norm()) * g.norm()
        found[-1] = torch.where(g[-1] == 0, last, doubled(ctx, g)[-1])
        return found

    reference = function(squared, normed)

    def forward(x: Tensor) -> Any:
        return reference.apply(x)

    report = compare.check(function(squared, normed), forward, (drawn(3),))
    assert report.ok, str(report)
    assert outcomes(report)["zero"] == "kept"
    assert text(report, "zero") == "NaN on both sides, not checked: 2 of 3 of x"
    assert "kept: stride 0; zero: NaN on both sides, not checked: 2 of 3 of x; tw" in told(report)
    off = function(squared, lambda ctx, g: normed(ctx, g, 0.5))
    report = compare.check(off, forward, (drawn(3),))
    assert text(report, "zero") == "x differs at [2] (0.5 by hand, 0 by autograd)"
    assert report.verdict == "WRONG"


def test_an_overflow_on_both_sides_is_not_checked() -> None:
    """Infinity minus infinity for a zero cotangent, exactly 1; other elements round."""

    def overflowing(last: Callable[[Tensor], Tensor]) -> type[torch.autograd.Function]:
        def backward(ctx: Any, g: Tensor) -> Tensor:
            (x,) = ctx.saved_tensors
            zero = 1 - g.abs().ceil().clamp(max=1)
            huge = 1e38 * zero * 1e38
            found = 2 * x * g + ((huge + zero) - huge)
            found[-1] = 2 * x[-1] * g[-1] + last(x[-1]) * zero[-1]
            return found

        return function(squared, backward)

    reference = overflowing(lambda x: x / 10 * 7)
    for last, word in ((lambda x: x * 0.7, "not shown"), (lambda x: x * 0.71, "broken")):
        report = compare.check(overflowing(last), lambda x: reference.apply(x), (drawn(3),))
        assert report.quantities["x"].verdict == "EXACT"
        assert outcomes(report)["zero"] == word, str(report)
        assert "x differs at [2] (" in text(report, "zero")


def test_a_reference_that_raises_decides_nothing() -> None:
    def no_zero(ctx: Any, g: Tensor) -> Tensor:
        if not g.any():
            raise ValueError("zero\nor so")
        return doubled(ctx, g)

    reference = function(squared, no_zero)
    report = compare.check(function(squared, doubled), lambda x: reference.apply(x), (X,))
    assert text(report, "zero") == "autograd raises ValueError: zero"
    assert (report.verdict, outcomes(report)["zero"]) == ("EXACT", "not shown")


def test_outputs_that_need_no_gradient_are_compared_by_value() -> None:
    report = compare.check(by_hand_with_mean(0.9), with_mean, MEAN)
    assert report.verdict == "WRONG"
    assert "output 2 of 2 differs at [" in text(report, "other outputs")
    assert text(report, "other outputs").endswith(" by forward)")

    def off_by_one(ctx: Any, x: Tensor, k: int, how: str) -> Any:
        found, index = best(ctx, x, k, how)
        return found, index + 1

    def shorter(ctx: Any, x: Tensor, k: int, how: str) -> Any:
        found, index = best(ctx, x, k, how)
        return found, index[:1]

    for other, words in (
        (off_by_one, "differs at [0, 0] ("),
        (shorter, "shape (1, 2), f"),
    ):
        report = compare.check(
            function(other, at_best), lambda x, k, how: x.topk(k, -1), (X, 2, "a")
        )
        assert report.verdict == "WRONG"
        assert words in text(report, "other outputs")


def test_a_fault_of_this_program_is_not_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    def judge(*_: Any, **__: Any) -> Any:
        raise ZeroDivisionError("ours")

    monkeypatch.setattr("compare.contract.outcome.judge", judge)
    with pytest.raises(ZeroDivisionError, match="ours"):
        compare.check(function(squared, as_dense), square, (X,))


def test_other_outputs_may_round_differently() -> None:
    def forward(ctx: Any, x: Tensor, mean: Tensor) -> Any:
        moved = mean - 0.1 * mean + x.mean(0) / 10
        ctx.mark_non_differentiable(moved)
        return x - x.mean(0), moved

    made = function(forward, lambda ctx, g, _: (g - g.mean(0), None))
    report = compare.check(made, with_mean, MEAN)
    assert outcomes(report)["other outputs"] == "kept", str(report)
    assert report.ok


def test_outputs_that_forward_does_not_return_are_named() -> None:
    made = by_hand_with_mean(0.9)
    report = compare.check(made, lambda x, mean: with_mean(x, mean)[0], MEAN)
    assert report.ok
    assert text(report, "other outputs") == "output 2 of 2 not checked: forward does not return it"
    assert "not shown other outputs: output 2 of 2 not checked" in told(report)
    _, moved = with_mean(**MEAN)

    def three(ctx: Any, x: Tensor, mean: Tensor) -> Any:
        others = mean.clone(), moved.clone()
        ctx.mark_non_differentiable(*others)
        return x - x.mean(0), *others

    made = function(three, lambda ctx, g, *_: (g - g.mean(0), None))
    report = compare.check(made, with_mean, MEAN)
    assert text(report, "other outputs") == (
        "output 2 of 3, output 3 of 3 not checked: forward returns 1 such"
    )


# -- a function that asks for grad_output, and what asks nothing


def test_a_plain_function_gets_the_lines_that_apply() -> None:
    def backward(x: Tensor, w: Tensor, grad_output: Tensor, z: Tensor) -> dict[str, Tensor]:
        dz = grad_output * z.cos()
        return {"z": dz, "x": dz @ w.mT, "w": x.mT @ dz}

    def forward(x: Tensor, w: Tensor) -> Tensor:
        return compare.name(x @ w, "z").sin()

    report = compare.check(backward, forward, (drawn(3, 8)[:, ::2], W))
    assert report.ok, str(report)
    assert outcomes(report) == dict.fromkeys(COTANGENTS | {"strides"}, "kept")

    def misread(x: Tensor, grad_output: Tensor) -> tuple[Tensor]:
        return (2 * x.as_strided(x.shape, (4, 1)) * grad_output,)

    def forgetful(x: Tensor, grad_output: Tensor) -> dict[str, Tensor]:
        return {"x": 2 * x * grad_output} if grad_output.any() else {}

    report = compare.check(forgetful, square, (X,))
    assert [(line.name, line.text) for line in report.contract if line.outcome == "broken"] == [
        ("zero", "no gradient for x")
    ]

    report = compare.check(misread, square, (drawn(3, 8)[:, ::2],))
    assert [k for k, v in outcomes(report).items() if v == "broken"] == ["strides"]


def test_a_pass_for_a_cotangent_of_1_gets_no_other() -> None:
    for backward in (lambda x: {"x": 2 * x}, lambda **given: {"x": 2 * given["x"]}):
        report = compare.check(backward, lambda x: (x * x).sum(), {"x": X})
        assert (report.verdict, report.contract) == ("EXACT", ())


def test_a_wrong_pass_gets_no_contract_calls() -> None:
    report = compare.check(function(squared, lambda ctx, g: g), square, (X,))
    assert (report.verdict, report.first_wrong, report.contract) == ("WRONG", "x", ())


@pytest.mark.parametrize("writes", [doubles, overwrites, squared])
def test_the_users_tensors_do_not_change(writes: Forward) -> None:
    """Neither the inputs nor the memory between their elements change if code writes there."""
    memory = drawn(3, 8)
    before = memory.clone()
    forward = torch.exp if writes is overwrites else square

    def backward(ctx: Any, g: Tensor) -> Tensor:
        if writes is doubles:
            return 2 * g
        return times_saved(ctx, g) if writes is overwrites else scales_what_it_saved(ctx, g)

    given = (memory[:, ::2],)
    made = function(writes, backward)
    reference = (lambda x: 2 * x) if writes is doubles else (lambda x: forward(x))
    report = compare.check(made, reference, given)
    assert len(report.contract) == 6
    assert torch.equal(memory, before)


# -- how it is asked for, and told


def test_unknown_names_are_refused_at_once() -> None:
    made = function(squared, doubled)
    with pytest.raises(BadInput, match="unknown line of the contract 'twise': did you mean twice"):
        compare.check(made, square, (X,), contract={"twise": False})
    unfit: Any = {"twice": 0}
    with pytest.raises(BadInput, match=r"contract\['twice'\] is 0: give True or False"):
        compare.check(made, square, (X,), contract=unfit)
    with pytest.raises(BadInput, match="contract is False: give a dict"):
        compare.assert_same(made, square, (X,), contract=False)


def test_the_contract_is_in_every_format() -> None:
    report = compare.check(function(squared, as_dense), square, (X,), contract={"twice": False})
    found = {line["name"]: line for line in json.loads(report.to_json())["contract"]}
    assert found["zero"] == {"name": "zero", "outcome": "kept", "text": ""}
    assert found["twice"] == {"name": "twice", "outcome": "not asked", "text": ""}
    assert found["transposed"]["text"] == text(report, "transposed")
    assert json.loads(report.to_json())["first_wrong"] is None
    line = f"WRONG  the contract is broken: cotangents of stride 0: {text(report, 'stride 0')}"
    assert str(report.headline()) == f"{line} (and transposed cotangents)"
    for page in (report.markdown(), report._repr_html_()):
        assert "the contract is broken: cotangents of stride 0: x differs" in page
        assert f"transposed: {text(report, 'transposed')}" in page
        assert "kept: zero, inputs untouched" in page
    report = compare.check(function(squared, asks_for_dense), square, (X,))
    for page in (report.markdown(), report._repr_html_(), str(report.headline())):
        assert "bits; refuses cotangents of stride 0, transposed cotangents (RuntimeError" in page


# -- layouts


def test_other_layouts_have_the_same_numbers() -> None:
    x = drawn(2, 3, 4)
    assert torch.equal(transposed(x), x)
    assert transposed(x).stride() == (12, 1, 3)
    assert (stride_zero(x).shape, stride_zero(x).stride()) == (x.shape, (12, 4, 0))
    assert torch.equal(stride_zero(x), x[:, :, :1].expand(2, 3, 4))
    assert len(stride_zero(drawn(3)).unique()) == 1
    for same in (torch.tensor(1.5), torch.zeros(0, 3), drawn(1, 1)):
        assert torch.equal(stride_zero(same), same)
        assert 0 not in stride_zero(same).stride()
        assert transposed(same).is_contiguous()


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        (drawn(3, 8)[:, ::2], False),
        (drawn(3, 8)[1:, 3:], False),
        (drawn(3, 1).expand(3, 4), False),
        (drawn(4, 3).mT, True),
        (drawn(3, 4), True),
        (drawn(9)[::3], False),
        (drawn(4, 9)[:0, ::3], True),
        (drawn(2, 9)[:1, :5], True),
    ],
)
def test_a_copy_with_the_same_strides(value: Tensor, kept: bool) -> None:
    copied = copy_with_strides(value)
    assert torch.equal(copied, value)
    assert clone_keeps_layout(value) == kept
    assert not copied._is_view()
    if value.numel() > 1:
        wide = [k for k, size in enumerate(value.shape) if size > 1]
        assert [copied.stride(k) for k in wide] == [value.stride(k) for k in wide]
        assert copied.untyped_storage().size() >= 4 * value.numel()
        assert copied.untyped_storage().data_ptr() != value.untyped_storage().data_ptr()


def test_a_function_that_cannot_be_traced_keeps_its_contract_too() -> None:
    made = function(squared, lambda ctx, g: torch.tensor((2 * ctx.saved_tensors[0] * g).tolist()))
    report = compare.check(made, square, (X,))
    assert set(outcomes(report).values()) == {"kept"}


# -- layouts that torch.cat and a slice send


def twice(ctx: Any, x: Tensor) -> Tensor:
    return x * 2


def test_a_cotangent_of_stride_0_along_the_first_dimension() -> None:
    """The code looks only at the two inner strides."""

    def backward(ctx: Any, g: Tensor) -> Tensor:
        if g.stride(-1) != 1 or g.stride(-2) != g.shape[-1]:
            g = g.contiguous()
        return g.as_strided(g.shape, (g.shape[1] * g.shape[2], g.shape[2], 1)) * 2

    report = compare.check(function(twice, backward), lambda x: x * 2, (drawn(3, 4, 5),))
    assert report.verdict == "WRONG"
    assert "cotangents of stride 0: along the first dimension: x differs" in told(report)


def test_a_cotangent_cut_out_of_a_larger_tensor() -> None:
    """The code reads from the beginning of the storage."""
    made = function(twice, lambda ctx, g: g.as_strided(g.shape, g.stride(), 0) * 2)
    report = compare.check(made, lambda x: x * 2, (drawn(3, 4),))
    assert report.verdict == "WRONG"
    assert "transposed cotangents: cut out of a larger tensor: x differs" in told(report)


def test_the_inputs_own_offset() -> None:
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return 2 * x.as_strided(x.shape, x.stride(), 0) * g

    report = compare.check(function(squared, backward), square, (drawn(8, 3)[2:5],))
    assert report.verdict == "WRONG"
    assert "the inputs' own strides: x differs" in told(report)


def test_a_column_cut_out_of_a_larger_tensor() -> None:
    """A column cannot be transposed."""

    def backward(ctx: Any, g: Tensor) -> Tensor:
        if 0 in g.stride():
            g = g.contiguous()
        return g.as_strided(g.shape, (g.shape[1], 1), g.storage_offset()) * 2

    report = compare.check(function(twice, backward), lambda x: x * 2, (drawn(4, 1),))
    assert report.verdict == "WRONG", str(report)


# -- state that one call leaves to the next


@pytest.mark.parametrize("start", range(5))
def test_a_function_that_is_wrong_at_every_fifth_call(start: int) -> None:
    calls = itertools.count(start)

    def backward(ctx: Any, g: Tensor) -> Tensor:
        return doubled(ctx, g) * (1.5 if next(calls) % 5 == 0 else 1)

    assert compare.check(function(squared, backward), square, (drawn(3, 4),)).verdict == "WRONG"


def test_a_function_that_adds_to_its_previous_result() -> None:
    x = drawn(3, 4)
    total = torch.zeros_like(x)
    made = function(squared, lambda ctx, g: total.add_(doubled(ctx, g)).clone())
    assert compare.check(made, square, (x,)).verdict == "WRONG"


def test_a_gradient_of_another_dtype_in_another_layout() -> None:
    def backward(grad_output: Tensor, x: Tensor) -> dict[str, Tensor]:
        found = 2 * x * grad_output
        return {"x": found if grad_output.is_contiguous() else found.double()}

    report = compare.check(backward, square, {"x": drawn(3, 4).float()})
    assert report.verdict == "WRONG", str(report)
    assert "dtype" in str(report)


def test_a_fault_in_a_line_of_this_program_is_not_a_refusal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nor is it a reason to skip the check at other inputs."""
    for where in (
        "compare.contract.calls.Graph.differentiable_outputs",
        "compare.passes.passes.Passes.retraced_at",
    ):
        with monkeypatch.context() as patch:
            patch.setattr(where, None)  # calling it is a fault in a line of this package
            with pytest.raises(TypeError):
                compare.check(function(squared, doubled), square, (X,))


def test_the_same_error_of_the_users_code_is_a_refusal() -> None:
    def backward(ctx: Any, g: Tensor) -> Tensor:
        if not g.is_contiguous():
            raise KeyError("no such layout")
        return doubled(ctx, g)

    report = compare.check(function(squared, backward), square, (X,))
    assert report.verdict == "EXACT"
    assert outcomes(report)["transposed"] == "refused"


def test_memory_of_the_cotangent_that_is_read_by_strides() -> None:
    """The recorded operations read the same wrong numbers from a transposed cotangent."""

    class ByStrides(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.save_for_backward(x)
            return x**3

        @staticmethod
        def backward(ctx: Any, g: Tensor) -> Tensor:
            (x,) = ctx.saved_tensors
            return 3 * x * x * torch.as_strided(g, g.shape, (g.shape[1], 1))

    report = compare.check(ByStrides, lambda x: x**3, (torch.linspace(-1, 2, 12).view(3, 4),))
    assert report.verdict == "WRONG", str(report)
    assert {line.name: line.outcome for line in report.contract}["transposed"] == "broken"
