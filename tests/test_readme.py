"""Every shell and Python block of the README runs unchanged."""

import re
import sys
from pathlib import Path

import pytest
import torch

from compare.environment import TESTED
from tests.documents import ROOT, Block, blocks, copy_sources, numbers_masked, run, run_block

BLOCKS = blocks((ROOT / "README.md").read_text())
SETUP = ("python3 -m venv", "pip install")  # `.ci/run` runs these in a fresh environment


def texts(language: str) -> list[str]:
    return [block.text for block in BLOCKS if block.language == language]


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """Return a copy of the checkout's sources in which commands run."""
    return copy_sources(tmp_path)


@pytest.mark.parametrize(
    "block", [b for b in BLOCKS if b.language in ("sh", "python") and not b.text.startswith(SETUP)]
)
def test_a_block_runs(block: Block, clone: Path) -> None:
    run_block(block, clone)


def test_the_setup_blocks_are_the_two_commands_and_ci_runs_them() -> None:
    setup = [text.strip() for text in texts("sh") if text.startswith(SETUP)]
    assert setup == [
        "python3 -m venv .venv && . .venv/bin/activate",
        "pip install -c constraints.txt -e . && python -m compare",
        "pip install -c constraints.txt -e '.[dev]' && python -m pytest -n auto",
    ]
    ci = (ROOT / ".ci/prepare").read_text()  # .ci/run and .ci/long source this file
    assert "readme 'python -m pytest -n auto'" in ci
    assert "readme 'python -m compare'" in ci


def test_the_constraint_is_the_newest_torch_that_is_known() -> None:
    newest = ".".join(map(str, TESTED))
    assert f"torch=={newest}.*" in (ROOT / "constraints.txt").read_text().splitlines()
    assert torch.__version__.startswith(f"{newest}.")  # these tests run on that version


def test_the_example_prints_what_is_shown(clone: Path) -> None:
    """The block after the first Python block is its output, except for digits."""
    example = next(text for text in texts("python") if "compare.check" in text)
    (clone / "my_layer.py").write_text(example)
    printed = run([sys.executable, "my_layer.py"], clone)
    assert numbers_masked(texts("")[0]) == numbers_masked(printed)


def test_the_table_is_that_of_a_real_run(clone: Path) -> None:
    """The second block is the output of the main command; counts of correct bits are ignored."""

    def plain(text: str) -> list[str]:
        lines = [line.rstrip() for line in text.splitlines()]
        return [
            re.sub(r"at least [\d.]+ correct bits \(lowest: \w+\)", "#", line) for line in lines
        ]

    printed, shown = plain(run([sys.executable, "-m", "compare"], clone)), plain(texts("")[1])
    assert shown == printed[: len(shown)]
