"""The run folder: what TensorBoard reads back from it, and what survives a kill."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from compare.board.board import RunFolder
from compare.cases import CASES, Case
from compare.errors import BadInput
from compare.training.batch import GRAIN
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
    """Return the one text there is."""
    (tag,) = events.Tags()["tensors"]
    assert tag == "verdict/text_summary"
    found: bytes = events.Tensors(tag)[0].tensor_proto.string_val[0]
    return found.decode()


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
    assert list(shares)[:3] == [2, 98, 101]  # nothing is told while nothing changes
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
    assert found.startswith("**ROUNDING** the same formulas at the steps lifted; l1")
    assert "| l1 | (4,4) | 48,000 | 47,999 | 1 | ROUNDING |" in found
    assert "worst at step 100, seed 1, [0, 0]" in found
    assert "| torch |" in found


def test_pictures_are_drawn_at_first_and_at_last(planted_run: Path) -> None:
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


def test_a_bound_shows_how_much_of_it_was_used(tmp_path: Path) -> None:
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
    """In the folder itself, so that the table has a row for the run and not for its parts."""
    from tensorboard.plugins.hparams import plugin_data_pb2

    events = read(planted_run)
    start = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    asked = plugin_data_pb2.HParamsPluginData.FromString(start).session_start_info.hparams
    assert asked["case"].string_value == "three_layer"
    assert asked["sizes"].string_value == "(3, 4, 1)"
    assert asked["verdict"].string_value == "ROUNDING"
    assert events.Scalars("result/largest ulp")[0].value > 0


def test_the_folder_of_60000_steps_is_small(tmp_path: Path) -> None:
    """As many points as 60,000 steps make; the record grows with the steps and is counted apart."""
    path = record(tmp_path, Run(THREE_LAYER, steps=6000))
    sizes = {file: file.stat().st_size for file in path.rglob("*") if file.is_file()}
    steps = sizes.pop(path / "steps.npz")
    assert sum(sizes.values()) + 10 * steps < 3e6


def test_a_folder_is_never_reused(tmp_path: Path) -> None:
    """Fifty that start at once get folders of their own."""
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
    with pytest.raises(BadInput, match="is a file; give --log-dir another place, or --no-board"):
        RunFolder(tmp_path / "file", Run(THREE_LAYER, steps=10))


@pytest.mark.slow
def test_a_kill_at_any_moment_leaves_what_can_be_read(tmp_path: Path) -> None:
    """Events and steps.npz up to a chunk that had been judged; result.json whole or absent."""
    chance = random.Random(4)
    words = [sys.executable, "-m", "compare", "--log-dir", str(tmp_path), "--quiet"]
    for k in range(4):
        process = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.DEVNULL)
        while len(list(tmp_path.glob("*/steps.npz"))) <= k and process.poll() is None:
            time.sleep(0.01)
        time.sleep(chance.uniform(0, 3))
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    folders = sorted(tmp_path.glob("*_three_layer*"))
    assert len(folders) == 4
    for folder in folders:
        with np.load(folder / "steps.npz") as kept:
            steps = len(kept["loss_manual"])
            assert steps == len(kept["loss_autograd"]) > 0
        told = [read(folder / side).Scalars("loss") for side in ("manual", "autograd")]
        assert abs(len(told[0]) - len(told[1])) <= 1
        # a chunk is judged, then told, then recorded: a kill falls between two of these at most
        assert told[0][-1].step <= steps + 2 * GRAIN // 16
        compared = read(folder / "compare").Scalars("differences/largest ulp so far")
        assert abs(len(compared) - len(told[0])) <= 1
        if (folder / "result.json").exists():
            assert json.loads((folder / "result.json").read_text())["verdict"] == "EXACT"


def test_a_case_without_two_inputs_has_no_surface(tmp_path: Path) -> None:
    case = Case(
        "three inputs", "", THREE_LAYER.network, ((0, 1, 1), (1, 0, 2), (1, 1, 0)), ((0,),) * 3
    )
    path = record(tmp_path, Run(case, steps=5))
    assert read(path / "compare").Tags()["images"] == ["weights and deltas"]
