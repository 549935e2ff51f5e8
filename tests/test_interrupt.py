"""SIGTERM and SIGHUP end a run as Ctrl-C does, and have no other effect."""

import json
import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

import compare
from compare.cases.cases import CASES
from compare.checkpoint import checkpoint
from compare.cli import run
from compare.cli.main import main
from compare.interrupts import KILLS, exit_code, interrupts, stop
from compare.report.chunk import Chunk


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 130)]
)
def test_a_signal_leaves_a_report_and_a_checkpoint(
    number: int, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The run can be resumed from there."""
    monkeypatch.setattr("compare.training.chunking.STEPS", 3)
    told = checkpoint.states
    sent: list[int] = []

    def states(*words: object, **named: object) -> object:
        if not sent:
            sent.append(number)
            os.kill(os.getpid(), number)
        return told(*words, **named)

    monkeypatch.setattr(checkpoint, "states", states)
    words = "run two_layer --steps 60 --lift none --json s.json"
    assert main(words.split()) == code
    out, err = capsys.readouterr()
    assert "(interrupted: the steps run so far)" in " ".join(out.split())
    assert err == ""
    (folder,) = Path("runs").iterdir()
    for file in (folder / "result.json", Path("s.json")):
        found = json.loads(file.read_text())
        assert found["interrupted"]
        assert 0 < found["steps"] < 60
    assert main(["run", "--resume", folder.name, "--quiet"]) in (0, 1)
    assert json.loads((folder / "result.json").read_text())["steps"] == 60
    assert [signal.getsignal(n) for n in KILLS] == [signal.SIG_DFL] * 2


@pytest.mark.parametrize("number", KILLS)
def test_a_signal_before_the_first_step(number: int, capsys: pytest.CaptureFixture[str]) -> None:
    """A signal that comes while the run is being set up is not lost."""
    with pytest.MonkeyPatch.context() as patch:
        prepare = run._prepare

        def prepared(*words: Any) -> Any:
            os.kill(os.getpid(), number)
            return prepare(*words)

        patch.setattr(run, "_prepare", prepared)
        assert main(["run", "two_layer", "--no-board"]) == 128 + number
    assert capsys.readouterr().err == "compare: stopped before anything was checked\n"


def test_an_ignored_signal_stays_ignored() -> None:
    """SIGHUP may be ignored, as under nohup, or Ctrl-C, as in the background; SIGTERM works."""
    for ignored, other in ((signal.SIGHUP, signal.SIGTERM), (signal.SIGINT, signal.SIGTERM)):
        before = signal.signal(ignored, signal.SIG_IGN)
        try:
            with interrupts("run"):
                os.kill(os.getpid(), ignored)
                assert not stop.is_set()
                os.kill(os.getpid(), other)
                assert stop.is_set()
                assert exit_code() == 143
        finally:
            signal.signal(ignored, before)


@pytest.mark.parametrize("command", ["check", "mutants", "practice"])
def test_a_command_that_ends_at_once_heeds_an_earlier_request(command: str) -> None:
    """The request may come during the imports; a run needs a second one."""
    with interrupts():
        os.kill(os.getpid(), signal.SIGINT)
        with interrupts("run"):
            assert stop.is_set()
        with pytest.raises(KeyboardInterrupt), interrupts(command):
            pass
    assert not stop.is_set()
    with pytest.raises(KeyboardInterrupt), interrupts(command):
        os.kill(os.getpid(), signal.SIGINT)


def test_python_keeps_its_own_handlers() -> None:
    """`compare.run` handles only Ctrl-C; the first signal decides the exit code."""
    seen: list[object] = []

    def watch(_chunk: Chunk) -> None:
        seen.extend(signal.getsignal(n) for n in KILLS)

    compare.training.harness.run(CASES["two_layer"], [watch], steps=2, lift="none")
    assert set(seen) == {signal.SIG_DFL}
    with interrupts("run"):
        os.kill(os.getpid(), signal.SIGHUP)
        os.kill(os.getpid(), signal.SIGTERM)
        assert exit_code() == 129


def test_in_a_thread_signals_are_not_handled() -> None:
    codes: list[int] = []
    words = ["run", "two_layer", "--steps", "3", "--no-board", "--quiet", "--lift", "none"]
    thread = threading.Thread(target=lambda: codes.append(main(words)))
    thread.start()
    thread.join()
    assert codes in ([0], [1])
