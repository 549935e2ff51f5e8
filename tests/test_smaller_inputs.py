"""Large passes whose formulas are compared at smaller inputs have the same verdicts."""

from collections.abc import Callable
from functools import wraps
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import compare
from compare.bench import large_passes
from compare.checking.smaller_inputs import at_smaller_inputs
from compare.passes.passes import Passes
from compare.proof.program import Program
from compare.proof.same_operations import same_operations
from compare.proof.trace import trace
from compare.report.report import Report

Named = dict[str, Tensor]


@pytest.fixture(autouse=True)
def _everything_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("compare.checking.smaller_inputs.LARGE", 0)
    monkeypatch.setattr("compare.checking.smaller_inputs.ROWS", (3,))


PASSES = {
    "layer norm": large_passes.layer_norm(8, 6),
    "mlp": large_passes.mlp(8, 5, 7),
    "attention": large_passes.attention(2, 8, 5),
    "convolution": large_passes.convolution(4, 2, 6, 3),
    "embedding": large_passes.embedding(9, 11, 5),
    "block": large_passes.block(8, 6, 2),
}


def _times(function: Callable[..., Named], name: str, factor: Any) -> Callable[..., Named]:
    """Return a backward pass with one of its gradients multiplied."""

    @wraps(function)
    def changed(**given: Tensor) -> Named:
        gradients = function(**given)
        return {**gradients, name: gradients[name] * factor}

    return changed


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", PASSES)
def test_a_right_pass_is_right_and_a_factor_is_seen(name: str, dtype: torch.dtype) -> None:
    made = PASSES[name]
    drawn = made.inputs(torch.Generator().manual_seed(0))
    inputs = {
        k: v.detach().to(dtype).requires_grad_() if v.is_floating_point() else v
        for k, v in drawn.items()
    }
    report = compare.check(made.backward, made.forward, inputs)
    assert report.ok, str(report)
    assert report.smaller, str(report)
    assert report.to_dict()["smaller_inputs"] == report.smaller
    assert "smaller inputs" in str(report)
    last = list(report.quantities)[-1]
    wrong = compare.check(_times(made.backward, last, 1.00001), made.forward, inputs)
    assert wrong.first_wrong == last, str(wrong)


# -- code that takes other steps at smaller inputs is compared at the given ones


def _squares(backward: Callable[..., Any], rows: int = 8) -> Report:
    x = torch.randn(rows, 6, generator=torch.Generator().manual_seed(1))
    return compare.check(backward, lambda x: (x * x).mean(), {"x": x})


def _branch(x: Tensor) -> Tensor:
    return 2 * x / x.numel() * (1.0 if len(x) < 5 else 1.00001 * torch.ones(()))


def _factor_by_size(x: Tensor) -> Tensor:
    return 2 * x / x.numel() * (1.0 if len(x) < 5 else 1.00001)


def _row_of_a_table(x: Tensor) -> Tensor:
    table = torch.ones(8, 1)
    table[7] = 1.00001
    return 2 * x / x.numel() * table[: len(x)]


def _last_of_eight(x: Tensor) -> Tensor:
    gradient = 2 * x / x.numel()
    gradient[7] *= 1.00001
    return gradient


def _for_eight_rows(x: Tensor) -> Tensor:
    return 2 * x / 48


@pytest.mark.parametrize("backward", [_branch, _factor_by_size, _row_of_a_table, _last_of_eight])
def test_a_fault_of_the_given_size_is_seen(backward: Callable[..., Any]) -> None:
    report = _squares(lambda x: {"x": backward(x)})
    assert (report.verdict, report.smaller) == ("WRONG", ""), str(report)


def test_a_size_that_is_written_down_is_no_fault() -> None:
    report = _squares(lambda x: {"x": _for_eight_rows(x)})
    assert report.ok, str(report)
    assert report.smaller == ""


def test_a_mean_follows_the_size() -> None:
    report = _squares(lambda x: {"x": 2 * x / x.numel()})
    assert report.ok, str(report)
    assert report.smaller == "x (3, 3) of (8, 6)"


def test_a_variance_follows_the_size() -> None:
    def backward(x: Tensor) -> Named:
        centred = x - x.mean(0)
        return {"x": centred / (x.std(0) * (len(x) - 1))}

    x = torch.randn(8, 6, generator=torch.Generator().manual_seed(2))
    report = compare.check(backward, lambda x: x.std(0).sum(), {"x": x})
    assert report.ok, str(report)
    assert report.smaller


def test_a_wrong_row_is_out_of_its_bound() -> None:
    """The rows beyond those whose formula was compared have their bits and bounds judged."""
    signs = torch.ones(8, 1)

    def backward(x: Tensor) -> Named:
        return {"x": 2 * x / x.numel() * signs[-len(x) :]}

    assert _squares(backward).ok
    signs[7] = -1
    report = _squares(backward)
    assert report.verdict == "WRONG", str(report)


def test_what_the_few_rows_lose_is_asked_at_the_given_inputs() -> None:
    """A gradient that is right only where a weight is 1."""

    def backward(x: Tensor, w: Tensor) -> Named:
        return {"x": 2 * x, "w": (x * x).sum()}

    x = torch.randn(8, 6, generator=torch.Generator().manual_seed(3))
    report = compare.check(backward, lambda x, w: w * (x * x).sum(), {"x": x, "w": torch.ones(())})
    assert report.quantities["x"].verdict == "WRONG", str(report)


def test_an_index_is_made_smaller_with_its_table() -> None:
    """Whole numbers below the size of a table are indices into it."""
    rng = torch.Generator().manual_seed(4)
    w, at = torch.randn(50, 4, generator=rng), torch.randint(50, (5,), generator=rng)

    def backward(w: Tensor, at: Tensor, grad_output: Tensor) -> Named:
        return {"w": torch.zeros_like(w).index_add(0, at, grad_output)}

    report = compare.check(backward, lambda w, at: F.embedding(at, w), {"w": w, "at": at})
    assert report.ok, str(report)
    assert report.smaller.startswith("w (3, 3) of (50, 4)")


def test_digits_that_are_lost_there_are_lost_here() -> None:
    def backward(x: Tensor) -> Named:
        return {"x": (2 * x / x.numel()).half().double()}

    x = torch.randn(8, 6, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    report = compare.check(backward, lambda x: (x * x).mean(), {"x": x})
    assert report.verdict == "INACCURATE", str(report)


def test_the_derivative_is_not_asked_and_no_pass_where_it_is_the_reference() -> None:
    x = torch.randn(8, 6, generator=torch.Generator().manual_seed(8))
    report = compare.check(
        lambda x: {"x": 2 * x / x.numel()}, lambda x: (x * x).mean(), {"x": x},
        reference="derivative",
    )  # fmt: skip
    assert report.smaller
    assert report.verdict == "UNDECIDED", str(report)


# -- beyond the number of elements that are computed exactly


@pytest.fixture
def _in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("compare.passes.inputs.TOO_MANY", 40)
    monkeypatch.setattr("compare.checking.row_blocks.IN_A_BLOCK", 25)
    monkeypatch.setattr("compare.checking.smaller_inputs.LARGE", 10_000)


@pytest.mark.usefixtures("_in_blocks")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_blocks_of_rows_bound_the_whole(dtype: torch.dtype) -> None:
    """The last block has fewer rows."""
    made = PASSES["layer norm"]
    drawn = made.inputs(torch.Generator().manual_seed(0))
    inputs = {k: v.detach().to(dtype).requires_grad_() for k, v in drawn.items()}
    report = compare.check(made.backward, made.forward, inputs)
    assert report.ok, str(report)
    assert report.smaller.endswith("3 blocks of 3 rows")
    for name in "xwb":
        wrong = compare.check(_times(made.backward, name, 1.001), made.forward, inputs)
        assert wrong.first_wrong == name, str(wrong)


@pytest.mark.usefixtures("_in_blocks")
def test_a_sum_that_is_wrong_as_a_whole_alone() -> None:
    made = PASSES["layer norm"]

    @wraps(made.backward)
    def backward(**given: Tensor) -> Named:
        gradients = made.backward(**given)
        factor = 1.01 if len(given["x"]) == 8 else 1.0
        return {**gradients, "w": gradients["w"] * factor}

    report = compare.check(backward, made.forward, made.inputs(torch.Generator().manual_seed(0)))
    assert report.first_wrong == "w", str(report)


def _of_mean_loss(x: Tensor, y: Tensor, grad_output: Tensor) -> Named:
    return {"x": grad_output * (torch.softmax(x, 1) - F.one_hot(y, x.shape[1])) / len(x)}


@pytest.mark.usefixtures("_in_blocks")
def test_blocks_of_a_mean_have_their_share_of_the_cotangent() -> None:
    rng = torch.Generator().manual_seed(5)
    inputs = {"x": torch.randn(9, 6, generator=rng), "y": torch.randint(6, (9,), generator=rng)}
    report = compare.check(_of_mean_loss, lambda x, y: F.cross_entropy(x, y), inputs)
    assert report.ok, str(report)
    assert "blocks of" in report.smaller

    def one_wrong_row(x: Tensor, y: Tensor, grad_output: Tensor) -> Named:
        gradient = _of_mean_loss(x, y, grad_output)["x"]
        return {"x": torch.cat([gradient[:-1], -gradient[-1:]])} if len(x) == 9 else {"x": gradient}

    wrong = compare.check(one_wrong_row, lambda x, y: F.cross_entropy(x, y), inputs)
    assert wrong.verdict == "WRONG", str(wrong)


@pytest.mark.usefixtures("_in_blocks")
def test_rows_that_depend_on_one_another_are_judged_by_numbers() -> None:
    x = torch.randn(9, 6, generator=torch.Generator().manual_seed(6))

    def backward(x: Tensor, grad_output: Tensor) -> Named:
        p = torch.softmax(x, 0)
        return {"x": p * (grad_output - (grad_output * p).sum(0))}

    report = compare.check(backward, lambda x: torch.softmax(x, 0), {"x": x})
    assert report.smaller == ""
    assert report.quantities["x"].verdict == "WITHIN", str(report)


# -- same operations


def _program(function: Callable[..., Tensor], rows: int) -> Program:
    return trace(lambda x: {"y": function(x)}, {"x": torch.linspace(1, 2, rows * 4).view(rows, 4)})


@pytest.mark.parametrize(
    ("function", "same"),
    [
        (lambda x: x.mean(0), True),
        (lambda x: x.var(0), True),
        (lambda x: x / len(x) ** 0.5, True),
        (lambda x: x[-1], True),
        (lambda x: x[len(x) - 1], True),
        (lambda x: x * torch.arange(len(x) * 4).view(-1, 4), True),
        (lambda x: x.masked_fill(torch.eye(len(x), 4) > 0, 0), True),
        (lambda x: x * torch.tensor([1.0 + (k > 6) for k in range(len(x))]).view(-1, 1), False),
        (lambda x: x * torch.tensor([float(len(x) - k) for k in range(len(x))])[:, None], False),
        (lambda x: x * (2.0 if len(x) > 4 else 3.0), False),
        (lambda x: x[len(x) - 2], False),
        (lambda x: x * 2 if len(x) > 4 else x, False),
        (lambda x: x.sum(0 if len(x) > 4 else 1, keepdim=True).expand(len(x), 4), False),
    ],
)
def test_same_operations(function: Callable[..., Tensor], same: bool) -> None:
    assert same_operations(_program(function, 8), _program(function, 3)) is same


def test_small_inputs_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("compare.checking.smaller_inputs.LARGE", 10_000)
    passes = Passes(lambda x: {"x": 2 * x}, lambda x: (x * x).sum(), {"x": torch.ones(8, 6)})
    _, pair = passes.with_autograd(passes.manual, passes.manual_program)
    assert at_smaller_inputs(passes, pair) is None
