"""The two sides share the question and never the working: their source is read to prove it."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FORBIDDEN_BY_HAND = {
    "autograd",
    "backward",
    "requires_grad",
    "requires_grad_",
    "nn",
    "grad",
    "func",
}


def imports(source: str) -> set[str]:
    """Return the dotted names of everything that `source` imports, from every level."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module or ''}.{alias.name}" for alias in node.names}
            found |= {"." * node.level} if node.level else set()
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") in (
            "__import__",
            "exec",
            "eval",
        ):
            found.add("a call that hides an import")
    return found


def names(source: str) -> set[str]:
    """Return every identifier, attribute, keyword and string constant but docstrings."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Name(id=name) | ast.Attribute(attr=name) | ast.arg(arg=name):
                found.add(name)
            case ast.keyword(arg=str(name)) | ast.alias(name=name):
                found |= set(name.split("."))
            case ast.Constant(value=str(text)) if text.isidentifier():
                found.add(text)
    return found


def sources(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


@pytest.mark.parametrize("path", sources("manual"), ids=str)
def test_manual_works_by_hand(path: Path) -> None:
    source = path.read_text()
    top = {name.split(".")[0] for name in imports(source)}
    assert top <= {"torch", "manual", "collections"}
    assert not names(source) & FORBIDDEN_BY_HAND


@pytest.mark.parametrize("path", sources("torch_ref"), ids=str)
def test_torch_ref_knows_nothing_of_the_others(path: Path) -> None:
    top = {name.split(".")[0] for name in imports(path.read_text())}
    assert top <= {"torch", "torch_ref", "collections", "itertools"}


@pytest.mark.parametrize(
    ("source", "caught"),
    [
        ("import torch.nn.functional as F", True),
        ("from torch import autograd", True),
        ("def f(x):\n    x.requires_grad = True", True),
        ("getattr(loss, 'backward')()", True),
        ("import torch\ntorch.func", True),
        ("import torch\ntorch.sigmoid(x)", False),
    ],
)
def test_the_reader_catches(source: str, caught: bool) -> None:
    """The check is itself checked."""
    assert bool(names(source) & FORBIDDEN_BY_HAND) == caught


def test_imports_inside_compare_run_one_way() -> None:
    """From the command line down to the bits, never up."""
    floors = ["cli", "board", "harness", "tally", "report", "given", "batch", "cases", "errors"]
    for height, module in enumerate(floors):
        above = {f"compare.{name}" for name in floors[:height]} | {"compare.__main__"}
        used = {
            name.rsplit(".", 1)[0] for name in imports((ROOT / f"compare/{module}.py").read_text())
        }
        assert not used & above, module
    bits = imports((ROOT / "compare/bits.py").read_text())
    assert not {name for name in bits if name.startswith(("compare", "manual", "torch_ref"))}
