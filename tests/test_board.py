"""The run folder: the data that TensorBoard reads from it, and what survives a kill."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from compare.board.run_folder import RunFolder
from compare.cases import options
from compare.cases.cases import CASES, Case
from compare.cli.main import main
from compare.errors import BadInput
from compare.report.chunk import Chunk
from compare.training.chunking import GRAIN
from compare.training.harness import Run
from tests.conftest import one_ulp, planted

ROOT = Path(__file__).parent.parent
THREE_LAYER = CASES["three_layer"]


def read(folder: Path) -> EventAccumulator:
    """Return every point of a sub-run."""
    sizes = {"scalars": 0, "images": 0, "tensors": 0}
    events = EventAccumulator(str(folder), size_guidance=sizes)
    events.Reload()
    return events


def record(log_dir: Path, run: Run) -> Path:
    folder = RunFolder(log_dir, run)
    folder.finish(run.train([folder]))
    assert folder.failed is None
    return folder.path


def text(events: EventAccumulator) -> str:
    """Return the only text in the events."""
    (tag,) = events.Tags()["tensors"]
    assert tag == "verdict/text_summary"
    content: bytes = events.Tensors(tag)[0].tensor_proto.string_val[0]
    return content.decode()


@pytest.fixture(scope="module")
def planted_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 3,000 steps, three to a bucket, with one ulp planted at step 100."""
    step = planted(THREE_LAYER, one_ulp("l1", 0, 0, 0), at=100)
    return record(tmp_path_factory.mktemp("runs"), Run(THREE_LAYER, steps=3000, step=step))


def test_both_sides_have_the_same_tags_and_the_blogs_first_error(tmp_path: Path) -> None:
    path = record(tmp_path, Run(THREE_LAYER, steps=4500))
    curves = {side: read(path / side) for side in ("manual", "autograd")}
    norms = ["l2_delta", "l1_delta", "syn1_update", "syn0_update", "syn0", "syn1"]
    for events in curves.values():
        tags = ["loss", "mean absolute error", *(f"norm/{name}" for name in norms)]
        assert events.Tags()["scalars"] == tags
        points = events.Scalars("mean absolute error")
        assert len(points) == 900  # every 5th of 4,500 steps: at most 1,000 buckets
        assert [p.step for p in points[:3]] == [0, 5, 10]
        assert points[0].value == pytest.approx(0.496410031903)
        assert points[-1].step == 4495
    for tag in tags:
        values = [[p.value for p in events.Scalars(tag)] for events in curves.values()]
        assert values[0] == values[1]
    compared = read(path / "compare")
    assert compared.Scalars("differences/unequal elements so far")[-1].value == 0
    shares = compared.Scalars("share of exact elements/l1")
    assert [(p.step, p.value) for p in shares] == [(4, 1.0), (4499, 1.0)]


def test_a_planted_ulp_shows_in_its_bucket_and_from_there_on(planted_run: Path) -> None:
    """Step 100 is in the bucket of 99 to 101, which ends at 101."""
    rows = json.loads((planted_run / "result.json").read_text())["quantities"]
    largest = max(row["max_ulp"] for row in rows)
    events = read(planted_run / "compare")
    of_the_bucket = {
        p.step: p.value for p in events.Scalars("differences/largest ulp of the bucket")
    }
    assert {step: v for step, v in of_the_bucket.items() if v} == {101: largest}
    so_far = [(p.step, p.value) for p in events.Scalars("differences/largest ulp so far")]
    assert [v for step, v in so_far if step < 101] == [0.0] * 33
    assert {v for step, v in so_far if step >= 101} == {largest}
    shares = {p.step: p.value for p in events.Scalars("share of exact elements/l1")}
    assert list(shares)[:3] == [2, 98, 101]  # no points while nothing changes
    assert shares[2] == shares[98] == 1.0
    assert shares[101] < shares[2999] < 1.0


def test_steps_npz_says_which_step_and_how_many(planted_run: Path) -> None:
    with np.load(planted_run / "steps.npz") as kept:
        names = kept["names"].tolist()
        losses = kept["loss_manual"], kept["loss_autograd"]
        unequal = {name: kept[f"unequal/{name}"] for name in names if f"unequal/{name}" in kept}
        ulps = {name: kept[f"max_ulp/{name}"] for name in unequal}
    assert len(names) == 11
    assert losses[0].shape == losses[1].shape == (3000,)
    assert losses[0][0] == pytest.approx(0.4951865354)
    assert "l1" in unequal
    for name, counts in unequal.items():
        assert np.flatnonzero(counts).tolist() == [100]
        assert np.flatnonzero(ulps[name]).tolist() == [100]
    result = json.loads((planted_run / "result.json").read_text())
    for row in result["quantities"]:
        if row["name"] in unequal:
            assert row["compared"] - row["equal"] == unequal[row["name"]].sum()
            assert row["max_ulp"] == ulps[row["name"]].max()


def test_the_text_has_the_verdict_and_what_is_wrong(planted_run: Path) -> None:
    found = text(read(planted_run / "compare"))
    assert found.startswith("**ROUNDING** same formulas at the sampled steps; l1")
    assert "| l1 | (4,4) | 48,000 | 47,999 | 1 | ROUNDING |" in found
    assert "worst at step 100, seed 1, [0, 0]" in found
    assert "| torch |" in found


def test_pictures_are_drawn_from_the_first_to_the_last_step(planted_run: Path) -> None:
    events = read(planted_run / "compare")
    pictures = events.Images("weights and deltas")
    assert [p.step for p in pictures] == [2999 * k // 7 for k in range(8)]
    assert all(p.encoded_image_string.startswith(b"\x89PNG") for p in pictures)
    (surface,) = events.Images("decision surface")
    assert (surface.width, surface.height) == (510, 410)
    assert events.Tags()["images"] == ["weights and deltas", "decision surface"]
    assert read(planted_run / "manual").Tags()["histograms"] == ["weights/syn0", "weights/syn1"]


def test_digits_have_accuracy_and_a_confusion_matrix(tmp_path: Path) -> None:
    path = record(tmp_path, Run(CASES["digits"], steps=30))
    points = read(path / "manual").Scalars("accuracy")
    assert len(points) == 30
    assert points[-1].value > 0.6
    assert "confusion matrix" in read(path / "compare").Tags()["images"]
    result = json.loads((path / "result.json").read_text())
    matrix = np.array(result["confusion"])
    assert matrix.sum() == 359
    assert np.trace(matrix) / 359 == pytest.approx(result["accuracy"])
    assert result["classes"] == list("0123456789")


def test_curves_show_the_used_share_of_a_bound(tmp_path: Path) -> None:
    path = record(tmp_path, Run(CASES["three_layer_blog_grouping"], steps=300))
    tags = [
        t for t in read(path / "compare").Tags()["scalars"] if t.startswith("error over bound/")
    ]
    assert (
        tags == ["error over bound/l2_delta", "error over bound/l1_delta"] or tags[::-1] == tags[:0]
    )
    shares = [p.value for tag in tags for p in read(path / "compare").Scalars(tag)]
    assert 0 < max(shares) <= 1


def test_one_row_of_hyperparameters_for_each_run(planted_run: Path) -> None:
    """It is in the run folder itself, so that the table has one row for the run."""
    from tensorboard.plugins.hparams import plugin_data_pb2

    events = read(planted_run)
    start = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    hparams = plugin_data_pb2.HParamsPluginData.FromString(start).session_start_info.hparams
    assert hparams["case"].string_value == "three_layer"
    assert hparams["sizes"].string_value == "(3, 4, 1)"
    assert hparams["verdict"].string_value == "ROUNDING"
    assert events.Scalars("result/largest ulp")[0].value > 0


def test_the_folder_of_60000_steps_is_small(tmp_path: Path) -> None:
    """6,000 steps make as many points as 60,000; steps.npz grows and is counted separately."""
    path = record(tmp_path, Run(THREE_LAYER, steps=6000))
    sizes = {file: file.stat().st_size for file in path.rglob("*") if file.is_file()}
    steps = sizes.pop(path / "steps.npz")
    assert sum(sizes.values()) + 10 * steps < 3e6


def test_a_folder_is_never_reused(tmp_path: Path) -> None:
    """Fifty runs that start at once get fifty folders."""
    runs = [Run(THREE_LAYER, steps=10) for _ in range(50)]
    with ThreadPoolExecutor(16) as pool:
        folders = list(pool.map(lambda run: RunFolder(tmp_path, run), runs))
    assert len({folder.path for folder in folders}) == 50
    assert all(folder.path.parent == tmp_path for folder in folders)
    for folder in folders:
        folder.discard()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="is a file; choose another --log-dir, or use --no-board"):
        RunFolder(tmp_path / "file", Run(THREE_LAYER, steps=10))


def failing(error: Exception) -> Callable[..., Any]:
    def fail(*_words: Any, **_named: Any) -> Any:
        raise error

    return fail


BROKEN = {
    "compare.board.run_folder.heat_maps": MemoryError(),
    "compare.board.run_folder.surface": ValueError("image has wrong mode"),
    "compare.board.run_folder.StepLog.add": RuntimeError("planted"),
    "compare.board.run_folder.checkpoint.states": MemoryError(),
    "compare.board.run_folder._hparams": ZeroDivisionError("planted"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_the_verdict_survives_a_failure_of_the_board(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(what, failing(BROKEN[what]))
    words = "run three_layer --steps 5 --quiet --json s.json"
    assert main(words.split()) == 2
    out, err = capsys.readouterr()
    assert out.startswith("EXACT  all ")
    assert json.loads(Path("s.json").read_text())["verdict"] == "EXACT"
    message = f"{type(BROKEN[what]).__name__}{': ' * bool(str(BROKEN[what]))}{BROKEN[what]}"
    assert err.startswith("compare: run folder runs/")
    assert err.endswith(f": {message}; choose another --log-dir, or use --no-board\n")
    assert err.count("\n") == 1
    assert list(Path("runs").iterdir()) == []


def test_the_verdict_survives_a_failure_of_its_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The JSON is written although the page fails, and the other way round."""
    monkeypatch.chdir(tmp_path)
    words = "run two_layer --steps 5 --quiet --no-board --json s.json --html s.html"
    for name, left in (("_repr_html_", "s.json"), ("to_dict", "s.html")):
        with monkeypatch.context() as patch:
            patch.setattr(f"compare.report.report.Report.{name}", failing(MemoryError()))
            assert main(words.split()) == 2
        out, err = capsys.readouterr()
        assert out.startswith("EXACT  all ")
        lost = "--html s.html" if left == "s.json" else "--json s.json"
        assert err == f"compare: {lost}: MemoryError; leave this option out\n"
        assert [path.name for path in Path().iterdir()] == [left]
        Path(left).unlink()


def test_advice_is_given_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a full disk, where writing a checkpoint fails too."""
    folder = RunFolder(tmp_path, Run(THREE_LAYER, steps=5))
    monkeypatch.setattr("os.replace", failing(OSError(28, "No space left on device")))
    folder.run.train([folder])
    why = "No space left on device; choose another --log-dir, or use --no-board"
    assert folder.failed == f"run folder {folder.path}: {why}"


def _exchanged(path: Path) -> None:
    path.rename(path.with_name("away"))
    path.mkdir()
    (path / "mine").write_text("")


@pytest.mark.parametrize("part", ["", "manual", "autograd", "compare", "events"])
@pytest.mark.parametrize("how", [shutil.rmtree, _exchanged])
@pytest.mark.parametrize("at", ["first", "last"])
def test_a_folder_that_others_move_is_reported(
    part: str, how: Callable[[Path], object], at: str, tmp_path: Path
) -> None:
    """During the run or just before its end; files that others have put there stay."""
    folder = RunFolder(tmp_path, Run(THREE_LAYER, steps=5, lift="none"))
    place = folder.path / part
    if part == "events":
        place = folder.files["compare"].path
        how = Path.unlink

    def move(_chunk: Chunk) -> None:
        how(place)

    report = folder.run.train([move, folder] if at == "first" else [folder, move])
    folder.finish(report)
    what = place.relative_to(folder.path).parts[0] if part else "the folder"
    assert folder.failed
    assert folder.failed.startswith(f"run folder {folder.path}: {what}")
    assert "was moved, removed or replaced during the run; start a new run" in folder.failed
    if how is _exchanged:
        assert [file.name for file in place.iterdir()] == ["mine"]  # and nothing of the run


def test_a_folder_removed_at_the_very_end_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = RunFolder(tmp_path, Run(THREE_LAYER, steps=5, lift="none"))
    report = folder.run.train([folder])
    monkeypatch.setattr(
        "compare.board.run_folder.save", lambda *_: shutil.rmtree(folder.path / "manual")
    )
    folder.finish(report)
    assert "manual/events" in str(folder.failed)


def test_many_classes_share_rows_of_the_confusion_matrix(tmp_path: Path) -> None:
    """So a table of 600 classes does not make a result of 600 x 600 numbers."""
    rows = [f"{n % 600},{n % 7},c{n % 600:03}" for n in range(6000)]
    (tmp_path / "t.csv").write_text("\n".join(["a,b,k", *rows]))
    case = options.apply(CASES["network"], {"data": tmp_path / "t.csv"}, 1)
    path = record(tmp_path, Run(case, steps=2, lift="none"))
    result = json.loads((path / "result.json").read_text())
    matrix = np.array(result["confusion"])
    assert (len(result["classes"]), result["classes_each"]) == (600, 3)
    assert matrix.shape == (200, 200)
    assert matrix.sum() == 1200
    (picture,) = read(path / "compare").Images("confusion matrix")
    assert max(picture.width, picture.height) < 2500


@pytest.mark.slow
def test_a_kill_at_any_moment_leaves_readable_files(tmp_path: Path) -> None:
    """Events and steps.npz end with a checked chunk; result.json is complete or absent."""
    rng = random.Random(4)
    words = [sys.executable, "-m", "compare", "--log-dir", str(tmp_path), "--quiet"]
    for k in range(4):
        process = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.DEVNULL)
        while len(list(tmp_path.glob("*/steps.npz"))) <= k and process.poll() is None:
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 3))
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    folders = sorted(tmp_path.glob("*_three_layer*"))
    assert len(folders) == 4
    for folder in folders:
        with np.load(folder / "steps.npz") as kept:
            steps = len(kept["loss_manual"])
            assert steps == len(kept["loss_autograd"]) > 0
        curves = [read(folder / side).Scalars("loss") for side in ("manual", "autograd")]
        assert abs(len(curves[0]) - len(curves[1])) <= 1
        # a chunk is checked, then its events are written, then the log: a kill falls between two
        assert curves[0][-1].step <= steps + 2 * GRAIN // 16
        compared = read(folder / "compare").Scalars("differences/largest ulp so far")
        assert abs(len(compared) - len(curves[0])) <= 1
        if (folder / "result.json").exists():
            assert json.loads((folder / "result.json").read_text())["verdict"] == "EXACT"


def test_a_case_without_two_inputs_has_no_surface(tmp_path: Path) -> None:
    case = Case(
        "three inputs", "", THREE_LAYER.network, ((0, 1, 1), (1, 0, 2), (1, 1, 0)), ((0,),) * 3
    )
    path = record(tmp_path, Run(case, steps=5))
    assert read(path / "compare").Tags()["images"] == ["weights and deltas"]
