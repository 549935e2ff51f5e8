"""`compare.check` and `compare.assert_same` as a user sees them."""

import math
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import compare
from compare.cli.main import main
from compare.errors import BadInput
from compare.proof.balls import _sample
from tests.opaque import memory

ROOT = Path(__file__).parent.parent
DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]


def inputs(dtype: torch.dtype = torch.float64) -> dict[str, Any]:
    chance = torch.Generator().manual_seed(5)
    shapes = {"X": (5, 4), "w1": (4, 3), "w2": (3, 2)}
    return {
        k: torch.randn(*s, generator=chance, dtype=torch.float64).to(dtype)
        for k, s in shapes.items()
    }


def forward(X: Tensor, w1: Tensor, w2: Tensor) -> Tensor:
    z1 = compare.name(X @ w1, "z1")
    h = compare.name(torch.tanh(z1), "h")
    return compare.name(h @ w2, "z2").sigmoid().square().sum()


def backward(X: Tensor, w1: Tensor, w2: Tensor, h: Tensor, z2: Tensor) -> dict[str, Tensor]:
    s = torch.sigmoid(z2)
    dz2 = 2 * s * s * (1 - s)
    dh = dz2 @ w2.mT
    dz1 = dh * (1 - h * h)
    return {"z2": dz2, "h": dh, "z1": dz1, "w2": h.mT @ dz2, "w1": X.mT @ dz1, "X": dz1 @ w1.mT}


def wrong(X: Tensor, w1: Tensor, w2: Tensor, h: Tensor, z2: Tensor) -> dict[str, Tensor]:
    found = backward(X, w1, w2, h, z2)
    dz1 = found["h"] * (1 - h)  # the slope of another function
    return {**found, "z1": dz1, "w1": X.mT @ dz1, "X": dz1 @ w1.mT}


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_right_pass(dtype: torch.dtype) -> None:
    report = compare.check(backward, forward, inputs(dtype))
    assert report.verdict in ("EXACT", "ROUNDING"), str(report)
    assert report.ok
    assert report.first_wrong is None
    assert list(report.quantities) == ["z2", "w2", "h", "z1", "X", "w1"]  # as autograd goes back
    compare.assert_same(backward, forward, inputs(dtype))


@pytest.mark.parametrize("dtype", DTYPES)
def test_only_the_first_wrong_line_is_named(dtype: torch.dtype) -> None:
    """Later quantities are judged from the by-hand value; the report has its public fields."""
    report = compare.check(wrong, forward, inputs(dtype))
    assert (report.verdict, report.ok, report.first_wrong) == ("WRONG", False, "z1")
    assert [q.name for q in report.quantities.values() if q.verdict == "WRONG"] == ["z1"]
    row = report.quantities["z1"]
    assert (row.verdict, row.total) == ("WRONG", 15)
    assert row.equal < 15
    assert row.max_ulp > 0
    assert row.worst_index is not None
    assert row.manual != row.autograd
    text = str(report)
    assert "WRONG  z1 is the first wrong quantity" in text
    assert "right so far   z2, w2, h" in text
    assert "different formula: computed exactly, " in text
    assert "affected       w1, X (computed from z1)" in text
    assert report.to_dict()["first_wrong"] == "z1"


@pytest.mark.parametrize("dtype", DTYPES)
def test_autograd_continues_from_the_by_hand_gradient(dtype: torch.dtype) -> None:
    """It continues from a wrong gradient, so later quantities have the same bits."""
    found = compare.check(wrong, forward, inputs(dtype)).quantities
    assert found["z1"].equal < found["z1"].total
    for label in ("X", "w1"):
        assert found[label].equal == found[label].total, label
        assert found[label].verdict == "EXACT"


def test_a_failing_assert_shows_the_report_and_no_frame_of_this_package(tmp_path: Path) -> None:
    (tmp_path / "test_mine.py").write_text(
        "import compare\nfrom tests.test_checking import forward, inputs, wrong\n\n"
        "def test_it():\n    compare.assert_same(wrong, forward, inputs())\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "z1 is the first wrong quantity" in done.stdout
    assert "compare/checking/check.py" not in done.stdout


def test_exact_insists_on_bits() -> None:
    def rounded(x: Tensor, grad_output: Tensor) -> tuple[Tensor]:
        l = torch.sigmoid(x)
        return (grad_output * (l * (1 - l)),)

    x = (inputs(torch.float32)["X"],)
    compare.assert_same(rounded, lambda x: torch.sigmoid(x), x)
    finding = r"^ROUNDING: same formulas at these inputs and at other inputs; x: different bits, "
    with pytest.raises(AssertionError, match=rf"{finding}within rounding \(demand 'exact'\)\n"):
        compare.assert_same(rounded, lambda x: torch.sigmoid(x), x, demand="exact")
    with pytest.raises(BadInput, match="unknown demand 'close'"):
        compare.assert_same(rounded, lambda x: torch.sigmoid(x), x, demand="close")


def test_every_quantity_has_the_rounding_error_of_both_sides() -> None:
    def tanh(x: Tensor, grad_output: Tensor) -> tuple[Tensor]:
        e = torch.exp(2 * x)
        return (grad_output * (1 - ((e - 1) / (e + 1)) ** 2),)

    report = compare.check(tanh, lambda x: torch.tanh(x), (inputs()["X"],))
    proof = report.quantities["x"].proof
    assert proof is not None
    assert proof.manual_error is not None
    assert proof.autograd_error is not None
    assert "same formula: both sides agree to 5" in proof.text
    assert "ulp by hand" in str(report)


def _kernel(X: Tensor, grad_output: Tensor) -> tuple[Tensor]:
    return (grad_output * torch.from_numpy(np.cos(memory(X))).to(X.dtype),)


def _data(X: Tensor, grad_output: Tensor) -> tuple[Tensor]:
    return (grad_output * (X.data * 1).cos(),)


def _item(X: Tensor, grad_output: Tensor) -> tuple[Tensor]:
    return (torch.tensor([[g * math.cos(x) for g, x in zip(gs, xs, strict=True)]
                          for gs, xs in zip(grad_output.tolist(), X.tolist(), strict=True)],
                         dtype=X.dtype),)  # fmt: skip


@pytest.mark.parametrize("opaque", [_kernel, _item])
def test_opaque_code_is_judged_by_its_numbers(opaque: Callable[..., Any]) -> None:
    """The report has both errors in ulps; it passes only with autograd's bits."""
    given = {"X": inputs(torch.float32)["X"]}
    report = compare.check(opaque, lambda X: torch.sin(X), given)
    row = report.quantities["X"]
    assert row.verdict in ("WITHIN", "EXACT")
    assert row.proof is not None
    assert not row.proof.lifted
    assert "the by-hand side cannot be traced" in str(report)


def test_opaque_code_that_is_wrong_is_wrong() -> None:
    def flipped(X: Tensor, grad_output: Tensor) -> tuple[Tensor]:
        slopes = np.cos(memory(X))
        slopes[3, 1] *= 1.001
        return (grad_output * torch.from_numpy(slopes),)

    report = compare.check(flipped, lambda X: torch.sin(X), {"X": inputs()["X"]})
    assert report.first_wrong == "X"
    assert "times autograd's rounding bound at [3, 1]" in str(report)


def test_code_that_uses_data_is_traced_too() -> None:
    report = compare.check(_data, lambda X: torch.sin(X), {"X": inputs()["X"]})
    assert report.verdict == "EXACT"
    proof = report.quantities["X"].proof
    assert proof is not None
    assert proof.lifted


def test_an_operation_outside_the_table_is_named() -> None:
    def backward(X: Tensor, grad_output: Tensor, output: Tensor) -> tuple[Tensor]:
        share = torch.sigmoid(X)
        slope = math.sqrt(2 * math.pi) * torch.exp(output * output / 2)
        return (grad_output * slope * share * (1 - share),)

    def forward(X: Tensor) -> Tensor:
        return torch.special.ndtri(torch.sigmoid(X))

    report = compare.check(backward, forward, {"X": inputs()["X"]})
    assert report.verdict == "WITHIN", str(report)
    assert "special_ndtri" in str(report)
    assert "add a row to compare/proof/operations.py" in str(report)


def test_complex_intermediates_are_not_taken_for_real_numbers() -> None:
    """|3 + 0.0008i| is not 3, which the real part alone would give."""

    def near(x: Tensor, grad_output: Tensor) -> tuple[Tensor]:
        c = torch.complex(torch.full_like(x, 3), torch.full_like(x, 0.0008))
        return (grad_output * c.abs(),)

    def right(x: Tensor, grad_output: Tensor) -> tuple[Tensor]:
        return (grad_output * torch.tensor(3 + 4j).abs(),)

    x = inputs(torch.float32)["X"]
    report = compare.check(near, lambda x: x * 3, (x,))
    proof = report.quantities["x"].proof
    assert proof is not None
    assert not proof.lifted
    assert compare.check(right, lambda x: x * 5, (x,)).verdict in ("EXACT", "UNDECIDED")


def test_a_module_is_a_forward_and_a_function_may_write_into_its_input() -> None:
    class Doubled(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.mark_dirty(x)
            return x.mul_(2)

        @staticmethod
        def backward(ctx: Any, *grads: Tensor) -> Tensor:
            return grads[0] * 2

    compare.assert_same(Doubled, lambda x: x * 2, (X.float(),))
    layer = torch.nn.Linear(4, 3, dtype=X.dtype)
    weight = layer.weight.detach()
    compare.assert_same(lambda grad_output: (grad_output @ weight,), layer, (X,))


def test_empty_quantities_are_reported() -> None:
    report = compare.check(lambda x: (x * 7,), lambda x: x.sum(), (torch.zeros(0),))
    assert "nothing to compare" in str(report)


def _at_zero(step: Callable[[Tensor], Tensor]) -> Callable[..., tuple[Tensor]]:
    return lambda x, grad_output: (grad_output * step(x),)


@pytest.mark.parametrize(
    ("function", "slope", "same"),
    [
        (F.relu, lambda x: (x > 0).to(x.dtype), True),
        (F.relu, lambda x: (x >= 0).to(x.dtype), False),
        (torch.abs, torch.sign, True),
        (torch.abs, lambda x: torch.where(x >= 0, 1.0, -1.0), False),
    ],
)
def test_another_subgradient_at_a_kink_is_reported(
    function: Callable[..., Tensor], slope: Callable[[Tensor], Tensor], same: bool
) -> None:
    x = torch.tensor([-1.5, 0.0, 2.0], dtype=torch.float64)
    report = compare.check(_at_zero(slope), lambda x: function(x), {"x": x})
    assert report.ok
    assert ("another subgradient than autograd" in str(report)) != same


@pytest.mark.parametrize("size", [200.0, 1e-4, 2e-3])
def test_float16_overflow_and_underflow(size: float) -> None:
    """3 x x is infinite at 200, subnormal or zero near 1e-4: that is rounding, not a bug."""
    x = torch.tensor([1.0, -0.7, 0.3], dtype=torch.float16) * size
    report = compare.check(lambda x: (3 * x * x,), lambda x: (x**3).sum() * 1.0, {"x": x})
    assert report.verdict in ("EXACT", "ROUNDING"), str(report)
    assert not compare.check(lambda x: (3.01 * x * x,), lambda x: (x**3).sum(), {"x": x}).ok


def test_several_outputs_and_an_input_used_twice() -> None:
    def two(x: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
        return x * w + x, (x @ w.mT).sum()

    def by_hand(x: Tensor, w: Tensor, grad_output: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        g, s = grad_output
        ones = torch.ones(x.shape[0], w.shape[0], dtype=x.dtype)
        return g * w + g + s * (ones @ w), g * x + s * (ones.mT @ x)

    chance = torch.Generator().manual_seed(1)
    given = [torch.randn(3, 4, generator=chance, dtype=torch.float64) for _ in range(2)]
    compare.assert_same(by_hand, two, given)


def test_none_is_zero_and_inputs_without_a_gradient_are_left_out() -> None:
    def shifted(x: Tensor, b: Tensor, n: int) -> Tensor:
        return (x * n).sum() + (b - b.detach()).sum() * 0

    given = {"x": torch.randn(3, requires_grad=True), "b": torch.randn(2), "n": 3}
    report = compare.check(lambda x, n: {"x": torch.full_like(x, n)}, shifted, given)
    assert report.verdict == "EXACT"
    assert list(report.quantities) == ["x"]
    given = {**given, "b": torch.randn(2, requires_grad=True)}
    report = compare.check(lambda x, n: (torch.full_like(x, n), None), shifted, given)
    assert report.verdict == "EXACT"


X = inputs()["X"]
BAD: list[tuple[str, Any, Any, Any, str]] = [
    ("unknown name", lambda X: {"Y": X}, lambda X: X.sum(), {"X": X}, "unknown gradient 'Y': "),
    ("count", lambda X: (X, X), lambda X: X.sum(), {"X": X}, "2 gradients for 1 inputs"),
    ("kind", lambda X: 3, lambda X: X.sum(), {"X": X}, "backward returns an int"),
    ("item", lambda X: {"X": 3.0}, lambda X: X.sum(), {"X": X}, "returns a float for 'X'"),
    ("asks", lambda Z: (Z,), lambda X: X.sum(), {"X": X}, "unknown parameter of backward 'Z'"),
    ("inputs", lambda X: (X,), lambda X: X.sum(), {"Y": X}, "inputs do not fit forward(X)"),
    ("no inputs", lambda X: (X,), lambda X: X.sum(), 3, "inputs is an int"),
    ("ints", lambda X: (X,), lambda X: X.sum(), {"X": torch.arange(3)}, "no differentiable input"),
    ("detached", lambda X: (X,), lambda X: X.detach().sum(), {"X": X}, "nothing to check"),
    ("random", lambda X: (X,), lambda X: (X * torch.rand(1)).sum(), {"X": X}, "the second time"),
    ("number", lambda X: (X,), lambda X: 3.0, {"X": X}, "forward returns a float"),
    ("in place", lambda X: (X.mul_(2),), lambda X: X.sum(), {"X": X}, "changes its input 'X'"),
    ("twice", lambda X: (X,), lambda X: compare.name(compare.name(X * 2, "a") * 3, "a").sum(),
     {"X": X}, "'a') is called twice"),
    ("clash", lambda X: (X,), lambda X: compare.name(X * 2, "X").sum(), {"X": X}, "has that name"),
    ("clash of numbers", lambda X: (X, X),
     lambda X: (compare.name(X * 2, "output[0]").sum(), X.sum()), {"X": X}, "reserves that"),
    ("no tensor", lambda X: (X,), lambda X: compare.name(3, "a") * X.sum(), {"X": X}, "an int"),
    ("builtin", lambda x: (x,), torch.log, {"x": X}, "forward has no signature to read"),
    ("positional", lambda *args: args, lambda X: X.sum(), {"X": X}, "as the class itself"),
    ("label", lambda X: (X,), lambda X: compare.name(X * 2, 3).sum(), {"X": X}, "is a string"),
    ("sparse", lambda X: (X,), lambda X: X.sum(), {"X": torch.eye(3).to_sparse()}, "is sparse"),
    ("through", lambda X: {"X": X, "u": X},
     lambda X: (compare.name(X.detach() * 2, "u") * X).sum(), {"X": X}, "no gradient flows"),
    ("needs none", lambda X, w: {"X": X, "w": w}, lambda X, w: (X * w).sum(),
     {"X": X, "w": X.clone().requires_grad_()}, "which needs none"),
    ("not callable", 3, lambda X: X.sum(), {"X": X}, "backward is an int"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("bad", "fore", "given", "message"), [b[1:] for b in BAD], ids=[b[0] for b in BAD]
)
def test_bad_input_names_the_thing(bad: Any, fore: Any, given: Any, message: str) -> None:
    with pytest.raises(BadInput) as caught:
        compare.check(bad, fore, given)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("gradient", "problem"),
    [
        (lambda X: {"X": torch.ones(4, 5, dtype=X.dtype)}, "shape (4, 5) by hand, (5, 4)"),
        (lambda X: {"X": torch.ones(5, 4)}, "dtype torch.float32 by hand, torch.float64"),
        (lambda X: {}, "missing by hand: return its gradient"),
    ],
)
def test_a_misshapen_or_missing_gradient_is_wrong(gradient: Any, problem: str) -> None:
    report = compare.check(gradient, lambda X: X.sum(), {"X": X})
    assert (report.verdict, report.first_wrong) == ("WRONG", "X")
    assert problem in str(report)


def test_an_exception_of_the_users_code_passes_through() -> None:
    def broken(X: Tensor) -> tuple[Tensor]:
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        compare.check(broken, lambda X: X.sum(), {"X": X})


MINE = """\
import torch
import compare

def forward(x, w):
    return compare.name(x @ w, "z").tanh().sum()

def backward(x, w, z):
    dz = 1 - torch.tanh(z) ** 2
    return {"z": dz, "x": dz @ w.mT, "w": x.mT @ dz}

def inputs():
    torch.manual_seed(0)
    return {"x": torch.randn(3, 4), "w": torch.randn(4, 2)}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(MINE)
    return path


def test_check_file(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(file)]) == 0
    assert main(["check", str(file), "--dtype", "bfloat16", "--quiet"]) == 0
    out = capsys.readouterr().out
    assert "quantity" in out
    assert "ROUNDING" in out or "EXACT" in out
    file.write_text(MINE.replace("x.mT @ dz", "2 * x.mT @ dz"))
    assert main(["check", str(file), "--json", "-"]) == 1
    assert '"first_wrong": "w"' in capsys.readouterr().out


def test_check_file_whose_code_raises(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The traceback begins at the user's own line, and the exit code is 2."""
    file.write_text(MINE.replace("dz = 1 -", "dz = nothing -"))
    assert main(["check", str(file)]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"compare: {file} raised an exception:\n")
    assert "dz = nothing - torch.tanh(z) ** 2" in err
    assert err.endswith("NameError: name 'nothing' is not defined\n")
    assert "checking.py" not in err
    file.write_text("def forward(:\n")
    assert main(["check", str(file)]) == 2
    assert "SyntaxError" in capsys.readouterr().err


def test_large_products_are_sampled_and_the_report_says_so() -> None:
    given = {
        "a": torch.randn(20, 30, dtype=torch.float64),
        "b": torch.randn(30, 10, dtype=torch.float64),
    }

    def product(a: Tensor, b: Tensor) -> Tensor:
        return a @ b

    def by_hand(a: Tensor, b: Tensor, grad_output: Tensor) -> tuple[Tensor, Tensor]:
        return (b @ grad_output.mT).mT, (grad_output.mT @ a).mT

    def flipped(a: Tensor, b: Tensor, grad_output: Tensor) -> tuple[Tensor, Tensor]:
        da, db = by_hand(a, b, grad_output)
        sign = torch.ones_like(da)
        sign[outside] = -1
        return da * sign, db

    rows, columns = (set(range(n)) - set(_sample(n, 16).tolist()) for n in (20, 30))
    outside = (min(rows), min(columns))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("compare.proof.balls.LARGE", 100)
        report = compare.check(by_hand, product, given, lift=16)
        blind = compare.check(flipped, product, given, lift=16)
    assert not blind.ok, str(blind)  # a flipped sign where nothing was lifted is no pass
    assert compare.check(flipped, product, given, lift="all").first_wrong == "a"
    assert report.ok, str(report)
    proof = report.quantities["a"].proof
    assert proof is not None
    assert "(16 of 600 elements computed exactly)" in proof.text
    assert compare.check(by_hand, product, given, lift="none").verdict in ("EXACT", "UNDECIDED")
    with pytest.raises(BadInput, match="lift 'much': choose all, none, auto or a number"):
        compare.check(by_hand, product, given, lift="much")


def test_a_name_outside_a_check_is_the_tensor_itself() -> None:
    assert compare.name(X, "X") is X
    assert callable(compare.check)  # the function, whatever was imported first


def test_gradients_of_two_inputs_with_one_value_are_judged_separately() -> None:
    """Autograd never continues from the by-hand gradient of an input."""
    x, y = (torch.randn(3, 5, dtype=torch.float64) for _ in range(2))

    def backward(x: Tensor, y: Tensor, grad_output: Tensor, one: float = 1.0) -> Any:
        t = torch.tanh(x + y)
        return grad_output * (1 - t) * (1 + t), one * (grad_output - grad_output * t * t)

    report = compare.check(backward, lambda x, y: torch.tanh(x + y), {"x": x, "y": y})
    assert report.verdict == "ROUNDING", str(report)

    def after(x: Tensor, y: Tensor, grad_output: Tensor) -> Any:
        x_grad, _ = backward(x, y, grad_output)
        return 2 * x_grad, 2 * x_grad * 1.0

    report = compare.check(after, lambda x, y: torch.tanh(x + y), {"x": x, "y": y})
    assert [q.verdict for q in report.quantities.values()] == ["WRONG", "WRONG"], str(report)


def test_uninitialised_memory_is_wrong_even_with_the_right_bits() -> None:
    """Fresh memory is full of zeros, and so are many gradients."""

    def backward(x: Tensor, grad_output: Tensor) -> Any:
        found = torch.empty_like(x)
        found[:, 1:] = grad_output * x[:, 1:].exp()
        return (found,)

    class Zeroed(TorchDispatchMode):
        """Memory that the system has filled with zeros."""

        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            found = func(*args, **kwargs or {})
            return found.zero_() if "empty" in func.__name__ else found

    with Zeroed():
        report = compare.check(backward, lambda x: x[:, 1:].exp(), (torch.randn(3, 4),))
    assert report.quantities["x"].equal == 12
    assert report.verdict == "WRONG", str(report)
    assert "uses uninitialised memory" in str(report)


def test_an_unchecked_formula_is_reported_for_exact_quantities_too() -> None:
    report = compare.check(
        lambda x, grad_output: (grad_output * torch.special.bessel_j0(x),),
        lambda x: x * torch.special.bessel_j0(x.detach()), (torch.rand(4),),
    )  # fmt: skip
    assert report.verdict == "EXACT"
    told = " ".join(str(report).split())
    assert "bits only x: the formula was not checked (by hand, aten.special_bessel_j0" in told


@pytest.mark.parametrize("dtype", DTYPES)
def test_numbers_in_a_tensor_are_read_as_written(dtype: torch.dtype) -> None:
    """`torch.tensor([0.1, 0.2])` holds the numbers 0.1 and 0.2; 0.1 and 0.101 differ."""

    def backward(x: Tensor, grad_output: Tensor, second: float = 0.2) -> Any:
        return (torch.stack([grad_output[0] * 0.1, grad_output[1] * second]),)

    def forward(x: Tensor) -> Tensor:
        return x * torch.tensor([0.1, 0.2], dtype=dtype)

    x = torch.tensor([1.25, -0.7], dtype=dtype)
    report = compare.check(backward, forward, (x,))
    assert report.ok, str(report)
    wrong = compare.check(lambda x, grad_output: backward(x, grad_output, 0.201), forward, (x,))
    assert wrong.verdict == "WRONG", str(wrong)


def test_numbers_in_a_tensor_may_be_half_an_ulp_from_the_literals() -> None:
    """So may values computed from them, in addition to their own rounding."""
    tenths = torch.tensor([k / 10 for k in range(1, 500)], dtype=torch.float64)
    report = compare.check(
        lambda x, grad_output: (grad_output * 3 * tenths / 3,), lambda x: x * tenths,
        (torch.rand(499, dtype=torch.float64),),
    )  # fmt: skip
    assert report.verdict == "ROUNDING", str(report)


def test_numbers_in_a_tensor_may_also_be_read_as_stored() -> None:
    """The by-hand side uses the stored data, which hold 0.1 as a float does."""
    X = torch.tensor([[0.1, 0.2], [0.7, 3.14]], dtype=torch.float64)
    report = compare.check(
        lambda w, grad_output: (X.mT @ grad_output,), lambda X, w: X @ w,
        {"X": X, "w": torch.randn(2, 3, dtype=torch.float64, requires_grad=True)},
    )  # fmt: skip
    assert report.verdict == "EXACT", str(report)


def test_zeros_of_opposite_sign_are_reported_as_such() -> None:
    x = torch.tensor([-1.0, 2.0])
    report = compare.check(lambda x: (-1.0 * (x > 0),), lambda x: -F.relu(x).sum(), (x,))
    assert "by hand -0.0   autograd 0.0   (zeros of opposite sign)" in str(report)


def test_an_infinite_bound_is_reported() -> None:
    """The report has the place of the first element without a bound, and their number."""
    most = torch.finfo(torch.float32).max

    def forward(x: Tensor) -> Tensor:
        return x * (x.detach() * most / most)

    def backward(x: Tensor, grad_output: Tensor) -> tuple[Tensor]:
        return (grad_output * 3 * (x * most / most) / 3,)

    x = torch.cat([torch.ones(32), torch.full((32,), 0.3)])
    report = compare.check(backward, forward, (x,))
    assert report.verdict == "ROUNDING"
    told = str(report)
    assert re.search(r"its rounding bound is not finite at \[\d+\] \(\d+ of 64 ele", told)
    assert "nan times" not in told


@pytest.mark.parametrize("command", ["check", "mutants"])
def test_a_binary_file_is_refused_in_one_line(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "binary.py"
    file.write_bytes(b"x = 1\n\0\0")
    assert main([command, str(file)]) == 2
    assert capsys.readouterr().err == f"compare: {file} is no Python file: it holds bytes of 0\n"


def test_a_pass_for_a_cotangent_of_1_is_reported_in_every_format() -> None:
    """It takes all values and ignores grad_output; code that reads it gets a random one."""

    def square(x: Tensor) -> Tensor:
        return (x * x).sum()

    report = compare.check(lambda **given: {"x": 2 * given["x"]}, square, {"x": torch.ones(3)})
    assert report.conditions == ("grad_output = 1",)
    assert report.to_dict()["conditions"] == ["grad_output = 1"]
    assert "for grad_output = 1" in report.markdown().splitlines()[0]
    assert "for grad_output = 1" in str(report)

    def by_numpy(**given: Any) -> dict[str, Tensor]:
        x, above = given["x"].detach().numpy(), given["grad_output"].numpy()
        return {"x": torch.from_numpy(2 * x * above)}

    for asks in (lambda **given: {"x": 2 * given["x"] * given["grad_output"]}, by_numpy):
        report = compare.check(asks, square, {"x": torch.ones(3)})
        assert (report.verdict, report.conditions) == ("EXACT", ())


def test_a_pass_that_forgets_the_cotangents_of_several_outputs_is_wrong() -> None:
    """Only a scalar has the cotangent 1, and only if backward takes no grad_output."""
    report = compare.check(lambda x: {"x": 2 * x}, lambda x: x * x, {"x": torch.ones(3)})
    assert (report.verdict, report.conditions) == ("WRONG", ())


def _stabilised(x: Tensor, grad_output: Tensor) -> tuple[Tensor]:
    return (grad_output * x / (torch.sqrt(x * x + 1) + 1e-9),)


def _root(x: Tensor) -> Tensor:
    return torch.sqrt(x * x + 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_another_formula_may_be_accepted_by_its_writer(dtype: torch.dtype) -> None:
    """In ulps of the dtype: 1e-9 is 0.01 ulp of float32 and some millions of ulps of float64."""
    x = torch.linspace(-2, 2, 7, dtype=dtype) + 0.1
    strict = compare.check(_stabilised, _root, (x,))
    assert strict.verdict == "WRONG"
    assert "elements differ, by at most" in str(strict)
    gap = 0.02 if dtype == torch.float32 else 1e7
    accepted = compare.check(_stabilised, _root, (x,), formula_ulps=gap)
    assert accepted.verdict == "ROUNDING", str(accepted)
    assert f"which formula_ulps={gap:g} accepts" in str(accepted)
    assert "x: formulas differ by " in " ".join(str(accepted).split())
    assert "to match autograd bit for bit" not in str(accepted)
    compare.assert_same(_stabilised, _root, (x,), formula_ulps=gap)
    assert compare.check(_stabilised, _root, (x,), formula_ulps=gap / 1e3).verdict == "WRONG"
    twice = lambda x, grad_output: (2 * _stabilised(x, grad_output)[0],)  # noqa: E731
    assert compare.check(twice, _root, (x,), formula_ulps=gap).verdict == "WRONG"


@pytest.mark.parametrize("ulps", [-1, math.nan, math.inf, 10**400, "1", None, True])
def test_formula_ulps_is_a_number_of_ulps(ulps: Any) -> None:
    with pytest.raises(compare.BadInput, match=r"formula_ulps is .*: give a number of ulps"):
        compare.check(_stabilised, _root, (torch.ones(2),), formula_ulps=ulps)


def test_equal_bits_of_an_accepted_formula_are_not_exact() -> None:
    x = torch.tensor([0.5, -1.25, 2.0])
    backward = lambda grad_output: (grad_output * 3.0000000000001,)  # noqa: E731
    report = compare.check(backward, lambda x: x * 3, (x,), formula_ulps=0.01)
    assert report.quantities["x"].equal == 3
    assert report.verdict == "ROUNDING", str(report)
    assert not report.meets("exact")


def test_no_bit_exact_form_is_suggested_for_an_accepted_formula() -> None:
    """The user wants another formula than autograd's."""

    def backward(x: Tensor, grad_output: Tensor) -> tuple[Tensor]:
        return (grad_output / (2 * torch.sqrt(x * x + 1) + 1e-9) * 2 * x,)

    report = compare.check(backward, _root, (torch.linspace(-2, 2, 6) + 0.1,), formula_ulps=1)
    assert report.verdict == "ROUNDING", str(report)
    assert "to match autograd bit for bit" not in str(report)


@pytest.mark.parametrize("gap", [0.0, 0.02])
def test_quantities_after_an_accepted_gradient_have_no_gap(gap: float) -> None:
    def forward(x: Tensor) -> Tensor:
        z = compare.name(x * 1.7, "z")
        return torch.sqrt(z * z + 1)

    def backward(z: Tensor, grad_output: Tensor) -> dict[str, Tensor]:
        dz = grad_output * z / (torch.sqrt(z * z + 1) + 1e-9)
        return {"z": dz, "x": dz * 1.7}

    x = torch.linspace(-2, 2, 19) + 0.05
    report = compare.check(backward, forward, (x,), formula_ulps=gap)
    assert report.quantities["z"].verdict == ("ROUNDING" if gap else "WRONG")
    assert report.quantities["x"].verdict == "EXACT", str(report)
