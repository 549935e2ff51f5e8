"""Progress: what long work is doing is shown on a terminal, after two seconds, and nowhere else."""

import contextlib
import io
import json
import os
import pty
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import Tensor

import compare
import compare.progress
from compare.progress import Stage, Stages, counted, is_watched, stage, watched
from compare.progress_bar import WorkBar, shown_on_terminal
from compare.report.contract_line import LINES
from tests.opaque import unseen

ROOT = Path(__file__).parent.parent


def _watch(monkeypatch: pytest.MonkeyPatch) -> list[Stages]:
    """Return the list that `seen.append` is to fill, with a look every millisecond."""
    monkeypatch.setattr(compare.progress, "_EVERY", 0.001)
    return []


def _until(seen: list[Stages], wanted: Stages) -> None:
    end = time.monotonic() + 20
    while wanted not in seen and time.monotonic() < end:
        time.sleep(0.001)
    assert wanted in seen


# -- the stages


def test_a_watcher_sees_each_stage_within_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also in a generator that is left early, and after an exception."""
    seen = _watch(monkeypatch)
    with watched(seen.append, after=0):
        with stage("at other inputs"):
            for name in counted("judging {}", ["z{}", "x"]):
                _until(seen, (Stage("at other inputs"), Stage(f"judging {name}", 1, 2)))
                break
            _until(seen, (Stage("at other inputs"),))
            with pytest.raises(ZeroDivisionError), stage("dividing"):
                raise ZeroDivisionError
        seen.clear()
        _until(seen, ())


def test_work_that_nobody_watches_runs_the_same() -> None:
    assert not is_watched()
    with stage("alone"):
        assert [*counted("{}", "ab")] == ["a", "b"]
    with watched(lambda _stages: None):
        assert is_watched()


def test_short_work_is_never_shown() -> None:
    seen: list[Stages] = []
    with watched(seen.append), stage("short"):
        pass
    assert seen == []


# -- the bar


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


STAGES = Stage("mutant", 3, 40), Stage("judging w[i]", 1, 2), Stage("computing\x1b[2J")


def _shown(file: io.StringIO) -> str:
    console = Console(file=file, force_terminal=True, width=90, _environ={"TERM": "xterm"})
    with WorkBar(console) as bar:
        bar.show(STAGES)
    return file.getvalue()


def test_the_bar_names_the_stages_and_goes_away() -> None:
    """Markup and control codes in a name are shown as they are."""
    text = _shown(_Terminal())
    assert "mutant (3 of 40): judging w[i] (1 of 2): computing\\x1b[2J" in text
    assert "0:00:00" in text
    assert text.rstrip().endswith("\x1b[2K")  # the last line is erased


def test_nothing_is_written_where_there_is_no_terminal() -> None:
    """Even if FORCE_COLOR makes a terminal of every file."""
    assert _shown(io.StringIO()) == ""


def test_pytest_and_a_watched_check_show_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", terminal := _Terminal())
    with shown_on_terminal():
        assert not is_watched()
    monkeypatch.delenv("PYTEST_CURRENT_TEST")
    with shown_on_terminal():
        assert is_watched()
    with watched(lambda _stages: None), shown_on_terminal():
        pass
    assert terminal.getvalue() == ""


# -- a check and its command


class _Recorded:
    """Keeps the texts of all stages that a piece of work ever sets."""

    def __init__(self) -> None:
        self.texts: dict[str, None] = {}
        self._stages: Stages = ()

    @property
    def stages(self) -> Stages:
        return self._stages

    @stages.setter
    def stages(self, stages: Stages) -> None:
        self._stages = stages
        self.texts |= dict.fromkeys(stage.text for stage in stages)


def _texts(work: Callable[[], object]) -> list[str]:
    """Return the texts of the stages of some work, in the order in which they begin."""
    recorded = _Recorded()
    token = compare.progress._watched.set(recorded)  # type: ignore[arg-type]
    try:
        work()
    finally:
        compare.progress._watched.reset(token)
    assert recorded.stages == ()
    return [*recorded.texts]


def _square(x: Tensor) -> Tensor:
    return x * x


def _slope(x: Tensor, grad_output: Tensor) -> dict[str, Tensor]:
    return {"x": grad_output * (2 * x)}


def _wrong(x: Tensor, grad_output: Tensor) -> dict[str, Tensor]:
    return {"x": grad_output * x}


def _tanh_slope(x: Tensor, grad_output: Tensor) -> dict[str, Tensor]:
    return {"x": grad_output * (1 - x.tanh() ** 2)}


def _opaque(x: Tensor, grad_output: Tensor) -> dict[str, Tensor]:
    return {"x": grad_output * unseen(2 * x)}


INPUTS = {"x": torch.linspace(-2, 3, 15).reshape(3, 5)}


def test_a_check_tells_its_stages() -> None:
    first = ["running and recording both passes", "judging x", "computing exactly"]
    contract = [f"contract: {line}" for line in LINES]
    right = _texts(lambda: compare.check(_slope, _square, INPUTS))
    assert right == [*first, "at other inputs", *contract]
    wrong = _texts(lambda: compare.check(_wrong, _square, INPUTS))
    assert wrong == [*first, "searching for a fix of x"]
    rounding = _texts(lambda: compare.check(_tanh_slope, lambda x: x.tanh(), INPUTS))
    assert rounding == [
        *first, "searching for autograd's bits of x", "at other inputs", *contract
    ]  # fmt: skip
    opaque = _texts(lambda: compare.check(_opaque, _square, INPUTS))
    assert "judging by numbers at input 2" in opaque


def test_a_mutation_test_tells_its_stages() -> None:
    texts = _texts(lambda: compare.power(_slope, _square, INPUTS))
    assert texts[:2] == ["running and recording both passes", "judging the unmutated pass"]
    assert "mutant" in texts


def _on_a_terminal(*words: str) -> tuple[int, str, str]:
    """Return the exit code, the standard output, and what the terminal on standard error got."""
    ours, theirs = pty.openpty()
    environment = os.environ | {"PYTHONPATH": str(ROOT), "TERM": "xterm"}
    environment.pop("PYTEST_CURRENT_TEST")
    seen = bytearray()

    def read() -> None:
        with contextlib.suppress(OSError):  # the other end is closed
            while data := os.read(ours, 2**16):
                seen.extend(data)

    reader = threading.Thread(target=read)
    reader.start()
    with subprocess.Popen(
        [sys.executable, *words], stdout=subprocess.PIPE, stderr=theirs, text=True, env=environment
    ) as process:
        out, _ = process.communicate(timeout=120)
    os.close(theirs)
    reader.join()
    os.close(ours)
    return process.returncode, out, seen.decode()


def _lines(seen: str) -> list[str]:
    """Return what a terminal showed, line by line, without control codes."""
    return re.sub(r"\x1b\[[?\d;]*[A-Za-z]", "", seen).replace("\r", "\n").split("\n")


FILE = """\
import time
import torch
import compare

waits = [WAITS]


def forward(x):
    if waits:
        time.sleep(waits.pop())
    return x.tanh()


def backward(x, grad_output):
    print("from the file")
    return {"x": (1 - x.tanh() ** 2) * grad_output}


inputs = {"x": torch.ones(3, 4)}
if __name__ == "__main__":
    compare.check(backward, forward, inputs)
"""


@pytest.mark.parametrize("command", ["check", "mutants"])
def test_a_command_shows_its_progress_on_standard_error(command: str, tmp_path: Path) -> None:
    """The file's own output goes above the bar, and JSON stays alone on standard output."""
    file = tmp_path / "slow.py"
    file.write_text(FILE.replace("WAITS", "3.0"))
    code, out, seen = _on_a_terminal("-m", "compare", command, str(file), "--json", "-")
    assert code == 0
    json.loads(out)
    lines = [line.rstrip() for line in _lines(seen)]
    assert "slow.py | from the file" in lines
    assert any("running and recording both passes" in line for line in lines), lines
    assert any("0:00:0" in line for line in lines)


def test_a_quiet_command_shows_no_progress(tmp_path: Path) -> None:
    file = tmp_path / "slow.py"
    file.write_text(FILE.replace("WAITS", "3.0"))
    code, out, seen = _on_a_terminal("-m", "compare", "check", str(file), "--quiet")
    assert (code, out.split()[0]) == (0, "ROUNDING")
    assert "\x1b" not in seen


def test_a_check_from_python_shows_its_progress(tmp_path: Path) -> None:
    """A short one does not."""
    file = tmp_path / "mine.py"
    file.write_text(FILE.replace("WAITS", "3.0"))
    assert "running and recording both passes" in _on_a_terminal(str(file))[2]
    file.write_text(FILE.replace("WAITS", ""))
    assert _on_a_terminal(str(file))[2] == ""


def test_redirected_standard_error_gets_no_progress(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(FILE.replace("WAITS", "3.0"))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "FORCE_COLOR": "1"}
    environment.pop("PYTEST_CURRENT_TEST")
    for words in ([str(file)], ["-m", "compare", "check", str(file)]):
        done = subprocess.run(
            [sys.executable, *words], capture_output=True, text=True, env=environment, check=True
        )
        assert "\x1b" not in done.stderr
        assert "recording" not in done.stderr
