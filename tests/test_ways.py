"""What does not read the wrong gradient above it is compared with autograd's own value."""

import pytest
import torch
from torch import Tensor

import compare
from compare.report import Report

Named = dict[str, Tensor]
X = torch.tensor([[0.3, -1.2, 0.7], [1.1, 0.4, -0.2], [-0.8, 0.9, 1.3], [0.2, -0.5, 0.6]])
W = torch.tensor([[0.5, -0.4], [0.8, 0.3], [-0.6, 0.9]], requires_grad=True)


def _net(x: Tensor, w: Tensor) -> Tensor:
    return torch.tanh(compare.name(x @ w, "z")).sum()


def _verdicts(report: Report) -> dict[str, str]:
    for q in report.quantities.values():  # no row contradicts itself
        assert q.verdict == "WRONG" or q.max_ulp < 100, str(report)
    return {name: q.verdict for name, q in report.quantities.items()}


def _check(backward: object) -> Report:
    return compare.check(backward, _net, {"x": X, "w": W})  # type: ignore[arg-type]


def test_a_value_that_does_not_read_the_wrong_one_is_autograds_own() -> None:
    def square(x: Tensor) -> Tensor:
        return compare.name(x * x, "z").sum()

    def by_hand(x: Tensor) -> Named:
        return {"z": 2 * torch.ones_like(x), "x": 2 * x}

    report = compare.check(by_hand, square, {"x": torch.tensor([1.54, -0.3, 2.0])})
    assert _verdicts(report) == {"z": "WRONG", "x": "EXACT"}
    x = report.quantities["x"]
    assert x.max_ulp == 0
    assert x.equal == 3


@pytest.mark.parametrize("times", [1, 1.5])
def test_one_that_is_wrong_by_itself_is_red_too(times: float) -> None:
    def by_hand(x: Tensor, z: Tensor) -> Named:
        t = torch.tanh(z)
        return {"z": 3 * (1 - t * t), "w": times * (x.mT @ (1 - t * t))}

    wanted = "WRONG" if times != 1 else ("EXACT", "ROUNDING")
    found = _verdicts(_check(by_hand))
    assert found["z"] == "WRONG"
    assert found["w"] in wanted


@pytest.mark.parametrize(
    "again",
    [
        lambda dz: dz,
        lambda dz: dz * 1,
        lambda dz: dz + 0,
        lambda dz: 2 * dz / 2,
        lambda dz: dz.mT.contiguous().mT,
        lambda dz: dz.reshape(-1).reshape(dz.shape) - 0,
    ],
)
def test_a_wrong_value_that_is_worked_out_twice_is_one_red_line(again: object) -> None:
    """Its bits are compared with autograd going on from it, and so is its formula."""

    def by_hand(x: Tensor, z: Tensor) -> Named:
        return {"z": again(1 - torch.tanh(z)), "w": x.mT @ (1 - torch.tanh(z))}  # type: ignore[operator]

    found = _verdicts(_check(by_hand))
    assert found["z"] == "WRONG"
    assert found["w"] in ("EXACT", "ROUNDING")


def test_what_is_read_from_the_wrong_one_follows_it() -> None:
    def by_hand(x: Tensor, z: Tensor) -> Named:
        dz = 1 - torch.tanh(z)
        return {"z": dz, "w": x.mT @ dz}

    report = _check(by_hand)
    assert _verdicts(report)["w"] in ("EXACT", "ROUNDING")
    assert report.follows["z"] == ["w"]


def test_each_goes_on_from_what_it_reads_and_from_no_more() -> None:
    """Only b is wrong, which nothing reads; a takes its own way from c."""

    def forward(x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        a = compare.name(x * u, "a")
        b = compare.name(torch.tanh(a), "b")
        return torch.sin(compare.name(b * v + a, "c"))

    def by_hand(
        grad_output: Tensor, x: Tensor, u: Tensor, v: Tensor, a: Tensor, b: Tensor, c: Tensor
    ) -> Named:
        dc = grad_output * torch.cos(c)
        db = 2 * dc * v
        da = dc * v * (1 - b * b) + dc
        return {"c": dc, "b": db, "a": da, "x": da * u, "u": da * x, "v": dc * b}

    given = {k: torch.tensor([0.4, -0.9, 1.3]) * f for k, f in (("x", 1), ("u", -2), ("v", 3))}
    found = _verdicts(compare.check(by_hand, forward, given))
    assert found.pop("b") == "WRONG"
    assert set(found.values()) <= {"EXACT", "ROUNDING"}


def test_gradients_of_one_value_under_two_names_lie_above_each_other() -> None:
    def forward(x: Tensor) -> Tensor:
        z = compare.name(x + 1.0, "z")
        return compare.name(z + 0.0, "y") ** 2

    def by_hand(grad_output: Tensor, y: Tensor) -> Named:
        return {"y": 3 * y * grad_output, "z": 2 * y * grad_output, "x": 2 * y * grad_output}

    found = _verdicts(compare.check(by_hand, forward, {"x": X[0]}))
    assert found["y"] == "WRONG"
    assert found["z"] in ("EXACT", "ROUNDING")
    assert found["x"] in ("EXACT", "ROUNDING")
