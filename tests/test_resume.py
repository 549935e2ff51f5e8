"""A run that cannot be resumed gets a one-line message, and its folder stays as it is."""

import dataclasses
import hashlib
import io
import json
import math
import os
import pickle
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import compare
from compare.board.run_folder import RunFolder
from compare.cases.cases import CASES
from compare.cases.data import digits
from compare.checkpoint import checkpoint
from compare.checkpoint import file as checksummed
from compare.checkpoint.run_folder_files import SUBRUNS, Lock
from compare.cli.main import main
from compare.errors import BadInput
from compare.training.downsample import SIDES
from compare.training.harness import Run
from tests.conftest import one_ulp, planted
from tests.resumed import copied, folder_contents

NAME = "2026-01-01_00-00-00_two_layer"


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 9 steps that was killed after step 6, with a checkpoint of step 3."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("compare.training.chunking.STEPS", 3)
        run = Run(CASES["two_layer"], steps=9, lift="none")
        return copied(run, tmp_path_factory.mktemp("kept"), at=3)[1]


@pytest.fixture
def stopped(kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a copy of that run in runs/ of the current folder."""
    monkeypatch.setattr("compare.training.chunking.STEPS", 3)
    monkeypatch.chdir(tmp_path)
    shutil.copytree(kept, folder := Path("runs") / NAME)
    return folder


def contents(folder: Path) -> dict[Path, bytes]:
    return {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def refused(
    capsys: pytest.CaptureFixture[str], folder: Path, message: str, words: str = ""
) -> None:
    """Assert that resuming prints only this line, returns exit code 2, and changes nothing."""
    before = contents(folder)
    assert main(["run", "--resume", "two_layer", *words.split()]) == 2
    out, err = capsys.readouterr()
    assert (out, err) == ("", f"compare: {message}\n")
    assert contents(folder) == before


def _sealed(data: bytes, number: int = checksummed.FORMAT) -> bytes:
    digest = hashlib.sha256(data).hexdigest()
    return f"deltacheck checkpoint {number} {digest}\n".encode() + data


def _damaged(now: bytes) -> str:
    line, _, data = now.partition(b"\n")
    digest, expected = hashlib.sha256(data).hexdigest(), line.split()[-1].decode()
    return (
        f"runs/{NAME}/checkpoint is damaged, its digest is {digest[:8]} but its first line has "
        f"{expected[:8]!r}: restore an intact copy, or start a new run"
    )


@pytest.mark.parametrize("share", [0.03, 0.5, 0.999])
def test_a_checkpoint_that_was_cut_off(
    share: float, stopped: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = stopped / "checkpoint"
    data = file.read_bytes()
    file.write_bytes(data[: int(len(data) * share)])
    refused(capsys, stopped, _damaged(file.read_bytes()))


def test_one_flipped_bit_anywhere_is_noticed(
    stopped: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, chance = stopped / "checkpoint", random.Random(3)
    data = file.read_bytes()
    start = data.index(b"\n") + 1
    for _ in range(20):
        other = bytearray(data)
        other[chance.randrange(start, len(data))] ^= 1 << chance.randrange(8)
        file.write_bytes(other)
        refused(capsys, stopped, _damaged(other))
    for place in range(start):  # in the first line the message depends on the place
        other = bytearray(data)
        other[place] ^= 1
        file.write_bytes(other)
        with pytest.raises(BadInput, match=r" (is not a checkpoint|is damaged|has format)"):
            checkpoint.load(file)


def test_random_bytes_another_file_and_an_empty_one(
    stopped: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = stopped / "checkpoint"
    for data in (random.Random(5).randbytes(5000), b"PK\x03\x04 a zip, or torch.save's own", b""):
        file.write_bytes(data)
        message = (
            f"runs/{NAME}/checkpoint is not a checkpoint, it begins with {data[:16]!r}: "
            "restore the run's own checkpoint, or start a new run"
        )
        refused(capsys, stopped, message)


def test_another_format(stopped: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An older format too is refused, before the contents are read."""
    for number in (0, 2, 17):
        (stopped / "checkpoint").write_bytes(_sealed(b"whatever", number))
        message = (
            f"runs/{NAME}/checkpoint has format {number} and this version reads format 3: "
            "resume with the version that wrote it, or start a new run"
        )
        refused(capsys, stopped, message)


def test_no_object_is_unpickled(stopped: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file with a valid first line may hold code; it is not executed."""

    class Code:
        def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
            return os.mkdir, ("made",)

    file = io.BytesIO()
    torch.save({"case": Code()}, file)
    for data in (file.getvalue(), pickle.dumps(Code()), b"no pickle", b""):
        (stopped / "checkpoint").write_bytes(_sealed(data))
        message = (
            f"runs/{NAME}/checkpoint cannot be read, or holds objects other than tensors and "
            "plain values: restore the run's own checkpoint, or start a new run"
        )
        refused(capsys, stopped, message)
    assert not Path("made").exists()


@pytest.mark.parametrize(
    ("owner", "key", "value", "problem"),
    [
        ("report", "steps", 9, "9 done of 9 - at `$.steps`"),
        ("report", "steps", 4, "3 after 4 steps - at `$.taken`"),
        ("report", "quantities", {}, "names other than the quantities - at `$.first`"),
        ("report", "one_process", {"steps": []}, "unasked - at `$.one_process`"),
        ("run", "last_output", torch.zeros(3), "not a matrix of floats - at `$.last_output`"),
        ("given", "streams", [], "a wrong number of streams - at `$.streams`"),
        ("given", "order", torch.arange(4), "an order without mini-batches - at `$.order`"),
        ("tally", "proofs", {"l9": []}, "proofs of an unknown quantity - at `$.proofs`"),
        ("prover", "diagnosed", {}, "other verdicts - at `$.diagnosed`"),
        ("buckets", "ended", [], "missing or repeated steps - at `$.ended`"),
        ("part 0", "state", {}, "other names - at `$.state`"),
        ("part 0", "free", {"syn0": torch.zeros(2)}, "another shape or dtype - at `$.free.syn0`"),
        ("judging", "unequal_chunks", -1, "Expected `int` >= 0 - at `$.unequal_chunks`"),
    ],
)
def test_a_state_that_the_run_cannot_have(
    owner: str, key: str, value: object, problem: str, stopped: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """The file is intact and of the right types; the owner of each state refuses its values."""
    file = stopped / "checkpoint"
    kept = checksummed.read(file)
    kept["ranks"][0]["run"][owner][key] = value
    checksummed.write(file, kept)
    message = f"runs/{NAME}/checkpoint is not a run that can be resumed (ValueError: {problem}): "
    refused(capsys, stopped, message + "restore the run's own checkpoint, or start a new run")


def test_no_checkpoint(stopped: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (stopped / "checkpoint").unlink()
    message = (
        f"run {NAME}: it has no checkpoint (the first is written after 5 s, and none for a step or "
        "data function from Python): start a new run"
    )
    refused(capsys, stopped, message)


def test_a_finished_run(stopped: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--resume", NAME, "--quiet"]) == 0
    assert not (stopped / "checkpoint").exists()
    capsys.readouterr()
    message = (
        f"run {NAME} is finished, EXACT after 9 steps: there is nothing to resume; start a new run"
    )
    refused(capsys, stopped, message)


def test_a_run_that_is_still_running(stopped: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lock = Lock(stopped)
    refused(capsys, stopped, f"run {NAME} is still running: wait for it, or stop it")
    lock.close()
    assert main(["run", "--resume", NAME, "--quiet"]) == 0
    folder = RunFolder(Path("new"), Run(CASES["two_layer"], steps=3))
    with pytest.raises(BadInput, match="is still running"):
        Lock(folder.path)
    folder.discard()


def test_an_unknown_run(stopped: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--resume", NAME[:-1]]) == 2
    assert capsys.readouterr().err == (
        f"compare: unknown run {NAME[:-1]!r}: did you mean {NAME}?\n"
    )


@pytest.mark.parametrize(
    ("words", "option", "has"),
    [
        ("three_layer", "case three_layer", "two_layer"),
        ("--steps 10", "--steps 10", "9"),
        ("--dtype float32", "--dtype float32", "float64"),
        ("--seed 2", "--seed 2", "1"),
        ("--population 3", "--population 3", "1"),
        ("--device cuda", "--device cuda", "cpu"),
        ("--lift all", "--lift all", "none"),
        ("--alpha 0.5", "--alpha 0.5", "1.0"),
        ("--sizes 3,8,1", "--sizes 3,8,1", "3,1"),
        ("--bias", "--bias", "False"),
        ("--batch-size 2", "--batch-size 2", "None"),
        ("--data my.csv", "--data my.csv", "None"),
    ],
)
def test_an_option_that_differs_from_the_run(
    words: str, option: str, has: str, stopped: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    message = f"{option}: the run to resume has {has}; leave the option out, or start a new run"
    refused(capsys, stopped, message, words)


def test_options_that_agree_with_the_run_are_accepted(stopped: Path) -> None:
    words = "two_layer --steps 9 --seed 1 --dtype float64 --lift none --sizes 3,1 --alpha 1"
    assert main(["run", *words.split(), "--resume", NAME, "--quiet"]) == 0


def test_no_board_and_resume(stopped: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message = "--no-board: --resume needs the run folder; leave one of the two out"
    refused(capsys, stopped, message, "--no-board")


def test_another_environment(
    stopped: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    end = "which could change bits: resume the run in its first environment, or start a new run"
    for item, other in (("torch", "2.9.0"), ("cpu_capability", "NO AVX"), ("threads", 64)):
        current = compare.environment.environment(torch.device("cpu"))  # type: ignore[attr-defined]
        with monkeypatch.context() as patch:
            changed = {**current, item: other}
            patch.setattr("compare.checkpoint.checkpoint.environment", lambda _, c=changed: c)
            message = f"run {NAME}: {item} was {current[item]} and is {other} now, {end}"
            refused(capsys, stopped, message)


def test_other_code(
    stopped: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The project's version and a digest of its source are part of the environment."""
    was = checkpoint.load(stopped / "checkpoint").ranks[0].world["deltacheck"]
    digest = was.removeprefix(f"{compare.__version__}+")
    monkeypatch.setattr(compare, "__version__", "0.0.9")
    message = (
        f"run {NAME}: deltacheck was {was} and is 0.0.9+{digest} now, "
        "which could change bits: resume the run in its first environment, or start a new run"
    )
    refused(capsys, stopped, message)


@pytest.mark.parametrize("cut", [0, 100])
def test_an_event_file_that_is_shorter_or_gone(
    cut: int, stopped: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (file,) = (stopped / "autograd").iterdir()
    name, length = checkpoint.load(stopped / "checkpoint").folder["files"]["autograd"]
    assert name == file.name
    os.truncate(file, cut) if cut else file.unlink()
    message = (
        f"run {NAME}: autograd/{name} has {cut:,} bytes and had {length:,} at the checkpoint: "
        "restore it, or start a new run"
    )
    refused(capsys, stopped, message)


def test_a_table_that_has_changed(tmp_path: Path, capsys: pytest.CaptureFixture[str],
                                  monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("compare.training.chunking.STEPS", 3)
    monkeypatch.setattr("compare.checkpoint.checkpoint.EVERY", 0)
    rows = [f"{k % 7},{k % 5},{'ab'[k % 2]}" for k in range(30)]
    table = Path("my.csv")
    table.write_text("\n".join(["one,two,kind", *rows]))
    own = ["--data", "my.csv", "--target", "kind"]
    words = ["run", "network", *own, "--steps", "9", "--lift", "none", "--quiet"]
    assert main([*words, "--log-dir", "whole"]) in (0, 1)
    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "finish", lambda folder, _: folder.discard())  # as a kill does
        assert main(words) in (0, 1)
    (whole,), (folder,) = Path("whole").iterdir(), Path("runs").iterdir()
    capsys.readouterr()
    table.write_text("\n".join(["one,two,kind", "9,9,a", *rows[1:]]))
    message = (
        f"run {folder.name}: the rows of --data my.csv have changed since the run started: "
        "restore them, or start a new run"
    )
    before = contents(folder)
    assert main(["run", "--resume", folder.name]) == 2
    assert capsys.readouterr().err == f"compare: {message}\n"
    assert contents(folder) == before
    table.write_text("\n".join(["one,two,kind", *rows]))
    assert main(["run", "--resume", folder.name, "--quiet"]) in (0, 1)
    assert folder_contents(folder) == folder_contents(whole)


def test_a_custom_step_has_no_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file cannot hold a Python function."""
    monkeypatch.setattr("compare.training.chunking.STEPS", 3)
    monkeypatch.setattr("compare.checkpoint.checkpoint.EVERY", 0)
    case = CASES["two_layer"]
    for settings in ({}, {"step": planted(case, one_ulp("l1", 0, 0, 0), at=1)}):
        run = Run(case, steps=9, lift="none", **settings)
        folder = RunFolder(tmp_path, run)
        run.train([folder])
        assert (folder.path / "checkpoint").exists() == (not settings)
        folder.discard()
    custom = dataclasses.replace(CASES["digits"], data=lambda _seed: digits())
    assert not checkpoint.can_save(Run(custom))
    assert checkpoint.can_save(Run(CASES["digits"]))


def test_checkpoints_are_rationed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A short run writes none; later ones depend on the time that the last one took."""
    monkeypatch.setattr("compare.training.chunking.STEPS", 3)
    saved: list[int] = []
    save = checkpoint.save

    def recorded(run: Run, *rest: object) -> None:
        saved.append(run.report.steps)
        save(run, *rest)

    monkeypatch.setattr(checkpoint, "save", recorded)
    for every, share, steps in ((5.0, 0.02, []), (0.0, 1e-9, [3]), (0.0, 1e9, [3, 6])):
        monkeypatch.setattr(checkpoint, "EVERY", every)
        monkeypatch.setattr(checkpoint, "SHARE", share)
        run = Run(CASES["two_layer"], steps=9, lift="none")
        folder = RunFolder(tmp_path, run)
        folder.finish(run.train([folder]))
        assert saved == steps
        assert not (folder.path / "checkpoint").exists()
        saved.clear()


def test_every_case_and_every_float_is_restored(tmp_path: Path) -> None:
    """Every case, with a network of each sweep, is loaded as saved, NaN and infinities too."""
    for case in CASES.values():
        one = dataclasses.replace(case, network=[case.network, *case.sweep][-1], sweep=())
        run = Run(one, steps=7, population=2, seed=3)
        run.report.free_gap = math.nan
        run.tally.bounds = {"l1": (math.inf, 3), "l2": (None, 0), "syn0": (-0.0, 1)}
        states = checkpoint.states(run, requested=True)
        assert states
        empty = dict.fromkeys(SUBRUNS, ("events.out.tfevents.1", 0))
        losses = {f"loss_{side}": torch.zeros(0).double() for side in SIDES}
        folder: dict[str, Any] = {
            "told": 0,
            "files": empty,
            "record": {"names": [], "arrays": losses},
        }
        checkpoint.save(run, states, tmp_path / "checkpoint", folder)
        loaded = checkpoint.load(tmp_path / "checkpoint")
        assert loaded.case == one
        assert loaded.asked == run.arguments
        again = loaded.for_rank(0).run()
        assert math.isnan(again.report.free_gap)
        assert repr(again.tally.bounds) == repr(run.tally.bounds)
        assert again.report.command == run.report.command


def test_a_run_can_be_resumed_after_a_full_disk(
    stopped: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("compare.board.run_folder.EventFile.put", full)
        assert main(["run", "--resume", NAME, "--quiet"]) == 2
    assert capsys.readouterr().err == (
        f"compare: run folder runs/{NAME}: No space left on device; "
        f"fix that, then use --resume {NAME}\n"
    )
    assert main(["run", "--resume", NAME, "--quiet"]) == 0
    assert json.loads((stopped / "result.json").read_text())["steps"] == 9
