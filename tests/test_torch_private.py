"""All private names of torch are in one module; a report says which one this torch lacks."""

import ast
import pkgutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import compare
from compare import torch_private
from compare.environment import environment
from compare.errors import BadInput
from compare.mutants.operators import numeric_arguments
from compare.passes.inputs import check_modes
from compare.proof.program import Opaque
from compare.proof.trace import trace
from compare.training.sides import ManualSide
from tests.test_independence import ROOT, sources

ATEN = {"aten", "_ATEN"}  # an operator's name is the same in core ATen as in its documents


def private(source: str) -> Iterator[tuple[int, str]]:
    """Yield each private name of torch that `source` uses, with its line."""
    ours: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            ours.add(node.name)
        elif isinstance(node, ast.Attribute) and ast.unparse(node.value) == "self":
            ours.add(node.attr)
    ours |= {"_exit", "_getframe", "_replace", "_fields"}  # of os, sys and named tuples
    for node in ast.walk(ast.parse(source)):
        used: list[str] = []
        if isinstance(node, ast.Import):
            used = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            used = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Attribute) and ast.unparse(node.value).split(".")[-1] not in ATEN:
            used = [f"torch.{node.attr}"] if node.attr not in ours else []
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            used = [node.value] if node.value not in ours | {"_ATEN"} else []
            used = [f"torch.{name}" for name in used if name in _known()]
        for name in used:
            parts = name.split(".")
            if parts[0] == "torch" and any(p[:1] == "_" and p[:2] != "__" for p in parts):
                yield getattr(node, "lineno", 0), name


def _known() -> set[str]:
    """Return the last parts of the private names, which as strings are arguments of getattr."""
    return {name.replace(":", ".").split(".")[-1] for name in torch_private.WITHOUT}


def places(package: str) -> list[str]:
    return [
        f"{path.relative_to(ROOT)}:{line} uses {name}: give it a place in compare/torch_private.py"
        for path in sources(package)
        if path.name != "torch_private.py"
        for line, name in private(path.read_text())
    ]


@pytest.mark.parametrize("package", ["compare", "manual", "torch_ref"])
def test_no_other_module_uses_a_private_name(package: str) -> None:
    assert places(package) == []


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("from torch._decomp import table", "torch._decomp.table"),
        ("import torch._dynamo", "torch._dynamo"),
        ("from torch.utils import _pytree", "torch.utils._pytree"),
        ("torch._C._get_tracing_state()", "torch._C"),
        ("tensor._version", "torch._version"),
        ("getattr(tensor, '_version')", "torch._version"),
        ("operation._schema.arguments", "torch._schema"),
        ("torch.ops.aten._softmax.default", None),
        ("def _f(): ...\nmodule._f", None),
        ("self._kept = 1\nother._kept", None),
    ],
)  # fmt: skip
def test_the_search_finds_planted_names(source: str, name: str | None) -> None:
    """The search itself is tested."""
    assert name is None or name in {found for _, found in private(source)}
    assert name is not None or not list(private(source))


Lacks = Callable[[str], str]


@pytest.fixture
def lacks(monkeypatch: pytest.MonkeyPatch) -> Iterator[Lacks]:
    """Return a function that hides a private name of torch and returns the note of a report."""
    whole = pkgutil.resolve_name

    def take_away(name: str) -> str:
        (full,) = (known for known in torch_private.WITHOUT if known.endswith(name))

        def resolve(asked: str) -> Any:
            if asked == full:
                raise AttributeError(asked)
            return whole(asked)

        monkeypatch.setattr(pkgutil, "resolve_name", resolve)
        forget()
        return str(environment(torch.device("cpu")).get("note"))

    def forget() -> None:
        torch_private.lookup.cache_clear()
        torch_private.decompositions.cache_clear()

    yield take_away
    monkeypatch.undo()
    forget()


def test_this_torch_has_them_all_and_is_known() -> None:
    assert torch_private.missing() == []
    assert "note" not in environment(torch.device("cpu"))


def test_a_newer_torch_is_noted_in_the_report(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "__version__", "2.14.1+cpu")
    report = compare.check(lambda x: {"x": x + x}, lambda x: (x * x).sum(), {"x": torch.ones(3)})
    note = "torch 2.14.1+cpu: it is newer than 2.13, the newest tested"
    assert report.to_dict()["environment"]["note"] == note
    assert f"note           {note}" in str(report)
    for known in ("2.9.0", "2.13.1"):
        monkeypatch.setattr(torch, "__version__", known)
        assert "note" not in environment(torch.device("cpu"))


def graph_of(function: Callable[..., Any], **inputs: Tensor) -> str:
    return str(trace(lambda **given: {"out": function(**given)}, inputs).graph)


def several(x: Tensor) -> Tensor:
    """Composite operations, and some that torch's table decomposes."""
    return F.layer_norm(F.gelu(x).softmax(1), (3,)) @ F.linear(x, x).sum(0).expand(3, 4)


X = torch.linspace(-1, 2, 12, dtype=torch.float64).reshape(4, 3)


def test_the_public_table_gives_the_same_program(lacks: Lacks) -> None:
    expected = graph_of(several, x=X)
    assert lacks("_post_autograd").endswith("so the first program takes longer to trace")
    assert graph_of(several, x=X) == expected


def test_without_numpys_functions_code_in_numpy_is_opaque(lacks: Lacks) -> None:
    def doubled(x: Tensor) -> Tensor:
        return torch.from_numpy(x.numpy().sum(axis=0) * 2)

    assert "sum" in graph_of(doubled, x=X)
    assert lacks("_numpy").endswith("so NumPy code cannot be traced as a program, and only equal "
                                    "bits pass")  # fmt: skip
    with pytest.raises(Opaque, match=r"torch .* has no NumPy functions to record with"):
        graph_of(doubled, x=X)


def test_without_a_dispatch_mode_only_bits_are_shown() -> None:
    """It is a base class, so it is looked up once, when the recorder is imported."""
    code = (
        "import pkgutil, torch\n"
        "whole = pkgutil.resolve_name\n"
        "def resolve(name):\n"
        "    if name.endswith('TorchDispatchMode'): raise AttributeError(name)\n"
        "    return whole(name)\n"
        "pkgutil.resolve_name = resolve\n"
        "from compare import check\n"
        "x = torch.linspace(0.1, 1.7, 12, dtype=torch.float64)\n"
        "def square(x): return (x * x).sum()\n"
        "def cube(x): return (x * x * x).sum()\n"
        "print(check(lambda x: {'x': x + x}, square, {'x': x}).verdict)\n"
        "print(check(lambda x: {'x': 2.9 * x * x + 0.1 * x * x}, cube, {'x': x}))\n"
        "from compare.training.control_flow import may_branch\n"
        "print(may_branch(lambda x: bool(x.sum() > 0), {'x': x}))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    exact, *report, branching = done.stdout.splitlines()
    assert (exact, branching) == ("EXACT", "False")
    told = " ".join(report)
    assert "WITHIN  x: by numbers within autograd's rounding" in told
    assert f"torch {torch.__version__} has no TorchDispatchMode to record with" in told
    assert (
        "TorchDispatchMode, so no code can be traced as a program, and only equal bits pass" in told
    )


def test_without_schemas_no_constant_is_changed(lacks: Lacks) -> None:
    graph = trace(lambda x: {"out": x + 3}, {"x": X}).graph
    (add,) = (node for node in graph.nodes if "add" in str(node.target))
    assert [number for _, number in numeric_arguments(add)] == [3]
    assert lacks("_schema").endswith("so no mutant changes a constant")
    assert list(numeric_arguments(add)) == []


def test_without_the_graph_task_autograds_branches_are_the_codes(lacks: Lacks) -> None:
    def marks() -> list[bool]:
        def gradient(x: Tensor) -> dict[str, Tensor]:
            leaf = x.requires_grad_()
            with torch.enable_grad():
                return {"x": torch.autograd.grad((leaf * leaf).norm(), leaf)[0]}

        nodes = trace(gradient, {"x": X}).graph.nodes
        return [node.meta["autograd"] for node in nodes if "autograd" in node.meta]

    assert any(marks())
    said = "so autograd's value at the 0 of a norm is taken for a branch of the user's code"
    assert lacks("_current_graph_task_id").endswith(said)
    assert not any(marks())


def test_without_the_functorch_stack_a_transform_is_not_refused(lacks: Lacks) -> None:
    def inside(x: Tensor) -> Tensor:
        check_modes()
        return x

    with pytest.raises(BadInput, match=r"inside torch\.vmap"):
        torch.vmap(inside)(X)
    said = "so a check inside torch.vmap or torch.func.grad is not refused, and may fail"
    assert lacks("peek_interpreter_stack").endswith(said)
    assert torch.equal(torch.vmap(inside)(X), X)


def test_without_versions_large_weights_are_copied(lacks: Lacks) -> None:
    given: list[Tensor] = []

    def step(w: Tensor) -> dict[str, Tensor]:
        given.append(w)
        return {"w": w + 1}

    def lent() -> bool:
        given.clear()
        before, _, _ = ManualSide(step, avoid_copies=True).take([{}, {}], {"w": X})
        return given[1] is before[1]["w"]

    assert lent()
    assert lacks("_version").endswith("so large weights are copied at every step")
    assert not lent()


def test_without_the_slow_mode_name_gradcheck_takes_longer(
    lacks: Lacks, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert lacks("_get_error").endswith("so mutants takes longer for gradcheck")
    home = sys.modules["torch.autograd.gradcheck"]
    monkeypatch.delattr(home, "_run_slow_mode_and_get_error")
    with torch_private.no_slow_gradcheck():
        pass
    assert not hasattr(home, "_run_slow_mode_and_get_error")
