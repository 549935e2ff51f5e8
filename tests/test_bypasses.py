"""A quantity that does not use a wrong gradient is compared with autograd's own value.

By hand it may bypass a gradient that lies on autograd's path to it.
"""

import pytest
import torch
from torch import Tensor

import compare
from compare.report.report import Report

Named = dict[str, Tensor]
X = torch.tensor([[0.3, -1.2, 0.7], [1.1, 0.4, -0.2], [-0.8, 0.9, 1.3], [0.2, -0.5, 0.6]])
W = torch.tensor([[0.5, -0.4], [0.8, 0.3], [-0.6, 0.9]], requires_grad=True)


def _net(x: Tensor, w: Tensor) -> Tensor:
    return torch.tanh(compare.name(x @ w, "z")).sum()


def _verdicts(report: Report) -> dict[str, str]:
    for q in report.quantities.values():  # bits and verdict must not contradict each other
        assert q.verdict == "WRONG" or q.max_ulp < 100, str(report)
    return {name: q.verdict for name, q in report.quantities.items()}


def _check(backward: object) -> Report:
    return compare.check(backward, _net, {"x": X, "w": W})  # type: ignore[arg-type]


def test_a_value_that_does_not_use_the_wrong_one_is_compared_with_autograds_own() -> None:
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
def test_a_bypassing_quantity_that_is_itself_wrong_is_red_too(times: float) -> None:
    def by_hand(x: Tensor, z: Tensor) -> Named:
        t = torch.tanh(z)
        return {"z": 3 * (1 - t * t), "w": times * (x.mT @ (1 - t * t))}

    expected = "WRONG" if times != 1 else ("EXACT", "ROUNDING")
    verdicts = _verdicts(_check(by_hand))
    assert verdicts["z"] == "WRONG"
    assert verdicts["w"] in expected


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
def test_a_wrong_value_that_is_computed_twice_is_one_red_line(again: object) -> None:
    """The bits and the formula of w are compared with autograd continued from the wrong z."""

    def by_hand(x: Tensor, z: Tensor) -> Named:
        return {"z": again(1 - torch.tanh(z)), "w": x.mT @ (1 - torch.tanh(z))}  # type: ignore[operator]

    verdicts = _verdicts(_check(by_hand))
    assert verdicts["z"] == "WRONG"
    assert verdicts["w"] in ("EXACT", "ROUNDING")


def test_a_quantity_computed_from_the_wrong_one_is_compared_from_there() -> None:
    def by_hand(x: Tensor, z: Tensor) -> Named:
        dz = 1 - torch.tanh(z)
        return {"z": dz, "w": x.mT @ dz}

    report = _check(by_hand)
    assert _verdicts(report)["w"] in ("EXACT", "ROUNDING")
    assert report.follows["z"] == ["w"]


def test_each_quantity_is_compared_from_the_gradients_it_uses_and_no_others() -> None:
    """Only b is wrong, which nothing uses; a is computed from c directly."""

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

    inputs = {k: torch.tensor([0.4, -0.9, 1.3]) * f for k, f in (("x", 1), ("u", -2), ("v", 3))}
    verdicts = _verdicts(compare.check(by_hand, forward, inputs))
    assert verdicts.pop("b") == "WRONG"
    assert set(verdicts.values()) <= {"EXACT", "ROUNDING"}


DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]


def _biased(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    a = compare.name(x @ w, "a")
    return torch.tanh(compare.name(a + b, "z"))


def _of_biased(by_hand: object, dtype: torch.dtype = torch.float32) -> Report:
    inputs = {"x": X, "w": W.detach(), "b": torch.tensor([0.3, -0.7])}
    return compare.check(by_hand, _biased, {k: v.to(dtype) for k, v in inputs.items()})  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_sum_passes_one_gradient_to_two_names(dtype: torch.dtype) -> None:
    """Autograd has one tensor for both, and still each is injected by itself."""

    def by_hand(x: Tensor, w: Tensor, output: Tensor, grad_output: Tensor) -> Named:
        dz = grad_output * (1 - output * output)
        return {"z": dz, "a": dz, "b": dz.sum(0), "x": dz @ w.mT, "w": x.mT @ dz}

    report = _of_biased(by_hand, dtype)
    assert report.ok, str(report)


def test_one_of_two_names_of_one_gradient_may_be_wrong() -> None:
    def by_hand(x: Tensor, w: Tensor, output: Tensor, grad_output: Tensor) -> Named:
        da = grad_output * (1 - output**2)
        return {"z": 2 * da, "a": da, "b": da.sum(0), "w": x.mT @ da, "x": da @ w.mT}

    verdicts = _verdicts(_of_biased(by_hand))
    assert verdicts.pop("z") == "WRONG"
    assert set(verdicts.values()) <= {"EXACT", "ROUNDING"}


def test_a_residual_path_bypasses_the_wrong_one() -> None:
    def forward(x: Tensor, w: Tensor) -> Tensor:
        z = compare.name(x @ w, "z")
        return torch.sin(z + compare.name(torch.tanh(z), "t"))

    def by_hand(x: Tensor, w: Tensor, z: Tensor, t: Tensor, grad_output: Tensor) -> Named:
        direct = grad_output * torch.cos(z + t)
        dz = direct + 2 * direct * (1 - t * t)
        return {"t": 2 * direct, "z": dz, "w": x.mT @ dz, "x": dz @ w.mT}

    verdicts = _verdicts(compare.check(by_hand, forward, {"x": X, "w": W.detach()}))
    assert verdicts.pop("t") == "WRONG"
    assert set(verdicts.values()) <= {"EXACT", "ROUNDING"}


@pytest.mark.parametrize("wrong", ["s", "p", "q"])
def test_siblings_are_not_computed_from_each_other(wrong: str) -> None:
    def forward(u: Tensor, v: Tensor) -> Tensor:
        p, q = compare.name(u * 1.5, "p"), compare.name(v * 2.0, "q")
        return torch.tanh(compare.name(p + q, "s"))

    def by_hand(output: Tensor, grad_output: Tensor) -> Named:
        d = {"s": grad_output * (1 - output**2) * (1 + (wrong == "s"))}
        d |= {name: d["s"] * (1 + (wrong == name)) for name in ("p", "q")}
        return d | {"u": d["p"] * 1.5, "v": d["q"] * 2}

    verdicts = _verdicts(compare.check(by_hand, forward, {"u": X[0], "v": X[1]}))
    assert verdicts.pop(wrong) == "WRONG"
    assert set(verdicts.values()) <= {"EXACT", "ROUNDING"}


def test_an_earlier_name_without_a_gradient_by_hand() -> None:
    def forward(x: Tensor, w: Tensor) -> Tensor:
        z = compare.name(x @ w, "z")
        h = compare.name(torch.tanh(z), "h")
        return h * h

    def by_hand(x: Tensor, w: Tensor, h: Tensor, grad_output: Tensor) -> Named:
        def slope() -> Tensor:
            return 2 * h * grad_output * (1 - h)

        return {"z": slope(), "w": x.mT @ slope(), "x": slope() @ w.mT}

    verdicts = _verdicts(compare.check(by_hand, forward, {"x": X, "w": W.detach()}))
    assert verdicts.pop("z") == "WRONG"
    assert set(verdicts.values()) <= {"EXACT", "ROUNDING"}


def test_gradients_of_one_value_under_two_names_are_computed_from_each_other() -> None:
    def forward(x: Tensor) -> Tensor:
        z = compare.name(x + 1.0, "z")
        return compare.name(z + 0.0, "y") ** 2

    def by_hand(grad_output: Tensor, y: Tensor) -> Named:
        return {"y": 3 * y * grad_output, "z": 2 * y * grad_output, "x": 2 * y * grad_output}

    verdicts = _verdicts(compare.check(by_hand, forward, {"x": X[0]}))
    assert verdicts["y"] == "WRONG"
    assert verdicts["z"] in ("EXACT", "ROUNDING")
    assert verdicts["x"] in ("EXACT", "ROUNDING")
