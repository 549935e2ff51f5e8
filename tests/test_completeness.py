"""A recording that takes other branches at other inputs, and what is seen of work outside it."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import compare
from compare.proof.program import Opaque, Program
from compare.proof.trace import trace, try_trace
from compare.proof.verdict import EXACT, ROUNDING, WRONG
from tests.opaque import memory, unseen

Named = dict[str, Tensor]
Y = torch.tensor([1.0, 3.0, 2.0, 2.0, 5.0], dtype=torch.float64)


def _pooled(y: Tensor) -> Tensor:
    """Return the nearest increasing sequence (pool adjacent violators): ties decide branches."""
    blocks: list[tuple[Tensor, int]] = []
    for value in y:
        blocks.append((value, 1))
        while len(blocks) > 1 and bool(blocks[-2][0] >= blocks[-1][0]):
            (right, m), (left, n) = blocks.pop(), blocks.pop()
            blocks.append(((left * n + right * m) / (n + m), n + m))
    return torch.cat([mean.expand(count) for mean, count in blocks])


def _pooled_back(factor: float) -> Callable[..., Any]:
    def backward(output: Tensor, grad_output: Tensor) -> Tensor:
        same = (output[:, None] == output[None]).to(output.dtype)
        return factor * (same @ grad_output) / same.sum(1)

    return backward


def test_a_reference_that_branches_otherwise_at_all_other_inputs_is_judged_here() -> None:
    """3, 2, 2 is one block here; elsewhere the two 2s are pooled in another order or not at all."""
    y = torch.tensor([1.0, 2.5, 2.0, 2.0, 5.0, 5.0], dtype=torch.float64)
    assert compare.check(_pooled_back(1), _pooled, (y,)).verdict in (EXACT, ROUNDING)
    assert compare.check(_pooled_back(2), _pooled, (y,)).verdict == WRONG


def _rounds(x: Tensor) -> int:
    """Return a number that is another one at each other input."""
    return 1 + sum(ord(c) % 5 for c in repr([float(v).hex() for v in memory(x)]))


def _branching(work: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Named]:
    def function(x: Tensor) -> Named:
        total = work(x)
        for _ in range(_rounds(x)):
            total = total * x
        return {"out": total}

    return function


def test_a_recording_is_compared_at_the_given_inputs_alone() -> None:
    """Its operations are others wherever it is run again."""
    program = trace(_branching(lambda x: x * 2.5), {"x": Y})
    assert isinstance(program, Program)


calls = iter(range(10**6))


@pytest.mark.parametrize(
    ("work", "reason"),
    [
        (lambda x: unseen(x) * 2, "takes another branch at other inputs"),
        (lambda x: x * float(memory(x)[0]), "takes another branch at other inputs"),
        (lambda x: x + torch.tensor(float(memory(x)[0])), "takes another branch at other inputs"),
        (lambda x: x * (1.0 + next(calls)), "takes another branch at other inputs"),
    ],
)
def test_a_number_from_elsewhere_is_found_despite_the_branches(
    work: Callable[[Tensor], Tensor], reason: str
) -> None:
    """It is not among the numbers of a recording at other inputs."""
    with pytest.raises(Opaque, match=reason):
        trace(_branching(work), {"x": Y})


def test_a_write_from_elsewhere_is_found_despite_the_branches() -> None:
    def tripled(x: Tensor) -> Tensor:
        y = x * 1
        memory(y)[:] *= 3
        return y

    assert isinstance(try_trace(_branching(tripled), {"x": Y}), Opaque)


@pytest.mark.parametrize("x", [[0.999, 2.3, 0.37], [0.9, 2.3, 0.37]])
def test_a_replay_that_fails_at_other_inputs_is_settled_by_a_second_recording(
    x: list[float],
) -> None:
    """At 0.999, moved by one percent, the mask picks two numbers and not one."""

    def backward(x: Tensor, grad_output: Tensor) -> tuple[Tensor]:
        big = x[x > 1]
        return (3 * x * x * grad_output + 0 * big.view(()),)

    report = compare.check(backward, lambda x: x**3, (torch.tensor(x, dtype=torch.float64),))
    proof = report.quantities["x"].proof
    assert proof is not None
    assert proof.lifted, str(report)
    assert report.ok


def _unwritten(x: Tensor) -> Named:
    y = torch.empty(5, dtype=x.dtype)
    memory(y)[:] = memory(x)
    return {"out": y * x}


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (_unwritten, r"memory of torch.empty at test_completeness.py:\d+ is read"),
        (lambda x: {"out": x * x.max().item()}, r"item\(\)\) at test_completeness.py:\d+"),
        (lambda x: {"out": x + unseen(x)}, r"computed outside torch at test_completeness.py:\d+"),
    ],
)
def test_the_reason_is_what_was_seen(function: Callable[[Tensor], Named], reason: str) -> None:
    with pytest.raises(Opaque, match=reason):
        trace(function, {"x": Y})


def test_a_random_draw_is_named_with_its_line() -> None:
    def backward(x: Tensor, grad_output: Tensor) -> tuple[Tensor]:
        return (grad_output * torch.exp(x) + 1e-300 * torch.rand_like(x),)

    report = compare.check(backward, lambda x: torch.exp(x), (Y,))
    assert "it draws random numbers (rand_like at test_completeness.py:" in str(report)
    assert "add a row" not in str(report)
