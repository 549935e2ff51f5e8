"""Runs that are stopped, killed or interrupted, and that end the same after resuming."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from compare.cases.cases import CASES
from compare.cli.main import main
from compare.proof.bits import same_bits
from compare.report.chunk import Chunk
from compare.training.adapters import manual_step_of
from compare.training.comparison import Comparison
from compare.training.harness import Run
from tests.resumed import copied, folder_contents

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limit chunks to 3 steps, so that some end within an epoch of mini-batches."""
    monkeypatch.setattr("compare.training.chunking.STEPS", 3)


def resume(folder: Path, *words: str) -> int:
    return main(
        ["run", "--resume", folder.name, "--log-dir", str(folder.parent), "--quiet", *words]
    )


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("three_layer", {}),
        ("three_layer", {"dtype": "bfloat16", "plain": True, "lift": "none"}),
        ("three_layer_blog_grouping", {"population": 3}),
        ("mini_batches", {"lift": "none"}),
        ("dropout", {"population": 2, "lift": "none"}),
        ("momentum", {"dtype": "float32", "lift": "none"}),
        ("adam", {"lift": "none"}),
        ("batch_norm", {"lift": "none"}),
        ("everything", {"lift": "none"}),
        ("digits", {"lift": "none"}),
    ],
)
def test_a_resumed_run_ends_as_one_that_was_never_stopped(
    name: str, settings: dict[str, object], tmp_path: Path
) -> None:
    """Result, step log and every event are the same, though the folder was written to later."""
    run = Run(CASES[name], steps=15, **settings)
    whole, stopped = copied(run, tmp_path, at=run.plan.steps)
    assert not (stopped / "result.json").exists()
    assert resume(stopped) in (0, 1)
    assert folder_contents(stopped) == folder_contents(whole)
    assert folder_contents(whole)["files"] == [
        "autograd", "compare", "manual", "result.json", "steps.npz"
    ]  # fmt: skip


def test_a_population_in_shards_is_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("compare.training.chunking.GRAIN", 32)  # 2 networks of 16 values at a time
    run = Run(CASES["dropout"], steps=5, population=3, lift="none")
    assert len(run.shards) > 1
    whole, stopped = copied(run, tmp_path, at=2)
    assert resume(stopped) in (0, 1)
    assert folder_contents(stopped) == folder_contents(whole)


@pytest.mark.parametrize("presses", [1, 2])
def test_ctrl_c_then_resume(
    presses: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """The first press writes a checkpoint even in a short run; a second discards the chunk."""
    words = ["run", "mini_batches", "--steps", "18", "--lift", "none", "--log-dir"]
    assert main([*words, str(tmp_path / "whole")]) == 0
    assert "resume:" not in capsys.readouterr().out
    advance = Run._advance

    def pressed(run: Run, watchers: object) -> None:
        if run.report.steps == 9:
            signal.raise_signal(signal.SIGINT)
        if run.report.steps == 12:
            raise AssertionError("it did not stop")
        if run.report.steps == 9 and presses == 2:
            monkeypatch.setattr(Comparison, "judge", lambda *_: signal.raise_signal(signal.SIGINT))
        advance(run, watchers)

    if presses == 2:
        monkeypatch.setattr("compare.checkpoint.checkpoint.EVERY", 0)
        monkeypatch.setattr("compare.checkpoint.checkpoint.SHARE", 1e9)
    with monkeypatch.context() as patch:
        judge = Comparison.judge
        patch.setattr(Run, "_advance", pressed)
        assert main([*words, str(tmp_path / "stopped")]) == 130
    monkeypatch.setattr(Comparison, "judge", judge)
    (whole,), (stopped,) = ((tmp_path / name).iterdir() for name in ("whole", "stopped"))
    kept = json.loads((stopped / "result.json").read_text())
    assert (kept["interrupted"], kept["steps"]) == (True, 12 if presses == 1 else 9)
    where = f"--log-dir {tmp_path / 'stopped'}"
    assert f"resume: python -m compare run --resume {stopped.name} {where}\n" in (
        capsys.readouterr().out
    )
    assert resume(stopped) == 0
    assert folder_contents(stopped) == folder_contents(whole)


def test_a_second_ctrl_c_discards_the_current_chunk(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Neither the results of one of its shards nor its weights are kept."""
    monkeypatch.setattr("compare.training.chunking.GRAIN", 32)  # 2 networks of 16 values at a time
    case, judged = CASES["three_layer"], list[object]()
    manual_step, judge = manual_step_of(case), Comparison.judge

    def step(**inputs: Tensor) -> dict[str, Tensor]:
        values = dict(manual_step(**inputs))
        if len(judged) >= 2:  # both shards have completed the first chunk
            values["l1_delta"] = values["l1_delta"] + 1
        return values

    def pressed(*arguments: Any) -> Any:
        if len(judged) < 3:
            chunk = judge(*arguments)
            judged.append(chunk)
            return chunk
        for _ in range(2):
            signal.raise_signal(signal.SIGINT)
        raise AssertionError("it did not stop")

    monkeypatch.setattr(Comparison, "judge", pressed)
    training = Run(case, steps=9, population=3, step=step)
    assert len(training.shards) == 2
    report = training.train()
    monkeypatch.undo()
    assert (report.interrupted, report.steps) == (True, training.plan.steps)
    assert {q.verdict for q in report.quantities.values()} == {"EXACT"}, str(report)
    first = Run(case, steps=training.plan.steps, population=3)
    first.train()
    assert all(same_bits(training.state[n], v) for n, v in first.state.items())


def test_ctrl_c_never_cuts_a_watcher_short() -> None:
    """A half-written file or a half-done import would be worse than a short wait."""
    seen = []

    def watcher(chunk: Chunk) -> None:
        for _ in range(3):
            signal.raise_signal(signal.SIGINT)
        seen.append(chunk.steps)

    training = Run(CASES["three_layer"], steps=100_000)
    report = training.train([watcher])
    assert (report.interrupted, seen) == (True, [report.steps])


KILLS = """
import json, os, random, signal, sys, time
from pathlib import Path
import compare.training.chunking, compare.checkpoint.checkpoint
from compare.cli.main import main

compare.training.chunking.STEPS = 3
compare.checkpoint.checkpoint.EVERY, compare.checkpoint.checkpoint.SHARE = 0, 1e9
top, wanted, cases = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
chance = random.Random(wanted)
sys.stdout = sys.stderr = open(os.devnull, "w")


def leg(words, log_dir, limit):
    child = os.fork()
    if not child:
        os._exit(main(["run", *words, "--log-dir", str(log_dir), "--quiet"]))
    stop = time.monotonic() + limit
    while time.monotonic() < stop:
        if os.waitpid(child, os.WNOHANG) != (0, 0):
            return False
        time.sleep(0.001)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return True


usual, kills, resumed, twice, early, n = {}, 0, 0, 0, 0, 0
while kills < wanted or n < len(cases):
    case = cases[n % len(cases)]
    words = [case, "--steps", "32", "--lift", "none"]
    if case not in usual:
        for _ in range(2):  # the second one is warm
            started = time.monotonic()
            code = main(["run", *words, "--log-dir", str(top / "whole"), "--quiet"])
            usual[case] = time.monotonic() - started
    log_dir = top / f"{n}"
    while not any(log_dir.glob("*/result.json")):
        (folder,) = list(log_dir.glob("*")) or [None]
        if folder and (folder / "checkpoint").exists():
            resumed += 1
            again = ["--resume", folder.name]
        elif folder:
            early += 1
            os.rename(folder, top / f"early{early}")
            continue
        else:
            again = words
        killed = leg(again, log_dir, chance.uniform(0, usual[case]) if kills < wanted else 60)
        kills += killed
        twice += killed and "--resume" in again
    n += 1
print(json.dumps([kills, resumed, twice, n]), file=sys.__stdout__)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("wanted", "cases"),
    [
        (30, "mini_batches three_layer dropout three_layer_blog_grouping "
             "mini_batches three_layer dropout momentum"),
        pytest.param(60, "digits everything adam batch_norm", marks=pytest.mark.long),
    ],
)  # fmt: skip
def test_kill_9_at_random_moments(wanted: int, cases: str, tmp_path: Path) -> None:
    """Kill runs of the command line, each in a process forked from one that has torch imported.

    Resumed runs are killed and resumed again.
    """
    done = subprocess.run(
        [sys.executable, "-c", KILLS, str(tmp_path), str(wanted), *cases.split()], cwd=ROOT,
        capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=True,
    )  # fmt: skip
    kills, resumed, twice, runs = json.loads(done.stdout)
    assert kills >= wanted
    assert resumed >= wanted / 3
    assert twice >= wanted / 6
    wholes = [folder_contents(folder) for folder in (tmp_path / "whole").iterdir()]
    usual = {whole["result"]["case"]: whole for whole in wholes}
    ends = [
        folder_contents(folder) for n in range(runs) for folder in (tmp_path / f"{n}").iterdir()
    ]
    assert len(ends) == runs
    for end in ends:
        assert end == usual[end["result"]["case"]]
