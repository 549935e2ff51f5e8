"""The check at other inputs, and its remarks in the report: one test for each rule."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import compare
from compare.checking.second_inputs import SecondInputs
from compare.proof.verdict import EXACT, ROUNDING, WRONG
from compare.report.report import Report
from tests.opaque import unseen

PASSES = (EXACT, ROUNDING)


def drawn(*shape: int, seed: int = 3, dtype: torch.dtype = torch.float64) -> Tensor:
    chance = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=chance, dtype=torch.float64).to(dtype)


def beside(report: Report) -> str:
    assert report.beside is not None
    return report.beside.text


def told(report: Report) -> str:
    proof = report.quantities["x"].proof
    assert proof is not None
    return proof.text


def scaled(x: Tensor, w: Tensor) -> Tensor:
    return x * x * w


def without(grad_output: Tensor, x: Tensor) -> dict[str, Tensor]:
    return {"x": 2 * x * grad_output}


# -- two draws


def test_wrong_in_one_of_two_draws_is_reported_but_not_wrong(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = []
    at = SecondInputs._judged_at

    def once(self: SecondInputs, draw: Any, right: Any) -> Any:
        seen.append(draw.number)
        found = at(self, draw, right)
        if draw.number:
            found = {name: replace(proof, verdict=EXACT) for name, proof in found.items()}
        return found

    monkeypatch.setattr(SecondInputs, "_judged_at", once)
    given = {"x": drawn(4, 3).requires_grad_(), "w": torch.ones(3, dtype=torch.float64)}
    report = compare.check(without, scaled, given)
    assert seen[:2] == [0, 1]
    assert report.verdict in PASSES
    assert beside(report) == (
        "x: different formula at one of two draws of other inputs (right where w is 0 or 1)"
    )


def test_one_class_is_a_class_and_a_number() -> None:
    """Labels of one class pass for code that compares them; a forgotten weight of 1 is WRONG."""

    def by_class(grad_output: Tensor, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        s = torch.sigmoid(x)
        return {"x": grad_output * torch.where(y == 1, s - 1, s)}

    def loss(x: Tensor, y: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(x, y, reduction="none")

    for label in (0.0, 1.0):
        y = torch.full((4, 2), label, dtype=torch.float64)
        report = compare.check(by_class, loss, {"x": drawn(4, 2).requires_grad_(), "y": y})
        assert report.verdict in PASSES, str(report)
    given = {"x": drawn(4, 3).requires_grad_(), "w": torch.ones(3, dtype=torch.float64)}
    assert compare.check(without, scaled, given).verdict == WRONG


def test_a_third_draw_is_tried_if_the_second_cannot_be_used() -> None:
    """A weight of 1 that becomes the class 0 leads to a division by 0."""

    def forward(x: Tensor, w: Tensor) -> Tensor:
        return x * x / w

    given = {"x": drawn(4, 3).requires_grad_(), "w": torch.ones(3, dtype=torch.float64)}
    report = compare.check(without, forward, given)
    assert report.verdict == WRONG
    assert "right only at the given inputs" in told(report)


# -- inputs that the report names


def test_the_input_that_it_depends_on_is_named() -> None:
    given = {"x": drawn(4, 3).requires_grad_(), "w": torch.ones(3, dtype=torch.float64)}
    report = compare.check(without, scaled, given)
    assert (
        "right only at the given inputs or at others with the same w (if w depends on x, "
        in told(report)
    )
    assert "pass hold=('w',)" in told(report)


def test_all_inputs_are_named_if_no_single_one_is_the_cause() -> None:
    twos = torch.full((4,), 2.0, dtype=torch.float64)

    def backward(grad_output: Tensor, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        return {"x": grad_output / x, "y": -grad_output / y}

    report = compare.check(backward, lambda x, y: x / y, {"x": twos, "y": twos.clone()})
    assert report.verdict == WRONG
    assert "right only at the given inputs, not with other values of x and y (" in told(report)


def test_a_parameter_that_it_depends_on_is_named() -> None:
    """A number that item() reads from it stays what it was."""
    layer = nn.PReLU(dtype=torch.float64)

    def backward(grad_output: Tensor, input: Tensor) -> dict[str, Tensor]:
        return {"input": torch.where(input > 0, grad_output, grad_output * layer.weight.item())}

    report = compare.check(backward, layer, (drawn(4, 5),))
    assert report.verdict == WRONG
    assert "or at others with the same weight (" in str(report)
    assert compare.check(backward, layer, (drawn(4, 5),), hold=("weight",)).verdict in PASSES


def test_an_input_without_another_value_of_its_kind_is_named() -> None:
    given = {"x": drawn(3, 3).requires_grad_(), "w": torch.eye(3, dtype=torch.float64)}
    report = compare.check(lambda grad_output: {"x": grad_output}, lambda x, w: x @ w, given)
    assert report.verdict in PASSES
    assert beside(report) == "w: kept fixed, because no other value of its kind is known"
    assert "and at other inputs" not in str(report.headline())
    held = compare.check(
        lambda grad_output: {"x": grad_output}, lambda x, w: x @ w, given, hold=("w",)
    )
    assert beside(held) == ""


# -- other inputs that cannot be used


def test_nothing_to_change() -> None:
    x = torch.eye(3, dtype=torch.float64)
    report = compare.check(lambda grad_output, x: {"x": 2 * x * grad_output}, lambda x: x * x, (x,))
    assert report.beside is not None
    assert not report.beside.tried
    assert beside(report) == "not checked at other inputs: every input is held, or of whole numbers"


def only_near(given: Tensor, far: float) -> Callable[[Tensor], Tensor]:
    def forward(x: Tensor) -> Tensor:
        if (x.detach() - given).abs().max() > far:
            raise ValueError(f"further than {far}")
        return x**3

    return forward


def test_the_largest_usable_change_is_taken() -> None:
    x = drawn(6, 5)

    def backward(grad_output: Tensor, x: Tensor) -> dict[str, Tensor]:
        return {"x": 3 * x * x * grad_output}

    near = compare.check(backward, only_near(x, 0.02), (x,))
    assert near.beside is not None
    assert near.beside.tried
    never = compare.check(backward, only_near(x, 1e-5), (x,))
    assert beside(never) == "not checked at other inputs: ValueError: further than 1e-05"
    assert never.verdict in PASSES


def test_the_first_reason_is_reported() -> None:
    """It is that of the largest change."""
    x = drawn(6, 5)

    def forward(x: Tensor) -> Tensor:
        far = (x.detach() - given).abs().max()
        if far > 0.1:
            raise ValueError("far")
        if far > 1e-4:
            raise ValueError("near")
        return x**3

    given = x.clone()
    report = compare.check(lambda grad_output, x: {"x": 3 * x * x * grad_output}, forward, (x,))
    assert beside(report) == "not checked at other inputs: ValueError: far"


def test_parameters_are_changed_if_all_inputs_are_held() -> None:
    a = nn.Parameter(torch.ones(4, dtype=torch.float64))
    report = compare.check(
        lambda grad_output: {"x": grad_output}, lambda x: x * a, (drawn(3, 4),), hold=("x",)
    )
    assert report.verdict == WRONG
    assert "not with other values of a (" in told(report)


def test_whole_numbers_are_kept_if_changing_them_gives_nan() -> None:
    """A negative number to a fractional power is NaN."""

    def backward(grad_output: Tensor, x: Tensor, n: Tensor) -> dict[str, Tensor]:
        return {"x": n * x ** (n - 1) * grad_output}

    given = {"x": drawn(4, 3).requires_grad_(), "n": torch.tensor(3.0, dtype=torch.float64)}
    report = compare.check(backward, lambda x, n: x**n, given)
    assert report.beside is not None
    assert report.beside.tried, str(report)


def test_other_inputs_with_a_new_infinity_are_not_used() -> None:
    x = drawn(4, 3)

    def forward(x: Tensor, y: Tensor) -> Tensor:
        return x * x + torch.where((y - x.detach()).abs() > 0, torch.inf, 0.0)

    report = compare.check(without, forward, {"x": x.requires_grad_(), "y": x.detach().clone()})
    assert beside(report) == "not checked at other inputs: output is not finite there"


def test_a_quantity_that_is_undecided_there_is_reported() -> None:
    """The by-hand side uses a custom kernel there, and torch at the given inputs."""
    x = drawn(4, 3)

    def backward(grad_output: Tensor, x: Tensor) -> dict[str, Tensor]:
        if bool((x == given).all()):
            return {"x": 2 * x * grad_output}
        return {"x": 6 * unseen(x) * unseen(grad_output) / 3}

    given = x.clone()
    report = compare.check(backward, lambda x: x * x, (x,))
    assert beside(report).startswith("x: undecided at other inputs: "), str(report)


# -- inputs that the by-hand side reads and forward does not


def _softmax_of(p: Tensor, grad_output: Tensor) -> dict[str, Tensor]:
    return {"x": p * (grad_output - (grad_output * p).sum(-1, keepdim=True))}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_a_statistic_that_forward_computes_follows_x(dtype: torch.dtype) -> None:
    x = drawn(4, 5, dtype=dtype)
    given = {"x": x.clone().requires_grad_(), "p": torch.softmax(x, -1)}
    report = compare.check(_softmax_of, lambda x, p: torch.softmax(x, -1), given)
    assert report.verdict in PASSES, str(report)
    assert "not checked" not in beside(report)


def test_flat_statistics_and_one_with_another_eps() -> None:
    """The statistics have no dimension of size 1, as kernels save them."""

    def forward(x: Tensor, mean: Tensor, rstd: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:])

    def backward(grad_output: Tensor, x: Tensor, mean: Tensor, rstd: Tensor) -> dict[str, Tensor]:
        out = (x - mean[:, None]) * rstd[:, None]
        g = grad_output
        slope = g - g.mean(-1, keepdim=True) - out * (g * out).mean(-1, keepdim=True)
        return {"x": slope * rstd[:, None]}

    x = drawn(4, 256, dtype=torch.float32)
    for eps, verdicts in ((1e-5, PASSES), (1e-6, (WRONG,)), (2e-5, (WRONG,))):
        given = {
            "x": x.clone().requires_grad_(),
            "mean": x.mean(-1),
            "rstd": (x.var(-1, unbiased=False) + eps).rsqrt(),
        }
        report = compare.check(backward, forward, given)
        assert report.verdict in verdicts, f"{eps}\n{report}"


def test_one_that_is_held_or_that_forward_does_not_compute_is_named() -> None:
    x = drawn(4, 5)

    def backward(grad_output: Tensor, x: Tensor, s: Tensor) -> dict[str, Tensor]:
        return {"x": 2 * x * grad_output * s / s}

    given = {"x": x.requires_grad_(), "s": drawn(4, 5, seed=9)}
    report = compare.check(backward, lambda x, s: x * x, given)
    assert report.verdict in PASSES
    assert beside(report).startswith(
        "x: not checked at other inputs: s, which only the by-hand side reads, may depend"
    )
    p = torch.softmax(x.detach(), -1)
    held = compare.check(
        _softmax_of, lambda x, p: torch.softmax(x, -1), {"x": x, "p": p}, hold=("p",)
    )
    assert held.verdict in PASSES, str(held)
    assert "not checked" in beside(held)


@pytest.mark.parametrize("kind", ["mask", "order"])
def test_whole_numbers_and_masks_may_depend_on_inputs_too(kind: str) -> None:
    x = drawn(6, 4)
    if kind == "mask":
        forward: Callable[..., Tensor] = lambda x, m: torch.relu(x)  # noqa: E731
        backward: Callable[..., Any] = lambda grad_output, m: {"x": grad_output * m}  # noqa: E731
        m = x > 0
    else:
        forward = lambda x, m: x.sort(-1).values  # noqa: E731
        backward = lambda grad_output, x, m: {  # noqa: E731
            "x": torch.zeros_like(x).scatter(-1, m, grad_output)
        }
        m = x.argsort(-1)
    report = compare.check(backward, forward, {"x": x.requires_grad_(), "m": m})
    assert report.verdict in PASSES, str(report)


def test_an_input_with_the_same_numbers_is_not_taken_as_derived() -> None:
    twos = torch.full((4,), 2.0)
    report = compare.check(
        lambda grad_output, a: {"x": grad_output * a},
        lambda x, a, b: x * b,
        {"x": drawn(3, 4).float().requires_grad_(), "a": twos, "b": twos.clone()},
    )
    assert "a, which only the by-hand side reads, may depend on" in beside(report)


# -- inputs that the by-hand side reads from a closure


def test_an_input_in_a_closure_is_kept_fixed() -> None:
    X = drawn(4, 3)
    report = compare.check(
        lambda grad_output: {"w": X.mT @ grad_output},
        lambda X, w: X @ w,
        {"X": X, "w": drawn(3, 2).requires_grad_()},
    )
    assert report.verdict in PASSES
    assert beside(report) == (
        "X: kept fixed, because the by-hand side reads it from outside its arguments"
    )
    copied = X.clone()
    report = compare.check(
        lambda grad_output: {"w": copied.mT @ grad_output},
        lambda X, w: X @ w,
        {"X": X, "w": drawn(3, 2).requires_grad_()},
    )
    assert report.verdict == WRONG


def test_code_that_cannot_be_traced_raises_no_alarm() -> None:
    x = drawn(4, 3)

    def backward(grad_output: Tensor, s: Tensor) -> dict[str, Tensor]:
        return {"x": 2 * unseen(s) * unseen(grad_output)}

    given = {"x": x.requires_grad_(), "s": x.detach() * 1.0 + 0.0}
    report = compare.check(backward, lambda x, s: x * x, given)
    assert report.verdict != WRONG, str(report)


# -- parameters that are alike


def test_two_fresh_parameters_are_two() -> None:
    a, b = (nn.Parameter(torch.ones(4, dtype=torch.float64)) for _ in range(2))

    def backward(which: Tensor) -> Callable[..., dict[str, Tensor]]:
        def by_hand(grad_output: Tensor, x: Tensor) -> dict[str, Tensor]:
            return {"x": grad_output * which * a * (1 - torch.tanh(x * a) ** 2)}

        return by_hand

    def forward(x: Tensor) -> Tensor:
        return torch.tanh(x * a) * b

    assert compare.check(backward(b), forward, (drawn(3, 4),)).verdict in PASSES
    assert compare.check(backward(a), forward, (drawn(3, 4),)).verdict == WRONG


def test_a_tensor_of_ones_is_not_taken_for_a_fresh_parameter() -> None:
    a, one = nn.Parameter(torch.ones(4, dtype=torch.float64)), torch.ones(4, dtype=torch.float64)
    report = compare.check(
        lambda grad_output, x: {"x": grad_output * (one - torch.tanh(x) ** 2) * a},
        lambda x: torch.tanh(x) * a,
        (drawn(3, 4),),
    )
    assert report.verdict in PASSES, str(report)
    assert "a: kept fixed, because no other value of its kind is known" in beside(report)


def test_a_table_that_forward_has_too_hides_no_parameter() -> None:
    a, table = nn.Parameter(torch.ones(4, dtype=torch.float64)), drawn(4, 4)

    def backward(*, right: bool) -> Callable[..., dict[str, Tensor]]:
        return lambda grad_output: {"x": (grad_output @ table.mT) * (a if right else 1)}

    for right in (True, False):
        report = compare.check(backward(right=right), lambda x: (x * a) @ table, (drawn(3, 4),))
        assert (report.verdict in PASSES) == right, str(report)


def test_named_values_come_from_the_changed_parameters() -> None:
    w = nn.Parameter(drawn(4, 4))

    def forward(x: Tensor) -> Tensor:
        h = compare.name(torch.tanh(x @ w), "h")
        return h * h

    def backward(grad_output: Tensor, h: Tensor) -> dict[str, Tensor]:
        dh = 2 * h * grad_output
        return {"h": dh, "x": (dh * (1 - h * h)) @ w.mT}

    report = compare.check(backward, forward, (drawn(3, 4),))
    assert report.verdict in PASSES, str(report)
    assert report.beside is not None
    assert report.beside.tried


# -- readings of inputs


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16], ids=str)
def test_soft_labels_on_both_sides(dtype: torch.dtype) -> None:
    y = torch.softmax(drawn(4, 5, seed=8), -1).to(dtype)
    for x_of, right in ((1.0, True), (1 + 1e-3, False)):

        def backward(x: Tensor, y: Tensor, times: float = x_of) -> dict[str, Tensor]:
            return {"x": torch.softmax(x, -1) - times * y}

        report = compare.check(
            backward,
            lambda x, y: -(y * torch.log_softmax(x, -1)).sum(),
            {"x": drawn(4, 5, dtype=dtype).requires_grad_(), "y": y},
        )
        assert (report.verdict in PASSES) == right, str(report)


def test_three_percent_off_is_no_share_in_bfloat16() -> None:
    p = torch.tensor([[0.5, 0.25, 0.26], [0.3, 0.3, 0.41]], dtype=torch.bfloat16)
    report = compare.check(
        lambda grad_output, p: {"v": grad_output[..., None] * p},
        lambda p, v: ((p / p.sum(-1, keepdim=True)) * v).sum(-1),
        {"p": p, "v": drawn(2, 3, dtype=torch.bfloat16).requires_grad_()},
    )
    assert report.verdict == WRONG


def test_one_hot_targets_along_another_dimension() -> None:
    classes = torch.randint(3, (2, 4, 4), generator=torch.Generator().manual_seed(1))
    y = F.one_hot(classes, 3).permute(0, 3, 1, 2).double()
    for smooth in (0.0, 0.1):
        targets = y * (1 - smooth) + smooth / 3
        report = compare.check(
            lambda grad_output, x, y: {"x": grad_output * (torch.softmax(x, 1) - y) / 32},
            lambda x, y: F.cross_entropy(x, y),
            {"x": drawn(2, 3, 4, 4).requires_grad_(), "y": targets},
        )
        assert report.verdict in PASSES, str(report)


def test_columns_of_classes_beside_numbers_move_row_by_row() -> None:
    targets = torch.stack([drawn(6, seed=5), torch.tensor([0.0, 1, 1, 0, 1, 0])], 1).double()
    report = compare.check(
        lambda grad_output, x, t: {
            "x": grad_output * torch.where(t[:, 1] == 1, 2 * (x - t[:, 0]), 0.0)
        },
        lambda x, t: t[:, 1] * (x - t[:, 0]) ** 2,
        {"x": drawn(6).requires_grad_(), "t": targets},
    )
    assert report.verdict in PASSES, str(report)


def test_an_even_grid_stays_even() -> None:
    t = torch.arange(9.0, dtype=torch.float64) / 8
    ends = torch.tensor([0.5, *[1.0] * 7, 0.5], dtype=torch.float64)
    report = compare.check(
        lambda grad_output, t: {"y": grad_output * (t[1] - t[0]) * ends},
        lambda y, t: torch.trapz(y, t),
        {"y": drawn(9).requires_grad_(), "t": t},
    )
    assert report.verdict in PASSES, str(report)


def test_float8_is_kept() -> None:
    given = {"x": drawn(3).requires_grad_(), "w": drawn(3).to(torch.float8_e4m3fn)}
    report = compare.check(without, lambda x, w: x * x, given)
    assert report.verdict in PASSES


@pytest.mark.parametrize("loss", [F.mse_loss, F.huber_loss, F.smooth_l1_loss])
def test_losses_in_float16(loss: Callable[..., Tensor]) -> None:
    """Their kernels round to subnormal float16 values that their decompositions hold in float32."""
    x, y = (drawn(5, 40, seed=seed, dtype=torch.float16) / 512 for seed in (3, 4))

    def backward(grad_output: Tensor, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        slope = 2 * (x - y) if loss is F.mse_loss else x - y
        return {"x": grad_output * slope / x.numel()}

    report = compare.check(backward, lambda x, y: loss(x, y), {"x": x.requires_grad_(), "y": y})
    assert report.verdict in PASSES, str(report)
