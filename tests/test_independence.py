"""The two sides share the description of the network and no code; their sources are checked."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FORBIDDEN_BY_HAND = {
    "autograd", "requires_grad", "requires_grad_", "nn", "grad", "func", "ops", "_C",
}  # fmt: skip
FORBIDDEN_PARTS = ("backward", "vjp", "jvp", "jacobian")
# one elementwise kernel, (error * (1 - l)) * l, under torch's name for it
ALLOWED = {"fused": {"ops", "sigmoid_backward"}}


def imports(source: str) -> set[str]:
    """Return the dotted names of everything that `source` imports, at any nesting level."""
    used = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            used |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            used |= {f"{node.module or ''}.{alias.name}" for alias in node.names}
            used |= {"." * node.level} if node.level else set()
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") in (
            "__import__",
            "exec",
            "eval",
        ):
            used.add("a call that hides an import")
    return used


def names(source: str) -> set[str]:
    """Return each identifier, attribute and keyword, and each string that is an identifier."""
    used = set()
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Name(id=name) | ast.Attribute(attr=name) | ast.arg(arg=name):
                used.add(name)
            case ast.keyword(arg=str(name)) | ast.alias(name=name):
                used |= set(name.split("."))
            case ast.Constant(value=str(text)) if text.isidentifier():
                used.add(text)
    return used


def forbidden(source: str) -> set[str]:
    """Return the names in `source` that belong to automatic differentiation."""
    used = names(source)
    return used & FORBIDDEN_BY_HAND | {n for n in used if any(p in n for p in FORBIDDEN_PARTS)}


def sources(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


@pytest.mark.parametrize("path", sources("manual"), ids=str)
def test_manual_uses_no_automatic_differentiation(path: Path) -> None:
    source = path.read_text()
    top = {name.split(".")[0] for name in imports(source)}
    assert top <= {"torch", "manual", "collections", "dataclasses", "functools", "math", "typing"}
    assert not forbidden(source) - ALLOWED.get(path.stem, set())


@pytest.mark.parametrize("path", sources("torch_ref"), ids=str)
def test_torch_ref_imports_neither_manual_nor_compare(path: Path) -> None:
    top = {name.split(".")[0] for name in imports(path.read_text())}
    standard = {"collections", "dataclasses", "functools", "itertools", "typing"}
    assert top <= {"torch", "torch_ref"} | standard


@pytest.mark.parametrize(
    ("source", "caught"),
    [
        ("import torch.nn.functional as F", True),
        ("from torch import autograd", True),
        ("def f(x):\n    x.requires_grad = True", True),
        ("getattr(loss, 'backward')()", True),
        ("import torch\ntorch.func", True),
        ("torch.ops.aten.sigmoid_backward(g, y)", True),
        ("torch.sigmoid_backward(g, y)", True),
        ("torch._C._nn.linear_backward", True),
        ("import torch\ntorch.sigmoid(x)", False),
    ],
)
def test_the_reader_catches(source: str, caught: bool) -> None:
    """The source check itself finds forbidden names and accepts allowed ones."""
    assert bool(forbidden(source)) == caught


def module(path: Path) -> str:
    """Return the dotted name of a module inside compare/."""
    return ".".join(path.relative_to(ROOT / "compare").with_suffix("").parts)


FILES = {module(path): path.read_text() for path in sources("compare")}


def modules_used(source: str) -> set[str]:
    """Return the modules of compare/ that `source` imports, in any form of import."""
    parts = [name.split(".")[1:] for name in imports(source) if name.startswith("compare.")]
    return {".".join(part[:k]) for part in parts for k in (1, 2)} & FILES.keys()


def assert_one_way(above: dict[str, set[str]]) -> None:
    """Assert that the imports have no cycle; `above` maps a module to those it imports."""
    while leaves := [name for name, used in above.items() if not used & set(above)]:
        for name in leaves:
            del above[name]
    assert not above  # the remaining modules import each other in a cycle


def test_imports_inside_compare_run_one_way() -> None:
    """Imports lead from the command line down to proof.bits, without a cycle."""
    above = {name: modules_used(text) for name, text in FILES.items()}
    above["__init__"] = set()  # it imports names lazily, at their first use
    assert above["proof.bits"] == set()
    assert_one_way(above)


#: The folders of compare/, lowest first: each may import only those before it. The first, "",
#: stands for the modules directly in compare/, which all may import.
FLOORS = (
    "", "proof", "diagnosis", "report", "passes", "contract", "guard", "checking", "cases", "ranks",
    "training", "checkpoint", "board", "mutants", "practice", "bench", "cli",
)  # fmt: skip
DOORS = {"__init__", "__main__"}  # entry points, which may import from every folder


def steps_back(files: dict[str, str]) -> list[str]:
    """Return every import of a higher folder, including lazy imports and those for types."""
    return [
        f"{name} imports {other}"
        for name, text in files.items()
        if name not in DOORS
        for other in sorted(modules_used(text))
        if FLOORS.index(other.rpartition(".")[0]) > FLOORS.index(name.rpartition(".")[0])
    ]


def test_imports_between_the_folders_run_one_way() -> None:
    """The proof engine does not import its users, and a run does not import its viewers."""
    assert {name.rpartition(".")[0] for name in FILES} == set(FLOORS)
    assert steps_back(FILES) == []


@pytest.mark.parametrize(
    "line", ["from compare.board.serve import serve", "import compare.cli.run"]
)
def test_an_import_of_a_higher_folder_is_caught(line: str) -> None:
    lazy = f"def f():\n    {line}"
    for_types = f"from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    {line}"
    for source in (line, lazy, for_types):
        assert len(steps_back(FILES | {"training.harness": source})) == 1


def folder_imports(files: dict[str, str]) -> dict[str, set[str]]:
    """Return the folders that each folder of compare/ imports, and manual or torch_ref."""
    arrows: dict[str, set[str]] = {}
    for name, text in files.items():
        folder = name.rpartition(".")[0]
        others = {other.rpartition(".")[0] for other in modules_used(text)}
        others |= {part.split(".")[0] for part in imports(text)} & {"manual", "torch_ref"}
        arrows.setdefault(folder, set()).update(others - {folder, ""})
    arrows.pop("")
    return arrows


def reached(arrows: dict[str, set[str]]) -> dict[str, set[str]]:
    """Return every folder that can be reached along arrows, for each folder that has one."""

    def from_(folder: str) -> set[str]:
        direct = arrows.get(folder, set())
        return direct.union(*map(from_, direct))

    return {folder: ends for folder in arrows if (ends := from_(folder))}


def drawn_arrows(page: str) -> dict[str, set[str]]:
    """Return the arrows of the mermaid diagram on the page."""
    (picture,) = re.findall(
        r"^```mermaid\nflowchart TD\n(.*?)^```$", page, re.MULTILINE | re.DOTALL
    )
    lines = [line.split(" --> ") for line in picture.splitlines()]
    return {folder.strip(): set(others.split(" & ")) for folder, others in lines}


def test_the_picture_of_the_folders_shows_the_imports() -> None:
    """Every import follows from the arrows, and no arrow is implied by others."""
    drawn = drawn_arrows((ROOT / "docs" / "architecture.md").read_text())
    assert reached(drawn) == reached(folder_imports(FILES))
    for folder, others in drawn.items():
        for other in others:
            assert reached(drawn | {folder: others - {other}}) != reached(drawn), (folder, other)


def test_a_check_knows_neither_the_networks_nor_a_run() -> None:
    """A check of a user's own pass loads no code of the blog's network."""
    for name, text in FILES.items():
        used = {other.rpartition(".")[0] for other in modules_used(text)}
        if FLOORS.index(folder := name.rpartition(".")[0]) <= FLOORS.index("checking"):
            assert name in DOORS or not used & {"cases", "training"}, name
        if folder not in ("torch_ref", "training"):
            assert not any(part.split(".")[0] == "torch_ref" for part in imports(text)), name
        if folder not in ("bench", "practice", "cli"):
            assert not used & {"bench", "practice"}, name


@pytest.mark.parametrize(
    ("source", "used"),
    [
        ("from compare import errors", "errors"),
        ("import compare.cli.main", "cli.main"),
        ("from compare.cli.main import main", "cli.main"),
        ("from compare.proof import bits", "proof.bits"),
        ("from compare.proof.bits import ulps", "proof.bits"),
    ],
)
def test_the_module_reader_catches(source: str, used: str) -> None:
    assert modules_used(source) == {used}


_NAME_PARSING = re.compile(
    r"""(startswith|endswith|removesuffix|removeprefix|replace|partition|split|strip)"""
    r"""\(\(?["'](syn|bias|mask|mean|var|l|z|\[|_?(delta|update|error|part))["']"""
)


@pytest.mark.parametrize("package", ["manual", "torch_ref", "compare"])
def test_names_of_quantities_are_taken_apart_in_one_place(package: str) -> None:
    """The kind of a quantity is stored as structure; only two modules parse its name."""
    homes = ("cases/cases.py", "proof/program.py")  # quantity_kind; base_name of check's names
    used = [
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for path in sources(package)
        for line in path.read_text().splitlines()
        if _NAME_PARSING.search(line) and not str(path).endswith(homes)
    ]
    assert used == []


@pytest.mark.parametrize(
    "line", ['name.replace("_update", "_part")', "name.startswith(('syn', 'b'))"]
)
def test_parsing_of_a_name_is_caught(line: str) -> None:
    assert _NAME_PARSING.search(line)
