"""Parameters of forward, checked or named in the report; and input that cannot be used."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import compare
from compare.cli.main import main
from compare.errors import BadInput
from compare.passes.forward import parameters
from tests.test_false_words import function


def _x(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


def _linear(rows: int = 3, columns: int = 3) -> nn.Linear:
    layer = nn.Linear(columns, rows, dtype=torch.float64)
    with torch.no_grad():
        layer.weight.copy_(_x(rows, columns))
        layer.bias.copy_(_x(rows + 1)[1:])
    return layer


def _by_hand(layer: nn.Linear, times: float = 1.0, *names: str) -> Callable[..., dict[str, Tensor]]:
    def backward(grad_output: Tensor, input: Tensor) -> dict[str, Tensor]:
        found = {
            "input": grad_output @ layer.weight.detach(),
            "weight": times * (grad_output.mT @ input),
            "bias": grad_output.sum(0),
        }
        return {name: value for name, value in found.items() if name in ("input", *names)}

    return backward


# -- judged, or named


def test_parameters_with_a_by_hand_gradient_are_checked() -> None:
    layer = _linear()
    report = compare.check(_by_hand(layer, 1.0, "weight", "bias"), layer, (_x(4, 3),))
    assert report.ok, str(report)
    assert set(report.quantities) == {"input", "weight", "bias"}
    assert "not checked" not in str(report)
    wrong = compare.check(_by_hand(layer, 1.001, "weight", "bias"), layer, (_x(4, 3),))
    assert (wrong.verdict, wrong.first_wrong) == ("WRONG", "weight")


def test_parameters_without_one_are_named_in_the_verdict_line() -> None:
    layer = _linear()
    report = compare.check(_by_hand(layer, 1.0, "weight"), layer, (_x(4, 3),))
    assert report.ok, str(report)
    assert report.headline().plain.endswith("; not checked: bias")
    assert "; not checked: bias" in report.markdown()
    assert report.to_dict()["not_judged"] == ["bias"]


def test_an_unknown_name_is_refused() -> None:
    layer = _linear()

    def backward(grad_output: Tensor) -> dict[str, Tensor]:
        return {"input": grad_output @ layer.weight.detach(), "wieght": layer.weight.detach()}

    with pytest.raises(BadInput, match="unknown gradient 'wieght': did you mean weight"):
        compare.check(backward, layer, (_x(4, 3),))


def test_names_are_those_of_the_module_and_the_closure() -> None:
    layer, scale = _linear(), _x(3).requires_grad_()
    held = [_x(3).requires_grad_()]
    x = _x(4, 3).requires_grad_()
    net = nn.Sequential(layer, nn.Tanh())
    assert set(parameters(net, [net(x)], {"x": x}, {})) == {"0.weight", "0.bias"}

    def forward(x: Tensor) -> Tensor:
        return layer(x) * scale * held[0]

    found = parameters(forward, [forward(x)], {"x": x}, {})
    assert set(found) == {"layer.weight", "layer.bias", "scale", "a tensor of shape (3,)"}
    # an input of that name is another thing
    assert "scale'" in parameters(forward, [forward(x)], {"x": x, "scale": x}, {})
    assert "scale'" in parameters(forward, [forward(x)], {"x": x}, {"scale": x})


def test_frozen_or_unused_tensors_are_not_parameters() -> None:
    layer = _linear().requires_grad_(False)
    report = compare.check(_by_hand(layer), layer, (_x(4, 3),))
    assert "not checked" not in str(report)


def test_parameters_are_changed_in_the_programs_only() -> None:
    """A forgotten weight of 1 is found, and the module does not change."""
    norm = nn.LayerNorm(3, dtype=torch.float64)
    before = [p.detach().clone() for p in norm.parameters()]

    def backward(grad_output: Tensor, input: Tensor, *, right: bool) -> dict[str, Tensor]:
        middle = input - input.mean(-1, keepdim=True)
        rstd = (middle.square().mean(-1, keepdim=True) + 1e-5).rsqrt()
        out = middle * rstd
        g = grad_output * norm.weight.detach() if right else grad_output
        slope = g - g.mean(-1, keepdim=True) - out * (g * out).mean(-1, keepdim=True)
        return {"input": slope * rstd}

    def right(grad_output: Tensor, input: Tensor) -> dict[str, Tensor]:
        return backward(grad_output, input, right=True)

    def wrong(grad_output: Tensor, input: Tensor) -> dict[str, Tensor]:
        return backward(grad_output, input, right=False)

    assert compare.check(right, norm, (_x(4, 3),)).ok
    report = compare.check(wrong, norm, (_x(4, 3),))
    assert report.verdict == "WRONG", str(report)
    assert "right only at the given inputs" in str(report)
    for was, now in zip(before, norm.parameters(), strict=True):
        assert torch.equal(was, now)
        assert now.grad is None
    assert compare.check(wrong, norm, (_x(4, 3),), hold=("weight",)).ok


def test_by_hand_weights_computed_from_parameters_raise_no_alarm() -> None:
    """Transposed or flat copies count as the parameter; with other tensors none is changed."""
    layer = _linear()
    turned, flat = layer.weight.detach().mT.contiguous(), layer.weight.detach().reshape(-1).clone()
    whole = layer.weight.detach().round()

    def by_turned(grad_output: Tensor) -> dict[str, Tensor]:
        return {"input": grad_output @ turned.mT}

    def by_flat(grad_output: Tensor) -> dict[str, Tensor]:
        return {"input": grad_output @ flat.reshape(3, 3)}

    for backward in (by_turned, by_flat):
        report = compare.check(backward, layer, (_x(4, 3),))
        assert report.ok, str(report)
    report = compare.check(
        lambda grad_output: {"input": grad_output @ whole},
        lambda input: input @ layer.weight.detach().round().mT + 0 * layer.bias,
        (_x(4, 3),),
    )
    assert report.ok, str(report)


def test_an_intermediate_may_have_the_name_of_a_parameter() -> None:
    w = _x(4, 3).exp().requires_grad_()

    def forward(x: Tensor) -> Tensor:
        return x * compare.name(torch.exp(w * 1.0), "w")

    def backward(grad_output: Tensor, x: Tensor) -> dict[str, Tensor]:
        return {"w": grad_output * x, "x": grad_output * torch.exp(w.detach())}

    report = compare.check(backward, forward, (_x(4, 3),))
    assert report.ok, str(report)
    assert "not checked: w'" in report.headline().plain


def test_fixes_are_searched_with_parameters_too() -> None:
    """The gradient of a parameter with its operations in another order."""
    g = _x(3).requires_grad_()

    def backward(grad_output: Tensor, x: Tensor) -> dict[str, Tensor]:
        return {"x": grad_output * g.detach(), "g": (grad_output * x / 3 * 3).sum(0)}

    report = compare.check(backward, lambda x: x * g, (_x(40, 3),))
    assert report.ok, str(report)
    assert "the search failed" not in str(report)


# -- a backward pass that differentiates its own input tensors


def _recomputed(layer: nn.Linear, times: float = 1.0, *, strict: bool) -> Any:
    """Return a Function whose backward pass differentiates the module's own weights."""

    class Recomputed(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor, *weights: Tensor) -> Tensor:  # type: ignore[override]
            ctx.save_for_backward(x, *weights)
            return layer(x)  # type: ignore[no-any-return]

        @staticmethod
        def backward(ctx: Any, g: Tensor) -> Any:  # type: ignore[override]
            x, *weights = ctx.saved_tensors
            with torch.enable_grad():
                x = x.detach().requires_grad_()
                found = torch.autograd.grad(layer(x), [x, *weights], g, allow_unused=not strict)
            return found[0], found[1] * times if found[1] is not None else None, found[2]

    return Recomputed


@pytest.mark.parametrize("strict", [True, False])
def test_a_function_that_differentiates_its_inputs_gets_the_same_objects(strict: bool) -> None:
    layer = _linear()
    given = (_x(4, 3).requires_grad_(), layer.weight, layer.bias)
    right = compare.check(
        _recomputed(layer, strict=strict), lambda x, w, b: F.linear(x, w, b), given
    )
    assert right.ok, str(right)
    assert right.beside is not None
    assert "differentiates its own input tensors" in right.beside.text
    assert {line.outcome for line in right.contract} == {"not asked"}
    wrong = compare.check(
        _recomputed(layer, 1.5, strict=strict), lambda x, w, b: F.linear(x, w, b), given
    )
    assert (wrong.verdict, wrong.first_wrong) == ("WRONG", "w"), str(wrong)
    assert all(p.grad is None for p in layer.parameters())


# -- what cannot be used, in one line


def _ones_alone(_saved: Any, grads: Any) -> Tensor:
    (g,) = grads
    if not bool((g == 1).all()):
        raise RuntimeError("the loss comes last")
    return g * 2  # type: ignore[no-any-return]


def _twice(x: Tensor) -> Tensor:
    return x * 2


def _twice_back(grad_output: Tensor) -> dict[str, Tensor]:
    return {"x": 2 * grad_output}


def _made_there() -> nn.Linear:
    with torch.inference_mode():
        return nn.Linear(3, 3)


def _on_meta() -> nn.Linear:
    with torch.device("meta"):
        return nn.Linear(3, 3)


@pytest.mark.parametrize(
    ("ask", "line"),
    [
        (
            lambda: compare.check(function(_twice, lambda *_: None), _twice, (_x(3),)),
            "Made returns None for each of x: return their gradients",
        ),
        (
            lambda: compare.check(function(_twice, _ones_alone), _twice, (_x(3),)),
            "Made accepts a grad_output of ones but not other values (RuntimeError: the "
            "loss comes last): autograd may pass any",
        ),
        (
            lambda: compare.check(function(lambda x: None, _ones_alone), _twice, (_x(3),)),
            "Made's forward returns None: return a tensor or a tuple of tensors",
        ),
        (
            lambda: compare.check(_twice_back, _twice, {"x": torch.empty(3, device="meta")}),
            "input 'x' is on the meta device and has no values: give a tensor with values",
        ),
        (
            lambda: compare.check(_twice_back, _twice, {"x": _x(3, 3).to_sparse()}),
            "input 'x' is sparse: give a dense tensor",
        ),
        (
            lambda: compare.check(
                lambda grad_output: {"x": grad_output.to_sparse()}, _twice, {"x": _x(3, 3)}
            ),
            "backward returns a sparse gradient for 'x': return a dense one",
        ),
        (
            lambda: compare.check(
                lambda grad_output: {"input": grad_output}, _on_meta(), (_x(2, 3).float(),)
            ),
            "forward's weight is on the meta device: give it values",
        ),
        (
            lambda: compare.check(
                lambda grad_output: {"input": grad_output}, _made_there(), (_x(2, 3).float(),)
            ),
            "forward uses a tensor that was made under torch.inference_mode: make it outside",
        ),
        (
            lambda: compare.check(_twice_back, torch.no_grad()(_twice), {"x": _x(3)}),
            "no output of forward depends on a differentiable input: nothing to check (does it use "
            "torch.no_grad, inference_mode or detach?)",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_unusable_input_is_refused_in_one_line(ask: Callable[[], object], line: str) -> None:
    with pytest.raises(BadInput, match=f"^{re.escape(line)}$"):
        ask()


def test_inference_mode_is_named() -> None:
    with torch.inference_mode(), pytest.raises(BadInput, match="inference_mode is on"):
        compare.check(_twice_back, _twice, {"x": _x(3)})


def test_a_function_that_fails_for_any_cotangent_raises_its_own_error() -> None:
    def broken(_saved: Any, _grads: Any) -> Tensor:
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        compare.check(function(_twice, broken), _twice, (_x(3),))


def test_autocast_around_a_check_is_reported() -> None:
    def backward(grad_output: Tensor, x: Tensor, w: Tensor) -> dict[str, Tensor]:
        return {"x": grad_output @ w.mT, "w": x.mT @ grad_output}

    given = {"x": _x(3, 4).float(), "w": _x(4, 2).float()}
    with torch.autocast("cpu", torch.bfloat16):
        report = compare.check(backward, lambda x, w: x @ w, given)
    assert "torch.autocast to bfloat16" in report.headline().plain
    assert "autocast" not in str(compare.check(backward, lambda x, w: x @ w, given))


def test_a_file_may_define_hold_and_contract(tmp_path: Path) -> None:
    path = tmp_path / "ones.py"
    lines = [
        "import torch",
        "def forward(x, w): return x * x * w",
        "def backward(x, grad_output): return {'x': 2 * x * grad_output}",
        "inputs = {'x': torch.arange(1.0, 7).reshape(2, 3).requires_grad_(), 'w': torch.ones(3)}",
    ]
    path.write_text("\n".join(lines))
    assert main(["check", str(path)]) == 1
    path.write_text("\n".join([*lines, "hold = ('w',)", "contract = {'zero': False}"]))
    assert main(["check", str(path), "--json", str(tmp_path / "found.json")]) == 0
    found = json.loads((tmp_path / "found.json").read_text())
    assert {line["outcome"] for line in found["contract"] if line["name"] == "zero"} == {
        "not asked"
    }


@pytest.mark.parametrize(
    ("hold", "line"),
    [
        ("x", "hold is 'x': give the names of inputs, as in hold=('p',)"),
        (("z",), "unknown input to hold 'z': choose from x"),
        (3, "hold is 3: give the names of inputs, as in hold=('p',)"),
    ],
)
def test_what_cannot_be_held(hold: Any, line: str) -> None:
    with pytest.raises(BadInput, match=f"^{re.escape(line)}$"):
        compare.check(_twice_back, _twice, {"x": _x(3)}, hold=hold)
