"""A bug in any piece of `manual/` makes the quantity of its line WRONG, and no other."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import manual
from compare.cases.cases import Case, Network
from compare.training.harness import run

X = ((0.0, 0.0, 1.0), (0.3, 1.0, -1.0), (1.0, 0.2, 1.0), (1.0, -1.0, 0.5), (0.1, 0.9, 0.4))
Y = ((0.0, 1.0), (1.0, 0.0), (1.0, 0.0), (0.0, 1.0), (1.0, 0.0))
HOME = Path(manual.__file__).parent

# The module, its code, the code planted instead, the network, the first wrong quantity.
PLANTS: tuple[tuple[str, str, str, dict[str, Any], str], ...] = (
    ("batch_norm", "(wide - along)", "(wide - along + beta_update / rows)", {"batch_norm": True}, "z1_delta"),
    ("batch_norm", "/ rows  ", "/ (rows - 1)  ", {"batch_norm": True}, "z1_delta"),
    ("batch_norm", "var * (rows / (rows - 1))", "var", {"batch_norm": True}, "var1"),
    ("batch_norm", "(1 - momentum) * before", "momentum * before", {"batch_norm": True}, "var1"),
    ("batch_norm", "torch.sqrt(var + eps)", "torch.sqrt(var)", {"batch_norm": True}, "norm1"),
    ("batch_norm", "(wide * zhat).sum", "wide.sum", {"batch_norm": True}, "z1_delta"),
    ("dropout", "mask / (1 - dropout)", "mask", {"dropout": 0.3}, "l1"),
    ("regularization", "pull - one * l2_penalty", "pull + one * l2_penalty", {"l2_penalty": 0.1}, "syn1_update"),
    ("regularization", "torch.sign(syn)", "syn", {"l1_penalty": 0.1}, "syn1_update"),
    ("optimizers", "buffer -= update", "buffer -= (1 - momentum) * update", {"momentum": 0.9}, "syn0_momentum_buffer"),
    ("optimizers", "if nesterov else buffer", "if not nesterov else buffer", {"momentum": 0.9}, "syn0"),
    ("optimizers", "(1 - beta1**t)", "(1 - beta1 ** (t + 1))", {"optimizer": "adam", "alpha": 0.1}, "syn0"),
    ("optimizers", "gradient, gradient, value=1 - beta2", "gradient, gradient, value=1 - beta1", {"optimizer": "adam", "alpha": 0.1}, "syn0_exp_avg_sq"),
    ("optimizers", "(1 - alpha * weight_decay)", "(1 + alpha * weight_decay)", {"optimizer": "adamw", "alpha": 0.1, "weight_decay": 0.1}, "syn0"),
    ("delta_trimming", "delta.abs() > limit", "delta > limit", {"trim": 1e-3, "trimming": "zero"}, "l2_delta"),
    ("losses", "-2 * _one_of", "-1 * _one_of", {"loss": "mse", "output": "identity"}, "l2_error"),
    ("losses", "l, -1))) * _one_of(l.shape[-2] * ranks, l)", "l, -1)))", {"loss": "cross_entropy", "output": "identity"}, "l2_error"),
    ("activations", "addcmul(torch.ones_like(l), l, l, value=-1)", "addcmul(torch.ones_like(l), z, z, value=-1)", {"activation": "tanh", "alpha": 0.1}, "l1_delta"),
    ("activations", "error * 0.01", "error * 0.011", {"activation": "leaky_relu", "alpha": 0.1}, "l1_delta"),
)  # fmt: skip


@pytest.fixture
def plant(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str, str], None]:
    """Replace a piece of a module's source for one test."""

    def planted(name: str, old: str, new: str) -> None:
        source = (HOME / f"{name}.py").read_text()
        assert source.count(old) >= 1, f"{name}.py has no {old!r}"
        module = __import__(f"manual.{name}", fromlist=[name])
        changed = ModuleType(module.__name__)
        exec(compile(source.replace(old, new), f"{name}.py", "exec"), changed.__dict__)
        network = __import__("manual.network", fromlist=["network"])
        for key, value in list(vars(network).items()):
            for attribute, original in vars(module).items():
                replaces = attribute in vars(changed) and not attribute.startswith("__")
                if value is original and replaces:
                    monkeypatch.setattr(network, key, vars(changed)[attribute])

    return planted


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(("module", "old", "new", "options", "first"), PLANTS)
def test_a_bug_is_located(
    module: str, old: str, new: str, options: dict[str, Any], first: str, dtype: str,
    plant: Callable[[str, str, str], None],
) -> None:  # fmt: skip
    network = Network(**({"sizes": (3, 4, 2), "alpha": 0.3} | options))
    case = Case("planted", "", network, X, Y)
    plant(module, old, new)
    report = run(case, steps=3, dtype=dtype)
    assert (report.verdict, report.first_wrong) == ("WRONG", first), str(report)


def test_a_bug_that_leads_to_nan_is_named_before_the_nan(
    plant: Callable[[str, str, str], None],
) -> None:
    """l1 is NaN some steps later, on both sides; the first wrong line is the derivative's."""
    plant("activations", "addcmul(torch.ones_like(l), l, l", "addcmul(torch.ones_like(l), z, z")
    network = Network(sizes=(3, 4, 2), alpha=20.0, activation="tanh", output="identity")
    report = run(Case("planted", "", network, X, Y), steps=40)
    assert report.quantities["l1"].nans
    assert (report.verdict, report.first_wrong) == ("WRONG", "l1_delta")
    assert "l1_delta is the first wrong quantity, at step 0" in str(report)


def test_a_bug_before_an_identity_makes_one_quantity_wrong(
    plant: Callable[[str, str, str], None],
) -> None:
    """l2_delta is l2_error, under another name for the same tensor."""
    plant("losses", "-2 * _one_of", "-1 * _one_of")
    network = Network(sizes=(3, 4, 2), alpha=0.3, loss="mse", output="identity")
    report = run(Case("planted", "", network, X, Y), steps=3)
    wrong = [q.name for q in report.quantities.values() if q.verdict != "EXACT"]
    assert wrong == ["l2_error"], str(report)
