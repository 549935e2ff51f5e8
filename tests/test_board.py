"""The run folder: what TensorBoard reads back from it."""

import json
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from compare.board import RunFolder
from compare.cases import CASES
from compare.errors import BadInput
from compare.harness import Run
from tests.conftest import one_ulp, planted


def read(folder: Path) -> EventAccumulator:
    """Return every point of a sub-run."""
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    return events


def record(log_dir: Path, steps: int, run: Run) -> Path:
    folder = RunFolder(log_dir, "three_layer", steps)
    folder.finish(run.train([folder]))
    return folder.path


def test_both_sides_have_the_same_tags_and_the_blogs_first_error(tmp_path: Path) -> None:
    case = CASES["three_layer"]
    path = record(tmp_path, 4500, Run(case, steps=4500))
    curves = {side: read(path / side) for side in ("manual", "autograd")}
    for events in curves.values():
        assert events.Tags()["scalars"] == ["loss", "mean absolute error"]
        points = events.Scalars("mean absolute error")
        assert len(points) == 900  # every 5th of 4,500 steps: at most 1,000 are kept
        assert [p.step for p in points[:3]] == [0, 5, 10]
        assert points[0].value == pytest.approx(0.496410031903)
        assert points[-1].step == 4495
    losses = [[p.value for p in events.Scalars("loss")] for events in curves.values()]
    assert losses[0] == losses[1]
    assert read(path / "compare").Scalars("unequal elements so far")[-1].value == 0


def test_a_planted_ulp_shows_in_the_running_maximum(tmp_path: Path) -> None:
    case = CASES["three_layer"]
    step = planted(case, one_ulp("l1", 0, 0, 0), at=100)
    path = record(tmp_path, 3000, Run(case, steps=3000, step=step))
    last = read(path / "compare").Scalars("largest ulp so far")[-1]
    rows = json.loads((path / "result.json").read_text())["quantities"]
    assert rows[1]["max_ulp"] == 1
    # the largest is that of what autograd computes from the planted value
    assert (last.step, last.value) == (2999, max(row["max_ulp"] for row in rows))


def test_a_folder_is_never_reused(tmp_path: Path) -> None:
    """Two that start in one second get folders of their own."""
    folders = [RunFolder(tmp_path, "x", 10) for _ in range(5)]
    assert len({folder.path for folder in folders}) == 5
    assert all(folder.path.parent == tmp_path for folder in folders)
    for folder in folders:
        folder.discard()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="is a file; give --log-dir another place, or --no-board"):
        RunFolder(tmp_path / "file", "x", 10)
