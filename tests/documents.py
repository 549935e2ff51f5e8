"""Helpers that extract code blocks from the documents and run them in a copy of the sources."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
SOURCES = ("manual", "torch_ref", "compare")


class Block(NamedTuple):
    """A fenced block: its language, which may be empty, and its text."""

    language: str
    text: str


def blocks(document: str) -> list[Block]:
    """Return the fenced blocks of a document in order."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", document, re.MULTILINE | re.DOTALL)
    return [Block(*pair) for pair in found]


def copy_sources(folder: Path, *more: str) -> Path:
    """Copy the packages, and `more` files or folders of the checkout, to `folder`; return it."""
    for name in (*SOURCES, *more):
        if (ROOT / name).is_dir():
            shutil.copytree(
                ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__")
            )
        else:
            shutil.copy(ROOT / name, folder / name)
    return folder


def done(command: list[str], folder: Path) -> "subprocess.CompletedProcess[str]":
    """Run a command in a folder; `python` is the interpreter that runs the tests."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(folder)}
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def run(command: list[str], folder: Path) -> str:
    """Run a command that must succeed; return its standard output."""
    result = done(command, folder)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def run_block(block: Block, folder: Path) -> str:
    """Run a Python block, or a shell block that stops at the first failure; return its output."""
    if block.language == "python":
        return run([sys.executable, "-c", block.text], folder)
    return run(["bash", "-euo", "pipefail", "-c", block.text], folder)


def numbers_masked(text: str) -> list[str]:
    """Return the nonblank lines with numbers masked, because these depend on the processor."""
    lines = (re.sub(r"[-+]?\d[\d.,]*(e[-+]\d+)?", "#", line) for line in text.splitlines())
    return [" ".join(line.split()) for line in lines if line.strip()]


def apply(diff: str, folder: Path) -> None:
    """Apply a diff whose hunks are located by their text and not by line numbers.

    Hunks that begin with `@@` follow `+++ FILE`. A file that does not exist is created from added
    lines. In an existing file, the kept and removed lines of a hunk must occur exactly once.
    """
    for part in re.split(r"^\+\+\+ ", diff, flags=re.MULTILINE)[1:]:
        name, _, body = part.partition("\n")
        path = folder / name.strip()
        for hunk in re.split(r"^@@.*\n", body, flags=re.MULTILINE)[1:]:
            lines = [line if line.strip() else " \n" for line in hunk.splitlines(keepends=True)]
            if not path.exists():
                assert all(line[0] == "+" for line in lines), f"{name}: there is no such file"
                path.write_text("".join(line[1:] for line in lines))
                continue
            source = path.read_text()
            before, after = (
                "".join(line[1:] for line in lines if line[0] in signs) for signs in (" -", " +")
            )
            places = [match.span() for match in re.finditer(f"(?m)^{re.escape(before)}", source)]
            assert len(places) == 1, f"{name} has these lines {len(places)} times:\n{before}"
            start, end = places[0]
            path.write_text(source[:start] + after + source[end:])
