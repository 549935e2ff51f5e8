"""Every shell and Python block of the README runs as it stands."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from compare.environment import TESTED

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
SETUP = ("python3 -m venv", "pip install")  # `.ci/run` runs these, in a fresh environment


def blocks(language: str) -> list[str]:
    found = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    return [text for kind, text in found if kind == language]


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A copy of the checkout's sources to run in."""
    for name in ("manual", "torch_ref", "compare"):
        shutil.copytree(ROOT / name, tmp_path / name)
    return tmp_path


def run(words: list[str], cwd: Path) -> str:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        words,
        cwd=cwd,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("block", [b for b in blocks("sh") if not b.startswith(SETUP)])
def test_shell_block(block: str, clone: Path) -> None:
    run(["bash", "-euo", "pipefail", "-c", block], clone)


@pytest.mark.parametrize("block", blocks("python"))
def test_python_block(block: str, clone: Path) -> None:
    run([sys.executable, "-c", block], clone)


def test_the_setup_blocks_are_the_two_commands_and_ci_runs_them() -> None:
    setup = [block.strip() for block in blocks("sh") if block.startswith(SETUP)]
    assert setup == [
        "python3 -m venv .venv && . .venv/bin/activate",
        "pip install -c constraints.txt -e . && python -m compare",
        "pip install -c constraints.txt -e '.[dev]' && python -m pytest -n auto",
    ]
    ci = (ROOT / ".ci/prepare").read_text()  # which .ci/run and .ci/long begin with
    assert "readme 'python -m pytest -n auto'" in ci
    assert "readme 'python -m compare'" in ci


def test_the_constraint_is_the_newest_torch_that_is_known() -> None:
    newest = ".".join(map(str, TESTED))
    assert f"torch=={newest}.*" in (ROOT / "constraints.txt").read_text().splitlines()
    assert torch.__version__.startswith(f"{newest}.")  # and these tests run on it


def test_the_example_prints_what_is_shown(clone: Path) -> None:
    """The block after the first Python block, but for digits that depend on the processor."""

    def masked(text: str) -> list[str]:
        lines = (re.sub(r"[-+]?\d[\d.,]*(e[-+]\d+)?", "#", line) for line in text.splitlines())
        return [" ".join(line.split()) for line in lines if line.strip()]

    example = next(block for block in blocks("python") if "compare.check" in block)
    (clone / "my_layer.py").write_text(example)
    assert masked(blocks("")[1]) == masked(run([sys.executable, "my_layer.py"], clone))


def test_the_table_is_that_of_a_real_run(clone: Path) -> None:
    """The first block is what the main command prints, but for bits of the processor's own."""

    def plain(text: str) -> list[str]:
        lines = [line.rstrip() for line in text.splitlines()]
        return [
            re.sub(r"at least [\d.]+ correct bits \(lowest: \w+\)", "#", line) for line in lines
        ]

    printed, shown = plain(run([sys.executable, "-m", "compare"], clone)), plain(blocks("")[0])
    assert shown == printed[: len(shown)]
