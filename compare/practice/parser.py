"""Parses a practice file: the code before its loop, and each statement of the loop.

The file is parsed and not run. This module does not import torch.
"""

import ast
import warnings
from dataclasses import dataclass
from pathlib import Path
from types import CodeType

from compare.errors import BadInput
from compare.practice.result import STOPS, Problem, Result

STEP = "__step__"
_LARGEST = 1_000_000  # bytes: far more than anyone types


@dataclass(frozen=True)
class Statement:
    """One statement of the loop."""

    line: int
    text: str
    assigns: frozenset[str]  # names
    reads: frozenset[str]  # names
    blank: bool  # whether it is still to be filled in
    code: CodeType
    dump: str  # equal for two statements that differ only in spaces and comments


@dataclass(frozen=True)
class Exercise:
    """A parsed practice file: the code before the loop, the loop, and the code after it.

    `statements` are those of the loop, one by one. `loop` is the whole loop; it calls `STEP` at the
    beginning of every step.
    """

    lines: list[str]
    before: CodeType
    assigned: dict[str, int]  # before the loop: name -> the last line that assigns it
    functions: dict[str, int]  # defined before the loop: name -> line
    counter: str  # the loop variable
    line: int
    loop: CodeType
    statements: list[Statement]
    after: CodeType

    @property
    def last(self) -> dict[str, int]:
        """Name -> index of the last statement of the loop that assigns it."""
        return {name: k for k, s in enumerate(self.statements) for name in s.assigns}


def text_of(path: Path) -> str:
    """Return the text of a practice file; raise BadInput if it is not a text file of usual size."""
    if not path.exists():
        raise BadInput(f"{path}: no such file; python -m compare practice new {path} writes one")
    if not path.is_file():
        kind = "a folder" if path.is_dir() else "not a regular file"
        raise BadInput(f"{path} is {kind}: name the practice file")
    try:
        if (size := path.stat().st_size) > _LARGEST:
            raise BadInput(f"{path} has {size:,} bytes: a practice file has a few thousand")
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        byte = error.object[error.start]
        raise BadInput(
            f"{path} is not UTF-8 (byte {byte:#x} in line {line}): save it as UTF-8"
        ) from None
    except OSError as error:
        raise BadInput(f"cannot read {path}: {error.strerror}") from error


def read(text: str, name: str, wanted: frozenset[str]) -> Exercise:
    """Parse a practice file whose loop assigns some of the `wanted` names.

    Args:
        text: the text of the file.
        name: its path, for messages and tracebacks.
        wanted: the names that the loop should assign.

    Raises:
        Problem: if the text is not Python.
        BadInput: if there is no such loop.
    """
    lines = text.splitlines()
    try:
        with warnings.catch_warnings(action="ignore"):
            tree = ast.parse(text)
            compile(text, name, "exec")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        line = getattr(error, "lineno", None) or 0  # a SyntaxError usually has one
        message = f"is not Python: {type(error).__name__}: {getattr(error, 'msg', error)}"
        raise Problem(
            Result(STOPS, message, line, lines[line - 1].strip() if line else "")
        ) from None
    loops = [node for node in tree.body if isinstance(node, ast.For)]
    node = next((n for n in loops if any(_assigns(s) & wanted for s in n.body)), None)
    if node is None:
        raise BadInput(
            f"{name} has no `for` loop at the left margin that assigns any of "
            f"{', '.join(sorted(wanted))}: put the line `for j in range(10_000):` back above them"
        )
    k = tree.body.index(node)
    above = tree.body[:k]
    statements = [_statement(s, lines, name) for s in node.body]
    call = ast.copy_location(ast.Expr(ast.Call(ast.Name(STEP, ast.Load()), [], [])), node)
    node.body.insert(0, ast.fix_missing_locations(call))
    return Exercise(
        lines=lines,
        before=_code(above, name),
        assigned={n: s.lineno for s in above for n in _assigns(s)},
        functions={s.name: s.lineno for s in above if isinstance(s, ast.FunctionDef)},
        counter=node.target.id if isinstance(node.target, ast.Name) else "j",
        line=node.lineno,
        statements=statements,
        loop=_code([node], name),
        after=_code(tree.body[k + 1 :], name),
    )


def _code(statements: list[ast.stmt], name: str) -> CodeType:
    return compile(ast.Module(statements, []), name, "exec")


def _statement(node: ast.stmt, lines: list[str], name: str) -> Statement:
    # inside a loop, so that `break` and `continue` compile
    once = ast.For(
        ast.Name("__", ast.Store()), ast.Tuple([ast.Constant(0)], ast.Load()), [node], []
    )
    ast.copy_location(once, node)
    return Statement(
        line=node.lineno,
        text=lines[node.lineno - 1].strip(),
        assigns=_assigns(node),
        reads=frozenset(n.id for n in ast.walk(node) if isinstance(n, ast.Name)),
        blank=_blank(node),
        code=_code([ast.fix_missing_locations(once)], name),
        dump=ast.dump(node),
    )


def _assigns(node: ast.stmt) -> frozenset[str]:
    """Return the names that a statement assigns, also by `l1[0] = ...` and `l1.mul_(...)`."""
    names = set()
    for n in ast.walk(node):
        match n:
            case (
                ast.Name(name, ast.Store())
                | ast.Subscript(ast.Name(name), ctx=ast.Store())
                | ast.Attribute(ast.Name(name), ctx=ast.Store())
            ):
                names.add(name)
            case ast.Call(ast.Attribute(ast.Name(name), method)):
                if method.endswith("_") and not method.endswith("__"):
                    names.add(name)
    return frozenset(names)


def _blank(node: ast.stmt) -> bool:
    """Whether a line is still to be filled in: its value is None or contains `...`."""
    if not isinstance(node, ast.Assign | ast.AugAssign | ast.AnnAssign):
        return False
    value = node.value
    if value is None or (isinstance(value, ast.Constant) and value.value is None):
        return True
    return _has_dots(value)


def _has_dots(node: ast.AST) -> bool:
    """Whether an expression contains `...` outside of an index, where it has a meaning."""
    if isinstance(node, ast.Subscript):
        return _has_dots(node.value)
    if isinstance(node, ast.Constant):
        return node.value is ...
    return any(_has_dots(child) for child in ast.iter_child_nodes(node))
