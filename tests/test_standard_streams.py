"""Closed or full standard streams: the exit code is still the verdict's, without a traceback."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from compare.cli.main import main

ROOT = Path(__file__).parent.parent
RUN = "run two_layer --steps 3 --no-board"
RIGHT = """import os, sys, torch
def forward(x): return (x * x).sum()
def backward(x): return {"x": 2 * x}
inputs = {"x": torch.ones(3)}
"""


def shell(line: str, cwd: Path) -> "subprocess.CompletedProcess[str]":
    """Run a `compare` command line with its redirections in a shell."""
    line = line.replace("compare ", f"{sys.executable} -W error -m compare ", 1)
    return subprocess.run(
        ["sh", "-c", line], cwd=cwd, text=True, capture_output=True, check=False, timeout=120,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("line", "code", "err"),
    [
        ("compare --list >&-", 0, ""),
        ("compare --help >&-", 0, ""),
        ("compare --list <&- >&- 2>&-", 0, ""),
        ("compare --list 2>&-", 0, ""),
        ("compare --help >/dev/full", 2, "cannot write the output: No space left on device"),
        ("compare run --help >/dev/full", 2, "cannot write the output: No space left on device"),
        ("compare run nope 2>&-", 2, ""),
        ("compare run nope 2>/dev/full", 2, ""),
        (f"compare {RUN} --json - >&-", 2, "--json -: standard output is closed"),
        (f"compare {RUN} --demand exact <&- >&- 2>&-", 0, ""),
        ("compare run dropout_as_published --steps 1 --no-board --lift none --quiet >&-", 1, ""),
    ],
)
def test_closed_and_full_streams(line: str, code: int, err: str, tmp_path: Path) -> None:
    done = shell(line, tmp_path)
    assert done.returncode == code, done.stderr
    assert done.stderr.count("\n") == bool(err)
    assert err in done.stderr


@pytest.mark.parametrize(
    "code",
    ["sys.stdout.close(); sys.stderr.close()", "os.close(1)", "sys.stdout = None; del sys.stderr"],
)
def test_user_code_that_closes_them_hides_nothing(code: str, tmp_path: Path) -> None:
    """Closed streams are reopened, and the report and its JSON are written as requested."""
    (tmp_path / "f.py").write_text(RIGHT + code)
    done = shell("compare check f.py --json -", tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith('{\n "case": "check",\n "verdict": "EXACT"')


def test_a_full_output_does_not_prevent_other_files(tmp_path: Path) -> None:
    done = shell("compare run two_layer --steps 3 --json s.json >/dev/full", tmp_path)
    message = "compare: cannot write the output: No space left on device\n"
    assert (done.returncode, done.stderr) == (2, message)
    assert (tmp_path / "s.json").stat().st_size > 1000
    assert len(list(tmp_path.glob("runs/*/result.json"))) == 1


def test_characters_that_the_encoding_lacks_are_escaped(tmp_path: Path) -> None:
    line = "PYTHONIOENCODING=ascii compare run two_layer --steps 3 --log-dir \u0416"
    done = shell(line, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "board --log-dir '\\u0416'" in done.stdout


def test_no_file_gets_the_number_of_a_closed_stream(tmp_path: Path) -> None:
    """Otherwise output to descriptor 1 would go into that file."""
    code = "from compare.standard_streams import reserve_descriptors\nreserve_descriptors()\n"
    code += "exit(open('f', 'w').fileno() < 3)"
    (tmp_path / "code.py").write_text(code)
    line = f"exec {sys.executable} code.py <&- >&- 2>&-"
    assert shell(line, tmp_path).returncode == 0


def test_the_duplicate_descriptor_is_closed(capfd: pytest.CaptureFixture[str]) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        main(["--list"])
    assert len(os.listdir("/proc/self/fd")) == before
