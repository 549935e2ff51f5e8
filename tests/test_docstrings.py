"""Docstrings are correct: their examples run, and those of public functions are complete."""

import doctest
import importlib
import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import compare
from tests.documents import ROOT, SOURCES

FUNCTIONS = [name for name in compare.__all__ if inspect.isfunction(getattr(compare, name))]


def with_examples() -> list[str]:
    """Return the names of the modules that contain a doctest."""
    paths = sorted(path for package in SOURCES for path in (ROOT / package).rglob("*.py"))
    found = [path.relative_to(ROOT) for path in paths if ">>> " in path.read_text()]
    return [".".join(path.with_suffix("").parts).removesuffix(".__init__") for path in found]


def failures(module: Any, source: str = "") -> str:
    """Run the doctests of a module, or of a text; return the failures, "" if there are none."""
    options = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    runner, lines = doctest.DocTestRunner(optionflags=options, verbose=False), list[str]()
    if source:
        tests = [doctest.DocTestParser().get_doctest(source, {}, "a text", None, None)]
    else:
        tests = doctest.DocTestFinder().find(module)
    for test in tests:
        runner.run(test, out=lines.append)
    assert source or any(test.examples for test in tests), f"{module.__name__}: none was found"
    return "".join(lines)


@pytest.mark.parametrize("name", with_examples())
def test_the_examples_of_a_module_run(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Examples run in an empty folder, so that the files they write stay out of the checkout."""
    monkeypatch.chdir(tmp_path)
    failed = failures(importlib.import_module(name))
    assert not failed, failed


def test_an_example_that_prints_something_else_is_caught() -> None:
    assert failures(None, ">>> 1 + 1\n2\n") == ""
    assert "Expected:\n    3\nGot:\n    2" in failures(None, ">>> 1 + 1\n3\n")


def sections(function: Callable[..., Any]) -> dict[str, str]:
    """Return the sections of a Google-style docstring by title."""
    parts = re.split(r"^(\w+):\n(?=    )", inspect.getdoc(function) or "", flags=re.MULTILINE)
    bodies = (re.match(r"(?:(?: {4}.*)?\n?)*", body) for body in parts[2::2])
    return {title: body[0] for title, body in zip(parts[1::2], bodies, strict=True) if body}


def lacking(function: Callable[..., Any]) -> list[str]:
    """Return a line for each part that the docstring of a public function lacks."""
    name, found = function.__name__, sections(function)
    lacks = [f"{name}: no section {title}" for title in ("Args", "Raises", "Example")
             if title not in found]  # fmt: skip
    entries = re.findall(
        r"^ {4}(\*{0,2}\w+(?:, \*{0,2}\w+)*)(?: \([^)]*\))?:", found.get("Args", ""), re.MULTILINE
    )
    documented = [entry.strip().lstrip("*") for line in entries for entry in line.split(",")]
    if "Args" in found:
        taken = list(inspect.signature(function).parameters)
        lacks += [f"{name}: Args lacks {p}" for p in taken if p not in documented]
        lacks += [f"{name}: Args has {p}, which it does not take" for p in documented
                  if p not in taken]  # fmt: skip
    if ">>> " not in found.get("Example", ">>> "):
        lacks.append(f"{name}: Example has no line that begins with >>>")
    return lacks


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_public_function_says_what_it_takes_and_raises(name: str) -> None:
    assert not lacking(getattr(compare, name))


def _complete(x: int, *rest: int, y: int = 0) -> int:
    """Return the sum.

    More on it: it is the sum.

    Args:
        x: the first, a number
            that is positive: always.
        *rest: more.
        y (int): the last.

    Raises:
        ValueError: never.

    Example:
        >>> 1 + 1
        2

    Some words after it.

    """
    return x + sum(rest) + y


@pytest.mark.parametrize(
    ("line", "other", "message"),
    [
        ("x: the first", "z: the first", "_complete: Args lacks x"),
        ("    *rest: more.\n", "", "_complete: Args lacks rest"),
        ("y (int): the last.", "y, z: the last.", "_complete: Args has z, which it does not take"),
        ("Raises:\n    ValueError: never.\n", "", "_complete: no section Raises"),
        ("Example:\n    >>> 1 + 1\n    2\n", "", "_complete: no section Example"),
        (">>> 1 + 1", "1 + 1", "_complete: Example has no line that begins with >>>"),
        ("Args:", "Arguments:", "_complete: no section Args"),
    ],
)
def test_what_a_docstring_lacks_is_said(
    line: str, other: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert lacking(_complete) == []
    text = inspect.getdoc(_complete) or ""
    assert line in text
    monkeypatch.setattr(_complete, "__doc__", text.replace(line, other))
    assert message in lacking(_complete)
