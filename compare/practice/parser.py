"""A practice file as its statements: what comes before the loop, what each line of it assigns.

It is read, never run. Imports no torch.
"""

import ast
import warnings
from dataclasses import dataclass
from pathlib import Path
from types import CodeType

from compare.errors import BadInput
from compare.practice.result import STOPS, Answer, Finding

STEP = "__step__"
_LARGEST = 1_000_000  # bytes: no one types more


@dataclass(frozen=True)
class Statement:
    """One statement of the loop: its line, its text, the names it assigns and reads, its code."""

    line: int
    text: str
    assigns: frozenset[str]
    reads: frozenset[str]
    blank: bool
    code: CodeType
    dump: str  # equal for two statements that differ in blanks and comments alone


@dataclass(frozen=True)
class Exercise:
    """A practice file: what stands `before` the loop, the loop, its statements, `after` it.

    `loop` is the whole of it, calling `STEP` at the beginning of each step.
    """

    lines: list[str]
    before: CodeType
    assigned: dict[str, int]  # by the lines before the loop: name -> last line
    functions: dict[str, int]  # defined there: name -> line
    counter: str  # the loop's own variable
    line: int
    loop: CodeType
    statements: list[Statement]
    after: CodeType

    @property
    def last(self) -> dict[str, int]:
        """Return, for each name, the index of the last statement that assigns it."""
        return {name: k for k, s in enumerate(self.statements) for name in s.assigns}


def text_of(path: Path) -> str:
    """Return the file's text; raises BadInput for what is no text file of a sensible size."""
    if not path.exists():
        raise BadInput(f"{path}: no such file; python -m compare practice new {path} writes one")
    if not path.is_file():
        kind = "a folder" if path.is_dir() else "no plain file"
        raise BadInput(f"{path} is {kind}: name the practice file itself")
    try:
        if (size := path.stat().st_size) > _LARGEST:
            raise BadInput(f"{path} has {size:,} bytes: a practice file has a few thousand")
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        byte = error.object[error.start]
        raise BadInput(f"{path} is not UTF-8 (byte {byte:#x} in line {line}): save it so") from None
    except OSError as error:
        raise BadInput(f"cannot read {path}: {error.strerror}") from error


def read(text: str, name: str, wanted: frozenset[str]) -> Exercise:
    """Return the text as an exercise whose loop assigns some of the `wanted` names.

    Raises Answer for what is not Python, BadInput where there is no such loop.
    """
    lines = text.splitlines()
    try:
        with warnings.catch_warnings(action="ignore"):
            tree = ast.parse(text)
            compile(text, name, "exec")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        line = getattr(error, "lineno", None) or 0  # a SyntaxError has one, as a rule
        said = f"is not Python: {type(error).__name__}: {getattr(error, 'msg', error)}"
        raise Answer(Finding(STOPS, said, line, lines[line - 1].strip() if line else "")) from None
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
    # within a loop of its own, so that `break` and `continue` are Python there too
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
    """Return the names that a statement gives a value, `l1[0] = ...` and `l1.mul_(...)` too."""
    found = set()
    for n in ast.walk(node):
        match n:
            case (
                ast.Name(name, ast.Store())
                | ast.Subscript(ast.Name(name), ctx=ast.Store())
                | ast.Attribute(ast.Name(name), ctx=ast.Store())
            ):
                found.add(name)
            case ast.Call(ast.Attribute(ast.Name(name), method)):
                if method.endswith("_") and not method.endswith("__"):
                    found.add(name)
    return frozenset(found)


def _blank(node: ast.stmt) -> bool:
    """Whether a line is still to be filled in: `...` or None in the place of its value."""
    if not isinstance(node, ast.Assign | ast.AugAssign | ast.AnnAssign):
        return False
    value = node.value
    if value is None or (isinstance(value, ast.Constant) and value.value is None):
        return True
    return _has_dots(value)


def _has_dots(node: ast.AST) -> bool:
    """Whether `...` stands somewhere in an expression, but for an index, where it means all."""
    if isinstance(node, ast.Subscript):
        return _has_dots(node.value)
    if isinstance(node, ast.Constant):
        return node.value is ...
    return any(_has_dots(child) for child in ast.iter_child_nodes(node))
