"""What the documents hold: their blocks of code, to be run in a copy of the sources."""

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
    """A fenced block: the language after its first fence, and its text."""

    language: str
    text: str


def blocks(document: str) -> list[Block]:
    """Return the fenced blocks of a document, in order."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", document, re.MULTILINE | re.DOTALL)
    return [Block(*pair) for pair in found]


def copy_sources(folder: Path, *more: str) -> Path:
    """Copy the packages, and `more` files or folders of the checkout, into a folder; return it."""
    for name in (*SOURCES, *more):
        if (ROOT / name).is_dir():
            shutil.copytree(
                ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__")
            )
        else:
            shutil.copy(ROOT / name, folder / name)
    return folder


def done(command: list[str], folder: Path) -> "subprocess.CompletedProcess[str]":
    """Run a command in a folder; `python` is the one that runs the tests."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(folder)}
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def run(command: list[str], folder: Path) -> str:
    """Run a command that has to succeed; return what it prints to standard output."""
    result = done(command, folder)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def run_block(block: Block, folder: Path) -> str:
    """Run a block of Python, or of shell that stops at the first failure; return its output."""
    if block.language == "python":
        return run([sys.executable, "-c", block.text], folder)
    return run(["bash", "-euo", "pipefail", "-c", block.text], folder)


def numbers_masked(text: str) -> list[str]:
    """Return the lines that are not blank, without digits, which depend on the processor."""
    lines = (re.sub(r"[-+]?\d[\d.,]*(e[-+]\d+)?", "#", line) for line in text.splitlines())
    return [" ".join(line.split()) for line in lines if line.strip()]


def apply(diff: str, folder: Path) -> None:
    """Make the changes of a diff, whose hunks are found by their text and not by line numbers.

    After `+++ FILE` come hunks that begin with `@@`; a file that is not there yet is made of its
    added lines. The lines kept and removed have to stand in the file just once.
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
